"""The mosaic as a graph that grows: what is known at the start, and the rules that append the rest.

It knows the steps, the files and how to describe a graph; it knows nothing of where the graph runs or how it is shown.

How many overlaps there are is known only when the reprojected tiles lie on one grid. So the graph starts with the steps as far as
the table of overlaps (and the uncorrected mosaic, which needs no fits), and rules append a fit for each row of that table, the
model that needs all the fits, a correction for each image of the model, their sum, and what is measured and drawn of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from dagrid import Node, Patch, Rule, dag, task
from dagrid.graph.grow import done, map_reduce
from examples.mosaic import montage, report, tiles
from examples.mosaic.places import Places
from examples.mosaic.tiles import Survey

MONTAGE = {"montage": 1}
TEMPLATE = {"template": "template"}

write_template = task(name="template")(tiles.write_template)
cut_tile = task(name="cut")(tiles.cut_tile)
project = task(name="project", resources=MONTAGE)(montage.project)
find_overlaps = task(name="overlaps", resources=MONTAGE)(montage.find_overlaps)
add_before = task(name="add_before", resources=MONTAGE)(montage.add_tiles)
measure_before = task(name="measure_before")(report.measure)


@dag
def beginning(survey: Survey, places: Places, exact: bool = False) -> None:
    """Describe what is known before anything ran: cut and project every tile, add them up, find the overlaps."""
    template = write_template(survey, places.template)
    projected = []
    for tile in survey.tiles():
        cut = cut_tile(survey, tile.row, tile.column, places.image("tiles", tile.name))
        projected.append(project(cut, template, places.image("projected", tile.name), exact))
    find_overlaps(projected, places.work("images.tbl"), places.work("overlaps.tbl"))
    measure_before(add_before(projected, places.work("before.tbl"), template, places.before), survey)


def rules(survey: Survey, places: Places) -> list[Rule]:
    """Return the rules that append the fits, the corrections and the pictures, each when it is known what they need."""
    folder, differences = places.work("projected"), places.work("differences")
    fit = partial(montage.fit_overlap, folder=folder, differences=differences)
    images, fits, corrections = (places.work(f"{table}.tbl") for table in ("images", "fits", "corrections"))
    model = partial(montage.model_background, images=images, fits=fits, corrections=corrections)
    add = partial(montage.add_tiles, table=places.work("after.tbl"), mosaic=places.after)
    return [
        map_reduce(
            "overlaps",
            Node("fit", fit, inputs=TEMPLATE, resources=MONTAGE),
            reduce=Node("model", model, resources=MONTAGE),
        ),
        map_reduce(
            "model",
            Node("correct", partial(correct, places=places), inputs={"planes": "model"}, resources=MONTAGE),
            reduce=Node("add_after", add, inputs=TEMPLATE, resources=MONTAGE),
        ),
        Rule(done("add_after"), lambda _: Patch(pictures(survey, places)), "pictures"),
    ]


def correct(name: str, planes: Mapping[str, Sequence[float]], places: Places) -> str:
    """Correct the image of this name."""
    return montage.correct(places.work("projected", name), places.work("corrected", name), planes)


def pictures(survey: Survey, places: Places) -> list[Node]:
    """Return the steps that measure the corrected mosaic and draw both."""
    shown = {
        "before": "add_before",
        "after": "add_after",
        "pairs": "overlaps",
        "residual_before": "measure_before",
        "residual_after": "measure_after",
    }
    after = {"mosaic": "add_after"}
    comparison = partial(report.draw_comparison, survey=survey, picture=places.comparison)
    return [
        Node("measure_after", partial(report.measure, survey=survey), inputs=after),
        Node("picture_mosaic", partial(report.draw_mosaic, survey=survey, picture=places.mosaic), inputs=after),
        Node("picture_comparison", comparison, inputs=shown),
    ]
