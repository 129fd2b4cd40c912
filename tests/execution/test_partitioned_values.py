"""Graphs in parts: what travels over a border, what stays where it was made, and what parts tell."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, TaskError
from dagrid.errors import (
    TransferError,
)
from dagrid.execution.distributed import PartitionedDAGExecutor
from tests.execution.partition_graphs import lanes, two
from tests.execution.partition_tasks import (
    Counted,
    Courier,
    behind,
    counted,
    number,
    unsendable,
)


def test_only_values_that_are_needed_travel_to_a_part() -> None:
    """What a part does not take is not sent to it, and what nobody takes and is not kept does not leave its part."""
    size = 100_000
    dag = DAG(
        [
            Node("large", lambda: b"x" * size),
            Node("small", len, inputs={"obj": "large"}),
            Node("other", len, inputs={"obj": "large"}),
            Node("last", lambda small: small + 1, inputs={"small": "small"}),
        ]
    )
    for keep, home in (("all", True), ("outputs", False), ({"small"}, False)):
        courier = Courier()
        executor = PartitionedDAGExecutor(dag, k=2, costs={"last": 3.0}, backend=courier, keep=keep)
        assert [sorted(part) for part in executor.partition.parts] == [["large", "other", "small"], ["last"]]
        result = executor.execute()
        assert result.ok
        assert all(len(data) < size for data in courier.sent)
        assert any(len(data) > size for data in courier.returned) is home
        kept = {name for name in dag.node_names() if _is_kept(result, name)}
        assert kept == {"all": set(dag.node_names()), "outputs": {"other", "last"}}.get(str(keep), {"small"})


@pytest.mark.parametrize("chosen", [{"targets": ["middle"]}, {"exclude": ["last"]}, {"given": {"last": 0}}])
def test_what_only_nodes_take_that_do_not_run_is_an_output(chosen: Any) -> None:
    """As in an ordinary run: who asks for one node of a graph, and no more than is needed, wants that one."""
    dag = DAG(
        [
            Node("first", int),
            Node("middle", lambda first: first + 1, ("first",)),
            Node("last", lambda middle: middle + 1, ("middle",)),
        ]
    )
    executor = PartitionedDAGExecutor(dag, k=2, keep="outputs", **chosen)
    for result in (dag.run(keep="outputs", **chosen), executor.execute()):
        assert (result["middle"], _is_kept(result, "first")) == (1, False)


def _is_kept(result: Any, name: str) -> bool:
    try:
        result[name]
    except TaskError as error:
        return "dropped" not in str(error)
    return True


def test_a_value_that_travels_is_not_opened_on_its_way() -> None:
    """The driver may lack the type, and opening costs; it passes bytes on."""
    Counted.opened = 0
    result = PartitionedDAGExecutor(two(counted, behind), k=2, backend=Courier()).execute()
    assert result["second"] == "Counted"
    assert Counted.opened == 1
    assert result["first"].number == 3
    assert Counted.opened == 2


def test_nothing_is_pickled_where_memory_is_shared() -> None:
    """On threads a value is the object itself, whatever it is."""
    lock = threading.Lock()
    result = PartitionedDAGExecutor(two(lambda: lock, lambda value: value), k=2).execute()
    assert result["second"] is lock


def test_a_value_that_cannot_travel_fails_its_node_where_another_part_needs_it() -> None:
    """The message has the node and the remedy; who needs the value is skipped."""
    dag = DAG(
        [
            Node("first", unsendable),
            Node("apart", number),
            Node("second", behind, inputs={"value": "first"}, depends_on=["apart"]),
        ]
    )
    result = PartitionedDAGExecutor(dag, k=2, backend=Courier()).execute()
    assert result.node_results["first"].status is NodeStatus.FAILED
    assert result.node_results["second"].reason == "'first' failed"
    assert result["apart"] == 7
    with pytest.raises(TransferError, match=r"value of node 'first', a .*Unsendable, cannot travel"):
        result.raise_for_status()
    assert result.trace is not None
    spans = sorted((span.node, span.outcome) for span in result.trace)
    assert spans == [("apart", "completed"), ("first", "failed")]
    whole = PartitionedDAGExecutor(dag, k=2, on_failure="continue", backend=Courier()).execute()
    assert whole.node_results["second"].status is NodeStatus.SKIPPED


def test_a_value_that_nobody_else_needs_may_stay_where_it_is() -> None:
    """Within its part it was of use; only reading it here is impossible."""
    result = PartitionedDAGExecutor(two(unsendable, behind), k=1, backend=Courier()).execute()
    assert result.ok
    assert result["second"] == "Unsendable"
    with pytest.raises(TransferError, match="'first'"):
        result["first"]


def test_a_given_value_that_cannot_travel_is_named() -> None:
    """The user gave it, so the user can change it."""
    executor = PartitionedDAGExecutor(two(number, behind), k=2, backend=Courier(), given={"first": threading.Lock()})
    with pytest.raises(TransferError, match="'first'"):
        executor.execute().raise_for_status()


def test_a_piece_is_opened_once_for_runs_that_are_alike() -> None:
    """A worker that keeps the compiled form saves the cost of making it in every later run."""
    from dagrid.execution.pieces import _kept

    executor = PartitionedDAGExecutor(lanes(1, 6), k=2, backend=Courier())
    before = len(_kept._works)
    first = executor.execute()
    assert len(_kept._works) == before + 2
    assert executor.execute()["0.5"] == first["0.5"]
    assert len(_kept._works) == before + 2


def test_what_a_worker_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that serves for weeks must not keep every graph that it has seen."""
    from dagrid.execution import pieces

    kept = pieces._Kept()
    monkeypatch.setattr(pieces, "_kept", kept)
    monkeypatch.setattr(pieces, "MOST_KEPT", 10)
    for length in range(1, 8):
        PartitionedDAGExecutor(lanes(1, length), k=1, backend=Courier()).execute()
    assert kept._nodes == 7
    assert len(kept._works) == 1


def test_a_function_travels_once_however_many_nodes_have_it() -> None:
    """Else a graph of a thousand closures would carry a thousand copies."""
    ballast = "b" * 10_000
    courier = Courier()
    dag = lanes(1, 20, lambda a=None: len(ballast))
    assert PartitionedDAGExecutor(dag, k=1, backend=courier).execute()["0.19"] == 10_000
    assert len(courier.sent[0]) < 2 * len(ballast)


def test_a_backend_that_loses_reports_is_told_so() -> None:
    """A stranger that returns nothing must not look like a run of nothing."""

    class Silent(Courier):
        def result(self, future: Any, timeout: float | None = None) -> Any:
            return None

    with pytest.raises(TransferError, match="in place of the report of a part"):
        PartitionedDAGExecutor(lanes(1, 2), k=2, backend=Silent()).execute()


def test_reports_are_pickled_by_any_pickler() -> None:
    """A stranger's backend uses a pickler of its own."""
    courier = Courier()
    PartitionedDAGExecutor(lanes(1, 3), k=1, backend=courier).execute()
    assert pickle.loads(courier.returned[0]).well
