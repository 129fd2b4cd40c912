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
    loop, work, image = Loop(), places.work, places.image
    template = loop.step("template", tiles.write_template, survey, places.template)
    projected, corrected = [], []
    for tile in survey.tiles():
        cut = loop.step("cut", tiles.cut_tile, survey, tile.row, tile.column, image("tiles", tile.name))
        projected.append(loop.step("project", montage.project, cut, template, image("projected", tile.name), exact))
    images = work("images.tbl")
    pairs = loop.step("overlaps", montage.find_overlaps, projected, images, work("overlaps.tbl"))
    before = loop.step("add", montage.add_tiles, projected, work("before.tbl"), template, places.before)
    folder, differences = work("projected"), work("differences")
    fits = [loop.step("fit", montage.fit_overlap, pair, folder, differences, template) for pair in pairs]
    planes = loop.step("model", montage.model_background, fits, images, work("fits.tbl"), work("corrections.tbl"))
    for tile in survey.tiles():
        uncorrected = image("projected", tile.name)
        corrected.append(loop.step("correct", montage.correct, uncorrected, image("corrected", tile.name), planes))
    after = loop.step("add", montage.add_tiles, corrected, work("after.tbl"), template, places.after)
    loop.pairs = len(pairs)
    loop.before = loop.step("measure", report.measure, before, survey)
    loop.after = loop.step("measure", report.measure, after, survey)
    loop.step("picture", report.draw_mosaic, after, survey, places.mosaic)
    loop.step(
        "picture", report.draw_comparison, before, after, survey, pairs, loop.before, loop.after, places.comparison
    )
    return loop
