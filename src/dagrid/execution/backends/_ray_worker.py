"""What runs in an actor of Ray: the seat of a performer, which takes letters in some of its threads while it performs in another.

A threaded actor costs Ray half of what an asynchronous one costs. It knows neither the driver nor the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pickle import dumps, loads
from typing import Any

import ray

from dagrid.execution.backends._performer import Performer

AT_ONCE = 4
"""How many calls an actor takes at once: one may wait for news, and letters come meanwhile."""
LINGER = 0.002
"""Seconds for which an answer that has something in it waits for more, while there is something to do: as long as it travels."""


class Seat:
    """A performer for as long as the actor lives."""

    def __init__(self) -> None:
        self._performer = Performer(fetch=fetch)

    def tell(self, letter: Any) -> None:
        """Take a letter, sealed."""
        self._performer.take_in_turn(*_opened(letter))

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
    def exchange(self, *letters: Any) -> tuple[bytes, bytes]:
        """Take letters, and return what has happened since the last time, as soon as there is something; one asks at a time.

        Returns:
            The records pickled, for Ray would pickle them one by one, and a value that is to be kept, the one of the last; empty
            if there is none, for Ray sends bytes as they are.
        """
        for letter in letters:
            self.tell(letter)
        self._performer.await_news(LINGER)
        records, kept = self._performer.gathered_apart()
        return dumps(records, 5), kept or b""


def sealed(letter: Sequence[Any]) -> Any:
    """Return a letter (`Performer.tell`) as it is sent: in one piece, but for one with handles, which Ray itself must see."""
    _, calls, _, _ = letter
    return letter if any(handles for _, _, _, *handles in calls) else dumps(letter, 5)


def _opened(letter: Any) -> Any:
    return loads(letter) if isinstance(letter, bytes) else letter


def fetch(handles: Sequence[Any]) -> Sequence[bytes]:
    """Return the pickled values that objects of Ray hold."""
    return ray.get(list(handles))  # type: ignore[no-any-return]
