"""The state of one run and the moves of its nodes. Pure: it decides nothing and asks for nothing.

What `decide` must look at after a move (nodes that are doomed by a failure, nodes that have nothing to do) is left in `doomed`
and `passed`. Which moves a fact is made of, `applying` knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum
from heapq import heappush
from typing import Any

import msgspec

from dagrid.errors import IllegalTransitionError
from dagrid.graph.rules import UNENDED
from dagrid.machine.events import NODE_MASK, NUMBER_SHIFT, UNSTARTED, Fact, Growth, Kind
from dagrid.machine.plan import NO_PLAN, Plan, shares


class Status(IntEnum):
    """Where a node stands."""

    PENDING = 0
    READY = 1
    QUEUED = 2
    RUNNING = 3
    WAITING = 4
    COMPLETED = 5
    FAILED = 6
    TIMED_OUT = 7
    CANCELLED = 8
    SKIPPED = 9
    LOST = 10

    @property
    def terminal(self) -> bool:
        return self >= Status.COMPLETED


PENDING, READY, QUEUED, RUNNING, WAITING, COMPLETED, FAILED, TIMED_OUT, CANCELLED, SKIPPED, LOST = (
    int(s) for s in Status
)

LEGAL_MOVES: Mapping[int, frozenset[int]] = {
    PENDING: frozenset({READY, SKIPPED, CANCELLED, COMPLETED}),
    READY: frozenset({QUEUED, RUNNING, CANCELLED, COMPLETED, SKIPPED, PENDING}),
    QUEUED: frozenset({READY, RUNNING, CANCELLED}),
    RUNNING: frozenset({WAITING, READY, COMPLETED, FAILED, TIMED_OUT, CANCELLED, LOST, SKIPPED}),
    WAITING: frozenset({READY, CANCELLED, PENDING, COMPLETED, FAILED}),
    COMPLETED: frozenset({PENDING}),
    FAILED: frozenset(),
    TIMED_OUT: frozenset(),
    CANCELLED: frozenset(),
    SKIPPED: frozenset(),
    LOST: frozenset(),
}

ENDED_BY = {Kind.FAILED: FAILED, Kind.TIMED_OUT: TIMED_OUT, Kind.CANCELLED: CANCELLED, Kind.LOST: LOST}
FAILURES = frozenset((FAILED, TIMED_OUT, LOST))
SKIPPED_BIT = 1 << NUMBER_SHIFT
NO_TASK = -1
MICRO = 1_000_000  # whole numbers in facts, of what is in seconds
PLACE, UNFIT = "", "="
"""The names among a worker's labels, which no label can have, under which its place stands, and why it is given nothing."""


UNBOUNDED = 1 << 30


class Worker(msgspec.Struct):
    """A worker as announced, and the attempts that are with it, oldest first."""

    number: int
    name: str
    slots: int = 1
    window: int = 1
    pulls: bool = False
    labels: Mapping[str, str] = {}
    place: str = ""
    delegates: bool = False
    ahead: float = 0.0
    unfit: str = ""
    survives: bool = False
    queue: dict[int, None] = {}
    heard: float = 0.0
    recalling: bool = False
    woken: bool = False
    room: int = UNBOUNDED

    @property
    def free(self) -> int:
        """How many more attempts it may perform at once."""
        return min(self.slots, self.room) - len(self.queue)


class RuleState(msgspec.Struct):
    """A rule that has not been applied yet: what it may add, what its last evaluation saw, whether it must be asked again."""

    number: int
    optional: bool
    adds: Collection[str] | None
    reads: Mapping[int, int]
    dirty: bool = False
    asked: bool = False

    def may_add(self, kind: str) -> bool:
        return self.adds is None or kind in self.adds


class Ending(msgspec.Struct, frozen=True):
    """How a run ended but for its handlers: the verdict, the nodes that failed, and why."""

    verdict: int
    failed: tuple[int, ...]
    reason: str


