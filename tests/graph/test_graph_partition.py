"""Graphs in parts: whatever the strategy, the parts form no circle, and the figures that were promised are reached."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmarks.shapes import epigenomics, montage, soykb
from dagrid.errors import InvalidNodeError, InvalidSettingError, UnknownNodeError
from dagrid.graph import DAG, Node
from dagrid.graph.partition import Partition, partition
from tests.graph.graph_strategies import Pairs, build, chain, graph_parts, oracle

STRATEGIES = ("level_based", "balanced", "communication_min")
COSTS = st.one_of(st.just(0.0), st.floats(0, 10), st.sampled_from([1.0, 2.0, 1e-300, 1e300, 1.7e308]))
ROOT = Path(__file__).parents[2]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], Pairs, dict[str, float] | None]:
    names, pairs = draw(graph_parts(16))
    costs = draw(st.none() | st.fixed_dictionaries(dict.fromkeys(names, COSTS)))
    return names, pairs, costs


def layered(layers: int, width: int) -> DAG:
    names = [f"{layer}.{place}" for layer in range(layers) for place in range(width)]
    pairs = [
        (f"{layer - 1}.{(place + step) % width}", f"{layer}.{place}")
        for layer in range(1, layers)
        for place in range(width)
        for step in (0, 7, 13)
    ]
    return build(names, pairs)


def chains(count: int, length: int) -> DAG:
    pairs = [(f"{one}.{at}", f"{one}.{at + 1}") for one in range(count) for at in range(length - 1)]
    return build([f"{one}.{at}" for one in range(count) for at in range(length)], pairs)


def check(found: Partition, names: list[str], pairs: Pairs) -> None:
    """Hold a partition against what networkx says of the same graph."""
    graph = oracle(names, pairs)
    assert sorted(itertools.chain(*found.parts)) == sorted(names)
    assert all(found.parts)
    assert {name: at for at, part in enumerate(found.parts) for name in part} == found.part_of
    assert sorted(found.cut_edges) == sorted(
        edge for edge in graph.edges if found.part_of[edge[0]] != found.part_of[edge[1]]
    )
    assert found.edges == sorted({(found.part_of[before], found.part_of[after]) for before, after in found.cut_edges})
    quotient = nx.DiGraph(found.edges)
    assert nx.is_directed_acyclic_graph(quotient)
    assert all(before < after for before, after in found.edges)
    place = {name: at for at, name in enumerate(itertools.chain(*found.parts))}
    assert all(place[before] < place[after] for before, after in graph.edges)
    assert len(found.worker_of) == len(found.parts)
    assert all(0 <= own < min(found.k, len(names)) for own in found.worker_of)


@hypothesis_settings(deadline=None)
@given(cases(), st.integers(1, 9), st.sampled_from(STRATEGIES), st.sampled_from([0.0, 0.03, 0.3, 2.0]))
def test_every_node_is_in_one_part_and_the_parts_form_no_circle(
    case: tuple[list[str], Pairs, dict[str, float] | None], k: int, strategy: str, max_imbalance: float
) -> None:
    """It holds for every graph, for costs of nothing and for costs whose sum is no number any more."""
    names, pairs, costs = case
    found = partition(build(names, pairs), k=k, strategy=strategy, costs=costs, max_imbalance=max_imbalance)
    check(found, names, pairs)
    if strategy != "balanced":
        assert len(found.parts) == min(k, len(names))
    weight = dict.fromkeys(names, 1.0) if costs is None or not any(costs.values()) else costs
    largest = max(weight.values(), default=1.0)
    load = [0.0] * max(1, min(k, len(names)))
    for name, at in found.part_of.items():
        load[found.worker_of[at]] += weight[name] / largest
    mean = math.fsum(load) / len(load)
    assert max(load) <= max(mean * (1 + max_imbalance), mean + 1) * (1 + 1e-6)
    if mean:
        assert found.imbalance == pytest.approx(max(load) / mean - 1, abs=1e-9)
    if costs is None and names:
        assert max(load) <= max(mean * (1 + max_imbalance), math.ceil(mean)) + 1e-6
        assert found.ideal - 1e-9 <= found.makespan <= found.staged_makespan + len(names)


@hypothesis_settings(deadline=None)
@given(
    cases(),
    st.integers(1, 5),
    st.sampled_from(STRATEGIES),
    st.sampled_from([0.0, 0.5, 100.0, "by edge"]),
)
def test_transfer_times_keep_the_parts_free_of_circles(
    case: tuple[list[str], Pairs, dict[str, float] | None], k: int, strategy: str, transfer: Any
) -> None:
    """An edge that takes no time is an edge all the same."""
    names, pairs, costs = case
    if transfer == "by edge":
        transfer = {edge: float(at % 3) * 10.0 ** (at % 7) for at, edge in enumerate(sorted(set(pairs)))}
    check(partition(build(names, pairs), k=k, strategy=strategy, costs=costs, transfer=transfer), names, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("k", [2, 12])
def test_graphs_that_are_merged_on_the_way_keep_the_promise_too(seed: int, k: int) -> None:
    """Small graphs are never coarsened; here nodes are merged, and a pair that closes a circle would show."""
    draw = random.Random(seed)
    names = [f"n{at}" for at in range(400)]
    reach = (3, 12, 60, 399)[seed]
    pairs = [
        (names[before], names[after])
        for after in range(1, 400)
        for before in {draw.randrange(max(0, after - reach), after) for _ in range(draw.choice((0, 1, 1, 2, 4)))}
    ]
    dag = build(names, pairs)
    costs = {name: draw.choice((0.0, 1.0, 1.0, 2.0, 5.0)) for name in names}
    for strategy, given_costs, transfer in (
        ("level_based", costs, None),
        ("balanced", costs, 0.5),
        ("communication_min", None, None),
        ("communication_min", costs, None),
        ("communication_min", costs, {pair: draw.choice((0.0, 1.0, 30.0)) for pair in pairs}),
    ):
        found = partition(dag, k=k, strategy=strategy, costs=given_costs, transfer=transfer, max_imbalance=0.05)
        check(found, names, pairs)
        mean = sum(costs.values()) / k if given_costs else len(names) / k
        assert found.imbalance * mean <= max(0.05 * mean, max(costs.values()) if given_costs else 1.0) + 1e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_independent_chains_are_not_cut(strategy: str) -> None:
    """64 chains for 8 workers: nothing is sent anywhere, and everybody is busy until the end."""
    found = chains(64, 10).partition(8, strategy)
    assert found.cut_edges == []
    assert len(found.parts) == 8
    assert found.imbalance == 0.0
    assert found.makespan == found.staged_makespan == found.ideal == 80.0


def test_balanced_keeps_every_worker_busy_where_everything_depends_on_everything() -> None:
    """With one part for each worker this graph takes seven times as long; by stages it is at most a tenth over the bound."""
    found = layered(100, 100).partition(8, "balanced")
    assert found.makespan <= 1.1 * found.ideal
    assert found.staged_makespan <= 1.1 * found.ideal
    assert found.imbalance <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4, 8])
def test_small_cuts_are_below_those_of_a_depth_first_order(k: int) -> None:
    """Contiguous pieces of a depth-first order are the plain way; this must never be worse, and is better on these."""
    for shape in (montage(6, 6), epigenomics([20, 15, 25, 18]), soykb(10, 10)):
        dag = shape.dag()
        found = dag.partition(k, "communication_min", max_imbalance=0.03)
        order = list(nx.dfs_postorder_nodes(nx.DiGraph(dag.edges()).reverse()))
        count = len(order)
        part = {name: min(at * k // count, k - 1) for at, name in enumerate(order)}
        assert len(found.cut_edges) < sum(part[before] != part[after] for before, after in dag.edges())
        assert found.imbalance <= max(0.03, k * math.ceil(count / k) / count - 1) + 1e-9


def test_the_cut_of_a_known_graph_is_the_smallest_there_is() -> None:
    """Six lanes that join at the end: three on each side, and only the edges of the join are cut."""
    found = epigenomics([20] * 6).dag().partition(2, "communication_min", max_imbalance=0.03)
    assert len(found.cut_edges) == 3


def test_a_chain_is_cut_once_between_two_parts() -> None:
    """All strategies: there is only one way to have few edges between equal parts of a chain."""
    for strategy in STRATEGIES:
        found = chain(12).partition(3, strategy, max_imbalance=0.0)
        assert [len(part) for part in found.parts] == [4, 4, 4]
        assert found.cut_edges == [("n3", "n4"), ("n7", "n8")]
        assert found.edges == [(0, 1), (1, 2)]
        assert found.makespan == found.staged_makespan == 12


@given(graph_parts(16), st.integers(2, 8), st.sampled_from(STRATEGIES))
def test_without_imbalance_no_worker_has_two_nodes_more_than_another(
    drawn: tuple[list[str], Pairs], k: int, strategy: str
) -> None:
    """Balanced to one node is said of him who has least as well."""
    names, pairs = drawn
    found = build(names, pairs).partition(k, strategy, max_imbalance=0.0)
    loads = [0] * min(k, len(names))
    for part, own in zip(found.parts, found.worker_of, strict=True):
        loads[own] += len(part)
    assert max(loads, default=0) - min(loads, default=0) <= 1


def test_costs_count_and_level_based_cuts_between_levels() -> None:
    """One long node weighs as much as its level; the node's own cost counts where none is given."""
    dag = (
        DAG.builder()
        .add_nodes(["a", "b", "c", "d", "e"])
        .add_node("f", cost=3)
        .add_edges([("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f")])
        .build()
    )
    assert dag.partition(2, "level_based", max_imbalance=0.0).parts == [["a", "b", "c", "d"], ["e", "f"]]
    found = dag.partition(2, "level_based", costs={"a": 8, "f": 1}, max_imbalance=0.5)
    assert found.parts == [["a"], ["b", "c", "d", "e", "f"]]
    fans = build(["s", *"abcd", "t"], [*(("s", one) for one in "abcd"), *((one, "t") for one in "abcd")])
    assert fans.partition(2, "level_based", max_imbalance=0.7).parts == [["s"], ["a", "b", "c", "d", "t"]]


