"""The mosaic as a person runs it: the command, on the graph."""

from __future__ import annotations

from pathlib import Path

import MontagePy.main as tools
import pytest

from examples.mosaic.__main__ import CLOSER, FAILED, NOT_CLOSER, main
from examples.mosaic.montage import MontageError, call
from examples.mosaic.places import Places
from examples.mosaic.sequential import run_in_order
from examples.mosaic.tiles import Survey, on_the_sky

pytestmark = pytest.mark.example

SMALL = ["--tiles", "2x2", "--size", "160x130", "--no-progress"]


@pytest.mark.parametrize("backend", ["multiprocessing", "thread"])
def test_the_graph_makes_the_same_mosaic_as_the_loop(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the tasks run may change when they run, never what they make."""
    survey = Survey(rows=2, columns=2, size=(160, 130))
    loop = Places.prepare(tmp_path / "loop")
    run_in_order(survey, loop)
    code = main([*SMALL, "--backend", backend, "--workers", "2", "--output", str(tmp_path / "graph")])
    graph = Places(tmp_path.resolve() / "graph")
    assert code == CLOSER
    assert (on_the_sky(graph.after, survey) == on_the_sky(loop.after, survey)).all()
    assert Path(graph.mosaic).read_bytes() == Path(loop.mosaic).read_bytes()
    assert Path(graph.comparison).exists()
    assert Path(graph.trace).stat().st_size > 0
    assert "measure_after" in Path(graph.page).read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "parallelism" in printed
    assert "the run as a page" in printed
    assert "residual after correction" in printed


def test_a_mosaic_that_is_not_closer_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is what a build looks at."""
    monkeypatch.setattr("examples.mosaic.montage.correct", _make_worse)
    code = main([*SMALL, "--plain", "--output", str(tmp_path)])
    assert code == NOT_CLOSER
    assert "not closer" in capsys.readouterr().err


def test_what_stopped_the_mosaic_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step that failed, and not one that never came; a folder that cannot be made needs no traceback."""
    monkeypatch.setattr("examples.mosaic.montage.fit_overlap", _fail)
    assert main([*SMALL, "--backend", "inline", "--output", str(tmp_path)]) == FAILED
    assert "made: out of film" in capsys.readouterr().err
    file = tmp_path / "file"
    file.touch()
    assert main([*SMALL, "--output", str(file)]) == FAILED
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--tiles", "1x1"], "overlaps nothing"), (["--tiles", "four"], "ROWSxCOLUMNS")]
)
def test_a_wrong_argument_is_explained(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One tile has no overlaps to fit, and a word is no number of tiles."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def _make_worse(image: str, corrected: str, planes: dict[str, list[float]]) -> str:
    """Stand in for a correction with the wrong sign."""
    a, b, c = planes[Path(image).name]
    call(tools.mBackground, image, corrected, A=-a, B=-b, C=-c)
    return corrected


def _fail(*_: object, **__: object) -> None:
    raise MontageError("out of film")