NOTHING_READ: Mapping[int, int] = {}


class State(msgspec.Struct, eq=False):
    """Everything that the machine knows of a run, by node number, in lists that the hot path can reach.

    The journal holds facts. The three commonest stand in it as one integer each, see `read_entry`, and their times and workers in
    the lists; `facts` makes records of them when somebody reads. The `first` rules of a run are numbered from 0.
    """

    plan: Plan
    first: Growth = msgspec.field(default_factory=Growth)
    status: bytearray = bytearray()
    waiting: list[int] = []
    started: list[float] = []
    ended: list[float] = []
    where: list[int] = []
    ready: list[list[int]] = []
    heap: list[int] = []  # the first of `ready`, that of plain nodes
    remaining: int = 0
    active: int = 0
    sequential: bool = False
    available: dict[str, int] = {}
    workers: dict[int, Worker] = {}  # all that ever joined, for those who read what was
    present: dict[int, Worker] = {}
    performers: dict[int, int] = {}  # who performed the last try of a node, if not the worker that it was given to
    pushed: int = 0  # how many of the present workers do not pull
    queues: dict[int, dict[int, None]] = {}
    idle: dict[int, None] = {}
    numbers: dict[int, int] = {}
    failures: dict[int, int] = {}
    losses: dict[int, int] = {}
    repeats: dict[int, int] = {}
    rounds: dict[
        int, int
    ] = {}  # how often a node began anew: it wanted to run again, or runs again although it had completed
    held: dict[int, str] = {}  # nodes that wait for a signal, and what they say that they wait for
    due: dict[int, float] = {}
    halted: dict[int, Fact] = {}  # by attempt that was told to stop and has not left, what was recorded of that
    cause: dict[int, int] = {}
    detail: dict[int, str] = {}
    tolerated: set[int] = set()  # nodes whose task said that nobody shall mind its failure
    attempts_before: dict[int, list[Fact]] = {}
    rules: dict[int, RuleState] = {}
    adders: dict[str | None, int] = {}  # how many rules are left that may add a kind; None: that may add any
    remade: set[int] = set()  # nodes whose value was lost: what they append is there already
    grew: set[int] = set()  # the nodes that the graph grew by: their values were read for a patch, or they brought one
    sealed: set[str] = set()  # the kinds that applied rules found closed
    dirty: list[int] = []  # rules to be asked
    asking: int = 0
    asks: list[int] = []  # rules that the hot path found to be asked
    starts: set[int] = set()  # the watched nodes of which a rule saw more than that they had not ended
    watchers: dict[int, set[int]] = {}
    topics: dict[tuple[str, str], set[int]] = {}
    scanned: int = 0
    unapplied: tuple[int, ...] = ()
    journal: list[int | Fact] = []
    doomed: list[tuple[int, int]] = []
    passed: list[int] = []
    cancelled: str = ""
    error: str = ""
    expired: str = ""
    outcome: Ending | None = None  # how the run ended but for its handlers, once it has
    shut: set[int] = set()  # the handlers that may not start yet
    stopped: bool = False
    finished: bool = False
    finished_at: float = 0.0
    reopened_at: float = 0.0  # when it was taken up again after its end, the last time
    rebalance_at: float = 0.0
    mean_duration: float = -1.0
    chains: bool = False  # whether workers that are pushed to take nodes that ride on others, see `chains`
    rides: dict[int, int] = {}  # by node, the attempt that it rode on
    riders: dict[int, int] = {}  # by attempt that is with a worker, the node that rides on it
    fast: bool = False

    def __post_init__(self) -> None:
        """Begin a run of a plan."""
        plan = self.plan
        count = self.remaining = len(plan.names)
        self.status = bytearray(count)
        self.waiting = list(map(len, plan.predecessors))
        self.started = [UNSTARTED] * count
        self.ended = [0.0] * count
        self.where = [-1] * count
        self.ready = [[] for _ in plan.requests]
        self.heap = self.ready[0]
        if plan.settings.resources:
            self.available = {name: shares(capacity) for name, capacity in plan.settings.resources.items()}
        for kinds in plan.adds.values():
            self.may_add(kinds, 1)
        for rule in self.first.rules:
            self.add_rule(*rule)
        for node in plan.handlers:
            self.shut.add(node)
            self.waiting[node] = 1
        for node, missing in enumerate(self.waiting):
            if not missing:
                make_ready(self, node)
        refresh(self)

    def __reduce__(self) -> Any:
        """Travel without the plan, which is made again, and the journal, which is read by others."""
        return _restored, ({name: getattr(self, name) for name in State.__struct_fields__ if name not in _MADE_AGAIN},)

    def shift(self, seconds: float) -> None:
        """Change all times to those of another clock."""
        self.started = [at + seconds if at != UNSTARTED else at for at in self.started]
        self.ended = [at + seconds for at in self.ended]
        self.due = {node: at + seconds for node, at in self.due.items()}
        self.halted = {attempt: fact.shifted(seconds) for attempt, fact in self.halted.items()}
        for facts in self.attempts_before.values():
            facts[:] = [fact.shifted(seconds) for fact in facts]
        self.rebalance_at = 0.0
        self.reopened_at += seconds if self.reopened_at else 0.0

    def add_rule(
        self, number: int, optional: bool, adds: Collection[str] | None = None, waits: Sequence[str] = ()
    ) -> None:
        """Take a rule, which is to be asked when one of the nodes that it waits for has ended; at once if it waits for none."""
        rule = self.rules[number] = RuleState(number, optional, adds, NOTHING_READ)
        if adds is None or adds:
            self.may_add(adds, 1)
        for name in waits:
            node = self.plan.index.get(name)
            if node is None:
                self.topics.setdefault(("name", name), set()).add(number)
                return
            if self.status[node] < COMPLETED:
                rule.reads = {node: UNENDED}
                self.watchers.setdefault(node, set()).add(number)
                return
        rule.dirty = True
        self.dirty.append(number)

    def ask_again(self) -> None:
        """Have every rule asked: what they saw was seen in another process."""
        self.watchers.clear()
        self.topics.clear()
        self.asking = 0
        for rule in self.rules.values():
            rule.dirty, rule.asked, rule.reads = True, False, NOTHING_READ
        self.dirty = list(self.rules)

    def drop_rule(self, number: int) -> None:
        """Forget a rule that was applied."""
        rule = self.rules.pop(number, None)
        if rule is not None and (rule.adds is None or rule.adds):
            self.may_add(rule.adds, -1)

    def may_add(self, kinds: Collection[str] | None, change: int) -> None:
        """Count one more, or one less, of those who may add nodes of these kinds."""
        for kind in (None,) if kinds is None else kinds:
            self.adders[kind] = self.adders.get(kind, 0) + change

    def release(self, node: int) -> None:
        """A node has ended: it adds no more."""
        kinds = self.plan.adds.get(node)
        if kinds and node not in self.remade:
            self.may_add(kinds, -1)

    def closed(self, kind: str, asking: int = -1) -> bool:
        """Return whether no rule but the one that asks may add a node of a kind."""
        if kind in self.sealed:
            return True
        rule = self.rules.get(asking)
        own = rule is not None and rule.may_add(kind)
        return self.adders.get(kind, 0) + self.adders.get(None, 0) == own

    def count(self, status: int) -> int:
        """Return how many nodes have a status."""
        return self.status.count(status)

    def number_of(self, node: int) -> int:
        """Return the number of the current try, from 0."""
        return self.numbers.get(node, 0)

    def current(self, attempt: int) -> bool:
        """Return whether an attempt is the one that counts for its node, and has not ended."""
        node = attempt & NODE_MASK
        return attempt >> NUMBER_SHIFT == self.numbers.get(node, 0) and QUEUED <= self.status[node] <= RUNNING

    def accepts(self, attempt: int) -> bool:
        """Return whether what an attempt brings counts: it is the current one and was not told to stop."""
        return self.current(attempt) and attempt not in self.halted

    def facts(self, since: int = 0, until: int | None = None) -> Iterator[Fact]:
        """Yield the facts of the journal as records, from a position on."""
        stop = len(self.journal) if until is None else until
        for position in range(since, stop):
            entry = self.journal[position]
            yield self._record(entry) if isinstance(entry, int) else entry

    def completed_since(self, position: int) -> Iterator[int]:
        """Yield the nodes that got their values after a position of the journal."""
        for entry in self.journal[position:]:
            if isinstance(entry, int):
                if 0 <= entry < SKIPPED_BIT:
                    yield entry
            elif entry.kind in (Kind.REUSED, Kind.SIGNALLED):
                yield entry.node

    def settle_record(self, node: int) -> None:
        """Make records of the integers that speak of a node, before what they stand for changes."""
        for entry in (node, ~node):
            try:
                position = self.journal.index(entry)
            except ValueError:
                continue
            self.journal[position] = self._record(entry)

    def settle_records(self, nodes: AbstractSet[int]) -> None:
        """Do the same for many nodes."""
        for position, entry in enumerate(self.journal):
            if isinstance(entry, int) and read_entry(entry)[0] in nodes:
                self.journal[position] = self._record(entry)

    def _record(self, entry: int) -> Fact:
        node, kind = read_entry(entry)
        if kind is Kind.SKIPPED:
            cause = self.cause.get(node, NO_TASK)
            return Fact(kind, self.ended[node], node, cause=cause, detail="no task" if cause == NO_TASK else "")
        started, worker = (
            self.started[node],
            self.where[node],
        )  # before it is asked whether they are those of a later try
        before = self.attempts_before.get(node)
        if kind is Kind.STARTED and before:
            return Fact(kind, before[0].started, node, worker=before[0].worker)
        if kind is Kind.STARTED:
            return Fact(kind, started, node, worker=worker)
        return Fact(kind, self.ended[node], node, self.number_of(node), worker, started)


