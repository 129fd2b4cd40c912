"""Graphs that grow while they run: the situations of `growth_situations` on every kind of place, and what else may happen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, Patch, Rule, current
from dagrid.graph.grow import all_done, done
from tests.growth.growth_situations import GrowthSituations, list_files, process, report, travelling_by_value


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
    from dask.distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with travelling_by_value(), LocalCluster(**settings) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["inline", "thread", "multiprocessing", pytest.param("dask", marks=pytest.mark.engine)])
def place(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param != "dask":
        yield request.param
        return
    backend = Dask(request.getfixturevalue("cluster"))
    yield backend
    backend.shutdown()


class TestSituations(GrowthSituations):
    """On the places that every installation has, and on a stranger's four methods over Dask."""


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

    with pytest.raises(NoCurrentTaskError, match=r"in a task; .* in another process, say adds"):
        current()
    kept = DAG([Node("keep", current)]).run(backend="thread")["keep"]
    with pytest.raises(NoCurrentTaskError, match="is over"):
        kept.grow(Node("x"))
