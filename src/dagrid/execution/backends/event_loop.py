"""An event loop in a thread of its own: where `async def` tasks run, a thousand at once without a thread for each.

It knows the port and asyncio; whose loop the caller may run in is no concern of it, for it never touches that one.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import CoroutineType
from typing import Any

from dagrid.attempt import Extra, Here, performing
from dagrid.errors import TaskError
from dagrid.execution.backends.base import BackendBase, Sessions, check_whole, closed_under
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host, opened

GRACE = 1.0
"""How many seconds tasks have to end when their session is closed."""
PATIENCE = 10.0
"""How many seconds a task has to end when it alone is cancelled."""


class EventLoopBackend(BackendBase):
    """Perform attempts as tasks of an asyncio event loop, which runs in a thread of its own.

    Good for work that waits. The loop begins with the first call of a run and ends with the run. A task that is cancelled or
    times out gets a `CancelledError` where it awaits, so its `finally` blocks run; one that has not ended ten seconds later is
    given up. There is one thread: a task that blocks (`time.sleep`, a long computation) holds up all the others, and can be
    cancelled only when it awaits again; let it await `asyncio.to_thread(...)`, or be a plain function, which runs elsewhere. Each
    task has its own copy of the context (`contextvars`) of the caller of the run.

    Args:
        max_tasks: how many attempts run at once.

    Raises:
        InvalidSettingError: max_tasks is less than 1.
    """

    name = "asyncio"
    capabilities = Capabilities(shares_memory=True, kills=True, cancels=True)

    def __init__(self, max_tasks: int = 1000) -> None:
        super().__init__()
        check_whole(max_tasks=max_tasks)
        self.max_tasks = max_tasks
        self.sessions: Sessions[EventLoopSession] = Sessions()

    def open(self, host: Host) -> EventLoopSession:
        """Begin to serve a run, with a loop of its own that starts when there is work for it."""
        self.check_open()
        session = EventLoopSession(self, host)
        self.sessions.add(session)
        session.announce(self.max_tasks)
        return session

    def release(self, wait: bool) -> None:
        """Cancel what runs, which fails, end every loop, and perform no more."""
        for session in self.sessions:
            session.refuse()


class _Flight:
    """An attempt that is with the loop; `began` is the turn in which it started, `told` where the turn's report says so."""

    __slots__ = ("began", "call", "cancelled", "started", "task", "told")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.started = UNSTARTED
        self.cancelled = False
        self.began = self.told = -1
        self.task: asyncio.Task[None] | None = None


