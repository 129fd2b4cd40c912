"""A graph in parts, each of which goes to one worker: by level, balanced, or with as little as possible between them.

The parts never wait for each other in a circle, whatever the strategy: each can run as one bundle when those that it needs are
done. This room knows names, costs and estimates; it runs nothing. How the parts are found is in `_multilevel` and `_workers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict, Unpack

from dagrid.errors import InvalidSettingError, UnknownNodeError, hint, nearest
from dagrid.graph._multilevel import depth_first, share_boundaries, smallest_cut
from dagrid.graph._refine import Weighted
from dagrid.graph._workers import Timed, earliest_finish, joined, level_by_level, makespan, stages
from dagrid.graph.analysis import bottom_levels, level_numbers, levels, node_costs
from dagrid.graph.formats import dot_text, mermaid_text
from dagrid.graph.structure import Structure, paused_gc, unknown_node

if TYPE_CHECKING:
    from dagrid.graph.dag import DAG

__all__ = ["Partition", "PartitionSettings", "partition"]

_NO_DELAY = 0.001  # what an edge weighs that takes no time: cut gladly, but not for nothing
Edge = tuple[str, str]
Transfer = float | Mapping[Edge, float]


class PartitionSettings(TypedDict, total=False):
    """What can be said of a partition beside k and the strategy; see `partition`."""

    costs: Mapping[str, float] | None
    max_imbalance: float | None
    max_iterations: int
    transfer: Transfer | None


@dataclass(frozen=True, slots=True)
class Partition:
    """A graph in parts.

    Attributes:
        dag: the graph.
        strategy: how the parts were found.
        k: how many workers they are for.
        parts: the names of each part; parts and names are in an order in which they can run.
        worker_of: the worker of each part, from 0 to k - 1. There are as many parts as workers, except for "balanced" (and for
            "communication_min" with transfer times), where a worker may have several parts, one after the other.
        part_of: the part of each name.
        cut_edges: the edges of the graph between different parts.
        edges: which part (first) another one (second) needs, each pair once.
        imbalance: the cost of the worker that has most over the mean of the workers, minus 1. Where each part has a worker of its
            own, that is the largest part over the mean.
        makespan: seconds until all is done, if a node starts as soon as its inputs are there and its worker is free.
        staged_makespan: the same if a part starts only when all the parts that it needs are done.
        ideal: seconds that no partition could go below: all costs over k, or the critical path.
    """

    dag: DAG = field(repr=False)
    strategy: str
    k: int
    parts: list[list[str]]
    worker_of: list[int]
    part_of: dict[str, int] = field(repr=False)
    cut_edges: list[Edge] = field(repr=False)
    edges: list[tuple[int, int]] = field(repr=False)
    imbalance: float
    makespan: float
    staged_makespan: float
    ideal: float

    def __len__(self) -> int:
        return len(self.parts)

    def __str__(self) -> str:
        count = len(self.parts)
        lines = [
            f"{count} part{'' if count == 1 else 's'} for {self.k} worker{'' if self.k == 1 else 's'} ({self.strategy}): "
            f"{len(self.cut_edges)} of {self.dag.edge_count()} edges cut, imbalance {self.imbalance:.1%}",
            f"makespan {self.makespan:g}, part by part {self.staged_makespan:g}, at best {self.ideal:g}",
        ]
        needs: list[list[int]] = [[] for _ in self.parts]
        for before, after in self.edges:
            needs[after].append(before)
        for at, part in enumerate(self.parts[:20]):
            after_these = f", needs {', '.join(map(str, needs[at]))}" if needs[at] else ""
            lines.append(f"part {at} on worker {self.worker_of[at]}: {_nodes(len(part))}{after_these}")
        if count > 20:
            lines.append(f"and {count - 20} more")
        return "\n".join(lines)

    def to_mermaid(self) -> str:
        """Return a Mermaid flowchart: a box for each part with its nodes inside; edges between parts are dashed."""
        index = self.dag.structure.index
        lines = ["flowchart LR"]
        for at, part in enumerate(self.parts):
            lines.append(f'  subgraph p{at}["part {at} on worker {self.worker_of[at]}"]')
            lines += [f'    n{index[name]}["{mermaid_text(name)}"]' for name in part]
            lines.append("  end")
        for before, after in self.dag.edges():
            arrow = "-->" if self.part_of[before] == self.part_of[after] else "-.->"
            lines.append(f"  n{index[before]} {arrow} n{index[after]}")
        return "\n".join(lines) + "\n"

    def to_dot(self) -> str:
        """Return the same in Graphviz's language: a cluster for each part."""
        lines = [f"digraph {dot_text(self.dag.name or 'dag')} {{", "  rankdir=LR;"]
        for at, part in enumerate(self.parts):
            lines.append(f"  subgraph cluster_{at} {{")
            lines.append(f"    label={dot_text(f'part {at} on worker {self.worker_of[at]}')};")
            lines += [f"    {dot_text(name)};" for name in part]
            lines.append("  }")
        for before, after in self.dag.edges():
            style = "" if self.part_of[before] == self.part_of[after] else " [style=dashed]"
            lines.append(f"  {dot_text(before)} -> {dot_text(after)}{style};")
        lines.append("}")
        return "\n".join(lines) + "\n"


