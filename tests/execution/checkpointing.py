"""What the tests of checkpoints share: stores that fail, chains that note what ran, programs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dagrid import Node
from dagrid.errors import (
    StoreError,
)
from dagrid.stores import open_store
from dagrid.stores.memory import MemoryStore
from tests.execution.durable_tasks import note

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


class FailingStore:
    """A store that works for so many appends, and then raises for ever, or until it is mended."""

    def __init__(self, good: int, error: Exception) -> None:
        self.inner = MemoryStore()
        self.good = good
        self.error = error
        self.refused = 0
        self.create, self.acquire, self.read = self.inner.create, self.inner.acquire, self.inner.read
        self.snapshot, self.latest, self.runs = self.inner.snapshot, self.inner.latest, self.inner.runs
        self.delete, self.about, self.describe = self.inner.delete, self.inner.about, self.inner.describe
        self.close = self.inner.close

    def append(self, *args: Any, **settings: Any) -> int:
        self.good -= 1
        if self.good < 0:
            self.refused += 1
            raise self.error
        return self.inner.append(*args, **settings)


class FullArtifacts:
    """Artifacts on a disk that is full."""

    def put(self, key: str, data: bytes) -> None:
        raise StoreError(f"no room for {key}")

    def get(self, key: str) -> bytes | None:
        return None

    def delete(self, key: str) -> None:
        """There is nothing."""

    def clear(self, key: str) -> None:
        """There is nothing."""


def noting(log: str, count: int) -> list[Node]:
    """Return a chain of nodes that note that they ran."""
    return [Node(f"n{n}", partial(note, log, f"n{n}"), [f"n{n - 1}"] if n else []) for n in range(count)]


def records(folder: str) -> dict[str, Any]:
    store = open_store(f"{folder}/journal.db")
    try:
        return {record.run: record for record in store.runs()}
    finally:
        store.close()


def in_a_process(folder: str, log: str, graph: str, backend: str, first_snapshot: int = 50_000) -> None:
    """Start a run in a process that it kills."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.execution.durable_tasks", graph, log, folder, backend, str(first_snapshot)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr


def script(path: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of its own, whose functions are those of `__main__`."""
    path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
