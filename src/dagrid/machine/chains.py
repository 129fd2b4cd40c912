"""Chains that travel together: a node that waits for one attempt alone goes to the worker along with that attempt. Pure.

The rider has not been assigned: it is pending until the attempt that it rides on has completed, and then it is with the worker
already. Who performs calls drops the rider when that attempt ends in any other way, so that both sides know without a word.
"""

from __future__ import annotations

from heapq import heappop

from dagrid.machine.applying import record
from dagrid.machine.commands import Cancel, Command
from dagrid.machine.events import NODE_MASK, Fact, Kind, attempt_id
from dagrid.machine.state import PENDING, READY, State


def along(state: State, attempt: int, most: int) -> list[int]:
    """Return the attempts that go along with one that is handed out, each riding on the one before it; at most so many."""
    found: list[int] = []
    while len(found) < most:
        node = _rider(state, attempt & NODE_MASK)
        if node < 0:
            break
        state.rides[node], state.riders[attempt] = attempt, node
        attempt = attempt_id(node, 0)
        found.append(attempt)
    return found


def board(state: State, node: int, worker: int, at: float) -> None:
    """The attempt that a node rode on has completed: the node is with its worker."""
    if state.stopped or state.status[node] != READY:
        return
    if state.heap and state.heap[0] == state.plan.keys[node]:
        heappop(state.heap)
    record(state, Fact(Kind.ASSIGNED, at, node, state.number_of(node), worker))


def stop_riders(state: State, commands: list[Command]) -> None:
    """The run stops: none of them shall start."""
    for attempt, node in state.riders.items():
        commands.append(Cancel(state.where[attempt & NODE_MASK], attempt_id(node, 0)))
    state.riders.clear()


def _rider(state: State, node: int) -> int:
    """Return the first of the plain successors that wait for this node alone and do not ride already; -1 if there is none.

    What may end without counting, by a timeout or by a patch that does not fit, carries nobody, nor does what others go on after
    however it ends.
    """
    plan = state.plan
    if node in plan.timeouts or node in plan.adds or node in plan.goes_on:
        return -1
    fitting = (
        after
        for after in plan.successors[node]
        if state.status[after] == PENDING
        and state.waiting[after] == 1
        and not plan.groups[after]
        and after not in plan.empty
        and after not in plan.alone
        and state.riders.get(state.rides.get(after, -1)) != after
        and after not in state.numbers
    )
    return min(fitting, key=plan.keys.__getitem__, default=-1)
