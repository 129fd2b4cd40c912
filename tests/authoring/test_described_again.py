"""A flow that is called again and describes the same graph: what was compiled is used again, and nobody can tell."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import cloudpickle
import pytest

from dagrid import DAG, dag, task


@task
def shown(*values: Any, **more: Any) -> str:
    return repr((values, more))


@task
def two() -> int:
    return 2


@task
def three() -> int:
    return 3


@dag(backend="inline", progress=False)
def constant(*values: Any, **more: Any) -> Any:
    return shown(two(), *values, **more)


def ran(graph: DAG) -> DAG:
    graph.run(backend="inline", progress=False).raise_for_status()
    return graph


def test_the_same_description_is_compiled_once() -> None:
    first = ran(constant.build(1, key="a"))
    assert first.compiled is not None
    assert constant.build(1, key="a").compiled is first.compiled


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), (None, 0), ([1], [1, 2]), (1, [1])],
)
def test_constants_that_a_task_can_tell_apart_are_told_apart(one: Any, other: Any) -> None:
    for value in (one, other, one):
        assert constant(value) == repr(((2, value), {}))
    for value in (one, other, one):
        assert constant(key=value) == repr(((2,), {"key": value}))


def test_names_of_arguments_are_told_apart() -> None:
    assert constant(a=1, b=2) == repr(((2,), {"a": 1, "b": 2}))
    assert constant(b=1, a=2) == repr(((2,), {"b": 1, "a": 2}))
    assert constant(1, b=2) == repr(((2, 1), {"b": 2}))
    assert constant(1, 2) == repr(((2, 1, 2), {}))


def test_the_way_of_values_and_tasks_are_told_apart() -> None:
    turned = False
    other: Any = two

    @dag(backend="inline", progress=False)
    def flow() -> Any:
        a, b = two(), three.with_options(name="b")() if other is two else other.with_options(name="b")()
        return shown(b, a) if turned else shown(a, b)

    assert flow() == "((2, 3), {})"
    turned = True
    assert flow() == "((3, 2), {})"
    other = shown
    assert flow() == repr(((repr(((), {})), 2), {}))


def test_what_is_returned_of_the_same_nodes_is_told_apart() -> None:
    """Also where only what is returned is kept."""
    chosen: Any = 0

    @dag(backend="inline", progress=False, keep="outputs")
    def flow() -> Any:
        made = two(), three()
        return made[chosen] if isinstance(chosen, int) else chosen(made)

    assert [flow(), flow()] == [2, 2]
    chosen = 1
    assert flow() == 3
    chosen = list
    assert flow() == [2, 3]
    chosen = len
    assert flow() == 2


def test_a_whole_value_and_a_part_of_it_are_told_apart() -> None:
    part = False

    @task
    def pair() -> tuple[int, int]:
        return 1, 2

    @dag(backend="inline", progress=False)
    def flow() -> Any:
        value: Any = pair()
        return shown(value[0] if part else value)

    assert flow() == "(((1, 2),), {})"
    part = True
    assert flow() == "((1,), {})"
    part = False
    assert flow() == "(((1, 2),), {})"


def test_setup_nodes_run_again_for_each_call() -> None:
    calls: list[int] = []

    @task(setup=True)
    def prepare() -> int:
        calls.append(1)
        return len(calls)

    @dag(backend="inline", progress=False)
    def flow() -> Any:
        return shown(prepare())

    assert [flow(), flow()] == ["((1,), {})", "((2,), {})"]


def test_a_flow_keeps_no_argument_alive() -> None:
    class Thing:
        pass

    thing = Thing()
    seen = weakref.ref(thing)
    constant(thing)
    constant(key=thing)
    constant([thing])
    del thing
    gc.collect()
    assert seen() is None


def test_a_flow_that_travels_leaves_what_it_remembers() -> None:
    @dag(backend="inline", progress=False)
    def flow() -> Any:
        return shown(1)

    before = len(cloudpickle.dumps(flow))
    flow()
    sent = cloudpickle.dumps(flow)
    assert abs(len(sent) - before) < 16
    assert pickle.loads(sent)() == "((1,), {})"
