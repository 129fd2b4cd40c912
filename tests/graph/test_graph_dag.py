"""Building and asking a graph, what it says when something is wrong, and that size does not matter."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dagrid.errors import (
    CycleError,
    DuplicateNodeError,
    InvalidNodeError,
    InvalidSettingError,
    SerializationError,
    UnknownNodeError,
)
from dagrid.graph import DAG, CriticalPath, Node, Retry
from tests.graph.graph_strategies import build, chain

LONG = 100_000


@pytest.fixture
def diamond() -> DAG:
    return DAG([Node("d", depends_on=["b", "c"]), Node("b", depends_on=["a"]), Node("c", depends_on=["a"]), Node("a")])


def test_nodes_may_come_before_what_they_wait_for(diamond: DAG) -> None:
    """A list of nodes is read as a whole; the order of insertion is kept and the order of running follows the edges."""
    assert diamond.node_names() == ["d", "b", "c", "a"] == list(diamond)
    assert diamond.topological_sort() == ["a", "b", "c", "d"]
    assert diamond.topological_levels() == [["a"], ["b", "c"], ["d"]]
    assert diamond.edges() == [("b", "d"), ("c", "d"), ("a", "b"), ("a", "c")]


def test_the_builder_takes_edges_before_their_nodes() -> None:
    """Edges and nodes come in any order; the builder goes on after a build, and what it built does not change."""
    builder = DAG.builder("etl", max_concurrency=2).add_edge("extract", "load").add_node("extract", retries=2)
    first = builder.add_node("load", depends_on=["extract"]).build()
    second = builder.add_nodes(["report", "mail"]).add_edges(iter([("load", "report"), ("report", "mail")])).build()
    assert (first.node_names(), first.edges()) == (["extract", "load"], [("extract", "load")])
    assert second.topological_sort() == ["extract", "load", "report", "mail"]
    assert not first.has_node("mail")
    assert repr(first) == "<DAG 'etl': 2 nodes, 1 edge>"
    assert (second.name, second.max_concurrency, second.node("extract").retries) == ("etl", 2, Retry(2))


def test_the_builder_takes_functions_for_the_ends_of_many_edges() -> None:
    """As everything does that names a node; with names among them, and from any iterable."""

    def load() -> None: ...

    def mail() -> None: ...

    builder = DAG.builder().add_nodes([load, mail, "report"])
    dag = builder.add_edges([(load, "report"), ("report", mail)]).add_edges(iter([(load, mail)])).build()
    assert dag.edges() == [("report", "mail"), ("load", "mail"), ("load", "report")]
    with pytest.raises(UnknownNodeError, match="'print'"):
        builder.add_edges([(load, print)]).build()


def test_a_node_tells_all_that_it_waits_for() -> None:
    """depends_on, inputs and the builder's edges are one thing to the one who asks."""
    builder = DAG.builder().add_nodes(["a", "b", "c"]).add_node("d", print, depends_on=["a"], inputs={"x": "b"})
    dag = builder.add_edge("c", "d").build()
    assert dag.node("d") == Node("d", print, ["a", "b", "c"], inputs={"x": "b"})
    assert dag.node("a") == Node("a")
    assert set(dag.specs) == {3}
    assert DAG([Node("b", inputs={"x": "a"}), Node("a")]).edges() == [("a", "b")]


def test_functions_name_nodes_in_questions_too() -> None:
    """Whoever names nodes by functions may ask by functions."""

    def load() -> None: ...

    dag = DAG([Node(load, load), Node("end", depends_on=[load])])
    assert dag.successors(load) == ["end"]
    assert load in dag
    assert "load" in dag
    assert 3 not in dag
    assert dag.has_node("end")
    assert not dag.has_node("other")


