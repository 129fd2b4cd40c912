"""Nodes with a place of their own, beside any backend: async tasks in an event loop, and tasks in the caller's thread."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, Patch, Rule, SkipTask, current, dag, task
from dagrid.errors import InvalidNodeError, TaskError, TaskTimeoutError, TransferError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.simulate import simulate
from tests.execution.place_tasks import count, process_and_thread, unreadable, whole

PATIENCE = 20
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(scope="module")
def processes():
    with MultiprocessingBackend(2) as backend:
        yield backend


@pytest.fixture(params=["inline", "thread", "multiprocessing"])
def backend(request, processes):
    return processes if request.param == "multiprocessing" else request.param


@pytest.fixture(autouse=True)
def no_loop_is_left():
    """Whatever a test does, its loops are gone afterwards."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("dagrid-event", "asyncio"))]


async def one():
    await asyncio.sleep(0)
    return 1


async def never():
    await asyncio.Event().wait()


def here():
    return threading.get_ident()


class Meeting:
    """An asynchronous barrier: all who come wait until as many as are expected are there."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.there = 0
        self.most = 0
        self.all_here = asyncio.Event()

    async def come(self) -> None:
        self.there += 1
        if self.there == self.expected:
            self.all_here.set()
        await self.all_here.wait()

    async def pass_by(self) -> None:
        """Come and go, and let whoever may run beside it do so."""
        self.there += 1
        self.most = max(self.most, self.there)
        for _ in range(20):
            await asyncio.sleep(0)
        self.there -= 1


# --- async tasks ------------------------------------------------------------------------------------------------------------


def test_values_flow_between_async_and_plain_tasks(backend):
    """What comes from a process is opened before it comes to the loop, and what the loop makes travels to processes."""

    async def words(whole, *, again):
        await asyncio.sleep(0)
        return [*whole["words"], *again["words"]]

    async def last(count):
        return count[0]

    nodes = [
        Node("whole", whole),
        Node("words", words, ["whole"], inputs={"again": "whole"}),
        Node("count", count, ["words"]),
        Node("last", last, ["count"]),
        Node("alone", one),
    ]
    result = DAG(nodes).run(backend=backend).raise_for_status()
    assert (result["words"], result["last"], result["alone"]) == (["a", "b", "a", "b"], 4, 1)
    assert (result["count"][1] == os.getpid()) is isinstance(backend, str)


def test_tasks_of_a_flow_may_be_async(backend):
    """With arguments that have to be filled, values that are unpacked, and a nested container."""

    @task
    async def double(value):
        await asyncio.sleep(0)
        return 2 * value

    @task(unpack_to=2)
    async def both(pair) -> Any:
        return pair["left"], pair["right"][0]

    @dag(backend=backend)
    def flow():
        handles: Any = both({"left": double(1), "right": [double(2)]})
        left, right = handles
        return left + right

    assert flow() == 6
    assert asyncio.run(double(4)) == 8, "elsewhere it is the coroutine function that it was"


def test_an_async_value_of_the_wrong_length_is_told():
    """`unpack_to` is checked on the value, not on the coroutine."""

    @task(unpack_to=3)
    async def pair():
        return 1, 2

    @dag
    def flow():
        handles: Any = pair()
        first, *_ = handles
        return first

    with pytest.raises(ValueError, match="returned 2 items"):
        flow()


def test_hundreds_of_async_tasks_wait_at_once(backend):
    """They wait for each other, so none would end if they did not run together; one thread does it."""
    meeting = Meeting(700)

    async def come():
        await meeting.come()
        return threading.get_ident()

    result = DAG([Node(f"n{number}", come) for number in range(700)]).run(backend=backend).raise_for_status()
    assert len({result[name] for name in result}) == 1


@pytest.mark.parametrize("limit", ["max_concurrency", "resources"])
def test_limits_hold_for_async_tasks(limit):
    """Three at once, not two and not four."""
    meeting = Meeting(0)
    asked = {"line": 1.0} if limit == "resources" else None
    nodes = [Node(f"n{number}", meeting.pass_by, resources=asked) for number in range(30)]
    settings: Any = {"max_concurrency": 3} if limit == "max_concurrency" else {"resources": {"line": 3.0}}
    DAG(nodes).run(**settings).raise_for_status()
    assert meeting.most == 3


def test_more_tasks_than_the_loop_has_room_for():
    """The machine sends as many as there are slots, and the others after them."""
    result = DAG([Node(f"n{number}", one) for number in range(2500)]).run()
    assert result.succeeded == 2500


def test_a_timeout_stops_an_async_task(backend):
    """Its blocks `finally` run, and its slot is free for the next one."""
    stopped = threading.Event()

    async def slow():
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    result = DAG([Node("slow", slow, timeout=0.05), Node("other", one)]).run(backend=backend, max_concurrency=1)
    assert stopped.wait(PATIENCE)
    assert result.node_results["slow"].status is NodeStatus.TIMED_OUT
    with pytest.raises(TaskTimeoutError):
        result["slow"]
    assert result["other"] == 1


def test_async_tasks_are_tried_again():
    """At once, after a delay, and after a timeout; each try knows its number."""
    tries = []

    async def third_time_lucky():
        tries.append(current().number)
        await asyncio.sleep(0)
        if len(tries) < 3:
            raise OSError("not yet")
        return "done"

    result = DAG([Node("lucky", third_time_lucky, retries=2)]).run()
    assert (result["lucky"], tries) == ("done", [1, 2, 3])


def test_cancelling_the_run_cancels_the_tasks():
    """When the wait is over, they are, too."""
    begun = threading.Semaphore(0)
    ended = []

    async def slow():
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    run = DAG([Node(f"n{number}", slow) for number in range(5)]).start()
    for _ in range(5):
        assert begun.acquire(timeout=PATIENCE)
    run.cancel()
    assert run.wait(PATIENCE).cancelled == 5
    assert len(ended) == 5


def test_failures_skips_and_a_task_that_cancels_itself():
    """An async task ends in all the ways in which any task does."""

    async def fail():
        await asyncio.sleep(0)
        raise LookupError("lost")

    async def skip():
        raise SkipTask("nothing to do")

    async def confused():
        raise asyncio.CancelledError

    nodes = [Node("fail", fail), Node("after", one, ["fail"]), Node("skip", skip), Node("confused", confused)]
    result = DAG([*nodes, Node("fine", one)]).run()
    assert (result.failed, result.skipped, result.succeeded) == (2, 2, 1)
    with pytest.raises(LookupError, match="lost"):
        result["fail"]
    with pytest.raises(TaskError, match="nobody had cancelled"):
        result["confused"]


def test_a_condition_on_an_async_node(backend):
    """It is looked at before the coroutine is made."""
    nodes = [
        Node("whole", whole),
        Node("yes", one, ["whole"], when="whole"),
        Node("no", one, ["empty"], when="empty"),
        Node("empty", list),
    ]
    result = DAG(nodes).run(backend=backend)
    assert result["yes"] == 1
    assert result.node_results["no"].status is NodeStatus.SKIPPED


def test_an_async_task_grows_the_graph(backend):
    """By async nodes, by plain ones, and by one for the caller's thread."""

    async def spread():
        await asyncio.sleep(0)
        current().grow(Node("late", one), Node("plain", whole, ["late"]), Node("mine", here, ["plain"], place="caller"))
        return current().node

    result = DAG([Node("spread", spread)]).run(backend=backend).raise_for_status()
    assert (result["spread"], result["late"], result["mine"]) == ("spread", 1, threading.get_ident())


