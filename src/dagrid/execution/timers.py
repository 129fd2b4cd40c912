"""The timers of one run: a heap of what is to be reported when, and one timer of the clock for its head."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

import msgspec

from dagrid.machine.events import TimerDue
from dagrid.ports import Clock


class Timers(msgspec.Struct, eq=False):
    """Calls `due` when there is something to `take`. All else is called under the lock of the run.

    It keeps `due`, which is the run's, only as long as something waits, so that a run that is over is let go of at once.
    """

    _clock: Clock
    _waiting: list[tuple[float, int, int]] = []
    _armed: tuple[float, Callable[[], None]] | None = None

    def set(self, at: float, kind: int, subject: int, due: Callable[[], None]) -> None:
        """Report `TimerDue(kind, subject)` at a time."""
        heappush(self._waiting, (at, kind, subject))
        if self._armed is None or at < self._armed[0]:
            self._arm(due)

    def take(self, now: float, due: Callable[[], None]) -> list[TimerDue]:
        """Return what is due, and arm for what is not."""
        self._armed = None
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            _, kind, subject = heappop(self._waiting)
            found.append(TimerDue(kind, subject, now))
        self._arm(due)
        return found

    def stop(self) -> None:
        """Report nothing any more."""
        if self._waiting:
            self._waiting.clear()
        if self._armed is not None:
            self._disarm()

    def _arm(self, due: Callable[[], None]) -> None:
        self._disarm()
        if self._waiting:
            when = self._waiting[0][0]
            self._armed = when, self._clock.call_at(when, due)

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed[1]()
            self._armed = None
