"""Moves of single nodes that make the cut of an acyclic partition smaller: Fiduccia and Mattheyses with numbered parts.

The parts are numbered so that every edge leads to a part of the same or of a higher number; a node may only go where that stays
true, so the parts never wait for each other in a circle. It knows weights and integers, and no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

_EPSILON = 1e-9
_RETURNED = 3  # how many nodes are tried again when a part has got room


@dataclass(slots=True)
class Weighted:
    """A graph whose nodes and edges have weights, in a topological order.

    Attributes:
        weights: of each node.
        after: the successors of each node.
        after_weights: of the edges to them; far above 1e-9, for a sum below that counts as no edge.
        before: the predecessors of each node.
        before_weights: of the edges from them.
        order: a topological order.
    """

    weights: list[float]
    after: list[list[int]]
    after_weights: list[list[float]]
    before: list[list[int]]
    before_weights: list[list[float]]
    order: list[int]

    def __len__(self) -> int:
        return len(self.weights)

    def size(self) -> int:
        """Return the number of nodes and edges."""
        return len(self.weights) + sum(map(len, self.after))

    def reversed(self) -> Weighted:
        """Return the graph with every edge turned round; the lists are shared."""
        return Weighted(
            self.weights, self.before, self.before_weights, self.after, self.after_weights, self.order[::-1]
        )


def cut_weight(graph: Weighted, part: Sequence[int]) -> float:
    """Return the weight of the edges between different parts."""
    cut = 0.0
    for node, after in enumerate(graph.after):
        own = part[node]
        for one, weight in zip(after, graph.after_weights[node], strict=True):
            if part[one] != own:
                cut += weight
    return cut


def loads(graph: Weighted, part: Sequence[int], parts: int) -> list[float]:
    """Return the weight of each part."""
    load = [0.0] * parts
    for node, weight in enumerate(graph.weights):
        load[part[node]] += weight
    return load


class Refiner:
    """A partition that is being improved.

    Args:
        graph: what is partitioned.
        part: of each node; it is changed in place, and at the end of a pass it is the best that was met.
        parts: how many there are; none is ever emptied.
        caps: what each part should weigh at most.
    """

    __slots__ = ("_count", "_down", "_load", "_slack", "_spent", "_up", "caps", "graph", "part", "parts")

    def __init__(self, graph: Weighted, part: list[int], parts: int, caps: Sequence[float]) -> None:
        self.graph = graph
        self.part = part
        self.parts = parts
        self.caps = [cap * (1 + _EPSILON) for cap in caps]
        self._load = loads(graph, part, parts)
        self._count = [0] * parts
        for one in part:
            self._count[one] += 1
        heaviest = max(graph.weights, default=0.0)
        self._slack = min(heaviest, *caps)
        self._up = _sums(graph.before, graph.before_weights, part)
        self._down = _sums(graph.after, graph.after_weights, part)
        self._spent = 0

    @property
    def spent(self) -> int:
        """How many edges have been looked at: the same on every machine, unlike time."""
        return self._spent

    def excess(self) -> float:
        """Return by how much the parts are too heavy, together."""
        return sum([load - cap for load, cap in zip(self._load, self.caps, strict=True) if load > cap])

    def run(self, passes: int) -> None:
        """Do passes until one does not help."""
        if self.excess():
            self.balance()
        for _ in range(passes):
            if not self._pass():
                return

    def balance(self) -> None:
        """Hand nodes from parts that are too heavy towards the nearest that has room, those that cost least first."""
        members: list[set[int]] = [set() for _ in range(self.parts)]
        for node, own in enumerate(self.part):
            members[own].add(node)
        heavy = [(-over, at) for at in range(self.parts) if (over := self._over(at)) > 0]
        heapify(heavy)
        for _ in range(2 * self.parts):
            while heavy and -heavy[0][0] != self._over(heavy[0][1]):
                heappop(heavy)  # it has changed, and was put there anew if it is too heavy still
            if not heavy:
                return
            source = heavy[0][1]
            room = self._nearest_room(source)
            if room is None:
                return
            target = source + (1 if room > source else -1)
            self._shift(members, source, target)
            for at in (source, target):
                if (over := self._over(at)) > 0:
                    heappush(heavy, (-over, at))

    def _over(self, at: int) -> float:
        return self._load[at] - self.caps[at]

    def _nearest_room(self, source: int) -> int | None:
        """Return the nearest part that has room; of two the one with more of it."""
        for away in range(1, self.parts):
            near = [at for at in (source - away, source + away) if 0 <= at < self.parts and self._over(at) < 0]
            if near:
                return min(near, key=self._over)
        return None

    def _shift(self, members: list[set[int]], source: int, target: int) -> None:
        """Move nodes from one part to the next until it is not too heavy."""
        part, ahead = self.part, target > source
        inner, outer = (self._down, self._up) if ahead else (self._up, self._down)
        heap = [
            (outer[node].get(source, 0.0) - inner[node].get(target, 0.0), node)
            for node in members[source]
            if source not in inner[node]
        ]
        heapify(heap)
        neighbours = self.graph.before if ahead else self.graph.after
        while heap and self._load[source] > self.caps[source] and self._count[source] > 1:
            _, node = heappop(heap)
            self._move(node, target)
            members[source].discard(node)
            members[target].add(node)
            for one in neighbours[node]:
                if part[one] == source and source not in inner[one]:
                    heappush(heap, (outer[one].get(source, 0.0) - inner[one].get(target, 0.0), one))

    def _move(self, node: int, target: int) -> None:
        graph, part = self.graph, self.part
        source = part[node]
        weight = graph.weights[node]
        self._load[source] -= weight
        self._load[target] += weight
        self._count[source] -= 1
        self._count[target] += 1
        part[node] = target
        for ends, weights, sums in (
            (graph.after[node], graph.after_weights[node], self._up),
            (graph.before[node], graph.before_weights[node], self._down),
        ):
            self._spent += len(ends)
            for one, heft in zip(ends, weights, strict=True):
                found = sums[one]
                left = found[source] - heft
                if left > _EPSILON:
                    found[source] = left
                else:
                    del found[source]
                found[target] = found.get(target, 0.0) + heft

    def _choices(self, node: int) -> list[tuple[float, int]]:
        """Return (gain, part) for the parts where the node could go; the cut shrinks by the gain."""
        own = self.part[node]
        up, down = self._up[node], self._down[node]
        lowest = max(up) if up else 0
        highest = min(down) if down else self.parts - 1
        found = []
        if lowest < own:
            lost = down.get(own, 0.0)
            found.append((up.get(lowest, 0.0) - lost, lowest))
            if lowest < own - 1:
                found.append((-lost, own - 1))
        if highest > own:
            lost = up.get(own, 0.0)
            found.append((down.get(highest, 0.0) - lost, highest))
            if highest > own + 1:
                found.append((-lost, own + 1))
        return found

    def _pass(self) -> bool:
        """Move every node at most once, best gain first, also uphill; then go back to the best that was met."""
        graph, part, load = self.graph, self.part, self._load
        weights = graph.weights
        caps = self.caps
        limits = [cap + self._slack for cap in caps]
        stamp = [0] * len(part)
        heap: list[tuple[float, int, int, int, int]] = []
        serial = 0
        for node in range(len(part)):
            for gain, target in self._choices(node):
                serial -= 1
                heap.append((-gain, serial, node, target, 0))
        heapify(heap)
        self._spent += len(part) + len(heap)
        parked: list[list[tuple[float, int, int, int, int]]] = [[] for _ in range(self.parts)]
        moves: list[tuple[int, int]] = []
        excess = start = self.excess()
        gained = best_gain = 0.0
        best_excess, best_at = start, 0
        patience = 60 + len(part) // 20
        while heap and len(moves) - best_at < patience:
            entry = heappop(heap)
            cost, _, node, target, seen = entry
            if stamp[node] != seen:
                continue
            source, weight = part[node], weights[node]
            if load[target] + weight > limits[target] and load[target] + weight > load[source]:
                heappush(parked[target], entry)
                continue
            if self._count[source] == 1:
                continue
            excess -= max(0.0, load[source] - caps[source]) + max(0.0, load[target] - caps[target])
            self._move(node, target)
            excess += max(0.0, load[source] - caps[source]) + max(0.0, load[target] - caps[target])
            stamp[node] = -1
            moves.append((node, source))
            gained -= cost
            if excess < best_excess - _EPSILON or (excess <= best_excess + _EPSILON and gained > best_gain + _EPSILON):
                best_gain, best_excess, best_at = gained, excess, len(moves)
            for one in graph.after[node]:
                if stamp[one] >= 0:
                    serial = self._offer(heap, one, stamp, serial)
            for one in graph.before[node]:
                if stamp[one] >= 0:
                    serial = self._offer(heap, one, stamp, serial)
            returned = 0
            while parked[source] and returned < _RETURNED:
                entry = heappop(parked[source])
                if stamp[entry[2]] == entry[4]:
                    heappush(heap, entry)
                    returned += 1
        for node, source in reversed(moves[best_at:]):
            self._move(node, source)
        return best_at > 0

    def _offer(self, heap: list[tuple[float, int, int, int, int]], node: int, stamp: list[int], serial: int) -> int:
        """Put the choices of a node, whose neighbour has moved, on the heap; the older ones count no more."""
        stamp[node] += 1
        for gain, target in self._choices(node):
            serial -= 1
            heappush(heap, (-gain, serial, node, target, stamp[node]))
        return serial


def _sums(neighbours: list[list[int]], weights: list[list[float]], part: list[int]) -> list[dict[int, float]]:
    """Return for each node how much weight leads to its neighbours in each part."""
    found = []
    for ends, hefts in zip(neighbours, weights, strict=True):
        sums: dict[int, float] = {}
        for one, heft in zip(ends, hefts, strict=True):
            own = part[one]
            sums[own] = sums.get(own, 0.0) + heft
        found.append(sums)
    return found
