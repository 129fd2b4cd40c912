"""A worker's book: what it was given, what of it is performed, and what has to be said of it until that has arrived.

Pure: it knows no stream, no clock, no thread and performs nothing. Whoever has it tells it what happened, and obeys the acts that
it answers with; what is to be sent is fetched with `take`. Everything goes on while there is no stream; each greeting says what
is held, and after it all is said again that may not have arrived.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.posts import Key, Reports, run_of
from dagrid.execution.backends.cluster.turns import Job, Run, Turn, Turns
from dagrid.leases import LEASE
from dagrid.machine.events import Outcome

MARGIN = 0.1
"""The part of a lease before whose end what is exclusive is stopped, for stopping takes time; it has half of it."""


class Prepare(msgspec.Struct, frozen=True):
    """Something of this run is begun soon: make its surroundings, unless they are there."""

    run: str
    kit: bytes


class Perform(msgspec.Struct, frozen=True):
    """Perform a call; say `started` and `finished` with its token. One that rides comes behind the one that it rides on.

    `rides` is the token of that one, or 0; `call.rides` names its attempt.
    """

    token: int
    run: str
    fence: int
    call: pb.Call
    kit: bytes
    rides: int = 0


class Stop(msgspec.Struct, frozen=True):
    """Stop what is performed, by force where possible, and say `finished`."""

    token: int


class TakeBack(msgspec.Struct, frozen=True):
    """Say `gave_back` if this has not started, nothing if it has."""

    token: int


class Forget(msgspec.Struct, frozen=True):
    """A run has ended and nothing of it is performed any more: remove its surroundings."""

    run: str


class Leave(msgspec.Struct, frozen=True):
    """All is done: send what is to be sent, and go. `untold` ends were not taken, for no coordinator has come in a lease."""

    untold: int = 0


Act = Prepare | Perform | Stop | TakeBack | Forget | Leave


class Duty:
    """The book of one worker process. Times are seconds of one clock that never goes back, but for those in reports."""

    def __init__(self, hello: pb.Hello) -> None:
        """Begin with nothing.

        Args:
            hello: id, incarnation, labels, slots, max_active_runs and versions.
        """
        self._hello = pb.Hello()
        self._hello.CopyFrom(hello)
        self.load = 0.0
        """Of the machine, for heartbeats; written by whoever has this book."""
        self._connected = False
        self._lost_at = 0.0
        self._now = 0.0
        self._interval, self._lease = 1.0, LEASE
        self._beat_at = 0.0
        self._beats = False
        self._echo = self._mark = 0
        self._echoes: dict[int, float] = {}
        self._sure_until = -1.0  # what is exclusive may be performed until then
        self.killed_at = 0.0
        """When nothing exclusive may be left, whatever has become of this process; it is put off as the lease is."""
        self._unsure: dict[Job, None] = {}
        self._knows_time = self._asks_time = False
        self._exclusive: dict[Job, None] = {}
        self._draining = self._left = self._says_draining = self._says_left = False
        self._runs: dict[str, Run] = {}
        self._turns = Turns(hello.slots, hello.max_active_runs)
        self._groups: dict[str, Turn] = {}  # by run
        self._jobs: dict[tuple[Key, int], Job] = {}  # what is wanted
        self._released: dict[int, Job] = {}
        self._stopping: dict[tuple[str, str], int] = {}  # by run and node, how much of it is performed and not wanted
        self._behind: dict[tuple[str, str], list[Job]] = {}  # what waits until that has stopped
        self._tokens = 0
        self._known: set[bytes] = set()
        self._missing: dict[bytes, dict[Job, None]] = {}
        self._wants: dict[bytes, None] = {}
        self._reports = Reports()
        self._returned: list[tuple[Key, int]] = []

    # --- the stream -------------------------------------------------------------------------------------------------------

    def hello(self) -> pb.Hello:
        """Return how to greet a coordinator: who this is and what it holds. Whatever it gave back before is told by this."""
        self._returned.clear()
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        held: dict[Key, pb.Held] = {}
        for (key, attempt), job in self._jobs.items():
            mine = held.setdefault(key, pb.Held(run=key[0], fence=key[1]))
            if job.end is not None:
                mine.ended.append(attempt)
                continue
            mine.open.append(attempt)
            mine.rides.append(job.rides.attempt + 1 if job.rides is not None else 0)
        for run in self._runs.values():
            if not run.leaving:
                held.setdefault((run.key, run.fence), pb.Held(run=run.key, fence=run.fence))
        for mine in held.values():
            if not any(mine.rides):
                mine.ClearField("rides")
        hello.held.extend(held.values())
        return hello

    def welcomed(self, welcome: pb.Welcome, now: float) -> None:
        """A coordinator has taken it in: all that it may not know is said."""
        self._now = now
        self._connected = True
        before, self._hello.coordinator = self._hello.coordinator, welcome.coordinator
        self._interval, self._lease = welcome.heartbeat, welcome.lease
        self._beats = True
        self._says_draining, self._says_left = self._draining, self._left
        self._reports = Reports()
        for (key, _), job in self._jobs.items():
            if job.end is not None:
                self._reports.on(key).finish(job.end)
            elif job.started is not None:
                self._reports.on(key).start(job.started)
        for key, attempt in self._returned:
            self._reports.on(key).recalled[attempt] = None
        self._returned.clear()
        if before != welcome.coordinator:
            self._give_up_exclusive()
        self._wants = dict.fromkeys(self._missing)
        self._beat(now)

    def _give_up_exclusive(self) -> None:
        """This coordinator may not know yet that what is exclusive has gone to others: give back what has not begun."""
        for job in list(self._exclusive):
            if job.waits and job.rides is None:
                self._give_back(job)

    def lose(self, now: float) -> None:
        """The stream broke; everything goes on."""
        self._now = self._lost_at = now
        self._connected = False
        self._reports = Reports()
        self._echoes.clear()
        self._mark = 0

    def hear(self, down: pb.Down, now: float) -> list[Act]:
        """Take what the coordinator says. Contents that came with it have `arrived` before."""
        self._now, self._knows_time = now, True
        acts: list[Act] = []
        self._mark = down.mark or self._mark
        if down.echo:
            self._heard_echo(down.echo)
        self._interval = down.heartbeat or self._interval
        for run in down.over:
            self._over(run, acts)
        for job in self._named(down.acks):
            self._acknowledged(job, acts)
        for job in self._named(down.recalls):
            self._recall(job, acts)
        for assign in down.assigns:
            self._assign(assign)
        for job in self._named(down.cancels):
            self._cancel(job, acts)
        if down.drain:
            self._drain(acts)
        return self._answer(acts)

    def take(self) -> pb.Up | None:
        """Return what is to be sent, None if there is nothing or no stream."""
        if not self._connected:
            return None
        up = pb.Up(wants=self._wants, draining=self._says_draining, mark=self._mark)
        if self._beats:
            up.heartbeat.running = self._turns.busy
            up.heartbeat.waiting = max(sum(turn.open for turn in self._groups.values()) - self._turns.busy, 0)
            up.heartbeat.load = self.load
            if self._exclusive:
                up.heartbeat.echo = self._echo
        self._reports.write(up)
        up.drained = self._says_left
        self._beats = self._says_draining = self._says_left = False
        self._wants = {}
        self._mark = 0
        self._reports = Reports()
        return up if up.ByteSize() else None

    # --- who performs -----------------------------------------------------------------------------------------------------

    def started(self, token: int, at: float) -> None:
        """What was released has started, at a time of the clock of day."""
        job = self._released.get(token)
        if job is None or not job.wanted:
            return
        job.started = pb.Started(attempt=job.attempt, at=at)
        if self._connected:
            self._reports.on(job.key).start(job.started)

    def finished(self, token: int, end: pb.Finished, now: float | None = None) -> list[Act]:
        """What was released has ended; its slot is free, for something exclusive at once only if the time is said.

        What is exclusive and fails when its lease is over may have been killed for that.
        """
        self._hear_time(now)
        acts: list[Act] = []
        job = self._released.pop(token, None)
        if job is None:
            return acts
        self._free(job)
        completed = end.outcome == Outcome.COMPLETED
        if completed and not job.call.place:
            self._turns.took(job, end.ended - end.started)
        self._leave_chain(job)
        for rider in list(job.riders):
            if completed:
                rider.rides = None
                self._turns.occupy(rider)
            else:
                self._drop(rider)
        job.riders = []
        if job.wanted:
            overdue = job.overdue or (job.call.exclusive and self._sure_until <= self._now)
            if overdue and end.outcome in (Outcome.CANCELLED, Outcome.FAILED):
                end = pb.Finished(outcome=Outcome.LOST, ended=end.ended, error="the lease of its worker ended")
            self._end(job, end)
        self._rest(job.run, acts)
        return self._answer(acts)

    def gave_back(self, token: int, now: float | None = None) -> list[Act]:
        """What was to be taken back had not started, and will not; the time is said as to `finished`."""
        self._hear_time(now)
        acts: list[Act] = []
        job = self._released.pop(token, None)
        if job is None:
            return acts
        self._free(job)
        job.token = 0
        if job.wanted:
            self._give_back(job)
        self._rest(job.run, acts)
        return self._answer(acts)

    def arrived(self, digest: bytes, now: float | None = None) -> list[Act]:
        """A content is here; the time is said as to `finished`."""
        self._hear_time(now)
        self._known.add(digest)
        self._wants.pop(digest, None)
        for job in self._missing.pop(digest, ()):
            job.missing.discard(digest)
            if job.waits and not job.missing:
                self._ready(job)
        return self._answer([])

    def unbrought(self, key: Key, attempt: int, end: pb.Finished) -> bool:
        """An attempt has ended and has not brought its large value, for it is cancelled, or that finds no room: it has none, and
        has ended in this way.

        Returns:
            Whether it is so; an attempt that goes on, or has nothing large to bring, is left as it is.
        """
        job = self._jobs.get((key, attempt))
        if job is None or job.end is None or not job.end.apart:
            return False
        end.attempt, end.started, end.ended = attempt, job.end.started, job.end.ended
        job.end = end
        if self._connected:
            self._reports.on(key).finish(job.end)
        return True

    def refused(self, digest: bytes, end: pb.Finished) -> list[Act]:
        """A content cannot be kept here: what waits for it ends so. The rest of it may still come, see `passed`."""
        for job in list(self._missing.get(digest, ())):
            own = pb.Finished()
            own.CopyFrom(end)
            self._end_waiting(job, own)
        return self._answer([])

    def passed(self, digest: bytes) -> None:
        """All of a content has come that was refused: what has come to wait for it meanwhile wants it once more."""
        if digest in self._missing:
            self._wants[digest] = None

    def evicted(self, digest: bytes) -> None:
        """A content is not here any more."""
        self._known.discard(digest)

    def drain(self, now: float) -> list[Act]:
        """Take nothing any more, give back what has not started, and leave when all has ended and arrived.

        Without a stream that is waited for as long as a lease after the last one: by then it has been given to others.
        """
        self._now = now
        acts: list[Act] = []
        self._drain(acts)
        return self._answer(acts)

    # --- time -------------------------------------------------------------------------------------------------------------

    @property
    def next_tick(self) -> float | None:
        """When `tick` is to be called next; None while there is nothing to wait for."""
        due = [self._beat_at] if self._connected else []
        if self._exclusive and self._sure_until >= 0:
            due.append(self._now if self._asks_time else self._sure_until)
        if self._draining and not (self._connected or self._left or self._released):
            due.append(self._lost_at + self._lease)
        return min(due, default=None)

    def tick(self, now: float) -> list[Act]:
        """Take note of the time: heartbeats are due, or what is exclusive may not go on."""
        self._now, self._knows_time, self._asks_time = now, True, False
        acts: list[Act] = []
        if self._connected and now >= self._beat_at:
            self._beat(now)
        if 0 <= self._sure_until <= now:
            self._sure_until = -1.0
            for job in self._exclusive:
                if job.token and not job.overdue:
                    job.overdue = True
                    acts.append(Stop(job.token))
        self._look_again()
        return self._answer(acts)

    def _beat(self, now: float) -> None:
        self._beats = True
        self._beat_at = now + self._interval
        if self._exclusive:
            self._echo += 1
            self._echoes[self._echo] = now

    def _may_begin(self, job: Job) -> bool:
        """Whether something is not exclusive, or the lease goes on for long enough to begin it.

        Where the time is not known it is asked for: this process may have been stopped for longer than its lease.
        """
        if not any(each.call.exclusive for each in job.chain()):
            return True
        self._asks_time = self._asks_time or not self._knows_time
        return self._knows_time and self._sure_until - self._now > self._lease / 2

    def _hear_time(self, now: float | None) -> None:
        if now is not None:
            self._now, self._knows_time = now, True

    def _look_again(self) -> None:
        """It may have become sure how long the lease is."""
        unsure, self._unsure = self._unsure, {}
        for job in unsure:
            if job.waits:
                self._ready(job)

    def _heard_echo(self, echo: int) -> None:
        sent = self._echoes.get(echo)
        if sent is None:
            return
        self._sure_until = max(self._sure_until, sent + self._lease * (1 - MARGIN))
        self.killed_at = max(self.killed_at, sent + self._lease * (1 - MARGIN / 2))
        self._echoes = {number: at for number, at in self._echoes.items() if number > echo}
        self._look_again()

    # --- what comes and goes ----------------------------------------------------------------------------------------------

    def _named(self, some: Iterable[pb.Some]) -> list[Job]:
        jobs = self._jobs
        found = [jobs.get(((each.run, each.fence), attempt)) for each in some for attempt in each.attempts]
        return [job for job in found if job is not None]

    def _assign(self, assign: pb.Assign) -> None:
        run = self._runs.get(assign.run)
        if run is None:
            turn = self._groups.setdefault(run_of(assign.run), Turn())
            run = self._runs[assign.run] = Run(assign.run, turn)
        run.fence = max(run.fence, assign.fence)
        key = (assign.run, assign.fence)
        around = [digest for digest in (assign.kit, *assign.needs) if digest]
        heads = []
        for call in assign.calls:
            if (key, call.attempt) in self._jobs:
                continue
            job = Job(run, key, call, assign.kit)
            if call.rides:
                base = self._jobs.get((key, call.rides - 1))
                if base is None or not base.head.waits:
                    continue  # it is dropped, as that one is not going to carry it
                job.rides = base
                base.riders.append(job)
            else:
                heads.append(job)
            self._jobs[key, call.attempt] = job
            self._turns.open(job)
            if call.exclusive:
                self._exclusive[job] = None
                self._beat(self._now)
            self._look_for(job.head, (*around, call.function, call.apart, *call.values))
        for job in heads:
            if self._draining:
                self._give_back(job)
            elif not job.missing:
                self._ready(job)

    def _look_for(self, job: Job, digests: Iterable[bytes]) -> None:
        for digest in digests:
            if not digest or digest in self._known or digest in job.missing:
                continue
            job.missing.add(digest)
            waiting = self._missing.get(digest)
            if waiting is None:
                waiting = self._missing[digest] = {}
                self._wants[digest] = None
            waiting[job] = None

    def _recall(self, job: Job, acts: list[Act]) -> None:
        if job.rides is not None or job.started is not None or job.end is not None:
            return
        if job.token:
            acts.append(TakeBack(job.token))
        else:
            self._give_back(job)

    def _cancel(self, job: Job, acts: list[Act]) -> None:
        if job.end is not None or not job.wanted:  # who rode on one that was cancelled just now is dropped
            return
        if job.token:
            acts.append(Stop(job.token))
            return
        self._end_waiting(job, pb.Finished(outcome=Outcome.CANCELLED))

    def _end_waiting(self, job: Job, end: pb.Finished) -> None:
        """What has not been released ends without that, and nobody rides on it."""
        self._leave_chain(job)
        for rider in list(job.riders):
            self._drop(rider)
        job.riders = []
        self._end(job, end)

    def _acknowledged(self, job: Job, acts: list[Act]) -> None:
        """An end has arrived, or nobody wants to hear of an attempt."""
        if job.end is not None:
            self._forget(job)
            return
        if not job.token:
            self._leave_chain(job)
        for each in job.chain():
            self._forget(each)
            if each.token:
                acts.append(Stop(each.token))

    def _over(self, key: str, acts: list[Act]) -> None:
        run = self._runs.get(key)
        if run is None:
            return
        for job in [job for job in self._jobs.values() if job.run is run]:
            self._forget(job)
            if job.token in self._released:
                acts.append(Stop(job.token))
        run.later.clear()
        self._reports.end(key)
        self._returned = [each for each in self._returned if each[0][0] != key]
        run.leaving = True
        self._rest(run, acts)

    def _drain(self, acts: list[Act]) -> None:
        if self._draining:
            return
        self._draining = self._says_draining = True
        for job in list(self._jobs.values()):
            if job.wanted:
                self._recall(job, acts)

    # --- moves ------------------------------------------------------------------------------------------------------------

    def _answer(self, acts: list[Act]) -> list[Act]:
        """Release what may be, prepare what comes next, and leave if all is done."""
        while (job := self._turns.next()) is not None:
            if self._exclusive and not self._may_begin(job):
                self._ready(job)
            else:
                self._release(job, acts)
        for job in self._turns.soon():
            if not job.run.prepared:
                job.run.prepared = True
                acts.append(Prepare(job.run.key, job.kit))
        self._knows_time = False
        if self._draining and not (self._left or self._released) and (not self._jobs or self._is_given_up()):
            self._left = self._says_left = True
            acts.append(Leave(len(self._jobs)))
        return acts

    def _is_given_up(self) -> bool:
        return not self._connected and self._lost_at + self._lease <= self._now

    def _ready(self, job: Job) -> None:
        """All that a call needs is here."""
        behind = [each.named for each in job.chain() if each.named in self._stopping] if self._stopping else None
        if job.run.leaving:
            job.run.later.append(job)
        elif behind:
            self._behind.setdefault(behind[0], []).append(job)
        elif self._exclusive and not self._may_begin(job):
            self._unsure[job] = None
        else:
            self._turns.ready(job)

    def _release(self, job: Job, acts: list[Act]) -> None:
        job.run.prepared = True
        for each in job.chain():
            self._tokens += 1
            each.token = self._tokens
            self._released[each.token] = each
            each.run.performing += 1
            rides = each.rides.token if each.rides is not None else 0
            acts.append(Perform(each.token, each.key[0], each.key[1], each.call, each.kit, rides))
        self._turns.occupy(job)

    def _free(self, job: Job) -> None:
        """What was released is not performed any more."""
        job.run.performing -= 1
        if job.rides is None:
            self._turns.vacate(job)
        if job.wanted:
            return
        self._stopping[job.named] -= 1
        if not self._stopping[job.named]:
            del self._stopping[job.named]
            for each in self._behind.pop(job.named, ()):
                if each.waits:
                    self._ready(each)

    def _end(self, job: Job, end: pb.Finished) -> None:
        """An attempt has ended: that is said until it is acknowledged."""
        end.attempt = job.attempt
        job.end = end
        self._jobs[job.key, job.attempt] = self._jobs.pop((job.key, job.attempt))  # ends are said in their order
        self._close(job)
        if self._connected:
            self._reports.on(job.key).finish(end)

    def _give_back(self, job: Job) -> None:
        """An attempt has not been performed and will not be."""
        self._drop(job)
        if self._connected:
            told = self._reports.on(job.key)
            told.forget(job.attempt)
            told.recalled[job.attempt] = None
        else:
            self._returned.append((job.key, job.attempt))

    def _drop(self, job: Job) -> None:
        """An attempt, and what rides on it, is not here any more; what is performed of it ends by itself."""
        self._leave_chain(job)
        for each in job.chain():
            if self._released.pop(each.token, None) is not None:
                self._free(each)
            self._forget(each)

    def _forget(self, job: Job) -> None:
        """Nobody wants to hear of an attempt any more."""
        if not job.wanted:
            return
        job.wanted = False
        if job.token in self._released:
            self._stopping[job.named] = self._stopping.get(job.named, 0) + 1
        self._jobs.pop((job.key, job.attempt), None)
        self._reports.forget(job.key, job.attempt)
        if job.end is None:
            self._close(job)

    def _close(self, job: Job) -> None:
        """An attempt counts no more among the open ones of its run."""
        self._exclusive.pop(job, None)
        self._unsure.pop(job, None)
        for digest in job.missing:
            waiting = self._missing[digest]
            del waiting[job]
            if not waiting:
                del self._missing[digest]
                self._wants.pop(digest, None)
        job.missing.clear()
        self._turns.close(job)

    @staticmethod
    def _leave_chain(job: Job) -> None:
        if job.rides is not None and job in job.rides.riders:
            job.rides.riders.remove(job)

    def _rest(self, run: Run, acts: list[Act]) -> None:
        """A run that is over has stopped: it is forgotten, and may come again."""
        if not run.leaving or run.performing:
            return
        run.leaving = run.prepared = False
        acts.append(Forget(run.key))
        later, run.later = run.later, []
        if any(job.wanted for job in self._jobs.values() if job.run is run):
            for job in later:
                if job.waits:
                    self._ready(job)
            return
        del self._runs[run.key]
        if all(other.turn is not run.turn for other in self._runs.values()):
            self._groups.pop(run_of(run.key), None)
