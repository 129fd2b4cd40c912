"""The caller's own thread, one task after the other: for debugging, with breakpoints and plain tracebacks.

Nothing runs until the caller waits for the run, and nothing can be stopped while it runs but by the caller's own Ctrl-C.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Sequence

from dagrid.execution.backends._pull import perform
from dagrid.execution.backends.base import BackendBase
from dagrid.machine.events import WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Capabilities, Host


class InlineBackend(BackendBase):
    """Perform attempts in the thread that waits for the run.

    Attributes:
        refused: gets the name when the backend is closed, for its sessions.
    """

    name = "inline"
    capabilities = Capabilities(shares_memory=True)

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def open(self, host: Host) -> InlineSession:
        """Begin to serve a run."""
        self.check_open()
        return InlineSession(host, self.refused)

    def release(self, wait: bool) -> None:
        """Perform no more calls."""
        self.refused.append(self.name)


class InlineSession:
    """One run in the thread of its caller."""

    def __init__(self, host: Host, refused: Sequence[str]) -> None:
        self._host = host
        self._refused = refused
        self._worker = host.new_worker()
        self._context = contextvars.copy_context()
        self._wanted = False
        self._closed = False
        self._busy = threading.Lock()
        host.report([self._joined()])

    def wake(self, worker: int) -> None:
        self._wanted = True

    def perform(self, bundle: Bundle) -> None:
        raise AssertionError("a worker that pulls is woken, not sent a bundle")

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """Nothing is ever sent ahead, so there is nothing to give back."""

    def cancel(self, worker: int, attempt: int) -> None:
        """What runs in the caller's thread runs to its end."""

    def attend(self) -> bool:
        """Perform calls until there are none; of several threads that wait, one does it."""
        while self._wanted and not self._closed and self._busy.acquire(blocking=False):
            try:
                self._wanted = False
                perform(self._host, self._worker, self._context, self._refused)
            except BaseException:
                self._interrupted()
                raise
            finally:
                self._busy.release()
        return True

    def _interrupted(self) -> None:
        """Ctrl-C came where no task was: who held the call that was to come is no more."""
        host, gone = self._host, self._worker
        self._worker = host.new_worker()
        host.report([WorkerGone(gone, host.now(), "its thread was interrupted"), self._joined()])

    def _joined(self) -> WorkerJoined:
        return WorkerJoined(self._worker, "inline", self._host.now(), pulls=True)

    def close(self) -> None:
        self._closed = True
