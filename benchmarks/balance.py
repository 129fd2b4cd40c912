"""Whether a task waits for others than its own: two independent chains whose long and short tasks alternate."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.measure import Figure, interleaved, timed
from dagrid import DAG

LONG, SHORT = 0.010, 0.001


def nap_long(before: Any = None) -> Any:
    time.sleep(LONG)
    return before


def nap_short(before: Any = None) -> Any:
    time.sleep(SHORT)
    return before


def balance(quick: bool) -> Figure:
    """Two chains on two workers; the optimum is the length of one chain."""
    length, rounds = (6, 3) if quick else (20, 5)
    optimum = length / 2 * (LONG + SHORT)
    title = f"two chains of {length} tasks, 10 ms and 1 ms in turn, 2 workers (medians of {rounds})"
    figure = Figure("balance", title, "of the optimum", "dagrid")
    chains = [[(nap_long, nap_short)[(place + which) % 2] for place in range(length)] for which in range(2)]
    levels = [[(fn, None) for fn in level] for level in zip(*chains, strict=True)]
    for column, backend, pool in _places():
        with pool:
            dag = _dag(chains)
            run = partial(dag.run, backend=backend, progress=False)
            run()
            contenders = {
                "dagrid": partial(timed, run),
                "level by level": partial(timed, peers.by_levels, levels, pool),
            }
            for name, samples in interleaved(contenders, rounds).items():
                figure.put(name, column, [seconds / optimum for seconds in samples])
        if not isinstance(backend, str):
            backend.close()
        figure.hold(column, figure.value("dagrid", column), 1.1)
    return figure


def _places() -> list[tuple[str, Any, Any]]:
    from dagrid.execution.backends.multiprocessing import MultiprocessingBackend

    return [
        ("thread", "thread?max_workers=2", ThreadPoolExecutor(2)),
        ("process", MultiprocessingBackend(max_workers=2), peers.make_process_pool(2)),
    ]


def _dag(chains: list[list[Any]]) -> DAG:
    builder = DAG.builder()
    for which, tasks in enumerate(chains):
        for place, fn in enumerate(tasks):
            before = {"before": f"{which}.{place - 1}"} if place else None
            builder.add_node(f"{which}.{place}", fn, inputs=before)
    return builder.build()
