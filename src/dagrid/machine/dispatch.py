"""Which worker gets how many of the ready nodes, and who is woken or gives some back. Pure. Which node is first, `pick` says.

A worker that is pushed to has its free slots filled; short nodes are sent ahead, so that it does not wait between them. One that
pulls is woken when there is something for it.
"""

from __future__ import annotations

from heapq import heappop

from dagrid.machine.applying import record
from dagrid.machine.chains import along
from dagrid.machine.commands import Command, Perform, Recall, SetTimer, Wake
from dagrid.machine.events import NODE_MASK, Fact, Kind, TimerKind, attempt_id
from dagrid.machine.pick import fits_now, has_room, pick
from dagrid.machine.plan import PLAIN, Request
from dagrid.machine.state import QUEUED, READY, State, Worker


def assign_free_slots(state: State, at: float, commands: list[Command]) -> None:
    """Give each free slot of a pushed worker the best node that fits it, one at a time so that the workers share."""
    if not (any(state.ready) and has_room(state)):
        return
    free = [worker for worker in state.present.values() if not worker.pulls and worker.free > 0]
    if len(free) > 1:
        free.sort(key=lambda worker: len(worker.queue) / worker.slots)
    given: dict[int, list[int]] = {}
    while free and any(state.ready):
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


def send_ahead(state: State, at: float, commands: list[Command]) -> None:
    """Send short nodes ahead to busy workers, so that they find their next work without asking.

    How many follows from the mean duration seen so far: never more than `batch` seconds of work, and none before it is known.
    """
    if not (any(state.ready) and _is_short(state)):
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


def wake_idle(state: State, commands: list[Command]) -> None:
    """Wake as many sleeping workers as there is work for; each asks for its node when it is awake."""
    ready = state.ready
    waiting = len(state.heap) if len(ready) == 1 else sum(map(len, ready))
    if not waiting:
        return
    for worker in state.present.values():
        waiting -= worker.woken
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


def take_back(state: State, at: float, commands: list[Command]) -> None:
    """When a worker has a free slot and another one of its place sits on attempts that it has not started, ask for them."""
    plain = [worker for worker in state.present.values() if not (worker.pulls or worker.delegates)]
    full = [worker for worker in plain if len(worker.queue) > worker.slots and not worker.recalling]
    if not full:
        return
    with_room = {worker.place for worker in plain if worker.free > 0}
    earliest = 0.0
    for worker in full:
        if worker.place not in with_room:
            continue
        held = [
            attempt
            for attempt in worker.queue
            if state.accepts(attempt) and state.status[attempt & NODE_MASK] == QUEUED
        ]
        if not held:
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
