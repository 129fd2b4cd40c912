"""What `keep` promises: values go when nobody needs them any more, and never before."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, Patch, Rule, TaskError, View
from dagrid.errors import InvalidSettingError, PlanError, RuleError, StoreError, UnknownNodeError
from dagrid.graph.arguments import Arguments
from tests.execution.durable_tasks import Unpicklable, note, noted

ROOT = Path(__file__).parents[2]


def chained(count: int) -> DAG:
    nodes = [Node("n0", lambda: [0])]
    nodes += [Node(f"n{n}", lambda x: [x[0] + 1], inputs={"x": f"n{n - 1}"}) for n in range(1, count)]
    return DAG(nodes)


def dropped(result: Any, name: str) -> bool:
    """Return whether a node's value is gone, with a message that says what to do."""
    try:
        result[name]
    except TaskError as error:
        return f"keep={{{name!r}" in str(error)
    return False


def test_outputs_are_kept_and_what_led_to_them_goes(backend: str) -> None:
    """The usual case: a pipeline whose intermediate tables are large."""
    result = chained(5).run(keep="outputs", backend=backend)
    assert result.ok
    assert result["n4"] == [4]
    assert all(dropped(result, f"n{n}") for n in range(4))
    assert result.node_results["n4"].value == [4]


def test_what_became_of_a_node_is_told_although_its_value_was_dropped(backend: str) -> None:
    """Status, times and attempts are no values; and a run that succeeded is not one that raises."""
    result = chained(3).run(keep="outputs", backend=backend)
    told = [(node.status, node.attempts, node.value) for node in result.node_results.values()]
    assert told == [("completed", 1, None), ("completed", 1, None), ("completed", 1, [2])]
    first = result.node_results["n0"]
    assert "was dropped" in first.reason
    assert isinstance(first.error, TaskError)
    assert chained(3).execute(keep="outputs", backend=backend)["n2"].value == [2]


def test_what_is_there_of_a_run_is_saved(backend: str, tmp_path: Path) -> None:
    """What was dropped is not, and is refused where it is asked for by name."""
    result = chained(3).run(keep="outputs", backend=backend)
    result.save(tmp_path / "values")
    again = chained(3).run(backend=backend, from_file=tmp_path / "values", targets=["n2"])
    assert (again["n2"], again.node_results["n2"].attempts) == ([2], 0)
    with pytest.raises(StoreError, match=r"'n0' has no value to be saved: .*was dropped.*keep="):
        result.save(tmp_path / "values", nodes=["n0"])
    with pytest.raises(InvalidSettingError, match=r"write nodes=\['n2'\]"):
        result.save(tmp_path / "values", nodes="n2")


def test_named_nodes_are_kept_and_no_others(backend: str) -> None:
    """An output that nobody named is not kept either."""
    result = chained(5).run(keep={"n2"}, backend=backend)
    assert result["n2"] == [2]
    assert all(dropped(result, f"n{n}") for n in (0, 1, 3, 4))


def test_a_value_is_gone_when_its_last_reader_has_ended(backend: str) -> None:
    """A value that is only marked as gone would still fill the memory."""
    seen: list[bool] = []

    class Large:
        pass

    made: list[weakref.ref[Large]] = []

    def make() -> Large:
        large = Large()
        made.append(weakref.ref(large))
        return large

    def look(b: int, c: int) -> None:
        seen.append(made[0]() is None)

    def after(d: None) -> bool:
        return made[0]() is None

    nodes = [
        Node("a", make),
        Node("b", lambda a: 1, ["a"]),
        Node("c", lambda a: a is not None, ["a"]),
        Node("d", look, ["b", "c"]),
        Node("e", after, ["d"]),
    ]
    result = DAG(nodes).run(keep="outputs", backend=backend, max_concurrency=1)
    assert result.ok
    assert result["e"] is True


