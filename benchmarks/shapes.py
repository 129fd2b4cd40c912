"""The graphs that are run: what dagrid is given and what its peers are given, from one description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dagrid import DAG


def source() -> int:
    return 0


def one(value: int) -> int:
    return value


def three(a: int, b: int, c: int) -> int:  # noqa: ARG001  # a task that does nothing
    return a


def join(**results: int) -> int:
    return len(results)


def join_all(*results: int) -> int:
    return len(results)


@dataclass
class Shape:
    """A graph by numbers, in an order in which it can be run: a function for each node and the nodes whose values it takes."""

    name: str
    fns: list[Callable[..., Any]]
    takes: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.fns)

    @cached_property
    def follows(self) -> list[list[int]]:
        """The successors of each node."""
        after: list[list[int]] = [[] for _ in self.fns]
        for node, before in enumerate(self.takes):
            for each in before:
                after[each].append(node)
        return after

    def check(self, values: list[Any]) -> None:
        """Check what a run left behind: nobody is fast by doing less."""
        expected = len(self.takes[-1]) if self.fns[-1] is join_all else 0
        if values[-1] != expected:
            raise AssertionError(f"{self.name}: the last node returned {values[-1]!r}, not {expected!r}")

    def dag(self) -> DAG:
        """Return the graph, made anew, so that nothing of it is compiled yet."""
        builder = DAG.builder()
        for node, (fn, before) in enumerate(zip(self.fns, self.takes, strict=True)):
            names = [f"n{each}" for each in before]
            if fn is join_all:
                builder.add_node(f"n{node}", join, depends_on=names)
            else:
                builder.add_node(f"n{node}", fn, inputs=dict(zip(PARAMETERS[fn], names, strict=True)))
        return builder.build()


PARAMETERS: dict[Callable[..., Any], tuple[str, ...]] = {source: (), one: ("value",), three: ("a", "b", "c")}


def chain(count: int) -> Shape:
    """Return nodes in a row."""
    return Shape("chain", [source, *[one] * (count - 1)], [(), *((node,) for node in range(count - 1))])


def fan_out(count: int) -> Shape:
    """Return one node, so many that take its value, and one that takes theirs."""
    middle = range(1, count + 1)
    return Shape("fan-out", [source, *[one] * count, join_all], [(), *[(0,)] * count, tuple(middle)])


def layered(layers: int, width: int) -> Shape:
    """Return layers of nodes with three predecessors each in the layer before."""
    takes: list[tuple[int, ...]] = [()] * width
    for layer in range(1, layers):
        first = (layer - 1) * width
        takes += [tuple(first + (place + step) % width for step in (0, 7, 13)) for place in range(width)]
    return Shape("layered", [three if before else source for before in takes], takes)


def independent(count: int) -> Shape:
    """Return nodes that have nothing to do with each other."""
    return Shape("independent", [source] * count, [()] * count)


def montage(rows: int, columns: int, bands: int = 3) -> Shape:
    """Return a mosaic as Montage makes one: in each band a grid of images, their overlaps, one fit for all, and corrections."""
    takes: list[tuple[int, ...]] = []
    mosaics = []
    for _ in range(bands):
        images = [_add(takes) for _ in range(rows * columns)]
        overlaps = [
            _add(takes, images[row * columns + column], images[(row + down) * columns + column + right])
            for row in range(rows)
            for column in range(columns)
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
            if row + down < rows and 0 <= column + right < columns
        ]
        model = _add(takes, _add(takes, *overlaps))
        corrected = [_add(takes, image, model) for image in images]
        mosaics.append(_add(takes, _add(takes, *corrected), *corrected))
        _add(takes, mosaics[-1])
    _add(takes, *mosaics)
    return _joining("montage", takes)


def epigenomics(lanes: Sequence[int]) -> Shape:
    """Return lanes of so many chains of four each that are split and merged, then merged all together, and two steps more."""
    takes: list[tuple[int, ...]] = []
    merged = []
    for chains in lanes:
        split = _add(takes)
        ends = []
        for _ in range(chains):
            at = split
            for _ in range(4):
                at = _add(takes, at)
            ends.append(at)
        merged.append(_add(takes, *ends))
    _add(takes, _add(takes, _add(takes, *merged)))
    return _joining("epigenomics", takes)


def soykb(samples: int, chromosomes: int) -> Shape:
    """Return samples of six steps that fan out by chromosome; what each chromosome has in all samples joins, and all joins."""
    takes: list[tuple[int, ...]] = []
    calls = []
    for _ in range(samples):
        at = _add(takes)
        for _ in range(5):
            at = _add(takes, at)
        calls.append([_add(takes, at) for _ in range(chromosomes)])
    joint = [_add(takes, *(sample[which] for sample in calls)) for which in range(chromosomes)]
    combined = _add(takes, *joint)
    _add(takes, *(call for sample in calls for call in sample))
    for _ in range(2):
        _add(takes, _add(takes, combined))
    return _joining("soykb", takes)


def _add(takes: list[tuple[int, ...]], *before: int) -> int:
    takes.append(before)
    return len(takes) - 1


def _joining(name: str, takes: list[tuple[int, ...]]) -> Shape:
    return Shape(name, [join_all if before else source for before in takes], takes)
