"""What it costs to write a graph with functions, and to call a flow of one node; beside tawazi, which has the same face."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import Figure, interleaved, per, placed, timed
from benchmarks.peers import tawazi_dag
from benchmarks.shapes import Shape, layered
from dagrid import DAG

DAGRID, TAWAZI = "dagrid", "tawazi"
TAWAZI_BEARS = 1_000


def _one() -> int:
    return 1


def _step(value: Any) -> Any:
    return value


def _join(*values: Any) -> Any:
    return values


def _chain(tasks: Any, count: int) -> Any:
    one, step, _ = tasks
    value = one()
    for _ in range(count - 1):
        value = step(value)
    return value


def _joins(tasks: Any, count: int) -> Any:
    _, step, join = tasks
    values = [step(number) for number in range(count // 2)]
    return [join(values[at], values[at - 1]) for at in range(count // 2)][-1]


SHAPES = {"chain": _chain, "constants and joins": _joins}


def authoring(quick: bool) -> Figure:
    """Building, for each node."""
    rounds = 3
    figure = Figure("authoring", f"describe and build with functions (medians of {rounds})", "us a node", DAGRID)
    sizes = (50, 200) if quick else (TAWAZI_BEARS, 5_000, 20_000, 100_000)
    with placed("pinned"):
        for name, shape in SHAPES.items():
            for count in sizes:
                contenders = {DAGRID: partial(timed, _dagrid(shape, count))}
                peer = _tawazi(shape, count)
                if peer is not None and count <= TAWAZI_BEARS:
                    contenders[TAWAZI] = partial(timed, peer)
                column = f"{name}, {count:,}"
                for who, samples in interleaved(contenders, rounds).items():
                    figure.put(who, column, [per(count, seconds) for seconds in samples])
                figure.hold(column, figure.value(DAGRID, column), 10.0)
    figure.notes.append(f"tawazi builds no more than {TAWAZI_BEARS:,} nodes here, for its time grows with their square")
    return figure


def described(quick: bool) -> Figure:
    """Running a graph that functions wrote, beside the same graph made of nodes."""
    rounds, layers = (3, 10) if quick else (7, 50)
    figure = Figure("described", f"run a graph that functions wrote (medians of {rounds})", "us a node", DAGRID)
    shape, small = layered(layers, 100), layered(4, 25)
    column = f"layered {layers} x 100, 2 threads"
    settings: Any = {"backend": "thread?max_workers=2", "progress": False}
    by_functions, by_nodes = _described(shape), shape.dag()
    contenders: dict[str, tuple[int, Callable[[], Any]]] = {
        DAGRID: (len(shape), partial(by_functions.run, **settings)),
        "dagrid, made of nodes": (len(shape), partial(by_nodes.run, **settings)),
    }
    if _tawazi(_chain, 1) is not None:
        contenders[f"{TAWAZI}, {len(small)} nodes"] = (len(small), tawazi_dag(small, 2))
    for _, run in contenders.values():
        run()
    with placed("pinned"):
        timings = {who: partial(timed, run) for who, (_, run) in contenders.items()}
        for who, samples in interleaved(timings, rounds).items():
            figure.put(who, column, [per(contenders[who][0], seconds) for seconds in samples])
    mine, theirs = figure.value(DAGRID, column), figure.value("dagrid, made of nodes", column)
    ratio = mine / theirs if mine and theirs else None
    figure.hold(f"{column}, part of the same graph made of nodes", ratio, 1.1, "of it")
    return figure


def _described(shape: Shape) -> DAG:
    from dagrid import dag, task

    tasks = {fn: task(fn) for fn in set(shape.fns)}

    def flow() -> Any:
        values: list[Any] = []
        for fn, before in zip(shape.fns, shape.takes, strict=True):
            values.append(tasks[fn](*[values[each] for each in before]))
        return values[-1]

    return dag(flow).build()


def call(quick: bool) -> Figure:
    """One call of a flow of one node that does nothing: describe, compile, run, read the value."""
    from dagrid import dag, task

    rounds, times = (3, 50) if quick else (7, 200)
    figure = Figure("call", f"a call of a flow of one node (medians of {rounds} times {times})", "us a call", DAGRID)
    one = task(_one)

    def describe() -> Any:
        return one()

    for column, backend, limit in (("inline", "inline", 50.0), ("thread", "thread?max_workers=1", 150.0)):
        flow = dag(backend=backend, progress=False)(describe)
        contenders: dict[str, Callable[[], float]] = {DAGRID: partial(timed, _repeat, flow, times)}
        graph = flow.build()
        again = partial(graph.run, backend=backend, progress=False)
        contenders["dagrid, the same graph again"] = partial(timed, _repeat, again, times)
        peer = _tawazi(_chain, 1)
        if peer is not None and column == "thread":
            contenders[f"{TAWAZI}, the same graph again"] = partial(timed, _repeat, peer(), times)
        with placed("pinned"):
            for who, samples in interleaved(contenders, rounds).items():
                figure.put(who, column, [per(times, seconds) for seconds in samples])
        figure.hold(column, figure.value(DAGRID, column), limit)
    return figure


def _dagrid(shape: Callable[..., Any], count: int) -> Callable[[], Any]:
    from dagrid import dag, task

    return dag(partial(shape, [task(fn) for fn in (_one, _step, _join)], count), name="flow").build


def _tawazi(shape: Callable[..., Any], count: int) -> Callable[[], Any] | None:
    """Return what makes the same graph with tawazi, which describes when it decorates."""
    try:
        from tawazi import dag, xn
    except ImportError:
        return None
    marked = [xn(fn) for fn in (_one, _step, _join)]

    def build() -> Any:
        def flow() -> Any:
            return shape(marked, count)

        return dag(flow)

    return build


def _repeat(action: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        action()
