"""The handle of a run through the public face: cancelled, awaited, followed, explained, interrupted and let go of."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, Run, RunStatus
from dagrid.errors import InvalidSettingError, TaskCancelledError, UnknownNodeError
from dagrid.interrupts import HeldInterrupts
from dagrid.opening import known_backends
from tests.execution.held_task import Held
from tests.places import ENGINES

PATIENCE = 10.0


def fail() -> None:
    raise LookupError("not here")


def test_cancel_while_something_runs() -> None:
    """The run ends at once, though the thread cannot be stopped; the rest never starts."""
    held = Held()
    ran: list[int] = []
    run = DAG([Node("held", held), Node("after", lambda: ran.append(1), ["held"])]).start()
    assert held.reached.wait(PATIENCE)
    assert run.explain("after") == "'after' waits for 'held' (running)."
    with pytest.raises(TimeoutError, match="goes on"):
        run.wait(0)
    run.cancel("not wanted any more")
    result = run.wait(PATIENCE)
    held.release.set()
    assert result.status is RunStatus.ABORTED
    assert result.node_results["held"].status is NodeStatus.CANCELLED
    assert result.node_results["after"].attempts == 0
    assert ran == []
    with pytest.raises(TaskCancelledError, match="not wanted any more"):
        result["held"]


def test_cancel_before_anything_runs_and_after_all_has() -> None:
    """Before: nothing is called. After: what was a success stays one."""
    ran: list[int] = []
    run = DAG([Node("a", lambda: ran.append(1))]).start(backend="inline")
    run.cancel()
    assert run.wait().status is RunStatus.ABORTED
    assert ran == []
    run = DAG([Node("a", int)]).start()
    assert run.wait().ok
    run.cancel()
    assert run.result().ok


def test_a_run_can_be_awaited(backend: str) -> None:
    """Waiting does not block the event loop: the task is let go by code that runs in it."""
    held = Held()

    async def main() -> Any:
        run = DAG([Node("held", held)]).start(backend=backend)
        waiting = asyncio.ensure_future(_waited(run))
        while not held.reached.is_set():
            await asyncio.sleep(0)
        held.release.set()
        return await waiting

    assert asyncio.run(main())["held"] == "done"


async def _waited(run: Any) -> Any:
    return await run


def test_events_come_in_order_and_each_node_ends_once(backend: str) -> None:
    """The stream is what every reader lives on: numbered without gaps, started before ended, one end for each node."""
    dag = DAG([Node("a", int), Node("bad", fail, retries=1), Node("b", int, ["a"]), Node("c", int, ["bad"]), Node("d")])
    run = dag.start(backend=backend)
    run.wait()
    events = list(run.events())
    assert [event.sequence for event in events] == list(range(len(events)))
    assert events[-1].kind == "run_ended"
    ends = {"completed", "failed", "skipped", "timed_out", "cancelled", "lost"}
    ended = [event.node for event in events if event.kind in ends]
    assert sorted(ended) == ["a", "b", "bad", "c", "d"]
    story = [event.kind for event in events if event.node == "bad"]
    assert [kind for kind in story if kind != "freed"] == ["started", "retry", "started", "failed"]
    place = {(event.kind, event.node): event.sequence for event in events}
    assert place["completed", "a"] < place["started", "b"] < place["completed", "b"]
    assert list(run.events(follow=False)) == events


def test_events_can_be_followed_and_left() -> None:
    """A reader that follows sees what happens while it does; one that has left costs the run nothing."""
    held = Held()
    run = DAG([Node("held", held), Node("after", int, ["held"])]).start()
    kinds = []
    for event in run.events():
        if event.kind == "started" and event.node == "held":
            held.release.set()
        kinds.append((event.kind, event.node))
    assert ("completed", "after") in kinds
    leaving = run.events()
    next(leaving)
    del leaving
    assert run._engine._watchers == []


@pytest.mark.parametrize("look", [lambda run: list(run.events()), lambda run: run.result()])
def test_who_has_seen_the_end_of_a_run_needs_not_wait_for_it(look: Callable[[Run], object]) -> None:
    """The processes of a backend that is named end then too: a program that reads events would soon have a thousand of them."""
    run = DAG([Node("process", os.getpid)]).start(backend="multiprocessing?max_workers=1")
    run._engine.done.wait(PATIENCE)
    look(run)
    with pytest.raises(ProcessLookupError):
        os.kill(run.node_result("process").result, 0)
    assert run.wait().ok


def test_events_are_counted_from_the_first() -> None:
    """There are none before it, and -1 does not mean the last one."""
    run = DAG([Node("a", int)]).start(backend="inline")
    run.wait()
    assert [event.sequence for event in run.events(since=2)] == [2, 3]
    with pytest.raises(InvalidSettingError, match="counted from 0; not -1"):
        list(run.events(since=-1))


def test_explain_and_status_of_a_run() -> None:
    """Questions about a node are answered by name, and a wrong name with a suggestion."""
    run = DAG([Node("first", int)]).start(backend="inline")
    assert run.status("first") is NodeStatus.READY
    run.wait()
    assert run.status("first") is NodeStatus.COMPLETED
    assert run.explain("first").startswith("'first' completed after")
    with pytest.raises(UnknownNodeError, match="Did you mean 'first'"):
        run.explain("frist")


def test_ten_runs_leave_no_threads() -> None:
    """A service runs graphs for months. The clock's one thread is shared by all runs and stays."""
    dag = DAG([Node(f"n{number}", int, timeout=60.0) for number in range(5)])
    dag.run()
    before = set(threading.enumerate())
    for _ in range(10):
        dag.run()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("settings", [{}, {"keep": "outputs"}, {"node_timeout": 60.0}], ids=str)
