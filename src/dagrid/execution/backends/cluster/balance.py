"""Room at workers between runs: where one has nothing to do while another one is crowded, what waits there goes elsewhere. Pure.

Each run places its attempts as if its workers were its own; what it cannot see is that others have them too. Only this is done
here: a run is told that it has less room where something of it waits behind other runs, and gives that to another worker itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.books import Run, Worker
from dagrid.execution.backends.cluster.traffic import Traffic


class Balance:
    """What the runs are told of the room that they have."""

    def __init__(self, traffic: Traffic, workers: Mapping[str, Worker], runs: Mapping[str, Run]) -> None:
        self._traffic = traffic
        self._workers = workers
        self._runs = runs

    def look(self, now: float) -> None:
        """Something has happened: see whether somebody has nothing to do, and somebody too much."""

    def set_room(self, run: Run, worker: Worker) -> None:
        """Tell a run how much room it has at a worker, if that is not what it was told last."""
        slots = 0 if worker.draining or worker.link is None else worker.slots
        self._traffic.set_room(run, worker, slots)

    def set_rooms(self, worker: Worker) -> None:
        """Tell all runs how much room they have at a worker."""
        for run in self._runs.values():
            self.set_room(run, worker)

    def placed(self, run: Run, assign: pb.Assign) -> None:
        """A run has given attempts to a worker."""

    def forget(self, worker: Worker) -> None:
        """A worker is gone."""

    def close(self, run: Run) -> None:
        """A run has ended."""
