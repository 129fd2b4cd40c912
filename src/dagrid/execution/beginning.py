"""What has happened to a run before anything of it runs in this process: values from before, and what an earlier process had.

It reads the state and the values of one run, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dagrid.execution.recording import Kept
from dagrid.machine.commands import Cancel, Command, SetTimer
from dagrid.machine.events import NODE_MASK, Begun, Reopened, Stimulus, TimerDue, TimerKind, WorkerGone, attempt_id
from dagrid.machine.state import COMPLETED, QUEUED, RUNNING, State
from dagrid.ports import Use


def beginning(
    state: State,
    now: float,
    given: Mapping[int, str],
    omitted: Mapping[int, str],
    lost: Sequence[int],
    again: Sequence[int] | None = None,
    spared: Collection[int] = (),
) -> list[Stimulus]:
    """Return what the machine has to be told first.

    Args:
        state: as a journal left it, or fresh.
        now: the time of the run's clock.
        given, omitted: by node number, why it does not run.
        lost: the nodes whose values are needed and are not there any more.
        again: the nodes that had ended and run again, if the run is taken up again.
        spared: the workers that did not go with the process which had the run before.
    """
    reopened = [] if again is None else [Reopened(now, again)]
    went = [worker for worker in state.present if worker not in spared]
    gone = [WorkerGone(worker, now, "the process of the run ended", again is not None) for worker in went]
    begun = [Begun(now, given, omitted, lost)] if given or omitted or lost else []
    due = [TimerDue(TimerKind.RETRY, retry, now) for at, retry in waiting_retries(state) if at <= now]
    if state.finished:
        return [*reopened, *gone, *begun, *due]  # before it nothing is heard
    return [*gone, *reopened, *begun, *due]


def uses(state: State, place: str) -> list[Use]:
    """Return the workers of a place with which something was under way.

    What must not be performed twice may have started without a word of it.
    """
    found = []
    for worker in state.present.values():
        if worker.place == place and worker.queue:
            queued = [
                attempt
                for attempt in worker.queue
                if state.current(attempt)
                and state.status[attempt & NODE_MASK] == QUEUED
                and attempt & NODE_MASK not in state.plan.fail_when_lost
            ]
            started = [attempt for attempt in worker.queue if attempt not in set(queued)]
            found.append(Use(worker.number, worker.name, queued, started))
    return found


def waiting_retries(state: State) -> Iterator[tuple[float, int]]:
    """Yield the attempts that wait until a time, with it."""
    for node, at in state.due.items():
        yield at, attempt_id(node, state.number_of(node))


def retry_timers(state: State, now: float) -> list[SetTimer]:
    """Return the timers of the attempts that wait for a time which is still to come."""
    return [SetTimer(at, TimerKind.RETRY, retry) for at, retry in waiting_retries(state) if at > now]


def renewed(state: State, worker: int) -> list[Command]:
    """Return what is asked for by what a worker still performs: its time is counted again, what nobody wants any more ends."""
    known = state.present.get(worker)
    commands: list[Command] = []
    for attempt in known.queue if known is not None else ():
        node = attempt & NODE_MASK
        limit = state.plan.timeouts.get(node)
        if not state.accepts(attempt):
            commands.append(Cancel(worker, attempt))
        elif limit is not None and state.status[node] == RUNNING:
            commands.append(SetTimer(state.started[node] + limit, TimerKind.TIMEOUT, attempt))
    return commands


def values_lost(
    state: State, values: Sequence[Any], sources: Callable[[int], Sequence[int]], nodes: Iterable[int]
) -> list[int]:
    """Return the nodes whose values some nodes need, directly or to be made again, and an earlier process could not keep."""
    needed = list(nodes)
    lost: dict[int, None] = {}
    while needed:
        for source in sources(needed.pop()):
            if source in lost or source >= len(values) or state.status[source] != COMPLETED:
                continue
            value = values[source]
            if isinstance(value, Kept) and value.absent:
                lost[source] = None
                needed.append(source)
    return list(lost)