def test_an_empty_graph_is_a_graph() -> None:
    """Nothing to run is no special case for any question."""
    dag = DAG()
    assert (len(dag), dag.edges(), dag.topological_levels(), dag.roots()) == (0, [], [], [])
    assert dag.critical_path() == CriticalPath([], 0.0)
    assert DAG.from_json(dag.to_json()).node_count() == 0
    assert dag.transitive_reduction().reverse().subgraph([]).stats().depth == 0
    assert bool(dag)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_cycle_is_shown_with_its_path() -> None:
    """The message is the cycle itself, without what hangs on it."""
    nodes = [Node("in"), Node("a", depends_on=["c", "in"]), Node("b", depends_on=["a"]), Node("c", depends_on=["b"])]
    with pytest.raises(CycleError, match="a -> b -> c -> a"):
        DAG([*nodes, Node("out", depends_on=["c"])])


def test_a_node_that_waits_for_itself_is_a_cycle() -> None:
    """The smallest cycle there is."""
    with pytest.raises(CycleError, match="a -> a"):
        DAG([Node("a", depends_on=["a"])])
    with pytest.raises(CycleError, match="a -> a"):
        DAG.builder().add_node("a").add_edge("a", "a").build()


def test_an_edge_to_nowhere_says_whose_it_is() -> None:
    """A typo is answered with the node it stands in and the name that was meant."""
    with pytest.raises(UnknownNodeError, match=r"Node 'load' depends on 'extrct'.* Did you mean 'extract'\?") as caught:
        DAG([Node("extract"), Node("load", depends_on=["extrct"])])
    assert (caught.value.name, caught.value.suggestion) == ("extrct", "extract")
    with pytest.raises(UnknownNodeError, match=r"edge 'extract' -> 'laod' leads to .*Did you mean 'load'\?"):
        DAG.builder().add_nodes(["extract", "load"]).add_edge("extract", "laod").build()


def test_a_suggestion_is_found_in_a_large_graph() -> None:
    """The nearest of very many names is found without comparing all of them."""
    with pytest.raises(UnknownNodeError, match="Did you mean 'zebra'"):
        build([*(f"node{at}" for at in range(20_000)), "zebra"], []).node("zebr")


@pytest.mark.parametrize(
    "ask",
    [
        lambda dag: dag.node("bb"),
        lambda dag: dag.predecessors("bb"),
        lambda dag: dag.successors("bb"),
        lambda dag: dag.ancestors("bb"),
        lambda dag: dag.descendants("bb"),
        lambda dag: dag.in_degree("bb"),
        lambda dag: dag.out_degree("bb"),
        lambda dag: dag.has_edge("a", "bb"),
        lambda dag: dag.subgraph(["a", "bb"]),
        lambda dag: dag.critical_path({"bb": 1}),
    ],
)
def test_a_question_about_an_unknown_node_is_answered_with_the_nearest(ask: Callable[[DAG], Any]) -> None:
    """No question takes a typo for an answer."""
    with pytest.raises(UnknownNodeError, match=r"no node 'bb'\. Did you mean 'b'\?"):
        ask(build(["a", "b"], [("a", "b")]))


def test_the_nearest_of_thousands_of_names_is_the_nearest() -> None:
    """Also one far behind, where a name that is less like it comes first."""
    dag = DAG([Node(f"step_number_{number}") for number in reversed(range(4000))])
    with pytest.raises(UnknownNodeError, match="Did you mean 'step_number_0'"):
        dag.node("step_numbr_0")


def test_a_name_is_taken_once() -> None:
    """A duplicate is an error when it is added, and nothing of a refused batch stays."""
    with pytest.raises(DuplicateNodeError, match="'a' already"):
        DAG([Node("a"), Node("b"), Node("a")])
    builder = DAG.builder().add_node("a")
    with pytest.raises(DuplicateNodeError, match="'a'"):
        builder.add_node("a")
    with pytest.raises(DuplicateNodeError, match="'c'"):
        builder.add_nodes(["b", "c", "c"])
    with pytest.raises(InvalidNodeError, match="not empty"):
        builder.add_nodes(["b", ""])
    assert builder.add_nodes(["b"]).build().node_names() == ["a", "b"]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_a_limit_is_at_least_one(limit: Any) -> None:
    """A graph that could never run is refused, by every way of making one."""
    for make in (lambda: DAG(max_concurrency=limit), lambda: DAG.builder(max_concurrency=limit)):
        with pytest.raises(InvalidSettingError, match="max_concurrency is a whole number from 1 up"):
            make()


