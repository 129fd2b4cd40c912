"""Files that travel: a folder, or what is named of it, as contents that are known by their SHA-256, and unpacked elsewhere.

Small files are in one content, the list, and each large one is a content of its own, so that what has not changed is not sent
again. A folder that looks as it did is not read again. What becomes of the contents on their way is not known here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from shutil import copyfile

import msgspec

from dagrid.errors import TransferError

SMALL = 1 << 16
MOST_FILES = 10_000
MOST_BYTES = 256 << 20
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
"""Folders that do not travel unless they are named."""
KEPT = 64
"""So many folders are known by how they looked."""

Look = tuple[tuple[str, int, int, int], ...]


class Entry(msgspec.Struct, array_like=True):
    """A file: its path, its mode, and what is in it or, for a large one, the SHA-256 of that."""

    path: str
    mode: int
    data: bytes = b""
    digest: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


@dataclass(slots=True)
class Parcel:
    """What was packed.

    Attributes:
        list: the SHA-256 of the list of its files; empty for a parcel without any.
        contents: those of all that must be there to unpack it.
    """

    list: bytes = b""
    contents: tuple[bytes, ...] = ()
    _data: bytes = b""
    _large: dict[bytes, str] = field(default_factory=dict)

    @property
    def letter(self) -> dict[bytes, bytes]:
        """The list of its files with all small ones, by its SHA-256; nothing for a parcel without any."""
        return {self.list: self._data} if self.list else {}

    def read(self, digest: bytes) -> bytes | None:
        """Return one of its contents, None if it has none of that SHA-256.

        Raises:
            TransferError: a file has changed since it was packed.
        """
        if digest == self.list:
            return self._data
        path = self._large.get(digest)
        if path is None:
            return None
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise TransferError(
                f"{path} cannot be read any more ({error.strerror}). Leave it until the run is over."
            ) from error
        if sha256(data).digest() != digest:
            raise TransferError(f"{path} has changed since the run began. Leave it until the run is over.")
        return data


class Packer:
    """Packs folders, from any thread; what looks as it did before is not read again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: dict[tuple[str, tuple[str, ...] | None, frozenset[str]], tuple[Look, Parcel]] = {}

    def packed(self, folder: str, names: Sequence[str] | None = None, without: Collection[str] = ()) -> Parcel:
        """Return the files of a folder.

        Args:
            folder: where they are.
            names: files, folders and patterns in it; None is all of it, but for what nobody means (`LEFT_OUT`).
            without: paths that do not travel.

        Raises:
            TransferError: there are too many, or they are too large, or one cannot be read.
        """
        if not folder or names == ():
            return Parcel()
        key = folder, None if names is None else tuple(names), frozenset(without)
        found = sorted(_chosen(folder, key[1], key[2]))
        look = tuple(one[:4] for one in found)
        with self._guard:
            known = self._known.get(key)
            if known is not None and known[0] == look:
                return known[1]
        parcel = _parcel(folder, found)
        with self._guard:
            self._known.pop(key, None)
            self._known[key] = look, parcel
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return parcel


def unpack(folder: Path, digest: bytes, content: Callable[[bytes], Path]) -> None:
    """Write the files of a parcel into a folder.

    Args:
        folder: it is made.
        digest: of the list of files; empty for none.
        content: returns the file with a content.

    Raises:
        TransferError: a path leads out of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not digest:
        return
    made = {""}
    for entry in _decode(content(digest).read_bytes()):
        above = os.path.dirname(entry.path)
        if os.path.isabs(entry.path) or ".." in entry.path.split("/"):
            raise TransferError(f"The file {entry.path!r} would be written elsewhere than into its folder.")
        if above not in made:
            os.makedirs(folder / above, exist_ok=True)
            made.add(above)
        path = folder / entry.path
        if entry.digest:
            copyfile(content(entry.digest), path)
        else:
            path.write_bytes(entry.data)
        os.chmod(path, entry.mode)


def _chosen(
    folder: str, names: tuple[str, ...] | None, without: frozenset[str]
) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield (path, when it was changed, its size, its inode, its mode) of files."""
    count = size = 0
    rest = [("", names is None)]
    while rest:
        above, all_of_it = rest.pop()
        try:
            with os.scandir(os.path.join(folder, above)) as entries:
                for entry in entries:
                    path = f"{above}/{entry.name}" if above else entry.name
                    if entry.path in without:
                        continue
                    named = all_of_it or any(fnmatch(path, one.rstrip("/")) for one in names or ())
                    if entry.is_dir(follow_symlinks=False):
                        if names is not None or entry.name not in LEFT_OUT:
                            rest.append((path, named))
                    elif named and entry.is_file():
                        state = entry.stat()
                        count, size = count + 1, size + state.st_size
                        if count > MOST_FILES or size > MOST_BYTES:
                            raise TransferError(
                                f"{folder} holds more than the {MOST_FILES:,} files or {MOST_BYTES >> 20} MB that travel to "
                                f"workers. Name what the steps need: files: [...]"
                            )
                        yield (
                            path,
                            max(state.st_mtime_ns, state.st_ctime_ns),
                            state.st_size,
                            state.st_ino,
                            state.st_mode,
                        )
        except OSError as error:
            raise TransferError(
                f"{error.filename or folder} cannot be read ({error.strerror}). Name what the steps need: files: [...]"
            ) from error


def _parcel(folder: str, found: Sequence[tuple[str, int, int, int, int]]) -> Parcel:
    entries = []
    large: dict[bytes, str] = {}
    for path, _, size, _, mode in found:
        full = os.path.join(folder, path)
        try:
            data = Path(full).read_bytes()
        except OSError as error:
            raise TransferError(
                f"{full} cannot be read ({error.strerror}). Name what the steps need: files: [...]"
            ) from error
        if size <= SMALL:
            entries.append(Entry(path, mode & 0o777, data))
            continue
        digest = sha256(data).digest()
        large[digest] = full
        entries.append(Entry(path, mode & 0o777, digest=digest))
    if not entries:
        return Parcel()
    data = _encode(entries)
    digest = sha256(data).digest()
    return Parcel(digest, (digest, *large), data, large)
