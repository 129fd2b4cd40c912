"""Many runs at once: taken from the queues of a home, given to a fleet, seen to their end, and taken up again after any other.

One thread, the desk, has the lists of runs; it sleeps until a bell is rung or a run says something. What takes time (a run begun,
a run closed, mails) is done by a few threads beside it. How workers are reached is for the fleet.
"""

from __future__ import annotations

import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Protocol

from dagrid.errors import DagridError, DuplicateRunError, RunError, StoreError, UnknownRunError
from dagrid.execution.results import RunStatus
from dagrid.history import INTERRUPTED, QUEUED, STOPPED, About, History
from dagrid.history.bells import QUEUED as CAME
from dagrid.history.bells import RESUME, RETRY, STOP
from dagrid.ports import Backend
from dagrid.service.graphs import GraphProcess
from dagrid.workflow import File
from dagrid.workflow.context import Context
from dagrid.workflow.recalling import file_of
from dagrid.workflow.running import Fleet, Started, go_on, start

HANDS = 8
"""Threads that begin and close runs."""
MOST_RUNS = 1_000
"""So many runs are performed at once; the others wait in their queues."""
TIDYING = 60.0
"""Seconds between two times that old runs of a workflow are forgotten."""
AGAIN = 5.0
"""Seconds after which a store is asked again that did not answer."""
DEATHS = 3
"""So often the process of a graph may be killed until its run is left alone."""
KEPT = 32
"""So many workflows are kept as they were read."""


class Workers(Protocol):
    """The fleet of a coordinator."""

    def place(self, context: Context, about: About) -> Backend:
        """Return what performs the steps of a run, see `dagrid.workflow.running.Fleet`."""
        ...

    def close(self) -> None:
        """Let go of the workers, which go on with what they have."""
        ...


@dataclass(slots=True, order=True)
class Waiting:
    """A run in a queue; those with a higher priority come first, then those that came before."""

    rank: tuple[int, int]
    run: str = field(compare=False)
    queue: str = field(compare=False)
    at_once: int = field(compare=False)


class Stops:
    """How often a run was asked to stop, by whoever asks; each time is passed on once, as soon as the run is there."""

    def __init__(self) -> None:
        self._asked: deque[None] = deque()

    def ask(self) -> None:
        """Remember that it was asked."""
        self._asked.append(None)

    def pass_on(self, stop: Callable[[], object]) -> None:
        """Call a function as often as it was asked and not passed on yet; from any thread."""
        with suppress(IndexError):
            while True:
                self._asked.popleft()
                stop()


@dataclass(slots=True, eq=False)
class Active:
    """A run that is performed here, or by a process of its own. What it is of is not there until it has begun."""

    run: str
    queue: str
    started: Started | None = None
    process: GraphProcess | None = None
    looking: bool = False
    stops: Stops = field(default_factory=Stops)
    then: How | None = None  # what was asked of it when it had ended, and that had not been seen to yet


How = Callable[[Active], Started | GraphProcess]
"""Begins a run, or goes on with it."""


