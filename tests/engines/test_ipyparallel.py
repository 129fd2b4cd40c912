"""Engines of ipyparallel pass what is asked of every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import ipyparallel
import pytest

from dagrid import DAG, Node
from dagrid.errors import BackendError
from dagrid.execution.backends.ipyparallel import IPyParallelBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def engines() -> Iterator[Any]:
    """Two engines on this machine; they do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = ipyparallel.Cluster(n=2, log_level=50)
    try:
        client = cluster.start_and_connect_sync()
        yield client
        client.close()
    finally:
        cluster.stop_cluster_sync()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class TestEngines(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, engines: Any) -> None:
        self.client = engines

    def make_backend(self, slots: int) -> Backend:
        return IPyParallelBackend(client=self.client, max_workers=slots)


class TestGraphs(EngineConformance):
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, engines: Any) -> None:
        self.client = engines

    def make_backend(self, slots: int) -> Backend:
        return IPyParallelBackend(client=self.client, max_workers=slots)


def test_a_graph_runs_on_engines_that_are_not_ours(engines: Any) -> None:
    """Values flow between engines, and the client stays open."""
    nodes = [Node("one", os.getpid), Node("two", lambda one: (one, os.getpid()), inputs={"one": "one"})]
    with IPyParallelBackend(client=engines) as backend:
        result = DAG(nodes).run(backend=backend)
    assert set(result["two"]) <= set(engines[:].apply_sync(os.getpid))


def test_engines_are_started_and_an_engine_that_dies_costs_one_attempt(engines: Any, tmp_path: Any) -> None:
    """Without a client they are ours, and gone afterwards; what a dead one ran runs again on the other."""
    mark = str(tmp_path / "died")

    def dies_once() -> int:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), 9)
        return os.getpid()

    with IPyParallelBackend(max_workers=2) as backend:
        result = DAG([Node("dies", dies_once)]).run(backend=backend)
        assert result.node_result("dies").attempts == 2
    with pytest.raises(ProcessLookupError):
        os.kill(result["dies"], 0)


def test_many_runs_at_once(engines: Any) -> None:
    """They share the engines, and nobody gets the value of another."""
    dag = DAG([Node("one", os.getpid), Node("two", lambda one, number=0: number, inputs={"one": "one"})])
    with IPyParallelBackend(client=engines) as backend:
        runs = [
            dag.start({"two": lambda one, number=number: (bool(one), number)}, backend=backend) for number in range(12)
        ]
        assert [run.wait(60)["two"] for run in runs] == [(True, number) for number in range(12)]


def test_without_the_package() -> None:
    """The error says what to install."""
    program = """
import sys
sys.modules["ipyparallel"] = None
import dagrid
from dagrid.errors import BackendNotInstalledError
try:
    dagrid.DAG([dagrid.Node("one", lambda: 1)]).run(backend="ipyparallel")
except BackendNotInstalledError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'dagrid[ipyparallel]'" in found.stdout


def test_nobody_at_the_address(tmp_path: Any) -> None:
    """The error names the file."""
    with pytest.raises(BackendError, match=r"nowhere\.json"):
        IPyParallelBackend(str(tmp_path / "nowhere.json"), timeout=0.5)
