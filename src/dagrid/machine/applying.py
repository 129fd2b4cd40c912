"""Facts applied to the state of a run: the only way in which it changes. Pure: what is decided, and why, is not known here.

`record` takes a new fact, `apply` one that was recorded before. Each kind has a function that makes its moves.
"""

from __future__ import annotations

from collections.abc import Callable

from dagrid.errors import InternalError
from dagrid.machine.events import UNSTARTED, Fact, Kind, Stop, attempt_id
from dagrid.machine.state import (
    COMPLETED,
    ENDED_BY,
    MICRO,
    PENDING,
    PLACE,
    READY,
    SKIPPED,
    UNFIT,
    WAITING,
    State,
    Worker,
    assign,
    complete,
    dooms,
    make_ready,
    move,
    refresh,
    satisfies,
    settle,
    skip,
    start,
    vacate,
)


def record(state: State, fact: Fact) -> None:
    """Write a fact into the journal and apply it."""
    state.journal.append(fact)
    MOVES[fact.kind](state, fact)


def apply(state: State, fact: Fact) -> None:
    """Apply a fact that was recorded before, as a restart does; the journal gets the same entries again.

    What is left in `doomed` and `passed` has mostly been dealt with by later facts; `decide` passes over it.
    """
    attempt = attempt_id(fact.node, fact.number) if fact.node >= 0 else -1
    if fact.kind is Kind.STARTED:
        if state.status[fact.node] == READY:
            assign(state, attempt, fact.worker)
        start(state, attempt, fact.worker, fact.at)
    elif fact.kind is Kind.COMPLETED:
        vacate(state, attempt, fact.worker)
        complete(state, fact.node, fact.started, fact.at)
    elif fact.kind is Kind.SKIPPED:
        skip(state, fact.node, fact.cause, fact.at)
    else:
        record(state, fact)


def _assigned(state: State, fact: Fact) -> None:
    assign(state, attempt_id(fact.node, fact.number), fact.worker)


def _ended(state: State, fact: Fact) -> None:
    node = fact.node
    move(state, node, ENDED_BY[fact.kind])
    state.started[node] = fact.started
    state.ended[node] = fact.at
    state.remaining -= 1
    if fact.detail:
        state.detail[node] = fact.detail
    if fact.numbers:
        state.losses[node] = fact.numbers[0]
    state.release(node)
    state.shut.discard(node)
    state.held.pop(node, None)
    state.due.pop(node, None)
    state.halted.pop(attempt_id(node, fact.number), None)
    settle(state, node, False)


def _set_aside(state: State, fact: Fact) -> None:
    """A node is not part of this run, or its task wanted to be skipped: those who need it go on, or are doomed."""
    node = fact.node
    move(state, node, SKIPPED)
    if fact.kind is Kind.PASSED:
        state.started[node] = fact.started
        state.cause[node] = node
    state.ended[node] = fact.at
    state.remaining -= 1
    state.detail[node] = fact.detail
    state.release(node)
    state.shut.discard(node)
    settle(state, node, fact.kind is Kind.OMITTED)


def _reused(state: State, fact: Fact) -> None:
    """A node has its value from before: successors that wait for nothing else become ready."""
    node = fact.node
    move(state, node, COMPLETED)
    state.ended[node] = fact.at
    state.remaining -= 1
    state.detail[node] = fact.detail
    state.release(node)
    state.shut.discard(node)
    settle(state, node, True)


def _value_lost(state: State, fact: Fact) -> None:
    """A completed node has to run again, and who has not started waits for it again."""
    node = fact.node
    state.settle_record(node)
    move(state, node, PENDING)
    state.remade.add(node)
    state.remaining += 1
    state.started[node] = UNSTARTED
    state.numbers[node] = fact.number + 1
    state.waiting[node] = sum(not satisfies(state, each, node) for each in state.plan.predecessors[node])
    for after in state.plan.successors[node]:
        if state.status[after] in (READY, WAITING) and after not in state.held:
            move(state, after, PENDING)
            state.due.pop(after, None)
            state.waiting[after] = 0
        if state.status[after] == PENDING:
            state.waiting[after] += 1
    if not state.waiting[node]:
        make_ready(state, node)


def _performed(state: State, fact: Fact) -> None:
    state.performers[fact.node] = fact.worker


def _tolerated(state: State, fact: Fact) -> None:
    state.tolerated.add(fact.node)


def _noted(state: State, fact: Fact) -> None:
    state.detail[fact.node] = fact.detail


def _stopped(state: State, fact: Fact) -> None:
    """Nothing new starts any more."""
    state.stopped = True
    if fact.number == Stop.CANCELLED:
        state.cancelled = state.cancelled or fact.detail
    elif fact.number == Stop.ERROR:
        state.error = fact.detail
    elif fact.number == Stop.TIMEOUT:
        state.expired = fact.detail
    refresh(state)


def leave_attempt(state: State, fact: Fact) -> None:
    """An attempt is over with which its node has not ended."""
    node = fact.node
    state.attempts_before.setdefault(node, []).append(fact)
    state.started[node] = UNSTARTED
    state.numbers[node] = fact.number + 1
    state.halted.pop(attempt_id(node, fact.number), None)


