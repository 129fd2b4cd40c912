"""The suite is itself tried: a right backend passes, and each wrong one fails at the test that is about its fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dagrid.attempt import Extra
from dagrid.errors import BackendClosedError, NoCurrentTaskError
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host
from dagrid.testing import BackendConformance, EngineConformance, Probe
from dagrid.testing.conformance import most_at_once


class Worker:
    """A thread that pulls its work."""

    def __init__(self, session: Threads, slots: int = 1) -> None:
        self.session = session
        self.host = session.host
        self.number = self.host.new_worker()
        self.bell = threading.Semaphore(0)
        self.current = -1
        self.left = False
        self.host.report(
            [WorkerJoined(self.number, f"thread-{self.number}", self.host.now(), slots, slots, pulls=True)]
        )
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while not self.left:
            self.bell.acquire()
            call = None if self.left else self.host.next(self.number)
            while call is not None:
                call = self.perform(call)

    def perform(self, call: Call) -> Call | None:
        with self.session.lock:
            self.current = call.attempt
        began = self.host.now()
        value: Any = None
        error: BaseException | None = None
        if self.session.refuses:
            return self.host.failed(self.number, call, BackendClosedError(), began, began)
        try:
            value = call.fn(*call.args, **(call.kwargs or {}))
        except self.session.caught as found:
            error = found
        with self.session.lock:
            self.current = -1
            left = self.left
        if left and self.session.talkative:
            self.host.report([Finished(self.number, call.attempt, Outcome.COMPLETED, began, self.host.now(), value)])
        if left:
            return None
        if error is not None:
            return self.host.failed(self.number, call, error, began, self.host.now())
        return self.host.completed(self.number, call, value, began, self.host.now())


class Threads:
    """A small backend of threads, right unless a subclass makes it wrong; each use of it has threads of its own."""

    name = "threads"
    capabilities = Capabilities(shares_memory=True)
    caught: type[BaseException] = BaseException
    talkative = refuses = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.lock = threading.Lock()
        self.workers: dict[int, Worker] = {}

    def open(self, host: Host) -> Any:
        self.host = host
        for _ in range(self.slots):
            self.join()
        return Use(self)

    def join(self) -> None:
        worker = Worker(self)
        self.workers[worker.number] = worker

    def stop(self) -> None:
        with self.lock:
            for worker in self.workers.values():
                worker.left = True
                worker.bell.release()

    def close(self, wait: bool = True) -> None:
        self.refuses = True
        for worker in self.workers.values():
            if wait and worker.left:
                worker.thread.join()

    def wake(self, worker: int) -> None:
        self.workers[worker].bell.release()

    def perform(self, bundle: Bundle) -> None: ...

    def recall(self, worker: int, attempts: Sequence[int]) -> None: ...

    def attend(self) -> None: ...

    def cancel(self, worker: int, attempt: int) -> None:
        with self.lock:
            found = self.workers[worker]
            if found.current != attempt or found.left:
                return
            found.left = True
        self.host.report([WorkerGone(worker, self.host.now(), "cancelled")])
        self.join()


class Use:
    """The session: the backend but for its end."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self.threads, name)

    def close(self) -> None:
        self.threads.stop()


class EndsTwice(Threads):
    def open(self, host: Host) -> Any:
        host.completed = self.twice(host, host.completed)  # type: ignore[method-assign]
        return super().open(host)

    def twice(self, host: Host, completed: Callable[..., Any]) -> Callable[..., Any]:
        def report(
            worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
        ) -> Call | None:
            host.report([Finished(worker, call.attempt, Outcome.COMPLETED, started, ended, value)])
            return completed(worker, call, value, started, ended)

        return report


class LeavesItsRunsWaiting(Threads):
    def close(self, wait: bool = True) -> None:
        self.stop()


class GoesOnWithItsRuns(Threads):
    def close(self, wait: bool = True) -> None: ...


class TalksOn(Threads):
    talkative = True


class DiesOfExit(Threads):
    caught = Exception


class IsDeaf(Threads):
    def cancel(self, worker: int, attempt: int) -> None: ...


class HasOneThreadTooMany(Threads):
    def __init__(self, slots: int) -> None:
        super().__init__(slots + 1)


class GivesBackWhatRuns(Threads):
    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self.host.report([Recalled(worker, attempts, self.host.now())])


class Oversleeps(Threads):
    def wake(self, worker: int) -> None: ...


class TriesToOpenValues(Threads):
    def open(self, host: Host) -> Any:
        completed = host.completed

        def report(
            worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
        ) -> Call | None:
            found = value.decode() if hasattr(value, "decode") else value
            return completed(worker, call, found, started, ended)

        host.completed = report  # type: ignore[method-assign]
        return super().open(host)


