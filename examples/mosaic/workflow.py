"""The mosaic as a graph that grows: what is known at the start, and the rule that appends the rest.

It knows the steps, the files and how to describe a graph; it knows nothing of where the graph runs or how it is shown.

How many overlaps there are is known only when the reprojected tiles lie on one grid. So the graph starts with the steps
as far as the table of overlaps (and the uncorrected mosaic, which needs no fits), and one rule appends a fit for each
row of that table, the model that needs all the fits, and everything that needs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dagrid import DAG, Node, Patch, Rule
from examples.mosaic import montage, report, tiles
from examples.mosaic.places import Places
from examples.mosaic.tiles import Survey

MONTAGE = {"montage": 1}


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A mosaic to be made.

    Attributes:
        survey: How the sky is covered.
        places: Where the files go.
        exact: Reproject with mProject in place of mProjectPP.
        one_at_a_time: Give each Montage step one unit of the resource `montage`, of which a run on threads has one.
    """

    survey: Survey
    places: Places
    exact: bool = False
    one_at_a_time: bool = False

    def graph(self) -> DAG:
        """Return what is known before anything ran: cut and project every tile, add them up, find the overlaps."""
        survey, places = self.survey, self.places
        nodes = [Node("template", partial(tiles.write_template, survey, places.template), kind="template")]
        for tile in survey.tiles():
            cut, image = places.image("tiles", tile.name), places.image("projected", tile.name)
            project = partial(montage.project, image=image, exact=self.exact)
            nodes += [
                Node(f"cut_{tile.name}", partial(tiles.cut_tile, survey, tile.row, tile.column, cut), kind="cut"),
                self._montage("project", tile.name, project, {"tile": f"cut_{tile.name}", "template": "template"}),
            ]
        projected = [f"project_{tile.name}" for tile in survey.tiles()]
        folder = places.work("projected")
        find = partial(montage.find_overlaps, folder, places.work("images.tbl"), places.work("overlaps.tbl"))
        nodes += [
            self._montage("overlaps", "", find, after=projected),
            *self._mosaic("before", folder, places.before, projected),
        ]
        return DAG(nodes)

    def rule(self) -> Rule:
        """Return the rule that appends the fits, and what needs them, once the overlaps are known."""
        return Rule(
            predicate=lambda view: view.succeeded("overlaps"),
            body=lambda view: Patch(nodes=self.corrections(view.result("overlaps"))),
            name="fit every overlap",
        )

    def corrections(self, pairs: Sequence[Mapping[str, str]]) -> list[Node]:
        """Return the steps that follow from the overlaps: fits, model, corrections, corrected mosaic and pictures."""
        survey, places = self.survey, self.places
        folder, differences = places.work("projected"), places.work("differences")
        fits = [
            self._montage(
                "fit",
                f"{Path(pair['plus']).stem}-{Path(pair['minus']).stem}",
                partial(montage.fit_overlap, pair, folder, differences),
                {"template": "template"},
                after=["overlaps"],
            )
            for pair in pairs
        ]
        tables = [places.work(table) for table in ("images.tbl", "fits.tbl", "corrections.tbl")]
        model = self._montage("model", "", partial(montage.model_background, *tables), after=[node.id for node in fits])
        corrected = [
            self._montage(
                "correct",
                tile.name,
                partial(montage.correct, places.image("projected", tile.name), places.image("corrected", tile.name)),
                {"planes": "model"},
            )
            for tile in survey.tiles()
        ]
        mosaic = self._mosaic("after", places.work("corrected"), places.after, [node.id for node in corrected])
        return [*fits, model, *corrected, *mosaic, *self._pictures()]

    def _mosaic(self, name: str, folder: str, mosaic: str, images: Iterable[str]) -> list[Node]:
        """Return the two steps that add the images of a folder and measure the sum against the truth."""
        add = partial(montage.add_tiles, folder, self.places.work(f"{name}.tbl"), mosaic=mosaic)
        measure = partial(report.measure, survey=self.survey)
        return [
            self._montage("add", name, add, {"template": "template"}, after=images),
            Node(f"measure_{name}", measure, inputs={"mosaic": f"add_{name}"}, kind="measure"),
        ]

    def _pictures(self) -> list[Node]:
        survey, places = self.survey, self.places
        shown = {
            "before": "add_before",
            "after": "add_after",
            "pairs": "overlaps",
            "residual_before": "measure_before",
            "residual_after": "measure_after",
        }
        mosaic = partial(report.draw_mosaic, survey=survey, picture=places.mosaic)
        comparison = partial(report.draw_comparison, survey=survey, picture=places.comparison)
        return [
            Node("picture_mosaic", mosaic, inputs={"mosaic": "add_after"}, kind="picture"),
            Node("picture_comparison", comparison, inputs=shown, kind="picture"),
        ]

    def _montage(
        self,
        kind: str,
        name: str,
        work: Callable[..., Any],
        inputs: Mapping[str, str] | None = None,
        after: Iterable[str] = (),
    ) -> Node:
        """Return the node of a step that calls Montage."""
        return Node(
            f"{kind}_{name}" if name else kind,
            work,
            depends_on=list(after),
            inputs=inputs,
            kind=kind,
            resources=MONTAGE if self.one_at_a_time else None,
        )
