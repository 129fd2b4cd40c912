"""A worker that performs nothing, a run that wants it to, and callers that do not keep to the rules: for tests of the streams."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Generic, Self, TypeVar, cast

import grpc

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import loop as fleet_loop
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.contents import Contents, parts
from dagrid.execution.backends.cluster.dialer import WorkerLink
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.link import clock
from dagrid.execution.backends.cluster.listener import SERVICE
from dagrid.execution.backends.cluster.outbox import PIECE, Outbox
from dagrid.execution.backends.cluster.sealing import Opener, Sealer, Side, prove, stream_key
from dagrid.machine.events import Outcome

PATIENCE = 20.0
"""Seconds after which what a test waits for will not come."""

Item = TypeVar("Item")


class Heard(Generic[Item]):
    """What somebody was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[Item] = []
        self._changed = threading.Condition()

    def add(self, item: Item) -> None:
        with self._changed:
            self.all.append(item)
            self._changed.notify_all()

    def wait(self, right: Callable[[list[Item]], Any], why: str = "") -> Any:
        """Return what a function of all of it returns, as soon as that is true."""
        with self._changed:
            assert self._changed.wait_for(lambda: right(self.all), PATIENCE), f"{why} {self.all[-5:]}"
            return right(self.all)


@contextmanager
def hub(port: int = 0, **settings: Any) -> Iterator[Hub]:
    """Run a coordinator."""
    made = Hub(port=port, **settings)
    made.start()
    try:
        yield made
    finally:
        made.close()


def to(coordinator: Hub, **settings: Any) -> Address:
    """Return the address of a coordinator."""
    return Address("127.0.0.1", coordinator.port, **settings)


class Worker:
    """A worker that ends what it is given at once; its link is a real one.

    Attributes:
        downs: what it was told.
        events: what happened to its link: "welcome", "lost", "left", "failed" for each try, or the error that ended it.
        contents: what it was sent.
    """

    def __init__(self, address: Address, id: str = "w1", labels: dict[str, str] | None = None, **hello: Any) -> None:
        self.downs: Heard[pb.Down] = Heard()
        self.events: Heard[str | BaseException] = Heard()
        self.contents = Contents()
        self.held: list[pb.Held] = []
        self.value_of: Callable[[pb.Call], pb.Finished | None] = ended
        self.outbox: Outbox[pb.Up] = Outbox()
        about = {"incarnation": id, "slots": 2, "protocol": PROTOCOL, "python": "3.11", **hello}
        self._hello = pb.Hello(id=id, labels=labels or {}, **about)
        self._link: WorkerLink | None = None
        self._loop = fleet_loop.join()
        self._task = asyncio.run_coroutine_threadsafe(self._run(address), self._loop)

    async def _run(self, address: Address) -> None:
        self._link = WorkerLink(address, self, self._draw)
        try:
            await self._link.run()
            self.events.add("left")
        except BaseException as error:
            self.events.add(error)
            raise

    def _draw(self) -> float:
        self.events.add("failed")
        return 0.0

    def say(self, up: pb.Up) -> None:
        """Say something; from any thread."""
        self._loop.call_soon_threadsafe(self._say, up)

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    def _say(self, up: pb.Up) -> None:
        self.outbox.put(up)
        self._wake()

    def _wake(self) -> None:
        if self._link is not None:
            self._link.wake()

    def _leave(self) -> None:
        if self._link is not None:
            self._link.leave()

    def close(self) -> None:
        """Leave, if the link is still there."""
        self._loop.call_soon_threadsafe(self._leave)
        wait([self._task], PATIENCE)
        fleet_loop.leave()
        self.contents.close()

    def error(self) -> BaseException:
        """Return what has ended the link."""
        return next(iter(self.events.wait(lambda found: [each for each in found if isinstance(each, BaseException)])))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The desk.

    def hello(self) -> pb.Hello:
        found = pb.Hello()
        found.CopyFrom(self._hello)
        found.held.extend(self.held)
        return found

    def welcomed(self, welcome: pb.Welcome) -> None:
        self.events.add("welcome")

    def hear(self, down: pb.Down) -> None:
        for part in down.parts:
            self.contents.add(part)
        for assign in down.assigns:
            report = pb.Report(run=assign.run, fence=assign.fence)
            report.finished.extend(end for call in assign.calls if (end := self.value_of(call)) is not None)
            if report.finished:
                self._say(pb.Up(reports=[report]))
        if down.ByteSize():
            self.downs.add(down)

    def take(self) -> pb.Up | None:
        return self.outbox.take()

    def piece(self) -> pb.Up | None:
        return self.outbox.piece()

    def lost(self) -> None:
        self.events.add("lost")


