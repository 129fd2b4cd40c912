"""Processes of the operating system as attempts: one thread starts them, reads what they write and sees them end.

It performs tasks that say what is to be started (`dagrid.commands.Command`) and no others. It knows the port; what a task says is
in the flight of its attempt, and what a process needs while it runs in the rooms below.
"""

from __future__ import annotations

import contextvars
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import msgspec

from dagrid.attempt import KEY
from dagrid.commands import Await, Launch, Request, Server, Thing, value_of
from dagrid.errors import BackendError, CommandError, TaskError
from dagrid.execution.backends._flight import Flight, Value, Waiting
from dagrid.execution.backends._running import Ground, Running
from dagrid.execution.backends._servers import Begun, Servers
from dagrid.execution.backends.base import BackendBase, Sessions, check_whole, closed_under
from dagrid.execution.carriers import carry
from dagrid.execution.watchdog import Guard, watchdog
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, PushHost

MOMENT = 0.02
"""So many seconds an attempt of a recorded run lasts before its start is told; of a shorter one it is told with its end."""


class CommandBackend(BackendBase):
    """Perform attempts whose task starts a process.

    One thread for each run starts the processes, each in a session and a process group of its own, and watches them all. What is
    cancelled or late is told to stop, and killed when its time of grace is over, with its whole group. When this process dies, by
    whatever, a small watchdog kills all groups that it had started.

    Args:
        max_workers: how many attempts are under way at once; by default as many as the machine has cores, or as `processes` says
            where that is more.
        processes: how many processes run at once; by default as many as attempts. What is too much waits here, in order, and an
            attempt that waits for its first process has not started.

    Raises:
        InvalidSettingError: max_workers or processes is less than 1.
    """

    name = "command"
    capabilities = Capabilities(shares_memory=True, kills=True, cancels=True)

    def __init__(self, max_workers: int | None = None, processes: int | None = None) -> None:
        super().__init__()
        check_whole(max_workers=max_workers, processes=processes)
        self.max_workers = max_workers if max_workers is not None else max(os.cpu_count() or 1, processes or 1)
        self.processes = processes if processes is not None else self.max_workers
        self.sessions: Sessions[CommandSession] = Sessions()
        self._prepared: list[Begun] = []

    def prepare(self, server: Server, mask: Sequence[str] = ()) -> None:
        """Start a warm process that will be asked soon, for the next session that starts anything, so that it is ready by then.

        Of one that cannot be started nobody is told before it is asked.

        Args:
            server: what it is started with.
            mask: what is secret in its last words.

        Raises:
            BackendClosedError: the backend is closed.
        """
        self.check_open()
        with suppress(CommandError):
            self._prepared.append(Begun(server, mask))

    def take_prepared(self) -> list[Begun]:
        """Return the processes that were prepared, which are the caller's from now on."""
        taken, self._prepared = self._prepared, []
        return taken

    def forget_prepared(self) -> None:
        """End the processes that were prepared for sessions that never came to start anything."""
        for begun in self.take_prepared():
            begun.end()

    def open(self, host: PushHost) -> CommandSession:
        """Begin to serve a run; the thread starts when there is work for it.

        Raises:
            BackendError: the system has no process groups.
        """
        self.check_open()
        if os.name != "posix":
            raise BackendError(
                "Commands need process groups and signals, which this system has not. Use Linux or macOS."
            )
        session = CommandSession(self, host)
        self.sessions.add(session)
        session.announce()
        return session

    def guard(self) -> Guard:
        """Return what ends processes that this one cannot end; asked in the thread of a session."""
        return watchdog()

    def release(self, wait: bool) -> None:
        """Stop what runs, which fails, end every thread and what was prepared, and perform no more."""
        for session in self.sessions:
            session.refuse()
        self.forget_prepared()