def partition(dag: DAG, k: int, strategy: str = "balanced", **settings: Unpack[PartitionSettings]) -> Partition:
    """Divide a graph into parts for k workers. Every part can run when those that it needs are done: they form no circle.

    `"level_based"` cuts the levels of the graph, one after the other, into k parts: predictable, and the parts run one after the
    other for the most part. Where it can, it cuts between two levels.

    `"balanced"` gives every worker the same share at every time, so that all of them are busy until the end. With k parts that is
    impossible where everything depends on everything a few levels up: the worker that runs the last node of such a graph would
    have to run nearly all of it, for its part may not need one that needs it. So a worker gets several parts, one for each
    stage: a stage ends where the work of different workers meets. Edges between workers lead to higher stages, hence
    no circle. `worker_of` says whose a part is.

    `"communication_min"` makes k parts with as few edges between them as can be found: cuts of several orders, multilevel
    coarsening and moves after Kernighan and Lin, Fiduccia and Mattheyses (see `_multilevel` for the sources). With `transfer` it
    looks for the smallest makespan instead, among such cuts and the divisions of "balanced".

    A graph of separate pieces that can be dealt out evenly is not cut at all. The result depends on the arguments alone.

    Args:
        dag: the graph; of one that grows while it runs, what is there from the start.
        k: how many workers, from 1 up. A smaller graph gets as many parts as it has nodes.
        strategy: one of the three.
        costs: seconds by name; nodes that are not in it count with their own `cost`, and without one as 1.
        max_imbalance: by what share a worker may have more than the mean; 0.0 means balanced to one node. None is 0.3 for
            "communication_min" and 0.03 for the others. Where costs make it impossible, no worker has more than the
            mean and one node.
        max_iterations: how many rounds of moves are made on each graph at most, each ending where it does not help; 20 if not
            given.
        transfer: seconds that a value takes from one worker to another: one number, or some by edge (before, after) and 0
            for the others. They count in the estimates.

    Raises:
        InvalidSettingError: k, the strategy, max_imbalance, max_iterations or transfer cannot be.
        UnknownNodeError: a cost for a node, or a transfer of an edge, that is not there.
        InvalidNodeError: a cost that is not a finite number from 0 up.
    """
    for name in settings:
        if name not in PartitionSettings.__annotations__:
            raise InvalidSettingError(f"partition has no setting {name!r}.{hint(nearest(name, _SETTINGS))}")
    _check(k, strategy)
    iterations = settings.get("max_iterations", 20)
    if type(iterations) is not int or iterations < 0:
        raise InvalidSettingError(f"max_iterations is a whole number from 0 up, not {iterations!r}.")
    transfer = settings.get("transfer")
    imbalance = settings.get("max_imbalance")
    if imbalance is None:
        imbalance = 0.3 if strategy == "communication_min" else 0.03
    elif not _is_amount(imbalance):
        raise InvalidSettingError(f"max_imbalance is a number from 0 up, 0.1 for a tenth, not {imbalance!r}.")
    with paused_gc():
        work = _Work(dag, node_costs(dag, settings.get("costs")), k, imbalance, iterations, transfer)
        if not len(dag):
            return work.result(strategy, [], [])
        whole = work.packed()
        if whole is not None:
            return work.result(strategy, whole, whole)
        return _STRATEGIES[strategy](work)


