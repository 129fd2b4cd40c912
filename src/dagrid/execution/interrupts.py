"""Ctrl-C that waits for a moment in which it does no harm. It knows no run."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class HeldInterrupts:
    """Ctrl-C waits: while a run begins it would leave one that nobody can cancel, while one is recorded a torn record."""

    def __init__(self) -> None:
        self._late: list[tuple[int, FrameType | None]] = []
        self._handler: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.getsignal(signal.SIGINT)
            if callable(self._handler):
                signal.signal(signal.SIGINT, lambda *late: self._late.append(late))
        return self

    def __exit__(self, *_: object) -> None:
        if callable(self._handler):
            signal.signal(signal.SIGINT, self._handler)

    def deliver(self) -> None:
        """Do now what was held."""
        while self._late:
            self._handler(*self._late.pop())
