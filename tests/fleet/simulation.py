"""The whole protocol on a virtual clock: one coordinator with its ledger, workers with their duties, runs with the real machine.

A schedule follows from its seed alone. `gentle` ones have only faults that nobody is to notice: streams that break and are dialed
anew, a coordinator that starts again at once, clocks of day that jump. In the others anything dies, stops and leaves.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial

from dagrid.execution.backends.cluster.duty import Duty, Perform
from dagrid.execution.backends.cluster.ledger import Ledger
from dagrid.graph.node import Node
from dagrid.graph.policy import Retry
from dagrid.machine.applying import apply
from dagrid.machine.events import NODE_MASK, Kind
from dagrid.machine.plan import Settings
from dagrid.machine.state import COMPLETED, State
from tests.fleet.borrowers import Work, expected, value_of
from tests.fleet.network import Died, End, Process, Stream, Time
from tests.fleet.processes import CONTENTS, LEASE, Borrower, Coordinator
from tests.fleet.workers import Execution, Site, Watch, WorkerProcess
from tests.machine.world import check

SLOW = 0.05
"""Seconds that a message takes at most."""


class World(Watch):
    """A schedule: what there is, what is submitted, and what goes wrong."""

    def __init__(self, seed: int, *, gentle: bool = False, chains: bool = False) -> None:
        self.seed = seed
        self.gentle = gentle
        self.chance = random.Random(f"{seed} {gentle} {chains}")
        self.time = Time(self.chance)
        self.time.buried = self.bury
        self.slowest = self.chance.choice([0.002, SLOW, SLOW])
        self.number = 0
        self.coordinator: Coordinator | None = None
        self.workers: list[WorkerProcess] = []
        self.borrowers: dict[str, Borrower] = {}
        self.executions: list[Execution] = []
        self.failures: Counter[tuple[str, str]] = Counter()
        self.crashed: set[str] = set()
        self.given_up: dict[str, float] = {}  # when a coordinator last said that a worker is gone
        self.twinned: set[str] = set()
        self.abandoned: set[str] = set()
        self.calm = False
        self.upset_until = self.chance.uniform(2, 25)
        self.countdown = self.chance.randint(1, 300) if self.chance.random() < 0.7 else 0
        self.sites = self.some_sites()
        self.works = [self.some_work(number, chains) for number in range(self.chance.randint(1, 4))]
        self.remote = {work.id for work in self.works if self.chance.random() < 0.4}
        self.submitted: list[Work] = []

    # --- what there is ----------------------------------------------------------------------------------------------------

    def some_sites(self) -> list[Site]:
        chance = self.chance
        return [
            Site(
                f"w{number}",
                chance.randint(1, 3),
                {"gpu": "true"} if number == 0 or chance.random() < 0.3 else {},
                chance.choice([0, 0, 0, 1, 2]),
                chance.choice([1.0, 1.0, 5.0]),
            )
            for number in range(chance.randint(1, 4))
        ]

    def some_work(self, number: int, chains: bool) -> Work:
        chance = self.chance
        count = chance.choice([1, 1, 3, 8, 20])
        chained = chains and chance.random() < 0.7
        span = chance.choice([0.0005, 0.05, 1.0])
        nodes, flaky = [], {}
        for each in range(count):
            name = f"n{each}"
            before = chance.sample(range(each), min(each, chance.choice([0, 1, 1, 2]))) if each else []
            if chained and each and chance.random() < 0.7:
                before = [each - 1]
            retries = Retry(2, delay=chance.choice([0.0, 0.5])) if chance.random() < 0.2 else None
            if retries is not None:
                flaky[name] = chance.randint(0, 2)
            nodes.append(
                Node(
                    name,
                    None,
                    [f"n{one}" for one in before],
                    selector={"gpu": "true"} if not chained and chance.random() < 0.15 else None,
                    retries=retries,
                    timeout=chance.choice([0.2, 3.0]) if not self.gentle and chance.random() < 0.05 else None,
                )
            )
        names = [node.id for node in nodes]
        exclusive = frozenset(name for name in names if not chained and chance.random() < 0.1)  # who rides is not
        durations = {name: chance.random() * span for name in names}
        if not self.gentle:
            durations |= {
                name: chance.random() * 2 * LEASE for name in names if name in exclusive and chance.random() < 0.3
            }
        settings = Settings(max_losses=1000, batch=0.005, hold=chance.choice([0.01, 0.5]))
        return Work(
            f"r{number}",
            nodes,
            settings,
            chains=chained,
            exclusive=exclusive,
            flaky=flaky,
            contents={name: chance.choice(CONTENTS) for name in names if chance.random() < 0.3},
            durations=durations,
        )

    # --- processes come and go --------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        if self.coordinator is not None and self.coordinator.alive:
            return
        self.number += 1
        coordinator = self.coordinator = Coordinator(self.time, self.number, self.may_die, self.gives_up)
        for work in self.submitted:
            if work.id not in self.remote and not work.done:
                self.time.after(self.chance.random() * 0.3, coordinator, partial(coordinator.host, work))

    def gives_up(self, worker: str) -> None:
        """A coordinator says that a worker is gone. A run whose process is dead does not hear of it if that one dies too."""
        self.given_up[worker] = self.time.now
        for each in self.executions:
            if each.worker.site.id == worker and each.attempt & NODE_MASK not in self.work(each.run).values:
                each.given_up = True

    def start_worker(self, site: Site) -> None:
        self.number += 1
        worker = WorkerProcess(self.time, site, self.number, self)
        self.workers.append(worker)
        worker.dial()

    def submit(self, work: Work) -> None:
        self.submitted.append(work)
        if work.id in self.remote:
            self.start_borrower(work)
        elif self.coordinator is not None and self.coordinator.alive:
            self.time.after(0.0, self.coordinator, partial(self.coordinator.host, work))

    def start_borrower(self, work: Work) -> None:
        if not work.done:
            self.number += 1
            borrower = self.borrowers[work.id] = Borrower(self.time, work, self.number, self.may_die, self.connect)
            self.time.after(0.0, borrower, borrower.dial)

    def kill(self, process: Process) -> None:
        """End a process at once, and its streams with it."""
        if not process.alive:
            return
        self.time.note(process, "dies")
        self.time.seen.add(f"death of a {type(process).__name__}")
        process.alive = False
        if isinstance(process, Coordinator):
            for stream in process.streams:
                stream.cut(1.0)
            self.crashed.update(work.id for work in self.works if work.id not in self.remote)
            self.time.after(self.chance.uniform(0.01, 1.0 if self.gentle else 12.0), None, self.start_coordinator)
        elif isinstance(process, Borrower):
            if process.end is not None:
                process.end.stream.cut(1.0)
            work = process.engine.work
            self.crashed.add(work.id)
            latest = 1.0 if self.gentle else 12.0
            self.time.after(self.chance.uniform(0.01, latest), None, partial(self.start_borrower, work))
        elif isinstance(process, WorkerProcess):
            if process.end is not None:
                process.end.stream.cut(1.0 if self.chance.random() < 0.8 else 12.0)
            if process.site is not self.sites[0] and self.chance.random() < 0.2:
                self.abandoned.add(process.site.id)
            if not self.calm:
                self.time.after(self.chance.uniform(0.01, 12.0), None, partial(self.replace, process.site))

    def replace(self, site: Site) -> None:
        """Start a worker where none is any more, if one is going to be there again."""
        if site.id not in self.abandoned and not any(worker.alive and worker.site is site for worker in self.workers):
            self.start_worker(site)

    def bury(self, process: Process) -> None:
        self.kill(process)

    def may_die(self, process: Process) -> None:
        """Die here, if chance wants it: a process may do so at any point of recording and acting."""
        if self.calm or not self.countdown:
            return
        self.countdown -= 1
        if not self.countdown:
            self.countdown = self.chance.randint(1, 200) if self.chance.random() < 0.6 else 0
            raise Died(process)

    def connect(self, client: Process) -> End | None:
        """Return the client's end of a new stream to the coordinator; None if there is none."""
        coordinator = self.coordinator
        if coordinator is None or not coordinator.alive or coordinator.stopped_until > self.time.now:
            return None
        stream = Stream(self.time, client, coordinator, self.slowest)
        coordinator.accept(stream.server)
        return stream.client

    # --- what workers ask -------------------------------------------------------------------------------------------------

    def dial(self, worker: WorkerProcess) -> None:
        end = self.connect(worker)
        if end is None:
            worker.again()
        else:
            worker.connect(end)

    def left(self, worker: WorkerProcess) -> None:
        worker.alive = False
        self.time.after(0.5 if self.calm else self.chance.uniform(0.01, 12.0), None, partial(self.replace, worker.site))

    def work(self, run: str) -> Work:
        return next(work for work in self.works if work.id == run)

    def duration(self, worker: WorkerProcess, perform: Perform) -> float:
        return min(self.work(perform.run).durations[perform.call.node] * worker.site.slowness, 2 * LEASE)

    def result(self, perform: Perform, known: dict[int, int | None]) -> int | None:
        work, name = self.work(perform.run), perform.call.node
        self.failures[work.id, name] += 1
        if self.failures[work.id, name] <= work.flaky.get(name, 0):
            return None
        values = list(known.values())
        assert None not in values, f"{name} of {work.id} was given no value"
        return value_of(name, [value for value in values if value is not None])

    def began(self, execution: Execution) -> None:
        """A call really begins: this is where what may not happen would be seen."""
        work = self.work(execution.run)
        node = execution.attempt & NODE_MASK
        if not execution.rode:
            missing = [before for before in work.plan().predecessors[node] if before not in work.values]
            assert not missing, f"{execution.node} of {work.id} began before what it waits for was recorded"
        gone = any(fact.kind is Kind.WORKER_GONE and fact.worker == execution.fence for fact in work.facts)
        again = f"{execution.node} of {work.id} runs again after its value was recorded"
        assert gone or node not in work.values, again  # who is lost cannot know
        if execution.node in work.exclusive:
            for other in self.executions:
                same = other.run == execution.run and other.node == execution.node and other.worker.alive
                twin = (
                    other.worker.site.id in self.twinned
                )  # a coordinator that begins cannot know which of them had it
                late = twin or node in work.plan().timeouts  # another try begins while the late one is being stopped
                if same and not late and other.ended is None and other.worker.stopped_until <= self.time.now:
                    raise AssertionError(f"{execution.node} of {work.id} is exclusive, and runs twice")
        execution.given_up = execution.worker.welcomed_at < self.given_up.get(execution.worker.site.id, -1.0)
        self.executions.append(execution)
        if execution.rode:
            self.time.seen.add("a chain")
        if execution.node in work.exclusive:
            self.time.seen.add("something exclusive")

    # --- what goes wrong --------------------------------------------------------------------------------------------------

    def upset(self) -> None:
        """One thing goes wrong."""
        chance = self.chance
        living = [worker for worker in self.workers if worker.alive]
        faults: list[Callable[[], object]] = [self.cut, self.cut, self.stall, self.jump]
        if not self.gentle:
            faults += [self.kill_worker, self.kill_worker, self.stop, self.stop, self.drain, self.cancel, self.twin]
            faults += [self.pause, partial(self.kill, chance.choice(living)) if living else self.cut]
        if chance.random() < 0.15:
            faults = [self.kill_coordinator, self.kill_borrower]
        fault = chance.choice(faults)
        self.time.note("fault:", getattr(fault, "__name__", "kill"))
        fault()
        if self.time.now < self.upset_until:
            self.time.after(chance.expovariate(1 / 1.5), None, self.upset)

    def ends(self) -> list[End]:
        found = [worker.end for worker in self.workers if worker.alive and worker.end is not None]
        found += [each.end for each in self.borrowers.values() if each.alive and each.end is not None]
        return found

    def cut(self) -> None:
        ends = self.ends()
        if ends:
            self.chance.choice(ends).stream.cut(1.0 if self.gentle else self.chance.choice([1.0, 1.0, 12.0]))

    def stall(self) -> None:
        ends = self.ends()
        if ends:
            end = self.chance.choice(ends)
            seconds = self.chance.uniform(0.1, 1.0 if self.gentle else 12.0)
            end.stream.stall(self.chance.choice([end, end.other]), seconds)
            if self.chance.random() < 0.5:
                self.time.after(seconds, None, partial(end.stream.cut, 1.0))

    def jump(self) -> None:
        if self.workers:
            self.chance.choice(self.workers).day += self.chance.uniform(-1e6, 1e6)

    def kill_worker(self) -> None:
        living = [worker for worker in self.workers if worker.alive]
        if living:
            self.kill(self.chance.choice(living))

    def stop(self) -> None:
        living = [worker for worker in self.workers if worker.alive]
        if living:
            self.chance.choice(living).stop(self.time.now + self.chance.uniform(0.5, 2.5 * LEASE))

    def pause(self) -> None:
        if self.coordinator is not None and self.coordinator.alive:
            self.coordinator.stop(self.time.now + self.chance.uniform(0.5, 2 * LEASE))

    def drain(self) -> None:
        living = [worker for worker in self.workers if worker.alive and worker.stopped_until <= self.time.now]
        if not living:
            return
        worker = self.chance.choice(living)
        if self.chance.random() < 0.5:
            worker.drain()
        elif self.coordinator is not None and self.coordinator.alive:
            self.coordinator.ledger.drain(worker.site.id)
            self.coordinator.pump()

    def twin(self) -> None:
        """A second process with an id that is taken."""
        if len([worker for worker in self.workers if worker.alive]) < 6:
            site = self.chance.choice(self.sites)
            self.twinned.add(site.id)
            self.start_worker(site)

    def cancel(self) -> None:
        if not self.submitted or self.chance.random() < 0.6:
            return
        work = self.chance.choice(self.submitted)
        if work.cancel or work.done:
            return
        work.cancel = True
        if work.id in self.remote:
            borrower = self.borrowers[work.id]
            if borrower.begun:
                self.time.after(0.0, borrower, borrower.engine.cancel)
        elif self.coordinator is not None and work.id in self.coordinator.lines:
            self.time.after(0.0, self.coordinator, self.coordinator.lines[work.id].engine.cancel)

    def kill_coordinator(self) -> None:
        if self.coordinator is not None:
            self.kill(self.coordinator)

    def kill_borrower(self) -> None:
        living = [each for each in self.borrowers.values() if each.alive]
        if living:
            self.kill(self.chance.choice(living))

    # --- from beginning to end --------------------------------------------------------------------------------------------

    def live(self) -> None:
        """Let the schedule happen, then everything come to rest, and look at what is left."""
        chance = self.chance
        self.start_coordinator()
        for site in self.sites:
            self.time.after(chance.random() * 2, None, partial(self.start_worker, site))
        for work in self.works:
            self.time.after(chance.random() * 5, None, partial(self.submit, work))
        self.time.after(chance.random(), None, self.upset)
        self.time.run(self.upset_until)
        self.calm_down()
        self.time.run(self.time.now + 300 * LEASE, self.over)
        assert self.over(), f"runs have not ended: {[work.id for work in self.works if not work.done]}"
        self.time.run(self.time.now + 4 * LEASE)
        self.look()

    def calm_down(self) -> None:
        self.calm = True
        self.time.after(12.0, None, self.heal)

    def heal(self) -> None:
        """Of several processes with one id one remains, and where there is none one comes."""
        for site in self.sites:
            living = [worker for worker in self.workers if worker.alive and worker.site is site]
            living.sort(key=lambda worker: worker.welcome)
            for worker in living[:-1]:
                self.kill(worker)
            self.replace(site)

    def over(self) -> bool:
        return len(self.submitted) == len(self.works) and all(work.done for work in self.works)

    def look(self) -> None:
        """Check what must hold when all has come to rest."""
        for work in self.works:
            self.look_at(work)
        assert self.coordinator is not None
        left_in_ledger(self.coordinator.ledger)
        for worker in self.workers:
            if worker.alive:
                assert not worker.tasks
                left_in_duty(worker.duty)

    def look_at(self, work: Work) -> None:
        state = State(work.plan())
        for fact in work.facts:
            apply(state, fact)
        state.passed.clear()  # a replay leaves what later facts have dealt with
        state.doomed.clear()
        check(state)
        assert state.finished
        wanted = expected(work)
        exact = not work.cancel and not state.plan.timeouts
        for node, status in enumerate(state.status):
            if status == COMPLETED:
                assert work.values[node] == wanted[node], f"{state.plan.names[node]} of {work.id} has another value"
            else:
                assert not exact, f"{state.plan.names[node]} of {work.id} ended as {status}: {state.detail.get(node)}"
        ends: Counter[Hashable] = Counter()
        for fact in state.facts():
            if fact.kind in (Kind.COMPLETED, Kind.FAILED, Kind.RETRY, Kind.TIMED_OUT, Kind.CANCELLED, Kind.REQUEUED):
                ends[fact.node, fact.number] += 1
        assert all(count == 1 for count in ends.values())
        self.look_for_repetitions(work, state)

    def look_for_repetitions(self, work: Work, state: State) -> None:
        """A node that ran to its end does not run again unless its worker was lost, or said to be."""
        gone = {fact.worker for fact in state.facts() if fact.kind is Kind.WORKER_GONE}
        mine = [each for each in self.executions if each.run == work.id]
        for number, node in enumerate(state.plan.names):
            if number in state.plan.timeouts:
                continue  # it may end just when its time is over
            completed = [each for each in mine if each.node == node and each.completed]
            if work.id in self.crashed:
                completed = [each for each in completed if not each.rode]
            kept = [each for each in completed if each.fence not in gone]
            if work.id in self.crashed:
                kept = [each for each in kept if not each.given_up]
            assert len(kept) <= 1, f"{node} of {work.id} ran to its end {len(kept)} times on workers that were there"
            if self.gentle and not work.chains:
                began = [each for each in mine if each.node == node]
                assert len(began) == 1 + work.flaky.get(node, 0), f"{node} of {work.id} began {len(began)} times"


