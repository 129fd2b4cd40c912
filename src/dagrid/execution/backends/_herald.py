"""In an engine's worker process: who says of the calls that last that they have begun, so that their time is counted from there.

Most calls are so short that their report is there before anybody could be told of their start; saying it would cost more than the
call. It knows neither engines nor calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from time import sleep, time

AFTER = 0.02
"""Seconds that a call lasts at least before its start is told, and half of what it lasts at most."""
ROUNDS = 50
"""After so many looks at which there was nothing to tell, no more are taken until another call begins."""

Say = Callable[[float], None]


class Herald:
    """Tells of calls that have begun, from a thread of its own, which looks now and then: a short call costs next to nothing.

    Args:
        after: how many seconds pass between two looks; a call that is there at both is told of.
    """

    def __init__(self, after: float = AFTER) -> None:
        self._after = after
        self._numbers = count()
        self._begun: dict[int, tuple[float, Say]] = {}
        self._resting = True
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self, say: Say) -> int:
        """A call begins: if it lasts, `say` is called with the time of day. It may fail. Returns what `leave` wants."""
        number = next(self._numbers)
        self._begun[number] = (time(), say)
        if self._resting:
            self._resting = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="dagrid-herald", daemon=True)
                self._thread.start()
            self._wanted.set()
        return number

    def leave(self, number: int) -> None:
        """A call is over."""
        self._begun.pop(number, None)

    def _watch(self) -> None:
        before: set[int] = set()
        quiet = 0
        while True:
            sleep(self._after)
            now = set(self._begun.copy())
            for number in now & before:
                found = self._begun.pop(number, None)
                if found is not None:
                    self._tell(*found)
            before = now
            quiet = 0 if now else quiet + 1
            if quiet > ROUNDS:
                self._resting = True
                if not self._begun:  # else it came while this thread made up its mind, and may have seen it awake
                    self._wanted.wait()
                self._wanted.clear()
                self._resting = False
                quiet = 0

    @staticmethod
    def _tell(at: float, say: Say) -> None:
        try:
            say(at)
        except Exception:  # noqa: BLE001 - the engine's; without it the time is counted from the report
            return
