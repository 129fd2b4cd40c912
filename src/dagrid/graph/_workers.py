"""Nodes dealt out to workers, and how long that would take: list scheduling on paper.

It knows integers and seconds, and neither names nor a running worker.

Source: H. Topcuoglu, S. Hariri and M.-Y. Wu, Performance-effective and low-complexity task scheduling for heterogeneous
computing, 2002 (HEFT: the longest remaining path first, each node where it ends first).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import takewhile
from math import inf


@dataclass(slots=True)
class Timed:
    """A graph with times.

    Attributes:
        after: the successors of each node.
        before: the predecessors of each node.
        order: a topological order.
        costs: seconds of each node.
        delays: seconds that each edge of `after` takes if its ends have different workers.
        remaining: seconds of the longest path from each node on.
    """

    after: list[list[int]]
    before: list[list[int]]
    order: list[int]
    costs: list[float]
    delays: list[list[float]]
    remaining: list[float]


def makespan(graph: Timed, worker: Sequence[int]) -> float:
    """Return how long a graph takes if each node runs on its worker, as soon as its inputs are there and the worker is free.

    A worker takes the node with the longest remaining path of those that could start.
    """
    waiting = list(map(len, graph.before))
    ready_at = [0.0] * len(waiting)
    workers = max(worker, default=-1) + 1
    free = [0.0] * workers
    coming: list[list[tuple[float, int]]] = [[] for _ in range(workers)]
    ready: list[list[tuple[float, int]]] = [[] for _ in range(workers)]
    clock: list[tuple[float, int]] = [(0.0, own) for own in range(workers)]
    for node, count in enumerate(waiting):
        if not count:
            heappush(coming[worker[node]], (0.0, node))
    end = 0.0
    while clock:
        now, own = heappop(clock)
        if free[own] > now:
            continue
        arriving, waits = coming[own], ready[own]
        while arriving and arriving[0][0] <= now:
            node = heappop(arriving)[1]
            heappush(waits, (-graph.remaining[node], node))
        if not waits:
            if arriving:
                heappush(clock, (arriving[0][0], own))
            continue
        node = heappop(waits)[1]
        done = now + graph.costs[node]
        free[own] = done
        end = max(end, done)
        heappush(clock, (done, own))
        for one, delay in zip(graph.after[node], graph.delays[node], strict=True):
            at = done if worker[one] == own else done + delay
            if at > ready_at[one]:
                ready_at[one] = at
            waiting[one] -= 1
            if not waiting[one]:
                other = worker[one]
                heappush(coming[other], (ready_at[one], one))
                heappush(clock, (max(ready_at[one], free[other]), other))
    return end


def earliest_finish(graph: Timed, weights: Sequence[float], caps: Sequence[float]) -> list[int]:
    """Return a worker for each node: where it would start first; of those, where most of its inputs are.

    Of the workers that have none of its inputs only the best one is looked at, so that many workers cost little more than few.

    Args:
        weights: what a node counts towards the caps.
        caps: how much each worker may get; if no one has room for a node, the one with the most left gets it.
    """
    rank = [0] * len(graph.order)
    for at, node in enumerate(graph.order):
        rank[node] = at
    worker = [-1] * len(rank)
    finish = [0.0] * len(rank)
    crew = _Crew(caps, min(weights, default=0.0))
    free, load = crew.free, crew.load
    delay_of = _delays_into(graph)
    for node in sorted(graph.order, key=lambda one: (-graph.remaining[one], rank[one])):
        weight = weights[node]
        arriving = [
            (worker[one], finish[one], delay) for one, delay in zip(graph.before[node], delay_of[node], strict=True)
        ]
        inputs = _inputs((at, delay) for at, _, delay in arriving)
        keys = []
        for own, amount in inputs.items():
            if load[own] + weight <= caps[own]:
                come = max([done if own == at else done + delay for at, done, delay in arriving])
                keys.append((max(free[own], come), -amount, load[own], own))
        come = max([done + delay for _, done, delay in arriving], default=0.0)
        other = crew.first(come, weight)
        if other >= 0 and other not in inputs:
            keys.append((max(free[other], come), -0.0, load[other], other))
        if keys:
            start, _, _, own = min(keys)
        else:
            own = _emptiest(load, caps)
            start = max([free[own], *(done if own == at else done + delay for at, done, delay in arriving)])
        worker[node] = own
        finish[node] = start + graph.costs[node]
        crew.give(own, weight, finish[node])
    return worker


class _Crew:
    """Workers by when they are free and by what they have.

    Attributes:
        free: when each worker has done all that it has.
        load: how much each has.
    """

    def __init__(self, caps: Sequence[float], lightest: float) -> None:
        """Take how much each worker may get, and the least that any node counts."""
        workers = len(caps)
        self.free = [0.0] * workers
        self.load = [0.0] * workers
        self._caps = caps
        self._lightest = lightest
        self._by_free = [(0.0, 0.0, own) for own in range(workers)]
        self._by_load = [(0.0, own) for own in range(workers)]

    def first(self, time: float, weight: float) -> int:
        """Return the worker with room that could start first from a time on; of those, the one that has least. -1: none has."""
        later = bisect_right(self._by_free, (time, inf, 0))
        if later:
            for load, own in self._by_load:
                if self.free[own] <= time and load + weight <= self._caps[own]:
                    return own
        for place in range(later, len(self._by_free)):
            _, load, own = self._by_free[place]
            if load + weight <= self._caps[own]:
                return own
        return -1

    def give(self, own: int, weight: float, until: float) -> None:
        """Give a worker a node; one that has no room for any other is looked at no more."""
        before = self.free[own], self.load[own], own
        place = bisect_left(self._by_free, before)
        if self._by_free[place : place + 1] == [before]:
            del self._by_free[place]
            del self._by_load[bisect_left(self._by_load, before[1:])]
        self.free[own] = until
        self.load[own] += weight
        if self.load[own] + self._lightest <= self._caps[own]:
            insort(self._by_free, (until, self.load[own], own))
            insort(self._by_load, (self.load[own], own))


def level_by_level(
    graph: Timed, levels: Sequence[Sequence[int]], weights: Sequence[float], caps: Sequence[float]
) -> list[int]:
    """Return a worker for each node: the one that has most of its inputs and room left for nodes of this level.

    Args:
        levels: the nodes of each level.
        weights: what a node counts towards the caps.
        caps: how much each worker may get in all; if no one has room for a node, the one with the most left gets it.
    """
    workers = len(caps)
    worker = [-1] * len(graph.order)
    load = [0.0] * workers
    unused = [(0.0, own) for own in range(workers)]
    delay_of = _delays_into(graph)
    for level in levels:
        largest = max(weights[node] for node in level)
        room = sum(weights[node] for node in level) / workers
        if largest:
            room = max(largest, -(-room // largest) * largest)
        here: dict[int, float] = {}
        used: list[tuple[float, float, int]] = []
        for node in sorted(level, key=lambda one: (-graph.remaining[one], one)):
            weight = weights[node]
            inputs = _inputs(
                (worker[one], delay) for one, delay in zip(graph.before[node], delay_of[node], strict=True)
            )
            keys = [
                (-amount, here.get(own, 0.0), load[own], own)
                for own, amount in inputs.items()
                if here.get(own, 0.0) + weight <= room and load[own] + weight <= caps[own]
            ]
            if keys:
                own = min(keys)[3]
            else:
                fitting = (own for lot, own in unused if lot + weight <= caps[own])
                small = takewhile(lambda one: one[0] + weight <= room, used)  # noqa: B023  # it is read at once
                again = (own for _, lot, own in small if lot + weight <= caps[own])
                found = [one for one in (next(fitting, -1), next(again, -1)) if one >= 0]
                own = min(found, key=lambda one: (here.get(one, 0.0), load[one], one), default=-1)
                if own < 0:
                    own = _emptiest(load, caps)
            if own in here:
                del used[bisect_left(used, (here[own], load[own], own))]
            else:
                del unused[bisect_left(unused, (load[own], own))]
            worker[node] = own
            here[own] = here.get(own, 0.0) + weight
            load[own] += weight
            insort(used, (here[own], load[own], own))
        for _, lot, own in used:
            insort(unused, (lot, own))
    return worker


def _inputs(arriving: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return how much each worker has of what a node takes, given who has each input and how long it takes to others."""
    found: dict[int, float] = {}
    for own, delay in arriving:
        found[own] = found.get(own, 0.0) + 1 + delay
    return found


