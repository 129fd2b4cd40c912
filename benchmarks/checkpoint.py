"""What it costs to keep a run while it goes on, and what it costs to drop values: no-op nodes with and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measure import Figure, interleaved, per, timed
from benchmarks.shapes import layered
from dagrid import DAG
from dagrid.execution.recording import Checkpoint
from dagrid.ports import Store
from dagrid.stores import open_artifacts, open_store
from dagrid.stores.memory import MemoryStore

PLAIN = "dagrid"
OUTPUTS = 'dagrid, keep="outputs"'
KEPT = "dagrid, checkpoint"
MEMORY = "dagrid, checkpoint in memory"
RESUMED = "dagrid, resume when it has ended"
BACKENDS = {"thread": "thread?max_workers=2", "inline": "inline", "processes": "multiprocessing?max_workers=2"}


class TimedStore:
    """A store that knows how long its appends took."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.seconds = 0.0
        self.create, self.acquire, self.read, self.close = inner.create, inner.acquire, inner.read, inner.close
        self.snapshot, self.latest, self.runs, self.delete = inner.snapshot, inner.latest, inner.runs, inner.delete
        self.about, self.describe = inner.about, inner.describe

    def append(self, *args: Any, **settings: Any) -> int:
        began = perf_counter()
        try:
            return self._inner.append(*args, **settings)
        finally:
            self.seconds += perf_counter() - began


def checkpoint(quick: bool) -> Figure:
    """A layered graph on each backend: as it is, dropping values, and kept in memory and on the disk."""
    rounds = 3 if quick else 5
    shape = layered(5, 20) if quick else layered(50, 100)
    count = len(shape)
    figure = Figure("checkpoint", f"layered, {count:,} no-op tasks (medians of {rounds})", "us a node", PLAIN)
    graph = shape.dag()
    commits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="dagrid-bench-") as place:
        for name, backend in BACKENDS.items():
            run = partial(graph.run, backend=backend, progress=False)
            run()
            contenders: dict[str, Callable[[], float]] = {
                PLAIN: partial(timed, run),
                OUTPUTS: partial(timed, partial(run, keep="outputs")),
                MEMORY: partial(_kept, run, MemoryStore, place, []),
                KEPT: partial(_kept, run, partial(_on_disk, place), place, commits.setdefault(name, [])),
            }
            for contender, samples in interleaved(contenders, rounds).items():
                figure.put(contender, name, [per(count, seconds) for seconds in samples])
        for name, samples in commits.items():
            figure.put("  of it the commits", name, [per(count, seconds) for seconds in samples])
        figure.put(RESUMED, "thread", [per(count, _resumed(graph, place)) for _ in range(rounds)])
    figure.notes.append(
        "every commit is on the disk before what it says has an effect; a thread waits for two facts at a time"
    )
    thread = figure.value(MEMORY, "thread")
    figure.hold("keep=outputs, thread", figure.value(OUTPUTS, "thread"), 8.0)
    figure.hold("what is not the disk, thread", thread, 60.0)
    figure.hold("processes, on the disk", figure.value(KEPT, "processes"), 120.0)
    return figure


def _on_disk(place: str) -> Store:
    return open_store(Path(tempfile.mkdtemp(dir=place)) / "journal.db")


def _kept(run: Callable[..., Any], make: Callable[[], Store], place: str, commits: list[float]) -> float:
    with closing(make()) as inner:
        store = TimedStore(inner)
        took = timed(partial(run, checkpoint=Checkpoint(store, open_artifacts(place))))
    commits.append(store.seconds)
    return took


def _resumed(graph: DAG, place: str) -> float:
    """Return how long it takes to read a run that has ended."""
    import dagrid

    folder = tempfile.mkdtemp(dir=place)
    graph.run(checkpoint=folder, run_id="run", backend=BACKENDS["processes"], progress=False)
    return timed(dagrid.resume, folder, "run")
