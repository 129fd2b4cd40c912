"""What becomes of the bytes that a process writes: masked, kept in part, appended to a file as far as its limit.

It knows neither processes nor runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from dagrid.masking import Masker


class Sink:
    """Where one stream of a process ends.

    Args:
        files: by descriptor, the names of the files that it is appended to; the sink closes them.
        mask: secrets to be replaced.
        keep: how many bytes are kept, from the first one.
        tail: how many bytes are kept, up to the last one.
        limit: how many bytes go to each file at most; None for no limit.
        whole: the names of the files for which there is none.

    Attributes:
        cut: more than the limit came.
        truncated: more than was kept came.
        trouble: which file could not be written, and why.
    """

    __slots__ = (
        "_files",
        "_keep",
        "_kept",
        "_limit",
        "_masker",
        "_room",
        "_tail",
        "_tail_size",
        "_whole",
        "cut",
        "trouble",
        "truncated",
    )

    def __init__(
        self,
        files: Mapping[int, str] | None = None,
        mask: Sequence[str] = (),
        keep: int = 0,
        tail: int = 0,
        limit: int | None = None,
        whole: Collection[str] = (),
    ) -> None:
        self._files = dict(files or {})
        self._masker = Masker(mask) if mask else None
        self._keep = keep
        self._kept: list[bytes] = []
        self._tail = b""
        self._tail_size = tail
        self._limit = limit
        self._whole = whole
        self._room = limit if limit is not None else 0
        self.cut = self.truncated = False
        self.trouble = ""

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._masker is not None:
            data = self._masker.feed(data)
        self._put(data)

    def mask(self, secrets: Sequence[str]) -> None:
        """Replace these secrets from now on."""
        if self._masker is not None:
            self._put(self._masker.end())
        self._masker = Masker(secrets)

    def forget(self) -> None:
        """Keep the end only of what comes from now on."""
        self._tail = b""

    def close(self) -> None:
        """Nothing more comes: let go of the files."""
        if self._masker is not None:
            self._put(self._masker.end())
            self._masker = None
        for file in list(self._files):
            self._leave(file)

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
        if (self._whole or not self.cut) and (self._files or self._limit is not None):
            self._write(data, b"" if self.cut else self._bounded(data))

    def _bounded(self, data: bytes) -> bytes:
        """Return what there is room for, and a line that says so if that is not all."""
        if self._limit is not None:
            if len(data) > self._room:
                self.cut = True
                data = data[: self._room] + f"\n[cut here: more than {self._limit} bytes of output]\n".encode()
            self._room -= len(data)
        return data

    def _write(self, data: bytes, bounded: bytes) -> None:
        for file, name in list(self._files.items()):
            view = memoryview(data if name in self._whole else bounded)
            try:
                while view:
                    view = view[os.write(file, view) :]
            except OSError as error:
                self._leave(file, error)

    def _leave(self, file: int, error: OSError | None = None) -> None:
        """Write no more to a file, because it is enough or cannot be."""
        name = self._files.pop(file)
        try:
            os.close(file)
        except OSError as late:
            error = error or late
        if error is not None and not self.trouble:
            self.trouble = f"{name!r} cannot be written: {error.strerror or error}"
