"""A task may look at the values of nodes that it does not wait for: it gets those that are there, and None for the others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, Patch, Rule, dag, task
from dagrid.errors import CapabilityError, GraphError, InvalidNodeError, UnknownNodeError
from dagrid.graph.arguments import Arguments, Group, Ref
from dagrid.testing.gate import Gate
from tests.execution.looking_tasks import fail, held, one, pair, seen, two

PATIENCE = 20.0
BACKENDS = ["inline", "thread", "multiprocessing?max_workers=2"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_there_is_seen_and_what_is_not_is_none(backend: str) -> None:
    """By name, with no edge: a node that failed, was skipped or was left out keeps nobody from looking."""
    nodes = [
        Node("one", one),
        Node("failed", fail),
        Node("skipped", seen, ["failed"]),
        Node("left_out", two),
        Node("after", seen, ["one"], reads=["failed", "skipped", "left_out"]),
    ]
    graph = DAG(nodes)
    assert graph.predecessors("after") == ["one"]
    result = graph.run(backend=backend, exclude=["left_out"])
    assert result["after"] == {"one": 1, "failed": None, "skipped": None, "left_out": None}


@pytest.mark.parametrize("backend", ["thread?max_workers=2", "multiprocessing?max_workers=2"])
def test_nobody_waits_for_what_is_read(backend: str) -> None:
    """The reader ends while what it reads is held; later readers see its value."""
    with Gate() as gate:
        nodes = [
            Node("early", one),
            Node("late", partial(held, gate.address)),
            Node("before", pair, ["early"], reads=["late"]),
            Node("behind", pair, ["late", "early"], reads=["late"]),
        ]
        run = DAG(nodes).start(backend=backend)
        visit = gate.meet()
        events = run.events()
        while (event := next(events)).node != "before" or event.kind != "completed":
            assert run.status("late") is NodeStatus.RUNNING
        visit.release()
        result = run.wait(PATIENCE)
    assert result["before"] == (1, None)
    assert result["behind"] == (1, "late")


@pytest.mark.parametrize("backend", ["inline", "multiprocessing?max_workers=2"])
def test_values_that_are_read_stand_in_arguments_and_inputs(backend: str) -> None:
    """Whoever writes graphs says all arguments outright; that makes no edge of a read."""
    deep = Arguments((Group(dict, (Ref("one"), Ref("failed")), ("a", "b")), 7))
    nodes = [
        Node("one", one),
        Node("failed", fail),
        Node("by_place", pair, ["one"], arguments=Arguments((Ref("one"), Ref("failed"))), reads=["failed"]),
        Node("within", pair, ["one"], arguments=deep, reads=["failed", "one"]),
        Node("by_name", pair, ["one"], inputs={"early": "one", "late": "failed"}, reads=["failed"]),
    ]
    graph = DAG(nodes)
    assert all(graph.predecessors(name) == ["one"] for name in ("by_place", "within", "by_name"))
    result = graph.run(backend=backend)
    assert result["by_place"] == result["by_name"] == (1, None)
    assert result["within"] == ({"a": 1, "b": None}, 7)


def test_a_predecessor_that_is_read_is_waited_for_and_not_needed() -> None:
    """With on_failure="continue" who takes no value of a failed node runs, and who may do without takes none."""
    nodes = [Node("late", fail), Node("early", one), Node("after", pair, ["late", "early"], reads=["late"])]
    result = DAG(nodes).run(on_failure="continue")
    assert result["after"] == (1, None)
    assert DAG(nodes).run()["early"] == 1
    assert DAG(nodes).run().node_result("after").status is NodeStatus.SKIPPED


def test_values_that_are_read_are_not_dropped_before() -> None:
    """A reader is a reader, also for those who drop values."""
    nodes = [Node("one", one), Node("mid", two, ["one"]), Node("last", seen, ["mid"], reads=["one"])]
    assert DAG(nodes).run(keep="outputs")["last"] == {"mid": 2, "one": 1}


def test_a_resumed_run_sees_the_values_from_before(tmp_path: Path) -> None:
    """They are in the record as others are."""
    nodes = [Node("one", one), Node("last", seen, ["one"], reads=["failed"]), Node("failed", fail)]
    result = DAG(nodes).run(checkpoint=tmp_path / "kept", run_id="run", backend="inline")
    assert result["last"] == {"one": 1, "failed": None}
    assert dagrid.resume(tmp_path / "kept", "run")["last"] == {"one": 1, "failed": None}


def test_appended_nodes_read_too(tmp_path: Path) -> None:
    """A patch may read what is there, and what it brings."""
    new = [Node("more", two), Node("last", seen, ["more"], reads=["one", "failed"])]
    rule = Rule(lambda view: view.ended("one") and view.ended("failed"), lambda view: Patch(new))
    result = DAG([Node("one", one), Node("failed", fail)]).run(rules=[rule])
    assert result["last"] == {"one": 1, "failed": None, "more": 2}


@task(name="early")
def _one() -> int:
    return one()


@task(name="late")
def _fail() -> None:
    fail()


@task(reads=["late"])
def both(early: Any, late: Any) -> tuple[Any, Any]:
    return early, late


@dag
def described() -> Any:
    return both(_one(), _fail())


def test_a_described_graph_reads_by_handle() -> None:
    """A handle of what a task reads is no edge."""
    graph = described.build()
    assert graph.predecessors("both") == ["early"]
    assert graph.run(backend="inline")["both"] == (1, None)


def test_json_keeps_what_is_read() -> None:
    """A document has all but functions."""
    graph = DAG([Node("a"), Node("b", reads=["a"])])
    assert DAG.from_json(graph.to_json()).node("b").reads == ("a",)
    assert graph.subgraph(["b"]).node("b").reads == ()


@pytest.mark.parametrize(
    ("node", "error", "words"),
    [
        (lambda: Node("b", seen, reads="a"), InvalidNodeError, "reads is a list of names"),
        (lambda: Node("b", seen, reads=["aa"]), UnknownNodeError, "Did you mean 'a'"),
        (lambda: Node("b", seen, reads=["b"]), InvalidNodeError, "its own value"),
        (lambda: Node("b", seen, reads=["a"], cache=True), InvalidNodeError, "Remove its cache"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_runs(node: Any, error: type[Exception], words: str) -> None:
    """A misspelt name would give None for ever."""
    with pytest.raises(error, match=words):
        DAG([Node("a", one), node()]).run()


def test_parts_refuse_to_read() -> None:
    """A part does not know what the others have by then."""
    graph = DAG([Node("a", one), Node("b", seen, reads=["a"])])
    with pytest.raises(CapabilityError, match="reads values"):
        PartitionedDAGExecutor(graph, 2)
    with pytest.raises(GraphError, match="reads nodes"):
        DAG([Node("a", one), Node("b", seen, ["a"], reads=["a"])]).compose(inputs=["a"], outputs="b").build(1)
