"""Who performs a run: a lock on a file, which the system lets go of when its process ends, however it ends. It knows no store.

Only POSIX systems have such locks. The lock belongs to the process that took it and not to those that are forked off it.

A lock may have several names, as a file has: who performs many runs holds one file, which stands in the folder of each. Another
process never takes a file that has several names, for it would take all of them: it removes the name, and makes another file.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from dagrid.errors import RunHeldError

# Who only looks holds the lock for some microseconds; so often, and so many seconds apart, one that takes it tries again.
TRIES = 10
PAUSE = 0.005


class Owner(msgspec.Struct, frozen=True):
    """A process: `started` is when it began, in the words of its system, so that a number that was given anew is noticed.

    One that `answers` performs many runs, and is asked for each by its bell, see `bells`.
    """

    pid: int = 0
    started: int = 0
    host: str = ""
    answers: bool = False


class Lock:
    """A lock that this process holds until `release`, or until it ends."""

    __slots__ = ("__weakref__", "_file", "path")

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file
        _HELD.add(self)

    def release(self) -> None:
        """Let go of it; may be called twice."""
        _HELD.discard(self)
        self.forked()

    def forked(self) -> None:
        """In a process that was forked off: the lock stays where it is, and ends with that process."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def named(self, path: Path) -> Lock | None:
        """Return this lock under another name; None where there is such a file, or it can have no name."""
        with suppress(OSError):
            os.link(self.path, path)
            name = os.stat(path)
            if os.path.samestat(name, os.fstat(self._file)):
                return _Name(path, name)
            os.unlink(path)  # somebody has removed the file of this lock, and made another one
        return None


class _Name(Lock):
    """A further name of a lock, which is removed to let go of it."""

    __slots__ = ("_stat",)

    def __init__(self, path: Path, stat: os.stat_result) -> None:
        super().__init__(path, -1)
        self._stat: os.stat_result | None = stat

    def release(self) -> None:
        stat = self._stat
        super().release()
        with suppress(OSError):  # the folder is gone
            if stat is not None and os.path.samestat(os.stat(self.path), stat):
                os.unlink(self.path)

    def forked(self) -> None:
        self._stat = None


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave() -> None:
    for lock in list(_HELD):
        lock.forked()


os.register_at_fork(after_in_child=_leave)


def host() -> str:
    """Return what this machine is called."""
    return os.uname().nodename


def take(path: Path, what: str, answers: bool = False, own: Lock | None = None) -> Lock:
    """Take the lock of a file, which is made when there is none, and say in it who has it.

    Args:
        path: of the file; its folder must be there.
        what: what messages say is held.
        answers: whether this process is asked by its bell.
        own: a lock of this process, which gets this name too, where the file system allows that; it is held for longer.

    Raises:
        RunHeldError: another one holds it.
        FileNotFoundError: the folder is gone.
    """
    for _ in range(TRIES):
        try:
            lock = (own.named(path) if own is not None else None) or _take(path, answers)
        except BlockingIOError:
            time.sleep(PAUSE)
            continue
        if lock is not None:
            return lock
    found = holder(path) or Owner()
    raise RunHeldError(
        f"{what} is performed by process {found.pid}, which goes on. Wait for it, or stop it.", found.pid, host()
    )


def holder(path: Path) -> Owner | None:
    """Return who holds the lock of a file, None when nobody does; nothing is known of one who has only just taken it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file)
    finally:
        os.close(file)
    return None


def stop(path: Path, number: int = signal.SIGTERM) -> Owner | None:
    """Send a signal to who holds the lock of a file, to that very process and to no other; None when nobody holds it.

    One that answers is returned and gets none: it performs other runs as well.

    Raises:
        PermissionError: it is another user's.
    """
    for _ in range(TRIES):
        found = holder(path)
        if found is None:
            return None
        if found.pid and (found.answers or _signalled(path, found, number)):
            return found
        time.sleep(PAUSE)  # it has only just taken it, or is just letting go
    return None


def started(pid: int) -> int:
    """Return when a process began, in the words of its system; 0 when there is none, or the system does not say."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(data.rpartition(b")")[2].split()[19])


def _signalled(path: Path, owner: Owner, number: int) -> bool:
    if not hasattr(os, "pidfd_open"):
        os.kill(owner.pid, number)
        return True
    try:
        process = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return False
    try:
        # What is open now stays that process, even if its number is given anew after it was looked at.
        if started(owner.pid) != owner.started or holder(path) != owner:
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


@cache
def _mine(pid: int, answers: bool) -> bytes:
    return msgspec.json.encode(Owner(pid, started(pid), host(), answers))


def _take(path: Path, answers: bool) -> Lock | None:
    """Take the lock of a file of its own; None if another file is to be there now.

    Raises:
        BlockingIOError: another one has it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(file).st_nlink > 1:
            _remove(path, file)
            return None
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(file, path) or os.fstat(file).st_nlink > 1:
            return None
        os.ftruncate(file, 0)
        os.pwrite(file, _mine(os.getpid(), answers), 0)
        lock, file = Lock(path, file), -1
        return lock
    finally:
        if file >= 0:
            os.close(file)


def _remove(path: Path, file: int) -> None:
    """Remove one of the names of a file that nobody holds any more. None of the others is seen to be held meanwhile.

    Of several that would do so one does, or the second would remove what the first has put there.

    Raises:
        BlockingIOError: somebody holds it, or removes it.
    """
    turn = path.with_name(f"{path.name}.turn")
    mine = os.open(turn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(mine, turn):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if _is_at(file, path):
                    os.unlink(path)
            finally:
                os.unlink(turn)
    finally:
        os.close(mine)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at a path: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _read(file: int) -> Owner:
    try:
        return msgspec.json.decode(os.pread(file, 1000, 0), type=Owner)
    except msgspec.DecodeError:
        return Owner()
