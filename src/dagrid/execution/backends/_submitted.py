"""A small host for calls that are submitted one by one, outside of any run; loaded when the first one is.

It knows the port; it decides no more than that a call waits for a free slot.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

from dagrid.errors import BackendClosedError, TaskCancelledError, TaskError, WorkerLostError
from dagrid.machine.events import Finished, Outcome, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Session, opened


class SubmittedFuture(Future[Any]):
    """A future whose value is opened by the thread that asks for it."""

    def result(self, timeout: float | None = None) -> Any:
        return opened(super().result(timeout))


class Place:
    """A worker: what it has under way."""

    __slots__ = ("asleep", "pulls", "slots", "started", "under_way")

    def __init__(self, slots: int, pulls: bool) -> None:
        self.slots = slots
        self.pulls = pulls
        self.asleep = pulls
        self.under_way: set[int] = set()
        self.started: set[int] = set()


class Submissions:
    """The host: a queue, its workers, and a future for each call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._numbers = itertools.count()
        self._attempts = itertools.count()
        self._queue: deque[int] = deque()
        self._calls: dict[int, tuple[Call, SubmittedFuture]] = {}
        self._places: dict[int, Place] = {}
        self._session: Session | None = None
        self._ended = False

    def begin(self, session: Session) -> None:
        """Take the session that was opened for this host."""
        with self._guard:
            self._session = session
        self._dispatch()

    def submit(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> SubmittedFuture:
        future = SubmittedFuture()
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        with self._guard:
            if self._ended:
                raise BackendClosedError(
                    f"The backend {self._name!r} is closed. Make a new one, or submit before you close it."
                )
            attempt = next(self._attempts)
            self._calls[attempt] = (Call(attempt, name, fn, args, kwargs or None), future)
            self._queue.append(attempt)
            session = self._session
        self._dispatch()
        if session is not None:
            session.attend()
        return future

    def end(self, wait_for_calls: bool) -> None:
        """Take no more calls; with `wait_for_calls` let those that were submitted end first, else fail what is left."""
        with self._guard:
            self._ended = True
            futures = [future for _, future in self._calls.values()]
            session = self._session
        if wait_for_calls:
            wait(futures)
        if session is not None:
            session.close()
        with self._guard:
            left = [future for _, future in self._calls.values()]
            self._calls.clear()
            self._queue.clear()
        for future in left:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(
                    BackendClosedError(f"The backend {self._name!r} was closed before the call had ended.")
                )

    # What a backend asks of its host.

    run = name = nonce = ""

    def now(self) -> float:
        return time.perf_counter()

    def draw(self) -> float:
        return random.random()

    def new_worker(self) -> int:
        with self._guard:
            return next(self._numbers)

    def report(self, events: Sequence[Stimulus]) -> None:
        settled: list[tuple[SubmittedFuture, Any, BaseException | None]] = []
        with self._guard:
            for event in events:
                self._take(event, settled)
        for future, value, error in settled:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        self._dispatch()

    def next(self, worker: int) -> Call | None:
        with self._guard:
            place = self._places[worker]
            call = self._pop()
            place.asleep = call is None
            if call is not None:
                place.under_way.add(call.attempt)
            return call

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: object = None
    ) -> Call | None:
        future = self._settle(worker, call.attempt)
        if future is not None:
            future.set_result(value)
        return self.next(worker)

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        future = self._settle(worker, call.attempt)
        if future is not None:
            future.set_exception(error)
        return self.next(worker)

    # Bookkeeping; the caller holds the guard where a name says no other.

    def _settle(self, worker: int, attempt: int) -> SubmittedFuture | None:
        with self._guard:
            return self._release(worker, attempt)

    def _release(self, worker: int, attempt: int) -> SubmittedFuture | None:
        place = self._places.get(worker)
        if place is not None:
            place.under_way.discard(attempt)
            place.started.discard(attempt)
        found = self._calls.pop(attempt, None)
        return found[1] if found else None

    def _pop(self) -> Call | None:
        """Take the next call whose future was not cancelled."""
        while self._queue:
            attempt = self._queue.popleft()
            call, future = self._calls[attempt]
            if future.running() or future.set_running_or_notify_cancel():
                return call
            del self._calls[attempt]
        return None

    def _take(self, event: Stimulus, settled: list[tuple[SubmittedFuture, Any, BaseException | None]]) -> None:
        match event:
            case Finished(worker=worker, attempt=attempt):
                future = self._release(worker, attempt)
                if future is not None:
                    settled.append((future, event.value, error_of(event)))
            case Started(worker=worker, attempt=attempt):
                if worker in self._places:
                    self._places[worker].started.add(attempt)
            case WorkerJoined(worker=worker):
                if not event.delegates:
                    self._places[worker] = Place(event.slots, event.pulls)
            case Recalled(worker=worker, attempts=attempts):
                for attempt in attempts:
                    self._places[worker].under_way.discard(attempt)
                    self._queue.appendleft(attempt)
            case WorkerGone(worker=worker, reason=reason):
                place = self._places.pop(worker, Place(0, False))
                for attempt in sorted(place.under_way & place.started):
                    found = self._calls.pop(attempt, None)
                    if found:
                        settled.append(
                            (found[1], None, WorkerLostError(f"The call was lost with its worker: {reason}."))
                        )
                self._queue.extendleft(sorted(place.under_way - place.started, reverse=True))
            case _:
                pass

    def _dispatch(self) -> None:
        """Hand calls to free slots; takes the guard itself."""
        with self._guard:
            session = self._session
            if session is None or not self._queue:
                return
            sleepers = [worker for worker, place in self._places.items() if place.asleep][: len(self._queue)]
            for worker in sleepers:
                self._places[worker].asleep = False
            bundles = [] if sleepers else self._bundles()
        for worker in sleepers:
            session.wake(worker)
        for bundle in bundles:
            session.perform(bundle)

    def _bundles(self) -> list[Bundle]:
        bundles = []
        for worker, place in self._places.items():
            while not place.pulls and len(place.under_way) < place.slots and (call := self._pop()) is not None:
                place.under_way.add(call.attempt)
                bundles.append(Bundle(worker, [call]))
        return bundles


def error_of(event: Finished) -> BaseException | None:
    """Return the exception that a terminal event stands for, None if it stands for a value."""
    if event.outcome == Outcome.COMPLETED:
        return None
    if event.outcome == Outcome.CANCELLED:
        return TaskCancelledError("The call was cancelled.")
    error = opened(event.value)
    return error if isinstance(error, BaseException) else TaskError(event.error or None)
