"""Ray as a place: the suites that are shipped for every backend, and what is Ray's own, in a real session on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray

from dagrid.execution.backends.ray import RayBackend
from dagrid.testing import BackendConformance, EngineConformance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """A session of the user's, which backends find and leave as it is."""
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR"
    )
    yield
    ray.shutdown()


class TestRay(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    def make_backend(self, slots: int) -> RayBackend:
        return RayBackend(num_cpus=slots)


class TestRayWithTheEngine(EngineConformance):
    patience = 30.0

    def make_backend(self, slots: int) -> RayBackend:
        return RayBackend(num_cpus=slots)
