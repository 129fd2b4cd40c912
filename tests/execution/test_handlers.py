"""Handlers run when all else has ended, those of the outcome and then those for the exit, whatever happened before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, Patch, Rule, RunStatus, task
from dagrid.errors import CapabilityError, InvalidNodeError, InvalidPatchError, InvalidSettingError, RunTimeoutError
from dagrid.graph.arguments import Arguments, Ref
from dagrid.graph.node import HandlerOf
from dagrid.testing.gate import Gate
from tests.execution.durable_tasks import noted
from tests.execution.handler_tasks import (
    broken,
    by_name,
    fail,
    grow,
    handle,
    look,
    outcome_first,
    outcome_last,
    skip,
    sleep,
    wait,
    work,
)

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
BACKENDS = ["inline", "thread", "multiprocessing?max_workers=1"]
WORDS: list[HandlerOf] = ["exit", "cancel", "failure", "success"]


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def handlers(log: str) -> list[Node]:
    """Return a handler for each outcome, the exit first."""
    return [Node(word, partial(handle, log, word), handler=word) for word in WORDS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_that_is_a_handler_gets_the_outcome_from_the_run(backend: str) -> None:
    """What calls it in a description has no outcome to give; what else it asks for is checked as ever."""
    first, last, named = (task(name=fn.__name__, handler="exit")(fn) for fn in (outcome_first, outcome_last, by_name))
    settled: Any = task(handler="success")(outcome_first)

    def flow() -> Any:
        first(value=1)
        last(2)
        named()
        named(outcome="mine")
        settled("mine", 3)

    made = dagrid.dag(flow)
    result = made.run(backend=backend).raise_for_status()
    assert result["outcome_first"] == ("succeeded", 1)
    assert result["outcome_last"] == (2, "succeeded")
    assert (result["by_name"], result["by_name_2"]) == ("succeeded", "mine")
    assert result["outcome_first_2"] == ("mine", 3)
    for call in (first, lambda: last(other=1), lambda: last(1, 2, 3)):
        with pytest.raises(TypeError, match="outcome_"):
            dagrid.dag(call).build()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fn", "settings", "word", "told"),
    [
        (work, {}, "success", ("succeeded", (), "")),
        (skip, {}, "success", ("succeeded", (), "")),
        (fail, {"continue_on": ["failure"]}, "success", ("partially_succeeded", ("node",), "'node' failed: ")),
        (fail, {"continue_on": ["success"]}, "success", ("succeeded", (), "")),
        (fail, {}, "failure", ("failed", ("node",), "'node' failed: ")),
    ],
)
def test_the_handlers_of_the_outcome_run_and_then_those_of_the_exit(
    backend: str, log: str, fn: Any, settings: Any, word: str, told: tuple[str, tuple[str, ...], str]
) -> None:
    """Each is told how the run ended; the others are skipped, and say why."""
    result = DAG([*handlers(log), Node("node", partial(fn, log), **settings)]).run(backend=backend)
    reason = told[2] and f"{told[2]}ValueError: on purpose"
    assert result[word] == result["exit"] == (*told[:2], reason)
    assert noted(log)[-2:] == [word, "exit"]
    assert result.status == told[0]
    for other in {"success", "failure", "cancel"} - {word}:
        assert result.node_result(other).status is NodeStatus.SKIPPED
        assert result.node_result(other).reason.startswith("the run ")


@pytest.mark.parametrize("backend", ["thread?max_workers=1", "multiprocessing?max_workers=1"])
def test_a_cancelled_run_is_cleaned_up(backend: str, log: str) -> None:
    """That is what they are for; and the run is aborted all the same."""
    run = DAG([*handlers(log), Node("node", partial(sleep, log)), Node("next", int, ["node"])]).start(backend=backend)
    next(event for event in run.events() if event.kind == "started")
    run.cancel("enough")
    result = run.wait(PATIENCE)
    assert result["cancel"] == result["exit"] == ("aborted", (), "enough")
    assert result.status is RunStatus.ABORTED
    assert result.node_result("next").status is NodeStatus.CANCELLED


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_is_cancelled_before_it_begins_runs_its_handlers_only(backend: str, log: str) -> None:
    """However quick the backend is, no other node starts."""
    result = DAG([*handlers(log), Node("node", partial(work, log))]).run(backend=backend, cancelled="not today")
    assert noted(log) == ["cancel", "exit"]
    assert result["exit"] == ("aborted", (), "not today")
    assert result.node_result("node").attempts == 0


@pytest.mark.parametrize("backend", ["thread?max_workers=1", "multiprocessing?max_workers=1"])
def test_a_second_cancel_stops_the_handlers(backend: str, log: str) -> None:
    """A handler that hangs must not keep a person for ever."""
    hanging = Node("hangs", partial(sleep, log), handler="cancel")
    run = DAG([hanging, *handlers(log), Node("node", partial(sleep, log))]).start(backend=backend)
    started = (event.node for event in run.events() if event.kind == "started")
    assert next(started) == "node"
    run.cancel()
    while next(started) != "hangs":
        pass
    run.cancel()
    result = run.wait(PATIENCE)
    assert result.status is RunStatus.ABORTED
    assert result.node_result("hangs").status is NodeStatus.CANCELLED
    assert result.node_result("exit").status is NodeStatus.CANCELLED


@pytest.mark.parametrize("backend", ["thread", "multiprocessing?max_workers=2"])
def test_a_run_that_takes_too_long_has_failed(backend: str, log: str) -> None:
    """Its nodes are cancelled, and the handlers of a failure run."""
    nodes = [*handlers(log), Node("node", partial(sleep, log)), Node("next", int, ["node"])]
    result = DAG(nodes).run(backend=backend, timeout=0.3)
    assert result.status is RunStatus.FAILED
    assert result["failure"] == result["exit"] == ("failed", (), "timeout of 0.3 s")
    assert result.node_result("node").status is NodeStatus.CANCELLED
    with pytest.raises(RunTimeoutError, match=r"timeout of 0\.3 s"):
        result.raise_for_status()


def test_a_run_without_handlers_times_out_too(log: str) -> None:
    """And one that is quicker does not."""
    assert DAG([Node("node", partial(sleep, log))]).run(timeout=0.05).status is RunStatus.FAILED
    assert DAG([Node("node", partial(work, log))]).run(timeout=30).ok
    with pytest.raises(InvalidSettingError, match="timeout"):
        DAG([Node("node", int)]).run(timeout=0)


@pytest.mark.parametrize("word", ["success", "exit"])
def test_a_handler_that_fails_makes_a_successful_run_failed(log: str, word: HandlerOf) -> None:
    """What was to be done at the end is part of the work; the other handlers run all the same."""
    nodes = [Node("node", partial(work, log)), Node("bad", partial(broken, log, "bad"), handler=word), *handlers(log)]
    result = DAG(nodes).run(backend="inline", on_failure="stop")
    assert result.status is RunStatus.FAILED
    assert result["success"] == result["exit"] == ("succeeded", (), "")
    with pytest.raises(KeyError, match="bad"):
        result.raise_for_status()


def test_a_failed_run_stays_failed_and_a_cancel_of_its_handlers_changes_nothing(log: str) -> None:
    """The outcome is what it was before they began."""
    with Gate() as gate:
        nodes = [Node("node", partial(fail, log)), Node("held", partial(wait, log, gate.address), handler="failure")]
        run = DAG(nodes).start(backend="thread")
        visit = gate.meet()
        assert run.explain("held").startswith("'held' has been running")
        run.cancel()
        visit.release()
        assert run.wait(PATIENCE).status is RunStatus.FAILED


def test_a_first_cancel_spares_the_handlers_of_the_exit(log: str) -> None:
    """They are for this, also when the cancel comes while other handlers run; the run is then aborted."""
    nodes = [Node("node", partial(work, log)), Node("hangs", partial(sleep, log), handler="success"), *handlers(log)]
    run = DAG(nodes).start(backend="thread?max_workers=1")
    started = (event.node for event in run.events() if event.kind == "started")
    while next(started) != "hangs":
        pass
    run.cancel()
    result = run.wait(PATIENCE)
    assert result.status is RunStatus.ABORTED
    assert result.node_result("hangs").status is NodeStatus.CANCELLED
    assert result["exit"] == ("succeeded", (), "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_handlers_read_values(backend: str, log: str) -> None:
    """By parameter or by arguments, beside the outcome."""
    said = Arguments((log,), {"work": Ref("work"), "other": Ref("failed")})
    nodes = [
        Node("work", partial(work, log)),
        Node("failed", partial(fail, log)),
        Node("by_name", partial(look, log), handler="exit", reads=["work"]),
        Node("said", look, handler="failure", reads=["work", "failed"], arguments=said),
    ]
    result = DAG(nodes).run(backend=backend)
    assert result["by_name"] == ("failed", 7, 1)
    assert result["said"] == ("failed", 7, None)


def test_handlers_have_policies_as_other_nodes(log: str) -> None:
    """They are nodes."""
    nodes = [Node("node", int), Node("bad", partial(broken, log, "bad"), handler="exit", retries=2)]
    assert DAG(nodes).run(backend="inline").node_result("bad").attempts == 3


def test_a_part_of_a_graph_has_its_handlers(log: str) -> None:
    """They belong to the run, whatever of the graph it is about; one that is excluded does not run."""
    nodes = [Node("a", int), Node("b", int), *handlers(log)]
    result = DAG(nodes).run(backend="inline", targets=["a"], exclude=["success"])
    assert result["exit"][0] == "succeeded"
    assert result.node_result("success").reason == "excluded"
    again = DAG(nodes).run(backend="inline", from_run=result)
    assert again.node_result("exit").attempts == again.node_result("success").attempts == 1


def test_handlers_run_when_no_rule_can_add_anything(log: str) -> None:
    """A rule that waits for nothing more is asked before them; one that never held has failed the run."""
    rule = Rule(lambda view: view.succeeded("a"), lambda view: Patch([Node("b", int, ["a"])]))
    result = DAG([Node("a", int), *handlers(log)]).run(backend="inline", rules=[rule])
    assert result["success"][0] == "succeeded"
    never = Rule(lambda view: view.succeeded("exit"), lambda view: Patch())
    result = DAG([Node("a", int), *handlers(log)]).run(backend="inline", rules=[never])
    assert result["failure"] == ("failed", (), "1 rules never became applicable")
    assert result.unapplied_rules


def test_when_its_turn_comes_is_explained(log: str) -> None:
    """Who looks at a run sees nodes that wait for no other one."""
    with Gate() as gate:
        run = DAG([Node("node", partial(wait, log, gate.address)), *handlers(log)]).start(backend="thread")
        visit = gate.meet()
        assert run.explain("failure") == "'failure' runs when all nodes have ended, if the run fails."
        assert run.explain("exit") == "'exit' runs when all nodes and the other handlers have ended."
        visit.release()
        run.wait(PATIENCE)
        assert run.explain("failure") == "'failure' was passed over: the run succeeded, and it handles a failure."


INTERRUPTED = """
import os, signal, sys, threading
from functools import partial
from dagrid import DAG, Node
from tests.execution.handler_tasks import handle

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(20)

