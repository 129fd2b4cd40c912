"""The event loop as a backend: the shipped suite, and what only a loop can do wrong."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dagrid import DAG, Node
from dagrid.errors import BackendClosedError, InvalidSettingError, TaskError
from dagrid.execution.backends import event_loop
from dagrid.execution.backends.event_loop import EventLoopBackend
from dagrid.machine.events import Outcome
from dagrid.ports import Backend, Bundle, Call, Host, Session
from dagrid.testing import BackendConformance
from dagrid.testing.gate import stand
from dagrid.testing.probe import Probe


async def wait_at_gate(address: tuple[str, int], label: str = "") -> str:
    """Be the task of a gate without blocking, and leave the gate when cancelled."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(label.encode() + b"\n")
        await writer.drain()
        if not await reader.read(1):
            raise ConnectionError("the gate closed")
    finally:
        writer.close()
    return label


def made_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the asynchronous twin of a task of the suite."""
    if fn is stand:
        return wait_at_gate
    if getattr(fn, "__name__", "") == "_stand_timed":

        async def timed(*args: Any) -> tuple[float, float]:
            entered = time.perf_counter()
            await wait_at_gate(*args)
            return entered, time.perf_counter()

        return timed

    async def twin(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    return twin


class Asynchronous:
    """A session whose tasks are all made asynchronous."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def perform(self, bundle: Bundle) -> None:
        calls = [Call(call.attempt, call.node, made_async(call.fn), call.args, call.kwargs) for call in bundle.calls]
        self._session.perform(Bundle(bundle.worker, calls))


class AsynchronousTasks(EventLoopBackend):
    def open(self, host: Host) -> Any:
        return Asynchronous(super().open(host))


class TestAsynchronousTasks(BackendConformance):
    """With tasks that await, everything holds: as many at once as there are slots, and cancelled ones really stop."""

    def make_backend(self, slots: int) -> Backend:
        return AsynchronousTasks(slots)

    def test_a_killed_worker_costs_only_what_it_ran(self) -> None:
        """There is no process to kill but our own: one that is stopped costs its neighbours nothing."""
        with self.serving(2) as probe, self.gate() as gate:
            neighbour, stopped = (probe.submit(stand, gate.address, label) for label in ("neighbour", "stopped"))
            visits = {visit.label: visit for visit in (gate.meet(), gate.meet())}
            probe.cancel(stopped)
            visits["stopped"].wait_gone()
            assert probe.outcome(stopped).kind is Outcome.CANCELLED
            visits["neighbour"].release()
            assert probe.value(neighbour) == "neighbour"


@pytest.fixture
def probe():
    with EventLoopBackend() as backend, Probe(backend) as probe:
        yield probe
    probe.check()


def test_a_subtask_that_exits_fails_its_task_and_not_the_loop(probe):
    """asyncio lets SystemExit of any task end its loop; other tasks must not notice."""
    begun = threading.Event()

    async def leave() -> None:
        raise SystemExit("away")

    async def parent() -> None:
        await asyncio.create_task(leave())

    async def neighbour(go: asyncio.Event) -> str:
        begun.set()
        await go.wait()
        return "neighbour"

    async def let_go(go: asyncio.Event) -> None:
        go.set()

    go = asyncio.Event()
    held = probe.submit(neighbour, go)
    assert begun.wait(10)
    assert type(probe.outcome(probe.submit(parent)).error) is SystemExit
    probe.value(probe.submit(let_go, go))
    assert probe.value(held) == "neighbour"


def test_what_can_be_awaited_is_awaited_and_a_plain_value_is_a_value(probe):
    """Wrappers return the coroutine; an object of the user's may be awaitable as well."""

    class Later:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "later"

    async def coroutine(value):
        return value

    async def future():
        made = asyncio.get_running_loop().create_future()
        made.set_result("inside")
        return made

    assert probe.value(probe.submit(functools.partial(coroutine, 1))) == 1
    assert probe.value(probe.submit(lambda: coroutine(2))) == 2
    assert probe.value(probe.submit(Later)) == "later"
    assert probe.value(probe.submit(lambda: 3)) == 3
    assert asyncio.isfuture(probe.value(probe.submit(future))), "what the coroutine returns is its value"


