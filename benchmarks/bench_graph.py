"""What building a large graph costs, beside plain dicts of lists and beside networkx.

Usage: python benchmarks/bench_graph.py [nodes] [edges]

Each row is the best of three runs in a process of its own; memory is what stays allocated after building (tracemalloc),
without the names and pairs that were given. The plain dicts are filled twice: with the garbage collector as Python
leaves it, and paused as the builder does.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

Pairs = list[tuple[str, str]]


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

    builder = DAG.builder().add_nodes(names).add_edges(pairs)
    return builder, builder.build()


def dagrid_one_by_one(names: list[str], pairs: Pairs) -> object:
    """The same by one call for each node and each edge."""
    from dagrid.graph import DAG

    builder = DAG.builder()
    for name in names:
        builder.add_node(name)
    for before, after in pairs:
        builder.add_edge(before, after)
    return builder, builder.build()


def networkx_ordered(names: list[str], pairs: Pairs) -> object:
    """networkx's DiGraph and its topological sort."""
    import networkx  # type: ignore[import-untyped, unused-ignore]

    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(pairs)
    return graph, list(networkx.topological_sort(graph))


BUILDERS: dict[str, Callable[[list[str], Pairs], object]] = {
    "plain dicts": plain_dicts,
    "plain dicts, gc paused": plain_dicts_paused,
    "dagrid add_nodes/add_edges": dagrid_builder,
    "dagrid add_node/add_edge": dagrid_one_by_one,
    "networkx + topological sort": networkx_ordered,
}


def measure(what: str, nodes: int, edges: int, shuffled: bool) -> dict[str, float]:
    """Measure one row in this process."""
    build = BUILDERS[what]
    build(["a", "b"], [("a", "b")])
    names, pairs = make(nodes, edges, shuffled)
    times = []
    for _ in range(3):
        gc.collect()
        start = time.perf_counter()
        made = build(names, pairs)
        times.append(time.perf_counter() - start)
        del made
    gc.collect()
    tracemalloc.start()
    made = build(names, pairs)
    stays, peak = tracemalloc.get_traced_memory()
    del made
    return {"ms": min(times) * 1e3, "stays": stays / 2**20, "peak": peak / 2**20}


def analyses(nodes: int, edges: int) -> None:
    """Print what the larger questions cost on the same graph, on a chain and on one of 10,000 nodes."""
    from dagrid.graph import DAG
    from dagrid.graph.analysis import bottom_levels

    small = make(10_000, 60_000, False)
    names = [f"n{at}" for at in range(nodes)]
    graphs = {
        f"random {nodes:,}": make(nodes, edges, False),
        f"chain {nodes:,}": (names, list(itertools.pairwise(names))),
        "random 10,000 (60,000 edges)": small,
    }
    questions: dict[str, Callable[[Any], object]] = {
        "bottom_levels": lambda dag: bottom_levels(dag.structure),
        "levels": lambda dag: dag.topological_levels(),
        "critical path": lambda dag: dag.critical_path(),
        "descendants": lambda dag: dag.descendants("n0"),
        "reduction": lambda dag: dag.transitive_reduction(),
        "to_json": lambda dag: dag.to_json(),
        "from_json": lambda dag: DAG.from_json(dag.to_json()),
    }
    print(f"\n{'ms':30}" + "".join(f"{title:>15}" for title in questions))
    for title, (given, pairs) in graphs.items():
        dag = DAG.builder().add_nodes(given).add_edges(pairs).build()
        row = f"{title:30}"
        for ask in questions.values():
            start = time.perf_counter()
            ask(dag)
            row += f"{(time.perf_counter() - start) * 1e3:15.1f}"
        print(row)


def main(arguments: list[str]) -> None:
    """Print the tables; with --row, measure one row and print it as JSON."""
    if arguments[:1] == ["--row"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]), int(arguments[3]), arguments[4] == "shuffled")))
        return
    nodes = int(arguments[0]) if arguments else 100_000
    edges = int(arguments[1]) if len(arguments) > 1 else 3 * nodes
    print(f"{nodes:,} nodes, {edges:,} edges\n{'':38}{'ms':>8}{'x plain':>9}{'MiB kept':>10}{'MiB peak':>10}")
    for way in ("in order", "shuffled"):
        base = 0.0
        for what in BUILDERS:
            command = [sys.executable, __file__, "--row", what, str(nodes), str(edges), way]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            base = base or row["ms"]
            print(
                f"{way + ': ' + what:38}{row['ms']:8.0f}{row['ms'] / base:9.2f}{row['stays']:10.1f}{row['peak']:10.1f}"
            )
    analyses(nodes, edges)


if __name__ == "__main__":
    main(sys.argv[1:])
