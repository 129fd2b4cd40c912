"""Large values that travel apart from the reports that name them, and stay where they are until somebody reads them.

That is with the coordinator, or where artifacts are kept. It knows no run and no line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from dagrid.errors import BackendError
from dagrid.execution.backends._remote import lost_error
from dagrid.execution.backends._transfer import Pickled, open_kept
from dagrid.execution.backends._worker import loads
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.ports import Artifacts, Encoded

INLINE = 1 << 18
"""What is pickled in more bytes than this travels apart from the message that refers to it."""
FETCHING = 60.0
"""Seconds without a piece after which a value cannot be had."""


class Apart(Encoded):
    """A large value that is still with the fleet; it is fetched when somebody reads it, and at the end of its session.

    Args:
        digest, size: of the pickled value.
        node: whose it is.
        fetch: returns the pickled value.
        artifacts: where it is kept, under which key, if it is not with the coordinator; what takes it fetches it from there.
    """

    __slots__ = ("__weakref__", "_artifacts", "_data", "_fetch", "digest", "node", "size")

    def __init__(
        self,
        digest: bytes,
        size: int,
        node: str,
        fetch: Callable[[bytes, int], bytes],
        artifacts: tuple[Artifacts, str] | None = None,
    ) -> None:
        self.digest = digest
        self.size = size
        self.node = node
        self._artifacts = artifacts
        self._fetch: Callable[[bytes, int], bytes] | None = fetch
        self._data: bytes | None = None

    def decode(self) -> Any:
        return Pickled(self.packed(), self.node).decode()

    def packed(self) -> bytes:
        data, fetch = self._data, self._fetch
        if data is None and fetch is not None:
            try:
                data = self._data = fetch(self.digest, self.size)
            except Exception as error:
                raise lost_error(self.node, self.size, error) from error
            self._fetch = None
        assert data is not None or self._data is not None
        return data if data is not None else self._data  # type: ignore[return-value]

    def forget(self) -> None:
        """The session ends: from now on it is here, or nowhere."""
        self._artifacts = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (loads, (self.packed(),)) if self._artifacts is None else (open_kept, self._artifacts)

    def __repr__(self) -> str:
        return f"<Apart value of {self.node!r}, {self.size} bytes>"


class Fetch:
    """A content that is awaited."""

    def __init__(self, size: int) -> None:
        self._data = bytearray(size)
        self._left = size
        self._changed = threading.Condition()
        self._failed = ""

    def take(self, part: pb.Part) -> None:
        with self._changed:
            if len(self._data) != part.size:
                self._data, self._left = bytearray(part.size), part.size
            self._data[part.offset : part.offset + len(part.data)] = part.data
            self._left -= len(part.data)
            self._changed.notify_all()

    def fail(self, why: str) -> None:
        with self._changed:
            self._failed = why
            self._changed.notify_all()

    def wait(self) -> bytes:
        with self._changed:
            left = self._left
            while self._left > 0 and not self._failed:
                if not self._changed.wait(FETCHING) and self._left == left:
                    self._failed = "the coordinator does not send it"
                left = self._left
            if self._failed:
                raise BackendError(self._failed)
            return bytes(self._data)


def artifact_folder(run: str) -> str:
    """Return under what the large values of a run are kept in an artifact store."""
    return f"fleet/{sha256(run.encode()).hexdigest()[:32]}"


def artifact_key(run: str, digest: bytes) -> str:
    """Return under which key a large value of a run is kept in an artifact store."""
    return f"{artifact_folder(run)}/{digest.hex()}"
