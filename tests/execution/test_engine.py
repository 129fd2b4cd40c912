"""Running graphs through the public face, on the threads of this process and in the caller's own thread."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dagrid import (
    DAG,
    DAGExecutor,
    DistributedExecutor,
    Node,
    NodeStatus,
    PartitionedDAGExecutor,
    Retry,
    RunStatus,
    dag,
)
from dagrid.assemble import view
from dagrid.errors import (
    InternalError,
    InvalidNodeError,
    InvalidSettingError,
    TaskError,
    TaskSkippedError,
    TaskTimeoutError,
    UnboundParameterError,
    UnknownBackendError,
    UnknownTaskError,
    UnsatisfiableError,
)
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.execution.simulate import VirtualBackend, simulate

PATIENCE = 10.0
PARTLY = RunStatus.PARTIALLY_SUCCEEDED


# --- results flow ---------------------------------------------------------------------------------------------------------


def test_results_flow_by_name_by_inputs_by_rest_and_past_defaults(backend: str) -> None:
    """Each way in which a function may ask for what came before it, and a function that asks for nothing."""

    def total(one: int, two: int) -> int:
        return one + two

    def renamed(left: int, *, right: int) -> int:
        return left - right

    def rest(one: int, **results: int) -> dict[str, int]:
        return results

    def usual(one: int, missing: int = 40, two: int = 0) -> int:
        return one + missing + two

    dag = DAG(
        [
            Node("one", lambda: 1),
            Node("two", lambda: 2),
            Node("total", total, ["one", "two"]),
            Node("renamed", renamed, inputs={"left": "two", "right": "one"}),
            Node("rest", rest, ["one", "two", "total"]),
            Node("usual", usual, ["one", "two"]),
            Node("nothing", lambda: "alone", ["rest"]),
        ]
    )
    result = dag.run(backend=backend)
    assert {name: result[name] for name in result} == {
        "one": 1,
        "two": 2,
        "total": 3,
        "renamed": 1,
        "rest": {"two": 2, "total": 3},
        "usual": 43,
        "nothing": "alone",
    }


def test_tasks_of_the_run_replace_those_of_the_nodes(backend: str) -> None:
    """The same graph runs with other functions, and remembers none of them."""
    dag = DAG([Node("a", lambda: 1), Node("b", lambda a: a + 1, ["a"])])
    assert dag.run({"a": lambda: 10}, backend=backend)["b"] == 11
    assert dag.run(backend=backend)["b"] == 2


def test_a_node_without_a_task_is_passed_over(backend: str) -> None:
    """Its successors run; the result says why it has no value."""
    result = DAG([Node("a", int), Node("milestone", None, ["a"]), Node("b", str, ["milestone"])]).run(backend=backend)
    assert result.ok
    assert result["b"] == ""
    assert result.node_results["milestone"].status is NodeStatus.SKIPPED
    assert result.node_results["milestone"].reason == "it has no task"


def first() -> int:
    return 1


def test_the_functions_of_a_run_are_given_by_name_or_by_the_function_of_the_node() -> None:
    """As everywhere else a function means its own name; so do the seconds of a critical path."""
    dag = DAG([Node(first, first), Node("second", lambda first: first + 1, [first])])
    assert dag.run({first: lambda: 5})["second"] == 6
    assert DAGExecutor(dag).execute({first: lambda: 6})["second"] == 7
    assert dag.critical_path({first: 3.0, "second": 1.0}).length == 4.0
    with pytest.raises(UnknownTaskError, match="'deep'"):
        dag.run({deep: first})


# --- refused before anything runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "tasks", "settings", "error", "says"),
    [
        ([], {"frist": int}, {}, UnknownTaskError, "Did you mean 'first'"),
        ([], {"first": 3}, {}, InvalidNodeError, "'first' cannot be called"),
        ([], [int], {}, InvalidSettingError, "tasks is a dict"),
        ([Node("b", lambda frist: 0, ["first"])], {}, {}, UnboundParameterError, "names no predecessor"),
        ([Node("b", lambda c: 0, ["c"]), Node("c")], {}, {}, UnboundParameterError, "has no task and so no result"),
        ([Node("b", int, inputs={"x": "first"})], {}, {}, UnboundParameterError, r"'x'.* such as lambda x: int\(x\)"),
        (
            [Node("b", partial(partial(pow, exp=2), mod=3))],
            {},
            {},
            UnboundParameterError,
            r"The task pow\(\) of node 'b'",
        ),
        ([], {}, {"node_timeout": -1}, InvalidSettingError, "node_timeout"),
        ([], {}, {"max_concurrency": 0}, InvalidSettingError, "max_concurrency"),
        ([], {}, {"resources": {"cpu": -1}}, InvalidSettingError, "capacity of resource 'cpu'"),
        ([], {}, {"resources": ["cpu"]}, InvalidSettingError, "resources is a dict"),
        ([], {}, {"places": ["command"]}, InvalidSettingError, "places is a dict"),
        ([], {}, {"observers": 5}, InvalidSettingError, r"write observers=\[5\]"),
        ([], {}, {"observers": [print]}, InvalidSettingError, "observers holds objects with begin"),
        ([], {}, {"on_failure": "shrug"}, InvalidSettingError, "on_failure"),
        ([], {}, {"progress": "maybe"}, InvalidSettingError, "progress is True, False, or None"),
        ([], {}, {"tracing": "no"}, InvalidSettingError, "tracing is True or False"),
        ([], {}, {"seed": [1]}, InvalidSettingError, "seed is a whole number"),
        ([], {}, {"clock": 5}, InvalidSettingError, "an object with now and call_at"),
        ([Node("b", int, resources={"gpu": 2})], {}, {"resources": {"gpu": 1}}, UnsatisfiableError, "asks for 2"),
        ([Node("b", int, resources={"gpu": 1})], {}, {}, UnsatisfiableError, "which this run does not have"),
        ([], {}, {"backend": "thraed"}, UnknownBackendError, "Did you mean 'thread'"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    nodes: list[Node], tasks: Any, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Each has its own type and a message that helps, and no task has been called."""
    ran: list[str] = []
    dag = DAG([Node("first", lambda: ran.append("first")), *nodes])
    with pytest.raises(error, match=says):
        dag.run(tasks, **settings)
    assert ran == []


