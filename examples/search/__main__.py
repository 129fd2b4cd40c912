"""The command `python -m examples.search`: reads the arguments, runs the graph and says what came out.

It knows the command line and the run; the steps and the graph are in the modules beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dagrid import ExecutionResult
from dagrid.errors import DagridError
from examples.search import workflow
from examples.search.trials import Scored, Task

FOUND, FAILED = 0, 3
COSTS = (0.1, 1.0, 10.0, 100.0)
GAMMAS = (1e-4, 1e-3, 1e-2, 1e-1)
EXAMPLES = """\
examples:
  python -m examples.search                             16 candidates, then 9 around the best; 5 folds each
  python -m examples.search --profile                   and where the time went
  python -m examples.search --backend multiprocessing   on processes, one for each core
  python -m examples.search --html search.html          the run as a page, with a slider over its growth
  python -m examples.search --samples 500 --folds 3     quicker

exit codes: 0 found, 2 a wrong argument, 3 a step failed
"""


def number_from(least: int) -> Any:
    """Return a reader of whole numbers of at least `least`, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return int(text)

    return read


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line; a wrong one ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.search",
        description="Search the best settings of a classifier of handwritten digits, in two rounds of one growing graph.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--backend", default="thread", help="where the trials run, such as thread?max_workers=2 (default: %(default)s)")
    add("--samples", type=number_from(200), help="so many of the digits, at least 200 (default: all 1,797)")
    add("--folds", type=number_from(2), default=5, help="cross-validation folds (default: %(default)s)")
    add("--html", type=Path, metavar="FILE", help="write the run as a page for a browser")
    add("--profile", action="store_true", help="say where the time went")
    add("--no-progress", action="store_true", help="show no progress")
    return parser.parse_args(arguments)


def table_of(title: str, found: Sequence[Scored]) -> Table:
    """Return the scores of a round, a row for each C and a column for each gamma, the best one marked."""
    gammas = list(dict.fromkeys(each.candidate.gamma for each in found))
    best = max(each.mean for each in found)
    table = Table("C \\ gamma", *(f"{gamma:.3g}" for gamma in gammas), title=title, title_justify="left")
    means = {each.candidate: each.mean for each in found}
    for cost in dict.fromkeys(each.candidate.C for each in found):
        row = [mean for candidate, mean in means.items() if cost == candidate.C]
        table.add_row(f"{cost:.3g}", *(f"[bold]{mean:.4f} *[/]" if mean == best else f"{mean:.4f}" for mean in row))
    return table


def show(result: ExecutionResult, backend: str) -> None:
    """Print both rounds and the best of them."""
    console = Console()
    best: Scored = result["best"]
    console.print(table_of("Round 1: mean accuracy", result["coarse_scores"]))
    console.print(table_of("Round 2: around the best", result["finer_scores"]))
    console.print(
        f"best: C = {best.candidate.C:.4g}, gamma = {best.candidate.gamma:.4g}, accuracy {best.mean:.4f} "
        f"({len(result)} tasks in {result.total_duration_seconds:.2f} s on {backend})",
        highlight=False,
        soft_wrap=True,
    )


def tell(result: ExecutionResult, options: argparse.Namespace) -> None:
    """Print what was found, and write the page, also of a search that failed.

    Raises:
        BaseException: what the first step raised that failed.
        OSError: the page cannot be written.
    """
    try:
        show(result.raise_for_status(), options.backend)
    finally:
        if options.html is not None:
            result.to_html(options.html, title="A search in two rounds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and return the exit code."""
    options = read_arguments(arguments)
    task = Task(options.samples, options.folds)
    try:
        result = workflow.graph(COSTS, GAMMAS).run(
            backend=options.backend, rules=workflow.rules(task), progress=not options.no_progress
        )
        tell(result, options)
    except (DagridError, OSError, ValueError) as error:
        print(f"The search failed: {error}", file=sys.stderr)
        return FAILED
    if options.profile:
        print(result.profile())
    if options.html is not None:
        print(f"the run as a page: {os.path.relpath(options.html)}")
    return FOUND


if __name__ == "__main__":
    sys.exit(main())
