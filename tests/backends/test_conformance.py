"""Every registered backend, and strangers behind the adapter, pass the suite that is shipped for everybody's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dagrid.execution.backends.adapter import adapt
from dagrid.ports import Backend
from dagrid.testing import BackendConformance
from tests.places import ENGINES

# Where a backend differs from what the suite takes for granted.
DIFFERENCES: Mapping[str, Mapping[str, Any]] = {
    "inline": {"slots_limit": 1, "frees_slots": False, "blocks_submit": True},
}
OURS = [
    entry
    for entry in entry_points(group="dagrid.backends")
    if entry.value.startswith("dagrid.") and entry.name not in ENGINES
]


def suite_for(entry: EntryPoint) -> type[BackendConformance]:
    """Build the suite of one registered backend."""

    def make_backend(self: BackendConformance, slots: int) -> Backend:
        made: Callable[..., Backend] = entry.load()
        wanted = {"max_workers": slots} if "max_workers" in inspect.signature(made).parameters else {}
        return made(**wanted)

    body = {**DIFFERENCES.get(entry.name, {}), "make_backend": make_backend, "__module__": __name__}
    return type(f"Test_{entry.name}", (BackendConformance,), body)


globals().update({f"Test_{entry.name}": suite_for(entry) for entry in OURS})


def test_the_matrix_is_not_empty() -> None:
    """A registry that finds nothing would let every backend pass."""
    assert {"inline", "thread", "multiprocessing"} <= {entry.name for entry in OURS}


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
    isolates_contexts = False

    def make_backend(self, slots: int) -> Backend:
        return adapt(PoolStranger(slots))


class TestTicketStranger(BackendConformance):
    transfers = False
    frees_slots = False
    isolates_contexts = False

    def make_backend(self, slots: int) -> Backend:
        return adapt(TicketStranger(slots))
