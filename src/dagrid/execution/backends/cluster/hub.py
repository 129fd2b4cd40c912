"""The coordinator's thread: the book of the fleet, the streams of workers, the lines of runs, and what travels between them.

Everything happens in one loop, one thing after another, so nothing is locked; from other threads things are only put before it.
What is decided stands in `ledger`; here it is carried. A run of this process has a line without a stream.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from dagrid.errors import BackendClosedError, InvalidSettingError, TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import loop as fleet_loop
from dagrid.execution.backends.cluster.books import WorkerView
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.cluster.freight import Freight
from dagrid.execution.backends.cluster.lacking import AllLacks
from dagrid.execution.backends.cluster.ledger import Ledger
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.listener import PORT, Caller, Listener
from dagrid.execution.backends.cluster.logbook import Logbook, OpenSink
from dagrid.execution.backends.cluster.tls import Claims, ListenerTLS
from dagrid.leases import LEASE

_log = logging.getLogger("dagrid.fleet")

SHORTEST_LEASE = 1.0
"""Seconds that a lease has at least: within a fifth of it a worker has to speak, and be heard."""
AFTER = 1.0
"""Seconds after which it is seen whether the book has given up a run."""
MOMENT = 0.02
"""Seconds for which a worker may wait to hear what changes nothing for it, so that it comes with what does."""

Found = TypeVar("Found")
WorkerCaller = Caller[pb.Down, pb.Up]
RunCaller = Caller[pb.Tell, pb.Ask]


class Hub:
    """A coordinator of workers. It may be used from any thread once it has started.

    Args:
        host, port: where workers call; port 0 takes a free one.
        key: the signing key; None: whoever can reach the port may call.
        tls: the certificates; None: nothing is encrypted.
        claims: by name in a certificate, what its holder may say of itself; None: anything.
        lease: seconds of silence after which a worker loses its attempts, at least 1.
        heartbeat: seconds between two words of a worker that has nothing to say; at most a fifth of the lease is taken.
        folder: where contents are kept that are not small; None: one for temporary files.
        version: of dagrid, for who is refused.

    Raises:
        FleetCertificateError: a file of certificates cannot be used.
        InvalidSettingError: the port is none, the lease is too short, or there is no time between two heartbeats.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = PORT,
        *,
        key: bytes | None = None,
        tls: ListenerTLS | None = None,
        claims: Mapping[str, Claims] | None = None,
        lease: float = LEASE,
        heartbeat: float = 1.0,
        folder: Path | None = None,
        version: str = "",
    ) -> None:
        if not lease >= SHORTEST_LEASE:
            raise InvalidSettingError(
                f"A lease of {lease:g} s is too short: a worker that is well would lose what it performs. "
                f"Give at least {SHORTEST_LEASE:g} s."
            )
        if not 0 <= port < 2**16:
            raise InvalidSettingError(f"A port is a number from 0 to 65535, where 0 is any that is free, not {port}.")
        if not heartbeat > 0:
            raise InvalidSettingError(f"Between two heartbeats there are more than 0 seconds, not {heartbeat:g}.")
        self._listener = Listener(host.strip("[]"), port, _Workers(self), _Runs(self), key, tls, claims)
        self.contents = Contents(folder)
        self._ledger = Ledger(
            incarnation=secrets.token_hex(8),
            lease=lease,
            heartbeat=heartbeat,
            small=self.contents.small,
            first_generation=secrets.randbits(48) + 1,
            version=version,
        )
        self._logbook = Logbook(self._acknowledge)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._asked: deque[tuple[LocalLine, Callable[[], None]]] = deque()
        self._due = self._presses = self._later = False
        self._timer: asyncio.TimerHandle | None = None
        self._lines: dict[str, LocalLine | RunCaller] = {}
        self._names: dict[str, str] = {}
        self._elsewhere: set[str] = set()  # runs of other processes, which go on without this one
        self._lacking = AllLacks(_log.warning)
        self._passing: dict[
            str, deque[tuple[WorkerCaller, pb.Log]]
        ] = {}  # logs that runs elsewhere have not acknowledged
        self._early: dict[
            str, deque[tuple[WorkerCaller, pb.Log]]
        ] = {}  # logs of runs that may be opened by this coordinator, which has only just begun
        self._looks_back_until = 0.0
        self._tasks: set[asyncio.Future[None]] = set()
        self._workers: dict[WorkerCaller, Mapping[str, str]] = {}  # with their labels
        self._freight = Freight(self.contents, self._lines, self._names)

    # --- from any thread --------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return self._listener.host

    @property
    def port(self) -> int:
        """The port; the one that was taken, once it has started."""
        return self._listener.port

    def start(self) -> None:
        """Listen, and return when workers may call.

        Raises:
            BackendError: somebody else listens there.
        """
        self._loop = fleet_loop.join()
        self.contents.inherit(self)
        try:
            self._do(self._listen())
        except BaseException:
            self._closed = True
            fleet_loop.leave()
            self.contents.close([self])
            raise

    async def _listen(self) -> None:
        self._look_back()
        await self._listener.start()

    def _look_back(self) -> None:
        """Wait a lease for the runs that refer to what was left here, or of which something comes before they do."""
        assert self._loop is not None
        self._looks_back_until = self.now() + self._ledger.lease
        self._loop.call_at(self._looks_back_until, self._look_back_no_more)

    def _look_back_no_more(self) -> None:
        """They have come back; where nobody was listening meanwhile, they may still come."""
        if not self._closed and self.now() - self._looks_back_until > 2 * self._ledger.heartbeat:
            self._look_back()
            return
        self.contents.release(self)
        if not self._closed:
            self._freight.expect_only(self._names)
            for run in self._early:
                self._in_background(self._take_early(run))

    def close(self) -> None:
        """Say what there is to say, and hang up on everybody. Workers go on with what they have; lines are told nothing more."""
        if self._loop is None or self._closed:
            return
        self._do(self._close())
        fleet_loop.leave()
        self.contents.close(self._freight.values(self._elsewhere))

    def borrow(self, opening: pb.Open, tell: Callable[[pb.Tell], None], *, logs: OpenSink | None = None) -> Line:
        """Let a run of this process use the workers.

        Args:
            opening: what the run is, and what it has under way from before.
            tell: is told what happens, in order, in the hub's thread; it must return at once.
            logs: opens the files that workers send of the run, see `Logbook`; None: they are let go.

        Raises:
            BackendClosedError: the hub is closed.
        """
        if self._loop is None or self._closed:
            raise BackendClosedError("The coordinator is closed, or was not started.")
        line = LocalLine(self, opening.run, tell)
        self.put_before(line, lambda: self._open_local(line, opening, logs))
        return line

    def workers(self) -> list[WorkerView]:
        """Return what may be shown of the workers, with times by the clock that `time.monotonic` reads."""
        return self._ask_for(lambda: self._ledger.workers(self.now()))

    def drain(self, worker: str) -> bool:
        """Ask a worker to take nothing more and to leave when it is done; return whether it is connected."""

        def drain() -> bool:
            found = self._ledger.drain(worker)
            self.turn_soon()
            return found

        return self._ask_for(drain)

    def _ask_for(self, get: Callable[[], Found]) -> Found:
        async def got() -> Found:
            return get()

        if self._loop is None or self._closed:
            raise BackendClosedError("The coordinator is closed, or was not started.")
        return get() if fleet_loop.is_here() else self._do(got())

    def _do(self, work: Coroutine[Any, Any, Found]) -> Found:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def put_before(self, line: LocalLine, what: Callable[[], None]) -> None:
        """Let something be done for a line in the loop, after all that was put before it."""
        if self._closed:
            return
        self._asked.append((line, what))
        if not self._due and self._loop is not None:
            self._due = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._turn)

    # --- the loop ---------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def turn_soon(self) -> None:
        """Tell everybody what there is to tell, after all else that has happened by now."""
        self._presses = True
        if not self._due and self._loop is not None:
            self._due = True
            self._loop.call_soon(self._turn)

    def _tell_later(self) -> None:
        if not self._later and self._loop is not None:
            self._later = True
            self._loop.call_later(MOMENT, self._tell_late)

    def _tell_late(self) -> None:
        self._later = False
        if not self._closed:
            self._tell(self._ledger.take())

    def _turn(self) -> None:
        self._hear_lines()
        self._due = False
        self._hear_lines()  # what was put meanwhile by a thread that took this turn for its own
        if self._closed:
            return
        now = self.now()
        due = self._ledger.next_tick
        if due is not None and due <= now:
            self._ledger.tick(now)
        elif not self._presses:
            self._set_timer()
            return
        self._presses = False
        self._tell_pressing()
        for link, why in self._ledger.hang_ups():
            _log.info("%s", why)
            cast(Any, link).hang_up()
        self._set_timer()

    def _tell_pressing(self) -> None:
        self._tell(self._ledger.take_pressing())
        if self._ledger.has_post:
            self._tell_later()

    def _tell(self, post: Iterable[tuple[Any, pb.Down | pb.Tell]]) -> None:
        for link, message in post:
            link.say(message)

    def _hear_lines(self) -> None:
        while self._asked and not self._closed:
            line, what = self._asked.popleft()
            line.attempt(what)

    def _set_timer(self) -> None:
        due = self._ledger.next_tick
        if self._timer is not None:
            if self._timer.when() == due and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and self._loop is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._due:
            self._turn()

    def _callers(self) -> list[Any]:
        return [*self._workers, *self._lines.values()]

    async def _close(self) -> None:
        self._hear_lines()
        self._tell(self._ledger.take())
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for caller in self._callers():
            caller.hang_up()
        await self._listener.stop(grace=0.2)
        await self._logbook.close()

    # --- workers ----------------------------------------------------------------------------------------------------------

    def admit_worker(self, caller: WorkerCaller, first: pb.Up) -> pb.Refusal | None:
        refusal = self._ledger.greet(caller, first.hello, self.now())
        if refusal is None:
            self._workers[caller] = dict(first.hello.labels)
            self._lacking.come(caller.name, first.hello.labels)
            _log.info("Worker %s has come from %s.", caller.name, caller.peer)
        self.turn_soon()
        return refusal

    async def hear_worker(self, caller: WorkerCaller, up: pb.Up) -> None:
        for part in up.parts:
            if self.now() < self._looks_back_until:
                self._freight.expect(part.run)
            self._freight.bring(caller, part)
        for log in up.logs:
            if log.run in self._early or (log.run not in self._lines and self.now() < self._looks_back_until):
                self._early.setdefault(log.run, deque()).append((caller, log))
            else:
                await self._take_log(caller, log)
        for report in up.reports:
            if self.now() < self._looks_back_until:
                self._freight.expect(report.run)
            self._freight.report(caller, report)
        self._ledger.hear(caller, up, self.now())
        for digest in up.wants:
            self._freight.want(caller, digest)
        self.turn_soon()

    def lose_worker(self, caller: WorkerCaller) -> None:
        self._workers.pop(caller, None)
        self._ledger.lose(caller, self.now())
        self._logbook.give_up(caller)
        for run, passing in self._passing.items():  # it sends them again
            self._passing[run] = deque(each for each in passing if each[0] is not caller)
        self._freight.forget(caller)
        _log.info("The stream of worker %s has ended.", caller.name)
        self.turn_soon()

    async def _take_log(self, caller: WorkerCaller, log: pb.Log) -> None:
        if log.run in self._passing:
            self._pass_log(caller, log)
            return
        ack = await self._logbook.write(caller, log)
        if ack is not None:
            caller.say(pb.Down(log_acks=[ack]))

    async def _take_early(self, run: str) -> None:
        """Take what came of a run before it was opened: it is one of a coordinator before this one."""
        early = self._early.get(run, deque())
        while early:
            caller, log = early[0]
            if caller in self._workers:  # else it sends it again
                try:
                    await self._take_log(caller, log)
                except (TamperedError, ValueError) as error:
                    _log.warning("Worker %s is hung up on: %s", caller.name, error)
                    caller.hang_up()
            early.popleft()
        self._early.pop(run, None)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pass_log(self, caller: WorkerCaller, log: pb.Log) -> None:
        """Tell a run elsewhere what its attempts write; a worker sends only so much that is not acknowledged."""
        self._passing[log.run].append((caller, log))
        line = self._lines.get(log.run)
        if line is not None:
            line.say(pb.Tell(logs=[log]))

    def _pass_ack(self, ack: pb.LogAck) -> None:
        passing = self._passing.get(ack.run, deque())
        for caller, log in list(passing):
            if log.file == ack.file and log.offset + len(log.data) <= ack.offset:
                passing.remove((caller, log))
                caller.say(pb.Down(log_acks=[ack]))

    def _acknowledge(self, source: Hashable, ack: pb.LogAck) -> None:
        cast(WorkerCaller, source).say(pb.Down(log_acks=[ack]))

    # --- runs -------------------------------------------------------------------------------------------------------------

    def _open_local(self, line: LocalLine, opening: pb.Open, logs: OpenSink | None) -> None:
        refusal = self.open_line(line, opening)
        if refusal is not None:
            line.say(pb.Tell(refusal=refusal))
        elif logs is not None:
            self._logbook.begin(opening.run, logs)

    def open_line(self, line: LocalLine | RunCaller, opening: pb.Open) -> pb.Refusal | None:
        refusal = self._ledger.open(line, opening, self.now())
        if refusal is None:
            self._lines[opening.run] = line
            self._tell_pressing()  # the welcome comes first
            self._names[opening.run] = opening.name
            if not isinstance(line, LocalLine):
                self._elsewhere.add(opening.run)
            self._lacking.hear(opening.run, opening.name, opening.lacks, self._workers.values())
            self._freight.begin(opening.run, opening.kept)
            if opening.run in self._early:
                self._in_background(self._take_early(opening.run))
            if opening.logs:
                passing = self._passing.setdefault(opening.run, deque())
                line.say(pb.Tell(logs=[log for _, log in passing]))
        self.turn_soon()
        return refusal

    def hear_line(self, line: LocalLine | RunCaller, ask: pb.Ask) -> None:
        run = line.name
        if self._lines.get(run) is not line:
            return
        for part in ask.parts:
            self._freight.give(run, line, part)
        for ack in ask.log_acks:
            self._pass_ack(ack)
        for dropped in ask.drops:
            self._freight.drop(run, dropped)
        for assign in ask.assigns:
            self._freight.assign(run, assign)
        if ask.HasField("lacks"):
            self._lacking.hear(run, self._names[run], ask.lacks.lacks, self._workers.values())
        self._ledger.ask(line, ask, self.now())
        for digest in ask.wants:
            self._freight.read(line, digest)
        if ask.close:
            self._end_run(run)
        if ask.assigns or ask.recalls or ask.cancels or not (ask.acks or ask.close):
            self.turn_soon()
        else:
            self._tell_later()

    def lose_line(self, line: LocalLine | RunCaller) -> None:
        self._ledger.leave(line, self.now())
        if self._lines.get(line.name) is line and self._loop is not None:
            del self._lines[line.name]
            self._loop.call_later(self._ledger.lease + AFTER, self._forget_run, line.name)
        self._freight.forget(line)
        self.turn_soon()

    def _forget_run(self, run: str) -> None:
        """Forget a run without a line if the book has; that gives it more time where it came again, or nobody listened."""
        if self._closed or run in self._lines or self._loop is None:
            return
        if self._ledger.knows(run):
            self._loop.call_later(AFTER, self._forget_run, run)
        else:
            self._end_run(run)

    def _end_run(self, run: str) -> None:
        self._lines.pop(run, None)
        self._freight.end(run)
        self._logbook.end(run)
        self._passing.pop(run, None)
        self._names.pop(run, None)
        self._elsewhere.discard(run)
        self._lacking.forget(run)


