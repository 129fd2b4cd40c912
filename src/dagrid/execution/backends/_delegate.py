"""Calls that ask for resources or labels, each performed as a task of the engine, which finds a worker that has them.

A run sees one worker that delegates, with as many slots as tasks may be under way in the engine, so that a graph of a million
nodes does not flood it. What an engine has to do for one task is a `Launcher`. This room knows the port; neither the engines, nor
what a run decides.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, sleep, time
from typing import Any, Protocol

from dagrid.errors import BackendError
from dagrid.execution.backends import _remote
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import PATIENCE, Reports, Sessions, closed_under
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Host, Needs
from dagrid.ports import Session as AnySession

IN_FLIGHT = 64
"""How many tasks may be under way in an engine, at least."""
LEAST, MOST = 0.001, 0.01
"""Seconds between two looks at a crowd of tasks, of which about a `SHARE` has ended by the next one."""
SHARE = 0.5
PAUSE = 0.25
"""After so many seconds an engine in which tasks wait is told so, and again."""


class Flight:
    """A call under way as a task of the engine. The launcher reads it, and says what becomes of it, from any thread.

    Attributes:
        node: the name of the node.
        sent: the call as bytes, for `_remote.perform_apart`.
        references: handles of values that the call takes, in the order in which it wants them.
        needs: what the node asks for.
        handle: the launcher's own.
        watched: whether the launcher says by itself how it ends; else it is asked, see `Crowd`.
    """

    __slots__ = (
        "_desk",
        "begun_at",
        "call",
        "cancelled",
        "handle",
        "launched_at",
        "needs",
        "references",
        "sent",
        "told",
        "watched",
    )

    def __init__(self, desk: Delegation, call: Call) -> None:
        self._desk = desk
        self.call = call
        self.needs: Needs = call.needs or Needs()
        self.sent = b""
        self.references: Sequence[Any] = ()
        self.handle: Any = None
        self.cancelled = self.told = False
        self.watched = True
        self.launched_at = self.begun_at = UNSTARTED

    @property
    def node(self) -> str:
        return self.call.node

    def begun(self, at: float) -> None:
        """It runs since this time of day; need not be said of short ones, and not before `landed` or `failed`."""
        self._desk.do(self._desk.begin, self, at)

    def landed(self, report: bytes, kept: Any = None) -> None:
        """It is over; `kept` is the handle of a value that stays where it was made."""
        self._desk.do(self._desk.land, self, report, kept)

    def failed(self, outcome: Outcome, error: BaseException) -> None:
        """There will be no report: LOST with its worker, CANCELLED, or FAILED."""
        self._desk.do(self._desk.fail, self, outcome, error)


class Launcher(Protocol):
    """What an engine does for calls that are tasks of its own. It is called from one thread for each run."""

    def launch(self, flight: Flight) -> None:
        """Begin a task with the needs of a flight, and return at once; what it raises fails the flight."""
        ...

    def cancel(self, flight: Flight) -> None:
        """Stop a task, by force where possible; the answer is `landed` or `failed` of the flight, whatever came first."""
        ...

    def waiting(self, flights: Sequence[Flight], moving: bool) -> None:
        """These have not begun for a while; `moving` says whether others run or have ended lately.

        An engine whose workers hold what tasks wait for lets some of them go.
        """
        ...


class Crowd(Protocol):
    """An engine in which looking at many tasks at once costs less than to be told of each one's end."""

    def look(self, flights: Sequence[Flight]) -> None:
        """Say how those have ended that have; at once."""
        ...

    def watch(self, flights: Sequence[Flight]) -> None:
        """Say of each how it ends, when it does; there are few now, and nobody looks."""
        ...