class CommandSession:
    """One run's processes, and the thread that has them.

    Any thread may leave errands; only the session's own touches flights, processes and events. It sleeps in one selector, on the
    ends of processes, on their output and on a bell that is rung for errands. What happened is reported before it sleeps again,
    and what the host asks for in answer is begun at once.
    """

    def __init__(self, backend: CommandBackend, host: PushHost) -> None:
        self._backend = backend
        self._host = host
        self._worker = host.new_worker()
        self._context = contextvars.copy_context()
        self._guard = threading.Lock()
        self._errands: deque[Callable[[], None]] = deque()
        self._flights: dict[int, Flight] = {}
        self._queue: deque[Flight] = deque()
        self._free = backend.processes
        self._untold: dict[int, Started] = {}
        self._events: list[Started | Finished | Recalled] = []
        self._closed = self._refusing = self._begun = self._rung = False
        self._over = threading.Event()
        self._ident = 0
        self._bell = -1

    def announce(self) -> None:
        """Announce the worker."""
        slots = self._backend.max_workers
        self._host.report([WorkerJoined(self._worker, "command", self._host.now(), slots, slots)])

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def perform(self, bundle: Bundle) -> None:
        if not self._post(partial(self._begin, bundle.calls)) and not self._closed:
            self._host.report([self._refusal(call) for call in bundle.calls])

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._post(partial(self._give_back, attempts))

    def cancel(self, worker: int, attempt: int) -> None:
        self._post(partial(self._cancel, attempt))

    def dismiss(self, servers: Iterable[Server]) -> None:
        """Nobody asks these any more: let their processes go."""
        self._post(lambda: self._servers.dismiss(servers))

    def attend(self) -> None:
        """It has a thread."""

    def close(self) -> None:
        """Stop what runs, kill it when its time of grace is over, and return when all of it is gone."""
        with self._guard:
            again, self._closed = self._closed, True
            if not again and self._begun:
                self._ring()
        self._backend.sessions.discard(self)
        self._await_end()

    def refuse(self) -> None:
        """The backend is closed: stop what runs as `close` does. That fails, as does all that is still asked for."""
        with self._guard:
            self._refusing = True
            if self._begun and not self._closed:
                self._ring()
        self._await_end()

    def _await_end(self) -> None:
        if self._begun and self._ident != threading.get_ident():
            self._over.wait()

    def _refusal(self, call: Call) -> Finished:
        now = self._host.now()
        return Finished(self._worker, call.attempt, Outcome.FAILED, now, now, closed_under(self._backend.name))

    def _post(self, errand: Callable[[], None]) -> bool:
        """Let the session's thread do something, which is started for the first errand; return whether it will."""
        with self._guard:
            if self._closed or self._refusing:
                return False
            self._errands.append(errand)
            if not self._begun:
                try:
                    self._start_thread()
                except OSError as error:
                    raise BackendError(
                        f"No command can be run: {error.strerror}. Let less be done at once, or allow more files (ulimit -n)."
                    ) from error
                self._begun = True
            elif not self._rung and self._ident != threading.get_ident():
                self._ring()
        return True

    def _start_thread(self) -> None:
        """Get what the thread needs, and start it; where there are too many open files, whoever posts something hears it."""
        with ExitStack() as opened:
            opened.callback(self._errands.clear)
            reading, bell = os.pipe()
            opened.callback(os.close, reading)
            opened.callback(os.close, bell)
            os.set_blocking(bell, False)
            ground = Ground(self._host.now, self._later, self._backend.guard())
            opened.callback(ground.close)
            ground.selector.register(reading, selectors.EVENT_READ)
            self._reading, self._bell, self._ground = reading, bell, ground
            self._servers = Servers(ground, self._backend.take_prepared())
            carry(self._serve, "dagrid-commands")
            opened.pop_all()

    def _ring(self) -> None:
        if self._bell >= 0:
            self._rung = True
            os.write(self._bell, b"\0")

    # --- in the session's thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._ident = threading.get_ident()
        try:
            while not (self._closed or self._refusing):
                self._take_turn()
            self._wind_up()
        finally:
            with self._guard:
                self._closed |= not self._refusing
                self._ident = 0
                for descriptor in (self._reading, self._bell):
                    os.close(descriptor)
                self._bell = -1
            self._ground.close()
            del self._ground, self._servers  # which have this session: it goes without the collector
            self._over.set()

    @property
    def _ends(self) -> bool:
        return self._closed or self._refusing

    def _take_turn(self) -> None:
        """Report what happened, do what was asked for, and sleep until there is more."""
        while (self._errands or self._events or (self._queue and self._free > 0)) and not self._ends:
            while self._errands:
                self._errands.popleft()()
            self._fill()
            events, self._events = self._events, []
            if events and not self._closed:
                self._host.report(events)
        self._sleep()

    def _sleep(self) -> None:
        patience = None
        if self._ends and not (self._flights or self._servers.alive):
            patience = 0.0
        elif self._untold:
            patience = max(0.0, next(iter(self._untold.values())).at + MOMENT - self._host.now())
        if self._ground.wait(patience):
            with self._guard:
                self._rung = False
                os.read(self._reading, 64)
        if self._untold:
            self._tell_starts(self._host.now() - MOMENT)

    def _tell_starts(self, until: float) -> None:
        """Tell of the attempts that began before a time, and have not ended."""
        for attempt, started in list(self._untold.items()):
            if started.at > until:
                return
            self._tell(self._untold.pop(attempt))

    def _later(self, errand: Callable[[], None]) -> None:
        """Let the session's thread do something, also when the session is being closed; from any thread."""
        with self._guard:
            self._errands.append(errand)
            self._ring()

    def _begin(self, calls: Sequence[Call]) -> None:
        if self._ends:
            self._events += [self._refusal(call) for call in calls]
            return
        for call in calls:
            flight = self._flights[call.attempt] = Flight(call, self._context.copy(), self._host.now())
            self._go_on(flight, flight.begin)

    def _go_on(self, flight: Flight, step: Callable[..., Thing | Value], *args: Any) -> None:
        """Let a task say what is next, and begin it."""
        while True:
            try:
                thing = step(*args)
            except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
                self._settle(flight, Outcome.FAILED, error)
                return
            if isinstance(thing, Value):
                self._settle(flight, Outcome.COMPLETED, thing.value)
                return
            if isinstance(thing, Await):
                refused = self._wait_for(flight, thing)
            elif self._queue or self._free < 1:
                flight.next = thing
                self._queue.append(flight)
                return
            else:
                refused = self._start(flight, thing)
            if refused is None:
                return
            step, args = flight.go_on, (None, refused)

    def _fill(self) -> None:
        """Begin what waited for a process to end."""
        while self._queue and self._free > 0:
            flight = self._queue.popleft()
            thing, flight.next = flight.next, None
            assert thing is not None
            refused = self._start(flight, thing)
            if refused is not None:
                self._go_on(flight, flight.go_on, None, refused)

    def _wait_for(self, flight: Flight, thing: Await) -> BaseException | None:
        """Begin what an attempt waits for, or return why it cannot be."""
        waiting = flight.doing = Waiting(partial(self._notified, flight), thing.parting)
        at = self._host.now()
        try:
            cancel = waiting.cancel = flight.context.run(thing.begin, waiting.notify)
            if cancel is not None and not callable(cancel):
                raise TaskError(
                    f"What begins an Await returns a function that cancels it, or None, not {type(cancel).__name__}.",
                    flight.call.node,
                )
        except BaseException as error:  # noqa: BLE001  # the task is told
            flight.doing = None
            waiting.forget()
            return error
        self._has_begun(flight, at)
        return None

    def _notified(self, flight: Flight, waiting: Waiting, value: Any, error: BaseException | None) -> None:
        self._post(partial(self._come, flight, waiting, value, error))

    def _come(self, flight: Flight, waiting: Waiting, value: Any, error: BaseException | None) -> None:
        """What was waited for has come, unless nobody waits for it any more."""
        if flight.doing is waiting:
            flight.doing = None
            waiting.forget()
            if flight.cancelled:
                self._abandon(flight)
            else:
                self._go_on(flight, flight.go_on, value, error)

    def _start(self, flight: Flight, thing: Launch | Request) -> Exception | None:
        """Start a process of an attempt, or let a warm one serve it; or return why that cannot be."""
        at = self._host.now()
        try:
            if isinstance(thing, Launch):
                if flight.call.key:
                    thing = msgspec.structs.replace(
                        thing, env={**(os.environ if thing.env is None else thing.env), KEY: flight.call.key}
                    )
                flight.doing = Running(self._ground, thing, partial(self._ended, flight), partial(self._fail, flight))
            else:
                flight.doing = self._servers.ask(thing, partial(self._answered, flight))
        except Exception as error:  # noqa: BLE001  # the task is told
            return error
        self._free -= 1
        self._has_begun(flight, at)
        return None

    def _has_begun(self, flight: Flight, at: float) -> None:
        """An attempt has begun when its first thing has."""
        if not flight.told:
            flight.told = True
            flight.started = at
            started = Started(self._worker, flight.call.attempt, at)
            if self._host.run and not flight.call.once:  # each event costs a write
                self._untold[flight.call.attempt] = started
            else:
                self._tell(started)

    def _ended(self, flight: Flight) -> None:
        """A process has ended and nothing more is read of it: what is known of it goes to the task."""
        running = flight.doing
        assert isinstance(running, Running)
        self._free += 1
        flight.doing = None
        if flight.steps is None:
            flight.ended = running.ended
        if flight.cancelled or self._ends:
            self._abandon(flight)
            return
        try:
            value: Any = running.launch.judged(running.exit())
            done = running.launch.done or (value_of if flight.steps is None else None)
            if done is not None:
                value = flight.context.run(done, value)
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            self._go_on(flight, flight.go_on, None, error)
        else:
            self._go_on(flight, flight.go_on, value, None)

    def _answered(self, flight: Flight, value: Any, error: BaseException | None) -> None:
        """A warm process has answered, or ended without an answer."""
        self._free += 1
        flight.doing = None
        if flight.cancelled or self._ends:
            self._abandon(flight)
        else:
            self._go_on(flight, flight.go_on, value, error)

    def _fail(self, flight: Flight, error: BaseException) -> None:
        """An attempt cannot go on, by a fault of ours or of the system; its process was killed."""
        self._free += 1
        flight.doing = None
        self._abandon(flight, error)

    def _cancel(self, attempt: int) -> None:
        flight = self._flights.get(attempt)
        if flight is not None:
            self._stop(flight)

    def _stop(self, flight: Flight) -> None:
        """Stop what is being done for an attempt; a single process that has ended already is not cancelled any more."""
        doing = flight.doing
        if isinstance(doing, Running):
            if flight.steps is None and doing.ended != UNSTARTED:
                return
            flight.cancelled = True
            doing.stop(doing.launch.stop_signal, doing.launch.grace)
        elif isinstance(doing, Waiting):
            flight.cancelled = True
            error = self._call_off(flight, doing)
            if not doing.parting or self._ends or error is not None:
                flight.doing = None
                doing.forget()
                self._abandon(flight, error)
        elif doing is not None:
            flight.cancelled = True
            doing.stop()
        else:
            flight.cancelled = True
            self._queue.remove(flight)
            self._abandon(flight)

    def _call_off(self, flight: Flight, waiting: Waiting) -> BaseException | None:
        """Cancel what an attempt waits for, and return what that raises."""
        try:
            if waiting.cancel is not None:
                flight.context.run(waiting.cancel)
        except BaseException as error:  # noqa: BLE001  # a fault of the task's, whose end is told as cancelled
            return error
        return None

    def _give_back(self, attempts: Sequence[int]) -> None:
        """Nothing is given back: a task has been called when it is here."""

    def _abandon(self, flight: Flight, error: BaseException | None = None) -> None:
        """Nothing more is done of an attempt."""
        late = flight.close()
        if self._refusing:
            self._settle(flight, Outcome.FAILED, closed_under(self._backend.name))
            return
        cancelled = flight.cancelled or self._closed
        self._settle(flight, Outcome.CANCELLED if cancelled else Outcome.FAILED, error or late)

    def _settle(self, flight: Flight, outcome: Outcome, value: Any) -> None:
        call = flight.call
        del self._flights[call.attempt]
        self._untold.pop(call.attempt, None)
        extra = flight.here.take() if outcome is Outcome.COMPLETED else None
        flight.here.call = None
        if isinstance(value, CommandError) and not value.node:
            value.node = call.node
        ended = flight.ended if flight.ended != UNSTARTED else self._host.now()
        self._tell(Finished(self._worker, call.attempt, outcome, flight.started, ended, value, extra=extra))

    def _tell(self, event: Started | Finished | Recalled) -> None:
        self._events.append(event)

    def _wind_up(self) -> None:
        """Stop what runs, wait until it has ended or was killed, and tell that if anybody wants to know."""
        for flight in list(self._flights.values()):
            self._stop(flight)
        self._servers.close()
        while self._errands or self._flights or self._servers.alive:
            while self._errands:
                self._errands.popleft()()
            self._sleep()
        events, self._events = self._events, []
        if events and not self._closed:
            self._host.report(events)
