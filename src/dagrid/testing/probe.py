"""A host for one backend without an engine: it hands out calls, records every report and counts what broke the
contract.

It may know the sockets and nothing of the engine, of pytest or of any backend, so that a backend can be tried before
and without everything else.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from dagrid.attempt import Extra
from dagrid.machine.events import Finished, Outcome, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Backend, Bundle, Call, opened

PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """How an attempt ended.

    Args:
        kind: completed, failed, cancelled (also by a lost worker, if a cancel had been asked for) or lost.
        value: the decoded value of a completed attempt.
        error: the exception of a failed one, where one arrived.
        text: the words that came with a failure.
        worker: the number of the worker that had it, -1 if none.
        started: seconds of the host's clock, as reported.
        ended: seconds of the host's clock, as reported.
        reported: the value as the backend reported it, which may be an `Encoded`; it can be given to another call.
    """

    kind: Outcome
    value: Any = None
    error: BaseException | None = None
    text: str = ""
    worker: int = -1
    started: float = 0.0
    ended: float = 0.0
    reported: Any = None


@dataclass(slots=True)
class _Worker:
    joined: WorkerJoined
    held: set[int] = field(default_factory=set)
    running: set[int] = field(default_factory=set)
    woken: int = 0

    @property
    def takes_all(self) -> bool:
        """Whether calls that ask for nothing in particular may go to it."""
        return self.joined.slots > 0 and not self.joined.delegates


class Probe:
    """A `dagrid.ports.Host` that opens a backend and plays the engine's part with nothing clever in it.

    Calls go to workers that pull when they ask, and to the others in bundles: the least loaded first, never more than
    the window. What a vanished worker had started counts as lost; what it had not, and what was recalled, is handed out
    again.

    Args:
        backend: the backend to open; it stays open when the probe is closed.
        patience: seconds that every wait lasts at most; then an AssertionError says what did not happen.

    `faults` lists every report that the contract forbids, `after_close` every report after the session was closed;
    `check` raises for both.
    """

    def __init__(self, backend: Backend, patience: float = PATIENCE) -> None:
        self.backend = backend
        self.patience = patience
        self.events: list[Stimulus] = []
        self.after_close: list[Any] = []
        self.faults: list[str] = []
        self._changed = threading.Condition()
        # Held while the session is spoken to, so that no cancel overtakes the bundle that it is about.
        self._speaking = threading.Lock()
        self._random = random.Random(0)
        self._workers: dict[int, _Worker] = {}
        self._gone: set[int] = set()
        self._numbers = 0
        self._calls: dict[int, Call] = {}
        self._queue: deque[int] = deque()
        self._where: dict[int, int] = {}
        self._started: set[int] = set()
        self._recalled: list[int] = []
        self._cancelled: set[int] = set()
        self._terminals: dict[int, list[ProbeOutcome]] = {}
        self._work = 0
        self._spoken = 0
        self._ending = False
        self._closed = False
        self.session = backend.open(self)
        for loop in (self._dispatch, self._attend):
            threading.Thread(target=copy_context().run, args=(loop,), name="probe", daemon=True).start()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # What a test asks for.

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Queue a call and return its attempt number."""
        with self._changed:
            attempt = len(self._calls)
            self._calls[attempt] = Call(attempt, f"node-{attempt}", fn, args, kwargs or None)
            self._queue.append(attempt)
            self._stir()
        return attempt

    def outcome(self, attempt: int, timeout: float | None = None) -> ProbeOutcome:
        """Wait for the end of an attempt; `timeout` in seconds, the probe's patience by default."""
        self._until(lambda: attempt in self._terminals, f"attempt {attempt} to end", timeout)
        return self._terminals[attempt][0]

    def value(self, attempt: int, timeout: float | None = None) -> Any:
        """Wait for an attempt and return its value; raise AssertionError if it has none."""
        outcome = self.outcome(attempt, timeout)
        if outcome.kind is not Outcome.COMPLETED:
            raise AssertionError(f"attempt {attempt} ended as {outcome}") from outcome.error
        return outcome.value

    def wait_started(self, attempt: int) -> None:
        """Wait until an attempt was reported as started, or has ended."""
        self._until(lambda: attempt in self._started or attempt in self._terminals, f"attempt {attempt} to start")

    def wait_handed_out(self, attempt: int) -> None:
        """Wait until an attempt is with a worker, started or not."""
        self._until(lambda: attempt in self._where, f"attempt {attempt} to be handed out")
        with self._speaking:
            pass  # the bundle that it was in has left

    def wait_recalled(self, attempts: Sequence[int]) -> None:
        """Wait until each of these attempts has been given back at least once."""
        self._until(lambda: set(attempts) <= set(self._recalled), f"attempts {list(attempts)} to be recalled")

    def wait_slots(self, slots: int) -> None:
        """Wait until workers with so many slots in all are there."""
        self._until(
            lambda: sum(worker.joined.slots for worker in self._workers.values() if worker.takes_all) >= slots,
            f"{slots} slots to be announced",
        )

    def cancel(self, attempt: int) -> None:
        """Cancel an attempt: one that waits here ends at once, any other is the backend's to cancel."""
        with self._speaking:
            with self._changed:
                self._cancelled.add(attempt)
                if attempt in self._queue:
                    self._queue.remove(attempt)
                    self._end(attempt, ProbeOutcome(Outcome.CANCELLED))
                    return
                worker = self._where.get(attempt)
                if worker is None:
                    return
                place = self._workers.get(worker)
                if place is None or place.joined.pulls:
                    # Like the engine: the host knows what such a worker has, and nothing may change meanwhile.
                    if place is not None and attempt in place.held:
                        self.session.cancel(worker, attempt)
                    return
            self.session.cancel(worker, attempt)

    def recall(self, *attempts: int) -> None:
        """Ask the backend to give back what it has of these attempts and has not started."""
        asked: dict[int, list[int]] = {}
        with self._speaking:
            with self._changed:
                for attempt in attempts:
                    if attempt in self._where:
                        asked.setdefault(self._where[attempt], []).append(attempt)
            for worker, some in asked.items():
                self.session.recall(worker, some)

    def terminals(self, attempt: int) -> int:
        """Return how often an attempt was reported to have ended for good; one is right."""
        with self._changed:
            return len(self._terminals.get(attempt, ()))

    def held(self, worker: int) -> tuple[int, ...]:
        """Return the attempts that are with a worker, started or not."""
        with self._changed:
            return tuple(sorted(self._workers[worker].held)) if worker in self._workers else ()

    def worker_of(self, attempt: int) -> int:
        """Return the number of the worker that had an attempt last, -1 before it was handed out."""
        with self._changed:
            return self._where.get(attempt, -1)

    def workers(self) -> tuple[WorkerJoined, ...]:
        """Return the announcements of the workers that are there now and take any call: neither named only, nor delegating."""
        with self._changed:
            return tuple(worker.joined for worker in self._workers.values() if worker.takes_all)

    def lost_workers(self) -> int:
        """Return how many workers were reported gone."""
        with self._changed:
            return len(self._gone)

    def recalled(self) -> tuple[int, ...]:
        """Return the attempts that were given back, in order."""
        with self._changed:
            return tuple(self._recalled)

    def close(self) -> None:
        """Close the session, not the backend; every later report is kept in `after_close`."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self.session.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise AssertionError if the backend reported anything that the contract forbids."""
        with self._changed:
            twice = {attempt: found for attempt, found in self._terminals.items() if len(found) > 1}
            assert not self.faults, f"{self.backend.name} broke the contract: {self.faults}"
            assert not twice, f"{self.backend.name} ended attempts more than once: {twice}"
            assert not self.after_close, (
                f"{self.backend.name} reported after its session was closed: {self.after_close}"
            )

    # The host's side, called by the backend.

    run = name = nonce = ""

    def now(self) -> float:
        return time.perf_counter()

    def draw(self) -> float:
        with self._changed:
            return self._random.random()

    def new_worker(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers - 1

    def report(self, events: Sequence[Stimulus]) -> None:
        with self._changed:
            if self._closed:
                self.after_close.extend(events)
                return
            for event in events:
                self.events.append(event)
                self._take(event)
            self._stir()

    def next(self, worker: int) -> Call | None:
        with self._changed:
            return self._hand_out(worker)

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        return self._deliver(Finished(worker, call.attempt, Outcome.COMPLETED, started, ended, value, extra=extra))

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        return self._deliver(Finished(worker, call.attempt, Outcome.FAILED, started, ended, error, str(error)))

    def _deliver(self, event: Finished) -> Call | None:
        """Hand out work whenever something changed; a thread of its own does, so that no report is kept waiting."""
        with self._changed:
            if self._closed or event.worker in self._gone:
                return None
            self.report([event])
            return self._hand_out(event.worker)

    # Below, the lock is held by whoever calls, but for `_until` and the two loops.

    def _until(self, holds: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        limit = self.patience if timeout is None else timeout
        with self._changed:
            if not self._changed.wait_for(holds, limit):
                last = self.events[-3:]
                raise AssertionError(f"waited {limit:g} s for {what}. Workers: {self._workers}. Last events: {last}")

    def _stir(self) -> None:
        self._work += 1
        self._changed.notify_all()

    def _dispatch(self) -> None:
        """Hand out work whenever something changed; a thread of its own does, so that no report is kept waiting."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work != seen or self._ending)  # noqa: B023 - called at once
                if self._ending:
                    return
                seen = self._work
            with self._speaking:
                with self._changed:
                    wakes = self._wakes()
                    bundles = self._bundles()
                for worker in wakes:
                    self.session.wake(worker)
                for bundle in bundles:
                    self.session.perform(bundle)
            with self._changed:
                self._spoken += 1
                self._changed.notify_all()

    def _attend(self) -> None:
        """Lend a thread to the backend after each time that it was spoken to."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._spoken != seen or self._ending)  # noqa: B023 - called at once
                if self._ending:
                    return
                seen = self._spoken
            self.session.attend()

    def _wakes(self) -> list[int]:
        wanted = len(self._queue) - sum(worker.woken for worker in self._workers.values())
        found: list[int] = []
        for number, worker in self._workers.items():
            free = worker.joined.slots - len(worker.held) - worker.woken if worker.joined.pulls else 0
            taken = max(0, min(free, wanted - len(found)))
            worker.woken += taken
            found.extend([number] * taken)
        return found

    def _bundles(self) -> list[Bundle]:
        pushed = {
            number: worker for number, worker in self._workers.items() if worker.takes_all and not worker.joined.pulls
        }
        found: dict[int, list[Call]] = {}
        while self._queue and pushed:
            number, worker = min(pushed.items(), key=lambda item: len(item[1].held))
            if len(worker.held) >= worker.joined.window:
                break
            attempt = self._queue.popleft()
            worker.held.add(attempt)
            self._where[attempt] = number
            found.setdefault(number, []).append(self._calls[attempt])
        if found:
            self._changed.notify_all()
        return [Bundle(number, calls) for number, calls in found.items()]

    def _hand_out(self, number: int) -> Call | None:
        worker = self._workers.get(number)
        if worker is None or self._ending:
            return None
        worker.woken = max(0, worker.woken - 1)
        if not self._queue:
            return None
        attempt = self._queue.popleft()
        worker.held.add(attempt)
        self._where[attempt] = number
        self._start(number, attempt)
        return self._calls[attempt]

    def _start(self, number: int, attempt: int) -> None:
        worker = self._workers.get(number)
        if worker is None or attempt not in worker.held:
            self.faults.append(f"worker {number} started attempt {attempt}, which it does not have")
            return
        worker.running.add(attempt)
        self._started.add(attempt)
        if len(worker.running) > worker.joined.slots:
            self.faults.append(f"worker {number} runs {sorted(worker.running)} in {worker.joined.slots} slots")
        self._changed.notify_all()

    def _take(self, event: Stimulus) -> None:
        match event:
            case WorkerJoined():
                self._join(event)
            case WorkerGone():
                self._lose(event)
            case Started():
                self._start(event.worker, event.attempt)
            case Finished():
                self._finish(event)
            case Recalled():
                self._take_back(event)
            case _:
                self.faults.append(f"a backend does not report {event!r}")

    def _join(self, event: WorkerJoined) -> None:
        if event.worker in self._workers or event.worker in self._gone or not 0 <= event.worker < self._numbers:
            self.faults.append(f"a worker announced itself with a number that is not its own: {event!r}")
        if event.slots < 0 or event.window < event.slots:
            self.faults.append(f"a worker needs a window no smaller than its slots: {event!r}")
        self._workers[event.worker] = _Worker(event)

    def _lose(self, event: WorkerGone) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            self.faults.append(f"a worker is gone that was not there: {event!r}")
            return
        self._gone.add(event.worker)
        for attempt in sorted(worker.held):
            if attempt in self._cancelled:
                self._end(attempt, ProbeOutcome(Outcome.CANCELLED, worker=event.worker, ended=event.at))
            elif attempt in worker.running:
                lost = ProbeOutcome(Outcome.LOST, text=event.reason, worker=event.worker, ended=event.at)
                self._end(attempt, lost)
            else:
                self._queue.append(attempt)

    def _finish(self, event: Finished) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or event.attempt not in worker.held:
            self.faults.append(
                f"worker {event.worker} ended attempt {event.attempt}, which it does not have: {event!r}"
            )
            return
        worker.held.remove(event.attempt)
        worker.running.discard(event.attempt)
        kind = Outcome(event.outcome)
        try:
            found = opened(event.value)
        except Exception as unreadable:  # noqa: BLE001 - what a user's unpickling raises is the outcome
            kind, found = Outcome.FAILED, unreadable
        failed = kind is not Outcome.COMPLETED
        error = found if failed and isinstance(found, BaseException) else None
        value = None if failed else found
        text = event.error or (str(error) if error else "")
        times = event.started, event.ended
        self._end(event.attempt, ProbeOutcome(kind, value, error, text, event.worker, *times, event.value))

    def _take_back(self, event: Recalled) -> None:
        worker = self._workers.get(event.worker)
        for attempt in event.attempts:
            if worker is None or attempt not in worker.held:
                self.faults.append(f"worker {event.worker} gave back attempt {attempt}, which it does not have")
                continue
            if attempt in worker.running:
                self.faults.append(f"worker {event.worker} gave back attempt {attempt}, which it had started")
            worker.held.remove(attempt)
            self._recalled.append(attempt)
            if attempt in self._cancelled:
                self._end(attempt, ProbeOutcome(Outcome.CANCELLED, worker=event.worker, ended=event.at))
            else:
                self._queue.append(attempt)

    def _end(self, attempt: int, outcome: ProbeOutcome) -> None:
        self._terminals.setdefault(attempt, []).append(outcome)
        self._changed.notify_all()
