"""A graph in parts gives what the graph gives: the same values, the same failures, the same reasons; and little travels."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid import DAG, Node, NodeStatus, Patch, Retry, Rule, RunStatus, TaskError
from dagrid.errors import (
    CapabilityError,
    InvalidSettingError,
    PlanError,
    TransferError,
    UnknownNodeError,
    UnknownTaskError,
)
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.distributed import PartitionedDAGExecutor
from tests.execution.partition_tasks import (
    Counted,
    Courier,
    behind,
    counted,
    die,
    die_once,
    failing,
    flaky,
    joined,
    number,
    plus_one,
    skipping,
    unsendable,
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


def lanes(count: int, length: int, fn: Any = joined) -> DAG:
    """Return so many chains, which have nothing to do with each other."""
    nodes = []
    for lane in range(count):
        for step in range(length):
            inputs = {"a": f"{lane}.{step - 1}"} if step else None
            nodes.append(Node(f"{lane}.{step}", fn, inputs=inputs))
    return DAG(nodes)


def two(first: Any, second: Any, **settings: Any) -> DAG:
    """Return two nodes, the second of which takes the value of the first; level by level they are two parts."""
    return DAG([Node("first", first), Node("second", second, inputs={"value": "first"}, **settings)])


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


def test_only_values_that_are_needed_travel_to_a_part() -> None:
    """What a part does not take is not sent to it, and what nobody takes and is not kept does not leave its part."""
    size = 100_000
    dag = DAG(
        [
            Node("large", lambda: b"x" * size),
            Node("small", len, inputs={"obj": "large"}),
            Node("other", len, inputs={"obj": "large"}),
            Node("last", lambda small: small + 1, inputs={"small": "small"}),
        ]
    )
    for keep, home in (("all", True), ("outputs", False), ({"small"}, False)):
        courier = Courier()
        executor = PartitionedDAGExecutor(dag, k=2, costs={"last": 3.0}, backend=courier, keep=keep)
        assert [sorted(part) for part in executor.partition.parts] == [["large", "other", "small"], ["last"]]
        result = executor.execute()
        assert result.ok
        assert all(len(data) < size for data in courier.sent)
        assert any(len(data) > size for data in courier.returned) is home
        kept = {name for name in dag.node_names() if _is_kept(result, name)}
        assert kept == {"all": set(dag.node_names()), "outputs": {"other", "last"}}.get(str(keep), {"small"})


@pytest.mark.parametrize("chosen", [{"targets": ["middle"]}, {"exclude": ["last"]}, {"given": {"last": 0}}])
def test_what_only_nodes_take_that_do_not_run_is_an_output(chosen: Any) -> None:
    """As in an ordinary run: who asks for one node of a graph, and no more than is needed, wants that one."""
    dag = DAG(
        [
            Node("first", int),
            Node("middle", lambda first: first + 1, ("first",)),
            Node("last", lambda middle: middle + 1, ("middle",)),
        ]
    )
    executor = PartitionedDAGExecutor(dag, k=2, keep="outputs", **chosen)
    for result in (dag.run(keep="outputs", **chosen), executor.execute()):
        assert (result["middle"], _is_kept(result, "first")) == (1, False)


def _is_kept(result: Any, name: str) -> bool:
    try:
        result[name]
    except TaskError as error:
        return "dropped" not in str(error)
    return True


def test_a_value_that_travels_is_not_opened_on_its_way() -> None:
    """The driver may lack the type, and opening costs; it passes bytes on."""
    Counted.opened = 0
    result = PartitionedDAGExecutor(two(counted, behind), k=2, backend=Courier()).execute()
    assert result["second"] == "Counted"
    assert Counted.opened == 1
    assert result["first"].number == 3
    assert Counted.opened == 2


def test_nothing_is_pickled_where_memory_is_shared() -> None:
    """On threads a value is the object itself, whatever it is."""
    lock = threading.Lock()
    result = PartitionedDAGExecutor(two(lambda: lock, lambda value: value), k=2).execute()
    assert result["second"] is lock


def test_a_value_that_cannot_travel_fails_its_node_where_another_part_needs_it() -> None:
    """The message has the node and the remedy; who needs the value is skipped."""
    dag = DAG(
        [
            Node("first", unsendable),
            Node("apart", number),
            Node("second", behind, inputs={"value": "first"}, depends_on=["apart"]),
        ]
    )
    result = PartitionedDAGExecutor(dag, k=2, backend=Courier()).execute()
    assert result.node_results["first"].status is NodeStatus.FAILED
    assert result.node_results["second"].reason == "'first' failed"
    assert result["apart"] == 7
    with pytest.raises(TransferError, match=r"value of node 'first', a .*Unsendable, cannot travel"):
        result.raise_for_status()
    assert result.trace is not None
    spans = sorted((span.node, span.outcome) for span in result.trace)
    assert spans == [("apart", "completed"), ("first", "failed")]
    whole = PartitionedDAGExecutor(dag, k=2, on_failure="continue", backend=Courier()).execute()
    assert whole.node_results["second"].status is NodeStatus.SKIPPED


def test_a_value_that_nobody_else_needs_may_stay_where_it_is() -> None:
    """Within its part it was of use; only reading it here is impossible."""
    result = PartitionedDAGExecutor(two(unsendable, behind), k=1, backend=Courier()).execute()
    assert result.ok
    assert result["second"] == "Unsendable"
    with pytest.raises(TransferError, match="'first'"):
        result["first"]


def test_a_given_value_that_cannot_travel_is_named() -> None:
    """The user gave it, so the user can change it."""
    executor = PartitionedDAGExecutor(two(number, behind), k=2, backend=Courier(), given={"first": threading.Lock()})
    with pytest.raises(TransferError, match="'first'"):
        executor.execute().raise_for_status()


def test_a_piece_is_opened_once_for_runs_that_are_alike() -> None:
    """A worker that keeps the compiled form saves the cost of making it in every later run."""
    from dagrid.execution.pieces import _kept

    executor = PartitionedDAGExecutor(lanes(1, 6), k=2, backend=Courier())
    before = len(_kept._works)
    first = executor.execute()
    assert len(_kept._works) == before + 2
    assert executor.execute()["0.5"] == first["0.5"]
    assert len(_kept._works) == before + 2


def test_what_a_worker_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that serves for weeks must not keep every graph that it has seen."""
    from dagrid.execution import pieces

    kept = pieces._Kept()
    monkeypatch.setattr(pieces, "_kept", kept)
    monkeypatch.setattr(pieces, "MOST_KEPT", 10)
    for length in range(1, 8):
        PartitionedDAGExecutor(lanes(1, length), k=1, backend=Courier()).execute()
    assert kept._nodes == 7
    assert len(kept._works) == 1


