"""Runs that use the fleet: the real machine, a store that outlives its process, and a session that speaks like the fleet's."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.beginning import beginning, renewed, retry_timers, uses
from dagrid.graph.node import Node
from dagrid.machine.applying import apply
from dagrid.machine.commands import Cancel, Command, Finish, Perform, Recall, SetTimer
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    NODE_MASK,
    CancelRequested,
    Fact,
    Finished,
    Kind,
    Outcome,
    Recalled,
    Room,
    Started,
    Stimulus,
    TimerDue,
    WorkerGone,
    WorkerJoined,
    attempt_id,
)
from dagrid.machine.plan import Plan, Settings
from dagrid.machine.state import State
from dagrid.ports import Use
from tests.fleet.network import Time
from tests.machine.world import plan_of

Send = Callable[[pb.Ask], None]


@dataclass
class Work:
    """A run as it was submitted, and what its store has: this outlives every process."""

    id: str
    nodes: Sequence[Node]
    settings: Settings = field(default_factory=Settings)
    chains: bool = False
    exclusive: frozenset[str] = frozenset()
    flaky: dict[str, int] = field(default_factory=dict)  # how often a task fails before it works
    contents: dict[str, bytes] = field(default_factory=dict)  # by node, the digest of its function
    durations: dict[str, float] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    cancel: bool = False
    done: bool = False

    def plan(self) -> Plan:
        return plan_of(self.nodes, self.settings)


def value_of(name: str, before: Iterable[int]) -> int:
    """Return what a task makes of the values of its predecessors."""
    made = 17
    for part in (*map(ord, name), *before):
        made = (made * 1_000_003 + part) % (1 << 61)
    return made


@dataclass
class Flight:
    """An attempt that the session has handed out."""

    started: bool = False
    cancelled: bool = False


@dataclass
class InUse:
    """A worker as the session knows it."""

    number: int
    name: str
    generation: int = 0
    flights: dict[int, Flight] = field(default_factory=dict)


class Engine:
    """A run in a process: it decides, records, and only then acts. `crash` may raise at any point between."""

    def __init__(self, time: Time, work: Work, crash: Callable[[], None]) -> None:
        self.time = time
        self.work = work
        self.crash = crash
        self.send: Send | None = None
        self.window = 12
        self.ask = pb.Ask()
        self.in_use: dict[int, InUse] = {}
        self.timers: list[tuple[float, SetTimer]] = []
        plan = work.plan()
        self.state = State(plan)
        self.state.chains = work.chains
        for fact in work.facts:
            apply(self.state, fact)
        self.stored = len(self.state.journal)
        self.numbers = max(self.state.workers, default=0) + 1
        self.arm: Callable[[float, Callable[[], None]], None] = lambda delay, action: None
        self.heard: list[tuple[Stimulus, int]] = []

    # --- begin ------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find what is under way, before the line is opened."""
        state = self.state
        self.listed: Sequence[Use] = uses(state, "")
        for use in self.listed:
            mine = self.in_use[use.worker] = InUse(use.worker, use.name)
            mine.flights.update({attempt: Flight() for attempt in use.queued})
            mine.flights.update({attempt: Flight(started=True) for attempt in use.started})

    def begin(self) -> None:
        """Take up what the store knows; the line is open."""
        for timer in retry_timers(self.state, self.time.now):
            self._set_timer(timer)
        spared = [use.worker for use in self.listed]
        self.step(beginning(self.state, self.time.now, {}, {}, (), spared=spared))
        for worker in spared:
            for command in renewed(self.state, worker):
                self._obey(command)
        self._send()
        if self.work.cancel:
            self.cancel()

    def opening(self) -> pb.Open:
        """Return how the run opens its line, with the uses that go on."""
        opened = pb.Open(run=self.work.id, name=self.work.id, root=self.work.id, protocol=PROTOCOL, python="3.11")
        for use in self.in_use.values():
            queued = [attempt for attempt, flight in use.flights.items() if not flight.started]
            started = [attempt for attempt, flight in use.flights.items() if flight.started]
            opened.uses.add(fence=use.number, worker=use.name, queued=queued, started=started)
        return opened

    def connected(self, send: Send) -> None:
        """There is a line, and it was opened: cancels that may have been lost are said again."""
        self.send = send
        again = pb.Ask()
        for use in self.in_use.values():
            lost = [attempt for attempt, flight in use.flights.items() if flight.cancelled]
            if lost:
                again.cancels.add(run=self.work.id, fence=use.number, attempts=lost)
        if again.ByteSize():
            send(again)

    def disconnected(self) -> None:
        self.send = None

    # --- what it is told --------------------------------------------------------------------------------------------------

    def tell(self, tell: pb.Tell) -> None:
        """Take what the coordinator says, in the order of the protocol."""
        stimuli: list[Stimulus] = []
        for joined in tell.joined:
            self._joined(joined, stimuli)
        now = self.time.now
        for room in tell.rooms:
            use = self._of(room.worker, room.generation)
            if use is not None:
                self.time.seen.add("room")
                stimuli.append(Room(use.number, room.slots, now))
        acks: list[tuple[int, list[int]]] = []
        values: dict[int, int] = {}
        for report in tell.reports:
            self._reported(report, stimuli, values)
            acks.append((report.fence, [each.attempt for each in report.finished]))
        for gone in tell.gone:
            found = self.in_use.get(gone.fence) if gone.fence else self._of(gone.worker, gone.generation)
            if found is not None:
                del self.in_use[found.number]
                stimuli.append(WorkerGone(found.number, now, gone.reason))
        self.step(stimuli, values, acks)

    def _joined(self, joined: pb.Joined, stimuli: list[Stimulus]) -> None:
        if joined.fence:
            self.time.seen.add("a use goes on")
            self.in_use[joined.fence].generation = joined.generation
            return
        number, self.numbers = self.numbers, self.numbers + 1
        self.in_use[number] = InUse(number, joined.worker, joined.generation)
        stimuli.append(
            WorkerJoined(
                number,
                joined.worker,
                self.time.now,
                joined.slots,
                max(self.window, joined.slots),
                labels=dict(joined.labels),
                ahead=0.005,
            )
        )

    def _reported(self, report: pb.Report, stimuli: list[Stimulus], values: dict[int, int]) -> None:
        use = self.in_use.get(report.fence)
        if use is None:
            return
        now = self.time.now
        for each in report.finished:
            if use.flights.pop(each.attempt, None) is None:
                continue
            ended = Finished(use.number, each.attempt, each.outcome, now, now, error=each.error)
            if each.outcome == Outcome.COMPLETED:
                values[each.attempt], fence = pickle.loads(each.value)
                assert fence == report.fence, "what an earlier use of the worker says counts"
            else:
                self._drop_riders(use, each.attempt)
            stimuli.append(ended)
        for begun in report.started:
            flight = use.flights.get(begun.attempt)
            if flight is not None and not flight.started:
                flight.started = True
                stimuli.append(Started(use.number, begun.attempt, now))
        back = [attempt for attempt in report.recalled if use.flights.pop(attempt, None) is not None]
        for attempt in back:
            self._drop_riders(use, attempt)
        if back:
            stimuli.append(Recalled(use.number, back, now))

    def _drop_riders(self, use: InUse, attempt: int) -> None:
        rider = next((node for node, on in self.state.rides.items() if on == attempt), -1)
        if rider >= 0 and use.flights.pop(attempt_id(rider, 0), None) is not None:
            self._drop_riders(use, attempt_id(rider, 0))

    def _of(self, worker: str, generation: int) -> InUse | None:
        found = (use for use in self.in_use.values() if use.name == worker and use.generation == generation)
        return next(found, None)

    # --- deciding ---------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        self.step([CancelRequested(self.time.now)])

    def step(
        self,
        stimuli: list[Stimulus],
        values: dict[int, int] | None = None,
        acks: Sequence[tuple[int, list[int]]] = (),
    ) -> None:
        """Decide, record, act, and acknowledge what was recorded."""
        commands = decide(self.state, stimuli, self.time.now)
        self.crash()
        self._commit(values or {})
        self.crash()
        for command in commands:
            self._obey(command)
        for fence, attempts in acks:
            if attempts:
                self.ask.acks.add(run=self.work.id, fence=fence, attempts=attempts)
        self.ask.close = self.work.done
        self._send()
        self.crash()

    def _send(self) -> None:
        ask, self.ask = self.ask, pb.Ask()
        if self.send is not None and ask.ByteSize():
            self.send(ask)

    def _commit(self, values: dict[int, int]) -> None:
        facts = list(self.state.facts(self.stored))
        for fact in facts:
            self.time.seen.add(fact.kind.name)
            if fact.kind is Kind.COMPLETED:
                self.work.values[fact.node] = values[attempt_id(fact.node, fact.number)]
        for fact in facts:
            self.time.note(self.work.id, fact.kind.name, fact.node, fact.number, "on", fact.worker, fact.detail)
        self.work.facts.extend(facts)
        self.stored = len(self.state.journal)
        self.work.done = self.state.finished

    def _obey(self, command: Command) -> None:
        run = self.work.id
        if isinstance(command, Perform):
            self._perform(command)
        elif isinstance(command, Recall):
            if command.worker in self.in_use:
                self.ask.recalls.add(run=run, fence=command.worker, attempts=command.attempts)
        elif isinstance(command, Cancel):
            use = self.in_use.get(command.worker)
            if use is not None and command.attempt in use.flights:
                use.flights[command.attempt].cancelled = True
                self.ask.cancels.add(run=run, fence=command.worker, attempts=[command.attempt])
        elif isinstance(command, SetTimer):
            self._set_timer(command)
        elif not isinstance(command, Finish):
            raise AssertionError(command)

    def _perform(self, command: Perform) -> None:
        use = self.in_use.get(command.worker)
        if use is None:
            return
        state, work = self.state, self.work
        assign = pb.Assign(run=work.id, fence=use.number, worker=use.name, generation=use.generation)
        for attempt in command.attempts:
            use.flights[attempt] = Flight()
            node = attempt & NODE_MASK
            name = state.plan.names[node]
            on = state.rides.get(node, -1) if state.riders.get(state.rides.get(node, -1)) == node else -1
            rides = on + 1 if on in command.attempts else 0
            known = {before: work.values.get(before) for before in state.plan.predecessors[node]}
            assign.calls.add(
                attempt=attempt,
                node=name,
                function=work.contents.get(name, b""),
                arguments=pickle.dumps(known),
                rides=rides,
                exclusive=name in work.exclusive,
                key=f"{work.id}/{name}",
            )
        self.ask.assigns.append(assign)

    def _set_timer(self, command: SetTimer) -> None:
        def due() -> None:
            self.step([TimerDue(command.kind, command.subject, self.time.now)])

        self.arm(max(command.at - self.time.now, 0.0), due)


def expected(work: Work) -> dict[int, int]:
    """Return the values of a run without faults."""
    plan = work.plan()
    values: dict[int, int] = {}
    for node in range(len(plan)):
        values[node] = value_of(plan.names[node], [values[before] for before in plan.predecessors[node]])
    return values
