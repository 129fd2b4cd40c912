"""What a run leaves behind: results, the trace and its figures."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dagrid import DAG, ExecutionResult, Node, NodeStatus, RunStatus, SkipTask
from dagrid.errors import TransferError, UnknownNodeError
from dagrid.execution.simulate import simulate
from tests.execution.place_tasks import unreadable

DIAMOND = [Node("a"), Node("b", None, ["a"], cost=3.0), Node("c", None, ["a"]), Node("d", None, ["b", "c"])]


@pytest.fixture
def mixed() -> ExecutionResult:
    """A run in which something of every kind happened."""
    return simulate(DAG([*DIAMOND, Node("x", retries=1), Node("y", None, ["x"])]), faults={"x": ["fail", "fail"]})


def test_the_figures_of_a_result(mixed: ExecutionResult) -> None:
    """Counts, status and duration agree with each other and with the words."""
    assert (mixed.succeeded, mixed.failed, mixed.skipped, mixed.timed_out, mixed.cancelled) == (4, 1, 1, 0, 0)
    assert sum(mixed.counts().values()) == len(mixed) == 6
    assert mixed.status is RunStatus.FAILED
    assert not mixed.ok
    assert mixed.total_duration_seconds == 5.0
    assert repr(mixed) == "<ExecutionResult failed: 4 succeeded, 1 failed, 1 skipped in 5.000 s>"
    assert list(mixed) == ["a", "b", "c", "d", "x", "y"]
    assert "a" in mixed
    assert "z" not in mixed


@pytest.mark.parametrize("travels", [pickle.dumps, cloudpickle.dumps, copy.copy])
def test_a_result_does_not_travel_and_says_what_does(
    mixed: ExecutionResult, travels: Callable[[object], object]
) -> None:
    """It would come as one that has no nodes and went well."""
    with pytest.raises(TransferError, match=r"result\['node'\].*result\.save\(path\)"):
        travels(mixed)


def test_the_result_of_a_node(mixed: ExecutionResult) -> None:
    """Where, when, how often and why."""
    failed = mixed.node_results["x"]
    assert (failed.status, failed.attempts, failed.worker) == (NodeStatus.FAILED, 2, "virtual-1")
    assert failed.duration_seconds == 1.0
    skipped = mixed.node_results["y"]
    assert (skipped.status, skipped.attempts, skipped.worker, skipped.duration_seconds) == (
        NodeStatus.SKIPPED,
        0,
        "",
        0,
    )
    assert skipped.reason == "'x' failed"
    assert mixed.node_results["a"].attempts == 1
    assert mixed.node_results["a"].started == 0.0
    with pytest.raises(UnknownNodeError, match="The run had no node 'q'"):
        mixed["q"]


@pytest.mark.parametrize("raised", [SkipTask, SkipTask(), SkipTask("")])
def test_a_task_may_skip_its_node_without_a_word(raised: Any) -> None:
    """The reason is then not how to write such a task."""

    def skip() -> None:
        raise raised

    node = DAG([Node(skip)]).run(backend="inline").node_result("skip")
    assert (node.status, node.reason) == (NodeStatus.SKIPPED, "its task asked for that")


def test_execute_gives_values_and_raises() -> None:
    """The short way: a dict of results, or what the first failed node raised."""
    results = DAG([Node("a", lambda: 5)]).execute()
    assert results["a"].value == results["a"].result == 5
    with pytest.raises(ZeroDivisionError):
        DAG([Node("a", lambda: 1 / 0)]).execute()


def test_the_chrome_trace_has_one_event_for_each_try(mixed: ExecutionResult, tmp_path: Path) -> None:
    """It is read by other people's programs: valid JSON, microseconds, a name for each thread."""
    trace = mixed.trace
    assert trace is not None
    text = trace.to_chrome_json(tmp_path / "trace.json")
    assert (tmp_path / "trace.json").read_text(encoding="utf-8") == text
    events = json.loads(text)["traceEvents"]
    tries = [
        (event["name"], event["args"]["attempt"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"
    ]
    assert sorted(tries) == [
        ("a", 1, 0, 1e6),
        ("b", 1, 1e6, 3e6),
        ("c", 1, 1e6, 1e6),
        ("d", 1, 4e6, 1e6),
        ("x", 1, 0, 1e6),
        ("x", 2, 2e6, 1e6),
    ]
    threads = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert threads == {0: "virtual-0", 1: "virtual-1"}


def test_the_summary_of_a_trace(mixed: ExecutionResult) -> None:
    """Busy over total is the parallelism; the critical path is measured, not counted."""
    assert mixed.trace is not None
    summary = mixed.trace.summary()
    assert (summary.total_seconds, summary.busy_seconds, summary.workers) == (5.0, 8.0, 2)
    assert summary.parallelism == 1.6
    assert summary.critical_path == ["a", "b", "d"]
    assert summary.critical_path_seconds == 5.0
    assert summary.slowest[0] == ("b", 3.0)
    assert "critical path 5.000 s: a > b > d" in str(summary)


def test_the_critical_path_passes_through_nodes_that_take_no_time() -> None:
    """Nodes that start and end at one moment are still in the order in which they ended."""
    dag = DAG([Node("end", None, ["gate"], cost=0.0), Node("gate", None, ["first"], cost=0.0), Node("first", cost=2.0)])
    trace = simulate(dag).trace
    assert trace is not None
    assert trace.summary().critical_path == ["first", "gate", "end"]


def test_a_run_without_tracing_has_no_trace() -> None:
    """And says so with None, not with an empty one."""
    assert DAG([Node("a", int)]).run(tracing=False).trace is None
    empty = DAG([]).run()
    assert empty.ok
    assert empty.trace is not None
    assert empty.trace.summary().critical_path == []
    assert json.loads(empty.trace.to_chrome_json())["traceEvents"] is not None


def test_a_value_that_cannot_be_rebuilt_is_no_end_of_a_look_at_all_results() -> None:
    """The run has succeeded, and who goes through its results is told of the one that is not for this process."""
    result = DAG([Node("odd", unreadable), Node("plain", int)]).run(backend="multiprocessing?max_workers=1")
    assert result.ok
    told = dict(result.node_results.items())
    assert (told["odd"].status, told["odd"].value, told["plain"].value) == ("completed", None, 0)
    assert isinstance(told["odd"].error, TransferError)
    assert "cannot be rebuilt here" in told["odd"].reason
    with pytest.raises(TransferError, match="cannot be rebuilt here"):
        result["odd"]
