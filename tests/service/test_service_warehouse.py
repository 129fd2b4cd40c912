"""The warehouse on the fleet: its steps find the worker that has the storage, in whose folder all of it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dagrid.history import About
from examples.warehouse import queries
from tests.service.processes import Fleet, until

pytestmark = [pytest.mark.example, pytest.mark.timeout(300)]

WORKFLOW = Path(queries.__file__).with_name("warehouse.yaml")


def test_the_warehouse_is_built_where_its_storage_is(tmp_path):
    """The answers are checked by the workflow itself; the other worker gets nothing of it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    fleet = Fleet(tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": path})
    try:
        fleet.start()
        fleet.worker("plain")
        storage = fleet.worker("store", "storage=large", flags=("--worker.slots=4",))
        fleet.linked()
        text = WORKFLOW.read_text(encoding="utf-8")
        text = text.replace("\nname: ", "\nworkerSelector: {storage: large}\nname: ")
        out = storage.folder / "warehouse"
        about = About(source=str(WORKFLOW), spec=text, params=(f"OUT={out}", "SF=0.01"), queue="warehouse")
        run = fleet.history.enqueue("warehouse", about)
        until(lambda: fleet.history.info(run).ended, "the end", 240)
        assert fleet.status(run) == "succeeded", (fleet.history.folder(run) / "run.log").read_text()
        assert list(out.glob("*/warehouse.duckdb"))
        assert not list(fleet.workers["plain"].folder.glob("home/worker/*/runs/*"))
    finally:
        fleet.close()
