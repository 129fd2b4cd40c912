"""A world around the pure machine: workers that obey its commands, in any order that chance brings, and what must always hold."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dagrid.graph.dag import DAG
from dagrid.graph.node import Node
from dagrid.machine.advance import IDLE, RULES, SLOW, advance, can_grow, grow, take
from dagrid.machine.applying import apply
from dagrid.machine.closing import Verdict
from dagrid.machine.commands import Cancel, Command, Evaluate, Finish, Perform, Recall, SetTimer, Wake
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    NODE_MASK,
    Asked,
    Begun,
    CancelRequested,
    Fact,
    Finished,
    Growth,
    Kind,
    Outcome,
    Recalled,
    Rejected,
    Reopened,
    Room,
    RuleEvaluated,
    Signalled,
    Started,
    Stimulus,
    TimerDue,
    TimerKind,
    WorkerGone,
    WorkerJoined,
    attempt_id,
)
from dagrid.machine.plan import Plan, Settings
from dagrid.machine.signals import AT_ONCE, runs_no_more, stuck
from dagrid.machine.state import (
    COMPLETED,
    LEGAL_MOVES,
    PENDING,
    QUEUED,
    READY,
    RUNNING,
    SKIPPED,
    WAITING,
    State,
    Status,
)

ENDS = {Kind.COMPLETED, Kind.FAILED, Kind.TIMED_OUT, Kind.CANCELLED, Kind.LOST, Kind.SKIPPED}
ENDS |= {Kind.REUSED, Kind.OMITTED, Kind.PASSED, Kind.SIGNALLED}


def plan_of(
    nodes: Iterable[Node],
    settings: Settings | None = None,
    empty: Iterable[int] = (),
    sources: Callable[[int], Sequence[int]] | None = None,
    places: Mapping[int, str] | None = None,
) -> Plan:
    """Compile nodes whose functions do not matter."""
    dag = DAG(nodes)
    return Plan(dag.structure, dag.specs, settings or Settings(), empty=empty, sources=sources, places=places)


def reachable_moves() -> dict[int, set[int]]:
    """Return for each status all that a node may have become after any number of legal moves."""
    reach = {status: {status, *after} for status, after in LEGAL_MOVES.items()}
    for middle in reach:
        for seen in reach.values():
            if middle in seen:
                seen |= reach[middle]
    return reach


REACH = reachable_moves()


def satisfied(state: State, before: int, node: int) -> bool:
    """Say, from the words of the documentation alone, whether a node may go on after this predecessor."""
    status = state.status[before]
    if status == COMPLETED or (status == SKIPPED and before not in state.cause):
        return True
    after = state.plan.goes_on.get(before, frozenset())
    if status in (Status.FAILED, Status.TIMED_OUT, Status.LOST) and ("failure" in after or before in state.tolerated):
        return True
    if status == SKIPPED and "skipped" in after:
        return True
    tolerant = state.plan.settings.on_failure == "continue"
    return status > COMPLETED and tolerant and not state.plan.takes_value(node, before)


def under_way(state: State) -> list[tuple[int, int]]:
    """Return (worker, attempt) of all that is with workers."""
    return [(number, attempt) for number, queue in state.queues.items() for attempt in queue]


def amounts_held(state: State) -> dict[str, float]:
    """Return how much of each resource the attempts that are with workers hold."""
    held: Counter[str] = Counter()
    for _, attempt in under_way(state):
        for name, amount in state.plan.requests[state.plan.groups[attempt & NODE_MASK]].resources:
            held[name] += amount
    return dict(held)


def check(state: State) -> None:
    """Assert all that holds between two steps."""
    plan = state.plan
    assert state.remaining == sum(status < COMPLETED for status in state.status)
    assert not state.doomed
    assert not state.passed
    held = under_way(state)
    assert state.active == len(held)
    assert plan.settings.max_concurrency is None or len(held) <= plan.settings.max_concurrency
    full = State(plan).available
    amounts = amounts_held(state)
    for name, capacity in full.items():
        assert state.available[name] == capacity - amounts.get(name, 0)
        assert state.available[name] >= 0
    alone = [attempt for _, attempt in held if plan.requests[plan.groups[attempt & NODE_MASK]].sequential]
    assert state.sequential == bool(alone)
    assert not alone or len(held) == 1
    for number, queue in state.queues.items():
        worker = state.workers[number]
        assert len(queue) <= (1 if worker.pulls else max(worker.window, worker.slots))
    assert all(state.current(attempt) for _, attempt in held), (
        "a try is with a worker whose node has gone on without it"
    )
    current = {attempt & NODE_MASK: number for number, attempt in held}
    assert state.halted.keys() <= {attempt for _, attempt in held}
    reopened = [node for fact in state.facts() if fact.kind is Kind.REOPENED for node in fact.numbers]
    made_again = state.remade.union(reopened)
    heaps = [{key & NODE_MASK for key in heap} for heap in state.ready]
    for node, status in enumerate(state.status):
        before = plan.predecessors[node]
        if status in (READY, QUEUED, RUNNING, COMPLETED):
            again = made_again if status == COMPLETED else ()  # what is made again for others was there in its time
            assert all(each in again or satisfied(state, each, node) for each in before)
        if status == PENDING and node not in state.shut:
            assert state.waiting[node] == sum(not satisfied(state, each, node) for each in before) > 0
        assert (status in (QUEUED, RUNNING)) == (node in current)
        if node in current:
            assert state.where[node] == current[node]
        assert (status == WAITING) == ((node in state.held) != (node in state.due))
        limit = plan.repeats.get(node, AT_ONCE).limit
        assert not limit or state.repeats.get(node, 0) < limit
        if node in plan.handlers:
            check_handler(state, node)
        if status == READY:
            assert node in heaps[plan.groups[node]]
    ends = ends_of(state)
    assert all(ends[node] == (status >= COMPLETED) for node, status in enumerate(state.status))
    if stuck(state):
        assert not held
    if state.finished:
        assert not state.remaining
        kinds = [fact.kind for fact in state.facts()]
        assert 1 <= kinds.count(Kind.RUN_ENDED) <= 1 + kinds.count(Kind.REOPENED)
        assert next(state.facts(len(state.journal) - 1)).kind is Kind.RUN_ENDED


def ends_of(state: State) -> Counter[int]:
    """Return how often each node has ended, less how often that was taken back; what waited for a signal had not ended."""
    ends: Counter[int] = Counter()
    for fact in state.facts():
        if fact.kind in ENDS:
            ends[fact.node] += 1
        elif fact.kind is Kind.VALUE_LOST:
            ends[fact.node] -= 1
        elif fact.kind is Kind.REOPENED:
            ends.subtract(node for node in fact.numbers if ends[node])
    return ends


def check_handler(state: State, node: int) -> None:
    """Assert that a handler runs when its turn has come, and only after the outcome that it is for."""
    plan, status, word = state.plan, state.status[node], state.plan.handlers[node]
    assert (node in state.shut) == (status == PENDING)
    if status in (READY, QUEUED, RUNNING, COMPLETED):
        assert state.outcome is not None
        assert all(state.status[each] >= COMPLETED for each in range(len(plan)) if each not in plan.handlers)
        verdict = Verdict(state.outcome.verdict).name
        told = {"SUCCEEDED": "success", "PARTIALLY_SUCCEEDED": "success", "FAILED": "failure", "ABORTED": "cancel"}
        assert word in (told[verdict], "exit")
        if word == "exit":
            assert all(state.status[each] >= COMPLETED for each, other in plan.handlers.items() if other != "exit")
    if state.finished and status == SKIPPED and node in state.detail:
        assert word != "exit"


def check_moves(before: bytes, after: bytes) -> None:
    """Assert that every node came from where it was by legal moves."""
    for old, new in zip(before, after, strict=False):
        assert new in REACH[old], f"{Status(old).name} -> {Status(new).name}"


def rules_of(optional: Sequence[bool], waits: tuple[str, ...] = ()) -> Growth:
    """Return rules that say nothing of what they add, by whether they are optional; every second one waits for nodes."""
    return Growth(rules=[(number, each, None, waits * (number % 2)) for number, each in enumerate(optional)])


def replayed(
    state: State, fresh: Plan, rules: Sequence[bool], until: int | None = None, waits: tuple[str, ...] = ()
) -> State:
    """Return what the first facts of a run, or all, make of a fresh state; `fresh` is the plan as it was at the start."""
    again = State(fresh, rules_of(rules, waits))
    for fact in list(state.facts(0, until)):
        apply(again, fact)
    return again


def picture(state: State) -> dict[str, Any]:
    """Return what a replay must give again."""
    return {
        "status": bytes(state.status),
        "waiting": state.waiting,
        "remaining": state.remaining,
        "remade": (state.remade, state.reopened_at),
        "before": state.attempts_before,
        "numbers": state.numbers,
        "failures": state.failures,
        "losses": state.losses,
        "repeats": state.repeats,
        "held": state.held,
        "due": state.due,
        "halted": state.halted,
        "cause": state.cause,
        "detail": state.detail,
        "tolerated": state.tolerated,
        "available": state.available,
        "active": state.active,
        "sequential": state.sequential,
        "queues": {number: set(queue) for number, queue in state.queues.items()},
        "gone": [number for number in state.workers if number not in state.present],
        "finished": state.finished,
        "stopped": (state.stopped, state.cancelled, state.error, state.expired),
        "outcome": (state.outcome, state.shut, state.unapplied),
        "rules": {number: (rule.optional, rule.adds) for number, rule in state.rules.items()},
        "adders": {kind: count for kind, count in state.adders.items() if count},
        "sealed": state.sealed,
        "facts": list(state.facts()),
    }


@dataclass
class Place:
    """A worker as the world sees it."""

    number: int
    slots: int
    pulls: bool
    waiting: list[int] = field(default_factory=list)
    running: dict[int, float] = field(default_factory=dict)
    riding: dict[int, int] = field(default_factory=dict)
    woken: bool = False
    asking: bool = False  # it delivered, and will ask when the rules have been asked that waited for this

    @property
    def startable(self) -> list[int]:
        """What waits here and does not ride on something that has not completed."""
        return [attempt for attempt in self.waiting if attempt not in self.riding]

    def let_go(self, attempt: int, completed: bool = False) -> None:
        """An attempt has left: who rode on it may start, or is dropped with all that ride on that."""
        for rider in [rider for rider, on in self.riding.items() if on == attempt]:
            del self.riding[rider]
            if not completed:
                self.waiting.remove(rider)
                self.let_go(rider)


class World:
    """The machine, its workers and its timers. One step is one thing that happens; `check` follows each."""

    def __init__(
        self,
        plan: Plan,
        chance: random.Random,
        *,
        rules: Sequence[bool] = (),
        waits: tuple[str, ...] = (),
        fast: bool = True,
        chains: bool = False,
    ) -> None:
        self.state = State(plan, rules_of(rules, waits))
        self.state.chains = chains
        self.chance = chance
        self.fast = fast
        self.at = 0.0
        self.places: dict[int, Place] = {}
        self.joined = 0
        self.timers: list[SetTimer] = []
        self.recalls: list[Recall] = []
        self.cancels: list[Cancel] = []
        self.questions: list[int] = []
        self.old: list[Finished] = []
        self.order: list[int] = []
        self.finished = False
        self.steps = 0
        self.boundaries: list[int] = []
        self.limit()
        self.tell()

    # --- the machine ------------------------------------------------------------------------------------------------------

    def tell(self, *stimuli: Stimulus) -> None:
        """Let the machine decide, and obey."""
        before = bytes(self.state.status)
        self.obey(decide(self.state, stimuli, self.at))
        self.steps += 1
        self.boundaries.append(len(self.state.journal))
        if not any(isinstance(each, Reopened) for each in stimuli):
            check_moves(before, bytes(self.state.status))
        check(self.state)

    def limit(self) -> None:
        """Set the timer of the run as a whole, as the engine does."""
        timeout = self.state.plan.settings.timeout
        if timeout is not None:
            self.timers.append(SetTimer(timeout, TimerKind.RUN, 0))

    def obey(self, commands: Iterable[Command]) -> None:
        for command in commands:
            assert not self.finished, "a command after the end"
            if isinstance(command, Perform):
                self._perform(command)
            elif isinstance(command, Wake):
                assert not self.places[command.worker].woken
                self.places[command.worker].woken = True
            elif isinstance(command, SetTimer):
                self.timers.append(command)
            elif isinstance(command, Recall):
                self.recalls.append(command)
            elif isinstance(command, Cancel):
                self.cancels.append(command)
            elif isinstance(command, Evaluate):
                self.questions.append(command.rule)
            elif isinstance(command, Finish):
                self.finished = True

    def _perform(self, command: Perform) -> None:
        place = self.places[command.worker]
        self.order.extend(attempt & NODE_MASK for attempt in command.attempts)
        if place.pulls:
            assert len(command.attempts) == 1
            assert not place.running
            place.running[command.attempts[0]] = self.at
        else:
            assert len(self.state.workers[command.worker].queue) <= self.state.workers[command.worker].room
            place.waiting.extend(command.attempts)
            for attempt in command.attempts:
                on = self.state.rides.get(attempt & NODE_MASK)
                if on in command.attempts and self.state.status[attempt & NODE_MASK] == PENDING:
                    place.riding[attempt] = on

    def restart(self, state: State, lost: Sequence[int] = (), again: Sequence[int] | None = None) -> None:
        """Go on from a state that was replayed, in a process without the workers, the timers and some values of the old one.

        Args:
            again: what runs again of a run that is taken up.
        """
        self.state = state
        state.ask_again()
        self.places.clear()
        self.timers.clear()
        self.questions.clear()
        self.old.clear()
        self.joined = max(state.workers, default=-1) + 1
        self.finished = state.finished
        self.limit()
        gone = [WorkerGone(number, self.at) for number in list(state.present)]
        waiting = [TimerDue(TimerKind.RETRY, attempt_id(node, state.number_of(node)), self.at) for node in state.due]
        reopened = [] if again is None else [Reopened(self.at, again)]
        begun: list[Stimulus] = [*reopened, *gone] if state.finished else [*gone, *reopened]
        self.finished = self.finished and again is None
        self.tell(*begun, Begun(self.at, lost=lost), *waiting)

    # --- what can happen --------------------------------------------------------------------------------------------------

    def join(
        self,
        slots: int = 1,
        window: int = 1,
        pulls: bool = False,
        labels: Mapping[str, str] | None = None,
        delegates: bool = False,
        place: str = "",
    ) -> int:
        number, self.joined = self.joined, self.joined + 1
        self.places[number] = Place(number, slots, pulls)
        self.tell(
            WorkerJoined(number, f"w{number}", self.at, slots, window, pulls, labels or {}, place, delegates=delegates)
        )
        return number

    def vanish(self, number: int) -> None:
        place = self.places.pop(number)
        for attempt in (*place.running, *place.waiting):
            self.old.append(Finished(number, attempt, Outcome.COMPLETED, self.at, self.at))
        self.cancels = [cancel for cancel in self.cancels if cancel.worker != number]
        self.recalls = [recall for recall in self.recalls if recall.worker != number]
        self.tell(WorkerGone(number, self.at))

    def limit_room(self, number: int, slots: int) -> None:
        """Others have the worker too."""
        self.tell(Room(number, slots, self.at))

    def start(self, place: Place) -> None:
        attempt = place.startable[0]
        place.waiting.remove(attempt)
        place.running[attempt] = self.at
        self.tell(Started(place.number, attempt, self.at))

    def finish(self, place: Place, attempt: int, outcome: Outcome = Outcome.COMPLETED, retryable: bool = True) -> None:
        started = place.running.pop(attempt)
        self.cancels = [cancel for cancel in self.cancels if cancel.attempt != attempt or cancel.worker != place.number]
        error = "" if outcome == Outcome.COMPLETED else f"{outcome.name.lower()} on purpose"
        tolerated = outcome == Outcome.FAILED and self.chance.random() < 0.2
        done = Finished(
            place.number, attempt, outcome, started, self.at, error=error, retryable=retryable, tolerated=tolerated
        )
        self.old.append(done)
        place.let_go(attempt, outcome == Outcome.COMPLETED)
        if not place.pulls:
            self.tell(done)
            return
        following = SLOW
        if self.fast and outcome == Outcome.COMPLETED:
            following = advance(self.state, attempt, place.number, started, self.at)
        if following == SLOW:
            self.tell(done, Asked(place.number, self.at))
        elif following == IDLE:
            self.tell(Asked(place.number, self.at))
        elif following == RULES:
            self.questions.extend(self.state.asks)
            self.state.asks.clear()
            place.asking = True
            check(self.state)
        else:
            self._given(place, following)

    def want(self, place: Place, attempt: int, outcome: Outcome) -> None:
        """A task wants to be run again, if it may, or to wait for a signal."""
        node = attempt & NODE_MASK
        if outcome == Outcome.REPEATED and self.state.accepts(attempt) and runs_no_more(self.state, node):
            outcome = Outcome.COMPLETED
        self.finish(place, attempt, outcome)

    def answer(self, node: int, well: bool) -> None:
        """Somebody answers a node that waits; a second answer changes nothing."""
        attempt = attempt_id(node, self.state.number_of(node))
        answer = Signalled(self.at, attempt) if well else Rejected(self.at, attempt, "no")
        self.tell(answer)
        assert node not in self.state.held
        before = picture(self.state)
        self.tell(answer)
        assert picture(self.state) == before

    def _given(self, place: Place, node: int) -> None:
        self.order.append(node)
        place.running[node] = self.at
        self.tell()

    def ask(self, place: Place) -> None:
        place.woken = place.asking = False
        following = take(self.state, place.number, self.at) if self.fast else IDLE
        if following == IDLE:
            self.tell(Asked(place.number, self.at))
        else:
            self._given(place, following)

    def timer(self) -> None:
        timer = min(self.timers, key=lambda each: each.at)
        self.timers.remove(timer)
        self.at = max(self.at, timer.at)
        self.tell(TimerDue(timer.kind, timer.subject, self.at))

    def answer_recall(self) -> None:
        recall = self.recalls.pop(0)
        place = self.places[recall.worker]
        given = [attempt for attempt in place.waiting if attempt in recall.attempts]
        place.waiting = [attempt for attempt in place.waiting if attempt not in given]
        for attempt in given:
            place.let_go(attempt)
        if given:
            self.tell(Recalled(recall.worker, given, self.at))

    def answer_cancel(self) -> None:
        cancel = self.cancels.pop(0)
        place = self.places[cancel.worker]
        started = place.running.pop(cancel.attempt, self.at)
        if cancel.attempt in place.waiting:
            place.waiting.remove(cancel.attempt)
        place.riding.pop(cancel.attempt, None)
        place.let_go(cancel.attempt)
        done = Finished(cancel.worker, cancel.attempt, Outcome.CANCELLED, started, self.at)
        self.tell(done, Asked(cancel.worker, self.at)) if place.pulls else self.tell(done)

    def cancel(self) -> None:
        self.tell(CancelRequested(self.at))

    def late(self) -> None:
        """A report of an attempt that was answered before, or whose worker is gone, changes nothing."""
        before = picture(self.state)
        self.tell(self.chance.choice(self.old))
        assert picture(self.state) == before

    def answer_rule(self, nodes: Sequence[Node] = (), applied: bool = False, error: str = "") -> None:
        rule = self.questions.pop(0)
        answer = RuleEvaluated(rule, self.at, Growth(nodes) if applied else None, error=error)
        if not (self.fast and can_grow(self.state, answer)):
            self.tell(answer)
            return
        before = bytes(self.state.status)
        grow(self.state, answer)
        check_moves(before, bytes(self.state.status))
        asking = [place for place in self.places.values() if place.asking]
        following = take(self.state, asking[0].number, self.at) if asking else IDLE
        if following == IDLE:
            self.tell()
            return
        asking[0].asking = False
        self._given(asking[0], following)

    # --- by chance --------------------------------------------------------------------------------------------------------

    def possible(self, calm: bool = False) -> list[Callable[[], object]]:
        """Return what may happen next; when `calm`, only what brings the run to its end."""
        found: list[Callable[[], object]] = []
        chance = self.chance
        found += [partial(self.answer, node, calm or chance.random() < 0.7) for node in self.state.held]
        for place in self.places.values():
            if place.startable and len(place.running) < place.slots:
                found.append(partial(self.start, place))
            for attempt in place.running:
                found.append(partial(self.finish, place, attempt))
                if not calm:
                    outcome = self.chance.choice([Outcome.FAILED, Outcome.LOST, Outcome.FAILED])
                    again = self.chance.random() < 0.7
                    found.append(partial(self.finish, place, attempt, outcome, again))
                    if chance.random() < 0.5:
                        found.append(
                            partial(self.want, place, attempt, chance.choice([Outcome.REPEATED, Outcome.HELD]))
                        )
            if place.pulls and (place.woken or place.asking):
                found.append(partial(self.ask, place))
        if self.timers:
            found.append(self.timer)
        if self.recalls:
            found.append(self.answer_recall)
        if self.cancels:
            found.append(self.answer_cancel)
        if self.questions:
            found.append(self.answer_rule)
        if not calm:
            found += self._mischief()
        return found

    def _mischief(self) -> list[Callable[[], object]]:
        found: list[Callable[[], object]] = []
        chance = self.chance
        if len(self.places) < 4:
            pulls = chance.random() < 0.5
            slots = 1 if pulls else chance.randint(1, 2)
            window = 1 if pulls else slots + chance.randint(0, 3)
            labels = {"gpu": "true"} if chance.random() < 0.5 else {}
            found.append(partial(self.join, slots, window, pulls, labels))
        if self.places and chance.random() < 0.3:
            number = chance.choice(list(self.places))
            found.append(partial(self.vanish, number))
            found.append(partial(self.limit_room, number, chance.randint(0, 3)))
        if self.old:
            found.append(self.late)
        if self.questions:
            plan = self.state.plan
            known = [name for node, name in enumerate(plan.names) if node not in plan.handlers]
            before = chance.sample(known, min(2, len(known)))
            grown = [Node(f"grown{len(self.state.plan)}", None, before), Node(f"last{len(self.state.plan)}")]
            found.append(partial(self.answer_rule, grown, True))
        if chance.random() < 0.05:
            found.append(self.cancel)
        return found

    def live(self, steps: int) -> None:
        """Let that many things happen, then let the world calm down until the run has ended."""
        for _ in range(steps):
            if self.finished:
                break
            self.at += self.chance.choice([0.0, 0.0001, 0.001, 0.5])
            possible = self.possible()
            if possible:
                self.chance.choice(possible)()
        if not self.finished:
            self.join(2, 4, labels={"gpu": "true"})
        bound = 60 * (len(self.state.plan) + 4)
        while not self.finished and bound:
            bound -= 1
            self.at += 0.01
            possible = self.possible(calm=True)
            assert possible, "nothing can happen any more, and the run has not ended"
            self.chance.choice(possible)()
        assert self.finished


def finished_facts(state: State) -> list[Fact]:
    """Return the facts that end nodes, in order."""
    return [fact for fact in state.facts() if fact.kind in ENDS]
