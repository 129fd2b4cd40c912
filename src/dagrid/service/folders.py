"""A folder of its own for each process, removed with it, or by the next one when it was killed."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def own_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder for this process, and remove those of processes that are no more.

    Returns:
        The folder, and an open file in it that is locked as long as this process lives.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.iterdir():
        with suppress(OSError):
            fd = os.open(other / "lock", os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other, ignore_errors=True)
            finally:
                os.close(fd)
    while True:
        folder = parent / secrets.token_hex(8)
        folder.mkdir()
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "lock").exists():  # nobody has taken it for a dead one's
            return folder, lock
        os.close(lock)
