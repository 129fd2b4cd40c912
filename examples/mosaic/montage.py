"""The Montage tools as tasks: each function is one step, takes paths and small values and returns small values.

It knows Montage's calling conventions and tables; it knows nothing of tiles' faults, of the graph or of dagrid.

Why processes. Montage is a set of command line programs made into a C library, and each keeps its work in static
variables: two calls of one tool at a time would overwrite each other. MontagePy never releases the interpreter's lock,
so on threads the calls are kept apart, but only because nothing else in the process runs meanwhile: two threads take
as long as one, and a reprojection of a second stops every thread for that second, the scheduler's and the progress
bar's included. Some tools leave memory behind (mBgModel 130 megabytes a call, mProjectPP, mDiff and mAdd about two),
and a path longer than their buffers ends the process with a segmentation fault. A process for each worker gives each
its own statics, its own lock and an end of its own. Where it must be threads, a resource of one unit, `{"montage":
1}`, says openly that one call at a time is all there is, and leaves the other threads to the steps that are not
Montage's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import MontagePy.main as tools

LONGEST_PATH = 240
# fmt: off
FIT_COLUMNS = (
    "a", "b", "c", "crpix1", "crpix2", "xmin", "xmax", "ymin", "ymax", "xcenter", "ycenter",
    "npixel", "rms", "boxx", "boxy", "boxwidth", "boxheight", "boxang",
)
# fmt: on


class MontageError(RuntimeError):
    """A Montage tool reported that it could not do its work."""


def call(tool: Callable[..., Mapping[str, Any]], *paths: str, **settings: Any) -> dict[str, Any]:
    """Call a Montage tool and return what it measured.

    Args:
        tool: A function of `MontagePy.main`.
        paths: Its files and folders, in its order.
        settings: Its further arguments.

    Raises:
        MontageError: The tool's status is not 0, or a path is longer than the tool's buffers, which it would overrun.
    """
    for path in paths:
        if len(path) > LONGEST_PATH:
            raise MontageError(
                f"Montage has room for paths of {LONGEST_PATH} characters; choose a shorter folder: {path}"
            )
    answer = dict(tool(*paths, **settings))
    if str(answer.pop("status")) != "0":
        message = answer.get("msg", b"no reason given")
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        raise MontageError(f"{tool.__name__}({', '.join(paths)}): {text}")
    return answer


def read_table(path: str) -> list[dict[str, str]]:
    """Return the rows of a table in Montage's format (columns between bars, values beneath them)."""
    lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if not line.startswith("\\")]
    heads = [line for line in lines if line.startswith("|")]
    bars = [place for place, letter in enumerate(heads[0]) if letter == "|"]
    columns = [(heads[0][start + 1 : end].strip(), start, end) for start, end in itertools.pairwise(bars)]
    rows = [line for line in lines if line.strip() and not line.startswith("|")]
    return [{name: line[start:end].strip() for name, start, end in columns} for line in rows]


