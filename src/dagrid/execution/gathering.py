"""Which files of a folder travel: all of them, or those that names and patterns mean. It opens none, and knows not where they go.

Links are followed as long as they stay in the folder. What is gone when it is looked at is not there.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from errno import ELOOP
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from glob import has_magic
from typing import NamedTuple

from dagrid.errors import InvalidSettingError, TransferError
from dagrid.execution.folders import is_own

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

OUTSIDE = ".."
"""The place of what is not in the folder."""

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
        self._without = frozenset(without)
        self._skips = skips

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self._path)

    @cached_property
    def _hidden(self) -> frozenset[str]:
        """The places in this folder, without links, that do not travel."""
        return frozenset(map(self._real_place, self._without)) - {OUTSIDE}

    def everything(self) -> Iterator[Found]:
        """Yield all files, and folders that are empty.

        Raises:
            TransferError: something cannot be looked at.
        """
        return self._walk("", "")

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
            found = self._walk("", "", place.split("/")) if has_magic(place) else iter(())
            first = next(found, None)
            if first is None:
                raise InvalidSettingError(
                    f"There is nothing called {name!r} below {self._path}. Name files, folders or patterns there."
                )
            yield first
            yield from found

    def _place(self, name: str) -> str:
        place = _below(os.path.normpath(os.path.join(self._path, name)), self._path)
        if place == OUTSIDE:  # it may be meant by another name of the folder
            place = self._real_place(os.path.join(self._path, name))
        if place == OUTSIDE:
            raise InvalidSettingError(f"{name!r} is not below {self._path}, and only what is there travels.")
        return place

    def _there(self, name: str, place: str) -> Iterator[Found]:
        full = os.path.join(self._path, place) if place else self._path
        real = self._real_place(full)
        if real == OUTSIDE:
            raise InvalidSettingError(f"{name!r} is a link that leads out of {self._path}. Copy there what is needed.")
        if self._is_without(full, real):
            return
        try:
            found = _found(place, os.stat(full))
        except OSError as error:
            raise unreadable(full, error) from error
        if found.is_folder:
            yield from self._walk(place, real)
        elif stat.S_ISREG(found.mode):
            yield found
        else:
            raise InvalidSettingError(f"{name!r} below {self._path} is neither a file nor a folder, and cannot travel.")

    def _walk(self, place: str, real: str, pattern: Sequence[str] | None = None) -> Iterator[Found]:
        """Yield what a folder holds, or what of it a pattern means.

        Args:
            place: of the folder; empty: this one.
            real: the same without links.
            pattern: in its parts; None: all of it.
        """
        rest: list[tuple[str, tuple[str, ...], bool]] = [(place, (real,), pattern is None)]
        while rest:
            above, chain, all_of_it = rest.pop()
            is_empty = True
            for path, entry in self._entries(above):
                meant = all_of_it or _matches(path.split("/"), pattern or ())
                real = path if chain[-1] == above else os.path.join(chain[-1], entry.name)
                try:
                    found = _found(path, entry.stat())
                    if entry.is_symlink():
                        real = self._real_place(entry.path)
                except OSError as error:
                    if isinstance(error, FileNotFoundError) or error.errno == ELOOP:
                        continue
                    raise unreadable(entry.path, error) from error
                if real == OUTSIDE:
                    if meant:
                        _say_outside(entry.path, self._path)
                    continue
                if self._is_without(entry.path, real):
                    continue
                if found.is_folder:
                    if real in chain or is_own(
                        entry.path
                    ):  # nobody means what a worker that is at home here has unpacked
                        continue
                    if self._skips(entry) and entry.name not in (pattern or ()):
                        continue
                    rest.append((path, (*chain, real), meant))
                    is_empty = False
                elif meant and stat.S_ISREG(found.mode):
                    yield found
                    is_empty = False
            if is_empty and all_of_it and above:
                yield Found(above, 0, 0, 0, stat.S_IFDIR)

    def _real_place(self, path: str) -> str:
        """Return where something is without links, relative to the folder without links."""
        return _below(os.path.realpath(path), self._real)

    def _is_without(self, path: str, real: str) -> bool:
        """Whether something does not travel: by the name that it has here, or by that without links."""
        return path in self._without or any(real == each or real.startswith(f"{each}/") for each in self._hidden)

    def _entries(self, above: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder = os.path.join(self._path, above) if above else self._path
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            if above and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return
            raise unreadable(folder, error) from error
        for entry in found:
            yield f"{above}/{entry.name}" if above else entry.name, entry


def _found(path: str, state: os.stat_result) -> Found:
    return Found(path, max(state.st_mtime_ns, state.st_ctime_ns), state.st_size, state.st_ino, state.st_mode)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[at:], pattern[1:]) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _below(path: str, folder: str) -> str:
    """Return where a path is in a folder; or `OUTSIDE`."""
    if path == folder:
        return ""
    base = folder.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else OUTSIDE


def unreadable(path: str, error: OSError) -> TransferError:
    """Return what is raised for something that is to travel and cannot be read."""
    return TransferError(
        f"{path} cannot be read ({error.strerror}). Name what is needed, with `files`, or leave it out."
    )


@lru_cache(1_000)  # once for each link
def _say_outside(path: str, folder: str) -> None:
    _log.warning("%s is a link that leads out of %s, and stays at home.", path, folder)