def test_a_function_travels_once_however_many_nodes_have_it() -> None:
    """Else a graph of a thousand closures would carry a thousand copies."""
    ballast = "b" * 10_000
    courier = Courier()
    dag = lanes(1, 20, lambda a=None: len(ballast))
    assert PartitionedDAGExecutor(dag, k=1, backend=courier).execute()["0.19"] == 10_000
    assert len(courier.sent[0]) < 2 * len(ballast)


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


def test_kinds_of_tasks_and_arguments_that_only_the_worker_can_bind() -> None:
    """Conditions, constants, parts of values and async functions come through as they are."""
    import dagrid

    @dagrid.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    @dagrid.task
    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a * 2

    @dagrid.task
    def split(a: int) -> dict[str, int]:
        return {"more": a + 1}

    @dagrid.dag
    def flow() -> Any:
        one = add(1, b=2)
        return later(split(one)["more"])

    dag = flow.build()
    for k in (1, 2, 3):
        for backend in ("thread", Courier()):
            result = PartitionedDAGExecutor(dag, k=k, backend=backend).execute()
            result.raise_for_status()
            assert result["later"] == 8
    conditional = DAG(
        [Node("zero", lambda: 0), Node("never", number, when="zero"), Node("after", number, depends_on=["never"])]
    )
    for k in (1, 2, 3):
        result = PartitionedDAGExecutor(conditional, k=k, backend=Courier()).execute()
        assert [one.status.value for one in result.node_results.values()] == ["completed", "skipped", "skipped"]
        assert result.ok


