"""Both ways: `FourMethods`, which any object with four methods is, and `FreshBackend`, which speaks the engine's own language."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from dagrid.attempt import Left, carried
from dagrid.errors import TransferError
from dagrid.execution.backends.base import BackendBase
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host, opened
from examples.fresh.fork import DiedError, Fork, preload


class FourMethods:
    """The short way. What runs cannot be stopped, and nobody hears when a call begins."""

    name = "fresh"

    def __init__(self, max_workers: int = 2) -> None:
        self.max_workers = max_workers
        self._pool = ThreadPoolExecutor(max_workers)

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(lambda: Fork(fn, args, kwargs).run())

    def result(self, future: Future[Any], timeout: float | None = None) -> Any:
        return future.result(timeout)

    def shutdown(self, wait: bool = True) -> None:
        self._pool.shutdown(wait)


class FreshBackend(BackendBase):
    """The whole way: `max_workers` processes at once, each for one attempt; a cancel or a timeout kills it.

    Args:
        max_workers: how many attempts run at once.
        modules: what most tasks import: it is imported once, and every process has it from the beginning.
    """

    name = "fresh"
    capabilities = Capabilities(kills=True, cancels=True)

    def __init__(self, max_workers: int = 2, modules: Iterable[str] = ()) -> None:
        super().__init__()
        self.max_workers = max_workers
        preload(modules)

    def open(self, host: Host) -> FreshSession:
        """Begin to serve a run: one worker stands for all processes."""
        self.check_open()
        session = FreshSession(self, host)
        session.report(WorkerJoined(session.worker, "fresh", host.now(), self.max_workers, self.max_workers))
        return session

    def release(self, wait: bool) -> None:
        """Nothing is kept between sessions, and those that are open begin no more."""


class FreshSession:
    """One run's use: a thread waits for each process. What is handed out starts at once, so nothing can be given back."""

    def __init__(self, backend: FreshBackend, host: Host) -> None:
        self._backend = backend
        self._host = host
        self.worker = host.new_worker()
        self._forks: dict[int, Fork | None] = {}  # None: not begun
        self._cancelled: set[int] = set()
        self._guard = threading.RLock()  # a host may close the session, or cancel, from within a report
        self._closed = False

    def perform(self, bundle: Bundle) -> None:
        with self._guard:
            self._forks.update((call.attempt, None) for call in bundle.calls)
        for call in bundle.calls:
            threading.Thread(target=self._attempt, args=(call,), name="fresh", daemon=True).start()

    def cancel(self, worker: int, attempt: int) -> None:
        with self._guard:
            if attempt not in self._forks:
                return  # it has ended in the meantime
            self._cancelled.add(attempt)
            fork = self._forks[attempt]
        if fork is not None:
            fork.kill()

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """All have started."""

    def wake(self, worker: int) -> None:
        """For workers that ask for their work; this one is sent it."""

    def attend(self) -> None:
        """For backends that borrow the caller's thread."""

    def close(self) -> None:
        with self._guard:
            self._closed = True
            forks = [fork for fork in self._forks.values() if fork is not None]
        for fork in forks:
            fork.kill()

    def report(self, event: WorkerJoined | Started | Finished | Recalled) -> None:
        """Tell the host, unless the session is over; `close` waits for a report that is under way."""
        with self._guard:
            if not self._closed:
                self._host.report([event])

    def _attempt(self, call: Call) -> None:
        started = self._host.now()
        self.report(Started(self.worker, call.attempt, started))
        outcome, value = self._outcome(call)
        with self._guard:
            del self._forks[call.attempt]
            if call.attempt in self._cancelled:
                outcome, value = Outcome.CANCELLED, None
        extra = None
        if isinstance(value, Left):
            value, extra = value.value, value.extra
        text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else ""
        ended, draw = self._host.now(), self._host.draw()
        self.report(Finished(self.worker, call.attempt, outcome, started, ended, value, text, draw=draw, extra=extra))

    def _outcome(self, call: Call) -> tuple[Outcome, Any]:
        # Such a task may leave something beside its value, which then comes back around it.
        fn = partial(carried, call.fn, call.node, call.attempt) if call.grows else call.fn
        kwargs = {name: opened(value) for name, value in (call.kwargs or {}).items()}
        try:
            self._backend.check_open()  # it may have been closed under its run
            fork = Fork(fn, [opened(value) for value in call.args], kwargs)
            with self._guard:
                if self._closed or call.attempt in self._cancelled:
                    return Outcome.CANCELLED, None
                self._forks[call.attempt] = fork
            return Outcome.COMPLETED, fork.run()
        except DiedError as error:
            return Outcome.LOST, error
        except TransferError as error:
            return Outcome.FAILED, TransferError(f"Node {call.node!r}: {error}")
        except BaseException as error:  # noqa: BLE001 - what a task raises is its outcome
            return Outcome.FAILED, error
