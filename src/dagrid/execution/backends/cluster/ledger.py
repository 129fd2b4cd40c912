"""The coordinator's book: which workers there are, which runs use them, what is under way, and who has to be told what.

Pure: it knows no stream, no clock, no thread and no chance. Links stand for streams, times are seconds of one clock that never
goes back, and what is to be sent is fetched with `take`. It keeps nothing over a restart: workers say what they hold, runs what
they have under way, and both are brought together again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import ceil

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.balance import Balance
from dagrid.execution.backends.cluster.books import (
    Crowds,
    Job,
    Link,
    Run,
    Use,
    Worker,
    WorkerView,
    absent,
    least_loaded,
)
from dagrid.execution.backends.cluster.traffic import Traffic
from dagrid.leases import LEASE

PROTOCOL = 4
"""The number of this protocol; who speaks another one is refused. Another word, or another meaning of one, is another number."""
UNKNOWN = -1
"""The room of which a run was told last, perhaps on another line."""
REMEMBERED = 10
"""Leases for which a worker is shown that does not come any more."""

CROWD = 200
"""So many more workers make the time between two heartbeats longer by that of a few."""
WORDS = 5
"""So many words of a worker there are in a lease at least."""
SLOWEST = 3.0
"""Seconds between two heartbeats at most: a healthy worker is heard within 5."""

Check = Callable[[float], float | None]
"""What is to be looked at when its time has come; returns when to look again."""


class Ledger:
    """The book of a coordinator. Its methods may be called in any order, with times that do not go back."""

    def __init__(
        self,
        *,
        incarnation: str,
        lease: float = LEASE,
        heartbeat: float = 1.0,
        small: Callable[[bytes], bytes | None] = lambda digest: None,  # noqa: ARG005
        first_generation: int = 1,
        version: str = "",
    ) -> None:
        """Begin with nothing.

        Args:
            incarnation: of this coordinator; no two have the same.
            lease: seconds of silence after which a worker loses its attempts.
            heartbeat: seconds between two words of a worker that has nothing to say, at most a fifth of the lease; more when they
                are many.
            small: returns a content that is sent along with the first assignment that refers to it; None: workers ask for it.
            first_generation: the number of the first worker's generation; another one for each coordinator.
            version: of dagrid, for who is refused.
        """
        self.incarnation = incarnation
        self.lease = lease
        self.heartbeat = self._interval = min(heartbeat, lease / WORDS)
        self._version = version
        self._generations = count(first_generation)
        self._turn = 0
        self._workers: dict[str, Worker] = {}
        self._departed: dict[str, Worker] = {}
        self._guessed: Counter[str] = Counter()  # by worker, how much counts as begun there by a process before it
        self._runs: dict[str, Run] = {}
        self._by_link: dict[Link, Worker] = {}
        self._by_line: dict[Link, Run] = {}
        self._hang_ups: list[tuple[Link, str]] = []
        self._alarms: list[tuple[float, int, Check]] = []
        self._alarm_order = count()
        self._traffic = Traffic(small)
        self._crowds = Crowds()
        self._balance = Balance(self._traffic, self._crowds, self._runs)

    # --- workers ----------------------------------------------------------------------------------------------------------

    def greet(self, link: Link, hello: pb.Hello, now: float) -> pb.Refusal | None:
        """Take in a worker that has proved what it had to prove; its welcome is what it is sent first.

        Returns:
            Why it is not taken in, if so.
        """
        refusal = self._unfit(hello.protocol, hello.version, "worker")
        if refusal is None and not (hello.id and hello.slots):
            refusal = pb.Refusal(reason="A worker says its id, and how many slots it has, at least 1.", final=True)
        if refusal is not None:
            return refusal
        worker = self._workers.get(hello.id)
        if worker is not None and worker.hello.incarnation != hello.incarnation:
            if worker.link is not None and now - worker.heard <= 2 * self._interval:
                return pb.Refusal(
                    reason=f"There is a worker with the id {hello.id!r} already, on {worker.hello.host} with pid "
                    f"{worker.hello.pid}. Give one of them another --worker.id."
                )
            self._end(worker, f"worker {hello.id!r} began anew")
            worker = None
        if worker is None:
            self._departed.pop(hello.id, None)
            self._guessed.pop(hello.id, None)
            worker = self._workers[hello.id] = Worker(hello, next(self._generations), now, self._crowds)
            self._alarm(now + self.lease, partial(self._check_lease, worker))
        strays = set(worker.strays)
        self._connect(worker, hello, link, now)
        held = {(each.run, each.fence): each for each in hello.held}
        for use in list(worker.uses.values()):
            self._traffic.compare(use, held.pop(use.key, pb.Held()))
        for each in held.values():
            self._take_up_held(worker, each, (each.run, each.fence) in strays, now)
        for run in self._runs.values():
            for fence in [each for each in run.awaited if run.uses[each].worker.id == worker.id]:
                self._give_up(run.uses[fence], run)
            self._join(run, worker)
        self._balance.set_rooms(worker)
        self._balance.look(now)
        return None

    def hear(self, link: Link, up: pb.Up, now: float) -> None:
        """Take what a worker says; on a stream that does not count any more it is not heard."""
        worker = self._by_link.get(link)
        if worker is None:
            return
        worker.heard = now
        if up.HasField("heartbeat"):
            worker.reported = up.heartbeat
            if up.heartbeat.echo:
                self._traffic.down(worker).echo = up.heartbeat.echo
        for report in up.reports:
            self._traffic.report(worker, report)
        if up.mark:
            self._traffic.settle(worker, up.mark)
        if up.draining and not worker.draining:
            self._stop_giving(worker)
        if up.drained:
            self._end(worker, f"worker {worker.id!r} took its leave")
        self._balance.look(now)

    def lose(self, link: Link, now: float) -> None:
        """A worker's stream broke: its lease goes on, and it is given nothing more for the time being."""
        worker = self._by_link.pop(link, None)
        if worker is None:
            return
        worker.disconnect()
        self._balance.set_rooms(worker)
        self._balance.look(now)

    def drain(self, worker: str) -> bool:
        """Ask a worker to take nothing more and to leave when it is done; return whether it is connected."""
        known = self._workers.get(worker)
        if known is None or known.link is None:
            return False
        self._traffic.down(known).drain = True
        return True

    # --- runs -------------------------------------------------------------------------------------------------------------

    def open(self, link: Link, open: pb.Open, now: float) -> pb.Refusal | None:
        """A run begins to use the workers, or does so again on another line or after a restart.

        Returns:
            Why it may not, if so.
        """
        refusal = self._unfit(open.protocol, open.version, "borrower")
        if refusal is None and not open.run:
            refusal = pb.Refusal(reason="A run that is opened has an id.", final=True)
        if refusal is not None:
            return refusal
        run = self._runs.get(open.run)
        if run is None:
            run = self._runs[open.run] = Run(open)
        self._connect_run(run, open, link)
        listed = {use.fence for use in open.uses}
        for use in [use for fence, use in run.uses.items() if fence not in listed]:
            self._forget_use(use)
            self._traffic.drop(use)
        for listing in open.uses:
            self._take_up_listed(run, listing, now)
        self._drop_strays(run)
        self._turn += 1
        for worker in least_loaded(self._workers.values(), self._turn):
            self._join(run, worker)
            self._balance.set_room(run, worker)
        self._balance.look(now)
        return None

    def ask(self, link: Link, ask: pb.Ask, now: float) -> None:
        """Take what a run asks for; on a line that does not count any more it is not heard."""
        run = self._by_line.get(link)
        if run is None:
            return
        for job in self._named(run, ask.acks):
            self._traffic.taken(job)
        for job in self._named(run, ask.recalls):
            self._traffic.recall(job)
        for assign in ask.assigns:
            use = run.uses.get(assign.fence) or self._new_use(run, assign)
            if use is not None:
                self._balance.placed(run, assign)
                self._traffic.assign(use, assign)
        for job in self._named(run, ask.cancels):
            self._traffic.cancel(job)
        if ask.close:
            self._close(run)
        self._balance.look(now)

    def leave(self, link: Link, now: float) -> None:
        """A run's line broke: what it has under way is kept for a lease."""
        run = self._by_line.pop(link, None)
        if run is not None:
            run.link = None
            run.deadline = now + self.lease
            self._alarm(run.deadline, partial(self._check_line, run))

    def knows(self, run: str) -> bool:
        """Return whether a run uses the workers, or may come back to do so."""
        return run in self._runs

    # --- time and words ---------------------------------------------------------------------------------------------------

    @property
    def next_tick(self) -> float | None:
        """When `tick` is to be called next; None while there is nothing to wait for."""
        return self._alarms[0][0] if self._alarms else None

    def tick(self, now: float) -> None:
        """Take note of the time: leases end, lines are given up. Who calls late was away, and nobody else is to pay for it."""
        if self._alarms and now - self._alarms[0][0] > 2 * self.heartbeat:
            self._renew(now)
        while self._alarms and self._alarms[0][0] <= now:
            _, _, check = heappop(self._alarms)
            again = check(now)
            if again is not None:
                self._alarm(again, check)
        self._balance.look(now)

    def take(self) -> list[tuple[Link, pb.Down | pb.Tell]]:
        """Return what is to be sent: one message for each link that has something."""
        return self._traffic.take()

    def take_pressing(self) -> list[tuple[Link, pb.Down | pb.Tell]]:
        """Return what is to be sent at once: nothing for workers that have only to hear what they may forget."""
        return self._traffic.take_pressing()

    @property
    def has_post(self) -> bool:
        """Whether there is anything to be sent."""
        return self._traffic.has_post

    def hang_ups(self) -> list[tuple[Link, str]]:
        """Return the streams that are to be closed when what was taken has been sent, and why."""
        found, self._hang_ups = self._hang_ups, []
        return found

    def workers(self, now: float) -> list[WorkerView]:
        """Return the workers as they may be shown, those too that went a while ago without a word."""
        for worker in list(self._departed.values()):
            if now - worker.heard > REMEMBERED * self.lease:
                del self._departed[worker.id]
        return [worker.view(now) for worker in (*self._workers.values(), *self._departed.values())]

    # --- workers come and go ----------------------------------------------------------------------------------------------

    def _unfit(self, protocol: int, version: str, who: str) -> pb.Refusal | None:
        if protocol == PROTOCOL:
            return None
        return pb.Refusal(
            reason=f"This coordinator speaks protocol {PROTOCOL} (dagrid {self._version}), the {who} protocol {protocol} (dagrid "
            f"{version}). Install the same version of dagrid on both.",
            final=True,
        )

    def _connect(self, worker: Worker, hello: pb.Hello, link: Link, now: float) -> None:
        """A worker has a stream, its first one or a newer one: nothing that was said on an older one is taken for heard."""
        self._pace()
        if worker.link is not None and worker.link != link:
            del self._by_link[worker.link]
            self._hang_ups.append((worker.link, f"worker {worker.id!r} has a newer stream"))
        worker.connect(hello, link, now)
        self._by_link[link] = worker
        welcome = pb.Welcome(heartbeat=self._interval, lease=self.lease, coordinator=self.incarnation)
        self._traffic.down(worker).welcome = welcome

    def _pace(self) -> None:
        """Let many workers be heard less often each, but for what their health and their leases rest on."""
        slowest = max(self.heartbeat, min(SLOWEST, self.lease / WORDS))
        before, crowds = self._interval, ceil(len(self._workers) / CROWD)
        self._interval = min(self.heartbeat * max(crowds, 1), slowest)
        if self._interval > before:
            for worker in self._by_link.values():
                self._traffic.down(worker).heartbeat = self._interval

    def _take_up_held(self, worker: Worker, held: pb.Held, stray: bool, now: float) -> None:
        """A worker holds something of a use that is not going on."""
        box = self._traffic.down(worker)
        run = self._runs.get(held.run)
        if run is None and worker.hello.coordinator == self.incarnation and not stray:
            box.end(held.run)  # it ended while they were apart
            return
        if run is None:
            use = Use((held.run, held.fence), worker, run)
            self._traffic.fill(use, held)
            worker.strays[use.key] = use
            if len(worker.strays) == 1:
                self._alarm(now + self.lease, partial(self._check_strays, worker, worker.link))
            return
        run.touched[worker] = None
        if held.fence not in run.awaited or run.uses[held.fence].worker.id != worker.id or worker.id in run.joined:
            box.acks.add((held.run, held.fence), [*held.open, *held.ended])
            return
        del run.awaited[held.fence]
        use = run.uses[held.fence]
        self._traffic.move(use, worker)
        self._resume(use, run)
        self._traffic.compare(use, held)

    def _stop_giving(self, worker: Worker) -> None:
        """A worker wants to leave: it gives back what it has not started."""
        worker.draining = True
        worker.mark()
        for use in worker.uses.values():
            for job in list(use.jobs.values()):
                self._traffic.recall(job)
        self._balance.set_rooms(worker)

    def _end(self, worker: Worker, reason: str) -> None:
        """A generation is over: nothing that is with the worker counts any more."""
        del self._workers[worker.id]
        if worker.link is not None:
            del self._by_link[worker.link]
            self._hang_ups.append((worker.link, reason))
            worker.disconnect()
        next_to = {use.run: some for use, some in worker.next_to().items()}
        for use in list(worker.uses.values()):
            self._forget_use(use)
        for run in self._runs.values():
            run.touched.pop(worker, None)
            run.rooms.pop(worker.id, None)
            if run.joined.pop(worker.id, None) is not None or worker in run.unfit:
                run.unfit.discard(worker)
                gone = pb.Gone(worker=worker.id, generation=worker.generation, reason=reason, next=next_to.get(run, 0))
                self._traffic.tell(run).gone.append(gone)
        worker.vacate()
        self._balance.forget(worker)

    def _join(self, run: Run, worker: Worker) -> None:
        """Tell a run of a worker that it does not use yet."""
        if worker.id in run.joined or worker in run.unfit or worker.draining:
            return
        unfit = run.misfit(worker)
        if not unfit:
            self._tell_joined(run, worker, 0)
            return
        run.unfit.add(worker)
        joined = pb.Joined(worker=worker.id, generation=worker.generation, labels=worker.hello.labels, unfit=unfit)
        self._traffic.tell(run).joined.append(joined)

    def _tell_joined(self, run: Run, worker: Worker, fence: int) -> None:
        if fence:
            run.rooms[worker.id] = UNKNOWN
        run.joined[worker.id] = worker.generation
        hello = worker.hello
        joined = pb.Joined(
            worker=worker.id, generation=worker.generation, labels=hello.labels, slots=hello.slots, fence=fence
        )
        self._traffic.tell(run).joined.append(joined)

    # --- runs come and go -------------------------------------------------------------------------------------------------

    def _connect_run(self, run: Run, open: pb.Open, link: Link) -> None:
        """A run has a line, its first one or a newer one."""
        if run.link is not None and run.link != link:
            del self._by_line[run.link]
            self._hang_ups.append((run.link, f"run {run.key!r} was opened by somebody else"))
        for fence in run.awaited:
            del run.uses[fence]
        run.connect(open, link)
        self._by_line[link] = run
        welcome = pb.Welcome(heartbeat=self.heartbeat, lease=self.lease, coordinator=self.incarnation)
        self._traffic.tell(run).welcome = welcome

    def _take_up_listed(self, run: Run, listing: pb.Use, now: float) -> None:
        """A run lists a use from before."""
        use = run.uses.get(listing.fence)
        if use is not None:
            self._tell_joined(run, use.worker, use.fence)
            self._traffic.reconcile(use, listing)
            return
        worker = self._workers.get(listing.worker)
        key = (run.key, listing.fence)
        if worker is None:
            use = run.uses[listing.fence] = Use(key, absent(listing.worker), run)
            self._traffic.expect(use, listing)
            run.awaited[listing.fence] = now + self.lease
            self._alarm(now + self.lease, partial(self._check_awaited, run, use))
            self._traffic.tell(run).rooms[listing.worker, 0] = 0
            return
        use = worker.strays.pop(key, None)
        if use is None or worker.id in run.joined:
            if use is not None:
                self._traffic.drop(use)
            use = Use(key, absent(worker.id), run)  # another process of that id may have it
            self._traffic.expect(use, listing)
            self._give_up(use, run)
            return
        self._resume(use, run)
        self._traffic.reconcile(use, listing)

    def _resume(self, use: Use, run: Run) -> None:
        """A use from before goes on."""
        use.run = run
        run.uses[use.fence] = use
        use.worker.uses[use.key] = use
        run.touched[use.worker] = None
        self._tell_joined(run, use.worker, use.fence)

    def _new_use(self, run: Run, assign: pb.Assign) -> Use | None:
        """Return the use that begins with an assignment; None if its worker is gone, of which the run hears or has heard."""
        worker = self._workers.get(assign.worker)
        if worker is None or run.joined.get(worker.id) != assign.generation or worker.generation != assign.generation:
            return None
        use = run.uses[assign.fence] = Use((run.key, assign.fence), worker, run)
        worker.uses[use.key] = use
        run.touched[worker] = None
        return use

    def _give_up(self, use: Use, run: Run) -> None:
        """The worker of a use from before has not come, or has forgotten it."""
        run.awaited.pop(use.fence, None)
        run.uses.pop(use.fence, None)
        reason = f"worker {use.worker.id!r} did not come back with it"
        gone = pb.Gone(worker=use.worker.id, fence=use.fence, reason=reason, next=self._guess(use))
        self._traffic.tell(run).gone.append(gone)

    def _guess(self, use: Use) -> int:
        """Return how many attempts of a use from before may have begun without a word: of all uses of that worker, as many as it
        has slots. What each of them was, this coordinator does not know.
        """
        worker = self._workers.get(use.worker.id, use.worker)
        before = self._guessed[worker.id] + use.running
        found = min(use.open - use.running, max(worker.slots - before, 0))
        self._guessed[worker.id] = before + found
        return found

    def _drop_strays(self, run: Run) -> None:
        """What workers still hold of a run, and it does not list, is not wanted."""
        for worker in self._workers.values():
            for key in [key for key in worker.strays if key[0] == run.key]:
                run.touched[worker] = None
                self._traffic.drop(worker.strays.pop(key))

    def _forget_use(self, use: Use) -> None:
        use.worker.uses.pop(use.key, None)
        if use.run is not None:
            use.run.uses.pop(use.fence, None)

    def _close(self, run: Run) -> None:
        """A run uses the workers no more: they forget all of it."""
        del self._runs[run.key]
        if run.link is not None:
            del self._by_line[run.link]
            run.link = None
        for use in list(run.uses.values()):
            self._forget_use(use)
            use.worker.count(use, -use.open, -use.running)
            use.jobs.clear()  # each refers to its use
        for worker in run.touched:
            self._traffic.down(worker).end(run.key)
        self._balance.close(run)

    @staticmethod
    def _named(run: Run, some: Iterable[pb.Some]) -> list[Job]:
        found = []
        for each in some:
            use = run.uses.get(each.fence)
            if use is not None:
                found += [use.jobs[attempt] for attempt in each.attempts if attempt in use.jobs]
        return found

    # --- time -------------------------------------------------------------------------------------------------------------

    def _alarm(self, at: float, check: Check) -> None:
        heappush(self._alarms, (at, next(self._alarm_order), check))

    def _check_lease(self, worker: Worker, now: float) -> float | None:
        if self._workers.get(worker.id) is not worker:
            return None
        due = worker.heard + self.lease
        if now < due:
            return due
        self._end(worker, f"worker {worker.id!r} was silent for {self.lease:g} s")
        self._departed[worker.id] = worker
        return None

    def _check_strays(self, worker: Worker, link: Link, now: float) -> float | None:
        if worker.link == link:
            for key in list(worker.strays):
                self._traffic.down(worker).end(key[0])
                self._traffic.drop(worker.strays.pop(key))
        return None

    def _check_line(self, run: Run, now: float) -> float | None:
        if self._runs.get(run.key) is not run or run.link is not None:
            return None
        if now < run.deadline:
            return run.deadline
        self._close(run)
        return None

    def _check_awaited(self, run: Run, use: Use, now: float) -> float | None:
        if run.uses.get(use.fence) is not use or self._runs.get(run.key) is not run:
            return None
        deadline = run.awaited.get(use.fence)
        if deadline is not None and deadline > now:
            return deadline
        if deadline is not None:
            self._give_up(use, run)
        return None

    def _renew(self, now: float) -> None:
        """Nobody was listening for a while: all leases begin anew."""
        for worker in self._workers.values():
            worker.heard = now
        for run in self._runs.values():
            run.deadline = now + self.lease
            run.awaited = dict.fromkeys(run.awaited, now + self.lease)
