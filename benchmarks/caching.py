"""What a value costs that is kept between runs: found again, and computed and stored, beside joblib's Memory."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, per, timed
from dagrid import DAG, Node

DAGRID = "dagrid, inline"
THREADS = "dagrid, threads"
UNKEPT = "dagrid, nothing kept"
PEER = "joblib.Memory"
LINKED = "dagrid, a chain"
MISS, HIT = "computed and stored", "found again"


def cached(quick: bool) -> Figure:
    """Calls of a function of one small number, each kept in a folder."""
    count, rounds = (50, 3) if quick else (500, 5)
    figure = Figure("cached", f"{count} calls of one small argument, medians of {rounds}", "us a call", DAGRID)
    try:
        from joblib import Memory
    except ImportError:
        Memory = None  # noqa: N806
    graph = DAG([Node(f"n{number}", partial(grow, number), cache=True) for number in range(count)])
    chain = DAG([Node("n0", partial(grow, 0), cache=True), *(_after(number) for number in range(1, count))])
    with tempfile.TemporaryDirectory(prefix="dagrid-bench-") as folder:
        place = Path(folder)
        contenders: dict[str, Callable[[str], object]] = {
            DAGRID: lambda kept: _run(graph, "inline", kept),
            THREADS: lambda kept: _run(graph, "thread", kept),
            UNKEPT: lambda _: _run(graph, "inline", False),
            LINKED: lambda kept: _run(chain, "inline", kept),
        }
        if Memory is not None:
            contenders[PEER] = lambda kept: _remember(Memory, count, kept)
        first: dict[str, list[float]] = {name: [] for name in contenders}
        again: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, action in contenders.items():
                kept = tempfile.mkdtemp(dir=place)
                gc.collect()
                first[name].append(per(count, timed(action, kept)))
                again[name].append(per(count, timed(action, kept)))
        for name in contenders:
            figure.put(name, MISS, first[name])
            figure.put(name, HIT, again[name])
    figure.hold("found again: as quick as joblib", figure.ratio(DAGRID, HIT, PEER), 1.0, "of it")
    figure.notes.append("dagrid syncs each value to the disk when it is stored, joblib leaves that to the system")
    return figure


def grow(number: int) -> int:
    """Return another number."""
    return number + 1


def _after(number: int) -> Node:
    return Node(f"n{number}", grow, inputs={"number": f"n{number - 1}"}, cache=True)


def _run(graph: DAG, backend: str, folder: str | bool) -> object:
    return graph.run(backend=backend, cache=folder, progress=False).raise_for_status()


def _remember(memory: Any, count: int, folder: str) -> object:
    kept = memory(folder, verbose=0).cache(grow)
    return [kept(number) for number in range(count)]