@pytest.mark.parametrize("by", ["rule", "task"])
def test_nodes_with_a_place_come_late(backend, by):
    """The place is opened then, with the context of the caller, and whoever waits is called upon."""
    mine = threading.get_ident()

    async def read():
        return variable.get(), threading.get_ident()

    def read_plain():
        return variable.get(), threading.get_ident()

    nodes = [Node("loop", read), Node("mine", read_plain, place="caller"), Node("end", whole, ["mine"])]
    variable.set("the caller's")
    try:
        if by == "rule":
            rule = Rule(lambda view: view.succeeded("whole"), lambda view: Patch(nodes))
            result = DAG([Node("whole", whole)]).run(rules=[rule], backend=backend)
        else:
            if not isinstance(backend, str):
                nodes = [Node("mine", here, place="caller")]  # what a process appends is pickled
                result = DAG([Node("grow", partial(append, nodes))]).run(backend=backend).raise_for_status()
                assert result["mine"] == mine
                return
            result = DAG([Node("grow", partial(append, nodes))]).run(backend=backend)
        result.raise_for_status()
        assert result["mine"] == ("the caller's", mine)
        assert result["loop"][0] == "the caller's"
        assert result["loop"][1] != mine
    finally:
        variable.set("unset")


def append(nodes):
    current().grow(*nodes)


def test_contexts_are_the_callers_and_each_task_has_its_own():
    """What one task sets, no other sees; subtasks know the node."""

    async def change(name):
        seen = variable.get()
        variable.set(name)
        await asyncio.sleep(0)

        async def sub():
            return current().node

        return seen, variable.get(), await asyncio.create_task(sub())

    def start():
        variable.set("outside")
        return DAG([Node(name, partial(change, name)) for name in "abc"]).run()

    result = contextvars.copy_context().run(start)
    assert [result[name] for name in "abc"] == [("outside", name, name) for name in "abc"]


