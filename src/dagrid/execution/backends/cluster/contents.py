"""Things that are known by their SHA-256: functions, arguments, files, large values. Small ones in memory, others in a folder.

They come in pieces and leave in pieces. What nobody holds is dropped, the one used longest ago first, once there is more of it
than may be kept. What is secret is in memory however large it is, and dropped as soon as nobody holds it. It knows no stream and
no run: who holds something is any name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Collection, Hashable, Iterator
from pathlib import Path

from dagrid.errors import TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.outbox import PIECE
from dagrid.execution.folders import OwnFolder

SMALL = 64 * 2**10
"""Bytes up to which something stays in memory."""
UNPACKED = ".unpacked"
"""What stands behind the name of a file in that of the folder beside it with what is unpacked of it, which goes with it."""


class _Coming:
    """Something of which pieces have come."""

    __slots__ = ("data", "hashed", "path", "size", "so_far")

    def __init__(self, path: Path | None, size: int) -> None:
        self.path = path
        self.data = bytearray()  # what is secret has no file
        self.size = size
        self.so_far = 0
        self.hashed = hashlib.sha256()
        if path is not None:
            write(path, b"")

    def add(self, part: pb.Part) -> None:
        data = part.data  # a copy, each time
        if part.offset > self.so_far or part.size != self.size or part.offset + len(data) > part.size:
            raise TamperedError(f"A piece of {part.digest.hex()} does not fit to those before it.")
        if part.offset < self.so_far:
            return  # it comes a second time
        if self.path is None:
            self.data += data
        else:
            with self.path.open("ab") as file:
                file.write(data)
        self.hashed.update(data)
        self.so_far += len(data)


class Contents:
    """Things known by their digest. May be used from any thread.

    Args:
        folder: where they are kept; None: in one for temporary files, which goes with this or with the process.
        spare: how many bytes may be kept of what nobody holds.
    """

    def __init__(self, folder: Path | None = None, spare: int = 0) -> None:
        self._own: OwnFolder | None = None
        if folder is None:
            self._own = OwnFolder.temporary()
            folder = self._own.path / "contents"
        self.folder = folder
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        self._spare = spare
        self._guard = threading.RLock()
        self._in_memory: dict[bytes, bytes] = {}
        self._filed: set[bytes] = set()  # what is in a file, also if it is in memory
        self._secret: set[bytes] = set()
        self._sizes: dict[bytes, int] = {}  # of all, the one used longest ago first
        self._coming: dict[tuple[Hashable, bytes], _Coming] = {}
        self._names = 0
        self._holders: dict[bytes, set[Hashable]] = {}
        self._held: dict[Hashable, set[bytes]] = {}
        self._loose = 0  # bytes that nobody holds

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._sizes

    def put(self, data: bytes | bytearray, holder: Hashable = None) -> bytes:
        """Keep something, as long as its holder wants it if there is one, and return its digest.

        Raises:
            OSError: there is no room for it.
        """
        digest = hashlib.sha256(data).digest()
        with self._guard:
            if holder is not None:
                self.hold(holder, digest)
            if digest in self._sizes:
                return digest
            if len(data) <= SMALL:
                self._in_memory[digest] = bytes(data)
                self._arrived(digest, len(data))
                return digest
            coming = self._new_path()
        try:
            write(coming, data)  # which takes long, and holds up nobody
        except OSError:
            self.release(holder, digest)
            raise
        with self._guard:
            coming.replace(self._path(digest))
            self._filed.add(digest)
            if digest not in self._sizes:  # an equal one may have come meanwhile
                self._arrived(digest, len(data))
        return digest

    def add(self, part: pb.Part, source: Hashable = None) -> bool:
        """Take a piece, and return whether the whole is here; pieces of what is here already are let go.

        Raises:
            TamperedError: it does not fit to the pieces before it from this source, or the whole is not what its digest says.
            OSError: it cannot be kept, because there is no room for the whole, beside all else that comes; seen with its first
                piece, so that nothing else there is held up by it.
        """
        with self._guard:
            if part.digest in self._sizes:
                return True
            if not part.offset and len(part.data) == part.size <= SMALL:
                if hashlib.sha256(part.data).digest() != part.digest:
                    raise TamperedError(f"What came as {part.digest.hex()} is something else.")
                self._in_memory[part.digest] = part.data
                self._arrived(part.digest, part.size, part.secret)
                return True
            coming = self._coming.get((source, part.digest))
            if coming is None:
                if not (part.secret or part.offset):
                    self._check_room(part.size)
                path = None if part.secret else self._new_path()
                coming = self._coming[source, part.digest] = _Coming(path, part.size)
            try:
                coming.add(part)
                if coming.so_far < coming.size:
                    return False
                if coming.hashed.digest() != part.digest:
                    raise TamperedError(f"What came as {part.digest.hex()} is something else.")
            except (OSError, TamperedError):
                self._give_up(source, part.digest)
                raise
            if coming.path is None:
                self._in_memory[part.digest] = bytes(coming.data)
            else:
                coming.path.replace(self._path(part.digest))
                self._filed.add(part.digest)
            del self._coming[source, part.digest]
            self._arrived(part.digest, part.size, coming.path is None)
            return True

    def give_up(self, source: Hashable) -> None:
        """Nothing more comes from a source: what has come in part is of no use."""
        with self._guard:
            for each, digest in [key for key in self._coming if key[0] == source]:
                self._give_up(each, digest)

    def is_coming(self, digest: bytes) -> bool:
        """Return whether pieces of something have come, and not all."""
        return any(each == digest for _, each in self._coming)

    def get(self, digest: bytes) -> bytes:
        """Return something whole; raise KeyError if it is not here."""
        with self._guard:
            self._sizes[digest] = self._sizes.pop(digest)
            found = self._in_memory.get(digest)
            if found is not None:
                return found
            file = self._path(digest).open("rb")
        with file:
            return file.read()

    def path(self, digest: bytes) -> Path:
        """Return a file with something, which must not be written to; raise KeyError if it is not here, or secret."""
        with self._guard:
            if digest in self._secret:
                raise KeyError(digest)
            self._sizes[digest] = self._sizes.pop(digest)
            path = self._path(digest)
            if digest in self._in_memory and not path.exists():
                self._file(digest, self._in_memory[digest])
            return path

    def small(self, digest: bytes) -> bytes | None:
        """Return something if it is here and in memory, as all that is small."""
        return self._in_memory.get(digest)

    def pieces(self, digest: bytes) -> Iterator[pb.Part]:
        """Return something in pieces, each read when it is asked for; none, if it is not here any more."""
        with self._guard:
            size = self._sizes.get(digest)
            if size is None:
                return
            data = self._in_memory.get(digest)
            secret = digest in self._secret
            file = None if data is not None else self._path(digest).open("rb")
        if data is not None:
            yield from parts(data, digest, secret)
        elif file is not None:
            with file:
                for offset in range(0, size, PIECE):
                    yield pb.Part(digest=digest, offset=offset, size=size, data=file.read(PIECE))

    def hold(self, holder: Hashable, digest: bytes) -> None:
        """Keep something, which may be still to come, as long as somebody wants it."""
        with self._guard:
            holders = self._holders.setdefault(digest, set())
            if not holders:
                self._loose -= self._sizes.get(digest, 0)
            holders.add(holder)
            self._held.setdefault(holder, set()).add(digest)

    def release(self, holder: Hashable, *digests: bytes) -> None:
        """Somebody wants certain things no more, or nothing at all."""
        with self._guard:
            held = self._held.get(holder, set())
            for digest in digests or tuple(held):
                if digest not in held:
                    continue
                held.discard(digest)
                holders = self._holders[digest]
                holders.discard(holder)
                if not holders:
                    del self._holders[digest]
                    self._loose += self._sizes.get(digest, 0)
                    if digest in self._secret and digest in self._sizes:
                        self._drop(digest)
            if not held:
                self._held.pop(holder, None)
            self._trim()

    def inherit(self, holder: Hashable) -> None:
        """Take up, for a holder, what another process has left in the folder; what is not whole is removed."""
        with self._guard:
            for path in list(self.folder.iterdir()):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
                if digest.hex() != path.name:
                    path.unlink()
                    continue
                self.hold(holder, digest)
                self._filed.add(digest)
                self._arrived(digest, path.stat().st_size)

    def close(self, heirs: Collection[Hashable] = ()) -> None:
        """Forget everything, and remove the folder, unless there is something in it that heirs hold, for the next process."""
        with self._guard:
            left = {digest.hex() for heir in heirs for digest in self._held.get(heir, ())}
            for each in (
                self._in_memory,
                self._filed,
                self._secret,
                self._sizes,
                self._coming,
                self._holders,
                self._held,
            ):
                each.clear()
            if not left:
                shutil.rmtree(self.folder, ignore_errors=True)
            for path in self.folder.iterdir() if left else ():
                if path.name not in left:
                    path.unlink(missing_ok=True)
            if self._own is not None:
                self._own.remove()

    def _arrived(self, digest: bytes, size: int, secret: bool = False) -> None:
        self._sizes[digest] = size
        if secret:
            self._secret.add(digest)
        if digest not in self._holders:
            self._loose += size

    def _trim(self) -> None:
        if self._loose <= self._spare:
            return
        for digest in [each for each in self._sizes if each not in self._holders]:
            self._drop(digest)
            if self._loose <= self._spare:
                return

    def _drop(self, digest: bytes) -> None:
        self._loose -= self._sizes.pop(digest)
        self._in_memory.pop(digest, None)
        self._secret.discard(digest)
        if digest in self._filed:
            self._filed.discard(digest)
            path = self._path(digest)
            path.unlink(missing_ok=True)
            shutil.rmtree(path.with_name(f"{path.name}{UNPACKED}"), ignore_errors=True)

    def _file(self, digest: bytes, data: bytes) -> None:
        coming = self._new_path()
        write(coming, data)
        coming.replace(self._path(digest))
        self._filed.add(digest)

    def _give_up(self, source: Hashable, digest: bytes) -> None:
        path = self._coming.pop((source, digest)).path
        if path is not None:
            path.unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        return self.folder / digest.hex()

    def _check_room(self, size: int) -> None:
        """Raise OSError where the disk has no room for something of this size."""
        still = sum(coming.size - coming.so_far for coming in self._coming.values() if coming.path is not None)
        if shutil.disk_usage(self.folder).free < still + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _new_path(self) -> Path:
        self._names += 1
        return self.folder / f"coming-{os.getpid()}-{self._names}"


def write(path: Path, data: bytes | bytearray) -> None:
    """Write a file that only who runs this may read. Raises OSError: there is no room, and then nothing is left of it."""
    try:
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def parts(data: bytes, digest: bytes, secret: bool = False) -> Iterator[pb.Part]:
    """Return something that is in memory in pieces."""
    for offset in range(0, len(data) or 1, PIECE):
        yield pb.Part(digest=digest, offset=offset, size=len(data), data=data[offset : offset + PIECE], secret=secret)