@pytest.mark.slow
def test_with_transfer_times_the_makespan_decides() -> None:
    """When a value is dear to send, few edges are cut; when it is cheap, everybody is busy."""
    dag = layered(8, 16)
    bare = dag.partition(4, "communication_min")
    cheap = dag.partition(4, "communication_min", transfer=0.0)
    assert cheap.makespan < bare.makespan
    assert cheap.makespan <= 1.1 * cheap.ideal
    dear = dag.partition(4, "communication_min", transfer=50.0)
    assert dear.makespan < dag.partition(4, "balanced", transfer=50.0).makespan
    assert dear.makespan <= 1e-9 + min(
        dag.partition(4, strategy, transfer=50.0).makespan for strategy in ("communication_min", "balanced")
    )


def test_a_transfer_is_paid_between_workers_only() -> None:
    """The estimate of two nodes in a row on two workers is their time and the way between them."""
    dag = chain(2)
    found = dag.partition(2, "communication_min", max_imbalance=0.0, transfer={("n0", "n1"): 5.0})
    assert (found.makespan, found.staged_makespan) == (7.0, 7.0)
    assert dag.partition(1, transfer=5.0).makespan == 2.0


def test_small_and_odd_graphs() -> None:
    """No node, one node, and more workers than nodes."""
    assert DAG([]).partition(3).parts == []
    assert str(DAG([]).partition(3)).startswith("0 parts for 3 workers")
    for strategy in STRATEGIES:
        assert chain(1).partition(3, strategy).parts == [["n0"]]
        assert len(chain(2).partition(5, strategy, max_imbalance=0.0).parts) == 2
        assert chain(5).partition(1, strategy).cut_edges == []


