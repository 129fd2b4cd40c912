"""What found no room on a disk elsewhere: it is sent again, less and less often, until it is given up. Pure."""

from __future__ import annotations

from collections.abc import Hashable

FIRST_PAUSE, PAUSE = 1.0, 30.0
"""Seconds until it is sent again: at first, and at most."""
PATIENCE = 300.0
"""Seconds after which it is given up."""


class Refusals:
    """Since when things find no room. Times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, float, float]] = {}  # the first time, the last one, and the last pause

    def pause(self, what: Hashable, now: float) -> float | None:
        """Note that something found no room; return after how many seconds it is to be sent again, None if it is given up."""
        since, last, pause = self._known.pop(what, (now, now, 0.0))
        if now - last > pause + PATIENCE:  # it has found room meanwhile
            since, pause = now, 0.0
        if now - since >= PATIENCE:
            return None
        pause = min(2 * pause or FIRST_PAUSE, PAUSE)
        self._known[what] = since, now, pause
        return pause

    def forget(self, what: Hashable) -> None:
        """It has found room, or is not to be sent any more."""
        self._known.pop(what, None)
