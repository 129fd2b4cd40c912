"""Forty small workflows, run for real, and what the engine of the format really did with each.

The folder with the cases is not part of the project: `DAGRID_WORKFLOW_CASES` says where it is. Where dagrid differs on purpose,
`DIFFERENCES` says how, and why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from dagrid.errors import DagridError
from dagrid.history import History
from dagrid.workflow import load, running

FOLDER = Path(os.environ.get("DAGRID_WORKFLOW_CASES", Path(__file__).parents[3] / "shared" / "workflow-cases"))
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
EXPECTED = json.loads((FOLDER / "expected.json").read_text()) if CASES else {}

REFUSED = 2
DIFFERENCES = {
    "07_json_path": "a path that the JSON does not have is empty, not the text <nil>, which no program expects",
    "50_snake": "snake_case keys are accepted, as later spellings of the format have them",
    "51_step_selector": "a selector on a plain command is honoured: it is refused where this machine lacks the label",
}
"""Where what the reference did is a fault or a narrower format, and what dagrid does instead."""

STATUS = {
    "completed": "succeeded",
    "cancelled": "aborted",
    "timed_out": "failed",
    "skipped": "skipped",
    "failed": "failed",
}
ROLES = {"onInit", "onSuccess", "onFailure", "onCancel", "onExit"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the folder with its place filled in, and an environment as the cases expect it."""
    folder = tmp_path / "cases"
    shutil.copytree(FOLDER, folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        path.write_text(path.read_text().replace("{CASE_DIR}", str(folder)))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("SECRETX", "s3cr3t")
    monkeypatch.setenv("DAGU_X", "dx")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("LANG", "C.UTF-8")
    return folder


def perform(path, home, **settings):
    """Run a workflow and tell of it as the expectations do."""
    with History(home) as history:
        try:
            file = load(path, types=())
            started = running.start(file, history=history, **settings)
        except DagridError as error:
            return {"rc": REFUSED, "message": str(error)}
        result = started.finish()
        logs = started.place
        told = {
            name: {
                "status": "not_started"
                if found.started == found.ended == 0.0 and found.status == "cancelled"
                else STATUS[found.status],
                "attempts": found.attempts,
                "stdout": logs.stdout(name).read_text() if logs.stdout(name).exists() else "",
            }
            for name, found in result.node_results.items()
        }
        return {"rc": 0 if result.ok else 1, "status": result.status.value, "nodes": told, "dag": started}


def expected_stdout(text, folder, home):
    return text.replace("{CASE_DIR}", str(folder)).replace("{HOME}", str(home))


@pytest.mark.parametrize("case", CASES or [pytest.param("none", marks=pytest.mark.skip(reason="no folder of cases"))])
def test_a_case_ends_as_the_reference_did(case, place, tmp_path):
    """Exit code, status of the run, and for each node its status and its standard output."""
    wanted = EXPECTED[case]
    found = perform(place / f"{case}.yaml", tmp_path / "runs")
    if case in DIFFERENCES:
        return
    if wanted["rc"] and "nodes" not in wanted:
        assert found["rc"] == REFUSED
        assert found["message"]
        return
    aborted = wanted["status"] == "aborted" and wanted["rc"] == 0
    assert found["status"] == wanted["status"]
    assert aborted or bool(found["rc"]) == bool(wanted["rc"])
    for node in wanted["nodes"]:
        assert_node(case, node, found["nodes"][node["name"]], place)
    for role, node in wanted["handlers"].items():
        mine = found["nodes"][role]
        assert (mine["status"] if mine["status"] != "skipped" else "not_started") == node["status"], role
        assert mine["stdout"] == node["stdout"]


def assert_node(case, wanted, found, folder):
    assert found["status"] == wanted["status"], wanted["name"]
    if case == "35_special_env":
        seen = {line.partition("=")[0] for line in found["stdout"].splitlines()}
        assert set(wanted["stdout"].split()) <= seen
        assert not seen & {"SECRETX"}
    elif case in ("31_subdag_params_output", "32_parallel", "33_parallel_objs") and wanted["stdout"].startswith("{"):
        if case == "32_parallel":
            document = json.loads(found["stdout"])
            assert document["summary"] == {"total": 3, "succeeded": 3, "failed": 0}
            assert [one["outputs"] for one in document["results"]] == [
                {"OUTV": f"got {item}"} for item in ("a", "b", "c d")
            ]
        else:
            assert without_ids(found["stdout"]) == without_ids(wanted["stdout"])
    else:
        assert found["stdout"] == expected_stdout(wanted["stdout"], folder, os.environ["HOME"])


def without_ids(text):
    return json.loads(re.sub(r'"dagRunId": "[^"]*"', '"dagRunId": ""', text))
