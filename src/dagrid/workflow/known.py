"""What was made of objects that do not change, such as a workflow, for whoever wants it made of the same ones again."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Known(Generic[Made]):
    """The last things that were made; from any thread.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._guard = threading.Lock()
        self._made: dict[Hashable, tuple[object, Made]] = {}

    def get(self, of: object, *how: Hashable) -> Made | None:
        """Return what was made of this very object in the same way, if it is kept."""
        with self._guard:
            found = self._made.get((id(of), how))
        return None if found is None else found[1]

    def keep(self, made: Made, of: object, *how: Hashable) -> Made:
        """Keep what was made of an object, and the object, so that its id is its own."""
        with self._guard:
            self._made[id(of), how] = of, made
            while len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        return made
