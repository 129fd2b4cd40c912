"""Worker processes as the simulation has them: the real duty, a bench that pretends to perform, and a dialer that comes back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.duty import Act, Duty, Forget, Leave, Perform, Prepare, Stop, TakeBack
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.machine.events import Outcome
from tests.fleet.network import End, Process, Time
from tests.fleet.processes import LEASE


@dataclass(frozen=True)
class Site:
    """Where worker processes of one id run, one after the other."""

    id: str
    slots: int = 2
    labels: dict[str, str] = field(default_factory=dict)
    max_active_runs: int = 0
    slowness: float = 1.0


@dataclass
class Execution:
    """A call as it was really performed."""

    run: str
    node: str
    attempt: int
    fence: int
    worker: WorkerProcess
    rode: bool
    began: float
    ended: float | None = None
    completed: bool = False
    given_up: bool = False  # a coordinator said that the worker is gone before the run had its end


@dataclass
class Task:
    """What the bench has under a token."""

    perform: Perform
    rides: Task | None = None
    riders: list[Task] = field(default_factory=list)
    execution: Execution | None = None
    stopping: bool = False
    done: bool = False


class Watch:
    """What the world wants to know, and decides, of what workers do."""

    dial: Callable[[WorkerProcess], None]
    began: Callable[[Execution], None]
    duration: Callable[[WorkerProcess, Perform], float]
    result: Callable[[Perform, dict[int, int | None]], int | None]
    left: Callable[[WorkerProcess], None]


class WorkerProcess(Process):
    """One incarnation of a worker."""

    def __init__(self, time: Time, site: Site, number: int, watch: Watch) -> None:
        super().__init__(f"{site.id}.{number}")
        self.time = time
        self.site = site
        self.watch = watch
        self.duty = Duty(
            pb.Hello(
                id=site.id,
                incarnation=self.name,
                labels=site.labels,
                slots=site.slots,
                max_active_runs=site.max_active_runs,
                protocol=PROTOCOL,
                python="3.11",
            )
        )
        self.start = time.chance.random() * 1000  # of its clock, which knows nothing of ours
        self.day = 1e9  # its clock of day, which may be set
        self.end: End | None = None
        self.welcome = False
        self.welcomed_at = -1.0
        self.lost_at = self.busy_until = 0.0
        self.tasks: dict[int, Task] = {}
        self.prepared: set[str] = set()
        self.waiting: list[Task] = []
        self.running: list[Task] = []
        self.ticking = float("inf")
        self.leaving = False

    # --- the stream -------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.start + self.time.now

    def dial(self) -> None:
        if self.end is None and not self.leaving:
            self.watch.dial(self)

    def connect(self, end: End) -> None:
        self.end = end
        end.hear, end.lost = self.hear, self.lost
        end.send(pb.Up(hello=self.duty.hello()))

    def lost(self) -> None:
        self.end = None
        self.welcome = False
        self.lost_at = self.time.now
        self.duty.lose(self.now)
        self.again()

    def again(self) -> None:
        late = self.time.now > max(self.lost_at, self.busy_until, self.stopped_until) + LEASE + 1.0
        assert not (late and self.duty._draining and not self.tasks), "it waits for a coordinator that has not come"
        self.time.after(0.01 + self.time.chance.random() * 0.3, self, self.dial)

    def hear(self, down: pb.Down) -> None:
        if down.HasField("refusal"):
            end, self.end = self.end, None
            if end is not None:
                end.close()
            self.time.after(0.5 + self.time.chance.random(), self, self.dial)
            return
        if down.HasField("welcome"):
            self.welcome, self.welcomed_at = True, self.time.now
            self.duty.welcomed(down.welcome, self.now)
        assert self.welcome, "something came before the welcome"
        for part in down.parts:
            self.obey(self.duty.arrived(part.digest))
        self.obey(self.duty.hear(down, self.now))
        self.flush()

    def flush(self) -> None:
        up = self.duty.take()
        if up is not None and self.end is not None:
            self.end.send(up)
        due = self.duty.next_tick
        if due is not None and due - self.start < self.ticking:
            self.ticking = due - self.start
            self.time.at(self.ticking, self, self.tick)

    def tick(self) -> None:
        self.ticking = float("inf")
        due = self.duty.next_tick
        if due is not None and due <= self.now + 1e-9:
            self.obey(self.duty.tick(max(self.now, due)))
        self.flush()

    def drain(self) -> None:
        self.obey(self.duty.drain(self.now))
        self.flush()

    # --- the bench --------------------------------------------------------------------------------------------------------

    def obey(self, acts: list[Act]) -> None:
        for act in acts:
            if isinstance(act, Perform):
                self._take(act)
            elif isinstance(act, Stop):
                self._stop(act.token)
            elif isinstance(act, TakeBack):
                task = self.tasks.get(act.token)
                if task is not None and task in self.waiting and self.time.chance.random() < 0.8:
                    self.time.after(0.001, self, lambda task=task: self._give_back(task))  # type: ignore[misc]
            elif isinstance(act, Leave):
                self.leaving = True
                if act.untold:
                    self.time.seen.add("ends that nobody takes")
                self.time.after(0.0, self, self._leave)
            elif isinstance(act, Prepare):
                assert act.run not in self.prepared, "prepared twice"
                self.prepared.add(act.run)
            else:
                assert isinstance(act, Forget)
                self.prepared.discard(act.run)
                assert not any(task.perform.run == act.run for task in self.tasks.values()), "forgotten too early"

    def _leave(self) -> None:
        self.flush()
        if self.end is not None:
            self.end.close()
        self.watch.left(self)

    def _take(self, perform: Perform) -> None:
        assert perform.token not in self.tasks
        same = (perform.run, perform.call.attempt)
        assert same not in [(each.perform.run, each.perform.call.attempt) for each in self.tasks.values()], (
            "twice at once"
        )
        task = self.tasks[perform.token] = Task(perform)
        if perform.rides:
            task.rides = self.tasks[perform.rides]
            task.rides.riders.append(task)
        else:
            self.waiting.append(task)
        groups = {task.perform.run for task in (*self.waiting, *self.running)}
        most = self.site.max_active_runs
        assert not most or len(groups) <= most, "more runs than it takes"
        self._begin()

    def _begin(self) -> None:
        while self.waiting and len(self.running) < self.site.slots:
            self._start(self.waiting.pop(0))

    def _start(self, task: Task) -> None:
        self.running.append(task)
        perform = task.perform
        rode = bool(perform.call.rides)
        execution = Execution(
            perform.run, perform.call.node, perform.call.attempt, perform.fence, self, rode, self.time.now
        )
        task.execution = execution
        self.watch.began(execution)
        self.duty.started(perform.token, self.day + self.time.now)
        known = pickle.loads(perform.call.arguments)
        self.time.after(
            self.watch.duration(self, perform), self, lambda: self._end(task, self.watch.result(perform, known))
        )
        self.time.after(0.0, self, self.flush)

    def _end(self, task: Task, value: int | None) -> None:
        if task.done:
            return
        assert task.execution is not None
        task.execution.ended = self.time.now
        began = self.day + task.execution.began
        end = pb.Finished(started=began, ended=self.day + self.time.now)
        if value is None:
            end.outcome, end.error = Outcome.FAILED, "on purpose"
        else:
            task.execution.completed = True
            end.outcome, end.value = Outcome.COMPLETED, pickle.dumps((value, task.perform.fence))
        self._gone(task, end, value)

    def _stop(self, token: int) -> None:
        task = self.tasks.get(token)
        if task is None or task.stopping:
            return
        task.stopping = True
        if self.time.chance.random() < 0.9:
            self.time.after(self.time.chance.random() * 0.05, self, lambda: self._cancelled(task))

    def _cancelled(self, task: Task) -> None:
        if task.done or task.perform.token not in self.tasks:
            return
        if task.execution is not None:
            task.execution.ended = self.time.now
        self._gone(task, pb.Finished(outcome=Outcome.CANCELLED), None)

    def _gone(self, task: Task, end: pb.Finished, value: int | None) -> None:
        self._remove(task)
        for rider in task.riders:
            if rider.done:
                continue
            if end.outcome == Outcome.COMPLETED:
                known = pickle.loads(rider.perform.call.arguments)
                before = {node: value if seen is None else seen for node, seen in known.items()}
                rider.perform.call.arguments = pickle.dumps(before)
                self.waiting.insert(0, rider)
            else:
                self._drop(rider)
        says = self.site.slots > 1  # some say the time, others are asked for it
        self.obey(self.duty.finished(task.perform.token, end, self.now if says else None))
        self._begin()
        self.flush()

    def _give_back(self, task: Task) -> None:
        if task.done or task not in self.waiting:
            return
        self._remove(task)
        for rider in task.riders:
            self._drop(rider)
        self.obey(self.duty.gave_back(task.perform.token))
        self.flush()

    def _drop(self, task: Task) -> None:
        self._remove(task)
        for rider in task.riders:
            self._drop(rider)

    def _remove(self, task: Task) -> None:
        task.done = True
        self.busy_until = self.time.now
        self.tasks.pop(task.perform.token, None)
        for kept in (self.waiting, self.running):
            if task in kept:
                kept.remove(task)
