"""In an engine's worker process: who says of the calls that last that they have begun, so that their time is counted from there.

Most calls are so short that their report is there before anybody could be told of their start; saying it would cost more than the
call. It knows neither engines nor calls.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, time

AFTER = 0.02
"""Seconds that a call lasts before its start is told."""


class Herald:
    """Tells of calls that have begun, from a thread of its own.

    Args:
        after: how many seconds a call has to last.
    """

    def __init__(self, after: float = AFTER) -> None:
        self._after = after
        self._changed = threading.Condition()
        self._begun: deque[tuple[float, float, object, Callable[[float], None]]] = deque()
        self._running: set[object] = set()
        self._sleeping = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, say: Callable[[float], None]) -> Iterator[None]:
        """Surround a call with this; `say` is called once with the time of day when it began, if it lasts. It may fail."""
        mark = object()
        with self._changed:
            self._running.add(mark)
            self._begun.append((monotonic() + self._after, time(), mark, say))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="dagrid-herald", daemon=True)
                self._thread.start()
            elif self._sleeping:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(mark)

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._begun:
                    self._sleeping = True
                    self._changed.wait()
                    self._sleeping = False
                due, at, mark, say = self._begun[0]
                wait = due - monotonic() if mark in self._running else 0.0
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                self._begun.popleft()
                lasts = mark in self._running
            if lasts:
                try:
                    say(at)
                except Exception:  # noqa: BLE001 - the engine's; without it the time is counted from the report
                    continue
