"""What a worker has of one attempt, of its run, and how an end is told: everything that can travel as bytes, made where it arose.

It knows neither who performs an attempt nor who is told.
"""

from __future__ import annotations

import itertools
import marshal
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter, time
from typing import Any

from dagrid.errors import TransferError
from dagrid.execution.backends._transfer import Pickled, Unopened, decode_error
from dagrid.execution.backends._worker import STUCK, encode, encode_error, stuck, told, type_name
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import INLINE
from dagrid.machine.events import NODE_MASK, NUMBER_SHIFT, Finished, Outcome, Stimulus, attempt_id
from dagrid.service.worker.runs import Run

SHIFT = time() - perf_counter()
"""What the clock of day is ahead of the one by which things are measured here; it stays, whoever sets the clock."""
LONGEST = 8 << 20
"""Bytes of an error, or of what goes beside a value, in a report, which is one message."""
SHORT = 1 << 16
"""Characters that are told of what is longer."""


class Task:
    """One attempt on this worker.

    Attributes:
        token: what the book knows it by.
        run, fence: whose it is.
        call: what is to be performed.
        lane: the process that has it, if one has.
        rides: the task on whose value it waits; `riders` are those that wait for its own.
        began: whether it has started; `stopped`: somebody wants it to end; `back`: or to go back.
        end: how it ended; `gone`: it was dropped, for what it rides on has not completed here.
    """

    __slots__ = ("back", "began", "call", "end", "fence", "gone", "lane", "riders", "rides", "run", "stopped", "token")

    def __init__(self, token: int, run: Run, fence: int, call: pb.Call, rides: Task | None) -> None:
        self.token = token
        self.run = run
        self.fence = fence
        self.call = call
        self.rides = rides
        self.riders: list[Task] = []
        self.lane = -1
        self.began = self.stopped = self.back = self.gone = False
        self.end: pb.Finished | None = None
        if rides is not None:
            rides.riders.append(self)

    @property
    def attempt(self) -> int:
        """What the backends here know it by: the token, and which try it is."""
        return attempt_id(self.token, self.call.attempt >> NUMBER_SHIFT)

    @property
    def head(self) -> Task:
        """The first one of its chain."""
        return self if self.rides is None else self.rides.head

    @property
    def completed(self) -> bool | None:
        """Whether it has completed; None before its end."""
        return None if self.end is None else self.end.outcome == Outcome.COMPLETED


def token_of(attempt: int) -> int:
    """Return the token of an attempt of the backends here."""
    return attempt & NODE_MASK