def left_in_ledger(ledger: Ledger) -> None:
    """Assert that a ledger of which all runs have ended keeps nothing but its workers, with a lease each."""
    kept = (ledger._runs, ledger._by_line, ledger._hang_ups, ledger._traffic._dirty)
    assert not any(kept), kept
    assert len(ledger._by_link) == len(ledger._workers)
    assert len(ledger._alarms) <= len(ledger._workers)
    for worker in ledger._workers.values():
        of = (worker.uses, worker.strays, worker.limited, worker.groups, worker.open, worker.running, worker.coming)
        assert not any(of), (worker.id, of)


def left_in_duty(duty: Duty) -> None:
    """Assert that a worker whose runs have all ended keeps nothing of them."""
    of_attempts = (duty._jobs, duty._released, duty._exclusive, duty._unsure, duty._missing)
    assert not any(of_attempts), of_attempts
    assert not any((duty._reports.of, duty._stopping, duty._behind)), "something is still to be said, or stopped"
    turns = duty._turns
    of_runs = (duty._runs, duty._groups, duty._returned, turns.queue, turns.order, turns.busy, turns.admitted)
    assert not any(of_runs), of_runs


def live(seed: int, *, gentle: bool = False, chains: bool = False, tells: bool = False) -> World:
    """Let one schedule happen."""
    world = World(seed, gentle=gentle, chains=chains)
    world.time.tells = tells
    world.live()
    return world


if __name__ == "__main__":  # python -m tests.fleet.simulation SEED [gentle] [chains]
    live(int(sys.argv[1]), gentle="gentle" in sys.argv, chains="chains" in sys.argv, tells=True)
