"""What the fleet costs: a coordinator and two workers on this machine, runs kept in SQLite, beside HyperQueue in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from benchmarks.fleet.place import (
    SLOTS,
    WORKERS,
    Place,
    at_the_port,
    home,
    idle_workers,
    lone_worker,
    pin,
    processor_seconds,
    resident_of,
    started_after,
    submitted,
    wait_all,
)
from benchmarks.measure import Figure, interleaved, per, timed
from benchmarks.shapes import chain, fan_out, layered
from dagrid import DAG, Node, command
from dagrid.execution.backends.cluster.backend import ClusterBackend

US = "dagrid"
THEM = "HyperQueue"
FOUND = f"{WORKERS} workers of {SLOTS} slot each on the loopback address, a run kept in SQLite"
RECORDED = {"Ray": 685.0, "Dask": 870.0, "Parsl": 971.0, "Celery with Redis": 1_493.0, THEM: 45_455.0}
"""Microseconds of a no-op Python task, recorded on a machine like ours; the last one starts an interpreter each."""


def steps(quick: bool) -> Figure:
    """`true` as a process on workers: layered, fanned out, in a row."""
    figure = Figure("fleet-steps", f"/bin/true on {FOUND}", "ms a step", US)
    rounds = 1 if quick else 3
    shapes = {
        "layered 100 x 100": layered(*((10, 10) if quick else (100, 100))).takes,
        "fan-out of 5,000": fan_out(100 if quick else 5_000).takes[:-1],
        "chain of 250": chain(20 if quick else 250).takes,
    }
    with at_the_port() as backend, TemporaryDirectory() as folder:
        for column, takes in shapes.items():
            contenders: dict[str, Callable[[], float]] = {US: partial(_true_steps, backend, takes, folder)}
            if find_spec("hyperqueue") is not None:
                contenders[THEM] = partial(_hyperqueue, takes)
            for name, samples in interleaved(contenders, rounds).items():
                figure.put(name, column, [seconds / len(takes) * 1e3 for seconds in samples])
    for column in shapes:
        theirs, ours = figure.value(THEM, column), figure.value(US, column)
        figure.hold(f"{column}, of {THEM}", None if not theirs or ours is None else ours / theirs, 1.0, "times")
    figure.hold("chain of 250", figure.value(US, "chain of 250"), 4.0)
    figure.notes.append(f"{THEM}: its Python interface, which looks for the end of a job once a second")
    return figure


def calls(quick: bool) -> Figure:
    """No-op Python tasks with the values of three others each."""
    rounds = 2 if quick else 5
    shape = layered(*((10, 20) if quick else (100, 100)))
    figure = Figure("fleet-calls", f"layered, {len(shape):,} no-op Python tasks on {FOUND}", "us a task", US)
    graph = shape.dag()
    with at_the_port() as backend, TemporaryDirectory() as folder:

        def kept() -> None:
            with TemporaryDirectory(dir=folder) as checkpoint:
                assert graph.run(backend=backend, checkpoint=checkpoint, progress=False).ok

        kept()
        contenders = {
            US: partial(timed, kept),
            "dagrid, without a record": partial(timed, partial(graph.run, backend=backend, progress=False)),
        }
        for name, samples in interleaved(contenders, rounds).items():
            figure.put(name, "a task", [per(len(shape), seconds) for seconds in samples])
    for name, recorded in RECORDED.items():
        figure.put(f"{name}, as recorded", "a task", [recorded])
    figure.hold("8,000 tasks a second", figure.value(US, "a task"), 125.0)
    return figure


def runs(quick: bool) -> Figure:
    """Runs of workflows through the queues of a coordinator."""
    figure = Figure("fleet-runs", f"workflows of one step, enqueued at a coordinator with {WORKERS} workers", "ms", US)
    lone, many, rounds = (5, 20, 1) if quick else (100, 100, 5)
    with home() as place:
        started_after(place, 3)
        waits = started_after(place, lone)
        figure.put(US, "idle, submit to step started", [1e3 * seconds for seconds in waits])
        worst = 1e3 * quantiles(waits, n=100, method="inclusive")[98]
        figure.put(US, f"{many} at once, a run", _burst(place, many, rounds))
        alone, calling = ([_took(place, kind) for _ in range(3 if quick else 11)] for kind in ("child", "parent"))
        figure.put(
            US,
            "a child elsewhere, more",
            [1e3 * (with_it - without) for with_it, without in zip(calling, alone, strict=True)],
        )
        pin(place.coordinator)
        figure.put(US, "the same, the coordinator pinned to a core", _burst(place, many, rounds))
    first, throughput, child, pinned = figure.columns
    figure.put("reference engine, as recorded", first, [880.0])
    figure.put("reference engine, as recorded", throughput, [91.0])
    figure.put("reference engine, as recorded", child, [1_020.0])
    figure.hold(first, figure.value(US, first), 20.0)
    figure.hold(f"{first}, of 100 the second slowest", worst, 100.0)
    figure.hold(f"{throughput} (250 a second)", figure.value(US, throughput), 4.0)
    figure.hold(pinned, figure.value(US, pinned), 4.0)
    figure.hold(child, figure.value(US, child), 30.0)
    return figure


def logs(quick: bool) -> Figure:
    """One step that writes flat out, to the disk of the coordinator."""
    figure = Figure("fleet-logs", "one step on a worker writes as fast as it is taken", "ms a MB", US)
    size = 20 if quick else 400
    with home() as place:
        before = resident_of(place.coordinator)
        samples, most = [], 0
        for _ in range(1 if quick else 3):
            began, ended, peak = place.written(size)
            samples.append(1e3 * (ended - began) / size)
            most = max(most, peak - before)
        figure.put(US, f"{size} MB", samples)
        figure.put("more memory of the coordinator, MB", f"{size} MB", [most / 2**20])
    figure.hold("50 MB a second", figure.value(US, f"{size} MB"), 20.0)
    figure.hold("memory of the coordinator that comes with it", most / 2**20, 64.0, "MB")
    return figure


def values(quick: bool) -> Figure:
    """A large value that one other node takes, with the coordinator in this process, which is not to hold it."""
    size, rounds = (20, 1) if quick else (400, 3)
    figure = Figure("fleet-values", f"a value of {size} MB is made, and taken by one more node", "ms a MB", US)
    with at_the_port() as backend:
        before = getrusage(RUSAGE_SELF).ru_maxrss
        for where, zone in (("on another worker", "b"), ("where it was made", "a")):
            nodes = [
                Node("made", partial(bytes, size * 10**6), selector={"zone": "a"}),
                Node("size", len, inputs={"obj": "made"}, selector={"zone": zone}),
            ]
            taken = partial(DAG(nodes).run, backend=backend, keep={"size"}, progress=False)
            assert taken()["size"] == size * 10**6
            figure.put(US, where, [1e3 * timed(taken) / size for _ in range(rounds)])
        more = (getrusage(RUSAGE_SELF).ru_maxrss - before) / 2**10
    figure.hold("on another worker", figure.value(US, "on another worker"), 20.0)
    figure.hold("more memory of this process", more, 64.0, "MB")
    return figure


def idle(quick: bool) -> Figure:
    """Workers that are connected and have nothing to do."""
    count, seconds = (50, 3.0) if quick else (1_000, 20.0)
    figure = Figure("fleet-idle", "workers that have nothing to do", "MB", US)
    with home(workers=0) as place, idle_workers(place.port, count):
        used = processor_seconds(place.coordinator)
        began = perf_counter()
        sleep(seconds)
        share = (processor_seconds(place.coordinator) - used) / (perf_counter() - began)
        memory = resident_of(place.coordinator) / 2**20
    figure.put(US, f"coordinator of {count:,}", [memory])
    with home(workers=0) as place, lone_worker(place.port) as worker:
        figure.put(US, "one worker", [resident_of(worker) / 2**20])
    figure.put("reference engine, as recorded", "one worker", [38.0])
    figure.hold(f"coordinator of {count:,}, a core's share", share, 0.1, "of a core")
    figure.hold(f"coordinator of {count:,}, memory", memory, 300.0)
    figure.hold("one worker, memory", figure.value(US, "one worker"), 60.0)
    return figure


def _true_steps(backend: ClusterBackend, takes: Sequence[tuple[int, ...]], folder: str) -> float:
    true = command(["/bin/true"])
    graph = DAG([Node(f"n{node}", true, [f"n{each}" for each in before]) for node, before in enumerate(takes)])
    with TemporaryDirectory(dir=folder) as checkpoint:
        began = perf_counter()
        assert graph.run(backend=backend, checkpoint=checkpoint, progress=False).ok
        return perf_counter() - began


def _hyperqueue(takes: Sequence[tuple[int, ...]]) -> float:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "takes.json").write_text(json.dumps(takes), encoding="utf-8")
        arguments = [sys.executable, "-m", "benchmarks.fleet.on_hyperqueue", name, str(WORKERS), str(SLOTS)]
        subprocess.run(arguments, check=True, capture_output=True)
        return float((folder / "took").read_text(encoding="ascii"))


def _burst(place: Place, many: int, rounds: int) -> list[float]:
    """Return how many milliseconds a run took of so many that were enqueued at once, again and again."""
    samples = []
    for _ in range(rounds):
        began, ended = wait_all(place, submitted(place, many))
        samples.append(1e3 * (ended - began) / many)
    return samples


def _took(place: Place, kind: str) -> float:
    began, ended = wait_all(place, submitted(place, 1, kind))
    return ended - began
