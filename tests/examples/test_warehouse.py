"""The warehouse as a person runs it, with the process killed in the middle; and that wrong tables and answers are seen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import duckdb
import pytest

from examples.warehouse import queries
from examples.warehouse.queries import WrongAnswerError, compare
from examples.warehouse.tables import WrongTableError, check_keys, load

pytestmark = [pytest.mark.example, pytest.mark.timeout(300)]

WORKFLOW = Path(queries.__file__).with_name("warehouse.yaml")
BIN = Path(sys.executable).parent


class Warehouse:
    """The workflow in folders of its own, run by the command."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.home = folder / "home"
        self.env = {**os.environ, "DAGRID_HOME": str(self.home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def begin(self, scale: str = "0.1") -> subprocess.Popen[bytes]:
        """Start the workflow as a process."""
        argv = [str(BIN / "dagrid"), "start", str(WORKFLOW), "--", f"OUT={self.out}", f"SF={scale}"]
        return subprocess.Popen(argv, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run dagrid and wait for its end."""
        return subprocess.run([str(BIN / "dagrid"), *argv], env=self.env, capture_output=True, text=True, check=False)

    @property
    def log(self) -> Path | None:
        """What is told of the run of the workflow, when there is something."""
        return next(iter(self.home.glob("logs/warehouse/*/run.log")), None)

    def told(self) -> list[tuple[str, str]]:
        """Return what happened: the step, and what became of it."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log is not None else []
        found = [re.match(r"\S+ (\w+): (started|completed|failed|skipped)", line) for line in lines]
        return [(one[1], one[2]) for one in found if one is not None]

    def wait_for(self, step: str, event: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until the log tells of something."""
        until = monotonic() + 120
        while (step, event) not in self.told():
            assert process.poll() is None, f"it ended before {step} {event}"
            assert monotonic() < until, f"no word of {step} {event}"
            sleep(0.005)  # there is nobody to tell us


@pytest.mark.parametrize("moment", [("load_lineitem", "started"), ("keys", "completed")])
def test_a_killed_run_goes_on_with_what_was_not_finished(moment: tuple[str, str], tmp_path: Path) -> None:
    """In the middle of a load, the one writer included; and between loads and queries. The answers are all there in the end."""
    warehouse = Warehouse(tmp_path)
    process = warehouse.begin()
    try:
        warehouse.wait_for(*moment, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = warehouse.told()
    assert warehouse.log is not None
    done = warehouse.call("retry", warehouse.log.parent.name)
    assert done.returncode == 0, done.stdout + done.stderr
    begun = Counter(step for step, event in warehouse.told() if event == "started")
    finished = [step for step, event in before if event == "completed"]
    assert finished
    assert [step for step in finished if begun[step] > 1] == []
    report = (warehouse.out / "report.html").read_text(encoding="utf-8")
    assert report.count("values as known") == len(list(queries.QUERIES.glob("*.sql"))) >= 10


def test_what_is_there_is_not_generated_again(tmp_path: Path) -> None:
    """A second run finds the tables' files, and is a run of its own all the same. Of this size no answers are known."""
    warehouse = Warehouse(tmp_path)
    assert warehouse.begin("0.01").wait() == 0
    made = {path: path.stat().st_mtime_ns for path in warehouse.out.glob("sf0.01/data/*/*.parquet")}
    assert len(made) == 8
    assert warehouse.begin("0.01").wait() == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "not checked" in (warehouse.out / "report.html").read_text(encoding="utf-8")


def test_wrong_tables_are_refused_whole(tmp_path: Path) -> None:
    """A table with too few rows is not loaded, and what was there before stays; a reference that leads nowhere is found."""
    data, warehouse = tmp_path / "data", str(tmp_path / "warehouse.duckdb")
    subprocess.run([str(BIN / "tpchgen-cli"), "parquet", "-s", "0.01", "-o", str(data), "--quiet"], check=True)
    for table in ("region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"):
        load(table, str(data), warehouse, "0.01")
    assert check_keys(warehouse) > 60_175
    with pytest.raises(WrongTableError, match=r"supplier has 100 rows, and 1,000 at scale factor 0\.1"):
        load("supplier", str(data), warehouse, "0.1")
    assert check_keys(warehouse) > 60_175
    with duckdb.connect(warehouse) as database:
        database.execute("delete from region where r_name = 'EUROPE'")
    with pytest.raises(WrongTableError, match="rows of nation have a n_regionkey that no row of region has"):
        check_keys(warehouse)


def test_a_wrong_answer_is_told_with_its_place(tmp_path: Path) -> None:
    """Who reads the log must see what differs; a last digit that only rounding changes is none."""
    known = (queries.ANSWERS / "q06.csv").read_text(encoding="utf-8")
    name, value = known.split()
    (tmp_path / "q06.csv").write_text(f"{name}\n{float(value) * (1 + 1e-12)!r}\n", encoding="utf-8")
    assert compare("q06", str(tmp_path)) == 1
    (tmp_path / "q06.csv").write_text(f"{name}\n{float(value) + 1!r}\n", encoding="utf-8")
    with pytest.raises(WrongAnswerError, match=r"q06, row 1, revenue: .* and the known answer has"):
        compare("q06", str(tmp_path))
    (tmp_path / "q06.csv").write_text(f"{name}\n", encoding="utf-8")
    with pytest.raises(WrongAnswerError, match="q06 has 0 rows, and the known answer 1"):
        compare("q06", str(tmp_path))
