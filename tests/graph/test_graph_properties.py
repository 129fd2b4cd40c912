"""Random graphs: what networkx says of them, dagrid says too."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid.errors import CycleError
from dagrid.graph import DAG, Node, analysis, bottom_levels
from tests.graph.graph_strategies import Pairs, build, graph_parts, oracle

Parts = tuple[list[str], Pairs]


@given(graph_parts())
def test_the_graph_is_what_was_added(parts: Parts) -> None:
    """Any order of nodes and edges gives the same nodes and edges, duplicates once."""
    dag, graph = build(*parts), oracle(*parts)
    assert dag.node_names() == list(graph.nodes)
    assert set(dag.edges()) == set(graph.edges)
    assert dag.edge_count() == len(dag.edges()) == graph.number_of_edges()
    assert dag.roots() == [name for name, degree in graph.in_degree if degree == 0]
    assert dag.leaves() == [name for name, degree in graph.out_degree if degree == 0]
    for name in graph:
        assert set(dag.predecessors(name)) == set(graph.predecessors(name))
        assert set(dag.successors(name)) == set(graph.successors(name))
        assert (dag.in_degree(name), dag.out_degree(name)) == (graph.in_degree(name), graph.out_degree(name))
        assert all(dag.has_edge(name, other) == graph.has_edge(name, other) for other in graph)


@given(graph_parts())
def test_the_order_is_topological_and_stable(parts: Parts) -> None:
    """Every edge goes forward, and a graph that is in order already is not reordered."""
    dag = build(*parts)
    order = dag.topological_sort()
    place = {name: at for at, name in enumerate(order)}
    assert sorted(order) == sorted(parts[0])
    assert all(place[before] < place[after] for before, after in parts[1])
    again = build(order, parts[1])
    assert again.topological_sort() == order


@given(graph_parts())
def test_levels_are_those_of_networkx(parts: Parts) -> None:
    """A level is all that becomes free when the one before is done."""
    dag, graph = build(*parts), oracle(*parts)
    assert [set(level) for level in dag.topological_levels()] == [set(one) for one in nx.topological_generations(graph)]


@given(graph_parts())
def test_reach_is_that_of_networkx_in_topological_order(parts: Parts) -> None:
    """Ancestors and descendants are complete and come in the order in which they would run."""
    dag, graph = build(*parts), oracle(*parts)
    order = dag.topological_sort()
    for name in graph:
        assert dag.ancestors(name) == [one for one in order if one in nx.ancestors(graph, name)]
        assert dag.descendants(name) == [one for one in order if one in nx.descendants(graph, name)]


@given(graph_parts())
def test_reduction_is_that_of_networkx(parts: Parts) -> None:
    """Only edges go, and exactly those that follow from others."""
    dag, graph = build(*parts), oracle(*parts)
    reduced = dag.transitive_reduction()
    assert set(reduced.edges()) == set(nx.transitive_reduction(graph).edges)
    assert reduced.node_names() == dag.node_names()
    assert set(dag.edges()) == set(graph.edges)


@given(graph_parts())
def test_reduction_in_many_windows_is_the_same(parts: Parts) -> None:
    """Large graphs are reduced in windows of bits; the seams between windows lose nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "_BITSET_BYTES", 0)
        patch.setattr(analysis, "_MIN_WINDOW", 1)
        reduced = build(*parts).transitive_reduction()
    assert set(reduced.edges()) == set(nx.transitive_reduction(oracle(*parts)).edges)


@given(graph_parts(), st.data())
def test_the_critical_path_is_a_longest_one(parts: Parts, data: st.DataObject) -> None:
    """Its length is that of networkx's longest path, and it is a path of the graph with that length."""
    dag, graph = build(*parts), oracle(*parts)
    costs = {name: data.draw(st.integers(0, 9)) for name in parts[0]}
    found = dag.critical_path(costs)
    graph.add_node("end")
    for name in parts[0]:
        graph.add_edge(name, "end")
    for before, _, edge in graph.edges(data=True):
        edge["weight"] = costs[before]
    assert found.length == nx.dag_longest_path_length(graph) == sum(costs[name] for name in found.nodes)
    assert all(dag.has_edge(*pair) for pair in zip(found.nodes, found.nodes[1:], strict=False))
    assert found.length == max(bottom_levels(dag.structure, [costs[name] for name in dag]), default=0)


