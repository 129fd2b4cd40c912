"""The times of a run, read from its facts: a Chrome trace and a summary. It writes nothing into the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

from dagrid.machine.events import UNSTARTED, Kind
from dagrid.machine.state import COMPLETED, State

ENDS = frozenset((Kind.COMPLETED, Kind.FAILED, Kind.TIMED_OUT, Kind.CANCELLED, Kind.LOST))
ENDS |= {Kind.RETRY, Kind.REQUEUED, Kind.REPEATED, Kind.HELD}
"""The facts with which an attempt ends."""


class Span(NamedTuple):
    """One attempt on one worker, in seconds since the run began."""

    node: str
    number: int
    worker: int
    started: float
    ended: float
    outcome: str


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a trace says in a few figures.

    Args:
        total_seconds: from the start of the run to its end.
        busy_seconds: the sum over all attempts of the time in the task itself.
        parallelism: busy over total: how many tasks ran at once on average.
        workers: how many workers took part.
        critical_path: the chain of completed nodes that took longest, first to last.
        critical_path_seconds: how long that chain took; no number of workers makes the run shorter.
        slowest: the nodes that took longest, with their seconds.
    """

    total_seconds: float
    busy_seconds: float
    parallelism: float
    workers: int
    critical_path: list[str]
    critical_path_seconds: float
    slowest: list[tuple[str, float]]

    def __str__(self) -> str:
        path = (
            self.critical_path
            if len(self.critical_path) <= 8
            else [*self.critical_path[:4], "...", *self.critical_path[-3:]]
        )
        lines = [
            f"{self.total_seconds:.3f} s in all, {self.busy_seconds:.3f} s of work on {self.workers} workers "
            f"(parallelism {self.parallelism:.2f})",
            f"critical path {self.critical_path_seconds:.3f} s: {' > '.join(path)}",
            *(f"  {seconds:9.3f} s  {name}" for name, seconds in self.slowest),
        ]
        return "\n".join(lines)


class ExecutionTrace:
    """Every attempt of a run with its worker and its times."""

    def __init__(self, state: State, began: float, total_seconds: float) -> None:
        self._state = state
        self._began = began
        self.total_seconds = total_seconds

    def __iter__(self) -> Iterator[Span]:
        """Yield the attempts in the order in which they ended."""
        names = self._state.plan.names
        ended = ENDS
        performer: dict[tuple[int, int], int] = {}
        for fact in self._state.facts():
            if fact.kind is Kind.PERFORMED:
                performer[fact.node, fact.number] = fact.worker
            elif fact.kind in ended and fact.started != UNSTARTED:
                outcome = fact.kind.name.lower()
                yield Span(
                    names[fact.node],
                    fact.number,
                    performer.pop((fact.node, fact.number), fact.worker) if performer else fact.worker,
                    fact.started - self._began,
                    fact.at - self._began,
                    outcome,
                )

    def to_chrome_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return the trace in the Trace Event Format, which chrome://tracing and Perfetto show, and write it to a file.

        Args:
            path: where to write it; None writes nothing.
        """
        import json

        workers = {number: worker.name for number, worker in self._state.workers.items()}
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": name}}
            for number, name in workers.items()
        ]
        events.extend(
            {
                "name": span.node,
                "cat": span.outcome,
                "ph": "X",
                "pid": 1,
                "tid": span.worker,
                "ts": round(span.started * 1e6, 3),
                "dur": round(max(span.ended - span.started, 0.0) * 1e6, 3),
                "args": {"attempt": span.number + 1, "outcome": span.outcome},
            }
            for span in self
        )
        text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    def summary(self) -> TraceSummary:
        """Return the figures of the run."""
        busy = 0.0
        workers = set()
        for span in self:
            busy += span.ended - span.started
            workers.add(span.worker)
        path, seconds = self._critical_path()
        state = self._state
        durations = {
            node: state.ended[node] - state.started[node]
            for node in range(len(state.plan))
            if state.status[node] == COMPLETED and state.started[node] != UNSTARTED
        }
        slowest = sorted(durations, key=lambda node: -durations[node])[:5]
        return TraceSummary(
            self.total_seconds,
            busy,
            busy / self.total_seconds if self.total_seconds > 0 else 0.0,
            len(workers),
            path,
            seconds,
            [(state.plan.names[node], durations[node]) for node in slowest],
        )

    def _critical_path(self) -> tuple[list[str], float]:
        """Follow, from the end, the predecessor chain with the longest measured work; nodes in order of their ends."""
        state = self._state
        done = [fact.node for fact in state.facts() if fact.kind is Kind.COMPLETED]
        longest: dict[int, float] = {}
        before: dict[int, int] = {}
        for node in done:
            best = -1
            for predecessor in state.plan.predecessors[node]:
                if predecessor in longest and (best < 0 or longest[predecessor] > longest[best]):
                    best = predecessor
            longest[node] = state.ended[node] - state.started[node] + (longest[best] if best >= 0 else 0.0)
            if best >= 0:
                before[node] = best
        if not longest:
            return [], 0.0
        node = max(reversed(done), key=lambda each: longest[each])
        seconds = longest[node]
        path = [node]
        while path[-1] in before:
            path.append(before[path[-1]])
        return [state.plan.names[each] for each in reversed(path)], seconds
