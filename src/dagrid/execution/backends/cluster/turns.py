"""What a worker has of runs, and whose turn it is: which call is begun next. Pure.

Runs take turns, and within a run the calls go in the order of their coming. A run is admitted when something of it may be begun,
and keeps its place until nothing of it is here; there are as many places as runs may be active.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.posts import Key

SHORT = 0.002
"""Seconds: calls that take less on average may be begun before there is a slot for them."""
AHEAD = 0.005
"""Seconds of such work that may be begun ahead, for each slot."""
LEAST = 0.00002
"""Seconds that a call is taken to last at least."""
SOON = 4
"""So many runs are made ready for what is begun next of them."""
KNOWN = 0.8
"""How much of an average stays when another duration is known."""


class Job:
    """An attempt that is here, from its coming until nobody wants to hear of it."""

    __slots__ = (
        "attempt",
        "call",
        "end",
        "key",
        "kit",
        "missing",
        "overdue",
        "riders",
        "rides",
        "run",
        "started",
        "token",
        "wanted",
    )

    def __init__(self, run: Run, key: Key, call: pb.Call, kit: bytes) -> None:
        self.run = run
        self.key = key
        self.attempt = call.attempt
        self.call = call
        self.kit = kit
        self.missing: set[bytes] = set()
        self.rides: Job | None = None  # while that one has not ended
        self.riders: list[Job] = []
        self.token = 0  # once it is begun
        self.wanted = True
        self.overdue = False
        self.started: pb.Started | None = None
        self.end: pb.Finished | None = None

    @property
    def head(self) -> Job:
        """What it is begun with."""
        return self.rides.head if self.rides is not None else self

    @property
    def named(self) -> tuple[str, str]:
        """Its run and its node."""
        return self.key[0], self.call.node

    @property
    def waits(self) -> bool:
        """Whether it may still be begun."""
        return self.wanted and not self.token and self.end is None

    def chain(self) -> list[Job]:
        """Return it with all that rides on it, in order."""
        found = [self]
        for job in found:
            found += job.riders
        return found


class Run:
    """What the worker knows of a run under one key, until it is told to forget it."""

    __slots__ = ("fence", "key", "later", "leaving", "performing", "prepared", "turn")

    def __init__(self, key: str, turn: Turn) -> None:
        self.key = key
        self.turn = turn
        self.fence = 0  # the newest
        self.performing = 0
        self.prepared = False  # it has its surroundings, or will have
        self.leaving = False  # it is over, and may come again when what is left of it has stopped
        self.later: list[Job] = []


class Turn:
    """A run whose turn comes: what of it may be begun, in the order of coming, and how much has been."""

    __slots__ = ("admitted", "begun", "listed", "mean", "open", "ready")

    def __init__(self) -> None:
        self.ready: deque[Job] = deque()
        self.open = 0  # what is wanted and has not ended
        self.begun = 0  # and has not ended, without what rides
        self.admitted = self.listed = False
        self.mean = -1.0  # seconds that a call takes


class Turns:
    """Who waits, and how many slots are taken."""

    def __init__(self, slots: int, most_runs: int) -> None:
        self.slots = slots
        self.most_runs = most_runs
        self.busy = 0  # slots; more than there are, where calls are short
        self.admitted = 0
        self.queue: dict[Turn, None] = {}  # that have something ready and are not admitted
        self.order: deque[Turn] = deque()  # that have, and are
        self.quick: set[Turn] = set()  # of those that are admitted, whose calls may be begun before there is a slot

    def ready(self, job: Job) -> None:
        """Something may be begun."""
        turn = job.run.turn
        turn.ready.append(job)
        if not turn.admitted:
            self.queue[turn] = None
        elif not turn.listed:
            turn.listed = True
            self.order.append(turn)

    def next(self) -> Job | None:
        """Take what is to be begun now, if there is anything."""
        while self.queue and (not self.most_runs or self.admitted < self.most_runs):
            turn = next(iter(self.queue))
            del self.queue[turn]
            if self._first(turn) is not None:
                turn.admitted = turn.listed = True
                self.admitted += 1
                self.order.append(turn)
                self._time(turn)
        if self.busy >= self.slots and not self.quick:
            return None
        for _ in range(len(self.order)):
            turn = self.order.popleft()
            job = self._first(turn)
            turn.listed = turn.admitted and job is not None
            if not turn.listed or job is None:
                continue
            self.order.append(turn)
            if self.busy < self.slots or self._goes_ahead(turn, job):
                turn.ready.popleft()
                return job
        return None

    def soon(self) -> Iterator[Job]:
        """Yield what is likely to be begun next, of some runs each."""
        for turn in islice(self.order, SOON):
            job = self._first(turn)
            if job is not None:
                yield job

    def occupy(self, job: Job) -> None:
        """Something takes a slot."""
        self.busy += 1
        job.run.turn.begun += 1

    def vacate(self, job: Job) -> None:
        """It has left its slot."""
        self.busy -= 1
        job.run.turn.begun -= 1
        self._pass_on(job.run.turn)

    def open(self, job: Job) -> None:
        """Something is here that has not ended."""
        job.run.turn.open += 1

    def close(self, job: Job) -> None:
        """It has ended, or nobody wants it."""
        job.run.turn.open -= 1
        self._pass_on(job.run.turn)

    def took(self, job: Job, seconds: float) -> None:
        """A call has completed in so many seconds."""
        turn, seconds = job.run.turn, max(seconds, LEAST)
        turn.mean = seconds if turn.mean < 0 else KNOWN * turn.mean + (1 - KNOWN) * seconds
        self._time(turn)

    @staticmethod
    def _first(turn: Turn) -> Job | None:
        while turn.ready:
            job = turn.ready[0]
            if job.waits:
                return job
            turn.ready.popleft()
        return None

    def _time(self, turn: Turn) -> None:
        """See whether the calls of a run are short."""
        if turn.admitted and 0 <= turn.mean < SHORT:
            self.quick.add(turn)
        else:
            self.quick.discard(turn)

    def _goes_ahead(self, turn: Turn, job: Job) -> bool:
        if job.call.place or turn not in self.quick:
            return False
        return turn.begun < self.slots * (1 + AHEAD / turn.mean)

    def _pass_on(self, turn: Turn) -> None:
        """If a run has nothing here at present another one may have its place."""
        if turn.admitted and not (turn.open or turn.begun):
            turn.admitted = False
            self.admitted -= 1
            self.quick.discard(turn)
