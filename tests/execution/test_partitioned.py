"""A graph in parts gives what the graph gives: the same values, the same failures, the same reasons, and only what must travels."""

from __future__ import annotations

import asyncio
import pickle
import threading
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid import DAG, Node, NodeStatus, Retry, Rule, RunStatus, TaskError, current
from dagrid.errors import CapabilityError, InvalidSettingError, PlanError, TransferError, UnknownNodeError, UnknownTaskError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.distributed import PartitionedDAGExecutor
from tests.execution.partition_tasks import (
    Counted,
    Courier,
    behind,
    counted,
    die,
    die_once,
    failing,
    flaky,
    joined,
    number,
    skipping,
    unsendable,
    where,
)

STRATEGIES = ("level_based", "balanced", "communication_min")
BEHAVIOURS = {"well": joined, "fails": failing, "skips": skipping, "flaky": flaky, "nothing": None}


@st.composite
def graphs(draw: st.DrawFn) -> DAG:
    """Graphs whose nodes fail, are skipped, need a second try or do nothing, and take the values of some of their predecessors."""
    count = draw(st.integers(1, 14))
    nodes: list[Node] = []
    idle: set[str] = set()
    for at in range(count):
        before = [f"n{one}" for one in draw(st.sets(st.integers(0, at - 1), max_size=3))] if at else []
        behaviour = draw(st.sampled_from(("well", "well", "well", "well", "fails", "skips", "flaky", "nothing")))
        if behaviour == "nothing":
            idle.add(f"n{at}")
        taken = [one for one in before if one not in idle and draw(st.booleans())] if behaviour != "nothing" else []
        nodes.append(
            Node(
                f"n{at}",
                BEHAVIOURS[behaviour],
                depends_on=before,
                inputs=dict(zip("abc", taken, strict=False)) or None,
                retries=Retry(1) if behaviour == "flaky" and draw(st.booleans()) else None,
                priority=draw(st.integers(0, 2)),
            )
        )
    return DAG(nodes)


def compare(whole: Any, parts: Any, dag: DAG) -> None:
    """Check that two results say the same of every node."""
    expected, found = whole.node_results, parts.node_results
    assert {name: one.status for name, one in found.items()} == {name: one.status for name, one in expected.items()}
    assert parts.status == whole.status
    for name in dag.node_names():
        mine, theirs = found[name], expected[name]
        assert mine.value == theirs.value
        assert mine.attempts == theirs.attempts
        assert type(mine.error) is type(theirs.error)
        if mine.status is NodeStatus.SKIPPED:
            before = [expected[one] for one in dag.predecessors(name)]
            unwell = [one for one in before if one.status in (NodeStatus.FAILED, NodeStatus.SKIPPED)]
            if len(unwell) <= 1:
                assert mine.reason == theirs.reason
            elif mine.reason != theirs.reason:
                assert any(mine.reason.startswith(repr(one.name)) for one in unwell)
        elif mine.error is not None:
            assert str(mine.error) == str(theirs.error)
    spans = sorted((one.node, one.number, one.outcome) for one in parts.trace)
    assert spans == sorted((one.node, one.number, one.outcome) for one in whole.trace)


@settings(max_examples=150, deadline=None)
@given(
    dag=graphs(),
    k=st.integers(1, 4),
    strategy=st.sampled_from(STRATEGIES),
    fail_fast=st.booleans(),
    travels=st.booleans(),
    slots=st.sampled_from((None, None, 2)),
)
def test_parts_end_as_the_graph_does(
    dag: DAG, k: int, strategy: str, fail_fast: bool, travels: bool, slots: int | None
) -> None:
    """Where a graph is cut must not show in what becomes of any node, be it within a part or across."""
    whole = dag.run(backend="inline", on_failure="skip" if fail_fast else "continue")
    backend = Courier() if travels else "inline"
    parts = PartitionedDAGExecutor(dag, k, strategy, max_workers=slots, fail_fast=fail_fast, backend=backend).execute()
    compare(whole, parts, dag)


@settings(max_examples=40, deadline=None)
@given(dag=graphs(), k=st.integers(1, 4), strategy=st.sampled_from(STRATEGIES), travels=st.booleans(), data=st.data())
def test_a_chosen_part_of_the_graph_ends_as_it_does_whole(
    dag: DAG, k: int, strategy: str, travels: bool, data: st.DataObject
) -> None:
    """Values that are given and nodes that are left out change what the parts are made of."""
    names = dag.node_names()
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    told: dict[str, Any] = {"given": {name: f"given {name}" for name in chosen}}
    if data.draw(st.booleans()):
        told["targets"] = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=3))
    whole = dag.run(backend="inline", **told)
    backend = Courier() if travels else "inline"
    parts = PartitionedDAGExecutor(dag, k, strategy, backend=backend, **told).execute()
    compare(whole, parts, dag)
