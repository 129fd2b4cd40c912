"""The smallest cut of a graph in parts that do not wait for each other in a circle: coarsen, cut, refine.

Orders of the nodes are cut at their best places; pairs of nodes that cannot close a circle are merged, level by level, and the
cut of the small graph is refined on the way back. The amount of work is counted in edges, not in seconds, so that every
machine finds the same. It knows weights and integers, and no names.

Sources: C. M. Fiduccia and R. M. Mattheyses, A linear-time heuristic for improving network partitions, 1982 (rollback).
O. Moreira, M. Popp and C. Schulz, Graph partitioning with acyclicity constraints, 2017, and Evolutionary multi-level acyclic
graph partitioning, 2018 (moves between numbered parts, repeated cycles that keep the best). J. Herrmann, M. Y. Ozkaya, B. Ucar,
K. Kaya and U. V. Catalyurek, Multilevel algorithms for acyclic partitioning of directed acyclic graphs, 2019 (merging that keeps
a graph acyclic).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, nsmallest
from itertools import accumulate, pairwise

from dagrid.graph._refine import Refiner, Weighted, cut_weight, loads

WORK = 1_400_000
"""How many edges may be looked at, about: a second or two on an ordinary machine."""
_WORK_PER_SIZE = 600
_LARGE = 4_000
_FEW_PASSES = 3
_PLACES = 16
_FEW_PLACES = 6
_NEAR = 2
"""By how many parts a boundary may stand away from its share."""
_COARSEST = 120
_SHRINK = 0.93
_LOOKED_AT = 12
_WORST = (float("inf"), float("inf"))


class Draw:
    """Numbers that look like chance and are the same everywhere (a linear congruential generator, Knuth's MMIX)."""

    __slots__ = ("state",)

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, count: int) -> int:
        """Return a number from 0 to count - 1."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self.state >> 33) % count

    def shuffled(self, count: int) -> list[int]:
        """Return the numbers below count in some order."""
        found = list(range(count))
        for at in range(count - 1, 0, -1):
            other = self.below(at + 1)
            found[at], found[other] = found[other], found[at]
        return found


# --- orders -----------------------------------------------------------------------------------------------------------


def depth_first(graph: Weighted, rank: Sequence[float] | None = None) -> list[int]:
    """Return a topological order that follows what has just become free; of that, the lowest rank first."""
    waiting = list(map(len, graph.before))
    stack = [node for node, count in enumerate(waiting) if not count]
    if rank is not None:
        stack.sort(key=rank.__getitem__)
    stack.reverse()
    order = []
    while stack:
        node = stack.pop()
        order.append(node)
        free = []
        for one in graph.after[node]:
            waiting[one] -= 1
            if not waiting[one]:
                free.append(one)
        if rank is not None:
            free.sort(key=rank.__getitem__)
        free.reverse()
        stack += free
    return order


def by_key(graph: Weighted, key: Sequence[float], newest: bool = True) -> list[int]:
    """Return a topological order that takes the lowest key of what is free; of equal ones the newest or the oldest."""
    waiting = list(map(len, graph.before))
    step = -1 if newest else 1
    heap = [(key[node], 0, node) for node, count in enumerate(waiting) if not count]
    heapify(heap)
    order = []
    serial = 0
    while heap:
        node = heappop(heap)[2]
        order.append(node)
        for one in graph.after[node]:
            waiting[one] -= 1
            if not waiting[one]:
                serial += step
                heappush(heap, (key[one], serial, one))
    return order


def opening(graph: Weighted) -> list[float]:
    """Return for each node by how much an edge count across a boundary grows when it goes before the boundary."""
    return [sum(out) - sum(into) for out, into in zip(graph.after_weights, graph.before_weights, strict=True)]


def swept(graph: Weighted, start: Sequence[int], sweeps: int) -> list[int]:
    """Return a topological order near the mean of the places of each node's neighbours, swept from some order."""
    place = [0.0] * len(start)
    for at, node in enumerate(start):
        place[node] = float(at)
    order = list(start)
    for _ in range(sweeps):
        for nodes in (order, order[::-1]):
            for node in nodes:
                near = graph.before[node] + graph.after[node]
                if near:
                    place[node] = 0.5 * place[node] + 0.5 * sum([place[one] for one in near]) / len(near)
        order = by_key(graph, place)
        for at, node in enumerate(order):
            place[node] = float(at)
    return order


