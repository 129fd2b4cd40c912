"""Processes of the operating system as attempts: one thread starts them, reads what they write and sees them end.

It performs tasks that say what is to be started (`dagrid.commands.Command`) and no others. It knows the port; how a process is
started is in the room beside it.
"""

from __future__ import annotations

import contextvars
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dagrid.attempt import Here, performing
from dagrid.commands import Launch, value_of
from dagrid.errors import BackendError, CommandError, InvalidSettingError, TaskError
from dagrid.execution.backends._carriers import carry
from dagrid.execution.backends._launching import KILL, Process
from dagrid.execution.backends._watchdog import Watchdog
from dagrid.execution.backends.base import BackendBase, Sessions
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host, opened

READ_SIZE = 1 << 16
DRAIN = 0.2
"""How many seconds what a process wrote is read after its end, where somebody it left behind holds its pipes."""
FIRST_LOOK, LAST_LOOK = 0.005, 0.1
"""After how many seconds a group that was told to stop, and has lost its first process, is looked at again."""
PARTING = 1.0
"""How many seconds killed processes have to go when their session is closed."""


class CommandBackend(BackendBase):
    """Perform attempts whose task starts a process.

    One thread for each run starts the processes, each in a session and a process group of its own, and watches them all. What is
    cancelled or late is told to stop, and killed when its time of grace is over, with its whole group. When this process dies, by
    whatever, a small watchdog kills all groups that it had started.

    Args:
        max_workers: how many processes run at once; by default as many as the machine has cores.

    Raises:
        InvalidSettingError: max_workers is less than 1.
    """

    name = "command"
    capabilities = Capabilities(shares_memory=True, kills=True, cancels=True)

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__()
        if max_workers is not None and max_workers < 1:
            raise InvalidSettingError(f"max_workers is a whole number from 1 up, not {max_workers!r}.")
        self.max_workers = max_workers if max_workers is not None else os.cpu_count() or 1
        self.sessions: Sessions[CommandSession] = Sessions()

    def open(self, host: Host) -> CommandSession:
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
        session.announce(self.max_workers)
        return session

    def release(self, wait: bool) -> None:
        """End every session and what it runs."""
        for session in self.sessions:
            session.close()


class _Flight:
    """An attempt that is here: from its call to the end of its process and of its group.

    `stopping` says since when its group has been told to stop; `due` when something has to be done about it, and `look` after how
    long it is looked at again.
    """

    __slots__ = (
        "call", "cancelled", "context", "due", "ended", "here", "kill_at", "launch", "look", "pidfd", "process", "started",
    )  # fmt: skip

    def __init__(self, call: Call, context: contextvars.Context) -> None:
        self.call = call
        self.context = context
        self.here = Here(call)
        self.launch: Launch | None = None
        self.process: Process | None = None
        self.pidfd = -1
        self.started = self.ended = UNSTARTED
        self.cancelled = False
        self.kill_at = self.due = 0.0
        self.look = FIRST_LOOK


