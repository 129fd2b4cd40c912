"""The same work as a plain loop, without a graph: what a script would do, and the yardstick for what the graph gains.

It knows the steps and their order; it knows nothing of dagrid.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from examples.mosaic import montage, report, tiles
from examples.mosaic.places import Places
from examples.mosaic.tiles import Survey

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Loop:
    """A run of the loop and what it measured.

    Attributes:
        before: What `report.measure` said of the uncorrected mosaic.
        after: What it said of the corrected mosaic.
        pairs: How many pairs of tiles overlap.
        seconds: For each kind of step, the durations of its steps in seconds.
    """

    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    pairs: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def step(self, kind: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do one step and note how long it took."""
        start = time.perf_counter()
        value = work(*args, **kwargs)
        self.seconds.setdefault(kind, []).append(time.perf_counter() - start)
        return value


def run_in_order(survey: Survey, places: Places, exact: bool = False) -> Loop:
    """Make the mosaic one step after the other.

    Args:
        survey: How the sky is covered.
        places: Where the files go.
        exact: Reproject with mProject.

    Returns:
        The measurements.

    Raises:
        MontageError: A step of Montage failed.
    """
    loop, folder = Loop(), places.work("projected")
    template = loop.step("template", tiles.write_template, survey, places.template)
    for tile in survey.tiles():
        cut = loop.step("cut", tiles.cut_tile, survey, tile.row, tile.column, places.image("tiles", tile.name))
        loop.step("project", montage.project, cut, template, places.image("projected", tile.name), exact)
    images = places.work("images.tbl")
    pairs = loop.step("overlaps", montage.find_overlaps, folder, images, places.work("overlaps.tbl"))
    before = loop.step("add", montage.add_tiles, folder, places.work("before.tbl"), template, places.before)
    fits = {
        f"fit_{number}": loop.step("fit", montage.fit_overlap, pair, folder, places.work("differences"), template)
        for number, pair in enumerate(pairs)
    }
    table, corrections = places.work("fits.tbl"), places.work("corrections.tbl")
    planes = loop.step("model", lambda: montage.model_background(images, table, corrections, **fits))
    for tile in survey.tiles():
        image, corrected = (places.image(place, tile.name) for place in ("projected", "corrected"))
        loop.step("correct", montage.correct, image, corrected, planes)
    corrected_folder = places.work("corrected")
    after = loop.step("add", montage.add_tiles, corrected_folder, places.work("after.tbl"), template, places.after)
    loop.pairs = len(pairs)
    loop.before = loop.step("measure", report.measure, before, survey)
    loop.after = loop.step("measure", report.measure, after, survey)
    loop.step("picture", report.draw_mosaic, after, survey, places.mosaic)
    loop.step(
        "picture", report.draw_comparison, before, after, survey, pairs, loop.before, loop.after, places.comparison
    )
    return loop
