"""Where the nodes of a graph stand when it is drawn: layers from top to bottom, few crossings, no two nodes on one place.

Longest-path layers, a few sweeps that put each node at the mean of its neighbours, and places that come as near to that as the
widths allow. It knows boxes and coordinates, and neither a colour nor a file. Equal graphs are laid out equally.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dagrid.graph.analysis import level_numbers
from dagrid.graph.structure import Structure

HEIGHT = 30.0
GAP = 14.0
ROW_GAP = 12.0
LAYER_GAP = 46.0
MARGIN = 12.0
BEND_WIDTH = 4.0
ROW_WIDTH = 1060.0
WIDTH_PER_ROOT = 70.0
SWEEPS = 6

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawing of a graph in pixels.

    Attributes:
        x: the middle of each node, by index.
        y: the middle of each node, by index; a node stands below all that it waits for.
        width: of the whole drawing.
        height: of the whole drawing.
        bends: the points between its ends of each edge (before, after) that passes layers.
    """

    x: list[float]
    y: list[float]
    width: float
    height: float
    bends: dict[tuple[int, int], list[Point]]


@dataclass(slots=True)
class _Items:
    """Nodes first, then the bends of long edges: all that takes a place in a layer, with neighbours above and below."""

    widths: list[float]
    above: list[list[int]]
    below: list[list[int]]
    layers: list[list[int]]
    chains: dict[tuple[int, int], list[int]] = field(default_factory=dict)


def arrange(structure: Structure, widths: Sequence[float], height: float = HEIGHT) -> Layout:
    """Lay a graph out.

    Args:
        structure: the graph.
        widths: how wide each node is, by index, in pixels.
        height: how high each node is, in pixels.
    """
    count = len(structure.names)
    if not count:
        return Layout([], [], 2 * MARGIN, 2 * MARGIN, {})
    layers = _layers(structure)
    row_width = max(ROW_WIDTH, WIDTH_PER_ROOT * math.sqrt(count))
    rows_of = [_rows_needed(layer, widths, row_width) for layer in layers]
    items = _with_bends(structure, widths, layers, rows_of)
    _order(items)
    rows = _rows(items, rows_of)
    x = _places(items, [row for group in rows for row in group])
    y = [0.0] * len(items.widths)
    top = MARGIN
    for group in rows:
        for row in group:
            for item in row:
                y[item] = top + height / 2
            top += height + ROW_GAP
        top += LAYER_GAP - ROW_GAP
    left = min(at - width / 2 for at, width in zip(x, items.widths, strict=True)) - MARGIN
    x = [round(at - left, 1) for at in x]
    right = max(at + width / 2 for at, width in zip(x, items.widths, strict=True)) + MARGIN
    bends = {
        edge: [(x[item], y[item] + side * height / 2) for item in chain for side in (-1, 1)]
        for edge, chain in items.chains.items()
    }
    return Layout(x[:count], y[:count], round(right, 1), top - LAYER_GAP + MARGIN, bends)


def _layers(structure: Structure) -> list[list[int]]:
    """Return the nodes by level; a root stands right above the first that waits for it."""
    level = level_numbers(structure)
    for node, before in enumerate(structure.predecessors):
        if not before and structure.successors[node]:
            level[node] = min(level[after] for after in structure.successors[node]) - 1
    found: list[list[int]] = [[] for _ in range(max(level) + 1)]
    for node, number in enumerate(level):
        found[number].append(node)
    return found


def _rows_needed(layer: Sequence[int], widths: Sequence[float], row_width: float) -> int:
    return max(1, math.ceil(sum(widths[node] + GAP for node in layer) / row_width))


def _with_bends(
    structure: Structure, widths: Sequence[float], layers: list[list[int]], rows_of: Sequence[int]
) -> _Items:
    """Join neighbouring layers; an edge that passes layers gets a place in each of them, where that does not get out of hand."""
    count = len(structure.names)
    level = [0] * count
    for number, layer in enumerate(layers):
        for node in layer:
            level[node] = number
    edges = [(one, node) for node, before in enumerate(structure.predecessors) for one in before]
    passed = sum(level[after] - level[before] - 1 for before, after in edges)
    bent = passed <= 200 + 2 * count
    items = _Items(list(widths), [[] for _ in range(count)], [[] for _ in range(count)], [list(row) for row in layers])
    for before, after in edges:
        at = before
        chain: list[int] = []
        for number in range(level[before] + 1, level[after] if bent else 0):
            if rows_of[number] > 1:
                continue
            item = len(items.widths)
            items.widths.append(BEND_WIDTH)
            items.above.append([at])
            items.below.append([])
            items.below[at].append(item)
            items.layers[number].append(item)
            chain.append(item)
            at = item
        items.above[after].append(at)
        items.below[at].append(after)
        if chain:
            items.chains[before, after] = chain
    return items


def _order(items: _Items) -> None:
    """Sort each layer by the mean place of its neighbours, downwards and upwards in turn."""
    place = [0.0] * len(items.widths)
    for layer in items.layers:
        _number(layer, place)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = items.above if down else items.below
        for layer in items.layers if down else reversed(items.layers):
            means = {item: _mean(neighbours[item], place, place[item]) for item in layer}
            layer.sort(key=means.__getitem__)
            _number(layer, place)


def _number(layer: Sequence[int], place: list[float]) -> None:
    for at, item in enumerate(layer):
        place[item] = (at + 0.5) / len(layer)


def _rows(items: _Items, rows_of: Sequence[int]) -> list[list[list[int]]]:
    """Return the rows of each layer; a layer that is too wide is folded, neighbours one below the other."""
    return [[layer[first::rows] for first in range(rows)] for layer, rows in zip(items.layers, rows_of, strict=True)]


def _places(items: _Items, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the middle of each item: near the mean of its neighbours, in the order of its row, and apart from the next."""
    x = [0.0] * len(items.widths)
    for row in rows:
        _spread(row, [0.0] * len(row), items.widths, x)
    for sweep in range(SWEEPS + 1):
        if sweep == SWEEPS:
            wanted_by = [above + below for above, below in zip(items.above, items.below, strict=True)]
        else:
            wanted_by = items.below if sweep % 2 else items.above
        for row in reversed(rows) if sweep % 2 else rows:
            _spread(row, [_mean(wanted_by[item], x, x[item]) for item in row], items.widths, x)
    return x


def _mean(neighbours: Sequence[int], values: Sequence[float], otherwise: float) -> float:
    return sum(values[one] for one in neighbours) / len(neighbours) if neighbours else otherwise


def _spread(row: Sequence[int], wanted: Sequence[float], widths: Sequence[float], x: list[float]) -> None:
    """Place a row as near to `wanted` as its order and widths allow: the least squares, found by pooling neighbours."""
    offsets: list[float] = []
    at = 0.0
    for position, item in enumerate(row):
        if position:
            at += (widths[row[position - 1]] + widths[item]) / 2 + GAP
        offsets.append(at)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        total, members = want - offset, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / members:
            other, more = pools.pop()
            total, members = total + other, members + more
        pools.append((total, members))
    position = 0
    for total, members in pools:
        for _ in range(members):
            x[row[position]] = total / members + offsets[position]
            position += 1
