"""A host that keeps all that it is told, for tests of worker processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.machine.events import Finished, Outcome, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Encoded

PATIENCE = 20.0


class Recorder:
    """A host that keeps all that it is told and decides nothing."""

    run = name = nonce = ""

    def __init__(self, backend: MultiprocessingBackend) -> None:
        self.changed = threading.Condition()
        self.numbers = 0
        self.events: list[Stimulus] = []
        self.session = backend.open(self)

    def now(self) -> float:
        return time.perf_counter()

    def draw(self) -> float:
        return 0.25

    def new_worker(self) -> int:
        with self.changed:
            self.numbers += 1
            return self.numbers - 1

    def report(self, events: Sequence[Stimulus]) -> None:
        with self.changed:
            self.events += events
            self.changed.notify_all()

    def next(self, worker: int) -> Call | None:
        raise AssertionError("these workers do not pull")

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: object = None
    ) -> Call | None:
        raise AssertionError("these workers do not pull")

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        raise AssertionError("these workers do not pull")

    def wait(self, holds: Callable[[Any], bool], count: int = 1) -> list[Any]:
        """Wait until so many events satisfy a condition and return them."""

        def found() -> list[Stimulus]:
            return [event for event in self.events if holds(event)]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, PATIENCE), self.events
            return found()

    def workers(self, count: int) -> list[int]:
        return [event.worker for event in self.wait(lambda event: isinstance(event, WorkerJoined), count)]

    def started(self, attempt: int) -> None:
        self.wait(lambda event: isinstance(event, Started) and event.attempt == attempt)

    def outcome(self, attempt: int) -> Finished:
        return self.wait(lambda event: isinstance(event, Finished) and event.attempt == attempt)[0]

    def value(self, attempt: int) -> Any:
        event = self.outcome(attempt)
        assert event.outcome == Outcome.COMPLETED, event
        return event.value.decode() if isinstance(event.value, Encoded) else event.value

    def gone(self) -> WorkerGone:
        return self.wait(lambda event: isinstance(event, WorkerGone))[0]

    def perform(self, worker: int, *calls: Call) -> None:
        self.session.perform(Bundle(worker, calls))


def call(attempt: int, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(attempt, f"node-{attempt}", fn, args, kwargs or None)