_SETTINGS = tuple(PartitionSettings.__annotations__)


class _Work:
    """What the strategies need of a graph: its costs as shares of the largest, so that sums stay finite, and the cap."""

    def __init__(
        self, dag: DAG, costs: list[float], k: int, max_imbalance: float, iterations: int, transfer: Transfer | None
    ) -> None:
        self.dag, self.k, self.iterations = dag, k, iterations
        self.structure: Structure = dag.structure
        delays = _delays(dag.structure, transfer)
        self.has_delays = transfer is not None
        self.scale = max([*costs, *(one for row in delays for one in row)], default=0.0) or 1.0
        times = [cost / self.scale for cost in costs]
        self.timed = Timed(
            self.structure.successors,
            self.structure.predecessors,
            self.structure.order,
            times,
            [[delay / self.scale for delay in row] for row in delays],
            bottom_levels(self.structure, times),
        )
        largest = max(costs, default=0.0)
        self.weights = [cost / largest for cost in costs] if largest else [1.0] * len(costs)
        self.workers = min(k, len(costs))
        mean = math.fsum(self.weights) / max(1, self.workers)
        cap = mean * (1 + max_imbalance)
        self.caps = [cap] * self.workers
        if min(self.weights, default=1.0) == 1.0:
            each, more = divmod(len(costs), max(1, self.workers))
            exact = [each + (own < more) for own in range(self.workers)]
            self.caps = (
                [float(one) for one in exact] if not max_imbalance else [max(cap, math.ceil(mean))] * self.workers
            )
        self.caps = [cap * (1 + 1e-9) for cap in self.caps]
        self.loosest = [max(cap, mean + 1.0) for cap in self.caps]

    def fits(self, worker: Sequence[int], caps: Sequence[float]) -> bool:
        """Return whether nobody has more than some workers, whichever these are, may have."""
        load = [0.0] * self.workers
        for node, own in enumerate(worker):
            load[own] += self.weights[node]
        return all(one <= cap * (1 + 1e-6) for one, cap in zip(sorted(load), sorted(caps), strict=True))

    def packed(self) -> list[int] | None:
        """Return a worker for each node such that nothing is cut, if the separate pieces of the graph can be dealt out evenly."""
        pieces = _pieces(self.structure)
        if len(pieces) < self.workers:
            return None
        heft = [math.fsum(self.weights[node] for node in piece) for piece in pieces]
        bins = [(0.0, 0, own) for own in range(self.workers)]
        worker = [0] * len(self.weights)
        for at in sorted(range(len(pieces)), key=lambda one: (-heft[one], one)):
            load, count, own = bins[0]
            heapreplace(bins, (load + heft[at], count + 1, own))
            for node in pieces[at]:
                worker[node] = own
        return worker if self.fits(worker, self.caps) else None

    def result(self, strategy: str, worker: Sequence[int], stage: Sequence[int]) -> Partition:
        """Return the partition whose parts are the pairs of stage and worker; edges lead to higher pairs, or within them."""
        names = self.structure.names
        groups: dict[tuple[int, int], list[int]] = {}
        for node in self.structure.order:
            groups.setdefault((stage[node], worker[node]), []).append(node)
        keys = sorted(groups)
        number = {key: at for at, key in enumerate(keys)}
        part = [number[stage[node], own] for node, own in enumerate(worker)]
        worker_of = [key[1] for key in keys]
        crossing = [
            (one, node)
            for node, before in enumerate(self.structure.predecessors)
            for one in before
            if part[one] != part[node]
        ]
        loads = [0.0] * max(1, self.workers)
        for node, own in enumerate(worker):
            loads[own] += self.weights[node]
        mean = math.fsum(loads) / len(loads)
        work = math.fsum(self.timed.costs) / self.k
        return Partition(
            dag=self.dag,
            strategy=strategy,
            k=self.k,
            parts=[[names[node] for node in groups[key]] for key in keys],
            worker_of=worker_of,
            part_of={names[node]: at for node, at in enumerate(part)},
            cut_edges=[(names[one], names[node]) for one, node in crossing],
            edges=sorted({(part[one], part[node]) for one, node in crossing}),
            imbalance=max(0.0, max(loads) / mean - 1) if mean else 0.0,
            makespan=makespan(self.timed, worker) * self.scale,
            staged_makespan=makespan(self._quotient(part, len(keys)), worker_of) * self.scale,
            ideal=max(work, max(self.timed.remaining, default=0.0)) * self.scale,
        )

    def _quotient(self, part: Sequence[int], parts: int) -> Timed:
        """Return the graph of the parts: a part takes as long as its nodes, a transfer as long as the longest of its edges."""
        costs = [0.0] * parts
        for node, own in enumerate(part):
            costs[own] += self.timed.costs[node]
        links: list[dict[int, float]] = [{} for _ in range(parts)]
        for node, (ends, delays) in enumerate(zip(self.timed.after, self.timed.delays, strict=True)):
            own = part[node]
            for one, delay in zip(ends, delays, strict=True):
                if part[one] != own:
                    links[own][part[one]] = max(delay, links[own].get(part[one], 0.0))
        before: list[list[int]] = [[] for _ in range(parts)]
        remaining = costs.copy()
        for own in reversed(range(parts)):
            remaining[own] += max([remaining[one] for one in links[own]], default=0.0)
            for one in links[own]:
                before[one].append(own)
        seconds = [list(row.values()) for row in links]
        return Timed([list(row) for row in links], before, list(range(parts)), costs, seconds, remaining)


