"""A graph in parts gives what the graph gives: the same values, the same failures, the same reasons; and little travels."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid import DAG, Node, NodeStatus, Retry, RunStatus
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.distributed import PartitionedDAGExecutor
from tests.execution.partition_graphs import lanes
from tests.execution.partition_tasks import (
    Courier,
    die,
    die_once,
    failing,
    flaky,
    joined,
    number,
    plus_one,
    skipping,
    where,
)

STRATEGIES = ("level_based", "balanced", "communication_min")
BEHAVIOURS = {"well": joined, "fails": failing, "skips": skipping, "flaky": flaky, "nothing": None}


@st.composite
def graphs(draw: st.DrawFn) -> DAG:
    """Graphs whose nodes fail, are skipped, need a second try or do nothing, and take values of some of their predecessors."""
    count = draw(st.integers(1, 14))
    nodes: list[Node] = []
    idle: set[str] = set()
    for at in range(count):
        before = [f"n{one}" for one in draw(st.sets(st.integers(0, at - 1), max_size=3))] if at else []
        behaviour = draw(st.sampled_from(("well", "well", "well", "well", "fails", "skips", "flaky", "nothing")))
        if behaviour == "nothing":
            idle.add(f"n{at}")
        taken = [one for one in before if one not in idle and draw(st.booleans())] if behaviour != "nothing" else []
        nodes.append(
            Node(
                f"n{at}",
                BEHAVIOURS[behaviour],
                depends_on=before,
                inputs=dict(zip("abc", taken, strict=False)) or None,
                retries=Retry(1) if behaviour == "flaky" and draw(st.booleans()) else None,
                priority=draw(st.integers(0, 2)),
            )
        )
    return DAG(nodes)


def compare(whole: Any, parts: Any, dag: DAG) -> None:
    """Check that two results say the same of every node."""
    expected, found = whole.node_results, parts.node_results
    assert {name: one.status for name, one in found.items()} == {name: one.status for name, one in expected.items()}
    assert parts.status == whole.status
    for name in dag.node_names():
        mine, theirs = found[name], expected[name]
        assert mine.value == theirs.value
        assert mine.attempts == theirs.attempts
        assert type(mine.error) is type(theirs.error)
        if mine.status is NodeStatus.SKIPPED:
            before = [expected[one] for one in dag.predecessors(name)]
            unwell = [one for one in before if one.status in (NodeStatus.FAILED, NodeStatus.SKIPPED)]
            if len(unwell) <= 1:
                assert mine.reason == theirs.reason
            elif mine.reason != theirs.reason:
                assert any(mine.reason.startswith(repr(one.name)) for one in unwell)
        elif mine.error is not None:
            assert str(mine.error) == str(theirs.error)
    last = {span.node: span for span in parts.trace}
    for name, span in last.items():
        assert all(last[one].ended <= span.started for one in dag.predecessors(name) if one in last)
    spans = sorted((one.node, one.number, one.outcome) for one in parts.trace)
    assert spans == sorted((one.node, one.number, one.outcome) for one in whole.trace)


@settings(max_examples=150, deadline=None)
@given(
    dag=graphs(),
    k=st.integers(1, 4),
    strategy=st.sampled_from(STRATEGIES),
    fail_fast=st.booleans(),
    travels=st.booleans(),
    slots=st.sampled_from((None, None, 2)),
)
def test_parts_end_as_the_graph_does(
    dag: DAG, k: int, strategy: str, fail_fast: bool, travels: bool, slots: int | None
) -> None:
    """Where a graph is cut must not show in what becomes of any node, be it within a part or across."""
    whole = dag.run(backend="inline", on_failure="skip" if fail_fast else "continue")
    backend = Courier() if travels else "inline"
    parts = PartitionedDAGExecutor(dag, k, strategy, max_workers=slots, fail_fast=fail_fast, backend=backend).execute()
    compare(whole, parts, dag)


@settings(max_examples=40, deadline=None)
@given(dag=graphs(), k=st.integers(1, 4), strategy=st.sampled_from(STRATEGIES), travels=st.booleans(), data=st.data())
def test_a_chosen_part_of_the_graph_ends_as_it_does_whole(
    dag: DAG, k: int, strategy: str, travels: bool, data: st.DataObject
) -> None:
    """Values that are given and nodes that are left out change what the parts are made of."""
    names = dag.node_names()
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    told: dict[str, Any] = {"given": {name: f"given {name}" for name in chosen}}
    if data.draw(st.booleans()):
        told["targets"] = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=3))
    whole = dag.run(backend="inline", **told)
    backend = Courier() if travels else "inline"
    parts = PartitionedDAGExecutor(dag, k, strategy, backend=backend, **told).execute()
    compare(whole, parts, dag)


def test_the_result_is_that_of_an_ordinary_run() -> None:
    """Whoever reads results, traces or pages must not have to know that there were parts."""
    dag = lanes(2, 3)
    result = PartitionedDAGExecutor(dag, k=2, strategy="balanced").execute()
    assert result.ok
    assert result.succeeded == len(result) == 6
    assert result["0.2"] == "0.2(0.1(0.0(None, None, None), None, None), None, None)"
    trace = result.trace
    assert trace is not None
    assert all(0 <= span.started <= span.ended <= result.total_duration_seconds for span in trace)
    assert trace.summary().critical_path_seconds > 0
    assert {one.worker for one in result.node_results.values()} <= {f"thread-{n}" for n in range(40)}
    assert "0.2" in result.to_html()
    assert result.profile().nodes == 6
    assert "traceEvents" in trace.to_chrome_json()
    assert PartitionedDAGExecutor(dag, k=2, enable_tracing=False).execute().trace is None


def test_facts_of_different_parts_stand_in_the_order_of_their_times() -> None:
    """A reader that follows the journal sees a run, not one part after the other."""
    result = PartitionedDAGExecutor(lanes(3, 4), k=3, strategy="balanced").execute()
    assert result.trace is not None
    ends = [span.ended for span in result.trace]
    assert ends == sorted(ends)


def test_parts_run_side_by_side() -> None:
    """Else a cut would be worth nothing."""
    both = threading.Barrier(2)

    def meet() -> int:
        return both.wait(20)

    dag = DAG([Node("left", meet), Node("right", meet)])
    assert PartitionedDAGExecutor(dag, k=2, strategy="balanced").execute().ok


def test_nodes_of_a_part_run_side_by_side_where_it_has_slots() -> None:
    """`max_workers` is how many nodes of one part run at once."""
    both = threading.Barrier(2)

    def meet() -> int:
        return both.wait(20)

    dag = DAG([Node("left", meet), Node("right", meet)])
    result = PartitionedDAGExecutor(dag, k=1, max_workers=2, backend="inline").execute()
    assert result.ok
    assert {one.worker for one in result.node_results.values()} == {"inline/thread-0", "inline/thread-1"}


def test_a_part_does_not_wait_for_parts_that_it_does_not_need() -> None:
    """Parts are no levels: a chain goes on though the part beside it has not ended."""
    done = threading.Event()

    def wait() -> bool:
        return done.wait(20)

    dag = DAG(
        [
            Node("slow", wait),
            Node("first", number),
            Node("second", lambda first: done.set(), inputs={"first": "first"}),
            Node("last", number, depends_on=["slow", "second"]),
        ]
    )
    executor = PartitionedDAGExecutor(dag, k=4, strategy="communication_min", max_imbalance=0.0)
    assert len(executor.partition) == 4
    result = executor.execute()
    assert result["slow"] is True


def test_a_late_node_times_out_by_itself() -> None:
    """The timeout of a node holds within its part, and those beside it go on."""
    gate = threading.Event()
    dag = DAG(
        [
            Node("late", lambda: gate.wait(20), timeout=0.05),
            Node("behind", number, depends_on=["late"]),
            Node("beside", number),
        ]
    )
    result = PartitionedDAGExecutor(dag, k=1, backend="inline").execute()
    gate.set()
    assert result.timed_out == 1
    assert result["beside"] == 7
    assert result.node_results["behind"].reason == "'late' timed out"
    every = PartitionedDAGExecutor(
        DAG([Node("late", gate.clear), Node("n", lambda: gate.wait(20), depends_on=["late"])]), k=2, node_timeout=0.05
    )
    assert every.execute().node_results["n"].status is NodeStatus.TIMED_OUT
    gate.set()


def test_stop_cancels_what_has_not_ended() -> None:
    """One failure ends the run; parts that have not begun do not begin."""
    dag = DAG(
        [
            Node("bad", failing, priority=1),
            Node("next", number, depends_on=["bad"]),
            Node("other", number),
            Node("later", number, depends_on=["other"]),
            Node("last", number, depends_on=["next", "later"]),
        ]
    )
    for backend in ("inline", Courier()):
        executor = PartitionedDAGExecutor(dag, k=2, costs={"last": 0.0}, on_failure="stop", backend=backend)
        assert [sorted(part) for part in executor.partition.parts] == [["bad", "other"], ["last", "later", "next"]]
        result = executor.execute()
        found = [result.node_results[name].status.value for name in ("bad", "next", "other", "later", "last")]
        assert found == ["failed", "skipped", "cancelled", "cancelled", "skipped"]
        assert result.status is RunStatus.FAILED
        with pytest.raises(ValueError, match="bad cannot"):
            result.raise_for_status()


def test_stop_reaches_the_parts_beside() -> None:
    """A part in another thread is cancelled too, and says what it had done."""
    begun, gate = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        gate.wait(20)

    def fail() -> None:
        begun.wait(20)
        raise ValueError("enough")

    dag = DAG(
        [
            Node("done", number),
            Node("long", wait, depends_on=["done"]),
            Node("after", number, depends_on=["long"]),
            Node("bad", fail),
        ]
    )
    result = PartitionedDAGExecutor(
        dag, k=2, strategy="communication_min", max_imbalance=1.0, on_failure="stop"
    ).execute()
    gate.set()
    found = {name: one.status.value for name, one in result.node_results.items()}
    assert found == {"done": "completed", "long": "cancelled", "after": "cancelled", "bad": "failed"}
    assert result["done"] == 7


def test_ctrl_c_in_a_task_ends_the_run_with_a_result() -> None:
    """As for any run in the caller's thread: nothing new starts, and what is done stays done."""

    def interrupted(a: Any) -> None:
        raise KeyboardInterrupt

    dag = DAG(
        [
            Node("a", number),
            Node("b", interrupted, inputs={"a": "a"}),
            Node("c", number, depends_on=["b"]),
            Node("d", number, depends_on=["c"]),
        ]
    )
    result = PartitionedDAGExecutor(dag, k=2, backend="inline").execute()
    assert result.status is RunStatus.ABORTED
    assert result["a"] == 7
    assert result.node_results["c"].status is not NodeStatus.COMPLETED
    assert result.node_results["d"].status is not NodeStatus.COMPLETED


