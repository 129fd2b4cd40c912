"""A Dask cluster as a place: attempts run in performers that live on its workers.

This is the face of the crew, and the client that it works with; what a run decides, it does not know.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, ClassVar
from weakref import finalize

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm.core import connect

from dagrid.errors import BackendError, BackendUnreachableError, InvalidSettingError
from dagrid.execution.backends._crew import WINDOW, Crew
from dagrid.execution.backends._dask import Cluster
from dagrid.execution.backends._dask_tasks import Tasks, check
from dagrid.execution.backends._delegate import Delegation, Joined
from dagrid.execution.backends._remote import Depot
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase, Sessions, check_seconds, check_whole
from dagrid.ports import Capabilities, Host, Needs

IN_FLIGHT = 256
"""How many tasks of Dask's may be under way for a run."""
KEEP = 30.0
"""Seconds for which performers stay that have nothing to do."""
PATIENT = {"distributed.deploy.lost-worker-timeout": "1000 days"}
"""With this setting a cluster of Dask's looks after no death whether the worker is there again."""
GUARD = (
    'Each loads your script anew, so let the script run its graph below `if __name__ == "__main__":`, or give the address of a '
    "cluster that runs."
)


class DaskBackend(BackendBase):
    """Perform attempts on the workers of a Dask cluster.

    Each Dask worker is as many workers of the run, under its address, as it has threads; those that come and go are seen. They
    are performers beside Dask's own tasks, which the scheduler does not count: short tasks cost a fraction of a task of Dask's.
    Tasks find `distributed.get_worker()` and `get_client()` there. The workers need dagrid, and the Python of this process. The
    times of attempts are those of the workers' clocks.

    A client that is given or current is used and left open. With an address a connection is made, and closed with the backend.
    Without any of these, worker processes are started on this machine for as long as the backend is open; a script then needs
    Python's `if __name__ == "__main__"` guard, as always with Dask.

    Dask cannot stop what a worker runs. Where `kill` is on and every worker has one thread and a nanny, a cancelled or late
    attempt is stopped by ending the worker's process, which the nanny replaces. Otherwise it is abandoned: it goes on to its end
    beside what takes its place.

    A node with `resources` is a task of Dask's, which is run again by Dask itself where its worker dies before anybody knew that
    it had begun. With `on_lost="fail"` the scheduler knows it first: it runs once, and costs about twice as much as another.

    Args:
        address: a scheduler's, such as "tcp://host:8786" or "host:8786".
        client: a `distributed.Client`, not an asynchronous one.
        max_workers: how many attempts run at once at most; for processes of our own also how many there are. None means all
            that the cluster has, or one for each processor.
        kill: end workers' processes to stop what they run. None: only if they are our own, for what else a worker keeps in
            memory is lost with it. A `LocalCluster` gives up a worker that is not there some time after it died
            (`distributed.deploy.lost-worker-timeout` of Dask's configuration, 15 s), also if it only died again: set that high
            where `kill` is on. For our own it is.
        timeout: seconds to wait for the scheduler.

    Raises:
        InvalidSettingError: settings that cannot be, or exclude each other.
        BackendUnreachableError: there is no scheduler at the address.
        CapabilityError: the workers do not have dagrid, or another Python.
        BackendError: worker processes cannot be started, such as by a script without the guard.
    """

    name: ClassVar[str] = "dask"

    def __init__(
        self,
        address: str | None = None,
        client: Any = None,
        max_workers: int | None = None,
        kill: bool | None = None,
        timeout: float = 5.0,
    ) -> None:
        super().__init__()
        check_whole(max_workers=max_workers)
        check_seconds(timeout=timeout)
        if not isinstance(kill, bool | None):
            raise InvalidSettingError(f"kill is true or false, not {kill!r}.")
        if not isinstance(client, Client | None):
            raise InvalidSettingError(f"client is a distributed.Client, not {client!r}.")
        if address is not None and client is not None:
            raise InvalidSettingError("Give an address or a client, not both.")
        client = client if client is not None else _current() if address is None else None
        if client is not None and client.asynchronous:
            raise InvalidSettingError("The client is asynchronous. Give one that was made with asynchronous=False.")
        self.max_workers = max_workers
        ours = ExitStack()
        is_ours = client is None
        try:
            if is_ours:
                if address is None:
                    address = _start_cluster(max_workers or os.cpu_count() or 1, ours).scheduler_address
                    kill = kill is not False
                client = _connect(str(address), timeout)
                ours.callback(_close, client)
            self.client: Any = client
            self._cluster = Cluster(client, max_workers)
            self._cluster.join(bool(kill))
        except BaseException:
            ours.close()
            raise
        self._depot = Depot(self._cluster.fetch)
        self._crew = Crew(self.name, self._cluster.seat, self._cluster.sites, WINDOW, KEEP, self._depot)
        self._tasks = Tasks(self._cluster)
        self._delegations: Sessions[Delegation] = Sessions()
        self._cluster.follow(self._crew)
        # Also for a backend that is dropped without being closed, and at the end of the program.
        self._finalizer = finalize(self, _end, self._crew, self._tasks, self._cluster, self._depot, ours, is_ours)

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        kills = self._cluster.ends_processes
        return Capabilities(kills=kills, cancels=True, passes_references=True, chains=True, delegates=True)

    def open(self, host: Host) -> Joined:
        """Begin to serve a run: announce the workers that there are."""
        self.check_open()
        delegation = Delegation(host, self._tasks, self._depot, self.name, self._delegations, IN_FLIGHT)
        return Joined(self._crew.open(host, self), delegation)

    def check(self, needs: Mapping[str, Needs]) -> None:
        """Refuse a graph of whose nodes one asks for what no worker of the cluster has. Raises UnsatisfiableError."""
        self.check_open()
        check(self._cluster, needs)

    def release(self, wait: bool) -> None:
        """End the performers, and what was started or connected here."""
        for delegation in self._delegations:
            delegation.refuse()
        self._crew.stop()
        if wait:
            self._cluster.wait()
        self._finalizer()


