"""The coordinator's port: who calls is greeted, has to prove what it says, and is then led to those whom it wants to see.

What does not speak the protocol, or not in time, is hung up on, and that is said once a minute for each host, whatever it sends.
It knows neither the book of the coordinator nor what is said after the greeting.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import unquote

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dagrid.errors import BackendError, FleetKeyError, FleetRefusedError, InvalidSettingError, TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.link import OPTIONS, Link, Stream
from dagrid.execution.backends.cluster.outbox import Outbox
from dagrid.execution.backends.cluster.sayings import Sayings, in_one_line
from dagrid.execution.backends.cluster.sealing import NONCE, Side, prove, proves, stream_key
from dagrid.execution.backends.cluster.tls import Certificates, Claims, ListenerTLS, names_in

PORT = 50055
"""Where a coordinator listens if nothing else is said."""
PATIENCE = 10.0
"""Seconds that a greeting may take."""
PARTING = 5.0
"""Seconds that the last words may take."""
BACKLOG = 16 * 2**20
"""Bytes that may wait for a caller before it is listened to again."""
LONGEST = 500
"""Characters in the id of a worker, in a part of a label, or in the key of a run."""
KEY_HINT = "Give it with DAGRID_COORDINATOR_SIGNING_KEY."
SERVICE = pb.DESCRIPTOR.services_by_name["Fleet"].full_name

_OPTIONS: list[tuple[str, int]] = [
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # two coordinators on one port would each get some of the workers
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", int(PATIENCE * 1000)),
    ("grpc.max_connection_idle_ms", 60_000),  # without a stream
    ("grpc.max_concurrent_streams", 1_000),
]

_log = logging.getLogger("dagrid.fleet")

Said = TypeVar("Said", pb.Down, pb.Tell)
Heard = TypeVar("Heard", pb.Up, pb.Ask)


class Caller(Generic[Said, Heard]):
    """Who was greeted: a worker, or a run that is performed elsewhere. Used in the loop.

    Attributes:
        peer: its address.
        name: the worker's id, or the key of the run.
        outbox: what it is to be told.
        speaking: tells it, once it is welcome.
    """

    def __init__(self, stream: Stream, said: type[Said], heard: type[Heard], peer: str) -> None:
        self._said: type[Said] = said
        self.peer = peer
        self.name = ""
        self.outbox: Outbox[Said] = Outbox()
        self.link: Link[Said, Heard] = Link(stream, Side.COORDINATOR, heard, self._take, self.outbox.piece)
        self.speaking: asyncio.Task[None] | None = None
        self._light = asyncio.Event()

    def say(self, message: Said) -> None:
        """Say something, as soon as it can be sent."""
        self.outbox.put(message)
        self.link.wake()

    def carry(self, parts: Iterator[pb.Part]) -> None:
        """Send something long, of which each item is asked for when it can be sent."""
        self.outbox.feed(self._said(parts=[part]) for part in parts)
        self.link.wake()

    def hang_up(self) -> None:
        """End the stream when all is said, or cannot be said."""
        self.link.finish()
        if self.speaking is not None:
            asyncio.get_running_loop().call_later(PARTING, self.speaking.cancel)

    async def lighter(self) -> None:
        """Wait as long as it does not take what is said to it."""
        while self.outbox.size > BACKLOG:
            self._light.clear()
            await self._light.wait()

    def _take(self) -> Said | None:
        self._light.set()
        return self.outbox.take()


class Guests(Protocol[Said, Heard]):
    """Those whom callers of one kind want to see. All of it is called in the loop."""

    def admit(self, caller: Caller[Said, Heard], first: Heard) -> pb.Refusal | None:
        """Take a caller, or say why not; its first word holds hello or open."""
        ...

    async def hear(self, caller: Caller[Said, Heard], message: Heard) -> None:
        """Hear what a caller says; it is not listened to until this returns."""
        ...

    def lose(self, caller: Caller[Said, Heard]) -> None:
        """The stream of a caller has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Door(Generic[Said, Heard]):
    """One way to call: what is said and heard there, and to whom it leads."""

    said: type[Said]
    heard: type[Heard]
    guests: Guests[Said, Heard]


