"""Random graphs on every backend at once, with failures, timeouts, retries and cancels: every run ends, and each node once.

`make soak` runs this for minutes; `make test` for a few seconds. A failure names its seed, and `DAGRID_SOAK_SEED` repeats it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from functools import partial

import pytest

from dagrid import DAG, Node, Retry
from dagrid.opening import known_backends, open_backend
from tests.places import ENGINES

SECONDS = float(os.environ.get("DAGRID_SOAK_SECONDS", "4"))
SEED = int(os.environ.get("DAGRID_SOAK_SEED", str(random.SystemRandom().randrange(1_000_000))))
ENDS = {"completed", "failed", "timed_out", "cancelled", "skipped", "lost"}
PATIENCE = 30.0


def work(seed: int, failing: float, seconds: float) -> int:
    """Take some time, or fail."""
    if seconds:
        time.sleep(seconds)
    if random.Random(seed).random() < failing:
        raise ValueError(seed)
    return seed


def graph(chance: random.Random) -> DAG:
    """Return a graph with every kind of setting somewhere."""
    nodes = []
    for number in range(chance.randint(1, 60)):
        task = partial(work, number, chance.choice([0, 0, 0.1]), chance.choice([0, 0, 0, 0.001, 0.01]))
        nodes.append(
            Node(
                f"n{number}",
                task,
                [f"n{before}" for before in chance.sample(range(number), min(number, chance.randint(0, 3)))],
                priority=chance.randint(0, 3),
                is_sequential=chance.random() < 0.03,
                retries=chance.choice([None, 2, Retry(2, delay=0.002, jitter=0.5)]),
                timeout=chance.choice([None, None, 0.005, 1.0]),
                resources=chance.choice([None, None, {"unit": 1}]),
            )
        )
    return DAG(nodes)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 3 * PATIENCE)
def test_every_run_ends_and_every_node_ends_once() -> None:
    """What no single scenario would think of: all features against each other, on backends that runs share."""
    places = [open_backend(name)[0] for name in known_backends() if name not in ENGINES]
    until = time.monotonic() + SECONDS
    seed = SEED
    try:
        while time.monotonic() < until:
            seed += 1
            chance = random.Random(seed)
            dag = graph(chance)
            run = dag.start(
                backend=chance.choice(places),
                resources={"unit": 2},
                on_failure=chance.choice(["skip", "continue", "stop"]),
                max_concurrency=chance.choice([None, None, 1, 3]),
                progress=False,
            )
            if chance.random() < 0.2:
                threading.Timer(chance.random() * 0.02, run.cancel).start()
            result = run.wait(PATIENCE)
            ends = Counter(event.node for event in run.events(follow=False) if event.kind in ENDS)
            assert ends == Counter(dag.node_names()), f"DAGRID_SOAK_SEED={seed - 1}: {result}"
    except BaseException:
        print(f"DAGRID_SOAK_SEED={seed - 1}")
        raise
    finally:
        for place in places:
            place.close(wait=False)
