"""What a `@dag` function records: names, edges, settings, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import Node, Retry, dag, task
from dagrid.assemble import RunSettings
from dagrid.commands import Launch
from dagrid.errors import HandleError
from dagrid.graph import authoring
from dagrid.graph.arguments import Arguments
from tests.authoring import flows
from tests.authoring.flows import describe, leaf

ROOT = Path(__file__).parents[2]


def test_outside_of_a_description_a_task_is_its_function():
    """Tasks are tested and reused as the functions that they are."""
    assert flows.load(2) == [1, 2]
    assert flows.total([1, 2], factor=2) == 6
    assert flows.load.__name__ == "load"
    assert flows.load.__wrapped__ is flows.load.fn  # type: ignore[attr-defined]


def test_ids_are_the_names_of_functions_counted():
    """Names are what a user sees in traces, messages and pictures."""

    @task(name="leaf_2")
    def taken():
        return 0

    graph = describe(lambda: [leaf(), taken(), leaf(), leaf(), taken()])
    assert graph.node_names() == ["leaf", "leaf_2", "leaf_3", "leaf_4", "leaf_2_2"]


def test_nested_flows_prefix_their_nodes():
    """Every use of a nested flow can be told from the others."""

    @dag(max_concurrency=1)
    def inner(value):
        return leaf(leaf(value))

    @dag(name="middle")
    def between(value):
        return inner(inner(value))

    @dag(max_concurrency=3)
    def outer():
        return leaf(between(leaf()), between(1))

    graph = outer.build()
    assert graph.name == "outer"
    assert graph.max_concurrency == 3
    assert graph.node_names() == [
        "leaf",
        *(f"middle.inner{which}.leaf{number}" for which in ("", "_2") for number in ("", "_2")),
        *(f"middle_2.inner{which}.leaf{number}" for which in ("", "_2") for number in ("", "_2")),
        "leaf_2",
    ]
    assert outer.run(backend="inline")["leaf_2"] == (((((((),),),),),)[0], ((((1,),),),))


def test_the_prefix_is_restored_after_an_error():
    """Whoever catches an error of a nested flow goes on where he was."""

    @dag
    def inner():
        raise KeyError("no")

    def outer():
        with pytest.raises(KeyError):
            inner()
        return leaf()

    assert describe(outer).node_names() == ["leaf"]


def test_two_hundred_nested_flows():
    """Depth is limited by Python's own stack and by nothing else."""

    @dag
    def deeper(depth):
        return leaf(deeper(depth - 1)) if depth else leaf()

    graph = deeper.build(200)
    assert len(graph) == 201
    assert graph.node_names()[0] == "deeper." * 200 + "leaf"
    assert graph.run(backend="inline").ok


def test_edges_are_the_handles_among_the_arguments_each_once():
    """Containers count too; constants do not."""

    def flow():
        a, b = leaf(), leaf()
        return leaf(a, [a, (b, {"k": a[0]})], 3, key(x=b, y=4))

    @task
    def key(*, x, y):
        return x, y

    assert describe(flow).edges() == [("leaf_2", "key"), ("leaf", "leaf_3"), ("leaf_2", "leaf_3"), ("key", "leaf_3")]


def test_settings_reach_the_nodes():
    """Everything that a node can say of its run can be said at the function."""
    marked = task(
        name="n", priority=2, is_sequential=True, resources={"gpu": 1}, selector={"a": "b"}, retries=2, timeout=3.0,
        cost=4.0, kind="k", on_lost="fail",
    )(leaf.fn)  # fmt: skip
    node = describe(lambda: marked(1)).node("n")
    settings = node.settings()
    assert settings.pop("fn")(1) == (1,)
    assert settings.pop("arguments") == Arguments((1,))
    assert settings == Node(
        "n", None, (), 2, True, resources={"gpu": 1}, selector={"a": "b"}, retries=Retry(2), timeout=3.0, cost=4.0, kind="k",
        on_lost="fail",
    ).settings()  # fmt: skip


def test_a_task_can_be_marked_twice():
    """The same function with other settings is another task."""
    urgent = task(name="urgent", priority=5)(leaf.fn)
    graph = describe(lambda: [leaf(), urgent()])
    assert [graph.node(name).priority for name in graph] == [0, 5]


def test_the_names_of_settings_are_those_of_a_run():
    """`@dag` and `.run` sort their arguments by this list; one that is missing would be handed to the function."""
    assert set(RunSettings.__annotations__) == authoring.SETTINGS


