"""The same engine over virtual time and virtual workers: what a run would do, in no time, and the same on every machine.

Nothing here decides anything. The clock moves only when the thread that waits for the run moves it; a worker is a record, and a
call is an appointment with the clock. This room knows the ports, not the engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import isfinite
from typing import Any, Literal, get_args

from dagrid.errors import InvalidSettingError, RunError, TaskError
from dagrid.execution.executor import checked_graph
from dagrid.execution.results import ExecutionResult
from dagrid.graph.dag import DAG
from dagrid.machine.events import NUMBER_SHIFT, Finished, Outcome, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.machine.state import Status
from dagrid.ports import Bundle, Call, Capabilities, Host

Action = Callable[[], None]
Durations = Mapping[str, float] | Callable[[str], float]
Fault = Literal["ok", "fail", "lost"]
USUAL_SECONDS = 1.0
SHOWN = 3
TASKS_OF_A_LOOP = 1000


class VirtualClock:
    """Time that stands still until somebody moves it; a `Clock` for `DAG.start(clock=...)`.

    Args:
        start: what it shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, list[Action | None]]] = []
        self._order = count()
        self._guard = threading.Lock()

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def call_at(self, when: float, action: Action) -> Action:
        """Call `action` when the clock is moved to a time or past it, and return a function that prevents it."""
        holder: list[Action | None] = [action]
        with self._guard:
            heappush(self._timers, (when, next(self._order), holder))

        def prevent() -> None:
            holder[0] = None

        return prevent

    @property
    def due(self) -> float | None:
        """The time of the next action, None when there is none."""
        with self._guard:
            while self._timers and self._timers[0][2][0] is None:
                heappop(self._timers)
            return self._timers[0][0] if self._timers else None

    def advance(self) -> bool:
        """Move to the next action and call it, in this thread; return False when there is none."""
        if self.due is None:
            return False
        with self._guard:
            when, _, holder = heappop(self._timers)
            self._now = max(self._now, when)
            action, holder[0] = holder[0], None
        if action is not None:
            action()
        return True

    def advance_to(self, when: float) -> None:
        """Call all that is due up to a time, each at its own, and move there; a time in the past changes nothing."""
        while (due := self.due) is not None and due <= when:
            self.advance()
        self._now = max(self._now, when)


