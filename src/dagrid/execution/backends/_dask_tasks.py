"""Calls as tasks of Dask: how they are launched on workers that have what they ask for, watched and stopped.

It knows Dask's client and the flights of a delegation, and nothing of a run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

from distributed import KilledWorker
from distributed.client import done_callback

from dagrid.errors import BackendError, TransferError, UnsatisfiableError
from dagrid.execution.backends._dask import Cluster, Post, Word
from dagrid.execution.backends._dask_worker import end_task, perform_task
from dagrid.execution.backends._delegate import Flight
from dagrid.execution.backends._worker import told
from dagrid.machine.events import Outcome
from dagrid.ports import Needs


class Task:
    """A flight as a task of Dask: its future, where it may run, where it does, and whether its report is there.

    One that is `sure` says that it begins before it does.
    """

    __slots__ = ("allowed", "at", "flight", "future", "label", "landed", "sure")

    def __init__(self, flight: Flight, label: str) -> None:
        self.flight = flight
        self.label = label
        self.future: Any = None
        self.allowed: list[str] | None = None
        self.at = ""
        self.landed = False
        self.sure = False


class Tasks:
    """Launches calls as tasks of Dask, for all runs of a backend.

    What comes together is sent together. All but `launch`, `cancel` and `waiting` runs in the client's loop.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._guard = threading.Lock()
        self._pending: list[Task] = []
        self._ended: list[Task] = []
        self._tasks: dict[str, Task] = {}
        self._suspects: set[str] = set()
        self._numbers = count()
        self._token = uuid4().hex
        cluster.hearers.append(self._hear)
        cluster.mourners.append(self._mourn)

    def launch(self, flight: Flight) -> None:
        """Begin a task with the needs of a flight."""
        task = flight.handle = Task(flight, f"{flight.node}-{next(self._numbers)}-{self._token}")
        with self._guard:
            self._pending.append(task)
            first = len(self._pending) == 1
        if first:
            self._cluster.soon(self._send_off())

    def cancel(self, flight: Flight) -> None:
        """Take back what waits, and end the process of what runs, where that is allowed."""
        if flight.handle is not None:
            self._cluster.soon(self._stop(flight.handle))

    def waiting(self, flights: Sequence[Flight], moving: bool) -> None:
        """Look whether workers for these have come in the place of those that they were meant for."""
        self._cluster.soon(self._redirect([flight.handle for flight in flights if flight.handle is not None]))

    def close(self) -> None:
        """Hear no more."""
        self._cluster.hearers.remove(self._hear)
        self._cluster.mourners.remove(self._mourn)

    async def _send_off(self) -> None:
        with self._guard:
            tasks, self._pending = self._pending, []
        groups: dict[Any, list[Task]] = {}
        for task in tasks:
            needs, references = task.flight.needs, len(task.flight.references)
            key = (tuple(needs.resources.items()), tuple(needs.selector.items()), references)
            groups.setdefault(key, []).append(task)
        for group in groups.values():
            self._submit(group)

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Give tasks to Dask that ask for the same and take as many references."""
        needs = tasks[0].flight.needs
        allowed = [address for address, post in self._cluster.posts.items() if _matches(post, needs)]
        where: dict[str, Any] = {"workers": allowed, "allow_other_workers": False} if needs.selector else {}
        values = [[held.future for held in task.flight.references] for task in tasks]
        for task in tasks:
            task.allowed = allowed if needs.selector else None
            task.sure = task.flight.call.once or task.flight.node in self._suspects
            self._tasks[task.label] = task
        try:
            self._cluster.check_connected()
            futures = self._client.map(
                perform_task,
                [task.label for task in tasks],
                [task.flight.sent for task in tasks],
                [self._client.id] * len(tasks),
                [task.sure for task in tasks],
                *zip(*values, strict=True),
                key=[task.label for task in tasks],
                resources=dict(needs.resources) or None,
                pure=False,
                **where,
            )
        except Exception as error:  # noqa: BLE001 - the client is closed, or the scheduler gone
            for task in tasks:
                self._drop(task)
                task.flight.failed(Outcome.FAILED, _unreachable(task.flight, error))
            return
        for task, future in zip(tasks, futures, strict=True):
            task.future = future
            # A callback of the future's own would come from another thread, and wait there for this one to let go.
            self._client.loop.add_callback(done_callback, future, partial(self._note_end, task))

    def _drop(self, task: Task) -> None:
        self._tasks.pop(task.label, None)
        task.flight.handle = task.future = None

    def _note_end(self, task: Task, _future: object) -> None:
        """Dask has a result, or never will: fetch it, with all others that there are by then, unless its report is there."""
        if task.landed:
            self._drop(task)
            return
        self._ended.append(task)
        if len(self._ended) == 1:
            self._client.loop.add_callback(self._fetch)

    async def _fetch(self) -> None:
        ended, self._ended = self._ended, []
        ended = [task for task in ended if task.future is not None]
        good = [task for task in ended if task.future.status == "finished"]
        answers: list[Any] = []
        if good:
            with suppress(Exception):
                answers = await self._client.gather([task.future for task in good], errors="skip")
        if len(answers) != len(good):
            answers = [await self._answer(task) for task in good]
        for task, answer in zip(good, answers, strict=True):
            self._land(task, answer)
        for task in ended:
            if task.future is not None and task.future.status != "pending":
                error = await self._answer(task)
                self._land(task, error)

    async def _answer(self, task: Task) -> Any:
        try:
            return (await self._client.gather([task.future]))[0]
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever Dask says of the task
            return error

    def _land(self, task: Task, answer: Any) -> None:
        flight = task.flight
        if task.future is None:
            return  # it was taken back while its report was fetched
        forgotten = task.future.status == "cancelled" and not flight.references
        self._drop(task)
        if forgotten:
            self._begin_again(task)
            return
        if isinstance(answer, BaseException):
            flight.failed(*_judged(flight, answer))
            return
        self._suspects.discard(flight.node)
        if isinstance(answer, tuple):
            report, key = answer
            flight.landed(report, self._cluster.held(key))
        else:
            flight.landed(answer)

    def _begin_again(self, task: Task) -> None:
        """Dask has forgotten a task that nobody here took back: somebody restarted its workers."""
        if task.at:
            task.flight.failed(Outcome.LOST, BackendError(f"the Dask worker {task.at} was restarted"))
        else:
            self.launch(task.flight)

    def _hear(self, word: Word) -> None:
        """A worker says of a task that it has begun, or how it ended."""
        label, at, address, report = word
        task = self._tasks.get(label)
        if task is None or task.landed:
            return
        if report:
            task.landed = True
            self._suspects.discard(task.flight.node)
            task.flight.landed(report)
        else:
            task.at = address
            task.flight.begun(at)

    def _mourn(self, address: str, given: Collection[Any]) -> None:
        """A worker has gone: what ran there is lost, and what may have run is launched anew; Dask would run both again by itself.

        From now on these say that they begin before they do, so that it is known which of them ends workers. One that does that
        and has not said so is left to Dask: it may have begun elsewhere by now, and would run twice.
        """
        for task in [self._tasks[label] for label in given if label in self._tasks and self._tasks[label].landed]:
            self._take_back(task)
        for task in [task for task in self._tasks.values() if task.at == address and not task.landed]:
            self._take_back(task)
            self._suspects.add(task.flight.node)
            task.flight.failed(Outcome.LOST, BackendError(f"the Dask worker {address} ended"))
        for task in [self._tasks[label] for label in given if label in self._tasks and not self._tasks[label].sure]:
            self._take_back(task)
            self._suspects.add(task.flight.node)
            self.launch(task.flight)

    def _take_back(self, task: Task) -> None:
        future = task.future
        self._drop(task)
        self._cluster.part(self._forget(future))

    async def _forget(self, future: Any) -> None:
        with suppress(Exception):
            await self._client.cancel([future])

    async def _stop(self, task: Task) -> None:
        if task.future is None or task.landed:
            return
        future, flight = task.future, task.flight
        self._drop(task)
        await self._forget(future)
        if self._cluster.ends_processes:
            with suppress(Exception):
                await self._client.run(end_task, task.label, on_error="ignore")
        flight.failed(Outcome.CANCELLED, BackendError("cancelled"))

    async def _redirect(self, tasks: Sequence[Task]) -> None:
        posts = self._cluster.posts
        for task in tasks:
            stranded = task.allowed is not None and not any(address in posts for address in task.allowed)
            if (
                task.future is None
                or task.landed
                or not stranded
                or not any(_matches(post, task.flight.needs) for post in posts.values())
            ):
                continue
            self._take_back(task)
            self.launch(task.flight)


def check(cluster: Cluster, needs: Mapping[str, Needs]) -> None:
    """Refuse nodes that ask for what no single worker has.

    Raises:
        UnsatisfiableError: it names the node, what it asks for, and what there is.
    """
    posts = list(cluster.posts.values())
    for name, need in needs.items():
        if any(_matches(post, need) and _has(post, need) for post in posts):
            continue
        wanted = _shown({**need.resources, **need.selector})
        there = "; ".join(
            f"{post.address} with {_shown(post.resources) or 'no resources'} and the labels {_shown(post.labels)}"
            for post in posts
        )
        raise UnsatisfiableError(
            f"Node {name!r} asks for {wanted}, and no Dask worker has all of that. There are: {there or 'no workers'}. "
            f"Ask for less, or start workers with it, as in `dask worker --resources 'gpu=1'`."
        )


def _matches(post: Post, needs: Needs) -> bool:
    return all(post.labels.get(label) == value for label, value in needs.selector.items())


def _has(post: Post, needs: Needs) -> bool:
    return all(post.resources.get(name, 0) >= amount for name, amount in needs.resources.items())


def _shown(pairs: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs.items()
    )


def _unreachable(flight: Flight, error: BaseException) -> BackendError:
    found = BackendError(
        f"Dask did not perform node {flight.node!r} ({told(error)}). See whether its scheduler still runs."
    )
    found.__cause__ = error
    return found


def _judged(flight: Flight, error: BaseException) -> tuple[Outcome, BaseException]:
    """Return how a task of Dask ended that has no report, and the error to be shown."""
    if isinstance(error, KilledWorker):
        return Outcome.LOST, error
    if flight.references and isinstance(error, asyncio.CancelledError | CancelledError):
        found = TransferError(
            f"A value that node {flight.node!r} takes stayed where it was made, and cannot be had from there any more. "
            "Run the nodes before it again; a run with a checkpoint keeps a copy of every value.",
            flight.node,
        )
        found.__cause__ = error
        return Outcome.FAILED, found
    return Outcome.FAILED, _unreachable(flight, error)
