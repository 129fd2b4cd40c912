"""A piece of a graph performed where it was sent: the same engine as for any run, and a report of what became of each node.

It knows neither the other parts nor what becomes of the report.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from dagrid.execution.backends._transfer import decode_error, stuck_error
from dagrid.execution.backends._worker import STUCK, encode_error
from dagrid.execution.backends.inline import InlineBackend
from dagrid.execution.binding import LOOP
from dagrid.execution.clock import REAL_CLOCK
from dagrid.execution.engine import Engine
from dagrid.execution.pieces import SIMPLE, Draft, Piece, Unsent, Work, sendable
from dagrid.interrupts import INTERRUPTED
from dagrid.machine.applying import apply
from dagrid.machine.events import NODE_MASK, CancelRequested, Fact, Kind, WorkerGone
from dagrid.machine.plan import Plan
from dagrid.machine.state import COMPLETED, SKIPPED_BIT, State
from dagrid.ports import Backend, Call, opened

_BORDER = "it ended in another part"
_INLINE = InlineBackend()  # for all: what a run has of it is its session
_OWN = frozenset({Kind.WORKER_JOINED, Kind.WORKER_GONE, Kind.RUN_ENDED, Kind.STOPPED})  # of the inner run, and no more


class Live:
    """The inner runs of one execution that are under way in this process, so that they end when it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[Engine, Work, float]] = {}
        self._reason = ""

    def enter(self, part: int, engine: Engine, work: Work, origin: float) -> None:
        with self._lock:
            self._running[part] = engine, work, origin
            reason = self._reason
        if reason:
            engine.cancel(reason)

    def leave(self, part: int, engine: Engine) -> None:
        with self._lock:
            if part in self._running and self._running[part][0] is engine:
                del self._running[part]

    def stop(self, reason: str) -> dict[int, Report]:
        """Cancel what still runs, and return by part what had become of it."""
        with self._lock:
            self._reason = reason
            running = dict(self._running)
        for engine, _, _ in running.values():
            _abandon(engine, reason)
        return {
            part: Report.of(engine, work, origin)
            for part, (engine, work, origin) in running.items()
            if engine.done.is_set()
        }


def _abandon(engine: Engine, reason: str) -> None:
    """End an inner run now: what cannot be stopped in it goes on for nobody."""
    with engine.holding():
        gone = [WorkerGone(worker, engine.now(), reason) for worker in engine.state.present]
    engine.report([CancelRequested(engine.now(), reason), *gone])


@dataclass(slots=True)
class Inputs:
    """What one run of a piece is given: the values from other parts, and which of these nodes have none.

    Attributes:
        part: the number of the part.
        values: those of the nodes of other parts, in the order of the draft; some unopened.
        unwell: the numbers of those that failed or were skipped.
        seed: of the random draws; None draws differently in each run.
        live: where the inner run is entered, if this is the process of the whole run.
    """

    part: int
    values: list[Any]
    unwell: list[int]
    seed: int | None = None
    live: Live | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Inputs, (self.part, self.values, self.unwell, self.seed)


class PartEnded(Exception):  # noqa: N818 - what it carries is a report, good or bad
    """A node of a part failed and the run is to stop; the report says what became of the others."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return "a node failed and on_failure is 'stop'"


class PartInterrupted(KeyboardInterrupt):
    """Ctrl-C while a part was performed in the caller's own thread."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


def perform_piece(piece: Piece, inputs: Inputs) -> Report:
    """Run a piece of a graph where this is called, and return what became of each of its nodes.

    Raises:
        PartEnded: a node failed and `on_failure` is "stop".
        PartInterrupted: by Ctrl-C.
        TransferError: the piece, or a value that it needs, cannot be rebuilt here.
    """
    origin = perf_counter()
    work = piece.work()
    draft = work.draft
    plan = work.plan if not inputs.unwell else work.with_border()
    engine = Engine(
        plan,
        work.binder,
        work.bindings,
        _inner_backend(draft, plan),
        REAL_CLOCK,
        _drawing(inputs),
        place=_place,
    )
    engine.apart = True
    engine.values[draft.size :] = [value if type(value) in SIMPLE else opened(value) for value in inputs.values]
    if inputs.unwell:
        _tell(engine.state, draft, set(inputs.unwell), origin)
    if inputs.live is not None:
        inputs.live.enter(inputs.part, engine, work, origin)
    try:
        _run(engine)
    finally:
        if inputs.live is not None:
            inputs.live.leave(inputs.part, engine)
    if engine.failure is not None:
        raise engine.failure
    report = Report.of(engine, work, origin)
    if engine.state.cancelled == INTERRUPTED:
        raise PartInterrupted(report)
    if engine.state.stopped and not engine.state.cancelled:
        raise PartEnded(report)
    return report


def _run(engine: Engine) -> None:
    engine.start()
    try:
        engine.attend()
    except KeyboardInterrupt:
        engine.cancel(INTERRUPTED)
    finally:
        engine.close()


def _inner_backend(draft: Draft, plan: Plan) -> Backend:
    """A node that is late holds the caller's thread, so where there are limits the nodes run in threads that can be left."""
    if not draft.slots and not plan.timeouts:
        return _INLINE
    from dagrid.execution.backends.thread import ThreadBackend

    return ThreadBackend(draft.slots or 1)


def _place(name: str) -> Backend:
    if name == LOOP:
        from dagrid.execution.backends.event_loop import EventLoopBackend  # asyncio, which few graphs need

        return EventLoopBackend()
    from dagrid.execution.backends.command import CommandBackend

    return CommandBackend()


