"""Where values are kept between runs, under what key they are found, and what is not kept."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, SkipTask, current, dag, task
from dagrid.attempt import Here, performing
from dagrid.errors import InvalidSettingError, StoreError
from dagrid.execution.caching import Known, cached
from dagrid.graph.grow import map_over
from dagrid.ports import Call
from dagrid.stores import open_artifacts
from tests.execution import cached_tasks as tasks
from tests.execution.cached_tasks import CALLS, Shy
from tests.execution.caching import CHAIN, hits, made, notes, stored

# --- what comes from before -----------------------------------------------------------------------------------------------


def test_changed_code_upstream_is_computed_anew_downstream(tmp_path):
    """A key says how a value was made, all the way up."""
    notes(CHAIN, tmp_path)
    changed = made("def double(load): return [3 * each for each in load]", "double")
    assert hits(CHAIN, tmp_path, {"double": changed}) == {"load": True, "double": False, "total": False}


def test_a_value_with_a_key_is_not_taken_apart(tmp_path):
    """It may be large; how it was made says what it is. So a chain that has not changed costs reading, and no hashing."""
    graph = [Node("shy", tasks.shy, cache=True), Node("size", tasks.size, ["shy"], cache=True)]
    notes(graph, tmp_path)
    Shy.reduced = 0
    assert all(hits(graph, tmp_path).values())
    assert Shy.reduced == 0
    notes([Node("shy", tasks.shy), graph[1]], tmp_path)
    assert Shy.reduced == 1


def test_a_value_without_a_key_counts_by_its_content(backend, tmp_path):
    """What is not kept is computed each time, and what follows from the same value is found."""
    graph = DAG([Node("load", tasks.load), *CHAIN[1:]])
    assert hits(graph, tmp_path, backend=backend) == {"load": False, "double": False, "total": False}
    assert hits(graph, tmp_path, backend=backend) == {"load": False, "double": True, "total": True}
    other = {"load": made("def load(): return [4]", "load")}
    assert hits(graph, tmp_path, other) == {"load": False, "double": False, "total": False}


def test_flows_find_constants_items_and_groups_again(tmp_path):
    """The arguments of a call are part of its key in whatever form they are written."""

    @task(cache=True, unpack_to=2)
    def pair(number):
        return number, [number]

    @task(cache=True)
    def join(first, rest, *, sign):
        return [first, *rest, sign]

    @dag
    def flow(number, sign):
        first, rest = pair(number)
        return join(first, rest=[rest[0], first], sign=sign)

    def found(*args: Any) -> list[bool]:
        result = flow.run(*args, cache=tmp_path, backend="inline").raise_for_status()
        return [node.note.startswith("from") for node in result.node_results.values()]

    assert found(1, "+") == [False, False]
    assert found(1, "+") == [True, True]
    assert found(1, "-") == [True, False]
    assert found(2, "-") == [False, False]


def test_a_condition_decides_and_is_no_part_of_the_key(tmp_path):
    """Whether a node runs is another question than what it computes; a skipped one stores nothing."""

    def graph(condition: Any) -> DAG:
        return DAG(
            [Node("go", lambda: condition), CHAIN[0], Node("double", tasks.double, ["load"], when="go", cache=True)]
        )

    result = graph(0).run(cache=tmp_path, backend="inline")
    assert result.node_results["double"].status == "skipped"
    assert len(stored(tmp_path)) == 1
    assert not hits(graph(1), tmp_path)["double"]
    assert hits(graph("yes"), tmp_path) == {"go": False, "load": True, "double": True}


def test_elements_of_a_map_are_found_one_by_one(backend, tmp_path):
    """One more element costs one more element."""

    def squares(*values: int) -> dict[str, bool]:
        rules = [map_over("find", Node("square", tasks.square, cache=True))]
        return hits([Node("find", partial(list, values))], tmp_path, rules=rules, backend=backend)

    assert not any(squares(1, 2).values())
    assert squares(2, 3, 1) == {"find": False, "square[0]": True, "square[1]": False, "square[2]": True}


def test_an_argument_that_cannot_be_hashed_is_named_and_the_node_runs(tmp_path):
    """There is no key then, and so nothing to find or to keep."""
    graph = [Node("lock", tasks.lock), Node("held", tasks.held, ["lock"], cache=True)]
    for _ in range(2):
        assert notes(graph, tmp_path)["held"].startswith("computed: argument 1: a value of type _thread.lock cannot be")
    odd = [Node("lock", tasks.Odd), Node("n", lambda lock: 1, ["lock"], cache=True)]
    assert notes(odd, tmp_path)["n"].startswith("computed: its key cannot be made (TypeError")
    guard = threading.Lock()

    def closing():
        return guard.locked()

    note = notes([Node("n", closing, cache=True)], tmp_path)["n"]
    assert note.startswith("computed: 'guard', which the function closes over")
    assert not stored(tmp_path)


# --- what is kept, and what is not ----------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_pickled_is_not_kept_and_the_node_succeeds(tmp_path):
    """A cache helps or stands aside."""
    for _ in range(2):
        assert "not kept: it cannot be pickled" in notes([Node("lock", tasks.lock, cache=True)], tmp_path)["lock"]
    assert not stored(tmp_path)


def test_failures_and_skips_are_not_kept_and_of_tries_the_one_that_counts(tmp_path):
    """Trying again is what one wants of a failure, also in the next run."""
    left = ["again", "fail", "skip"]

    def fn():
        word = tasks.CALLS.pop() if tasks.CALLS else "value"
        if word == "skip":
            raise SkipTask("not today")
        if word == "fail":
            raise ValueError("no luck")
        return word

    graph = DAG([Node("n", fn, retries=1, cache=True)])
    CALLS.append("skip")
    assert graph.run(cache=tmp_path).node_results["n"].status == "skipped"
    CALLS.extend(["fail", "fail"])
    assert not graph.run(cache=tmp_path).ok
    assert not stored(tmp_path)
    CALLS.extend([left[0], "fail"])
    assert graph.run(cache=tmp_path)["n"] == "again"
    assert graph.run(cache=tmp_path)["n"] == "again"


def test_a_task_that_appends_to_the_graph_is_not_kept(tmp_path):
    """The nodes are part of what it does, and would be missing."""

    def grow():
        current().grow(Node("more", tasks.load))
        return 1

    for _ in range(2):
        result = DAG([Node("grow", grow, cache=True, adds=set())]).run(cache=tmp_path).raise_for_status()
        assert "more" in result
        assert result.node_results["grow"].note.endswith("not kept: it appended to the graph")


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is corrupt (its checksum"),
        (lambda data: data[:-3], "of 22 bytes)"),
        (lambda data: data[:20], "is corrupt (it has no head)"),
        (lambda data: b"", "is corrupt (it has no head)"),
        (lambda data: data.replace(b'"size"', b'"sise"'), "is corrupt (its head"),
        (lambda data: data.replace(b'"format":1', b'"format":0'), "another version, dagrid "),
    ],
)
def test_what_cannot_be_read_is_computed_said_and_replaced(spoiled, why, tmp_path, caplog):
    """A file that was cut off by a full disk must neither stop a run nor stay there."""
    graph = CHAIN[:1]
    notes(graph, tmp_path)
    [file] = stored(tmp_path)
    file.write_bytes(spoiled(file.read_bytes()))
    assert why in notes(graph, tmp_path)["load"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("dagrid", "WARNING")
    assert why in record.getMessage()
    assert hits(graph, tmp_path)["load"]
    assert len(stored(tmp_path)) == 1


def test_a_value_whose_class_is_gone_is_computed(tmp_path, monkeypatch, caplog):
    """What is stored outlives the code that made it."""
    source = "def fn(): return "
    notes([Node("n", made(f"{source} Shy(3)", Shy=Shy), cache="v1")], tmp_path)
    monkeypatch.delattr(tasks, "Shy")
    note = notes([Node("n", made(f"{source} 4"), cache="v1")], tmp_path)["n"]
    assert note.startswith("computed: the stored value cannot be read here (AttributeError")
    assert len(caplog.records) == 1


def test_a_place_that_is_out_of_reach_does_not_stop_a_run(tmp_path, caplog):
    """A bucket may be gone for a moment; the log and the node say so."""
    place = tmp_path / "a file"
    place.write_text("no folder")
    note = notes(CHAIN[:1], place)["load"]
    assert note.startswith("computed: ")
    assert "not kept: " in note
    assert caplog.records


def test_two_runs_at_once_leave_one_whole_value(tmp_path):
    """Both compute what neither has found; the last one wins."""
    meet = threading.Barrier(2)
    fn = made("def fn(): meet.wait(10); return list(range(1000))", meet=meet)
    graph = DAG([Node("n", fn, cache=True)])
    runs = [graph.start(cache=tmp_path, backend="thread") for _ in range(2)]
    assert [run.wait()["n"] for run in runs] == [list(range(1000))] * 2
    meet.abort()
    assert len(stored(tmp_path)) == 1
    assert hits(graph, tmp_path)["n"]


# --- where it is kept -----------------------------------------------------------------------------------------------------


def test_any_place_for_values_will_do(tmp_path):
    """A URL of fsspec's, a file:// URL, or an object."""
    for cache in ("memory://dagrid-cache", f"file://{tmp_path}/url", open_artifacts(tmp_path / "object")):
        assert not any(hits(CHAIN, cache).values())
        assert all(hits(CHAIN, cache).values())