@pytest.mark.slow
def test_a_long_chain_and_a_wide_fan_are_ordinary() -> None:
    """Nothing recurses, and a node with very many neighbours does not take for ever."""
    assert len(chain(5_000).partition(4, "communication_min", max_iterations=1).cut_edges) == 3
    fan = build(["s", *(f"n{at}" for at in range(5_000))], [("s", f"n{at}") for at in range(5_000)])
    for strategy in STRATEGIES:
        found = fan.partition(4, strategy, max_imbalance=0.0)
        assert found.imbalance <= 1e-3


@pytest.mark.slow
def test_neighbours_of_one_node_are_not_copied_for_each_of_them() -> None:
    """A graph in which all depend on one node takes about as long as any other of its size, and not the square of that."""

    def seconds(before: Callable[[int], int]) -> float:
        pairs = [(f"n{before(at)}", f"n{at}") for at in range(1, 20_000)]
        dag = build([f"n{at}" for at in range(20_000)], pairs)
        start = time.process_time()
        dag.partition(2, "communication_min", max_iterations=0)
        return time.process_time() - start

    assert seconds(lambda at: 0) < 4 * seconds(lambda at: (at - 1) // 2)


PROGRAM = """
from benchmarks.shapes import montage
from dagrid.graph.partition import partition
dag = montage(3, 3).dag()
for strategy in ("level_based", "balanced", "communication_min"):
    print(partition(dag, k=4, strategy=strategy).parts)
print(partition(dag, k=4, strategy="communication_min", transfer=0.5).parts)
"""


def test_every_process_finds_the_same_parts() -> None:
    """A coordinator and its workers may each ask: the seed of Python's hashes must not show."""
    told = set()
    for seed in ("1", "2"):
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        told.add(ran.stdout)
    assert len(told) == 1


def test_it_draws_itself() -> None:
    """Each part is a box with its nodes in it; odd names are quoted, and what is cut is dashed."""
    dag = build(['a "b"', "c"], [('a "b"', "c")])
    found = dag.partition(2, "level_based")
    assert found.to_mermaid() == (
        "flowchart LR\n"
        '  subgraph p0["part 0 on worker 0"]\n    n0["a #34;b#34;"]\n  end\n'
        '  subgraph p1["part 1 on worker 1"]\n    n1["c"]\n  end\n'
        "  n0 -.-> n1\n"
    )
    assert found.to_dot() == (
        'digraph "dag" {\n  rankdir=LR;\n'
        '  subgraph cluster_0 {\n    label="part 0 on worker 0";\n    "a \\"b\\"";\n  }\n'
        '  subgraph cluster_1 {\n    label="part 1 on worker 1";\n    "c";\n  }\n'
        '  "a \\"b\\"" -> "c" [style=dashed];\n}\n'
    )
    assert str(found) == (
        "2 parts for 2 workers (level_based): 1 of 1 edges cut, imbalance 0.0%\n"
        "makespan 2, part by part 2, at best 2\n"
        "part 0 on worker 0: 1 node\n"
        "part 1 on worker 1: 1 node, needs 0"
    )
    assert "and 5 more" in str(chain(25).partition(25, "level_based"))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"k": 0}, InvalidSettingError, "k, the number of workers"),
        ({"k": True}, InvalidSettingError, "whole number"),
        ({"strategy": "level_base"}, InvalidSettingError, "Did you mean 'level_based'?"),
        ({"strategy": None}, InvalidSettingError, "There are: 'level_based'"),
        ({"strategy": ["balanced"]}, InvalidSettingError, "There are: 'level_based'"),
        ({"costs": 5}, InvalidNodeError, "by the name of a node"),
        ({"max_imbalance": -0.1}, InvalidSettingError, "max_imbalance"),
        ({"max_iterations": -1}, InvalidSettingError, "max_iterations"),
        ({"max_imbalanc": 1}, InvalidSettingError, "Did you mean 'max_imbalance'?"),
        ({"costs": {"n0": -1}}, InvalidNodeError, "'n0': a cost is a finite number"),
        ({"costs": {"n00": 1}}, UnknownNodeError, "Did you mean 'n0'?"),
        ({"transfer": -1}, InvalidSettingError, "transfer is a number of seconds"),
        ({"transfer": {"n0": 1}}, InvalidSettingError, "(before, after)"),
        ({"transfer": {("n0", "n1"): math.nan}}, InvalidSettingError, "from 0 up"),
        ({"transfer": {("n0", "n2"): 1}}, UnknownNodeError, "none there"),
        ({"transfer": {("n0", "nn"): 1}}, UnknownNodeError, "'nn'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    """A mistake gets an error of its own type that names the remedy."""
    settings: dict[str, Any] = {"k": 2, "strategy": "balanced"} | given
    with pytest.raises(error) as caught:
        partition(chain(3), **settings)
    assert said in str(caught.value)


def test_many_workers_cost_little_more_than_few() -> None:
    """Of the workers that have none of a node's inputs only the best one is looked at, and not each for each node."""
    chance = random.Random(3)
    nodes = [
        Node(f"{row}.{at}", cost=chance.random(), depends_on=[f"{row - 1}.{chance.randrange(60)}"] if row else [])
        for row in range(60)
        for at in range(60)
    ]
    graph = DAG(nodes)

    def seconds(k: int) -> float:
        began = time.process_time()
        graph.partition(k=k, strategy="balanced")
        return time.process_time() - began

    few, many = min(seconds(8) for _ in range(3)), min(seconds(1_200) for _ in range(3))
    assert many < 5 * few


@pytest.mark.slow
def test_borders_are_looked_for_near_their_shares() -> None:
    """Where there are many parts, a border that is many parts away from its share is none, and not tried for each of them."""
    dag = layered(50, 50)

    def seconds(k: int) -> float:
        began = time.process_time()
        dag.partition(k, "communication_min")
        return time.process_time() - began

    assert seconds(500) < 5 * seconds(8)
