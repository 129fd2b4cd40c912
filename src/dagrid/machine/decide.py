"""What follows from what happened: stimuli in, facts recorded, commands out. Pure: no clock, no thread, no user code.

`decide` takes any stimuli. What happens most often has shorter ways, which use the same moves: see `advance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dagrid.errors import TaskTimeoutError
from dagrid.machine import reopening as reopening  # the move of its fact
from dagrid.machine.applying import record
from dagrid.machine.asking import ask_rules, grown, numbers_of, rule_evaluated
from dagrid.machine.chains import board
from dagrid.machine.closing import end_if_done, halt, insist, skip_what_cannot_run, stop, stop_on_failure
from dagrid.machine.commands import Command, Perform, SetTimer
from dagrid.machine.dispatch import assign_free_slots, send_ahead, take_back, wake_idle
from dagrid.machine.events import (
    NODE_MASK,
    NUMBER_SHIFT,
    Again,
    Asked,
    Begun,
    CancelRequested,
    Fact,
    Finished,
    Kind,
    Outcome,
    Recalled,
    Rejected,
    Reopened,
    Room,
    RuleEvaluated,
    Signalled,
    Started,
    Stimulus,
    Stop,
    TimerDue,
    TimerKind,
    WorkerGone,
    WorkerJoined,
    attempt_id,
)
from dagrid.machine.pick import pick
from dagrid.machine.signals import hold, performed_again, rejected, repeat, signalled
from dagrid.machine.state import (
    MICRO,
    PLACE,
    QUEUED,
    RUNNING,
    UNFIT,
    WAITING,
    State,
    assign,
    complete,
    start,
    vacate,
)

_KNOWS_MEAN = 0.8


def decide(state: State, stimuli: Iterable[Stimulus], at: float) -> list[Command]:
    """Take what happened and return what is to be done.

    Args:
        state: changed in place; the facts are appended to its journal.
        stimuli: in the order in which they were received. Each is taken before the next one is asked for.
        at: the time of this step, in seconds of the run's clock.

    Returns:
        Commands, to be performed in this order once their facts are stored.
    """
    commands: list[Command] = []
    if state.finished:
        stimuli = list(stimuli)
        reopens = next((each for each in stimuli if type(each) is Reopened), None)
        if reopens is None:
            return commands  # who comes late is heard, and nothing follows
        stimuli.remove(reopens)
        _reopened(state, reopens, commands)
    answers = others = 0
    for stimulus in stimuli:
        _HANDLERS[type(stimulus)](state, stimulus, commands)
        if type(stimulus) is RuleEvaluated and stimulus.growth is None and not stimulus.error:
            answers += 1
        else:
            others += 1
    quiet = answers > 0 and not others
    if state.doomed or state.passed:
        skip_what_cannot_run(state, at)
    if state.rules:
        ask_rules(state, commands)
    if state.remaining <= len(state.shut) or state.stopped:
        quiet = not end_if_done(state, at, commands) and quiet
    if not (quiet or state.finished or state.stopped):
        if state.pushed:
            assign_free_slots(state, at, commands)
            send_ahead(state, at, commands)
        if state.idle:
            wake_idle(state, commands)
        if state.pushed:
            take_back(state, at, commands)
    return commands


def _begun(state: State, event: Begun, commands: list[Command]) -> None:
    for node, reason in event.omitted.items():
        record(state, Fact(Kind.OMITTED, event.at, node, detail=reason))
    for node, reason in event.given.items():
        record(state, Fact(Kind.REUSED, event.at, node, detail=reason))
    for node in event.lost:
        record(state, Fact(Kind.VALUE_LOST, event.at, node, state.number_of(node)))


def _reopened(state: State, event: Reopened, commands: list[Command]) -> None:
    record(state, Fact(Kind.REOPENED, event.at, numbers=tuple(event.nodes)))


def _joined(state: State, event: WorkerJoined, commands: list[Command]) -> None:
    slots, window = event.slots, event.window
    shape: tuple[int, ...] = (
        slots,
        window if window > slots else slots,
        1 if event.pulls else 0,
        1 if event.delegates else 0,
        int(event.ahead * MICRO) if event.ahead else 0,
    )
    if event.survives:
        shape += (1,)
    labels = tuple(sorted(event.labels.items())) if event.labels else ()
    if event.place:
        labels = ((PLACE, event.place), *labels)
    if event.unfit:
        labels = ((UNFIT, event.unfit), *labels)
    record(
        state, Fact(Kind.WORKER_JOINED, event.at, worker=event.worker, detail=event.name, numbers=shape, labels=labels)
    )


def _gone(state: State, event: WorkerGone, commands: list[Command]) -> None:
    queue = state.queues.get(event.worker)
    if queue is None:
        return
    held = [attempt for attempt in queue if state.current(attempt)]
    record(state, Fact(Kind.WORKER_GONE, event.at, worker=event.worker, detail=event.reason))
    for attempt in held:
        node, number = attempt & NODE_MASK, attempt >> NUMBER_SHIFT
        if attempt in state.halted:
            _left(state, attempt, event.at, commands, again=event.excused)
        elif state.status[node] == QUEUED:
            record(state, Fact(Kind.RECALLED, event.at, node, number, event.worker))
        else:
            _lost(state, node, event)


def _left(state: State, attempt: int, at: float, commands: list[Command], again: bool = False) -> None:
    """What was told to stop has left its worker: it ends as was said then.

    One that was cancelled runs once more if the run has been taken up since, or is about to be.
    """
    node, number = attempt & NODE_MASK, attempt >> NUMBER_SHIFT
    told, worker, started = state.halted[attempt], state.where[node], state.started[node]
    if told.numbers[0] == Kind.TIMED_OUT:
        retry = state.plan.retries.get(node)
        retryable = retry is not None and issubclass(TaskTimeoutError, retry.on)
        late = Finished(worker, attempt, Outcome.FAILED, started, at, error=told.detail, retryable=retryable)
        _failed(state, Kind.TIMED_OUT, node, number, late, commands)
    elif again or not state.stopped:
        losses = (state.losses.get(node, 0),)
        fact = Fact(Kind.REQUEUED, at, node, number, worker, started, detail=told.detail, numbers=losses)
        record(state, fact)
    else:
        record(state, Fact(Kind.CANCELLED, at, node, number, worker, started, detail=told.detail))


def _lost(state: State, node: int, event: WorkerGone) -> None:
    losses = 0 if event.excused else state.losses.get(node, 0) + 1
    kind = Kind.REQUEUED
    detail = event.reason
    if node in state.plan.fail_when_lost and not event.excused:
        kind = Kind.LOST
    elif losses >= state.plan.settings.max_losses and not _is_with_its_run(state, node):
        kind = Kind.FAILED
        detail = f"lost {losses} times: {event.reason}"
    number = state.number_of(node)
    record(
        state, Fact(kind, event.at, node, number, event.worker, state.started[node], detail=detail, numbers=(losses,))
    )
    if kind is not Kind.REQUEUED:
        stop_on_failure(state, event.at, node)


def _is_with_its_run(state: State, node: int) -> bool:
    """Whether a node is lost with the process of its run alone, as one is that waits for another workflow, by no fault."""
    return state.plan.requests[state.plan.groups[node]].place == "here"


def _asked(state: State, event: Asked, commands: list[Command]) -> None:
    worker = state.present.get(event.worker)
    if worker is None or worker.queue:
        return
    worker.woken = False
    node = -1 if state.stopped else pick(state, worker)
    if node < 0:
        state.idle[event.worker] = None
        return
    state.idle.pop(event.worker, None)
    attempt = attempt_id(node, state.number_of(node))
    assign(state, attempt, event.worker)
    commands.append(Perform(event.worker, [attempt]))
    _start(state, attempt, event.worker, event.at, commands)


def _started(state: State, event: Started, commands: list[Command]) -> None:
    worker = state.workers.get(event.worker)
    if worker is None or not state.current(event.attempt):
        return
    worker.heard = event.at
    worker.recalling = False
    if state.status[event.attempt & NODE_MASK] == QUEUED and event.attempt in worker.queue:
        _start(state, event.attempt, event.worker, event.at, commands)


def _start(state: State, attempt: int, worker: int, at: float, commands: list[Command]) -> None:
    start(state, attempt, worker, at)
    limit = state.plan.timeouts.get(attempt & NODE_MASK)
    if limit is not None:
        commands.append(SetTimer(at + limit, TimerKind.TIMEOUT, attempt))


def _finished(state: State, event: Finished, commands: list[Command]) -> None:
    worker = state.workers.get(event.worker)
    if worker is None or event.attempt not in worker.queue:
        return
    worker.heard = event.ended
    worker.recalling = False
    worker.woken = worker.pulls  # it will ask
    node, number = event.attempt & NODE_MASK, event.attempt >> NUMBER_SHIFT
    counts = state.accepts(event.attempt)
    if state.current(event.attempt) and state.status[node] == QUEUED and event.outcome != Outcome.CANCELLED:
        start(state, event.attempt, event.worker, event.started)
    rider = -1
    if counts and event.outcome == Outcome.COMPLETED:
        rider = state.riders.pop(event.attempt, -1)
        vacate(state, event.attempt, event.worker)
    else:
        record(state, Fact(Kind.FREED, event.ended, node, number, event.worker))
    if event.by >= 0 and (counts or event.attempt in state.halted):
        record(state, Fact(Kind.PERFORMED, event.ended, node, number, event.by))
    if event.attempt in state.halted:
        _left(state, event.attempt, event.ended, commands)
    if not counts:
        return
    if event.outcome == Outcome.COMPLETED:
        took = event.ended - event.started
        known = state.mean_duration
        state.mean_duration = took if known < 0 else _KNOWS_MEAN * known + (1 - _KNOWS_MEAN) * took
        complete(state, node, event.started, event.ended)
        if rider >= 0:
            board(state, rider, event.worker, event.ended)
        if event.note:
            record(state, Fact(Kind.NOTED, event.ended, node, number, event.worker, detail=event.note))
        if event.growth is not None:
            numbers = numbers_of(state, event.growth)
            grown(state, Fact(Kind.PATCHED, event.ended, node, numbers=numbers, growth=event.growth))
    elif event.outcome == Outcome.SKIPPED:
        record(state, Fact(Kind.PASSED, event.ended, node, number, event.worker, event.started, detail=event.error))
    elif event.outcome == Outcome.REPEATED:
        repeat(state, node, number, event, commands)
    elif event.outcome == Outcome.HELD:
        hold(state, node, number, event)
    elif event.outcome == Outcome.FAILED:
        _failed(state, Kind.FAILED, node, number, event, commands)
    elif event.outcome == Outcome.LOST:
        _lost(state, node, WorkerGone(event.worker, event.ended, event.error or "the worker ended"))
    else:
        fact = Fact(Kind.CANCELLED, event.ended, node, number, event.worker, event.started, detail=event.error)
        record(state, fact)


def _failed(state: State, kind: Kind, node: int, number: int, event: Finished, commands: list[Command]) -> None:
    retry = state.plan.retries.get(node)
    tries = state.failures.get(node, 0)
    if retry is not None and event.retryable and tries < retry.max_retries and not state.stopped:
        due = event.ended + retry.delay_before(tries + 1, event.draw)
        fact = Fact(Kind.RETRY, event.ended, node, number, event.worker, event.started, due, detail=event.error)
        record(state, fact)
        if due > event.ended:
            commands.append(SetTimer(due, TimerKind.RETRY, attempt_id(node, number + 1)))
        return
    if event.tolerated:
        record(state, Fact(Kind.TOLERATED, event.ended, node, number, event.worker))
    record(state, Fact(kind, event.ended, node, number, event.worker, event.started, detail=event.error))
    stop_on_failure(state, event.ended, node)


def _recalled(state: State, event: Recalled, commands: list[Command]) -> None:
    worker = state.present.get(event.worker)
    if worker is None:
        return
    worker.recalling = False
    for attempt in event.attempts:
        if attempt not in worker.queue:
            continue
        node = attempt & NODE_MASK
        if state.accepts(attempt) and state.status[node] == QUEUED:
            record(state, Fact(Kind.RECALLED, event.at, node, attempt >> NUMBER_SHIFT, event.worker))
        else:
            record(state, Fact(Kind.FREED, event.at, node, attempt >> NUMBER_SHIFT, event.worker))
        if attempt in state.halted:
            _left(state, attempt, event.at, commands)


def _room(state: State, event: Room, commands: list[Command]) -> None:
    worker = state.present.get(event.worker)
    if worker is not None:
        worker.room = event.slots


def _timer(state: State, event: TimerDue, commands: list[Command]) -> None:
    node = event.subject & NODE_MASK
    if event.kind == TimerKind.TIMEOUT and state.current(event.subject) and state.status[node] == RUNNING:
        limit = state.plan.timeouts.get(node, 0.0)
        halt(state, event.subject, Kind.TIMED_OUT, event.at, f"timeout of {limit:g} s", commands)
    elif event.kind == TimerKind.RUN and state.outcome is None and not state.stopped:
        reason = f"timeout of {state.plan.settings.timeout or 0.0:g} s"
        record(state, Fact(Kind.STOPPED, event.at, number=Stop.TIMEOUT, detail=reason))
        stop(state, event.at, reason, commands)
    elif event.kind == TimerKind.RETRY and state.status[node] == WAITING and node in state.due:
        record(state, Fact(Kind.DUE, event.at, node, state.number_of(node)))


def _cancel(state: State, event: CancelRequested, commands: list[Command]) -> None:
    again = bool(state.cancelled)
    if again:
        insist(state, commands)
    if not (state.stopped and again) or state.shut:
        record(state, Fact(Kind.STOPPED, event.at, number=Stop.CANCELLED, detail=event.reason))
        stop(state, event.at, event.reason, commands, handlers=again)


_HANDLERS: dict[type, Callable[[State, Any, list[Command]], None]] = {
    Begun: _begun,
    Reopened: _reopened,
    WorkerJoined: _joined,
    WorkerGone: _gone,
    Asked: _asked,
    Started: _started,
    Finished: _finished,
    Recalled: _recalled,
    Room: _room,
    TimerDue: _timer,
    CancelRequested: _cancel,
    Signalled: signalled,
    Rejected: rejected,
    Again: performed_again,
    RuleEvaluated: rule_evaluated,
}