def ended(call: pb.Call) -> pb.Finished:
    """Return the end of a call that returned its arguments."""
    return pb.Finished(attempt=call.attempt, outcome=Outcome.COMPLETED, value=call.arguments)


class Run:
    """A run that uses the workers, by whatever line."""

    def __init__(self, name: str = "run") -> None:
        self.name = name
        self.tells: Heard[pb.Tell] = Heard()
        self.line: Line | None = None
        self.uses: list[pb.Use] = []

    def opening(self) -> pb.Open:
        return pb.Open(run=self.name, protocol=PROTOCOL, python="3.11", uses=self.uses)

    def reopen(self, line: Line) -> None:
        line.ask(pb.Ask(open=self.opening()))

    def joined(self, worker: str = "w1") -> pb.Joined:
        """Return the word that a worker may be used."""
        return self.tells.wait(lambda found: [each for tell in found for each in tell.joined if each.worker == worker])[
            -1
        ]

    def assign(self, joined: pb.Joined, *calls: pb.Call, fence: int = 1) -> None:
        assert self.line is not None
        assign = pb.Assign(run=self.name, fence=fence, worker=joined.worker, generation=joined.generation, calls=calls)
        self.line.ask(pb.Ask(assigns=[assign]))

    def give(self, data: bytes) -> None:
        """Give a content."""
        assert self.line is not None
        self.line.give(parts(data, digest_of(data)))

    def ends(self, count: int) -> dict[int, pb.Finished]:
        """Return how attempts have ended, when so many have."""

        def enough(all: list[pb.Tell]) -> dict[int, pb.Finished]:
            found = {each.attempt: each for tell in all for report in tell.reports for each in report.finished}
            return found if len(found) >= count else {}

        return self.tells.wait(enough)

    def content(self, digest: bytes) -> bytes:
        """Ask for a content, and return it when all of it is here."""
        assert self.line is not None
        before = len(self.tells.all)
        self.line.ask(pb.Ask(wants=[digest]))

        def whole(all: list[pb.Tell]) -> bytes:
            if not all or not any(part.digest == digest for part in all[-1].parts):
                return b""
            parts = [part for tell in all[before:] for part in tell.parts if part.digest == digest]
            if parts[-1].offset + PIECE < parts[-1].size:
                return b""
            return b"".join(part.data for part in parts)

        return self.tells.wait(whole, "a content")

    def close(self) -> None:
        assert self.line is not None
        self.line.ask(pb.Ask(close=True))
        self.line.close()


class Stranger:
    """A caller that says what it likes, on a raw stream."""

    def __init__(self, port: int, way: str = "Work") -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.sent: list[bytes] = []
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        said = cast(Iterator[bytes], iter(self._out.get, None))
        called: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(f"/{SERVICE}/{way}")
        self._call = called(said, timeout=PATIENCE)
        self.sealer = Sealer(Side.CALLER)
        self.opener = Opener(Side.COORDINATOR)

    def send(self, raw: bytes) -> None:
        self.sent.append(raw)
        self._out.put(raw)

    def say(self, up: pb.Up | pb.Ask) -> bytes:
        """Say something as it should be said, and return its envelope."""
        raw = self.sealer.seal(up.SerializeToString(), clock()).SerializeToString()
        self.send(raw)
        return raw

    def hear(self) -> pb.Down | None:
        """Return what is said next; None if the coordinator has hung up."""
        try:
            body = self._body()
        except (grpc.RpcError, StopIteration):
            return None
        return pb.Down.FromString(body)

    def told(self) -> pb.Tell:
        """Return what is said next to a run."""
        return pb.Tell.FromString(self._body())

    def _body(self) -> bytes:
        return self.opener.open(pb.Envelope.FromString(next(self._call)), clock())

    def greet(self, key: bytes, id: str = "stranger") -> None:
        """Greet as a worker that holds a key."""
        up = pb.Up(hello=pb.Hello(id=id, incarnation=id, slots=1, protocol=PROTOCOL, nonce=bytes(32)))
        self.say(up)
        envelope = pb.Envelope.FromString(next(self._call))
        challenge = pb.Down.FromString(envelope.body).challenge
        made = stream_key(key, id, bytes(32), challenge.nonce)
        self.sealer.key = self.opener.key = made
        self.opener.open(envelope, clock())
        self.say(pb.Up(proof=pb.Proof(proof=prove(made, Side.CALLER, up.SerializeToString()))))

    def why(self) -> str:
        """Return what the coordinator said when it hung up."""
        while True:
            try:
                next(self._call)
            except grpc.RpcError as error:
                return str(error.details())
            except StopIteration:
                return ""

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()