class Onlooker:
    """One that has no place to write to."""

    def begin(self, run: Any) -> None:
        raise OSError("no space left")

    def end(self) -> None:
        """It did not begin."""


@pytest.mark.parametrize("backend", ["Thread", " thread ", "THREAD?max_workers=1", "Inline"])
def test_a_backend_is_named_in_capitals_too(backend: str) -> None:
    """As the scheme of any URL may be, `GRPC://HOST:50055` say."""
    assert DAG([Node("a", int)]).run(backend=backend)["a"] == 0


def test_a_run_whose_onlooker_cannot_begin_does_not_go_on_without_a_handle(tmp_path: Path) -> None:
    """Nobody could wait for it or cancel it, and its record would say that it runs."""
    with pytest.raises(OSError, match="no space"):
        DAG([Node("first", lambda: 1)]).run(checkpoint=tmp_path, run_id="r", observers=[Onlooker()], backend="inline")
    seen = view(tmp_path, "r")
    assert seen.result().status == "aborted"
    seen.close()


def test_what_cannot_look_at_a_run_is_refused_before_its_record_is_made(tmp_path: Path) -> None:
    """A class in the place of an object, and one that is not in a list."""
    observers: Any
    for observers in ([Onlooker], Onlooker()):
        with pytest.raises(InvalidSettingError, match="observers"):
            DAG([Node("first", lambda: 1)]).run(checkpoint=tmp_path / "runs", observers=observers)
    assert not list(tmp_path.iterdir())


# --- failures -------------------------------------------------------------------------------------------------------------


def deep() -> None:
    raise ValueError("deep inside")


