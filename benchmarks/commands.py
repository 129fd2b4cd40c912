"""What a command costs that does nothing, beside the same program started by hand; and a request to a warm process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Figure, interleaved, timed
from dagrid import DAG, Node, serving
from dagrid.commands import Command, Launch, Request, Server, Steps

NOTHING = ["/bin/true"]
QUIET = "dagrid, output nowhere"
FILES = "dagrid, output to two files"
LOGS = "dagrid, logs limited and masked"
BARE = "subprocess.run"
REQUEST = "dagrid, a request to a warm process"
INNER = "dagrid, the requests of one sequence"
EMPTY = "dagrid, a sequence that does nothing"
ONE = "dagrid, one request: start and end of its process"
AT_ONCE = 8
SERVE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("serving", sys.argv[1])
serving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serving)
serving.serve(bytes)
"""
SERVER = Server([sys.executable, "-S", "-c", SERVE, serving.__file__])


def commands(quick: bool) -> Figure:
    """A chain of commands, and many of which eight run at once."""
    rounds = 3 if quick else 5
    length, count = (50, 40) if quick else (1_000, 500)
    figure = Figure("commands", f"/bin/true as a task (medians of {rounds})", "ms", FILES)
    with TemporaryDirectory() as folder:
        logs: dict[str, Any] = {"stdout": Path(folder, "out"), "stderr": Path(folder, "err")}
        kinds: dict[str, dict[str, Any]] = {
            QUIET: {"errors": 0},
            FILES: logs,
            LOGS: logs | {"max_output": 1 << 20, "mask": ("a secret of some length",)},
        }
        for column, chained, number in ((f"chain of {length}", True, length), (f"{count}, 8 at once", False, count)):
            contenders = {name: _run(number, chained, _launching(kind)) for name, kind in kinds.items()}
            contenders[REQUEST] = _run(number, chained, partial(_asking, 1))
            contenders[EMPTY] = _run(number, chained, partial(_asking, 0))
            if chained:
                contenders[INNER] = _run(1, True, partial(_asking, number))
                contenders[ONE] = _run(1, True, partial(_asking, 1))
            contenders[BARE] = partial(timed, bare, number, 1 if chained else AT_ONCE)
            for name, samples in interleaved(contenders, rounds).items():
                figure.put(name, column, [seconds * 1e3 for seconds in samples])
    chain, many = figure.columns
    figure.hold(f"{chain}, logs limited and masked", figure.value(LOGS, chain), 3.0 * length)
    figure.hold(f"{many}, logs limited and masked", figure.value(LOGS, many), 2.0 * count)
    figure.hold(f"{chain}, more than by hand", _more(figure, chain, length), 1.0, "ms a command")
    figure.hold(f"{chain}, a request beyond a sequence that does nothing", _each(figure, chain, length), 100.0, "us")
    figure.notes.append(f"{BARE}: one after the other, and in {AT_ONCE} threads")
    return figure


def _launching(settings: Mapping[str, Any]) -> Callable[[], Launch]:
    launch = Launch(NOTHING, **settings)
    return lambda: launch


def _asking(count: int) -> Steps:
    for _ in range(count):
        yield Request(SERVER, b"")


def _run(count: int, chained: bool, fn: Callable[[], Launch | Steps]) -> Callable[[], float]:
    task = Command(fn)
    before = [[f"n{number - 1}"] if chained and number else [] for number in range(count)]
    graph = DAG([Node(f"n{number}", task, before[number]) for number in range(count)])

    def run() -> None:
        graph.run(max_concurrency=AT_ONCE, progress=False).raise_for_status()

    return partial(timed, run)


def bare(count: int, at_once: int, argv: Sequence[str] = NOTHING) -> None:
    """Start so many processes, one after the other or some at once in threads, as anyone would by hand."""
    if at_once == 1:
        for _ in range(count):
            subprocess.run(argv, check=True)
        return
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: subprocess.run(argv, check=True), range(count)))


def _more(figure: Figure, column: str, count: int) -> float | None:
    ours, by_hand = figure.value(LOGS, column), figure.value(BARE, column)
    return None if ours is None or by_hand is None else (ours - by_hand) / count


def _each(figure: Figure, column: str, count: int) -> float | None:
    """Return what a request costs, without the start of the process that serves."""
    found = [figure.value(name, column) for name in (REQUEST, EMPTY, ONE)]
    if None in found:
        return None
    asked, empty, one = [value for value in found if value is not None]
    return (asked - empty - one) / count * 1e3