def _drawing(inputs: Inputs) -> Callable[[], float]:
    generators: list[Random] = []

    def draw() -> float:
        if not generators:
            generators.append(Random() if inputs.seed is None else Random(f"{inputs.seed} {inputs.part}"))
        return generators[0].random()

    return draw


def _tell(state: State, draft: Draft, unwell: set[int], at: float) -> None:
    """Let the state know how the nodes of other parts ended: those without a value as skipped on their own account."""
    for node in range(draft.size, len(draft.names)):
        if node - draft.size in unwell:
            apply(state, Fact(Kind.PASSED, at, node, detail=_BORDER))
        else:
            apply(state, Fact(Kind.REUSED, at, node, detail=_BORDER))


@dataclass(slots=True)
class Report:
    """What became of the nodes of a piece, by its own numbers.

    Times are those of the worker's clock, which showed `origin` when the piece began.

    Attributes:
        status: of each node, one byte.
        started, ended: of each node.
        entries: the journal: n, node n completed; ~n, it started; n plus the number of nodes, it was skipped; a fact stands
            where `facts` says.
        facts: the other facts, with their places in the journal.
        workers: the names of those who performed nodes; `where` has for each node one of them, or is empty if there is one.
        values: those that leave the part, in the order of the draft's `sent`.
        errors: what nodes raised.
        told: sparse facts of nodes: numbers of tries, failures, losses, causes, details, attempts before the last.
        process: the machine and the process that it comes from, empty where it has not travelled.
        lacks: whether a value could not leave the worker.
    """

    origin: float
    status: bytes
    started: Sequence[float]
    ended: Sequence[float]
    entries: array[int]
    facts: Sequence[tuple[int, Fact]]
    workers: Sequence[str]
    where: list[int] | None
    values: list[Any]
    errors: dict[int, Any]
    told: tuple[dict[int, Any], ...]
    process: str = ""
    lacks: bool = False
    names: Sequence[str] = field(default=(), repr=False)
    _reduced: tuple[Any, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, engine: Engine, work: Work, origin: float) -> Report:
        """Return the report of an inner run that has ended."""
        state, draft = engine.state, work.draft
        size = draft.size
        entries, facts = _journal(state, size)
        used = sorted({*state.where[:size], *(fact.worker for _, fact in facts)} - {-1})
        number = {one: at for at, one in enumerate(used)}
        values = engine.values[:size] if draft.sent is None else [engine.values[node] for node in draft.sent]
        return cls(
            origin,
            bytes(state.status[:size]),
            state.started[:size],
            state.ended[:size],
            entries,
            tuple([(place, _numbered(fact, number)) for place, fact in facts]),
            tuple([state.workers[one].name if draft.slots or len(used) > 1 else "" for one in used]),
            None if len(used) < 2 else [number.get(one, -1) for one in state.where[:size]],
            values,
            dict(engine.ends.errors),
            _told(state, size, number),
            names=work.sent,
        )

    @property
    def well(self) -> bool:
        """Whether all nodes completed."""
        return self.status.count(COMPLETED) == len(self.status)

    def error_of(self, node: int, name: str) -> BaseException:
        """Return what a node raised."""
        kept = self.errors[node]
        if isinstance(kept, BaseException):
            return kept
        kind, data = kept
        if kind == STUCK:
            return stuck_error(data, Call(-1, name, perform_piece))[0]
        return decode_error(data, name)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reduced is None:
            values, lacks = self.values, self.lacks
            if not SIMPLE.issuperset(map(type, values)):
                values = [
                    value if type(value) in SIMPLE else sendable(value, self.names[at])
                    for at, value in enumerate(values)
                ]
                lacks = Unsent in map(type, values)
            errors = {node: encode_error(error) for node, error in self.errors.items()}
            times = array("d", [*self.started, *self.ended])
            from dagrid.execution.backends._remote import worker_name

            journal = (self.entries, self.facts, self.workers, self.where)
            rest = (values, errors, self.told, self.process or worker_name(), lacks)
            self._reduced = (self.origin, self.status, times, *journal, *rest)
        return _report, self._reduced


def _report(origin: float, status: bytes, times: array[float], *rest: Any) -> Report:
    return Report(origin, status, times[: len(status)], times[len(status) :], *rest)


def _journal(state: State, size: int) -> tuple[array[int], list[tuple[int, Fact]]]:
    # Mostly nodes only started and completed between the coming of the one worker and the end: then all of it is taken at once.
    inner: list[Any] = state.journal[1:-1]
    ends = (*state.journal[:1], *state.journal[-1:])
    if all(isinstance(one, Fact) and one.kind in _OWN for one in ends):
        with suppress(TypeError, OverflowError):  # a fact, or that a node was skipped
            return array("i", inner), []
    entries = array("i")
    facts: list[tuple[int, Fact]] = []
    append = entries.append
    for entry in state.journal:
        if not isinstance(entry, int):
            if entry.kind not in _OWN and entry.node < size:
                facts.append((len(entries), entry))
                append(0)
        elif entry < SKIPPED_BIT:
            append(entry)
        elif entry & NODE_MASK < size:
            append((entry & NODE_MASK) + size)
    return entries, facts


def _numbered(fact: Fact, number: Mapping[int, int]) -> Fact:
    return fact if fact.worker < 0 else replace(fact, worker=number.get(fact.worker, 0))


def _told(state: State, size: int, number: Mapping[int, int]) -> tuple[dict[int, Any], ...]:
    before = {node: [_numbered(fact, number) for fact in facts] for node, facts in state.attempts_before.items()}
    found: list[dict[int, Any]] = [state.numbers, state.failures, state.losses, state.cause, state.detail, before]
    return tuple([{node: said for node, said in each.items() if node < size} if each else each for each in found])
