"""What the calls of a run refer to, and goes to a coordinator once and apart from them: the kit, functions, large arguments.

It is known by its digest. It knows neither lanes nor what is under way; who uses it says when a call is with nobody any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from dagrid.execution.backends._transfer import encode_arguments, encode_function
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import INLINE
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.outbox import PIECE
from dagrid.ports import Call


class Cargo:
    """What one run has at hand for its workers; used in the thread of its session.

    Args:
        kit: what is to be there before anything is called, as bytes; None is nothing.
        along: what goes along with it, by digest.
        give: sends a part to the coordinator.

    Attributes:
        kit: the digest of the kit, or nothing.
    """

    def __init__(self, kit: bytes | None, along: Mapping[bytes, bytes], give: Callable[[pb.Part], object]) -> None:
        self.kit = b"" if kit is None else sha256(kit).digest()
        self._kept: dict[bytes, bytes] = {} if kit is None else {self.kit: kit, **along}
        self._along = tuple(self._kept)
        self._send = give
        self._functions: dict[int, tuple[bytes, Callable[..., Any]]] = {}
        self._apart: Counter[bytes] = Counter()  # by digest, how many calls have arguments that were sent apart
        self._given: set[bytes] = set()  # what was sent to this coordinator

    def go_ahead(self) -> None:
        """Send the kit, and what goes along with it, before calls that need it."""
        for digest in self._along:
            self._give(digest)

    def function_of(self, call: Call) -> bytes:
        """Return the digest of a call's function, which is pickled once, and kept, so that its id is its own."""
        found = self._functions.get(id(call.fn))
        if found is None:
            data = encode_function(call)
            digest = sha256(data).digest()
            self._kept[digest] = data
            found = self._functions[id(call.fn)] = (digest, call.fn)
        self._give(found[0])
        return found[0]

    def arguments_of(self, call: Call) -> tuple[bytes, bytes]:
        """Return the arguments of a call, or nothing and the digest of those that go apart.

        They are at hand until no call with equal ones is under way or waits to be sent, see `let_go`.
        """
        data = encode_arguments(call) or b""
        if len(data) <= INLINE:
            return data, b""
        digest = sha256(data).digest()
        self._kept[digest] = data
        self._apart[digest] += 1
        self._give(digest)
        return b"", digest

    def let_go(self, digests: Iterable[bytes]) -> None:
        """Calls are with nobody any more: let go of what went apart for them alone; nothing stands for what went with them."""
        for digest in filter(None, digests):
            self._apart[digest] -= 1
            if not self._apart[digest]:
                del self._apart[digest], self._kept[digest]
                self._given.discard(digest)

    def is_for(self, digest: bytes, call: Call, apart: bytes) -> bool:
        """Return whether something is the function of a call, or its arguments that go apart."""
        function = self._functions.get(id(call.fn))
        return digest == apart or (function is not None and function[0] == digest)

    def pieces(self, digest: bytes) -> Iterator[pb.Part] | None:
        """Return something that is asked for, if it is at hand; the kit, which may hold secrets, is to be written nowhere."""
        data = self._kept.get(digest)
        return None if data is None else parts(data, digest, secret=digest == self.kit)

    def begin_again(self) -> None:
        """A coordinator that has just begun has nothing of what was sent to the one before it."""
        self._given.clear()

    def clear(self) -> None:
        """Let go of everything, and of who sends it."""
        self._functions.clear()
        self._kept.clear()
        self._send = _nobody

    def _give(self, digest: bytes) -> None:
        """Send a small content, unless this coordinator has got it; it asks for those that are not small."""
        data = self._kept[digest]
        if digest not in self._given and len(data) <= PIECE:
            self._given.add(digest)
            for part in parts(data, digest, secret=digest == self.kit):
                self._send(part)


def _nobody(_: pb.Part) -> None:
    """Nothing is sent any more."""


__all__ = ["Cargo"]
