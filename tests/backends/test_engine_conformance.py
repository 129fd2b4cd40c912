"""Whole small graphs on every registered backend."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dagrid.testing import EngineConformance

# These need servers, and have the suites in tests/engines.
ENGINES = {"celery", "dask", "ipyparallel", "ray"}
REGISTERED = [entry for entry in entry_points(group="dagrid.backends") if entry.value.startswith("dagrid.")]
OURS = [entry for entry in REGISTERED if entry.name not in ENGINES]


def suite_for(entry: EntryPoint) -> type[EngineConformance]:
    """Build the suite of one registered backend."""

    def make_backend(self: EngineConformance, slots: int) -> Any:
        made = entry.load()
        return made(**({"max_workers": slots} if "max_workers" in inspect.signature(made).parameters else {}))

    body = {"make_backend": make_backend, "frees_slots": entry.name != "inline", "__module__": __name__}
    return type(f"Test_{entry.name}", (EngineConformance,), body)


globals().update({f"Test_{entry.name}": suite_for(entry) for entry in OURS})


def test_the_matrix_is_not_empty() -> None:
    """A registry that finds nothing would let every backend pass."""
    assert {"inline", "thread", "multiprocessing"} <= {entry.name for entry in OURS}
