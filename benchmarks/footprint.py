"""What dagrid costs before and after the work: the import, and what a run leaves behind."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from functools import partial

from benchmarks.measure import Figure, in_a_fresh_process, interleaved, resident, timed
from benchmarks.shapes import layered

WARM, RUNS = 20, 100


def imports(quick: bool) -> Figure:
    """`import dagrid` over a bare interpreter."""
    rounds = 5 if quick else 15
    figure = Figure("import", f"import dagrid (medians of {rounds} starts)", "ms", "python, import dagrid")
    programs = {
        "bare python": "pass",
        "python, import dagrid": "import dagrid",
        "python, import asyncio": "import asyncio",
    }
    contenders = {
        name: partial(timed, partial(subprocess.run, [sys.executable, "-c", program], check=True))
        for name, program in programs.items()
    }
    interleaved(contenders, 1)
    for name, samples in interleaved(contenders, rounds).items():
        figure.put(name, "start", [seconds * 1e3 for seconds in samples])
    figure.hold(
        "over a bare interpreter", figure.rows[figure.subject]["start"] - figure.rows["bare python"]["start"], 60
    )
    return figure


def leak(quick: bool) -> Figure:
    """Whether a run leaves something behind: growth of a process from its 20th run to its 120th."""
    runs = 20 if quick else RUNS
    title = f"growth over {runs} runs of 1,000 nodes, after {WARM} (one process each)"
    figure = Figure("leak", title, "MiB")
    for column, backend in {"inline": "inline", "thread": "thread?max_workers=2"}.items():
        for row in ("the same graph", "a new graph each time"):
            grown = in_a_fresh_process("benchmarks.footprint", backend, row, str(runs))
            figure.put(row, column, [grown / 2**20])
            figure.hold(f"{column}, {row}", figure.value(row, column), 1.0)
    return figure


def _grow(backend: str, what: str, runs: int) -> int:
    shape = layered(50, 20)
    dag = shape.dag()
    before = 0
    for number in range(WARM + runs):
        if number == WARM:
            gc.collect()
            before = resident()
        (dag if what == "the same graph" else shape.dag()).run(backend=backend, progress=False)
    gc.collect()
    return resident() - before


if __name__ == "__main__":
    print(json.dumps(_grow(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
