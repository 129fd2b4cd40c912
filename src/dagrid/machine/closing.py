"""How a run comes to its end: it is stopped, what cannot run is skipped, the handlers run, and how well it went. Pure.

When all other nodes have ended, a fact says how (`OUTCOME`), and the handlers of that outcome may start, also in a run that was
stopped. When these have ended too, those that run in any case may (`LEAVING`).
"""

from __future__ import annotations

from enum import IntEnum

from dagrid.machine.applying import MOVES, record
from dagrid.machine.chains import stop_riders
from dagrid.machine.commands import Cancel, Command, Finish
from dagrid.machine.events import NODE_MASK, Fact, Kind, Stop, attempt_id
from dagrid.machine.state import (
    CANCELLED,
    COMPLETED,
    FAILURES,
    PENDING,
    QUEUED,
    RUNNING,
    WAITING,
    Ending,
    State,
    goes_on,
    make_ready,
    refresh,
    skip,
)

EXIT = "exit"
STOPPED = "a node failed and on_failure is 'stop'"


class Verdict(IntEnum):
    """How a run ended."""

    SUCCEEDED = 0
    PARTIALLY_SUCCEEDED = 1
    FAILED = 2
    ABORTED = 3


def failed_nodes(state: State) -> list[int]:
    """Return the nodes that failed, but for those whose failure does not count."""
    status = state.status
    if status.count(COMPLETED) == len(status) or not any(map(status.count, FAILURES)):
        return []
    forgiven = {node for node, after in state.plan.goes_on.items() if "success" in after}
    return [node for node, code in enumerate(status) if code in FAILURES and node not in forgiven]


def verdict(state: State) -> Verdict:
    """Return how a run ended whose nodes have all ended, or all but its handlers."""
    if state.outcome is None:
        return _verdict(state, failed_nodes(state), state.unapplied)
    settled = Verdict(state.outcome.verdict)
    if settled > Verdict.PARTIALLY_SUCCEEDED:
        return settled
    if state.cancelled:
        return Verdict.ABORTED
    failed = [node for node in failed_nodes(state) if node in state.plan.handlers]
    cancelled = any(state.status[node] == CANCELLED for node in state.plan.handlers)
    if cancelled or not all(goes_on(state, node) for node in failed):
        return Verdict.FAILED
    return Verdict.PARTIALLY_SUCCEEDED if failed else settled


def _verdict(state: State, failed: list[int], left: tuple[int, ...]) -> Verdict:
    if state.cancelled:
        return Verdict.ABORTED
    if state.error or state.expired:
        return Verdict.FAILED
    if not (failed or left or state.count(CANCELLED)):
        return Verdict.SUCCEEDED
    if left or state.count(CANCELLED) or not all(goes_on(state, node) for node in failed):
        some = state.plan.settings.on_failure == "continue" and state.count(COMPLETED)
        return Verdict.PARTIALLY_SUCCEEDED if some else Verdict.FAILED
    return Verdict.PARTIALLY_SUCCEEDED


# --- stopping ---------------------------------------------------------------------------------------------------------------


def stop_on_failure(state: State, at: float, node: int) -> None:
    """A node has failed: nothing new starts any more, if that is what follows from it."""
    if state.plan.settings.on_failure != "stop" or state.stopped:
        return
    if not goes_on(state, node) and node not in state.plan.handlers:
        record(state, Fact(Kind.STOPPED, at, number=Stop.FAILURE, detail=STOPPED))


def fail_run(state: State, at: float, error: str, commands: list[Command]) -> None:
    """The run as a whole has failed."""
    record(state, Fact(Kind.STOPPED, at, number=Stop.ERROR, detail=error))
    stop(state, at, error, commands)


def stop(state: State, at: float, reason: str, commands: list[Command], handlers: bool = False) -> None:
    """What runs is told to stop, all else that has not ended is cancelled; handlers before their turn only if it is said."""
    stop_riders(state, commands)
    spared = () if handlers else state.shut.copy()
    for node, status in enumerate(bytes(state.status)):
        if status in (QUEUED, RUNNING):
            halt(state, attempt_id(node, state.number_of(node)), Kind.CANCELLED, at, reason, commands)
        elif status <= WAITING and node not in spared:
            record(state, Fact(Kind.CANCELLED, at, node, state.number_of(node), detail=reason))
    state.doomed.clear()
    state.passed.clear()


def halt(state: State, attempt: int, kind: Kind, at: float, reason: str, commands: list[Command]) -> None:
    """Have an attempt stopped that is with a worker. It ends, as `kind` says, when it has left that."""
    if attempt in state.halted:
        return
    node = attempt & NODE_MASK
    worker = state.where[node]
    fact = Fact(
        Kind.HALTED, at, node, state.number_of(node), worker, state.started[node], detail=reason, numbers=(kind,)
    )
    record(state, fact)
    commands.append(Cancel(worker, attempt))