@pytest.fixture(scope="module")
def processes() -> Any:
    with MultiprocessingBackend(max_workers=2) as backend:
        yield backend


@pytest.mark.slow
def test_parts_run_in_processes_of_their_own(processes: Any) -> None:
    """Names of workers are those of the processes, and times are those of the run."""
    dag = DAG([Node(f"n{at}", where) for at in range(6)])
    result = PartitionedDAGExecutor(dag, k=2, strategy="balanced", backend=processes).execute()
    result.raise_for_status()
    plain = dag.run(backend=processes)
    workers = {one.value: one.worker for one in plain.node_results.values()}
    for one in result.node_results.values():
        assert workers.get(one.value, one.worker) == one.worker
        assert 0 <= one.started <= one.ended <= result.total_duration_seconds


@pytest.mark.slow
def test_a_part_whose_worker_dies_is_sent_again(processes: Any, tmp_path: Any) -> None:
    """A killed process costs one attempt of a part, and no result."""
    dag = DAG(
        [
            Node("first", number),
            Node("deadly", partial(die_once, str(tmp_path / "mark")), depends_on=["first"]),
            Node("last", number, depends_on=["deadly"]),
        ]
    )
    result = PartitionedDAGExecutor(dag, k=2, backend=processes).execute()
    result.raise_for_status()
    assert result["deadly"] == "survived"


