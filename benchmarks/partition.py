"""What a partition is worth: edges cut beside contiguous chunks of a depth-first order, and how long the parts would take.

The recorded workflows are read from the folder that DAGRID_WORKLOADS names, or from shared/workloads beside the repository;
without one, only the graphs that are made here are cut. dagP is a program in C that is not run here: its cuts of a
graph of the same size and chunks as one that is made here (soykb, 676 nodes) are held as limits.
"""

from __future__ import annotations

import json
import math
import os
import random
from functools import cache
from pathlib import Path
from time import perf_counter

from benchmarks.measure import Figure
from benchmarks.shapes import epigenomics, layered, montage, soykb
from dagrid import DAG
from dagrid.graph.partition import partition

IMBALANCE = 0.03
WAYS = (2, 4, 8)
OURS, CHUNKS = "dagrid", "chunks, depth first"
DAGP = "dagP, measured elsewhere"
DAGP_ON_SOYKB = {2: 528, 4: 822, 8: 913}
LANES = (70, 64, 81, 59, 76, 70)
SECONDS = "seconds of dagrid"


def cuts(quick: bool) -> Figure:
    """Edges cut at 3 % imbalance by "communication_min"; each graph's best of chunks and, where known, dagP is the limit."""
    figure = Figure("partition", f"edges cut, parts equal to {IMBALANCE:.0%}", "edges")
    figure.notes.append("The number after the stroke is that of parts. Chunks are equal shares of a depth-first order.")
    slowest = 0.0
    for name, dag in _graphs(quick).items():
        for k in WAYS:
            row = f"{name} /{k}"
            began = perf_counter()
            found = partition(dag, k, "communication_min", max_imbalance=IMBALANCE)
            took = perf_counter() - began
            if len(dag) == 10_000:
                slowest = max(slowest, took)
            if found.imbalance > max(IMBALANCE, k * math.ceil(len(dag) / k) / len(dag) - 1) + 1e-6:
                raise AssertionError(f"{row}: an imbalance of {found.imbalance:.3f}")
            figure.put(row, OURS, [len(found.cut_edges)])
            chunked = chunks(dag, k)
            figure.put(row, CHUNKS, [chunked])
            figure.put(row, SECONDS, [took])
            limit = chunked
            if name == "soykb 676":
                figure.put(row, DAGP, [DAGP_ON_SOYKB[k]])
                limit = min(limit, DAGP_ON_SOYKB[k])
            figure.hold(row, len(found.cut_edges), limit)
    if slowest:
        figure.hold("10,000 nodes, the slowest", slowest, 2.0, "s")
    return figure


def makespans(quick: bool) -> Figure:
    """The estimates of 8 workers on layers where each node needs three of the layer before, over the bound."""
    layers, width = (20, 40) if quick else (100, 100)
    title = f"estimated makespan of {layers} layers of {width} on 8 workers"
    figure = Figure("partition-makespan", title, "of the bound", "balanced")
    figure.notes.append(
        "Staged: a part starts when all that it needs are done. The columns of parts and edges cut are counts."
    )
    graphs = {"ring": layered(layers, width).dag(), "random": _random_layers(layers, width)}
    for name, dag in graphs.items():
        for strategy in ("level_based", "balanced", "communication_min"):
            found = partition(dag, 8, strategy)
            figure.put(strategy, name, [found.makespan / found.ideal])
            figure.put(strategy, f"{name}, staged", [found.staged_makespan / found.ideal])
            figure.put(strategy, f"{name}, parts", [len(found.parts)])
            figure.put(strategy, f"{name}, cut", [len(found.cut_edges)])
        for column in (name, f"{name}, staged"):
            figure.hold(column, figure.value("balanced", column), 1.1)
    return figure


def chunks(dag: DAG, k: int) -> int:
    """Return how many edges lead from one to another of k equal chunks of a depth-first topological order."""
    structure = dag.structure
    waiting = list(map(len, structure.predecessors))
    stack = [node for node, count in enumerate(waiting) if not count][::-1]
    place = [0] * len(waiting)
    at = 0
    while stack:
        node = stack.pop()
        place[node] = at * k // len(waiting)
        at += 1
        for one in reversed(structure.successors[node]):
            waiting[one] -= 1
            if not waiting[one]:
                stack.append(one)
    return sum(place[one] != place[node] for node, before in enumerate(structure.predecessors) for one in before)


def _graphs(quick: bool) -> dict[str, DAG]:
    if quick:
        made = [montage(4, 4).dag(), epigenomics((9, 8, 11)).dag(), soykb(5, 8).dag()]
        return {f"{name} {len(dag)}": dag for name, dag in zip(("montage", "epigenomics", "soykb"), made, strict=True)}
    graphs = {
        "montage": montage(11, 12).dag(),
        "epigenomics": epigenomics(LANES).dag(),
        "soykb": soykb(25, 20).dag(),
        "random": _random(10_000, 25_000),
        "layered": layered(100, 100).dag(),
    }
    return {f"{name} {len(dag)}": dag for name, dag in graphs.items()} | _recorded()


@cache
def _random(nodes: int, edges: int) -> DAG:
    """Return a graph whose edges are short in one order of its nodes."""
    draw = random.Random(1)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < edges:
        before = draw.randrange(nodes - 1)
        after = min(nodes - 1, before + 1 + int(draw.expovariate(1 / 50)))
        chosen.add((before, after))
    pairs = [(f"n{before}", f"n{after}") for before, after in sorted(chosen)]
    return DAG.builder().add_nodes([f"n{at}" for at in range(nodes)]).add_edges(pairs).build()


def _random_layers(layers: int, width: int) -> DAG:
    draw = random.Random(5)
    names = [f"n{at}" for at in range(layers * width)]
    pairs = [
        (names[(layer - 1) * width + place], names[layer * width + at])
        for layer in range(1, layers)
        for at in range(width)
        for place in draw.sample(range(width), 3)
    ]
    return DAG.builder().add_nodes(names).add_edges(pairs).build()


def _recorded() -> dict[str, DAG]:
    """Return the recorded workflows that have 40 tasks at least, in the format of WfCommons."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "workloads"
    folder = Path(os.environ.get("DAGRID_WORKLOADS", beside)) / "wfinstances"
    found = {}
    for file in sorted(folder.glob("*.json")):
        tasks = json.loads(file.read_text(encoding="utf-8"))["workflow"]["specification"]["tasks"]
        pairs = [(parent, task["id"]) for task in tasks for parent in task["parents"]]
        if len(tasks) >= 40:
            dag = DAG.builder().add_nodes([task["id"] for task in tasks]).add_edges(pairs).build()
            found[f"{file.stem.split('-')[0]} {len(tasks)}"] = dag
    return found
