"""The logs of a run whose steps are performed elsewhere: what workers send, put behind what is there, each byte once.

A worker counts the bytes of each of its files from 0, and sends again what was not acknowledged; a step may have been performed
by several, or by one that has begun anew. So what is known of each source is how much of it is here. That stands in a file
beside the logs, and outlives this process.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from dagrid.workflow.work import CUT

BOOK = "streams"
# The source, what it has filled before, and what the file is called here.
_NAME = re.compile(r"[0-9a-f]{16}/(?:[0-9a-f]{16}/)?[^/\0]{1,250}\.(?:out|err)")
# Which file of which source; how much of it is here, and how long the log is then: written before it is so.
_SLOT = Struct("<16sQQ")


class RunLogs:
    """The files of steps in the folder of a run; a `dagrid.execution.backends.cluster.logbook.OpenSink`.

    Args:
        folder: of the logs of the run.
        limit: how long a log may be that goes on with what another source sends; a longer one begins anew with that.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int = sys.maxsize) -> None:
        self._folder = Path(folder)
        self._limit = limit
        self._guard = threading.Lock()
        self._numbers: dict[bytes, int] = {}
        self._book = -1

    def __call__(self, run: str, file: str) -> StepLog:  # noqa: ARG002  # there is one run
        """Open a file that a worker sends; one that is no log of a step is taken and thrown away."""
        if not _NAME.fullmatch(file):
            return StepLog(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        path = self._folder / file.rpartition("/")[2]
        log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        key = blake2b(file.encode(), digest_size=16).digest()
        with self._guard:
            book = self._opened()
            if key not in self._numbers and os.fstat(log).st_size >= self._limit:
                os.ftruncate(log, 0)
                os.write(log, CUT)
            number = self._numbers.setdefault(key, len(self._numbers))
            data = os.pread(book, _SLOT.size, number * _SLOT.size)
            _, here, size = _SLOT.unpack(data) if len(data) == _SLOT.size else (key, 0, 0)
        # The process may have been killed between the two; a log that has begun anew is shorter than it was anyway.
        missing = 0 if os.pread(log, len(CUT), 0) == CUT else max(size - os.fstat(log).st_size, 0)
        return StepLog(log, max(here - missing, 0), key, os.dup(book), number)

    def close(self) -> None:
        """Open nothing more; may be called twice."""
        with self._guard:
            book, self._book = self._book, -1
            if book >= 0:
                os.close(book)

    def _opened(self) -> int:
        if self._book < 0:
            self._book = os.open(self._folder / BOOK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            data = os.pread(self._book, os.fstat(self._book).st_size, 0)
            whole = len(data) - len(data) % _SLOT.size
            self._numbers = {key: number for number, (key, _, _) in enumerate(_SLOT.iter_unpack(data[:whole]))}
        return self._book


class StepLog:
    """One file of one source; used in one thread at a time.

    Args:
        log: the file that gets what comes; it is closed with this.
        here: how much of the source is in it.
        key, book, number: where that is noted; without a book, nothing is kept.
    """

    def __init__(self, log: int, here: int = 0, key: bytes = b"", book: int = -1, number: int = 0) -> None:
        self._log = log
        self._here = here
        self._key = key
        self._book = book
        self._number = number
        self._offset = 0

    def seek(self, offset: int, /) -> None:
        """Say where in the source what is written next comes from."""
        self._offset = offset

    def write(self, data: bytes, /) -> None:
        """Append what is not here yet."""
        new = memoryview(data)[max(self._here - self._offset, 0) :]
        self._offset += len(data)
        if not new or self._book < 0:
            return
        if self._offset - len(new) > self._here:
            raise ValueError("A piece is missing before this one.")
        size = os.fstat(self._log).st_size
        os.pwrite(self._book, _SLOT.pack(self._key, self._here + len(new), size + len(new)), self._number * _SLOT.size)
        while new:
            written = os.write(self._log, new)
            self._here += written
            new = new[written:]

    def flush(self) -> None:
        """It is written already."""

    def close(self) -> None:
        """Close the file; may be called twice."""
        for file in (self._log, self._book):
            if file >= 0:
                os.close(file)
        self._log = self._book = -1
