"""What the coordinator keeps of its workers, of the runs that use them, and of the attempts between the two. Pure data.

Who may do what with it, and what is said of it to whom, is `ledger`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from enum import Enum
from heapq import nsmallest

import msgspec

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.posts import ForRun, ForWorker, Key, id_of, run_of

Link = Hashable
"""Stands for a stream, of a worker or of a run."""

PUSHED = 4096
"""So many contents a worker is known to have been sent."""

HEALTHY_FOR, WARNED_FOR, UNHEALTHY_FOR = 5.0, 15.0, 30.0
"""Seconds since the last word of a worker."""


class Health(Enum):
    """How long ago a worker was heard."""

    HEALTHY = "healthy"
    WARNING = "warning"
    UNHEALTHY = "unhealthy"
    OFFLINE = "offline"


def health(silent: float) -> Health:
    """Return what a silence of so many seconds says of a worker."""
    if silent < HEALTHY_FOR:
        return Health.HEALTHY
    if silent <= WARNED_FOR:
        return Health.WARNING
    return Health.UNHEALTHY if silent <= UNHEALTHY_FOR else Health.OFFLINE


class Activity(msgspec.Struct, frozen=True):
    """A run that has something under way on a worker: its id, name and root, since when, and how much has started."""

    run: str
    name: str
    root: str
    since: float
    started: int


class WorkerView(msgspec.Struct, frozen=True):
    """A worker as it may be shown. Times are by the clock of whoever asked."""

    id: str
    health: Health
    heard: float
    slots: int
    max_active_runs: int
    labels: dict[str, str]
    running: list[Activity]
    waiting: int
    load: float
    draining: bool
    connected: bool
    host: str
    pid: int
    version: str
    python: str


class Job:
    """An attempt with a worker. `call` is None where it was sent in another life of this coordinator."""

    __slots__ = (
        "absent",
        "attempt",
        "call",
        "cancelled",
        "end",
        "number",
        "recalled",
        "rides",
        "since",
        "started",
        "use",
    )

    def __init__(self, use: Use, attempt: int, call: pb.Call | None = None, number: int = 0) -> None:
        self.use = use
        self.attempt = attempt
        self.call = call
        self.number = number  # in the order in which all of them came
        self.rides: Job | None = None  # while that one has not ended
        self.absent = False  # it rides, and its worker does not have it
        self.started = self.recalled = self.cancelled = False
        self.end: pb.Finished | None = None
        self.since = 0.0


class Use:
    """A worker as one run uses it, under a fence. `about` is an assignment without calls: what goes with those that are sent."""

    __slots__ = ("about", "fence", "jobs", "key", "open", "riders", "run", "running", "worker")

    def __init__(self, key: Key, worker: Worker, run: Run | None) -> None:
        self.key = key
        self.fence = key[1]
        self.worker = worker
        self.run = run
        self.about = pb.Assign(fence=self.fence)
        self.jobs: dict[int, Job] = {}
        self.riders: dict[int, list[Job]] = {}  # by the attempt that they ride on
        self.open = 0  # attempts that have not ended and do not ride
        self.running = 0  # and of those, the started ones


class Run:
    """A run with its line, the workers that it knows of, and its uses of them."""

    def __init__(self, opened: pb.Open) -> None:
        self.key = opened.run
        self.group = run_of(opened.run)
        self.python = opened.python
        self.name = opened.name
        self.root = opened.root
        self.link: Link | None = None
        self.deadline = 0.0  # while there is no line
        self.box = ForRun()
        self.joined: dict[str, int] = {}  # generations by worker, as told on this line
        self.unfit: set[Worker] = set()  # those that are told to be of no use
        self.uses: dict[int, Use] = {}
        self.awaited: dict[int, float] = {}  # uses from before whose worker has not come, and until when
        self.rooms: dict[str, int] = {}  # what is told less than the slots
        self.moved: set[int] = set()
        self.touched: dict[Worker, None] = {}  # those that keep something of it

    def clear(self) -> None:
        """Nothing is left to be told."""
        self.box = ForRun()

    def connect(self, opened: pb.Open, link: Link) -> None:
        """It has a line on which nothing has been told yet."""
        self.python = opened.python
        self.link = link
        self.box = ForRun()
        self.joined.clear()
        self.unfit.clear()
        self.rooms.clear()
        self.awaited.clear()

    def misfit(self, worker: Worker) -> str:
        """Return why a worker cannot perform what this run sends, if so: calls need the Python that pickled them."""
        theirs = worker.hello.python
        if self.key != self.group or not self.python or self.python == theirs:
            return ""
        return f"it has Python {theirs}, and the functions of this run are of Python {self.python}"


class Crowds:
    """The workers that have more than they will begin, and those that have less than they could."""

    __slots__ = ("crowded", "free")

    def __init__(self) -> None:
        self.crowded: dict[Worker, None] = {}
        self.free: dict[Worker, None] = {}


class Worker:
    """A worker in one generation: from its coming to the end of its lease."""

    def __init__(self, hello: pb.Hello, generation: int, now: float, crowds: Crowds) -> None:
        self.hello = hello
        self.id = hello.id
        self.generation = generation
        self.slots = hello.slots
        self.most_runs = hello.max_active_runs
        self.link: Link | None = None
        self.heard = now
        self.box = ForWorker()
        self.uses: dict[Key, Use] = {}
        self.strays: dict[Key, Use] = {}  # of runs that nobody has opened yet
        self.open = 0  # attempts that have not ended and do not ride
        self.running = 0
        self.groups: dict[str, int] = {}  # by run, of the open ones
        self.reported = pb.Heartbeat()
        self.draining = False
        self.limited: dict[str, int] = {}  # the runs that are to have less room
        self.crowds = crowds
        self.crowded = self.free = False
        self.rests_until = 0.0
        self.coming = 0  # attempts that were taken back from elsewhere on its behalf
        self._pushed: dict[bytes, None] = {}
        self.marks = 0
        self.burnt: dict[
            tuple[Key, int], int
        ] = {}  # what it may still report of though it is to forget it, see `Traffic`
        self.behind: dict[Job, None] = {}  # what is sent when it has forgotten that

    def clear(self) -> None:
        """Nothing is left to be told."""
        self.box = ForWorker()

    def connect(self, hello: pb.Hello, link: Link, now: float) -> None:
        """It has a stream on which nothing has been said yet."""
        self.hello, self.link, self.heard = hello, link, now
        self.box = ForWorker()
        self._pushed.clear()
        self.burnt.clear()
        self.behind.clear()
        for stray in self.strays.values():
            self.count(stray, -stray.open, -stray.running)
        self.strays.clear()
        self.mark()

    def pushes(self, digest: bytes) -> bool:
        """Return whether it may lack a content, from which on it is known to have been sent that."""
        if digest in self._pushed:
            return False
        self._pushed[digest] = None
        if len(self._pushed) > PUSHED:  # what is sent again does no harm
            del self._pushed[next(iter(self._pushed))]
        return True

    def next_to(self) -> Counter[Use]:
        """Return how many attempts of each use may have begun without a word, if it ends now.

        It is as many as have a slot that nobody is known to have, and at least one: of each run those that came first, and the
        first of any run before the second of another.
        """
        waiting = []
        for use in self.uses.values():
            some = (job for job in use.jobs.values() if not (job.started or job.end or job.rides))
            waiting += [(place, job.number, use) for place, job in enumerate(some)]
        free = max(self.slots - self.running, 1)
        return Counter(use for _, _, use in nsmallest(free, waiting, key=lambda one: one[:2]))

    def disconnect(self) -> None:
        """It has no stream."""
        self.link = None
        self.mark()

    def vacate(self) -> None:
        """It has nothing any more."""
        for kept in (self.uses, self.strays, self.groups, self.limited):
            kept.clear()
        self.open = self.running = self.coming = 0
        self.mark()

    def mark(self) -> None:
        """See whether something is with it that it will not begin yet, or it has a slot for which there is nothing."""
        crowded = self.open > self.slots or 0 < self.most_runs < len(self.groups)
        free = self.link is not None and not self.draining and self.open < self.slots
        if crowded != self.crowded:
            self.crowded = crowded
            if crowded:
                self.crowds.crowded[self] = None
            else:
                del self.crowds.crowded[self]
        if free != self.free:
            self.free = free
            if free:
                self.crowds.free[self] = None
            else:
                del self.crowds.free[self]

    def takes(self, group: str) -> bool:
        """Return whether it would begin at once an attempt of a run."""
        if self.link is None or self.draining or self.open + self.coming >= self.slots:
            return False
        return not self.most_runs or group in self.groups or len(self.groups) < self.most_runs

    def count(self, use: Use, change: int, started: int = 0, *, again: bool = False) -> None:
        """Count attempts that came or went; `again` where the use has counted them."""
        if not again:
            use.open += change
            use.running += started
        self.open += change
        self.running += started
        group = run_of(use.key[0])
        left = self.groups.get(group, 0) + change
        if left:
            self.groups[group] = left
        else:
            self.groups.pop(group, None)
        self.mark()

    def view(self, now: float) -> WorkerView:
        """Return what may be shown of it."""
        activities: dict[str, Activity] = {}
        for use in self.uses.values():
            for job in use.jobs.values():
                if job.started and job.end is None and use.run is not None:
                    known = activities.get(use.run.group)
                    since = min(job.since, known.since) if known else job.since
                    started = known.started + 1 if known else 1
                    run = use.run
                    activities[run.group] = Activity(id_of(run.key), run.name, run.root, since, started)
        hello = self.hello
        return WorkerView(
            id=self.id,
            health=health(now - self.heard),
            heard=self.heard,
            slots=self.slots,
            max_active_runs=self.most_runs,
            labels=dict(hello.labels),
            running=list(activities.values()),
            waiting=self.open - self.running,
            load=self.reported.load,
            draining=self.draining,
            connected=self.link is not None,
            host=hello.host,
            pid=hello.pid,
            version=hello.version,
            python=hello.python,
        )


def absent(name: str) -> Worker:
    """Return what stands for a worker that has not come: what is said to it is not heard."""
    return Worker(pb.Hello(id=name, slots=1), 0, 0.0, Crowds())


def least_loaded(workers: Iterable[Worker], first: int) -> list[Worker]:
    """Return workers, the least loaded first; of equal ones another is first each time."""
    found = list(workers)
    turned = found[first % len(found) :] + found[: first % len(found)] if found else []
    return sorted(turned, key=lambda worker: (worker.open + worker.coming) / worker.slots)
