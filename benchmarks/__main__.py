"""Measure dagrid beside its neighbours and print a table for each figure; a target that is missed fails nothing.

Usage: python -m benchmarks [--quick] [--json FILE] [--engine ENGINE]... [names...]
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks import fleet
from benchmarks.balance import balance
from benchmarks.bench_authoring import authoring, call, described
from benchmarks.caching import cached
from benchmarks.checkpoint import checkpoint
from benchmarks.commands import commands
from benchmarks.engines import NEEDS, engines
from benchmarks.footprint import imports, leak
from benchmarks.graph import build, memory, questions
from benchmarks.growth import growth
from benchmarks.measure import CORES, Figure
from benchmarks.overhead import inline, process, thread
from benchmarks.partition import cuts, makespans
from benchmarks.parts import parts
from benchmarks.stores import store
from benchmarks.workflows import loading, workflows

FIGURES: dict[str, Callable[[bool], Figure]] = {
    "thread": thread,
    "inline": inline,
    "process": process,
    "balance": balance,
    "growth": growth,
    "build": build,
    "authoring": authoring,
    "call": call,
    "described": described,
    "memory": memory,
    "questions": questions,
    "leak": leak,
    "import": imports,
    "store": store,
    "cached": cached,
    "checkpoint": checkpoint,
    "partition": cuts,
    "partition-makespan": makespans,
    "parts": parts,
    "commands": commands,
    "workflows": workflows,
    "workflow-load": loading,
    "engines": engines,
    "fleet-steps": fleet.steps,
    "fleet-calls": fleet.calls,
    "fleet-runs": fleet.runs,
    "fleet-logs": fleet.logs,
    "fleet-values": fleet.values,
    "fleet-idle": fleet.idle,
}
ASKED = {"engines", "fleet-steps", "fleet-calls", "fleet-runs", "fleet-logs", "fleet-values", "fleet-idle"}
"""They start servers, and are measured only when they are named."""
VERDICTS = {True: "met", False: "MISSED", None: "not measured"}


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"what to measure: {', '.join(FIGURES)}; by default all but engines and the fleet",
    )
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: a look, not a measurement")
    parser.add_argument(
        "--engine", action="append", choices=NEEDS, default=[], help="for `engines`: only this one; may be repeated"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {len(CORES)} cores")
    figures = []
    measures = FIGURES | {"engines": partial(engines, only=arguments.engine)}
    for name in arguments.names or [name for name in FIGURES if name not in ASKED]:
        began = perf_counter()
        figure = measures[name](arguments.quick)
        show(console, figure, perf_counter() - began)
        figures.append(figure)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([asdict(figure) for figure in figures], file, indent=1)


def show(console: Console, figure: Figure, took: float) -> None:
    """Print one figure: its cells with their ratio to dagrid's, then its targets."""
    console.print()
    if figure.missing:
        console.print(f"{figure.title}: {figure.missing}")
        return
    console.print(f"[bold]{figure.name}[/bold]: {figure.title}; {figure.unit}")
    table = Table()
    table.add_column("")
    for column in figure.columns:
        table.add_column(column, justify="right")
    for row, cells in figure.rows.items():
        table.add_row(row, *(cell(figure, row, column) if column in cells else "" for column in figure.columns))
    console.print(table)
    for note in figure.notes:
        console.print(f"  {note}")
    for goal in figure.goals:
        value = "-" if goal.value is None else f"{goal.value:.3g}"
        console.print(f"  reach: at most {goal.limit:.3g} {goal.unit}, is {value}: {VERDICTS[goal.met]} ({goal.text})")
    console.print(f"  ({took:.0f} s)")


def cell(figure: Figure, row: str, column: str) -> str:
    """Return a median, and in parentheses how many times the subject's it is, or of the subject the spread."""
    ratio = figure.ratio(row, column, figure.subject)
    value = figure.rows[row][column]
    text = f"{value:.0f}" if value >= 100 else f"{value:.2f}"
    if row != figure.subject:
        return text if ratio is None else f"{text} (x{ratio:.3g})"
    low, high = figure.spread[row][column]
    return text if low == high else f"{text} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main()
