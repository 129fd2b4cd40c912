"""Ray finds the worker: nodes that ask for resources or labels are tasks of its own, and large values stay in the cluster."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from dagrid import DAG, Node
from dagrid.errors import BackendClosedError, DagridError, PoisonousTaskError, TransferError, UnsatisfiableError
from dagrid.execution.backends.ray import RayBackend
from dagrid.graph.arguments import Arguments, Group, Ref
from dagrid.graph.policy import Retry
from dagrid.testing.gate import Gate, stand

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

PATIENCE = 40.0
LARGE = 5 * 2**20
ONE = {"CPU": 1}


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    """In a cluster of one machine with two CPUs, a resource of its own and a label."""
    ray.init(
        address="local",
        num_cpus=2,
        resources={"disk": 2},
        labels={"zone": "north"},
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level="ERROR",
    )
    with RayBackend(num_cpus=2, keep_workers=60.0) as backend:
        yield backend
    ray.shutdown()


def large(size: int = LARGE) -> bytes:
    return bytes(size)


def same(value: Any) -> Any:
    return value


def test_nodes_that_ask_are_tasks_of_ray(backend: RayBackend) -> None:
    """CPUs, a custom resource and a label; values flow between them and the others, errors keep their type."""

    def fail(value: int) -> None:
        raise LookupError(value)

    nodes = [
        Node("cpu", lambda: ray.get_runtime_context().get_assigned_resources(), resources={"CPU": 2}),
        Node(
            "disk", lambda: ray.get_runtime_context().get_assigned_resources(), resources={"disk": 1, "num_cpus": 0.5}
        ),
        Node("label", lambda cpu, disk: (cpu, disk), inputs={"cpu": "cpu", "disk": "disk"}, selector={"zone": "north"}),
        Node("plain", same, inputs={"value": "label"}),
        Node("bad", fail, inputs={"value": "plain"}, resources=ONE),
    ]
    result = DAG(nodes).run(backend=backend)
    assert result["plain"] == ({"CPU": 2.0}, {"CPU": 0.5, "disk": 1.0})
    assert type(result.node_results["bad"].error) is LookupError


def test_the_trace_says_who_and_how_long(backend: RayBackend) -> None:
    """The worker is the process that ran the task, and its seconds are the task's own, not the way to it and back."""

    def work() -> tuple[str, float, float]:
        began = time.time()
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        return str(os.getpid()), began, time.time()

    result = DAG([Node("task", work, resources=ONE), Node("plain", work)]).run(backend=backend)
    assert result.trace is not None
    for span in result.trace:
        pid, began, ended = result[span.node]
        assert result.node_results[span.node].worker.endswith(":" + pid)
        assert ended - began <= span.ended - span.started < ended - began + 0.2


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        ({"resources": {"GPU": 1}}, "Node 'n' asks for GPU=1.*they have GPU=0"),
        ({"resources": {"CPU": 3}}, "Node 'n' asks for CPU=3.*they have CPU=2"),
        ({"resources": {"memory": 1e15}}, "Node 'n' asks for memory=.*they have memory="),
        ({"resources": {"tape": 1}}, "Node 'n' asks for tape=1.*there is CPU, disk"),
        ({"selector": {"zone": "south"}}, "Node 'n' asks for the labels zone=south.*There are: .*zone=north"),
        ({"selector": {"zone": "in("}}, "node 'n' asks for: Invalid label selector"),
    ],
)
def test_what_nobody_has_is_refused(backend: RayBackend, asks: Any, says: str) -> None:
    """Before anything runs, with the node, what it asks for and what there is; Ray by itself would wait for ever."""
    ran: list[str] = []
    with pytest.raises(UnsatisfiableError, match=says):
        DAG([Node("first", partial(ran.append, "first")), Node("n", large, ["first"], **asks)]).run(backend=backend)
    assert not ran


