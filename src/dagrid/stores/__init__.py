"""Where what happened is kept: journals of facts (`Store`), and values that are too large for them (`Artifacts`).

A place is chosen by its path or URL. This room knows facts as bytes only: neither graphs nor engines.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, TypeGuard

from dagrid.errors import StoreError
from dagrid.masking import without_password
from dagrid.ports import Artifacts, Store

if TYPE_CHECKING:
    from dagrid.stores.postgres import PostgresArtifacts, PostgresStore

SUFFIXES = (".db", ".sqlite", ".sqlite3")
POSTGRES = ("postgresql://", "postgres://")


def open_store(place: str | PathLike[str]) -> Store:
    """Return the store in a place; whoever opens it closes it.

    Args:
        place: a path that ends in `.db`, `.sqlite` or `.sqlite3`, or any path behind `sqlite:///`, for a file of SQLite's (a
            relative path has three slashes, as in `sqlite:///runs.db`, an absolute one four); `postgresql://user@host/database`
            for a database of PostgreSQL's; or `memory://`, which is new and empty each time.

    Raises:
        StoreError: it is no such place, or cannot be opened, or what it needs is not installed.
        StoreVersionError: a newer dagrid has written it.
    """
    text = fspath(place)
    if text == "memory://":
        from dagrid.stores.memory import MemoryStore

        return MemoryStore()
    if is_postgres(text):
        return _kinds(text)[0](text)
    path = text.removeprefix("sqlite:///")
    if path == text and ("://" in text or not text.endswith(SUFFIXES)):
        raise StoreError(
            f"{without_password(text)!r} is no store. Give a path that ends in {', '.join(SUFFIXES)}, 'sqlite:///' and a path, "
            f"'postgresql://user@host/database', or 'memory://'."
        )
    from dagrid.stores.sqlite import SQLiteStore

    return SQLiteStore(path)


def open_artifacts(place: str | PathLike[str]) -> Artifacts:
    """Return the artifacts that are kept in a place.

    Args:
        place: a path or a `file://` URL for a folder, which is made when something is put there;
            `postgresql://user@host/database` for a table in a database of PostgreSQL's; or the URL of any place that fsspec
            reaches, such as `s3://bucket/prefix`.

    Raises:
        StoreError: there is no such kind of URL, or what it needs is not installed, or the database cannot be reached.
    """
    from dagrid.stores.artifacts import FolderArtifacts, FsspecArtifacts

    if not isinstance(place, str) or "://" not in place:
        return FolderArtifacts(place)
    if is_postgres(place):
        return _kinds(place)[1](place)
    if place.startswith("file://"):
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        return FolderArtifacts(url2pathname(urlsplit(place).path))
    return FsspecArtifacts(place)


def is_postgres(place: object) -> TypeGuard[str]:
    """Whether a place is the URL of a PostgreSQL database."""
    return isinstance(place, str) and place.startswith(POSTGRES)


def open_postgres(url: str) -> tuple[PostgresStore, PostgresArtifacts]:
    """Return the store and the artifacts of a database; whoever opens them closes the one and disconnects the other.

    Raises:
        StoreError: it cannot be reached, or psycopg is not installed, or the schema is that of another program.
        StoreVersionError: a newer dagrid has written it.
    """
    store, artifacts = _kinds(url)
    journal = store(url)
    try:
        return journal, artifacts(url)
    except BaseException:
        journal.close()
        raise


def _kinds(url: str) -> tuple[type[PostgresStore], type[PostgresArtifacts]]:
    try:
        from dagrid.stores.postgres import PostgresArtifacts, PostgresStore
    except ImportError as error:
        raise StoreError(
            f"{without_password(url)} needs psycopg, which cannot be imported ({error}): pip install 'dagrid[postgres]'"
        ) from error
    return PostgresStore, PostgresArtifacts


__all__ = ["is_postgres", "open_artifacts", "open_postgres", "open_store"]
