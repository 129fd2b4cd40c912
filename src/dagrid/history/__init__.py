"""Where runs are kept and found again: a home folder with a checkpoint (`runs.db`, `values/`) and the logs of each run.

    $DAGRID_HOME/runs.db, values/                journals, values, and what each run is of (or all of it in PostgreSQL)
                 identity                        what tells this home from all others
                 bell                            rung by who wants something of the process that performs runs for others
                 logs/<name>/<run id>/           run.log, <step>.out, <step>.err, owner.lock

A run is performed by the process that holds its lock. One that the store says is running and that nobody holds was interrupted.
Who performs runs for others holds all of them by one lock, `serving.lock`, which is in the folder of each under its name there.
What a run does is not known here, nor what a workflow is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from dagrid.errors import (
    DuplicateRunError,
    RunHeldError,
    RunStateError,
    StaleEpochError,
    StoreError,
    UnknownRunError,
)
from dagrid.history import owners
from dagrid.history.bells import RESUME, STOP, Bell, ring
from dagrid.history.catalog import (
    ABORTED,
    FAILED,
    IDENTITY,
    INTERRUPTED,
    QUEUED,
    RUNNING,
    STATUSES,
    SUCCEEDED,
    WAITING,
    Catalog,
    RunInfo,
)
from dagrid.history.places import LOCK, About, Place, checked_id, file_name, new_id, step_files, written

if TYPE_CHECKING:
    from dagrid.ports import RunRecord

SERVING = "serving.lock"
STOPPED = "stopped by dagrid stop"
PATIENCE = 5.0
"""For so many seconds a process is waited for that has just taken a run up, and cannot be asked yet to stop it."""
_DAY = 86400.0


class History(Catalog):
    """The runs of a home folder. Several processes may have it open.

    Args:
        home: the folder; it is made when something is kept in it.
        store: the URL of a PostgreSQL database that keeps journals and values in its place; logs stay in the folder.

    Raises:
        StoreError: of whatever is asked first: the place cannot be opened.
    """

    def __init__(self, home: str | os.PathLike[str], store: str | None = None) -> None:
        super().__init__(home, store)
        self._bell: Bell | None = None
        self._serving: owners.Lock | None = None

    def serve(self) -> Bell:
        """Perform runs for others, as the only process of the home: what these want is said by the bell that is returned.

        Raises:
            RunHeldError: another process does so.
        """
        self._make_home()
        self._serving = owners.take(self.home / SERVING, f"The home {self.home}", answers=True)
        self._bell = Bell(self.home)
        store = self.checkpoint.store
        if hasattr(store, "wait_for_room"):  # else one moment without room ends the runs of everybody
            store.wait_for_room()
        return self._bell

    def close(self) -> None:
        """Close what is open. May be called twice; runs that were begun here must have ended."""
        self._opened.close()
        if self._bell is not None:
            self._bell.close()
        if self._serving is not None:
            self._serving.release()
        self._bell = self._serving = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Beginning and going on.

    def begin(
        self,
        name: str,
        about: About,
        run_id: str | None = None,
        logs: Path | None = None,
        *,
        served: bool | None = None,
        again: bool = False,
        queued: About | None = None,
    ) -> Place:
        """Make a place for a new run, or for one that waits in a queue, and hold it.

        Args:
            name: of what is run.
            about: what it is of; who performs it, where and since when is filled in.
            run_id: what it is called; a new id by default. That of a run that a run calls begins with that one's, and a `.`.
            logs: the folder of all logs, in place of that of the home.
            served: whether this process begins it for who serves the home; by default if it is that process.
            again: take one up too that has ended before it began; where it cannot begin this time either, it is still there.
            queued: what is kept of one that waits, if the caller has read it.

        Raises:
            InvalidSettingError: no run can have that id.
            DuplicateRunError: there is such a run, and it is not in a queue, or another process has just taken it.
        """
        run = new_id() if run_id is None else checked_id(run_id, about.parent)
        folder = self._folder(name, run, logs)
        lock = self._taken(folder, run)
        try:
            here = self._performed_here(msgspec.structs.replace(about, name=name, created=time.time()), folder, served)
            epoch, here = self._created(run, here, run_id is not None, again, queued)
            return Place(run, here, folder, lock, epoch)
        except BaseException as error:
            if isinstance(error, DuplicateRunError) and self._record(run).name != name:
                self._leave(folder)
            lock.release()
            raise

    def reopen(self, run_id: str, *, take_over: bool = False, served: bool | None = None) -> Place:
        """Hold the place of a run that is there, to go on with it.

        Args:
            run_id: which one.
            take_over: also if it is running on another machine, as far as can be seen: that one then loses it.
            served: whether who serves the home goes on with it after this process; by default if it is this process.

        Raises:
            UnknownRunError: there is no such run.
            RunHeldError: a process performs it; `.pid` says which.
            RunStateError: it waits in a queue.
            StoreVersionError: what is kept of it cannot be read.
        """
        record = self._record(run_id)
        about = self._kept_about(run_id) or About(name=record.name)
        if record.ended:
            about = msgspec.structs.replace(about, stopping="")
        info = self._info(record, about=about)
        if info.status == QUEUED:
            raise RunStateError(f"Run {run_id!r} waits in a queue. Let it be started, or dequeue it.", QUEUED)
        elsewhere = info.status == RUNNING and info.host != owners.host()
        if elsewhere and not take_over:
            raise RunHeldError(
                f"Run {run_id!r} is performed on {info.host}, as far as can be seen from here. Stop it there, or take it over.",
                0,
                info.host,
            )
        folder = self._folder_of(record, about)
        lock = self._taken(folder, run_id)
        try:
            here = self._performed_here(about, folder, served)
            store, epoch = self.checkpoint.store, 0
            if record.facts == 0:
                epoch = store.acquire(run_id, record.epoch, status=RUNNING, about=written(here))
            else:
                store.describe(run_id, written(here))
            return Place(run_id, here, folder, lock, epoch)
        except BaseException:
            lock.release()
            raise

    def tell(self, verb: str, run_id: str, steps: Iterable[str] = ()) -> bool:
        """Say something of a run to the process that serves the home, see `bells`; return whether there is one.

        Raises:
            InvalidSettingError: the steps that are meant are too many.
        """
        return ring(self.home, verb, run_id, steps)

    @property
    def is_served(self) -> bool:
        """Whether a process performs runs of the home for others at this moment."""
        return owners.holder(self.home / SERVING) is not None

    def stop(self, run_id: str) -> RunInfo:
        """Ask the process that performs a run to stop it, and return what the run was: by SIGTERM, or who serves the home by its
        bell. One that was performed for others, and is interrupted, is stopped by whoever serves the home, now or later.

        Raises:
            UnknownRunError: there is no such run.
            RunStateError: nobody performs it.
            RunHeldError: it is performed on another machine, or by the process of the run that has called it, which would be
                stopped with it; or by one that does not answer.
        """
        until = time.monotonic() + PATIENCE
        while (info := self._asked_to_stop(run_id)) is None:
            if time.monotonic() > until:
                pid = self.info(run_id).pid
                words = f"Run {run_id!r} is performed by process {pid}, which does not answer. Try again, or stop that process."
                raise RunHeldError(words, pid or 0, owners.host())
            time.sleep(owners.PAUSE)
        return info

    def _asked_to_stop(self, run_id: str) -> RunInfo | None:
        """Return what a run was that is going to stop, None where somebody is just taking it up who cannot be asked yet."""
        record = self._record(run_id)
        about = self._about(run_id)
        info = self._info(record, about=about)
        if info.status == RUNNING and info.host != owners.host():
            raise RunHeldError(f"Run {run_id!r} is performed on {info.host}. Stop it there.", 0, info.host)
        if info.status == RUNNING:
            self._refuse_within(info, about)
            owner = owners.stop(self._folder_of(record, about) / LOCK)
            if owner is not None and (not owner.answers or ring(self.home, STOP, run_id)):
                return info
            info = self._info(self._record(run_id))
            if info.status == RUNNING:
                return None
        if info.status != INTERRUPTED or about is None or not about.served:
            raise RunStateError(f"Run {run_id!r} is not running: it is {info.status}.", info.status)
        try:
            self._stop_later(record, about)
        except RunHeldError:
            return None
        return info

    def _refuse_within(self, info: RunInfo, about: About | None) -> None:
        """Refuse to stop a run whose process performs the one that has called it, and does not hear of each by itself."""
        if about is None or about.served or not about.parent or not self.knows(about.parent):
            return
        if self.info(about.parent).pid == info.pid:
            raise RunHeldError(
                f"Run {info.run!r} goes on in the process of {about.parent!r}, which has called it, and both would be stopped. "
                f"If that is meant: dagrid stop {about.parent}",
                info.pid,
                info.host,
            )

    def _stop_later(self, record: RunRecord, about: About) -> None:
        lock = self._taken(self._folder_of(record, about), record.run)
        try:
            self.checkpoint.store.describe(record.run, written(msgspec.structs.replace(about, stopping=STOPPED)))
        finally:
            lock.release()
        self.tell(RESUME, record.run)

    def discard(self, place: Place, reason: str = "") -> None:
        """Let go of a run that could not begin: it is forgotten or, if it had waited in a queue, has failed for that reason.

        One that has begun after all stays as it is.
        """
        record = self._record(place.run_id)
        if place.epoch == 1 and not record.facts:
            self._forget(record, place.about, locked=True)
        elif place.epoch and not record.facts:
            with suppress(OSError), place.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(f"The run could not be started: {reason}\n")
            with suppress(StaleEpochError):
                self.checkpoint.store.append(place.run_id, place.epoch, 0, [], status=FAILED, at=time.time())
        place.close()

    # Queues.

    def enqueue(self, name: str, about: About, run_id: str | None = None) -> str:
        """Keep a run to be begun later, and return its id; `about.queue` and `about.priority` say where it waits.

        Raises:
            InvalidSettingError: no run can have that id.
            DuplicateRunError: there is such a run.
        """
        run = new_id() if run_id is None else checked_id(run_id)
        at = time.time()
        waiting = msgspec.structs.replace(about, name=name, created=at)
        self.checkpoint.store.create(run, name=name, at=at, about=written(waiting), status=QUEUED)
        ring(self.home, QUEUED, run)
        return run

    def requeue(self, run_id: str, about: About) -> str:
        """Keep a run that has ended before it began to be begun later after all, and return its id.

        Raises:
            UnknownRunError: there is no such run.
            RunStateError: it has begun, or may begin by itself.
        """
        record = self._record(run_id)
        info = self._info(record)
        if record.facts or info.active:
            raise RunStateError(f"Run {run_id!r} is {info.status}, so it cannot be put into a queue.", info.status)
        waiting = msgspec.structs.replace(about, name=record.name, created=record.created)
        try:
            self.checkpoint.store.acquire(run_id, record.epoch, status=QUEUED, about=written(waiting))
        except StaleEpochError as error:
            raise RunStateError(f"Run {run_id!r} has just been taken up by somebody else.", info.status) from error
        ring(self.home, QUEUED, run_id)
        return run_id

    def dequeue(self, run_id: str) -> RunInfo:
        """Take a run out of its queue: it has been aborted, and can be taken up again.

        Raises:
            UnknownRunError: there is no such run.
            RunStateError: it does not wait in a queue, or no longer.
        """
        record = self._record(run_id)
        if record.status == QUEUED:
            with suppress(StaleEpochError):
                self.checkpoint.store.acquire(run_id, record.epoch, status=ABORTED, at=time.time())
                return self._info(self._record(run_id))
        now = self._info(self._record(run_id))
        raise RunStateError(f"Run {run_id!r} waits in no queue: it is {now.status}.", now.status)

    # Forgetting.

    def remove(self, run_id: str) -> None:
        """Forget a run and those that it called: journals, values and logs.

        Raises:
            UnknownRunError: there is no such run.
            RunStateError: it has not ended.
            RunHeldError: a process has just taken it up.
        """
        record = self._record(run_id)
        about = self._about(run_id)
        info = self._info(record, about=about)
        if info.active:
            raise RunStateError(f"Run {run_id!r} is {info.status}. End it before you remove it.", info.status)
        for child in self.children(run_id):
            self._forget(self._record(child.run), self._about(child.run))
        self._forget(record, about)

    def cleanup(
        self,
        days: float | None = None,
        keep: int | None = None,
        name: str | None = None,
        dry_run: bool = False,
    ) -> list[RunInfo]:
        """Forget old runs, and return them; those that have not ended stay.

        Args:
            days: those that ended longer ago; 0 is all.
            keep: all but so many of each name, the newest ones.
            name: only those of this workflow or graph.
            dry_run: forget nothing, only say what would be.
        """
        before = None if days is None else time.time() - days * _DAY
        counts: dict[str, int] = {}
        chosen: list[RunInfo] = []
        find = partial(self.checkpoint.store.runs, name=name, old=before if keep is None else None)
        for info in self._found(find):
            number = counts[info.name] = counts.get(info.name, 0) + 1
            old = before is not None and (info.ended or info.created) <= before
            many = keep is not None and number > keep
            if not info.active and (old or many):
                chosen.append(info)
        if dry_run:
            return chosen
        return [info for info in chosen if self._removed(info)]

    # Inside.

    def _created(self, run: str, about: About, chosen: bool, again: bool, queued: About | None) -> tuple[int, About]:
        """Create a run, take one out of its queue, or take one up that never began: of several processes one succeeds.

        Returns:
            Its epoch, and what it is of, with the queue that it comes from.
        """
        store = self.checkpoint.store
        for record in store.runs(ids={run}) if chosen else ():
            if not (
                record.status == QUEUED or (again and not record.facts) or (about.served and self._is_stillborn(record))
            ):
                break
            # One that has been taken once may have been told to stop since the caller has read of it.
            kept = (queued if record.status == QUEUED else None) or self._about(run) or about
            stopping = "" if again else kept.stopping  # what was asked of it then is not meant for this time
            about = msgspec.structs.replace(
                about, queue=kept.queue, priority=kept.priority, at_once=kept.at_once, stopping=stopping
            )
            try:
                return store.acquire(run, record.epoch, status=RUNNING, about=written(about)), about
            except StaleEpochError as error:
                raise DuplicateRunError(f"Run {run!r} has just been begun by another process.") from error
        return store.create(run, name=about.name, at=about.created, about=written(about)), about

    def _is_stillborn(self, record: RunRecord) -> bool:
        """Whether a process that served the home has taken a run, and ended before it had written what it is made of.

        Who serves the home now holds the lock of the run, and nobody else asks.
        """
        if record.status != RUNNING or record.facts:
            return False
        about = self._about(record.run)
        return about is None or self._is_seen(about)

    @cached_property
    def _own(self) -> str:
        """The identity of the home, which is made when the first run is performed in it; another process may just do so."""
        path = self.home / IDENTITY
        made = path.with_name(f".{IDENTITY}-{new_id()}")
        try:
            if not self.identity:
                self._make_home()
                made.write_text(os.urandom(8).hex())
                with suppress(OSError):  # another one was quicker, or the file system has no links
                    os.link(made, path)
                if self.identity:
                    made.unlink()
                else:
                    made.replace(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
        return self.identity

    def _performed_here(self, about: About, folder: Path, served: bool | None = None) -> About:
        served = self._serving is not None if served is None else served
        stopping = about.stopping if served else ""  # who takes it up by hand wants it to go on
        return msgspec.structs.replace(
            about,
            host=owners.host(),
            pid=os.getpid(),
            folder=str(folder),
            home=self._own,
            served=served,
            stopping=stopping,
        )

    def _forget(self, record: RunRecord, about: About | None, locked: bool = False) -> None:
        folder = self._folder_of(record, about)
        take = folder.is_dir() and not locked
        lock = owners.take(folder / LOCK, f"Run {record.run!r}") if take else None
        try:
            from shutil import rmtree  # archives of every kind come with it, and few processes remove a run

            self.checkpoint.artifacts.clear(record.run)
            rmtree(folder, ignore_errors=True)
            # The last one, so that what was begun can be ended.
            self.checkpoint.store.delete(record.run)
        finally:
            if lock is not None:
                lock.release()

    def _removed(self, info: RunInfo) -> bool:
        try:
            self.remove(info.run)
        except (RunHeldError, RunStateError, UnknownRunError):  # somebody was faster
            return False
        return True

    def _taken(self, folder: Path, run: str) -> owners.Lock:
        """Make the folder of a run, unless it is there, and take its lock."""
        while True:
            try:
                self._make(folder)
                return owners.take(folder / LOCK, f"Run {run!r}", self._serving is not None, self._serving)
            except FileNotFoundError:  # somebody has just removed it
                continue
            except OSError as error:
                raise StoreError(f"{folder} cannot be used: {error.strerror}. Choose another home.") from error

    def _make(self, folder: Path) -> None:
        try:
            os.mkdir(folder)  # most others are there
        except FileNotFoundError:
            self._make_home()
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if not folder.is_dir():
                raise

    def _leave(self, folder: Path) -> None:
        """Remove a folder that holds nothing but its lock, which is held here."""
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            with suppress(OSError):
                folder.rmdir()


__all__ = [
    "INTERRUPTED",
    "QUEUED",
    "STATUSES",
    "SUCCEEDED",
    "WAITING",
    "About",
    "History",
    "Place",
    "RunInfo",
    "file_name",
    "new_id",
    "step_files",
]
