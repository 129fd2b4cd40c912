"""Every registered backend, and a stranger behind the adapter, pass the suite that is shipped for everybody's backends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dagrid.execution.backends.adapter import adapt
from dagrid.ports import Backend
from dagrid.testing import BackendConformance


class PoolStranger:
    """What a user writes in five minutes around what is at hand."""

    def __init__(self, max_workers: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers)

    @property
    def name(self) -> str:
        return "pool"

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._pool.submit(fn, *args, **kwargs)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        return future.result(timeout)

    def shutdown(self, wait: bool = True) -> None:
        self._pool.shutdown(wait=wait)


class TicketStranger(PoolStranger):
    """One whose futures are bare tickets: they can be neither called back from nor cancelled."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._futures: dict[str, Future[Any]] = {}

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        ticket = f"ticket-{len(self._futures)}"
        self._futures[ticket] = super().submit(fn, *args, **kwargs)
        return ticket

    def result(self, future: str, timeout: float | None = None) -> Any:
        return self._futures[future].result(timeout)


class TestPoolStranger(BackendConformance):
    transfers = False
    frees_slots = False

    def make_backend(self, slots: int) -> Backend:
        return adapt(PoolStranger(slots))


class TestTicketStranger(BackendConformance):
    transfers = False
    frees_slots = False

    def make_backend(self, slots: int) -> Backend:
        return adapt(TicketStranger(slots))
