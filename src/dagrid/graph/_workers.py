"""Nodes dealt out to workers, and how long that would take: list scheduling on paper.

It knows integers and seconds, and neither names nor a running worker.

Source: H. Topcuoglu, S. Hariri and M.-Y. Wu, Performance-effective and low-complexity task scheduling for heterogeneous
computing, 2002 (HEFT: the longest remaining path first, each node where it ends first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush


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

    Args:
        weights: what a node counts towards the caps.
        caps: how much each worker may get; if no one has room for a node, the one with the most left gets it.
    """
    workers = len(caps)
    rank = [0] * len(graph.order)
    for at, node in enumerate(graph.order):
        rank[node] = at
    worker = [-1] * len(rank)
    finish = [0.0] * len(rank)
    free = [0.0] * workers
    load = [0.0] * workers
    delay_of = _delays_into(graph)
    for node in sorted(graph.order, key=lambda one: (-graph.remaining[one], rank[one])):
        inputs = [0.0] * workers
        last = [0.0] * workers
        most = 0.0
        for one, delay in zip(graph.before[node], delay_of[node], strict=True):
            at = worker[one]
            inputs[at] += 1 + delay
            last[at] = max(last[at], delay)
            most = max(most, finish[one])
        starts = [max(one, most) for one in free]
        for one, delay in zip(graph.before[node], delay_of[node], strict=True):
            if delay:
                at, arrives = worker[one], finish[one] + delay
                starts = [start if own == at or start > arrives else arrives for own, start in enumerate(starts)]
        weight = weights[node]
        open_ones = [own for own in range(workers) if load[own] + weight <= caps[own]] or [_emptiest(load, caps)]
        own = min(open_ones, key=lambda one: (starts[one], -inputs[one], load[one], one))
        worker[node] = own
        finish[node] = free[own] = starts[own] + graph.costs[node]
        load[own] += weight
    return worker


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
    delay_of = _delays_into(graph)
    for level in levels:
        largest = max(weights[node] for node in level)
        room = sum(weights[node] for node in level) / workers
        if largest:
            room = max(largest, -(-room // largest) * largest)
        here = [0.0] * workers
        for node in sorted(level, key=lambda one: (-graph.remaining[one], one)):
            weight = weights[node]
            inputs = [0.0] * workers
            for one, delay in zip(graph.before[node], delay_of[node], strict=True):
                inputs[worker[one]] += 1 + delay
            open_ones = [
                own for own in range(workers) if here[own] + weight <= room and load[own] + weight <= caps[own]
            ]
            if open_ones:
                own = min(open_ones, key=lambda one: (-inputs[one], here[one], load[one], one))
            else:
                own = _emptiest(load, caps)
            worker[node] = own
            here[own] += weight
            load[own] += weight
    return worker


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
