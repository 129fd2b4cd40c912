"""What a node costs that does nothing: threads, the caller's own thread, and processes, beside their peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.measure import MODES, Figure, interleaved, per, placed, timed
from benchmarks.shapes import Shape, chain, fan_out, independent, layered, source
from dagrid import DAG

AGAIN = "dagrid, again"
FIRST = "dagrid, first"
DASK = "dask.threaded"
POOL = "ProcessPoolExecutor"


def thread(quick: bool) -> Figure:
    """Threads: two workers, each shape, on one core and on all."""
    rounds = 3 if quick else 7
    figure = Figure(
        "thread", f"thread backend, 2 workers, no-op tasks (medians of {rounds}, slow peers of 3)", "us a node", AGAIN
    )
    for mode in MODES:
        for shape, small in _shapes(quick):
            graph = peers.dask_graph(shape)
            flow = peers.tawazi_dag(small, 2)
            contenders = _dagrid(shape, "thread?max_workers=2") | {
                "bare loop, 2 threads": partial(timed, peers.bare_loop, shape),
                "thread pool, completed in the worker": partial(timed, peers.pool_chained, shape),
                "thread pool, completion queue": partial(timed, peers.pool_queued, shape),
                DASK: partial(timed, peers.dask_run, shape, graph, 2),
                f"tawazi, {len(small)} nodes": partial(timed, flow),
            }
            _enter(figure, contenders, shape, mode, rounds, {f"tawazi, {len(small)} nodes": len(small)})
    limits = {"chain": 2.5, "fan-out": 2.5, "layered": 3.5}
    for column in figure.columns:
        figure.hold(column, figure.value(AGAIN, column), limits[column.split(",")[0]])
        figure.hold(f"{column}, part of dask.threaded", figure.ratio(AGAIN, column, DASK), 0.1, "of it")
    figure.notes.append("tawazi runs a graph of the same shape but smaller, for building it is quadratic there")
    return figure


def inline(quick: bool) -> Figure:
    """The caller's own thread."""
    rounds = 3 if quick else 9
    figure = Figure("inline", f"inline backend, no-op tasks (medians of {rounds}, dask of 3)", "us a node", AGAIN)
    for shape, _ in _shapes(quick):
        graph = peers.dask_graph(shape)
        contenders = _dagrid(shape, "inline") | {
            "bare loop": partial(timed, peers.bare_loop_alone, shape),
            "dask.get": partial(timed, peers.dask_run, shape, graph, 0),
        }
        _enter(figure, contenders, shape, "pinned", rounds)
    for column in figure.columns:
        figure.hold(column, figure.value(AGAIN, column), 2.0)
    return figure


def process(quick: bool) -> Figure:
    """Processes: two workers that are warm."""
    rounds = 3 if quick else 5
    title = f"process backend, 2 warm workers, no-op tasks (medians of {rounds}, slow peers of 3)"
    figure = Figure("process", title, "us a node", AGAIN)
    try:
        from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
    except ImportError as error:
        figure.missing = f"not available: {error}"
        return figure
    count = 1_000 if quick else 10_000
    side = 20 if quick else 100
    pipes = peers.Pipes(2)
    backend = MultiprocessingBackend(max_workers=2)
    try:
        with peers.make_process_pool(2) as pool:
            independent(100).dag().run(backend=backend, progress=False)
            for shape in (independent(count), layered(side, side)):
                contenders = _dagrid(shape, backend) | {POOL: partial(timed, peers.process_pool, shape, pool)}
                if shape.name == "independent":
                    for batch in (10, 100):
                        contenders[f"raw pipes, 2 batches of {batch}"] = partial(timed, pipes.run, source, count, batch)
                _enter(figure, contenders, shape, "free", rounds)
    finally:
        backend.close()
        pipes.close()
    figure.hold("independent", figure.value(AGAIN, "independent, free"), 15.0)
    part = figure.ratio(AGAIN, "independent, free", POOL)
    figure.hold("independent, part of ProcessPoolExecutor", part, 1 / 7, "of it")
    return figure


def _shapes(quick: bool) -> list[tuple[Shape, Shape]]:
    """Return each shape, and a smaller one for a peer that cannot bear it."""
    if quick:
        return [(chain(1_000), chain(100)), (fan_out(1_000), fan_out(98)), (layered(30, 30), layered(5, 20))]
    return [(chain(10_000), chain(400)), (fan_out(10_000), fan_out(398)), (layered(100, 100), layered(20, 20))]


def _dagrid(shape: Shape, backend: Any) -> dict[str, Callable[[], float]]:
    known = shape.dag()

    def run(dag: DAG) -> None:
        result = dag.run(backend=backend, progress=False)
        shape.check([result[f"n{len(shape) - 1}"]])

    run(known)
    return {AGAIN: lambda: timed(run, known), FIRST: lambda: timed(run, shape.dag())}


def _enter(
    figure: Figure,
    contenders: dict[str, Callable[[], float]],
    shape: Shape,
    mode: str,
    rounds: int,
    sizes: dict[str, int] | None = None,
) -> None:
    slow = [name for name in contenders if name.startswith(("dask", "tawazi", POOL))]
    with placed(mode):
        for name, samples in interleaved(contenders, rounds, slow).items():
            count = (sizes or {}).get(name, len(shape))
            figure.put(name, f"{shape.name}, {mode}", [per(count, seconds) for seconds in samples])
