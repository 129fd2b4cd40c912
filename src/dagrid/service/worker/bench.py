"""What a worker's book says, done: calls go to warm processes, commands to the thread that watches them, under their run's kit.

The backends here are opened when there is something for them. All of it is called in the worker's loop, which is told in batches
what happens. It knows neither streams nor how attempts are numbered elsewhere.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic, perf_counter

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.cluster.duty import Act, Duty, Forget, Leave, Perform, Prepare, Stop, TakeBack
from dagrid.execution.watchdog import Leash
from dagrid.ports import Artifacts
from dagrid.service.worker.commands import Commands
from dagrid.service.worker.processes import Processes
from dagrid.service.worker.runs import Run, Runs
from dagrid.service.worker.tasks import SHIFT, Task, cancelled, failed

_log = logging.getLogger("dagrid.worker")

MOMENT = 0.01
"""Seconds after which it is told that something has begun that has not ended."""
COMMAND = "command"
"""The place of calls that are commands."""


class Bench:
    """Performs what the book of a worker says, and tells the book what becomes of it.

    Args:
        duty: the book.
        loop: of the worker.
        slots: how much is performed at once.
        folder: where runs get folders of their own.
        contents: has functions, arguments and kits, and gets large values.
        labels: of the worker.
        begun: called with a run that has got a folder.
        ended: called with a task that has ended, before the book is told.
        over: called with a run of which nothing is left, before its folder goes.
        changed: called when there may be something to send.
        leave: called when the worker is to end.
    """

    def __init__(
        self,
        duty: Duty,
        *,
        loop: AbstractEventLoop,
        slots: int,
        folder: Path,
        contents: Contents,
        labels: Mapping[str, str],
        begun: Callable[[Run], None],
        ended: Callable[[Task], None],
        over: Callable[[Run], None],
        changed: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self._duty = duty
        self._loop = loop
        self._slots = slots
        self._contents = contents
        self._ended = ended
        self._over = over
        self._changed = changed
        self._leave = leave
        self._runs = Runs(loop, folder, contents, labels, begun)
        self._tasks: dict[int, Task] = {}
        self._arriving: dict[str, list[Task]] = {}  # by run, what waits for its kit
        self._urgent = self._telling = False
        self._processes: Processes | None = None
        self._commands: dict[bool, Commands] = {}  # those that end at a time too, and the others

    def do(self, acts: Iterable[Act]) -> None:
        """Do what the book says."""
        calls: list[Task] = []
        commands: list[Task] = []
        coming: list[Prepare] = []
        for some in self._commands.values():
            some.lengthen(self._duty.killed_at)
        for act in acts:
            if isinstance(act, Perform):
                self._take(act, calls, commands)
            elif isinstance(act, Prepare):
                coming.append(act)
            elif isinstance(act, Stop):
                self._stop(act.token)
            elif isinstance(act, TakeBack):
                self._take_back(act.token)
            elif isinstance(act, Forget):
                self._forget(act.run)
            elif isinstance(act, Leave):
                if act.untold:
                    _log.warning(
                        "No coordinator has come in a lease: how they have ended is left untold of attempts: %d.",
                        act.untold,
                    )
                self._leave()
        self._perform(calls, commands)
        for next_one in coming:
            self._run(next_one.run, next_one.kit)

    def artifacts_of(self, name: str) -> Artifacts | None:
        """Return where a run wants its large values to be kept; None: with the coordinator."""
        run = self._runs.get(name)
        return None if run is None or run.surroundings is None else getattr(run.surroundings, "artifacts", None)

    def close(self) -> None:
        """End all that is performed, and remove what belongs to it."""
        if self._processes is not None:
            self._processes.close()
        for commands in self._commands.values():
            commands.close()
        self._runs.close()

    def _take(self, act: Perform, calls: list[Task], commands: list[Task]) -> None:
        run = self._run(act.run, act.kit)
        task = self._tasks[act.token] = Task(act.token, run, act.fence, act.call, self._ridden(act, run))
        if not run.ready or act.run in self._arriving:
            self._arriving.setdefault(act.run, []).append(task)
        else:
            (commands if act.call.place == COMMAND else calls).append(task)

    def _run(self, name: str, kit: bytes) -> Run:
        return self._runs.get(name) or self._runs.begin(name, kit, self._arrived)

    def _ridden(self, act: Perform, run: Run) -> Task | None:
        """Return the task that a call rides on; it came just before."""
        if not act.call.rides:
            return None
        key = run, act.fence, act.call.rides - 1
        return next(
            (task for task in reversed(self._tasks.values()) if (task.run, task.fence, task.call.attempt) == key), None
        )

    def _arrived(self, run: Run) -> None:
        """The kit of a run has been opened: what waited for it is performed."""
        waiting = self._arriving.pop(run.name, [])
        calls = [task for task in waiting if task.call.place != COMMAND]
        self._perform(calls, [task for task in waiting if task.call.place == COMMAND])
        self._changed()

    def _perform(self, calls: list[Task], commands: list[Task]) -> None:
        for tasks in (calls, commands):
            for task in [task for task in tasks if task.run.error is not None]:
                tasks.remove(task)
                assert task.run.error is not None
                self.ended(task, failed(task.run.error))
        if calls:
            if self._processes is None:
                self._processes = Processes(self._loop, self._slots, self._contents, self)
            self._processes.perform(calls)
        if commands:
            ending = {task.head for task in commands if task.call.exclusive}
            for leashed in (False, True):
                some = [task for task in commands if (task.head in ending) == leashed]
                if some:
                    self._commands_for(leashed).perform(some)

    def _commands_for(self, leashed: bool) -> Commands:
        found = self._commands.get(leashed)
        if found is None:
            leash = Leash(self._duty.killed_at) if leashed else None
            found = Commands(self._loop, self._slots, self._contents, self, leash)
            self._commands[leashed] = found
        return found

    def _stop(self, token: int) -> None:
        task = self._tasks.get(token)
        if task is None:
            return
        if self._waits(task):
            self.ended(task, cancelled(perf_counter()))
        else:
            self._place_of(task).stop(task)

    def _take_back(self, token: int) -> None:
        task = self._tasks.get(token)
        if task is None or task.began:
            return
        if self._waits(task):
            self.returned(task)
        else:
            self._place_of(task).take_back(task)

    def _waits(self, task: Task) -> bool:
        """Take a task out of those that wait for their kit, if it is there."""
        waiting = self._arriving.get(task.run.name, [])
        if task not in waiting:
            return False
        waiting.remove(task)
        return True

    def _place_of(self, task: Task) -> Processes | Commands:
        if task.call.place == COMMAND:
            return next(commands for commands in self._commands.values() if task in commands)
        assert self._processes is not None
        return self._processes

    def _forget(self, name: str) -> None:
        run = self._runs.get(name)
        if run is None:
            return
        if self._processes is not None and run.packed:
            self._processes.forget(run.packed.values())
        for commands in self._commands.values():
            commands.forget(run)
        self._over(run)
        self._runs.end(run)

    # What becomes of tasks.

    def began(self, task: Task, at: float) -> None:
        self._duty.started(task.token, at + SHIFT)

    def ended(self, task: Task, end: pb.Finished) -> None:
        self._urgent = True
        end.attempt = task.call.attempt
        task.end = end
        del self._tasks[task.token]
        if not task.completed:
            self._drop_riders(task)
        self._ended(task)
        self.do(self._duty.finished(task.token, end, monotonic() if task.call.exclusive else None))

    def returned(self, task: Task) -> None:
        self._urgent = True
        del self._tasks[task.token]
        self._drop_riders(task)
        self.do(self._duty.gave_back(task.token))

    def settled(self) -> None:
        """Let what happened be told: ends at once, beginnings in a moment, in which many end too."""
        if self._urgent:
            self._urgent = False
            self._changed()
        elif not self._telling:
            self._telling = True
            self._loop.call_later(MOMENT, self._tell_starts)

    def _tell_starts(self) -> None:
        self._telling = False
        self._changed()

    def _drop_riders(self, task: Task) -> None:
        """What rides on a task that does not complete here is not performed; the book knows that."""
        for rider in task.riders:
            rider.gone = True
            if self._tasks.pop(rider.token, None) is not None:
                self._waits(rider)
            self._drop_riders(rider)
