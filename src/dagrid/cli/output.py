"""What the command says: data on standard output, talk on standard error, as text or as JSON. It knows no run."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from typing import IO, Any

COLOURS = {
    "succeeded": "32",
    "completed": "32",
    "failed": "31",
    "timed_out": "31",
    "lost": "31",
    "aborted": "35",
    "cancelled": "35",
    "interrupted": "33",
    "partially_succeeded": "33",
    "skipped": "90",
    "running": "36",
    "waiting": "34",
    "queued": "90",
}
_STDOUT, _STDERR = 1, 2
_ESCAPES = {number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))}


class Output:
    """Where a command writes.

    Args:
        quiet: say nothing on standard error but errors.
        as_json: data are JSON.
        zone: of the times that are shown; None is this machine's.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False, zone: tzinfo | None = None) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self._zone = zone
        self._apart: IO[str] | None = None

    @property
    def data(self) -> IO[str]:
        """Where data go."""
        return self._apart or sys.stdout

    def keep_apart(self) -> None:
        """Leave standard output to data: what modules and functions of users print, or who they start, is talk from here on."""
        if self._apart is not None or not _is_its_own(sys.stdout):
            return
        sys.stdout.flush()
        kept = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        self._apart = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115  # `close` does

    def close(self) -> None:
        """Have standard output be what it was."""
        if self._apart is not None:
            sys.stdout.flush()
            os.dup2(self._apart.fileno(), _STDOUT)
            with suppress(BrokenPipeError):  # who wrote for a reader that is gone has been told
                self._apart.close()
            self._apart = None

    def write(self, text: str) -> None:
        """Write data as they are."""
        _put(self.data, text)

    def line(self, text: str = "") -> None:
        """Write a line of data."""
        _put(self.data, f"{text}\n")

    def json(self, value: Any) -> None:
        """Write data as JSON."""
        self.line(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    @contextmanager
    def json_list(self) -> Iterator[Callable[[Any], None]]:
        """Write a list as JSON: yields what is called with each value, which is written then, for there may be millions."""
        begun = False

        def add(value: Any) -> None:
            nonlocal begun
            self.write(f"{',' if begun else '['}\n  {json.dumps(value, ensure_ascii=False, default=str)}")
            begun = True

        yield add
        self.line("\n]" if begun else "[]")

    def json_line(self, value: Any) -> None:
        """Write data as JSON on one line, of several that come one after the other."""
        self.line(json.dumps(value, ensure_ascii=False, default=str))

    def say(self, text: str) -> None:
        """Tell whoever looks on, unless they want to hear nothing."""
        if not self.quiet:
            talk(f"{text}\n")

    def complain(self, text: str) -> None:
        """Tell what went wrong."""
        talk(f"{text}\n")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write rows in columns, with colours where that is a terminal; texts of others cannot steer it."""
        shown = [[tame(cell) for cell in row] for row in rows]
        widths = [max([len(head), *(_width(row[at]) for row in shown)]) for at, head in enumerate(heads)]
        colour = coloured(self.data)
        last = len(heads) - 1
        head = "  ".join(name if at == last else name.ljust(widths[at]) for at, name in enumerate(heads))
        self.line(f"\x1b[1m{head}\x1b[0m" if colour else head)
        for row in shown:
            cells = []
            for at, cell in enumerate(row):
                padding = "" if at == last else " " * (widths[at] - _width(cell))
                code = COLOURS.get(cell) if colour else None
                cells.append((f"\x1b[{code}m{cell}\x1b[0m" if code else cell) + padding)
            self.line("  ".join(cells).rstrip())

    def csv(self, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write rows as comma-separated values (RFC 4180)."""
        import csv
        import io

        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(heads)
        writer.writerows(rows)
        self.write(text.getvalue())

    def time(self, seconds: float) -> str:
        """Return a time as people read it; nothing for 0."""
        return f"{datetime.fromtimestamp(seconds, self._zone):%Y-%m-%d %H:%M:%S}" if seconds else ""

    def stamp(self, seconds: float) -> str | None:
        """Return a time as programs read it: ISO 8601 with its zone; None for 0."""
        return datetime.fromtimestamp(seconds, self._zone).astimezone(self._zone).isoformat() if seconds else None


def took(seconds: float) -> str:
    """Return a span as people read it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    said = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(said[:2])


def _is_its_own(stream: IO[str]) -> bool:
    """Whether a stream is standard output as others find it, which is not that of a terminal, and there is standard error."""
    try:
        os.fstat(_STDERR)
        return stream.fileno() == _STDOUT and not stream.isatty()
    except (OSError, ValueError):
        return False


def coloured(stream: IO[str]) -> bool:
    """Whether what is written there may have colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what nobody has said of it."""
    return {key: value for key, value in record.items() if value not in (None, "", (), [])}


class ReaderGoneError(Exception):
    """Whoever read the output has what it wanted. It is no OSError, which click would take for a failure of the command."""


def _put(stream: IO[str], text: str) -> None:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError from error


def talk(text: str) -> None:
    """Write to standard error. Where nobody hears it, or there is no room, what is done goes on, and ends as it does."""
    with suppress(OSError, ReaderGoneError):
        _put(sys.stderr, text)


def tame(text: str) -> str:
    """Return a text on one line that no terminal obeys."""
    return " ".join(text.splitlines()).translate(_ESCAPES) if text else text


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = {"W": 2, "F": 2}
    return sum(0 if unicodedata.combining(one) else wide.get(unicodedata.east_asian_width(one), 1) for one in text)
