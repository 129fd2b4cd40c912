"""Maps in `@dag` functions: over lists, and over what only a run makes."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import DAG, Node, Rule, dag, task
from dagrid.errors import HandleError, InvalidNodeError, TaskSkippedError, UnknownTaskError
from tests.authoring import flows

load: Any = flows.load
plus: Any = flows.plus
times: Any = flows.times
total: Any = flows.total


def expected(count: int) -> dict[str, Any]:
    added = [value + 101 - 1 for value in range(1, count + 1)]
    scaled = [2 * value for value in added]
    return {"added": added, "scaled": scaled, "sum": sum(scaled), "known": [2, 3], "both": 5 + sum(added)}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_maps_give_what_map_would_give(place, count):
    """Over a list and over a handle, chained, gathered and taken further, wherever it runs."""
    assert dag(backend=place, progress=False)(flows.mapped.fn)(count) == expected(count)


def test_what_depends_on_a_late_map_comes_while_the_graph_runs():
    """The graph begins with what is known, keeps the rest as rules, and can be run again and again."""
    graph = flows.mapped.build(2)
    assert graph.node_names() == ["load", "plus_2[0]", "plus_2[1]", "plus_2", "total_2"]
    assert all(isinstance(rule, Rule) and rule.adds is not None and rule.waits for rule in graph.rules)
    for _ in range(2):
        result = graph.run(backend="inline")
        names = ["plus[0]", "plus[1]", "plus", "times[0]", "times[1]", "times", "total", "total_3", "total_4"]
        assert sorted(result) == sorted([*graph.node_names(), *names])
    assert pickle.loads(pickle.dumps(graph)).run(backend="inline")["total"] == 2 * (101 + 102)


def test_a_chain_of_maps_takes_memory_that_grows_with_its_length():
    """Each map has all those before behind it, and needs to know none of them."""

    @dag
    def flow(length):
        values = load(3)
        for _ in range(length):
            values = times.map(values)
        return total(values)

    def peak(length: int) -> int:
        tracemalloc.start()
        try:
            assert len(flow.build(length).rules) == length + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(1000) < 6 * peak(250)


def test_a_chain_of_maps_goes_on_item_by_item():
    """The second step of one item must not wait for the first steps of all others."""
    graph = flows.mapped.build(3)
    run = graph.start(backend="inline")
    run.wait(20)
    order = [event.node for event in run.events() if event.kind == "patched" or event.kind == "started"]
    assert order.index("times[0]") < order.index("total")
    seen: list[Any] = []

    @dag
    def flow():
        values = flows.broken_at.map(load(3), 2)
        return seen.append(times.map(values))

    result = flow.run(backend="inline")
    statuses = [result.node_results[f"times[{number}]"].status for number in range(3)]
    assert statuses == ["completed", "skipped", "completed"]
    assert result.node_results["times"].status == "skipped"


def test_a_map_over_what_failed_is_skipped_with_its_cause(place):
    """Nothing may hang or vanish: all that was described behind the failure is skipped, and says why."""

    def flow():
        return total(times.map(plus.map(flows.fails("no list"))))

    made = dag(backend=place, progress=False)(flow)
    with pytest.raises(LookupError, match="no list"):
        made()
    result = made.run()
    assert [result.node_results[name].status for name in ("plus", "times", "total")] == ["skipped"] * 3
    assert "'fails' failed" in result.node_results["plus"].reason
    with pytest.raises(TaskSkippedError):
        made.run(on_failure="continue")["total"]


def test_what_cannot_be_mapped_names_the_node():
    """A number, and a place in the value that is not there, are errors of the node of the map."""

    @dag(backend="inline")
    def flow(pick):
        values: Any = load(1)
        return times.map(total(values)) if pick is None else times.map(values[pick])

    with pytest.raises(TypeError, match=r"'times' maps over the value of 'total'.*Let it return a list"):
        flow(None)
    with pytest.raises(TypeError, match=r"'times' maps over the value of 'load', at \[7\]"):
        flow(7)
    with pytest.raises(HandleError, match="takes a list"):
        dag(lambda: times.map(3)).build()
    with pytest.raises(HandleError, match="@task"):
        dag(lambda: load(2).map(len)).build()


class Watched(list[int]):
    """A list that counts how often somebody goes through it."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        self.looks += 1
        return super().__iter__()


def test_what_all_items_share_is_looked_into_once():
    """A table that every call gets besides its item would else be looked through for each of them: hours, for two long lists."""

    @task
    def either(item, *tables, table):
        return item

    looks = set()
    for count in (2, 50):
        tables = Watched([1]), Watched([2])
        dag(lambda count=count, tables=tables: either.map(range(count), tables[0], table=tables[1])).build()
        looks.add(tuple(table.looks for table in tables))
    assert len(looks) == 1


def test_maps_from_the_other_side_nested_and_indexed():
    """A handle maps itself; a nested flow maps like any; a place of the list can be taken, and mapped over again."""

    @dag
    def inner(values):
        return values.map(plus, 10)

    @dag(backend="inline")
    def flow():
        first = inner(load(3))
        again = inner(first)
        parts: Any = flows.split(load(3))
        return first[0], again, plus.map(parts[1]), [one for one in plus.map([5, 6])]  # noqa: C416

    assert flow() == (11, [21, 22, 23], [3, 4], [6, 7])
    assert set(flow.run()) >= {"inner.plus[0]", "inner_2.plus[2]", "plus[1]"}


