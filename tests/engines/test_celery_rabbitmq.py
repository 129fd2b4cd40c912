"""Celery over a RabbitMQ, with outcomes by a queue of the broker: the same suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagrid.execution.backends.celery import CeleryBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance
from tests.engines.celery_place import installation, rabbitmq

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
PROJECT = """
from celery import Celery

app = Celery("proj", broker="amqp://nowhere")
app.conf.worker_prefetch_multiplier = 1
app.conf.task_default_queue = "dagrid"
"""
address = ""


@pytest.fixture(scope="module", autouse=True)
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers that name no result backend: both ends find `rpc://` by themselves."""
    global address
    folder = tmp_path_factory.mktemp("rabbitmq")
    (folder / "by_rabbit.py").write_text(PROJECT)
    options = ("--include", "dagrid.execution.backends.celery")
    with installation(folder, server=rabbitmq, target="by_rabbit", options=options) as address:
        yield


class TestCeleryOverRabbitMQ(BackendConformance):
    carries_surroundings = False
    patience = 20.0

    def make_backend(self, slots: int) -> Backend:
        return CeleryBackend(address, max_workers=slots)


class TestCeleryOverRabbitMQWithTheEngine(EngineConformance):
    patience = 20.0

    def make_backend(self, slots: int) -> Backend:
        return CeleryBackend(address, max_workers=slots)
