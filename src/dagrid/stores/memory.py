"""A store in memory: what the durable ones promise, for tests and for runs that nobody needs to find again.

It keeps the promises of the port but durability, and is lost with the process. It knows no database and no file.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Self

from dagrid.ports import RunRecord
from dagrid.stores import refusals


@dataclass(slots=True)
class _Journal:
    run: str
    name: str
    created: float
    status: str
    ended: float = 0.0
    epoch: int = 1
    facts: list[bytes] = field(default_factory=list)
    snapshot: tuple[int, bytes] | None = None
    about: bytes = b""

    def record(self) -> RunRecord:
        return RunRecord(self.run, self.name, self.created, self.status, self.ended, self.epoch, len(self.facts))


class MemoryStore:
    """Keep journals in this process. Any thread may use it; when it is closed, they are gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._journals: dict[str, _Journal] = {}
        self._closed = False

    def create(self, run: str, *, name: str = "", at: float = 0.0, about: bytes = b"", status: str = "running") -> int:
        """Begin the journal of a run and return its first epoch; see `dagrid.ports.Store`."""
        with self._lock:
            self._check_open()
            if run in self._journals:
                raise refusals.duplicate(run)
            journal = self._journals[run] = _Journal(run, name, at, status, about=about)
            return journal.epoch

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
        with self._lock:
            journal = self._journal(run)
            if epoch is not None:
                refusals.check_writer(run, epoch, journal.epoch)
            journal.epoch += 1
            if status is not None:
                journal.status, journal.ended = status, at
            if about is not None:
                journal.about = about
            return journal.epoch

    def append(
        self, run: str, epoch: int, expected: int, facts: Sequence[bytes], *, status: str | None = None, at: float = 0.0
    ) -> int:
        """Append facts, all or none, and return the next number; see `dagrid.ports.Store`."""
        refusals.check_facts(facts)
        with self._lock:
            journal = self._journal(run)
            refusals.check_writer(run, epoch, journal.epoch)
            refusals.check_number(run, expected, len(journal.facts))
            journal.facts.extend(facts)
            if status is not None:
                journal.status, journal.ended = status, at
            return len(journal.facts)

    def read(self, run: str, since: int = 0) -> Iterator[bytes]:
        """Return an iterator over the facts that there are now, from a number on; see `dagrid.ports.Store`."""
        refusals.check_since(since)
        with self._lock:
            facts = self._journal(run).facts
            end = len(facts)
        return self._facts(facts, since, end)

    def snapshot(self, run: str, epoch: int, facts: int, data: bytes) -> None:
        """Keep what stands for the first so many facts; see `dagrid.ports.Store`."""
        with self._lock:
            journal = self._journal(run)
            refusals.check_writer(run, epoch, journal.epoch)
            refusals.check_snapshot(run, facts, len(journal.facts))
            if journal.snapshot is None or journal.snapshot[0] <= facts:
                journal.snapshot = (facts, data)

    def latest(self, run: str) -> tuple[int, bytes] | None:
        """Return the newest snapshot and how many facts it stands for, or None; see `dagrid.ports.Store`."""
        with self._lock:
            return self._journal(run).snapshot

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
        with self._lock:
            self._check_open()
            known = [journal.record() for journal in reversed(self._journals.values())]
        found = [
            record
            for record in known
            if record.run.startswith(prefix)
            and (ids is None or record.run in ids)
            and (name is None or record.name == name)
            and (status is None or record.status in status)
            and (since is None or record.created >= since)
            and (until is None or record.created <= until)
            and (old is None or (record.ended or record.created) <= old)
        ]
        return found[:limit]

    def about(self, run: str) -> bytes:
        """Return what is kept of a run beside its journal; see `dagrid.ports.Store`."""
        with self._lock:
            return self._journal(run).about

    def describe(self, run: str, about: bytes) -> None:
        """Keep this of a run beside its journal; see `dagrid.ports.Store`."""
        with self._lock:
            self._journal(run).about = about

    def delete(self, run: str) -> None:
        """Forget a run; see `dagrid.ports.Store`."""
        with self._lock:
            self._journal(run)
            del self._journals[run]

    def close(self) -> None:
        """Forget everything. May be called twice."""
        with self._lock:
            self._closed = True
            self._journals = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _facts(self, facts: list[bytes], since: int, end: int) -> Iterator[bytes]:
        # The list only ever grows, so what stands before `end` needs no lock.
        for number in range(since, end):
            self._check_open()
            yield facts[number]

    def _journal(self, run: str) -> _Journal:
        self._check_open()
        journal = self._journals.get(run)
        if journal is None:
            raise refusals.unknown(run, islice(reversed(self._journals), refusals.SEARCHED))
        return journal

    def _check_open(self) -> None:
        if self._closed:
            raise refusals.closed("This store")
