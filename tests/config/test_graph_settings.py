"""Settings of the nodes of a Python graph from a file: who gets them, what they do in a run, and what is wrong with them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dagrid import DAG, Node, Retry, dag, task
from dagrid.config.graphs import tuned
from dagrid.errors import InvalidSettingError

GRAPH = DAG(
    [
        Node("fetch", fn=int, tags=["io", "first"]),
        Node("load", fn=int, tags=["io"], depends_on=["fetch"], priority=9),
        Node("train", fn=int, depends_on=["load"]),
    ],
    name="flow",
)


def file(tmp_path: Path, text: str, name: str = "settings.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_by_node_and_by_tag(tmp_path):
    """What a node says goes before what its tags say, a later tag before an earlier one; the graph given stays as it is."""
    found = tuned(
        GRAPH,
        file(
            tmp_path,
            """
            maxConcurrency: 3
            resources: {gpu: 2}
            tags:
              io: {priority: 1, timeout: 5, retries: 2}
              first: {priority: 2}
            nodes:
              train: {resources: {gpu: 1}, is_sequential: true, retries: {max_retries: 1, delay: 0.5}}
              load: {priority: 7}
            """,
        ),
    )
    nodes = {name: found.dag.node(name) for name in found.dag}
    assert (nodes["fetch"].priority, nodes["fetch"].timeout, nodes["fetch"].retries) == (2, 5.0, Retry(2))
    assert (nodes["load"].priority, nodes["load"].timeout) == (7, 5.0)
    assert (nodes["train"].resources, nodes["train"].is_sequential) == ({"gpu": 1}, True)
    assert nodes["train"].retries == Retry(1, 0.5)
    assert found.resources == {"gpu": 2.0}
    assert (found.max_concurrency, found.dag.max_concurrency, found.dag.name) == (3, 3, "flow")
    assert found.dag.edges() == GRAPH.edges()
    assert GRAPH.node("load").priority == 9
    assert found.dag.run(resources=found.resources, progress=False).ok


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "nodes: {io: {priority: 4}}"),
        ("s.toml", "[nodes.io]\npriority = 4\n"),
        ("s.json", '{"nodes": {"io": {"priority": 4}}}'),
    ],
)
def test_in_yaml_toml_and_json(tmp_path, name, text):
    """The same in each; among nodes a word that is no node is a tag, as where parts of a graph are chosen."""
    found = tuned(GRAPH, file(tmp_path, text, name)).dag
    assert [found.node(node).priority for node in ("fetch", "load", "train")] == [4, 4, 0]


def test_so_many_nodes_of_a_tag_at_once(tmp_path):
    """As many as the file says, however many threads there are; others go by."""
    lock, now, most = threading.Lock(), [0], [0]
    together = threading.Barrier(2)

    def work() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(20)
        with lock:
            now[0] -= 1

    graph = DAG([Node(f"n{number}", fn=work, tags=["io"]) for number in range(8)])
    found = tuned(graph, file(tmp_path, "tags: {io: {maxConcurrency: 2}}"))
    assert found.dag.run(backend="thread?max_workers=8", resources=found.resources, progress=False).ok
    assert most == [2]


def test_nodes_that_a_run_makes(tmp_path):
    """The nodes of a map over values that only a run knows have the settings of the node that gathers them."""
    seen: list[int] = []

    @task
    def numbers() -> list[int]:
        return [3, 1, 2]

    @task(tags=["each"])
    def note(number: int) -> int:
        seen.append(number)
        return number

    @task
    def total(values: list[int]) -> int:
        return sum(values)

    @dag
    def flow():
        return total(note.map(numbers()))

    found = tuned(flow.build(), file(tmp_path, "tags: {each: {maxConcurrency: 1, retries: 1}}"))
    result = found.dag.run(backend="thread?max_workers=4", resources=found.resources, progress=False)
    assert result.ok
    assert result["total"] == 6
    assert sorted(seen) == [1, 2, 3]
    assert found.resources == {"max_concurrency each": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node: {}", r":1:1: a run has no setting 'node'. Did you mean 'nodes'\?"),
        ("nodes:\n  ftech: {priority: 1}", r":2:3: the graph has no node and no tag 'ftech'. Did you mean 'fetch'\?"),
        ("tags: {oi: {priority: 1}}", r"the graph has no tag 'oi'"),
        ("nodes: {fetch: {prioriti: 1}}", r":1:17: a node has no setting 'prioriti'. Did you mean 'priority'\?"),
        ("nodes: {fetch: {fn: os.system}}", "a node has no setting 'fn'"),
        (
            "maxConcurrency: 1\nmax_concurrency: 2",
            r":2:1: max_concurrency stands there in another spelling too. Keep one",
        ),
        ("nodes: {fetch: {priority: high}}", r":1:9: Node 'fetch': priority is a whole number, not 'high'"),
        ("nodes: {fetch: {retries: {tries: 1}}}", "retries has no setting 'tries'"),
        ("nodes: {fetch: {retries: {backoff: 0}}}", "backoff is a factor from 1 up"),
        ("nodes: {fetch: 3}", "'fetch' has settings by name"),
        ("nodes: [fetch]", "nodes holds settings by name"),
        ("maxConcurrency: 0", "maxConcurrency is a whole number from 1 up, not 0"),
        ("tags: {io: {maxConcurrency: true}}", "maxConcurrency is a whole number from 1 up, not True"),
        ("resources: {gpu: -1}", r":1:13: the amount of 'gpu' is a number greater than 0, not -1"),
        ("resources: 3", "resources are amounts by name"),
    ],
)
def test_settings_that_cannot_be(tmp_path, text, said):
    """Where, what, and what would be right."""
    with pytest.raises(InvalidSettingError, match=said):
        tuned(GRAPH, file(tmp_path, text))


def test_a_file_that_says_nothing(tmp_path):
    """Changes nothing."""
    found = tuned(GRAPH, file(tmp_path, "nodes:\n  fetch:\ntags:\n"))
    assert [found.dag.node(name) for name in found.dag] == [GRAPH.node(name) for name in GRAPH]
    assert (found.resources, found.max_concurrency) == ({}, None)
