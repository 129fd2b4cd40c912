"""The uses of workers by one run: what is under way in each, and what of it counts as lost with the worker. Pure data."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.ports import Call


class Sent(NamedTuple):
    """A call that is with a worker, when it was sent, and what of it was sent apart."""

    call: Call
    at: float
    apart: bytes


Assigned = tuple[pb.Assign, dict[int, Sent]]
"""An assignment with what it holds, by attempt."""


class Lane:
    """One use of a worker: what is under way there.

    Attributes:
        slots: how many the worker performs at once.
        absent: nobody knows whether the worker goes on with it; what is asked of it waits in `later` and `cancels`.
        begun: when those have started that have.
    """

    __slots__ = ("absent", "begun", "cancels", "generation", "later", "number", "sent", "slots", "worker")

    def __init__(self, number: int, worker: str, generation: int, slots: int = 1) -> None:
        self.number = number
        self.worker = worker
        self.generation = generation
        self.slots = slots
        self.absent = False
        self.sent: dict[int, Sent] = {}
        self.begun: dict[int, float] = {}
        self.later: list[Assigned] = []
        self.cancels: list[int] = []

    def may_have_begun(self, attempt: int, sent: Sent) -> bool:
        """Whether an attempt has begun, or may have: one that must not be performed twice counts from when it was sent."""
        return sent.call.once or attempt in self.begun

    def lost(self) -> list[int]:
        """Return the attempts that count as begun when the worker is lost: as many as it performs at once.

        What ends its worker at once is never told to have begun, and is not to do that to all workers.
        """
        lost = [attempt for attempt, sent in self.sent.items() if self.may_have_begun(attempt, sent)]
        known = set(lost)
        waiting = (attempt for attempt, sent in self.sent.items() if sent.call.rides < 0 and attempt not in known)
        return lost + list(islice(waiting, max(self.slots - len(lost), 0)))
