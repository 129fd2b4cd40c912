"""Why is this node not running? The answer in words, from the state alone."""

from __future__ import annotations

from dagrid.machine.events import NODE_MASK, UNSTARTED, Kind, attempt_id
from dagrid.machine.pick import matches
from dagrid.machine.plan import SHARES, Lack, Request
from dagrid.machine.state import (
    CANCELLED,
    COMPLETED,
    LOST,
    NO_TASK,
    PENDING,
    QUEUED,
    READY,
    RUNNING,
    SKIPPED,
    WAITING,
    State,
    Status,
    Worker,
    goes_on,
)

SHOWN = 5
PLACES = {
    "caller": "the thread that waits for the run: somebody has to wait for it, and no other such node be running",
    "loop": "a free slot of the event loop",
    "command": "a command to end, for as many run as may at once",
    "here": "a command to end, for as many run as may at once",
}
NOBODY = {
    "inline": " in the thread that waits for the run",
    "event-loop": " in the event loop",
    "command": "",
}
"""Where workers perform that are no more than their backend, by their name."""


def explain(state: State, node: int, at: float) -> str:
    """Return one sentence on why a node is not running, or on how it ended.

    Args:
        state: of the run.
        node: its number.
        at: the present time of the run's clock, in seconds.
    """
    status = state.status[node]
    name = state.plan.names[node]
    if status == PENDING and node in state.shut:
        return f"{name!r} {_turn(state, node)}."
    if status == PENDING:
        return f"{name!r} waits for {_unfinished(state, node)}."
    if status == READY:
        return f"{name!r} is ready and waits for {_lacking(state, node)}."
    if status == QUEUED:
        worker = state.workers[state.where[node]]
        return f"{name!r} is queued on worker {worker.name!r}, behind {_ahead(state, node)}."
    if status == RUNNING:
        worker = state.workers[state.where[node]]
        told = state.halted.get(attempt_id(node, state.number_of(node)))
        if told is not None:
            return f"{name!r} was told to stop {at - told.at:.3f} s ago ({told.detail}), and still runs{_on(worker)}."
        return f"{name!r} has been running{_on(worker)} for {at - state.started[node]:.3f} s."
    if status == WAITING and node in state.held:
        prompt = state.held[node]
        return f"{name!r} waits for a signal{f' ({prompt})' if prompt else ''}."
    if status == WAITING and state.attempts_before[node][-1].kind is Kind.REPEATED:
        times = state.repeats[node]
        left = max(state.due.get(node, at) - at, 0.0)
        return f"{name!r} runs again in {left:.3f} s, as it asked to; {times} times so far."
    if status == WAITING:
        return f"{name!r} failed and is tried again in {max(state.due.get(node, at) - at, 0.0):.3f} s."
    if status == SKIPPED:
        cause = state.cause.get(node, NO_TASK)
        if cause == NO_TASK:
            return f"{name!r} was passed over: {state.detail.get(node, 'it has no task')}."
        if cause == node:
            return f"{name!r} was skipped: {state.detail[node]}."
        return f"{name!r} was skipped, because {state.plan.names[cause]!r} {ended_word(state.status[cause])}."
    ran = status == COMPLETED and state.started[node] != UNSTARTED
    took = f" after {state.ended[node] - state.started[node]:.3f} s" if ran else ""
    detail = state.detail.get(node, "")
    after = "; what waits for it runs all the same" if status != COMPLETED and goes_on(state, node) else ""
    return f"{name!r} {ended_word(status)}{took}{f': {detail}'.removesuffix('.') if detail else ''}{after}."


def lacks(state: State, place: str) -> dict[Lack, str]:
    """Return the labels that ready nodes want of a worker at their place, and none that is there has, each with why those cannot
    perform what is sent that have them, and with one of the nodes. Where there is no worker, those lack one too that want no
    labels.
    """
    found: dict[Lack, str] = {}
    for heap, request in zip(list(state.ready), state.plan.requests, strict=False):  # the run goes on meanwhile
        if heap and request.place == place and not _is_matched(state, request):
            lack = request.selector, _unfit(state, request)
            nodes = [key & NODE_MASK for key in list(heap)[:1]]
            found.update((lack, state.plan.names[node]) for node in nodes if state.status[node] == READY)
    return found


