"""The reports of parts become the state of one run of the whole graph, from which its result is read as from any other.

Only facts are put together here: nothing is decided anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

from msgspec.structs import replace

from dagrid.errors import TaskError
from dagrid.execution.division import Slice
from dagrid.execution.keeping import Dropped
from dagrid.execution.performing import Report
from dagrid.execution.pieces import Unsent
from dagrid.machine.applying import apply, record
from dagrid.machine.events import NODE_MASK, UNSTARTED, Fact, Kind, Stop
from dagrid.machine.plan import Plan
from dagrid.machine.state import CANCELLED, COMPLETED, FAILED, LOST, SKIPPED, SKIPPED_BIT, State

Performed = tuple[str, str]
"""Who performed a part: the worker that it was given to, and the process that its report comes from."""
_KIND = {FAILED: Kind.FAILED, CANCELLED: Kind.CANCELLED, LOST: Kind.LOST}


class Whole:
    """The run of the whole graph, part by part. Its times are seconds since it began.

    Attributes:
        state, values, errors: as an engine has them.
    """

    def __init__(
        self, plan: Plan, slices: Sequence[Slice], given: Mapping[int, tuple[Any, str]], omitted: Mapping[int, str]
    ):
        self.state = State(plan)
        self.values: list[Any] = [None] * len(plan)
        self.errors: dict[int, BaseException] = {}
        self._slices = slices
        self._journal: list[int | Fact] = []
        self._odd: dict[int, float] = {}  # by place in the journal, times that are not in the lists of the state
        self._workers: dict[tuple[Performed, str], int] = {}
        self._until = 0.0  # the last time in the journal; infinite where it may not be in order
        for node, why in omitted.items():
            apply(self.state, Fact(Kind.OMITTED, 0.0, node, detail=why))
        for node, (value, why) in given.items():
            apply(self.state, Fact(Kind.REUSED, 0.0, node, detail=why))
            self.values[node] = value
        self.state.doomed.clear()
        self.state.passed.clear()

    def take(self, number: int, report: Report, worker: str, began: float) -> None:
        """Take the report of a part.

        Args:
            number: of the part.
            report: what became of its nodes.
            worker: to whom it was given.
            began: when it did, by the run's clock.
        """
        part = self._slices[number]
        state = self.state
        shift = began - report.origin
        workers = [self._worker((worker, report.process), name) for name in report.workers]
        plain = report.well and report.where is None and not any(report.told)
        started, ended, where, status = state.started, state.ended, state.where, state.status
        if plain and workers:
            own = workers[0]
            for node, begun, over in zip(part.nodes, report.started, report.ended, strict=False):
                started[node] = begun + shift
                ended[node] = over + shift
                where[node] = own
                status[node] = COMPLETED
            self._until = max(report.ended) + shift if min(report.started) + shift >= self._until else inf
        else:
            self._take_times(part, report, workers, shift)
            self._tell(part, report, workers, shift)
            self._until = inf
        self._append(part, report, workers, shift)
        self._take_values(part, report)
        for local in report.errors:
            self.errors[part.nodes[local]] = report.error_of(local, state.plan.names[part.nodes[local]])

    def _take_times(self, part: Slice, report: Report, workers: list[int], shift: float) -> None:
        state = self.state
        for local, node in enumerate(part.nodes[: part.size]):
            state.status[node] = report.status[local]
            if report.started[local] != UNSTARTED:
                state.started[node] = report.started[local] + shift
                one = 0 if report.where is None else report.where[local]
                state.where[node] = workers[one] if 0 <= one < len(workers) else -1
            state.ended[node] = report.ended[local] + shift

    def lose(self, number: int, status: int, at: float, why: str, error: BaseException | None, losses: int) -> None:
        """Take note that nothing is known of a part: its nodes ended with it, or are skipped where they need one without a value.

        Args:
            number: of the part.
            status: how it ended: FAILED, LOST or CANCELLED.
            at: when, in seconds since the run began.
            why: for people.
            error: what is said of the nodes that failed.
            losses: how many workers were lost with it.
        """
        state = self.state
        for node in self._slices[number].order:
            cause = self._cause(node)
            if cause is not None:
                state.status[node] = SKIPPED
                state.cause[node] = cause
                state.ended[node] = at
                self._note(at, node | SKIPPED_BIT)
                continue
            state.status[node] = status
            state.ended[node] = at
            state.detail[node] = why
            if losses:
                state.losses[node] = losses
            if error is not None:
                self.errors[node] = error
            self._note(at, Fact(_KIND[status], at, node, detail=why, numbers=(losses,) if losses else ()))

    def finish(self, total: float, cancelled: str, failed: str) -> State:
        """Return the state of the run, which took `total` seconds, with the reason why it was cancelled or stopped, if it was."""
        state = self.state
        for name, number in self._named():
            record(state, Fact(Kind.WORKER_JOINED, 0.0, worker=number, detail=name, numbers=(1, 1, 1, 0, 0)))
        journal = self._journal
        if self._until < inf and not self._odd:
            state.journal += journal
        else:
            times = self._times()
            order = sorted(range(len(times)), key=times.__getitem__)  # each part is in order, so this merges a few runs
            state.journal += [journal[place] for place in order]
        state.remaining = 0
        if cancelled:
            record(state, Fact(Kind.STOPPED, total, number=Stop.CANCELLED, detail=cancelled))
        elif failed:
            record(state, Fact(Kind.STOPPED, total, number=Stop.FAILURE, detail=failed))
        record(state, Fact(Kind.RUN_ENDED, total, detail=cancelled))
        return state

    def _cause(self, node: int) -> int | None:
        """Return the node for whose sake this one is skipped, if it is."""
        state = self.state
        tolerant = state.plan.settings.on_failure == "continue"
        before: int
        for before in state.plan.predecessors[node]:
            code = state.status[before]
            if code < FAILED or code == CANCELLED or (code == SKIPPED and before not in state.cause):
                continue
            if not (tolerant and not state.plan.takes_value(node, before)):
                return before
        return None

    def _worker(self, performed: Performed, name: str) -> int:
        return self._workers.setdefault((performed, name), len(self._workers))

    def _named(self) -> Iterator[tuple[str, int]]:
        """Yield what the workers are called: as who was given the parts, and by their processes too if these are several."""
        processes = Counter(worker for worker, _ in {performed for performed, _ in self._workers})
        for ((worker, process), name), number in self._workers.items():
            called = worker if processes[worker] == 1 else f"{worker}/{process}"
            yield f"{called}/{name}" if name else called, number

    def _times(self) -> list[float]:
        """Return the times of all that stands in the journal of the parts."""
        started, ended, odd = self.state.started, self.state.ended, self._odd
        if not odd:
            return [started[~entry] if entry < 0 else ended[entry] for entry in self._journal]  # type: ignore[index,operator]
        times = []
        for place, entry in enumerate(self._journal):
            if place in odd:
                times.append(odd[place])
            elif isinstance(entry, int):
                times.append(started[~entry] if entry < 0 else ended[entry & NODE_MASK])
        return times

    def _note(self, at: float, entry: int | Fact) -> None:
        self._odd[len(self._journal)] = at
        self._journal.append(entry)

    def _tell(self, part: Slice, report: Report, workers: list[int], shift: float) -> None:
        """Take what is said of few nodes, by the numbers of the whole graph."""
        if not any(report.told):
            return
        state, nodes = self.state, part.nodes
        numbers, failures, losses, cause, detail, before = report.told
        for theirs, ours in ((numbers, state.numbers), (failures, state.failures), (losses, state.losses)):
            ours.update({nodes[local]: said for local, said in theirs.items()})
        state.detail.update({nodes[local]: said for local, said in detail.items()})
        state.cause.update({nodes[local]: nodes[said] for local, said in cause.items()})
        for local, facts in before.items():
            state.attempts_before[nodes[local]] = [self._fact(fact, nodes, workers, shift) for fact in facts]

    def _fact(self, fact: Fact, nodes: Sequence[int], workers: Sequence[int], shift: float) -> Fact:
        worker = workers[fact.worker] if fact.worker >= 0 else -1
        node = nodes[fact.node] if fact.node >= 0 else -1
        return replace(fact.shifted(shift), node=node, worker=worker)

    def _append(self, part: Slice, report: Report, workers: list[int], shift: float) -> None:
        """Append the journal of a part: its integers are places in a table, the negative ones counted from its end."""
        begin = len(self._journal)
        self._journal += map(part.table().__getitem__, report.entries)
        for place, fact in report.facts:
            here = self._fact(fact, part.nodes, workers, shift)
            self._journal[begin + place] = here
            self._odd[begin + place] = here.at
        if not report.well or report.told[0]:
            self._note_odd_times(begin)

    def _note_odd_times(self, begin: int) -> None:
        """The first start of a node that was tried again, and what was skipped, have times that the lists do not have so."""
        state = self.state
        for place in range(begin, len(self._journal)):
            entry = self._journal[place]
            if not isinstance(entry, int):
                continue
            if entry & SKIPPED_BIT and entry >= 0:
                self._odd[place] = state.ended[entry & NODE_MASK]
            elif entry < 0 and ~entry in state.attempts_before:
                self._odd[place] = state.attempts_before[~entry][0].started

    def _take_values(self, part: Slice, report: Report) -> None:
        values, nodes, state = self.values, part.nodes, self.state
        if part.sent is None:
            for node, value in zip(nodes, report.values, strict=False):
                values[node] = value
        else:
            for local, value in zip(part.sent, report.values, strict=True):
                values[nodes[local]] = value
        if not report.lacks:
            return
        for local, value in zip(range(part.size) if part.sent is None else part.sent, report.values, strict=True):
            if type(value) is Unsent and local in part.crossing and state.status[nodes[local]] == COMPLETED:
                self._unsent(nodes[local], value.error)

    def _unsent(self, node: int, error: TaskError) -> None:
        """A value could not leave its worker, and others need it: so its node has failed."""
        state = self.state
        state.status[node] = FAILED
        state.detail[node] = f"{type(error).__name__}: {error}"
        self.errors[node] = error
        self.values[node] = None
        place = len(self._journal) - 1 - self._journal[::-1].index(node)
        self._odd[place] = state.ended[node]
        self._journal[place] = Fact(
            Kind.FAILED,
            state.ended[node],
            node,
            state.number_of(node),
            state.where[node],
            state.started[node],
            detail=state.detail[node],
        )

    def drop(self, kept: frozenset[int]) -> None:
        """Drop the values that travelled between parts and are not to be kept."""
        state = self.state
        for node, code in enumerate(state.status):
            if code == COMPLETED and node not in kept:
                self.values[node] = Dropped(state.plan.names[node])
