"""Steps are counted, not timed: a large graph costs as much a node as a small one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dagrid.graph.node import Node
from dagrid.machine.advance import IDLE, advance
from dagrid.machine.commands import Finish, Perform
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    Asked,
    Finished,
    Outcome,
    WorkerJoined,
)
from dagrid.machine.plan import Plan
from dagrid.machine.state import COMPLETED, SKIPPED, State
from tests.machine.world import plan_of, replayed


class Counted(list[Any]):
    """A list that counts how often somebody looks into it."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


def chain(count: int) -> Plan:
    return plan_of([Node("n0"), *[Node(f"n{number}", None, [f"n{number - 1}"]) for number in range(1, count)]])


def fan(count: int) -> Plan:
    middle = [Node(f"n{number}", None, ["n0"]) for number in range(1, count - 1)]
    return plan_of([Node("n0"), *middle, Node("end", None, [node.id for node in middle])])


@pytest.mark.parametrize("shape", [chain, fan])
def test_an_early_failure_skips_a_hundred_thousand_nodes_in_linear_steps(shape: Any) -> None:
    """One look at the successors of each node, in one decision, however long the chain or wide the fan; so does a replay."""
    count = 100_000
    plan = shape(count)
    plan.successors = looked = Counted(plan.successors)
    state = State(plan)
    decide(state, [WorkerJoined(0, "w", 0.0)], 0.0)
    commands = decide(state, [Finished(0, 0, Outcome.FAILED, 0.0, 0.0)], 0.0)
    assert commands == [Finish()]
    assert state.count(SKIPPED) == count - 1
    assert looked.looks <= count
    assert len(state.journal) <= count + 6
    again = replayed(state, plan, ())
    assert again.status == state.status
    assert looked.looks <= 2 * count


def in_turn(plan: Plan, worker: int = 0) -> Iterator[int]:
    """Run a plan with one pulling worker by the fast path, and yield the node of each step."""
    state = State(plan)
    decide(state, [WorkerJoined(worker, "w", 0.0, pulls=True)], 0.0)
    (perform,) = (each for each in decide(state, [Asked(worker, 0.0)], 0.0) if isinstance(each, Perform))
    following = perform.attempts[0]
    while following >= 0:
        yield following
        following = advance(state, following, worker, 0.0, 0.0)
    assert following == IDLE
    assert decide(state, [Asked(worker, 0.0)], 0.0) == [Finish()]
    assert state.count(COMPLETED) == len(plan)


@pytest.mark.parametrize("shape", [chain, fan])
def test_a_hundred_thousand_nodes_run_in_order_in_one_step_each(shape: Any) -> None:
    """No node is looked at twice, and no depth ends in a RecursionError."""
    plan = shape(100_000)
    plan.successors = looked = Counted(plan.successors)
    assert list(in_turn(plan)) == list(range(100_000))
    assert looked.looks == 100_000
