"""What a task costs on the engines that users have: ours beside the best that can be written by hand for the same engine.

Each engine is started for real on 127.0.0.1 in a process of its own, measured there, and stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any

from benchmarks.engines.place import BARE, EACH, HAND, SMALL
from benchmarks.measure import Figure

NEEDS = {"ray": "ray", "dask": "distributed", "celery": "celery", "ipyparallel": "ipyparallel"}
"""The engines and their packages."""
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240.0
"""Seconds after which an engine is given up."""
GRACE = 30.0
"""Seconds that it has then to stop its servers."""


def engines(quick: bool, only: Sequence[str] = ()) -> Figure:
    """Every engine in one table, or those that are named."""
    figure = Figure(
        "engines", "2 workers of each engine, no-op tasks (medians of up to 11, interleaved)", "us a task", HAND
    )
    figure.notes.append("a task of the engine each: layered 20 x 50, 3 predecessors; small tasks: layered 100 x 100")
    for name in only or NEEDS:
        if (missing := lacking(name)) is not None:
            figure.notes.append(f"{name}: left out, {missing}")
            continue
        found = in_its_process(name, quick)
        for row, samples in found["samples"].items():
            figure.put(row, name, samples)
        figure.notes += [f"{name}: {note}" for note in found["notes"]]
        hand = median(found["samples"][HAND])
        figure.hold(f"{name}, {EACH}", median(found["samples"][EACH]) / hand, 1.15, f"of {HAND}")
        figure.hold(f"{name}, {SMALL}", median(found["samples"][SMALL]) / hand, 0.1, f"of {HAND}")
    if not figure.rows:
        figure.missing = "; ".join(figure.notes[1:])
    return figure


def lacking(name: str) -> str | None:
    """Say what an engine lacks to be started here, None if nothing."""
    if find_spec(NEEDS[name]) is None:
        return f"{NEEDS[name]} is not installed (pip install 'dagrid[{name}]')"
    if name == "celery" and which("redis-server") is None:
        return "there is no redis-server"
    return None


def in_its_process(name: str, quick: bool) -> dict[str, Any]:
    """Measure an engine in a fresh process and return what it printed last."""
    command = [sys.executable, "-m", "benchmarks.engines", name, *(["--quick"] if quick else [])]
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, told = process.communicate(timeout=LIMIT)
        except BaseException:
            process.terminate()  # it stops what it has started
            try:
                process.wait(GRACE)
            finally:
                process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"{name}: the measurement failed\n{told[-3000:]}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


__all__ = ["BARE", "EACH", "HAND", "NEEDS", "SMALL", "engines", "lacking"]
