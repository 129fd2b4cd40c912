"""What building a large graph costs in time and memory, beside plain dicts of lists and beside networkx.

Names and edges are given; each order of them is measured in a process of its own, the builders in turn. The plain dicts are
filled twice: with the garbage collector as Python leaves it, and paused as the builder does.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import Figure, in_a_fresh_process, interleaved, resident, timed

Pairs = list[tuple[str, str]]
PLAIN, PAUSED, BULK = "plain dicts", "plain dicts, gc paused", "dagrid add_nodes/add_edges"
ONE, NETWORKX = "dagrid add_node/add_edge", "networkx + topological sort"
ORDERS = ("in order", "shuffled")


def make(nodes: int, edges: int, shuffled: bool) -> tuple[list[str], Pairs]:
    """Return names and random forward edges, in order or shuffled (both the names and the edges)."""
    draw = random.Random(7)
    names = [f"n{at}" for at in range(nodes)]
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < edges:
        before, after = draw.randrange(nodes), draw.randrange(nodes)
        if before != after:
            chosen.add((min(before, after), max(before, after)))
    pairs = [(names[before], names[after]) for before, after in sorted(chosen, key=lambda edge: edge[::-1])]
    if shuffled:
        draw.shuffle(pairs)
        draw.shuffle(names)
    return names, pairs


def plain_dicts(names: list[str], pairs: Pairs) -> object:
    """Fill two dicts of lists and do nothing else: no check, no order."""
    successors: dict[str, list[str]] = {name: [] for name in names}
    predecessors: dict[str, list[str]] = {name: [] for name in names}
    for before, after in pairs:
        successors[before].append(after)
        predecessors[after].append(before)
    return successors, predecessors


def plain_dicts_paused(names: list[str], pairs: Pairs) -> object:
    """The same with the garbage collector paused."""
    gc.disable()
    try:
        return plain_dicts(names, pairs)
    finally:
        gc.enable()


def dagrid_builder(names: list[str], pairs: Pairs) -> object:
    """Build by names and pairs, checked, ordered and free of cycles."""
    from dagrid.graph import DAG

    return DAG.builder().add_nodes(names).add_edges(pairs).build()


def dagrid_one_by_one(names: list[str], pairs: Pairs) -> object:
    """The same by one call for each node and each edge."""
    from dagrid.graph import DAG

    builder = DAG.builder()
    for name in names:
        builder.add_node(name)
    for before, after in pairs:
        builder.add_edge(before, after)
    return builder.build()


def networkx_ordered(names: list[str], pairs: Pairs) -> object:
    """networkx's DiGraph and its topological sort."""
    import networkx  # type: ignore[import-untyped, unused-ignore]

    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(pairs)
    return graph, list(networkx.topological_sort(graph))


BUILDERS: dict[str, Callable[[list[str], Pairs], object]] = {
    PLAIN: plain_dicts,
    PAUSED: plain_dicts_paused,
    BULK: dagrid_builder,
    ONE: dagrid_one_by_one,
    NETWORKX: networkx_ordered,
}


def build(quick: bool) -> Figure:
    """Building, with the edges in order and in any order; then what the larger questions cost."""
    nodes, rounds = (2_000, 3) if quick else (100_000, 3)
    figure = Figure("build", f"build of {nodes:,} nodes, {3 * nodes:,} edges (medians of {rounds})", "ms", BULK)
    for order in ORDERS:
        measured = in_a_fresh_process("benchmarks.graph", "time", str(nodes), order, str(rounds))
        for name, samples in measured.items():
            figure.put(name, order, [seconds * 1e3 for seconds in samples])
        figure.hold(f"{order}, times plain dicts", figure.ratio(BULK, order, PLAIN), 2.0, "times")
    in_order, shuffled = (figure.rows[BULK][order] / figure.rows[PAUSED][order] for order in ORDERS)
    figure.hold("shuffled over in order, each in times plain dicts, gc paused", shuffled / in_order, 1.25, "times")
    return figure


