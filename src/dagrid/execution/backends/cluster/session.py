"""One run's use of the fleet: the port on one side, what is asked and told on the other.

It pickles and opens in a strand of its own, so that neither the engine nor who has the line waits for that. Whatever gathers
while it is busy goes in one message. It knows calls and workers; how a message travels, and what a run decides, it does not know.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

from dagrid.errors import BackendError, BackendUnreachableError
from dagrid.execution.backends._worker import encode
from dagrid.execution.backends.base import PATIENCE
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import Values
from dagrid.execution.backends.cluster.cargo import Cargo
from dagrid.execution.backends.cluster.giving import Giving
from dagrid.execution.backends.cluster.lacking import Lacks
from dagrid.execution.backends.cluster.lanes import Assigned, Lane, Sent
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.logbook import PAUSE, OpenSink
from dagrid.execution.backends.cluster.posts import run_of
from dagrid.execution.backends.cluster.reading import Reading
from dagrid.execution.backends.cluster.sinks import Sinks
from dagrid.execution.strands import Strand, Strands
from dagrid.leases import LEASE
from dagrid.machine.events import (
    UNSTARTED,
    Finished,
    Outcome,
    Recalled,
    Room,
    Started,
    Stimulus,
    WorkerGone,
    WorkerJoined,
)
from dagrid.ports import Artifacts, Bundle, Call, Host, Kit, Use

_log = logging.getLogger("dagrid.fleet")

WINDOW = 256
AHEAD, AHEAD_AT_A_PLACE = 0.005, 0.02
"""Seconds of work that may wait at a worker; of commands, each of which is a process."""
BEFORE = float("-inf")
"""When a process before this one has sent something."""
MOMENT = 0.02
"""Seconds for which an end is not acknowledged by itself, so that this goes with what follows: the next calls, or the end of all,
after which nothing has to be."""
CALM = 4.0
"""Seconds after which it is said what workers lack: those of a coordinator that began anew are back by then."""


class FleetSession:
    """A session on the fleet. What changes is touched in its strand alone, but for the lanes, which its guard has.

    Args:
        host: of the run.
        run: what the coordinator knows it by.
        name, root: what it is called for who looks, and the run that began it all.
        place: of its calls: "" for functions, "command" for commands.
        kit: the `dagrid.ports.Kit` of the run.
        contents: gives what the kit needs, by its SHA-256.
        along: what of that goes with the first calls unasked, if it is small.
        artifacts: where large values are kept, if not with the coordinator.
        uses: workers that the run has used before, and what is under way there.
        closed: called with the session when it is closed.
        logs: opens the files that its attempts write, where the line brings these; see `logbook.OpenSink`.
        strands: serve it; by default a thread of its own, for where rules and large values come to it, these take their time.
    """

    def __init__(
        self,
        host: Host,
        run: str,
        *,
        name: str = "",
        root: str = "",
        place: str = "",
        kit: Kit | None = None,
        contents: Callable[[bytes], bytes | None] = lambda _: None,
        along: Mapping[bytes, bytes] | None = None,
        artifacts: Artifacts | None = None,
        uses: Sequence[Use] = (),
        closed: Callable[[FleetSession], None] = lambda _: None,
        logs: OpenSink | None = None,
        strands: Strands | None = None,
    ) -> None:
        self.host = host
        self._recorded: Callable[[], None] | None = getattr(host, "recorded", None)  # `ports.Recording`
        self._sinks = None if logs is None else Sinks(run, logs)
        self.run = run
        self._key = run_of(run)
        self._name = name
        self._root = root
        self._place = place
        self._needs = [] if kit is None else list(kit.contents)
        self._lacks = Lacks(host)
        self._dues: dict[Callable[[], None], float] = {}  # what is done at a time, if nothing else is to be done before
        self._lease = LEASE
        self._on_closed = closed
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._delivering = threading.Lock()
        self._events: list[Stimulus] = []
        self._out = pb.Ask()
        self._staged: list[tuple[Lane, Assigned]] = []
        self._acks: dict[int, list[int]] = {}
        self._taken: dict[int, list[int]] = {}  # what of these the run has in its record
        self._lanes: dict[int, Lane] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._cargo = Cargo(None if kit is None else encode(kit), along or {}, self._send)
        self._coordinator = ""
        self._values = Values(run, artifacts, self._want, self._post, self._drop)
        self._giving = Giving(self._cargo, self._values, self._needs, contents)
        self._reading = Reading(host, self._values)
        self._refused: Exception | None = None
        self._line: Line | None = None
        self._closed = self._over = False
        self._strands = strands or Strands("dagrid-fleet")
        self._strand: Strand | None = None
        self._served_by = 0  # by which thread, at this moment
        self.welcome = threading.Event()
        for use in uses:
            lane = self._lanes[use.worker] = Lane(use.worker, use.name, 0)
            lane.absent = True
            for attempt in (*use.queued, *use.started):
                lane.sent[attempt] = Sent(Call(attempt, "", callable), BEFORE, b"")
            lane.begun = dict.fromkeys(use.started, UNSTARTED)

    def begin(self, borrow: Callable[[FleetSession], Line], patience: float = 0.0) -> None:
        """Begin to use the fleet on the line that `borrow` returns.

        Args:
            borrow: begins the use.
            patience: for so many seconds it is waited for what the coordinator says first: the workers that are there then are
                reported when this returns, and what a run begins with is one step of it.

        Raises:
            BackendError: a coordinator elsewhere refuses the run, or does not answer.
        """
        line = self._line = borrow(self)
        self._hear_first(monotonic() + patience)
        self._strand = self._strands.begin(self._serve)
        self._strand.stir()
        if line.elsewhere and (self._refused is not None or not self.welcome.is_set()):
            self.close()
            raise self._refused or BackendUnreachableError(
                f"No coordinator answers at {line.elsewhere}. Start one, or name another."
            )

    # The port.

    def wake(self, worker: int) -> None:
        """Its workers are pushed to."""

    def attend(self) -> None:
        """It has a thread of its own."""

    def perform(self, bundle: Bundle) -> None:
        self._do(partial(self._perform, bundle))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._do(partial(self._recall, worker, list(attempts)))

    def cancel(self, worker: int, attempt: int) -> None:
        self._values.hurry()  # its strand may be fetching something
        self._do(partial(self._cancel, worker, attempt))

    def close(self) -> None:
        """End the use: what is under way is stopped. Large values that somebody still has are fetched before, from a coordinator
        that has not been away for longer than a lease.
        """
        self._part(pb.Ask(close=True))

    def leave(self) -> None:
        """End the use here, and let what is under way go on: whoever takes the run up finds it again."""
        self._part(None)

    def give_up(self, error: BackendError) -> None:
        """End the use while its run goes on: all that is under way, and all that is still asked for, fails with this."""
        if self._closed or self._is_served_here():
            self.close()
            return
        heard = threading.Event()
        self._do(partial(self.refuse, error))
        self._do(lambda: self._post(heard.set))  # behind what is reported of that
        heard.wait(PATIENCE)
        self._values.bring_home()
        self._hang_up(pb.Ask(close=True))

    def _part(self, last: pb.Ask | None) -> None:
        with self._guard:
            again, self._closed = self._closed, True
        if again:
            return
        own = self._is_served_here()
        if not own and self._delivering.acquire(timeout=PATIENCE):
            self._delivering.release()
        if last is not None and not own:
            self._values.bring_home()
        self._values.close()
        self._post(None)
        self._hang_up(last)
        self._on_closed(self)

    def _hang_up(self, last: pb.Ask | None) -> None:
        """Say what there is to say at last, and ask nothing more; of two who do so at once, one does."""
        with self._guard:
            line, self._line = self._line, None
        if line is not None:
            if last is not None:
                line.ask(last)
            line.close()

    # The line.

    def reopen(self, line: Line) -> None:
        """Say on a line what the use begins with, or goes on with after the stream has broken; from any thread."""
        with self._guard:
            for lane in self._lanes.values():
                lane.absent = True
            line.ask(pb.Ask(open=self.opening()))
        self._values.lose()

    def opening(self) -> pb.Open:
        """Return what the use begins with."""
        uses = [
            pb.Use(
                fence=lane.number + 1,
                worker=lane.worker,
                queued=[attempt for attempt, sent in lane.sent.items() if not lane.may_have_begun(attempt, sent)],
                started=[attempt for attempt, sent in lane.sent.items() if lane.may_have_begun(attempt, sent)],
            )
            for lane in self._lanes.values()
        ]
        python = ".".join(map(str, sys.version_info[:2]))
        return pb.Open(
            run=self.run,
            name=self._name,
            root=self._root,
            uses=uses,
            protocol=PROTOCOL,
            version=sys.modules["dagrid"].__version__,
            python=python,
            logs=self._sinks is not None,
            lacks=self._lacks.said(),
            kept=self._values.kept(),
        )

    def tell(self, tell: pb.Tell) -> None:
        """Take what the coordinator says; called in order, by whoever has the line."""
        if tell.HasField("welcome"):
            self._values.find(tell.welcome.lease or LEASE)
        if tell.HasField("refusal"):
            self._values.close(tell.refusal.reason)
        for part in tell.parts:  # its strand may be waiting for it
            self._values.take(part)
        for digest in tell.missing:
            self._values.miss(digest)
        if tell.parts:
            tell.ClearField("parts")  # else as much waits here as comes while it waits
            if not tell.ByteSize():
                return
        if not self._over:
            self._post(partial(self._hear, tell))

    def _want(self, digest: bytes) -> bool:
        """Ask for a content; return whether somebody hears it."""
        line = self._line
        if line is None or self._over:
            return False
        line.ask(pb.Ask(wants=[digest]))
        return True

    # In the session's strand.

    def _hear_first(self, until: float) -> None:
        """In the thread that begins: hear what the coordinator says, until it has said that the run is welcome, or is not."""
        while not self.welcome.is_set():
            try:
                action = self._inbox.get(timeout=max(until - monotonic(), 0.0))
            except Empty:
                return
            if action is None:
                self._inbox.put(None)
                return
            action()
        self._dues[self._look] = monotonic() + CALM
        if not self._acks:  # else something has ended meanwhile, and that has to be recorded
            events, self._events = self._events, []
            self.host.report(events)

    def _drop(self, fence: int, attempt: int) -> None:
        self._out.drops.add(run=self.run, fence=fence, attempts=[attempt])

    def _do(self, action: Callable[[], None]) -> None:
        if not self._closed:
            self._post(action)

    def _post(self, action: Callable[[], None] | None) -> None:
        """Have something done in the strand, and its end if it is nothing; from any thread, also where an object is dropped."""
        self._inbox.put(action)
        strand = self._strand
        if strand is not None:
            strand.stir()

    def _is_served_here(self) -> bool:
        return self._served_by == threading.get_ident()

    def _serve(self) -> float | None:
        """Do what there is to do; return when there is more at the latest."""
        self._served_by = threading.get_ident()
        try:
            self._do_due()
            if not self._do_all():
                self._end()
                return None
            self._settle()
        finally:
            self._served_by = 0
        return min(self._dues.values(), default=None)

    def _do_due(self) -> None:
        now = monotonic()
        for action in [action for action, due in self._dues.items() if due <= now]:
            del self._dues[action]  # before it is done, for it may be due again
            action()

    def _do_all(self) -> bool:
        """Do what was put before; return whether the session goes on."""
        number = self._inbox.qsize()
        for _ in range(number):
            action = self._inbox.get()
            if action is None:
                return False
            action()
        if number:
            self._dues.setdefault(self._look, monotonic() + CALM)
        return True

    def _settle(self) -> None:
        """Report and ask for what has gathered."""
        self._deliver()
        self._flush()
        while self._events and not self._closed:  # what was asked for in answer could not be sent
            self._deliver()
            self._flush()

    def _end(self) -> None:
        assert self._strand is not None
        self._over = True
        self._strand.end()
        self._cargo.clear()
        self._events.clear()
        self._dues.clear()
        if self._sinks is not None:
            self._sinks.close()
        with self._guard:
            self._lanes.clear()
        self._values.close()

    def _deliver(self) -> None:
        """Report what has gathered, acknowledge it, and do what the engine wants in answer."""
        events, self._events = self._events, []
        if not (events or self._acks):
            return
        with self._delivering:
            if self._closed:
                return
            try:
                if events:
                    self.host.report(events)
                if self._acks and self._recorded is not None:
                    self._recorded()
            except BaseException:  # noqa: BLE001 - a fault of one host must not end its run unseen
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        for number, attempts in self._acks.items():
            self._taken.setdefault(number, []).extend(attempts)
        if self._acks:
            self._acks.clear()
            self._dues.setdefault(self._acknowledge, monotonic() + MOMENT)
        if not self._do_all():
            self._post(None)

    def _flush(self) -> None:
        """Ask for what has gathered. What is said to be under way on a new stream is exactly what was asked for before."""
        line = self._line
        if line is None or self._closed:
            return
        with self._guard:
            for lane, (assign, sent) in self._staged:
                if lane.number not in self._lanes:
                    self._cargo.let_go(one.apart for one in sent.values())
                elif lane.absent:
                    lane.later.append((assign, sent))
                else:
                    assign.generation = lane.generation
                    lane.sent.update(sent)
                    self._out.assigns.append(assign)
            self._staged.clear()
            due = self._dues.get(self._acknowledge)
            if due is not None and (self._out.ByteSize() or due <= monotonic()):
                self._acknowledge()
            if self._out.ByteSize():
                out, self._out = self._out, pb.Ask()
                line.ask(out)

    def _acknowledge(self) -> None:
        """Nobody has to keep any more what the run has in its record."""
        self._dues.pop(self._acknowledge, None)
        for number, attempts in self._taken.items():
            self._out.acks.add(run=self.run, fence=number + 1, attempts=attempts)
        self._taken.clear()

    def _perform(self, bundle: Bundle) -> None:
        lane = self._lanes.get(bundle.worker)
        if lane is None:
            return  # it was said to be gone
        if self._refused is not None:
            for call in bundle.calls:
                self._events.append(self._reading.failed(lane.number, call, self._refused, final=True))
            return
        assign = pb.Assign(
            run=self.run, fence=lane.number + 1, worker=lane.worker, kit=self._cargo.kit, needs=self._needs
        )
        self._cargo.go_ahead()
        now = self.host.now()
        stayed: set[int] = set()
        sent: dict[int, Sent] = {}
        with self._values.travelling() as met:
            for call in bundle.calls:
                if call.rides in stayed:
                    stayed.add(call.attempt)
                    continue
                met.clear()
                try:
                    sent[call.attempt] = self._put(assign, call, now, met)
                except Exception as error:  # noqa: BLE001 - what is the user's cannot be pickled
                    stayed.add(call.attempt)
                    self._events.append(self._reading.failed(lane.number, call, error, final=True))
        if assign.calls:
            self._staged.append((lane, (assign, sent)))

    def _put(self, assign: pb.Assign, call: Call, now: float, met: Collection[bytes]) -> Sent:
        """Add a call to an assignment; `met` has the values that stay where they are when its arguments are pickled."""
        function = self._cargo.function_of(call)
        arguments, apart = self._cargo.arguments_of(call)
        sent = assign.calls.add(
            attempt=call.attempt,
            node=call.node,
            function=function,
            arguments=arguments,
            apart=apart,
            place=self._place,
            grows=call.grows,
            rides=call.rides + 1,
            exclusive=bool(getattr(call.fn, "exclusive", False)),
            key=f"{self._key}/{call.node}",
        )
        if not met:
            return Sent(call, now, apart)
        sent.values.extend(met)
        return Sent(call, now, apart, tuple(met))

    def _send(self, part: pb.Part) -> None:
        self._out.parts.append(part)

    def _recall(self, worker: int, attempts: Sequence[int]) -> None:
        if self._staged:  # assignments are taken after what is called back
            self._flush()
        lane = self._lanes.get(worker)
        here = [attempt for attempt in attempts if attempt in lane.sent] if lane is not None else []
        if here:
            self._out.recalls.add(run=self.run, fence=worker + 1, attempts=here)

    def _cancel(self, worker: int, attempt: int) -> None:
        if self._staged:
            self._flush()
        lane = self._lanes.get(worker)
        if lane is None:
            return
        unsent = lane.take_back(attempt)
        if unsent:
            self._cargo.let_go(one.apart for one in unsent)
            self._cancelled(lane, attempt)
        elif attempt in lane.sent:
            self._out.cancels.add(run=self.run, fence=worker + 1, attempts=[attempt])
            self._values.hurry()
            since = lane.stopping.setdefault(attempt, monotonic())
            due = self._stops_waiting(lane, since)
            self._dues[self._give_up_stopping] = min(self._dues.get(self._give_up_stopping, due), due)

    def _stops_waiting(self, lane: Lane, since: float) -> float:
        """Return until when it is waited for what was to end at a time."""
        away = self._values.away_since() if lane.absent else None
        return (since if away is None else min(since, away)) + self._lease

    def _give_up_stopping(self) -> None:
        """What is to end is not waited for where the coordinator is away for a lease; who comes back with it is to end it."""
        now = monotonic()
        dues = []
        for lane in self._lanes.values():
            for attempt, since in list(lane.stopping.items()):
                if attempt not in lane.stopping:
                    continue  # it rode on one before
                due = self._stops_waiting(lane, since)
                if due > now or not lane.absent:
                    dues.append(due if due > now else now + self._lease)
                    continue
                self._forget(lane, attempt, lane.sent[attempt])
                self._drop_riders(lane, {attempt})
                self._cancelled(lane, attempt)
        if dues:
            self._dues[self._give_up_stopping] = min(dues)

    def _cancelled(self, lane: Lane, attempt: int) -> None:
        now = self.host.now()
        self._events.append(Finished(lane.number, attempt, Outcome.CANCELLED, now, now))

    # What the coordinator says.

    def _hear(self, tell: pb.Tell) -> None:
        if self._closed:
            return
        if tell.HasField("welcome"):
            self._lease = tell.welcome.lease or self._lease
            self._begin_with(tell.welcome.coordinator)
        if tell.HasField("refusal"):
            words = f"The coordinator refuses this run: {tell.refusal.reason}"
            self.refuse(getattr(self._line, "error", None) or BackendUnreachableError(words))
        for joined in tell.joined:
            self._join(joined)
        for room in tell.rooms:
            number = self._numbers.get((room.worker, room.generation))
            if number is not None:
                self._events.append(Room(number, room.slots, self.host.now()))
        for log in tell.logs:
            self._write(log)
        for report in tell.reports:
            self._take(report)
        for gone in tell.gone:
            self._miss(gone)
        for digest in tell.wants:
            self._giving.give(self, digest)
        for receipt in tell.receipts:
            self._giving.put_off(self, receipt)

    def _write(self, log: pb.Log) -> None:
        """Write what an attempt has written; the end of that is told when it is acknowledged."""
        if self._sinks is None:
            return
        ack = self._sinks.write(log)
        if ack is not None:
            self._out.log_acks.append(ack)
        elif self._write_again not in self._dues:
            self._dues[self._write_again] = monotonic() + PAUSE

    def _write_again(self) -> None:
        """There may be room by now."""
        assert self._sinks is not None
        self._out.log_acks.extend(self._sinks.again())
        if self._sinks.is_behind:
            self._dues[self._write_again] = monotonic() + PAUSE

    def _begin_with(self, coordinator: str) -> None:
        """A coordinator that has just begun has nothing of what was sent to the one before it."""
        if coordinator != self._coordinator:
            self._coordinator = coordinator
            self._cargo.begin_again()
        self.welcome.set()

    def _look(self) -> None:
        """Say what no worker has: to the coordinator and, where that is elsewhere, here."""
        found, line = self._lacks.look(), self._line
        if found is None or line is None:
            return
        for words in found if line.elsewhere else ():
            _log.warning("%s", words)
        self._out.lacks.CopyFrom(pb.Lacks(lacks=self._lacks.said()))

    def refuse(self, error: Exception) -> None:
        """The coordinator will have nothing to do with us, or we cannot keep a promise: what is to be performed fails, here
        at a worker that is none.
        """
        self._refused = error
        self.welcome.set()
        for lane in list(self._lanes.values()):
            self._leave(lane, str(error))
        number = self.host.new_worker()
        with self._guard:
            self._lanes[number] = Lane(number, "nobody", 0)
        self._events.append(WorkerJoined(number, "nobody", self.host.now(), WINDOW, WINDOW))

    def _join(self, joined: pb.Joined) -> None:
        identity = joined.worker, joined.generation
        if joined.fence:
            lane = self._lanes.get(joined.fence - 1)
            if lane is not None:
                self._return(lane, joined)
            return
        if identity in self._numbers:
            return
        number = self._numbers[identity] = self.host.new_worker()
        with self._guard:
            self._lanes[number] = Lane(number, *identity)
        self._events.append(
            WorkerJoined(
                number,
                joined.worker,
                self.host.now(),
                joined.slots,
                0 if joined.unfit else max(WINDOW, joined.slots),
                labels=dict(joined.labels),
                unfit=joined.unfit,
                ahead=AHEAD_AT_A_PLACE if self._place else AHEAD,
                survives=True,
            )
        )

    def _return(self, lane: Lane, joined: pb.Joined) -> None:
        """A worker goes on with what it had: what was asked of it meanwhile is sent."""
        self._numbers.pop((lane.worker, lane.generation), None)
        self._numbers[lane.worker, joined.generation] = lane.number
        lane.generation, lane.absent = joined.generation, False
        self._staged += [(lane, assigned) for assigned in lane.later]
        lane.later = []

    def _miss(self, gone: pb.Gone) -> None:
        number = gone.fence - 1 if gone.fence else self._numbers.get((gone.worker, gone.generation), -1)
        lane = self._lanes.get(number)
        if lane is not None:
            self._leave(lane, gone.reason, gone.next)

    def _leave(self, lane: Lane, reason: str, next: int = 0) -> None:
        self._numbers.pop((lane.worker, lane.generation), None)
        with self._guard:
            del self._lanes[lane.number]
        now = self.host.now()
        self._cargo.let_go(sent.apart for sent in lane.sent.values())
        for _, later in lane.later:
            self._cargo.let_go(sent.apart for sent in later.values())
        self._events += [Started(lane.number, attempt, now) for attempt in lane.lost(next)]
        self._events.append(WorkerGone(lane.number, now, reason or "the worker ended"))

    def _take(self, report: pb.Report) -> None:
        """Turn a report into events; what ended is acknowledged when these have arrived, and what is not known at once."""
        number = report.fence - 1
        lane = self._lanes.get(number)
        now = self.host.now()
        for end in report.finished:
            self._acks.setdefault(number, []).append(end.attempt)
            sent = lane.sent.get(end.attempt) if lane is not None else None
            if lane is None or sent is None:
                continue
            event = self._reading.ended(number, end, sent, lane.begun.get(end.attempt, UNSTARTED), now)
            self._forget(lane, end.attempt, sent)
            if event.outcome is not Outcome.COMPLETED:
                self._drop_riders(lane, {end.attempt})
            self._events.append(event)
        for started in report.started:
            sent = lane.sent.get(started.attempt) if lane is not None else None
            if lane is None or sent is None:
                continue
            at = self._reading.own_time(started.at, sent, now)
            with self._guard:
                lane.begun[started.attempt] = at
            self._events.append(Started(number, started.attempt, at))
        back = [attempt for attempt in report.recalled if lane is not None and attempt in lane.sent]
        for attempt in back:
            assert lane is not None
            self._forget(lane, attempt, lane.sent[attempt])
        if back and lane is not None:
            self._drop_riders(lane, set(back))
            self._events.append(Recalled(number, back, now))

    def _forget(self, lane: Lane, attempt: int, sent: Sent) -> None:
        with self._guard:
            lane.forget(attempt)
        self._cargo.let_go([sent.apart])
        if self._values.hurried and not (self._closed or any(each.stopping for each in self._lanes.values())):
            self._values.calm()

    def _drop_riders(self, lane: Lane, fallen: set[int]) -> None:
        """What rides on attempts that have not completed is not performed, and nothing is said of it."""
        for attempt, sent in list(lane.sent.items()):  # each comes behind what it rides on
            if sent.call.rides in fallen:
                fallen.add(attempt)
                self._forget(lane, attempt, sent)

    # What is given: `giving.Asked`.

    def give(self, pieces: Iterator[pb.Part]) -> None:
        """Send something in pieces, if anybody hears it."""
        line = self._line
        if line is not None:
            line.give(pieces)

    def remind(self, action: Callable[[], None], after: float) -> None:
        """Do something after so many seconds."""
        self._dues[action] = monotonic() + after

    def fail_those(self, which: Callable[[Sent], bool], error: Exception, final: bool) -> None:
        """What cannot have what it needs has failed, wherever it is."""
        for lane in self._lanes.values():
            for attempt, sent in list(lane.sent.items()):
                if attempt in lane.sent and which(sent):
                    self._out.cancels.add(run=self.run, fence=lane.number + 1, attempts=[attempt])
                    self._events.append(self._reading.failed(lane.number, sent.call, error, final))
                    self._forget(lane, attempt, sent)
                    self._drop_riders(lane, {attempt})

    def call_back(self) -> None:
        """What a process before this one has assigned, and has not started, is assigned anew: it may need what nobody has."""
        for lane in self._lanes.values():
            sent = [] if lane.absent else lane.sent.items()
            waiting = [attempt for attempt, one in sent if one.at == BEFORE and attempt not in lane.begun]
            if waiting:
                self._out.recalls.add(run=self.run, fence=lane.number + 1, attempts=waiting)
