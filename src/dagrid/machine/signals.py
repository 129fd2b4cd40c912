"""A node that is not done and has not failed: its task wants to be run again, or waits for somebody. Pure."""

from __future__ import annotations

from dagrid.graph.policy import Repeat
from dagrid.machine.applying import MOVES, leave_attempt, record
from dagrid.machine.closing import stop_on_failure
from dagrid.machine.commands import Command, SetTimer
from dagrid.machine.events import (
    NODE_MASK,
    Again,
    Fact,
    Finished,
    Kind,
    Rejected,
    Signalled,
    TimerKind,
    attempt_id,
)
from dagrid.machine.state import COMPLETED, QUEUED, READY, RUNNING, WAITING, State, move, settle

AT_ONCE = Repeat()


def runs_no_more(state: State, node: int) -> bool:
    """Return whether a node that asks to be run again has run as often as it may, and so completes with what it left."""
    limit = state.plan.repeats.get(node, AT_ONCE).limit
    return 0 < limit <= state.repeats.get(node, 0) + 1


def repeat(state: State, node: int, number: int, event: Finished, commands: list[Command]) -> None:
    """A task wants to be run again: its node waits for its time."""
    due = event.ended + state.plan.repeats.get(node, AT_ONCE).delay_after(state.repeats.get(node, 0))
    record(state, Fact(Kind.REPEATED, event.ended, node, number, event.worker, event.started, due))
    if due > event.ended:
        commands.append(SetTimer(due, TimerKind.RETRY, attempt_id(node, number + 1)))


def hold(state: State, node: int, number: int, event: Finished) -> None:
    """A task wants its node to wait for a signal."""
    record(state, Fact(Kind.HELD, event.ended, node, number, event.worker, event.started, detail=event.error))


def waits(state: State, attempt: int) -> bool:
    """Return whether a node still waits with that attempt for a signal."""
    node = attempt & NODE_MASK
    return node in state.held and attempt == attempt_id(node, state.number_of(node))


def signalled(state: State, event: Signalled, commands: list[Command]) -> None:  # noqa: ARG001  # as all that are called so
    """Somebody gave a node its value."""
    if waits(state, event.attempt):
        node = event.attempt & NODE_MASK
        record(state, Fact(Kind.SIGNALLED, event.at, node, state.number_of(node), detail="somebody gave its value"))


def rejected(state: State, event: Rejected, commands: list[Command]) -> None:  # noqa: ARG001
    """Somebody refused: the node has failed."""
    if waits(state, event.attempt):
        node = event.attempt & NODE_MASK
        record(state, Fact(Kind.FAILED, event.at, node, state.number_of(node), detail=event.reason))
        stop_on_failure(state, event.at, node)


def performed_again(state: State, event: Again, commands: list[Command]) -> None:  # noqa: ARG001
    """What a node waits for may have come: its task looks again."""
    if waits(state, event.attempt):
        node = event.attempt & NODE_MASK
        record(state, Fact(Kind.DUE, event.at, node, state.number_of(node)))


def stuck(state: State) -> bool:
    """Return whether nothing can happen any more until somebody gives a signal."""
    if not state.held or state.finished or state.stopped or state.asking or state.dirty:
        return False
    count = state.count
    return not (count(READY) or count(QUEUED) or count(RUNNING)) and count(WAITING) == len(state.held)


def _held(state: State, fact: Fact) -> None:
    leave_attempt(state, fact)
    move(state, fact.node, WAITING)
    state.held[fact.node] = fact.detail


def _signalled(state: State, fact: Fact) -> None:
    """A node has its value, as if it were one from before."""
    node = fact.node
    move(state, node, COMPLETED)
    del state.held[node]
    state.ended[node] = fact.at
    state.remaining -= 1
    state.detail[node] = fact.detail
    state.release(node)
    settle(state, node, True)


MOVES[Kind.HELD] = _held
MOVES[Kind.SIGNALLED] = _signalled
