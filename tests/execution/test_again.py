"""A run that has ended is taken up again with what did not complete; and any run can be looked at without taking it over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, Retry, RunStatus
from dagrid.assemble import restart, view
from dagrid.errors import InvalidSettingError, RunError, RunTimeoutError, UnknownNodeError, UnknownRunError
from dagrid.execution.recording import Checkpoint
from dagrid.graph.grow import map_over
from dagrid.stores import open_artifacts, open_store
from dagrid.testing.gate import Gate, stand
from tests.execution.again_tasks import dying, element, growing, listed, step
from tests.execution.durable_tasks import noted
from tests.execution.handler_tasks import sleep
from tests.execution.wishing_tasks import ask

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def graph(log: str, fn: Any = step) -> DAG:
    """Return a > b > c, d beside them, and two handlers."""
    edges: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"], "d": []}
    nodes = [Node(name, partial(fn, log, name), before, retries=Retry(1)) for name, before in edges.items()]
    handlers = [Node(f"on_{word}", partial(step, log, f"on_{word}"), handler=word) for word in ("failure", "exit")]
    return DAG([*nodes, *handlers])


def say(log: str, what: str, *names: str) -> None:
    for name in names:
        Path(f"{log}.{what}.{name}").touch()


def take_back(log: str) -> None:
    for path in Path(log).parent.glob("log.*.*"):
        path.unlink()


def status_in_store(folder: str) -> tuple[str, float]:
    store = open_store(f"{folder}/journal.db")
    try:
        return store.runs()[0].status, store.runs()[0].ended
    finally:
        store.close()


def resume_in_a_process_that_dies(folder: str) -> None:
    program = "import sys, dagrid; dagrid.resume(sys.argv[1], 'run', again=True, backend='inline')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", program, folder]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert status_in_store(folder)[0] == "running"


@pytest.mark.parametrize("backend", ["inline", "thread", "multiprocessing?max_workers=2"])
@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_what_did_not_complete_runs_again(log: str, folder: str, backend: str, first_snapshot: int) -> None:
    """And the handlers; the rest is there. Retries count anew, and attempts go on."""
    say(log, "fail", "b")
    store, artifacts = open_store(f"{folder}/journal.db"), open_artifacts(f"{folder}/values")
    checkpoint = Checkpoint(store, artifacts, first_snapshot)
    first = graph(log).run(backend=backend, checkpoint=checkpoint, run_id="run")
    assert first.status is RunStatus.FAILED
    assert Counter(noted(log)) == {"a": 1, "b": 2, "d": 1, "on_failure": 1, "on_exit": 1}
    second = dagrid.resume(checkpoint, "run", backend=backend, again=True)
    assert second.status is RunStatus.FAILED
    assert second.node_result("b").attempts == 4
    take_back(log)
    third = dagrid.resume(checkpoint, "run", backend=backend, again=True)
    assert third.ok
    assert third["c"] == 3
    assert third.node_result("b").attempts == 5
    assert third.node_result("on_failure").status is NodeStatus.SKIPPED
    assert Counter(noted(log)) == {"a": 1, "b": 5, "c": 1, "d": 1, "on_failure": 2, "on_exit": 3}
    assert store.runs()[0].status == "succeeded"
    assert dagrid.resume(checkpoint, "run")["c"] == 3
    store.close()


def test_roots_run_anew_with_all_behind_them(log: str, folder: str) -> None:
    """Although they completed; a function stands for its node."""
    assert graph(log).run(backend="inline", checkpoint=folder, run_id="run").ok
    again = dagrid.resume(folder, again=True, roots=["b"], backend="inline")
    assert again.ok
    assert Counter(noted(log)) == {"a": 1, "b": 2, "c": 2, "d": 1, "on_exit": 2}
    assert again.node_result("c").attempts == 2


def test_a_cancelled_a_skipped_and_a_late_run_are_taken_up(log: str, folder: str) -> None:
    """In any way means in any way; the limit of the run counts from when it was taken up."""
    say(log, "skip", "b")
    assert graph(log).run(backend="inline", checkpoint=folder, run_id="skipped").ok
    take_back(log)
    assert dagrid.resume(folder, "skipped", again=True, backend="inline")["c"] == 3
    nodes = [Node("a", partial(sleep, log)), Node("b", partial(step, log, "b"), ["a"])]
    with pytest.raises(RunTimeoutError):
        DAG(nodes).run(timeout=0.2, checkpoint=folder, run_id="late").raise_for_status()
    late = dagrid.resume(folder, "late", again=True)
    assert late.status is RunStatus.FAILED
    assert late.node_result("a").attempts == 2
    run = DAG(nodes).start(checkpoint=folder, run_id="cancelled")
    next(event for event in run.events() if event.kind == "started")
    run.cancel()
    assert run.wait(PATIENCE).status is RunStatus.ABORTED
    run = restart(folder, "cancelled", again=True)
    next(event for event in run.events() if event.kind == "started" and event.attempt == 2)
    assert status_in_store(folder) == ("running", 0.0)
    run.cancel()
    assert run.wait(PATIENCE).status is RunStatus.ABORTED


def test_what_is_no_part_of_a_run_stays_that(log: str, folder: str) -> None:
    """Also what was given."""
    first = graph(log).run(backend="inline", checkpoint=folder, targets=["c"], given={"a": 10})
    assert first["c"] == 12
    again = dagrid.resume(folder, again=True, roots=["a", "b"], backend="inline")
    assert again["c"] == 12
    assert Counter(noted(log)) == {"b": 2, "c": 2, "on_exit": 2}
    assert again.node_result("d").reason == "not needed for the targets"


def test_a_root_that_was_left_out_of_the_run_is_refused(log: str, folder: str) -> None:
    """Nothing would run, and nobody would hear why; the way that the message shows runs it."""
    dag = DAG([Node("a", partial(step, log, "a")), Node("look", partial(step, log, "look"), ["a"], debug=True)])
    first = dag.run(backend="inline", checkpoint=folder)
    with pytest.raises(
        InvalidSettingError, match=r"'look', .*without \(a debug node\).*from_run=result, targets=\['look'\]"
    ):
        dagrid.resume(folder, again=True, roots=["look"], backend="inline")
    assert status_in_store(folder)[0] == "succeeded"
    assert dag.run(backend="inline", from_run=first, targets=["look"]).node_result("look").attempts == 1
    assert Counter(noted(log)) == {"a": 1, "look": 1}


def test_what_the_graph_grew_by_does_not_run_anew(log: str, folder: str) -> None:
    """What was appended because of a value would stay as it was when the value changes, and the run would say nothing of it."""
    node = Node("growing", partial(growing, log), ["source"])
    each = map_over("source", Node("each", partial(element, log)))
    graph = DAG([Node("source", partial(listed, log)), node])
    assert graph.run(backend="inline", checkpoint=folder, rules=[each]).ok
    before = Counter(noted(log))
    for root in ("growing", "source"):
        with pytest.raises(
            InvalidSettingError, match=r"'(growing|source)' cannot run anew .* dag.run\(from_run=result"
        ):
            dagrid.resume(folder, again=True, roots=[root], backend="inline")
    assert Counter(noted(log)) == before
    assert status_in_store(folder)[0] == "succeeded"
    again = dagrid.resume(folder, again=True, roots=["each[0]"], backend="inline")
    assert again.node_result("each[0]").attempts == 2
    assert Counter(noted(log)) - before == {"element": 1}


def test_a_handler_of_a_success_is_done_once_though_the_process_dies_in_the_next(log: str, folder: str) -> None:
    """Nothing runs again by which the run could end otherwise, so what was done for its success stays done."""
    nodes = [
        Node("a", partial(step, log, "a")),
        Node("on_success", partial(step, log, "on_success"), handler="success"),
        Node("on_exit", partial(dying, log, "on_exit"), handler="exit"),
    ]
    say(log, "fail", "a")
    assert not DAG(nodes).run(backend="inline", checkpoint=folder, run_id="run").ok
    take_back(log)
    say(log, "die", "on_exit")
    resume_in_a_process_that_dies(folder)
    done = Counter(noted(log))
    assert (done["a"], done["on_success"]) == (2, 1)
    assert dagrid.resume(folder, "run", backend="inline", again=True).ok
    assert Counter(noted(log)) - done == {"on_exit": 1}


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_run_that_dies_when_it_was_taken_up_goes_on(log: str, folder: str, name: str) -> None:
    """It is a run like others then: what had completed the second time does not run a third time."""
    say(log, "fail", "b")
    assert not graph(log, dying).run(backend="inline", checkpoint=folder, run_id="run").ok
    take_back(log)
    say(log, "die", name)
    resume_in_a_process_that_dies(folder)
    result = dagrid.resume(folder, "run", backend="inline")
    assert result.ok
    ran_by = Counter(noted(log))
    assert ran_by["a"] == 1
    assert ran_by["b"] == (5 if name == "b" else 3)
    assert ran_by["on_exit"] == 2


def test_what_cannot_be_taken_up_is_said(log: str, folder: str) -> None:
    """A misspelt root must not start anything."""
    with pytest.raises(UnknownRunError, match="has no run"):
        dagrid.resume(folder, again=True)
    assert graph(log).run(backend="inline", checkpoint=folder).ok
    with pytest.raises(UnknownNodeError, match="Did you mean 'on_exit'"):
        dagrid.resume(folder, again=True, roots=["on_exits"])
    with pytest.raises(InvalidSettingError, match="again=True"):
        dagrid.resume(folder, roots=["a"])
    for one in ("a", step):
        with pytest.raises(InvalidSettingError, match=r"write roots=\["):
            dagrid.resume(folder, again=True, roots=one)
    assert Counter(noted(log))["a"] == 1
    assert status_in_store(folder)[0] == "succeeded"


# --- views ------------------------------------------------------------------------------------------------------------------


def test_a_run_under_way_is_looked_at_without_taking_it_over(log: str, folder: str) -> None:
    """Somebody in another process wants to know how it stands; whoever has the run does not notice."""
    with Gate() as gate:
        nodes = [
            Node("done", partial(step, log, "done")),
            Node("held", partial(stand, gate.address), ["done"]),
            Node("next", partial(step, log, "next"), ["held"]),
        ]
        run = DAG(nodes).start(checkpoint=folder, run_id="run", backend="thread")
        visit = gate.meet()
        seen = view(folder, "run")
        assert not seen.done
        assert seen.counts() == run.counts()
        assert seen.status("held") is NodeStatus.RUNNING
        assert seen.running() == ["held"]
        assert seen.node_result("done").value == 1
        assert seen.node_result("held").error is None
        assert seen.explain("next") == "'next' waits for 'held' (running)."
        assert [event.kind for event in seen.events()][-1] == "started"
        for attempt in (seen.wait, seen.cancel, seen.result):
            with pytest.raises(RunError):
                attempt()
        seen.close()
        visit.release()
        assert run.wait(PATIENCE).ok
    ended = view(folder)
    assert ended.done
    assert ended.result()["next"] == 1
    ended.close()
    assert status_in_store(folder)[0] == "succeeded"


def test_a_view_of_a_run_that_failed_has_its_errors(log: str, folder: str) -> None:
    """And of one that was kept in a snapshot."""
    say(log, "fail", "b")
    checkpoint = Checkpoint(open_store(f"{folder}/journal.db"), open_artifacts(f"{folder}/values"), 1)
    graph(log).run(backend="inline", checkpoint=checkpoint, run_id="run")
    seen = view(checkpoint, "run")
    with pytest.raises(ValueError, match="b on purpose"):
        seen.result().raise_for_status()
    assert seen.node_result("c").status is NodeStatus.SKIPPED
    checkpoint.store.close()


def test_a_handler_that_waits_for_somebody_is_asked_anew(log: str, folder: str) -> None:
    """What runs again may end otherwise, so the handlers wait for the new end, and nobody's old answer counts."""
    nodes = [Node("a", partial(step, log, "a")), Node("on_exit", partial(ask, log), handler="exit")]
    run = DAG(nodes).start(checkpoint=folder, run_id="mine", backend="inline")
    assert run.settle(PATIENCE) is False
    run.detach()
    again = restart(folder, "mine", again=True, roots=["a"], backend="inline")
    assert not again.waiting
    assert again.settle(PATIENCE) is False
    assert again.waiting == ("on_exit",)
    again.signal("on_exit", "yes")
    result = again.wait(PATIENCE)
    assert (result["on_exit"], result.status) == ("yes", RunStatus.SUCCEEDED)
    assert Counter(noted(log))["a"] == 2


@pytest.mark.parametrize("on_lost", ["requeue", "fail"])
def test_a_person_may_have_a_run_go_on_however_often_its_process_has_ended(folder: str, on_lost: Any) -> None:
    """What was under way is neither taken for poison nor left out: that guards against what goes on by itself."""
    with Gate() as gate:
        held = DAG([Node("held", partial(stand, gate.address), on_lost=on_lost)])
        runs = [held.start(checkpoint=folder, run_id="run", backend="thread")]
        visits = [gate.meet()]
        for _ in range(4):
            runs.append(restart(folder, "run", again=True, backend="thread"))
            visits.append(gate.meet())
        for visit in visits:
            visit.release()
        results = [run.wait(PATIENCE) for run in runs]
    assert (results[-1].status, results[-1].node_result("held").attempts) == ("succeeded", 5)
