"""The sky and the camera of the example: which piece of the Hubble deep field each tile shows, and with what faults.

It knows the image, the world coordinates of the tiles and how to write them as FITS; it knows nothing of Montage, of
tasks or of what becomes of the tiles. The picture is one that ships inside scikit-image, so nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage.data
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import map_coordinates

Pixels = npt.NDArray[np.float32]

LUMINANCE = (0.2126, 0.7152, 0.0722)
CENTRE_DEGREES = (189.2058, 62.2161)
PIXEL_DEGREES = 0.15 / 3600.0


@dataclass(frozen=True, slots=True)
class Tile:
    """One exposure: where it points, how it is tilted and by how much its brightness is wrong.

    Attributes:
        row: Row of the tile, from the bottom.
        column: Column of the tile, from the left.
        x: Centre in pixels of the sky, from the left.
        y: Centre in pixels of the sky, from the bottom.
        width: Width in pixels.
        height: Height in pixels.
        tilt: Rotation in degrees.
        level: Brightness that is added everywhere, in counts.
        slope: Brightness that is added between the left and right, and the bottom and top edges, in counts.
    """

    row: int
    column: int
    x: float
    y: float
    width: int
    height: int
    tilt: float
    level: float
    slope: tuple[float, float]

    @property
    def name(self) -> str:
        """The name that the tile has in tasks and files: `row_column`."""
        return f"{self.row}_{self.column}"


@dataclass(frozen=True, slots=True)
class Survey:
    """How the sky is covered with tiles; two equal surveys give the same tiles to the last bit.

    Attributes:
        rows: Number of rows of tiles.
        columns: Number of columns of tiles.
        overlap: Share of a tile that its neighbour shows too, before tilting.
        tilt: Largest rotation in degrees.
        level: Largest error of a tile's brightness, in counts (the image has 0 to 255).
        slope: Largest error between two opposite edges, in counts.
        size: Width and height of the piece cut from the middle of the image, in pixels; None takes all of it.
        seed: Number from which the faults are drawn.
    """

    rows: int = 4
    columns: int = 4
    overlap: float = 0.16
    tilt: float = 4.0
    level: float = 14.0
    slope: float = 12.0
    size: tuple[int, int] | None = None
    seed: int = 1995

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile, row by row."""
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile at `row` and `column`, with faults that depend on the seed and the place alone."""
        height, width = sky(self.size).shape
        step_x, wide = _share(width, self.columns, self.overlap)
        step_y, high = _share(height, self.rows, self.overlap)
        draw = np.random.default_rng((self.seed, row, column)).uniform
        lean = math.radians(self.tilt)
        return Tile(
            row=row,
            column=column,
            x=wide / 2 + column * step_x - 0.5,
            y=high / 2 + row * step_y - 0.5,
            width=math.ceil(wide * math.cos(lean) + high * math.sin(lean)),
            height=math.ceil(high * math.cos(lean) + wide * math.sin(lean)),
            tilt=float(draw(-self.tilt, self.tilt)),
            level=float(draw(-self.level, self.level)),
            slope=(float(draw(-self.slope, self.slope)), float(draw(-self.slope, self.slope))),
        )


def _share(length: int, count: int, overlap: float) -> tuple[float, float]:
    """Return the distance between two tiles' centres and the length of a tile, so that `count` tiles fill `length`."""
    tile = length / (count - (count - 1) * overlap)
    return tile * (1 - overlap), tile


@functools.lru_cache(maxsize=4)
def sky(size: tuple[int, int] | None = None) -> Pixels:
    """Return the truth: the brightness of the deep field in counts, its first row at the bottom as FITS has it."""
    colour = skimage.data.hubble_deep_field()
    grey: Pixels = np.flipud(colour @ np.array(LUMINANCE)).astype(np.float32)
    if size is None:
        return grey
    width, height = size
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    return grey[top : top + height, left : left + width]


def sky_coordinates(size: tuple[int, int] | None = None) -> WCS:
    """Return the world coordinates of the truth, which are also those of the mosaic: pixel for pixel the same grid."""
    height, width = sky(size).shape
    return _tangent_plane(CENTRE_DEGREES, width, height, 0.0)


