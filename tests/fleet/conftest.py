"""A coordinator with a worker for the tests of a module. The package of the fleet tells gRPC to be quiet, if it comes first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.testing import Gate
from tests.fleet.fleet_place import PATIENCE, Start, workers


@pytest.fixture(scope="module")
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterBackend]:
    """A coordinator with a worker that nobody harms."""
    with (
        ClusterBackend.listening(lease=1.0, heartbeat=0.1, files=[]) as place,
        workers(place.port, tmp_path_factory.mktemp("steady")) as start,
    ):
        start(id="steady", slots="2", labels="steady=yes")
        yield place


@pytest.fixture
def start(fleet: ClusterBackend, tmp_path: Path) -> Iterator[Start]:
    """Start more workers for one test."""
    with workers(fleet.port, tmp_path) as begin:
        yield begin


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate(PATIENCE) as made:
        yield made
