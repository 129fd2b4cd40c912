"""The form in which an append is kept by a database: all of its facts in one piece. It knows no database.

A segment is a MessagePack array of binaries (https://github.com/msgpack/msgpack/blob/master/spec.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dagrid.errors import StoreError

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[bytes])


def pack(facts: Sequence[bytes]) -> bytes:
    """Return the segment that holds these facts."""
    return _encoder.encode(facts)


def unpack(data: bytes) -> list[bytes]:
    """Return the facts of a segment.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"A part of the journal is damaged ({error}). Restore the store from a copy.") from error
