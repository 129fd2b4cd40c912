"""A store in one SQLite file: journals that survive the process and the machine's fall. It knows no run and no graph.

The file is in WAL mode and every commit is synced (https://www.sqlite.org/wal.html), so what has been acknowledged stays. Each
append changes one row and adds one, whatever the length of the journal: the facts of an append are kept as one segment. What
several threads write while a disk syncs goes into one transaction after that. Other processes may have the file open.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dagrid.errors import StoreError, StoreVersionError, UnknownRunError
from dagrid.ports import RunRecord
from dagrid.stores import refusals
from dagrid.stores.segments import joined, pack
from dagrid.stores.statements import Migration, migrations, statements

# Marks a database as ours, in its header: "dgrd".
APPLICATION_ID = 0x64677264
# What SQLite calls the database of the file that was opened.
SCHEMA = "main"
# A reader lets go of the file after so many bytes or segments.
CHUNK_BYTES = 1 << 20
CHUNK_SEGMENTS = 256
# Pages after which the write-ahead log is written from its beginning again. While a file grows, a disk syncs it half as fast.
LOG_PAGES = 250
# Seconds between two tries to open a file that another process is just turning into a store.
AGAIN = 0.01
# And between two tries to write to a disk that is full, where that is waited for.
NO_ROOM = 0.5

# What SQLite raises; the second where its own message has what is damaged in it, and that is no text.
ERRORS = (sqlite3.Error, UnicodeDecodeError)

_log = logging.getLogger("dagrid.store")

Answer = TypeVar("Answer")


class SQLiteStore:
    """Keep journals in an SQLite file, which is made, with its folder, when there is none.

    It has two connections, one that writes and one that reads, so that nobody who reads waits for a disk to sync. Any thread may
    use it. A process that was forked off must open its own.

    Args:
        path: of the file. Beside it stand two files of SQLite's own (`-wal`, `-shm`) while it is open.
        timeout: seconds to wait while another process writes.

    Raises:
        StoreError: the file cannot be opened, is no database, or one of another program.
        StoreVersionError: a newer dagrid has written it.
    """

    def __init__(self, path: str | PathLike[str], *, timeout: float = 30.0) -> None:
        if str(path) in ("", ":memory:"):
            raise StoreError("SQLiteStore keeps its journals in a file: give its path, or use MemoryStore.")
        self.path = Path(os.path.expanduser(path)).absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path.parent} cannot be made: {error}. Choose another place.") from error
        self._sql = _statements()
        self._writer = _Connection(self.path, timeout)
        try:
            self._writer.prepare(timeout)
            self._reader = _Connection(self.path, timeout)
        except BaseException:
            self._writer.close()
            raise

    def wait_for_room(self) -> None:
        """From now on, a write that finds the disk full is no error: it waits until there is room, and so do those behind it."""
        self._writer.waits_for_room = True

    def create(self, run: str, *, name: str = "", at: float = 0.0, about: bytes = b"", status: str = "running") -> int:
        """Begin the journal of a run and return its first epoch; see `dagrid.ports.Store`."""
        row = {"run": run, "name": name, "at": at, "status": status}

        def create(connection: sqlite3.Connection) -> int:
            if connection.execute(self._sql["create"], row).rowcount == 0:
                raise refusals.duplicate(run)
            if about:
                connection.execute(self._sql["describe"], {"run": run, "about": about})
            return 1

        return self._writer.write(create)

    def acquire(
        self,
        run: str,
        epoch: int | None = None,
        *,
        status: str | None = None,
        at: float = 0.0,
        about: bytes | None = None,
    ) -> int:
        """Take over a run and return its new epoch; see `dagrid.ports.Store`."""
        row = {"run": run, "epoch": epoch, "status": status, "at": at}

        def acquire(connection: sqlite3.Connection) -> int:
            changed = connection.execute(self._sql["acquire"], row).rowcount
            now = (epoch or 0) + 1
            if epoch is None or not changed:
                _, now, _ = self._standing(connection, run)
            if epoch is not None and not changed:
                refusals.check_writer(run, epoch, now)
            if about is not None:
                connection.execute(self._sql["describe"], {"run": run, "about": about})
            return now

        return self._writer.write(acquire)

    def append(
        self, run: str, epoch: int, expected: int, facts: Sequence[bytes], *, status: str | None = None, at: float = 0.0
    ) -> int:
        """Append facts, all or none, and return the next number; on the disk when it returns. See `dagrid.ports.Store`."""
        refusals.check_facts(facts)
        count = len(facts)
        data = pack(facts)
        row = {"run": run, "epoch": epoch, "expected": expected, "count": count, "status": status, "at": at}
        advance = self._sql["advance" if status is None else "advance_to_status"]

        def append(connection: sqlite3.Connection) -> int:
            if connection.execute(advance, row).rowcount == 0:
                _, now, there = self._standing(connection, run)
                refusals.check_writer(run, epoch, now)
                refusals.check_number(run, expected, there)
            if count:
                segment = {"run": run, "first": expected, "count": count, "data": data}
                connection.execute(self._sql["add_segment"], segment)
            return expected + count

        return self._writer.write(append)

    def read(self, run: str, since: int = 0) -> Iterator[bytes]:
        """Return an iterator over the facts that there are now, from a number on; see `dagrid.ports.Store`.

        It reads a piece at a time and holds neither lock nor transaction in between.
        """
        refusals.check_since(since)
        with self._reader.use() as connection:
            number, _, facts = self._standing(connection, run)
        return joined(lambda first: self._chunk(number, first, facts), since, facts, str(self.path), run)

    def snapshot(self, run: str, epoch: int, facts: int, data: bytes) -> None:
        """Keep what stands for the first so many facts; see `dagrid.ports.Store`."""

        def keep(connection: sqlite3.Connection) -> None:
            number, now, there = self._standing(connection, run)
            refusals.check_writer(run, epoch, now)
            refusals.check_snapshot(run, facts, there)
            connection.execute(self._sql["keep_snapshot"], {"id": number, "facts": facts, "data": data})

        self._writer.write(keep)

    def latest(self, run: str) -> tuple[int, bytes] | None:
        """Return the newest snapshot and how many facts it stands for, or None; see `dagrid.ports.Store`."""
        with self._reader.use() as connection:
            number, _, _ = self._standing(connection, run)
            row: tuple[int, bytes] | None = connection.execute(self._sql["latest"], {"id": number}).fetchone()
        return row

    def runs(
        self,
        prefix: str = "",
        *,
        ids: Collection[str] | None = None,
        name: str | None = None,
        status: Collection[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        old: float | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Return what is known of runs, the last created first; see `dagrid.ports.Store`."""
        asked = {
            "prefix": prefix or None,
            "ids": None if ids is None else json.dumps(list(ids)),
            "name": name,
            "status": None if status is None else json.dumps(list(status)),
            "since": since,
            "until": until,
            "old": old,
        }
        # Each question is a statement of its own, for an index is of use where it is sure what is asked for.
        conditions = [self._sql[f"runs_{what}"] for what, value in asked.items() if value is not None]
        statement = self._sql["runs"].replace("{conditions}", " AND ".join(conditions) or "true")
        with self._reader.use() as connection:
            rows = connection.execute(statement, {**asked, "limit": -1 if limit is None else limit}).fetchall()
        return [RunRecord(*row) for row in rows]

    def about(self, run: str) -> bytes:
        """Return what is kept of a run beside its journal; see `dagrid.ports.Store`."""
        with self._reader.use() as connection:
            row: tuple[bytes | None] | None = connection.execute(self._sql["about"], {"run": run}).fetchone()
            if row is None:
                raise self._unknown(connection, run)
        return row[0] or b""

    def describe(self, run: str, about: bytes) -> None:
        """Keep this of a run beside its journal; see `dagrid.ports.Store`."""

        def describe(connection: sqlite3.Connection) -> None:
            if connection.execute(self._sql["describe"], {"run": run, "about": about}).rowcount == 0:
                self._standing(connection, run)

        self._writer.write(describe)

    def delete(self, run: str) -> None:
        """Forget a run; see `dagrid.ports.Store`."""

        def delete(connection: sqlite3.Connection) -> None:
            number, _, _ = self._standing(connection, run)
            for statement in ("delete_segments", "delete_snapshot", "delete_about", "delete"):
                connection.execute(self._sql[statement], {"id": number})

        self._writer.write(delete)

    def close(self) -> None:
        """Close the file; whoever is reading gets an error. May be called twice."""
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _standing(self, connection: sqlite3.Connection, run: str) -> tuple[int, int, int]:
        """Return the number of a run in this file, its epoch, and how many facts it has."""
        row: tuple[int, int, int] | None = connection.execute(self._sql["standing"], {"run": run}).fetchone()
        if row is None:
            raise self._unknown(connection, run)
        return row

    def _unknown(self, connection: sqlite3.Connection, run: str) -> UnknownRunError:
        known = connection.execute(self._sql["names"], {"limit": refusals.SEARCHED})
        return refusals.unknown(run, [name for (name,) in known])

    def _chunk(self, number: int, since: int, end: int) -> list[tuple[int, bytes]]:
        """Return some segments of a run, the first of which holds the fact `since`; none after the fact `end`."""
        chunk: list[tuple[int, bytes]] = []
        size = 0
        # A cursor that is closed ends the transaction that its statement has begun.
        with self._reader.use() as connection, closing(connection.cursor()) as rows:
            rows.execute(self._sql["segments"], {"id": number, "since": since})
            for first, data in rows:
                if first >= end:
                    break
                chunk.append((first, data))
                size += len(data)
                if size >= CHUNK_BYTES or len(chunk) >= CHUNK_SEGMENTS:
                    break
        return chunk


