"""What `keep` promises where values go element by element: there are no more of them at a time than are worked on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, PartitionedDAGExecutor, Patch, Rule, TaskError, View, dag, task
from dagrid.errors import RuleError, TransferError
from dagrid.graph.arguments import Arguments
from dagrid.graph.grow import for_each, map_over, map_reduce

MANY = 30


class Large:
    """A value of which it is counted how many there are."""

    alive = peak = 0
    _lock = threading.Lock()

    def __init__(self, number: int) -> None:
        self.number = number
        with Large._lock:
            Large.alive += 1
            Large.peak = max(Large.peak, Large.alive)

    def __del__(self) -> None:
        with Large._lock:
            Large.alive -= 1


@pytest.fixture(autouse=True)
def none_yet() -> None:
    Large.alive = Large.peak = 0


@pytest.fixture(params=["inline", "thread?max_workers=2"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@task
def listed(count: int) -> list[int]:
    return list(range(count))


@task
def load(number: int) -> Large:
    return Large(number)


@task
def shrink(large: Large) -> int:
    return large.number


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def count(larges: list[Large]) -> int:
    return len(larges)


@dag
def known_later(many: int) -> int:
    return total(shrink.map(load.map(listed(many))))


@dag
def known_before(many: int) -> int:
    return total(shrink.map(load.map(list(range(many)))))


def is_dropped(result: Any, name: str) -> bool:
    try:
        result[name]
    except TaskError as error:
        return "was dropped" in str(error)
    return False


@pytest.mark.parametrize("flow", [known_later, known_before])
def test_each_element_goes_through_before_others_begin(flow: Any, backend: str) -> None:
    """All first steps have the longer way to the end; if they went first, all their values would be there at once."""
    for result in (
        flow.run(MANY, keep="outputs", backend=backend),
        flow.build(MANY).run(keep="outputs", backend=backend),
    ):
        assert result["total"] == sum(range(MANY))
        assert Large.peak <= 4


def test_so_it_is_with_a_rule(backend: str) -> None:
    """Elements of ready rules are no others."""
    rule = map_reduce(
        "listed", Node("load", Large), Node("shrink", lambda large: large.number), reduce=Node("total", sum)
    )
    result = DAG([Node("listed", lambda: list(range(MANY)))]).run(rules=[rule], keep="outputs", backend=backend)
    assert result["total"] == sum(range(MANY))
    assert Large.peak <= 4


def test_so_it_is_without_rules(backend: str) -> None:
    """Chains that are described outright are no others."""
    nodes = [Node(f"load{n}", Large, arguments=Arguments((n,))) for n in range(MANY)]
    nodes += [Node(f"shrink{n}", lambda large: large.number, inputs={"large": f"load{n}"}) for n in range(MANY)]
    assert DAG(nodes).run(keep="outputs", backend=backend).ok
    assert Large.peak <= 4


def test_priority_goes_before_depth() -> None:
    """What a user says outright counts for more than the room that it takes."""
    began: list[str] = []

    def noted(name: str, **more: Any) -> Node:
        return Node(name, lambda **_: began.append(name), **more)

    nodes = [noted("a"), noted("b", depends_on=["a"]), noted("c", priority=1), noted("d"), noted("e", depends_on=["d"])]
    DAG(nodes).run(backend="inline", keep="outputs")
    assert began == ["c", "a", "b", "d", "e"]
    began.clear()
    DAG(nodes).run(backend="inline")
    assert began == ["c", "a", "d", "b", "e"]


def test_of_the_nodes_of_one_depth_the_longest_way_goes_first() -> None:
    """A long chain is begun first all the same, and then goes on before others begin."""
    began: list[str] = []

    def noted(name: str, **more: Any) -> Node:
        return Node(name, lambda **_: began.append(name), **more)

    nodes = [noted("short"), noted("long"), noted("long2", depends_on=["long"]), noted("long3", depends_on=["long2"])]
    DAG(nodes).run(backend="inline", keep="outputs")
    assert began == ["long", "long2", "long3", "short"]


def test_what_is_mapped_over_is_no_output(backend: str) -> None:
    """Somebody has taken it, item by item; neither it nor the list of a map that is mapped on stays."""
    result = known_later.build(3).run(keep="outputs", backend=backend)
    assert result["total"] == 3
    assert is_dropped(result, "listed")
    assert is_dropped(result, "load")
    ruled = DAG([Node("listed", lambda: [1, 2])]).run(rules=[map_over("listed", Node("step", abs))], keep="outputs")
    assert (ruled["step[0]"], ruled["step[1]"]) == (1, 2)
    assert is_dropped(ruled, "listed")


def test_a_list_that_somebody_asks_for_is_made(backend: str) -> None:
    """By name, by another task, by returning it, or by an index: then its elements stay until it has been read."""

    @dag
    def asked(many: int) -> Any:
        loaded = load.map(listed(many))
        return total(shrink.map(loaded)), count(loaded)

    @dag
    def returned(many: int) -> Any:
        loaded = load.map(listed(many))
        return total(shrink.map(loaded)), loaded

    assert [one.number for one in known_later.run(3, keep={"load"}, backend=backend)["load"]] == [0, 1, 2]
    assert [one.number for one in known_before.run(3, keep={"load"}, backend=backend)["load"]] == [0, 1, 2]
    assert [one.number for one in known_later.run(3, backend=backend)["load"]] == [0, 1, 2]
    assert asked.run(3, keep="outputs", backend=backend)["count"] == 3
    assert [one.number for one in returned.run(3, keep="outputs", backend=backend)["load"]] == [0, 1, 2]
    assert [one.number for one in returned.build(3).run(keep="outputs", backend=backend)["load"]] == [0, 1, 2]


def test_a_list_is_an_output_where_nothing_of_its_items_runs_on(backend: str) -> None:
    """What is asked for is what the run ends with, though the graph would map it on."""
    for graph in (known_later.build(3), known_before.build(3)):
        result = graph.run(targets=["load"], keep="outputs", backend=backend)
        assert [one.number for one in result["load"]] == [0, 1, 2]
    result = known_later.build(3).run(exclude=["shrink"], keep="outputs", backend=backend)
    assert len(result["load"]) == 3


def test_a_map_over_nothing_goes_on_with_nothing(backend: str) -> None:
    """An empty list holds nobody's items up, and who maps it on takes it as it is."""
    for graph in (known_later.build(0), known_before.build(0)):
        assert graph.run(keep="outputs", backend=backend).raise_for_status()["total"] == 0