class Listener:
    """Listens on a port, in the loop that it is started in.

    Args:
        host, port: where; port 0 takes a free one.
        workers: to whom workers are led.
        runs: to whom runs are led.
        key: the signing key, which all who call have to hold; None: anybody may call.
        tls: the certificates; None: nothing is encrypted.
        claims: by name in a certificate, what its holder may say of itself; None: anything.
    """

    def __init__(
        self,
        host: str,
        port: int,
        workers: Guests[pb.Down, pb.Up],
        runs: Guests[pb.Tell, pb.Ask],
        key: bytes | None = None,
        tls: ListenerTLS | None = None,
        claims: Mapping[str, Claims] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._workers = Door(pb.Down, pb.Up, workers)
        self._runs = Door(pb.Tell, pb.Ask, runs)
        if key == b"":
            raise InvalidSettingError("The signing key is empty. Give one, or none at all.")
        self._key = key
        if claims is not None and (tls is None or tls.ca is None):
            raise InvalidSettingError(
                "What certificates are for counts where callers show some. Say who signs them: tls_ca, on the command line "
                "--coordinator.tls-ca."
            )
        self._certificates = None if tls is None else Certificates(tls)
        self._claims = claims
        self._sayings = Sayings()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            BackendError: somebody else listens there.
        """
        server = grpc.aio.server(options=_OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Work": grpc.stream_stream_rpc_method_handler(self._work),
            "Borrow": grpc.stream_stream_rpc_method_handler(self._borrow),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        for service in ("", SERVICE):
            await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            if self._certificates is None:
                self.port = server.add_insecure_port(f"{host}:{self.port}")
            else:
                self.port = server.add_secure_port(f"{host}:{self.port}", self._certificates.credentials())
        except RuntimeError as error:
            raise BackendError(
                f"Nothing can listen on {host}:{self.port}: the port is taken, or the address is not one of this machine. "
                "Choose another with --coordinator.port or --coordinator.host."
            ) from error
        await server.start()
        self._server = server
        if self._certificates is None and is_public(self.host):
            _log.warning(
                "Workers are heard in plain text at %s: whoever reaches the port can read it. Name certificates: tls_cert and "
                "tls_key, on the command line --coordinator.tls-cert and --coordinator.tls-key.",
                self.host,
            )

    async def stop(self, grace: float = 0.0) -> None:
        """Hang up on everybody, after a while."""
        if self._server is not None:
            await self._server.stop(grace)

    async def _work(self, _: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await self._serve(self._workers, context)

    async def _borrow(self, _: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await self._serve(self._runs, context)

    async def _serve(self, door: Door[Said, Heard], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Serve one stream to its end."""
        peer = unquote(context.peer()).partition(":")[2]
        caller: Caller[Said, Heard] = Caller(context, door.said, door.heard, peer)
        try:
            # Else the first message would carry it, and if that is cut short gRPC can no longer say why it hangs up.
            await context.send_initial_metadata(())
            wrong = await self._receive(door, caller, names_in(context.auth_context()))
        except grpc.aio.BaseError:
            return  # the stream has broken
        if wrong is not None:
            self._say(peer, f"was hung up on: {wrong}")
            await context.abort(grpc.StatusCode.DATA_LOSS, str(wrong))

    async def _receive(
        self, door: Door[Said, Heard], caller: Caller[Said, Heard], names: list[str]
    ) -> Exception | None:
        """Greet who calls, and lead it to whom it wants to see; return what was wrong with what came, if anything was."""
        try:
            async with asyncio.timeout(PATIENCE):
                first = await self._greet(door, caller.link)
            caller.name = _name(first)
            self._check_claims(first, names)
        except FleetRefusedError as refusal:
            await self._refuse(door, caller, refusal)
            return None
        except TimeoutError:
            return TimeoutError("It has said nothing for too long.")
        except TamperedError as error:
            return error
        refused = door.guests.admit(caller, first)
        if refused is not None:
            await self._refuse(door, caller, FleetRefusedError(refused.reason, refused.final))
            return None
        try:
            return await self._converse(door, caller)
        finally:
            door.guests.lose(caller)

    async def _greet(self, door: Door[Said, Heard], link: Link[Said, Heard]) -> Heard:
        """Return the first word of who calls, which has proved that it holds the key."""
        envelope = await link.receive()
        if envelope is None:
            raise TamperedError("It hung up before it had said who it is.")
        first, greeting = await link.open(envelope)
        hello = _hello(first)
        if hello is None or not _name(first):
            raise FleetRefusedError("Who calls says first who it is.", final=True)
        _check_words(first)
        if self._key is None and not hello.nonce:
            return first
        if self._key is None:
            raise FleetKeyError("This coordinator holds no signing key, and who calls does.", final=True)
        if len(hello.nonce) != NONCE:
            raise FleetKeyError(f"This coordinator wants to see a signing key. {KEY_HINT}", final=True)
        nonce = secrets.token_bytes(NONCE)
        key = stream_key(self._key, _name(first), hello.nonce, nonce)
        link.seal(key)
        await link.send(door.said(challenge=pb.Challenge(nonce=nonce, proof=prove(key, Side.COORDINATOR, greeting))))
        answer = await link.receive()
        if answer is None or not proves(key, Side.CALLER, greeting, link.glimpse(answer).proof.proof):
            raise FleetKeyError("Who calls does not hold the signing key of this coordinator.", final=True)
        await link.open(answer)
        return first

    def _check_claims(self, first: Heard, names: list[str]) -> None:
        """Raise if who calls is not what its certificate is for."""
        if self._claims is None:
            return
        claims = next((self._claims[name] for name in names if name in self._claims), None)
        shown = ", ".join(names) or "no name"
        if claims is None:
            raise FleetRefusedError(f"The coordinator knows nothing of a certificate for {shown}.", final=True)
        if isinstance(first, pb.Ask):
            wrong = "" if claims.borrows else "its certificate is not one for who uses the workers"
        else:
            wrong = claims.refuses(first.hello.id, dict(first.hello.labels))
        if wrong:
            raise FleetRefusedError(f"The coordinator refuses {_name(first)} ({shown}): {wrong}.", final=True)

    async def _refuse(self, door: Door[Said, Heard], caller: Caller[Said, Heard], refusal: FleetRefusedError) -> None:
        self._say(caller.peer, f"was refused: {refusal}")
        about_key = isinstance(refusal, FleetKeyError)
        await caller.link.send(door.said(refusal=pb.Refusal(reason=str(refusal), final=refusal.final, key=about_key)))

    async def _converse(self, door: Door[Said, Heard], caller: Caller[Said, Heard]) -> Exception | None:
        """Speak and listen until one side has had enough; return what was wrong with what came, if that was why."""
        caller.link.wake()
        speaking = caller.speaking = asyncio.create_task(caller.link.speak())
        listening = asyncio.create_task(self._listen(door, caller))
        try:
            done, _ = await asyncio.wait((speaking, listening), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():
                    task.result()
        except (TamperedError, OSError) as error:  # the disk may be full
            return error
        except grpc.aio.BaseError:
            pass  # the stream has broken
        finally:
            speaking.cancel()
            listening.cancel()
            await asyncio.gather(speaking, listening, return_exceptions=True)
        return None

    async def _listen(self, door: Door[Said, Heard], caller: Caller[Said, Heard]) -> None:
        while (message := await caller.link.hear()) is not None:
            await door.guests.hear(caller, message)
            await caller.lighter()

    def _say(self, peer: str, what: str) -> None:
        if self._sayings.due((peer.rpartition(":")[0], what)):
            _log.warning("%s %s", peer, in_one_line(what))


def is_public(host: str) -> bool:
    """Return whether others may reach an address: all but those of this machine alone."""
    try:
        return not ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() != "localhost"


def _hello(first: pb.Up | pb.Ask) -> pb.Hello | pb.Open | None:
    if isinstance(first, pb.Up):
        return first.hello if first.HasField("hello") else None
    return first.open if first.HasField("open") else None


def _check_words(first: pb.Up | pb.Ask) -> None:
    """Raise if what who calls says of itself is not fit for a line of a log, and for whoever tells it from others."""
    if not _is_word(_name(first)):
        what = "The id of a worker (--worker.id)" if isinstance(first, pb.Up) else "The key of a run"
        raise FleetRefusedError(
            f"{what} is printable, neither begins nor ends with a blank, and has at most {LONGEST} characters: "
            f"{_name(first)[:LONGEST]!r} is none.",
            final=True,
        )
    if isinstance(first, pb.Ask):
        return
    hello = first.hello
    for name, value in hello.labels.items():
        if not (_is_word(name) and (_is_word(value) or not value)):
            raise FleetRefusedError(
                f"A label is NAME=value in one line with no blank beside the =. Change label {name!r} of worker {hello.id!r}: "
                f"it is {value[:LONGEST]!r}.",
                final=True,
            )
    for what in ("host", "version", "python"):
        if not getattr(hello, what).isprintable():
            raise FleetRefusedError(f"What worker {hello.id!r} says of its {what} is not printable.", final=True)


def _is_word(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= LONGEST and text == text.strip()


def _name(first: pb.Up | pb.Ask) -> str:
    return first.hello.id if isinstance(first, pb.Up) else first.open.run
