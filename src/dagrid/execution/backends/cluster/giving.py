"""What the coordinator asks a run for, given in pieces: what its kit needs, functions, arguments, values. What found no room is
given again.

It knows what there is. What becomes of the calls that cannot have it is for whoever has these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

from dagrid.errors import TransferError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import Values
from dagrid.execution.backends.cluster.cargo import Cargo
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.lanes import Sent
from dagrid.execution.backends.cluster.refusals import Refusals


class Asked(Protocol):
    """Who is asked."""

    def give(self, pieces: Iterator[pb.Part]) -> None:
        """Send something in pieces, if anybody hears it."""
        ...

    def remind(self, action: Callable[[], None], after: float) -> None:
        """Do something after so many seconds."""
        ...

    def refuse(self, error: Exception) -> None:
        """Nothing can be performed any more."""
        ...

    def fail_those(self, which: Callable[[Sent], bool], error: Exception, final: bool) -> None:
        """What cannot have what it needs has failed, wherever it is."""
        ...

    def call_back(self) -> None:
        """What needs something that nobody has any more is to be assigned anew."""
        ...


class Giving:
    """What is on its way to the coordinator. Who is asked is named with each call, for the two are not to refer to each other.

    Args:
        cargo: what goes with calls.
        values: what they have returned.
        needs: what the kit needs, by its SHA-256.
        contents: gives that.
    """

    def __init__(
        self, cargo: Cargo, values: Values, needs: Sequence[bytes], contents: Callable[[bytes], bytes | None]
    ) -> None:
        self._cargo = cargo
        self._values = values
        self._needs = needs
        self._contents = contents
        self._refusals = Refusals()
        self._under_way: dict[bytes, object] = {}  # and which time

    def give(self, asked: Asked, digest: bytes) -> None:
        """The coordinator, or a worker behind it, lacks a content that was named."""
        pieces = self._cargo.pieces(digest)
        if pieces is None:
            try:
                data = self._contents(digest)
            except TransferError as error:
                asked.refuse(error)
            else:
                pieces = None if data is None else parts(data, digest)
        pieces = pieces or self._values.pieces(digest)
        lost = None if pieces is not None else self._values.lost(digest)
        if lost is not None:
            asked.fail_those(lambda sent: digest in sent.values, lost, final=True)
        elif pieces is None:
            asked.call_back()
        else:
            asked.give(self._while_wanted(digest, pieces))

    def put_off(self, asked: Asked, receipt: pb.Receipt) -> None:
        """The coordinator has no room for what was given: it is given again for some minutes, then what needs it has failed."""
        digest = receipt.digest
        self._under_way.pop(digest, None)
        pause = self._refusals.pause(digest, monotonic())
        if pause is not None:
            asked.remind(partial(self._give_again, asked, digest), pause)
            return
        error = TransferError(
            f"What is sent finds no room with the coordinator ({receipt.why}). Make room on its disk, or send less: let "
            "functions fetch what is large from a place that all machines reach."
        )
        if digest in (self._cargo.kit, *self._needs):
            asked.refuse(error)
        asked.fail_those(lambda sent: self._cargo.is_for(digest, sent.call, sent.apart), error, final=False)

    def _give_again(self, asked: Asked, digest: bytes) -> None:
        if digest in self._needs or self._cargo.pieces(digest) is not None:  # else nobody needs it any more
            self.give(asked, digest)

    def _while_wanted(self, digest: bytes, pieces: Iterator[pb.Part]) -> Iterator[pb.Part]:
        """Yield the pieces of something until it is refused, or given anew: those of two tries must not mix."""
        giving = self._under_way[digest] = object()
        return self._as_given(digest, giving, pieces)

    def _as_given(self, digest: bytes, giving: object, pieces: Iterator[pb.Part]) -> Iterator[pb.Part]:
        for piece in pieces:  # in the line's thread
            if self._under_way.get(digest) is not giving:
                return
            yield piece
        if self._under_way.get(digest) is giving:
            self._under_way.pop(digest, None)
