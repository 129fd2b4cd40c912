"""Threads that serve one run after another, for starting a thread takes longer than a short run. They know no run.

A thread that has nothing to do waits for the next run for a second, and ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

LINGER = 1.0

_guard = threading.Lock()
_spare: list[_Carrier] = []


def carry(job: Callable[[], None], name: str) -> None:
    """Call a function in a thread of its own, which has this name meanwhile."""
    with _guard:
        carrier = _spare.pop() if _spare else None
    (carrier or _Carrier()).take(job, name)


class _Carrier:
    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._started = False

    def take(self, job: Callable[[], None], name: str) -> None:
        self._thread.name = name
        self._jobs.put(job)
        if not self._started:
            self._started = True
            self._thread.start()

    def _carry(self) -> None:
        while (job := self._next()) is not None:
            Context().run(job)
            del job  # who waits holds nothing of a run
            with _guard:
                self._thread.name = "dagrid-spare"
                _spare.append(self)

    def _next(self) -> Callable[[], None] | None:
        while True:
            try:
                return self._jobs.get(timeout=LINGER)
            except Empty:
                with _guard:
                    if self in _spare:  # otherwise a job is on its way
                        _spare.remove(self)
                        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_spare.clear)
