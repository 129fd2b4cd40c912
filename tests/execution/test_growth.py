"""Graphs that grow while they run, through the public face."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, Patch, Rule, RunStatus, View, current
from dagrid.errors import (
    CapabilityError,
    CycleError,
    DuplicateNodeError,
    GraphLimitError,
    InternalError,
    InvalidNodeError,
    InvalidPatchError,
    RuleError,
    RunError,
    UnboundParameterError,
    UnknownNodeError,
    UnsatisfiableError,
)
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.ports import Host


def after(first: str, *nodes: Node, **settings: Any) -> Rule:
    """Return a rule that adds nodes when one has completed."""
    return Rule(lambda view: view.succeeded(first), lambda view: Patch(nodes), **settings)


def test_a_graph_grows_by_what_its_results_say(backend: str) -> None:
    """Map and reduce over a number of parts that nobody knew before."""

    def spread(view: View) -> Patch:
        parts = [Node(f"part{n}", lambda n=n: n * n, kind="part") for n in range(view.result("count"))]
        return Patch([*parts, Node("sum", lambda **parts: sum(parts.values()), [part.id for part in parts])])

    rule = Rule(lambda view: view.succeeded("count"), spread)
    result = DAG([Node("count", lambda: 5)]).run(rules=[rule], backend=backend)
    assert result["sum"] == 30
    assert len(result) == 7


def test_a_rule_may_add_rules(backend: str) -> None:
    """Each step of a loop is a rule that the one before it added."""

    def step(number: int) -> Rule:
        def body(view: View) -> Patch:
            value = view.result(f"n{number}")
            return Patch([Node(f"n{number + 1}", lambda: value + 1)], [step(number + 1)] if number < 4 else [])

        return Rule(lambda view: view.succeeded(f"n{number}"), body)

    result = DAG([Node("n0", lambda: 0)]).run(rules=[step(0)], backend=backend)
    assert result.ok
    assert result["n5"] == 5


def boom(view: View) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize(
    ("predicate", "body", "cause"),
    [
        (boom, lambda view: Patch(), ZeroDivisionError),
        (lambda view: True, boom, ZeroDivisionError),
        (lambda view: True, lambda view: None, TypeError),
        (lambda view: True, lambda view: Patch(5), TypeError),  # type: ignore[arg-type]
        (lambda view: True, lambda view: Patch([len]), InvalidPatchError),  # type: ignore[list-item]
        (lambda view: True, lambda view: Patch("abc"), InvalidPatchError),  # type: ignore[arg-type]
        (lambda view: view.succeeded("a"), lambda view: Patch([len]), InvalidPatchError),  # type: ignore[list-item]
        (lambda view: view.succeeded("a"), lambda view: Patch([None]), InvalidPatchError),  # type: ignore[list-item]
        (lambda view: view.succeeded("a"), lambda view: Patch(rules=[3]), InvalidPatchError),  # type: ignore[list-item]
        (lambda view: view.succeeded("a"), lambda view: sys.exit("no"), SystemExit),
        (lambda view: view.succeeded("a") and sys.exit("no"), boom, SystemExit),
        (lambda view: view.status("nobody"), boom, UnknownNodeError),
        (lambda view: True, lambda view: Patch([Node("a", int)]), DuplicateNodeError),
        (lambda view: True, lambda view: Patch([Node("x", int), Node("x", int)]), DuplicateNodeError),
        (lambda view: True, lambda view: Patch([Node("x", int, ["y"]), Node("y", int, ["x"])]), CycleError),
        (lambda view: True, lambda view: Patch([Node("x", int, ["nobody"])]), UnknownNodeError),
        (lambda view: True, lambda view: Patch([Node("x", lambda b: b, ["a"])]), UnboundParameterError),
        (lambda view: True, lambda view: Patch([Node("e"), Node("x", lambda e: e, ["e"])]), UnboundParameterError),
        (lambda view: True, lambda view: Patch([Node("x", int, resources={"gpu": 1})]), UnsatisfiableError),
        (lambda view: True, lambda view: Patch([Node("x", int, selector={"gpu": "a100"})]), CapabilityError),
    ],
)
def test_a_rule_that_fails_fails_the_run_with_its_name_and_its_cause(
    backend: str, predicate: Callable[[View], Any], body: Callable[[View], Any], cause: type[Exception]
) -> None:
    """Nothing of its patch is taken: all or nothing."""
    result = DAG([Node("a", int)]).run(rules=[Rule(predicate, body, name="grow")], backend=backend)
    assert result.status is RunStatus.FAILED
    with pytest.raises(RuleError, match="Rule 'grow' failed") as caught:
        result.raise_for_status()
    assert caught.value.rule == "grow"
    assert isinstance(caught.value.__cause__, cause)
    assert list(result) == ["a"]


def interrupt(view: View) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("recorded", [False, True])
def test_a_rule_that_raises_what_ctrl_c_raises_has_failed_like_any_other(tmp_path: Path, recorded: bool) -> None:
    """A thread gets no Ctrl-C; whatever a rule raises there is its own, and the run ends."""
    rule = Rule(lambda view: view.succeeded("a"), interrupt, name="grow")
    run = DAG([Node("a", int)]).start(rules=[rule], checkpoint=tmp_path if recorded else None)
    result = run.wait(timeout=20)
    assert result.status is RunStatus.FAILED
    with pytest.raises(RuleError, match="Rule 'grow' failed: KeyboardInterrupt"):
        result.raise_for_status()


class Leaving:
    """A value that ends its process when it is pickled, or means to."""

    def __reduce__(self) -> Any:
        sys.exit("not me")


def test_a_value_that_exits_when_it_is_pickled_does_not_hang_a_run_that_is_kept(tmp_path: Path) -> None:
    """It is a value that cannot be kept, as others are."""
    run = DAG([Node("a", Leaving)]).start(checkpoint=tmp_path)
    assert run.wait(timeout=20).status is RunStatus.SUCCEEDED


class Broken(ThreadBackend):
    """Threads whose session raises what no one expects, in the thread of a worker."""

    def open(self, host: Host) -> Any:
        session = super().open(host)
        wake = session.wake

        def broken(worker: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                sys.exit("gone")
            wake(worker)

        session.wake = broken  # type: ignore[method-assign]
        return session


def test_whatever_escapes_in_the_thread_that_steps_a_run_ends_it() -> None:
    """The run has failed with a fault of dagrid, and does not wait for ever."""
    nodes = [Node("a", int), *(Node(f"b{number}", int, ["a"]) for number in range(4))]
    with Broken(max_workers=2) as backend:
        result = DAG(nodes).start(backend=backend).wait(timeout=20)
    with pytest.raises(InternalError, match="SystemExit"):
        result.raise_for_status()


@pytest.mark.parametrize(
    ("rules", "match"), [(after("a"), "Write rules="), ([boom], "holds rules, not"), (3, "is a list")]
)
def test_what_is_no_list_of_rules_is_refused_before_anything_runs(rules: Any, match: str) -> None:
    """Also where a task gives it."""
    with pytest.raises(InvalidPatchError, match=match):
        DAG([Node("a", lambda: pytest.fail("it ran"))]).run(rules=rules, backend="inline")
    result = DAG([Node("a", lambda: current().grow(rules=rules))]).run(backend="inline")
    with pytest.raises(InvalidPatchError, match=match):
        result.raise_for_status()


def test_no_rules_may_be_said_with_none() -> None:
    """As other settings that are not there."""
    assert DAG([Node("a", int)]).run(rules=None, backend="inline").ok


def test_the_tasks_of_a_run_are_for_the_nodes_it_began_with() -> None:
    """A task for a node that a rule would add is named unknown before anything runs."""
    with pytest.raises(Exception, match="There is a task for 'x'"):
        DAG([Node("a", int)]).run({"x": int}, rules=[after("a", Node("x"))])


def test_growth_without_end_is_stopped(backend: str) -> None:
    """Also when every node has completed by then: the run has failed."""
    result = DAG([Node("a", int)]).run(rules=[after("a", Node("b", int))], max_nodes=1, backend=backend)
    assert result.status is RunStatus.FAILED
    with pytest.raises(GraphLimitError, match="past 1 nodes"):
        result.raise_for_status()


def test_a_rule_that_never_applied_is_a_failure_unless_it_is_optional(backend: str) -> None:
    """The run ends, and names what was left."""
    rule = after("bad", Node("x", int), name="wanted")
    dag = DAG([Node("bad", lambda: 1 / 0), Node("good", int)])
    result = dag.run(rules=[rule, after("bad", name="extra", optional=True)], backend=backend)
    assert result.unapplied_rules == ["wanted"]
    lonely = DAG([Node("good", int)])
    result = lonely.run(rules=[after("nobody", name="wanted")], backend=backend)
    assert result.status is RunStatus.FAILED
    with pytest.raises(RunError, match="never became applicable: 'wanted'"):
        result.raise_for_status()
    assert lonely.run(rules=[after("nobody", optional=True)], backend=backend).ok


def test_new_nodes_behind_a_failed_one_follow_the_mode_of_the_run(backend: str) -> None:
    """With "continue" only what takes its value is skipped, for grown nodes as for others."""
    grown = [Node("value", lambda bad: bad, ["bad"]), Node("order", int, ["bad"])]
    rule = Rule(lambda view: view.status("bad") == "failed", lambda view: Patch(grown))
    result = DAG([Node("bad", lambda: 1 / 0)]).run(rules=[rule], backend=backend, on_failure="continue")
    assert result.node_results["value"].status is NodeStatus.SKIPPED
    assert result.node_results["order"].status is NodeStatus.COMPLETED


def test_the_graph_itself_does_not_grow() -> None:
    """A run grows; the graph that was given can be run again from its start."""
    dag = DAG([Node("a", int), Node("b", int, ["a"])])
    rule = after("a", Node("c", int, ["b"]))
    assert len(dag.run(rules=[rule])) == len(dag.run(rules=[rule])) == 3
    assert len(dag) == len(dag.run()) == 2


def test_a_node_of_a_patch_needs_a_name_of_its_own() -> None:
    """Nodes are checked when they are made, in the user's own line."""
    with pytest.raises(InvalidNodeError):
        Node("")


