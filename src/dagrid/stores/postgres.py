"""A store in a PostgreSQL database, and a place for values beside it. It knows no run and no graph.

An append is one statement that changes one row and adds one, whatever the length of the journal: the facts of an append are kept
as one segment. It is as durable as the server says when it has acknowledged it (`synchronous_commit`). When a connection breaks
under an append, what the database holds then decides whether it has happened.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Self

from dagrid.ports import RunRecord
from dagrid.stores import refusals
from dagrid.stores._postgres import Link, address_of, check_size
from dagrid.stores.segments import joined, pack

# A reader is sent so many bytes or segments at once.
CHUNK_BYTES = 1 << 20
CHUNK_SEGMENTS = 256


class PostgresStore:
    """Keep journals in a schema of a PostgreSQL database, which is made when there is none; the database must be there.

    It has two connections, one that writes and one that reads, so that nobody who reads waits for a disk to sync. Any thread may
    use it, and processes that are forked off. When the server restarts it connects again.

    Args:
        url: as libpq takes it: `postgresql://user@host:port/database`, with settings behind `?`. One setting is ours: `schema`,
            by default `dagrid`. A password may stand in it, and is never told; PGPASSWORD or a password file keeps it out.
        timeout: seconds to look for a server that has gone away, and to wait while another process makes the store.

    Raises:
        StoreError: the server cannot be reached, or the schema is that of another program.
        StoreVersionError: a newer dagrid has written it.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        address = address_of(url)
        self.place = address.shown
        self._writer = Link(address, timeout)
        self._reader = Link(address, timeout)
        self._writer.prepare()

    def create(self, run: str, *, name: str = "", at: float = 0.0, about: bytes = b"", status: str = "running") -> int:
        """Begin the journal of a run and return its first epoch; see `dagrid.ports.Store`."""
        row = {"run": run, "name": name, "at": at, "about": about, "status": status}
        answer = self._writer.ask("create", row)
        if answer.changed:
            return 1
        # After a broken connection it may be ours, or that of another who has just created it alike: who takes it over has it.
        taken = self._writer.ask("acquire_new", row).rows if answer.doubtful else []
        if not taken:
            raise refusals.duplicate(run)
        return int(taken[0][0])

    def acquire(
        self,
        run: str,
        epoch: int | None = None,
        *,
        status: str | None = None,
        at: float = 0.0,
        about: bytes | None = None,
    ) -> int:
        """Take over a run and return its new epoch; see `dagrid.ports.Store`.

        When a connection breaks under it, nobody may have got the run: with an epoch it is then refused though nobody else came.
        """
        row = {"run": run, "epoch": epoch, "status": status, "at": at, "about": about}
        rows = self._writer.ask("acquire", row).rows
        if rows:
            return int(rows[0][0])
        _, now, _ = self._standing(self._writer, run)
        raise refusals.stale(run, epoch or 0, now)

    def append(
        self, run: str, epoch: int, expected: int, facts: Sequence[bytes], *, status: str | None = None, at: float = 0.0
    ) -> int:
        """Append facts, all or none, and return the next number; committed when it returns. See `dagrid.ports.Store`."""
        refusals.check_facts(facts)
        count = len(facts)
        data = pack(facts)
        check_size(data)
        row = {
            "run": run,
            "epoch": epoch,
            "expected": expected,
            "count": count,
            "status": status,
            "at": at,
            "data": data,
        }
        doubtful = False
        while True:
            answer = self._writer.ask("append", row)
            if answer.rows[0][0]:
                return expected + count
            doubtful = doubtful or answer.doubtful
            number, now, there = self._standing(self._writer, run)
            refusals.check_writer(run, epoch, now)
            if doubtful and count and self._has_segment(number, expected, data):
                return expected + count
            # When both are right now, another one's append came between the two statements.
            refusals.check_number(run, expected, there)

    def read(self, run: str, since: int = 0) -> Iterator[bytes]:
        """Return an iterator over the facts that there are now, from a number on; see `dagrid.ports.Store`.

        It reads a piece at a time and holds neither lock nor transaction in between.
        """
        refusals.check_since(since)
        number, _, facts = self._standing(self._reader, run)
        return joined(lambda first: self._chunk(number, first, facts), since, facts, self.place, run)

    def snapshot(self, run: str, epoch: int, facts: int, data: bytes) -> None:
        """Keep what stands for the first so many facts; see `dagrid.ports.Store`."""
        check_size(data)
        row = {"run": run, "epoch": epoch, "facts": facts, "data": data}
        while not self._writer.ask("snapshot", row).rows[0][0]:
            _, now, there = self._standing(self._writer, run)
            refusals.check_writer(run, epoch, now)
            refusals.check_snapshot(run, facts, there)

    def latest(self, run: str) -> tuple[int, bytes] | None:
        """Return the newest snapshot and how many facts it stands for, or None; see `dagrid.ports.Store`."""
        number, _, _ = self._standing(self._reader, run)
        rows = self._reader.ask("latest", {"id": number}).rows
        return (int(rows[0][0]), bytes(rows[0][1])) if rows else None

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
            "prefix": prefix,
            "ids": None if ids is None else list(ids),
            "name": name,
            "status": None if status is None else list(status),
            "since": since,
            "until": until,
            "old": old,
            "limit": limit,
        }
        return [RunRecord(*row) for row in self._reader.ask("runs", asked).rows]

    def about(self, run: str) -> bytes:
        """Return what is kept of a run beside its journal; see `dagrid.ports.Store`."""
        rows = self._reader.ask("about", {"run": run}).rows
        if not rows:
            raise self._unknown(self._reader, run)
        return bytes(rows[0][0] or b"")

    def describe(self, run: str, about: bytes) -> None:
        """Keep this of a run beside its journal; see `dagrid.ports.Store`."""
        if not self._writer.ask("describe", {"run": run, "about": about}).changed:
            raise self._unknown(self._writer, run)

    def delete(self, run: str) -> None:
        """Forget a run; see `dagrid.ports.Store`."""
        answer = self._writer.ask("delete_run", {"run": run})
        if not answer.changed and not answer.doubtful:
            raise self._unknown(self._writer, run)

    def close(self) -> None:
        """Close the connections; whoever is reading gets an error. May be called twice."""
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _standing(self, link: Link, run: str) -> tuple[int, int, int]:
        """Return the number of a run in this store, its epoch, and how many facts it has."""
        rows = link.ask("standing", {"run": run}).rows
        if not rows:
            raise self._unknown(link, run)
        number, epoch, facts = rows[0]
        return number, epoch, facts

    def _unknown(self, link: Link, run: str) -> Exception:
        known = link.ask("names", {"limit": refusals.SEARCHED}).rows
        return refusals.unknown(run, [name for (name,) in known])

    def _has_segment(self, number: int, first: int, data: bytes) -> bool:
        rows = self._writer.ask("segment", {"id": number, "first": first}).rows
        return bool(rows) and bytes(rows[0][0]) == data

    def _chunk(self, number: int, since: int, end: int) -> list[tuple[int, bytes]]:
        """Return some segments of a run, the first of which holds the fact `since`; none after the fact `end`."""
        wanted = {"id": number, "since": since, "until": end, "limit": CHUNK_SEGMENTS, "size": CHUNK_BYTES}
        return [(first, bytes(data)) for first, data in self._reader.ask("segments", wanted).rows]