class EventLoopSession:
    """One run's loop and its thread.

    Any thread may leave errands; only the loop's own touches flights and events. What happens in one turn of the loop is reported
    at once, at the beginning of the next turn, and what the host asks for in answer begins in that turn too.
    """

    def __init__(self, backend: EventLoopBackend, host: Host) -> None:
        self._backend = backend
        self._host = host
        self._worker = host.new_worker()
        self._context = contextvars.copy_context()
        self._own_context = self._context.copy()
        self._guard = threading.Lock()
        self._errands: deque[Callable[[], None]] = deque()
        self._flights: dict[int, _Flight] = {}
        # Those that end without a flight: a loop alone would let go of them.
        self._parting: set[asyncio.Task[None]] = set()
        self._events: list[Started | Finished | Recalled | None] = []
        self._turn = 0
        self._scheduled = False
        self._closed = self._refusing = self._refused = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def announce(self, slots: int) -> None:
        """Announce the worker."""
        self._host.report([WorkerJoined(self._worker, "event-loop", self._host.now(), slots, slots)])

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def perform(self, bundle: Bundle) -> None:
        if not self._post(partial(self._begin, bundle.calls)) and not self._closed:
            self._host.report([self._refusal(call, self._host.now()) for call in bundle.calls])

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._post(partial(self._give_back, attempts))

    def cancel(self, worker: int, attempt: int) -> None:
        self._post(partial(self._stop, attempt))

    def attend(self) -> None:
        """It has a thread."""

    def refuse(self) -> None:
        """The backend is closed: cancel what runs, end the loop, and fail that and all that is still asked for."""
        with self._guard:
            if not self._refusing and self._thread is not None:
                self._errands.append(self._refuse_all)
                self._ring()
            self._refusing = True
        self._join()

    def close(self) -> None:
        """Cancel what runs and wait for the end of the loop, but no longer than a task may be expected to take for that."""
        with self._guard:
            again, self._closed = self._closed, True
            if self._loop is not None and not (again or self._refusing):
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._backend.sessions.discard(self)
        self._join()

    def _join(self) -> None:
        """Wait for the end of the loop."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * GRACE)

    def _post(self, errand: Callable[[], None]) -> bool:
        """Let the loop's thread do something, which is started for the first errand; return whether it will."""
        with self._guard:
            if self._closed or self._refusing:
                return False
            self._errands.append(errand)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="dagrid-event-loop", daemon=True)
                self._thread.start()
            else:
                self._ring()
        return True

    def _ring(self) -> None:
        """Under the guard: have the loop look at its errands, if it is there and does not anyway."""
        if self._loop is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._take_turn, context=self._own_context)

    def _refusal(self, call: Call, started: float) -> Finished:
        error = closed_under(self._backend.name)
        return Finished(self._worker, call.attempt, Outcome.FAILED, started, self._host.now(), error)

    # --- in the loop's thread ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        loop = asyncio.new_event_loop()
        with self._guard:
            self._loop = loop
        self._soon(loop)
        while not (self._closed or self._refused):
            with suppress(SystemExit, KeyboardInterrupt):  # of a task that a task has started; it has the exception too
                loop.run_forever()
        try:
            _wind_up(loop)
        finally:
            with self._guard:
                self._loop = None
            loop.close()

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._take_turn, context=self._own_context)

    def _take_turn(self) -> None:
        """Report what happened since the last time, and do what was asked for since.

        Until the report is over nobody needs to wake the loop: that is said by `_scheduled`.
        """
        events, self._events = self._events, []
        self._turn += 1
        if events and not self._closed:
            self._host.report([event for event in events if event is not None])
        self._scheduled = False
        while self._errands and not self._closed:
            self._errands.popleft()()

    def _begin(self, calls: Sequence[Call]) -> None:
        loop = self._loop
        assert loop is not None
        for call in calls:
            flight = self._flights[call.attempt] = _Flight(call)
            flight.task = loop.create_task(self._perform(flight), name=call.node, context=self._context.copy())

    def _give_back(self, attempts: Sequence[int]) -> None:
        given = [attempt for attempt in attempts if attempt in self._flights and self._flights[attempt].began < 0]
        if not given:
            return
        for attempt in given:
            flight = self._flights.pop(attempt)
            assert flight.task is not None
            flight.task.cancel()
        self._tell(Recalled(self._worker, given, self._host.now()))

    def _stop(self, attempt: int) -> None:
        flight = self._flights.get(attempt)
        if flight is None:
            return
        flight.cancelled = True
        self._part(flight)
        if flight.began < 0:  # then it never begins, and cannot say so itself
            flight.started = self._host.now()
            self._end(flight, Outcome.CANCELLED)
        elif self._loop is not None:  # it may catch what ends it, and go on
            self._loop.call_later(PATIENCE, self._end, flight, Outcome.CANCELLED)

    def _part(self, flight: _Flight) -> None:
        assert flight.task is not None
        if flight.task not in self._parting:
            self._parting.add(flight.task)
            flight.task.add_done_callback(self._parting.discard)
        flight.task.cancel()

    def _refuse_all(self) -> None:
        """The last errand: what runs is cancelled, and has until the loop is wound up."""
        now = self._host.now()
        ended = [event for event in self._events if event is not None]
        flights = self._flights
        self._events, self._flights = [], {}
        for flight in flights.values():
            self._part(flight)
        left = [self._refusal(each.call, now if each.began < 0 else each.started) for each in flights.values()]
        self._host.report([*ended, *left])
        self._refused = True
        assert self._loop is not None
        self._loop.stop()

    async def _perform(self, flight: _Flight) -> None:
        call = flight.call
        here = Here(call)
        performing.set(here)
        flight.started = self._host.now()
        flight.began, flight.told = self._turn, len(self._events)
        self._tell(Started(self._worker, call.attempt, flight.started))
        try:
            args = [opened(value) for value in call.args]
            kwargs = {name: opened(value) for name, value in call.kwargs.items()} if call.kwargs else {}
            value = call.fn(*args, **kwargs)
            if type(value) is CoroutineType or isinstance(value, Awaitable):
                value = await value
        except asyncio.CancelledError as error:
            if flight.cancelled:
                self._end(flight, Outcome.CANCELLED)
            else:
                self._end(flight, Outcome.FAILED, _cancelled_itself(call.node, error))
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            self._end(flight, Outcome.FAILED, error)
        else:
            self._end(flight, Outcome.COMPLETED, value, here.take())
        finally:
            here.call = None

    def _end(self, flight: _Flight, outcome: Outcome, value: Any = None, extra: Extra | None = None) -> None:
        attempt = flight.call.attempt
        if self._flights.pop(attempt, None) is not flight:
            return
        if flight.began == self._turn:
            self._events[flight.told] = None  # its end says all
        self._tell(Finished(self._worker, attempt, outcome, flight.started, self._host.now(), value, extra=extra))

    def _tell(self, event: Started | Finished | Recalled) -> None:
        self._events.append(event)
        if self._loop is not None:
            self._soon(self._loop)


def _cancelled_itself(node: str, error: BaseException) -> TaskError:
    """Return the failure of a task that nobody cancelled; raised as it is, the error would cancel whoever reads the value."""
    failure = TaskError(f"The task of node {node!r} raised CancelledError, though nobody had cancelled it.", node)
    failure.__cause__ = error
    return failure


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs, give it a while to end, and shut down what hangs on the loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with suppress(SystemExit, KeyboardInterrupt):
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=GRACE))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