@pytest.mark.parametrize("asked", [False, True])
def test_debug_nodes_of_a_patch_run_only_when_asked(backend: str, asked: bool) -> None:
    """They are in the graph of such a run only, and so is what they need alone."""
    nodes = [Node("b", lambda: 2, ["a"]), Node("look", lambda b: b, ["b"], debug=True)]
    result = DAG([Node("a", int)]).run(rules=[after("a", *nodes)], backend=backend, debug=asked)
    assert list(result.raise_for_status()) == ["a", "b", *(["look"] if asked else [])]
    result = DAG([Node("a", lambda: current().grow(*nodes))]).run(backend=backend, debug=asked)
    assert ("look" in result.raise_for_status()) is asked


def test_what_is_no_debug_node_cannot_depend_on_one_of_its_patch() -> None:
    """In most runs there would be nothing to depend on."""
    nodes = [Node("look", int, debug=True), Node("b", lambda look: look, ["look"])]
    result = DAG([Node("a", int)]).run(rules=[after("a", *nodes)], backend="inline")
    with pytest.raises(RuleError, match="Node 'b' depends on the debug node 'look'"):
        result.raise_for_status()


def test_a_setup_node_is_there_from_the_start(backend: str) -> None:
    """Its value is kept for the graph, which does not grow."""
    result = DAG([Node("a", int)]).run(rules=[after("a", Node("s", int, setup=True))], backend=backend)
    with pytest.raises(RuleError, match="remove its setup=True"):
        result.raise_for_status()


def test_a_setup_node_appends_nothing(backend: str) -> None:
    """It runs before the run that would grow, and says so; with another function it runs as any node."""
    dag = DAG([Node("s", lambda: current().grow(Node("new", int)), setup=True), Node("b", int)])
    with pytest.raises(InvalidPatchError, match="setup node 's' runs before all runs"):
        dag.run(backend=backend)
    assert "new" in dag.run({"s": lambda: current().grow(Node("new", int))}, backend=backend).raise_for_status()


def test_what_a_failed_rule_left_undone_says_why_in_whole_sentences() -> None:
    """The reason is a sentence of its own, which stands in another one."""
    twice = Rule(lambda view: True, lambda _: Patch([Node("here", int)]))
    result = DAG([Node("here", int)]).run(rules=[twice], backend="inline")
    told = str(result.node_results["here"].error)
    assert told.endswith("another name.")
    assert ".." not in told
