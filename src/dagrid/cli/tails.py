"""The ends of files that grow, copied to where somebody reads them. It knows no run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from dagrid.cli.garbage import collect_garbage
from dagrid.cli.output import ReaderGoneError

# Seconds between two looks at a file that grows.
PAUSE = 0.1
PIECE = 1 << 16


class Reader(Protocol):
    """What gets the bytes of a file."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> None: ...


class Records:
    """Makes a record of each line.

    Args:
        stream: the name of what is read, in each record.
        tell: gets a record.
    """

    def __init__(self, stream: str, tell: Callable[[dict[str, str]], object]) -> None:
        self._stream = stream
        self._tell = tell
        self._rest: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        """Take the next bytes; what is no UTF-8 is shown as U+FFFD."""
        head, *lines = data.split(b"\n")
        self._rest.append(head)
        if not lines:  # it is put together once, however long the line is
            return
        lines.insert(0, b"".join(self._rest))
        self._rest = [lines.pop()]
        for line in lines:
            self._tell({"stream": self._stream, "line": line.decode("utf-8", "replace")})

    def flush(self) -> None:
        """A line that has no end yet may be gone on with."""

    def close(self) -> None:
        """Nothing more comes: the last line need not have an end."""
        if any(self._rest):
            self.write(b"\n")


class Tail:
    """The end of a file that may grow.

    Args:
        path: of the file, which may come later.
        to: where it is copied.
        lines: how many lines from the end; None is all.
    """

    def __init__(self, path: Path, to: Reader, lines: int | None) -> None:
        self._path = path
        self._to = to
        self._lines = lines
        self._file: IO[bytes] | None = None

    def copy(self) -> bool:
        """Copy what there is now, and return whether there was anything.

        Raises:
            ReaderGoneError: nobody reads it any more.
        """
        if self._file is None:
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115  # until `close`
            except FileNotFoundError:
                return False
            if self._lines is not None:
                self._file.seek(_before(self._file, self._lines))
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)  # it has begun anew
        found = False
        try:
            while data := self._file.read(PIECE):
                self._to.write(data)
                found = True
            if found:
                self._to.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def follow(tails: Sequence[Tail], more: Callable[[], bool]) -> None:
    """Copy files until there is nothing more to come, and nothing that has not been copied."""
    collect_garbage()
    try:
        while True:
            expected = more()
            for tail in tails:
                tail.copy()
            if not expected:
                return
            time.sleep(PAUSE)
    finally:
        for tail in tails:
            tail.close()


def _before(file: IO[bytes], lines: int) -> int:
    """Return where the last so many lines of a file begin."""
    position = end = file.seek(0, os.SEEK_END)
    wanted = lines
    while position > 0 and wanted >= 0:
        start = max(position - PIECE, 0)
        file.seek(start)
        data = file.read(position - start)
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            if start + at == end - 1:  # the end of the last line is not that of one before it
                continue
            wanted -= 1
            if wanted <= 0:
                return start + at + 1 if lines else end
        position = start
    return 0 if lines else end
