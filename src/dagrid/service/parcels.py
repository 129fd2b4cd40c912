"""Files that travel: a folder, or what is named of it, as contents that are known by their SHA-256, and unpacked elsewhere.

Small files are in one content, the list, and each large one is a content of its own, so that what has not changed is not sent
again. A folder that looks as it did is not read again. What becomes of the contents on their way is not known here.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import copyfile

import msgspec

from dagrid.errors import TransferError
from dagrid.execution.gathering import Folder, Found

SMALL = 1 << 16
MOST_FILES = 10_000
MOST_BYTES = 256 << 20
FOLDER = stat.S_IFDIR
"""The mode of an entry that is a folder."""
KEPT = 64
"""So many folders are known by how they looked."""


class Entry(msgspec.Struct, array_like=True):
    """A file: its path, which need not be text, its mode, and what is in it or, for a large one, the SHA-256 of that; or an empty
    folder.
    """

    path: bytes
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
        self._known: dict[tuple[str, tuple[str, ...] | None, frozenset[str]], tuple[list[Found], Parcel]] = {}

    def packed(self, folder: str, names: Sequence[str] | None = None, without: Collection[str] = ()) -> Parcel:
        """Return the files of a folder.

        Args:
            folder: where they are.
            names: files, folders and patterns in it, see `Folder.named`; None is all of it, but for what nobody means.
            without: paths that do not travel.

        Raises:
            InvalidSettingError: a name means nothing there.
            TransferError: there are too many, or they are too large, or one cannot be read.
        """
        if not folder or names == ():
            return Parcel()
        key = folder, None if names is None else tuple(names), frozenset(without)
        look = _chosen(folder, key[1], key[2])
        with self._guard:
            known = self._known.get(key)
            if known is not None and known[0] == look:
                return known[1]
        parcel = _parcel(folder, look)
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
        name = os.fsdecode(entry.path)
        above = os.path.dirname(name)
        if os.path.isabs(name) or ".." in name.split("/"):
            raise TransferError(f"The file {name!r} would be written elsewhere than into its folder.")
        if above not in made:
            os.makedirs(folder / above, exist_ok=True)
            made.add(above)
        path = folder / name
        if entry.mode == FOLDER:
            path.mkdir(exist_ok=True)
            continue
        if entry.digest:
            copyfile(content(entry.digest), path)
        else:
            path.write_bytes(entry.data)
        os.chmod(path, entry.mode)


def _chosen(folder: str, names: tuple[str, ...] | None, without: frozenset[str]) -> list[Found]:
    """Return what is to be packed, each once, in order."""
    place = Folder(folder, without)
    found: dict[str, Found] = {}
    size = 0
    for one in place.everything() if names is None else place.named(names):
        if one.path in found:
            continue
        found[one.path] = one
        size += one.size
        if len(found) > MOST_FILES or size > MOST_BYTES:
            raise TransferError(
                f"{folder} holds more than the {MOST_FILES:,} files or {MOST_BYTES >> 20} MB that travel to workers. Name what "
                f"the steps need: files: [...]"
            )
    return sorted(found.values())


def _parcel(folder: str, found: Sequence[Found]) -> Parcel:
    entries = []
    large: dict[bytes, str] = {}
    for one in found:
        name = os.fsencode(one.path)
        if one.is_folder:
            entries.append(Entry(name, FOLDER))
            continue
        full = os.path.join(folder, one.path)
        try:
            data = Path(full).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TransferError(
                f"{full} cannot be read ({error.strerror}). Name what the steps need: files: [...]"
            ) from error
        mode = stat.S_IMODE(one.mode) & 0o777
        if len(data) <= SMALL:
            entries.append(Entry(name, mode, data))
            continue
        digest = sha256(data).digest()
        large[digest] = full
        entries.append(Entry(name, mode, digest=digest))
    if not entries:
        return Parcel()
    data = _encode(entries)
    digest = sha256(data).digest()
    return Parcel(digest, (digest, *large), data, large)