class StuckError(Exception):
    """Something of a call cannot be opened here: `what` says which, and the cause why."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def end_of(event: Finished, keep: Callable[[bytes | bytearray], bytes]) -> pb.Finished:
    """Return the report of an end; `keep` takes a large value, which travels apart, and returns its digest."""
    end = pb.Finished(outcome=event.outcome, started=event.started + SHIFT, ended=event.ended + SHIFT)
    if event.outcome == Outcome.COMPLETED:
        _put_value(end, event, keep)
    elif event.outcome == Outcome.FAILED:
        _put_failure(end, event.value)
        end.error, end.final = event.error[:SHORT], not event.retryable
    else:
        end.error = event.error[:SHORT]
    return end


def lost(reason: str, began: float, now: float) -> pb.Finished:
    """Return the report of an attempt whose process has gone."""
    return pb.Finished(outcome=Outcome.LOST, started=began + SHIFT, ended=now + SHIFT, error=reason)


def cancelled(at: float) -> pb.Finished:
    """Return the report of an attempt that was stopped, or never began."""
    return pb.Finished(outcome=Outcome.CANCELLED, started=at + SHIFT, ended=at + SHIFT)


def failed(error: BaseException) -> pb.Finished:
    """Return the report of an attempt that cannot be performed here."""
    now = time()
    end = pb.Finished(outcome=Outcome.FAILED, started=now, ended=now, error=told(error)[:SHORT], final=True)
    _put_failure(end, error)
    return end


def without_room(error: Exception) -> pb.Finished:
    """Return the report of an attempt for which there is no room; elsewhere, or later, there may be some."""
    end = failed(error)
    end.final = False
    return end


def _put_value(end: pb.Finished, event: Finished, keep: Callable[[bytes | bytearray], bytes]) -> None:
    try:
        data = _bytes_of(event.value)
    except BaseException as error:  # noqa: BLE001 - the user's code
        _put_stuck(end, "value", event.value, error)
        return
    try:
        end.extra = bytes(_bytes_of(event.extra))
    except BaseException as error:  # noqa: BLE001 - the user's code
        _put_stuck(end, "extra", event.extra, error)
        return
    if len(end.extra) > LONGEST:
        _put_stuck(end, "extra", event.extra, _too_long(end.extra))
        end.extra = b""
        return
    if len(data) <= INLINE:
        end.value = bytes(data)
        return
    try:
        end.apart, end.size = keep(data), len(data)
    except OSError as error:  # there is no room
        end.outcome, end.error = Outcome.FAILED, told(error)[:SHORT]
        _put_failure(end, error)


def _bytes_of(value: Any) -> bytes | bytearray:
    if value is None:
        return b""
    return value.data if isinstance(value, Pickled) else encode(value)


def _put_stuck(end: pb.Finished, what: str, value: Any, error: BaseException) -> None:
    end.outcome, end.stuck = Outcome.FAILED, stuck(what, type_name(value), error)
    end.final = True


def _put_failure(end: pb.Finished, value: Any) -> None:
    if isinstance(value, Unopened):
        kind, data = STUCK if value.stuck else -1, value.data
    elif isinstance(value, StuckError):
        kind, data = STUCK, stuck(value.what, value.what, value.__cause__ or value)
    elif isinstance(value, BaseException):
        kind, data = encode_error(value)
    else:
        return
    if len(data) > LONGEST:
        kind, data = STUCK, _shortened(kind, data)
    if kind == STUCK:
        end.stuck = data
    else:
        end.failure = data


def _shortened(kind: int, data: bytes) -> bytes:
    """Return in words, and not too many, what is too long for a report."""
    if kind == STUCK:
        what, name, why, original, text = marshal.loads(data)
    else:
        error = decode_error(data, "")
        what, name, why = "error", type_name(error), told(_too_long(data))
        original, text = told(error), str(error.__cause__ or "")
    return marshal.dumps((what, name, why[:SHORT], original[:SHORT], text[:SHORT]))


def _too_long(data: bytes) -> TransferError:
    return TransferError(f"it has {len(data)} bytes, and in a report there are at most {LONGEST}")


class Desk:
    """The host of a session of a local backend: what happens in its threads is taken in the loop, in batches.

    Args:
        loop: where `take` is called.
        prepare: makes of an event what is to be taken, in the thread where it happened; None drops it.
        take: gets what has gathered.
    """

    run = name = nonce = ""

    def __init__(
        self, loop: AbstractEventLoop, prepare: Callable[[Stimulus], Any], take: Callable[[list[Any]], None]
    ) -> None:
        self._loop = loop
        self._prepare = prepare
        self._take = take
        self._numbers = itertools.count()
        self._guard = threading.Lock()
        self._gathered: list[Any] = []

    def now(self) -> float:
        return perf_counter()

    def draw(self) -> float:
        return 0.0

    def new_worker(self) -> int:
        return next(self._numbers)

    def report(self, events: Sequence[Stimulus]) -> None:
        prepared = [each for each in map(self._prepare, events) if each is not None]
        with self._guard:
            first = not self._gathered
            self._gathered += prepared
        if first and prepared:
            with suppress(RuntimeError):  # the loop has been closed, and nobody is interested any more
                self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        with self._guard:
            gathered, self._gathered = self._gathered, []
        self._take(gathered)