def write_table(path: str, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    """Write numbers as a table in Montage's format; a value never touches the next one."""
    head = "|" + "|".join(f"{name:>24}" for name in columns) + "|"
    body = [" " + " ".join(f"{value:>24.12g}" for value in row) for row in rows]
    Path(path).write_text("\n".join([head, *body]) + "\n", encoding="ascii")


def project(tile: str, template: str, image: str, exact: bool = False) -> str:
    """Reproject a tile onto the mosaic's grid, on the tangent plane (or, with `exact`, by exact areas on the sky).

    Args:
        tile: The tile, a FITS file with its own world coordinates.
        template: The header that describes the mosaic's grid.
        image: Where to write it; a second file `..._area.fits` beside it says how much of each pixel was seen.
        exact: Use mProject in place of mProjectPP, which is some twenty times faster and made for tangent planes.

    Returns:
        `image`.
    """
    call(tools.mProject if exact else tools.mProjectPP, tile, image, template)
    return image


def find_overlaps(images: Sequence[str], table: str, overlaps: str) -> list[dict[str, str]]:
    """Find out which of the reprojected images overlap.

    Args:
        images: The reprojected images, all in one folder.
        table: Where to write the table of images.
        overlaps: Where to write the table of overlaps.

    Returns:
        One row for each overlapping pair: `cntr1` and `cntr2` are their numbers, `plus` and `minus` their file names.
    """
    list_images(images, table)
    call(tools.mOverlaps, table, overlaps)
    return read_table(overlaps)


def list_images(images: Sequence[str], table: str) -> str:
    """Write the table of images, ordered by name, so that their numbers do not depend on the order; return their folder."""
    folder = str(Path(images[0]).parent)
    names = sorted(Path(image).name for image in images)
    width = max(map(len, names))
    order = f"{table}.order"
    lines = [f"|{'fname':{width}}|", f"|{'char':{width}}|", *(f" {name:{width}} " for name in names)]
    Path(order).write_text("\n".join(lines) + "\n", encoding="utf-8")
    call(tools.mImgtbl, folder, table, imgListFile=order)
    return folder


def fit_overlap(pair: Mapping[str, str], folder: str, differences: str, template: str) -> dict[str, float]:
    """Subtract one image of a pair from the other and fit a plane to what remains.

    Args:
        pair: A row of the table of overlaps.
        folder: The folder with the reprojected images.
        differences: The folder for the difference image.
        template: The header that describes the mosaic's grid.

    Returns:
        The numbers of the pair, the plane and where it was measured, by the names that Montage's table of fits has.
    """
    plus, minus = (str(Path(folder, pair[side])) for side in ("plus", "minus"))
    difference = str(Path(differences, f"{Path(plus).stem}-{Path(minus).stem}.fits"))
    call(tools.mDiff, plus, minus, difference, template)
    plane = call(tools.mFitplane, difference)
    numbers = {"plus": float(pair["cntr1"]), "minus": float(pair["cntr2"])}
    return numbers | {name: float(plane[name]) for name in FIT_COLUMNS}


def model_background(
    plane_fits: Sequence[Mapping[str, float]], images: str, fits: str, corrections: str
) -> dict[str, list[float]]:
    """Find the plane to subtract from each image so that all of them agree where they overlap.

    Args:
        plane_fits: What `fit_overlap` returned for each pair.
        images: The table of images.
        fits: Where to write the table of fits.
        corrections: Where to write the table of corrections.

    Returns:
        For each image's file name the plane's slope along x, its slope along y, and its level; nothing where it has no plane.
    """
    columns = ("plus", "minus", *FIT_COLUMNS)
    rows = sorted(([fit[name] for name in columns] for fit in plane_fits), key=lambda row: (row[0], row[1]))
    write_table(fits, columns, rows)
    call(tools.mBgModel, images, fits, corrections)
    planes = {row["id"]: [float(row[part]) for part in "abc"] for row in read_table(corrections)}
    return {Path(row["fname"]).name: planes.get(row["cntr"], []) for row in read_table(images)}


def correct(image: str, corrected: str, planes: Mapping[str, Sequence[float]]) -> str:
    """Subtract an image's plane from it and return the path of the corrected image.

    Args:
        image: The reprojected image.
        corrected: Where to write the corrected one.
        planes: What `model_background` returned.

    Raises:
        MontageError: The model has no plane for the image.
    """
    name = Path(image).name
    if not planes.get(name):
        raise MontageError(
            f"The model has no plane for {name}: it overlaps no other image; let the tiles overlap more."
        )
    a, b, c = planes[name]
    call(tools.mBackground, image, corrected, A=a, B=b, C=c)
    return corrected


def add_tiles(images: Sequence[str], table: str, template: str, mosaic: str) -> str:
    """Co-add images into one mosaic, weighted by how much of each pixel they saw; return its path.

    Args:
        images: The images, all in one folder, with their areas beside them.
        table: Where to write the table of images.
        template: The header that describes the mosaic's grid.
        mosaic: Where to write the mosaic.
    """
    folder = list_images(images, table)
    call(tools.mAdd, folder, table, template, mosaic, haveAreas=True)
    return mosaic
