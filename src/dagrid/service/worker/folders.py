"""The folders of runs on a worker, each emptied and given to the next run under another name.

To make folders and to remove them is most of what a short run costs on a worker's disk, and some file systems are slow to give
anew what was just given back: ext4 without a journal passes over each inode that was removed in the last minutes. So the files of
a run that is over go, and the folders stay that nothing runs in.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

LOGS = "logs"
"""The folder below that of a run whose files go to the coordinator."""
FILES = "files"
"""The one below it that what travels with the run is in, and where its steps run if they do not say otherwise."""
KEPT = 128
"""So many emptied folders wait for a run."""


class Folders:
    """A folder for each run, with one for its logs in it. Any thread may use it.

    Args:
        path: in which runs have their folders; those that wait for one are beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name("spare")
        self._emptied: deque[Path] = deque()
        path.mkdir(parents=True, exist_ok=True)
        self._spare.mkdir(exist_ok=True)

    def give(self, name: str) -> Path:
        """Return a folder that has this name, and nothing in it but an empty one for logs, and perhaps one for files."""
        folder = self._path / name
        with suppress(IndexError, OSError):
            os.rename(self._emptied.pop(), folder)
            return folder
        folder.mkdir(0o700)
        (folder / LOGS).mkdir()
        return folder

    def take_back(self, folder: Path) -> None:
        """Remove what is in a folder, and keep it for another run; one that cannot be emptied is removed with what can be."""
        spare = self._spare / folder.name
        if len(self._emptied) < KEPT:
            with suppress(OSError):
                os.rename(folder, spare)  # who still writes there by its name finds nothing
                _empty(spare)
                self._emptied.append(spare)
                return
        for path in (folder, spare):
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove those that wait."""
        shutil.rmtree(self._spare, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Remove all that is in a folder but an empty one for logs and one for files, following no link.

    Raises:
        OSError: something cannot be removed, or there is no folder for logs.
    """
    above = _opened(folder)
    try:
        logs = _opened(LOGS, above)
        try:
            _remove_all(logs, ())
            kept = (LOGS, FILES) if _is_as_made(above, os.stat(logs)) else (LOGS,)
        finally:
            os.close(logs)
        _remove_all(above, kept)
    finally:
        os.close(above)


def _is_as_made(above: int, logs: os.stat_result) -> bool:
    """Return whether the folder for files is as if it had just been made, beside that for logs: no step has left anything."""
    try:
        files = _opened(FILES, above)
    except OSError:
        return False
    try:
        found = os.stat(files)
        same = (found.st_mode, found.st_uid, found.st_gid) == (logs.st_mode, logs.st_uid, logs.st_gid)
        return same and not os.listdir(files) and not (hasattr(os, "listxattr") and os.listxattr(files))
    finally:
        os.close(files)


def _opened(path: str | Path, above: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=above)


def _remove_all(folder: int, kept: Collection[str]) -> None:
    with os.scandir(folder) as found:
        entries = [entry for entry in found if entry.name not in kept]
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=folder)
        else:
            os.unlink(entry.name, dir_fd=folder)
