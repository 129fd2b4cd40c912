"""A task that stands still in a thread of the test's own process until the test lets it go."""

from __future__ import annotations

import threading

PATIENCE = 10.0


class Held:
    """A task that stands still until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> str:
        self.reached.set()
        assert self.release.wait(PATIENCE)
        return "done"