class ClaimsReferences(Threads):
    capabilities = Capabilities(shares_memory=True, passes_references=True)


class TestRight(BackendConformance):
    """The small backend itself, but for what needs the public methods and several uses at once."""

    patience = 5.0
    isolates_contexts = False
    test_the_four_methods = test_a_result_is_waited_for_only_so_long = test_a_closed_backend_refuses = None  # type: ignore[assignment]
    test_two_hosts_at_once = None  # type: ignore[assignment]
    test_surroundings_are_carried = None  # type: ignore[assignment]

    def make_backend(self, slots: int) -> Any:
        return Threads(slots)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (EndsTwice, "test_a_value_returns"),
        (EndsTwice, "test_a_burst"),
        (TalksOn, "test_cancel_while_it_runs"),
        (TalksOn, "test_nothing_is_reported_after_close"),
        (DiesOfExit, "test_a_task_cannot_end_its_worker_by_exiting"),
        (IsDeaf, "test_cancel_while_it_runs"),
        (HasOneThreadTooMany, "test_as_many_as_slots_at_once_and_no_more"),
        (GivesBackWhatRuns, "test_recall_gives_back_only_what_has_not_started"),
        (Oversleeps, "test_a_value_returns"),
        (LeavesItsRunsWaiting, "test_closing_under_a_run"),
        (GoesOnWithItsRuns, "test_closing_under_a_run"),
        (TriesToOpenValues, "test_values_that_resemble_encoded_ones_are_left_alone"),
        (ClaimsReferences, "test_a_value_goes_on_as_it_was_reported"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_is_found(wrong: type[Threads], test: str) -> None:
    """A suite that passes everybody proves nothing."""

    class Suite(BackendConformance):
        patience = 0.3

        def make_backend(self, slots: int) -> Any:
            return wrong(slots)

    def often() -> None:
        for _ in range(10):  # on a busy machine a thread too many may come too late to be seen
            getattr(Suite(), test)()

    with pytest.raises(AssertionError):
        often()


def test_a_task_that_leaves_something_in_vain_is_found() -> None:
    """Nobody would miss it until a graph does not grow; and who says that it cannot be left must not claim success."""

    class Suite(EngineConformance):
        patience = 5.0

        def make_backend(self, slots: int) -> Any:
            return Threads(slots)

    with pytest.raises(NoCurrentTaskError):
        Suite().test_a_task_grows_its_graph()
    Suite.leaves = False
    Suite().test_a_task_grows_its_graph()


@pytest.mark.parametrize(
    ("spans", "most"),
    [([], 0), ([(0.0, 1.0), (1.0, 2.0)], 1), ([(0.0, 3.0), (1.0, 2.0), (1.5, 4.0)], 3)],
)
def test_overlap_is_counted(spans: list[tuple[float, float]], most: int) -> None:
    """The measure behind the limit of slots: what ends when another begins does not overlap it."""
    assert most_at_once(spans) == most


class Silent:
    """A backend that does nothing by itself: the test speaks for it."""

    name = "silent"
    capabilities = Capabilities()

    def open(self, host: Host) -> Any:
        self.performed: list[Bundle] = []
        return self

    def close(self, wait: bool = True) -> None: ...
    def attend(self) -> None: ...
    def wake(self, worker: int) -> None: ...

    def perform(self, bundle: Bundle) -> None:
        self.performed.append(bundle)


def test_the_probe_respects_the_window_and_hands_out_again() -> None:
    """What a vanished worker had not started goes to the next one; what it had started is lost."""
    backend: Any = Silent()
    with Probe(backend, patience=5.0) as probe:
        one = probe.new_worker()
        probe.report([WorkerJoined(one, "one", probe.now(), slots=1, window=2)])
        first, second, third = (probe.submit(len, "word") for _ in range(3))
        probe.wait_handed_out(second)
        probe.report([Started(one, first, probe.now())])
        assert probe.held(one) == (first, second)
        assert probe.worker_of(third) == -1
        probe.report([WorkerGone(one, probe.now())])
        assert probe.outcome(first).kind is Outcome.LOST
        two = probe.new_worker()
        probe.report([WorkerJoined(two, "two", probe.now(), slots=1, window=2)])
        probe.wait_handed_out(third)
        assert probe.held(two) == (second, third)
        now = probe.now()
        probe.report([Finished(two, attempt, Outcome.COMPLETED, now, now, 4) for attempt in (second, third)])
        assert [probe.value(attempt) for attempt in (second, third)] == [4, 4]
    probe.check()


def test_the_probe_says_what_it_waited_for() -> None:
    """A suite that only hangs helps nobody."""
    backend: Any = Silent()
    with Probe(backend, patience=0.05) as probe, pytest.raises(AssertionError, match="attempt 0 to end"):
        probe.outcome(probe.submit(len, "word"))