def test_a_place_that_is_none_is_refused_before_anything_runs():
    """A mistake in a setting is told at once."""
    with pytest.raises(StoreError):
        DAG(CHAIN).run(cache="nosuch://place")
    with pytest.raises(InvalidSettingError, match="put and get"):
        DAG(CHAIN).run(cache=3)  # type: ignore[arg-type]
    assert CALLS == []


def test_asynchronous_nodes_are_found_again(tmp_path):
    """In the event loop of a run too: the second run does not call the function."""

    async def load():
        CALLS.append("load")
        return 7

    for _ in range(2):
        assert DAG([Node("load", load, cache=True)]).run(cache=tmp_path)["load"] == 7
    assert CALLS.count("load") == 1


def test_asynchronous_tasks_are_kept_too(tmp_path):
    """Looking a value up must not block the loop, and what a coroutine gives is what is stored."""

    async def fetch(number):
        CALLS.append("fetch")
        await asyncio.sleep(0)
        return number + 1

    fn = cached(fetch, fetch, "fetch", True, True)
    known = Known(open_artifacts(tmp_path))

    async def perform() -> tuple[Any, str]:
        here = Here(Call(0, "fetch", fetch))
        performing.set(here)
        value = await fn(known, 1)
        extra = here.take()
        assert extra is not None
        return value, extra.note[:14]

    assert asyncio.run(perform()) == (2, "computed: no v")
    assert asyncio.run(perform()) == (2, "from the cache")
    assert CALLS == ["fetch"]