@given(graph_parts(), st.data())
def test_subgraph_and_reverse_are_those_of_networkx(parts: Parts, data: st.DataObject) -> None:
    """The induced edges, and every edge turned round."""
    dag, graph = build(*parts), oracle(*parts)
    keep = [name for name in parts[0] if data.draw(st.booleans())]
    part = dag.subgraph(keep)
    assert part.node_names() == keep
    assert set(part.edges()) == set(graph.subgraph(keep).edges)
    assert set(dag.reverse().edges()) == set(graph.reverse().edges)


@given(graph_parts())
def test_stats_agree_with_networkx(parts: Parts) -> None:
    """The numbers of the summary are those of the graph."""
    dag, graph = build(*parts), oracle(*parts)
    stats = dag.stats()
    widths = [len(one) for one in nx.topological_generations(graph)]
    assert (stats.nodes, stats.edges) == (graph.number_of_nodes(), graph.number_of_edges())
    assert (stats.depth, stats.width) == (len(widths), max(widths, default=0))
    assert stats.density == (pytest.approx(2 * nx.density(graph)) if len(graph) > 1 else 0)
    assert stats.critical_path_length == len(widths)
    assert str(len(graph)) in str(stats)


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
def test_a_cycle_is_found_exactly_when_there_is_one(count: int, numbers: list[tuple[int, int]]) -> None:
    """The error's path is a cycle of the graph: each step an edge, no node twice, the first again at the end."""
    names = [f"n{at}" for at in range(count)]
    pairs = [(names[a % count], names[b % count]) for a, b in numbers]
    graph = oracle(names, pairs)
    if nx.is_directed_acyclic_graph(graph):
        assert build(names, pairs).node_count() == count
        return
    with pytest.raises(CycleError) as caught:
        build(names, pairs)
    cycle = caught.value.cycle
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1 >= 1
    assert all(graph.has_edge(*pair) for pair in itertools.pairwise(cycle))


@given(graph_parts(), st.integers(0, 14))
def test_extending_is_building_in_two_parts(parts: Parts, cut: int) -> None:
    """A graph that grew is the same, order included, as one that was built at once; the shorter one is untouched."""
    whole = build(build(*parts).topological_sort(), parts[1])
    nodes = [whole.node(name) for name in whole]
    short = DAG(nodes[:cut], name="grows")
    before = (short.node_names(), short.edges(), short.structure.order.copy())
    long = short.extend(nodes[cut:])
    for attribute in ("names", "index", "predecessors", "successors", "order"):
        assert getattr(long.structure, attribute) == getattr(whole.structure, attribute)
    assert (short.node_names(), short.edges(), short.structure.order) == before
    assert all(set(short.successors(name)) <= set(short) for name in short)


SETTINGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(-5, 5),
        "is_sequential": st.booleans(),
        "resources": st.dictionaries(st.text(min_size=1), st.floats(0.1, 1e6), max_size=2),
        "selector": st.dictionaries(st.text(min_size=1), st.text(), max_size=2),
        "retries": st.integers(0, 5),
        "timeout": st.floats(0.001, 1e6),
        "cost": st.floats(0, 1e6),
        "kind": st.text(),
        "on_lost": st.sampled_from(["requeue", "fail"]),
        "payload": st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
        "metadata": st.dictionaries(st.text(), st.integers(), max_size=2),
    },
)


@given(st.lists(st.text(min_size=1), unique=True, max_size=6), st.data())
def test_json_and_records_bring_everything_back(names: list[str], data: st.DataObject) -> None:
    """Any name, any setting and any edge survive the way to JSON and back, and the way to records and back."""
    nodes = []
    for at, name in enumerate(names):
        before: list[str] = data.draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else []
        flows: bool = data.draw(st.booleans())
        inputs = {"value": before[0]} if before and flows else None
        nodes.append(Node(name, None, before, inputs=inputs, **data.draw(SETTINGS)))
    limit = data.draw(st.none() | st.integers(1, 9))
    dag = DAG(nodes, name=data.draw(st.none() | st.text()), max_concurrency=limit)
    from_json = DAG.from_json(dag.to_json(indent=data.draw(st.sampled_from([None, 2]))))
    from_records = DAG.from_records(dag.to_records(), name=dag.name, max_concurrency=limit)
    for back in (from_json, from_records):
        assert [back.node(name) for name in back] == [dag.node(name) for name in dag] == nodes
        assert back.topological_sort() == dag.topological_sort()
        assert (back.name, back.max_concurrency) == (dag.name, dag.max_concurrency)
    assert from_json.to_json() == dag.to_json()


@given(st.text(min_size=1))
def test_only_a_graph_is_read_as_one(text: str) -> None:
    """Text that is no document of ours is refused with our own error, whatever it is."""
    with pytest.raises(ValueError, match=r"document|dagrid"):
        DAG.from_json(text)
