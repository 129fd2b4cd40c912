"""What came out: how far a mosaic is from the truth, and the pictures of it.

It knows mosaics and the sky; it knows nothing of Montage, of the graph or of how the run went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from examples.mosaic.tiles import Pixels, Survey, Tile, on_the_sky, sky, sky_coordinates, tile_coordinates

Colours = npt.NDArray[np.uint8]
Point = tuple[float, float]

NIGHT = (
    (0, 5, 6, 16),
    (0.2, 24, 30, 60),
    (0.45, 92, 84, 122),
    (0.7, 226, 176, 142),
    (0.88, 252, 228, 192),
    (1, 255, 253, 248),
)
FAULT = ((0, 24, 92, 176), (0.25, 92, 160, 214), (0.5, 18, 20, 30), (0.75, 236, 152, 84), (1, 190, 52, 32))
PAPER, INK, QUIET, LINE = (12, 13, 22), (238, 236, 230), (150, 152, 168), (86, 180, 190)
SOFTENING = 9.0
FAULT_RANGE = 20.0
PANEL, MARGIN, CAPTION = 620, 28, 62


def measure(mosaic: str, survey: Survey) -> dict[str, float]:
    """Compare a mosaic with the truth, pixel for pixel.

    Overlaps tell only how tiles differ, so a level, and a plane laid over all tiles alike, remain unknown to any
    correction. The level is therefore taken out first; what would remain without the plane is said beside it.

    Args:
        mosaic: The mosaic as FITS.
        survey: How the sky was covered.

    Returns:
        `residual`: root mean square difference in counts, the mean difference taken out. `residual_flat`: the same with
        the best plane taken out. `covered`: the share of the sky that the mosaic shows.
    """
    difference = on_the_sky(mosaic, survey) - sky(survey.size)
    seen = np.isfinite(difference)
    values = difference[seen].astype(np.float64)
    y, x = np.nonzero(seen)
    terms = np.column_stack([x, y, np.ones(len(x))])
    plane, *_ = np.linalg.lstsq(terms, values, rcond=None)
    return {
        "residual": float(values.std()),
        "residual_flat": float((values - terms @ plane).std()),
        "covered": float(seen.mean()),
    }


def draw_mosaic(mosaic: str, survey: Survey, picture: str) -> str:
    """Write a mosaic as a picture at its full size and return the picture's path."""
    Image.fromarray(_starlight(_levelled(mosaic, survey), survey)).save(picture)
    return picture


