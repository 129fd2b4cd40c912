"""Which files of a folder travel: all of them, or those that names and patterns mean. It opens none, and knows not where they go.

Links are followed as long as they stay in the folder. What is gone when it is looked at is not there.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from errno import ELOOP
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import has_magic
from typing import NamedTuple

from dagrid.errors import InvalidSettingError, TransferError

LEFT_OUT = frozenset(
    (
        ".git",
        ".hg",
        ".svn",
        ".venv",
        ".venvs",
        "node_modules",
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
    )
)
"""Folders that nobody means unless he names them."""

_log = logging.getLogger("dagrid.fleet")


class Found(NamedTuple):
    """A file, or a folder that is empty: its path below the folder, when it changed, its size, its inode and its mode."""

    path: str
    changed: int
    size: int
    inode: int
    mode: int

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Folder:
    """A folder whose files travel.

    Args:
        path: of the folder.
        without: paths that do not travel, by whatever name.
        skips: whether a folder in it is none that anybody means, unless it is named.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        without: Collection[str] = (),
        skips: Callable[[os.DirEntry[str]], bool] = lambda entry: entry.name in LEFT_OUT,
    ) -> None:
        self._path = os.path.abspath(path)
        self._real = os.path.realpath(path)
        self._without = {*without, *map(os.path.realpath, without)}
        self._skips = skips

    def everything(self) -> Iterator[Found]:
        """Yield all files, and folders that are empty.

        Raises:
            TransferError: something cannot be looked at.
        """
        return self._walk("", (self._real,))

    def named(self, names: Sequence[str | os.PathLike[str]]) -> Iterator[Found]:
        """Yield what names mean: each is a file, a folder with all that it holds, or else a pattern (`**` is any folders).

        Raises:
            InvalidSettingError: a name means nothing, or something that is not in the folder.
            TransferError: something cannot be looked at.
        """
        for name in [os.fspath(one) for one in names]:
            place = self._place(name)
            if os.path.lexists(os.path.join(self._path, place)):
                yield from self._there(name, place)
                continue
            found = self._walk("", (self._real,), place.split("/")) if has_magic(place) else iter(())
            first = next(found, None)
            if first is None:
                raise InvalidSettingError(
                    f"There is nothing called {name!r} below {self._path}. Name files, folders or patterns there."
                )
            yield first
            yield from found

    def _place(self, name: str) -> str:
        full = os.path.normpath(os.path.join(self._path, name))
        if not _is_in(full, self._path):
            full = os.path.join(self._path, os.path.relpath(os.path.realpath(full), self._real))
        place = os.path.relpath(full, self._path)
        if place.split("/")[0] == "..":
            raise InvalidSettingError(f"{name!r} is not below {self._path}, and only what is there travels.")
        return "" if place == "." else place

    def _there(self, name: str, place: str) -> Iterator[Found]:
        full = os.path.join(self._path, place)
        real = os.path.realpath(full)
        if not _is_in(real, self._real):
            raise InvalidSettingError(f"{name!r} is a link that leads out of {self._path}. Copy there what is needed.")
        if self._without.intersection((full, real)):
            return
        with _told(full):
            found = _found(place, os.stat(full))
        if found.is_folder:
            yield from self._walk(place, (real,))
        else:
            yield found

    def _walk(self, place: str, chain: tuple[str, ...], pattern: Sequence[str] | None = None) -> Iterator[Found]:
        """Yield what a folder holds, or what of it a pattern means; `chain` are the real paths of it and of those above."""
        rest = [(place, chain, pattern is None)]
        while rest:
            above, chain, all_of_it = rest.pop()
            is_empty = True
            for path, entry in self._entries(above):
                with _told(entry.path):
                    try:
                        found = _found(path, entry.stat())
                    except OSError as error:
                        if isinstance(error, FileNotFoundError) or error.errno == ELOOP:
                            continue
                        raise
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(chain[-1], entry.name)
                meant = all_of_it or _matches(path.split("/"), pattern or ())
                if not _is_in(real, self._real):
                    if meant:
                        _say_outside(entry.path, self._path)
                    continue
                if self._without.intersection((entry.path, real)):
                    continue
                if found.is_folder:
                    if real in chain or (self._skips(entry) and entry.name not in (pattern or ())):
                        continue
                    rest.append((path, (*chain, real), meant))
                    is_empty = False
                elif meant and stat.S_ISREG(found.mode):
                    yield found
                    is_empty = False
            if is_empty and all_of_it and above:
                yield Found(above, 0, 0, 0, stat.S_IFDIR)

    def _entries(self, above: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder = os.path.join(self._path, above) if above else self._path
        with _told(folder):
            try:
                with os.scandir(folder) as entries:
                    found = list(entries)
            except (FileNotFoundError, NotADirectoryError):
                if not above:
                    raise
                return
        for entry in found:
            yield f"{above}/{entry.name}" if above else entry.name, entry


def _found(path: str, state: os.stat_result) -> Found:
    return Found(path, max(state.st_mtime_ns, state.st_ctime_ns), state.st_size, state.st_ino, state.st_mode)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[at:], pattern[1:]) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{path} cannot be read ({error.strerror}). Name what is needed, with `files`, or leave it out."
        ) from error


@lru_cache(1_000)  # once for each link
def _say_outside(path: str, folder: str) -> None:
    _log.warning("%s is a link that leads out of %s, and stays at home.", path, folder)
