"""Room at workers between runs: where one has nothing to do while another one is crowded, what waits there goes elsewhere. Pure.

Each run places its attempts as if its workers were its own; what it cannot see is that others have them too. Only this is done
here: a run of which something waits behind other runs is told that it has less room there, and places it elsewhere itself. What
waits behind attempts of its own run is that run's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.books import Crowds, Job, Run, Use, Worker
from dagrid.execution.backends.cluster.traffic import Traffic

PATIENCE = 1.0
"""Seconds after which nobody waits any more for what was taken back to be placed."""
REST = 0.02
"""Seconds for which nothing is looked for where nothing was found."""
MOST = 64
"""The number of attempts of a run that are looked at."""


class Balance:
    """What the runs are told of the room that they have, and what is on its way from one worker to another."""

    def __init__(self, traffic: Traffic, crowds: Crowds, runs: Mapping[str, Run]) -> None:
        self._traffic = traffic
        self._crowds = crowds
        self._runs = runs
        self._moving: dict[
            tuple[str, int], tuple[Worker, float]
        ] = {}  # by run and attempt: where it is wanted, since when
        self._limited: dict[Worker, None] = {}
        traffic.stays = self._stays

    def look(self, now: float) -> None:
        """Something has happened: see who has room again, and whether somebody has nothing to do while others wait."""
        for worker in list(self._limited):
            if not worker.crowded:
                self._lift(worker)
        if not (self._crowds.crowded and self._crowds.free):
            return
        self._expire(now)
        for worker in sorted(self._crowds.free, key=lambda each: each.open / each.slots):
            if worker.open + worker.coming < worker.slots and worker.rests_until <= now:
                worker.rests_until = now if self._fill(worker, now) else now + REST

    def set_room(self, run: Run, worker: Worker) -> None:
        """Tell a run how much room it has at a worker, if that is not what it was told last."""
        slots = 0 if worker.draining or worker.link is None else worker.limited.get(run.key, worker.slots)
        self._traffic.set_room(run, worker, slots)

    def set_rooms(self, worker: Worker) -> None:
        """Tell all runs how much room they have at a worker."""
        for run in self._runs.values():
            self.set_room(run, worker)

    def placed(self, run: Run, assign: pb.Assign) -> None:
        """A run has given attempts to a worker."""
        if self._moving:
            for call in assign.calls:
                self._arrived(run.key, call.attempt)

    def forget(self, worker: Worker) -> None:
        """A worker is gone."""
        self._limited.pop(worker, None)
        for key in [key for key, (other, _) in self._moving.items() if other is worker]:
            del self._moving[key]

    def close(self, run: Run) -> None:
        """A run has ended."""
        for worker in run.touched:
            worker.limited.pop(run.key, None)
        for key in [key for key in self._moving if key[0] == run.key]:
            self._arrived(*key)

    # --- moves ------------------------------------------------------------------------------------------------------------

    def _fill(self, worker: Worker, now: float) -> bool:
        """Take back, for a worker that has nothing to do, what waits elsewhere; return whether there was anything."""
        found = False
        for crowded in sorted(self._crowds.crowded, key=lambda each: each.running - each.open):
            for use, run in self._uses(crowded, worker):
                job = next((job for job in islice(reversed(use.jobs.values()), MOST) if self._moves(job, run)), None)
                if job is None or not self._traffic.recall(job):
                    continue
                found = True
                run.moved.add(job.attempt)
                worker.coming += 1
                self._moving[run.key, job.attempt] = (worker, now)
                crowded.limited[run.key] = use.running
                self._limited[crowded] = None
                self.set_room(run, crowded)
                if worker.open + worker.coming >= worker.slots:
                    return True
                if not crowded.crowded:
                    break
        return found

    @staticmethod
    def _uses(crowded: Worker, worker: Worker) -> Iterator[tuple[Use, Run]]:
        """Yield the uses of a crowded worker by runs that wait for others there and could be elsewhere, the newest first."""
        if len(crowded.groups) < 2:
            return
        for use in reversed(list(crowded.uses.values())):
            run = use.run
            if run is None or use.open > crowded.slots or use.open == use.running:
                continue
            if run.joined.get(worker.id) == worker.generation and worker.takes(run.group):
                yield use, run

    @staticmethod
    def _moves(job: Job, run: Run) -> bool:
        """Whether an attempt may be taken back: once, so that what cannot be elsewhere comes to rest."""
        idle = not (job.started or job.recalled or job.cancelled) and job.end is None and job.rides is None
        return idle and job.attempt not in run.moved

    def _lift(self, worker: Worker) -> None:
        """A worker is not crowded any more: tell the runs that were kept away, if it would begin at once what they send."""
        for key in list(worker.limited):
            run = self._runs.get(key)
            if run is None or worker.takes(run.group):
                del worker.limited[key]
                if run is not None:
                    self.set_room(run, worker)
        if not worker.limited:
            del self._limited[worker]

    def _stays(self, job: Job) -> None:
        """What was to be taken back has been begun."""
        self._arrived(job.use.key[0], job.attempt)

    def _arrived(self, run: str, attempt: int) -> None:
        found = self._moving.pop((run, attempt), None)
        if found is not None:
            found[0].coming -= 1

    def _expire(self, now: float) -> None:
        for key in [key for key, (_, since) in self._moving.items() if now - since > PATIENCE]:
            self._arrived(*key)