class Coordinator:
    """Performs the runs of a home.

    Args:
        history: the runs; nobody else may serve them.
        workers: perform their steps.
        limits: by queue, how many of its runs are performed at once.
        graph_env: the variables that let the processes of Python graphs use the workers, see `service.graphs`.
        say: gets a line for what an operator should know.

    Raises:
        RunHeldError: another process serves the home.
    """

    def __init__(
        self,
        history: History,
        workers: Workers,
        *,
        limits: Mapping[str, int] | None = None,
        graph_env: Callable[[], Mapping[str, str]] = dict,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._history = history
        self._limits = dict(limits or {})
        self._graph_env = graph_env
        self._say = say
        self._bell = history.serve()
        self._workers = workers
        self._fleet: Fleet = self
        self._later: list[Callable[[], None]] = []  # what the store did not answer
        self._later_at = 0.0  # when it is asked again
        self._order = count()
        self._waiting: dict[str, list[Waiting]] = {}
        self._known: set[str] = set()
        self._active: dict[str, Active] = {}
        self._children: dict[str, Started] = {}
        self._busy: Counter[str] = Counter()
        self._files: dict[tuple[str, str, str], File] = {}
        self._tidied: dict[str, float] = {}
        self._deaths: Counter[str] = Counter()  # by run, how often its process was killed
        self._to_stop: dict[str, Stops] = {}  # of runs that active ones have called, or may be about to call
        self._told: deque[Callable[[], None]] = deque()
        self._rung = False  # the desk is about to wake
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._wake, False)
        self._hands = ThreadPoolExecutor(HANDS, "dagrid-hand")
        self._closing = False
        self._parted = threading.Event()  # set when all runs that are known have been let go of
        self._desk = threading.Thread(target=self._serve, name="dagrid-desk", daemon=True)

    def start(self) -> None:
        """Take up what was open, and begin what waits; from now on whoever enqueues a run is heard."""
        self._desk.start()

    @property
    def active(self) -> int:
        """How many runs are performed at this moment."""
        return len(self._active)

    def close(self) -> None:
        """Perform nothing any more: runs are let go of, and taken up by the next coordinator. May be called twice."""
        if self._closing:
            return
        self._closing = True
        self._ring()
        if self._desk.is_alive():
            self._desk.join()
        self._hands.shutdown(cancel_futures=True)
        for active in self._active.values():
            if active.process is not None:
                active.process.let_go()
        # Those that call others come first, or they would hear of their ends; and all come before their workers are gone.
        callers = [active.started for active in self._active.values() if active.started is not None]
        for started in [*callers, *self._children.values()]:
            with suppress(DagridError):
                started.run.let_go()
        self._parted.set()
        self._workers.close()
        for started in [*callers, *self._children.values()]:
            with suppress(DagridError):
                started.let_go()
        os.close(self._awake)
        os.close(self._wake)

    # The desk: only its thread runs what follows.

    def _serve(self) -> None:
        self._attempt(self._look_around)
        while not self._closing:
            self._fill()
            wait = max(0.0, self._later_at - monotonic()) if self._later else None
            readable, _, _ = select.select([self._bell.fileno(), self._awake], [], [], wait)
            if self._awake in readable:
                with suppress(BlockingIOError):
                    os.read(self._awake, 65_536)
                self._rung = False  # before it is looked what is new
            for verb, run, steps in self._bell.read():
                self._attempt(partial(self._hear, verb, run, steps))
            while self._told:
                self._told.popleft()()
            if self._later and monotonic() >= self._later_at:
                later, self._later = self._later, []
                for what in later:
                    self._attempt(what)

    def _attempt(self, what: Callable[[], None]) -> None:
        """Do something that asks the store; where that does not answer, it is done when it may do so again."""
        try:
            what()
        except StoreError as error:
            if not self._later:
                self._later_at = monotonic() + AGAIN
                self._say(f"the store is asked again in {AGAIN:g} s: {error}")
            self._later.append(what)

    def _look_around(self) -> None:
        """Find what a coordinator before this one had open, and what waits."""
        for info in reversed(self._history.runs(status=(INTERRUPTED,), limit=None)):  # those that have waited longest
            if info.run in self._active:
                continue
            about = self._history.about(info.run)
            if not self._history.is_of_home(about):
                continue  # its own coordinator finds it, and its workers with what they still do
            if about.served or (about.queue and not self._history.has_begun(info.run)):
                self._begin(Active(info.run, about.queue), self._resume)
        for info in self._history.queued():
            self._came(info.run)

    def _hear(self, verb: str, run: str, steps: Sequence[str]) -> None:
        if verb == CAME:
            self._came(run)
        elif verb == STOP:
            self._stop(run)
        elif verb in (RESUME, RETRY):
            self._once_more(run, self._resume if verb == RESUME else partial(self._retry, steps))

    def _once_more(self, run: str, how: How) -> None:
        active = self._active.get(run)
        with suppress(UnknownRunError):  # it is gone
            if active is None:
                self._begin(Active(run, self._history.about(run).queue), how)
            elif self._history.info(run).status != RunStatus.RUNNING:
                active.then = how

    def _came(self, run: str) -> None:
        """A run waits in a queue, perhaps once more."""
        active = self._active.get(run)
        if run in self._known and active is None:
            return
        try:
            about = self._history.about(run)
            if active is not None:
                if self._history.info(run).status == QUEUED:  # it has just been refused
                    active.then = self._take
                return
        except UnknownRunError:  # it is gone already
            return
        self._known.add(run)
        one = Waiting((-about.priority, next(self._order)), run, about.queue, about.at_once)
        heappush(self._waiting.setdefault(about.queue, []), one)

    def _fill(self) -> None:
        """Begin all runs that may begin."""
        for queue in list(self._waiting):
            waiting = self._waiting[queue]
            while waiting and len(self._active) < MOST_RUNS:
                most = self._limits.get(queue, waiting[0].at_once)
                if 0 < most <= self._busy[queue]:
                    break
                one = heappop(waiting)
                self._begin(Active(one.run, queue), self._take)
            if not waiting:
                del self._waiting[queue]

    def _begin(self, active: Active, how: How) -> None:
        self._active[active.run] = active
        self._busy[active.queue] += 1
        self._hands.submit(self._begun, active, how)

    def _stop(self, run: str) -> None:
        active = self._active.get(run)
        if active is not None:
            active.stops.ask()
            _pass_on(active)
        elif any(_calls(one, run) for one in self._active):
            stops = self._to_stop.setdefault(run, Stops())
            stops.ask()
            if (child := self._children.get(run)) is not None:
                stops.pass_on(partial(_cancel, child))

    def _over(self, active: Active) -> None:
        if self._active.pop(active.run, None) is not None:
            self._known.discard(active.run)
            if active.then is None:
                self._deaths.pop(active.run, None)
            self._busy[active.queue] -= 1
            for run in [run for run in self._to_stop if _calls(active.run, run)]:
                del self._to_stop[run]
            if active.then is not None:
                self._attempt(partial(self._once_more, active.run, active.then))

    # The hands: any thread runs what follows.

    def _tell(self, what: Callable[[], None]) -> None:
        self._told.append(what)
        self._ring()

    def _ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        with suppress(BlockingIOError, OSError):  # full is enough; closed is too late
            os.write(self._wake, b"!")

    def _begun(self, active: Active, how: How) -> None:
        """Begin a run, and follow it from then on."""
        try:
            started = how(active)
        except DuplicateRunError:  # somebody has taken it out of its queue meanwhile
            started = None
        except Exception as error:  # noqa: BLE001  # one run's fault is none of the others'
            self._say(f"run {active.run} could not be performed: {error}")
            started = None
        if started is None:
            self._tell(lambda: self._over(active))
            return
        if isinstance(started, GraphProcess):
            active.process = started
            _pass_on(active)
            if self._closing:  # whoever closes has seen it, or it sees that here
                started.let_go()
            started.follow(partial(self._graph_ended, active))
            return
        active.started = started
        _pass_on(active)
        started.run.watch(lambda: self._stirred(active))
        self._stirred(active)

    def _take(self, active: Active) -> Started | GraphProcess:
        """Begin a run that waited; one that cannot begin has failed, and its log says why."""
        about = self._history.about(active.run)
        if about.kind == "graph":
            return self._perform(active, about)
        try:
            return start(
                self._file(about),
                about.given,
                history=self._history,
                run_id=active.run,
                name=about.name,
                document=about.document,
                trigger=about.trigger,
                queued=about,
                fleet=self._fleet,
            )
        except DuplicateRunError:
            raise
        except DagridError as error:
            self._refuse(active.run, about, error)
            raise

    def _file(self, about: About) -> File:
        """Return the workflow of a run in a queue; those of one text share it."""
        key = about.source, about.more.get("folder", ""), about.spec
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = file_of(about)
            while len(self._files) > KEPT:
                self._files.pop(next(iter(self._files)), None)
        return file

    def _perform(self, active: Active, about: About, *, again: bool = False, roots: Sequence[str] = ()) -> GraphProcess:
        folder = about.more.get("folder", "")
        try:
            return GraphProcess(active.run, folder, self._graph_env(), again=again, roots=roots)
        except OSError as error:
            self._refuse(active.run, about, error)
            raise

    def _graph_ended(self, active: Active, said: str) -> None:
        """The process of a Python graph has ended; one that was not killed and never began its run has said why."""
        if not self._closing:
            with suppress(DagridError):  # the run is gone
                info = self._history.info(active.run)
                never_begun = info.active and not self._history.has_begun(active.run)
                if never_begun or info.status == INTERRUPTED:
                    self._lose(active, never_begun, said)
        self._tell(lambda: self._over(active))

    def _lose(self, active: Active, never_begun: bool, said: str) -> None:
        """A run has not ended, and its process has: it is taken up again where that was killed."""
        again = self._is_lost(active)
        if never_begun and not again:
            why = RunError(said or "Its process ended before the run began.")
            self._refuse(active.run, self._history.about(active.run), why)
            self._say(f"run {active.run} could not be performed: {why}")
            return
        becomes = "is taken up again" if again else "is interrupted"
        self._say(f"run {active.run} {becomes}, for its process has ended: {said or 'it said nothing'}")
        if again and active.then is None:
            active.then = self._resume

    def _is_lost(self, active: Active) -> bool:
        """Whether the process of a run was killed, as by a system that is out of memory, and not for the third time."""
        if active.process is None or not active.process.was_killed:
            return False
        self._deaths[active.run] += 1
        return self._deaths[active.run] < DEATHS

    def _resume(self, active: Active) -> Started | GraphProcess:
        if not self._history.has_begun(active.run):
            return self._take(active)  # its process ended when it had only just taken it
        return self._go_on(active, again=False)

    def _retry(self, roots: Sequence[str], active: Active) -> Started | GraphProcess:
        return self._go_on(active, again=True, roots=roots)

    def _go_on(self, active: Active, *, again: bool, roots: Sequence[str] = ()) -> Started | GraphProcess:
        about = self._history.about(active.run)
        if about.kind == "graph":
            return self._perform(active, about, again=again, roots=roots)
        return go_on(self._history, active.run, again=again, roots=roots, fleet=self._fleet)

    def _refuse(self, run: str, about: About, error: Exception) -> None:
        with suppress(RunError):
            self._history.discard(self._history.begin(about.name, about, run), str(error))

    def _stirred(self, active: Active) -> None:
        """Something has happened in a run: see whether it is over."""
        started = active.started
        if started is None or active.looking:
            return
        if not (started.run.done or started.run.waiting):
            return
        active.looking = True
        with suppress(RuntimeError):  # the hands are gone: this coordinator closes
            self._hands.submit(self._look, active, started)

    def _look(self, active: Active, started: Started) -> None:
        try:
            if not started.run.settled:
                active.looking = False
                if started.run.settled:  # it has happened meanwhile
                    self._stirred(active)
                return
            if not started.run.done:
                started.detach()
            else:
                started.finish(tidy=False)
        except Exception as error:  # noqa: BLE001  # one run's fault is none of the others'
            self._say(f"run {active.run} could not be closed: {error}")
            started.close()
        self._tell(lambda: self._over(active))
        self._tidy(started)

    def _tidy(self, started: Started) -> None:
        """Forget old runs of a workflow, not more often than now and then: it looks at all that there are."""
        name, now = started.context.name, monotonic()
        if now - self._tidied.get(name, -TIDYING) >= TIDYING:
            self._tidied[name] = now
            with suppress(DagridError):
                started.tidy()

    # What runs ask of a fleet.

    def place(self, context: Context, about: About) -> Backend:
        """Return what performs the steps of a run."""
        return self._workers.place(context, about)

    def began(self, started: Started) -> None:
        """Hear of a run that was called by another one, which waits for it."""
        run = started.place.run_id
        self._children[run] = started
        if (
            self._closing
        ):  # whoever closes has seen it, or it sees that here, and behind its caller, which would hear of it
            self._parted.wait()
            started.run.let_go()
        elif (stops := self._to_stop.get(run)) is not None:
            stops.pass_on(partial(_cancel, started))
        started.run.watch(lambda: self._children.pop(run, None) if started.run.done else None)


def _pass_on(active: Active) -> None:
    """Let a run that has begun hear of each time that it was to be stopped."""
    if active.started is not None:
        active.stops.pass_on(partial(_cancel, active.started))
    elif active.process is not None:
        active.stops.pass_on(active.process.stop)


def _cancel(started: Started) -> None:
    started.run.cancel(STOPPED)


def _calls(caller: str, run: str) -> bool:
    """Return whether a run is below another one, which its id says."""
    return run.startswith(f"{caller}.")