def test_many_readers_all_get_the_value(backend: str) -> None:
    """Fan-out and fan-in, with nodes described before those that they read: each reader counts once, whoever is last."""
    readers = [Node(f"r{n}", lambda a, b: a + b, inputs={"a": "source", "b": "source"}) for n in range(20)]
    total = Node("total", lambda **values: sum(values.values()), [f"r{n}" for n in range(20)])
    result = DAG([total, *readers, Node("source", lambda: 3)]).run(keep="outputs", backend=backend)
    assert result["total"] == 120
    assert dropped(result, "source")
    assert dropped(result, "r7")


def test_a_value_stays_for_a_reader_that_is_tried_again(backend: str) -> None:
    """A failed try is not the end of a reader."""
    tries: list[int] = []

    def flaky(a: list[int]) -> int:
        tries.append(a[0])
        if len(tries) < 3:
            raise OSError("busy")
        return sum(tries)

    result = DAG([Node("a", lambda: [5]), Node("b", flaky, ["a"], retries=3)]).run(keep="outputs", backend=backend)
    assert result["b"] == 15
    assert dropped(result, "a")


def test_readers_that_fail_or_are_skipped_let_go_as_well(backend: str) -> None:
    """A failed branch must not hold its inputs until the end."""

    def fail(a: int) -> None:
        raise ValueError(a)

    nodes = [Node("a", lambda: 1), Node("b", fail, ["a"]), Node("c", lambda a, b: b, ["a", "b"])]
    result = DAG(nodes).run(keep="outputs", backend=backend)
    assert dropped(result, "a")
    assert result.node_result("c").status is NodeStatus.SKIPPED
    with pytest.raises(ValueError, match="1"):
        result["b"]


def test_what_is_made_when_its_readers_have_ended_already_is_not_kept(backend: str) -> None:
    """A reader that is skipped ends before what it would have taken is there."""
    nodes = [
        Node("no", lambda: False),
        Node("never", lambda no: no, ["no"], when="no"),
        Node("large", lambda no: [1], ["no"], priority=-1),
        Node("both", lambda never, large: 1, ["never", "large"]),
    ]
    result = DAG(nodes).run(keep="outputs", backend=backend, max_concurrency=1)
    assert result.node_result("both").status is NodeStatus.SKIPPED
    assert dropped(result, "large")


def test_who_is_no_part_of_a_run_takes_nothing(backend: str) -> None:
    """So what is asked for is an output, whoever would take it in another run, and wherever its value is from."""
    graph = chained(4)
    result = graph.run(keep="outputs", backend=backend, targets=["n2"])
    assert result["n2"] == [2]
    assert dropped(result, "n1")
    again = graph.run(keep="outputs", backend=backend, targets=["n2"], given={"n1": [7], "n2": [8]})
    assert again["n2"] == [8]


def late(source: str, fn: Any) -> Rule:
    """Return a rule that adds two nodes, one that reads the other, and one of them a value from before."""

    def body(view: View) -> Patch:
        return Patch([Node("last", lambda late: late, ["late"]), Node("late", fn, inputs={"x": source})])

    return Rule(lambda view: view.succeeded("b"), body, name="late")


def test_a_patch_may_read_what_is_kept(backend: str) -> None:
    """New nodes count as readers from the moment in which they are there; those of one patch may read each other."""
    graph = DAG([Node("a", lambda: 1), Node("b", lambda a: a + 1, ["a"])])
    result = graph.run(rules=[late("b", lambda x: x + 1)], keep="outputs", backend=backend)
    assert result["last"] == 3
    assert all(dropped(result, name) for name in ("a", "b", "late"))


def test_a_patch_that_reads_a_dropped_value_is_refused(backend: str) -> None:
    """It would run with something that is no value."""
    graph = DAG([Node("a", lambda: 1), Node("b", lambda a: a + 1, ["a"])])
    result = graph.run(rules=[late("a", lambda x: x + 1)], keep="outputs", backend=backend)
    with pytest.raises(RuleError, match="dropped when its last reader had ended"):
        result.raise_for_status()
    assert graph.run(rules=[late("a", lambda x: x + 1)], keep={"a", "last"}, backend=backend)["last"] == 2


