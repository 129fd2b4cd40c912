"""A run told in a file, one line for each thing that happens to a node: an onlooker, which knows no workflow.

One thread of a process writes the logs of all its runs, so that many short runs cost no change of thread each.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from os import PathLike
from queue import SimpleQueue
from time import sleep
from typing import Any

from dagrid.masking import masked
from dagrid.observe.lines import Lines, told
from dagrid.ports import RunEvent

NOTE = "*"
"""What stands before the text of a line that tells no event."""
GATHERED = 0.05
"""For so many seconds is gathered what has happened before it is written."""

_NOTE = f"{NOTE} ".encode()
_TO_SECOND = len("2026-01-31T12:00:00")
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)

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
        self._run: Any = None
        self._offset = 0.0
        self._second = ("", "")  # the last one that a line was stamped with: the time before its fraction, and its zone
        self._since = -1.0
        self._writing = threading.Lock()
        self._due = False
        self._next = 0
        self._known: int | None = None  # lines that the file has from before; not counted yet
        self._unwritten = b""
        self._failed = False
        self._lines = Lines(self._take, self._stamp)
        self._file = -1
        with suppress(OSError):  # who writes tells of it
            self._open()  # the first node may look for it before anything is written

    def begin(self, run: Any) -> None:
        """Tell of this run from now on."""
        self._run = run
        self._offset = run.began
        run.watch(self._stirred)
        self._stirred()

    def end(self) -> None:
        """Write what is left, and close the file."""
        self.write()
        with self._writing:
            self._run = None
            self._close()

    def write(self) -> None:
        """Write what has happened since; in any thread."""
        with self._writing:
            self._due = False
            if self._run is None:
                return
            events = list(self._run.events(follow=False, since=self._next))
            self._next += len(events)
            self._lines.observe(self._news(events))
            if self._unwritten:
                self._append()

    def note(self, text: str) -> None:
        """Write a line that tells no event, behind those of all that has happened; in any thread, also after the end."""
        self.write()
        at = datetime.now().astimezone().isoformat(timespec="milliseconds")
        with self._writing:
            self._take(f"{at} {NOTE} {' '.join(text.split())}\n")
            self._append()
            if self._run is None:
                self._close()

    def _stirred(self) -> None:
        if not self._due:
            self._due = True
            _scribe.expect(self)

    def _news(self, events: list[RunEvent]) -> list[RunEvent]:
        """Return what of these events an earlier process of the run has not told."""
        if self._known is None:
            self._known = self._lines_before()
        if not self._known:
            return events
        news = []
        for event in events:
            if self._known and told(event):
                self._known -= 1
            else:
                news.append(event)
        return news

    def _lines_before(self) -> int:
        if self._file < 0 or not os.fstat(self._file).st_size:
            return 0
        with suppress(OSError), open(self._path, "rb") as file:
            return sum(1 for line in file if not line.partition(b" ")[2].startswith(_NOTE))
        return 0

    def _take(self, text: str) -> None:
        text = masked(text, self._mask) if self._mask else text
        self._unwritten += text.encode("utf-8", "backslashreplace")

    def _append(self) -> None:
        try:
            if self._file < 0:
                self._open()
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.error("%s cannot be written: %s. It is tried again.", self._path, error)

    def _open(self) -> None:
        self._file = os.open(self._path, _APPEND, 0o666)

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    __del__ = _close

    def _stamp(self, at: float) -> str:
        since, fraction = divmod(self._offset + at, 1)
        if since != self._since:  # most lines are of the same one, and a zone is asked of the system
            told = datetime.fromtimestamp(since).astimezone().isoformat()
            self._since, self._second = since, (told[:_TO_SECOND], told[_TO_SECOND:])
        before, zone = self._second
        return f"{before}.{int(fraction * 1000):03}{zone} "


class _Scribe:
    """The thread that writes what has gathered."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._logs: SimpleQueue[RunLog] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def expect(self, log: RunLog) -> None:
        """A log has something to tell."""
        self._logs.put(log)
        if self._thread is None:
            with self._guard:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="dagrid-log", daemon=True)
                    self._thread.start()

    def forked(self) -> None:
        """In a process that was forked off: the logs are those of the other one, and so is the thread."""
        self.__init__()  # type: ignore[misc]  # as if it was new

    def _serve(self) -> None:
        while True:
            logs = [self._logs.get()]
            sleep(GATHERED)
            logs += [self._logs.get() for _ in range(self._logs.qsize())]
            for log in logs:
                try:
                    log.write()
                except Exception:  # noqa: BLE001 - the logs of other runs go on
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            del logs, log  # who waits holds nothing of a run


_scribe = _Scribe()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_scribe.forked)
