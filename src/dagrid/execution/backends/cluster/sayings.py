"""What is said once, although it happens often. It knows no log: who asks says it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from time import monotonic

KNOWN = 100
"""Of how many things it is known when they were last said; of others all are as one."""


def in_one_line(text: str) -> str:
    """Return a text of somebody else's with what would break or colour a line written out, such as `\\n`."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Sayings:
    """When what was said last. May be used from any thread.

    Args:
        every: seconds after which the same may be said again.
        clock: seconds.
    """

    def __init__(self, every: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._every = every
        self._clock = clock
        self._guard = threading.Lock()
        self._said: dict[Hashable, float] = {}

    def due(self, what: Hashable) -> bool:
        """Return whether something is to be said now."""
        now = self._clock()
        with self._guard:
            if len(self._said) >= KNOWN and what not in self._said:
                for old in [each for each, at in self._said.items() if at + self._every <= now]:
                    del self._said[old]
                if len(self._said) >= KNOWN:
                    what = None
            at = self._said.get(what)
            if at is not None and now < at + self._every:
                return False
            self._said[what] = now
            return True

    def forget(self, what: Hashable) -> None:
        """Something is not so any more: when it is so again, that is to be said."""
        with self._guard:
            self._said.pop(what, None)