class Delegation:
    """One run's use of an engine that finds places for tasks by itself: one worker of the run, which delegates.

    Args:
        host: of the run.
        launcher: the engine.
        depot: of the engine.
        name: of the worker.
        slots: how many tasks may be under way.
        among: the others of the backend, which refuses them all when it is closed.
        crowd: looks at the flights that are not `watched`, as long as there are so many that all workers have enough to do.
    """

    def __init__(
        self,
        host: Host,
        launcher: Launcher,
        depot: _remote.Depot,
        name: str,
        among: Sessions[Delegation],
        slots: int = IN_FLIGHT,
        crowd: Crowd | None = None,
    ) -> None:
        self._host = host
        self._launcher = launcher
        self._depot = depot
        self._name = name
        self._crowd = crowd
        self._many = max(2, slots // 4)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reports = Reports(host)
        self._flights: dict[int, Flight] = {}
        self._functions: dict[int, tuple[bytes, Callable[..., Any]]] = {}
        self._named: dict[str, int] = {}
        self._look_at = 0.0
        self._moment = MOST
        self._moved = self._refusing = False
        self._among = among
        among.add(self)
        self._shift = host.now() - time()
        self.worker = host.new_worker()
        host.report([WorkerJoined(self.worker, name, host.now(), slots, slots, delegates=True)])

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def attend(self) -> None:
        """It has a thread of its own."""

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """What the engine has got it keeps: nobody else could take it."""

    def perform(self, bundle: Bundle) -> None:
        if self._refusing:
            self._reports.refuse(bundle.worker, bundle.calls, closed_under(self._name))
            return
        if self._thread is None and not self._reports.closed:
            self._thread = threading.Thread(target=self._loop, name=f"dagrid-{self._name}-tasks", daemon=True)
            self._thread.start()
        for call in bundle.calls:
            self.do(self._launch, call)

    def cancel(self, worker: int, attempt: int) -> None:
        self.do(self._cancel, attempt)

    def refuse(self) -> None:
        """The backend is closed: stop what is under way. That fails, as does all that is still asked for."""
        self._refusing = True
        if self._thread is not None:
            done = threading.Event()
            self.do(self._refuse_all, done)
            done.wait(0 if self._thread is threading.current_thread() else PATIENCE)

    def close(self) -> None:
        """Stop what is under way; nothing is reported any more."""
        self._among.discard(self)
        if not self._reports.shut():
            return
        self.do(lambda: None)
        self._reports.settle()

    # What runs in the thread.

    def do(self, action: Callable[..., None], *args: Any) -> None:
        """Let the thread do something; may be called from any thread and never blocks."""
        self._inbox.put(partial(action, *args))

    def _loop(self) -> None:
        while not self._reports.closed:
            try:
                self._await()
                for _ in range(self._inbox.qsize()):
                    if self._reports.closed:
                        break
                    self._inbox.get()()
                if self._look_at <= monotonic():
                    self._look()
            except Exception as error:  # noqa: BLE001 - the engine's, such as the end of its session
                for flight in list(self._flights.values()):
                    self.fail(flight, Outcome.FAILED, self._refusal(flight, error))
            if self._reports.events:
                self._reports.deliver()
        for flight in self._flights.values():
            self._stop(flight)
        self._flights.clear()
        self._functions.clear()
        self._reports.events.clear()

    def _await(self) -> None:
        """Let something happen, or some time pass."""
        if not self._inbox.empty():
            return
        unwatched = [flight for flight in self._flights.values() if not flight.watched]
        if unwatched and self._crowd is not None:
            if len(self._flights) >= self._many:
                sleep(self._moment)
                self._crowd.look(unwatched)
                ended = max(self._inbox.qsize(), 1)
                self._moment = min(max(self._moment * SHARE * len(self._flights) / ended, LEAST), MOST)
                return
            for flight in unwatched:
                flight.watched = True
            self._crowd.watch(unwatched)
        with suppress(queue.Empty):
            self._inbox.get(timeout=PAUSE if self._flights else None)()

    def _look(self) -> None:
        """Tell the engine if tasks have been waiting in it since the last look."""
        now = self._host.now()
        waiting = [flight for flight in self._flights.values() if not flight.told and flight.launched_at + PAUSE <= now]
        if waiting:
            moving = self._moved or any(flight.told for flight in self._flights.values())
            self._launcher.waiting(waiting, moving)
        self._moved = False
        self._look_at = monotonic() + PAUSE

    def _refuse_all(self, done: threading.Event) -> None:
        for flight in list(self._flights.values()):
            self._stop(flight)
            self.fail(flight, Outcome.FAILED, closed_under(self._name))
        done.set()

    def _launch(self, call: Call) -> None:
        flight = self._flights[call.attempt] = Flight(self, call)
        flight.launched_at = self._host.now()
        if self._refusing:
            self._end(flight, Outcome.FAILED, closed_under(self._name))
            return
        references: list[_remote.Reference] = []
        try:
            flight.sent = _remote.order(call, self._function_of(call), references)
        except Exception as error:  # noqa: BLE001 - what is the user's cannot be pickled
            self._end(flight, Outcome.FAILED, error)
            return
        flight.references = [reference.handle for reference in references]
        try:
            self._launcher.launch(flight)
        except Exception as error:  # noqa: BLE001 - engines raise all kinds, the end of their session among them
            self._end(flight, Outcome.FAILED, self._refusal(flight, error))

    def _refusal(self, flight: Flight, error: Exception) -> BackendError:
        made = BackendError(f"The backend {self._name!r} could not perform node {flight.node!r}: {told(error)}")
        made.__cause__ = error
        return made

    def _function_of(self, call: Call) -> bytes:
        """Return its function, which is pickled once, and kept, so that its id is its own."""
        found = self._functions.get(id(call.fn))
        if found is None:
            found = self._functions[id(call.fn)] = (encode_function(call), call.fn)
        return found[0]

    def _cancel(self, attempt: int) -> None:
        flight = self._flights.get(attempt)
        if flight is not None:
            flight.cancelled = True
            self._stop(flight)

    def _stop(self, flight: Flight) -> None:
        try:
            self._launcher.cancel(flight)
        except Exception as error:  # noqa: BLE001 - the engine is gone, and the task with it
            self.fail(flight, Outcome.CANCELLED, error)

    def begin(self, flight: Flight, at: float) -> None:
        """Report that a task has begun."""
        if self._flights.get(flight.call.attempt) is not flight or flight.told:
            return
        flight.told = True
        flight.begun_at = self._sensible(flight, at + self._shift)
        self._reports.events.append(Started(self.worker, flight.call.attempt, flight.begun_at))

    def land(self, flight: Flight, sent_back: bytes, kept: Any) -> None:
        """Report how a task ended, as its own report has it."""
        if self._flights.get(flight.call.attempt) is not flight:
            return
        report = _remote.read(sent_back)
        del self._flights[flight.call.attempt]
        self._moved = True
        call = flight.call
        event = _remote.finished(
            report,
            call,
            self.worker,
            self._host.draw(),
            self._shift,
            lambda size: self._depot.reference(kept, size, call.node),
        )
        event.started = flight.begun_at if flight.told else self._sensible(flight, event.started)
        event.ended = min(max(event.started, event.ended), self._host.now())
        event.by = self._number_of(report.worker)
        self._reports.events.append(event)

    def fail(self, flight: Flight, outcome: Outcome, error: BaseException) -> None:
        """Report the end of a task that has no report."""
        if self._flights.get(flight.call.attempt) is flight:
            self._end(flight, Outcome.CANCELLED if flight.cancelled else outcome, error)

    def _end(self, flight: Flight, outcome: Outcome, error: BaseException) -> None:
        del self._flights[flight.call.attempt]
        now = self._host.now()
        started = flight.begun_at if flight.told else now
        event = Finished(self.worker, flight.call.attempt, outcome, started, now)
        if outcome == Outcome.LOST:
            event.error = " ".join(str(error).split()).rstrip(".") or told(error)
        elif outcome == Outcome.FAILED:
            event.value, event.error, event.retryable, event.draw = error, told(error), False, self._host.draw()
        self._reports.events.append(event)

    def _sensible(self, flight: Flight, at: float) -> float:
        """The clocks of two machines differ; nothing has begun before it was sent, or after it was heard of."""
        return min(max(flight.launched_at, at), self._host.now())

    def _number_of(self, name: str) -> int:
        number = self._named.get(name, -1)
        if number < 0:
            number = self._named[name] = self._host.new_worker()
            self._reports.events.append(WorkerJoined(number, name, self._host.now(), slots=0, window=0))
        return number


class Joined:
    """A session made of two: the calls for the worker that delegates go to one, all others to the other."""

    def __init__(self, others: AnySession, delegation: Delegation) -> None:
        self._others = others
        self._delegation = delegation

    def _session_of(self, worker: int) -> AnySession:
        return self._delegation if worker == self._delegation.worker else self._others

    def wake(self, worker: int) -> None:
        self._session_of(worker).wake(worker)

    def perform(self, bundle: Bundle) -> None:
        self._session_of(bundle.worker).perform(bundle)

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._session_of(worker).recall(worker, attempts)

    def cancel(self, worker: int, attempt: int) -> None:
        self._session_of(worker).cancel(worker, attempt)

    def attend(self) -> bool | None:
        return self._others.attend()

    def close(self) -> None:
        self._delegation.close()
        self._others.close()
