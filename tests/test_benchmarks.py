"""The benchmarks run, and every figure that is promised is in the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHEAP = (
    "inline",
    "balance",
    "growth",
    "build",
    "authoring",
    "call",
    "described",
    "memory",
    "leak",
    "import",
    "store",
    "cached",
    "checkpoint",
    "partition",
    "partition-makespan",
    "parts",
    "commands",
    "workflows",
    "workflow-load",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_every_figure_has_a_row_for_each_contender_and_a_verdict(tmp_path):
    """A benchmark that breaks is noticed only when someone needs it; so it runs here, small."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file), *CHEAP]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = {figure["name"]: figure for figure in json.loads(file.read_text())}
    assert tuple(figures) == CHEAP
    expected = {
        "inline": {"dagrid, again", "dagrid, first", "bare loop", "dask.get"},
        "balance": {"dagrid", "level by level"},
        "growth": {
            "one rule adds all nodes",
            "map over a list, and collect",
            "each rule appends a node and the next rule",
            "a step until its value is good",
            "as many rules as nodes",
        },
        "build": {"plain dicts", "dagrid add_nodes/add_edges", "networkx + topological sort"},
        "authoring": {"dagrid"},
        "call": {"dagrid", "dagrid, the same graph again"},
        "described": {"dagrid", "dagrid, made of nodes"},
        "memory": {"plain dicts", "dagrid add_nodes/add_edges"},
        "leak": {
            f"{backend}, {graph}"
            for backend in ("inline", "thread")
            for graph in ("the same graph", "a new graph each time")
        },
        "import": {"bare python", "python, import dagrid"},
        "store": {"SQLiteStore", "PostgresStore", "MemoryStore", "raw sqlite3"},
        "cached": {"dagrid, inline", "dagrid, threads", "dagrid, a chain", "dagrid, nothing kept", "joblib.Memory"},
        "checkpoint": {"dagrid", 'dagrid, keep="outputs"', "dagrid, checkpoint"},
        "partition": {f"montage 238 /{k}" for k in (2, 4, 8)},
        "partition-makespan": {"level_based", "balanced", "communication_min"},
        "commands": {
            "dagrid, output nowhere",
            "dagrid, output to two files",
            "dagrid, logs limited and masked",
            "dagrid, a request to a warm process",
            "subprocess.run",
        },
        "workflows": {"dagrid start", "doit", "make", "python -c pass", "sh -c true, in a loop"},
        "workflow-load": {"dagrid, checked", "PyYAML, parsed only", "ruamel, round trip"},
        "parts": {"node by node", "level_based /8", "communication_min /8", "balanced /8"},
    }
    for name, rows in expected.items():
        figure = figures[name]
        assert rows <= set(figure["rows"]), name
        assert figure["goals"], name
        assert all(goal["value"] is not None for goal in figure["goals"]), name
        for row in rows:
            assert row in ran.stdout
    assert ran.stdout.count("reach:") == sum(len(figure["goals"]) for figure in figures.values())
    assert ran.stdout.count(": met") + ran.stdout.count(": MISSED") == ran.stdout.count("reach:")


def test_what_is_measured_on_an_engine_is_measured_without_one():
    """The table of the engines comes from one place for all of them; the caller's own thread stands in for an engine."""
    from benchmarks.engines.place import BARE, EACH, HAND, SMALL, Place, figures
    from benchmarks.peers import bare_loop_alone
    from dagrid.execution.backends.inline import InlineBackend

    with InlineBackend() as backend:
        calls: list[int] = []
        ways = {"loop": bare_loop_alone, "loop, again": bare_loop_alone}
        found = figures(Place(backend, ways, {"nothing": calls.append}, versions="none"), quick=True)
    assert list(found.samples) == [EACH, HAND, SMALL, BARE]
    assert all(len(samples) == 1 and samples[0] >= 0 for samples in found.samples.values())
    assert calls == [200, 200]
    assert [note.split(":")[0] for note in found.notes] == ["none", HAND, BARE]


def test_an_engine_that_is_missing_is_named_and_left_out(monkeypatch):
    """Who has one engine measures one; the table does not pretend."""
    from benchmarks import engines

    monkeypatch.setitem(engines.NEEDS, "ray", "no_such_package")
    figure = engines.engines(True, only=["ray"])
    assert figure.missing == "ray: left out, no_such_package is not installed (pip install 'dagrid[ray]')"
    assert not figure.goals


def test_an_unknown_name_is_refused_with_the_names_there_are():
    """A typo must not look like a finished measurement."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks", "threads"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "inline" in ran.stderr
