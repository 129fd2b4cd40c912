"""Random graphs whose process is killed at random moments and resumed until they are done: the end is that of a calm run.

`make soak` does this for minutes; `make test` a few times. A failure names its seed, and `DAGRID_SOAK_SEED` repeats it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, Patch, Retry, Rule, View
from dagrid.assemble import restart
from dagrid.errors import DuplicateRunError
from dagrid.stores import is_postgres, open_store
from tests.execution.durable_tasks import checkpoint_of

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("DAGRID_SOAK_SECONDS", "6"))
SEED = int(os.environ.get("DAGRID_SOAK_SEED", str(random.SystemRandom().randrange(1_000_000))))
PATIENCE = 30.0
KILLS = 2  # one more, and a node that was under way each time would be given up as poisonous
NO_SNAPSHOT = "50000"


def work(log: str, seed: int, name: str, seconds: float, /, **before: Any) -> Any:
    """Note that it began, take some time, and return something that only depends on what came before; some always fail."""
    with open(log, "ab", buffering=0) as file:
        file.write(f"{name}\n".encode())
    chance = random.Random(f"{seed} {name}")
    if seconds:
        time.sleep(seconds)
    if chance.random() < 0.05:
        raise ValueError(name)
    total = 1 + sum(value if isinstance(value, int) else len(value) for value in before.values())
    return bytes(5000 + total) if chance.random() < 0.2 else total


def holds(name: str, view: View) -> bool:
    return view.succeeded(name)


def grow(log: str, seed: int, name: str, view: View) -> Patch:
    """Append a few nodes behind one, whose number its value says, and perhaps another rule."""
    value = view.result(name)
    count = (value if isinstance(value, int) else len(value)) % 4
    nodes = [Node(f"{name}.{n}", partial(work, log, seed, f"{name}.{n}", 0.002), [name]) for n in range(count)]
    deeper = name.count(".") < 2 and nodes
    rules = [rule(log, seed, nodes[0].id)] if deeper else []
    return Patch(nodes, rules)


def rule(log: str, seed: int, name: str) -> Rule:
    return Rule(partial(holds, name), partial(grow, log, seed, name), optional=True, name=f"behind {name}")


def graph(seed: int, log: str) -> tuple[DAG, list[Rule]]:
    chance = random.Random(seed)
    count = chance.randint(2, 40)
    nodes = []
    for number in range(count):
        name = f"n{number}"
        before = [f"n{each}" for each in chance.sample(range(number), min(number, chance.randint(0, 3)))]
        task = partial(work, log, seed, name, chance.choice([0, 0.001, 0.01]))
        nodes.append(Node(name, task, before, retries=chance.choice([None, Retry(1, delay=0.01)])))
    # Two rules behind one node would append the same names, and fail the run at a moment of their own.
    return DAG(nodes), [rule(log, seed, f"n{each}") for each in chance.sample(range(count), chance.randint(0, 2))]


def outcome(result: Any) -> dict[str, Any]:
    """Return what must be the same however often a run was resumed."""
    told = result.node_results
    return {name: (told[name].status, told[name].value, type(told[name].error)) for name in sorted(told)}


def child(seed: int, log: str, kept: str, backend: str, snapshot: int, keep: str) -> None:
    """Start the run, or go on with it."""
    checkpoint = checkpoint_of(kept, snapshot)
    if any(record.facts for record in checkpoint.store.runs()):
        dagrid.resume(checkpoint, "run", backend=backend)
        return
    dag, rules = graph(seed, log)
    run = partial(dag.run, rules=rules, backend=backend, checkpoint=checkpoint, run_id="run", keep=keep)
    try:
        run()
    except (
        DuplicateRunError
    ):  # who was killed had given the name, or a server still did so for it, and nothing had begun
        checkpoint.store.delete("run")
        run()


def crashes(seed: int, folder: Path, kept: str) -> None:
    """Kill and resume one run until it is done, and hold its end against that of a calm one.

    Args:
        seed: which run, and when it is killed.
        folder: for what its tasks write.
        kept: the folder or the URL of the checkpoint.
    """
    chance = random.Random(seed)
    log = str(folder / "log")
    backend = chance.choice(["thread?max_workers=3", "inline", "thread", "multiprocessing?max_workers=2"])
    settings = [chance.choice(["1", "20", NO_SNAPSHOT]), chance.choice(["all", "outputs"])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.soak.test_crash", str(seed), log, kept, backend, *settings]
    killed, patience = 0, 0.3
    while killed < KILLS:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        before = written(kept)
        try:
            _, told = process.communicate(timeout=patience * (1 + chance.random()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += written(kept) > before
            patience *= 1.2  # on a busy day it takes longer until there is something to kill
            continue
        assert process.returncode == 0, told.decode()
        break
    run = restart(kept, "run", backend=backend)
    result = run.wait(PATIENCE)
    dag, rules = graph(seed, str(folder / "calm"))
    assert outcome(result) == outcome(dag.run(rules=rules, backend="inline", progress=False))
    ran, calm = (Counter(Path(path).read_text().split()) for path in (log, folder / "calm"))
    again = ran - calm
    assert set(ran) == set(calm)
    assert not again or killed
    if settings[0] == NO_SNAPSHOT:
        events = Counter(event.node for event in run.events(follow=False) if event.kind in ("requeued", "recalled"))
        assert again <= events, "only what was under way runs again"


def written(kept: str) -> int:
    """Return how many facts there are."""
    file = Path(kept, "journal.db")
    if not is_postgres(kept) and not file.exists():
        return 0
    store = open_store(kept if is_postgres(kept) else file)
    try:
        return sum(record.facts for record in store.runs())
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 4 * PATIENCE)
def test_a_run_that_is_killed_again_and_again_ends_as_a_calm_one(tmp_path: Path) -> None:
    """Nobody knows at which instruction the power fails."""
    until = time.monotonic() + SECONDS
    seed = SEED
    try:
        while time.monotonic() < until:
            seed += 1
            folder = tmp_path / str(seed)
            folder.mkdir()
            crashes(seed, folder, str(folder / "kept"))
    except BaseException:
        print(f"DAGRID_SOAK_SEED={seed - 1}")
        raise


if __name__ == "__main__":
    from tests.soak import test_crash  # so that its functions are those of a module, in every process

    number, path, place, where, first, kept = sys.argv[1:]
    test_crash.child(int(number), path, place, where, int(first), kept)
