"""What happens to attempts between a run and a worker: they are sent, started, ended, given back or lost, and each side is told.

Pure. A report counts if its attempt is under way in a use that goes on; all else is answered so that the worker forgets it.
An end stays in the book until the run has taken it, so that it can be told again on another line.

A worker that is to forget an attempt may have reported of it before it heard that. Where the run may give it the same attempt
under the same fence again, that waits until the worker has sent back a mark; until then what it reports of the attempt is old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.books import Job, Link, Run, Use, Worker
from dagrid.execution.backends.cluster.posts import ForRun, ForWorker, Told
from dagrid.machine.events import Outcome

WHOLE = 64 * 1024
"""The largest content that is sent without being asked for."""


class Traffic:
    """The attempts under way, and the post that follows from them."""

    def __init__(self, small: Callable[[bytes], bytes | None]) -> None:
        self._small = small
        self._dirty: dict[Worker | Run, None] = {}
        self._numbers = count(1)
        self.stays: Callable[[Job], None] = _nobody
        """Called with an attempt that was to be given back and has been begun."""

    # --- the post ---------------------------------------------------------------------------------------------------------

    def down(self, worker: Worker) -> ForWorker:
        """Return what a worker is going to be told."""
        self._dirty[worker] = None
        return worker.box

    def tell(self, run: Run) -> ForRun:
        """Return what a run is going to be told."""
        self._dirty[run] = None
        return run.box

    @property
    def has_post(self) -> bool:
        """Whether there is anything to be sent."""
        return bool(self._dirty)

    def take(self) -> list[tuple[Link, pb.Down | pb.Tell]]:
        """Return what is to be sent, and begin anew."""
        return self._taken(list(self._dirty))

    def take_pressing(self) -> list[tuple[Link, pb.Down | pb.Tell]]:
        """Return what is to be sent on links with something that somebody waits for; what only may be forgotten can wait."""
        return self._taken([owner for owner in self._dirty if owner.box.presses])

    def _taken(self, owners: Iterable[Worker | Run]) -> list[tuple[Link, pb.Down | pb.Tell]]:
        found: list[tuple[Link, pb.Down | pb.Tell]] = []
        for owner in owners:
            message = owner.box.message() if owner.link is not None else None
            owner.clear()
            del self._dirty[owner]
            if message is not None and owner.link is not None:
                found.append((owner.link, message))
        return found

    def set_room(self, run: Run, worker: Worker, slots: int) -> None:
        """Tell a run how many attempts it may have with a worker, where that is not what it was told last."""
        if run.joined.get(worker.id) == worker.generation and run.rooms.get(worker.id, worker.slots) != slots:
            run.rooms[worker.id] = slots
            self.tell(run).rooms[worker.id, worker.generation] = slots

    # --- from the run -----------------------------------------------------------------------------------------------------

    def assign(self, use: Use, assign: pb.Assign) -> None:
        """Pass calls on to a worker."""
        use.about = pb.Assign(
            fence=use.fence, worker=assign.worker, generation=assign.generation, kit=assign.kit, needs=assign.needs
        )
        for call in assign.calls:
            if call.attempt in use.jobs:
                continue
            job = use.jobs[call.attempt] = Job(use, call.attempt, call, next(self._numbers))
            base = use.jobs.get(call.rides - 1) if call.rides else None
            if base is not None:
                self._ride(job, base)
            else:
                use.worker.count(use, 1)
            self._send(job)

    def recall(self, job: Job) -> bool:
        """Have a worker give back an attempt that has not started, and return whether it will or has been.

        What has not been sent is given back at once.
        """
        if job.started or job.rides is not None or job.end is not None:
            return False
        worker = job.use.worker
        if job in worker.behind or worker.box.unsent(job.use.key, job.attempt):
            self.give_back(job)
            return True
        job.recalled = True
        self.down(worker).recalls.add(job.use.key, (job.attempt,))
        return True

    def cancel(self, job: Job) -> None:
        """Have a worker stop an attempt."""
        if job.end is None:
            job.cancelled = True
            self.down(job.use.worker).cancels.add(job.use.key, (job.attempt,))

    def taken(self, job: Job) -> None:
        """A run has taken an end: the worker need not keep it."""
        if job.end is not None:
            del job.use.jobs[job.attempt]
            self.down(job.use.worker).acks.add(job.use.key, (job.attempt,))

    def reconcile(self, use: Use, listing: pb.Use) -> None:
        """Bring a use together with what its run believes to have under way there."""
        told = self._told(use)
        queued, listed = set(listing.queued), {*listing.queued, *listing.started}
        for attempt in listing.started:
            if attempt not in use.jobs:
                told.finish(_lost(attempt, "its worker has no trace of it"))
        for attempt, job in use.jobs.items():
            if attempt in listed and job.end is not None:
                told.finish(job.end)
            elif attempt in queued and job.started:
                told.start(pb.Started(attempt=attempt, at=job.since))
        for attempt in listing.queued:
            if attempt not in use.jobs:
                told.recalled[attempt] = None
        unwanted = [job for attempt, job in use.jobs.items() if attempt not in listed]
        for job in unwanted:
            self._discard(job)
        self._burn(use, [job.attempt for job in unwanted])

    def drop(self, use: Use) -> None:
        """Nobody wants anything of a use any more."""
        use.worker.count(use, -use.open, -use.running)
        box = self.down(use.worker)
        for attempt in use.jobs:
            box.unsent(use.key, attempt)
        box.acks.add(use.key, use.jobs)
        use.jobs.clear()

    # --- from the worker --------------------------------------------------------------------------------------------------

    def report(self, worker: Worker, report: pb.Report) -> None:
        """Take what a worker reports of one use."""
        key = (report.run, report.fence)
        use = worker.uses.get(key) or worker.strays.get(key)
        if use is None:
            self.down(worker).acks.add(key, [finished.attempt for finished in report.finished])
            return
        for finished in report.finished:
            job = use.jobs.get(finished.attempt)
            if worker.burnt and (key, finished.attempt) in worker.burnt:
                continue
            if job is None:
                self.down(worker).acks.add(key, (finished.attempt,))
            elif job.end is None:
                self._finish(job, finished)
        for started in report.started:
            job = use.jobs.get(started.attempt)
            if job is not None and job.end is None and not job.started and (key, job.attempt) not in worker.burnt:
                self._start(job, started)
        for attempt in report.recalled:
            job = use.jobs.get(attempt)
            if job is not None and job.end is None and (key, attempt) not in worker.burnt:
                self.give_back(job)

    def settle(self, worker: Worker, mark: int) -> None:
        """A worker has heard all that was said before a mark."""
        worker.burnt = {burnt: wanted for burnt, wanted in worker.burnt.items() if wanted > mark}
        behind, worker.behind = worker.behind, {}
        for job in behind:
            self._send(job)
            if job.cancelled:
                self.cancel(job)

    def expect(self, use: Use, listing: pb.Use) -> None:
        """Write into a new use what its run believes to have under way there."""
        for attempt in (*listing.queued, *listing.started):
            use.jobs[attempt] = Job(use, attempt)
        for attempt in listing.started:
            use.jobs[attempt].started = True
        use.worker.count(use, len(use.jobs), len(listing.started))

    def move(self, use: Use, worker: Worker) -> None:
        """The worker of a use has come."""
        use.worker = worker
        worker.count(use, use.open, use.running, again=True)

    def compare(self, use: Use, held: pb.Held) -> None:
        """Bring a use together with what its worker, the same process as before, holds of it."""
        there = {*held.open, *held.ended}
        self._take_chains(use, held)
        box = self.down(use.worker)
        again: set[int] = set()
        for job in list(use.jobs.values()):
            attempt = job.attempt
            if attempt not in use.jobs or job.end is not None:
                continue
            if attempt in there:
                if job.cancelled:
                    box.cancels.add(use.key, (attempt,))
                elif job.recalled and not job.started:
                    box.recalls.add(use.key, (attempt,))
            elif job.started:
                self._lose(job)
            elif job.rides is not None and job.rides.attempt not in again:
                job.absent = True
            elif job.call is None or (job.call.rides and job.rides is None):
                self.give_back(job)
            else:
                again.add(attempt)
                self._send(job)
                if job.cancelled:
                    box.cancels.add(use.key, (attempt,))
        self._burn(use, [attempt for attempt in (*held.ended, *held.open) if attempt not in use.jobs])

    def fill(self, use: Use, held: pb.Held) -> None:
        """Write into a new use what its worker holds."""
        for attempt in (*held.ended, *held.open):
            use.jobs[attempt] = Job(use, attempt)
        use.worker.count(use, len(use.jobs))
        self._take_chains(use, held)

    def give_back(self, job: Job) -> None:
        """An attempt has not been performed, and its worker does not have it any more."""
        self._discard(job)
        if job.use.run is not None:
            self._told(job.use).recalled[job.attempt] = None

    # --- moves ------------------------------------------------------------------------------------------------------------

    def _send(self, job: Job) -> None:
        worker, use = job.use.worker, job.use
        assert job.call is not None
        if worker.link is None:
            return
        if worker.burnt and ((use.key, job.attempt) in worker.burnt or job.rides in worker.behind):
            worker.behind[job] = None
            return
        box = self.down(worker)
        for digest in (job.call.function, use.about.kit, *use.about.needs):
            if digest and worker.pushes(digest):
                data = self._small(digest)
                if data is not None and len(data) <= WHOLE:
                    secret = digest == use.about.kit
                    box.parts.append(pb.Part(digest=digest, size=len(data), data=data, secret=secret))
        box.assign(use.key, use.about, job.call)

    def _take_chains(self, use: Use, held: pb.Held) -> None:
        """Learn from a worker what rides there on what."""
        for attempt, base in zip(held.open, held.rides, strict=False):
            job, on = use.jobs.get(attempt), use.jobs.get(base - 1)
            if job is not None and on is not None and job.rides is None:
                self._uncount(job)
                self._ride(job, on)

    def _ride(self, job: Job, base: Job) -> None:
        job.rides = base
        job.use.riders.setdefault(base.attempt, []).append(job)

    def _burn(self, use: Use, attempts: Sequence[int]) -> None:
        """Have a worker forget what nobody wants, in a use that goes on."""
        if not attempts:
            return
        worker = use.worker
        worker.marks += 1
        box = self.down(worker)
        box.acks.add(use.key, attempts)
        box.mark = worker.marks
        for attempt in attempts:
            worker.burnt[use.key, attempt] = worker.marks

    def _told(self, use: Use) -> Told:
        assert use.run is not None
        return self.tell(use.run).reports.on(use.key)

    def _start(self, job: Job, started: pb.Started) -> None:
        job.started = True
        job.since = started.at
        if job.recalled:
            self.stays(job)
        job.use.worker.count(job.use, 0, 1)
        if job.use.run is not None:
            self._told(job.use).start(started)

    def _finish(self, job: Job, finished: pb.Finished) -> None:
        use = job.use
        self._uncount(job)
        if job.rides is not None:
            use.riders[job.rides.attempt].remove(job)
            job.rides = None
        job.end = finished
        if job.recalled:
            self.stays(job)
        use.jobs[job.attempt] = use.jobs.pop(
            job.attempt
        )  # ends stand in their order: what is ridden on before what rides
        if use.run is not None:
            self._told(use).finish(finished)
        completed = finished.outcome == Outcome.COMPLETED
        for rider in use.riders.pop(job.attempt, ()):
            if not completed:
                self._discard(rider)
                continue
            rider.rides = None
            use.worker.count(use, 1)
            if rider.absent:
                self.give_back(rider)

    def _lose(self, job: Job) -> None:
        self._discard(job)
        if job.use.run is not None:
            self._told(job.use).finish(_lost(job.attempt, "its worker has no trace of it"))

    def _discard(self, job: Job) -> None:
        """Take an attempt out of the book, with those that ride on it."""
        use = job.use
        use.jobs.pop(job.attempt, None)
        if job.rides is not None and job in use.riders.get(job.rides.attempt, ()):
            use.riders[job.rides.attempt].remove(job)
        use.worker.box.unsent(use.key, job.attempt)
        use.worker.behind.pop(job, None)
        if job.end is None:
            self._uncount(job)
        for rider in use.riders.pop(job.attempt, ()):
            self._discard(rider)

    def _uncount(self, job: Job) -> None:
        if job.rides is None:
            job.use.worker.count(job.use, -1, -int(job.started))


def _nobody(job: Job) -> None:
    """Nobody wants to know."""


def _lost(attempt: int, reason: str) -> pb.Finished:
    return pb.Finished(attempt=attempt, outcome=Outcome.LOST, error=reason)