class UnspeakableError(Exception):
    """An exception whose text fails."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), UnspeakableError(), Exception()])
def test_whatever_a_task_raises_is_its_outcome(backend: str, error: BaseException) -> None:
    """Not even SystemExit, nor an exception that cannot be printed, ends the engine or leaves it hanging."""

    def fail() -> None:
        raise error

    result = DAG([Node("bad", fail), Node("after", int, ["bad"]), Node("other", int)]).run(backend=backend)
    assert result.status is RunStatus.FAILED
    assert result.counts()["completed"] == result.counts()["failed"] == result.counts()["skipped"] == 1
    with pytest.raises(type(error)):
        result["bad"]
    with pytest.raises(TaskSkippedError, match="'bad' failed"):
        result["after"]


def test_an_exception_keeps_its_traceback(backend: str) -> None:
    """The user looks for the line that failed, which is in the task and not in the engine."""
    result = DAG([Node("bad", deep)]).run(backend=backend)
    with pytest.raises(ValueError, match="deep inside") as caught:
        result.raise_for_status()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "deep"
    assert result.node_results["bad"].reason == "ValueError: deep inside"


@pytest.mark.parametrize(
    ("mode", "expected", "status"),
    [
        ("skip", {"bad": "failed", "value": "skipped", "order": "skipped", "other": "completed"}, RunStatus.FAILED),
        (
            "continue",
            {"bad": "failed", "value": "skipped", "order": "completed", "other": "completed"},
            RunStatus.PARTIALLY_SUCCEEDED,
        ),
        ("stop", {"bad": "failed", "value": "skipped", "order": "skipped", "other": "cancelled"}, RunStatus.FAILED),
    ],
)
def test_what_a_failure_means_for_the_rest(
    backend: str, mode: Any, expected: dict[str, str], status: RunStatus
) -> None:
    """The three modes on the smallest graph that tells them apart."""
    nodes = [
        Node("bad", deep),
        Node("value", lambda bad: bad, ["bad"]),
        Node("order", int, ["bad"]),
        Node("other", int),
    ]
    result = DAG(nodes).run(backend=backend, on_failure=mode, max_concurrency=1)
    assert {name: str(node.status) for name, node in result.node_results.items()} == expected
    assert result.status is status


def test_a_failed_node_is_tried_again(backend: str) -> None:
    """As often as its policy says, also after a delay in the thread of the caller, and only for errors worth it."""
    tries: list[str] = []

    def flaky() -> int:
        tries.append("flaky")
        if tries.count("flaky") < 3:
            raise OSError("not yet")
        return 7

    def wrong() -> None:
        tries.append("wrong")
        raise ValueError

    dag = DAG(
        [Node("flaky", flaky, retries=Retry(2, delay=0.001)), Node("wrong", wrong, retries=Retry(5, on=(OSError,)))]
    )
    result = dag.run(backend=backend)
    assert result["flaky"] == 7
    assert result.node_results["flaky"].attempts == 3
    assert (tries.count("flaky"), tries.count("wrong")) == (3, 1)


def test_retries_wait_their_time_on_a_virtual_clock() -> None:
    """1 s, then 2 s: the second try starts at 2, the third at 5, and the trace has one span each."""
    backend = VirtualBackend(workers=1)
    result = DAG([Node("bad", deep, retries=Retry(2, delay=1.0))]).run(backend=backend, clock=backend.clock)
    assert result.trace is not None
    assert [(span.started, span.ended, span.outcome) for span in result.trace] == [
        (0.0, 1.0, "retry"),
        (2.0, 3.0, "retry"),
        (5.0, 6.0, "failed"),
    ]


def test_a_timeout_frees_the_slot_of_a_thread() -> None:
    """One worker, whose task would never end: the next task runs all the same, and the late value is not kept."""
    release = threading.Event()
    slow = Node("slow", lambda: release.wait(PATIENCE), priority=1, timeout=0.02)
    result = DAG([slow, Node("next", release.is_set)]).run(backend=ThreadBackend(1))
    release.set()
    assert result["next"] is False
    with pytest.raises(TaskTimeoutError, match=r"timeout of 0\.02 s"):
        result["slow"]
    assert result.node_results["slow"].status is NodeStatus.TIMED_OUT


# --- order and limits -----------------------------------------------------------------------------------------------------


def ran_in_order(nodes: list[Node], **settings: Any) -> list[str]:
    order: list[str] = []
    tasks = {node.id: (lambda name=node.id: order.append(name)) for node in nodes}
    assert DAG(nodes).run(tasks, **settings).ok
    return order


def test_one_worker_takes_larger_priorities_then_longer_paths_then_insertion(backend: str) -> None:
    """The order of ready nodes is a promise."""
    nodes = [Node("d"), Node("c"), Node("b"), Node("a", priority=2), Node("low", priority=-1), Node("b2", None, ["b"])]
    assert ran_in_order(nodes, backend=backend, max_concurrency=1) == ["a", "b", "d", "c", "b2", "low"]


class Gauge:
    """Counts how many tasks are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.seen: dict[str, int] = {}
        self._guard = threading.Lock()

    def task(self, name: str, barrier: threading.Barrier | None = None) -> Callable[[], None]:
        def body() -> None:
            with self._guard:
                self.inside += 1
                self.most = max(self.most, self.inside)
                self.seen[name] = self.inside
            if barrier is not None:
                barrier.wait(PATIENCE)
            with self._guard:
                self.inside -= 1

        return body