def tile_coordinates(survey: Survey, tile: Tile) -> WCS:
    """Return the tile's own world coordinates: a tangent plane at its own centre, turned by its tilt."""
    ((right_ascension, declination),) = sky_coordinates(survey.size).wcs_pix2world([[tile.x, tile.y]], 0)
    return _tangent_plane((right_ascension, declination), tile.width, tile.height, tile.tilt)


def _tangent_plane(centre: tuple[float, float], width: int, height: int, tilt: float) -> WCS:
    angle = math.radians(tilt)
    east, north = math.cos(angle), math.sin(angle)
    coordinates = WCS(naxis=2)
    coordinates.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    coordinates.wcs.crval = list(centre)
    coordinates.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    coordinates.wcs.cd = PIXEL_DEGREES * np.array([[-east, north], [north, east]])
    coordinates.wcs.set()
    return coordinates


def _header(coordinates: WCS, width: int, height: int) -> fits.Header:
    """Return a FITS header in the spelling that every Montage tool reads."""
    matrix = coordinates.wcs.cd
    return fits.Header(
        [
            ("SIMPLE", True),
            ("BITPIX", -32),
            ("NAXIS", 2),
            ("NAXIS1", width),
            ("NAXIS2", height),
            ("CTYPE1", "RA---TAN"),
            ("CTYPE2", "DEC--TAN"),
            ("EQUINOX", 2000.0),
            ("CRVAL1", float(coordinates.wcs.crval[0])),
            ("CRVAL2", float(coordinates.wcs.crval[1])),
            ("CRPIX1", float(coordinates.wcs.crpix[0])),
            ("CRPIX2", float(coordinates.wcs.crpix[1])),
            ("CD1_1", float(matrix[0, 0])),
            ("CD1_2", float(matrix[0, 1])),
            ("CD2_1", float(matrix[1, 0])),
            ("CD2_2", float(matrix[1, 1])),
        ]
    )


def cut_tile(survey: Survey, row: int, column: int, path: str) -> str:
    """Look at the sky through one tile, spoil its brightness and write it as FITS.

    Args:
        survey: How the sky is covered.
        row: Row of the tile, from the bottom.
        column: Column of the tile, from the left.
        path: Where to write it.

    Returns:
        `path`. Pixels beyond the edge of the sky are not-a-number.
    """
    tile = survey.tile(row, column)
    coordinates = tile_coordinates(survey, tile)
    y, x = np.mgrid[: tile.height, : tile.width]
    world = coordinates.wcs_pix2world(x.ravel(), y.ravel(), 0)
    sky_x, sky_y = sky_coordinates(survey.size).wcs_world2pix(*world, 0)
    seen = map_coordinates(sky(survey.size), [sky_y, sky_x], order=3, cval=np.nan).reshape(x.shape)
    tilted = tile.slope[0] * (x / tile.width - 0.5) + tile.slope[1] * (y / tile.height - 0.5)
    exposure = (seen + tile.level + tilted).astype(np.float32)
    fits.PrimaryHDU(exposure, _header(coordinates, tile.width, tile.height)).writeto(path, overwrite=True)
    return path


def write_template(survey: Survey, path: str) -> str:
    """Write the header that every later step projects onto, and return its path; its grid is the sky's own."""
    height, width = sky(survey.size).shape
    header = _header(sky_coordinates(survey.size), width, height)
    Path(path).write_text(header.tostring(sep="\n", endcard=True, padding=False) + "\n", encoding="ascii")
    return path


def on_the_sky(path: str, survey: Survey) -> Pixels:
    """Return the pixels of a mosaic laid on the sky's grid; what the mosaic does not cover is not-a-number."""
    truth = sky(survey.size)
    reference = sky_coordinates(survey.size).wcs.crpix
    with fits.open(path, memmap=False) as file:
        image, header = file[0].data, file[0].header
    left = round(reference[0] - header["CRPIX1"])
    bottom = round(reference[1] - header["CRPIX2"])
    placed = np.full(truth.shape, np.nan, dtype=np.float32)
    placed[bottom : bottom + image.shape[0], left : left + image.shape[1]] = image
    return placed
