"""What stands in a process of a Dask worker: the seat of a performer, which Dask keeps as an actor.

Everything here runs on the worker; it knows neither the client nor the run.
"""

from __future__ import annotations

import os
import sys
from pickle import dumps, loads
from typing import Any

from dagrid.execution.backends._performer import Performer

LISTENED = 15.0
"""Seconds after which who listens is answered in any case: a driver that is gone does not ask again, and its seats are cleared."""


class Seat:
    """A performer for as long as Dask keeps it.

    Args:
        name: what the performer is called.
    """

    def __init__(self, name: str) -> None:
        self._performer = Performer(name)

    async def tell(self, letter: bytes) -> None:
        await self._performer.tell(*loads(letter))

    async def listen(self) -> bytes:
        """Return records pickled, for Dask would pickle them one by one."""
        return dumps(await self._performer.listen(LISTENED), 5)

    async def leave(self, by_force: bool) -> None:
        """Perform nothing any more. What runs is stopped by force only, which ends the process."""
        if by_force and self._performer.busy:
            os._exit(1)
        self._performer.end()

    def __del__(self) -> None:
        self._performer.end()


def introduce(dask_worker: Any = None) -> dict[str, Any]:
    """Return what a driver has to know of this worker."""
    return {
        "name": str(dask_worker.name),
        "host": dask_worker.ip,
        "threads": dask_worker.state.nthreads,
        "nanny": bool(dask_worker.nanny),
        "resources": dict(dask_worker.state.total_resources),
        "python": sys.version_info[:2],
    }
