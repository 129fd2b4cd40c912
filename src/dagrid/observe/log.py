"""A run told in a file, one line for each thing that happened to a node: a reader of its events, which knows no workflow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from os import PathLike
from time import time
from typing import Any, TextIO

from dagrid.masking import masked
from dagrid.ports import RunEvent

TOLD = {
    "started": "started",
    "completed": "completed",
    "failed": "failed",
    "timed_out": "timed out",
    "cancelled": "cancelled",
    "lost": "was lost",
    "skipped": "skipped, because of what it waits for",
    "passed": "skipped",
    "retry": "failed, is tried again",
    "repeated": "is run again",
    "held": "waits for a person",
    "signalled": "was told to go on",
    "requeued": "was lost, is sent again",
    "stopped": "the run is stopped",
    "reopened": "the run is taken up again",
    "run_ended": "the run has ended",
}
"""What is told of each kind of event; all others are of no use to a person."""


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
        self._offset = 0.0
        self._known = 0

    def begin(self, run: Any) -> None:
        """Open the file."""
        self._known = _lines(self._path)
        self._file = open(self._path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # closed in `end`
        self._offset = time() - run.seconds

    def observe(self, events: Sequence[RunEvent]) -> None:
        """Write what these events tell."""
        assert self._file is not None
        lines = []
        for event in events:
            told = TOLD.get(event.kind)
            if told is None:
                continue
            if self._known:
                self._known -= 1  # an earlier process of this run has told it
                continue
            at = datetime.fromtimestamp(self._offset + event.at).astimezone().isoformat(timespec="milliseconds")
            what = f"{event.node}: {told}" if event.node else told
            number = f" (attempt {event.attempt})" if event.attempt > 1 else ""
            why = f": {' '.join(masked(event.detail, self._mask).split())}" if event.detail else ""
            lines.append(f"{at} {what}{number}{why}\n")
        self._file.write("".join(lines))
        self._file.flush()

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _lines(path: str | PathLike[str]) -> int:
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0