# --- inside of the user's own loop --------------------------------------------------------------------------------------------


def test_awaiting_a_run_does_not_block_the_loop():
    """The task of our loop is let go by code of the caller's loop, which therefore runs meanwhile."""
    inside: list[Any] = []

    async def held():
        go = asyncio.Event()
        inside.append((asyncio.get_running_loop(), go))
        await go.wait()
        return "done"

    flow = dag(task(held))

    async def main(start):
        inside.clear()
        waiting = asyncio.ensure_future(awaited(start()))
        while not inside:
            await asyncio.sleep(0)
        loop, go = inside[0]
        assert loop is not asyncio.get_running_loop()
        loop.call_soon_threadsafe(go.set)
        return await waiting

    assert asyncio.run(main(DAG([Node("held", held)]).start))["held"] == "done"
    assert asyncio.run(main(flow.start))["held"] == "done"


async def awaited(run):
    return await run


def test_a_flow_called_inside_of_a_running_loop():
    """It blocks, as calls do, and works: our loop is another one."""
    flow = dag(task(one))

    async def main():
        return flow()

    assert asyncio.run(main()) == 1


def test_a_run_inside_of_an_async_task():
    """A task may run a graph with async tasks of its own: each run has its own loop."""

    async def outer():
        return (await DAG([Node("inner", one)]).start())["inner"] + DAG([Node("inner", one)]).run()["inner"]

    assert DAG([Node("outer", outer)]).run()["outer"] == 2


# --- the caller's thread ------------------------------------------------------------------------------------------------------


def test_nodes_of_the_caller_run_in_the_thread_that_waits(backend):
    """The others run where the backend says, and values go to and fro."""

    def mine(there):
        return there, threading.get_ident()

    nodes = [
        Node("there", process_and_thread),
        Node("mine", mine, ["there"], place="caller"),
        Node("words", lambda: ["a", "b", "c"], ["mine"], place="caller"),
        Node("count", count, ["words"]),
    ]
    result = DAG(nodes).run(backend=backend).raise_for_status()
    assert result["mine"][1] == threading.get_ident()
    if backend == "thread":
        assert result["there"][1] != threading.get_ident()
    assert (result["there"][0] == os.getpid()) is isinstance(backend, str)
    assert result["count"][0] == 3


@pytest.mark.parametrize("place", ["caller", "here"])
def test_an_async_task_has_no_other_place(place):
    """In a thread it would be called, and a coroutine that nobody awaits would be the value."""
    asynchronous = task(place=place)(one)
    ran: list[int] = []
    for graph, tasks in (
        (dag(lambda: [asynchronous()]).build(), {}),
        (DAG([Node("one", partial(one), place=place), Node("other", partial(ran.append, 1))]), {}),
        (DAG([Node("one", place=place)]), {"one": one}),
    ):
        with pytest.raises(InvalidNodeError, match=r"'one' is async.*Remove its place"):
            graph.run(tasks, backend="inline")
    assert ran == []


def test_waiting_in_bits_lends_the_thread_each_time():
    """A wait that gives up has lent the thread meanwhile, and the next one does again."""
    go = threading.Event()
    nodes = [
        Node("first", here, place="caller"),
        Node("held", lambda: go.wait(PATIENCE), ["first"]),
        Node("second", here, ["held"], place="caller"),
    ]
    run = DAG(nodes).start()
    while run.counts()["completed"] < 1:
        with pytest.raises(TimeoutError):
            run.wait(0.01)
    go.set()
    result = run.wait(PATIENCE).raise_for_status()
    assert result["first"] == result["second"] == threading.get_ident()


def test_a_node_of_the_caller_waits_until_somebody_waits():
    """And says so; the rest of the graph does not wait for it."""
    run = DAG([Node("mine", here, place="caller"), Node("other", whole), Node("async", one)]).start()
    reader = threading.Thread(target=lambda: list(run_until(run, completed=2)))
    reader.start()
    reader.join(PATIENCE)
    assert run.status("mine") is NodeStatus.READY
    assert "the thread that waits for the run" in run.explain("mine")
    assert run.wait(PATIENCE)["mine"] == threading.get_ident()


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_who_starts_a_run_and_reads_its_events_waits_for_it(backend):
    """It would else wait for ever, for what runs only when it waits."""
    run = DAG([Node("mine", here, place="caller"), Node("next", whole, ["mine"])]).start(backend=backend)
    completed = [event.node for event in run.events() if event.kind == "completed"]
    assert completed == ["mine", "next"]
    assert run.wait(PATIENCE)["mine"] == threading.get_ident()


def run_until(run, completed):
    """Yield the events of a run until so many nodes have completed."""
    seen = 0
    for event in run.events():
        yield event
        seen += event.kind == "completed"
        if seen == completed:
            return


