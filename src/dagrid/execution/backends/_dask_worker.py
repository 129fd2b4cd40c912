"""What runs in a process of a Dask worker: the seat of a performer, which Dask keeps as an actor, and calls as tasks of Dask's.

A large value becomes one of Dask's data where it was made, under a key. It knows neither the client nor the run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pickle import dumps, loads
from time import time
from typing import Any
from uuid import uuid4

from distributed import Status, get_worker
from distributed.utils_comm import gather_from_workers

from dagrid.execution.backends import _remote
from dagrid.execution.backends._herald import Herald
from dagrid.execution.backends._performer import REMEMBERED, Performer

LISTENED = 15.0
"""Seconds after which who listens is answered in any case: a driver that is gone does not ask again, and its seats go."""
SOON = 0.05
"""Seconds after which a nanny is asked again."""
TELLING = 1024
"""The scheduler tells the driver of a report at once that has no more bytes than this; any other is fetched from the worker."""
NOWHERE = "nowhere"
"""The address of no worker."""

_functions: dict[bytes, Callable[..., Any]] = {}
_running: set[str] = set()
_herald = Herald()


class Seat:
    """A performer for as long as Dask keeps it.

    Args:
        name: what the performer is called.
        client: for whom Dask keeps its large values.
    """

    def __init__(self, name: str, client: str) -> None:
        self._worker = get_worker()
        self._client = client
        self._performer = Performer(name, partial(fetch, self._worker))

    async def tell(self, letter: bytes) -> None:
        """Take a letter, pickled as a whole."""
        await self._performer.tell(*loads(letter))

    async def listen(self) -> bytes:
        """Return records pickled, for Dask would pickle them one by one, and the key of a value that it keeps."""
        records, kept = await self._performer.listen_apart(LISTENED)
        key = None if kept is None else await _keep(self._worker, kept, self._client)
        return dumps((records, key), 5)

    async def leave(self, by_force: bool) -> None:
        """Perform nothing any more. What runs is stopped by force only, which ends the process."""
        if by_force:
            await _end_process(self._worker, lambda: self._performer.busy)
        self._performer.end()

    def __del__(self) -> None:
        self._performer.end()


def perform_task(label: str, sent: bytes, client: str, surely: bool, *values: bytes) -> bytes | tuple[bytes, str]:
    """Be a task of Dask: perform a call, and return its report and the key of a large value, if it made one.

    Args:
        label: the key of the task.
        sent: the call as bytes.
        client: for whom Dask keeps its large value, and who hears that it has begun, and its report if that is short.
        surely: have the driver know that it begins before it does, which costs as much as the task.
        values: what the references in the call stand for.
    """
    worker: Any = get_worker()
    if len(_functions) > REMEMBERED:
        _functions.clear()
    if surely:
        asyncio.run_coroutine_threadsafe(_begin(worker, client, label), worker.loop.asyncio_loop).result()
    _running.add(label)
    told = _herald.enter(partial(_say, worker, client, label))
    try:
        report, kept = _remote.perform_apart(sent, _functions, (lambda: values) if values else None)
    finally:
        _herald.leave(told)
        _running.discard(label)
    if kept is None:
        if len(report) <= TELLING:
            worker.log_event(client, (label, 0.0, "", report))
        return report
    keeping = _keep(worker, kept, client)
    return report, asyncio.run_coroutine_threadsafe(keeping, worker.loop.asyncio_loop).result()


async def _begin(worker: Any, client: str, label: str) -> None:
    """Have the scheduler tell the driver that a task begins, and then find no other place for it.

    Else Dask would run it again by itself if this worker goes.
    """
    await worker.scheduler.log_event(topic=client, msg=(label, time(), worker.address, b""))
    await worker.scheduler.set_restrictions(worker={label: [NOWHERE]})


def _say(worker: Any, client: str, label: str, at: float) -> None:
    worker.log_event(client, (label, at, worker.address, b""))


def fetch(worker: Any, keys: Sequence[str]) -> Sequence[bytes]:
    """Return the pickled values that Dask keeps under these keys; asked outside of the worker's loop.

    Raises:
        LookupError: one is not there any more.
    """
    return asyncio.run_coroutine_threadsafe(_fetch(worker, keys), worker.loop.asyncio_loop).result()


async def _fetch(worker: Any, keys: Sequence[str]) -> list[bytes]:
    found: dict[Any, Any] = {key: worker.data[key] for key in keys if key in worker.data}
    absent = [key for key in keys if key not in found]
    if absent:
        holders = await worker.scheduler.who_has(keys=absent)
        there, *_ = await gather_from_workers(holders, rpc=worker.rpc, who=worker.address)
        found.update(there)
    lost = [key for key in keys if key not in found]
    if lost:
        raise LookupError(f"no Dask worker has {', '.join(lost)}")
    return [found[key] for key in keys]


async def _keep(worker: Any, value: bytes, client: str) -> str:
    """Let Dask keep a value here for a client, as if this had scattered it, and return its key."""
    key = f"dagrid-value-{uuid4().hex}"
    worker.update_data(data={key: value})
    await worker.scheduler.update_data(who_has={key: [worker.address]}, nbytes={key: len(value)}, client=client)
    return key


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


async def end_task(label: str, dask_worker: Any = None) -> None:
    """End this process if this task runs in it."""
    await _end_process(dask_worker, lambda: label in _running)


async def _end_process(worker: Any, wanted: Callable[[], bool]) -> None:
    """End this process as soon as its nanny would replace it, for one that still starts it would give it up."""
    while wanted():
        try:
            answer = await worker.rpc(worker.nanny).run(function=dumps(watches))
            ready = answer.get("result", True)
        except OSError:
            ready = True
        if ready:
            os._exit(1)
        await asyncio.sleep(SOON)


def watches(dask_worker: Any = None) -> bool:
    """In a nanny: whether its worker is up, and it would start another one."""
    process = dask_worker.process
    return process is not None and dask_worker.status == process.status == Status.running
