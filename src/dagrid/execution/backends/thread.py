"""Threads of this process: tasks share memory with the caller and, but for free-threaded Pythons, one interpreter lock.

A worker is a thread that asks its host for the next call as soon as it has finished one; it sleeps only when there is none. A
thread cannot be killed: an attempt that is cancelled or times out is abandoned, and another thread takes its place.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Sequence
from functools import cache
from queue import SimpleQueue

from dagrid.execution.backends._pull import perform
from dagrid.execution.backends.base import BackendBase, Sessions, check_whole
from dagrid.execution.carriers import carry
from dagrid.machine.events import WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Capabilities, Host


class ThreadBackend(BackendBase):
    """Perform attempts in threads of this process.

    Good for work that waits (requests, files, databases) and for libraries that release the interpreter lock. Values are passed
    as they are, contexts (`contextvars`) are those of the caller of the run. A thread serves one run after another, so what a
    task leaves in a `threading.local` may be there for the next one.

    Args:
        max_workers: how many attempts run at once; by default four more than the machine has cores, at most 32.

    Attributes:
        refused: gets the name when the backend is closed, for its sessions.

    Raises:
        InvalidSettingError: max_workers is less than 1.
    """

    name = "thread"
    capabilities = Capabilities(shares_memory=True, cancels=True)

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__()
        check_whole(max_workers=max_workers)
        self.max_workers = max_workers if max_workers is not None else _default_workers()
        self.sessions: Sessions[ThreadSession] = Sessions()
        self.refused: list[str] = []

    def open(self, host: Host) -> ThreadSession:
        """Begin to serve a run; its threads start when there is work for them."""
        self.check_open()
        session = ThreadSession(self, host)
        self.sessions.add(session)
        session.announce(self.max_workers)
        return session

    def release(self, wait: bool) -> None:
        """Perform no more calls; with `wait`, return when the threads have finished what they run."""
        self.refused.append(self.name)
        for session in self.sessions if wait else ():
            session.join()


@cache
def _default_workers() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


class ThreadSession:
    """One run's threads; each is made when there is work for it."""

    def __init__(self, backend: ThreadBackend, host: Host) -> None:
        self._backend = backend
        self._host = host
        self._context = contextvars.copy_context()
        self._threads: dict[int, _Thread | None] = {}
        self._lock = threading.Lock()
        self._closed = False

    def announce(self, slots: int) -> None:
        """Announce the workers."""
        host = self._host
        joined = []
        for _ in range(slots):
            number = host.new_worker()
            self._threads[number] = None
            joined.append(WorkerJoined(number, f"thread-{number}", host.now(), pulls=True))
        host.report(joined)

    def wake(self, worker: int) -> None:
        with self._lock:
            thread = self._threads.get(worker, _GONE)
            if thread is None:
                thread = self._threads[worker] = _Thread(self._host, worker, self._context, self._backend.refused)
        if isinstance(thread, _Thread):
            thread.wake()

    def perform(self, bundle: Bundle) -> None:
        raise AssertionError("a worker that pulls is woken, not sent a bundle")

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """Nothing is ever sent ahead to a thread, so there is nothing to give back."""

    def cancel(self, worker: int, attempt: int) -> None:
        with self._lock:
            thread = self._threads.pop(worker, None)
            if thread is None or self._closed:
                return
            number = self._host.new_worker()
            self._threads[number] = None
        thread.stop()
        now = self._host.now()
        joined = WorkerJoined(number, f"thread-{number}", now, pulls=True)
        self._host.report([WorkerGone(worker, now, "its attempt was abandoned"), joined])

    def attend(self) -> None:
        """Threads need no help."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for thread in list(self._threads.values()):
            if thread is not None:
                thread.stop()
        self._backend.sessions.discard(self)

    def join(self) -> None:
        """Wait until the threads have finished what they run."""
        for thread in list(self._threads.values()):
            if thread is not None:
                thread.join()


_GONE = object()


class _Thread:
    """A worker: sleeps until it is woken, then performs calls until its host has none."""

    def __init__(self, host: Host, number: int, context: contextvars.Context, refused: Sequence[str]) -> None:
        self._host = host
        self._number = number
        self._context = context
        self._refused = refused
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._stopped = False
        self._begun = False
        self._serving = threading.Lock()
        self._ident: int | None = None

    def wake(self) -> None:
        if not self._begun:
            self._begun = True
            carry(self._serve, f"dagrid-thread-{self._number}")
        self._calls.put(None)

    def stop(self) -> None:
        self._stopped = True
        self._calls.put(None)

    def join(self) -> None:
        """Wait until it has finished what it runs."""
        if self._ident != threading.get_ident():
            with self._serving:
                pass

    def _serve(self) -> None:
        self._ident = threading.get_ident()
        try:
            self._calls.get()
            while not self._stopped:
                with self._serving:
                    perform(self._host, self._number, self._context, self._refused)
                self._calls.get()
        finally:
            self._ident = None