class _Write:
    """Something that a thread wants to be written while another one writes, and waits for until its `turn`."""

    __slots__ = ("answer", "given_up", "leads", "over", "turn", "what")

    def __init__(self, what: Callable[[sqlite3.Connection], Any]) -> None:
        self.what = what
        self.turn = threading.Lock()  # held until then; an event takes longer to be made
        self.turn.acquire()
        self.over = self.given_up = self.leads = False
        self.answer: Any = None


class _Connection:
    """A connection that several threads share, one at a time, and whose errors are told as those of a store."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._writes: list[_Write] = []
        self._writing = False
        self.waits_for_room = False
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        except ERRORS as error:
            self.close()
            raise _explained(path, error) from error

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._opened()
            except ERRORS as error:
                raise _explained(self._path, error) from error

    def transact(self, what: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Do something in a transaction, and return what it returns when that is on the disk."""
        with self._lock:  # as in `use`, which costs each commit its context manager
            connection = self._opened()
            try:
                # An interrupt may come after any of these: then nothing may stay begun.
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    answer = what(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except ERRORS as error:
                raise _explained(self._path, error) from error
            return answer

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise refusals.closed(str(self._path))
        return self._connection

    def write(self, what: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Do something in a transaction, and return what it returns when that is on the disk.

        What others want to write meanwhile is done in the next one, by one of them for all.

        Args:
            what: may be called again if the transaction fails.
        """
        mine = None
        with self._guard:
            if self._writing:
                mine = _Write(what)
                self._writes.append(mine)
            self._writing = True
        if mine is None:
            try:
                return self._write_alone(what)
            finally:
                self._pass_on([])
        self._await_turn(mine)
        if not mine.over:
            with self._guard:
                writes, self._writes = self._writes, []
            try:
                self._write_together(writes, mine)
            finally:
                self._pass_on([one for one in writes if one is not mine])
        return mine.answer  # type: ignore[no-any-return]

    def _await_turn(self, mine: _Write) -> None:
        """Wait until a write is over, or its thread shall write; an interrupt gives it up, if nobody has begun it."""
        try:
            mine.turn.acquire()
        except BaseException:
            with self._guard:
                mine.given_up = True
                if mine in self._writes:
                    self._writes.remove(mine)
                leads = mine.leads and not mine.over
            if leads:
                self._pass_on([])
            raise

    def _write_together(self, writes: list[_Write], mine: _Write) -> None:
        def write_all(connection: sqlite3.Connection) -> list[Any]:
            return [one.what(connection) for one in writes]

        if len(writes) > 1:
            try:
                answers = self.transact(write_all)
            except StoreError:  # of one of them, or of the commit: each may try alone
                pass
            else:
                for one, answer in zip(writes, answers, strict=True):
                    one.answer, one.over = answer, True
                return
        mine.answer = self._write_alone(mine.what)
        mine.over = True

    def _write_alone(self, what: Callable[[sqlite3.Connection], Answer]) -> Answer:
        told = False
        while True:
            try:
                return self.transact(what)
            except StoreError as error:
                if not (self.waits_for_room and _is_full(error)):
                    raise
                if not told:
                    told = True
                    _log.error("%s Nothing is recorded until then, and all that is to be waits.", error)
            time.sleep(NO_ROOM)

    def _pass_on(self, others: list[_Write]) -> None:
        """Let those go whose write is over, and the first of the others write next."""
        with self._guard:
            self._writes[:0] = [one for one in others if not (one.over or one.given_up)]
            following = self._writes[0] if self._writes else None
            self._writing = following is not None
            if following is not None:
                following.leads = True
        for one in others:
            if one.over:
                one.turn.release()
        if following is not None:
            following.turn.release()

    def prepare(self, timeout: float) -> None:
        """Make the file a store of this version, unless it is one; of several processes that open it at once, one does so."""
        newest = _migrations()[-1].version
        with self.use() as connection:
            version = _version(connection, self._path)
            _log_ahead(connection, timeout)
        if version == newest:
            return
        self.transact(partial(_migrate, self._path))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    for migration in _migrations()[_version(connection, path) :]:
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {migration.version}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store, 0 for a new file.

    Raises:
        StoreError: it is the database of another program.
        StoreVersionError: a newer dagrid has written it.
    """
    application, tables, version = connection.execute(_statements()["whose"]).fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise StoreError(f"{path} is the database of another program; nothing was changed. Choose another file.")
    newest = _migrations()[-1].version
    if version > newest:
        raise StoreVersionError(
            f"{path} was written by a newer dagrid: it is a store of version {version}, and this dagrid knows those up to "
            f"{newest}. Upgrade it: pip install --upgrade dagrid"
        )
    return int(version)


def _log_ahead(connection: sqlite3.Connection, timeout: float) -> None:
    """Turn on the write-ahead log. SQLite does not wait for others here, whatever its timeout, so this does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(AGAIN)


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_full(error: StoreError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    # The second is what is said where the index of the write-ahead log cannot grow.
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def _explained(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
    """Return what SQLite says, with the file and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return StoreError(f"{path}: database disk image is malformed. {_REMEDIES[sqlite3.SQLITE_CORRUPT]}")
    code = getattr(error, "sqlite_errorcode", 0)
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code & 0xFF, "Look at the file, its folder and the disk.")
    return StoreError(f"{path}: {error}. {remedy}")


_REMEDIES = {
    sqlite3.SQLITE_BUSY: "Another process has been writing all the time: let it finish, or give a longer timeout.",
    sqlite3.SQLITE_CANTOPEN: "Choose a path that can be read and written, and that is no folder.",
    sqlite3.SQLITE_CORRUPT: "Restore the file from a copy.",
    sqlite3.SQLITE_FULL: "The disk is full: make room.",
    sqlite3.SQLITE_IOERR_SHMSIZE: "The disk is full: make room.",
    sqlite3.SQLITE_NOTADB: "It is no store: choose another file; this one was not changed.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, or choose another place.",
    sqlite3.SQLITE_TOOBIG: "An append and a snapshot hold at most 1 GB each: append less at once.",
}


@cache
def _statements() -> dict[str, str]:
    return statements("sqlite", SCHEMA)


@cache
def _migrations() -> list[Migration]:
    return migrations("sqlite", SCHEMA)
