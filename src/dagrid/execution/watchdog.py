"""A small process that outlives this one for a moment: if this one dies, it kills the process groups that it had started.

That costs nothing for each group: their numbers stand in memory that both share, and the watchdog sleeps until the pipe that only
this process holds is closed, by whatever ends it. A fork of this process that goes on without exec holds that pipe too, so that
the watchdog waits for it as well. It knows process groups only.

Starting it takes as long as a short run, so all threads that need one share it, and it stays as long as one of these.

A `Leash` kills its groups at a time too, which this process puts off as long as it may: also where it is stopped and cannot look
at the clock. That takes a process that can do so itself.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import weakref
from typing import Protocol

SLOT = 16
MOST = 4096
_BLANK = b" " * (SLOT - 1) + b"\n"
_END = b"%-15s\n" % b"end"
# The table is its standard output, because a shell's redirection takes no descriptor of two digits.
SCRIPT = """\
cd /
trap '' HUP INT QUIT TERM
read -r _
while read -r group && [ "$group" != end ]; do
    [ -z "$group" ] || kill -s KILL -- "-$group"
done <&1
"""
LEASH = """\
import os, select, signal, time
for each in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(each, signal.SIG_IGN)
groups, until, said, more = set(), 0.0, b"", b"more"
while more:
    left = max(until - time.monotonic(), 0.0) if groups else None
    if select.select([0], [], [], left)[0]:
        more = os.read(0, 65536)
        *lines, said = (said + more).split(b"\\n")
        for line in lines:
            if line[:1] == b"=":
                until = float(line[1:])
            elif line[:1] == b"+":
                groups.add(int(line[1:]))
            else:
                groups.discard(int(line[1:]))
    if not more or groups and until <= time.monotonic():
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except OSError:
                pass
        groups.clear()
"""


class Guard(Protocol):
    """What ends process groups that this process cannot end."""

    def add(self, group: int) -> None:
        """Guard a group; one that was started in the moment before this process dies is not known yet, and goes on."""
        ...

    def remove(self, group: int) -> None:
        """Guard a group no longer; to be called before its number may be given to another."""
        ...


class Watchdog:
    """Process groups that end with this process; those beyond 4,096 at once are not watched."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self._taken: dict[int, int] = {}
        self._file = _anonymous_file()
        os.ftruncate(self._file, (MOST + 1) * SLOT)
        self._table = mmap.mmap(self._file, (MOST + 1) * SLOT)
        self._write(0, _END)  # behind what was ever used, for a shell reads a table byte by byte
        self._child, line = _started(self._file)
        weakref.finalize(self, _end, os.getpid(), self._child, line, self._table, self._file).atexit = False

    @property
    def watches(self) -> bool:
        """Whether it is there."""
        return self._child > 0 and _is_there(self._child)

    def add(self, group: int) -> None:
        if self._free:
            slot = self._free.pop()
        elif self._used < MOST:
            slot = self._used
            self._used += 1
            self._write(self._used, _END)
        else:
            return
        self._taken[group] = slot
        self._write(slot, b"%-15d\n" % group)

    def remove(self, group: int) -> None:
        slot = self._taken.pop(group, None)
        if slot is not None:
            self._write(slot, _BLANK)
            self._free.append(slot)

    def _write(self, slot: int, line: bytes) -> None:
        self._table[slot * SLOT : (slot + 1) * SLOT] = line


class Leash:
    """Process groups that end with this process, or at a time that it has not put off. May be used from any thread."""

    def __init__(self, until: float) -> None:
        """Begin with no group.

        Args:
            until: when they end, by the clock that `time.monotonic` reads.

        Raises:
            OSError: the machine has no room for the process that sees to it.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LEASH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        self._until = 0.0
        self.lengthen(until)

    def lengthen(self, until: float) -> None:
        """Put off the time at which the groups end."""
        if until > self._until:
            self._until = until
            self._say("=", until)

    def add(self, group: int) -> None:
        self._say("+", group)

    def remove(self, group: int) -> None:
        self._say("-", group)

    def close(self) -> None:
        """End the groups that are left, and what sees to them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, what: str, number: float) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed; what is here still looks at the clock
            self._process.stdin.write(f"{what}{number!r}\n".encode())


def watchdog() -> Watchdog:
    """Return the watchdog of this process, for the calling thread."""
    with _guard:
        found = next((each for each in _there if each.watches), None) or Watchdog()
        _there.add(found)
    _mine.watchdog = found
    return found


def _started(file: int) -> tuple[int, int]:
    """Start the shell, and return its number and this end of its pipe.

    No `Popen`, which would warn at the end of this process that the shell is still there, as it is to be.
    """
    theirs, ours = os.pipe()
    try:
        spawned = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", SCRIPT],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, 0),
                (os.POSIX_SPAWN_DUP2, file, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
    except OSError:  # a machine so full that it has no room for it has other troubles
        spawned = 0
    finally:
        os.close(theirs)
    return spawned, ours


def _is_there(child: int) -> bool:
    """Look whether a child lives; one that has ended keeps its number until `_end`, so that no other gets it."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _end(pid: int, child: int, line: int, table: mmap.mmap, file: int) -> None:
    """End the watchdog of this process, or let go of that of the process from which this one was forked off."""
    if pid == os.getpid() and child:
        with contextlib.suppress(ChildProcessError):  # the system reaps by itself where SIGCHLD is ignored
            if _is_there(child):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    os.close(line)
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
