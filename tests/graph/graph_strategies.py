"""Random graphs for the property tests, and networkx as the oracle beside them."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
from hypothesis import strategies as st

from dagrid.graph import DAG

Pairs = list[tuple[str, str]]


@st.composite
def graph_parts(draw: st.DrawFn, max_nodes: int = 14) -> tuple[list[str], Pairs]:
    """Names in any order and acyclic edges in any order, some of them twice."""
    count = draw(st.integers(0, max_nodes))
    ranked = [f"n{at}" for at in range(count)]
    possible = [(ranked[a], ranked[b]) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(possible), max_size=4 * max_nodes)) if possible else []
    return draw(st.permutations(ranked)), edges


def build(names: list[str], pairs: Pairs) -> DAG:
    return DAG.builder().add_nodes(names).add_edges(pairs).build()


def oracle(names: list[str], pairs: Pairs) -> Any:
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(pairs)
    return graph


def chain(count: int) -> DAG:
    names = [f"n{at}" for at in range(count)]
    return build(names, list(itertools.pairwise(names)))