_MADE_AGAIN = frozenset(("plan", "first", "heap", "journal", "scanned"))


def _restored(known: dict[str, Any]) -> State:
    state = State(NO_PLAN)
    for name, value in known.items():
        setattr(state, name, value)
    state.heap = state.ready[0]
    return state


def read_entry(entry: int) -> tuple[int, Kind]:
    """Return what an integer of the journal says: n, node n completed; ~n, it started; n with `SKIPPED_BIT`, it was skipped."""
    if entry < 0:
        return ~entry, Kind.STARTED
    return entry & NODE_MASK, Kind.SKIPPED if entry & SKIPPED_BIT else Kind.COMPLETED


def refresh(state: State) -> None:
    """Recompute whether the completion of a node that no rule watches matters to its successors only, see `advance`."""
    state.fast = state.plan.uniform and not state.stopped and not state.finished and not state.plan.settings.resources


def move(state: State, node: int, status: int) -> None:
    """Give a node another status, if the table allows it."""
    now = state.status[node]
    if status not in LEGAL_MOVES[now]:
        story = [fact for fact in state.facts() if fact.node == node]
        raise IllegalTransitionError(
            f"Node {state.plan.names[node]!r} cannot go from {Status(now).name} to {Status(status).name}. Its story: {story}."
        )
    state.status[node] = status