def test_an_awaited_run_has_a_thread_for_its_caller():
    """Not the loop's own thread, which must not be blocked."""

    async def main():
        return (await DAG([Node("mine", here, place="caller")]).start())["mine"], threading.get_ident()

    mine, loops = asyncio.run(main())
    assert mine != loops


def test_the_caller_runs_one_at_a_time_and_many_may_wait():
    """Several threads wait for one run: each node runs in one of them, all get the result, and none is stuck."""
    nodes = [Node(f"n{number}", here, place="caller") for number in range(50)]
    run = DAG([*nodes, Node("last", one, [f"n{number}" for number in range(50)])]).start()
    results: list[Any] = []
    waiting = [threading.Thread(target=lambda: results.append(run.wait(PATIENCE))) for _ in range(4)]
    threads = set()
    for thread in waiting:
        thread.start()
        threads.add(thread.ident)
    for thread in waiting:
        thread.join(PATIENCE)
    assert len(results) == 4
    assert {results[0][f"n{number}"] for number in range(50)} <= threads


def test_a_value_that_cannot_be_rebuilt_fails_the_node_and_not_the_wait(processes):
    """In the caller's thread as in the loop, an argument from a process may turn out to be unreadable."""

    async def asynchronous(value):
        return value

    nodes = [
        Node("value", unreadable),
        Node("mine", lambda value: value, ["value"], place="caller"),
        Node("loop", asynchronous, ["value"]),
    ]
    run = DAG(nodes).start(backend=processes)
    result = run.wait(PATIENCE)
    assert result.failed == 2
    for name in ("mine", "loop"):
        assert isinstance(result.node_results[name].error, TransferError)


def test_many_runs_at_once_from_several_threads():
    """Each has its own loop and its own caller."""
    wrong: list[Any] = []

    def work(number):
        async def give():
            await asyncio.sleep(0)
            return number

        nodes = [Node("a", give), Node("b", lambda a: (a, here()), ["a"], place="caller"), Node("c", give, ["b"])]
        for _ in range(5):
            result = DAG(nodes).run()
            if (result["b"], result["c"]) != ((number, here()), number):
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_ctrl_c_cancels_async_tasks_and_the_rest():
    """It comes to the thread that waits, as always; the loop's thread is told."""
    ended = threading.Event()

    async def slow():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    result = DAG([Node("slow", slow)]).run()
    assert result.cancelled == 1
    assert ended.is_set()


def test_a_node_that_waits_for_room_in_the_loop_says_so():
    """The reason is the loop, not the threads, of which there are enough."""
    gate: list[Any] = []
    begun = threading.Semaphore(0)

    async def held():
        if not gate:
            gate.append((asyncio.get_running_loop(), asyncio.Event()))
        begun.release()
        await gate[0][1].wait()

    run = DAG([Node(f"n{number}", held) for number in range(1001)]).start()
    for _ in range(1000):
        assert begun.acquire(timeout=PATIENCE)
    waiting = [name for name in run.names if run.status(name) is NodeStatus.READY]
    assert "a free slot of the event loop" in run.explain(waiting[0])
    loop, event = gate[0]
    loop.call_soon_threadsafe(event.set)
    assert run.wait(PATIENCE).succeeded == 1001


def test_a_wait_for_a_task_that_does_not_end_is_over_in_time():
    """The node of the caller ran in it, the async one goes on until it is cancelled."""
    run = DAG([Node("never", never), Node("mine", here, place="caller")]).start()
    before = time.perf_counter()
    with pytest.raises(TimeoutError):
        run.wait(0.05)
    assert time.perf_counter() - before < PATIENCE
    assert run.status("mine") is NodeStatus.COMPLETED
    run.cancel()
    assert run.wait(PATIENCE).cancelled == 1


@pytest.mark.parametrize("call", [False, True])
def test_places_stand_in_virtual_time_too(call):
    """In a simulation the loop has room for many, the caller is one, and both take the time that they are said to take."""

    async def asynchronous():
        return "async"

    def mine(a0):
        return a0, threading.get_ident()

    nodes = [
        *(Node(f"a{number}", asynchronous, cost=3.0) for number in range(4)),
        *(Node(f"m{number}", mine, ["a0"], place="caller", cost=2.0) for number in range(2)),
        Node("end", one, ["m0", "m1"], cost=5.0),
    ]
    result = simulate(DAG(nodes), workers=1, call=call)
    if call:
        assert (result["m0"], result["end"]) == (("async", threading.get_ident()), 1)
    # With no task called none is async, and the one worker has them all, but for those of the caller.
    assert result.total_duration_seconds == (12.0 if call else 17.0)
