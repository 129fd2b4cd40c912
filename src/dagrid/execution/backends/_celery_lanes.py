"""Which call of which run is where: waiting in its lane, or in the one message that its lane has under way.

Only lists and counters: what changes them holds the guard of the line, and reports what follows when it has let go of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from dagrid.ports import Call

if TYPE_CHECKING:
    from dagrid.execution.backends.celery import CelerySession

BATCH = 256
"""How many calls a message may have; how many it does have is the machine's affair."""


class Item:
    """A call with the lane that it is in; `alone` says that it may have killed a worker, and is to be tried by itself."""

    __slots__ = ("alone", "call", "lane", "started", "submitted")

    def __init__(self, lane: Lane, call: Call, now: float) -> None:
        self.lane = lane
        self.call = call
        self.submitted = now
        self.started: float | None = None
        self.alone = False

    @property
    def rides(self) -> bool:
        """Whether it is performed only if one before it has completed, see `Call`."""
        return self.call.rides >= 0


class Lane:
    """One process of Celery's as a run sees it: calls that wait, and at most one message under way to a queue."""

    __slots__ = ("message", "queue", "session", "waiting", "worker")

    def __init__(self, session: CelerySession, worker: int, queue: str) -> None:
        self.session = session
        self.worker = worker
        self.queue = queue
        self.waiting: deque[Item] = deque()
        self.message: Message | None = None

    def load(self, new_name: Callable[[], str]) -> Message | None:
        """Put what waits into a new message, None if nothing does or one is under way."""
        waiting = self.waiting
        if self.message is not None or not waiting or self.session.reports.closed:
            return None
        items = [waiting.popleft()]
        while waiting and (waiting[0].rides or (not (items[0].alone or waiting[0].alone) and len(items) < BATCH)):
            items.append(waiting.popleft())
        self.message = Message(self, new_name(), items)
        return self.message


class Message:
    """Calls that are with Celery under one task id.

    Args:
        lane: whose they are.
        name: the task id, never used twice.
        items: the calls, in the order in which they are performed.
    """

    __slots__ = ("cancelled", "doubted", "host", "id", "items", "lane", "left", "misses", "running", "seen", "sent")

    def __init__(self, lane: Lane, name: str, items: list[Item]) -> None:
        self.lane = lane
        self.id = name
        self.items = items
        self.left = {item.call.attempt: item for item in items}
        """Those of which we do not know the end."""
        self.sent = 0.0
        self.host = ""
        """Where it is, known once a worker has said that it takes long."""
        self.running: Item | None = None
        """The last call that will be performed, known by then too."""
        self.cancelled = 0.0
        self.misses = 0
        self.seen = 0.0
        """When a worker last said that it has it."""
        self.doubted = False

    def unload(self, items: Iterable[Item]) -> None:
        """Put calls that have not been sent back to the front of the lane."""
        for item in reversed(list(items)):
            if self.left.pop(item.call.attempt, None) is not None:
                self.lane.waiting.appendleft(item)

    def seal(self, items: Iterable[Item]) -> bool:
        """Say which calls are really sent, and return whether there are any."""
        self.items = [item for item in items if item.call.attempt in self.left]
        self.sent = time.monotonic() if self.items else 0.0
        return bool(self.items)

    def suspect(self) -> list[Item]:
        """Any of the calls may have killed the worker: one by one it will be seen which.

        Returns those on which others ride, to be given back: they will be sent again, and nothing will ride on them.
        """
        ridden = {item.call.rides for item in self.left.values()}
        items = [item for item in self.left.values() if not item.rides]
        for item in items:
            item.alone = True
        self.unload(item for item in items if item.call.attempt not in ridden)
        return [item for item in items if item.call.attempt in ridden]


def riders(items: Iterable[Item], ended: Iterable[Item]) -> list[Item]:
    """Return those of these calls, which are in the order in which they are performed, that fall with others."""
    fallen = {item.call.attempt for item in ended}
    found: list[Item] = []
    for item in items:
        if item.call.rides in fallen:
            fallen.add(item.call.attempt)
            found.append(item)
    return found


def heads(items: Sequence[Item]) -> list[Item]:
    """Return those of these calls that ride on no other one of them."""
    there = {item.call.attempt for item in items}
    return [item for item in items if item.call.rides not in there]
