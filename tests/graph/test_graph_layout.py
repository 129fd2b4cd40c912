"""Where the nodes of a drawing stand: properties that hold for every graph, and the time it takes."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid.graph.layout import HEIGHT, MARGIN, ROW_WIDTH, Layout, arrange
from dagrid.graph.structure import Structure


def structure_of(predecessors: list[list[int]]) -> Structure:
    names = [str(node) for node in range(len(predecessors))]
    return Structure.of_predecessors(names, {name: at for at, name in enumerate(names)}, predecessors)


@st.composite
def drawings(draw: st.DrawFn) -> tuple[list[list[int]], list[float]]:
    """Return predecessors and widths; levels may be wide enough to be folded, and edges may pass many levels."""
    count = draw(st.integers(0, 40))
    widest = draw(st.sampled_from([60.0, 400.0]))
    predecessors = [
        sorted(draw(st.sets(st.integers(0, node - 1), max_size=3))) if node else [] for node in range(count)
    ]
    return predecessors, draw(st.lists(st.floats(20.0, widest), min_size=count, max_size=count))


def folded(wide: int) -> tuple[list[list[int]], list[float]]:
    """Return one node, many behind it, and one behind them all."""
    return [[], *([0] for _ in range(wide)), list(range(1, wide + 1))], [120.0] * (wide + 2)


def check(predecessors: list[list[int]], widths: list[float], layout: Layout) -> None:
    rows: dict[float, list[tuple[float, float]]] = {}
    for x, y, width in zip(layout.x, layout.y, widths, strict=True):
        rows.setdefault(y, []).append((x - width / 2, x + width / 2))
        assert x - width / 2 >= MARGIN - 0.2
        assert x + width / 2 <= layout.width
        assert HEIGHT / 2 <= y <= layout.height - HEIGHT / 2
    for upper, lower in itertools.pairwise(sorted(rows)):
        assert lower - upper > HEIGHT
    for row in rows.values():
        for (_, right), (left, _) in itertools.pairwise(sorted(row)):
            assert right < left
    for node, before in enumerate(predecessors):
        for one in before:
            ys = [layout.y[one], *(y for _, y in layout.bends.get((one, node), ())), layout.y[node]]
            assert ys == sorted(ys)
            assert layout.y[one] + HEIGHT < layout.y[node]


@given(drawings())
def test_no_two_nodes_overlap_and_edges_go_down(drawing: tuple[list[list[int]], list[float]]) -> None:
    """A node on another one hides it, and an edge that goes up looks like its opposite."""
    predecessors, widths = drawing
    check(predecessors, widths, arrange(structure_of([list(each) for each in predecessors]), widths))


@given(drawings())
def test_equal_graphs_are_laid_out_equally(drawing: tuple[list[list[int]], list[float]]) -> None:
    """Two pages of one run must not differ."""
    predecessors, widths = drawing
    first, second = (arrange(structure_of([list(each) for each in predecessors]), widths) for _ in range(2))
    assert first == second


def test_a_wide_level_is_folded() -> None:
    """Sixty nodes side by side would be a drawing that nobody sees as a whole."""
    predecessors, widths = folded(60)
    layout = arrange(structure_of([list(each) for each in predecessors]), widths)
    check(predecessors, widths, layout)
    assert layout.width < 1.5 * ROW_WIDTH
    assert len(set(layout.y)) > 3


def test_a_chain_is_a_straight_line() -> None:
    """The simplest graph has the simplest drawing."""
    layout = arrange(structure_of([[], [0], [1], [2]]), [50.0, 90.0, 70.0, 50.0])
    assert len(set(layout.x)) == 1
    assert not layout.bends


def test_a_long_edge_goes_round_the_nodes_between_its_ends() -> None:
    """An edge behind a box looks like one that ends there."""
    layout = arrange(structure_of([[], [0], [1], [0, 2]]), [80.0] * 4)
    points = layout.bends[0, 3]
    for middle in (1, 2):
        passing = [x for x, y in points if abs(y - layout.y[middle]) <= HEIGHT / 2]
        assert passing
        assert all(abs(x - layout.x[middle]) > 40 for x in passing)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("shape", ["random", "wide", "deep"])
def test_two_thousand_nodes_do_not_take_long(shape: str) -> None:
    """What is quadratic takes minutes here, not a moment."""
    chance = random.Random(7)
    predecessors: list[list[int]] = [[]]
    for node in range(1, 2_000):
        nearest = {"random": 0, "wide": 0, "deep": max(0, node - 3)}[shape]
        farthest = 5 if shape == "wide" else node
        predecessors.append(
            sorted({chance.randrange(min(nearest, farthest - 1), min(node, farthest)) for _ in range(2)})
        )
    widths = [100.0] * len(predecessors)
    check(predecessors, widths, arrange(structure_of([list(each) for each in predecessors]), widths))
