"""Where the time of a finished run went: what its end really waited for, who was idle, and how short it could have been.

It reads the facts of a run, once and in their order, and writes nothing into it; it knows neither values nor functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from heapq import nlargest
from math import inf
from typing import Any, Literal

from dagrid.execution.tracing import ENDS
from dagrid.machine.events import NODE_MASK, UNSTARTED, Fact, Kind, attempt_id
from dagrid.machine.plan import Request, shares
from dagrid.machine.state import NO_TASK, State

Because = Literal["start", "input", "slot", "resource", "limit", "alone", "retry", "growth", "worker"]

MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt on the critical path, in seconds since the run began.

    Args:
        node: its name.
        attempt: which try of the node, from 1.
        worker: where it ran; empty for a node that was passed over.
        started: when it began.
        seconds: how long it took itself.
        waiting: from when it could have started, its inputs being there, until it did.
        gap: from the end of the step before, or the start of the run, until it began.
        because: what it waited for last. "input": the step before is the dependency that ended last. "slot", "resource", "limit",
            "alone": the step before held its worker, a resource, a place under max_concurrency, or ran (or let it run)
            sequentially. "retry": the step before is an earlier try. "growth": a rule appended it, after the step before.
            "worker": its worker joined when the inputs were there already; the step before is the last of those. "start":
            there is none before.
    """

    node: str
    attempt: int
    worker: str
    started: float
    seconds: float
    waiting: float
    gap: float
    because: Because

    @property
    def ended(self) -> float:
        """When it ended, in seconds since the run began."""
        return self.started + self.seconds


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What a worker did between joining and leaving, or the end of the run.

    Args:
        name: as it was announced.
        slots: how many attempts it performs at once.
        attempts: how many it performed.
        present: seconds from joining to leaving.
        busy: the sum of its attempts' seconds.
        idle: seconds in which its slots had nothing to do: slots times present, less busy.
    """

    name: str
    slots: int
    attempts: int
    present: float
    busy: float
    idle: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a run went; all times are seconds. `str()` gives it as a text.

    Args:
        makespan: from the start of the run to its end.
        work: the sum of all attempts, those included that failed.
        attempts: how many there were.
        nodes: how many nodes the graph had in the end.
        slots: how many attempts could run at once: the most slots there were, and no more than max_concurrency.
        critical_path: what the end of the run really waited for, first to last; each step begins after the one before has ended.
        critical_path_seconds: the sum of its steps' own seconds.
        critical_path_waits: the sum of the gaps between them; with `critical_path_seconds`, the end of the last node.
        waiting: the sum over all attempts of the time from ready to started.
        most_waiting: the nodes that waited longest, with their seconds.
        workers: all that took part, in the order in which they joined.
        idle: the sum of their idle seconds.
        utilisation: work over the seconds of all slots, from 0 to 1.
        dependencies: the longest chain of dependencies, with measured times and as if no slot had ever been short.
        bound: no schedule on these slots is shorter: the larger one of `dependencies` and work / slots.
    """

    makespan: float
    work: float
    attempts: int
    nodes: int
    slots: int
    critical_path: tuple[Step, ...]
    critical_path_seconds: float
    critical_path_waits: float
    waiting: float
    most_waiting: tuple[tuple[str, float], ...]
    workers: tuple[WorkerUse, ...]
    idle: float
    utilisation: float
    dependencies: float
    bound: float

    @property
    def over_bound(self) -> float:
        """How many times the bound the run took: 1.0 is as short as it can be."""
        return self.makespan / self.bound if self.bound > 0 else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain data, for JSON."""
        return {**asdict(self), "over_bound": self.over_bound}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def measure(state: State, began: float, makespan: float) -> Profile:
    """Return the profile of a run, in time linear in its facts and edges.

    The chains of the bound are those of the measured times: each node counts with all its tries and the delays between them.

    Args:
        state: of a run that has ended.
        began: when it began, in seconds of its clock.
        makespan: how long it took, in seconds.
    """
    story = _Story(state, began, began + makespan)
    for fact in state.facts():
        story.take(fact)
    story.close()
    tries = story.tries.values()
    ran = [one for one in tries if one.worker >= 0]
    path = story.critical_path()
    work = sum(one.seconds for one in ran)
    waits: dict[int, float] = {}
    for one in ran:
        waits[one.node] = waits.get(one.node, 0.0) + one.waiting
    longest = nlargest(MOST_SHOWN, ((seconds, -node) for node, seconds in waits.items() if seconds > 0))
    workers = story.uses(ran)
    limit = state.plan.settings.max_concurrency
    slots = story.most_slots if limit is None else min(story.most_slots, limit)
    room = sum(use.slots * use.present for use in workers)
    dependencies = max(story.longest.values(), default=0.0)
    return Profile(
        makespan=makespan,
        work=work,
        attempts=len(ran),
        nodes=len(state.plan),
        slots=slots,
        critical_path=path,
        critical_path_seconds=sum(step.seconds for step in path),
        critical_path_waits=sum(step.gap for step in path),
        waiting=sum(waits.values()),
        most_waiting=tuple((state.plan.names[-node], seconds) for seconds, node in longest),
        workers=workers,
        idle=sum(use.idle for use in workers),
        utilisation=work / room if room > 0 else 0.0,
        dependencies=dependencies,
        bound=max(dependencies, work / slots if slots else 0.0),
    )


@dataclass(slots=True)
class _Try:
    """An attempt, or a node that was passed over; `before` is what it waited for last."""

    node: int
    number: int
    worker: int
    ready: float
    started: float
    before: _Try | None
    because: Because
    ended: float = inf

    @property
    def seconds(self) -> float:
        return max(self.ended - self.started, 0.0)

    @property
    def waiting(self) -> float:
        return max(self.started - self.ready, 0.0)


@dataclass(slots=True)
class _Release:
    """An attempt gave back what it held; `left` is what there was of a resource just before."""

    by: _Try
    at: float
    because: Because
    left: int = 0


@dataclass(slots=True)
class _Place:
    """A worker, and what is with it."""

    name: str
    slots: int
    joined: float
    left: float
    queue: dict[int, None] = field(default_factory=dict)
    freed: _Release | None = None


class _Story:
    """The run, fact by fact: who held what, and what each attempt waited for last."""

    def __init__(self, state: State, began: float, end: float) -> None:
        self._plan = state.plan
        self._cause = state.cause
        self._began = began
        self._end = end
        self.tries: dict[int, _Try] = {}
        self.longest: dict[int, float] = {}
        self.places: dict[int, _Place] = {}
        self.most_slots = 0
        self._slots = 0
        self._latest: _Try | None = None
        self._last: dict[int, _Try] = {}  # by node, its try that ended last
        self._due: dict[int, float] = {}
        self._born: dict[int, tuple[float, _Try | None]] = {}
        self._took: dict[int, float] = {}
        self._held_back: dict[int, tuple[_Release | None, ...]] = {}
        self._available = {name: shares(capacity) for name, capacity in self._plan.settings.resources.items()}
        self._active = 0
        self._by_resource: dict[str, _Release] = {}
        self._under_limit: _Release | None = None
        self._after_alone: _Release | None = None
        self._any: _Release | None = None

    def take(self, fact: Fact) -> None:
        """Take the next fact."""
        kind = fact.kind
        if kind is Kind.STARTED:
            self._start(fact)
        elif kind is Kind.ASSIGNED:
            self._assign(attempt_id(fact.node, fact.number), fact.node, fact.worker)
        elif kind is Kind.SKIPPED:
            self._pass_over(fact)
        elif kind in ENDS:
            self._finish(fact)
        elif kind in (Kind.FREED, Kind.RECALLED):
            self._vacate(attempt_id(fact.node, fact.number), fact.worker, fact.at)
        elif kind is Kind.PATCHED:
            self._grow(fact)
        elif kind is Kind.WORKER_JOINED:
            self.places[fact.worker] = _Place(fact.detail, fact.numbers[0], max(fact.at, self._began), self._end)
            self._slots += fact.numbers[0]
            self.most_slots = max(self.most_slots, self._slots)
        elif kind is Kind.WORKER_GONE:
            place = self.places[fact.worker]
            for attempt in list(place.queue):
                self._vacate(attempt, fact.worker, fact.at)
            place.left = min(max(fact.at, place.joined), self._end)
            self._slots -= place.slots

    def close(self) -> None:
        """Let what was still open end with the run, as when its backend broke."""
        for one in self.tries.values():
            if one.ended == inf:
                self._end_try(one, self._end)

    def critical_path(self) -> tuple[Step, ...]:
        """Follow what each attempt waited for, back from the one that ended last."""
        ran = [one for one in self.tries.values() if one.worker >= 0]
        one: _Try | None = max(reversed(ran), key=lambda each: each.ended, default=None)
        steps = []
        while one is not None:
            since = self._began if one.before is None else one.before.ended
            steps.append(
                Step(
                    self._plan.names[one.node],
                    one.number + 1,
                    self.places[one.worker].name if one.worker >= 0 else "",
                    one.started - self._began,
                    one.seconds,
                    one.waiting,
                    max(one.started - since, 0.0),
                    one.because,
                )
            )
            one = one.before
        return tuple(reversed(steps))

    def uses(self, ran: Iterable[_Try]) -> tuple[WorkerUse, ...]:
        """Return what each worker did."""
        busy = dict.fromkeys(self.places, 0.0)
        attempts = dict.fromkeys(self.places, 0)
        for one in ran:
            busy[one.worker] += one.seconds
            attempts[one.worker] += 1
        found = []
        for number, place in self.places.items():
            if not place.slots:
                continue  # it is only named
            present = max(place.left - place.joined, 0.0)
            idle = max(place.slots * present - busy[number], 0.0)
            found.append(WorkerUse(place.name, place.slots, attempts[number], present, busy[number], idle))
        return tuple(found)

    def _start(self, fact: Fact) -> None:
        attempt = attempt_id(fact.node, fact.number)
        place = self.places[fact.worker]
        if attempt not in place.queue:
            self._assign(attempt, fact.node, fact.worker)
        ready, before, because = self._readiness(fact.node, fact.number)
        since = ready
        for release in (*self._held_back.pop(attempt), place.freed):
            if release is not None and since < release.at <= fact.at and release.by.ended <= fact.at:
                since, before, because = release.at, release.by, release.because
        if since < place.joined <= fact.at:
            _, before, _ = self._readiness(fact.node, fact.number)
            because = "worker"
        self.tries[attempt] = _Try(fact.node, fact.number, fact.worker, ready, fact.at, before, because)

    def _readiness(self, node: int, number: int) -> tuple[float, _Try | None, Because]:
        """Return when a try could have started if all workers had been free, what came last before that, and what that was."""
        if number:
            earlier = self.tries[attempt_id(node, number - 1)]
            return max(self._due.get(node, 0.0), earlier.ended), earlier, "retry"
        latest = self._latest_input(node)
        ready = self._began if latest is None else max(latest.ended, self._began)
        born, cause = self._born.get(node, (ready, None))
        if born > ready and cause is not None:
            return born, cause, "growth"
        return max(ready, born), latest, "start" if latest is None else "input"

    def _latest_input(self, node: int) -> _Try | None:
        inputs = [self._last[each] for each in self._plan.predecessors[node] if each in self._last]
        return max(inputs, key=lambda one: one.ended, default=None)

    def _pass_over(self, fact: Fact) -> None:
        cause = self._cause.get(fact.node, NO_TASK)
        before = self._latest_input(fact.node) if cause == NO_TASK else self._last.get(cause)
        one = _Try(fact.node, 0, -1, fact.at, fact.at, before, "start" if before is None else "input")
        self.tries[fact.node] = one
        self._end_try(one, fact.at)

    def _finish(self, fact: Fact) -> None:
        attempt = attempt_id(fact.node, fact.number)
        one = self.tries.get(attempt)
        if one is None:
            return
        if fact.started != UNSTARTED:
            one.started = fact.started
        self._end_try(one, fact.at)
        if fact.kind is Kind.COMPLETED:
            self._vacate(attempt, fact.worker, fact.at)
        elif fact.due > fact.at:
            self._due[fact.node] = fact.due
            self._took[fact.node] += fact.due - fact.at

    def _end_try(self, one: _Try, at: float) -> None:
        node = one.node
        one.ended = at
        self._latest = self._last[node] = one
        took = self._took[node] = self._took.get(node, 0.0) + one.seconds
        before = (self.longest.get(each, 0.0) for each in self._plan.predecessors[node])
        self.longest[node] = took + max(before, default=0.0)

    def _grow(self, fact: Fact) -> None:
        """Remember what a rule waited for: of what its nodes depend on, the one that ended last; else the last end of all."""
        inputs = (self._latest_input(node) for node in fact.numbers)
        cause = max((one for one in inputs if one is not None), key=lambda one: one.ended, default=self._latest)
        for node in fact.numbers:
            self._born[node] = fact.at, cause

    def _assign(self, attempt: int, node: int, worker: int) -> None:
        """Take what an attempt holds, and note which release let it have that."""
        request = self._request(node)
        held_back = [self._any if request.sequential else self._after_alone]
        for name, amount in request.resources:
            release = self._by_resource.get(name)
            held_back.append(release if release is not None and release.left < amount else None)
            self._available[name] -= amount
        self._held_back[attempt] = (*held_back, self._under_limit)
        self.places[worker].queue[attempt] = None
        self._active += 1

    def _vacate(self, attempt: int, worker: int, at: float) -> None:
        """Give back what an attempt held, and note what was short before."""
        place = self.places[worker]
        if attempt not in place.queue:
            return
        full = len(place.queue) >= place.slots
        del place.queue[attempt]
        limit = self._plan.settings.max_concurrency
        request = self._request(attempt & NODE_MASK)
        by = self.tries.get(attempt)
        if by is not None:
            if full:
                place.freed = _Release(by, at, "slot")
            if limit is not None and self._active >= limit:
                self._under_limit = _Release(by, at, "limit")
            if request.sequential:
                self._after_alone = _Release(by, at, "alone")
            self._any = _Release(by, at, "alone")
        for name, amount in request.resources:
            if by is not None:
                self._by_resource[name] = _Release(by, at, "resource", self._available[name])
            self._available[name] += amount
        self._active -= 1

    def _request(self, node: int) -> Request:
        return self._plan.requests[self._plan.groups[node]]


def _lines(profile: Profile) -> Iterable[str]:
    """Yield the text: figures first, then the path, then who waited and who was idle."""
    scale, unit = (1.0, "s") if profile.makespan >= 1 else (1e3, "ms")

    def figure(name: str, seconds: float, words: str) -> str:
        return f"{name:<14}{seconds * scale:>10.3f} {unit:<2}  {words}".rstrip()

    def shown(seconds: float) -> str:
        return f"{seconds * scale:.3f} {unit}"

    path = profile.critical_path
    slots = f"{profile.slots} slot{'s' if profile.slots != 1 else ''}"
    yield figure("makespan", profile.makespan, f"{profile.over_bound:.2f} x the bound")
    shares_of_work = profile.work / profile.slots if profile.slots else 0.0
    yield figure(
        "bound",
        profile.bound,
        f"the larger of the dependencies alone, {shown(profile.dependencies)}, and work / {slots}, {shown(shares_of_work)}",
    )
    yield figure("work", profile.work, f"{profile.attempts} attempts, {profile.nodes} nodes")
    yield figure("idle", profile.idle, f"utilisation {profile.utilisation:.0%} of {len(profile.workers)} workers")
    most = ", ".join(f"{name} {shown(seconds)}" for name, seconds in profile.most_waiting[:3])
    yield figure("waiting", profile.waiting, f"ready but not started; most: {most}" if most else "nothing waited")
    yield figure(
        "critical path",
        profile.critical_path_seconds,
        f"in {len(path)} steps, and {shown(profile.critical_path_waits)} between them",
    )
    yield from _path_lines(path, scale, unit)
    idlest = nlargest(MOST_SHOWN, profile.workers, key=lambda use: use.idle)
    if idlest and profile.idle > 0:
        said = ", ".join(f"{use.name} {shown(use.idle)}" for use in idlest if use.idle > 0)
        yield f"{'idle workers':<14}{said}"


def _path_lines(path: tuple[Step, ...], scale: float, unit: str) -> Iterable[str]:
    """Yield a table of the largest steps of a path, in their order."""
    if not path:
        return
    most = MOST_SHOWN + 2
    largest = sorted(nlargest(most, range(len(path)), key=lambda place: path[place].gap + path[place].seconds))
    steps = [path[place] for place in largest]
    wide = min(max(4, *(len(step.node) for step in steps)), 40)
    on = max(*(len(step.worker) for step in steps), 6)
    yield f"  {'node':<{wide}}  {'worker':<{on}}  {f'waited {unit}':>12}  {f'took {unit}':>12}  after"
    for step in steps:
        name = step.node if len(step.node) <= wide else f"{step.node[: wide - 3]}..."
        again = f", try {step.attempt}" if step.attempt > 1 else ""
        after = f"{_WORDS[step.because]}{again}"
        waited, took = step.gap * scale, step.seconds * scale
        yield f"  {name:<{wide}}  {step.worker:<{on}}  {waited:>12.3f}  {took:>12.3f}  {after}"
    if len(path) > most:
        yield f"  (the {most} largest of {len(path)} steps)"


_WORDS: dict[Because, str] = {
    "start": "the start of the run",
    "input": "its input",
    "slot": "the step before freed its worker",
    "resource": "the step before freed a resource",
    "limit": "the step before made room under max_concurrency",
    "alone": "the step before, one of both runs alone",
    "retry": "an earlier try",
    "growth": "a rule appended it",
    "worker": "its worker was new",
}
