"""Fixtures for tests of places where work runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from tests.backends.gates import Gate


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path / f"gate-{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.close()


@pytest.fixture
def gate(gates: Callable[[], Gate]) -> Gate:
    return gates()


@pytest.fixture
def one() -> Iterator[MultiprocessingBackend]:
    with MultiprocessingBackend(1) as backend:
        yield backend


@pytest.fixture
def two() -> Iterator[MultiprocessingBackend]:
    with MultiprocessingBackend(2) as backend:
        yield backend