def draw_comparison(
    before: str,
    after: str,
    survey: Survey,
    pairs: Sequence[Mapping[str, str]],
    residual_before: Mapping[str, float],
    residual_after: Mapping[str, float],
    picture: str,
) -> str:
    """Write the six panels before, after and original, with what is wrong in the first two beneath, and the tiles.

    Args:
        before: The mosaic of the uncorrected tiles.
        after: The mosaic of the corrected tiles.
        survey: How the sky was covered.
        pairs: The table of overlaps.
        residual_before: What `measure` said of `before`.
        residual_after: What `measure` said of `after`.
        picture: Where to write the picture.

    Returns:
        `picture`.
    """
    truth, levelled = sky(survey.size), [_levelled(path, survey) for path in (before, after)]
    count = survey.rows * survey.columns
    left_over = (
        f"rms {residual_after['residual']:.2f} counts; {residual_after['residual_flat']:.2f} "
        "without the plane that no overlap can know"
    )
    panels = [
        (_starlight(levelled[0], survey), "Before", f"{count} tiles added as they came"),
        (_starlight(levelled[1], survey), "After", f"{len(pairs)} overlaps fitted, {count} planes subtracted"),
        (_starlight(truth, survey), "Original", "Hubble deep field, as it ships with scikit-image"),
        (_faults(levelled[0] - truth), "Before - original", f"rms {residual_before['residual']:.2f} counts"),
        (
            _faults(levelled[1] - truth),
            "After - original",
            left_over,
        ),
        (
            _footprints(survey, pairs),
            "Tiles and overlaps",
            "each line is one fit, known only once the tiles lie on the grid",
        ),
    ]
    high = round(PANEL * truth.shape[0] / truth.shape[1])
    sheet = Image.new("RGB", (3 * PANEL + 4 * MARGIN, 2 * (high + CAPTION) + 3 * MARGIN), PAPER)
    for place, (pixels, title, words) in enumerate(panels):
        left = MARGIN + (place % 3) * (PANEL + MARGIN)
        top = MARGIN + (place // 3) * (high + CAPTION + MARGIN)
        sheet.paste(Image.fromarray(pixels).resize((PANEL, high), Image.Resampling.LANCZOS), (left, top))
        draw = ImageDraw.Draw(sheet)
        draw.text((left, top + high + 8), title, INK, ImageFont.load_default(22))
        draw.text((left, top + high + 36), words, QUIET, ImageFont.load_default(17))
    sheet.save(picture)
    return picture


def _levelled(mosaic: str, survey: Survey) -> Pixels:
    """Return a mosaic on the sky's grid with the sky's own median, which no overlap can know."""
    pixels, truth = on_the_sky(mosaic, survey), sky(survey.size)
    return np.asarray(pixels - np.nanmedian(pixels - truth), dtype=np.float32)


def _starlight(pixels: Pixels, survey: Survey) -> Colours:
    """Return counts as colours of the night; the stretch is the truth's, so pictures of one survey can be compared."""
    truth = sky(survey.size)
    black, white = (float(np.percentile(truth, share)) for share in (10.0, 99.8))
    stretched = np.arcsinh((np.nan_to_num(pixels, nan=black) - black) / SOFTENING)
    return _paint(stretched / np.arcsinh((white - black) / SOFTENING), NIGHT)


def _faults(difference: Pixels) -> Colours:
    """Return differences as colours: blue is too dark, black is right, red is too bright."""
    return _paint(np.nan_to_num(difference) / (2 * FAULT_RANGE) + 0.5, FAULT)


def _paint(shares: npt.NDArray[np.floating], stops: Sequence[tuple[float, int, int, int]]) -> Colours:
    """Return values from 0 to 1 as colours, the first row of the sky at the bottom of the picture."""
    places, *channels = zip(*stops, strict=True)
    upright = np.flipud(np.clip(shares, 0.0, 1.0))
    return np.stack([np.interp(upright, places, channel) for channel in channels], axis=-1).round().astype(np.uint8)


def _footprints(survey: Survey, pairs: Sequence[Mapping[str, str]]) -> Colours:
    """Return the sky, dimmed, with the outlines of the tiles and a line for each pair that overlaps."""
    truth = sky(survey.size)
    zoom = 2 * PANEL / truth.shape[1]
    dimmed = Image.fromarray((_starlight(truth, survey) * 0.45).astype(np.uint8))
    canvas = dimmed.resize((2 * PANEL, round(truth.shape[0] * zoom)))
    draw = ImageDraw.Draw(canvas)
    tiles = {f"{tile.name}.fits": tile for tile in survey.tiles()}

    def place(point: Point) -> Point:
        return point[0] * zoom, canvas.height - point[1] * zoom

    for tile in tiles.values():
        outline = [place(corner) for corner in _corners(survey, tile)]
        draw.line([*outline, outline[0]], QUIET, 3)
    centres = {name: place((tile.x, tile.y)) for name, tile in tiles.items()}
    for pair in pairs:
        draw.line([centres[pair["plus"]], centres[pair["minus"]]], LINE, 4)
    for x, y in centres.values():
        draw.ellipse((x - 10, y - 10, x + 10, y + 10), INK)
    return np.asarray(canvas)


def _corners(survey: Survey, tile: Tile) -> list[Point]:
    """Return the four corners of a tile in pixels of the sky."""
    right, top = tile.width - 1, tile.height - 1
    corners = [[0, 0], [right, 0], [right, top], [0, top]]
    world = tile_coordinates(survey, tile).wcs_pix2world(corners, 0)
    return [(float(x), float(y)) for x, y in sky_coordinates(survey.size).wcs_world2pix(world, 0)]