def test_a_task_that_swallows_its_cancellation_ends_with_its_value(probe):
    """Cancelling is asking; the outcome is what the task made of it, and it is reported once."""
    begun = threading.Event()

    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "all the same"

    attempt = probe.submit(stubborn)
    assert begun.wait(10)
    probe.cancel(attempt)
    assert probe.value(attempt) == "all the same"


def test_a_task_that_raises_cancelled_error_by_itself_fails(probe):
    """It neither hangs nor cancels whoever reads its value."""

    async def confused() -> None:
        raise asyncio.CancelledError

    outcome = probe.outcome(probe.submit(confused))
    assert outcome.kind is Outcome.FAILED
    assert isinstance(outcome.error, TaskError)
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)


def test_what_has_not_begun_is_given_back_or_cancelled_without_being_called():
    """While one task blocks the loop the others wait behind it: these can be had back."""
    called: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(10)

    with EventLoopBackend() as backend, Probe(backend) as probe:
        blocking = probe.submit(block)
        assert begun.wait(10)
        cancelled, recalled = probe.submit(called.append, 1), probe.submit(called.append, 2)
        for attempt in (cancelled, recalled):
            probe.wait_handed_out(attempt)
        probe.cancel(cancelled)
        probe.recall(blocking, recalled)
        go.set()
        probe.value(recalled)
        assert probe.outcome(cancelled).kind is Outcome.CANCELLED
        assert probe.recalled() == (recalled,)
        assert called == [2]
    probe.check()


def test_closing_cancels_tasks_and_closes_generators_and_threads():
    """The blocks `finally` of all that hangs on the loop have run when close returns, and the thread is gone."""
    begun = threading.Event()
    ended = []

    async def numbers():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("child")

    async def task() -> None:
        kept.append(numbers())
        await anext(kept[0])
        kept.append(asyncio.create_task(child()))
        try:
            await asyncio.to_thread(begun.set)
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    kept: list[Any] = []
    backend = EventLoopBackend()
    probe = Probe(backend)
    probe.submit(task)
    assert begun.wait(10)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "dagrid-event-loop"]
    backend.close()
    assert not thread.is_alive()
    assert sorted(ended) == ["child", "generator", "task"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
    probe.close()
    probe.check()
    kept.clear()
    gc.collect()  # a loop that was not closed would warn here


def test_a_backend_that_was_never_used_starts_no_thread():
    """Opening costs nothing."""
    before = threading.active_count()
    with EventLoopBackend() as backend:
        session = backend.open(Probe(EventLoopBackend()))
        assert threading.active_count() - before <= 2, "the two of the probe"
        session.close()


def test_a_thousand_short_calls_are_reported_in_few_batches(probe):
    """A report takes the engine's lock and a turn of its own: a thousand tasks must not cost a thousand of them."""
    reports = []
    report = probe.report

    def count(events):
        reports.append(len(events))
        report(events)

    async def nothing() -> None: ...

    probe.report = count
    probe.session.perform(Bundle(0, [Call(10_000 + number, f"n{number}", nothing) for number in range(1000)]))
    probe.value(probe.submit(nothing))
    assert sum(reports) == 1001, "the start of a call that ends in the same turn is not worth a word"
    assert len(reports) <= 4
    probe.faults.clear()  # the thousand were not the probe's own
    probe._terminals.clear()


def test_settings_and_the_four_methods():
    """As any backend: a clear refusal, futures, and refusal once closed."""
    with pytest.raises(InvalidSettingError, match="max_tasks"):
        EventLoopBackend(0)

    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    with EventLoopBackend(max_tasks=3) as backend:
        futures = [backend.submit(double, number) for number in range(10)]
        assert [backend.result(future, 10) for future in futures] == list(range(0, 20, 2))
    with pytest.raises(BackendClosedError):
        backend.submit(double, 1)


def test_a_task_that_will_not_be_cancelled_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It catches what ends it, as a bare `except BaseException` does; the run goes on without it."""
    monkeypatch.setattr(event_loop, "PATIENCE", 0.05)
    release = threading.Event()

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await asyncio.to_thread(release.wait)
            except asyncio.CancelledError:
                continue
        return "too late"

    dag = DAG([Node("stubborn", stubborn, timeout=0.05), Node("cleans_up", release.set, handler="exit")])
    run = dag.start(backend="thread")
    result = run.wait(10.0)
    assert result.node_results["stubborn"].status == "timed_out"
    assert result.node_results["cleans_up"].status == "completed"
