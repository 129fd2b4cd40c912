"""Questions about the shape of a graph: reach, levels, longest paths, what is redundant. Iterative, nearly all linear.

This room works on integers and knows nothing of running; the names come in and go out through `dag`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dagrid.errors import InvalidNodeError
from dagrid.graph.node import node_id
from dagrid.graph.structure import Structure, paused_gc, unknown_node

if TYPE_CHECKING:
    from dagrid.graph.dag import DAG

_BITSET_BYTES = 32 * 2**20
_MIN_WINDOW = 512


class CriticalPath(msgspec.Struct, frozen=True):
    """The most costly chain of nodes, from a root to a leaf, and the sum of its costs in seconds."""

    nodes: list[str]
    length: float


class GraphStats(msgspec.Struct, frozen=True):
    """The size and the shape of a graph. Density is the share of the possible edges that are there."""

    nodes: int
    edges: int
    roots: int
    leaves: int
    depth: int
    width: int
    density: float
    max_in_degree: int
    max_out_degree: int
    critical_path_length: float

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.nodes} nodes, {self.edges} edges (density {self.density:.3g})",
                f"{self.roots} roots, {self.leaves} leaves",
                f"{self.depth} levels, the widest has {self.width} nodes",
                f"at most {self.max_in_degree} edges into a node and {self.max_out_degree} out of one",
                f"critical path {self.critical_path_length:g}",
            ]
        )


def bottom_levels(structure: Structure, costs: Sequence[float] | None = None) -> list[float]:
    """Return for each node, by index, the longest remaining path: its own cost and the most costly chain behind it.

    Args:
        structure: the graph.
        costs: seconds by index; None counts every node as 1.
    """
    successors = structure.successors
    longest = [1.0] * len(structure.names) if costs is None else list(costs)
    for node in reversed(structure.order):
        behind = successors[node]
        if not behind:
            continue
        best = 0.0
        for one in behind:
            if longest[one] > best:
                best = longest[one]
        longest[node] += best
    return longest


def level_numbers(structure: Structure) -> list[int]:
    """Return for each node, by index, its level: 0 for a root, else one more than the highest it waits for."""
    predecessors = structure.predecessors
    level = [0] * len(structure.names)
    for node in structure.order:
        highest = -1
        for one in predecessors[node]:
            if level[one] > highest:
                highest = level[one]
        level[node] = highest + 1
    return level


def levels(structure: Structure) -> list[list[int]]:
    """Return the nodes of each level, in topological order."""
    number = level_numbers(structure)
    with paused_gc():
        found: list[list[int]] = [[] for _ in range(max(number, default=-1) + 1)]
    for node in structure.order:
        found[number[node]].append(node)
    return found


def reachable(neighbours: Sequence[Sequence[int]], start: int) -> list[int]:
    """Return all nodes that can be reached from `start` along `neighbours`, without `start`, in no order."""
    seen = {start}
    found: list[int] = []
    stack = [start]
    while stack:
        for one in neighbours[stack.pop()]:
            if one not in seen:
                seen.add(one)
                found.append(one)
                stack.append(one)
    return found


def in_order(structure: Structure, nodes: Iterable[int]) -> list[int]:
    """Return the nodes in topological order."""
    wanted = set(nodes)
    if 16 * len(wanted) < len(structure.order):
        return sorted(wanted, key=structure.ranks().__getitem__)
    return [node for node in structure.order if node in wanted]


def node_costs(dag: DAG, costs: Mapping[Any, float] | None = None) -> list[float]:
    """Return the cost of each node by index: from `costs`, else its own `cost`, else 1.

    Raises:
        UnknownNodeError: a cost for a node that is not there.
        InvalidNodeError: a cost that is not a finite number from 0 up, or no costs by name.
    """
    if costs is not None and not isinstance(costs, Mapping):
        raise InvalidNodeError(f"costs are seconds by the name of a node, such as {{'load': 2.5}}, not {costs!r}.")
    found = [1.0] * len(dag)
    for at, spec in dag.specs.items():
        if spec.cost is not None:
            found[at] = spec.cost
    index = dag.structure.index
    for node, cost in (costs or {}).items():
        name = node_id(node, dag.name)
        if name not in index:
            raise unknown_node(name, index)
        if not isinstance(cost, (int, float)) or isinstance(cost, bool) or not math.isfinite(cost) or cost < 0:
            raise InvalidNodeError(f"Node {name!r}: a cost is a finite number from 0 up, not {cost!r}.")
        found[index[name]] = float(cost)
    return found


def critical_path(dag: DAG, costs: Mapping[Any, float] | None = None) -> CriticalPath:
    """Return the most costly chain of nodes; see DAG.critical_path."""
    structure = dag.structure
    longest = bottom_levels(structure, node_costs(dag, costs))
    roots = [node for node, before in enumerate(structure.predecessors) if not before]
    if not roots:
        return CriticalPath([], 0.0)
    at = max(roots, key=longest.__getitem__)
    length = longest[at]
    path = [structure.names[at]]
    while structure.successors[at]:
        at = max(structure.successors[at], key=longest.__getitem__)
        path.append(structure.names[at])
    return CriticalPath(path, length)


def stats(dag: DAG) -> GraphStats:
    """Return the size and the shape of a graph."""
    structure = dag.structure
    count = len(structure.names)
    before = list(map(len, structure.predecessors))
    after = list(map(len, structure.successors))
    edges = sum(before)
    widths = list(map(len, levels(structure)))
    return GraphStats(
        nodes=count,
        edges=edges,
        roots=before.count(0),
        leaves=after.count(0),
        depth=len(widths),
        width=max(widths, default=0),
        density=2 * edges / (count * (count - 1)) if count > 1 else 0.0,
        max_in_degree=max(before, default=0),
        max_out_degree=max(after, default=0),
        critical_path_length=max(bottom_levels(structure, node_costs(dag)), default=0.0),
    )


def subgraph(dag: DAG, keep: Collection[int]) -> DAG:
    """Return the graph of the nodes `keep` (indices) and the edges among them; see DAG.subgraph."""
    structure = dag.structure
    kept = sorted(keep)
    renumbered = {old: new for new, old in enumerate(kept)}
    names = [structure.names[at] for at in kept]
    index = {name: at for at, name in enumerate(names)}
    predecessors = [[renumbered[one] for one in structure.predecessors[at] if one in renumbered] for at in kept]
    specs = {}
    for new, old in enumerate(kept):
        spec = dag.specs.get(old)
        if spec is None:
            continue
        if spec.inputs and not all(source in index for source in spec.inputs.values()):
            spec = spec.changed(inputs={key: source for key, source in spec.inputs.items() if source in index})
        if spec.when is not None and spec.when.node not in index:
            spec = spec.changed(when=None)
        if not all(one in index for one in spec.reads):
            spec = spec.changed(reads=[one for one in spec.reads if one in index])
        if not all(one in index for one in spec.depends_on):
            spec = spec.changed(depends_on=[one for one in spec.depends_on if one in index])
        if not spec.is_bare:
            specs[new] = spec
    made = Structure.of_predecessors(names, index, predecessors)
    return type(dag).of(made, specs, name=dag.name, max_concurrency=dag.max_concurrency)


def reverse(dag: DAG) -> DAG:
    """Return the graph with every edge turned round; see DAG.reverse."""
    structure = dag.structure
    predecessors = [after.copy() for after in structure.successors]
    made = Structure.of_predecessors(structure.names, structure.index, predecessors)
    specs = {}
    for at, spec in dag.specs.items():
        turned = spec.changed(
            inputs=None,
            arguments=None,
            when=None,
            setup=False,
            debug=False,
            reads=(),
            depends_on=[structure.names[one] for one in predecessors[at]],
        )
        if not turned.is_bare:
            specs[at] = turned
    return type(dag).of(made, specs, name=dag.name, max_concurrency=dag.max_concurrency)


def transitive_reduction(dag: DAG) -> DAG:
    """Return the graph without the edges that follow from others; see DAG.transitive_reduction."""
    structure = dag.structure
    with paused_gc():
        redundant = _redundant_edges(structure)
    for at, spec in dag.specs.items():
        if at in redundant:
            redundant[at] -= {structure.index[source] for source in spec.taken()}
    predecessors = structure.predecessors.copy()
    for at, gone in redundant.items():
        predecessors[at] = [one for one in predecessors[at] if one not in gone]
    made = Structure.of_predecessors(structure.names, structure.index, predecessors)
    specs = dag.specs.copy()
    for at in redundant.keys() & specs.keys():
        specs[at] = specs[at].changed(depends_on=[structure.names[one] for one in predecessors[at]])
    return type(dag).of(
        made, specs, name=dag.name, max_concurrency=dag.max_concurrency, rules=dag.rules, outline=dag.outline
    )


def _redundant_edges(structure: Structure) -> dict[int, set[int]]:
    """Return, by the node that they lead to, the edges beside which there is a longer way.

    Such an edge leaves a node with two successors at least and enters one with two predecessors at least; only
    nodes that it may leave get a bit. Bits are dealt out in windows, so that memory stays bounded.
    """
    order = structure.order
    rank = structure.ranks()
    branching = [len(after) > 1 for after in structure.successors]
    last: dict[int, int] = {}
    for node, before in enumerate(structure.predecessors):
        if len(before) < 2:
            continue
        for one in before:
            if branching[one] and rank[node] > last.get(one, -1):
                last[one] = rank[node]
    sources = sorted(last, key=rank.__getitem__)
    window = max(_MIN_WINDOW, _BITSET_BYTES * 8 // max(1, len(order)))
    found: dict[int, set[int]] = {}
    for start in range(0, len(sources), window):
        part = sources[start : start + window]
        _reduce_window(structure, part, order[rank[part[0]] : max(last[one] for one in part) + 1], found)
    return found


def _reduce_window(structure: Structure, sources: list[int], nodes: list[int], found: dict[int, set[int]]) -> None:
    bit = {source: 1 << at for at, source in enumerate(sources)}
    own = bit.get
    above: dict[int, int] = {}
    reach = above.get
    for node in nodes:
        direct = through = 0
        for one in structure.predecessors[node]:
            direct |= own(one, 0)
            through |= reach(one, 0)
        if direct or through:
            above[node] = direct | through
        if direct & through:
            shared = direct & through
            found.setdefault(node, set()).update(one for one in structure.predecessors[node] if own(one, 0) & shared)