def chunks(graph: Weighted, order: Sequence[int], caps: Sequence[float], places: int) -> list[int]:
    """Cut an order into contiguous parts at its best places.

    Dynamic programming over some candidates for each boundary, those that the fewest edges cross. An edge is counted where it
    first crosses a boundary.

    Args:
        order: a topological order.
        caps: what each part should weigh at most; where the order cannot keep that, a boundary stands at its share.
        places: how many candidates there are for each boundary.

    Returns:
        The part of each node.
    """
    count = len(order)
    rank = [0] * count
    for at, node in enumerate(order):
        rank[node] = at
    sums = [0.0]
    crossing = [0.0]
    grow = opening(graph)
    for node in order:
        sums.append(sums[-1] + graph.weights[node])
        crossing.append(crossing[-1] + grow[node])
    total = sums[-1]
    parts = len(caps)
    shares = share_boundaries(sums, caps)
    upto = [0.0, *accumulate(cap * (1 + 1e-9) for cap in caps)]
    layers: list[list[int]] = [[0]]
    for number in range(1, parts):
        share, near = shares[number], _NEAR * max(caps[number - 1], caps[number])
        low = max(total - (upto[parts] - upto[number]), sums[share] - near)
        high = min(upto[number], sums[share] + near)
        first, last = max(number, bisect_left(sums, low)), min(count - parts + number + 1, bisect_right(sums, high))
        fitting = nsmallest(places, range(first, last), key=lambda at: (crossing[at], abs(at - share)))
        layers.append(sorted({*fitting, share}))
    layers.append([count])
    best: dict[int, tuple[float, float, int]] = {0: (0.0, 0.0, -1)}
    chain = [best]
    for before, here in pairwise(layers):
        found: dict[int, tuple[float, float, int]] = {}
        cap = upto[len(chain)] - upto[len(chain) - 1]
        for boundary in here:
            costs = _first_crossings(graph, order, rank, before, boundary)
            options = [
                (
                    best[start][0] + max(0.0, sums[boundary] - sums[start] - cap),
                    best[start][1] + costs[start],
                    start,
                )
                for start in before
                if start < boundary and start in best
            ]
            if options:
                found[boundary] = min(options)
        best = found
        chain.append(best)
    boundaries = [count]
    for level in reversed(chain[1:]):
        boundaries.append(level[boundaries[-1]][2])
    boundaries.reverse()
    part = [0] * count
    for number, (start, end) in enumerate(pairwise(boundaries)):
        for at in range(start, end):
            part[order[at]] = number
    return part


def share_boundaries(sums: Sequence[float], shares: Sequence[float]) -> list[int]:
    """Return the boundaries that divide a row in proportion, each at the nearest place, with one at least in each part.

    Args:
        sums: the running sum of the weights, from 0.
        shares: how much each part gets of the whole, in any unit.
    """
    count, parts = len(sums) - 1, len(shares)
    upto = list(accumulate(shares))
    found = [0]
    at = 0
    for number in range(1, parts):
        wanted = sums[-1] * (upto[number - 1] / upto[-1])
        while at < count and sums[at] < wanted:
            at += 1
        if at and wanted - sums[at - 1] < sums[at] - wanted:
            at -= 1
        at = min(max(at, found[-1] + 1), count - parts + number)
        found.append(at)
    return [*found, count]


def _first_crossings(
    graph: Weighted, order: Sequence[int], rank: Sequence[int], starts: Sequence[int], boundary: int
) -> dict[int, float]:
    """Return, for each start, the weight of the edges from between it and the boundary to behind the boundary."""
    found = {}
    weight = 0.0
    at = boundary
    for start in sorted(starts, reverse=True):
        if start >= boundary:
            continue
        while at > start:
            at -= 1
            node = order[at]
            for one, heft in zip(graph.after[node], graph.after_weights[node], strict=True):
                if rank[one] >= boundary:
                    weight += heft
        found[start] = weight
    return found


# --- coarser graphs ---------------------------------------------------------------------------------------------------


def coarser(graph: Weighted, limit: float, draw: Draw, part: Sequence[int] | None) -> tuple[Weighted, list[int]] | None:
    """Merge pairs of nodes that cannot close a circle, and return the smaller graph and the new node of each old one.

    First along edges that are the only one out of a node or the only one into it; where that does not help any more, nodes of
    one level that have a neighbour in common. Every way through a pair of the first kind is a way of the old graph, and edges
    between pairs of the second kind lead to higher levels: so neither closes a circle.

    Args:
        limit: what a pair may weigh.
        draw: decides which pairs.
        part: if given, pairs are within its parts only.
    """
    mate = _along_edges(graph, limit, draw, part)
    if sum(one >= 0 for one in mate) < 2 * (1 - _SHRINK) * len(mate):
        mate = _within_levels(graph, limit, draw, part)
        if sum(one >= 0 for one in mate) < 2 * (1 - _SHRINK) * len(mate):
            return None
    return _merged(graph, mate)


