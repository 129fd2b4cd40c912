"""A run as lines of text, one for each thing that happens to a node: for logs, and for terminals that are none.

It knows events only, and writes in the thread that brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagrid.ports import RunEvent

BAD = frozenset({"failed", "timed_out", "lost", "cancelled"})
_WORDS = {
    "started": "started",
    "completed": "completed",
    "reused": "has its value from before",
    "failed": "failed",
    "timed_out": "timed out",
    "cancelled": "cancelled",
    "halted": "told to stop",
    "lost": "lost with its worker",
    "skipped": "skipped",
    "passed": "skipped",
    "retry": "will be tried again",
    "requeued": "will be sent again",
    "repeated": "will be run again",
    "held": "waits for a person",
    "signalled": "goes on",
    "stopped": "the run is being stopped",
    "reopened": "the run is taken up again",
    "run_ended": "the run has ended",
    "patched": "the graph has grown",
    "noted": "",
}
_ENDED = frozenset({"completed", "failed", "timed_out", "cancelled"})
_LONGEST = 500


class Lines:
    """Write what happens.

    Args:
        write: takes some lines at once, each with its end.
        stamp: what stands before a line, made of the seconds since the run began.
        most: how many lines good news may take; of the rest only the bad is told. None is all.
        without: the kinds of events that are not told.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        stamp: Callable[[float], str],
        most: int | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._write = write
        self._stamp = stamp
        self._left = most
        self._without = without
        self._since: dict[str, float] = {}
        self._from = 0.0

    def begin(self, run: Any) -> None:
        """Tell of this run from now on; what has happened before it was gone on with is known."""
        self._from = run.since

    def observe(self, events: Sequence[RunEvent]) -> None:
        """Tell of these."""
        lines = [line for event in events if (line := self._line(event))]
        if lines:
            self._write("".join(lines))

    def end(self) -> None:
        """All is told."""

    def _line(self, event: RunEvent) -> str:
        if event.kind == "started":
            self._since[event.node] = event.at
        said = told(event)
        if not said:
            return ""
        if event.kind in _ENDED and event.node in self._since:
            said += f" after {span(event.at - self._since.pop(event.node))}"
        if event.at < self._from or event.kind in self._without:
            return ""
        if self._left is not None and event.kind not in BAD:
            self._left -= 1
            if self._left < 0:
                return ""
            if self._left == 0:
                said += " (from here on only what goes wrong is told)"
        node = f"{one_line(event.node)}: " if event.node else ""
        detail = f": {one_line(event.detail)}" if event.detail else ""
        return f"{self._stamp(event.at)}{node}{said}{detail}\n"


def told(event: RunEvent) -> str:
    """Return what an event means in words; nothing for one that is nobody's business."""
    said = _WORDS.get(event.kind, "")
    if said and event.kind == "started" and event.attempt > 1:
        said += f" (try {event.attempt})"
    return said


def span(seconds: float) -> str:
    """Return a time that something took."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def one_line(text: str) -> str:
    """Return a text on one line that no terminal obeys, and not too long of it."""
    if text.isidentifier() and len(text) <= _LONGEST:
        return text  # as most names are
    said = " ".join(text.split())
    if not said.isprintable():
        said = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