def test_a_run_is_let_go_of_without_the_collector(settings: Any) -> None:
    """Values may be large: they go when nobody holds the result any more, not when the collector comes by."""

    class Large:
        pass

    dag = DAG([Node("make", Large)])
    dag.run(backend="inline", **settings)
    gc.collect()
    gc.disable()
    try:
        result = dag.run(backend="inline", **settings)
        value = weakref.ref(result["make"])
        del result
        assert value() is None
    finally:
        gc.enable()


def test_a_ctrl_c_that_comes_too_late_is_raised() -> None:
    """It can cancel nothing any more, and who pressed it wants the program to stop."""
    with HeldInterrupts() as held:
        run = DAG([Node("a", int)]).start(backend="thread")
        run.wait(PATIENCE)
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.wait_or_interrupt(held)


INTERRUPTED = """
import os, signal, sys, tempfile, threading, time
from functools import partial
import dagrid
from dagrid import DAG, Node
def slow(gate):
    open(gate, "w").close()
    for _ in range(3_000):  # in pieces, for Python sleeps on over a signal that comes just as it falls asleep
        threading.Event().wait(0.01)
def interrupt(gate, began):
    open(gate).read()  # until it is closed there, or the next one would find it open
    began.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
with tempfile.TemporaryDirectory() as folder:
    gate, began = os.path.join(folder, "gate"), []
    os.mkfifo(gate)
    threading.Thread(target=interrupt, args=(gate, began), daemon=True).start()
    dag = DAG([Node("slow", partial(slow, gate)), Node("after", int, ["slow"])])
    result = dag.run(backend=sys.argv[1])
    assert time.monotonic() - began[0] < 10  # of the 30 that the task takes
    flow = dagrid.dag(backend=sys.argv[1])(lambda: dagrid.task(slow)(gate))
    for call in (flow, partial(dag.execute, backend=sys.argv[1])):
        threading.Thread(target=interrupt, args=(gate, began), daemon=True).start()
        try:
            call()
        except KeyboardInterrupt:
            continue
        raise SystemExit(f"{call} goes on")
print(result.status, result.node_results["after"].status, result.node_results["after"].reason)
"""


@pytest.mark.parametrize("place", sorted(known_backends().keys() - ENGINES))
def test_ctrl_c_cancels_the_run(place: str) -> None:
    """Within a second, although a task hangs; the result says so, and the program ends without a traceback.

    What returns values and has none raises what any call of Python does: as an error of ours, `except Exception` would catch it.
    """
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, place], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stderr == ""
    assert done.stdout.split(maxsplit=2) == ["aborted", "cancelled", "interrupted by Ctrl-C\n"]
    assert done.returncode == 0
