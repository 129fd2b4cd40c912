"""A run told in a file, one line for each thing that happened to a node: a reader of its events, which knows no workflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from os import PathLike
from typing import Any, BinaryIO

from dagrid.masking import masked
from dagrid.observe.lines import Lines, told
from dagrid.ports import RunEvent

NOTE = "*"
"""What stands before the text of a line that somebody else has written."""

_NOTE = f"{NOTE} ".encode()

_log = logging.getLogger("dagrid.log")


class RunLog:
    """Append what happens in a run to a file; of a run that goes on, what the file does not tell yet.

    What cannot be written, for the disk is full, is written with what comes next; the run does not wait for it.

    Args:
        path: of the file.
        mask: secrets, replaced in all that is written.
    """

    def __init__(self, path: str | PathLike[str], mask: Sequence[str] = ()) -> None:
        self._path = path
        self._mask = mask
        self._file: BinaryIO | None = None
        self._unwritten = b""
        self._failed = False
        self._lines = Lines(self._write, self._stamp)
        self._offset = 0.0
        self._known = 0
        with suppress(OSError):  # `begin` tells of it
            # The first node may look for it before this reader has come to it.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))

    def begin(self, run: Any) -> None:
        """Open the file; where that fails it is tried again when there is something to be written."""
        self._offset = run.began
        self._open()
        if self._file is not None and self._file.tell():
            self._file.seek(0)
            self._known = sum(1 for line in self._file if not line.partition(b" ")[2].startswith(_NOTE))

    def observe(self, events: Sequence[RunEvent]) -> None:
        """Write what these events tell."""
        if self._known:
            news = []
            for event in events:
                if self._known and told(event):
                    self._known -= 1  # an earlier process of this run has told it
                else:
                    news.append(event)
            events = news
        self._lines.observe(events)

    def end(self) -> None:
        """Close the file."""
        if self._unwritten:
            self._write("")
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115  # closed in `end`
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            _log.error("%s cannot be written: %s. It is tried again.", self._path, error)

    def _write(self, text: str) -> None:
        if self._file is None:
            self._open()
        text = masked(text, self._mask) if self._mask else text
        self._unwritten += text.encode("utf-8", "backslashreplace")
        try:
            while self._unwritten and self._file is not None:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            self._tell(error)

    def _stamp(self, at: float) -> str:
        return datetime.fromtimestamp(self._offset + at).astimezone().isoformat(timespec="milliseconds") + " "
