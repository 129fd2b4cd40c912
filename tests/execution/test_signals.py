"""A node may wait for somebody: it holds nothing, and whoever has the run gives its value or refuses it, in any later process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, RunStatus, WaitForSignal
from dagrid.assemble import restart, view
from dagrid.errors import CapabilityError, RunError, TaskError, UnknownNodeError
from dagrid.execution.recording import Checkpoint
from dagrid.stores import open_artifacts, open_store
from dagrid.testing.gate import Gate, stand
from tests.execution.durable_tasks import note, noted
from tests.execution.wishing_tasks import ask, ask_async, then

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
BACKENDS = ["inline", "thread?max_workers=1", "multiprocessing?max_workers=1"]


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def graph(log: str) -> DAG:
    """Return a node that asks, one that takes the answer, and one beside them."""
    nodes = [Node("asked", partial(ask, log), priority=1, retries=2), Node("next", partial(then, log), ["asked"])]
    return DAG([*nodes, Node("other", lambda: 1)])


def store_of(folder: str) -> str:
    store = open_store(f"{folder}/journal.db")
    try:
        return store.runs()[0].status
    finally:
        store.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_node_waits_until_it_is_given_its_value(log: str, folder: str, backend: str, recorded: bool) -> None:
    """The one slot is free for the others meanwhile; the task does not run again."""
    run = graph(log).start(backend=backend, checkpoint=folder if recorded else None)
    assert run.settle(PATIENCE) is False
    assert run.status("other") is NodeStatus.COMPLETED
    assert run.waiting == ("asked",)
    prompt, value = run.held("asked")
    assert (prompt, value["attempt"]) == ("May it go on?", 1)
    assert run.explain("asked") == "'asked' waits for a signal (May it go on?)."
    run.signal("asked", {"yes": True})
    assert run.settle(PATIENCE) is True
    result = run.result()
    assert result["next"] == ("then", {"yes": True})
    assert result.ok
    assert noted(log) == ["ask", "then"]
    assert result.node_result("asked").attempts == 1
    assert not run.waiting
    assert result.profile().to_dict()
    assert result.trace is not None
    assert {span.outcome for span in result.trace if span.node == "asked"} == {"held"}
    assert "asked" in result.to_html()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_node_that_is_rejected_has_failed(log: str, backend: str) -> None:
    """For good: no retry asks once more."""
    run = graph(log).start(backend=backend)
    assert run.settle(PATIENCE) is False
    run.reject("asked", "not in this week")
    result = run.wait(PATIENCE)
    assert result.status is RunStatus.FAILED
    with pytest.raises(TaskError, match="'asked' was rejected: not in this week"):
        result["asked"]
    assert result.node_result("next").status is NodeStatus.SKIPPED
    assert noted(log) == ["ask"]


def test_an_async_task_waits_too(log: str) -> None:
    """Wherever it runs."""
    run = DAG([Node("asked", partial(ask_async, log))]).start()
    assert run.settle(PATIENCE) is False
    run.signal("asked", 1)
    assert run.wait(PATIENCE)["asked"] == 1


def test_who_waits_for_the_end_is_woken_by_a_signal_from_another_thread(log: str) -> None:
    """A person answers while the program waits."""
    run = graph(log).start(backend="inline")
    done: list[bool] = []
    waiter = threading.Thread(target=lambda: done.append(run.wait(PATIENCE).ok))
    waiter.start()
    next(event for event in run.events() if event.kind == "held")
    run.signal("asked", 1)
    waiter.join(PATIENCE)
    assert done == [True]


def test_a_run_settles_when_nothing_else_goes_on(log: str) -> None:
    """And not before: a node that runs may change everything."""
    with Gate() as gate:
        nodes = [Node("asked", partial(ask, log)), Node("held", partial(stand, gate.address))]
        run = DAG(nodes).start(backend="thread")
        visit = gate.meet()
        next(event for event in run.events() if event.kind == "held")
        with pytest.raises(TimeoutError):
            run.settle(0.05)
        visit.release()
        assert run.settle(PATIENCE) is False
        run.cancel()
        result = run.wait(PATIENCE)
    assert result.status is RunStatus.ABORTED
    assert result.node_result("asked").status is NodeStatus.CANCELLED


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_a_run_that_was_given_up_is_signalled_elsewhere(log: str, folder: str, first_snapshot: int) -> None:
    """It needs no process while it waits, however long that is."""
    store = open_store(f"{folder}/journal.db")
    checkpoint = Checkpoint(store, open_artifacts(f"{folder}/values"), first_snapshot)
    run = graph(log).start(backend="thread", checkpoint=checkpoint, run_id="run")
    assert run.settle(PATIENCE) is False
    run.detach()
    assert not run.done
    assert store.runs()[0].status == "waiting"
    for attempt in (run.result, run.wait, partial(run.signal, "asked", 1), run.detach):
        with pytest.raises(RunError, match=r"given up in this process. Take it over with dagrid\.assemble\.restart"):
            attempt()
    seen = view(checkpoint, "run")
    assert seen.waiting == ("asked",)
    assert seen.held("asked")[1]["data"] == "x" * 10_000
    with pytest.raises(RunError, match="view"):
        seen.signal("asked", 1)
    later = restart(checkpoint, backend="thread")
    assert store.runs()[0].status == "running"
    assert later.settle(PATIENCE) is False
    assert later.held("asked")[0] == "May it go on?"
    later.signal("asked", "yes")
    assert later.wait(PATIENCE)["next"] == ("then", "yes")
    assert noted(log) == ["ask", "then"]
    assert dagrid.resume(checkpoint, "run")["asked"] == "yes"
    store.close()


DYING = """
import os, signal, sys
from functools import partial
from dagrid import DAG, Node
from tests.execution.wishing_tasks import ask, fatal, then

