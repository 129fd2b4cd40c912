"""Worker processes on this machine: fresh interpreters, fed in batches, killed where a cancel or a timeout asks.

It is the face of the pool; what a run decides, it does not know.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import ClassVar

from dagrid.errors import InvalidSettingError
from dagrid.execution.backends._pool import Pool
from dagrid.execution.backends._pool_session import PoolSession
from dagrid.execution.backends._transfer import encode_initializer
from dagrid.execution.backends.base import BackendBase, check_whole
from dagrid.ports import Capabilities, PushHost


class MultiprocessingBackend(BackendBase):
    """Runs tasks in worker processes on this machine.

    The workers start with the first run, in parallel, and serve until the backend is closed. They are fresh
    interpreters: a script needs no `if __name__ == "__main__"` guard, and its functions, lambdas and closures travel by
    value. They have the environment variables, the working directory and the import path that this process had when the
    first of them started. Context variables do not travel. What a task prints goes to this process's output; its input
    is empty. A Ctrl-C reaches only this process. When this process dies, however it does, its workers and what they
    started are killed.

    Args:
        max_workers: how many processes; None means one for each processor of the machine.
        initializer: called without arguments in each worker before its first task. If it raises, every task fails with
            a `BackendError` that says why.

    Raises:
        InvalidSettingError: `max_workers` is not positive.
        TransferError: the initializer cannot be pickled.
    """

    name: ClassVar[str] = "multiprocessing"
    capabilities: ClassVar[Capabilities] = Capabilities(kills=True, cancels=True)

    def __init__(self, max_workers: int | None = None, initializer: Callable[[], object] | None = None) -> None:
        super().__init__()
        check_whole(max_workers=max_workers)
        if initializer is not None and not callable(initializer):
            raise InvalidSettingError(f"initializer is a function of no parameters, not {initializer!r}.")
        count = max_workers if max_workers is not None else os.cpu_count() or 1
        self._pool = Pool(count, encode_initializer(initializer))
        # Also for a backend that is dropped without being closed, and at the end of the program.
        self._finalizer = weakref.finalize(self, self._pool.stop, False)

    @property
    def max_workers(self) -> int:
        """How many worker processes there are."""
        return self._pool.count

    def open(self, host: PushHost) -> PoolSession:
        """Begin to serve a run: announce the workers to its host, starting them if this is the first."""
        self.check_open()
        return self._pool.open(host, self)

    def open_packed(self, host: PushHost) -> PoolSession:
        """Begin to serve somebody who passes on what comes: failures are reported unopened.

        Functions and arguments may be given as the bytes in which they came (`_transfer.Packed`).
        """
        self.check_open()
        return self._pool.open(host, self, packed=True)

    def release(self, wait: bool) -> None:
        """Stop the workers: with `wait` they have a second to end what they do, else they are killed."""
        self._finalizer.detach()
        self._pool.stop(wait)

    def __repr__(self) -> str:
        closed = " (closed)" if self._closed else ""
        return f"<MultiprocessingBackend of {self.max_workers} workers{closed}>"
