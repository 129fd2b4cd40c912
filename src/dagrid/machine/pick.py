"""Which ready node first, and what fits the free slots and resources. Pure; it changes only the ready queues."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop

from dagrid.machine.events import NODE_MASK
from dagrid.machine.plan import Request
from dagrid.machine.state import READY, State, Worker


def pick(state: State, worker: Worker) -> int:
    """Take the node that a worker shall perform next out of its ready queue; -1 when there is none that fits.

    Larger priority first, then the longest remaining path, then insertion. A node that has to run alone waits for what is under
    way, and holds back whatever comes behind it.
    """
    heap = _best(state, worker)
    return heappop(heap) & NODE_MASK if heap else -1


def fits_now(state: State, worker: Worker) -> bool:
    """Return whether there is a node that this worker could take."""
    return _best(state, worker) is not None


def matches(labels: Mapping[str, str], selector: tuple[tuple[str, str], ...]) -> bool:
    """Return whether every label of a selector is there, exactly and case-sensitively."""
    return all(labels.get(name) == value for name, value in selector)


def has_room(state: State) -> bool:
    """Return whether the run may have one more attempt under way."""
    limit = state.plan.settings.max_concurrency
    return not state.sequential and (limit is None or state.active < limit)


def _best(state: State, worker: Worker) -> list[int] | None:
    if not has_room(state):
        return None
    best: list[int] | None = None
    alone: list[int] | None = None
    status = state.status
    for group, heap in enumerate(state.ready):
        while heap and status[heap[0] & NODE_MASK] != READY:
            heappop(heap)
        if not heap or (best is not None and best[0] < heap[0]):
            continue
        request = state.plan.requests[group]
        if request.sequential and state.active:
            if alone is None or heap[0] < alone[0]:
                alone = heap
        elif _fits(state, worker, request):
            best = heap
    if alone is not None and (best is None or alone[0] < best[0]):
        return None
    return best


def _fits(state: State, worker: Worker, request: Request) -> bool:
    if request.place != worker.place:
        return False
    if worker.delegates:
        if not (request.foreign or request.selector):
            return False
    elif request.foreign or (request.selector and not matches(worker.labels, request.selector)):
        return False
    available = state.available
    return not request.resources or all(available[name] >= amount for name, amount in request.resources)
