"""Two real Celery workers over a real Redis pass the suites that are shipped, the situations of growth and the mosaic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dagrid.execution.backends.celery import CeleryBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance
from tests.engines.celery_place import installation
from tests.engines.mosaic_on_engine import MosaicOnEngine
from tests.growth.growth_situations import GrowthSituations, travelling_by_value

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


class TestCeleryGrowth(GrowthSituations):
    @pytest.fixture
    def place(self) -> Iterator[Any]:
        with travelling_by_value(), CeleryBackend(address) as backend:
            yield backend


@pytest.mark.example
class TestCeleryMosaic(MosaicOnEngine):
    def backend_argument(self) -> str:
        return f"celery?broker={address}"