def make_ready(state: State, node: int) -> None:
    """All that a node waits for is done: it goes to the queue of its group, or has nothing to do."""
    if node in state.plan.empty:
        state.passed.append(node)
        return
    move(state, node, READY)
    heappush(state.ready[state.plan.groups[node]], state.plan.keys[node])


def complete(state: State, node: int, started: float, ended: float) -> None:
    """A node has its value: successors that wait for nothing else become ready."""
    status = state.status
    if status[node] != RUNNING:
        move(state, node, COMPLETED)
    status[node] = COMPLETED
    state.started[node] = started
    state.ended[node] = ended
    state.remaining -= 1
    state.journal.append(node)
    state.release(node)
    waiting = state.waiting
    for after in state.plan.successors[node]:
        waiting[after] = missing = waiting[after] - 1
        if not (missing or status[after]):
            make_ready(state, after)


def settle(state: State, node: int, satisfied: bool) -> None:
    """A node ended without a value: each successor goes on without it, or is doomed."""
    plan = state.plan
    tolerant = plan.settings.on_failure == "continue"
    satisfied = satisfied or goes_on(state, node)
    for after in plan.successors[node]:
        if state.status[after] != PENDING:
            continue
        if satisfied or (tolerant and not plan.takes_value(after, node)):
            state.waiting[after] -= 1
            if not state.waiting[after]:
                make_ready(state, after)
        else:
            state.doomed.append((after, node))


