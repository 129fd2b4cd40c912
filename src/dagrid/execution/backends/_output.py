"""What becomes of the bytes that a process writes: masked, kept in part, appended to a file as far as its limit.

It knows neither processes nor runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from dagrid.masking import Masker

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def appended(path: str | os.PathLike[str]) -> int:
    """Open a file for what is appended to it, and return its descriptor; a pipe that nobody reads is an error."""
    file = os.open(path, _APPEND, 0o666)
    os.set_blocking(file, True)  # it was not, so that one waits for no reader
    return file


class Sink:
    """Where one stream of a process ends.

    Args:
        files: by descriptor, the names of the files that it is appended to; the sink closes them.
        mask: secrets to be replaced.
        keep: how many bytes are kept, from the first one.
        tail: how many bytes are kept, up to the last one.
        limit: how many bytes go to each file at most; None for no limit.
        whole: the names of the files for which there is none.
        late: the names of files that are opened when there is something to write.

    Attributes:
        cut: more than the limit came.
        truncated: more than was kept came.
        trouble: which file could not be written, and why.
    """

    __slots__ = (
        "_files",
        "_keep",
        "_kept",
        "_late",
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
        late: Collection[str] = (),
    ) -> None:
        self._files = dict(files or {})
        self._late = late
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
        if self._late:
            self._open_late()
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

    def _open_late(self) -> None:
        late, self._late = self._late, ()
        for name in late:
            try:
                self._files[appended(name)] = name
            except (OSError, ValueError) as error:
                self._cannot(name, error)

    def _leave(self, file: int, error: OSError | None = None) -> None:
        """Write no more to a file, because it is enough or cannot be."""
        name = self._files.pop(file)
        try:
            os.close(file)
        except OSError as late:
            error = error or late
        if error is not None:
            self._cannot(name, error)

    def _cannot(self, name: str, error: OSError | ValueError) -> None:
        self.trouble = self.trouble or f"{name!r} cannot be written: {getattr(error, 'strerror', None) or error}"
