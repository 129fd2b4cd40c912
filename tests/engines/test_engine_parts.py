"""A graph in parts on engines that users have: each part is one task of the engine, and comes back as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from distributed import Client, LocalCluster

from dagrid import DAG, Node, NodeStatus
from dagrid.execution.backends.dask import DaskBackend
from dagrid.execution.backends.ray import RayBackend
from dagrid.execution.distributed import PartitionedDAGExecutor

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


def graph() -> DAG:
    """Return three chains that meet, in one of which a node fails; the functions are local, so that they travel by value."""

    def make() -> tuple[int, list[int]]:
        return os.getpid(), [1]

    def more(value: tuple[int, list[int]]) -> tuple[int, list[int]]:
        return os.getpid(), [*value[1], len(value[1]) + 1]

    def fail(value: Any) -> None:
        raise LookupError("not here")

    def meet(a: Any, b: Any) -> int:
        return len(a[1]) + len(b[1])

    nodes = []
    for lane in "abc":
        nodes.append(Node(f"{lane}0", make))
        nodes += [Node(f"{lane}{at}", more, inputs={"value": f"{lane}{at - 1}"}) for at in range(1, 5)]
    nodes.append(Node("bad", fail, inputs={"value": "c4"}))
    nodes.append(Node("meet", meet, inputs={"a": "a4", "b": "b4"}))
    nodes.append(Node("never", meet, inputs={"a": "meet", "b": "bad"}))
    return DAG(nodes)


def check(backend: Any) -> None:
    """Run the graph in parts, twice, and look at what came of it."""
    executor = PartitionedDAGExecutor(graph(), k=2, strategy="balanced", backend=backend)
    for _ in range(2):
        result = executor.execute()
        assert result["meet"] == 10
        assert result.node_results["bad"].status is NodeStatus.FAILED
        assert result.node_results["never"].reason == "'bad' failed"
        with pytest.raises(LookupError, match="not here"):
            result["bad"]
        made = {(result[name][0], result.node_results[name].worker) for name in ("a0", "b0", "c0", "a4", "b4", "c4")}
        processes, workers = {one for one, _ in made}, {one for _, one in made}
        assert os.getpid() not in processes
        assert len(processes) == len(workers) == len(made)
        assert all(workers)
        assert result.trace is not None
        assert len(list(result.trace)) == 17
        for one in result.node_results.values():
            assert 0 <= one.started <= one.ended <= result.total_duration_seconds


def check_chain(backend: Any) -> None:
    """Run a chain, each node a part: an engine that takes chains along must not be given a part before what it needs is there."""

    def step(a: int = 0) -> int:
        return a + 1

    dag = DAG([Node(f"n{at}", step, inputs={"a": f"n{at - 1}"} if at else None) for at in range(8)])
    executor = PartitionedDAGExecutor(dag, k=8, backend=backend)
    assert len(executor.partition) == 8
    for _ in range(3):
        result = executor.execute()
        result.raise_for_status()
        assert result["n7"] == 8


@pytest.fixture
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        client = Client(cluster, set_as_default=False)
        yield client
        client.close()


def test_parts_on_a_dask_cluster(client: Client) -> None:
    """The parts are performed by the processes of the cluster, whose names and times are in the result."""
    backend = DaskBackend(client=client)
    check(backend)
    check_chain(backend)


@pytest.fixture
def session() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("session")
def test_parts_on_ray() -> None:
    """The same on Ray, in a session of the user's."""
    with RayBackend(num_cpus=2) as backend:
        check(backend)
        check_chain(backend)
