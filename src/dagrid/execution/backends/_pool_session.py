"""One run's use of the pool of worker processes: which of them it knows by which number, and how it reports.

It knows the port, and of the pool no more than its thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dagrid.execution.backends import _worker
from dagrid.execution.backends._process import Process
from dagrid.execution.backends._transfer import Unopened, decode_error, encode_function, stuck_error
from dagrid.execution.backends.base import Reports
from dagrid.machine.events import Finished, Outcome, WorkerJoined
from dagrid.ports import Bundle, Call, PushHost

if TYPE_CHECKING:
    from dagrid.execution.backends._pool import Pool

FAILED, CANCELLED = int(Outcome.FAILED), int(Outcome.CANCELLED)
WINDOW = 256
"""How many calls may be with a worker."""


class PoolSession:
    """One run's use of the pool. What changes is touched by the pool's thread alone, but for `reports.closed`.

    One that is `packed` is used by somebody who passes on what comes: failures are reported as they came (`Unopened`).
    """

    def __init__(self, pool: Pool, host: PushHost, backend: object, packed: bool = False) -> None:
        self.pool = pool
        self.host = host
        self.packed = packed
        self.backend: object | None = backend  # while it is open, the backend is in use
        self.reports = Reports(host)
        self.processes: dict[int, Process | None] = {}  # None: no process can be started
        self.numbers: dict[Process, int] = {}
        self.functions: dict[int, tuple[int, bytes, Callable[..., Any]]] = {}

    # The port.

    def wake(self, worker: int) -> None:
        """Do nothing: these workers are pushed."""

    def attend(self) -> None:
        """Return: the pool has a thread of its own."""

    def perform(self, bundle: Bundle) -> None:
        if not self.pool.command(self.pool.perform, self, bundle) and bundle.worker in self.processes:
            self.reports.refuse(bundle.worker, bundle.calls, self.pool.closed())

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self.pool.command(self.pool.recall, self, worker, attempts)

    def cancel(self, worker: int, attempt: int) -> None:
        self.pool.command(self.pool.cancel, self, worker, attempt)

    def forget(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Let go of functions that will not be called again; nothing of them is under way."""
        self.pool.command(self.pool.forget, self, functions)

    def close(self) -> None:
        if not self.reports.shut():
            return
        self.pool.command(self.pool.drop, self)
        self.reports.settle()
        self.backend = None

    # For the pool's thread.

    def function(self, call: Call) -> tuple[int, bytes]:
        """Return the number and the bytes of a call's function, pickled once; it is kept, so that its id is its own."""
        key = id(call.fn)
        found = self.functions.get(key)
        if found is None:
            found = self.functions[key] = (self.pool.new_function(), encode_function(call), call.fn)
        return found[0], found[1]

    # Its reports, delivered by the pool's thread.

    def joined(self, process: Process | None, name: str) -> None:
        """Announce a worker, a process or one that fails its calls."""
        number = self.host.new_worker()
        self.processes[number] = process
        if process is not None:
            self.numbers[process] = number
        self.reports.events.append(WorkerJoined(number, name, self.host.now(), slots=1, window=WINDOW))

    def failure(self, number: int, call: Call, kind: int, payload: bytes | bytearray) -> Finished:
        """Return the end of a call that failed, from what its worker wrote."""
        if self.packed:
            return Finished(number, call.attempt, FAILED, 0.0, 0.0, Unopened(kind == _worker.STUCK, bytes(payload)))
        if kind == _worker.FAILED:
            return self._failed(number, call, decode_error(payload, call.node), True)
        return self._failed(number, call, *stuck_error(payload, call))

    def refuse(self, number: int, call: Call, error: BaseException) -> None:
        """Report that a call cannot be performed."""
        self.reports.events.append(self._failed(number, call, error, False))

    def cancelled(self, number: int, call: Call) -> None:
        """Report that a call was cancelled before it had begun."""
        now = self.host.now()
        self.reports.events.append(Finished(number, call.attempt, CANCELLED, now, now))

    def _failed(self, number: int, call: Call, error: BaseException, retryable: bool) -> Finished:
        now = self.host.now()
        return Finished(number, call.attempt, FAILED, now, now, error, _worker.told(error), retryable, self.host.draw())