@pytest.mark.parametrize("edge", [("a",), ("a", "b", "a"), 3, None, ("a", 3), (["a"], "b")])
def test_an_edge_is_a_pair_of_names(edge: Any) -> None:
    """Whatever else stands among the edges is shown, or named as unknown."""
    with pytest.raises((InvalidNodeError, UnknownNodeError), match=r"Edge number 1 is|not in the graph"):
        DAG.builder().add_nodes(["a", "b"]).add_edges([("a", "b"), edge]).build()


def test_a_graph_is_made_of_nodes() -> None:
    """Names alone have their own ways in, and the message says which."""
    with pytest.raises(InvalidNodeError, match=r"number 1 is 'b'.*DAG\.builder\(\)"):
        DAG([Node("a"), "b"])  # type: ignore[list-item]
    with pytest.raises(InvalidSettingError, match="name of a graph is text"):
        DAG(name=[Node("a")])  # type: ignore[arg-type]
    with pytest.raises(InvalidNodeError, match="subgraph takes a list of names"):
        build(["a"], []).subgraph("a")


# --- growing and deriving ---------------------------------------------------------------------------------------------


def test_extending_adds_all_or_nothing(diamond: DAG) -> None:
    """A patch that does not fit leaves no trace, and one that fits leaves the shorter graph as it was."""
    for wrong, error in [
        ([Node("e"), Node("a")], DuplicateNodeError),
        ([Node("e"), Node("f", depends_on=["nowhere"])], UnknownNodeError),
        ([Node("e", depends_on=["f"]), Node("f", depends_on=["e"])], CycleError),
    ]:
        with pytest.raises(error):
            diamond.extend(wrong)
    longer = diamond.extend([Node("f", depends_on=["e"]), Node("e", print, depends_on=["a", "d"])])
    assert (diamond.node_count(), diamond.leaves(), diamond.successors("a")) == (4, ["d"], ["b", "c"])
    assert longer.topological_sort() == ["a", "b", "c", "d", "e", "f"]
    assert longer.node("e").fn is print


def test_reduction_keeps_settings_and_the_edges_that_carry_values() -> None:
    """An edge that a value flows along is not redundant, whatever way there is beside it."""
    first = [Node("a"), Node("b", depends_on=["a"])]
    by_order = DAG([*first, Node("c", print, ["a", "b"], priority=3)], name="x", max_concurrency=2)
    by_value = DAG([*first, Node("c", print, ["b"], inputs={"value": "a"})])
    reduced = by_order.transitive_reduction()
    assert reduced.node("c") == Node("c", print, ["b"], priority=3)
    assert (reduced.name, reduced.max_concurrency) == ("x", 2)
    assert by_value.transitive_reduction().has_edge("a", "c")


def test_a_part_has_no_inputs_from_outside() -> None:
    """A subgraph stands alone: edges and inputs from outside are gone, everything else is kept."""
    dag = DAG([Node("a"), Node("b"), Node("c", print, ["a"], inputs={"x": "a", "y": "b"}, timeout=3)])
    part = dag.subgraph(["c", "b"])
    assert part.node_names() == ["b", "c"]
    assert part.node("c") == Node("c", print, ["b"], inputs={"y": "b"}, timeout=3)
    assert DAG.from_records(part.to_records()).edges() == part.edges() == [("b", "c")]


def test_reversing_keeps_settings_but_no_inputs() -> None:
    """Values flow one way only; what is left is the structure turned round."""
    dag = DAG([Node("a", priority=2), Node("b", print, inputs={"x": "a"})])
    assert dag.reverse().node("a") == Node("a", None, ["b"], priority=2)
    assert dag.reverse().node("b") == Node("b", print)


