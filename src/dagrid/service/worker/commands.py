"""Commands on a worker: they are opened here, in the one thread that watches all processes, under the surroundings of their run.

It knows the backend for commands; books and streams it does not know.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterable
from functools import partial
from time import perf_counter
from typing import Any

from dagrid.attempt import before
from dagrid.execution.backends._worker import Importing, loads
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.command import CommandBackend
from dagrid.execution.beside import open_beside
from dagrid.execution.watchdog import Guard, Leash
from dagrid.machine.events import Finished, Started, Stimulus
from dagrid.ports import Bundle, Call
from dagrid.service.worker.processes import Reader
from dagrid.service.worker.runs import Run
from dagrid.service.worker.tasks import Desk, StuckError, Task, cancelled, end_of, token_of

MANY = 1 << 20
"""Attempts may wait here for as long as they like; how many begin, the book says."""


class _Leashed(CommandBackend):
    """Processes that end at a time too."""

    def __init__(self, max_workers: int, processes: int, leash: Leash) -> None:
        super().__init__(max_workers, processes)
        self._leash = leash

    def guard(self) -> Guard:
        return self._leash


class Commands:
    """The commands of a worker. All of it is called in the loop.

    Args:
        loop: of the worker.
        slots: how many processes run at once.
        contents: has functions and arguments, and gets large values.
        reader: is told.
        leash: ends the processes at its time, where they are not to outlive that; it is closed with this.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        slots: int,
        contents: Contents,
        reader: Reader,
        leash: Leash | None = None,
    ) -> None:
        self._contents = contents
        self._reader = reader
        self._tasks: dict[int, Task] = {}
        self._importing = Importing()
        self._leash = leash
        self._backend = CommandBackend(MANY, slots) if leash is None else _Leashed(MANY, slots, leash)
        self._desk = Desk(loop, self._prepare, self._take)
        self._session = self._backend.open(self._desk)

    def __contains__(self, task: Task) -> bool:
        return task.token in self._tasks

    def perform(self, tasks: Iterable[Task]) -> None:
        """Let tasks be performed; those that ride follow those that they ride on."""
        calls = []
        for task in tasks:
            self._tasks[task.token] = task
            rides = task.rides
            if rides is None or rides.completed:
                calls.append(self._call(task))
            elif rides.completed is False:
                self._drop(task)
        if calls:
            self._session.perform(Bundle(0, calls))

    def stop(self, task: Task) -> None:
        """End a task, by force when its time of grace is over."""
        task.stopped = True
        rides = task.rides
        if rides is not None and rides.end is None:
            self._end(task, cancelled(perf_counter()))
        else:
            self._session.cancel(0, task.attempt)

    def take_back(self, task: Task) -> None:
        """Nothing is given back that was begun, and here all is."""

    def forget(self, run: Run) -> None:
        """Let go of the warm processes of a run that is over: nobody else asks them, and they have its variables."""
        servers = tuple(getattr(run.surroundings, "servers", ()))
        if servers:
            self._session.dismiss(servers)

    def close(self) -> None:
        """End all that runs."""
        self._session.close()
        self._backend.close()
        if self._leash is not None:
            self._leash.close()

    def lengthen(self, until: float) -> None:
        """Put off the time at which the processes end, if they have one."""
        if self._leash is not None:
            self._leash.lengthen(until)

    def _call(self, task: Task) -> Call:
        call = task.call
        return Call(
            task.attempt,
            call.node,
            lambda *_: self._opened(task),
            (),
            None,
            call.grows,
            None,
            -1,
            call.key,
            task.run.path,
        )

    def _opened(self, task: Task) -> Any:
        """In the thread of the commands: open a call, and return what its task wants to be done."""
        run, call = task.run, task.call
        if run.path != self._importing.path:
            self._importing.move(run.path)
        fn = run.opened.get(call.function)
        if fn is None:
            try:
                fn = loads(self._contents.get(call.function))
            except BaseException as error:
                raise StuckError("function") from error
            if run.surroundings is not None:
                fn = run.surroundings.around(fn)
            run.opened[call.function] = fn
        if task.rides is not None:
            end = task.rides.end
            assert end is not None
            data = self._contents.get(end.apart) if end.apart else end.value
            before.set(lambda: loads(data) if data else None)
        sent = self._contents.get(call.apart) if call.apart else call.arguments
        args, kwargs = (), None
        if sent:
            try:
                args, kwargs = open_beside(sent, {digest: self._contents.path(digest) for digest in call.values})
            except BaseException as error:
                raise StuckError("argument") from error
        return fn(*args, **(kwargs or {}))

    def _prepare(self, event: Stimulus) -> Any:
        """In the thread of the commands: make the report of an end."""
        if isinstance(event, Finished):
            return event.attempt, end_of(event, partial(self._contents.put, holder=event.attempt))
        return event if isinstance(event, Started) else None

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, tuple):
                task = self._tasks.get(token_of(event[0]))
                if task is not None:
                    self._end(task, event[1])
                if event[1].apart:
                    self._contents.release(event[0])  # who wants it has it by now
                continue
            task = self._tasks.get(token_of(event.attempt))
            if task is not None:
                task.began = True
                self._reader.began(task, event.at)
        self._reader.settled()

    def _end(self, task: Task, end: pb.Finished) -> None:
        task.end = end
        del self._tasks[task.token]
        riders = [rider for rider in task.riders if rider.token in self._tasks]
        if task.completed:
            if riders:
                self._session.perform(Bundle(0, [self._call(rider) for rider in riders]))
        else:
            for rider in riders:
                self._drop(rider)
        self._reader.ended(task, end)

    def _drop(self, task: Task) -> None:
        """What rides on a task that does not complete is not performed; the book knows that."""
        task.gone = True
        self._tasks.pop(task.token, None)
        for rider in task.riders:
            self._drop(rider)
