"""Rooms: a network or disks of their own for processes, there as long as somebody is in them; nothing is left."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path


class Room:
    """Namespaces that a process holds; whoever is to run there is started with what is `inside`."""

    def __init__(self, kind: str) -> None:
        self._holder = subprocess.Popen(["unshare", f"--{kind}", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"\n")  # its echo says that the room is there
        self._holder.stdin.flush()
        assert self._holder.stdout.readline() == b"\n"
        self.pid = self._holder.pid
        self.inside = ("nsenter", f"--target={self.pid}", f"--{kind}", f"--wd={Path.cwd()}")

    def run(self, *words: object) -> None:
        """Run a command in it."""
        subprocess.run([*self.inside, *map(str, words)], check=True)

    def path(self, path: Path) -> Path:
        """Return a path in it as others see it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def close(self) -> None:
        """Leave it."""
        self._holder.communicate()


@contextmanager
def two_hosts():
    """Give two rooms that are joined by a cable; they are at 10.213.0.1 and 10.213.0.2."""
    one, other = Room("net"), Room("net")
    try:
        one.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other.pid)
        for number, room in enumerate((one, other), 1):
            room.run("ip", "addr", "add", f"10.213.0.{number}/24", "dev", "cable")
            room.run("ip", "link", "set", "cable", "up")
            room.run("ip", "link", "set", "lo", "up")
        yield one, other
    finally:
        one.close()
        other.close()


@contextmanager
def small_disk(folder: Path, size: str):
    """Give a room in which a folder is a disk of its own, of so many bytes."""
    room = Room("mount")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
        yield room
    finally:
        room.close()


def fill(folder: Path) -> Path:
    """Fill the disk of a folder, and return the file that does."""
    path = folder / "filling"
    piece = bytes(4096)
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(piece):
                pass
        except OSError:
            return path
    raise AssertionError("It is not full.")
