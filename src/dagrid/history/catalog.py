"""What runs a home has, and what is known of each without reading its journal: nothing is changed here.

A run is performed by the process that holds its lock. One that the store says is running and that nobody holds was interrupted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dagrid.config import expanded
from dagrid.errors import StoreError, StoreVersionError, UnknownRunError, hint, nearest
from dagrid.execution.recording import Checkpoint
from dagrid.history import owners
from dagrid.history.places import LOCK, About, file_name
from dagrid.opening import Opened

if TYPE_CHECKING:
    from dagrid.ports import RunRecord

QUEUED = "queued"
RUNNING = "running"
WAITING = "waiting"
INTERRUPTED = "interrupted"
SUCCEEDED = "succeeded"
ABORTED = "aborted"
FAILED = "failed"
STATUSES = (QUEUED, RUNNING, WAITING, INTERRUPTED, SUCCEEDED, FAILED, ABORTED, "partially_succeeded")
# These have not ended, so they are kept.
_ACTIVE = frozenset({QUEUED, RUNNING, WAITING})
_MOST_NAMED = 5
IDENTITY = "identity"


class RunInfo(msgspec.Struct, frozen=True):
    """What is known of a run without reading its journal.

    `status` is one of `STATUSES`; times are seconds since 1970, `ended` is 0 while it goes on. `host` and `pid` say where a run
    is performed that is running; a `pid` of 0 is not known from here.
    """

    run: str
    name: str
    status: str
    created: float
    ended: float = 0.0
    host: str = ""
    pid: int = 0
    parent: str = ""

    @property
    def active(self) -> bool:
        """Whether it may still do something by itself, or when a person says so."""
        return self.status in _ACTIVE

    @property
    def seconds(self) -> float | None:
        """How long it took, or has been running; None of one that does neither. The time of day may have been set back since."""
        if not self.ended and self.status != RUNNING:
            return None
        return max(0.0, (self.ended or time.time()) - self.created)


class Catalog:
    """The runs of a home folder, to be found.

    Args:
        home: the folder.
        store: the URL of a PostgreSQL database that keeps journals and values in its place; logs stay in the folder.

    Raises:
        StoreError: of whatever is asked first: the place cannot be opened.
    """

    def __init__(self, home: str | os.PathLike[str], store: str | None = None) -> None:
        self.home = expanded(home).absolute()
        self._url = store
        self._opened = Opened()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Where journals and values are; opened when it is asked for."""
        if self._url is not None:
            from dagrid.opening import open_checkpoint

            return open_checkpoint(self._opened, self._url)
        from dagrid.stores import open_artifacts, open_store

        self._make_home()
        store = open_store(self.home / "runs.db")
        self._opened.add(store.close)
        return Checkpoint(store, open_artifacts(self.home / "values"))

    def queued(self, queue: str | None = None) -> list[RunInfo]:
        """Return the runs that wait, in the order in which they are to be begun: by priority, then as they came."""
        records = self.checkpoint.store.runs(status={QUEUED})
        waiting = [(record, self._about(record.run) or About()) for record in reversed(records)]
        waiting.sort(key=lambda one: -one[1].priority)
        return [self._info(record, about=about) for record, about in waiting if queue in (None, about.queue)]

    def runs(
        self,
        name: str | None = None,
        status: str | Collection[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int | None = 100,
        children: bool = False,
    ) -> list[RunInfo]:
        """Return the runs that there are, the newest first.

        Args:
            name: only those of this workflow or graph.
            status: only those with this status, or one of these.
            since, until: only those that were created in this time, in seconds since 1970.
            limit: no more than so many; None is all.
            children: those too that other runs have called.
        """
        wanted = None if status is None else {status} if isinstance(status, str) else set(status)
        # In the store, one that was interrupted is running.
        kept = None if wanted is None else {RUNNING if one == INTERRUPTED else one for one in wanted}
        find = partial(self.checkpoint.store.runs, name=name, status=kept, since=since, until=until)
        return self._found(find, wanted, limit, children)

    def children(self, run_id: str) -> list[RunInfo]:
        """Return the runs that a run has called, directly or not, in the order of their creation."""
        records = self.checkpoint.store.runs(f"{run_id}.")
        known = {run_id, *(record.run for record in records)}
        return [self._info(record, _parent(record.run, known)) for record in reversed(records)]

    def info(self, run_id: str) -> RunInfo:
        """Return what is known of a run. Raises UnknownRunError."""
        return self._info(self._record(run_id))

    def knows(self, run_id: str | None) -> bool:
        """Return whether there is a run of that id."""
        return run_id is not None and bool(self.checkpoint.store.runs(ids={run_id}))

    def outermost(self, run_id: str) -> RunInfo:
        """Return the run that has called this one, directly or not, and has not ended; this one if nobody waits for it.

        Raises:
            UnknownRunError: there is no such run.
        """
        info = self.info(run_id)
        parent = self.about(run_id).parent
        above = self.outermost(parent) if parent else info
        return above if not above.ended else info

    def has_begun(self, run_id: str) -> bool:
        """Return whether there is a journal to go on with; a run that waited in a queue may have none. Raises UnknownRunError."""
        return self._record(run_id).facts > 0

    def find(self, text: str) -> RunInfo:
        """Return the run that a text means: an id, the name of a workflow (its newest run), or the beginning of one id.

        Runs that others have called are meant where no other run has that name.

        Raises:
            UnknownRunError: it means none, or several.
        """
        store = self.checkpoint.store
        exact = store.runs(ids={text})
        if exact:
            return self._info(exact[0], _parent(text, self._parents(exact)))
        by_name = self.runs(text, limit=1) or self.runs(text, limit=1, children=True)
        if by_name:
            return by_name[0]
        begun = store.runs(text) if text else []
        known = self._parents(begun)
        begun = [record for record in begun if "." in text or not _parent(record.run, known)]
        if len(begun) == 1:
            return self._info(begun[0], _parent(begun[0].run, known))
        if begun:
            listed = ", ".join(record.run for record in begun[:_MOST_NAMED]) + (", ..." if begun[_MOST_NAMED:] else "")
            raise UnknownRunError(f"{text!r} begins the ids of {len(begun)} runs: {listed}. Write more of it.", text)
        records = store.runs()
        suggestion = nearest(text, [*{record.name for record in records}, *(record.run for record in records[:200])])
        raise UnknownRunError(f"There is no run {text!r}, and no run of that name.{hint(suggestion)}", text, suggestion)

    def about(self, run_id: str) -> About:
        """Return what a run is of. Raises UnknownRunError."""
        found = self._about(run_id)
        return found if found is not None else About(name=self._record(run_id).name, kind="graph")

    def is_held(self, run_id: str) -> bool:
        """Return whether a process of this machine has a run, also one that has ended and of which there is more to be told.

        Raises:
            UnknownRunError: there is no such run.
        """
        return owners.holder(self.folder(run_id) / LOCK) is not None

    def folder(self, run_id: str) -> Path:
        """Return where the logs of a run are, on the machine that performed it last. Raises UnknownRunError."""
        record = self._record(run_id)
        return self._folder_of(record, self._about(run_id))

    # Inside.

    def is_worth_another_try(self, run_id: str, roots: Collection[str] = ()) -> bool:
        """Return whether a run is to be taken up by who was asked for that: not if it has ended well, perhaps only since then.

        Args:
            run_id: which one.
            roots: steps that are to run again though they have completed.

        Raises:
            UnknownRunError: there is no such run.
        """
        return bool(roots) or self.info(run_id).status != SUCCEEDED

    def _about(self, run: str) -> About | None:
        try:
            return self._kept_about(run)
        except (StoreVersionError, UnknownRunError):  # or somebody has just removed it
            return None

    def _kept_about(self, run: str) -> About | None:
        """Return what is kept of a run beside its journal, None where nothing is.

        Raises:
            StoreVersionError: it cannot be read.
            UnknownRunError: there is no such run.
        """
        data = self.checkpoint.store.about(run) or self._about_before(run)
        try:
            return msgspec.json.decode(data, type=About) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreVersionError(
                f"What the store keeps of run {run!r} is a newer dagrid's, or damaged ({error}). Go on with it by that one, or "
                f"restore the store from a copy."
            ) from error

    def _about_before(self, run: str) -> bytes | None:
        """Return what earlier versions kept among the values."""
        try:
            return self.checkpoint.artifacts.get(_about_key(run))
        except StoreError:  # an id that is no key, of a run that did not come from here
            return None

    def _record(self, run: str) -> RunRecord:
        store = self.checkpoint.store
        for record in store.runs(ids={run}):
            return record
        suggestion = nearest(run, [record.run for record in store.runs(limit=200)])
        raise UnknownRunError(f"There is no run {run!r}.{hint(suggestion)}", run, suggestion)

    def _found(
        self,
        find: Callable[..., Sequence[RunRecord]],
        status: Collection[str] | None = None,
        limit: int | None = None,
        children: bool = False,
    ) -> list[RunInfo]:
        """Return what is known of the runs that the store finds, as far as they are wanted, the newest first."""
        found: dict[str, RunInfo | None] = {}
        most = limit
        while True:
            records = find(limit=most)
            known = self._parents(records)
            for record in records:
                if record.run not in found:
                    parent = _parent(record.run, known)
                    info = None if parent and not children else self._info(record, parent)
                    found[record.run] = info if info and (status is None or info.status in status) else None
            fitting = [info for info in found.values() if info]
            # What is left out was counted by the store, so it may have to be asked for more.
            if most is None or len(fitting) >= (limit or 0) or len(records) < most:
                return fitting[:limit]
            most *= 4

    def _parents(self, records: Iterable[RunRecord]) -> set[str]:
        """Return the runs that have called some of these."""
        said = {record.run.rpartition(".")[0] for record in records} - {""}
        return {record.run for record in self.checkpoint.store.runs(ids=said)} if said else set()

    def _info(self, record: RunRecord, parent: str = "", about: About | None = None) -> RunInfo:
        status, host, pid = record.status, "", 0
        if status == RUNNING:
            about = about or self._about(record.run)
            owner = owners.holder(self._folder_of(record, about) / LOCK)
            if owner is not None:
                host, pid = owner.host or owners.host(), owner.pid
            elif about is not None and not self._is_seen(about):
                host = about.host
            else:
                now = next(iter(self.checkpoint.store.runs(ids={record.run})), record)
                if now.status != RUNNING:  # whoever had it has ended it since its record was read
                    return self._info(now, parent)
                status = INTERRUPTED
        return RunInfo(record.run, record.name, status, record.created, record.ended, host, pid, parent)

    def _folder(self, name: str, run: str, logs: Path | None = None) -> Path:
        return (logs or self.home / "logs") / file_name(name) / file_name(run)

    def _folder_of(self, record: RunRecord, about: About | None) -> Path:
        """Return where a run's logs are: in this home, which may have been moved, or else where they were written here."""
        ours = self._folder(record.name, record.run)
        if about is None or not about.folder or not self._is_seen(about) or ours.is_dir():
            return ours
        return Path(about.folder)

    def is_of_home(self, about: About) -> bool:
        """Whether a run was performed in this home, or it is not known where: several homes may have one store."""
        return about.home in ("", self.identity)

    def _is_seen(self, about: About) -> bool:
        """Whether the lock of a run is a file of this machine, or of this home, which may be on another machine by now."""
        return about.host in ("", owners.host()) or (about.home != "" and about.home == self.identity)

    @property
    def identity(self) -> str:
        """What tells this home from all others, on whatever machine it is; empty as long as no run was performed in it."""
        try:
            return (self.home / IDENTITY).read_text()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StoreError(f"{self.home / IDENTITY} cannot be read: {error.strerror}.") from error

    def _make_home(self) -> None:
        try:
            self.home.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.home} cannot be made: {error.strerror}. Choose another home.") from error


def _about_key(run: str) -> str:
    return f"{run}/about"


def _parent(run: str, known: Collection[str]) -> str:
    """Return the run that has called a run, or nothing."""
    parent = run.rpartition(".")[0]
    return parent if parent in known else ""