def _end(crew: Crew, tasks: Tasks, cluster: Cluster, depot: Depot, ours: ExitStack, is_ours: bool) -> None:
    crew.stop()
    tasks.close()
    cluster.leave()
    if is_ours and cluster.client.status == "running":
        depot.bring_home()
    ours.close()


def _close(one: Any) -> None:
    with suppress(Exception):
        one.close()


def _current() -> Any:
    try:
        return Client.current(allow_global=True)
    except ValueError:
        return None


def _connect(address: str, timeout: float) -> Any:
    try:
        with ThreadPoolExecutor(1) as alone:  # there may be a loop in this thread
            alone.submit(asyncio.run, _greet(address, timeout)).result()
        return Client(address, timeout=timeout, set_as_default=False)
    except (
        OSError,
        ValueError,
        MemoryError,
    ) as error:  # TimeoutError is an OSError; what is no message looks like a huge one
        raise BackendUnreachableError(
            f"There is no Dask scheduler at {address!r} that answers within {timeout:g} s ({told(error)}). "
            "Start one there with `dask scheduler`, or correct the address."
        ) from error


async def _greet(address: str, timeout: float) -> None:
    """Raise an error if nobody at an address speaks as Dask does: a client would wait for a word for ever."""
    async with asyncio.timeout(timeout):
        line = await connect(address, timeout=timeout, **Security().get_connection_args("client"))
        await line.close()


def _start_cluster(processes: int, ours: ExitStack) -> Any:
    """Start workers, which are ended with `ours`.

    Their nannies replace whoever dies; the cluster would give up those that are just being replaced when it looks.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself looks
        raise BackendError(f"A worker process of Dask's may not start others while it loads your script. {GUARD}")
    ours.enter_context(dask.config.set(PATIENT))
    try:
        cluster = LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        raise BackendError(f"Dask could not start worker processes here ({told(error)}). {GUARD}") from error
    ours.callback(_close, cluster)
    return cluster
