"""Where large values are kept: a folder, or any place that fsspec reaches. It knows no run, no graph and what no value means.

The file of a key `a/b` is `a/@b` in the folder or under the URL. No part of a key has an `@`, so no folder of keys stands in the
way of a key, and what others have put there is neither read nor replaced nor deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from dagrid.errors import StoreError
from dagrid.masking import without_password
from dagrid.stores.refusals import check_key

# In these places what is written appears when it is whole; in all others it is written beside its place and moved there.
_WHOLE = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "ocilake", "oss", "r2", "s3", "s3a"}
)


class FolderArtifacts:
    """Keep values as files under a folder, synced to the disk. Any thread and any process may use it.

    A process that is killed while it puts something leaves at most a file whose name begins with `~`.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        if not str(folder):
            raise StoreError("Artifacts need a folder: give its path.")
        self.folder = Path(os.path.expanduser(folder)).absolute()

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key, whole or not at all; see `dagrid.ports.Artifacts`."""
        path = self._path(key)
        with _told(key, str(self.folder)):
            _make(path.parent)
            draft = path.parent / _draft()
            try:
                with draft.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, or None."""
        path = self._path(key)
        with _told(key, str(self.folder)):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def delete(self, key: str) -> None:
        """Forget a key, if it is there; folders stay."""
        path = self._path(key)
        with _told(key, str(self.folder)):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync(path.parent)

    def clear(self, key: str) -> None:
        """Forget every key under `key/`, and the folders that stand empty then; what others have put there stays."""
        check_key(key)
        with _told(key, str(self.folder)):
            for folder, _, files in os.walk(self.folder / key, topdown=False):
                for name in files:
                    if name.startswith(("@", "~")):
                        Path(folder, name).unlink(missing_ok=True)
                with suppress(OSError):  # not empty, or gone
                    Path(folder).rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / _located(key)


class FsspecArtifacts:
    """Keep values wherever fsspec reaches; as durable as that place is when it has taken them. Any thread may use it.

    Args:
        url: of a folder or prefix. Settings of the file system are fsspec's: its configuration files and variables.

    Raises:
        StoreError: fsspec, or what it needs for this URL, is not installed, or there is no such kind of URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec
        except ImportError as error:
            raise StoreError(
                f"{without_password(url)} needs fsspec, which is not installed: pip install 'dagrid[fsspec]'"
            ) from error
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise StoreError(f"{without_password(url)} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise StoreError(
                f"{without_password(url)} is no place for artifacts: {error}. Give a folder or another URL."
            ) from error
        kind = self._files.protocol
        self._whole = not _WHOLE.isdisjoint([kind] if isinstance(kind, str) else kind)

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key, whole or not at all; see `dagrid.ports.Artifacts`."""
        path = self._path(key)
        with _told(key, without_password(self.url)):
            if self._whole:
                self._files.pipe_file(path, data)
                return
            folder = path.rpartition("/")[0]
            self._files.makedirs(folder, exist_ok=True)
            draft = f"{folder}/{_draft()}"
            try:
                self._files.pipe_file(draft, data)
                self._files.mv(draft, path)
            except BaseException:
                if self._files.exists(draft):
                    self._files.rm_file(draft)
                raise

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, or None."""
        path = self._path(key)
        with _told(key, without_password(self.url)):
            try:
                data: Any = self._files.cat_file(path)
            except FileNotFoundError:
                return None
            return bytes(data)

    def delete(self, key: str) -> None:
        """Forget a key, if it is there."""
        path = self._path(key)
        with _told(key, without_password(self.url)):
            try:
                self._files.rm_file(path)
            except FileNotFoundError:
                return

    def clear(self, key: str) -> None:
        """Forget every key under `key/`; what others have put there stays."""
        check_key(key)
        with _told(key, without_password(self.url)):
            for path in self._files.find(f"{self._root.rstrip('/')}/{key}"):
                if path.rpartition("/")[2].startswith(("@", "~")):
                    self._files.rm_file(path)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{_located(key)}"


def _located(key: str) -> str:
    """Return where a key's file is, relative to the place."""
    check_key(key)
    folder, slash, last = key.rpartition("/")
    return f"{folder}{slash}@{last}"


def _draft() -> str:
    """Return a name that no key leads to, for what is not whole yet."""
    return f"~{os.urandom(8).hex()}"


def _make(folder: Path) -> None:
    """Make a folder and those above it, and have the disk remember them."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Have the disk remember the names in a folder, where an operating system lets one ask for that."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _told(key: str, place: str) -> Iterator[None]:
    """Tell what the operating system or a service says as an error of a store."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The artifact {key!r} cannot be reached in {place}: {error}. Look at the place and at what you may do there."
        ) from error
