"""The fleet does what every backend does: over the loopback, with workers that are processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import cloudpickle
import pytest

from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance
from tests.fleet.fleet_place import workers
from tests.growth.growth_situations import GrowthSituations, travelling_by_value


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, str]]:
    """By the number of slots, the address of a coordinator: one with one worker, one with two of one slot each."""
    with (
        ClusterBackend.listening(files=[]) as one,
        ClusterBackend.listening(files=[]) as two,
        workers(one.port, tmp_path_factory.mktemp("one")) as start_one,
        workers(two.port, tmp_path_factory.mktemp("two")) as start_two,
    ):
        start_one(id="only", slots="1")
        for name in ("left", "right"):
            start_two(id=name, slots="1")
        yield {1: f"grpc://127.0.0.1:{one.port}", 2: f"grpc://127.0.0.1:{two.port}"}


class TestFleet(BackendConformance):
    carries_surroundings = False

    @pytest.fixture(autouse=True)
    def _places(self, addresses: dict[int, str]) -> None:
        self.addresses = addresses

    def make_backend(self, slots: int) -> Backend:
        return ClusterBackend(self.addresses[slots], files=[])


class TestGraphs(EngineConformance):
    @pytest.fixture(autouse=True)
    def _places(self, addresses: dict[int, str]) -> None:
        self.addresses = addresses

    def make_backend(self, slots: int) -> Backend:
        return ClusterBackend(self.addresses[slots], files=[])


class TestGrowth(GrowthSituations):
    @pytest.fixture
    def place(self, addresses: dict[int, str]) -> Iterator[ClusterBackend]:
        with travelling_by_value(), ClusterBackend(addresses[2], files=[]) as backend:
            yield backend
