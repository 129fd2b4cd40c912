"""How a run reaches the coordinator, in the same process or over a stream: what it may ask, with nothing of how it travels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from dagrid.execution.backends.cluster import fleet_pb2 as pb


class Line(Protocol):
    """One run's way to the coordinator. All of it may be called from any thread, and never blocks."""

    @property
    def elsewhere(self) -> str:
        """The address of the coordinator, if it is in another process."""
        ...

    def ask(self, ask: pb.Ask) -> None:
        """Ask for something; the message is the line's from now on."""
        ...

    def give(self, parts: Iterator[pb.Part]) -> None:
        """Give something long, of which each piece is asked for when it can be sent."""
        ...

    def close(self) -> None:
        """Ask nothing more. Without `Ask.close` before, what is under way is kept for a lease."""
        ...