@pytest.mark.slow
def test_a_part_that_kills_every_worker_fails_with_what_depends_on_it(processes: Any) -> None:
    """It is given up as any node is; the parts that do not need it complete."""
    dag = DAG(
        [
            Node("deadly", die),
            Node("behind", number, depends_on=["deadly"]),
            Node("apart", number),
            Node("far", joined, inputs={"a": "behind", "b": "apart"}),
            Node("well", joined, inputs={"a": "apart"}),
        ]
    )
    executor = PartitionedDAGExecutor(dag, k=4, strategy="communication_min", max_imbalance=0.5, backend=processes)
    parts = executor.partition.part_of
    assert parts["deadly"] != parts["apart"]
    result = executor.execute()
    found = {name: one.status.value for name, one in result.node_results.items()}
    assert found["deadly"] == "failed"
    assert found["apart"] == found["well"] == "completed"
    assert found["behind"] == found["far"] == "skipped"
    assert "lost 3 times" in str(result.node_results["deadly"].error)
    once = DAG([Node("deadly", die, on_lost="fail"), Node("behind", number, depends_on=["deadly"])])
    assert (
        PartitionedDAGExecutor(once, k=1, backend=processes).execute().node_results["deadly"].status is NodeStatus.LOST
    )


def test_processes_that_share_the_name_of_a_worker_are_told_apart() -> None:
    """An engine may call all its workers the same; a trace in which they are one would show nodes on top of each other."""

    class Pool:
        name = "pool"

        def __init__(self) -> None:
            self.pool = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)

        def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            return self.pool.submit(fn, *args, **kwargs)

        def result(self, future: Any, timeout: float | None = None) -> Any:
            return future.result(timeout)

        def shutdown(self, wait: bool = True) -> None:
            self.pool.shutdown(wait)

    dag = DAG([Node("one", os.getpid), Node("two", os.getpid)])
    with PartitionedDAGExecutor(dag, k=2, backend=Pool()) as executor:
        result = executor.execute().raise_for_status()
    workers = [result.node_results[name].worker for name in ("one", "two")]
    assert len(set(workers)) == 2
    for worker, name in zip(workers, ("one", "two"), strict=True):
        assert worker.startswith("pool/")
        assert worker.endswith(f":{result[name]}")


