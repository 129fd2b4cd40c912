"""Two real Celery workers over a real Redis pass the suites that are shipped for every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagrid.execution.backends.celery import CeleryBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance
from tests.engines.celery_place import installation

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
address = ""


@pytest.fixture(scope="module", autouse=True)
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global address
    with installation(tmp_path_factory.mktemp("celery")) as address:
        yield


class TestCelery(BackendConformance):
    carries_surroundings = False
    patience = 20.0

    def make_backend(self, slots: int) -> Backend:
        return CeleryBackend(address, max_workers=slots)


class TestCeleryWithTheEngine(EngineConformance):
    patience = 20.0

    def make_backend(self, slots: int) -> Backend:
        return CeleryBackend(address, max_workers=slots)
