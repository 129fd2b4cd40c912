"""Graphs in parts: what may be said of them, and what is refused with the reason."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, Patch, Retry, Rule
from dagrid.errors import (
    CapabilityError,
    InvalidSettingError,
    PlanError,
    UnknownNodeError,
    UnknownTaskError,
)
from dagrid.execution.distributed import PartitionedDAGExecutor
from tests.execution.partition_graphs import lanes
from tests.execution.partition_tasks import (
    Courier,
    flaky,
    number,
)


def test_kinds_of_tasks_and_arguments_that_only_the_worker_can_bind() -> None:
    """Conditions, constants, parts of values and async functions come through as they are."""
    import dagrid

    @dagrid.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    @dagrid.task
    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a * 2

    @dagrid.task
    def split(a: int) -> dict[str, int]:
        return {"more": a + 1}

    @dagrid.dag
    def flow() -> Any:
        one = add(1, b=2)
        return later(split(one)["more"])

    dag = flow.build()
    for k in (1, 2, 3):
        for backend in ("thread", Courier()):
            result = PartitionedDAGExecutor(dag, k=k, backend=backend).execute()
            result.raise_for_status()
            assert result["later"] == 8
    conditional = DAG(
        [Node("zero", lambda: 0), Node("never", number, when="zero"), Node("after", number, depends_on=["never"])]
    )
    for k in (1, 2, 3):
        result = PartitionedDAGExecutor(conditional, k=k, backend=Courier()).execute()
        assert [one.status.value for one in result.node_results.values()] == ["completed", "skipped", "skipped"]
        assert result.ok


def test_setup_nodes_run_before_or_are_refused() -> None:
    """They run once for a graph, and parts know nothing of each other; their values from another run are taken."""
    dag = DAG([Node("model", number, setup=True), Node("use", lambda model: model + 1, depends_on=["model"])])
    executor = PartitionedDAGExecutor(dag, k=2)
    with pytest.raises(CapabilityError, match=r"dag\.run\(targets="):
        executor.execute()
    dag.run(targets=["model"])
    assert executor.execute()["use"] == 8
    assert PartitionedDAGExecutor(dag, k=2, given={"model": 1}).execute()["use"] == 2


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Node("n", number, resources={"gpu": 1}), "asks for resources"),
        (Node("n", number, selector={"gpu": "yes"}), "selects its worker"),
        (Node("n", number, is_sequential=True), "has to run alone"),
        (Node("n", number, place="caller"), "caller's thread"),
        (Node("n", number, adds={"kind"}), "may append"),
        (Node("n", number, cache=True), "cache=False"),
    ],
)
def test_nodes_that_no_part_can_serve_are_refused_at_once(node: Node, why: str) -> None:
    """A setting that is silently ignored is worse than a refusal; the message says what to do."""
    with pytest.raises(CapabilityError, match=f"Node 'n' .*{why}.*DAG.run"):
        PartitionedDAGExecutor(DAG([node]), k=1)


def test_a_cached_node_runs_where_nothing_is_kept() -> None:
    """Its function is wrapped where it runs, and works without a cache."""
    dag = DAG([Node("n", number, cache=True), Node("m", lambda n: n + 1, depends_on=["n"], cache=True)])
    for backend in ("inline", Courier()):
        assert PartitionedDAGExecutor(dag, k=2, cache=False, backend=backend).execute()["m"] == 8


def test_settings_that_do_not_fit_are_refused_with_the_reason() -> None:
    """Before anything runs, and a typo with the name that was meant."""
    dag = lanes(1, 2)
    for name in ("resources", "checkpoint", "rules", "observers", "clock", "max_concurrency", "run_id", "max_nodes"):
        with pytest.raises(InvalidSettingError, match=f"{name} cannot be combined with parts: .*DAG.run"):
            PartitionedDAGExecutor(dag, k=1, **_nothing(name))
    with pytest.raises(InvalidSettingError, match="Did you mean 'keep'"):
        PartitionedDAGExecutor(dag, k=1, kep="all")  # type: ignore[call-arg]
    with pytest.raises(InvalidSettingError, match="cache"):
        PartitionedDAGExecutor(dag, k=1, cache=True)
    with pytest.raises(InvalidSettingError, match="max_workers"):
        PartitionedDAGExecutor(dag, k=1, max_workers=0)
    with pytest.raises(InvalidSettingError):
        PartitionedDAGExecutor(dag, k=0)
    with pytest.raises(InvalidSettingError):
        PartitionedDAGExecutor(dag, k=1, strategy="nearest")
    with pytest.raises(UnknownNodeError):
        PartitionedDAGExecutor(dag, k=1, costs={"9.9": 1.0})
    with pytest.raises(UnknownTaskError):
        PartitionedDAGExecutor(dag, k=1).execute({"9.9": number})
    with pytest.raises(PlanError):
        PartitionedDAGExecutor(DAG([Node("n", lambda x: x)]), k=1).execute()


def _nothing(name: str) -> Any:
    return {name: None}


def test_graphs_that_grow_are_refused() -> None:
    """What comes later is in no part; a task that tries all the same fails by itself."""
    import dagrid

    growing = DAG.of(lanes(1, 2).structure, lanes(1, 2).specs, rules=(Rule(lambda view: False, lambda view: Patch()),))
    with pytest.raises(CapabilityError, match="grows while it runs"):
        PartitionedDAGExecutor(growing, k=1)

    def grow() -> None:
        dagrid.current().grow(Node("more", number))

    for backend in ("inline", Courier()):
        result = PartitionedDAGExecutor(
            DAG([Node("grow", grow), Node("other", number)]), k=1, backend=backend
        ).execute()
        assert result["other"] == 7
        assert "cannot append to it" in result.node_results["grow"].reason
        with pytest.raises(CapabilityError, match=r"cannot append to it. Run the graph with DAG\.run"):
            result.raise_for_status()


def test_small_graphs_and_none() -> None:
    """A graph of nothing, and more workers than nodes."""
    assert PartitionedDAGExecutor(DAG([]), k=3).execute().ok
    assert PartitionedDAGExecutor(lanes(1, 2), k=30).execute().succeeded == 2
    assert PartitionedDAGExecutor(DAG.builder().add_nodes(["a", "b"]).build(), k=2).execute().skipped == 2


def test_the_graph_says_how_many_nodes_run_at_once() -> None:
    """`max_concurrency` of a graph holds over all its parts."""
    at_once = [0, 0]
    lock = threading.Lock()

    def count() -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        with lock:
            at_once[0] -= 1

    dag = DAG([Node(f"n{at}", count) for at in range(60)], max_concurrency=1)
    assert PartitionedDAGExecutor(dag, k=4, strategy="balanced", max_workers=3).execute().ok
    assert at_once[1] == 1


def test_the_part_with_the_most_urgent_node_goes_first() -> None:
    """Priorities hold across parts as far as these can be chosen among."""
    order: list[str] = []
    dag = DAG([Node(f"n{at}", partial(order.append, f"n{at}"), priority=at) for at in range(4)])
    assert PartitionedDAGExecutor(dag, k=4, strategy="balanced", backend="inline").execute().ok
    assert order == ["n3", "n2", "n1", "n0"]


def test_tasks_are_given_at_each_run() -> None:
    """One executor serves runs with different tasks; what was compiled for one is not used for another."""
    dag = DAG.builder().add_nodes(["a", "b"]).add_edges([("a", "b")]).build()
    with PartitionedDAGExecutor(dag, k=2, backend=Courier()) as executor:
        assert executor.execute({"a": number, "b": lambda a: a + 1})["b"] == 8
        assert executor.execute({"a": number, "b": lambda a: a + 2})["b"] == 9


def test_the_draws_of_a_run_with_a_seed_are_the_same_again() -> None:
    """Jitter must be reproducible where a seed is given."""
    dag = DAG([Node("n", flaky, retries=Retry(1, delay=0.01, jitter=1.0))])

    def delay() -> float:
        result = PartitionedDAGExecutor(dag, k=1, backend="inline", seed=5).execute()
        assert result.ok
        return next(fact.due - fact.at for fact in result._state.facts() if fact.due)

    assert delay() == pytest.approx(delay(), abs=1e-9)
