"""Ray: a session on this machine with two CPUs, and what can be written for it by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, repeat
from typing import Any

from benchmarks.engines.place import CHUNK, Place, sinks
from benchmarks.shapes import PARAMETERS, Shape, one

MEMORY = 200 * 2**20


class Caller:
    """An actor that calls a function many times."""

    def call(self, fn: Any, arguments: list[Any]) -> list[Any]:
        return [fn(argument) for argument in arguments]


@contextmanager
def place() -> Iterator[Place]:
    """Begin a session, and end it."""
    import ray

    from dagrid.execution.backends.ray import RayBackend

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=MEMORY, logging_level="ERROR")
    try:
        remote = {fn: ray.remote(fn) for fn in PARAMETERS}

        def references(shape: Shape) -> None:
            found: list[Any] = []
            for fn, before in zip(shape.fns, shape.takes, strict=True):
                found.append(remote[fn].remote(*[found[each] for each in before]))
            shape.check(ray.get([found[node] for node in sinks(shape)]))

        # They hold no CPU, so that they are in nobody's way.
        callers = [ray.remote(Caller).options(num_cpus=0).remote() for _ in range(2)]

        def batches(count: int) -> None:
            turns = islice(zip(repeat([0] * CHUNK), _turns(len(callers)), strict=False), count // CHUNK)
            ray.get([callers[turn].call.remote(one, arguments) for arguments, turn in turns])

        with RayBackend(num_cpus=2) as backend:
            yield Place(
                backend,
                {"remote functions of references, submitted at once": references},
                {"two actors": batches},
                needs={"CPU": 1},
                exclusive=True,
                versions=f"Ray {ray.__version__}",
            )
    finally:
        ray.shutdown()


def _turns(count: int) -> Iterator[int]:
    while True:
        yield from range(count)
