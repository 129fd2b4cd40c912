"""Python calls on a worker: processes that stay warm, and which of them gets which call.

It chooses the process that has the least, moves what waits behind a long call to one that has nothing, and begins anew elsewhere
what waited in a process that died. It knows the pool of processes; books and streams it does not know.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterable
from functools import partial
from time import perf_counter
from typing import Any, Protocol, cast

from dagrid.execution.backends._transfer import Packed
from dagrid.execution.backends._worker import encode
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.beside import Beside
from dagrid.machine.events import Finished, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call
from dagrid.service.worker.tasks import Desk, Task, cancelled, end_of, lost, token_of

LONG = 0.003
"""Seconds after which what waits behind a call may go elsewhere."""


class Reader(Protocol):
    """Who is told what becomes of tasks, in the loop."""

    def began(self, task: Task, at: float) -> None: ...

    def ended(self, task: Task, end: pb.Finished) -> None: ...

    def returned(self, task: Task) -> None: ...

    def settled(self) -> None: ...


class Lane:
    """A process with the tasks that it has, in their order; the first one runs, since `since`."""

    __slots__ = ("number", "recalling", "since", "tasks", "unsent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.tasks: dict[int, Task] = {}
        self.unsent: list[Task] = []
        self.since = 0.0
        self.recalling = False


class Processes:
    """The warm processes of a worker. All of it is called in the loop.

    Args:
        loop: of the worker.
        slots: how many processes.
        contents: has functions and arguments, and gets large values.
        reader: is told.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        slots: int,
        contents: Contents,
        reader: Reader,
    ) -> None:
        self._loop = loop
        self._contents = contents
        self._reader = reader
        self._backend = MultiprocessingBackend(slots)
        self._session = self._backend.open_packed(Desk(loop, self._prepare, self._take))
        self._lanes: dict[int, Lane] = {}
        self._waiting: list[Task] = []  # for the first process
        self._levelling = False

    def perform(self, tasks: Iterable[Task]) -> None:
        """Let tasks be performed; those that ride follow those that they ride on."""
        for task in tasks:
            self._place(task)
        for lane in self._lanes.values():
            if lane.unsent:
                calls = [self._call(task) for task in lane.unsent]
                lane.unsent.clear()
                self._session.perform(Bundle(lane.number, calls))
        self._level()

    def stop(self, task: Task) -> None:
        """End a task, by force if it runs."""
        task.stopped = True
        if task.lane >= 0:
            self._session.cancel(task.lane, task.attempt)
        elif task in self._waiting:
            self._waiting.remove(task)
            self._end(task, cancelled(perf_counter()))

    def take_back(self, task: Task) -> None:
        """Give a task back, if it has not started."""
        task.back = True
        if task.lane >= 0:
            self._session.recall(task.lane, [task.attempt])
        elif task in self._waiting:
            self._waiting.remove(task)
            self._give_back(task)

    def forget(self, functions: Iterable[Packed]) -> None:
        """Let go of functions that nobody will call any more."""
        self._session.forget(list(functions))

    def close(self) -> None:
        """End all processes."""
        self._session.close()
        self._backend.close(wait=False)

    # Which process.

    def _place(self, task: Task) -> None:
        rides = task.rides
        if rides is not None and rides.end is not None:
            if rides.completed:
                self._give_back(task)
            return
        if not self._lanes:
            self._waiting.append(task)
            return
        lane = self._lanes.get(rides.lane) if rides is not None else None
        if lane is None:
            lane = min(self._lanes.values(), key=lambda lane: len(lane.tasks))
        if not lane.tasks:
            lane.since = perf_counter()
        task.lane = lane.number
        lane.tasks[task.token] = task
        lane.unsent.append(task)

    def _call(self, task: Task) -> Call:
        call, run = task.call, task.run
        fn = run.packed.get(call.function)
        if fn is None:
            fn = run.packed[call.function] = Packed(self._contents.get(call.function))
        sent = self._contents.get(call.apart) if call.apart else call.arguments
        if call.values:
            sent = encode(Beside(sent, {digest: self._contents.path(digest) for digest in call.values}))
        arguments: Any = Packed(sent) if sent else ()
        rides = -1 if task.rides is None else task.rides.attempt
        return Call(
            task.attempt,
            call.node,
            fn,
            cast(Any, arguments),
            grows=call.grows,
            rides=rides,
            key=call.key,
            path=run.path,
            folder=run.place,
        )

    def _level(self) -> None:
        """Where a process has nothing, and another one has something waiting behind a long call, take that back."""
        if self._levelling or all(lane.tasks for lane in self._lanes.values()):
            return
        now = perf_counter()
        again = False
        for lane in self._lanes.values():
            if len(lane.tasks) < 2 or lane.recalling:
                continue
            if now - lane.since < LONG:
                again = True
                continue
            loose = [task for task in list(lane.tasks.values())[1:] if task.rides is None and not task.riders]
            if loose:
                lane.recalling = True
                self._session.recall(lane.number, [task.attempt for task in loose[len(loose) // 2 :]])
        if again:
            self._levelling = True
            self._loop.call_later(LONG, self._level_again)

    def _level_again(self) -> None:
        self._levelling = False
        self._level()

    # What happens there.

    def _prepare(self, event: Stimulus) -> Any:
        """In the pool's thread: make the report of an end."""
        return (
            (event.attempt, end_of(event, partial(self._contents.put, holder=event.attempt)))
            if isinstance(event, Finished)
            else event
        )

    def _take(self, events: list[Any]) -> None:
        again: list[Task] = []
        for event in events:
            if isinstance(event, tuple):
                self._take_end(*event)
                if event[1].apart:
                    self._contents.release(event[0])  # who wants it has it by now
            elif isinstance(event, Started):
                self._take_start(event)
            elif isinstance(event, WorkerJoined):
                self._lanes[event.worker] = Lane(event.worker)
                again += self._waiting
                self._waiting = []
            elif isinstance(event, WorkerGone):
                again += self._bury(event)
            elif isinstance(event, Recalled):
                again += self._take_back(event)
        self.perform(again)
        self._reader.settled()

    def _task_of(self, number: int, attempt: int) -> Task | None:
        lane = self._lanes.get(number)
        return None if lane is None else lane.tasks.get(token_of(attempt))

    def _take_start(self, event: Started) -> None:
        task = self._task_of(event.worker, event.attempt)
        if task is not None:
            task.began = True
            self._lanes[event.worker].since = event.at
            self._reader.began(task, event.at)

    def _take_end(self, attempt: int, end: pb.Finished) -> None:
        token = token_of(attempt)
        lane = next((lane for lane in self._lanes.values() if token in lane.tasks), None)
        if lane is None:
            return
        task = lane.tasks.pop(token)
        lane.since, lane.recalling = perf_counter(), False
        self._end(task, end)

    def _end(self, task: Task, end: pb.Finished) -> None:
        task.end, task.lane = end, -1
        if not task.completed:
            self._drop_riders(task)
        self._reader.ended(task, end)

    def _drop_riders(self, task: Task) -> None:
        """What rides on a task that does not complete here is not performed; the book knows that."""
        for rider in task.riders:
            rider.gone = True
            lane = self._lanes.get(rider.lane)
            if lane is not None:
                lane.tasks.pop(rider.token, None)
                if rider in lane.unsent:
                    lane.unsent.remove(rider)
            if rider in self._waiting:
                self._waiting.remove(rider)
            self._drop_riders(rider)

    def _give_back(self, task: Task) -> None:
        task.lane = -1
        self._drop_riders(task)
        self._reader.returned(task)

    def _take_back(self, event: Recalled) -> list[Task]:
        """Return those of the tasks that were given back which go elsewhere here."""
        lane = self._lanes.get(event.worker)
        if lane is None:
            return []
        lane.recalling = False
        again = []
        for attempt in event.attempts:
            task = lane.tasks.pop(token_of(attempt), None)
            if task is None:
                continue
            if task.stopped:
                self._end(task, cancelled(perf_counter()))
            elif task.back:
                self._give_back(task)
            else:
                task.lane = -1
                again.append(task)
        return again

    def _bury(self, event: WorkerGone) -> list[Task]:
        """A process has died: what it ran is lost, unless somebody wanted that; return what goes elsewhere here."""
        lane = self._lanes.pop(event.worker, None)
        if lane is None:
            return []
        again = []
        for task in list(lane.tasks.values()):
            task.lane = -1
            if task.gone:
                continue
            if task.stopped:
                self._end(task, cancelled(event.at))
            elif task.began:
                self._end(task, lost(event.reason, lane.since, event.at))
            elif task.back or (task.rides is not None and task.rides.completed):
                self._give_back(task)
            else:
                again.append(task)
        return again