def _level_based(work: _Work) -> Partition:
    """Cut the nodes in order of their levels into shares, between two levels where that keeps the balance."""
    structure = work.structure
    level = level_numbers(structure)
    place = [0] * len(level)
    for at, node in enumerate(depth_first(_weighted(work))):
        place[node] = at
    order = sorted(structure.order, key=lambda node: (level[node], place[node]))
    sums = [0.0]
    for node in order:
        sums.append(sums[-1] + work.weights[node])
    shares = share_boundaries(sums, work.caps)
    ends = [at for at in range(1, len(order)) if level[order[at - 1]] != level[order[at]]]
    part = _cut_at(order, _at_levels(sums, shares, ends, work.caps))
    if not work.fits(part, work.loosest):
        part = _cut_at(order, shares)
    return work.result("level_based", part, part)


def _at_levels(sums: Sequence[float], shares: Sequence[int], ends: Sequence[int], caps: Sequence[float]) -> list[int]:
    """Return boundaries at ends of levels where every part stays within its cap, and otherwise near its share."""
    parts, count = len(shares) - 1, len(sums) - 1
    found = [0]
    for number in range(1, parts):
        low = sums[-1] - math.fsum(caps[number:])
        high = sums[found[-1]] + caps[number - 1]
        first, last = found[-1] + 1, count - parts + number
        share = shares[number]
        options = [at for at in ends if first <= at <= last and low <= sums[at] <= high]
        if not options:
            options = [at for at in range(first, last + 1) if low <= sums[at] <= high] or [min(max(share, first), last)]
        found.append(min(options, key=lambda at: (abs(at - share), at)))
    return [*found, count]


def _cut_at(order: Sequence[int], boundaries: Sequence[int]) -> list[int]:
    part = [0] * len(order)
    for number, (start, end) in enumerate(pairwise(boundaries)):
        for at in range(start, end):
            part[order[at]] = number
    return part


def _balanced(work: _Work) -> Partition:
    """Take what is done first, part by part; of what is as good but for a fiftieth, what has the fewest edges between parts."""
    found = _dealt_out(work, "balanced")
    enough = 1.02 * min(one.staged_makespan for one in found)
    return min(
        [one for one in found if one.staged_makespan <= enough],
        key=lambda one: (len(one.cut_edges), one.staged_makespan),
    )


def _dealt_out(work: _Work, strategy: str) -> list[Partition]:
    """Return the nodes dealt out to workers in two ways, each with its parts by stage and by level."""
    rows = levels(work.structure)
    level = level_numbers(work.structure)
    found = []
    for worker in (
        earliest_finish(work.timed, work.weights, work.caps),
        level_by_level(work.timed, rows, work.weights, work.caps),
    ):
        found += [
            work.result(strategy, worker, joined(work.timed, worker, stage))
            for stage in (stages(work.timed, worker), level)
        ]
    return found