def test_graphs_described_by_eight_threads_at_once_are_equal():
    """Describing is known by a context, never by a global."""
    found: list[Any] = []
    begin = threading.Barrier(8)

    def describe_it() -> None:
        begin.wait(10)
        found.extend([flows.everything.build().to_records() for _ in range(20)])

    threads = [threading.Thread(target=describe_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert all(one == found[0] for one in found)


@pytest.mark.slow
def test_ids_and_order_do_not_depend_on_the_hash_seed():
    """Two processes of one program must mean the same by a name."""
    program = (
        "from tests.authoring import flows; g = flows.everything.build();"
        "print(g.node_names(), g.edges(), g.topological_sort());"
        "run = g.start(backend='inline'); run.wait(20); print([event.node for event in run.events()])"
    )
    said = set()
    for seed in ("1", "2", "77"):
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        said.add(
            subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
        )
    assert len(said) == 1
    assert "split" in said.pop()


def test_twenty_thousand_nodes():
    """Building is linear; a quadratic one takes minutes here."""

    def flow(count):
        top = leaf()
        for _ in range(count - 1):
            top = leaf(top)
        return top

    began = perf_counter()
    graph = describe(flow, 20_000)
    assert perf_counter() - began < 5.0
    assert len(graph) == 20_000
    assert graph.node_names()[-1] == "leaf_20000"


def test_one_task_may_take_very_many_handles():
    """A join of thousands is ordinary."""
    graph = describe(lambda: leaf(*[leaf() for _ in range(5_000)], [leaf() for _ in range(5_000)]))
    assert graph.in_degree("leaf_10001") == 10_000


@given(st.recursive(st.integers(0, 3) | st.just("h"), lambda inside: st.lists(inside, max_size=3)
       | st.dictionaries(st.text(max_size=2), inside, max_size=3) | st.tuples(inside, inside), max_leaves=8))  # fmt: skip
def test_any_nesting_comes_back_as_it_was(shape):
    """Whatever is built of handles and constants arrives with values in place of handles, as argument and as result."""

    def put(one, value):
        if one == "h":
            return value
        if isinstance(one, dict):
            return {key: put(each, value) for key, each in one.items()}
        return type(one)(put(each, value) for each in one) if isinstance(one, (list, tuple)) else one

    @dag(backend="inline")
    def flow():
        handle = leaf("v")
        return put(shape, handle), leaf(put(shape, handle))

    assert flow() == (put(shape, ("v",)), (put(shape, ("v",)),))


class Pair(NamedTuple):
    left: Any
    right: Any


class Marked(list[Any]):
    mark = ""


def marked(*items: Any) -> Marked:
    made = Marked(items)
    made.mark = "kept"
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda value: Pair(value, 1),
        lambda value: Pair(1, [Pair(value, 2)]),
        lambda value: OrderedDict(b=value, a=1),
        lambda value: defaultdict(list, {"a": value}),
        lambda value: Counter({"a": value, "b": 2}),
        lambda value: marked(1, value),
        lambda value: slice(value, None, 2),
    ],
)
def test_subclasses_of_containers_keep_their_type(make):
    """A handle in them is an edge like any other, and what arrives is what was written, with the value in its place."""

    @dag(backend="inline")
    def flow():
        value = flows.total([1, 2])
        return make(value), leaf(make(value))

    assert flow.build().edges() == [("total", "leaf")]
    returned, (given,) = flow()
    for found in (returned, given):
        assert found == make(3)
        assert type(found) is type(make(3))
        assert getattr(found, "mark", "kept") == "kept"
        assert getattr(found, "default_factory", list) is list


def test_an_index_may_hold_handles():
    """A slice and a tuple of handles are looked up when their values are there, as one handle is."""

    @dag(backend="inline")
    def flow():
        values, count = leaf(1, 2, 3), flows.total([1, 1])
        table = leaf.with_options(name="table")()
        return values[:count], values[1:], table, values[count]

    assert flow() == ((1, 2), (2, 3), (), 3)
    keyed: Any = dag(backend="inline")(lambda: table_of()[flows.total([1]), 1])
    assert keyed() == "found"
    assert ("total", "getitem") in keyed.build().edges()


@task
def table_of():
    return {(1, 1): "found"}


def test_an_array_leaves_arithmetic_to_the_handle():
    """NumPy would make an array of handles, one for each item."""
    numpy = pytest.importorskip("numpy")
    flow: Any = dag(backend="inline")(lambda: numpy.arange(3) + flows.total([1, 2]))
    assert flow().tolist() == [3, 4, 5]
    assert flow.build().node_names() == ["total", "add"]