def _again(state: State, fact: Fact) -> None:
    """An attempt failed, was lost, or wants another one, and the node runs again, at once or when `due`."""
    node = fact.node
    leave_attempt(state, fact)
    if fact.kind is Kind.REQUEUED:
        state.losses[node] = fact.numbers[0]
    else:
        counter = state.failures if fact.kind is Kind.RETRY else state.repeats
        counter[node] = counter.get(node, 0) + 1
    if fact.kind is Kind.REPEATED:
        state.rounds[node] = state.rounds.get(node, 0) + 1
    if (
        fact.due > fact.at and fact.kind is not Kind.REQUEUED
    ):  # which has none, and may be from before this clock's zero
        move(state, node, WAITING)
        state.due[node] = fact.due
    else:
        make_ready(state, node)


def _recalled(state: State, fact: Fact) -> None:
    vacate(state, attempt_id(fact.node, fact.number), fact.worker)
    make_ready(state, fact.node)


def _freed(state: State, fact: Fact) -> None:
    vacate(state, attempt_id(fact.node, fact.number), fact.worker)


def _halted(state: State, fact: Fact) -> None:
    state.halted[attempt_id(fact.node, fact.number)] = fact


def _due(state: State, fact: Fact) -> None:
    state.due.pop(fact.node, None)
    state.held.pop(fact.node, None)
    make_ready(state, fact.node)


def _worker_joined(state: State, fact: Fact) -> None:
    slots, window, pulls, delegates, ahead, *survives = fact.numbers
    labels = dict(fact.labels) if fact.labels else {}
    place = labels.pop(PLACE, "") if labels else ""
    unfit = labels.pop(UNFIT, "") if labels else ""
    worker = Worker(
        fact.worker,
        fact.detail,
        slots,
        window,
        pulls == 1,
        labels,
        place,
        delegates == 1,
        ahead / MICRO,
        unfit,
        bool(survives),
        heard=fact.at,
    )
    state.workers[fact.worker] = state.present[fact.worker] = worker
    state.queues[fact.worker] = worker.queue
    if worker.pulls:
        state.idle[fact.worker] = None
    else:
        state.pushed += 1


def _worker_gone(state: State, fact: Fact) -> None:
    for attempt in list(state.queues[fact.worker]):
        vacate(state, attempt, fact.worker)
    state.pushed -= not state.present.pop(fact.worker).pulls
    state.queues.pop(fact.worker, None)
    state.idle.pop(fact.worker, None)


def _patched(state: State, fact: Fact) -> None:
    """The graph grows by what has been checked."""
    growth = fact.growth
    if growth is None:
        raise InternalError("A patch was recorded without what it appends.")
    plan = state.plan
    plan.grow(growth.nodes)
    state.drop_rule(fact.cause)
    if growth.relies:
        state.sealed |= growth.relies
    if growth.taken:
        state.grew.update(growth.taken)
    if fact.node >= 0:
        state.grew.add(fact.node)
    if len(state.ready) < len(plan.requests):
        state.ready.extend([] for _ in range(len(state.ready), len(plan.requests)))
    added, status = fact.numbers, state.status
    count = len(added)
    status.extend(bytes(count))
    state.started.extend([UNSTARTED] * count)
    state.ended.extend([0.0] * count)
    state.where.extend([-1] * count)
    state.remaining += count
    if plan.adds:
        for node in added:
            state.may_add(plan.adds.get(node, frozenset()), 1)
    for rule in growth.rules:
        state.add_rule(*rule)
    for node in added:
        missing = 0
        for before in plan.predecessors[node]:
            if status[before] != COMPLETED:
                missing += not satisfies(state, before, node)
                if dooms(state, before, node):
                    state.doomed.append((node, before))
                    break
        state.waiting.append(missing)
        if not missing:
            make_ready(state, node)
    state.fast = state.fast and plan.uniform


def _run_ended(state: State, fact: Fact) -> None:
    state.finished = True
    state.finished_at = fact.at
    state.unapplied = fact.numbers
    state.fast = False


# Other rooms add theirs: `closing`, `reopening`, `signals`.
MOVES: dict[Kind, Callable[[State, Fact], None]] = {
    Kind.ASSIGNED: _assigned,
    Kind.FAILED: _ended,
    Kind.TIMED_OUT: _ended,
    Kind.CANCELLED: _ended,
    Kind.LOST: _ended,
    Kind.RECALLED: _recalled,
    Kind.RETRY: _again,
    Kind.REQUEUED: _again,
    Kind.REPEATED: _again,
    Kind.DUE: _due,
    Kind.FREED: _freed,
    Kind.HALTED: _halted,
    Kind.WORKER_JOINED: _worker_joined,
    Kind.WORKER_GONE: _worker_gone,
    Kind.PATCHED: _patched,
    Kind.RUN_ENDED: _run_ended,
    Kind.REUSED: _reused,
    Kind.OMITTED: _set_aside,
    Kind.PASSED: _set_aside,
    Kind.NOTED: _noted,
    Kind.PERFORMED: _performed,
    Kind.TOLERATED: _tolerated,
    Kind.STOPPED: _stopped,
    Kind.VALUE_LOST: _value_lost,
}