def memory(quick: bool) -> Figure:
    """What a graph holds, without the names and pairs that were given."""
    nodes = 2_000 if quick else 100_000
    title = (
        f"memory of {nodes:,} nodes, {3 * nodes:,} edges (one process each; kept after building, and at most meanwhile)"
    )
    figure = Figure("memory", title, "MiB", BULK)
    for name in (PLAIN, BULK, ONE, NETWORKX):
        for way in ("resident", "traced"):
            kept, most = in_a_fresh_process("benchmarks.graph", way, str(nodes), ORDERS[1], name)
            figure.put(name, f"{way}, kept", [kept / 2**20])
            if most:
                figure.put(name, f"{way}, most", [most / 2**20])
    figure.hold("resident, kept", figure.value(BULK, "resident, kept"), 60 * nodes / 100_000)
    return figure


def take_times(nodes: int, order: str, rounds: int) -> dict[str, list[float]]:
    """Build in this process with each builder in turn and return the seconds."""
    names, pairs = make(nodes, 3 * nodes, order == "shuffled")
    contenders = {name: partial(timed, builder, names, pairs) for name, builder in BUILDERS.items()}
    for builder in BUILDERS.values():
        builder(["a", "b"], [("a", "b")])
    return interleaved(contenders, rounds)


def take_memory(way: str, nodes: int, order: str, name: str) -> tuple[int, int]:
    """Build once in this process and return the bytes that stay and, when they are traced, the most there were."""
    builder = BUILDERS[name]
    builder(["a", "b"], [("a", "b")])
    names, pairs = make(nodes, 3 * nodes, order == "shuffled")
    gc.collect()
    if way == "traced":
        tracemalloc.start()
        made = builder(names, pairs)
        gc.collect()
        return tracemalloc.get_traced_memory()
    before = resident()
    made = builder(names, pairs)
    gc.collect()
    grown = resident() - before
    del made
    return grown, 0


def questions(quick: bool) -> Figure:
    """What the larger questions cost on that graph, on a chain and on a denser graph of 10,000 nodes."""
    from dagrid.graph import DAG
    from dagrid.graph.analysis import bottom_levels

    nodes, rounds = (5_000, 1) if quick else (100_000, 3)
    figure = Figure("questions", f"questions to a graph (medians of {rounds})", "ms")
    names = [f"n{at}" for at in range(nodes)]
    graphs = {
        f"random {nodes:,}": make(nodes, 3 * nodes, False),
        f"chain {nodes:,}": (names, list(itertools.pairwise(names))),
        f"random {nodes // 10:,}, 6 edges a node": make(nodes // 10, 6 * nodes // 10, False),
    }
    asked: dict[str, Callable[[Any], object]] = {
        "bottom_levels": lambda dag: bottom_levels(dag.structure),
        "levels": lambda dag: dag.topological_levels(),
        "critical path": lambda dag: dag.critical_path(),
        "descendants": lambda dag: dag.descendants("n0"),
        "reduction": lambda dag: dag.transitive_reduction(),
        "to_json": lambda dag: dag.to_json(),
        "from_json": lambda dag: DAG.from_json(dag.to_json()),
    }
    for title, (given, pairs) in graphs.items():
        dag = DAG.builder().add_nodes(given).add_edges(pairs).build()
        for question, ask in asked.items():
            samples = interleaved({question: partial(timed, ask, dag)}, rounds)[question]
            figure.put(question, title, [seconds * 1e3 for seconds in samples])
    return figure


def main(what: str, nodes: str, order: str, last: str) -> None:
    """Measure one thing in this process and print it as JSON."""
    if what == "time":
        print(json.dumps(take_times(int(nodes), order, int(last))))
    else:
        print(json.dumps(take_memory(what, int(nodes), order, last)))


if __name__ == "__main__":
    main(*sys.argv[1:])
