"""One end of a stream: messages in and out, in sealed envelopes, in batches, and never more than the other end takes.

What there is to say when the loop turns goes in one envelope; what is long goes in pieces between the others, and a piece is made
when it can be sent, so that a slow reader costs no memory. What the messages mean is not known here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Any, Generic, Protocol, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from dagrid.errors import TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.outbox import cut
from dagrid.execution.backends.cluster.sealing import Opener, Sealer, Side

LARGEST = 16 * 2**20
"""Bytes of the largest message that is taken."""
PACKED_FROM = 2 * 2**10
"""Bytes of a piece from which on compressing it is worth the while."""
APART = 64 * 2**10
"""Bytes from which on that is done beside the loop."""

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
"""What both ends ask of gRPC. It sets TCP_NODELAY by itself."""

_born = time() - monotonic()

# What glibc gives back to the system when it is freed follows from the largest block that was. Before one like this that is what
# each message leaves, and the next one takes it again page by page: half of what a large value costs.
bytes(8 * 2**20)

Said = TypeVar("Said", bound=Message)
Heard = TypeVar("Heard", bound=Message)


def clock() -> float:
    """Return seconds since 1970, by a clock that does not jump when somebody sets the clock of day."""
    return _born + monotonic()


class Stream(Protocol):
    """What gRPC gives on either side, for bytes."""

    def read(self) -> Awaitable[Any]: ...

    def write(self, message: Any, /) -> Awaitable[None]: ...


class Link(Generic[Said, Heard]):
    """One end of a stream. All of it is used in the loop.

    Args:
        stream: gRPC's.
        side: of this end.
        heard: the type of what the other end says.
        say: returns what there is to say, or None.
        piece: returns the next piece of what is long, or None.
        packs: returns whether a piece is to be compressed.
        part: tells the other end that nothing more is said.
    """

    def __init__(
        self,
        stream: Stream,
        side: Side,
        heard: type[Heard],
        say: Callable[[], Said | None],
        piece: Callable[[], Said | None],
        packs: Callable[[Said], bool] = lambda _: False,
        part: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._stream = stream
        self._heard = heard
        self._say = say
        self._piece = piece
        self._packs = packs
        self._part = part
        self._sealer = Sealer(side)
        self._opener = Opener(Side.CALLER if side is Side.COORDINATOR else Side.COORDINATOR)
        self._woken = asyncio.Event()
        self._finishing = False

    def seal(self, key: bytes) -> None:
        """From now on envelopes carry seals, both ways."""
        self._sealer.key = self._opener.key = key

    def wake(self) -> None:
        """There is something to say."""
        self._woken.set()

    def finish(self) -> None:
        """Let `speak` return when all is said."""
        self._finishing = True
        self._woken.set()

    async def speak(self) -> None:
        """Say what there is to say, until all is said after `finish`; what gRPC raises when the stream breaks is raised."""
        while not self._finishing or self._woken.is_set():
            await self._woken.wait()
            self._woken.clear()
            while True:
                message, piece = self._say(), self._piece()
                if message is None and piece is None:
                    break
                if message is not None:
                    for part in cut(message):
                        await self.send(part)
                if piece is not None:
                    for part in cut(piece):
                        await self._send_piece(part)

    async def part(self) -> None:
        """Tell the other end that nothing more is said."""
        if self._part is not None:
            await self._part()

    async def send(self, message: Message) -> bytes:
        """Say something at once, which must not be while it speaks; return it as bytes."""
        body = message.SerializeToString()
        await self._write(self._sealer.seal(body, clock()))
        return body

    async def _write(self, envelope: pb.Envelope) -> None:
        try:
            await self._stream.write(envelope.SerializeToString())
        except (
            asyncio.InvalidStateError
        ) as error:  # how gRPC says on the caller's side what is a usage error on the other one
            raise grpc.aio.UsageError(f"The stream has ended: {error}") from error

    async def _send_piece(self, piece: Said) -> None:
        size = piece.ByteSize()
        if size < PACKED_FROM or not self._packs(piece):
            await self.send(piece)
            return
        body = piece.SerializeToString()
        packed = await asyncio.to_thread(zlib.compress, body, 1) if size > APART else zlib.compress(body, 1)
        await self._write(self._sealer.seal(packed, clock(), len(body)))

    async def receive(self) -> pb.Envelope | None:
        """Return what came, which is not to be trusted yet; None if the other end hung up.

        Raises:
            TamperedError: it is no envelope.
        """
        raw = await self._stream.read()
        return None if raw is grpc.aio.EOF else _parsed(pb.Envelope, raw)

    async def open(self, envelope: pb.Envelope) -> tuple[Heard, bytes]:
        """Return the message in an envelope, and that as bytes.

        Raises:
            TamperedError: it is not the one that was due, or carries no message.
        """
        body = self._opener.open(envelope, clock())
        if envelope.size > LARGEST:
            raise TamperedError(
                f"An envelope says that it holds {envelope.size} bytes; at most {LARGEST} may be in one."
            )
        if envelope.size:
            size = envelope.size
            body = await asyncio.to_thread(_unpacked, body, size) if size > APART else _unpacked(body, size)
        return _parsed(self._heard, body), body

    async def hear(self) -> Heard | None:
        """Return what the other end says next; None if it hung up."""
        envelope = await self.receive()
        return None if envelope is None else (await self.open(envelope))[0]

    def glimpse(self, envelope: pb.Envelope) -> Heard:
        """Return what is in an envelope as it stands there, whoever wrote it."""
        return _parsed(self._heard, envelope.body)


def _parsed(kind: type[Heard], raw: bytes) -> Heard:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise TamperedError("What came is not of the fleet's protocol.") from error


def _unpacked(body: bytes, size: int) -> bytes:
    packer = zlib.decompressobj()
    try:
        found = packer.decompress(body, size + 1)
    except zlib.error as error:
        raise TamperedError("What came compressed cannot be unpacked.") from error
    if len(found) != size:
        raise TamperedError("What came compressed is not of the size that it says.")
    return found
