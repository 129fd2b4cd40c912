"""Virtual time, processes that stop and die, streams between them that delay, stall and break. All by one seeded chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Died(Exception):  # noqa: N818  # it is no error
    """A process dies in the middle of what it does."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.name)
        self.process = process


class Process:
    """Something that runs: what is to happen to it waits while it is stopped, and does not happen once it is dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0

    def __repr__(self) -> str:
        return self.name

    def stop(self, until: float) -> None:
        """Let nothing happen to it for a while."""
        self.stopped_until = max(self.stopped_until, until)


class Time:
    """The virtual clock and what is going to happen."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self.chance = chance
        self.steps = 0
        self.buried: Callable[[Process], None] = lambda process: None
        self.tells = False
        self.seen: set[str] = set()  # what has happened at all
        self._events: list[tuple[float, int, Process | None, Callable[[], None]]] = []
        self._order = 0

    def note(self, *what: object) -> None:
        """Say what happens, to who looks at one schedule."""
        if self.tells:
            print(f"{self.now:10.4f}", *(" ".join(str(part).split()) for part in what))

    def at(self, when: float, whose: Process | None, action: Callable[[], None]) -> None:
        """Let something happen at a time, to a process unless it is None."""
        self._order += 1
        heappush(self._events, (max(when, self.now), self._order, whose, action))

    def after(self, delay: float, whose: Process | None, action: Callable[[], None]) -> None:
        self.at(self.now + delay, whose, action)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let things happen up to a time, or until all is done."""
        while self._events and self._events[0][0] <= until and not done():
            when, order, whose, action = heappop(self._events)
            self.now = when
            if whose is not None:
                if not whose.alive:
                    continue
                if whose.stopped_until > when:  # the order of what waits for it stays what it was
                    heappush(self._events, (whose.stopped_until, order, whose, action))
                    continue
            self.steps += 1
            try:
                action()
            except Died as death:
                self.buried(death.process)
        if not done():
            self.now = max(self.now, until)


class End:
    """One end of a stream, in the hands of a process."""

    def __init__(self, stream: Stream, process: Process) -> None:
        self.stream = stream
        self.process = process
        self.other: End
        self.hear: Callable[[Any], None] = lambda message: None
        self.lost: Callable[[], None] = lambda: None
        self.knows = False  # that it is broken
        self.clear_at = 0.0  # when what was sent last arrives

    def send(self, message: Any) -> None:
        """Send a message: it arrives after all that was sent before, or never."""
        stream, other = self.stream, self.other
        stream.time.note(self.process, "->", other.process, message, "lost" if stream.broken or self.knows else "")
        if stream.broken or self.knows:
            return
        kind = type(message)
        data = message.SerializeToString()
        arrives = max(stream.time.now + stream.delay(), self.clear_at, stream.stalled_until.get(self, 0.0))
        self.clear_at = arrives

        def arrive() -> None:
            if not stream.broken and not other.knows:
                other.hear(kind.FromString(data))

        stream.time.at(arrives, other.process, arrive)

    def close(self) -> None:
        """End the stream in order: what was sent arrives before the other end knows."""
        if self.knows:
            return
        self.knows = True
        other = self.other
        self.stream.time.at(max(self.stream.time.now + 0.001, self.clear_at), other.process, other.notice)

    def notice(self) -> None:
        """Find that the stream is broken."""
        if not self.knows:
            self.knows = True
            self.stream.time.note(self.process, "notices that it has lost", self.other.process)
            self.lost()


class Stream:
    """A connection of two processes."""

    def __init__(self, time: Time, client: Process, server: Process, slowest: float) -> None:
        self.time = time
        self.slowest = slowest
        self.broken = False
        self.stalled_until: dict[End, float] = {}
        self.client = End(self, client)
        self.server = End(self, server)
        self.client.other, self.server.other = self.server, self.client

    def delay(self) -> float:
        return 0.0002 + self.time.chance.random() ** 3 * self.slowest

    def cut(self, latest: float) -> None:
        """Break it: what is in it is lost; each end knows at some time later, the one that is alone at once when it is dead."""
        if self.broken:
            return
        self.broken = True
        for end in (self.client, self.server):
            if not end.knows:
                self.time.after(self.time.chance.random() * latest, end.process, end.notice)

    def stall(self, end: End, seconds: float) -> None:
        """Hold back what one end sends from now on; it arrives late, in order."""
        self.stalled_until[end] = self.time.now + seconds