def test_setup_nodes_run_before_or_are_refused() -> None:
    """They run once for a graph, and parts know nothing of each other; their values from another run are taken."""
    dag = DAG([Node("model", number, setup=True), Node("use", lambda model: model + 1, depends_on=["model"])])
    executor = PartitionedDAGExecutor(dag, k=2)
    with pytest.raises(CapabilityError, match=r"dag\.run\(targets="):
        executor.execute()
    dag.run(targets=["model"])
    assert executor.execute()["use"] == 8
    assert PartitionedDAGExecutor(dag, k=2, given={"model": 1}).execute()["use"] == 2


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Node("n", number, resources={"gpu": 1}), "asks for resources"),
        (Node("n", number, selector={"gpu": "yes"}), "selects its worker"),
        (Node("n", number, is_sequential=True), "has to run alone"),
        (Node("n", number, place="caller"), "caller's thread"),
        (Node("n", number, adds={"kind"}), "may append"),
        (Node("n", number, cache=True), "cache=False"),
    ],
)
def test_nodes_that_no_part_can_serve_are_refused_at_once(node: Node, why: str) -> None:
    """A setting that is silently ignored is worse than a refusal; the message says what to do."""
    with pytest.raises(CapabilityError, match=f"Node 'n' .*{why}.*DAG.run"):
        PartitionedDAGExecutor(DAG([node]), k=1)


def test_a_cached_node_runs_where_nothing_is_kept() -> None:
    """Its function is wrapped where it runs, and works without a cache."""
    dag = DAG([Node("n", number, cache=True), Node("m", lambda n: n + 1, depends_on=["n"], cache=True)])
    for backend in ("inline", Courier()):
        assert PartitionedDAGExecutor(dag, k=2, cache=False, backend=backend).execute()["m"] == 8


def test_settings_that_do_not_fit_are_refused_with_the_reason() -> None:
    """Before anything runs, and a typo with the name that was meant."""
    dag = lanes(1, 2)
    for name in ("resources", "checkpoint", "rules", "observers", "clock", "max_concurrency", "run_id", "max_nodes"):
        with pytest.raises(InvalidSettingError, match=f"{name} cannot be combined with parts: .*DAG.run"):
            PartitionedDAGExecutor(dag, k=1, **_nothing(name))
    with pytest.raises(InvalidSettingError, match="Did you mean 'keep'"):
        PartitionedDAGExecutor(dag, k=1, kep="all")  # type: ignore[call-arg]
    with pytest.raises(InvalidSettingError, match="cache"):
        PartitionedDAGExecutor(dag, k=1, cache=True)
    with pytest.raises(InvalidSettingError, match="max_workers"):
        PartitionedDAGExecutor(dag, k=1, max_workers=0)
    with pytest.raises(InvalidSettingError):
        PartitionedDAGExecutor(dag, k=0)
    with pytest.raises(InvalidSettingError):
        PartitionedDAGExecutor(dag, k=1, strategy="nearest")
    with pytest.raises(UnknownNodeError):
        PartitionedDAGExecutor(dag, k=1, costs={"9.9": 1.0})
    with pytest.raises(UnknownTaskError):
        PartitionedDAGExecutor(dag, k=1).execute({"9.9": number})
    with pytest.raises(PlanError):
        PartitionedDAGExecutor(DAG([Node("n", lambda x: x)]), k=1).execute()


def _nothing(name: str) -> Any:
    return {name: None}


