"""Dask clusters pass what is asked of every backend, and what only they can do or suffer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from distributed import Client, LocalCluster

from dagrid.execution.backends.dask import DaskBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def started(**settings: Any) -> LocalCluster:
    return LocalCluster(dashboard_address="127.0.0.1:0", silence_logs=50, **settings)


@pytest.fixture(scope="module")
def processes(_by_value: None) -> Iterator[Client]:
    """Two worker processes of one thread each, with nannies."""
    with started(n_workers=2, threads_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def threads(_by_value: None) -> Iterator[Client]:
    """One worker process of two threads, in which nothing can be killed."""
    with started(n_workers=1, threads_per_worker=2) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


class TestProcesses(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, processes: Client) -> None:
        self.client = processes

    def make_backend(self, slots: int) -> Backend:
        self.client.wait_for_workers(2, timeout=30)
        return DaskBackend(client=self.client, max_workers=slots, kill=True)


class TestThreads(BackendConformance):
    carries_surroundings = False
    frees_slots = False
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, threads: Client) -> None:
        self.client = threads

    def make_backend(self, slots: int) -> Backend:
        return DaskBackend(client=self.client, max_workers=slots)


class TestGraphs(EngineConformance):
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, processes: Client) -> None:
        self.client = processes

    def make_backend(self, slots: int) -> Backend:
        self.client.wait_for_workers(2, timeout=30)
        return DaskBackend(client=self.client, max_workers=slots, kill=True)
