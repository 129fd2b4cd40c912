"""What a process of a Dask worker remembers of its calls: which have begun, which have ended, which must never begin.

Everything here runs on the worker; it knows neither the client nor the run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from distributed import get_worker

from dagrid.execution.backends._remote import perform

_MANY = 10_000


_desk = threading.Lock()
_running: set[int] = set()
_ended: dict[int, None] = {}
_refused: dict[int, None] = {}
_functions: dict[bytes, Callable[..., Any]] = {}


def perform_on_worker(label: int, sent: bytes, topic: str) -> bytes:
    """Perform a call, unless it was taken back before; then there is nothing to say."""
    with _desk:
        if label in _refused:
            return b""
        _running.add(label)
    try:
        get_worker().log_event(topic, (label, time()))
        if len(_functions) > _MANY:
            _functions.clear()
        return perform(sent, _functions)
    finally:
        with _desk:
            _running.discard(label)
            _remember(_ended, label)


def _remember(book: dict[int, None], label: int) -> None:
    book[label] = None
    if len(book) > _MANY:
        del book[next(iter(book))]


def refuse(labels: Sequence[int]) -> dict[int, str]:
    """Never start those that have not started; return what there is to say of each."""
    states = {}
    with _desk:
        for label in labels:
            states[label] = "running" if label in _running else "ended" if label in _ended else "refused"
            if states[label] == "refused":
                _remember(_refused, label)
    return states


def ended_beside(label: int, others: Sequence[int]) -> list[int] | None:
    """Return which of the others have ended; None if the call does not run."""
    with _desk:
        return [other for other in others if other in _ended] if label in _running else None


def die(label: int, dask_worker: Any = None) -> None:
    """End this process if it runs this call and nothing else, and somebody is there to start it again."""
    with _desk:
        if _running == {label} and dask_worker is not None and dask_worker.nanny:
            os._exit(1)


def greeting() -> bool:
    return True
