"""What is found again of a run that was recorded: values, errors, ends, times, and who may ask for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
import dagrid.execution.backends.command
from dagrid import DAG, Node, NodeStatus, Patch, Retry, Rule, RunStatus, SkipTask, View, dag, task
from dagrid.assemble import restart
from dagrid.errors import (
    RuleError,
    RunError,
    StoreError,
    TaskTimeoutError,
    TransferError,
    UnknownRunError,
)
from dagrid.execution.recording import Checkpoint
from dagrid.execution.simulate import VirtualClock
from dagrid.stores import open_artifacts, open_store
from dagrid.stores.memory import MemoryStore
from dagrid.testing.gate import Gate, stand
from tests.execution.checkpointing import (
    PATIENCE,
    ROOT,
    FailingStore,
    in_a_process,
    noting,
    records,
    script,
)
from tests.execution.durable_tasks import Unpicklable, note, noted

# --- values, errors, ends ---------------------------------------------------------------------------------------------------


def fail() -> None:
    raise ValueError("bad \udc80 name")


def skip() -> None:
    raise SkipTask("nothing to do")


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_an_ended_run_gives_its_result_again(tmp_path: Path, backend: str, first_snapshot: int) -> None:
    """Values of every size, errors with their type, what was skipped and why: as they were, also by way of a snapshot."""
    large = bytes(range(256)) * 400
    nodes = [
        Node("none", lambda: None),
        Node("small", lambda: {"a": (1, 2)}),
        Node("large", lambda: large),
        Node("lost", partial(Unpicklable, 1)),
        Node("failed", fail, retries=Retry(1)),
        Node("after", lambda failed: failed, ["failed"]),
        Node("passed", skip),
        *[Node(f"more{n}", partial(int, n)) for n in range(20)],
    ]
    store, artifacts = open_store(tmp_path / "journal.db"), open_artifacts(tmp_path / "values")
    checkpoint = Checkpoint(store, artifacts, first_snapshot)
    result = DAG(nodes).run(checkpoint=checkpoint, run_id="ended", backend=backend)
    assert store.runs()[0].status == "failed"
    again = dagrid.resume(checkpoint, "ended")
    assert (first_snapshot > 1) == (store.latest("ended") is None)
    assert store.runs()[0].epoch == 1, "who only reads takes nothing over"
    assert again["none"] is None
    assert again["small"] == {"a": (1, 2)}
    assert again["large"] == large
    assert [again[f"more{n}"] for n in range(20)] == list(range(20))
    with pytest.raises(TransferError, match="holds a socket"):
        again["lost"]
    with pytest.raises(ValueError, match="bad"):
        again["failed"]
    for name in ("none", "failed", "after", "passed"):
        old, new = result.node_result(name), again.node_result(name)
        assert (new.status, new.attempts, new.worker) == (old.status, old.attempts, old.worker)
        assert new.reason.encode("utf-8", "backslashreplace") == old.reason.encode("utf-8", "backslashreplace")
    assert again.status == result.status
    assert again.total_duration_seconds == pytest.approx(result.total_duration_seconds, abs=0.001)
    with pytest.raises(ValueError, match="bad"):
        again.raise_for_status()
    store.close()


@pytest.mark.parametrize(
    ("tasks", "status"),
    [([int], "succeeded"), ([fail], "failed"), ([int, KeyboardInterrupt], "aborted")],
)
def test_the_store_says_how_a_run_ended(folder: str, tasks: Sequence[Callable[[], Any]], status: str) -> None:
    """Who lists the runs reads no journals. Ctrl-C ends a run, and its record says so."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    nodes = [Node(f"n{n}", interrupt if each is KeyboardInterrupt else each) for n, each in enumerate(tasks)]
    run = DAG(nodes).start(checkpoint=folder, backend="inline")
    result = run.wait(PATIENCE)
    record = records(folder)[run.id]
    assert record.status == result.status == status
    assert record.ended >= record.created > 0
    with pytest.raises(UnknownRunError, match=status):
        dagrid.resume(folder)
    again = dagrid.resume(folder, run.id)
    assert again.status == status


