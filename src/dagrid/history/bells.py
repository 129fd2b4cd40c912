"""The bell of a home: a named pipe into which anybody writes a line, and that whoever performs runs for others sleeps on.

A line says what has happened, or what is wanted, and of which run: two words, and then the names of its steps that are meant.
Nobody waits for an answer.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from dagrid.errors import InvalidSettingError

BELL = "bell"
QUEUED = "queued"
STOP = "stop"
RESUME = "resume"
RETRY = "retry"
PATIENCE = 1.0
"""Seconds that a line may wait for a reader that has not kept up."""
_PIECE = 1 << 16


class Bell:
    """The reader's end. Its `fileno` is readable when somebody has rung.

    Args:
        home: the folder; nobody else may listen there.
    """

    def __init__(self, home: Path) -> None:
        path = home / BELL
        if not path.is_fifo():
            path.unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
        # Open for writing as well, so that it stays open when the last one who rang has gone.
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def fileno(self) -> int:
        return self._file

    def read(self) -> list[tuple[str, str, list[str]]]:
        """Return what was said since, line by line: the verb, the run, and the steps; it does not wait."""
        data = self._rest
        while True:
            try:
                piece = os.read(self._file, _PIECE)
            except BlockingIOError:
                break
            data += piece
        *lines, self._rest = data.split(b"\n")
        words = [line.decode("utf-8", "replace").split(" ") for line in lines]
        return [(verb, run, list(map(unquote, steps))) for verb, run, *steps in words]

    def close(self) -> None:
        """Listen no more; may be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def ring(home: Path, verb: str, run: str, steps: Iterable[str] = ()) -> bool:
    """Say something to who listens in a home; return whether anybody does.

    Raises:
        InvalidSettingError: the steps have more letters than can be said at once.
    """
    line = f"{' '.join((verb, run, *map(quote, steps)))}\n".encode()
    if len(line) > select.PIPE_BUF:
        raise InvalidSettingError(
            "So many steps cannot be named at once. Name the first ones: what is behind them is meant too."
        )
    try:
        file = os.open(home / BELL, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENOTDIR):
            return False
        raise
    try:
        while True:
            try:
                return os.write(file, line) == len(line)  # a short line is written whole or not at all
            except BlockingIOError:
                if not select.select([], [file], [], PATIENCE)[1]:
                    return False
            except BrokenPipeError:
                return False
    finally:
        os.close(file)


__all__ = ["QUEUED", "RESUME", "RETRY", "STOP", "Bell", "ring"]
