"""What a node costs in parts: a graph that goes to two worker processes in pieces, beside the same graph node by node."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import Figure, interleaved, per, placed, timed
from benchmarks.shapes import Shape, independent, layered
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.distributed import PartitionedDAGExecutor

SUBJECT = "level_based /8"
NODES = "node by node"
REACH = 4.0
CUTS = (
    ("level_based", 2),
    ("level_based", 4),
    ("level_based", 8),
    ("communication_min", 8),
    ("balanced", 2),
    ("balanced", 8),
)
AGAIN, FIRST, BUNDLES = "again", "first", "parts"


def parts(quick: bool) -> Figure:
    """Layers of no-op tasks on two processes that are warm: each part one bundle, and each node one task."""
    rounds = 3 if quick else 7
    side = 10 if quick else 100
    shape = layered(side, side)
    title = f"{shape.name} {side} x {side} in parts, 2 warm workers, no-op tasks (medians of {rounds})"
    figure = Figure("parts", title, "us a node", SUBJECT)
    figure.notes.append(
        "The number after the stroke is k. First: a new graph, for which everything is compiled; its cut is not counted. "
        "The column of parts is a count. Level by level the parts run one after the other: best where tasks take no time. "
        "Balanced parts keep all workers busy, which is worth their number where tasks take a millisecond."
    )
    with MultiprocessingBackend(max_workers=2) as backend, placed("free"):
        _warm(backend)
        contenders: dict[str, Callable[[], float]] = {NODES: _run(shape, partial(shape.dag().run, backend=backend))}
        for strategy, k in CUTS:
            executor = PartitionedDAGExecutor(shape.dag(), k, strategy, backend=backend)
            name = f"{strategy} /{k}"
            first = PartitionedDAGExecutor(shape.dag(), k, strategy, backend=backend)
            figure.put(name, FIRST, [per(len(shape), timed(first.execute))])
            figure.put(name, BUNDLES, [len(executor.partition)])
            contenders[name] = _run(shape, executor.execute)
        figure.put(NODES, FIRST, [per(len(shape), timed(partial(shape.dag().run, backend=backend)))])
        for contend in contenders.values():
            contend()
        for name, samples in interleaved(contenders, rounds).items():
            figure.put(name, AGAIN, [per(len(shape), sample) for sample in samples])
    ours, theirs = figure.value(SUBJECT, AGAIN), figure.value(NODES, AGAIN)
    figure.hold(f"{SUBJECT}, again", ours, REACH)
    figure.hold(f"{SUBJECT}, again, beside node by node", ours, theirs or 0.0)
    return figure


def _warm(backend: MultiprocessingBackend) -> None:
    """Let both processes import what they need."""
    small = independent(200).dag()
    PartitionedDAGExecutor(small, 8, "balanced", backend=backend).execute().raise_for_status()
    small.run(backend=backend).raise_for_status()


def _run(shape: Shape, execute: Callable[[], Any]) -> Callable[[], float]:
    """Return what measures one run and checks its values, outside of the time that is taken."""

    def contend() -> float:
        found: list[Any] = []
        seconds = timed(lambda: found.append(execute()))
        result = found.pop().raise_for_status()
        shape.check([result[name] for name in result])
        return seconds

    return contend
