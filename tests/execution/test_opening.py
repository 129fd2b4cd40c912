"""Places that are named: what cannot be one is refused before anything runs, `~` is the home, and who only asks makes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, DistributedExecutor, Node
from dagrid.assemble import view
from dagrid.errors import InvalidSettingError, UnknownRunError
from dagrid.execution.backends.thread import ThreadBackend

RAN: list[str] = []


def load() -> int:
    RAN.append("load")
    return 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": True}, "A checkpoint is a folder.*not True"),
        ({"checkpoint": 5}, "A checkpoint is a folder.*not 5"),
        ({"checkpoint": ""}, "A checkpoint is a folder, and its path is empty"),
        ({"from_file": ""}, r"from_file is the path.*save\(path\).*not ''"),
        ({"checkpoint": "s3://bucket"}, "A checkpoint is a folder.*not 's3://bucket'"),
        ({"run_id": 5}, "run_id is a text.*not 5"),
        ({"cache": 5}, "A cache is a folder.*not 5"),
        ({"from_file": 5}, r"from_file is the path.*save\(path\).*not 5"),
    ],
)
def test_what_is_no_place_is_refused_before_anything_runs(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before what a setup node does, which runs first."""
    monkeypatch.chdir(tmp_path)  # where an empty path would lead
    RAN.clear()
    graph = DAG([Node(load, setup=True), Node("n", lambda load: load, ["load"], cache=True)])
    with pytest.raises(InvalidSettingError, match=message):
        graph.run(**{"checkpoint": tmp_path / "kept", **settings})
    assert RAN == []


class Stranger:
    """Four methods."""

    name = "stranger"

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        return future

    def shutdown(self, wait: bool = True) -> None:
        """There is nothing to let go of."""


@pytest.mark.parametrize("kind", [ThreadBackend, Stranger])
def test_the_class_of_a_backend_is_refused(kind: Any) -> None:
    """It has the methods of its objects, so that every call of one would fail, or every node."""
    with pytest.raises(InvalidSettingError, match=rf"not its class; write backend={kind.__name__}\(\.\.\.\)"):
        DAG([Node(load)]).run(backend=kind)


@pytest.mark.parametrize("wrong", [ThreadBackend, Stranger, 5])
def test_what_is_no_backend_is_not_shut_down(wrong: Any) -> None:
    """What is raised says what was wrong with it, and not that it has no such method."""
    with (
        pytest.raises(InvalidSettingError, match="A backend is"),
        DistributedExecutor(DAG([Node(load)]), wrong) as executor,
    ):
        executor.execute()


@pytest.mark.parametrize("ask", [dagrid.resume, view])
def test_who_asks_for_a_run_makes_no_folder_and_is_told_where_there_was_none(ask: Any, tmp_path: Path) -> None:
    """A mistyped folder would stay, and look like one in which something is kept."""
    with pytest.raises(
        UnknownRunError, match=r"The checkpoint .*typo.* has no run.*the folder that the run was started with"
    ):
        ask(tmp_path / "typo" / "folder")
    assert not list(tmp_path.iterdir())
    DAG([Node(load)]).run(checkpoint=tmp_path / "kept", run_id="monday")
    with pytest.raises(UnknownRunError, match=r"The checkpoint '.*kept' has no run 'mondey'. Did you mean 'monday'"):
        ask(tmp_path / "kept", "mondey")
    with pytest.raises(InvalidSettingError, match="run_id is a text"):
        ask(tmp_path / "kept", 5)
    with pytest.raises(InvalidSettingError, match="not True"):
        ask(True)


def test_the_home_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell opens what stands in a program."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    graph = DAG([Node("load", load, cache=True)])
    first = graph.run(cache="~/cache", checkpoint="~/kept", run_id="monday")
    first.save("~/values")
    first.to_html("~/run.html")
    assert graph.run(from_file="~/values")["load"] == dagrid.resume("~/kept", "monday")["load"] == 1
    assert sorted(each.name for each in home.iterdir()) == ["cache", "kept", "run.html", "values"]
    assert not list(here.iterdir())