log, folder, when = sys.argv[1:]
last = Node("next", partial(fatal if when == "after" else then, log), ["asked"])
run = DAG([Node("asked", partial(ask, log)), last]).start(backend="inline", checkpoint=folder, run_id="run")
assert run.settle(20) is False
if when == "before":
    os.kill(os.getpid(), signal.SIGKILL)
run.signal("asked", "yes")
run.wait()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_still_waits_or_has_its_answer(log: str, folder: str, when: str) -> None:
    """Both are in the journal."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", DYING, log, folder, when]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert store_of(folder) == "running"
    run = restart(folder, backend="inline")
    if when == "before":
        assert run.settle(PATIENCE) is False
        run.signal("asked", "yes")
        assert run.wait(PATIENCE)["next"] == ("then", "yes")
    else:
        assert run.wait(PATIENCE)["next"] == "fatal"
    assert noted(log).count("ask") == 1


def look(log: str) -> int:
    """Wait until it has looked three times."""
    note(log, "look")
    if noted(log).count("look") < 3:
        raise WaitForSignal("not yet")
    return 3


def test_a_node_that_waits_may_be_performed_again(log: str, folder: str) -> None:
    """It looks again for what it waits for, also in another process; that is neither a failure nor an answer."""
    dag = DAG([Node("look", partial(look, log)), Node("next", lambda look: look + 1, ["look"])])
    run = dag.start(backend="inline", checkpoint=folder, run_id="run")
    assert run.settle(PATIENCE) is False
    run.again("look")
    assert run.settle(PATIENCE) is False
    run.detach()
    later = restart(folder, backend="inline")
    later.again("look")
    assert later.wait(PATIENCE)["next"] == 4
    with pytest.raises(RunError):
        later.again("look")


def test_signals_that_nobody_waits_for_are_refused(log: str) -> None:
    """A second answer, and one to a node that does something else."""
    run = graph(log).start(backend="inline")
    with pytest.raises(UnknownNodeError, match="Did you mean 'asked'"):
        run.signal("askd")
    assert run.settle(PATIENCE) is False
    with pytest.raises(RunError, match="'other' does not wait for a signal: it is completed"):
        run.signal("other")
    with pytest.raises(RunError, match="no checkpoint"):
        run.detach()
    run.signal("asked", 1)
    with pytest.raises(RunError, match="does not wait"):
        run.reject("asked")
    assert run.wait(PATIENCE).ok
    with pytest.raises(RunError):
        run.held("asked")


def test_a_run_in_which_something_goes_on_is_not_given_up(log: str, folder: str) -> None:
    """Its work would be lost."""
    with Gate() as gate:
        run = DAG([Node("held", partial(stand, gate.address))]).start(checkpoint=folder)
        visit = gate.meet()
        with pytest.raises(RunError, match="Something goes on"):
            run.detach()
        visit.release()
        assert run.wait(PATIENCE).ok
        with pytest.raises(RunError, match="has ended"):
            run.detach()


def test_a_node_of_a_part_cannot_wait(log: str) -> None:
    """Nobody could reach it."""
    result = PartitionedDAGExecutor(DAG([Node("asked", partial(ask, log))]), 1).execute()
    with pytest.raises(CapabilityError, match="cannot wait for a signal"):
        result.raise_for_status()
