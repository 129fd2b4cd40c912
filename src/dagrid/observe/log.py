"""A run told in a file, one line for each thing that happened to a node: a reader of its events, which knows no workflow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from os import PathLike
from typing import Any, TextIO

from dagrid.masking import masked
from dagrid.observe.lines import Lines, told
from dagrid.ports import RunEvent

NOTE = "*"
"""What stands before the text of a line that somebody else has written."""

_NOTE = f"{NOTE} ".encode()


class RunLog:
    """Append what happens in a run to a file; of a run that goes on, what the file does not tell yet.

    Args:
        path: of the file.
        mask: secrets, replaced in all that is written.
    """

    def __init__(self, path: str | PathLike[str], mask: Sequence[str] = ()) -> None:
        self._path = path
        self._mask = mask
        self._file: TextIO | None = None
        self._lines = Lines(self._write, self._stamp)
        self._offset = 0.0
        self._known = 0

    def begin(self, run: Any) -> None:
        """Open the file."""
        self._known = _lines(self._path)
        self._file = open(self._path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # closed in `end`
        self._offset = run.began

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
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        assert self._file is not None
        self._file.write(masked(text, self._mask) if self._mask else text)
        self._file.flush()

    def _stamp(self, at: float) -> str:
        return datetime.fromtimestamp(self._offset + at).astimezone().isoformat(timespec="milliseconds") + " "


def _lines(path: str | PathLike[str]) -> int:
    try:
        with open(path, "rb") as file:
            return sum(1 for line in file if not line.partition(b" ")[2].startswith(_NOTE))
    except FileNotFoundError:
        return 0