def test_costs_come_from_the_call_then_the_node_then_one() -> None:
    """The most costly way, by whatever is known."""
    dag = DAG([Node("a"), Node("b", cost=5, depends_on=["a"]), Node("c", depends_on=["a"])])
    assert dag.critical_path() == CriticalPath(["a", "b"], 6.0)
    assert dag.critical_path({"c": 10}) == CriticalPath(["a", "c"], 11.0)
    assert dag.stats().critical_path_length == 6.0
    with pytest.raises(InvalidNodeError, match="'c': a cost is a finite number from 0 up, not -1"):
        dag.critical_path({"c": -1})


def test_graphs_travel_without_their_plan(diamond: DAG) -> None:
    """What the floor above keeps on a graph stays in this process; the graph itself can be copied and referred to."""
    diamond.compiled = lambda: None
    back = pickle.loads(pickle.dumps(diamond))
    assert (back.edges(), back.compiled) == (diamond.edges(), None)
    assert copy.deepcopy(diamond).topological_sort() == diamond.topological_sort()
    assert weakref.ref(diamond)() is diamond


def test_building_leaves_the_garbage_collector_as_it_was() -> None:
    """It is paused while a graph is built, also when that fails, and never switched on for one who had it off."""
    with pytest.raises(CycleError):
        build(["a"], [("a", "a")])
    assert gc.isenabled()
    gc.disable()
    try:
        build(["a"], [])
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_chain() -> DAG:
    return chain(LONG)


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda dag: len(dag.ancestors(f"n{LONG - 1}")), LONG - 1),
        (lambda dag: len(dag.descendants("n0")), LONG - 1),
        (lambda dag: len(dag.topological_levels()), LONG),
        (lambda dag: dag.topological_sort()[-1], f"n{LONG - 1}"),
        (lambda dag: dag.critical_path().length, LONG),
        (lambda dag: dag.stats().depth, LONG),
        (lambda dag: dag.transitive_reduction().edge_count(), LONG - 1),
        (lambda dag: dag.reverse().roots(), [f"n{LONG - 1}"]),
        (lambda dag: dag.subgraph(dag.node_names()[10:]).edge_count(), LONG - 11),
        (lambda dag: dag.extend([Node("end", depends_on=["n0"])]).node_count(), LONG + 1),
        (lambda dag: DAG.from_json(dag.to_json()).edge_count(), LONG - 1),
        (lambda dag: DAG.from_records(dag.to_records()).edge_count(), LONG - 1),
        (lambda dag: dag.to_dot().count("->"), LONG - 1),
        (lambda dag: dag.to_mermaid().count("-->"), LONG - 1),
        (lambda dag: pickle.loads(pickle.dumps(dag)).edge_count(), LONG - 1),
        (lambda dag: sum(len(dag.successors(name)) for name in dag), LONG - 1),
    ],
)
def test_a_long_chain_is_an_ordinary_graph(long_chain: DAG, ask: Callable[[DAG], Any], expected: Any) -> None:
    """Nothing recurses and nothing is quadratic."""
    assert ask(long_chain) == expected


def test_a_small_answer_of_a_large_graph_is_in_topological_order() -> None:
    """A few names out of very many are sorted by another way than many of them; the order is the same."""
    names = [f"n{at}" for at in range(1_000)]
    dag = build(["z", "y", "x", "end", *names], [("z", "end"), ("x", "y"), ("y", "z"), ("x", "end")])
    assert dag.ancestors("end") == ["x", "y", "z"]
    assert dag.predecessors("end") == ["x", "z"]
    assert dag.descendants("x") == ["y", "z", "end"]


