"""Who performs a run: a lock on a file, which the system lets go of when its process ends, however it ends. It knows no store.

Only POSIX systems have such locks. The lock belongs to the process that took it and not to those that are forked off it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
import weakref
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
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def forked(self) -> None:
        """In a process that was forked off: the lock stays where it is, and ends with that process."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave() -> None:
    for lock in list(_HELD):
        lock.forked()


os.register_at_fork(after_in_child=_leave)


def host() -> str:
    """Return what this machine is called."""
    return os.uname().nodename


def take(path: Path, what: str, answers: bool = False) -> Lock:
    """Take the lock of a file, which is made when there is none, and say in it who has it.

    Args:
        path: of the file; its folder must be there.
        what: what messages say is held.
        answers: whether this process is asked by its bell.

    Raises:
        RunHeldError: another one holds it.
        FileNotFoundError: the folder is gone.
    """
    for _ in range(TRIES):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.pwrite(file, _mine(os.getpid(), answers), 0)
                return Lock(path, file)
        except BlockingIOError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        time.sleep(PAUSE)
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
