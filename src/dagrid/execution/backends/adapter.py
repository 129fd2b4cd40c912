"""Whoever has the four public methods is a backend: this room turns such a stranger into one that the engine can speak
to.

It knows only the four methods, and of the stranger's futures what everybody's have: perhaps `add_done_callback`,
perhaps `cancel`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from dagrid.attempt import Left, carried
from dagrid.errors import BackendClosedError
from dagrid.execution.backends.base import PATIENCE, Reports, closed_under
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Backend, Bundle, Call, Capabilities, FourMethods, Host, opened

DEFAULT_SLOTS = 32
_CANCELLED = (concurrent.futures.CancelledError, asyncio.CancelledError)


def adapt(stranger: FourMethods) -> Backend:
    """Make a backend of any object with `name`, `submit`, `result` and `shutdown`.

    It is one worker with as many slots as the stranger says (`slots` or `max_workers`, else 32): the calls that may be
    with it at once. A stranger does not say when it begins a call, so that a call counts as started when it is
    submitted, and a timeout runs from there. A call is cancelled by its future's `cancel`, if there is one; a call that
    this does not end keeps its slot.

    Args:
        stranger: the object; its lifetime is the user's, and closing the backend is what shuts it down.

    Returns:
        A backend that also keeps the four methods.

    Raises:
        TypeError: if one of the four is missing.
    """
    missing = [name for name in ("name", "submit", "result", "shutdown") if not hasattr(stranger, name)]
    if missing:
        raise TypeError(f"{stranger!r} is no backend: it has no {', '.join(missing)}. Give it the missing methods.")
    return StrangerBackend(stranger)


class StrangerBackend:
    """A stranger's four methods behind the engine's socket; see `adapt`."""

    def __init__(self, stranger: FourMethods) -> None:
        self.stranger = stranger
        self._sessions: list[_Session] = []
        self._lock = threading.Lock()
        # A stranger need not expect to be asked for two things at once; only results are waited for by several threads.
        self._asking = threading.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        return self.stranger.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def open(self, host: Host) -> _Session:
        with self._lock:
            self._refuse_if_closed()
            session = _Session(self.stranger, host, _slots_of(self.stranger), self._asking)
            self._sessions = [known for known in self._sessions if not known.reports.closed]
            self._sessions.append(session)
        session.announce()
        return session

    def close(self, wait: bool = True) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            sessions = self._sessions
        for session in sessions:
            session.refuse()
        self.stranger.shutdown(wait=wait)
        for session in sessions:
            session.refuse_rest(PATIENCE if wait else 0.0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hand a call to the stranger and return its future."""
        self._refuse_if_closed()
        return self.stranger.submit(fn, *args, **kwargs)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        """Return the value of a future of the stranger's, or raise its exception; `timeout` in seconds."""
        return self.stranger.result(future, timeout)

    def shutdown(self, wait: bool = True) -> None:
        """Close this backend and the stranger with it."""
        self.close(wait)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BackendClosedError(
                f"The backend {self.name!r} is closed. Make a new one, or submit before you close it."
            )