def test_a_long_chain_may_come_backwards_and_a_long_cycle_is_found() -> None:
    """The worst order of insertion, and a cycle through every node, need no recursion either."""
    names = [f"n{at}" for at in range(LONG)]
    pairs = list(itertools.pairwise(names))
    assert build(names[::-1], pairs[::-1]).topological_sort() == names
    with pytest.raises(CycleError) as caught:
        build(names, [*pairs, (names[-1], names[0])])
    assert len(caught.value.cycle) == LONG + 1
    assert len(str(caught.value)) < 500


def test_the_ladder_is_reduced_to_its_rungs() -> None:
    """Many redundant edges with far reach: every node leads to the next two, and one edge of each pair goes."""
    count = 20_000
    names = [f"n{at}" for at in range(count)]
    dag = build(names, [*itertools.pairwise(names), *zip(names, names[2:], strict=False)])
    assert dag.transitive_reduction().edges() == list(itertools.pairwise(names))


# --- texts ------------------------------------------------------------------------------------------------------------

ODD = [
    'say "hi"',
    "a[b](c){d}",
    "line\nbreak",
    "back\\slash\\",
    "umlaut ä 中文 🎉",
    "<b>&#35;</b>",
    " spaced ",
    "end",
    "a;b|c%%d`e`",
]


def unquote_dot(text: str) -> list[tuple[str, ...]]:
    """Read back the names of each statement, as Graphviz would."""
    read, at = [], 0
    statements: list[tuple[str, ...]] = []
    while at < len(text):
        if text[at] == '"':
            at += 1
            name = ""
            while text[at] != '"':
                if text[at] == "\\":
                    at += 1
                    name += {"n": "\n", "r": "\r"}.get(text[at], text[at])
                else:
                    name += text[at]
                at += 1
            read.append(name)
        elif text[at] in ";{":
            statements.append(tuple(read))
            read = []
        at += 1
    return [one for one in statements if one]


def test_odd_names_stand_in_dot() -> None:
    """Quotes, brackets and line breaks neither end a name nor start something else."""
    dag = build(ODD, list(itertools.pairwise(ODD)))
    statements = unquote_dot(dag.to_dot())
    assert statements == [("dag",), *((name,) for name in ODD), *itertools.pairwise(ODD)]


def test_odd_names_stand_in_mermaid() -> None:
    """Each name is one label on one line, with nothing in it that Mermaid would read."""
    dag = build(ODD, list(itertools.pairwise(ODD)))
    first, *lines = dag.to_mermaid().splitlines()
    labels = [line.partition('["')[2].removesuffix('"]') for line in lines[: len(ODD)]]
    assert first == "flowchart LR"
    assert labels[:4] == ["say #34;hi#34;", "a#91;b#93;#40;c#41;#123;d#125;", "line<br/>break", "back#92;slash#92;"]
    assert labels[4].startswith("umlaut ä 中文")
    assert labels[5] == "#60;b#62;#38;#35;35#59;#60;/b#62;"
    assert lines[len(ODD) :] == [f"  n{at} --> n{at + 1}" for at in range(len(ODD) - 1)]


