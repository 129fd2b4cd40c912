"""A small process that outlives this one for a moment: if this one dies, it kills the process groups that it had started.

That costs nothing for each group: their numbers stand in memory that both share, and the watchdog sleeps until the pipe that only
this process holds is closed, by whatever ends it. A fork of this process that goes on without exec holds that pipe too, so that
the watchdog waits for it as well. It knows process groups only.

Starting it takes as long as a short run, so all threads that need one share it, and it stays as long as one of these.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import threading
import weakref

SLOT = 16
MOST = 4096
_BLANK = b" " * (SLOT - 1) + b"\n"
# The table is its standard output, because a shell's redirection takes no descriptor of two digits.
SCRIPT = """\
trap '' HUP INT QUIT TERM
read -r _
while read -r group; do
    [ -z "$group" ] || kill -s KILL -- "-$group"
done <&1
"""


class Watchdog:
    """Process groups that end with this process; those beyond 4,096 at once are not watched."""

    def __init__(self) -> None:
        self._free = list(range(MOST - 1, -1, -1))
        self._taken: dict[int, int] = {}
        self._file = _anonymous_file()
        os.ftruncate(self._file, MOST * SLOT)
        self._table = mmap.mmap(self._file, MOST * SLOT)
        self._table[:] = _BLANK * MOST
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # a machine so full that it has no room for it has other troubles
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=self._file,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
                bufsize=0,
            )
        weakref.finalize(self, _end, os.getpid(), self._process, self._table, self._file).atexit = False

    @property
    def watches(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    def add(self, group: int) -> None:
        """Watch a group; one that was started in the moment before this process dies is not known yet, and goes on."""
        with contextlib.suppress(IndexError):  # there are too many
            slot = self._taken[group] = self._free.pop()
            self._table[slot * SLOT : (slot + 1) * SLOT] = b"%-15d\n" % group

    def remove(self, group: int) -> None:
        """Watch a group no longer; to be called before its number may be given to another."""
        slot = self._taken.pop(group, None)
        if slot is not None:
            self._table[slot * SLOT : (slot + 1) * SLOT] = _BLANK
            self._free.append(slot)


def watchdog() -> Watchdog:
    """Return the watchdog of this process, for the calling thread."""
    with _guard:
        found = next((each for each in _there if each.watches), None) or Watchdog()
        _there.add(found)
    _mine.watchdog = found
    return found


def _end(pid: int, process: subprocess.Popen[bytes] | None, table: mmap.mmap, file: int) -> None:
    """End the watchdog of this process, or let go of that of the process from which this one was forked off."""
    if process is not None:
        if pid == os.getpid():
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
    table.close()
    os.close(file)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dagrid-groups")
    import tempfile  # it loads much, and few systems need it

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _forked() -> None:
    global _guard
    _guard = threading.Lock()
    _there.clear()
    _mine.__dict__.clear()


_guard = threading.Lock()
_there: weakref.WeakSet[Watchdog] = weakref.WeakSet()
_mine = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
