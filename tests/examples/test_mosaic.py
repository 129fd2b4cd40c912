"""The mosaic's science on a small piece of the sky, without the graph: the same steps that the graph's tasks call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.mosaic import montage, tiles
from examples.mosaic.places import Places
from examples.mosaic.sequential import run_in_order
from examples.mosaic.tiles import Survey

pytestmark = pytest.mark.example

SMALL = Survey(rows=2, columns=2, size=(160, 130))


def test_correction_brings_the_mosaic_closer_to_the_original(tmp_path: Path) -> None:
    """The point of the example, with the exact reprojection that the command uses."""
    places = Places.prepare(tmp_path)
    loop = run_in_order(SMALL, places)
    assert loop.pairs == 6, "each of four tiles overlaps the three others"
    assert loop.before["covered"] == loop.after["covered"] == 1.0
    assert loop.after["residual"] < 0.8 * loop.before["residual"]
    with Image.open(places.mosaic) as mosaic, Image.open(places.comparison) as comparison:
        assert mosaic.size == SMALL.size
        assert comparison.width > 3 * 600


def test_tiles_without_faults_give_the_original_back(tmp_path: Path) -> None:
    """A wrong axis, a shifted pixel or a tilt of the wrong sign would show here, where brightness cannot hide it."""
    perfect = replace(SMALL, level=0.0, slope=0.0)
    places = Places.prepare(tmp_path)
    run_in_order(perfect, places)
    mosaic, truth = tiles.on_the_sky(places.after, perfect), tiles.sky(perfect.size)
    assert np.corrcoef(mosaic.ravel(), truth.ravel())[0, 1] > 0.99
    shifted = np.roll(mosaic, 1, axis=1)
    assert np.corrcoef(shifted.ravel(), truth.ravel())[0, 1] < 0.98


def test_without_the_planes_only_resampling_is_left(tmp_path: Path) -> None:
    """The faults are planes, so what remains beside the plane that no overlap can know must not depend on them."""
    flat = [
        run_in_order(survey, Places.prepare(tmp_path / name)).after["residual_flat"]
        for name, survey in (("faulty", SMALL), ("perfect", replace(SMALL, level=0.0, slope=0.0)))
    ]
    assert flat[0] == pytest.approx(flat[1], rel=0.05)


def test_equal_surveys_cut_equal_tiles_and_another_seed_cuts_others(tmp_path: Path) -> None:
    """Runs in different places can be compared only if they start from the same tiles."""
    surveys = {"one": SMALL, "same": replace(SMALL), "other": replace(SMALL, seed=SMALL.seed + 1)}
    cut = {
        name: Path(tiles.cut_tile(survey, 1, 0, str(tmp_path / f"{name}.fits"))).read_bytes()
        for name, survey in surveys.items()
    }
    assert cut["one"] == cut["same"]
    assert cut["one"] != cut["other"]


def test_a_failing_tool_raises_with_its_own_words(tmp_path: Path) -> None:
    """Montage answers with a status; nothing may take a missing file for a result."""
    template = tiles.write_template(SMALL, str(tmp_path / "mosaic.hdr"))
    with pytest.raises(montage.MontageError, match=r"mProjectPP\(.*absent\.fits not found"):
        montage.project(str(tmp_path / "absent.fits"), template, str(tmp_path / "image.fits"))


def test_a_path_longer_than_the_tools_buffers_is_refused() -> None:
    """Given to the tool it would end the process with a segmentation fault."""
    with pytest.raises(montage.MontageError, match="shorter folder"):
        montage.project("x" * 300, "mosaic.hdr", "image.fits")


def test_an_image_without_a_plane_is_refused() -> None:
    """A tile that overlaps nothing has no plane; adding it uncorrected in silence would spoil the mosaic."""
    with pytest.raises(montage.MontageError, match=r"0_0\.fits.*overlap more"):
        montage.correct("projected/0_0.fits", "corrected/0_0.fits", {"0_1.fits": [0.0, 0.0, 0.0]})