def test_what_large_parts_tell_is_put_together_in_any_order(processes: MultiprocessingBackend) -> None:
    """They end before and after each other, and some of their nodes badly."""
    nodes = [Node(f"{lane} 0", partial(int, lane)) for lane in range(2)]
    for step in range(1, 1_400):
        nodes += [Node(f"{lane} {step}", plus_one, inputs={"before": f"{lane} {step - 1}"}) for lane in range(2)]
    nodes += [Node("bad", partial(int, "x"), ["1 1399"]), Node("behind", plus_one, inputs={"before": "bad"})]
    for strategy in ("communication_min", "level_based"):
        result = PartitionedDAGExecutor(DAG(nodes), k=4, strategy=strategy, backend=processes).execute()
        assert (result.succeeded, result.failed, result.skipped) == (2_800, 1, 1)
        assert (result["0 1399"], result["1 1399"]) == (1_399, 1_400)
        assert result.trace is not None
        ended = [span.ended for span in result.trace]
        assert ended == sorted(ended)
        assert len(ended) == 2_801


def test_a_part_never_rides_on_the_one_that_it_needs() -> None:
    """Its arguments are made of the other one's report; along with that one it would be sent before this is there."""
    from dagrid.execution.binding import Gathered
    from dagrid.execution.compiling import compiled_for
    from dagrid.machine.chains import along
    from dagrid.machine.plan import Settings
    from dagrid.machine.state import State

    dag = DAG.builder().add_nodes(["a", "b"]).add_edges([("a", "b")]).build()
    gathered = Gathered(joined, lambda values: values)
    riders = [
        along(State(compiled_for(dag, {"a": number, "b": fn}, Settings()).plan), 0, 4) for fn in (joined, gathered)
    ]
    assert riders == [[1], []]