def test_a_longer_graph_may_ask_for_the_list(backend: str) -> None:
    """Who extends a graph, or cuts a piece out of it, asks anew."""
    more = Node("more", len, inputs={"obj": "load"})
    for graph in (known_later.build(3), known_before.build(3)):
        assert graph.extend([more]).run(keep="outputs", backend=backend)["more"] == 3
    piece = known_before.build(3).compose(inputs=["load[0]"], outputs="load")
    assert [getattr(one, "number", one) for one in piece(5)] == [5, 1, 2]


def test_a_workflow_for_each_element_brings_its_lists(backend: str) -> None:
    """What a workflow ends with is read by a node that it does not know, whether it was mapped on or not."""

    def ends(values: list[Any]) -> int:
        return len([one for one in values if isinstance(one, list) and len(one) == 3])

    for workflow in (known_later.build(3), known_before.build(3)):
        rule = for_each("roots", workflow, name="each", reduce=Node("ends", ends))
        result = DAG([Node("roots", lambda: [1, 2])]).run(rules=[rule], keep="outputs", backend=backend)
        expected = DAG([Node("roots", lambda: [1, 2])]).run(rules=[rule], backend=backend)
        assert result["ends"] == expected["ends"]


def test_a_rule_that_asks_for_a_list_that_was_not_made_is_told_how_to_get_it(backend: str) -> None:
    """It would find a value that is none; a patch that takes it is refused as one that takes a dropped value is."""
    holds = Rule(lambda view: view.succeeded("total"), lambda _: Patch([Node("late", len, inputs={"obj": "load"})]))
    result = known_later.build(2).run(rules=[holds], keep="outputs", backend=backend)
    with pytest.raises(RuleError, match=r"keep=\{'load'"):
        result.raise_for_status()
    assert known_later.build(2).run(rules=[holds], keep={"load", "late"}, backend=backend)["late"] == 2


def test_with_a_checkpoint_a_list_is_made_when_somebody_may_ask_for_it(tmp_path: Path, backend: str) -> None:
    """Its items are in the record. One that was not made says so when it is read, and is never some other value."""
    holds = Rule(total_is_there, load_is_counted)
    run = known_later.build(4).start(keep="outputs", backend=backend, checkpoint=tmp_path, rules=[holds])
    result = run.wait().raise_for_status()
    assert (result["total"], result["late"]) == (6, 4)
    plain = known_later.build(4).start(keep="outputs", backend=backend, checkpoint=tmp_path)
    plain.wait()
    for seen in (plain.wait(), dagrid.resume(tmp_path, plain.id)):
        assert seen["shrink[3]"] == 3
        with pytest.raises(TransferError, match="nobody asked for this list"):
            seen["load"]
    assert Large.peak <= 8


def total_is_there(view: View) -> bool:
    return view.succeeded("total")


def load_is_counted(_: View) -> Patch:
    return Patch([Node("late", len, inputs={"obj": "load"})])


@pytest.mark.parametrize("backend", ["thread", "multiprocessing?max_workers=2"])
def test_lists_that_are_asked_for_and_others_side_by_side(backend: str) -> None:
    """Calls that ride on others, and values that are opened late, are the usual case in processes."""

    @dag
    def both(many: int) -> Any:
        one, other = plus.map(listed(many)), plus.map(range(many))
        return total(plus.map(plus.map(one))), total(other), plus.map(other)

    assert both.run(50, keep="outputs", backend=backend)["total"] == sum(range(50)) + 150
    assert dag(keep="outputs", backend=backend)(both.fn)(50) == both(50)


def test_parts_keep_no_list_that_nobody_asks_for() -> None:
    """What counts as an output there is what counts as one everywhere."""
    graph = known_before.build(4)
    result = PartitionedDAGExecutor(graph, k=2, strategy="balanced", keep="outputs").execute()
    assert result["total"] == 6
    assert is_dropped(result, "load")
    named = PartitionedDAGExecutor(graph, k=2, strategy="balanced", keep={"load"}).execute()
    assert [one.number for one in named["load"]] == [0, 1, 2, 3]


@task
def plus(number: int) -> int:
    return number + 1
