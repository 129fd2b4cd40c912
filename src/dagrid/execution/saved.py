"""Values of a run in a file, to be used by later runs: a header that says what is in it, then each value by itself.

A file is written whole or not at all. Values are opened one by one, when they are needed; like all pickles they may run code when
they are opened, so open only files that you trust.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from os import PathLike
from typing import Any

import msgspec

from dagrid.errors import StoreError, StoreVersionError
from dagrid.execution.pickling import pack
from dagrid.ports import Encoded, opened

MAGIC = b"dagrid values\n"
FORMAT = 1
SIZE = 8


class Header(msgspec.Struct):
    """What a file says of itself: its format, who wrote it, and how many bytes the value of each node has, in order."""

    format: int
    dagrid: str
    nodes: dict[str, int]


class Saved(Encoded):
    """A value as it stands in a file."""

    __slots__ = ("data", "node", "path")

    def __init__(self, data: bytes, node: str, path: str) -> None:
        self.data = data
        self.node = node
        self.path = path

    def decode(self) -> Any:
        """Return the value. Raises StoreError when it cannot be made again."""
        try:
            return pickle.loads(self.data)
        except Exception as error:
            raise StoreError(
                f"The value of node {self.node!r} in {self.path!r} cannot be opened: {type(error).__name__}: {error}. "
                f"Let its type be importable here."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.data,)


def save(path: str | PathLike[str], values: Mapping[str, Any], version: str) -> None:
    """Write values by node name.

    Raises:
        StoreError: a value that cannot be pickled, or an empty path; nothing is written.
        OSError: the file cannot be written; it names the file.
    """
    if not os.fspath(path):
        raise StoreError("The path of the file to write is empty. Give one, as in result.save('values').")
    blobs = [_pickled(name, opened(value)) for name, value in values.items()]
    sizes = dict(zip(values, map(len, blobs), strict=True))
    header = msgspec.json.encode(Header(FORMAT, version, sizes))
    try:
        _write(os.path.abspath(os.path.expanduser(path)), [MAGIC, len(header).to_bytes(SIZE, "big"), header, *blobs])
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _write(target: str, parts: list[bytes]) -> None:
    """Write a file as a whole, or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".dagrid-", dir=os.path.dirname(target))
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | PathLike[str]) -> dict[str, Saved]:
    """Return the values of a file by node name, none of them opened yet.

    Raises:
        StoreError: it is not such a file, or not the whole of one.
        StoreVersionError: it has a later format.
        FileNotFoundError: there is none.
    """
    shown = os.fspath(path)
    with open(os.path.expanduser(path), "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise StoreError(f"{shown!r} was not written by result.save(...). Give the path of a file that was.")
        try:
            header = msgspec.json.decode(file.read(int.from_bytes(file.read(SIZE), "big")))
            later = header["format"] > FORMAT
        except (msgspec.DecodeError, KeyError, TypeError, OverflowError, MemoryError):
            raise _damaged(shown) from None
        if later:
            raise StoreVersionError(
                f"{shown!r} has format {header['format']} of dagrid {header.get('dagrid')}, and this one reads up to {FORMAT}. "
                f"Upgrade dagrid, or write the file again."
            )
        found = {}
        for name, size in header["nodes"].items():
            data = file.read(size)
            if len(data) < size:
                raise _damaged(shown)
            found[name] = Saved(data, name, shown)
    return found


def _pickled(name: str, value: Any) -> bytes:
    try:
        return pack(value)
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise StoreError(
            f"The value of node {name!r}, a {kind}, cannot be saved: {type(error).__name__}: {error}. "
            f"Leave it out with nodes=[...], or let the task return something that can be pickled."
        ) from error


def _damaged(path: str) -> StoreError:
    return StoreError(f"{path!r} is damaged: it ends too early, or its header cannot be read. Write it again.")