def test_a_container_of_constants_is_passed_as_it_is():
    """A large table among the arguments is neither copied nor taken apart."""
    table = [[1, 2], {"a": 3}]
    table.append(table)
    assert dag(backend="inline")(lambda: leaf(table))()[0] is table


@dataclass
class Point:
    x: Any
    y: Any = 0


def linked(length: int, last: Any) -> Any:
    """Return points that hold each other, in both directions."""
    first = point = Point(None)
    for _ in range(length):
        point.y = Point(point)
        point = point.y
    point.y = last
    return first


class Guarded(dict[Any, Any]):
    def __copy__(self) -> Any:
        raise TypeError("one of its kind")


def circular(handle: Any) -> Any:
    values = [handle]
    values.append(values)
    return values


CANNOT_HOLD_A_HANDLE: list[Any] = [
    Point,
    lambda handle: [Point(1, [handle])],
    lambda handle: Point(1, {"a": [[handle]]}),
    lambda handle: linked(10_000, handle),
    lambda handle: Launch(["echo", handle]),
    lambda handle: deque([handle]),
    lambda handle: {"a": {(1, handle): 2}},
    lambda handle: {Pair(handle, 1)},
    lambda handle: {1: handle}.values(),
    lambda handle: MappingProxyType({1: handle}),
    lambda handle: Guarded(a=handle),
    circular,
    lambda handle: [circular(handle)],
    lambda handle: lambda: handle,
    lambda handle: [lambda one=handle: one],
    lambda handle: partial(max, 1, [handle]),
    lambda handle: wraps(max)(lambda *values: max([handle, *values])),
]


@pytest.mark.parametrize("make", CANNOT_HOLD_A_HANDLE)
def test_what_cannot_be_made_anew_must_not_hold_a_handle(make):
    """It would reach the task, or whoever called, with a dead handle in it, and without an edge."""
    for use in (lambda handle: leaf(make(handle)), make):
        with pytest.raises(HandleError, match="in a task"):
            describe(lambda use=use: use(leaf()))


def test_what_holds_no_handle_is_passed_as_it_is():
    """Dataclasses, structs and queues of constants are ordinary arguments."""
    for value in (
        Point(1, Point(2)),
        deque([[1]]),
        {(1, (2,)): 3},
        Pair(1, [2]),
        slice(1, 2),
        Guarded(a=[1]),
        Launch(["a"]),
        partial(max, 1),
        recursive(),
    ):
        assert dag(backend="inline")(lambda value=value: leaf(value))()[0] is value


def recursive() -> Any:
    def down(number: int) -> int:
        return number and down(number - 1)

    return down


@pytest.mark.parametrize("mapped", [False, True])
def test_a_task_that_is_written_in_the_description_closes_over_no_handle(mapped):
    """Its function would find a dead handle in the place of the value, and there would be no edge either."""

    def bound_before():
        first = leaf()

        @task
        def late(number):
            return first, number

        return late.map([1, 2]) if mapped else late.with_options(priority=1)(1)

    def bound_after():
        @task
        def late(number, *, unused=None):
            return [one for one in every if unused is None], number

        handle = late.map([1]) if mapped else late(1)
        every = [leaf()]
        return handle

    def default():
        @task
        def late(number, *, first=leaf()):  # noqa: B008
            return first, number

        return late.map([1]) if mapped else late(1)

    for flow in (bound_before, bound_after, default):
        with pytest.raises(HandleError, match=r"task 'late' uses a handle.*Make it a parameter"):
            describe(flow)


def test_a_task_that_is_written_in_the_description_closes_over_constants_and_tasks():
    """What it closes over has no handle; one that is not called is nobody's business."""

    def flow():
        first, numbers = leaf(1), [1, 2]

        @task
        def unused():
            return first

        @task
        def added(one):
            return [one, *numbers, leaf(3)]

        return added(first)

    assert dag(backend="inline")(flow)() == [(1,), 1, 2, (3,)]


def test_what_points_to_each_other_is_looked_at_once():
    """Each of a list of points leads to all of them: looked at anew each time, these few would take a minute."""
    points = [linked(5_000, None)]
    while points[-1].y is not None:
        points.append(points[-1].y)
    began = perf_counter()
    assert dag(backend="inline")(lambda: leaf(points))()[0] is points
    assert perf_counter() - began < 5