def _along_edges(graph: Weighted, limit: float, draw: Draw, part: Sequence[int] | None) -> list[int]:
    mate = [-1] * len(graph)
    weights = graph.weights
    for node in draw.shuffled(len(graph)):
        if mate[node] >= 0:
            continue
        best, best_weight = -1, 0.0
        after, before = graph.after[node], graph.before[node]
        alone = len(after) == 1
        for one, weight in zip(after, graph.after_weights[node], strict=True):
            if mate[one] >= 0 or weight <= best_weight or not (alone or len(graph.before[one]) == 1):
                continue
            if weights[node] + weights[one] <= limit and (part is None or part[node] == part[one]):
                best, best_weight = one, weight
        alone = len(before) == 1
        for one, weight in zip(before, graph.before_weights[node], strict=True):
            if mate[one] >= 0 or weight <= best_weight or not (alone or len(graph.after[one]) == 1):
                continue
            if weights[node] + weights[one] <= limit and (part is None or part[node] == part[one]):
                best, best_weight = one, weight
        if best >= 0:
            mate[node], mate[best] = best, node
    return mate


def _within_levels(graph: Weighted, limit: float, draw: Draw, part: Sequence[int] | None) -> list[int]:
    count = len(graph)
    level = [0] * count
    for node in graph.order:
        level[node] = max([level[one] + 1 for one in graph.before[node]], default=0)
    if draw.below(2):
        depth = [0] * count
        for node in reversed(graph.order):
            depth[node] = min([depth[one] - 1 for one in graph.after[node]], default=0)
        level = depth
    mate = [-1] * count
    weights = graph.weights
    for node in draw.shuffled(count):
        if mate[node] >= 0:
            continue
        common: dict[int, float] = {}
        own = level[node]
        for near, far, hefts in (
            (graph.before[node], graph.after, graph.before_weights[node]),
            (graph.after[node], graph.before, graph.after_weights[node]),
        ):
            for one, heft in zip(near, hefts, strict=True):
                others = far[one]
                share = heft / len(others)
                if len(others) > _LOOKED_AT:
                    skip = draw.below(len(others))
                    others = others[skip : skip + _LOOKED_AT]  # and from the start if these are too few
                    others += far[one][: _LOOKED_AT - len(others)]
                for other in others:
                    if level[other] == own and mate[other] < 0 and other != node:
                        common[other] = common.get(other, 0.0) + share
        best, best_share = -1, 0.0
        for other, share in common.items():
            if share <= best_share or weights[node] + weights[other] > limit:
                continue
            if part is None or part[node] == part[other]:
                best, best_share = other, share
        if best >= 0:
            mate[node], mate[best] = best, node
    return mate


def _merged(graph: Weighted, mate: Sequence[int]) -> tuple[Weighted, list[int]]:
    """Return the graph in which each pair is one node; parallel edges become one with the sum of their weights."""
    new = [-1] * len(mate)
    groups: list[list[int]] = []
    for node in graph.order:
        if new[node] >= 0:
            continue
        new[node] = len(groups)
        if mate[node] >= 0:
            new[mate[node]] = len(groups)
            groups.append([node, mate[node]])
        else:
            groups.append([node])
    weights = [sum([graph.weights[one] for one in group]) for group in groups]
    after: list[list[int]] = []
    after_weights: list[list[float]] = []
    before: list[list[int]] = [[] for _ in groups]
    before_weights: list[list[float]] = [[] for _ in groups]
    for at, group in enumerate(groups):
        ends: dict[int, float] = {}
        for node in group:
            for one, heft in zip(graph.after[node], graph.after_weights[node], strict=True):
                end = new[one]
                if end != at:
                    ends[end] = ends.get(end, 0.0) + heft
        after.append(list(ends))
        after_weights.append(list(ends.values()))
        for end, heft in ends.items():
            before[end].append(at)
            before_weights[end].append(heft)
    made = Weighted(weights, after, after_weights, before, before_weights, [])
    made.order = depth_first(made)
    return made, new


