"""What becomes of the bytes that a process writes: masked, kept in part, appended to a file as far as its limit.

It knows neither processes nor runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dagrid.masking import Masker


class Sink:
    """Where one stream of a process ends.

    Args:
        file: the descriptor of the file that it is appended to, which the sink closes; -1 for none.
        mask: secrets to be replaced.
        keep: how many bytes are kept, from the first one.
        tail: how many bytes are kept, up to the last one.
        limit: how many bytes go to the file at most; None for no limit.

    Attributes:
        cut: more than the limit came.
        truncated: more than was kept came.
        trouble: why the file could not be written.
    """

    __slots__ = (
        "_file",
        "_keep",
        "_kept",
        "_limit",
        "_masker",
        "_room",
        "_tail",
        "_tail_size",
        "cut",
        "trouble",
        "truncated",
    )

    def __init__(
        self, file: int = -1, mask: Sequence[str] = (), keep: int = 0, tail: int = 0, limit: int | None = None
    ) -> None:
        self._file = file
        self._masker = Masker(mask) if mask else None
        self._keep = keep
        self._kept: list[bytes] = []
        self._tail = b""
        self._tail_size = tail
        self._limit = limit
        self._room = limit if limit is not None else 0
        self.cut = self.truncated = False
        self.trouble = ""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._masker is not None:
            data = self._masker.feed(data)
        self._put(data)

    def close(self) -> None:
        """Nothing more comes: let go of the file."""
        if self._masker is not None:
            self._put(self._masker.end())
            self._masker = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def kept(self) -> bytes:
        """The first bytes."""
        return b"".join(self._kept)

    @property
    def tail(self) -> bytes:
        """The last bytes."""
        return self._tail

    def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._tail_size:
            self._tail = (
                data[-self._tail_size :] if len(data) >= self._tail_size else (self._tail + data)[-self._tail_size :]
            )
        if self._keep:
            self._kept.append(data[: self._keep])
            self._keep -= len(self._kept[-1])
            self.truncated = self.truncated or len(data) > len(self._kept[-1])
        elif self._kept:
            self.truncated = True
        if self._file >= 0 and not self.cut and not self.trouble:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._limit is not None:
            if len(data) > self._room:
                self.cut = True
                data = data[: self._room] + f"\n[cut here: more than {self._limit} bytes of output]\n".encode()
            self._room -= len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self.trouble = error.strerror or str(error)
