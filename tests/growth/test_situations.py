"""The situations for which graphs grow while they run, as adage's page describes them, on every kind of place.

A list that is found at run time is mapped over; the results are reduced; all nodes of a type are merged once no more of them can
come; a node attaches a sub-graph to itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, Patch, Rule, current
from dagrid.graph.grow import all_done, at_least, collect, done, map_over, map_reduce


def list_files() -> list[str]:
    return [f"file_{number}" for number in range(5)]


def process(name: str) -> str:
    return name.upper()


def join(parts: list[str]) -> str:
    return "+".join(parts)


def report(title: str) -> str:
    return f"{title}.pdf"


def merge(pages: list[str]) -> str:
    return " ".join(sorted(pages))


def chapters() -> list[str]:
    return ["one", "two"]


def survey() -> int:
    """A node that finds out what it takes, and appends it behind itself."""
    me = current()
    parts = [Node(f"part[{number}]", partial(square, number), [me.node]) for number in range(4)]
    me.grow(*parts, Node("sum", add_up, [part.id for part in parts]), Node("twice", double, inputs={"value": "sum"}))
    return os.getpid()


def square(number: int) -> int:
    return number * number


def add_up(**parts: int) -> int:
    return sum(parts.values())


def double(value: int) -> int:
    return 2 * value


def print_pages() -> None:
    """A node that may make pages, and then says how many there are."""
    current().grow(*[Node(f"late page {number}", partial(report, f"late{number}"), kind="pdf") for number in range(2)])


class Dask:
    """The four methods over a cluster of worker processes."""

    name = "dask"

    def __init__(self, address: str) -> None:
        from dask.distributed import Client

        self._client = Client(address)

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return self._client.submit(fn, *args, **kwargs)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        return future.result(timeout=timeout)

    def shutdown(self, wait: bool = True) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    import cloudpickle
    from dask.distributed import LocalCluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find the tests
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(params=["inline", "thread", "multiprocessing", pytest.param("dask", marks=pytest.mark.engine)])
def place(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param != "dask":
        yield request.param
        return
    backend = Dask(request.getfixturevalue("cluster"))
    yield backend
    backend.shutdown()


def test_a_list_found_at_run_time_is_mapped_over(place: Any) -> None:
    """How many files there are is not known before the node that lists them has run."""
    result = DAG([Node("list_files", list_files)]).run(
        rules=[map_over("list_files", Node("process", process))], backend=place
    )
    result.raise_for_status()
    assert [result[f"process[{number}]"] for number in range(5)] == [name.upper() for name in list_files()]


def test_the_results_of_a_map_are_reduced(place: Any) -> None:
    """The reduction too can only be scheduled when the number of mapped nodes is known."""
    rule = map_reduce("list_files", Node("process", process), reduce=Node("join", join))
    result = DAG([Node("list_files", list_files)]).run(rules=[rule], backend=place)
    assert result.raise_for_status()["join"] == "FILE_0+FILE_1+FILE_2+FILE_3+FILE_4"


def test_all_nodes_of_a_type_are_merged_when_no_more_can_come(place: Any) -> None:
    """No node knows where else pages are made; the merge waits until nobody is left who could make one, tasks included."""
    dag = DAG(
        [
            Node("cover", partial(report, "cover"), kind="pdf"),
            Node("chapters", chapters),
            Node("print_pages", print_pages, adds={"pdf"}),
        ]
    )
    rules = [collect("pdf", Node("merge", merge, kind="book")), map_over("chapters", Node("page", report, kind="pdf"))]
    result = dag.run(rules=rules, backend=place)
    assert result.raise_for_status()["merge"] == "cover.pdf late0.pdf late1.pdf one.pdf two.pdf"


def test_a_sub_graph_is_attached_from_within_a_node(place: Any) -> None:
    """Only the node knows what follows from it; what it appends hangs on it by its id, and runs wherever the others do."""
    result = DAG([Node("survey", survey, adds=set())]).run(backend=place)
    assert result.raise_for_status()["twice"] == 28
    assert (result["survey"] == os.getpid()) == (place in ("inline", "thread"))


def test_a_rule_waits_for_a_number_of_nodes(place: Any) -> None:
    """One of the conditions that the page lists: so many nodes of a kind are present."""
    rules = [
        map_over("list_files", Node("process", process)),
        Rule(at_least(5, "process"), lambda view: Patch([Node("enough", list_files)]), adds=set()),
    ]
    result = DAG([Node("list_files", list_files)]).run(rules=rules, backend=place)
    assert result.raise_for_status()["enough"] == list_files()


@pytest.mark.parametrize("backend", ["inline", "thread", "multiprocessing"])
def test_what_a_task_appends_counts_only_if_it_completes(backend: str) -> None:
    """The patch of a failed try is not taken; that of the try that completes is."""
    result = DAG([Node("flaky", grows_and_fails_once, retries=1, adds=set())]).run(backend=backend)
    assert [name for name in result if name.startswith("from")] == ["from try 2"]
    assert result.ok


def grows_and_fails_once() -> None:
    me = current()
    me.grow(Node(f"from try {me.number}", list_files, [me.node]))
    if me.number == 1:
        raise ValueError("once")


@pytest.mark.parametrize(
    ("node", "match"),
    [
        (Node("x", list_files, ["nowhere"]), "nowhere"),
        (Node("grower", list_files), "has a node 'grower' already"),
        (Node("x", list_files, kind="pdf"), "kind 'pdf'"),
        (Node("x", process), "parameter 'name'"),
    ],
)
def test_a_task_that_appends_what_does_not_fit_fails(node: Node, match: str) -> None:
    """The graph stays as it was, and the error names what was wrong."""

    def grower() -> None:
        current().grow(node)

    result = DAG([Node("grower", grower), Node("after", list_files, ["grower"])]).run(backend="thread")
    assert list(result) == ["grower", "after"]
    assert result.node_result("after").status == "skipped"
    with pytest.raises(ValueError, match=match):
        result["grower"]


def test_a_kind_stays_open_while_a_task_may_add_to_it() -> None:
    """`closed` is decided from all that is still alive: the collector is asked again when the task has ended without adding."""
    dag = DAG([Node("first", partial(report, "first"), kind="pdf"), Node("quiet", list_files, adds={"pdf"})])
    seen: list[list[str]] = []
    rule = Rule(all_done("pdf"), lambda view: Patch([Node("end", partial(seen.append, view.nodes("pdf")))]), adds=set())
    assert dag.run(rules=[rule], backend="inline").ok
    assert seen == [["first"]]


def test_a_rule_that_a_task_attaches_says_what_it_adds() -> None:
    """Otherwise nobody could tell when a kind is closed; the message says how."""

    def attach(**settings: Any) -> None:
        me = current()
        me.grow(rules=[Rule(done(me.node), lambda view: Patch([Node("late", list_files)]), "attached", **settings)])

    assert DAG([Node("attach", partial(attach, adds=set()))]).run(backend="thread")["late"] == list_files()
    with pytest.raises(ValueError, match="adds="):
        DAG([Node("attach", attach)]).run(backend="thread")["attach"]


def test_current_outside_of_a_task_says_so() -> None:
    """Also after the task is over: what it would append is too late."""
    from dagrid.errors import NoCurrentTaskError

    with pytest.raises(NoCurrentTaskError, match="in a task"):
        current()
    kept = DAG([Node("keep", current)]).run(backend="thread")["keep"]
    with pytest.raises(NoCurrentTaskError, match="is over"):
        kept.grow(Node("x"))