def _communication_min(work: _Work) -> Partition:
    """Cut as few edges as possible; with transfer times, take what is estimated to be done first."""
    cuts = [_smallest(work, _weighted(work))]
    if not work.has_delays:
        return cuts[0]
    longest = max(max(row, default=0.0) for row in work.timed.delays)
    shortest = min(min(row, default=longest) for row in work.timed.delays)
    if shortest < longest:  # else the smallest cut is the same
        hefts = [[delay / longest + _NO_DELAY for delay in row] for row in work.timed.delays]
        cuts.append(_smallest(work, _weighted(work, hefts)))
    return min(
        [*_dealt_out(work, "communication_min"), *cuts],
        key=lambda one: (one.makespan, one.staged_makespan, len(one.cut_edges)),
    )


def _smallest(work: _Work, graph: Weighted) -> Partition:
    part: list[int] = []
    for caps in (work.caps, work.loosest):
        part = smallest_cut(graph, caps, work.iterations)
        if work.fits(part, caps):
            break
    return work.result("communication_min", part, part)


_STRATEGIES: dict[str, Callable[[_Work], Partition]] = {
    "level_based": _level_based,
    "balanced": _balanced,
    "communication_min": _communication_min,
}


def _check(k: object, strategy: object) -> None:
    if type(k) is not int or k < 1:
        raise InvalidSettingError(f"k, the number of workers, is a whole number from 1 up, not {k!r}.")
    if not isinstance(strategy, str) or strategy not in _STRATEGIES:
        known = ", ".join(map(repr, _STRATEGIES))
        suggestion = nearest(strategy, _STRATEGIES) if isinstance(strategy, str) else None
        raise InvalidSettingError(
            f"There is no strategy {strategy!r} to partition by.{hint(suggestion)} There are: {known}."
        )


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _delays(structure: Structure, transfer: Transfer | None) -> list[list[float]]:
    """Return the seconds of each edge of `successors`."""
    if not isinstance(transfer, Mapping):
        if transfer is not None and not _is_amount(transfer):
            raise InvalidSettingError(f"transfer is a number of seconds from 0 up, or some by edge, not {transfer!r}.")
        return [[float(transfer or 0)] * len(ends) for ends in structure.successors]
    found = [[0.0] * len(ends) for ends in structure.successors]
    places: dict[int, dict[int, int]] = {}
    for edge, seconds in transfer.items():
        if not isinstance(edge, tuple) or len(edge) != 2:
            raise InvalidSettingError(f"transfer is given by edge, as (before, after), not by {edge!r}.")
        if not _is_amount(seconds):
            raise InvalidSettingError(f"transfer of {edge!r} is a number of seconds from 0 up, not {seconds!r}.")
        for name in edge:
            if name not in structure.index:
                raise unknown_node(name, structure.index)
        before, after = structure.index[edge[0]], structure.index[edge[1]]
        if before not in places:
            places[before] = {one: place for place, one in enumerate(structure.successors[before])}
        if after not in places[before]:
            raise UnknownNodeError(f"transfer names the edge {edge!r}, and the graph has none there.", edge[1])
        found[before][places[before][after]] = float(seconds)
    return found


def _weighted(work: _Work, hefts: list[list[float]] | None = None) -> Weighted:
    """Return the graph with weights; an edge weighs 1, or as much as its transfer takes."""
    structure = work.structure
    after_weights = [[1.0] * len(ends) for ends in structure.successors] if hefts is None else hefts
    into: list[dict[int, float]] = [dict.fromkeys(ends, 0.0) for ends in structure.predecessors]
    for node, (ends, row) in enumerate(zip(structure.successors, after_weights, strict=True)):
        for one, heft in zip(ends, row, strict=True):
            into[one][node] = heft
    return Weighted(
        work.weights,
        structure.successors,
        after_weights,
        structure.predecessors,
        [list(one.values()) for one in into],
        structure.order,
    )


def _pieces(structure: Structure) -> list[list[int]]:
    """Return the nodes of each piece that no edge joins to the others, in order of their first nodes."""
    seen = bytearray(len(structure.names))
    found = []
    for start in range(len(seen)):
        if seen[start]:
            continue
        seen[start] = 1
        piece = [start]
        for node in piece:
            for one in structure.predecessors[node] + structure.successors[node]:
                if not seen[one]:
                    seen[one] = 1
                    piece.append(one)
        found.append(piece)
    return found


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
