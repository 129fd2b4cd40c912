"""The mosaic with one argument changed: the same picture wherever its tasks run. To inherit, one class for each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.mosaic.__main__ import CLOSER, main
from examples.mosaic.places import Places
from examples.mosaic.sequential import run_in_order
from examples.mosaic.tiles import Survey, on_the_sky


class MosaicOnEngine:
    """Override `backend_argument`."""

    def backend_argument(self) -> str:
        """Return what the command is told to run on, as in `--backend celery`."""
        raise NotImplementedError("override backend_argument()")

    def test_the_mosaic_is_the_same_picture(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Where the tasks run may change when they run, never what they make."""
        survey = Survey(rows=2, columns=2, size=(160, 130))
        loop = Places.prepare(tmp_path / "loop")
        run_in_order(survey, loop)
        arguments = ["--tiles", "2x2", "--size", "160x130", "--no-progress", "--output", str(tmp_path / "graph")]
        assert main([*arguments, "--backend", self.backend_argument()]) == CLOSER, capsys.readouterr()
        graph = Places(tmp_path.resolve() / "graph")
        assert (on_the_sky(graph.after, survey) == on_the_sky(loop.after, survey)).all()
        assert Path(graph.mosaic).read_bytes() == Path(loop.mosaic).read_bytes()