def goes_on(state: State, node: int) -> bool:
    """Return whether what waits for a node that ended without a value runs all the same, by what the node said of itself."""
    status, after = state.status[node], state.plan.goes_on.get(node, ())
    if status == SKIPPED:
        return "skipped" in after
    return status in FAILURES and ("failure" in after or node in state.tolerated)


def assign(state: State, attempt: int, worker: int) -> None:
    """An attempt goes to a worker and holds what its node asks for."""
    node = attempt & NODE_MASK
    move(state, node, QUEUED)
    state.where[node] = worker
    state.queues[worker][attempt] = None
    state.active += 1
    request = state.plan.requests[state.plan.groups[node]]
    for name, amount in request.resources:
        state.available[name] -= amount
    if request.sequential:
        state.sequential = True


def vacate(state: State, attempt: int, worker: int) -> None:
    """An attempt left its worker: its slot and its resources are free again."""
    queue = state.queues.get(worker)
    if queue is None or attempt not in queue:
        return
    del queue[attempt]
    state.active -= 1
    rider = state.riders.pop(attempt, -1)
    while rider >= 0:  # it is dropped, and so are those that ride on it
        rider = state.riders.pop(rider, -1)
    request = state.plan.requests[state.plan.groups[attempt & NODE_MASK]]
    for name, amount in request.resources:
        state.available[name] += amount
    if request.sequential:
        state.sequential = False


def start(state: State, attempt: int, worker: int, at: float) -> None:
    """A worker began to perform an attempt that was assigned to it."""
    node = attempt & NODE_MASK
    state.status[node] = RUNNING
    state.started[node] = at
    state.where[node] = worker
    if attempt == node:
        state.journal.append(~node)
    else:
        state.journal.append(Fact(Kind.STARTED, at, node, attempt >> NUMBER_SHIFT, worker, at))


def skip(state: State, node: int, cause: int, at: float) -> None:
    """A node is passed over, because of the node `cause` or because it has no task."""
    move(state, node, SKIPPED)
    state.ended[node] = at
    state.remaining -= 1
    state.release(node)
    if cause != NO_TASK:
        state.cause[node] = cause
    state.journal.append(node | SKIPPED_BIT)
    settle(state, node, cause == NO_TASK)


def satisfies(state: State, before: int, node: int) -> bool:
    """Return whether a node need not wait for this predecessor any more."""
    status = state.status[before]
    return status == COMPLETED or (status >= FAILED and not dooms(state, before, node))


def dooms(state: State, before: int, node: int) -> bool:
    """Return whether a node has to be skipped because of how this predecessor ended."""
    status = state.status[before]
    if status < FAILED:
        return False
    if (status == SKIPPED and before not in state.cause) or goes_on(state, before):
        return False
    return not (state.plan.settings.on_failure == "continue" and not state.plan.takes_value(node, before))
