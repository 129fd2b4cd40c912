"""Large values beside the arguments that they stand in: there by their digests, and each in a file where the call is performed.

Who opens such arguments says where the files are; who made them, and how the files came there, is not known here. It is loaded
where tasks run, and so imports next to nothing.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from os import PathLike
from typing import Any

_opening = threading.local()


class Beside:
    """Arguments of a call, pickled, with the files of the values that stand in them; opened, this is the arguments.

    Args:
        data: the arguments.
        files: the file of each value, by its digest.
    """

    __slots__ = ("_data", "_files")

    def __init__(self, data: bytes, files: Mapping[bytes, str | PathLike[str]]) -> None:
        self._data = data
        self._files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return open_beside, (self._data, {digest: str(file) for digest, file in self._files.items()})


def open_beside(data: bytes, files: Mapping[bytes, str | PathLike[str]]) -> Any:
    """Return arguments; `data` and `files` are those of `Beside`."""
    _opening.files = files
    try:
        return pickle.loads(data)
    finally:
        _opening.files = {}


def value_beside(digest: bytes) -> Any:
    """Stands in pickled arguments for a value; raise OSError if its file cannot be read."""
    with open(_opening.files[digest], "rb") as file:
        return pickle.load(file)  # read to where it is wanted, with no copy in between