class PostgresArtifacts:
    """Keep values in the database of a `PostgresStore`, so that one URL is enough to go on with a run on another machine.

    A value has at most 1 GB. Any thread and any process may use it; it can be sent to other processes, with its URL.

    Args:
        url: as for `PostgresStore`, whose schema may be the same.
        timeout: seconds to look for a server that has gone away, and to wait while another process makes the tables.

    Raises:
        StoreError: the server cannot be reached, or the schema is that of another program.
        StoreVersionError: a newer dagrid has written it.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        address = address_of(url)
        self.place = address.shown
        self._url = url
        self._writer = Link(address, timeout)
        self._reader = Link(address, timeout)
        self._reader.prepare()
        for link in (self._writer, self._reader):
            weakref.finalize(self, link.close)

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key, whole or not at all; see `dagrid.ports.Artifacts`."""
        refusals.check_key(key)
        check_size(data)
        self._writer.ask("put", {"key": key, "data": data})

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, or None."""
        refusals.check_key(key)
        rows = self._reader.ask("get", {"key": key}).rows
        return bytes(rows[0][0]) if rows else None

    def delete(self, key: str) -> None:
        """Forget a key, if it is there."""
        refusals.check_key(key)
        self._writer.ask("delete", {"key": key})

    def clear(self, key: str) -> None:
        """Forget every key under `key/`."""
        refusals.check_key(key)
        self._writer.ask("clear", {"key": key})

    def disconnect(self) -> None:
        """Let go of the connections while nobody needs them; the next use makes them again."""
        self._writer.disconnect()
        self._reader.disconnect()

    def __reduce__(self) -> tuple[Any, ...]:
        return _shared, (self._url,)


@cache
def _shared(url: str) -> PostgresArtifacts:
    """Return the artifacts of a URL, the same ones each time: a worker is sent them with every call."""
    return PostgresArtifacts(url)
