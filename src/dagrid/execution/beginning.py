"""What has happened to a run before anything of it runs in this process: values from before, and what an earlier process had.

It reads the state and the values of one run, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dagrid.execution.recording import Kept
from dagrid.machine.events import Begun, Reopened, Stimulus, TimerDue, TimerKind, WorkerGone, attempt_id
from dagrid.machine.state import COMPLETED, State


def beginning(
    state: State,
    now: float,
    given: Mapping[int, str],
    omitted: Mapping[int, str],
    lost: Sequence[int],
    again: Sequence[int] | None = None,
) -> list[Stimulus]:
    """Return what the machine has to be told first.

    Args:
        state: as a journal left it, or fresh.
        now: the time of the run's clock.
        given, omitted: by node number, why it does not run.
        lost: the nodes whose values are needed and are not there any more.
        again: the nodes that had ended and run again, if the run is taken up again.
    """
    reopened = [] if again is None else [Reopened(now, again)]
    gone = [WorkerGone(worker, now, "the process of the run ended") for worker in state.present]
    begun = [Begun(now, given, omitted, lost)] if given or omitted or lost else []
    due = [TimerDue(TimerKind.RETRY, retry, now) for at, retry in waiting_retries(state) if at <= now]
    if state.finished:
        return [*reopened, *gone, *begun, *due]  # before it nothing is heard
    return [*gone, *reopened, *begun, *due]


def waiting_retries(state: State) -> Iterator[tuple[float, int]]:
    """Yield the attempts that wait until a time, with it."""
    for node, at in state.due.items():
        yield at, attempt_id(node, state.number_of(node))


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
