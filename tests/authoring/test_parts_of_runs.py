"""Parts of a graph, values from before, setup and debug nodes: what runs, what is taken over, what is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dagrid import DAG, Node, current, dag, task
from dagrid.errors import (
    HandleError,
    InvalidSettingError,
    PlanError,
    StoreError,
    StoreVersionError,
    TaskError,
    UnboundParameterError,
    UnknownNodeError,
)
from dagrid.graph.grow import map_over
from tests.authoring import flows
from tests.authoring.flows import steps

load: Any = flows.load
total: Any = flows.total
positive: Any = flows.is_positive
plus: Any = flows.plus


# --- conditions -----------------------------------------------------------------------------------------------------------


def test_if_and_else(place):
    """What was skipped by its condition is None, and so is what takes its value; nothing is raised."""

    def flow(value):
        flags = {"plus": positive(value)}
        yes = plus.with_options(name="yes", when=flags["plus"])(value)
        no = plus.with_options(name="no", when=plus(value) < 1)(value, -1)
        return yes, no, [plus(yes)], positive.with_options(when=load(1)[0])(value)

    made = dag(backend=place, progress=False)(flow)
    assert made(1) == (2, None, [3], True)
    assert made(-3) == (None, -4, [None], False)
    result = made.run(-3)
    assert result.ok
    assert result.node_results["yes"].reason == "its condition does not hold"


def test_conditions_are_said_where_there_are_handles():
    """In the decorator of a task that is written inside, by name, and never with a handle of another graph."""

    @dag(backend="inline")
    def flow(value):
        flag = positive(value)

        @task(when=flag)
        def inside():
            return "ran"

        return inside(), plus.with_options(when="is_positive", priority=3)(1)

    assert flow(1) == ("ran", 2)
    assert flow(0) == (None, None)
    assert flow.build(1).node("plus").priority == 3
    kept: list[Any] = []
    dag(lambda: kept.append(positive(1))).build()
    for use in (
        lambda: plus.with_options(when=kept[0])(1),
        lambda: dag(lambda: plus.with_options(when=kept[0])).build(),
    ):
        with pytest.raises(HandleError):
            use()
    with pytest.raises(UnknownNodeError, match="'nothing'"):
        dag(lambda: plus.with_options(when="nothing")(1)).build()


@pytest.mark.parametrize("condition", ["plus", plus])
def test_a_node_is_not_its_own_condition(condition):
    """It waited for itself, and the run for ever; what was refused leaves nothing behind in the description."""
    with pytest.raises(UnknownNodeError, match="'plus'"):
        dag(lambda: plus.with_options(when=condition)(1)).build()

    @dag(backend="inline")
    def goes_on():
        with pytest.raises(UnknownNodeError):
            plus.with_options(when="nothing")(1)
        return plus(2), plus.with_options(when=condition)(3)

    assert goes_on() == (3, 4)
    assert goes_on.build().node_names() == ["plus", "plus_2"]


@task
def reader(value):
    return value


@dag
def conditional(value):
    """Its conditions and what it reads are said by name."""
    flag = positive(value)
    second = reader.with_options(name="second", reads=[positive])(flag)
    return plus.with_options(when="is_positive")(1), plus.with_options(name="each", when="is_positive").map([2]), second


@pytest.mark.parametrize("around", [[], [0]])
def test_names_mean_nodes_of_the_graph_in_which_they_are_said(around):
    """Also where that is nested, many times and deep: they were looked for in the outermost, which may have such nodes too."""

    @dag
    def twice():
        return conditional(1), conditional(-1)

    @dag(backend="inline")
    def outer():
        return (
            [positive(one) for one in around],
            twice(),
            plus.with_options(name="last", when="twice.conditional.is_positive")(5),
        )

    assert outer() == ([False] * len(around), ((2, [3], True), (None, None, False)), 6)
    edges = outer.build().edges()
    assert ("twice.conditional_2.is_positive", "twice.conditional_2.plus") in edges
    assert ("twice.conditional_2.is_positive", "twice.conditional_2.second") not in edges


def test_names_in_a_nested_graph_mean_nodes_around_it_where_it_has_none():
    """And a handle is the node that it stands for, whatever is called like that inside."""

    @dag
    def inner(held):
        own = plus(-10)
        return reader.with_options(when="is_positive", reads=[held])(held), reader.with_options(reads=[plus])(own)

    @dag(backend="inline")
    def outer(value):
        positive(value)
        return inner(plus(5))

    assert outer(1) == (6, -9)
    assert outer(-1) == (None, -9)


def test_with_options_is_another_task_of_the_same_function(place):
    """Other settings for one call; the function travels by its name as before, also with another unpack_to."""

    def flow():
        head, tail = flows.split.with_options(name="cut", unpack_to=2)(load(3))
        a, b, c = load.with_options(unpack_to=3)(3)
        return head, tail, [a, b, c], flows.guarded.with_options(priority=1, tags=["x"])() > 0

    assert dag(backend=place, progress=False)(flow)() == ([1], [2, 3], [1, 2, 3], True)
    assert load.with_options(name="other")(2) == [1, 2]


# --- parts ----------------------------------------------------------------------------------------------------------------


def test_targets_roots_and_exclude(place):
    """Only the part runs; the rest is skipped with a reason and no failure."""
    graph = steps()
    result = graph.run(backend=place, targets=["b"])
    assert (result.ok, result["b"]) == (True, "b(a())")
    assert result.node_results["c"].reason == "not needed for the targets"
    assert graph.run(backend=place, exclude=["b"])["d"] == "d(a())"
    assert graph.run(backend=place, roots=["b"], given={"a": "A"})["c"] == "c(b(A))"
    run = graph.start(backend=place, exclude=["c"])
    run.wait(20)
    assert run.explain("c") == "'c' was passed over: excluded."


def test_roots_without_their_values_are_refused():
    """Before anything runs, with the names and the remedy."""
    log: list[str] = []
    with pytest.raises(PlanError, match=r"of 'a' \(for 'b'\).*given=.*from_run"):
        steps(log).run(backend="inline", roots=["b"])
    assert log == []


def test_parts_of_a_flow_and_of_its_maps():
    """A task means every node made of it; nodes that come late are chosen like others; what is left out is None."""
    flow = dag(backend="inline")(flows.mapped.fn)
    assert set(flow.run(2, targets=["times"])) >= {"plus[0]", "times[1]", "times"}
    assert "total" not in flow.run(2, targets=["times"])
    assert flow.run(2, targets=["total"])["total"] == 406
    assert flow.run(2, exclude=["plus"]).node_results["load"].status == "completed"
    assert flow.run(2, given={"plus": [5, 6]})["times"] == [10, 12]
    assert flow.run(2, roots=["times"], given={"plus": [1]})["total"] == 2
    with pytest.raises(PlanError, match="'plus'"):
        flow.run(2, roots=["times"])
    part = dag(backend="inline", targets=["plus"])(flows.mapped.fn)
    assert part(1) == {"added": [101], "scaled": None, "sum": None, "known": None, "both": None}
    by_task = dag(backend="inline", exclude=[flows.times])(flows.mapped.fn)
    assert by_task(1) == {"added": [101], "scaled": None, "sum": None, "known": [2, 3], "both": 106}


# --- handles ----------------------------------------------------------------------------------------------------------------


def described(name: str | None = None) -> tuple[DAG, dict[str, Any]]:
    """Return a graph with the handles that its description kept."""
    kept: dict[str, Any] = {}

    def flow() -> None:
        kept["load"] = flows.load(2)
        kept["plus"] = flows.plus.map(kept["load"])
        kept["sum"] = flows.total(kept["plus"])
        kept["part"] = kept["load"][0]

    return dag(name=name)(flow).build(), kept


def test_a_handle_that_was_kept_means_its_node(place):
    """Wherever nodes are named, whoever described the graph may say what it has in hand."""
    graph, kept = described()
    load, plus, total = kept["load"], kept["plus"], kept["sum"]
    result = graph.run(backend=place).raise_for_status()
    assert (result[total], result[plus], result.node_results[load].value) == (5, [2, 3], [1, 2])
    assert load in result
    assert load in graph
    assert graph.node(load).id == "load"
    assert graph.run(backend=place, targets=[plus]).counts()["completed"] == 4
    assert graph.run(backend=place, given={plus: [7]})[total] == 7
    assert graph.run(backend=place, roots=[plus], given={load: [4]})[total] == 5
    assert "total" not in graph.run(backend=place, exclude=[total])
    with pytest.raises(TaskError, match="dropped"):
        graph.run(backend=place, keep={total})[load]
    assert graph.compose(inputs=[load], outputs=total)([1]) == 2
    assert graph.compose(inputs=[load], outputs=[total, plus])([1]) == [2, [2]]
    run = graph.start(backend=place)
    run.wait(20)
    assert run.status(total) == "completed"


@pytest.mark.parametrize(
    "use",
    [
        lambda graph, handle: graph.run(backend="inline", targets=[handle]),
        lambda graph, handle: graph.run(backend="inline", roots=[handle]),
        lambda graph, handle: graph.run(backend="inline", exclude=[handle]),
        lambda graph, handle: graph.run(backend="inline", given={handle: 1}),
        lambda graph, handle: graph.run(backend="inline", keep={handle}),
        lambda graph, handle: graph.run(backend="inline")[handle],
        lambda graph, handle: graph.compose(inputs=[handle], outputs="total"),
        lambda graph, handle: graph.compose(inputs=["load"], outputs=handle),
        lambda graph, handle: graph.node(handle),
    ],
)
def test_a_handle_of_another_graph_or_of_a_part_of_a_value_is_refused(use):
    """Its node may have a namesake here, and a part of a value is no node."""
    graph, kept = described("this")
    with pytest.raises(HandleError, match="belongs to @dag 'other', and not to the graph 'this'"):
        use(graph, described("other")[1]["load"])
    with pytest.raises(HandleError, match="Say the node as a whole"):
        use(graph, kept["part"])


def test_one_handle_is_no_list():
    """As with a name: it would be taken for a list of its items."""
    graph, kept = described()
    settings: dict[str, Any]
    for settings in ({"targets": kept["load"]}, {"keep": kept["load"]}):
        with pytest.raises(InvalidSettingError, match="handle of 'load'"):
            graph.run(backend="inline", **settings)
    unknown = described("other")[1]["load"]
    assert unknown not in graph
    with pytest.raises(UnknownNodeError, match="'load'"):
        DAG([Node("a", threading.Lock)]).run(targets=[unknown])


# --- values from before -----------------------------------------------------------------------------------------------------


def test_values_from_an_earlier_run(place, tmp_path):
    """What completed is taken over, by the result or by its file; what failed, and what follows, runs."""
    log: list[str] = []
    graph = steps(log)

    def fails(b: str) -> None:
        raise LookupError(b)

    first = graph.run({"c": fails}, backend=place)
    assert first.failed == 1
    first.save(tmp_path / "values")
    sources: list[dict[str, Any]] = [{"from_run": first}, {"from_file": tmp_path / "values"}]
    again = first
    for source in sources:
        again = graph.run(backend=place, **source)
        assert again["c"] == "c(b(a()))"
        assert again["a"] == "a()"
        states = {one.name: bool(one.attempts) for one in again.node_results.values()}
        assert states == {"a": False, "b": False, "c": True, "d": False}
    assert again.node_results["a"].reason.startswith("read from")
    told = graph.start(backend=place, from_run=first)
    told.wait(20)
    assert told.explain("a") == "'a' completed: taken from an earlier run."
    assert graph.run(backend=place, from_run=first, given={"b": "B"})["c"] == "c(B)"
    renewed = graph.run(backend=place, from_run=first, roots=["b"])
    assert [renewed.node_results[name].attempts for name in "abcd"] == [0, 1, 1, 0]


def test_what_a_graph_grew_by_is_not_taken_over():
    """Rules append it again, to run again; what a task appended comes with the task, which `roots` names."""

    def load() -> list[int]:
        current().grow(Node("more", int))
        return [1, 2]

    graph = DAG([Node("load", load)])
    rules = [map_over("load", Node("double", lambda number: 2 * number))]
    first = graph.run(backend="inline", rules=rules)
    assert sorted(first) == ["double[0]", "double[1]", "load", "more"]
    again = graph.run(backend="inline", rules=rules, from_run=first)
    assert {one.name: one.attempts for one in again.node_results.values()} == {
        "load": 0,
        "double[0]": 1,
        "double[1]": 1,
    }
    assert sorted(graph.run(backend="inline", rules=rules, from_run=first, roots=["load"])) == sorted(first)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    """The error names what the user said, and not the file that is written first; and nothing is left of that one."""
    result = steps().run(backend="inline")
    for path, kind in ((tmp_path / "none" / "values", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as raised:
            result.save(path)
        assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_chosen_part_is_saved(tmp_path):
    """A value that cannot be kept is named, and nothing is written; `nodes` leaves it out."""
    graph = DAG([Node("lock", threading.Lock), Node("number", lambda: 3)])
    result = graph.run(backend="inline")
    path = tmp_path / "values"
    with pytest.raises(StoreError, match=r"node 'lock', a _thread\.lock, cannot be saved"):
        result.save(path)
    assert list(tmp_path.iterdir()) == []
    result.save(path, nodes=["number"])
    assert graph.run(backend="inline", from_file=path, targets=["number"]).node_results["number"].attempts == 0
    with pytest.raises(UnknownNodeError):
        result.save(path, nodes=["nothing"])
    partial = graph.run(backend="inline", targets=["number"])
    with pytest.raises(StoreError, match="'lock' has no value"):
        partial.save(path, nodes=["lock"])
    with pytest.raises(StoreError, match="path of the file to write is empty"):
        partial.save("")


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    """A stranger's file, one that was cut off, and one of a later format are three different things."""
    graph = steps()
    path = tmp_path / "values"
    graph.run(backend="inline").save(path)
    whole = path.read_bytes()
    path.write_bytes(b"PK" + whole)
    with pytest.raises(StoreError, match="not written by"):
        graph.run(backend="inline", from_file=path)
    for size in (len(whole) - 1, 40, 16):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError, match="damaged"):
            graph.run(backend="inline", from_file=path)
    path.write_bytes(whole.replace(b'"format":1', b'"format":9'))
    with pytest.raises(StoreVersionError, match="format 9"):
        graph.run(backend="inline", from_file=path)


def test_given_values_make_up_for_what_cannot_run():
    """A node without a task has a value after all; a wrong name is found."""
    graph = DAG([Node("a"), Node("b", lambda a: a + 1, ["a"])])
    with pytest.raises(UnboundParameterError):
        graph.run(backend="inline")
    assert graph.run(backend="inline", given={"a": 1})["b"] == 2
    with pytest.raises(UnboundParameterError):
        graph.run(backend="inline")
    with pytest.raises(UnknownNodeError, match="Did you mean 'b'"):
        DAG([Node("b", int)]).run(backend="inline", given={"bb": 1})
    flow = dag(backend="inline")(lambda: total(load(2)))
    assert flow.run(given={load: [7]})["total"] == 7