nodes = [Node("node", interrupt), Node("next", int, ["node"])]
nodes += [Node(word, partial(handle, sys.argv[1], word), handler=word) for word in ("cancel", "exit")]
print(DAG(nodes).run(backend=sys.argv[2]).status)
"""


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_an_interrupted_run_runs_its_handlers(backend: str, log: str) -> None:
    """Ctrl-C is how most runs are cancelled."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", INTERRUPTED, log, backend]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.stdout.strip() == "aborted", ran.stderr
    assert noted(log) == ["cancel", "exit"]


DYING = """
import sys
from functools import partial
from dagrid import DAG, Node
from tests.execution.handler_tasks import fail, fatal, handle

log, folder, word = sys.argv[1:]
nodes = [Node(each, partial(fatal if each == word else handle, log, each), handler=each) for each in ("failure", "exit")]
DAG([Node("node", partial(fail, log)), *nodes]).run(backend="inline", checkpoint=folder, run_id="run")
"""


@pytest.mark.parametrize("word", ["failure", "exit"])
def test_a_run_that_dies_in_its_handlers_goes_on_with_them(tmp_path: Path, log: str, word: str) -> None:
    """The outcome is in the journal: nothing but that handler runs again, and what comes after it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", DYING, log, str(tmp_path / "kept"), word]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    result = dagrid.resume(tmp_path / "kept", "run", backend="inline")
    assert result.status is RunStatus.FAILED
    assert result[word] == word
    assert (
        noted(log)
        == {
            "failure": ["fail", "failure", "failure", "exit"],
            "exit": ["fail", "failure", "exit", "exit"],
        }[word]
    )


def _patch(view: Any) -> Patch:
    return Patch([Node("late", int, handler="exit")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Node("h", int, handler=cast(Any, "always")), "handler is one of 'success'"),
        (lambda: Node("h", int, ["a"], handler="exit"), r"waits for 'a'; say reads=\['a'\]"),
        (lambda: Node("h", int, inputs={"x": "a"}, handler="exit"), "waits for none"),
        (lambda: Node("h", int, when="a", handler="exit"), "waits for none"),
        (lambda: Node("h", int, cache=True, handler="exit"), "cannot have cache"),
        (lambda: DAG([Node("h", int, handler="exit"), Node("b", int, ["h"])]).run(), "'b' waits for the handler 'h'"),
        (
            lambda: (
                DAG.builder()
                .add_node("a", int)
                .add_node("h", int, handler="exit")
                .add_edge("a", "h")
                .build()
                .run(backend="inline")
            ),
            "has an edge from 'a'",
        ),
    ],
)
def test_a_handler_with_edges_is_refused(make: Any, words: str) -> None:
    """It would never start, or what waits for it would not."""
    with pytest.raises(InvalidNodeError, match=words):
        make()


def test_the_graph_does_not_grow_by_handlers_nor_behind_them(log: str) -> None:
    """What is to be done at the end is known at the start."""
    result = DAG([Node("a", int)]).run(rules=[Rule(lambda view: True, _patch)], backend="inline")
    with pytest.raises(dagrid.errors.RuleError, match="is a handler"):
        result.raise_for_status()
    behind = Rule(lambda view: True, lambda view: Patch([Node("b", int, ["exit"])]))
    result = DAG([Node("a", int), *handlers(log)]).run(rules=[behind], backend="inline")
    with pytest.raises(dagrid.errors.RuleError, match="waits for the handler 'exit'"):
        result.raise_for_status()
    result = DAG([Node("a", int), Node("h", grow, handler="exit")]).run(backend="inline")
    with pytest.raises(InvalidPatchError, match="appends nothing"):
        result.raise_for_status()
    with pytest.raises(CapabilityError, match="is a handler"):
        PartitionedDAGExecutor(DAG([Node("a", int), *handlers(log)]), 2)
    assert DAG.from_json(DAG(handlers(log)).to_json()).node("exit").handler == "exit"