def test_graphs_that_grow_are_refused() -> None:
    """What comes later is in no part; a task that tries all the same fails by itself."""
    import dagrid

    growing = DAG.of(lanes(1, 2).structure, lanes(1, 2).specs, rules=(Rule(lambda view: False, lambda view: Patch()),))
    with pytest.raises(CapabilityError, match="grows while it runs"):
        PartitionedDAGExecutor(growing, k=1)

    def grow() -> None:
        dagrid.current().grow(Node("more", number))

    for backend in ("inline", Courier()):
        result = PartitionedDAGExecutor(
            DAG([Node("grow", grow), Node("other", number)]), k=1, backend=backend
        ).execute()
        assert result["other"] == 7
        assert "cannot append to it" in result.node_results["grow"].reason
        with pytest.raises(CapabilityError, match=r"cannot append to it. Run the graph with DAG\.run"):
            result.raise_for_status()


def test_small_graphs_and_none() -> None:
    """A graph of nothing, and more workers than nodes."""
    assert PartitionedDAGExecutor(DAG([]), k=3).execute().ok
    assert PartitionedDAGExecutor(lanes(1, 2), k=30).execute().succeeded == 2
    assert PartitionedDAGExecutor(DAG.builder().add_nodes(["a", "b"]).build(), k=2).execute().skipped == 2


def test_the_graph_says_how_many_nodes_run_at_once() -> None:
    """`max_concurrency` of a graph holds over all its parts."""
    at_once = [0, 0]
    lock = threading.Lock()

    def count() -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        with lock:
            at_once[0] -= 1

    dag = DAG([Node(f"n{at}", count) for at in range(60)], max_concurrency=1)
    assert PartitionedDAGExecutor(dag, k=4, strategy="balanced", max_workers=3).execute().ok
    assert at_once[1] == 1


def test_the_part_with_the_most_urgent_node_goes_first() -> None:
    """Priorities hold across parts as far as these can be chosen among."""
    order: list[str] = []
    dag = DAG([Node(f"n{at}", partial(order.append, f"n{at}"), priority=at) for at in range(4)])
    assert PartitionedDAGExecutor(dag, k=4, strategy="balanced", backend="inline").execute().ok
    assert order == ["n3", "n2", "n1", "n0"]


def test_tasks_are_given_at_each_run() -> None:
    """One executor serves runs with different tasks; what was compiled for one is not used for another."""
    dag = DAG.builder().add_nodes(["a", "b"]).add_edges([("a", "b")]).build()
    with PartitionedDAGExecutor(dag, k=2, backend=Courier()) as executor:
        assert executor.execute({"a": number, "b": lambda a: a + 1})["b"] == 8
        assert executor.execute({"a": number, "b": lambda a: a + 2})["b"] == 9


def test_the_draws_of_a_run_with_a_seed_are_the_same_again() -> None:
    """Jitter must be reproducible where a seed is given."""
    dag = DAG([Node("n", flaky, retries=Retry(1, delay=0.01, jitter=1.0))])

    def delay() -> float:
        result = PartitionedDAGExecutor(dag, k=1, backend="inline", seed=5).execute()
        assert result.ok
        return next(fact.due - fact.at for fact in result._state.facts() if fact.due)

    assert delay() == pytest.approx(delay(), abs=1e-9)


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


def test_a_backend_that_loses_reports_is_told_so() -> None:
    """A stranger that returns nothing must not look like a run of nothing."""

    class Silent(Courier):
        def result(self, future: Any, timeout: float | None = None) -> Any:
            return None

    with pytest.raises(TransferError, match="in place of the report of a part"):
        PartitionedDAGExecutor(lanes(1, 2), k=2, backend=Silent()).execute()


def test_reports_are_pickled_by_any_pickler() -> None:
    """A stranger's backend uses a pickler of its own."""
    courier = Courier()
    PartitionedDAGExecutor(lanes(1, 3), k=1, backend=courier).execute()
    assert pickle.loads(courier.returned[0]).well