class VirtualBackend:
    """Workers that are records, and calls that take virtual time; whoever waits for the run moves the clock.

    Give a run its clock too: `dag.run(backend=backend, clock=backend.clock)`; `simulate` does both.

    Args:
        workers: how many there are.
        slots: how many calls each performs at once.
        window: how many calls may be with a worker, those that wait there included.
        durations: seconds by node name, or a function of the name; 1 second for those not named.
        call: call the functions, at the end of their time; otherwise every value is None.
        pulls: the workers ask for each call themselves, as threads do; otherwise they are sent bundles, as processes are.
        labels: those of each worker, in order; workers past the end have none.
        faults: by node name how its tries end, in order: "ok", "fail", or "lost" for a worker that vanishes halfway and is
            replaced at once. Tries past the end are "ok".
        clock: shared with others; by default one of its own.

    Raises:
        InvalidSettingError: a number of workers or slots below 1, a worker that pulls more than one call at a time, or labels or
            faults that cannot be.
    """

    name = "virtual"
    capabilities = Capabilities(shares_memory=True, kills=True, cancels=True, matches_selectors=True)

    def __init__(
        self,
        workers: int = 2,
        slots: int = 1,
        window: int = 1,
        durations: Durations | None = None,
        *,
        call: bool = True,
        pulls: bool = False,
        labels: Sequence[Mapping[str, str]] = (),
        faults: Mapping[str, Sequence[Fault]] | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        for what, number in (("workers", workers), ("slots", slots), ("window", window)):
            if not isinstance(number, int) or number < 1:
                raise InvalidSettingError(f"{what} is a whole number from 1 up, not {number!r}.")
        if pulls and (slots > 1 or window > 1):
            raise InvalidSettingError("A worker that pulls has one call at a time: leave slots and window at 1.")
        _check_labels(labels)
        _check_faults(faults or {})
        self.workers = workers
        self.slots = slots
        self.window = window
        self.call = call
        self.pulls = pulls
        self.labels = labels
        self.clock = clock if clock is not None else VirtualClock()
        self._durations = durations if durations is not None else {}
        self._faults = faults or {}

    def open(self, host: Host) -> VirtualSession:
        """Begin to serve a run.

        Raises:
            InvalidSettingError: the run has another clock.
        """
        if host.now() != self.clock.now():
            raise InvalidSettingError("The run needs the clock of its virtual backend: pass clock=backend.clock.")
        return VirtualSession(self, host)

    def close(self, wait: bool = True) -> None:
        """There is nothing to let go of."""

    def open_place(self, name: str) -> VirtualBackend:
        """Return what stands for a place of its own: one worker, in the same time."""
        slots = 1 if name == "caller" else TASKS_OF_A_LOOP
        made = VirtualBackend(1, slots, slots, self._durations, call=self.call, faults=self._faults, clock=self.clock)
        made.name = name
        return made

    def seconds(self, node: str) -> float:
        """Return how long a call of a node takes.

        Raises:
            InvalidSettingError: the duration is not a finite number from 0 up.
        """
        durations = self._durations
        found = durations(node) if callable(durations) else durations.get(node, USUAL_SECONDS)
        if not (isfinite(found) and found >= 0):
            raise InvalidSettingError(f"The duration of node {node!r} is seconds from 0 up, not {found!r}.")
        return found

    def fault(self, node: str, number: int) -> Fault:
        """Return how try `number` (from 0) of a node ends."""
        faults = self._faults.get(node, ())
        return faults[number] if number < len(faults) else "ok"


@dataclass(slots=True)
class _Worker:
    number: int
    name: str
    labels: Mapping[str, str]
    waiting: deque[Call] = field(default_factory=deque)
    running: dict[int, tuple[Call, float, Action]] = field(default_factory=dict)


class VirtualSession:
    """One run's virtual workers. Everything happens in the thread that moves the clock, or in the one that gives orders."""

    def __init__(self, backend: VirtualBackend, host: Host) -> None:
        self._backend = backend
        self._clock = backend.clock
        self._host = host
        self._closed = False
        self._busy = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        joined: list[Stimulus] = []
        for place in range(backend.workers):
            labels = backend.labels[place] if place < len(backend.labels) else {}
            joined.append(self._join(f"{backend.name}-{place}", labels))
        host.report(joined)

    def wake(self, worker: int) -> None:
        self._clock.call_at(self._clock.now(), lambda: self._ask(worker))

    def perform(self, bundle: Bundle) -> None:
        worker = self._workers.get(bundle.worker)
        if worker is not None:
            worker.waiting.extend(bundle.calls)
            self._report(self._fill(worker))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        place = self._workers.get(worker)
        if place is None:
            return
        given = [call.attempt for call in place.waiting if call.attempt in attempts]
        place.waiting = deque(call for call in place.waiting if call.attempt not in attempts)
        if given:
            self._report([Recalled(worker, given, self._clock.now())])

    def cancel(self, worker: int, attempt: int) -> None:
        place = self._workers.get(worker)
        if place is None:
            return
        now = self._clock.now()
        if attempt in place.running:
            _, started, prevent = place.running.pop(attempt)
            prevent()
        elif any(call.attempt == attempt for call in place.waiting):
            started = now
            place.waiting = deque(call for call in place.waiting if call.attempt != attempt)
        else:
            return
        self._report([Finished(worker, attempt, Outcome.CANCELLED, started, now), *self._fill(place)])
        if self._backend.pulls:
            self.wake(worker)

    def attend(self) -> None:
        """Move the clock from one appointment to the next until there is none."""
        with self._busy:
            while not self._closed and self._clock.advance():
                pass

    def close(self) -> None:
        self._closed = True
        for worker in list(self._workers.values()):
            self._drop(worker)

    def _report(self, events: Sequence[Stimulus]) -> None:
        if events and not self._closed:
            self._host.report(events)

    def _join(self, name: str, labels: Mapping[str, str]) -> WorkerJoined:
        number = self._host.new_worker()
        self._workers[number] = _Worker(number, name, labels)
        backend = self._backend
        return WorkerJoined(number, name, self._clock.now(), backend.slots, backend.window, backend.pulls, labels)

    def _drop(self, worker: _Worker) -> None:
        del self._workers[worker.number]
        for _, _, prevent in worker.running.values():
            prevent()

    def _ask(self, worker: int) -> None:
        place = self._workers.get(worker)
        if place is not None and not place.running:
            self._take(place, self._host.next(worker))

    def _take(self, worker: _Worker, call: Call | None) -> None:
        if call is not None:
            self._begin(worker, call)

    def _fill(self, worker: _Worker) -> list[Stimulus]:
        """Begin as many of the calls that wait as there are free slots."""
        begun: list[Stimulus] = []
        while worker.waiting and len(worker.running) < self._backend.slots:
            call = worker.waiting.popleft()
            self._begin(worker, call)
            begun.append(Started(worker.number, call.attempt, self._clock.now()))
        return begun

    def _begin(self, worker: _Worker, call: Call) -> None:
        now = self._clock.now()
        seconds = self._backend.seconds(call.node)
        fault = self._backend.fault(call.node, call.attempt >> NUMBER_SHIFT)
        if fault == "lost":
            prevent = self._clock.call_at(now + seconds / 2, lambda: self._vanish(worker))
        else:
            prevent = self._clock.call_at(now + seconds, lambda: self._end(worker, call, now, fault))
        worker.running[call.attempt] = call, now, prevent

    def _vanish(self, worker: _Worker) -> None:
        self._drop(worker)
        gone = WorkerGone(worker.number, self._clock.now(), "the simulation lets the worker vanish")
        self._report([gone, self._join(worker.name, worker.labels)])

    def _end(self, worker: _Worker, call: Call, started: float, fault: Fault) -> None:
        del worker.running[call.attempt]
        value: Any = None
        error: BaseException | None = None
        if fault == "fail":
            error = TaskError(f"The simulation lets this try of {call.node!r} fail.", call.node)
        elif self._backend.call:
            try:
                value = call.fn(*call.args, **(call.kwargs or {}))
                if isinstance(value, Coroutine):
                    value = _to_its_end(value)
            except BaseException as raised:  # noqa: BLE001  # whatever a task raises is its outcome
                error = raised
        ended = self._clock.now()
        if not self._backend.pulls:
            outcome = Outcome.COMPLETED if error is None else Outcome.FAILED
            done = Finished(worker.number, call.attempt, outcome, started, ended, value if error is None else error)
            self._report([done, *self._fill(worker)])
        elif self._closed:
            return
        elif error is None:
            self._take(worker, self._host.completed(worker.number, call, value, started, ended))
        else:
            self._take(worker, self._host.failed(worker.number, call, error, started, ended))


def simulate(
    dag: DAG,
    tasks: Mapping[Any, Callable[..., Any]] | None = None,
    *,
    workers: int = 2,
    slots: int = 1,
    window: int = 1,
    durations: Durations | None = None,
    call: bool = False,
    pulls: bool = False,
    labels: Sequence[Mapping[str, str]] = (),
    faults: Mapping[str, Sequence[Fault]] | None = None,
    **settings: Any,
) -> ExecutionResult:
    """Run a graph in virtual time and return its result, whose trace says what would run when, and where.

    Args:
        dag: the graph.
        tasks: functions by node name, as `DAG.run` takes them; they matter only with `call`.
        workers, slots, window, pulls, labels, faults: of the workers, see `VirtualBackend`.
        durations: seconds by node name, or a function of the name; by default the `cost` of each node, or 1.
        call: call the functions, at the end of their time. By default nothing of the user's is called, every node takes its time
            whether it has a task or not, and its value is None.
        **settings: anything else that `DAG.start` takes, but for `backend` and `clock`.

    Raises:
        RunError: nothing can run any more, such as a node that selects a worker that is not there; it says which and why.
        PlanError, GraphError: as `DAG.start`.
        InvalidSettingError: what is given as a graph is none, or a setting of the workers cannot be.
    """
    checked_graph(dag)
    if durations is None:
        durations = {node.id: node.cost for node in dag.specs.values() if node.cost is not None}
    if not call:
        tasks = dict.fromkeys(dag, _nothing)
    backend = VirtualBackend(
        workers, slots, window, durations, call=call, pulls=pulls, labels=labels, faults=faults, clock=VirtualClock()
    )
    run = dag.start(
        tasks, **{"progress": False, "cache": False, **settings, "backend": backend, "clock": backend.clock}
    )
    try:
        return run.wait(0.0)
    except TimeoutError:
        waiting = [name for name in run.names if not Status[run.status(name).name].terminal]
        reasons = " ".join(map(run.explain, waiting[:SHOWN]))
        run.cancel("the simulation stands still")
        raise RunError(f"The simulation stands still, for nothing that is left can start: {reasons}") from None


def _check_labels(labels: object) -> None:
    if not (isinstance(labels, Sequence) and all(isinstance(one, Mapping) for one in labels)):
        raise InvalidSettingError(
            f"labels are a list with those of each worker, such as [{{'gpu': 'true'}}], not {labels!r}."
        )


def _check_faults(faults: object) -> None:
    if not isinstance(faults, Mapping):
        raise InvalidSettingError(
            f"faults are lists by the name of a node, such as {{'a': ['lost', 'ok']}}, not {faults!r}."
        )
    for node, ends in faults.items():
        if not isinstance(ends, list | tuple) or not all(one in get_args(Fault) for one in ends):
            raise InvalidSettingError(
                f"The faults of node {node!r} are a list of 'ok', 'fail' and 'lost', one for each try, not {ends!r}."
            )


def _to_its_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what an async task returns; in another thread, for this one may have a loop that runs."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(copy_context().run, asyncio.run, coroutine).result()


def _nothing() -> None:
    """Stand for a task in a simulation that calls none."""