def test_a_failed_rule_is_told_again(folder: str) -> None:
    """The reason for which a run failed is in its record, not only in the process that saw it."""

    def wrong(view: View) -> Patch:
        raise ZeroDivisionError("never")

    run = DAG([Node("a", int)]).start(
        rules=[Rule(lambda view: view.succeeded("a"), wrong, name="wrong")], checkpoint=folder
    )
    with pytest.raises(RuleError):
        run.wait(PATIENCE).raise_for_status()
    with pytest.raises(RuleError, match="ZeroDivisionError: never"):
        dagrid.resume(folder, run.id).raise_for_status()


def test_values_of_processes_are_kept(folder: str) -> None:
    """They arrive pickled and are kept so, large ones and those that nobody here has opened."""
    nodes = [
        Node("small", partial(range, 3)),
        Node("large", partial(bytes, 50_000)),
        Node("length", _length, ["large"]),
    ]
    run = DAG(nodes).start(checkpoint=folder, backend="multiprocessing?max_workers=1")
    result = run.wait(PATIENCE)
    again = dagrid.resume(folder, run.id)
    assert again["small"] == result["small"] == range(3)
    assert again["length"] == result["length"] == 50_000
    assert len(again["large"]) == 50_000


def _length(large: bytes) -> int:
    return len(large)


# --- time -------------------------------------------------------------------------------------------------------------------


def test_a_try_that_waited_for_its_time_still_waits(folder: str) -> None:
    """A service that asked for an hour gets its hour, counted from the failure and not from the restart."""
    tries = folder + ".tries"

    def flaky() -> int:
        with open(tries, "a") as file:
            file.write("x")
        if os.path.getsize(tries) < 2:
            raise OSError("busy")
        return 7

    clock = VirtualClock(100.0)
    store = MemoryStore()
    checkpoint = Checkpoint(store, open_artifacts(folder))
    dag = DAG([Node("flaky", flaky, retries=Retry(1, delay=3600.0, max_delay=3600.0))])
    first = dag.start(checkpoint=checkpoint, run_id="r", backend="inline", clock=clock)
    with pytest.raises(TimeoutError):
        first.wait(0)
    assert first.status("flaky") == "waiting"
    later = VirtualClock(5.0)
    second = restart(checkpoint, "r", backend="inline", clock=later)
    with pytest.raises(TimeoutError):
        second.wait(0)
    assert later.due == pytest.approx(3605.0, abs=5.0), (first.explain("flaky"), later.due)
    assert os.path.getsize(tries) == 1
    later.advance()
    result = second.wait(PATIENCE)
    assert result["flaky"] == 7
    assert result.node_result("flaky").attempts == 2