@pytest.mark.parametrize("size", [10, 100_000])
def test_with_a_checkpoint_a_dropped_value_comes_from_there(tmp_path: Path, backend: str, size: int) -> None:
    """It is not in memory, and yet not lost: for readers of the result, for rules, and after a restart."""
    graph = DAG([Node("a", partial(bytes, size)), Node("b", _length, inputs={"x": "a"})])
    run = graph.start(rules=[late("a", _length)], keep={"last"}, backend=backend, checkpoint=tmp_path)
    result = run.wait(20)
    assert result["last"] == result["b"] == size
    assert len(result["a"]) == size
    again = dagrid.resume(tmp_path, run.id)
    assert len(again["a"]) == again["last"] == size


def test_with_a_checkpoint_a_dropped_value_that_was_not_kept_is_made_again(tmp_path: Path, backend: str) -> None:
    """It cannot be pickled, its readers had ended, and then the graph grows by one more: once more, and no other node."""
    log = str(tmp_path / "log")
    graph = DAG(
        [Node("zero", _seven), Node("a", partial(_unpicklable, log), ["zero"]), Node("b", _number, inputs={"x": "a"})]
    )
    run = graph.start(rules=[late("a", _number)], keep="outputs", backend=backend, checkpoint=tmp_path / "kept")
    result = run.wait(20).raise_for_status()
    assert result["last"] == 7
    assert noted(log) == ["a", "a"]
    kinds = [(event.kind, event.attempt) for event in run.events(follow=False) if event.node == "a"]
    assert kinds == [("started", 1), ("completed", 1), ("value_lost", 1), ("started", 2), ("completed", 2)]


def _seven() -> int:
    return 7


def _unpicklable(log: str, zero: int) -> Unpicklable:
    note(log, "a")
    return Unpicklable(zero)


def _number(x: Unpicklable) -> int:
    return x.number


def _length(x: bytes) -> int:
    return len(x)


def test_values_of_processes_go_as_well() -> None:
    """They are bytes there, and as large."""
    nodes = [Node("a", partial(bytes, 1000)), Node("b", _length, inputs={"x": "a"})]
    result = DAG(nodes).run(keep="outputs", backend="multiprocessing?max_workers=1")
    assert result["b"] == 1000
    assert dropped(result, "a")


@pytest.mark.parametrize("keep", ["output", "n1", 3])
def test_a_word_that_means_nothing_is_refused(keep: Any) -> None:
    """A typo would keep everything, or nothing."""
    with pytest.raises(InvalidSettingError, match="'outputs' or a set of"):
        chained(3).run(keep=keep)


def test_a_name_that_no_node_has_is_refused_before_anything_runs() -> None:
    """Found after a run of hours, the value would be gone."""
    ran: list[int] = []
    graph = DAG([Node("first", partial(ran.append, 1))])
    with pytest.raises(UnknownNodeError, match="'first'"):
        graph.run(keep={"frist"})
    assert not ran


def test_a_growing_graph_may_keep_what_comes_later() -> None:
    """Its nodes are not known yet, and until the last rule was applied nobody knows what will be read."""
    graph = DAG([Node("a", lambda: 1), Node("b", lambda a: a + 1, ["a"])])
    result = graph.run(rules=[late("b", lambda x: x)], keep={"late"})
    assert result["late"] == 2
    assert all(dropped(result, name) for name in ("a", "b", "last"))


def test_a_run_that_goes_on_makes_what_was_dropped_again(backend: str) -> None:
    """What failed needs it; what nobody needs is not made again, and neither is what is still there."""
    ran: list[str] = []
    works: list[bool] = []

    def noted(name: str, value: int) -> int:
        ran.append(name)
        return value

    def last(b: int, side: int) -> int:
        if not works:
            raise OSError("not yet")
        return b + side

    nodes = [
        Node("a", lambda: noted("a", 1)),
        Node("b", lambda a: noted("b", a + 1), ["a"]),
        Node("side", lambda: noted("side", 10)),
        Node("other", lambda: noted("other", 5)),
        Node("output", lambda other: noted("output", other), ["other"]),
        Node("last", last, ["b", "side"]),
    ]
    graph = DAG(nodes)
    failed = graph.run(keep={"side", "output"}, backend=backend)
    assert not failed.ok
    works.append(True)
    ran.clear()
    result = graph.run(from_run=failed, backend=backend)
    assert result["last"] == 12
    assert ran == ["a", "b"]
    assert result["output"] == 5
    with pytest.raises(PlanError, match=r"'b' \(for 'last'\)"):
        graph.run(from_run=failed, roots=["last"], backend=backend)


