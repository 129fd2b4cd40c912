"""Who holds the signing key, and that what arrives was sent by one who does. Pure: time and chance come from outside.

The two ends of a stream prove to each other that they hold the key: each draws a nonce, both make the key of the stream from the
signing key, the nonces and the name of who called, and each shows a proof over the first word that only a holder of the key can
make. From the challenge on every envelope carries its number in its direction, the time until which it counts, and an HMAC over
both and its body. So nothing that was altered, repeated, left out or held back is taken. Where there is no key only the numbers
are checked. It knows nothing of what is in the bodies.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import Enum

from dagrid.errors import TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb

NONCE = 32
"""Bytes of a nonce."""
LIFETIME = 60.0
"""Seconds for which an envelope counts."""

_header = struct.Struct(">BQdQ").pack


class Side(Enum):
    """Who speaks: the coordinator, or who called it."""

    COORDINATOR = 1
    CALLER = 2


def stream_key(signing_key: bytes, caller: str, of_caller: bytes, of_coordinator: bytes) -> bytes:
    """Return the key of one stream.

    Args:
        signing_key: of the fleet.
        caller: the worker's id, or the run.
        of_caller, of_coordinator: their nonces, of `NONCE` bytes each.
    """
    return hmac.digest(signing_key, b"dagrid fleet 1" + of_caller + of_coordinator + caller.encode(), "sha256")


def prove(key: bytes, side: Side, greeting: bytes) -> bytes:
    """Return what shows that one side holds the key of a stream, and has the same first word of the caller as the other."""
    return hmac.digest(key, b"proof" + bytes([side.value]) + hashlib.sha256(greeting).digest(), "sha256")


def proves(key: bytes, side: Side, greeting: bytes, proof: bytes) -> bool:
    """Return whether a proof is the right one; how long that takes says nothing of the right one."""
    return hmac.compare_digest(prove(key, side, greeting), proof)


class Sealer:
    """Makes the envelopes of one direction of a stream.

    Args:
        side: who speaks.

    Attributes:
        key: of the stream, once there is one.
    """

    __slots__ = ("_number", "_side", "key")

    def __init__(self, side: Side) -> None:
        self.key = b""
        self._side = side.value
        self._number = 0

    def seal(self, body: bytes, now: float, size: int = 0) -> pb.Envelope:
        """Return the next envelope.

        Args:
            body: what goes into it.
            now: seconds since 1970, by a clock that does not jump.
            size: of the body before it was compressed; 0: it is not.
        """
        self._number += 1
        expires = now + LIFETIME
        mac = _mac(self.key, self._side, self._number, expires, size, body) if self.key else b""
        return pb.Envelope(body=body, number=self._number, expires=expires, mac=mac, size=size)


class Opener:
    """Opens the envelopes of one direction of a stream.

    The two clocks need not agree: how far apart they are is seen at the first envelope with a seal, which the greeting has made
    fresh by a nonce, and a bound on its length.

    Args:
        side: who speaks.

    Attributes:
        key: of the stream, once there is one.
    """

    __slots__ = ("_ahead", "_number", "_side", "key")

    def __init__(self, side: Side) -> None:
        self.key = b""
        self._side = side.value
        self._number = 0
        self._ahead: float | None = None

    def open(self, envelope: pb.Envelope, now: float) -> bytes:
        """Return the body of the next envelope.

        Raises:
            TamperedError: it is not the next one, was altered or has expired; the stream is of no use any more.
        """
        if self.key:
            right = _mac(self.key, self._side, envelope.number, envelope.expires, envelope.size, envelope.body)
            if not hmac.compare_digest(right, envelope.mac):
                raise TamperedError(
                    "An envelope does not carry the seal of its stream: it was altered, or belongs elsewhere."
                )
        self._number += 1
        if envelope.number != self._number:
            raise TamperedError(
                f"Envelope {envelope.number} came where {self._number} was due: one was repeated or left out."
            )
        if not self.key:
            return envelope.body
        if self._ahead is None:
            self._ahead = envelope.expires - LIFETIME - now
        late = now + self._ahead - envelope.expires
        if not late <= 0:
            raise TamperedError(f"An envelope came {late:.0f} s after it had expired.")
        return envelope.body


def _mac(key: bytes, side: int, number: int, expires: float, size: int, body: bytes) -> bytes:
    made = hmac.new(key, _header(side, number, expires, size), "sha256")
    made.update(body)
    return made.digest()
