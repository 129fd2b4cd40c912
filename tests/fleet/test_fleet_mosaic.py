"""The mosaic on workers of the fleet, with one argument changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagrid.execution.backends.cluster.backend import ClusterBackend
from tests.engines.mosaic_on_engine import MosaicOnEngine
from tests.fleet.fleet_place import workers

pytestmark = [pytest.mark.example, pytest.mark.timeout(120)]


class TestMosaic(MosaicOnEngine):
    @pytest.fixture(autouse=True)
    def _port(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with ClusterBackend.listening() as here, workers(here.port, tmp_path_factory.mktemp("fleet")) as start:
            for name in ("left", "right"):
                start(id=name, slots="1", env={"PYTHONPATH": str(Path(__file__).parents[2])})
            self.port = here.port
            yield

    def backend_argument(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"