def test_what_was_not_made_is_not_saved(tmp_path: Path, backend: str) -> None:
    """With a checkpoint it is not in memory either, and the file holds what can be had."""
    nodes = [
        Node("a", partial(_unpicklable, str(tmp_path / "log")), arguments=Arguments((1,))),
        Node("b", _number, inputs={"x": "a"}),
    ]
    result = DAG(nodes).run(keep="outputs", backend=backend, checkpoint=tmp_path / "kept")
    result.save(tmp_path / "values")
    assert DAG(nodes).run(from_file=tmp_path / "values", targets=["b"], backend=backend).node_results["b"].attempts == 0
    with pytest.raises(StoreError, match="'a' has no value to be saved"):
        result.save(tmp_path / "values", nodes=["a"])


PEAK = """
import resource, sys
from dagrid import DAG, Node
def first():
    return bytearray(20_000_000)
def step(x):
    return bytearray(x)
nodes = [Node("n0", first)] + [Node(f"n{n}", step, inputs={"x": f"n{n-1}"}) for n in range(1, 50)]
graph = DAG(nodes)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = {"checkpoint": sys.argv[2]} if len(sys.argv) > 2 else {}
result = graph.run(backend=sys.argv[1], keep="outputs", **settings)
assert len(result["n49"]) == 20_000_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_fifty_large_values_in_a_row_need_the_room_of_a_few(tmp_path: Path, backend: str, checkpointed: bool) -> None:
    """1 GB passes through; the memory of the process says what was really let go of. A checkpoint pickles one of them besides."""
    path = tmp_path / "peak.py"
    path.write_text(PEAK)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(path), backend, *([str(tmp_path / "kept")] if checkpointed else [])]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 100


def test_the_outputs_of_a_described_graph_are_what_it_returns(backend: str) -> None:
    """Not every node that nobody takes is an output: a function says what it returns, in lists and by key too."""
    from dagrid import dag, task

    @task
    def number(value: int) -> int:
        return value

    @task
    def pair(value: int) -> dict[str, int]:
        return {"left": value, "right": -value}

    @dag(keep="outputs", backend=backend)
    def flow() -> Any:
        first = number(1)
        number(first)
        return [pair(first)["right"]]

    assert flow() == [-1]
    result = flow.run()
    assert dropped(result, "number")
    assert dropped(result, "number_2")
    assert result["pair"] == {"left": 1, "right": -1}


def test_a_graph_that_was_built_knows_what_its_function_returns(backend: str) -> None:
    """It is the same graph, whether it is run by the function or by whoever built it; also in part, in parts, and tuned."""
    from dagrid import PartitionedDAGExecutor, dag, task

    @task
    def number(value: int) -> int:
        return value + 1

    @dag
    def flow() -> Any:
        first = number(1)
        number(first)
        return first, number.with_options(name="last")(number.with_options(name="between")(first))

    graph = flow.build()
    executor = PartitionedDAGExecutor(graph, k=2, keep="outputs")
    for result in (flow.run(keep="outputs"), graph.run(keep="outputs", backend=backend), executor.execute()):
        assert (result["number"], result["last"]) == (2, 4)
        assert dropped(result, "between")
        assert dropped(result, "number_2")
    part = graph.run(keep="outputs", backend=backend, targets=["between"])
    assert (part["number"], part["between"]) == (2, 3)
    part = PartitionedDAGExecutor(graph, k=2, keep="outputs", targets=["between"]).execute()
    assert (part["number"], part["between"]) == (2, 3)

    @dag
    def nothing() -> None:
        number.with_options(name="last")(number(1))

    assert nothing.run(keep="outputs")["last"] == 3
    assert dropped(nothing.build().run(keep="outputs"), "number")