def test_a_late_task_is_stopped_and_the_next_one_runs(backend: RayBackend) -> None:
    """Ray kills its process, does not try it again, and nobody calls it lost; a retry of the node is a new try."""
    with Gate(PATIENCE) as gate:
        address = gate.address
        nodes = [
            Node("slow", lambda: stand(address), timeout=0.2, retries=Retry(1, on=(TimeoutError,)), resources=ONE),
            Node("n", large, resources=ONE),
        ]
        run = DAG(nodes).start(backend=backend)
        for _ in range(2):
            gate.meet().wait_gone()
        result = run.wait(PATIENCE)
        assert (result.timed_out, result.succeeded) == (1, 1)
        assert result.node_results["slow"].attempts == 2
        assert not {"lost", "requeued"} & {event.kind for event in run.events()}


def test_a_cancelled_run_stops_its_tasks(backend: RayBackend) -> None:
    """What runs is killed, and what waits in Ray never begins."""
    with Gate(PATIENCE) as gate:
        address = gate.address
        run = DAG([Node(f"n{i}", lambda: stand(address), resources={"CPU": 2}) for i in range(5)]).start(
            backend=backend
        )
        visit = gate.meet()
        run.cancel()
        result = run.wait(PATIENCE)
        visit.wait_gone()
        assert result.cancelled == 5


def test_a_task_whose_process_dies_is_lost(backend: RayBackend) -> None:
    """It is sent again, at the third time given up, and others are not touched."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    nodes = [Node("bad", die, resources=ONE), *[Node(f"n{i}", large, resources=ONE) for i in range(10)]]
    result = DAG(nodes).run(backend=backend)
    assert result.succeeded == 10
    assert isinstance(result.node_results["bad"].error, PoisonousTaskError)


def test_workers_make_room_for_tasks(backend: RayBackend) -> None:
    """The long-lived workers hold both CPUs of the cluster; a task that needs them gets them, and then they come back."""
    nodes = [Node(f"plain{i}", partial(time.sleep, 0.05)) for i in range(4)]
    nodes += [
        Node("task", large, [node.id for node in nodes], resources={"CPU": 2}),
        Node("last", len, inputs={"obj": "task"}),
    ]
    assert DAG(nodes).run(backend=backend)["last"] == LARGE


def test_more_tasks_than_may_be_under_way(backend: RayBackend) -> None:
    """A wide layer is handed to Ray a part at a time."""
    nodes = [Node(f"n{i}", partial(int, i), resources=ONE) for i in range(200)]
    last = Node("sum", lambda **values: sum(values.values()), [node.id for node in nodes], resources=ONE)
    result = DAG([*nodes, last]).run(backend=backend)
    assert result["sum"] == sum(range(200))


@pytest.mark.parametrize("asks", [{}, {"resources": ONE}])
def test_large_values_do_not_come_to_the_driver(backend: RayBackend, asks: Any) -> None:
    """Thirty megabytes through three nodes, also within a list: the driver's memory stays where it was; then they are read."""
    size = 30 * 2**20
    arguments = Arguments((Group(list, (Ref("make"), Ref("pass"), Ref("make"))),))
    nodes = [
        Node("make", partial(large, size), **asks),
        Node("pass", same, inputs={"value": "make"}, **asks),
        Node("list", lambda of: [len(value) for value in of], ["make", "pass"], arguments=arguments, **asks),
    ]
    tracemalloc.start()
    try:
        result = DAG(nodes).run(backend=backend)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 10
    assert result["list"] == [size] * 3
    assert result["pass"] == large(size)
    assert result["pass"] == large(size)


def test_a_large_value_outlives_its_worker(backend: RayBackend, tmp_path: Path) -> None:
    """The actor that made it is killed before it is used; the value belongs to the driver, and nothing is made twice."""
    mark = tmp_path / "died"

    def make() -> tuple[int, bytes]:
        return os.getpid(), large()

    def die(made: tuple[int, bytes]) -> int:
        if not mark.exists():
            mark.touch()
            os.kill(made[0], signal.SIGKILL)
            time.sleep(30)  # until the signal has come, if it was for this process
        return os.getpid()

    nodes = [
        Node("make", make),
        Node("die", die, inputs={"made": "make"}),
        Node("use", lambda made, pid: (made[0], len(made[1]), pid), inputs={"made": "make", "pid": "die"}),
    ]
    with RayBackend(num_cpus=1) as alone:
        result = DAG(nodes).run(backend=alone)
    maker, size, user = result["use"]
    assert size == LARGE
    assert maker != user
    assert result.node_results["make"].attempts == 1
    assert len(result["make"][1]) == LARGE


