"""Who calls a coordinator: a worker with what it performs, or a run with what it wants to have performed.

A stream that breaks is made anew, after a pause that grows to three seconds and is never the same for two callers. What is said
on it is a matter of those for whom it is kept.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from dagrid.errors import BackendError, FleetError, FleetRefusedError, TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import loop as fleet_loop
from dagrid.execution.backends.cluster.calling import Address, call, converse
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.link import Link
from dagrid.execution.backends.cluster.listener import PARTING, PATIENCE
from dagrid.execution.backends.cluster.outbox import Outbox
from dagrid.leases import LEASE

PAUSE = 3.0
"""Seconds between two tries, at most."""
FIRST_PAUSE = 0.1
TRIES = 5
"""So often in a lease it is tried again at least: who comes later has lost what he had."""
OFTEN, SELDOM = 1.0, 60.0
"""Seconds after which something is said again, and the same."""
STEADY = 5.0
"""Seconds after which a stream that breaks counts as one that was good."""

_log = logging.getLogger("dagrid.fleet")


class Desk(Protocol):
    """What a worker performs, as its link sees it. All of it is called in the loop of the link, and returns at once."""

    def hello(self) -> pb.Hello:
        """Return what the worker is and holds; the link adds the nonce."""
        ...

    def welcomed(self, welcome: pb.Welcome) -> None:
        """The coordinator has taken it."""
        ...

    def hear(self, down: pb.Down) -> None:
        """Hear what the coordinator says."""
        ...

    def take(self) -> pb.Up | None:
        """Return all that there is to say, but what is long."""
        ...

    def piece(self) -> pb.Up | None:
        """Return the next piece of what is long (files, values), of about 256 KiB at most."""
        ...

    def lost(self) -> None:
        """The stream has ended; it is made anew."""
        ...


class WorkerLink:
    """A worker's way to its coordinator. Used in the loop that it runs in.

    Args:
        address: of the coordinator.
        desk: what the worker performs.
        draw: returns a number from 0 to 1, for the pauses.
    """

    def __init__(self, address: Address, desk: Desk, draw: Callable[[], float] = random.random) -> None:
        self._desk = desk
        self._address = address
        self._patience = Patience(address, draw)
        self._link: Link[pb.Up, pb.Down] | None = None
        self._leaving = asyncio.Event()

    def wake(self) -> None:
        """There is something to say."""
        if self._link is not None:
            self._link.wake()

    def leave(self) -> None:
        """Hang up when all is said, and let `run` return."""
        self._leaving.set()
        if self._link is not None:
            self._link.finish()

    async def run(self) -> None:
        """Keep the worker linked until it leaves.

        Raises:
            FleetRefusedError: the coordinator does not want the worker, and will not.
        """
        while not self._leaving.is_set():
            try:
                await self._once()
            except FleetRefusedError as refusal:
                if refusal.final:
                    raise
                self._patience.failed(refusal)
            except BackendError as error:
                self._patience.failed(error)
            await self._patience.pause(self._leaving)

    async def _once(self) -> None:
        desk = self._desk
        packs = (lambda _: False) if self._address.is_local else _is_log
        first = pb.Up(hello=desk.hello())
        async with call(self._address, "Work", first, pb.Down, desk.take, desk.piece, packs) as (link, down):
            self._patience.linked(down.welcome.lease)
            desk.welcomed(down.welcome)
            self._link = link
            try:
                if self._leaving.is_set():
                    link.finish()
                desk.hear(down)
                await converse(link, desk.hear)
            finally:
                self._link = None
                desk.lost()


def _is_log(piece: pb.Up) -> bool:
    return bool(piece.logs)


class LastWords:
    """What was said last of a coordinator, and when; who shares it says nothing that another one has just said."""

    __slots__ = ("at", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0.0

    def due(self, text: str, now: float) -> bool:
        """Return whether something is to be said now: the same once a minute, and nothing more than once a second."""
        if self.text and now < self.at + (OFTEN if text != self.text else SELDOM):
            return False
        self.text, self.at = text, now
        return True


class Patience:
    """How long to wait for the next try, and what is said of those that failed.

    Args:
        address: of the coordinator.
        draw: returns a number from 0 to 1.
        clock: seconds.
        words: what others have said of it, by the same clock.
    """

    def __init__(
        self,
        address: Address,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = monotonic,
        words: LastWords | None = None,
    ) -> None:
        self._address = address
        self._draw = draw
        self._clock = clock
        self._words = words or LastWords()
        self._fails = 0
        self._linked_at: float | None = None
        self._longest = PAUSE

    def linked(self, lease: float = LEASE) -> None:
        """The coordinator has answered, and said how long its leases are."""
        self._linked_at = self._clock()
        self._longest = min(PAUSE, (lease or LEASE) / TRIES)
        _log.info("Linked with the coordinator at %s.", self._address)

    def failed(self, error: BackendError) -> None:
        """A try has failed, or a stream has broken, which is said, see `LastWords`."""
        if self._linked_at is not None and self._linked_at + STEADY <= self._clock():
            self._fails = 0
        self._linked_at = None
        self._fails += 1
        said = str(error)
        if self._words.due(said, self._clock()):
            stop = "" if said.endswith((".", "?")) else "."
            _log.warning("%s%s It is tried again, at least every %g seconds.", said, stop, self._longest)

    def seconds(self) -> float:
        """Return how long to wait for the next try."""
        longest = min(self._longest, FIRST_PAUSE * 2.0 ** min(self._fails, 10))
        return longest * (0.3 + 0.7 * self._draw())

    async def pause(self, leaving: asyncio.Event) -> None:
        """Wait, or until somebody leaves."""
        try:
            async with asyncio.timeout(self.seconds()):
                await leaving.wait()
        except TimeoutError:
            pass


def borrow(
    address: Address,
    reopen: Callable[[Line], None],
    tell: Callable[[pb.Tell], None],
    *,
    patience: float = PATIENCE,
    draw: Callable[[], float] = random.random,
) -> RemoteLine:
    """Let a run of this process use the workers of a coordinator elsewhere.

    Args:
        address: of the coordinator.
        reopen: called whenever a stream is to begin, in the line's thread: it asks `Ask(open=...)` of the line, with all that is
            under way. What was asked before that, but for acks and cancels, is not sent any more. So who asks has to see to it
            that an assignment is in that list exactly if it was asked before: by one lock over both.
        tell: is told what happens, in order, in the line's thread; it must return at once. A `Refusal` is the last word; why is
            `error` of the line.
        patience: seconds in which the first stream has to begin; later ones are waited for as long as it takes.
        draw: returns a number from 0 to 1, for the pauses.
    """
    return RemoteLine(address, reopen, tell, patience, draw)


class RemoteLine:
    """The line of a run to a coordinator elsewhere, see `borrow`.

    Attributes:
        elsewhere: the address of the coordinator.
        error: why the line has ended, if it has.
    """

    def __init__(
        self,
        address: Address,
        reopen: Callable[[Line], None],
        tell: Callable[[pb.Tell], None],
        patience: float,
        draw: Callable[[], float],
    ) -> None:
        self.error: BackendError | None = None
        self.elsewhere = str(address)
        self._address = address
        self._reopen = reopen
        self._tell = tell
        self._first_by: float | None = monotonic() + patience
        self._patience = Patience(address, draw, words=_words.setdefault(str(address), LastWords()))
        self._asked: deque[pb.Ask | Iterator[pb.Ask]] = deque()
        self._due = False
        self._open: pb.Open | None = None
        self._outbox: Outbox[pb.Ask] = Outbox()
        self._link: Link[pb.Ask, pb.Tell] | None = None
        self._wanted: dict[bytes, int] = {}  # contents that are awaited, and how much of each has come
        self._closing = asyncio.Event()
        self._ended = threading.Event()
        self._loop = fleet_loop.join()
        self._loop.call_soon_threadsafe(self._begin)

    def ask(self, ask: pb.Ask) -> None:
        """Ask for something; the message is the line's from now on."""
        self._put(ask)

    def give(self, parts: Iterator[pb.Part]) -> None:
        """Give something long, of which each piece is asked for when it can be sent."""
        self._put(pb.Ask(parts=[part]) for part in parts)

    def _put(self, asked: pb.Ask | Iterator[pb.Ask]) -> None:
        self._asked.append(asked)
        if not self._due:
            self._due = True
            self._soon(self._gather)

    def close(self) -> None:
        """Ask nothing more. Without `Ask.close` before, what is under way is kept for a lease."""
        _parting.add(self._ended)
        self._soon(self._finish)

    def _soon(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop has ended, for nobody uses it any more
            pass

    # In the loop.

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        self._ended.set()
        _parting.discard(self._ended)
        fleet_loop.leave()

    def _finish(self) -> None:
        self._gather()
        self._closing.set()
        if self._link is not None:
            self._link.finish()

    def _gather(self) -> None:
        """Put what was asked where it is sent from."""
        self._due = False
        while self._asked:
            ask = self._asked.popleft()
            if not isinstance(ask, pb.Ask):
                self._outbox.feed(ask)
                continue
            if ask.HasField("open"):
                self._open = ask.open
                self._supersede()
                continue
            for digest in ask.wants:
                self._wanted.setdefault(digest, 0)
            self._outbox.put(ask)
        if self._link is not None:
            self._link.wake()

    def _supersede(self) -> None:
        """What is under way is said anew: of what was not sent only acks, cancels and the end still hold."""
        before, self._outbox = self._outbox, Outbox()
        while (ask := before.take()) is not None:
            self._outbox.put(pb.Ask(acks=ask.acks, cancels=ask.cancels, drops=ask.drops, close=ask.close))

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                await self._once()
            except BackendError as error:
                if self._is_final(error):
                    self.error = error
                    self._tell(pb.Tell(refusal=pb.Refusal(reason=str(error), final=True)))
                    return
                self._patience.failed(error)
            await self._patience.pause(self._closing)

    def _is_final(self, error: BackendError) -> bool:
        if isinstance(error, FleetRefusedError) and error.final:
            return True
        if self._first_by is None:
            return False
        if isinstance(error, FleetError) and not isinstance(error, (FleetRefusedError, TamperedError)):
            return True
        return self._first_by <= monotonic()

    async def _once(self) -> None:
        self._reopen(self)
        self._gather()
        assert self._open is not None
        first = pb.Ask(open=self._open)
        async with call(self._address, "Borrow", first, pb.Tell, self._take, self._piece) as (link, tell):
            self._patience.linked(tell.welcome.lease)
            self._first_by = None
            self._link = link
            try:
                if self._closing.is_set():
                    link.finish()
                if self._wanted:
                    self._wanted = dict.fromkeys(self._wanted, 0)
                    self._outbox.put(pb.Ask(wants=self._wanted))
                self._hear(tell)
                await converse(link, self._hear)
            finally:
                self._link = None

    def _take(self) -> pb.Ask | None:
        return self._outbox.take()

    def _piece(self) -> pb.Ask | None:
        return self._outbox.piece()

    def _hear(self, tell: pb.Tell) -> None:
        if tell.parts:
            new = [part for part in tell.parts if self._is_new(part)]
            tell.ClearField("parts")
            tell.parts.extend(new)
        for digest in tell.missing:
            self._wanted.pop(digest, None)
        self._tell(tell)

    def _is_new(self, part: pb.Part) -> bool:
        """Whether a piece is the next of something that is awaited; after a broken stream all pieces come again."""
        so_far = self._wanted.get(part.digest)
        if so_far != part.offset:
            return False
        self._wanted[part.digest] = so_far + len(part.data)
        if so_far + len(part.data) >= part.size:
            del self._wanted[part.digest]
        return True


_words: dict[str, LastWords] = {}  # of the lines of this process, by the address of their coordinator
_parting: set[threading.Event] = set()


@atexit.register
def _part() -> None:
    """Let lines that were closed say so before the process ends."""
    until = monotonic() + PARTING
    for ended in list(_parting):
        ended.wait(max(0.0, until - monotonic()))
