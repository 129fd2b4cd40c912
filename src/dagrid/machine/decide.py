"""What follows from what happened: stimuli in, facts recorded, commands out. Pure: no clock, no thread, no user code.

`decide` takes any stimuli. What happens most often has shorter ways, which use the same moves: see `advance`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from heapq import heappop
from typing import Any

from dagrid.errors import PlanError, RunError, TaskTimeoutError
from dagrid.machine import reopening as reopening  # the move of its fact
from dagrid.machine.applying import record
from dagrid.machine.chains import along, board
from dagrid.machine.closing import end_if_done, fail_run, skip_what_cannot_run, stop, stop_on_failure
from dagrid.machine.commands import Cancel, Command, Evaluate, Perform, Recall, SetTimer, Wake
from dagrid.machine.events import (
    NODE_MASK,
    NUMBER_SHIFT,
    Asked,
    Begun,
    CancelRequested,
    Fact,
    Finished,
    Growth,
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
from dagrid.machine.pick import fits_now, has_room, pick
from dagrid.machine.plan import PLAIN, Request
from dagrid.machine.signals import hold, rejected, repeat, signalled
from dagrid.machine.state import (
    COMPLETED,
    MICRO,
    NOTHING_READ,
    PLACE,
    QUEUED,
    READY,
    RUNNING,
    WAITING,
    State,
    Worker,
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
        _ask_rules(state, commands)
    if state.remaining <= len(state.shut) or state.stopped:
        quiet = not end_if_done(state, at, commands) and quiet
    if not (quiet or state.finished or state.stopped):
        if state.pushed:
            _assign_free_slots(state, at, commands)
            _send_ahead(state, at, commands)
        if state.idle:
            _wake_idle(state, commands)
        if state.pushed:
            _take_back(state, at, commands)
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
    shape = (
        event.slots,
        max(event.window, event.slots),
        int(event.pulls),
        int(event.delegates),
        int(event.ahead * MICRO),
    )
    labels = tuple(sorted(event.labels.items())) if event.labels else ()
    if event.place:
        labels = ((PLACE, event.place), *labels)
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
        if state.status[node] == QUEUED:
            record(state, Fact(Kind.RECALLED, event.at, node, number, event.worker))
        else:
            _lost(state, node, event)


def _lost(state: State, node: int, event: WorkerGone) -> None:
    losses = state.losses.get(node, 0) + 1
    kind = Kind.REQUEUED
    detail = event.reason
    if node in state.plan.fail_when_lost:
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
    counts = state.current(event.attempt)
    if counts and state.status[node] == QUEUED and event.outcome != Outcome.CANCELLED:
        start(state, event.attempt, event.worker, event.started)
    rider = -1
    if counts and event.outcome == Outcome.COMPLETED:
        rider = state.riders.pop(event.attempt, -1)
        vacate(state, event.attempt, event.worker)
    else:
        record(state, Fact(Kind.FREED, event.ended, node, number, event.worker))
    if not counts:
        return
    if event.by >= 0:
        record(state, Fact(Kind.PERFORMED, event.ended, node, number, event.by))
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
            numbers = _numbers(state, event.growth)
            _grow(state, Fact(Kind.PATCHED, event.ended, node, numbers=numbers, growth=event.growth))
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


def _failed(
    state: State,
    kind: Kind,
    node: int,
    number: int,
    event: Finished,
    commands: list[Command],
    retryable: bool | None = None,
) -> None:
    retry = state.plan.retries.get(node)
    tries = state.failures.get(node, 0)
    again = event.retryable if retryable is None else retryable
    if retry is not None and again and tries < retry.max_retries and not state.stopped:
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
        if state.current(attempt) and state.status[node] == QUEUED:
            record(state, Fact(Kind.RECALLED, event.at, node, attempt >> NUMBER_SHIFT, event.worker))
        else:
            record(state, Fact(Kind.FREED, event.at, node, attempt >> NUMBER_SHIFT, event.worker))


def _room(state: State, event: Room, commands: list[Command]) -> None:
    worker = state.present.get(event.worker)
    if worker is not None:
        worker.room = event.slots


def _timer(state: State, event: TimerDue, commands: list[Command]) -> None:
    node = event.subject & NODE_MASK
    if event.kind == TimerKind.TIMEOUT and state.current(event.subject) and state.status[node] == RUNNING:
        worker = state.where[node]
        limit = state.plan.timeouts.get(node, 0.0)
        late = Finished(
            worker, event.subject, Outcome.FAILED, state.started[node], event.at, error=f"timeout of {limit:g} s"
        )
        commands.append(Cancel(worker, event.subject))
        retry = state.plan.retries.get(node)
        retryable = retry is not None and issubclass(TaskTimeoutError, retry.on)
        _failed(state, Kind.TIMED_OUT, node, event.subject >> NUMBER_SHIFT, late, commands, retryable)
    elif event.kind == TimerKind.RUN and state.outcome is None and not state.stopped:
        reason = f"timeout of {state.plan.settings.timeout or 0.0:g} s"
        record(state, Fact(Kind.STOPPED, event.at, number=Stop.TIMEOUT, detail=reason))
        stop(state, event.at, reason, commands)
    elif event.kind == TimerKind.RETRY and state.status[node] == WAITING and node in state.due:
        record(state, Fact(Kind.DUE, event.at, node, state.number_of(node)))


def _cancel(state: State, event: CancelRequested, commands: list[Command]) -> None:
    if not (state.stopped and state.cancelled):
        again = bool(state.cancelled)
        record(state, Fact(Kind.STOPPED, event.at, number=Stop.CANCELLED, detail=event.reason))
        stop(state, event.at, event.reason, commands, handlers=again)


def _rule_evaluated(state: State, event: RuleEvaluated, commands: list[Command]) -> None:
    rule = state.rules.get(event.rule)
    if rule is None or state.stopped or state.outcome is not None:
        return
    rule.asked = False
    state.asking -= 1
    rule.dirty = outdated(state, event)
    if event.error:
        fail_run(state, event.at, event.error, commands)
    elif rule.dirty:
        state.dirty.append(event.rule)
    elif event.growth is not None:
        _apply_rule(state, event, event.growth, commands)
    else:
        rule.reads = event.reads
        for node, seen in event.reads.items():
            state.watchers.setdefault(node, set()).add(event.rule)
            if seen >= 0:
                state.starts.add(node)
        for topic in event.looked:
            state.topics.setdefault(topic, set()).add(event.rule)


def outdated(state: State, event: RuleEvaluated) -> bool:
    """Whether a rule would see something else if it looked again."""
    for node, seen in event.reads.items():
        if _differs(seen, state.status[node]):
            return True
    for topic, seen in event.looked.items():  # noqa: SIM110  # a generator costs more than all else here
        if _standing(state, topic, event.rule) != seen:
            return True
    return False


def _differs(seen: int, now: int) -> bool:
    """Whether a node is not as a rule saw it; a negative number means that it saw that it had not ended."""
    return now >= COMPLETED if seen < 0 else now != seen


def _standing(state: State, topic: tuple[str, str], rule: int) -> int:
    """Return what a rule would see now if it looked again."""
    what, name = topic
    if what == "name":
        return name in state.plan.index
    if what == "kind":
        return len(state.plan.kinds.get(name, ()))
    return state.closed(name, rule) if what == "closed" else len(state.plan)


def _apply_rule(state: State, event: RuleEvaluated, growth: Growth, commands: list[Command]) -> None:
    try:
        state.plan.check_growth(growth.nodes)
    except (PlanError, RunError) as error:
        fail_run(state, event.at, str(error), commands)
        return
    before = state.rules[event.rule]
    _grow(state, patched(state, event, growth))
    if state.topics:
        _touch_closed(state, before.adds, growth.relies)


def patched(state: State, event: RuleEvaluated, growth: Growth) -> Fact:
    """Return the fact that a rule was applied."""
    return Fact(Kind.PATCHED, event.at, cause=event.rule, numbers=_numbers(state, growth), growth=growth)


def _numbers(state: State, growth: Growth) -> tuple[int, ...]:
    first = len(state.status)
    if len(growth.nodes) == 1:
        return (first,)
    return tuple(range(first, first + len(growth.nodes)))


def _grow(state: State, fact: Fact) -> None:
    """Record a patch that fits, and mark the rules that looked at what it changes."""
    growth = fact.growth
    assert growth is not None
    record(state, fact)
    if not state.topics or not growth.nodes:
        return
    touched: set[tuple[str, str]] = {("all", "")}
    for node in growth.nodes:
        touched.add(("name", node.id))
        if node.kind is not None:
            touched.add(("kind", node.kind))
    for topic in touched & state.topics.keys():
        for number in state.topics.pop(topic):
            _mark(state, number)


def _touch_closed(state: State, adds: Collection[str] | None, relies: AbstractSet[str] = frozenset()) -> None:
    """One who might add nodes of some kinds (None: any) is gone: mark the rules that look whether a kind is closed, and it is."""
    undeclared = state.adders.get(None, 0)
    if undeclared > 1:
        return
    left = {name for what, name in state.topics if what == "closed"} if adds is None else set(adds)
    for kind in left | relies:
        if kind not in state.sealed and state.adders.get(kind, 0) + undeclared > 1:
            continue
        for number in state.topics.get(("closed", kind), ()):
            if state.closed(kind, number):
                _mark(state, number)


def _mark(state: State, number: int) -> None:
    rule = state.rules.get(number)
    if (
        rule is not None and not rule.dirty and not rule.asked
    ):  # an answer is compared with how things stand when it comes
        rule.dirty = True
        state.dirty.append(number)


def _ask_rules(state: State, commands: list[Command]) -> None:
    """Ask each rule again whose last answer depended on something that has changed since."""
    if state.stopped or state.outcome is not None:
        return
    if state.watchers or state.topics:
        _mark_watchers(state)
    state.scanned = len(state.journal)
    for number in state.dirty:
        rule = state.rules.get(number)
        if rule is not None and not rule.asked:
            rule.dirty, rule.asked, rule.reads = False, True, NOTHING_READ
            state.asking += 1
            commands.append(Evaluate(number))
    state.dirty.clear()


def _mark_watchers(state: State) -> None:
    """Mark the rules that looked at a node of which the journal has something new."""
    watchers = state.watchers
    for entry in state.journal[state.scanned :]:
        if isinstance(entry, int):
            node = ~entry if entry < 0 else entry & NODE_MASK
        else:
            node = entry.node
        if node not in watchers and node not in state.plan.adds:
            continue
        now = state.status[node]
        for number in watchers.get(node, ()):
            rule = state.rules.get(number)
            if rule is not None and node in rule.reads and _differs(rule.reads[node], now):
                _mark(state, number)
        if now >= COMPLETED:
            watchers.pop(node, None)
            state.starts.discard(node)
            if node in state.plan.adds and state.topics:
                _touch_closed(state, state.plan.adds[node])


def _assign_free_slots(state: State, at: float, commands: list[Command]) -> None:
    """Give each free slot of a pushed worker the best node that fits it, one at a time so that the workers share."""
    if not has_room(state):
        return
    free = [worker for worker in state.present.values() if not worker.pulls and worker.free > 0]
    free.sort(key=lambda worker: len(worker.queue) / worker.slots)
    given: dict[int, list[int]] = {}
    while free:
        still_free = []
        for worker in free:
            node = pick(state, worker)
            if node < 0:
                continue
            given.setdefault(worker.number, []).extend(_handed(state, node, worker, at))
            if worker.free > 0:
                still_free.append(worker)
        free = still_free
    commands.extend(Perform(number, attempts) for number, attempts in given.items())


def _send_ahead(state: State, at: float, commands: list[Command]) -> None:
    """Send short nodes ahead to busy workers, so that they find their next work without asking.

    How many follows from the mean duration seen so far: never more than `batch` seconds of work, and none before it is known.
    """
    if not (state.heap or len(state.ready) > 1) or not _is_short(state):
        return
    workers = [
        worker
        for worker in state.present.values()
        if not (worker.pulls or worker.delegates) and worker.slots < min(worker.window, worker.room)
    ]
    for place in dict.fromkeys(worker.place for worker in workers):
        _send_ahead_to(state, [worker for worker in workers if worker.place == place], place, at, commands)


def _send_ahead_to(state: State, workers: list[Worker], place: str, at: float, commands: list[Command]) -> None:
    """Send nodes ahead that ask for nothing but the place of these workers."""
    requests = state.plan.requests
    wanted = Request(place=place) if place else PLAIN
    heap = next((heap for group, heap in enumerate(state.ready) if heap and requests[group] == wanted), None)
    if heap is None:
        return
    share = len(heap) // len(workers) + 1
    alone = min(
        (other[0] for group, other in enumerate(state.ready) if other and requests[group].sequential), default=0
    )
    for worker in workers:
        target = min(worker.window, worker.room, _ahead(state, worker), len(worker.queue) + share)
        if len(worker.queue) * 2 > target:
            continue
        attempts = []
        while len(worker.queue) < target and (not alone or (heap and heap[0] < alone)):
            node = _next_ready(state, heap)
            if node < 0:
                break
            attempts += _handed(state, node, worker, at)
        if attempts:
            commands.append(Perform(worker.number, attempts))


def _is_short(state: State) -> bool:
    """Whether nodes may be sent to workers that are not idle, as far as it is known by now how long they take."""
    return state.plan.settings.max_concurrency is None and not state.sequential and state.mean_duration >= 0


def _ahead(state: State, worker: Worker) -> int:
    """Return how many nodes may be with a worker that is not idle, by the time that they take."""
    return int((worker.ahead or state.plan.settings.batch) / max(state.mean_duration, 1e-6))


def _next_ready(state: State, heap: list[int]) -> int:
    while heap:
        node = heappop(heap) & NODE_MASK
        if state.status[node] == READY:
            return node
    return -1


def _handed(state: State, node: int, worker: Worker, at: float) -> list[int]:
    """Assign a node and return its attempt, with those that ride on it."""
    number = state.number_of(node)
    record(state, Fact(Kind.ASSIGNED, at, node, number, worker.number))
    attempt = attempt_id(node, number)
    if worker.place or not (state.chains and worker.window > worker.slots and _is_short(state)):
        return [attempt]
    most = min(worker.window, worker.room, _ahead(state, worker))
    return [attempt, *along(state, attempt, most - len(worker.queue))]


def _wake_idle(state: State, commands: list[Command]) -> None:
    """Wake as many sleeping workers as there is work for; each asks for its node when it is awake."""
    waiting = sum(map(len, state.ready))
    if waiting:
        waiting -= sum([worker.woken for worker in state.present.values()])
    for number in list(state.idle):
        if waiting <= 0 or not has_room(state):
            return
        worker = state.workers[number]
        if not (state.fast and not worker.place) and not fits_now(state, worker):
            continue
        del state.idle[number]
        worker.woken = True
        waiting -= 1
        commands.append(Wake(number))


def _take_back(state: State, at: float, commands: list[Command]) -> None:
    """When a worker has a free slot and another one of its place sits on attempts that it has not started, ask for them."""
    plain = [worker for worker in state.present.values() if not (worker.pulls or worker.delegates)]
    with_room = {worker.place for worker in plain if worker.free > 0}
    if not with_room:
        return
    earliest = 0.0
    for worker in plain:
        if worker.recalling or worker.place not in with_room:
            continue
        held = [
            attempt
            for attempt in worker.queue
            if state.current(attempt) and state.status[attempt & NODE_MASK] == QUEUED
        ]
        if not held or len(worker.queue) <= worker.slots:
            continue
        due = worker.heard + state.plan.settings.hold
        if at >= due:
            worker.recalling = True
            commands.append(Recall(worker.number, held))
        else:
            earliest = min(earliest or due, due)
    if earliest and state.rebalance_at <= at:
        state.rebalance_at = earliest
        commands.append(SetTimer(earliest, TimerKind.REBALANCE, 0))


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
    RuleEvaluated: _rule_evaluated,
}