class LocalLine:
    """The line of a run of this process."""

    elsewhere = ""

    def __init__(self, hub: Hub, name: str, tell: Callable[[pb.Tell], None]) -> None:
        self.name = name
        self._hub = hub
        self._tell = tell
        self._left = False

    def ask(self, ask: pb.Ask) -> None:
        self._hub.put_before(self, lambda: self._hub.hear_line(self, ask))

    def give(self, parts: Iterator[pb.Part]) -> None:
        self._hub.put_before(self, lambda: self._give(parts))

    def close(self) -> None:
        self._hub.put_before(self, self._leave)

    # In the loop.

    def attempt(self, what: Callable[[], None]) -> None:
        """Do what was put before the hub; what is wrong with it is this line's alone."""
        try:
            what()
        except (TamperedError, OSError) as error:
            self.say(
                pb.Tell(refusal=pb.Refusal(reason=f"The coordinator cannot take what run {self.name} sends: {error}"))
            )
            self._leave()

    def say(self, tell: pb.Tell) -> None:
        if self._left:
            return
        try:
            self._tell(tell)
        except Exception:  # noqa: BLE001 - one run's fault must not be the fleet's end
            _log.exception("The line of run %s has ended, for it could not be told what happened.", self.name)
            self._leave()

    def carry(self, parts: Iterator[pb.Part]) -> None:
        """Say something long, and let others have their turn between its pieces."""
        part = next(parts, None)
        if part is not None and not self._left:
            self.say(pb.Tell(parts=[part]))
            asyncio.get_running_loop().call_soon(self.carry, parts)

    def hang_up(self) -> None:
        self._leave()

    def _give(self, parts: Iterator[pb.Part]) -> None:
        """Give something long, and let others have their turn between its pieces."""
        part = next(parts, None)
        if part is not None and not self._left:
            self.attempt(lambda: self._hub.hear_line(self, pb.Ask(parts=[part])))
            asyncio.get_running_loop().call_soon(self._give, parts)

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._hub.lose_line(self)


class _Workers:
    """Who receives the workers that call."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def admit(self, caller: WorkerCaller, first: pb.Up) -> pb.Refusal | None:
        return self._hub.admit_worker(caller, first)

    async def hear(self, caller: WorkerCaller, message: pb.Up) -> None:
        await self._hub.hear_worker(caller, message)

    def lose(self, caller: WorkerCaller) -> None:
        self._hub.lose_worker(caller)


class _Runs:
    """Who receives the runs that call."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def admit(self, caller: RunCaller, first: pb.Ask) -> pb.Refusal | None:
        return self._hub.open_line(caller, first.open)

    async def hear(self, caller: RunCaller, message: pb.Ask) -> None:
        self._hub.hear_line(caller, message)

    def lose(self, caller: RunCaller) -> None:
        self._hub.lose_line(caller)