def _emptiest(load: Sequence[float], caps: Sequence[float]) -> int:
    return min(range(len(caps)), key=lambda own: load[own] - caps[own])


def stages(graph: Timed, worker: Sequence[int]) -> list[int]:
    """Return a stage for each node: how often the work changes its worker, at most, on the ways that lead to it.

    An edge between two workers leads to a higher stage, one on the same worker not to a lower one: so the pairs of stage and
    worker never wait for each other in a circle.
    """
    stage = [0] * len(worker)
    for node in graph.order:
        own = worker[node]
        stage[node] = max(
            [stage[one] if worker[one] == own else stage[one] + 1 for one in graph.before[node]], default=0
        )
    return stage


def joined(graph: Timed, worker: Sequence[int], stage: Sequence[int]) -> list[int]:
    """Return fewer stages: where one pair of stage and worker needs one other only, and that is needed by it only, they join.

    Nothing starts later by that, and no circle closes, for all ways between such two are the one edge.
    """
    needs: dict[tuple[int, int], set[tuple[int, int]]] = {
        (at, own): set() for at, own in zip(stage, worker, strict=True)
    }
    needed: dict[tuple[int, int], set[tuple[int, int]]] = {key: set() for key in needs}
    for node, ends in enumerate(graph.after):
        source = stage[node], worker[node]
        for one in ends:
            target = stage[one], worker[one]
            if target != source:
                needs[target].add(source)
                needed[source].add(target)
    found: dict[tuple[int, int], int] = {}
    for key in sorted(needs):
        found[key] = key[0]
        if len(needs[key]) == 1:
            (source,) = needs[key]
            if source[1] == key[1] and len(needed[source]) == 1:
                found[key] = found[source]
    return [found[at, own] for at, own in zip(stage, worker, strict=True)]


def _delays_into(graph: Timed) -> list[list[float]]:
    """Return the delay of each edge of `before`."""
    found = [dict.fromkeys(ends, 0.0) for ends in graph.before]
    for node, (ends, delays) in enumerate(zip(graph.after, graph.delays, strict=True)):
        for one, delay in zip(ends, delays, strict=True):
            found[one][node] = delay
    return [list(one.values()) for one in found]
