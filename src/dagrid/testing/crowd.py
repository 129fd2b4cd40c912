"""Several threads that use something at once, for the suites. It knows nothing of what they use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from dagrid.testing.conformance import raised

PATIENCE = 30.0
"""Seconds after which a thread is stuck."""


def at_once(actions: Sequence[Callable[[], Any]], patience: float) -> None:
    """Perform actions in a thread each, begun together, and raise what one of them raises."""
    together = threading.Barrier(len(actions))
    found: list[BaseException] = []

    def perform(action: Callable[[], Any]) -> None:
        together.wait(patience)
        error = raised(action)
        if error is not None:
            found.append(error)

    threads = [threading.Thread(target=perform, args=[action], daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience)
    if found:
        raise found[0]
    assert not any(thread.is_alive() for thread in threads), "a thread is stuck"
