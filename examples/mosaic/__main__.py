"""The command `python -m examples.mosaic`: reads the arguments, runs the graph and says what came out.

It knows the command line and the run; the steps and the graph are in the modules beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dagrid.errors import DagridError
from examples.mosaic.montage import MontageError
from examples.mosaic.places import Places
from examples.mosaic.sequential import run_in_order
from examples.mosaic.tiles import Survey
from examples.mosaic.workflow import beginning, rules

Residual = Mapping[str, float]
Lines = list[tuple[str, str]]

CLOSER, NOT_CLOSER, FAILED = 0, 1, 3
ANY_NUMBER = 1_000_000
EXAMPLES = """\
examples:
  python -m examples.mosaic                           sixteen tiles, on processes, one for each core
  python -m examples.mosaic --exact                   the same with the slower reprojection, by exact areas
  python -m examples.mosaic --tiles 6x8 --workers 4   more tiles, four processes
  python -m examples.mosaic --backend thread          on threads: Montage one call at a time, see montage.py
  python -m examples.mosaic --plain                   a loop without a graph, to compare the time

exit codes: 0 the corrected mosaic is closer to the original, 1 it is not, 2 a wrong argument, 3 a step failed
"""


def pair_of_numbers(least: int, what: str) -> Any:
    """Return a reader of arguments such as `4x4`, both numbers at least `least`, for argparse."""

    def read(text: str) -> tuple[int, int]:
        parts = text.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) >= least for part in parts):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return int(parts[0]), int(parts[1])

    return read


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line; a wrong one ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.mosaic",
        description="Make a mosaic of the Hubble deep field with the Montage tools, as one graph that grows.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tiles = pair_of_numbers(1, "ROWSxCOLUMNS, such as 4x4")
    size = pair_of_numbers(32, "WIDTHxHEIGHT in pixels of at least 32, such as 400x300")
    add = parser.add_argument
    add("--backend", default="multiprocessing", help="where the tasks run (default: %(default)s)")
    add("--workers", type=int, help="tasks at a time (default: the backend's own, one for each core)")
    add("--tiles", type=tiles, default=(4, 4), metavar="ROWSxCOLUMNS", help="how many tiles (default: 4x4)")
    add("--size", type=size, metavar="WIDTHxHEIGHT", help="a piece from the middle of the image (default: all of it)")
    add("--seed", type=int, default=Survey().seed, help="draws the tilts and brightnesses (default: %(default)s)")
    add("--exact", action="store_true", help="reproject with mProject in place of mProjectPP")
    add("--output", type=Path, default=Path("out/mosaic"), help="where the files go (default: %(default)s)")
    add("--no-progress", action="store_true", help="show no progress")
    add("--plain", action="store_true", help="run the steps in a plain loop, without a graph")
    options = parser.parse_args(arguments)
    if options.tiles == (1, 1):
        parser.error("argument --tiles: one tile overlaps nothing; ask for two or more, such as 1x2")
    if options.workers is not None and options.workers < 1:
        parser.error("argument --workers: at least 1")
    if options.seed < 0:
        parser.error("argument --seed: 0 or more")
    return options


def backend_with_workers(backend: str, workers: int | None) -> str:
    """Return the name of the backend with the number of workers, if one is asked for."""
    if workers is None:
        return backend
    return f"{backend}{'&' if '?' in backend else '?'}max_workers={workers}"


def run_graph(
    survey: Survey, places: Places, exact: bool, backend: str, progress: bool
) -> tuple[Residual, Residual, Lines]:
    """Run the graph and return both residuals and what the run measured, as lines of the table."""
    one_at_a_time = backend.partition("?")[0] == "thread"
    result = beginning.run(
        survey,
        places,
        exact,
        backend=backend,
        rules=rules(survey, places),
        resources={"montage": 1 if one_at_a_time else ANY_NUMBER},
        progress=progress,
    )
    result.to_html(places.page, title="Mosaic of the Hubble deep field")
    result.raise_for_status()
    before, after = result["measure_before"], result["measure_after"]
    trace = result.trace
    assert trace is not None, "a run is traced unless tracing=False"
    trace.to_chrome_json(places.trace)
    summary = trace.summary()
    lines = [
        ("tasks", f"{result.succeeded} succeeded, {result.failed} failed"),
        ("overlaps fitted", str(len(result["overlaps"]))),
        ("time", f"{result.total_duration_seconds:.2f} s on {backend}"),
        ("work done in it", f"{summary.busy_seconds:.2f} s"),
        ("parallelism", f"{summary.parallelism:.2f}"),
        ("critical path", f"{summary.critical_path_seconds:.2f} s: {' > '.join(summary.critical_path)}"),
    ]
    return before, after, lines


def run_plain(survey: Survey, places: Places, exact: bool) -> tuple[Residual, Residual, Lines]:
    """Run the plain loop and return both residuals and what it measured, as lines of the table."""
    start = time.perf_counter()
    loop = run_in_order(survey, places, exact)
    lines = [
        ("steps", str(sum(map(len, loop.seconds.values())))),
        ("overlaps fitted", str(loop.pairs)),
        ("time", f"{time.perf_counter() - start:.2f} s in a plain loop"),
        *((f"  {kind}", f"{sum(each):.2f} s in {len(each)}") for kind, each in loop.seconds.items()),
    ]
    return loop.before, loop.after, lines


def show(before: Residual, after: Residual, lines: Lines, places: Places) -> None:
    """Print the table, and where the pictures are."""
    table = Table(title="Hubble deep field, mosaicked", show_header=False, title_justify="left")
    for name, value in lines:
        table.add_row(name, value)
    table.add_section()
    for name, residual in (("before correction", before), ("after correction", after)):
        flat = f"{residual['residual_flat']:.2f} without a plane"
        table.add_row(f"residual {name}", f"{residual['residual']:.2f} counts rms; {flat}")
    table.add_section()
    files = (
        ("mosaic", places.mosaic),
        ("before and after", places.comparison),
        ("the run as a page", places.page),
        ("trace", places.trace),
    )
    for name, path in files:
        if Path(path).exists():
            table.add_row(name, os.path.relpath(path))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mosaic and return the exit code."""
    options = read_arguments(arguments)
    survey = Survey(rows=options.tiles[0], columns=options.tiles[1], size=options.size, seed=options.seed)
    try:
        places = Places.prepare(options.output)
        if options.plain:
            before, after, lines = run_plain(survey, places, options.exact)
        else:
            backend = backend_with_workers(options.backend, options.workers)
            before, after, lines = run_graph(survey, places, options.exact, backend, not options.no_progress)
    except (DagridError, MontageError, OSError) as error:
        print(f"The mosaic could not be made: {error}", file=sys.stderr)
        return FAILED
    show(before, after, lines, places)
    if after["residual"] < before["residual"]:
        return CLOSER
    print("The corrected mosaic is not closer to the original than the uncorrected one.", file=sys.stderr)
    return NOT_CLOSER


if __name__ == "__main__":
    sys.exit(main())
