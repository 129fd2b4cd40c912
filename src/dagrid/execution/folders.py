"""A folder of its own for each process, removed with it, or by the next one when it was killed. Nobody else may look into it."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import weakref
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Self

from dagrid.errors import BackendError

LOCK = "lock"
_NAME = re.compile("[0-9a-f]{16}")


class OwnFolder:
    """A folder of this process, beside those of others; those of processes that are no more are removed.

    Args:
        parent: where it is made.
        inherits: a folder in it whose files are taken over from processes that are no more; empty: none.

    Attributes:
        path: of the folder.
    """

    def __init__(self, parent: Path, inherits: str = "") -> None:
        parent.mkdir(0o700, parents=True, exist_ok=True)
        while True:
            self.path = parent / secrets.token_hex(8)
            self.path.mkdir(0o700)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.path / LOCK).exists():  # nobody has taken it for a dead one's
                break
            os.close(lock)
        self._lock = lock
        self.remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())
        """Remove it with all that is in it, at the end of the process at the latest; may be called twice."""
        for other in parent.iterdir():
            with suppress(OSError):
                fd = os.open(other / LOCK, os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if inherits:
                        _take_over(other / inherits, self.path / inherits)
                    shutil.rmtree(other, ignore_errors=True)
                finally:
                    os.close(fd)

    def leave(self) -> None:
        """Leave it to the next process as it is; may be called twice, and after `remove`."""
        if self.remove.detach() is not None:
            os.close(self._lock)

    @classmethod
    def temporary(cls) -> Self:
        """Make one where temporary files are, apart from those of other users.

        Raises:
            BackendError: somebody else has made a folder of the name.
        """
        parent = Path(gettempdir(), f"dagrid-{os.getuid()}")
        with suppress(FileExistsError):
            parent.mkdir(0o700)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise BackendError(f"{parent} is somebody else's. Remove it, or set TMPDIR to a folder of your own.")
        return cls(parent)


def is_own(path: str) -> bool:
    """Return whether a folder is one that a process has, or has left, for itself."""
    return _NAME.fullmatch(os.path.basename(path)) is not None and os.path.isfile(os.path.join(path, LOCK))


def _take_over(old: Path, new: Path) -> None:
    new.mkdir(0o700, exist_ok=True)
    for path in old.iterdir() if old.is_dir() else ():
        path.replace(new / path.name)


def _remove(folder: Path, lock: int, process: int) -> None:
    if os.getpid() == process:  # a fork has the lock as well, and leaves the folder alone
        shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
