"""ipyparallel: two engines on this machine, and what can be written for them by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

from benchmarks.engines.place import CHUNK, Countdown, Place
from benchmarks.shapes import Shape, one

AHEAD = 4
"""How many calls an engine is sent before the first of them is back."""


@contextmanager
def place() -> Iterator[Place]:
    """Start engines, and stop them."""
    import ipyparallel

    from dagrid.execution.backends.ipyparallel import IPyParallelBackend

    cluster = ipyparallel.Cluster(n=2, log_level=logging.CRITICAL)
    try:
        client = cluster.start_and_connect_sync()
        balanced = client.load_balanced_view()
        direct = [client[number] for number in client.ids]

        def batches(count: int) -> None:
            for result in [direct[at % 2].apply_async(call, [0] * CHUNK) for at in range(count // CHUNK)]:
                result.get()

        def mapped(count: int) -> None:
            balanced.map_async(one, [0] * count, chunksize=CHUNK).get()

        with IPyParallelBackend(client=client) as backend:
            yield Place(
                backend,
                {
                    "load-balanced view, a callback for each": partial(_balanced, balanced),
                    "direct views, the least busy engine": partial(_direct, direct),
                },
                {"direct views": batches, "map of the load-balanced view": mapped},
                versions=f"ipyparallel {ipyparallel.__version__}",
            )
        client.close()
    finally:
        cluster.stop_cluster_sync()


def call(arguments: list[int]) -> list[int]:
    return [one(argument) for argument in arguments]


def _balanced(view: Any, shape: Shape) -> None:
    """The hub chooses the engine."""
    state = Countdown(shape)
    done: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    ready = state.first()
    while state.left:
        for node in ready:
            _watch(view.apply_async(shape.fns[node], *state.arguments(node)), node, done)
        node, result = done.get()
        ready = list(state.done(node, result.get()))
    shape.check(state.values)


def _direct(views: list[Any], shape: Shape) -> None:
    """We choose the engine, and keep its queue filled."""
    state = Countdown(shape)
    done: SimpleQueue[tuple[tuple[int, int], Any]] = SimpleQueue()
    ready = state.first()
    busy = [0] * len(views)
    while state.left:
        while ready and (load := min(busy)) < AHEAD:
            engine, node = busy.index(load), ready.pop()
            busy[engine] += 1
            _watch(views[engine].apply_async(shape.fns[node], *state.arguments(node)), (engine, node), done)
        (engine, node), result = done.get()
        busy[engine] -= 1
        ready.extend(state.done(node, result.get()))
    shape.check(state.values)


def _watch(result: Any, which: Any, done: SimpleQueue[Any]) -> None:
    callback: Callable[[Any], None] = lambda result: done.put((which, result))  # noqa: E731
    result.add_done_callback(callback)