def _slots_of(stranger: FourMethods) -> int:
    for name in ("slots", "max_workers"):
        found = getattr(stranger, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return DEFAULT_SLOTS


class _Once:
    """A function that is not the same as itself, so that an engine that remembers values by function and arguments runs
    it again.

    A stranger that pickles sends the function alone; what arrives needs nothing of this package, unless the node says
    that it may append to the graph.
    """

    def __init__(self, call: Call) -> None:
        fn = self.fn = call.fn
        self._carried = functools.partial(carried, fn, call.node, call.attempt)
        self._grows = call.grows
        self._token = uuid.uuid4().hex
        self.__name__ = str(getattr(fn, "__name__", type(fn).__name__))
        self.__qualname__ = str(getattr(fn, "__qualname__", self.__name__))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._carried(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._grows:
            return self._carried.__reduce__()  # type: ignore[return-value]
        return functools.partial, (self.fn,)

    def __dask_tokenize__(self) -> object:
        return self._token


class _Flight:
    """A call that the stranger has."""

    __slots__ = ("attempt", "call", "cancelled", "future", "started")

    def __init__(self, call: Call, started: float) -> None:
        self.attempt = call.attempt
        self.call = call
        self.started = started
        self.future: Any = None
        self.cancelled = False


class _Session:
    """One run's use of a stranger.

    `submit`, `cancel` and `result` of a stranger may block: one thread submits and cancels, others wait for results. A
    future that calls back is waited for only when it is done, so that one or two waiting threads are enough for it.
    """

    def __init__(self, stranger: FourMethods, host: Host, slots: int, asking: threading.Lock) -> None:
        self._stranger = stranger
        self._host = host
        self._slots = slots
        self._asking = asking
        self._worker = host.new_worker()
        self._lock = threading.Condition()
        self.reports = Reports(host)
        self._waiting: dict[int, Call] = {}
        self._flights: dict[int, _Flight] = {}
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()
        self._refusing = False
        self._waiters = 0
        self._idle = 0
        self._context = copy_context()

    def announce(self) -> None:
        self._start_thread(self._run_errands, "submit")
        joined = WorkerJoined(self._worker, self._stranger.name, self._host.now(), self._slots, self._slots)
        self.reports.tell([joined])

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def attend(self) -> None:
        """It needs no thread of the caller's."""

    def perform(self, bundle: Bundle) -> None:
        with self._lock:
            refusing = self._refusing
            if not (refusing or self.reports.closed):
                self._waiting.update((call.attempt, call) for call in bundle.calls)
        if refusing:
            self.reports.refuse(bundle.worker, bundle.calls, closed_under(self._stranger.name))
            return
        for call in bundle.calls:
            self._errands.put(functools.partial(self._submit, call.attempt))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        with self._lock:
            found = [attempt for attempt in attempts if self._waiting.pop(attempt, None) is not None]
        if found:
            self.reports.tell([Recalled(worker, found, self._host.now())])

    def cancel(self, worker: int, attempt: int) -> None:
        with self._lock:
            unstarted = self._waiting.pop(attempt, None) is not None
            flight = self._flights.get(attempt)
            if flight is not None:
                flight.cancelled = True
        if unstarted:
            now = self._host.now()
            self.reports.tell([Finished(worker, attempt, Outcome.CANCELLED, now, now)])
        elif flight is not None:
            self._errands.put(functools.partial(_cancel, flight))

    def refuse(self) -> None:
        """The backend is closed: fail what the stranger has not got, and all that is still asked for."""
        with self._lock:
            self._refusing = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        self.reports.refuse(self._worker, waiting, closed_under(self._stranger.name))

    def refuse_rest(self, patience: float) -> None:
        """Fail what the stranger has not answered within some seconds."""
        with self._lock:
            self._lock.wait_for(lambda: not self._flights, patience)
        self._errands.put(self._refuse_flights)  # behind what has been told of them there

    def _refuse_flights(self) -> None:
        self.reports.refuse(self._worker, self._let_go(), closed_under(self._stranger.name))

    def close(self) -> None:
        if not self.reports.shut():
            return
        self.reports.settle()
        self._let_go()

    def _let_go(self) -> list[Call]:
        """End the threads and cancel what the stranger has; return the calls of that."""
        with self._lock:
            flights = list(self._flights.values())
            self._waiting.clear()
            self._flights.clear()
            waiters, self._waiters = self._waiters, 0
        for flight in flights:
            self._errands.put(functools.partial(_cancel, flight))
        self._errands.put(None)
        for _ in range(waiters):
            self._done.put(None)
        return [flight.call for flight in flights]

    def _start_thread(self, target: Callable[[], None], what: str) -> None:
        name = f"dagrid-{self._stranger.name}-{what}"
        threading.Thread(target=self._context.copy().run, args=(target,), name=name, daemon=True).start()

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand()

    def _submit(self, attempt: int) -> None:
        with self._lock:
            call = self._waiting.pop(attempt, None)
            if call is None:
                return
            flight = self._flights[attempt] = _Flight(call, self._host.now())
        self.reports.tell([Started(self._worker, attempt, flight.started)])
        try:
            args = [opened(value) for value in call.args]
            kwargs = {name: opened(value) for name, value in (call.kwargs or {}).items()}
            with self._asking:
                flight.future = self._stranger.submit(_Once(call), *args, **kwargs)
            call_back = getattr(flight.future, "add_done_callback", None)
            if call_back is not None:
                call_back(lambda _future: self._collect(flight))
        except BaseException as error:  # noqa: BLE001 - whatever a stranger raises is the outcome of the attempt
            self._settle(flight, Outcome.FAILED, error)
            return
        if call_back is None:
            self._collect(flight)
        if flight.cancelled:
            _cancel(flight)

    def _collect(self, flight: _Flight) -> None:
        """Let a waiting thread fetch the result: never one of the stranger's, which may be the one that makes it."""
        with self._lock:
            if flight.attempt not in self._flights:
                return
            more = self._waiters < self._slots and self._idle <= self._done.qsize()
            self._waiters += more
        self._done.put(flight)
        if more:
            self._start_thread(self._wait_for_results, "result")

    def _wait_for_results(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            flight = self._done.get()
            with self._lock:
                self._idle -= 1
            if flight is None:
                return
            try:
                value = self._stranger.result(flight.future)
            except BaseException as error:  # noqa: BLE001 - whatever the task raised is the outcome of the attempt
                stopped = flight.cancelled and isinstance(error, _CANCELLED)
                self._settle(flight, Outcome.CANCELLED if stopped else Outcome.FAILED, error)
            else:
                self._settle(flight, Outcome.COMPLETED, value)
            del flight

    def _settle(self, flight: _Flight, outcome: Outcome, value: Any) -> None:
        with self._lock:
            if self._flights.pop(flight.attempt, None) is not flight:
                return
            self._lock.notify_all()
        text = f"{type(value).__name__}: {value}" if outcome is Outcome.FAILED else ""
        end = self._host.now()
        draw = self._host.draw() if text else 0.0
        value, extra = (value.value, value.extra) if isinstance(value, Left) else (value, None)
        done = Finished(self._worker, flight.attempt, outcome, flight.started, end, value, text, draw=draw, extra=extra)
        self.reports.tell([done])


def _cancel(flight: _Flight) -> None:
    cancel = getattr(flight.future, "cancel", None)
    if cancel is None:
        return
    try:
        cancel()
    except Exception:  # noqa: BLE001 - a stranger that cannot cancel ends the call in its own time
        pass