def test_json_keeps_what_a_retry_is_for() -> None:
    """Exception classes travel by name and are found again without importing anything."""
    dag = DAG([Node("a", retries=Retry(2, 1.0, on=(OSError, UnknownNodeError))), Node("b", print, retries=1)])
    back = DAG.from_json(dag.to_json())
    assert back.node("a") == dag.node("a")
    assert back.node("b") == Node("b", retries=1)
    with pytest.raises(SerializationError, match=r"nodes\[0\]\.retries\.on\[0\]: no exception class 'nowhere:Error'"):
        DAG.from_json('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"on": ["nowhere:Error"]}}]}')


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"payload": object()}, "'odd': its payload has <object"),
        ({"payload": {"x": {1}}}, "which JSON cannot hold"),
        ({"payload": [float("nan")]}, "has nan"),
        ({"payload": {1: 2}}, "has the key 1; JSON keys are strings"),
        ({"payload": circle()}, "contains itself"),
        ({"metadata": {"x": b""}}, "its metadata has b''"),
        ({"retries": Retry(on=(type("Local", (Exception,), {}),))}, "cannot be found again by its name"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_node(settings: dict[str, Any], says: str) -> None:
    """Nothing is lost silently."""
    with pytest.raises(SerializationError, match=says) as caught:
        DAG([Node("odd", **settings)]).to_json()
    assert "'odd'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON|too deeply"),
        ("[]", 'an object with "dagrid"'),
        ("{}", 'an object with "dagrid"'),
        ('{"dagrid": 2, "nodes": []}', '"dagrid" is 2, and this release reads version 1'),
        ('{"dagrid": true, "nodes": []}', '"dagrid" is True'),
        ('{"dagrid": 1}', '"nodes" is a list, not None'),
        ('{"dagrid": 1, "node": []}', "has 'node', which no graph has. Did you mean 'nodes'"),
        ('{"dagrid": 1, "nodes": [], "max_concurrency": 0}', "max_concurrency is a whole number"),
        ('{"dagrid": 1, "nodes": [], "name": 3}', "name of a graph is text"),
        ('{"dagrid": 1, "nodes": ["a", 3]}', r"nodes\[1\] is a name or an object, not 3"),
        ('{"dagrid": 1, "nodes": ["a", ""]}', r"nodes\[1\] is a name that is empty"),
        ('{"dagrid": 1, "nodes": [{"depends_on": []}]}', r'nodes\[0\] has no "id"'),
        ('{"dagrid": 1, "nodes": [{"id": 3}]}', r"nodes\[0\]: The name of a node"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "dependson": []}]}', r"nodes\[0\] .*Did you mean 'depends_on'"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "fn": "x"}]}', r'nodes\[0\] has "fn"'),
        ('{"dagrid": 1, "nodes": [{"id": "a", "timeout": -1}]}', r"nodes\[0\]: Node 'a': timeout"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "payload": NaN}]}', "NaN is not a JSON number"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"max": 1}}]}', r"nodes\[0\]\.retries has 'max'"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"delay": -1}}]}', r"nodes\[0\]\.retries: Retry: delay"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"on": "x"}}]}', r"nodes\[0\]\.retries\.on is a list"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"on": [3]}}]}', r"on\[0\]: no exception class 3"),
        ('{"dagrid": 1, "nodes": [{"id": "a", "retries": {"on": ["builtins:int"]}}]}', "no exception class"),
    ],
)
def test_a_malformed_document_is_refused_with_the_place(text: str, says: str) -> None:
    """Whoever has to correct the document is told where."""
    with pytest.raises(SerializationError, match=says):
        DAG.from_json(text)


def test_a_document_whose_nodes_are_no_graph_says_so() -> None:
    """What is wrong with the graph, not with the text, keeps its own error."""
    with pytest.raises(UnknownNodeError, match="Node 'a' depends on 'b'"):
        DAG.from_json('{"dagrid": 1, "nodes": [{"id": "a", "depends_on": ["b"]}]}')
    with pytest.raises(DuplicateNodeError):
        DAG.from_json('{"dagrid": 1, "nodes": ["a", "a"]}')


def test_records_are_names_or_mappings() -> None:
    """A table of rows becomes a graph, functions included, and a wrong row is named."""
    dag = DAG.from_records(["a", {"id": "b", "depends_on": ["a"], "fn": print, "priority": 2}])
    assert dag.to_records() == [{"id": "a"}, {"id": "b", "depends_on": ["a"], "fn": print, "priority": 2}]
    assert DAG.from_records(["a", "b"], [("a", "b")], name="x").edges() == [("a", "b")]
    for wrong, says in [(3, "record 1 is a name or a mapping, not 3"), ({"prio": 1}, 'record 1 has no "id"')]:
        with pytest.raises(SerializationError, match=says):
            DAG.from_records(["a", wrong])  # type: ignore[list-item]
    with pytest.raises(SerializationError, match=r"record 0 \('a'\) has 'priorty'.* Did you mean 'priority'\?"):
        DAG.from_records([{"id": "a", "priorty": 1}])