def test_a_value_that_nobody_needs_leaves_the_cluster(backend: RayBackend) -> None:
    """Ten values of 30 MB pass through a store of 200; with the last reference to one Ray lets go of it."""
    size = 30 * 2**20
    nodes = [Node("n0", partial(large, size))]
    nodes += [Node(f"n{i}", same, inputs={"value": f"n{i - 1}"}) for i in range(1, 10)]
    result = DAG([*nodes, Node("len", len, inputs={"obj": "n9"})]).run(backend=backend, keep="outputs")
    assert result["len"] == size
    gc.collect()
    mine = {node.id for node in nodes}
    assert not [each for each in backend._depot._known if each.node in mine and each.size >= size]


@ray.remote(num_cpus=0)
class Owner:
    """What it puts into the cluster goes with it."""

    def put(self) -> list[Any]:
        return [ray.put(large())]


def get_until_it_fails(handle: Any) -> None:
    """Ray notices the end of an owner in its own time."""
    while True:
        ray.get(handle)


def test_a_value_that_is_lost_says_so(backend: RayBackend) -> None:
    """What is gone from the cluster is an error with the node and the remedy, for the reader and for a later node."""
    owner = Owner.remote()  # type: ignore[attr-defined]
    (lost,) = ray.get(owner.put.remote())
    with Gate(PATIENCE) as gate:
        address = gate.address
        # What has a timeout carries nobody along: the others are sent when the value is lost.
        wait = Node("wait", lambda made: stand(address), inputs={"made": "make"}, timeout=PATIENCE)
        nodes = [Node("make", large), wait, Node("plain", same, ["wait"], inputs={"value": "make"})]
        nodes += [Node("task", same, ["wait"], inputs={"value": "make"}, resources=ONE)]
        run = DAG(nodes).start(backend=backend)
        visit = gate.meet()
        run._engine.values[0].handle = lost
        ray.kill(owner)
        with pytest.raises(ray.exceptions.ObjectLostError):
            get_until_it_fails(lost)
        visit.release()
        result = run.wait(PATIENCE)
    with pytest.raises(TransferError, match=r"value of node 'make' .* cannot be had .* Run the node again"):
        result["make"]
    for name in ("plain", "task"):
        with pytest.raises(TransferError, match=f"node '{name}' takes stayed where it was made, and cannot be had"):
            result[name]


def test_an_argument_that_cannot_travel_fails_its_node(backend: RayBackend) -> None:
    """A lock among the arguments of a task is told with the node, as on every backend, and the run goes on."""
    nodes = [
        Node("bad", same, arguments=Arguments((threading.Lock(),)), resources=ONE),
        Node("good", large, resources=ONE),
    ]
    result = DAG(nodes).run(backend=backend)
    error = result.node_results["bad"].error
    assert isinstance(error, TransferError)
    assert "'bad'" in str(error)
    assert result.succeeded == 1
    assert issubclass(TransferError, DagridError)


def test_a_task_ends_whose_backend_is_closed(backend: RayBackend) -> None:
    """The session is somebody else's and goes on; what the run had there fails, and so does what comes later."""
    with Gate(PATIENCE) as gate:
        nodes = [Node("held", partial(stand, gate.address), resources=ONE)]
        nodes += [Node("after", same, inputs={"value": "held"}, depends_on=["held"], resources=ONE)]
        closed = RayBackend(num_cpus=1)
        run = DAG(nodes).start(backend=closed, on_failure="continue")
        visit = gate.meet()
        closed.close()
        visit.wait_gone()
        result = run.wait(PATIENCE)
    assert isinstance(result.node_results["held"].error, BackendClosedError)
    assert result.status == "failed"
