"""A small process that outlives this one for a moment: if this one dies, it kills the process groups that it had started.

That costs nothing for each group: their numbers stand in memory that both share, and the watchdog sleeps until the pipe that only
this process holds is closed, by whatever ends it. A fork of this process that goes on without exec holds that pipe too, so that
the watchdog waits for it as well. It knows process groups only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess

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
    """Process groups that end with this process.

    Args:
        slots: how many there are at once; those beyond that, or beyond 4,096, are not watched.
    """

    def __init__(self, slots: int) -> None:
        slots = min(slots, MOST)
        self._free = list(range(slots - 1, -1, -1))
        self._taken: dict[int, int] = {}
        self._file = _anonymous_file()
        os.ftruncate(self._file, slots * SLOT)
        self._table = mmap.mmap(self._file, slots * SLOT)
        self._table[:] = _BLANK * slots
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

    def add(self, group: int) -> None:
        """Watch a group; one that was started in the moment before this process dies is not known yet, and goes on."""
        if self._free:
            slot = self._taken[group] = self._free.pop()
            self._table[slot * SLOT : (slot + 1) * SLOT] = b"%-15d\n" % group

    def remove(self, group: int) -> None:
        """Watch a group no longer; to be called before its number may be given to another."""
        slot = self._taken.pop(group, None)
        if slot is not None:
            self._table[slot * SLOT : (slot + 1) * SLOT] = _BLANK
            self._free.append(slot)

    def close(self) -> None:
        """End the watchdog. Groups that it still watches are not killed by it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._table.close()
        os.close(self._file)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dagrid-groups")
    import tempfile  # it loads much, and few systems need it

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
