"""What dagrid costs before and after the work: the import, and what a run leaves behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise

from benchmarks.measure import Figure, in_a_fresh_process, interleaved, resident, timed
from benchmarks.shapes import layered

SAME, NEW = "the same graph", "a new graph each time"


def imports(quick: bool) -> Figure:
    """`import dagrid` over a bare interpreter."""
    rounds = 5 if quick else 15
    figure = Figure("import", f"import dagrid (medians of {rounds} starts)", "ms", "python, import dagrid")
    programs = {
        "bare python": "pass",
        "python, import dagrid": "import dagrid",
        "python, import asyncio": "import asyncio",
    }
    with tempfile.TemporaryDirectory() as cache:
        # As installed: compiled once, whatever the environment of the measurement says of that.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        start = partial(subprocess.run, check=True, env=environment | {"PYTHONPYCACHEPREFIX": cache})
        contenders = {
            name: partial(timed, start, [sys.executable, "-c", program]) for name, program in programs.items()
        }
        interleaved(contenders, 1)
        for name, samples in interleaved(contenders, rounds).items():
            figure.put(name, "start", [seconds * 1e3 for seconds in samples])
    figure.hold(
        "over a bare interpreter", figure.rows[figure.subject]["start"] - figure.rows["bare python"]["start"], 60
    )
    return figure


def leak(quick: bool) -> Figure:
    """Whether a run leaves something behind: growth of a process that runs on and on."""
    marks = (5, 15, 25, 35) if quick else (20, 120, 220, 320)
    figure = Figure("leak", "growth of a process by runs of 1,000 nodes (one process each)", "MiB")
    for backend in ("inline", "thread?max_workers=2"):
        for what in (SAME, NEW):
            row = f"{backend.partition('?')[0]}, {what}"
            grown = in_a_fresh_process("benchmarks.footprint", backend, what, *map(str, marks))
            for (since, before), (until, after) in pairwise(zip(marks, grown, strict=True)):
                figure.put(row, f"run {since} to {until}", [(after - before) / 2**20])
            figure.hold(row, figure.value(row, figure.columns[-1]), 1.5)
    figure.notes.append(
        "at first the allocator still finds its size, so the last hundred runs count; it grows by 1 MiB at a time"
    )
    return figure


def _grow(backend: str, what: str, marks: list[int]) -> list[int]:
    """Return the resident bytes before each of the runs that are marked."""
    shape = layered(50, 20)
    dag = shape.dag()
    seen = []
    for number in range(marks[-1] + 1):
        if number in marks:
            gc.collect()
            seen.append(resident())
        (dag if what == SAME else shape.dag()).run(backend=backend, progress=False)
    return seen


if __name__ == "__main__":
    print(json.dumps(_grow(sys.argv[1], sys.argv[2], [int(mark) for mark in sys.argv[3:]])))
