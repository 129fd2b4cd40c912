"""The form in which an append is kept by a database: all of its facts in one piece. It knows no database.

A segment is a MessagePack array of binaries (https://github.com/msgpack/msgpack/blob/master/spec.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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


def joined(
    chunk: Callable[[int], Sequence[tuple[int, bytes]]], since: int, end: int, where: str, run: str
) -> Iterator[bytes]:
    """Yield the facts of a run from one number to before another.

    Args:
        chunk: returns segments in order, each with the number of its first fact, the first of them with the fact of this number.
        since: the number of the first fact.
        end: the number after the last one, where a segment ends.
        where: what an error calls the store.
        run: whose facts they are.

    Raises:
        StoreError: a fact is missing, or a segment is damaged.
    """
    while since < end:
        began = since
        for first, data in chunk(since):
            if first > since:
                break
            facts = unpack(data)
            yield from facts[since - first :]
            since = first + len(facts)
        if since == began:
            raise StoreError(f"{where} lacks fact {since} of run {run!r}. Restore it from a copy.")