class CommandSession:
    """One run's processes, and the thread that has them.

    Any thread may leave errands; only the session's own touches flights, processes and events. It sleeps in one selector, on the
    ends of processes, on their output and on a bell that is rung for errands. What happened is reported before it sleeps again,
    and what the host asks for in answer is begun at once.
    """

    def __init__(self, backend: CommandBackend, host: Host) -> None:
        self._backend = backend
        self._host = host
        self._worker = host.new_worker()
        self._context = contextvars.copy_context()
        self._guard = threading.Lock()
        self._errands: deque[Callable[[], None]] = deque()
        self._flights: dict[int, _Flight] = {}
        self._due: set[_Flight] = set()
        self._events: list[Started | Finished | Recalled] = []
        self._closed = self._begun = self._rung = False
        self._over = threading.Event()
        self._ident = 0
        self._bell = -1

    def announce(self, slots: int) -> None:
        """Announce the worker."""
        self._slots = slots
        self._host.report([WorkerJoined(self._worker, "command", self._host.now(), slots, slots)])

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def perform(self, bundle: Bundle) -> None:
        self._post(partial(self._begin, bundle.calls))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._post(partial(self._give_back, attempts))

    def cancel(self, worker: int, attempt: int) -> None:
        self._post(partial(self._cancel, attempt))

    def attend(self) -> None:
        """It has a thread."""

    def close(self) -> None:
        """Stop what runs, kill it when its time of grace is over, and return when all of it is gone."""
        with self._guard:
            again, self._closed = self._closed, True
            if not again and self._begun:
                self._ring()
        self._backend.sessions.discard(self)
        if self._begun and self._ident != threading.get_ident():
            self._over.wait()

    def _post(self, errand: Callable[[], None]) -> None:
        """Let the session's thread do something, which is started for the first errand."""
        with self._guard:
            if self._closed:
                return
            self._errands.append(errand)
            if not self._begun:
                self._begun = True
                self._reading, self._bell = os.pipe()
                os.set_blocking(self._bell, False)
                carry(self._serve, "dagrid-commands")
            elif not self._rung and self._ident != threading.get_ident():
                self._ring()

    def _ring(self) -> None:
        if self._bell >= 0:
            self._rung = True
            os.write(self._bell, b"\0")

    # --- in the session's thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._ident = threading.get_ident()
        try:
            self._null = os.open(os.devnull, os.O_RDWR)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._reading, selectors.EVENT_READ)
            self._watchdog = Watchdog(self._slots)
            while not self._closed:
                self._take_turn()
            self._wind_up()
        finally:
            with self._guard:
                self._closed = True
                self._ident = 0
                for descriptor in (self._reading, self._bell, self._null):
                    os.close(descriptor)
                self._bell = -1
            self._selector.close()
            self._watchdog.close()
            self._over.set()

    def _take_turn(self) -> None:
        """Report what happened, do what was asked for, and sleep until there is more."""
        while (self._errands or self._events) and not self._closed:
            while self._errands:
                self._errands.popleft()()
            events, self._events = self._events, []
            if events and not self._closed:
                self._host.report(events)
        self._sleep()

    def _sleep(self) -> None:
        now = self._host.now()
        timeout = max(0.0, min(flight.due for flight in self._due) - now) if self._due else None
        for key, _ in self._selector.select(0 if self._closed and not self._flights else timeout):
            if key.data is None:
                self._answer_bell()
            else:
                self._guarded(key.data[0], *key.data[1:])
        if self._due:
            now = self._host.now()
            for flight in [flight for flight in self._due if flight.due <= now]:
                self._guarded(flight, self._look_at, now)

    def _guarded(self, flight: _Flight, action: Callable[..., object], *args: Any) -> None:
        """Do something about a flight; what goes wrong with it, by a fault of ours or of the system, is no harm to others."""
        try:
            action(flight, *args)
        except Exception as error:  # noqa: BLE001  # the thread serves the others
            self._fail(flight, error)

    def _answer_bell(self) -> None:
        with self._guard:
            self._rung = False
            os.read(self._reading, 64)

    def _begin(self, calls: Sequence[Call]) -> None:
        for call in () if self._closed else calls:
            flight = self._flights[call.attempt] = _Flight(call, self._context.copy())
            flight.started = self._host.now()
            try:
                self._start(flight)
            except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
                self._fail(flight, error)
            else:
                self._tell(Started(self._worker, call.attempt, flight.started))

    def _start(self, flight: _Flight) -> None:
        """Ask the task what is to be started, and start it."""
        call = flight.call
        args = [opened(value) for value in call.args]
        kwargs = {name: opened(value) for name, value in call.kwargs.items()} if call.kwargs else {}
        flight.context.run(performing.set, flight.here)
        launch = flight.context.run(call.fn, *args, **kwargs)
        if not isinstance(launch, Launch):
            raise TaskError(
                f"The task of node {call.node!r} returned {type(launch).__name__}. A Command returns a Launch; for any other "
                f"value use a plain function.",
                call.node,
            )
        flight.launch = launch
        flight.started = self._host.now()
        process = flight.process = Process(launch, self._null)
        self._watchdog.add(process.pid)
        for descriptor in process.pipes:
            self._selector.register(descriptor, selectors.EVENT_READ, (flight, self._read, descriptor))
        self._await_end(flight, process)

    def _await_end(self, flight: _Flight, process: Process) -> None:
        """See to it that the end of a process is noticed: by a descriptor, or where there is none, by a thread."""
        try:
            flight.pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            wait = partial(self._wait_in_thread, flight, process.pid)
            threading.Thread(target=wait, name=f"dagrid-command-{process.pid}", daemon=True).start()
        else:
            self._selector.register(flight.pidfd, selectors.EVENT_READ, (flight, self._ended))

    def _wait_in_thread(self, flight: _Flight, pid: int) -> None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        with self._guard:
            self._errands.append(partial(self._guarded, flight, self._ended))
            self._ring()

    def _read(self, flight: _Flight, descriptor: int) -> bool:
        """Read once what a process wrote; its last bytes may be what was waited for."""
        process = flight.process
        if process is None or descriptor not in process.pipes:
            return False
        more = process.read(descriptor, READ_SIZE)
        if descriptor not in process.pipes:
            self._selector.unregister(descriptor)
            if flight.ended != UNSTARTED and not process.pipes and not flight.cancelled:
                self._conclude(flight)
        return more

    def _ended(self, flight: _Flight) -> None:
        """The process has ended: kill what is left of its group, and read what is left in its pipes."""
        process = flight.process
        if process is None or process.ended:
            return
        if not flight.cancelled:
            process.kill(KILL)  # its number is still its own
        self._watchdog.remove(process.pid)
        if not process.collect():
            return
        flight.ended = self._host.now()
        self._unwatch(flight)
        self._drain(flight, process)
        if flight.cancelled:
            self._look_at(flight, flight.ended)
            return
        if flight.process is None:
            return
        if process.pipes:
            flight.due = flight.ended + DRAIN
            self._due.add(flight)
        else:
            self._conclude(flight)

    def _drain(self, flight: _Flight, process: Process) -> None:
        """Read what is in the pipes: as much as a large one holds, for who writes on is not waited for."""
        for descriptor in list(process.pipes):
            for _ in range(16):
                if not self._read(flight, descriptor):
                    break

    def _unwatch(self, flight: _Flight) -> None:
        if flight.pidfd >= 0:
            self._selector.unregister(flight.pidfd)
            os.close(flight.pidfd)
            flight.pidfd = -1

    def _look_at(self, flight: _Flight, now: float) -> None:
        """Something about a flight is due: its pipes are left, its group is killed, or looked at whether it has gone."""
        process = flight.process
        if process is None:
            self._due.discard(flight)
        elif not flight.cancelled:
            self._conclude(flight)
        elif now >= flight.kill_at:
            process.kill(KILL)
            if process.ended or now >= flight.kill_at + PARTING:
                self._conclude(flight)
            else:
                flight.due = flight.kill_at + PARTING
        elif process.ended and process.deserted():
            self._conclude(flight)
        elif process.ended:
            flight.due = min(now + flight.look, flight.kill_at)
            flight.look = min(2 * flight.look, LAST_LOOK)
            self._due.add(flight)
        else:
            flight.due = flight.kill_at

    def _cancel(self, attempt: int) -> None:
        flight = self._flights.get(attempt)
        if flight is not None:
            self._stop(flight)

    def _stop(self, flight: _Flight) -> None:
        """Tell a group to stop; what has ended already is not cancelled any more."""
        process, launch = flight.process, flight.launch
        if flight.cancelled or process is None or process.ended or launch is None:
            return
        flight.cancelled = True
        process.kill(launch.stop_signal)
        flight.due = flight.kill_at = self._host.now() + launch.grace
        self._due.add(flight)

    def _give_back(self, attempts: Sequence[int]) -> None:
        """Nothing waits here: what comes is begun at once."""

    def _conclude(self, flight: _Flight) -> None:
        """The process has ended and nothing more is read of it: make its value, and report."""
        process, launch = flight.process, flight.launch
        assert process is not None
        assert launch is not None
        if flight.cancelled:
            self._drain(flight, process)
        self._leave(flight, process)
        if flight.cancelled or self._closed:
            self._settle(flight, Outcome.CANCELLED, None)
            return
        try:
            end = process.exit(flight.ended - flight.started)
            value = flight.context.run(launch.done or value_of, end)
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            self._settle(flight, Outcome.FAILED, error)
        else:
            self._settle(flight, Outcome.COMPLETED, value)

    def _leave(self, flight: _Flight, process: Process) -> None:
        """Read no more of a process."""
        flight.process = None
        self._unwatch(flight)
        for descriptor in process.pipes:
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        process.close()
        self._watchdog.remove(process.pid)
        if not process.ended:
            process.disown()

    def _fail(self, flight: _Flight, error: BaseException) -> None:
        """An attempt cannot go on: what it has started is killed."""
        process = flight.process
        if process is not None:
            process.kill(KILL)
            process.wait(PARTING)
            self._leave(flight, process)
        if flight.call.attempt in self._flights:
            self._settle(flight, Outcome.CANCELLED if flight.cancelled else Outcome.FAILED, error)

    def _settle(self, flight: _Flight, outcome: Outcome, value: Any) -> None:
        call = flight.call
        del self._flights[call.attempt]
        self._due.discard(flight)
        extra = flight.here.take() if outcome is Outcome.COMPLETED else None
        flight.here.call = None
        if isinstance(value, CommandError) and not value.node:
            value.node = call.node
        ended = flight.ended if flight.ended != UNSTARTED else self._host.now()
        self._tell(Finished(self._worker, call.attempt, outcome, flight.started, ended, value, extra=extra))

    def _tell(self, event: Started | Finished | Recalled) -> None:
        self._events.append(event)

    def _wind_up(self) -> None:
        """Stop what runs, and wait until it has ended or was killed."""
        for flight in list(self._flights.values()):
            self._stop(flight)
        while self._flights:
            while self._errands:
                self._errands.popleft()()
            self._sleep()
        self._events.clear()
