"""What waits for a node may run although the node failed or was skipped, and the run says how well it went."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, RunStatus
from dagrid.errors import CapabilityError, InvalidNodeError, TaskError
from dagrid.graph.node import ContinueOn
from tests.execution.ending_tasks import fail, fail_and_leave, fail_for_good, fail_mildly, late, say_so, skip, taken

BACKENDS = ["inline", "thread", "multiprocessing?max_workers=1"]


def pair(fn: Callable[[], Any], *after: ContinueOn, **settings: Any) -> DAG:
    """Return a node, one that takes its value, and one that waits for that."""
    first = Node("before", fn, continue_on=after, **settings)
    return DAG([first, Node("next", taken, ["before"]), Node("last", lambda: 1, ["next"])])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fn", "after", "status"),
    [
        (fail, "failure", RunStatus.PARTIALLY_SUCCEEDED),
        (fail, "success", RunStatus.SUCCEEDED),
        (skip, "skipped", RunStatus.SUCCEEDED),
        (fail_mildly, None, RunStatus.PARTIALLY_SUCCEEDED),
        (say_so, None, RunStatus.PARTIALLY_SUCCEEDED),
    ],
)
def test_what_waits_runs_all_the_same(backend: str, fn: Callable[[], Any], after: Any, status: RunStatus) -> None:
    """Who takes the value gets None, on every backend, whether the node or its exception says so."""
    result = pair(fn, *([after] if after else [])).run(backend=backend)
    assert result["next"] == ("ran", None)
    assert result["last"] == 1
    assert result.status is status
    assert result.node_result("before").status in (NodeStatus.FAILED, NodeStatus.SKIPPED)


@pytest.mark.parametrize(
    ("fn", "after"), [(fail, "skipped"), (skip, "failure"), (skip, "success"), (fail, None), (skip, None)]
)
def test_it_holds_for_that_end_only(fn: Callable[[], Any], after: Any) -> None:
    """A node that fails is not skipped, and the other way round."""
    result = pair(fn, *([after] if after else [])).run(backend="inline")
    assert result.node_result("last").status is NodeStatus.SKIPPED


def test_a_late_and_a_lost_node_have_failed() -> None:
    """Whoever waits does not care how a node failed."""
    result = pair(late, "failure", timeout=0.05).run(backend="thread")
    assert result["next"] == ("ran", None)
    assert result.status is RunStatus.PARTIALLY_SUCCEEDED
    assert result.node_result("before").status is NodeStatus.TIMED_OUT


def test_a_skipped_node_is_forgiven_for_whatever_reason_it_was() -> None:
    """Also one that was skipped because of another one; the failure of that counts as before."""
    nodes = [Node("a", fail), Node("b", lambda: 1, ["a"], continue_on=["skipped"]), Node("c", lambda: 2, ["b"])]
    result = DAG(nodes).run(backend="inline")
    assert result["c"] == 2
    assert result.status is RunStatus.FAILED


def test_one_failure_that_counts_fails_the_run() -> None:
    """And that one is raised, not the one that was foreseen."""
    nodes = [Node("foreseen", fail_mildly), Node("other", fail)]
    result = DAG(nodes).run(backend="inline")
    assert result.status is RunStatus.FAILED
    with pytest.raises(ValueError, match="on purpose"):
        result.raise_for_status()


def test_a_failure_that_is_forgiven_stops_nothing() -> None:
    """With on_failure="stop" too."""
    assert pair(fail, "failure").run(backend="inline", on_failure="stop")["last"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_may_refuse_to_be_tried_again(backend: str) -> None:
    """It knows better than the node, which says so for all of them."""
    nodes = [Node("one", fail_for_good, retries=3), Node("two", say_so, retries=3), Node("three", fail, retries=1)]
    result = DAG(nodes).run(backend=backend)
    assert [result.node_result(name).attempts for name in ("one", "two", "three")] == [1, 1, 2]


def test_errors_of_ours_travel_with_what_they_say() -> None:
    """They have constructors of their own, and a copy has to be made of an instance."""
    error = TaskError("no", "node")
    error.tolerated = True
    again = pickle.loads(pickle.dumps(error))
    assert (again.tolerated, again.retryable, again.node, str(again)) == (True, True, "node", "no")


def test_a_resumed_run_knows_it(tmp_path: Path) -> None:
    """What an exception said of itself is in the journal."""
    assert pair(fail_mildly).run(backend="inline", checkpoint=tmp_path / "kept", run_id="run")["last"] == 1
    again = dagrid.resume(tmp_path / "kept", "run")
    assert again.status is RunStatus.PARTIALLY_SUCCEEDED
    assert again["next"] == ("ran", None)


def test_it_is_explained() -> None:
    """Somebody wonders why the next one runs."""
    run = pair(fail, "failure").start(backend="inline")
    run.wait()
    assert run.explain("before").endswith("on purpose; what waits for it runs all the same.")


def test_json_keeps_it() -> None:
    """A document has all but functions."""
    graph = pair(fail, "success", "skipped")
    assert DAG.from_json(graph.to_json()).node("before").continue_on == ("skipped", "success")


@pytest.mark.parametrize(("given", "words"), [(["failed"], "Did you mean 'failure'"), ("failure", "list of words")])
def test_unknown_words_are_refused(given: Any, words: str) -> None:
    """A misspelt word would be seen only when something fails."""
    with pytest.raises(InvalidNodeError, match=words):
        Node("a", fail, continue_on=given)


def test_parts_refuse_it() -> None:
    """Another part is not told how a node failed; what an exception says is not heard there."""
    with pytest.raises(CapabilityError, match="continue_on"):
        PartitionedDAGExecutor(pair(fail, "failure"), 2)
    result = PartitionedDAGExecutor(pair(fail_mildly), 1).execute()
    assert result.status is RunStatus.FAILED
    assert result.node_result("next").status is NodeStatus.SKIPPED


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_failure_may_leave_something_for_what_goes_on(backend: str, recorded: bool, tmp_path: Path) -> None:
    """What the exception left takes the place of the value, for who waits for it and for who only looks."""
    dag = DAG(
        [
            Node("before", fail_and_leave),
            Node("next", taken, ["before"]),
            Node("last", taken, ["next"], inputs={"before": "before"}, reads=["before"]),
        ]
    )
    result = dag.run(backend=backend, checkpoint=tmp_path if recorded else None)
    assert result["next"] == result["last"] == ("ran", "half")
    assert result.status is RunStatus.PARTIALLY_SUCCEEDED
