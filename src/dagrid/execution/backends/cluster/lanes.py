"""The uses of workers by one run: what is under way in each, and what of it counts as lost with the worker. Pure data."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.ports import Call


class Sent(NamedTuple):
    """A call that is with a worker, when it was sent, what of it was sent apart, and which values stay with the coordinator."""

    call: Call
    at: float
    apart: bytes
    values: Collection[bytes] = ()


Assigned = tuple[pb.Assign, dict[int, Sent]]
"""An assignment with what it holds, by attempt."""


class Lane:
    """One use of a worker: what is under way there.

    Attributes:
        absent: nobody knows whether the worker goes on with it; what is asked of it waits in `later`.
        begun: when those have started that have.
        stopping: those that are to end, and since when.
    """

    __slots__ = ("absent", "begun", "generation", "later", "number", "sent", "stopping", "worker")

    def __init__(self, number: int, worker: str, generation: int) -> None:
        self.number = number
        self.worker = worker
        self.generation = generation
        self.absent = False
        self.sent: dict[int, Sent] = {}
        self.begun: dict[int, float] = {}
        self.later: list[Assigned] = []
        self.stopping: dict[int, float] = {}

    def may_have_begun(self, attempt: int, sent: Sent) -> bool:
        """Whether an attempt has begun, or may have: one that must not be performed twice counts from when it was sent."""
        return sent.call.once or attempt in self.begun

    def take_back(self, attempt: int) -> list[Sent]:
        """Take out of what waits an attempt, and what rides on it, and return them; nothing if it does not wait."""
        found: dict[int, Sent] = {}
        for assign, sent in self.later:
            for call in list(assign.calls):
                if call.attempt == attempt or call.rides - 1 in found:
                    found[call.attempt] = sent.pop(call.attempt)
                    assign.calls.remove(call)
        self.later = [(assign, sent) for assign, sent in self.later if sent]
        return list(found.values())

    def forget(self, attempt: int) -> None:
        """An attempt is not under way any more."""
        del self.sent[attempt]
        self.begun.pop(attempt, None)
        self.stopping.pop(attempt, None)

    def lost(self, next: int) -> list[int]:
        """Return the attempts that count as begun when the worker is lost: those that have, and so many of the others.

        What ends its worker at once is never told to have begun, and is not to do that to all workers.
        """
        lost = [attempt for attempt, sent in self.sent.items() if self.may_have_begun(attempt, sent)]
        known = set(lost)
        waiting = (attempt for attempt, sent in self.sent.items() if sent.call.rides < 0 and attempt not in known)
        return lost + list(islice(waiting, next))
