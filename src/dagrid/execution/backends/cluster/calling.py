"""A call to a coordinator: where it listens, the greeting, a stream to its end, and what went wrong in words.

Nothing is sent before the coordinator has proved that it holds the signing key, where there is one. Certificates are read anew
for each call. Who calls, and what is said after the greeting, is not known here.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc.aio

from dagrid.errors import (
    BackendError,
    BackendUnreachableError,
    FleetCertificateError,
    FleetError,
    FleetKeyError,
    FleetRefusedError,
    InvalidSettingError,
    TamperedError,
)
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.link import OPTIONS, Link
from dagrid.execution.backends.cluster.listener import KEY_HINT, PARTING, PATIENCE, PORT, SERVICE, is_public
from dagrid.execution.backends.cluster.sealing import NONCE, Side, prove, proves, stream_key
from dagrid.execution.backends.cluster.tls import CallerTLS, caller_credentials

CONNECT_MS = 5_000
"""Milliseconds that a connection may take."""

_OPTIONS: list[tuple[str, int]] = [
    *OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a new try makes a new connection, at once
    ("grpc.keepalive_time_ms", 20_000),
]
_GIVEN_UP = ("handshaker shutdown", "Endpoint closing", "attempt timed out", "connect() timed out")
"""What gRPC says when it has given up itself, whatever it was about to do."""

_HOST = re.compile(r"[^\s,/\\@\[\]]+")

ENCRYPTED = "--worker.tls-ca=FILE or --worker.insecure=false, and in a URL grpcs://"
PLAIN = "--worker.insecure, and in a URL grpc://"
"""How each is said, on a command line and in Python."""

Said = TypeVar("Said", pb.Up, pb.Ask)
Heard = TypeVar("Heard", pb.Down, pb.Tell)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator listens.

    Attributes:
        host, port: where.
        tls: what is trusted and shown; None: nothing is encrypted.
        key: the signing key; None: there is none.
    """

    host: str
    port: int = PORT
    tls: CallerTLS | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if self.key == b"":
            raise InvalidSettingError("The signing key is empty. Give one, or none at all.")

    @classmethod
    def parse(cls, text: str, tls: CallerTLS | None = None, key: bytes | None = None) -> Address:
        """Return the address that is written as `grpc://host:port` (plain text) or `grpcs://host:port` (TLS).

        Raises:
            InvalidSettingError: it is written otherwise.
        """
        text = text.strip()
        if "@" in text:  # what stands before it may be secret
            raise InvalidSettingError(
                "A coordinator knows no users and passwords. Write grpc://host:port, or grpcs://host:port for TLS, and give its "
                "signing key as signing_key, or in DAGRID_COORDINATOR_SIGNING_KEY."
            )
        try:
            scheme, host, port = _parts(text)
        except ValueError as error:
            raise InvalidSettingError(
                f"{text!r} is not the address of a coordinator. Write grpc://host:port, or grpcs://host:port for TLS; an address "
                "of IPv6 stands in brackets, as in grpc://[::1]:50055."
            ) from error
        if scheme == "grpc" and tls is not None:
            raise InvalidSettingError(f"{text!r} is plain text, but certificates were given. Write grpcs:// for TLS.")
        return cls(host, port, (tls or CallerTLS()) if scheme == "grpcs" else None, key)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'grpc' if self.tls is None else 'grpcs'}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is one of this machine for certain."""
        return not is_public(self.host)

    def channel(self) -> grpc.aio.Channel:
        """Return a channel that is not connected yet, with the certificates as they are now."""
        target = str(self).partition("//")[2]
        options: list[tuple[str, Any]] = [*_OPTIONS, ("grpc.min_reconnect_backoff_ms", CONNECT_MS)]
        if self.tls is None:
            return grpc.aio.insecure_channel(target, options=options)
        if self.tls.name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.name))
        return grpc.aio.secure_channel(target, caller_credentials(self.tls), options=options)


def _parts(text: str) -> tuple[str, str, int]:
    """Return the scheme, the host and the port of a URL. Raises ValueError: it is not that of a coordinator."""
    parts = urlsplit(text)
    host, port = parts.hostname or "", PORT if parts.port is None else parts.port
    if parts.scheme not in ("grpc", "grpcs") or parts.path.strip("/") or parts.query or parts.fragment or not port:
        raise ValueError
    if re.search(r"\s", text) or not _HOST.fullmatch(host):
        raise ValueError
    return parts.scheme, host, port


def reached(host: str, name: str | None = None) -> str:
    """Return where a coordinator is called that listens at an address.

    Args:
        host: where it listens; where that is one address, it is called there.
        name: where it is called that listens at all addresses of its machine; by default on this machine.
    """
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return name or ("127.0.0.1" if address.version == 4 else "::1")


@asynccontextmanager
async def call(
    address: Address,
    way: str,
    first: Said,
    heard: type[Heard],
    say: Callable[[], Said | None],
    piece: Callable[[], Said | None],
    packs: Callable[[Said], bool] = lambda _: False,
) -> AsyncIterator[tuple[Link[Said, Heard], Heard]]:
    """Call a coordinator, and give the link with the message that holds its welcome.

    Args:
        address: of the coordinator.
        way: `Work` or `Borrow`.
        first: what is said first, with hello or open, but for the nonce.
        heard: the type of what the coordinator says.
        say, piece, packs: see `Link`.

    Raises:
        BackendUnreachableError, FleetError: it does not answer, or not as it should, or refuses. Also when the stream breaks.
    """
    channel = address.channel()
    try:
        multi: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/{way}")
        stream = multi()
        link: Link[Said, Heard] = Link(stream, Side.CALLER, heard, say, piece, packs, stream.done_writing)
        try:
            yield link, await _greeted(address, link, first)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, address) from error
        except grpc.aio.UsageError as error:  # written to a stream that has ended
            raise BackendUnreachableError(f"The coordinator at {address} has hung up.") from error
        finally:
            stream.cancel()
    finally:
        await channel.close()


async def converse(link: Link[Said, Heard], hear: Callable[[Heard], None]) -> None:
    """Speak and listen until all is said after `Link.finish`, or the coordinator hangs up.

    Raises:
        BackendUnreachableError: it has hung up first.
    """
    link.wake()
    speaking = asyncio.create_task(link.speak())
    listening = asyncio.create_task(_listen(link, hear))
    try:
        await asyncio.wait((speaking, listening), return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            speaking.result()
            await link.part()
            await asyncio.wait((listening,), timeout=PARTING)
            return
        listening.result()
    finally:
        speaking.cancel()
        listening.cancel()
        await asyncio.gather(speaking, listening, return_exceptions=True)
    raise BackendUnreachableError("The coordinator has hung up.")


async def _listen(link: Link[Said, Heard], hear: Callable[[Heard], None]) -> None:
    while (message := await link.hear()) is not None:
        hear(message)


async def _greeted(address: Address, link: Link[Said, Heard], first: Said) -> Heard:
    try:
        async with asyncio.timeout(PATIENCE):
            return await _greet(address, link, first)
    except TimeoutError as error:
        raise _silent(address, PATIENCE) from error


def _silent(address: Address, seconds: float) -> BackendUnreachableError:
    return BackendUnreachableError(
        f"The coordinator at {address} does not answer in {seconds:.0f} s. Is it a coordinator?"
    )


async def _greet(address: Address, link: Link[Said, Heard], first: Said) -> Heard:
    """Return the message with the welcome, from a coordinator that has proved that it holds the key."""
    hello = first.hello if isinstance(first, pb.Up) else first.open
    if address.key is None:
        await link.send(first)
        answer = await _heard(address, link)
    else:
        hello.nonce = secrets.token_bytes(NONCE)
        greeting = await link.send(first)
        await _prove(address, link, address.key, hello, greeting)
        answer = await _heard(address, link)
    if answer.HasField("refusal"):
        kind = FleetKeyError if answer.refusal.key else FleetRefusedError
        raise kind(answer.refusal.reason, answer.refusal.final)
    if not answer.HasField("welcome"):
        raise TamperedError(f"The coordinator at {address} does not greet as one does.")
    return answer


async def _prove(
    address: Address, link: Link[Said, Heard], signing_key: bytes, hello: pb.Hello | pb.Open, greeting: bytes
) -> None:
    """Let the coordinator prove that it holds the key, and prove the same to it."""
    envelope = await link.receive()
    if envelope is None:
        raise BackendUnreachableError(f"The coordinator at {address} has hung up.")
    glimpse = link.glimpse(envelope)
    if not glimpse.HasField("challenge"):
        raise FleetKeyError(
            f"The coordinator at {address} does not prove that it holds the signing key. "
            "Start it with the same key, or take the key away here.",
            final=True,
        )
    said = pb.Up if isinstance(hello, pb.Hello) else pb.Ask
    caller = hello.id if isinstance(hello, pb.Hello) else hello.run
    key = stream_key(signing_key, caller, hello.nonce, glimpse.challenge.nonce)
    if not proves(key, Side.COORDINATOR, greeting, glimpse.challenge.proof):
        await link.send(said(proof=pb.Proof()))  # so that the other side says so too
        await link.receive()
        raise FleetKeyError(f"The coordinator at {address} has another signing key. {KEY_HINT}", final=True)
    link.seal(key)
    await link.open(envelope)
    await link.send(said(proof=pb.Proof(proof=prove(key, Side.CALLER, greeting))))


async def _heard(address: Address, link: Link[Said, Heard]) -> Heard:
    answer = await link.hear()
    if answer is None:
        raise BackendUnreachableError(f"The coordinator at {address} has hung up.")
    return answer


def _translated(error: grpc.aio.AioRpcError, address: Address) -> BackendError:
    """Return what gRPC says as an error of ours, with what to do."""
    said = error.details() or ""
    if error.code() is grpc.StatusCode.DATA_LOSS:
        return TamperedError(f"The coordinator at {address} has hung up: {said}")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return FleetError(f"What listens at {address} is not a coordinator.")
    if any(words in said for words in _GIVEN_UP):
        return _silent(address, CONNECT_MS / 1000)
    if "WRONG_VERSION_NUMBER" in said:
        return FleetCertificateError(
            f"The coordinator at {address} does not speak TLS. Call it in plain text: {PLAIN}."
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        why = said.partition("CERTIFICATE_VERIFY_FAILED")[2].strip(": ").removesuffix(": OK")
        return FleetCertificateError(
            f"The certificate of the coordinator at {address} is not accepted: {why}. Give the authority that has signed it."
        )
    if "Hostname Verification" in said or ("name" in said.lower() and "not match" in said.lower()):
        return FleetCertificateError(f"The certificate of the coordinator at {address} is for another name: {said}")
    if "handshake" in said.lower():
        return FleetCertificateError(f"The coordinator at {address} and this caller find no way to encrypt: {said}")
    if "Socket closed" in said or "Connection reset" in said or "End of TCP stream" in said:
        if "failed to connect" not in said:
            return BackendUnreachableError(f"The stream to the coordinator at {address} has broken.")
        if address.tls is None:
            return FleetCertificateError(
                f"What listens at {address} has hung up at once. If it speaks TLS, call it so: {ENCRYPTED}."
            )
        shown = "the certificate that was shown" if address.tls.certificate else "no certificate was shown, and it"
        return FleetCertificateError(
            f"The coordinator at {address} has hung up on the handshake. Perhaps {shown} is not accepted: "
            "it must be signed by the authority that the coordinator trusts, and not be expired."
        )
    if error.code() is grpc.StatusCode.INTERNAL:  # gRPC's word for a stream that ended while something was said
        return BackendUnreachableError(f"The coordinator at {address} has hung up.")
    reason = said.rpartition("last error: ")[2].rpartition("to remote host: ")[2] or error.code().name
    return BackendUnreachableError(f"The coordinator at {address} does not answer: {reason}.")
