"""Sequences that wait for what happens elsewhere: what comes of it, when it comes too late or twice, and how it is called off."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, current
from dagrid.commands import Await, Command, Launch
from dagrid.errors import BackendClosedError, TaskError, TaskTimeoutError
from dagrid.execution.backends.command import CommandBackend
from tests.backends.command_tasks import PATIENCE, nothing_is_left, run  # noqa: F401  # a fixture


class Elsewhere:
    """Something that is begun, and that the test ends as it likes."""

    def __init__(self):
        self.begun: Future = Future()
        self.cancelled = threading.Event()

    def begin(self, notify):
        self.begun.set_result(notify)
        return self.cancelled.set

    def sequence(self, seen=None):
        try:
            return (yield Await(self.begin))
        finally:
            if seen is not None:
                seen.append(self.cancelled.is_set())

    def start(self, seen=None, **settings):
        """Start a run of one node that waits for this, and return it with what notifies it."""
        started = DAG([Node("node", Command(lambda: self.sequence(seen)), **settings)]).start(progress=False)
        return started, self.begun.result(PATIENCE)


def test_the_value_that_comes_is_sent():
    """From any thread, or at once; None is a value too. It is the attempt that runs meanwhile, and not another thread."""
    pool = ThreadPoolExecutor(2)

    def later(notify):
        pool.submit(notify, "later")

    def at_once(notify):
        notify(current().node)

    @Command
    def sequence():
        return (yield Await(later)), (yield Await(at_once)), (yield Await(lambda notify: notify()))

    with pool:
        assert run(sequence).result == ("later", "node", None)


def test_an_error_that_comes_is_raised_in_the_sequence():
    """Which may catch it; what is no exception is refused with one, for the sequence waits for an answer."""
    seen = []

    @Command
    def sequence():
        wrong: tuple = (LookupError("gone"), "gone")
        for error in wrong:
            try:
                yield Await(lambda notify: notify(error=error))  # noqa: B023  # it is begun at once
            except (LookupError, TaskError) as caught:
                seen.append(caught)
        yield Await(lambda notify: notify(error=OSError("at last")))

    assert isinstance(run(sequence).error, OSError)
    assert type(seen[0]) is LookupError
    assert "notify(error=exception)" in str(seen[1])


def test_what_cannot_be_begun_is_raised_in_the_sequence():
    """What its beginning raises, or that nobody could cancel it."""

    def broken(notify):
        raise OSError("no line")

    @Command
    def sequence():
        try:
            yield Await(broken)
        except OSError:
            yield Await(lambda notify: "not a function")  # type: ignore[arg-type,return-value]

    found = run(sequence)
    assert type(found.error) is TaskError
    assert "returns a function that cancels it" in str(found.error)


def test_only_the_first_notice_counts():
    """Two in one breath, or one that comes when the sequence waits for something else: that gets its own."""
    kept = []

    def twice(notify):
        kept.append(notify)
        notify("first")
        notify("second")
        notify(error=OSError("third"))

    def again(notify):
        kept[0]("once more")
        notify("its own")

    @Command
    def sequence():
        return (yield Await(twice)), (yield Await(again))

    assert run(sequence).result == ("first", "its own")
    kept[0]("when all is over")


def test_what_is_cancelled_is_called_off_and_then_the_sequence_closed():
    """In this order; who still notifies is not heard, also when the run is over."""
    seen: list[bool] = []
    waits = Elsewhere()
    started, notify = waits.start(seen)
    started.cancel()
    notify_late = threading.Thread(target=notify, args=("late",))
    notify_late.start()
    result = started.wait(PATIENCE)
    notify_late.join()
    notify("much later")
    assert result.cancelled + result.succeeded == 1  # one of them was first
    assert seen == [bool(result.cancelled)]


def test_a_notice_after_the_cancel_is_not_heard():
    """Here for certain: what cancels it notifies, as many libraries do."""
    seen = []
    called = threading.Event()

    def begin(notify):
        called.set()
        return lambda: notify(error=OSError("was cancelled"))

    @Command
    def sequence():
        try:
            yield Await(begin)
        except BaseException as error:
            seen.append(type(error))
            raise

    started = DAG([Node("node", sequence)]).start(progress=False)
    assert called.wait(PATIENCE)
    started.cancel()
    assert started.wait(PATIENCE).cancelled == 1
    assert seen == [GeneratorExit]


def test_what_takes_its_time_to_leave_is_waited_for():
    """What is called off and has not gone yet is not over: the node ends with it, and nothing behind it begins before."""
    seen: list[str] = []
    notices: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def begin(notify):
        notices.put(notify)
        return lambda: notices.put("called off")

    @Command
    def sequence():
        try:
            yield Await(begin, parting=True)
        finally:
            seen.append("closed")

    nodes = [Node("node", sequence), Node("bye", lambda: seen.append("bye"), handler="exit")]
    started = DAG(nodes).start(progress=False)
    notify = notices.get(timeout=PATIENCE)
    started.cancel("enough")
    assert notices.get(timeout=PATIENCE) == "called off"
    assert "was told to stop" in started.explain("node")
    assert not seen
    notify("gone")
    result = started.wait(PATIENCE)
    assert (result.cancelled, seen) == (1, ["closed", "bye"])


def test_a_backend_that_closes_waits_for_nobody_who_takes_his_time():
    """Its run is over, and whoever was called off may never say that he has gone."""
    called = threading.Event()

    def begin(notify):
        called.set()
        return lambda: None

    @Command
    def sequence():
        yield Await(begin, parting=True)

    with CommandBackend(1) as backend:
        future = backend.submit(sequence)
        assert called.wait(PATIENCE)
        backend.close(wait=False)
    with pytest.raises(BackendClosedError):
        future.result(0)


def test_a_wait_may_be_late():
    """The time counts from where it began; and what calls it off may fail."""
    waits = Elsewhere()

    def broken():
        waits.cancelled.set()
        raise OSError("nobody there")

    @Command
    def sequence():
        yield Await(lambda notify: broken)

    nodes = [Node("late", sequence, timeout=0.01), Node("also", Command(lambda: Elsewhere().sequence()), timeout=0.01)]
    result = DAG(nodes).run(progress=False)
    assert result.timed_out == 2
    assert isinstance(result.node_results["late"].error, TaskTimeoutError)
    assert waits.cancelled.is_set()


def test_a_backend_that_closes_calls_off_what_is_waited_for():
    """And nobody is kept by a notice that never comes."""
    waits = Elsewhere()
    seen: list[bool] = []
    with CommandBackend(1) as backend:
        future = backend.submit(Command(lambda: waits.sequence(seen)))
        notify = waits.begun.result(PATIENCE)
        backend.close(wait=False)
    with pytest.raises(BackendClosedError):
        future.result(0)
    assert seen == [True]
    notify("late")


def test_who_waits_holds_no_process():
    """With one process for all, what is waited for is done by the process of another."""

    def begin(notify):
        meeting.append(notify)

    @Command
    def waits():
        return (yield Await(begin))

    @Command
    def works():
        end = yield Launch(["echo", "done"], capture=9)
        meeting[0](end.text)

    meeting: list = []
    with CommandBackend(2, processes=1) as backend:
        first = backend.submit(waits)
        backend.submit(works).result(PATIENCE)
        assert first.result(PATIENCE) == "done"


def test_many_waits_at_once():
    """Each is told its own, from several threads."""
    with ThreadPoolExecutor(4) as pool, CommandBackend(1000) as backend:

        def later(value, notify):
            pool.submit(notify, value)

        def sequence(number):
            total = 0
            for at in range(5):
                total += yield Await(partial(later, number * at))
            return total

        nodes = [Node(f"n{number}", Command(lambda number=number: sequence(number))) for number in range(400)]
        result = DAG(nodes).run(places={"command": backend}, progress=False).raise_for_status()
    assert [result[f"n{number}"] for number in range(400)] == [10 * number for number in range(400)]


def test_who_keeps_a_notice_keeps_nothing_of_the_run():
    """A library may hold on to what it was given for as long as it likes, also when it never notifies."""

    class Value:
        pass

    kept = []

    def begin(notify):
        kept.append(notify)

    @Command
    def sequence(value):
        yield Await(begin)

    value = Value()
    alive = weakref.ref(value)
    nodes = [Node("node", sequence, ["value"], timeout=0.01), Node("value")]
    assert DAG(nodes).run(given={"value": value}, progress=False).timed_out == 1
    del value
    gc.collect()
    assert alive() is None
    kept[0](2)
