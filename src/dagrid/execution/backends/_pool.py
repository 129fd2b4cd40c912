"""The pool of worker processes that the sessions of one backend share, and the one thread that talks to all of them.

Sessions only leave commands for it, so that nothing of the user's is pickled under a lock of the caller's. It knows the
port; what a run decides, it does not know.
"""

from __future__ import annotations

import itertools
import marshal
import os
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from dagrid.errors import BackendClosedError, BackendError
from dagrid.execution.backends import _worker
from dagrid.execution.backends._pool_session import PoolSession
from dagrid.execution.backends._process import Blueprint, Item, Process, Record
from dagrid.execution.backends._transfer import Pickled
from dagrid.execution.backends.base import closed_under
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerGone
from dagrid.ports import Bundle, PushHost

COMPLETED = int(Outcome.COMPLETED)
STILLBORN_LIMIT = 3
"""How many starts in a row may fail before no more are tried."""
GRACE = 1.0
"""Seconds that a worker may take to end by itself."""


class Pool:
    """The worker processes and the one thread that serves them. All methods below `_loop` run in that thread."""

    def __init__(self, count: int, initializer: bytes) -> None:
        self.count = count
        self._initializer = initializer
        self._guard = threading.Lock()
        self._commands: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._stopping = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._wake_fds = (-1, -1)
        self._blueprint: Blueprint | None = None
        self._selector: selectors.BaseSelector | None = None
        self._processes: list[Process] = []
        self._sessions: list[PoolSession] = []
        self._functions = itertools.count(1)
        self._stillborn = 0
        self._waits_until = 0.0
        self._broken: BackendError | None = None

    def open(self, host: PushHost, backend: object, packed: bool = False) -> PoolSession:
        session = PoolSession(self, host, backend, packed)
        with self._guard:
            if not self._stopping and self._thread is None:
                self._begin()
        if self._stopping or not self.command(self.enrol, session):
            raise BackendClosedError("The worker processes are gone, or belong to another process. Make a new backend.")
        return session

    def closed(self) -> BackendClosedError:
        """Return what fails the calls of a run that goes on after the end of the processes."""
        return closed_under("multiprocessing")

    def _begin(self) -> None:
        self._blueprint = Blueprint.of_this_process(self._initializer)
        self._selector = selectors.DefaultSelector()
        self._wake_fds = os.pipe()
        for fd in self._wake_fds:
            os.set_blocking(fd, False)
        self._selector.register(self._wake_fds[0], selectors.EVENT_READ, self._on_wake)
        self._commands.append((self._start_all, ()))
        self._thread = threading.Thread(target=self._loop, name="dagrid-multiprocessing", daemon=True)
        self._thread.start()
        _live.add(self)

    def command(self, action: Callable[..., None], *args: Any) -> bool:
        """Let the pool's thread do something; may be called from any thread and never blocks. False: it has ended."""
        with self._guard:
            if self._ended:
                return False
            self._commands.append((action, args))
            asleep, self._asleep = self._asleep, False
            if asleep:
                os.write(self._wake_fds[1], b"x")
        return True

    def is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self, wait: bool) -> None:
        """End all processes and the thread."""
        with self._guard:
            if self._stopping:
                return
            self._stopping = True
            thread = self._thread
        if thread is None:
            return
        self.command(self._leave, wait)
        if not self.is_own_thread():
            thread.join()

    def disown(self) -> None:
        """In a fork of the program: the processes are not ours, and neither is the thread."""
        self._stopping = self._ended = True
        self._guard = threading.Lock()
        for process in self._processes:
            process.disown()

    def new_function(self) -> int:
        return next(self._functions)

    # The thread.

    def _loop(self) -> None:
        selector = self._selector
        assert selector is not None
        commands = self._commands
        try:
            while True:
                while commands:
                    action, args = commands.popleft()
                    action(*args)
                if self._settle():
                    continue
                with self._guard:
                    if commands:
                        continue
                    if self._stopping and not self._processes:
                        self._ended = True
                        break
                    self._asleep = True
                ready = selector.select(self._patience())
                self._asleep = False
                for key, _ in ready:
                    key.data()
        finally:
            self._finish(selector)

    def _settle(self) -> bool:
        """Send and report what has gathered; True if something was reported, for then there may be new commands."""
        for process in list(self._processes):
            if process.unsent:
                self._feed(process)
            self._announce(process)
            self._watch_writing(process)
        if self._stopping:
            self._end_late_ones()
        delivered = False
        for session in list(self._sessions):
            if session.reports.events:
                session.reports.deliver()
                delivered = True
        return delivered

    def _patience(self) -> float | None:
        if not self._stopping:
            return None
        # Past the end of the grace all are killed, and a moment later dead.
        return max(0.01, self._waits_until - perf_counter())

    def _finish(self, selector: selectors.BaseSelector) -> None:
        _live.discard(self)
        for process in self._processes:  # there are some only if a fault of ours ended the thread
            reason = process.end()
            for session in self._sessions:
                self._part(session, process, reason)
        self._processes.clear()
        with self._guard:
            self._stopping = self._ended = True
        self._broken = self._broken or self.closed()
        for session in self._sessions:
            self._complete(session)
            session.reports.deliver()
        with self._guard:
            for fd in self._wake_fds:
                os.close(fd)
        selector.close()

    def _on_wake(self) -> None:
        try:
            os.read(self._wake_fds[0], 4096)
        except BlockingIOError:
            pass

    # Processes come and go.

    def _start_all(self) -> None:
        for _ in range(self.count):
            self._start()

    def _start(self) -> Process | None:
        """Start a process; what it is called for before it is ready waits in its pipe."""
        assert self._blueprint is not None
        assert self._selector is not None
        if self._broken or self._stopping:
            return None
        try:
            process = Process(self._blueprint)
        except OSError as error:
            self._broken = BackendError(
                f"A worker process cannot be started ({error}). Put that right, then make a new backend."
            )
            return None
        self._processes.append(process)
        self._selector.register(process.result.fd, selectors.EVENT_READ, lambda: self._on_result(process))
        if process.pidfd >= 0:
            self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._bury(process))
        return process

    def _replace(self, process: Process, reason: str) -> None:
        """Kill a process and start another at once; its death and its replacement are announced together."""
        if not process.leaving:
            process.kill(reason)
            self._start()

    def _bury(self, process: Process) -> None:
        """A process is dead: take the results that it had written, tell everybody, and start another."""
        if process not in self._processes:
            return
        self._read_all(process)
        self._processes.remove(process)
        self._unwatch(process)
        killed = process.leaving
        reason = process.end()
        if not killed:
            self._announce(process)
            if not process.ready:
                self._stillborn += 1
                if process.broken or self._stillborn >= STILLBORN_LIMIT:
                    self._broken = self._broken or BackendError(
                        process.broken
                        or f"{STILLBORN_LIMIT} worker processes in a row died while they started; the last {reason}."
                    )
            self._start()
        for session in self._sessions:
            self._part(session, process, reason)
            self._complete(session)

    def _part(self, session: PoolSession, process: Process, reason: str) -> None:
        """Tell a session that a process is dead; where none can take its place, fail its calls and keep its number."""
        number = session.numbers.pop(process, None)
        if number is None:
            return
        if self._broken is None or process.ready:
            del session.processes[number]
            session.reports.events.append(WorkerGone(number, session.host.now(), reason))
            return
        session.processes[number] = None
        for item in [*process.under_way.values(), *process.unsent]:
            if item.owner is session:
                session.refuse(number, item.call, self._broken)

    def _complete(self, session: PoolSession) -> None:
        """Announce to a session the processes that are new to it; where none can start, one that fails its calls."""
        for process in self._processes:
            if process not in session.numbers and not process.leaving:
                session.joined(process, f"process {process.popen.pid}")
        if self._broken is not None and not session.processes:
            session.joined(None, "no process")

    def _leave(self, wait: bool) -> None:
        """Let all processes end, by force after a moment."""
        self._waits_until = perf_counter() + (GRACE if wait else 0.0)
        self._broken = self._broken or self.closed()
        for session in self._sessions:
            self._complete(session)
        for process in self._processes:
            self._unwatch_writing(process)
            process.leave()
            process.reason = process.reason or "the backend was closed"

    def _end_late_ones(self) -> None:
        if perf_counter() >= self._waits_until:
            for process in self._processes:
                process.kill("the backend was closed")

    # The commands of sessions.

    def enrol(self, session: PoolSession) -> None:
        if not session.reports.closed:
            self._sessions.append(session)
            self._complete(session)

    def perform(self, session: PoolSession, bundle: Bundle) -> None:
        if session.reports.closed:
            return
        process = session.processes.get(bundle.worker)
        if process is not None and not self._stopping:
            if len(self._sessions) > 1:
                process = self._spare(session, bundle.worker, process)
            process.unsent += [Item(session, call) for call in bundle.calls]
        elif bundle.worker in session.processes:
            for call in bundle.calls:
                session.refuse(bundle.worker, call, self._broken or self.closed())

    def _spare(self, session: PoolSession, number: int, process: Process) -> Process:
        """Where a process is busy for other runs only and another one has nothing to do, let them change numbers.

        A run sees its own work alone and cannot know which of the processes that it shares are free.
        """
        busy = [*process.under_way.values(), *process.unsent]
        if not busy or any(item.owner is session for item in busy):
            return process
        for idle, other in session.numbers.items():
            if not idle.under_way and not idle.unsent and not idle.leaving:
                session.numbers[process], session.numbers[idle] = other, number
                session.processes[other], session.processes[number] = process, idle
                return idle
        return process

    def recall(self, session: PoolSession, worker: int, attempts: Sequence[int]) -> None:
        process = session.processes.get(worker)
        if process is None or session.reports.closed:
            return
        wanted = set(attempts)
        self._withdraw(process, session, worker, wanted)
        process.ask_back(
            token
            for token, item in process.under_way.items()
            if item.owner is session and item.call.attempt in wanted and token != process.announced
        )

    def _withdraw(self, process: Process, session: PoolSession, worker: int, wanted: set[int]) -> None:
        """Give back what has not been sent."""
        mine = [item for item in process.unsent if item.owner is session and item.call.attempt in wanted]
        if mine:
            process.unsent = deque(item for item in process.unsent if item not in mine)
            session.reports.events.append(Recalled(worker, [item.call.attempt for item in mine], session.host.now()))

    def cancel(self, session: PoolSession, worker: int, attempt: int) -> None:
        process = session.processes.get(worker)
        if process is None or session.reports.closed:
            return
        self._read_all(process)
        for item in process.unsent:
            if item.owner is session and item.call.attempt == attempt:
                process.unsent.remove(item)
                session.cancelled(worker, item.call)
                return
        for token, item in process.under_way.items():
            if item.owner is session and item.call.attempt == attempt:
                if token == process.head:
                    self._replace(process, "it was stopped to cancel what it ran")
                else:
                    process.cancelled.add(token)
                    process.ask_back([token])
                return

    def drop(self, session: PoolSession) -> None:
        """Forget a session: what it has running is killed, what waits is taken back."""
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        numbers = {number for number, _, _ in session.functions.values()}
        for process in list(session.numbers):
            process.unsent = deque(item for item in process.unsent if item.owner is not session)
            self._read_all(process)
            self._kill_if_abandoned(process)
            process.ask_back(token for token, item in process.under_way.items() if item.owner is session)
            process.forget(numbers)
        session.reports.events.clear()
        session.functions.clear()

    def forget(self, session: PoolSession, functions: Sequence[Callable[..., Any]]) -> None:
        found = [session.functions.pop(id(function), None) for function in functions]
        numbers = {each[0] for each in found if each is not None}
        for process in self._processes:
            process.forget(numbers)

    def _kill_if_abandoned(self, process: Process) -> None:
        head = process.under_way.get(process.head)
        if head is not None and head.owner.reports.closed and process.head not in process.asked:
            self._replace(process, "it was stopped with the run that it worked for")

    # What comes and goes through the pipes.

    def _feed(self, process: Process) -> None:
        for item, error in process.feed():
            session = item.owner
            if not session.reports.closed:
                session.refuse(session.numbers[process], item.call, error)

    def _watch_writing(self, process: Process) -> None:
        assert self._selector is not None
        for outlet in (process.data, process.control):
            if outlet.watched != (outlet.size > 0):
                outlet.watched = not outlet.watched
                if outlet.watched:
                    self._selector.register(outlet.fd, selectors.EVENT_WRITE, outlet.flush)
                else:
                    self._selector.unregister(outlet.fd)

    def _unwatch_writing(self, process: Process) -> None:
        assert self._selector is not None
        for outlet in (process.data, process.control):
            if outlet.watched:
                outlet.watched = False
                self._selector.unregister(outlet.fd)

    def _unwatch(self, process: Process) -> None:
        assert self._selector is not None
        self._unwatch_writing(process)
        self._selector.unregister(process.result.fd)
        if process.pidfd >= 0:
            self._selector.unregister(process.pidfd)

    def _on_result(self, process: Process) -> None:
        if process not in self._processes:
            return  # it was buried by what became ready together with this
        records = process.result.read()
        if records:
            self._take(process, records)
        elif process.result.ended:
            self._bury(process)

    def _read_all(self, process: Process) -> None:
        """Read what a process has written by now, so that what is done about it is not done too late."""
        while (records := process.result.read()) is not None:
            self._take(process, records)

    def _take(self, process: Process, records: Sequence[Record]) -> None:
        """Turn records into events."""
        under_way, shift = process.under_way, process.shift
        for token, kind, started, ended, payload in records:
            if kind >= _worker.GIVEN_BACK:
                self._take_notice(process, token, kind, started, payload)
                shift = process.shift
                continue
            session, call = under_way.pop(token)
            if session.reports.closed:
                continue
            number = session.numbers[process]
            if kind <= _worker.VALUE:
                value = Pickled(payload, call.node) if kind else None
                event = Finished(number, call.attempt, COMPLETED, started + shift, ended + shift, value)
                if process.extra is not None:
                    event.extra, process.extra = Pickled(process.extra, call.node), None
            else:
                event = session.failure(number, call, kind, payload)
                event.started, event.ended = started + shift, ended + shift
            session.reports.events.append(event)

    def _take_notice(self, process: Process, token: int, kind: int, at: float, payload: bytes | bytearray) -> None:
        if kind == _worker.READY:
            now = perf_counter()
            process.ready = True
            process.shift = 0.0 if process.started_at <= at <= now else now - at
            self._stillborn = 0
        elif kind == _worker.MORE:
            process.extra = payload
        elif kind == _worker.DROPPED:
            self._take_drop(process, token)
        elif kind == _worker.BROKEN:
            text, trace = marshal.loads(payload)
            process.broken = f"The initializer of the worker processes raised {text}\n{trace}"
        else:
            given, refused = marshal.loads(payload)
            self._take_back(process, given)
            self._take_refusal(process, refused)

    def _take_drop(self, process: Process, token: int) -> None:
        """A call was dropped with the one that it rides on: who asked for it back, or for its end, is not answered either."""
        process.under_way.pop(token, None)
        process.asked.discard(token)
        process.cancelled.discard(token)

    def _take_back(self, process: Process, tokens: Sequence[int]) -> None:
        recalled: dict[PoolSession, list[int]] = {}
        for token in tokens:
            process.asked.discard(token)
            item = process.under_way.pop(token)
            if item.owner.reports.closed:
                continue
            if token in process.cancelled:
                process.cancelled.discard(token)
                item.owner.cancelled(item.owner.numbers[process], item.call)
            else:
                recalled.setdefault(item.owner, []).append(item.call.attempt)
        for session, attempts in recalled.items():
            session.reports.events.append(Recalled(session.numbers[process], attempts, session.host.now()))

    def _take_refusal(self, process: Process, tokens: Sequence[int]) -> None:
        """The worker had started these: those that were to be cancelled and still run are stopped by force."""
        process.asked.difference_update(tokens)
        doomed = process.cancelled.intersection(tokens)
        process.cancelled.difference_update(tokens)
        if any(token in process.under_way for token in doomed):
            self._replace(process, "it was stopped to cancel what it ran")

    def _announce(self, process: Process) -> None:
        """Report the call that runs, if that is news."""
        head = process.head
        if head == process.announced or not head or not process.ready or head in process.asked:
            return
        session, call = process.under_way[head]
        if session.reports.closed:
            self._kill_if_abandoned(process)
            return
        process.announced = head
        session.reports.events.append(Started(session.numbers[process], call.attempt, session.host.now()))


_live: weakref.WeakSet[Pool] = weakref.WeakSet()


def _disown_all() -> None:
    for pool in list(_live):
        pool.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