# --- all of it --------------------------------------------------------------------------------------------------------


class _Search:
    """The best partition of one graph so far, and how much has been spent on it."""

    def __init__(self, graph: Weighted, caps: Sequence[float], passes: int, draw: Draw) -> None:
        self.graph, self.caps, self.passes, self.draw = graph, list(caps), passes, draw
        self.parts = len(self.caps)
        self.spent = 0
        self.best: list[int] = []
        self.score = _WORST

    def rate(self, graph: Weighted, part: Sequence[int]) -> tuple[float, float]:
        """Return by how much the parts are too heavy, and the cut; less is better."""
        load = loads(graph, part, self.parts)
        excess = sum([max(0.0, one - cap * (1 + 1e-9)) for one, cap in zip(load, self.caps, strict=True)])
        return excess, cut_weight(graph, part)

    def refined(self, graph: Weighted, part: list[int]) -> list[int]:
        refiner = Refiner(graph, part, self.parts, self.caps)
        refiner.run(min(self.passes, _FEW_PASSES) if len(graph) > _LARGE else self.passes)
        self.spent += refiner.spent + 2 * graph.size()
        return part

    def offer(self, part: list[int]) -> bool:
        """Take a partition that is as good as the best, and return whether it is better. One with an empty part is neither."""
        score = self.rate(self.graph, part)
        if len(set(part)) < self.parts:
            return False
        better = score < self.score
        if score <= self.score:
            self.best, self.score = part, score
        return better

    def starts(self, graph: Weighted, work: int) -> list[int]:
        """Return the best refined cut of several orders of a graph, as many as the work allows but one at least."""
        until = self.spent + work
        best: list[int] = []
        best_score = _WORST
        places = _PLACES if len(graph) < _LARGE else _FEW_PLACES
        for make in _ORDERS:
            part = chunks(graph, make(graph, self.draw), self.caps, places)
            self.refined(graph, part)
            self.spent += 2 * graph.size()
            score = self.rate(graph, part)
            if score < best_score:
                best, best_score = part, score
            if self.spent >= until:
                break
        return best

    def cycle(self, part: list[int] | None) -> list[int]:
        """Coarsen (within the parts of a partition, if given), cut what is left, and refine on the way back."""
        graph = self.graph
        heaviest = max(graph.weights)
        limit = max(heaviest, sum(graph.weights) / (self.parts * 6))
        stack: list[tuple[Weighted, list[int]]] = []
        while len(graph) > max(_COARSEST, 8 * self.parts):
            self.spent += graph.size()
            made = coarser(graph, limit, self.draw, part)
            if made is None:
                break
            stack.append((graph, made[1]))
            if part is not None:
                smaller = [0] * len(made[0])
                for node, new in enumerate(made[1]):
                    smaller[new] = part[node]
                part = smaller
            graph = made[0]
        found = self.starts(graph, 20 * self.graph.size()) if part is None else self.refined(graph, part)
        while stack:
            graph, merged = stack.pop()
            found = self.refined(graph, [found[one] for one in merged])
        return found

    def improve(self, work: int) -> None:
        """Spend so much on starts and cycles."""
        until = self.spent + work
        if work > 12 * self.graph.size():
            self.offer(self.starts(self.graph, work // 3))
        if self.score > (0.0, 0.0):
            self.offer(self.cycle(None))
        while self.spent < until and self.score[1] > 0:
            self.offer(self.cycle(self.best if self.draw.below(3) else None))

    def bisect(self, work: int) -> list[int]:
        """Return a partition made by cutting in two, and those in two, and so on."""
        part = [0] * len(self.graph)
        ranges = [(0, self.parts)]
        rounds = max(1, (self.parts - 1).bit_length())
        while ranges:
            low, high = ranges.pop()
            if high - low < 2:
                continue
            middle = (low + high) // 2
            nodes = [node for node in self.graph.order if part[node] == low]
            if len(nodes) < high - low:
                continue
            self._resplit(part, nodes, low, middle, high, work // rounds)
            ranges += [(low, middle), (middle, high)]
        return part

    def _resplit(self, part: list[int], nodes: list[int], low: int, middle: int, high: int, work: int) -> None:
        """Cut some nodes in two: parts low to middle, and parts middle to high, of which the first stand for all."""
        inner = induced(self.graph, nodes)
        caps = [sum(self.caps[low:middle]), sum(self.caps[middle:high])]
        search = _Search(inner, caps, self.passes, self.draw)
        share = work * inner.size() // self.graph.size()
        search.improve(share)
        self.spent += search.spent
        for node, side in zip(nodes, search.best, strict=True):
            part[node] = middle if side else low

    def recut(self, low: int, span: int, work: int) -> bool:
        """Cut some neighbouring parts anew, as a graph of their own; keep that if it is better."""
        nodes = [node for node in self.graph.order if low <= self.best[node] < low + span]
        inner = induced(self.graph, nodes)
        search = _Search(inner, self.caps[low : low + span], self.passes, self.draw)
        search.offer([self.best[node] - low for node in nodes])
        before = search.score
        if work > 60 * inner.size():
            search.offer(search.starts(inner, 20 * inner.size()))
            search.offer(search.cycle(None))
        search.offer(search.cycle(search.best))
        self.spent += search.spent
        if search.score > before:
            return False
        part = self.best.copy()
        for node, inside in zip(nodes, search.best, strict=True):
            part[node] = low + inside
        return self.offer(part)


def induced(graph: Weighted, nodes: Sequence[int]) -> Weighted:
    """Return the graph of some nodes, which are given in topological order, and the edges among them."""
    new = {node: at for at, node in enumerate(nodes)}
    after: list[list[int]] = []
    after_weights: list[list[float]] = []
    before: list[list[int]] = [[] for _ in nodes]
    before_weights: list[list[float]] = [[] for _ in nodes]
    for at, node in enumerate(nodes):
        ends, hefts = [], []
        for one, heft in zip(graph.after[node], graph.after_weights[node], strict=True):
            end = new.get(one)
            if end is not None:
                ends.append(end)
                hefts.append(heft)
                before[end].append(at)
                before_weights[end].append(heft)
        after.append(ends)
        after_weights.append(hefts)
    weights = [graph.weights[node] for node in nodes]
    return Weighted(weights, after, after_weights, before, before_weights, list(range(len(nodes))))


def _random_depth_first(graph: Weighted, draw: Draw) -> list[int]:
    return depth_first(graph, draw.shuffled(len(graph)))


def _backwards(make: Callable[[Weighted, Draw], list[int]]) -> Callable[[Weighted, Draw], list[int]]:
    return lambda graph, draw: make(graph.reversed(), draw)[::-1]


def _greedy(graph: Weighted, _: Draw) -> list[int]:
    return by_key(graph, opening(graph))


def _swept(graph: Weighted, _: Draw) -> list[int]:
    return swept(graph, depth_first(graph), 3)


_FORWARD: list[Callable[[Weighted, Draw], list[int]]] = [
    lambda graph, _: depth_first(graph),
    _greedy,
    _swept,
    lambda graph, _: by_key(graph, [0.0] * len(graph), newest=False),
    _random_depth_first,
]
_ORDERS = [order for make in _FORWARD for order in (make, _backwards(make))]


def smallest_cut(graph: Weighted, caps: Sequence[float], passes: int, work: int | None = None) -> list[int]:
    """Return a part for each node such that no part is heavier than its cap, if that can be found, and the cut is small.

    Args:
        graph: what is partitioned; it has at least as many nodes as there are parts.
        caps: what each part should weigh at most; parts are numbered such that edges lead to the same or a higher one. None is
            empty.
        passes: of refinement on each graph.
        work: how many edges may be looked at, about; None is what a second or two allow, and less for small graphs.
    """
    parts = len(caps)
    if parts == 1:
        return [0] * len(graph)
    if work is None:
        work = min(WORK, _WORK_PER_SIZE * graph.size())
    search = _Search(graph, caps, passes, Draw(len(graph) * 31 + parts))
    search.offer(chunks(graph, depth_first(graph), search.caps, _FEW_PLACES))
    if parts == 2:
        search.improve(work)
        return search.best
    ample = work > 60 * graph.size()
    if ample:
        search.offer(search.starts(graph, work // 6))
    search.offer(search.cycle(None))
    if ample:
        search.offer(search.refined(graph, search.bisect(work // 4)))
    while search.spent + 8 * graph.size() < work and search.score[1] > 0:
        turn = search.draw.below(4)
        if turn == 0:
            search.offer(search.cycle(search.best))
        elif turn == 1 and 40 * graph.size() < work:
            search.offer(search.refined(graph, search.bisect(work // 8)))
        else:
            span = min(2 + search.draw.below(2), parts)
            search.recut(search.draw.below(parts - span + 1), span, work - search.spent)
    return search.best