def test_a_try_waits_no_longer_because_the_time_of_day_was_set_back(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have waited until the clock shows again what it showed, and so at each process that takes the run up."""
    checkpoint = Checkpoint(MemoryStore(), open_artifacts(folder))
    flaky = Node("flaky", partial(_busy, folder + ".tries"), retries=Retry(1, delay=60.0))
    run = DAG([flaky]).start(checkpoint=checkpoint, run_id="r", backend="inline", clock=VirtualClock(100.0))
    with pytest.raises(TimeoutError):
        run.wait(0)
    real = time.time
    second, third = VirtualClock(5.0), VirtualClock(5.0)
    for back, clock in ((7200.0, second), (9000.0, third)):
        monkeypatch.setattr(time, "time", lambda back=back: real() - back)
        run = restart(checkpoint, "r", backend="inline", clock=clock)
        with pytest.raises(TimeoutError):
            run.wait(0)
        assert clock.due is not None
        assert 5.0 < clock.due < 66.0
    third.advance()
    result = run.wait(PATIENCE)
    assert result["flaky"] == 7
    assert 0.0 < result.total_duration_seconds < 3600.0


def _busy(tries: str) -> int:
    note(tries, "x")
    if len(noted(tries)) < 2:
        raise OSError("busy")
    return 7


def test_a_try_whose_time_came_meanwhile_goes_at_once(folder: str) -> None:
    """Nobody was there when it was due."""
    flag = folder + ".flag"

    def flaky() -> int:
        if not os.path.exists(flag):
            Path(flag).touch()
            raise OSError("busy")
        return 7

    store = MemoryStore()
    checkpoint = Checkpoint(store, open_artifacts(folder))
    clock = VirtualClock(0.0)
    dag = DAG([Node("flaky", flaky, retries=Retry(1, delay=1e-6))])
    with pytest.raises(TimeoutError):
        dag.start(checkpoint=checkpoint, run_id="r", backend="inline", clock=clock).wait(0)
    late = VirtualClock()
    assert dagrid.resume(checkpoint, "r", backend="inline", clock=late)["flaky"] == 7
    assert late.due is None


def test_times_before_the_clock_of_a_new_machine_are_times_all_the_same(folder: str) -> None:
    """A machine that was restarted counts from zero, so what happened before has negative times: it ran nevertheless."""
    clock = VirtualClock(1000.0)
    run = DAG([Node("a", int)]).start(checkpoint=folder, backend="inline", clock=clock)
    run.wait(PATIENCE)
    again = restart(folder, run.id, clock=VirtualClock(-5000.0)).wait(PATIENCE)
    assert again.node_result("a").attempts == 1
    assert again.node_result("a").worker == "inline"
    assert again.trace is not None
    assert again.trace.summary().workers == 1


def test_a_timeout_is_recorded(folder: str) -> None:
    """What ended by the clock ends the same when it is read."""
    with Gate() as gate:
        run = DAG([Node("slow", partial(stand, gate.address), timeout=0.05)]).start(checkpoint=folder)
        gate.meet()
        assert run.wait(PATIENCE).timed_out == 1
    again = dagrid.resume(folder, run.id)
    assert again.node_result("slow").status is NodeStatus.TIMED_OUT
    with pytest.raises(TaskTimeoutError):
        again["slow"]


# --- handles, threads, processes ----------------------------------------------------------------------------------------------


def test_a_cancelled_run_is_recorded_as_such(folder: str) -> None:
    """It was wanted, so nothing goes on."""
    with Gate() as gate:
        run = DAG(
            [Node("held", partial(stand, gate.address)), Node("after", partial(note, folder, "after"), ["held"])]
        ).start(checkpoint=folder)
        gate.meet()
        with pytest.raises(TimeoutError):
            run.wait(0.01)
        run.cancel("enough")
        assert run.wait(PATIENCE).status is RunStatus.ABORTED
    again = dagrid.resume(folder, run.id)
    assert again.cancelled == 2
    with pytest.raises(RunError, match="enough"):
        again.raise_for_status()


def test_events_of_a_resumed_run_begin_at_its_beginning(tmp_path: Path, folder: str) -> None:
    """A page that shows a run shows all of it, whoever ran which part."""
    log = str(tmp_path / "log")
    in_a_process(folder, log, "lost", "inline")
    run = restart(folder, backend="inline")
    run.wait(PATIENCE)
    kinds = [(event.kind, event.node, event.attempt) for event in run.events(follow=False) if event.node]
    assert kinds == [
        ("started", "first", 1),
        ("completed", "first", 1),
        ("started", "second", 1),
        ("completed", "second", 1),
        ("started", "dying", 1),
        ("requeued", "dying", 1),
        ("value_lost", "second", 1),
        ("started", "second", 2),
        ("completed", "second", 2),
        ("started", "dying", 2),
        ("completed", "dying", 2),
        ("started", "last", 1),
        ("completed", "last", 1),
    ]
    assert [event.sequence for event in run.events(follow=False)] == list(range(len(list(run.events(follow=False)))))


def test_many_runs_at_once_in_one_folder(folder: str) -> None:
    """Threads share a folder; each run finds its own values and no other's."""
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        nodes = [Node("a", partial(bytes, 5000 + number)), Node("b", _length, inputs={"large": "a"})]
        result = DAG(nodes).run(checkpoint=folder, run_id=f"run{number}", backend="thread?max_workers=2")
        results[number] = result["b"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {number: 5000 + number for number in range(8)}
    assert {record.status for record in records(folder).values()} == {"succeeded"}
    for number in range(8):
        assert len(dagrid.resume(folder, f"run{number}")["a"]) == 5000 + number


MANY = """
import dagrid, sys
from dagrid import DAG, Node
for number in range(5):
    result = DAG([Node("a", lambda: bytes(9000)), Node("b", lambda a: len(a), ["a"])]).run(checkpoint=sys.argv[1])
    assert result["b"] == 9000
"""


def test_many_processes_at_once_in_one_folder(tmp_path: Path, folder: str) -> None:
    """A cron job and a colleague use the same folder."""
    path = tmp_path / "many.py"
    path.write_text(MANY)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen([sys.executable, str(path), folder], env=environment) for _ in range(3)]
    assert [process.wait(50) for process in running] == [0, 0, 0]
    assert len(records(folder)) == 15


INTERRUPTED = """
import os, signal, sys, threading
from dagrid import DAG, Node
def nothing():
    pass
def soon():
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGINT)).start()
nodes = [Node(f"n{n}", nothing if n else soon, [f"n{n-1}"] if n else []) for n in range(10_000)]
result = DAG(nodes).run(checkpoint=sys.argv[1], backend="inline", run_id="r")
print(result.status, result.succeeded, result.cancelled, result.failed)
"""


@pytest.mark.parametrize("after", [0.01, 0.023, 0.05])
def test_ctrl_c_leaves_a_whole_record(tmp_path: Path, folder: str, after: float) -> None:
    """Most of the time of short tasks is spent in writing: an interrupt there must tear nothing apart."""
    ran = script(tmp_path / "many.py", INTERRUPTED, folder, str(after))
    assert ran.returncode == 0, ran.stderr
    status, *told = ran.stdout.split()
    succeeded, cancelled, failed = map(int, told)
    assert status == "aborted"
    again = dagrid.resume(folder, "r")
    assert (again.succeeded, again.cancelled, again.failed) == (succeeded, cancelled, failed)
    assert succeeded + cancelled + failed == 10_000
    assert failed <= 1, "the task in which it came, if it was in none of ours"


@task
def double(x: int) -> int:
    return 2 * x


@dag
def flow(x: int) -> int:
    return double(double(x))


def test_a_flow_takes_a_checkpoint(folder: str) -> None:
    """What `@dag` describes is a graph like any other."""
    run = flow.start(3, checkpoint=folder)
    run.wait(PATIENCE)
    again = dagrid.resume(folder, run.id)
    assert again.ok
    assert 12 in [again[name] for name in again]


def test_a_run_is_resumed_again_and_again(tmp_path: Path, folder: str) -> None:
    """Each owner leaves a record that the next one can go on from, with one failed store after the other."""
    log = str(tmp_path / "log")
    inner = FailingStore(5, StoreError("full"))
    checkpoint = Checkpoint(inner, open_artifacts(folder), first_snapshot=6)
    DAG(noting(log, 20)).run(checkpoint=checkpoint, run_id="r", backend="inline")
    ended = []
    for _ in range(20):
        inner.good = 7
        try:
            result = dagrid.resume(checkpoint, "r", backend="inline")
        except StoreError:
            continue
        ended.append(result.ok)
        if result.ok:
            break
    assert ended[-1]
    ran = Counter(noted(log))
    assert len(ran) == 20
    assert max(ran.values()) <= 3
    assert ran.total() <= 20 + len(ended)


def test_who_writes_for_others_does_not_wait_for_them(folder: str) -> None:
    """Several chains, each on a worker: whoever writes the record takes along what others left, and then its own next node."""
    count, chains = 60, "abcdef"
    nodes = [Node(f"{c}{n}", _seven, [f"{c}{n - 1}"] if n else []) for c in chains for n in range(count)]
    result = DAG(nodes).run(checkpoint=folder, backend="thread?max_workers=6").node_results
    first = min(result[f"{c}{count - 1}"].ended for c in chains)
    reached = [sum(result[f"{c}{n}"].ended <= first for n in range(count)) for c in chains]
    assert min(reached) >= count // 6, reached
    assert max(reached) == count


def _seven() -> int:
    return 7