def test_methods_bound_names_and_lists_of_handles():
    """`self` is not the item; an explicit name that looks like an element is left alone; items may be handles."""

    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @task
        def apply(self, value):
            return self.factor * value

        @dag(backend="inline")
        def flow(self):
            taken = task(name="plus[0]")(len)([1])
            return self.apply.map(load(2)), plus.map(load(1)), taken, plus.map([load(1)[0], 2]), plus.map.__name__

    assert Scale(3).flow() == ([3, 6], [2], 1, [2, 3], "map")
    assert Scale(2).apply(4) == 8


def test_a_condition_and_settings_hold_for_every_item():
    """What `with_options` says is said of each of the calls."""
    positive: Any = flows.is_positive

    @dag(backend="inline")
    def flow(value):
        marked = plus.with_options(when=positive(value), name="maybe", kind="k", tags=["t"])
        return marked.map(load(2)), marked.map([7])

    assert flow(1) == ([2, 3], [8])
    assert flow(-1) == (None, None)
    assert flow.build(1).rules[0].adds == {"k"}


def test_outside_of_a_description_map_is_map():
    """A task is its function there."""
    assert plus.map([1, 2], more=5) == [6, 7]


def test_a_late_setup_node_is_refused():
    """It would have to be there before the list that decides whether it is there."""

    @dag
    def flow():
        return plus.with_options(setup=True).map(load(2))

    with pytest.raises(InvalidNodeError, match="setup node 'plus'"):
        flow.build()


def test_a_graph_with_maps_is_extended_and_reduced():
    """A longer graph may depend on what comes late; a reduction keeps what the graph grows by."""
    graph = flows.mapped.build(2)
    longer = graph.extend([Node("end", len, ["total"], inputs={"obj": "plus"}), Node("begin", int)])
    result = longer.run(backend="inline")
    assert (result["end"], result["begin"]) == (2, 0)
    assert graph.transitive_reduction().run(backend="inline")["total"] == 406
    assert graph.subgraph(["load"]).rules == graph.reverse().rules == ()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans())
def test_any_chain_of_maps_is_that_chain(steps, known):
    """However deep, over known and unknown lists, the values are those of ordinary loops."""

    @dag(backend="inline")
    def flow():
        values: Any = [1, 2, 3] if known else load(3)
        for more in steps:
            values = plus.map(values, more)
        return values, total(values)

    assert flow() == ([one + sum(steps) for one in (1, 2, 3)], 6 + 3 * sum(steps))


def test_the_function_of_a_node_that_comes_late_can_be_replaced():
    """As for any other node; and only for the run that says so."""
    graph = flows.mapped.build(1)
    assert graph.run({"total": lambda values: f"fake of {values}"}, backend="inline")["total"] == "fake of [202]"
    assert graph.run(backend="inline")["total"] == 202
    with pytest.raises(UnknownTaskError, match="Did you mean 'total"):
        graph.run({"totl": len}, backend="inline")


def test_debug_nodes_and_tags_behind_a_map():
    """What comes late is debugged, excluded and chosen like what is there from the start."""

    @task(debug=True)
    def show(values):
        return f"saw {values}"

    @dag(backend="inline")
    def flow():
        values = plus.with_options(tags=["slow"]).map(load(1))
        return show(values), total(values)

    assert flow() == (None, 2)
    assert flow.run(debug=True)["show"] == "saw [2]"
    assert set(flow.run(targets=["show"])) == {"load", "plus[0]", "plus", "show"}
    assert list(flow.run(exclude=["slow"])) == ["load"]


def test_a_plain_graph_has_no_rules():
    """What grows is only what was said to."""
    assert flows.five_nodes.build().rules == DAG().rules == ()


@dag(backend="inline")
def doubled(value, factor=2):
    return times(plus(value), factor)


@task(unpack_to=2)
def pair(first):
    return first, first + 1


def test_a_flow_is_called_for_each_item_that_is_known():
    """Its nodes are in the graph for each of them; outside of any other, each is a run of its own."""

    @dag(backend="inline")
    def outer(start):
        return doubled.map([1, 2], factor=3), total(pair(start).map(doubled))

    assert outer(5) == ([6, 9], 12 + 14)
    assert sorted(outer.build(5).node_names()) == [
        "doubled.plus", "doubled.times", "doubled_2.plus", "doubled_2.times", "doubled_3.plus", "doubled_3.times",
        "doubled_4.plus", "doubled_4.times", "pair", "total",
    ]  # fmt: skip
    assert doubled.map([1, 2]) == [4, 6]


@pytest.mark.parametrize("call", [doubled.map, lambda items: items.map(doubled)])
def test_how_often_a_flow_is_called_is_known(call):
    """It would have to append graphs while the run goes on, which a rule does; that is said instead of a missing attribute."""
    with pytest.raises(HandleError, match="for_each"):
        flows.describe(lambda: call(load(3)))