def insist(state: State, commands: list[Command]) -> None:
    """Tell those once more that were told to stop and have not gone: a place may pass that on to what it performs."""
    commands.extend([Cancel(state.where[attempt & NODE_MASK], attempt) for attempt in state.halted])


def skip_what_cannot_run(state: State, at: float) -> None:
    """Skip the nodes that have nothing to do, and those that wait for something that they will not get."""
    while state.doomed or state.passed:
        while state.passed:
            node = state.passed.pop()
            if state.status[node] == PENDING:
                skip(state, node, -1, at)
        while state.doomed:
            node, cause = state.doomed.pop()
            if state.status[node] == PENDING:
                skip(state, node, cause, at)


# --- the end ----------------------------------------------------------------------------------------------------------------


def end_if_done(state: State, at: float, commands: list[Command]) -> bool:
    """Open the handlers whose turn has come; end the run when all has ended. Return whether there are nodes to be given out."""
    opened = False
    stopping = len(state.shut) + len(state.halted)
    if state.stopped and state.remaining > stopping and not (state.cancelled or state.error or state.expired):
        stop(state, at, STOPPED, commands)
    while state.shut and state.remaining == len(state.shut) and (state.stopped or not state.asking):
        opened = True
        _open_next(state, at)
        skip_what_cannot_run(state, at)
    if state.remaining or (not state.stopped and state.asking):
        return opened
    left = _unapplied(state) if state.outcome is None else state.unapplied
    record(state, Fact(Kind.RUN_ENDED, at, numbers=left, detail=state.error or state.cancelled or state.expired))
    commands.append(Finish())
    return False


def _unapplied(state: State) -> tuple[int, ...]:
    """Return the rules that never became applicable and should have."""
    return tuple(sorted(number for number, rule in state.rules.items() if not (state.stopped or rule.optional)))


def _open_next(state: State, at: float) -> None:
    if state.outcome is not None:
        record(state, Fact(Kind.LEAVING, at))
        return
    failed = failed_nodes(state)
    left = _unapplied(state)
    found = _verdict(state, failed, left)
    reason = _reason(state, failed, left)
    record(state, Fact(Kind.OUTCOME, at, number=found, detail=reason, numbers=tuple(failed)))
    for node in sorted(state.shut):
        word = state.plan.handlers[node]
        if word != EXIT:
            record(state, Fact(Kind.OMITTED, at, node, detail=f"the run {_HOW[found]}, and it handles {_WHAT[word]}"))


def _reason(state: State, failed: list[int], left: tuple[int, ...]) -> str:
    """Say why a run did not succeed; empty if it did."""
    said = state.cancelled or state.error or state.expired
    if said:
        return said
    counts = sorted(failed, key=lambda node: goes_on(state, node))
    if counts:
        detail = state.detail.get(counts[0], "")
        return f"{state.plan.names[counts[0]]!r} failed{': ' if detail else ''}{detail}"
    return f"{len(left)} rules never became applicable" if left else ""


_HOW = {
    Verdict.SUCCEEDED: "succeeded",
    Verdict.PARTIALLY_SUCCEEDED: "succeeded in part",
    Verdict.FAILED: "failed",
    Verdict.ABORTED: "was cancelled",
}
_WHAT = {"success": "a success", "failure": "a failure", "cancel": "a cancel"}
_HANDLES = {
    Verdict.SUCCEEDED: "success",
    Verdict.PARTIALLY_SUCCEEDED: "success",
    Verdict.FAILED: "failure",
    Verdict.ABORTED: "cancel",
}


# --- what the facts do ------------------------------------------------------------------------------------------------------


def _outcome(state: State, fact: Fact) -> None:
    """All but the handlers has ended: no rule is asked any more, and the handlers run though the run may have been stopped."""
    state.outcome = Ending(fact.number, fact.numbers, fact.detail)
    state.unapplied = _unapplied(state)
    state.stopped = False
    state.asking = 0
    refresh(state)
    _open(state, _HANDLES[Verdict(fact.number)])


def _leaving(state: State, fact: Fact) -> None:  # noqa: ARG001  # all moves have one signature
    """The handlers of the outcome have ended, or were cancelled."""
    state.stopped = False
    _open(state, EXIT)


def _open(state: State, word: str) -> None:
    for node in sorted(state.shut):
        if state.plan.handlers[node] == word:
            state.shut.discard(node)
            state.waiting[node] = 0
            make_ready(state, node)


MOVES[Kind.OUTCOME] = _outcome
MOVES[Kind.LEAVING] = _leaving
