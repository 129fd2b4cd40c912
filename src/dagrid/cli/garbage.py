"""Whether this process looks for garbage: a short command does not, one that lasts does."""

from __future__ import annotations

import gc

MANY = 20_000
"""So many new objects are searched for garbage at once: runs that go on are many, and none of them is."""


def collect_garbage() -> None:
    """Have a process that lasts search for garbage again, where the program turned that off, but not among what is loaded."""
    if gc.isenabled():
        return
    gc.freeze()
    gc.set_threshold(MANY, 20, 20)
    gc.enable()