def test_a_sequential_node_runs_alone() -> None:
    """The others run two at once (a barrier proves it), this one never beside them."""
    gauge, barrier = Gauge(), threading.Barrier(2)
    pairs = [Node(f"p{number}", gauge.task(f"p{number}", barrier)) for number in range(4)]
    dag = DAG([*pairs, Node("alone", gauge.task("alone"), is_sequential=True)])
    assert dag.run(backend=ThreadBackend(2)).ok
    assert gauge.seen["alone"] == 1
    assert gauge.most == 2


@pytest.mark.parametrize("settings", [{"max_concurrency": 2}, {"resources": {"cpu": 2}}])
def test_limits_of_the_run_hold(settings: dict[str, Any]) -> None:
    """Two at once can be (a barrier proves it), three never are."""
    gauge, barrier = Gauge(), threading.Barrier(2)
    needs = {"cpu": 1} if "resources" in settings else None
    dag = DAG([Node(f"n{number}", gauge.task(f"n{number}", barrier), resources=needs) for number in range(20)])
    assert dag.run(backend=ThreadBackend(8), **settings).ok
    assert gauge.most == 2


def test_a_node_starts_when_its_own_predecessors_have_ended() -> None:
    """The second of a short branch runs while the first of a long one does: the long one waits for it."""
    reached = threading.Event()
    nodes = [Node("long", lambda: reached.wait(PATIENCE)), Node("short", int), Node("next", reached.set, ["short"])]
    assert DAG(nodes).run(backend=ThreadBackend(2))["long"] is True


def test_one_graph_runs_twice_at_once() -> None:
    """Two threads, one graph object, other tasks: no value crosses over."""
    dag = DAG([Node("a"), Node("b", lambda a: a * 2, ["a"]), *(Node(f"c{n}", lambda b: b, ["b"]) for n in range(50))])
    meet = threading.Barrier(2)
    sums: dict[int, int] = {}

    def one(value: int) -> None:
        def first() -> int:
            meet.wait(PATIENCE)
            return value

        result = dag.run({"a": first})
        sums[value] = sum(result[f"c{n}"] for n in range(50))

    threads = [threading.Thread(target=one, args=(value,)) for value in (1, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sums == {1: 100, 1000: 100_000}


# --- faults ---------------------------------------------------------------------------------------------------------------


def test_a_backend_that_reports_text_in_place_of_an_exception_still_fails_the_node() -> None:
    """Strangers report what they have; what the caller gets is an exception of ours with that text."""
    from dagrid.machine.events import Finished, Outcome

    backend = VirtualBackend(workers=1)
    run = DAG([Node("a", int)]).start(backend=backend, clock=backend.clock)
    run._engine.report([Finished(0, 0, Outcome.FAILED, 0.0, 0.0, error="out of paper")])
    with pytest.raises(TaskError, match="out of paper"):
        run.wait()["a"]


def test_a_fault_of_ours_ends_the_run_and_asks_for_a_report(backend: str) -> None:
    """Nobody shall wait for ever because the scheduler broke, nor take it for a mistake of theirs."""
    gate = threading.Event()
    run = DAG([Node("a", lambda: gate.wait(PATIENCE)), Node("b", int, ["a"])]).start(backend=backend)
    run._engine.state.waiting.clear()
    gate.set()
    with pytest.raises(InternalError, match="report it") as caught:
        run.wait(PATIENCE).raise_for_status()
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_fault_of_a_backend_ends_the_run() -> None:
    """A backend that raises where it must not would leave everybody waiting: the run fails with what it raised."""

    def seconds(node: str) -> float:
        if node == "b":
            raise LookupError("out of order")
        return 1.0

    backend = VirtualBackend(durations=seconds)
    run = DAG([Node("a", int), Node("b", int, ["a"])]).start(backend=backend, clock=backend.clock)
    result = run.wait(0)
    assert result.status is RunStatus.FAILED
    with pytest.raises(LookupError, match="out of order"):
        result.raise_for_status()
    assert list(run.events())[-1].kind != "run_ended"


@pytest.mark.parametrize(
    "execute",
    [DAGExecutor, partial(DistributedExecutor, backend="inline"), partial(PartitionedDAGExecutor, k=1), simulate],
)
def test_what_is_executed_is_a_graph(execute: Callable[[Any], object]) -> None:
    """A function that describes one has `run` too, which would take the tasks for its first argument."""

    @dag
    def described(day: int) -> None:
        del day

    for wrong in (described, [Node("a", int)]):
        with pytest.raises(InvalidSettingError, match=r"is a DAG, not .* give what its build\(\.\.\.\) returns"):
            execute(wrong)
