"""Dask: two worker processes of one thread on this machine, and what can be written for them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count as counting
from typing import Any

from benchmarks.engines.place import CHUNK, Place, sinks
from benchmarks.shapes import Shape, one

NEED = "slot"


@contextmanager
def place() -> Iterator[Place]:
    """Start a cluster, and stop it."""
    from dask.task_spec import Task, TaskRef
    from distributed import Client, LocalCluster

    from dagrid.execution.backends.dask import DaskBackend

    settings: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50, "resources": {NEED: 1}}
    runs = counting()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **settings) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def futures(shape: Shape) -> None:
            found: list[Any] = []
            for fn, before in zip(shape.fns, shape.takes, strict=True):
                found.append(client.submit(fn, *[found[each] for each in before], pure=False))
            shape.check(client.gather([found[node] for node in sinks(shape)]))

        def graph(shape: Shape) -> None:
            run = next(runs)
            tasks = {}
            for node, (fn, before) in enumerate(zip(shape.fns, shape.takes, strict=True)):
                key = f"{run}-{node}"
                tasks[key] = Task(key, fn, *[TaskRef(f"{run}-{each}") for each in before])
            shape.check(client.get(tasks, [f"{run}-{node}" for node in sinks(shape)]))

        def batches(count: int) -> None:
            client.gather(client.map(call, [[0] * CHUNK] * (count // CHUNK), pure=False))

        with DaskBackend(client=client) as backend:
            yield Place(
                backend,
                {"futures as arguments": futures, "the whole graph at once": graph},
                {"client.map": batches},
                needs={NEED: 1},
                versions=f"Dask {version('distributed')}",
            )


def call(arguments: list[int]) -> list[int]:
    return [one(argument) for argument in arguments]
