"""What the attempts of a run write below its folder for logs, sent to the coordinator while it grows.

The system says which files have grown (inotify); where it cannot, they are all looked at. A bounded amount is on its way at a
time: what the coordinator has written is taken off, and after a broken stream all that it had not is sent again. Who reports
the end of an attempt asks first whether all that was there by then has arrived. It knows files and runs, and no stream.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from dagrid.execution.backends.cluster import fleet_pb2 as pb

PIECE = 1 << 18
SMALL = 1 << 15
FLYING = 8 << 20
"""Bytes that may be on their way."""

_EVENT = struct.Struct("iIII")
_MODIFY, _CREATE, _OVERFLOW, _FOLDER = 0x2, 0x100, 0x4000, 0x40000000


class File:
    """A file that grows: how much of it there is, was sent, and has arrived."""

    __slots__ = ("arrived", "name", "path", "run", "sent", "size")

    def __init__(self, run: str, name: str, path: str) -> None:
        self.run = run
        self.name = name
        self.path = path
        self.size = self.sent = self.arrived = 0


class Logs:
    """The files of all runs of a worker."""

    def __init__(self) -> None:
        self._watch: Watch | None = None
        with suppress(OSError, AttributeError):
            self._watch = Watch()
        self._folders: dict[str, str] = {}
        self._runs: dict[str, tuple[str, str]] = {}  # by folder, with the source
        self._files: dict[str, File] = {}
        self._of_run: dict[str, dict[str, File]] = {}
        self._behind: deque[File] = deque()
        self._flying = 0

    def add(self, run: str, folder: str, source: str) -> None:
        """Send what is written below a folder from now on; the names of its files begin with the source."""
        self._folders[run] = folder
        self._runs[folder] = run, source
        self._of_run[run] = {}
        if self._watch is not None:
            self._watch.add(folder)

    def remove(self, run: str) -> None:
        """A run has ended: what is left of its files is of no interest."""
        folder = self._folders.pop(run, None)
        if folder is None:
            return
        del self._runs[folder]
        for file in self._of_run.pop(run).values():
            self._flying -= file.sent - file.arrived
            self._files.pop(file.path, None)
            file.size = file.sent
        if self._watch is not None:
            self._watch.remove(folder)

    def look(self) -> None:
        """See which files have grown."""
        if not self._folders:
            return
        changed = self._changed() if self._watch is None else self._watch.changed()
        if changed is None:
            changed = self._changed()
        for path in changed:
            file = self._files.get(path) or self._found(path)
            if file is None:
                continue
            with suppress(OSError):
                size = os.stat(path).st_size
                if size > file.size:
                    if file.sent == file.size:
                        self._behind.append(file)
                    file.size = size

    @property
    def active(self) -> bool:
        """Whether any run here has files."""
        return bool(self._folders)

    @property
    def behind(self) -> bool:
        """Whether something has not been sent that may be."""
        return bool(self._behind) and self._flying < FLYING

    def take(self, small: bool = False) -> list[pb.Log]:
        """Return what comes next, a piece or more of several files; with `small` only what needs no piece of its own."""
        found: list[pb.Log] = []
        left = SMALL if small else PIECE
        while self._behind and self._flying < FLYING and left > 0:
            file = self._behind.popleft()
            if small and file.size - file.sent > left:
                self._behind.appendleft(file)
                break
            data = self._read(file)
            if not data:
                file.size = file.sent  # somebody has cut it
                continue
            found.append(pb.Log(run=file.run, file=file.name, offset=file.sent, data=data))
            file.sent += len(data)
            self._flying += len(data)
            left -= len(data)
            if file.sent < file.size:
                self._behind.append(file)
        return found

    def marks(self, run: str) -> dict[str, int]:
        """Return how far the files of a run have to arrive for all that is there now, those that have not."""
        return {name: file.size for name, file in self._of_run.get(run, {}).items() if file.arrived < file.size}

    def passed(self, run: str, marks: dict[str, int]) -> bool:
        """Return whether so much has arrived."""
        files = self._of_run.get(run, {})
        return all(
            name not in files or files[name].arrived >= min(mark, files[name].size) for name, mark in marks.items()
        )

    def acknowledge(self, ack: pb.LogAck) -> None:
        """The coordinator has so much of a file."""
        file = self._of_run.get(ack.run, {}).get(ack.file)
        if file is not None and file.arrived < ack.offset <= file.sent:
            self._flying -= ack.offset - file.arrived
            file.arrived = ack.offset

    def lose(self) -> None:
        """The stream broke: what has not arrived is sent again."""
        self._flying = 0
        self._behind.clear()
        for file in self._files.values():
            file.sent = file.arrived
            if file.sent < file.size:
                self._behind.append(file)

    def close(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.close()

    def _read(self, file: File) -> bytes:
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, min(PIECE, file.size - file.sent), file.sent)
        finally:
            os.close(fd)

    def _found(self, path: str) -> File | None:
        folder = os.path.dirname(path)
        while folder not in self._runs:
            above = os.path.dirname(folder)
            if above == folder:
                return None
            folder = above
        run, source = self._runs[folder]
        name = f"{source}/{path[len(folder) + 1 :]}"
        file = self._files[path] = self._of_run[run][name] = File(run, name, path)
        return file

    def _changed(self) -> Iterator[str]:
        for folder in list(self._runs):
            for root, _, names in os.walk(folder):
                for name in names:
                    yield os.path.join(root, name)


class Watch:
    """Folders with all that is below them, whose files are seen to grow.

    Raises:
        OSError, AttributeError: the system has no such thing.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("there is no inotify")
        self._c = ctypes.CDLL(None, use_errno=True)
        self._fd = self._c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no inotify")
        self._folders: dict[int, tuple[str, str]] = {}  # each with the one above it that was asked for
        self._below: dict[str, list[int]] = {}  # by the latter
        self._missed: set[str] = set()

    def add(self, folder: str) -> None:
        """Watch a folder, and those that are made in it."""
        self._watch(folder, folder)

    def remove(self, folder: str) -> None:
        """Watch a folder that was added no more, nor what is below."""
        for number in self._below.pop(folder, ()):
            del self._folders[number]
            self._c.inotify_rm_watch(self._fd, number)

    def changed(self) -> set[str] | None:
        """Return the files that have grown since the last time; None if that is not known."""
        found, self._missed = self._missed, set()
        complete = True
        while data := self._events():
            place = 0
            while place < len(data):
                number, mask, _, size = _EVENT.unpack_from(data, place)
                name = data[place + _EVENT.size : place + _EVENT.size + size].rstrip(b"\0")
                place += _EVENT.size + size
                if mask & _OVERFLOW:
                    complete = False
                    continue
                known = self._folders.get(number)
                if known is None:
                    continue
                path = os.path.join(known[0], os.fsdecode(name))
                if not mask & _FOLDER:
                    found.add(path)
                elif mask & _CREATE:
                    with suppress(OSError):
                        self._watch(path, known[1])
                    found |= self._missed
                    self._missed = set()
        return found if complete else None

    def close(self) -> None:
        os.close(self._fd)

    def _watch(self, folder: str, above: str) -> None:
        number = self._c.inotify_add_watch(self._fd, os.fsencode(folder), _MODIFY | _CREATE)
        if number >= 0 and number not in self._folders:
            self._folders[number] = folder, above
            self._below.setdefault(above, []).append(number)
        for entry in os.scandir(folder):  # what was made before
            if entry.is_dir(follow_symlinks=False):
                self._watch(entry.path, above)
            else:
                self._missed.add(entry.path)

    def _events(self) -> bytes:
        try:
            return os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return b""