def labels_of(request: Request) -> str:
    """Return the labels that a request wants, as they are written."""
    return ", ".join(f"{label}={value}" for label, value in request.selector)


def _on(worker: Worker) -> str:
    """Say where a node is performed, if there is more to say than that it is performed."""
    return NOBODY.get(worker.name, f" on worker {worker.name!r}")


def _is_matched(state: State, request: Request) -> bool:
    workers = [worker for worker in list(state.present.values()) if worker.slots and worker.place == request.place]
    return any(worker.delegates or matches(worker.labels, request.selector) for worker in workers)


def _turn(state: State, node: int) -> str:
    """Say when the turn of a handler comes."""
    word = state.plan.handlers[node]
    if word == "exit":
        return (
            "runs when all nodes and the other handlers have ended"
            if state.outcome is None
            else "runs after the others"
        )
    how = {"success": "succeeds", "failure": "fails", "cancel": "is cancelled"}[word]
    return f"runs when all nodes have ended, if the run {how}"


def _unfinished(state: State, node: int) -> str:
    waiting = [each for each in state.plan.predecessors[node] if state.status[each] < COMPLETED]
    shown = ", ".join(f"{state.plan.names[each]!r} ({_word(state.status[each])})" for each in waiting[:SHOWN])
    return shown + (f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else "")


def _lacking(state: State, node: int) -> str:
    request = state.plan.requests[state.plan.groups[node]]
    for name, amount in request.resources:
        if state.available[name] < amount:
            free = state.available[name] / SHARES
            return f"{amount / SHARES:g} of resource {name!r}, of which {free:g} is free"
    limit = state.plan.settings.max_concurrency
    if limit is not None and state.active >= limit:
        return f"max_concurrency: {state.active} of {limit} nodes are under way"
    if state.sequential:
        return "a sequential node to end, beside which nothing else runs"
    if request.sequential and state.active:
        return f"the {state.active} nodes under way to end, because it runs alone"
    workers = [worker for worker in state.present.values() if worker.slots and worker.place == request.place]
    if not workers:
        wanted = f" with the labels {labels_of(request)}" if request.selector else ""
        return f"a worker{wanted}: {_unfit(state, request) or 'none has joined yet'}"
    delegated = any(worker.delegates for worker in workers)
    if request.foreign and not delegated:
        return f"a worker with the resource {request.foreign[0][0]!r}: none of the {len(workers)} has it"
    if request.selector and not _is_matched(state, request):
        return f"a worker with the labels {labels_of(request)}: none of the {len(workers)} has them"
    if request.place:
        return PLACES.get(request.place, f"the place {request.place!r}")
    return "a free slot"


def _unfit(state: State, request: Request) -> str:
    """Say of the workers that have joined and cannot perform what is sent why that is so."""
    unfit = [
        worker
        for worker in state.present.values()
        if worker.unfit and worker.place == request.place and matches(worker.labels, request.selector)
    ]
    if not unfit:
        return ""
    more = f", nor can {len(unfit) - 1} more" if len(unfit) > 1 else ""
    return f"{unfit[0].name!r} cannot perform it, for {unfit[0].unfit}{more}"


def _ahead(state: State, node: int) -> str:
    queue = list(state.queues[state.where[node]])
    position = next((place for place, attempt in enumerate(queue) if attempt & 0xFFFFFFFF == node), 0)
    return f"{position} others" if position != 1 else "1 other"


def ended_word(status: int) -> str:
    """Return what became of a node that has ended, as the verb of a sentence."""
    word = _word(status)
    return f"was {word}" if status in (CANCELLED, SKIPPED, LOST) else word


def _word(status: int) -> str:
    return Status(status).name.lower().replace("_", " ")
