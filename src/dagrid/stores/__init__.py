"""Where what happened is kept: journals of facts (`Store`), and values that are too large for them (`Artifacts`).

A place is chosen by its path or URL. This room knows facts as bytes only: neither graphs nor engines.
"""

from __future__ import annotations

from os import PathLike, fspath

from dagrid.errors import StoreError
from dagrid.ports import Store
from dagrid.stores.artifacts import open_artifacts

SUFFIXES = (".db", ".sqlite", ".sqlite3")


def open_store(place: str | PathLike[str]) -> Store:
    """Return the store in a place; whoever opens it closes it.

    Args:
        place: a path that ends in `.db`, `.sqlite` or `.sqlite3`, or any path behind `sqlite:///`, for a file of SQLite's (a
            relative path has three slashes, as in `sqlite:///runs.db`, an absolute one four); or `memory://`, which is new and
            empty each time.

    Raises:
        StoreError: it is no such place, or cannot be opened.
        StoreVersionError: a newer dagrid has written it.
    """
    text = fspath(place)
    if text == "memory://":
        from dagrid.stores.memory import MemoryStore

        return MemoryStore()
    path = text.removeprefix("sqlite:///")
    if path == text and ("://" in text or not text.endswith(SUFFIXES)):
        raise StoreError(
            f"{text!r} is no store. Give a path that ends in {', '.join(SUFFIXES)}, 'sqlite:///' and a path, or 'memory://'."
        )
    from dagrid.stores.sqlite import SQLiteStore

    return SQLiteStore(path)


__all__ = ["open_artifacts", "open_store"]
