"""What nodes ask for is found by Dask, large values stay on its workers, and workers come and go."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import pytest
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, get_client, get_worker

from dagrid import DAG, Node
from dagrid.errors import BackendClosedError, PoisonousTaskError, UnsatisfiableError
from dagrid.execution.backends import _dask
from dagrid.execution.backends._dask import Cluster
from dagrid.execution.backends.dask import PATIENT, DaskBackend
from dagrid.testing import Gate
from dagrid.testing.gate import stand
from tests.engines.dask_place import settle

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]
LARGE = 2**20


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def client(_by_value: None) -> Iterator[Client]:
    """Two worker processes of one thread each that offer different things."""
    left = {"nthreads": 1, "resources": {"gpu": 1, "zone=a": 1, "both": 1}}
    right = {"nthreads": 1, "resources": {"slot": 1, "zone=b": 1, "both": 1}}
    cluster = SpecCluster(
        workers={"left": {"cls": Nanny, "options": left}, "right": {"cls": Nanny, "options": right}},
        scheduler={"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0}},
        silence_logs=50,
    )
    with dask.config.set(PATIENT), cluster:
        found = Client(cluster, set_as_default=False)
        yield found
        found.close()


@pytest.fixture
def backend(client: Client) -> Iterator[DaskBackend]:
    settle(client, 2)
    with DaskBackend(client=client, kill=True) as found:
        yield found


def where() -> str:
    return str(get_worker().name)


def test_a_resource_leads_to_who_has_it(backend: DaskBackend) -> None:
    """The run does not count it, Dask does; the trace names the process."""
    nodes = [Node(f"gpu{number}", where, resources={"gpu": 1}) for number in range(5)]
    nodes += [Node(f"slot{number}", where, resources={"slot": 0.5}) for number in range(5)]
    result = DAG(nodes).run(backend=backend).raise_for_status()
    assert {result[f"gpu{number}"] for number in range(5)} == {"left"}
    assert {result[f"slot{number}"] for number in range(5)} == {"right"}


@pytest.mark.parametrize(
    ("selector", "found"), [({"zone": "a"}, "left"), ({"name": "right"}, "right"), ({"slot": "true"}, "right")]
)
def test_a_selector_leads_to_whose_labels_match(backend: DaskBackend, selector: dict[str, str], found: str) -> None:
    """Names, resources with a value, and plain resources are labels."""
    nodes = [Node(f"n{number}", where, selector=selector) for number in range(5)]
    nodes.append(Node("with", where, selector=selector, resources={"both": 1}))
    result = DAG(nodes).run(backend=backend).raise_for_status()
    assert {result[node.id] for node in nodes} == {found}


def test_what_is_asked_for_is_held_while_it_is_used(backend: DaskBackend) -> None:
    """The resources of Dask are a limit; so two tasks that ask for all of one stand there one after the other."""
    with Gate(30.0) as gate:
        address = gate.address
        nodes = [Node(f"n{number}", lambda: stand(address, "here"), resources={"gpu": 1}) for number in range(2)]
        nodes += [Node("other", lambda: stand(address, "other"), resources={"slot": 1})]
        run = DAG(nodes).start(backend=backend)
        first, second = gate.meet(), gate.meet()
        assert {first.label, second.label} == {"here", "other"}
        first.release()
        second.release()
        gate.meet().release()
        run.wait(30).raise_for_status()


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ({"resources": {"gpu": 2}}, r"'greedy' asks for gpu=2.*gpu=1, zone=a=1.*--resources"),
        ({"selector": {"zone": "c"}}, r"'greedy' asks for zone=c.*name=left"),
        ({"selector": {"zone": "a"}, "resources": {"slot": 1}}, r"'greedy' asks for slot=1, zone=a"),
    ],
)
def test_what_nobody_has_is_refused(backend: DaskBackend, tmp_path: Path, asks: dict[str, Any], told: str) -> None:
    """Before anything runs, with what there is."""
    mark = tmp_path / "ran"
    with pytest.raises(UnsatisfiableError, match=told):
        DAG([Node("first", mark.touch), Node("greedy", where, **asks)]).run(backend=backend)
    assert not mark.exists()


def test_values_flow_through_tasks(backend: DaskBackend) -> None:
    """Calls as tasks of Dask take and give what others do, and fail as others do."""
    nodes = [
        Node("one", lambda: 1),
        Node("two", lambda one: one + 1, inputs={"one": "one"}, resources={"gpu": 1}),
        Node("three", lambda two: two + 1, inputs={"two": "two"}, resources={"slot": 1}),
        Node("four", lambda three: three + 1, inputs={"three": "three"}),
        Node("bad", lambda four: {}[four], inputs={"four": "four"}, resources={"gpu": 1}),
    ]
    result = DAG(nodes).run(backend=backend)
    assert (result["four"], result.node_result("bad").status) == (4, "failed")
    assert isinstance(result.node_result("bad").error, KeyError)


@pytest.mark.parametrize("size", [1, 10_000, LARGE])
def test_each_task_comes_back_once_whatever_the_size_of_its_value(
    client: Client, backend: DaskBackend, tmp_path: Path, size: int
) -> None:
    """Whether the scheduler tells of the report, or it is fetched, or its value stays where it is; and Dask keeps nothing."""

    def made(number: int) -> bytes:
        with open(tmp_path / str(number), "a") as file:
            file.write("performed\n")
        return number.to_bytes(4) * size

    nodes = [Node(f"n{n}", partial(made, n), resources={"both": 1}) for n in range(40)]
    ids = [node.id for node in nodes]
    nodes.append(Node("all", lambda **given: [given[one][:4] for one in ids], inputs={one: one for one in ids}))
    result = DAG(nodes).run(backend=backend)
    assert result["all"] == [number.to_bytes(4) for number in range(40)]
    assert [len(file.read_text().splitlines()) for file in tmp_path.iterdir()] == [1] * 40
    del result
    gc.collect()
    while values_of_dagrid(client) or any(not str(key).startswith("dagrid-") for key in client.who_has()):
        gc.collect()


def test_the_scheduler_remembers_no_backend_that_is_gone(client: Client) -> None:
    """What it is told under a topic it keeps, up to a thousand reports under each; so there may not be one for each backend."""
    known = []
    for _ in range(3):
        with DaskBackend(client=client) as backend:
            assert DAG([Node("one", partial(bytes, 900), resources={"both": 1})]).run(backend=backend).ok
        known.append({topic for topic in client.get_events() if not topic.startswith("tcp:")})
    assert known[0] == known[1] == known[2]


def test_a_late_task_is_stopped(backend: DaskBackend) -> None:
    """The process ends, what it held is free again, and the node behind it runs."""
    with Gate(30.0) as gate:
        address = gate.address
        nodes = [
            Node("late", lambda: stand(address), timeout=0.5, priority=1, resources={"gpu": 1}),
            Node("next", where, resources={"gpu": 1}),
        ]
        result = DAG(nodes).run(backend=backend)
        gate.meet().wait_gone()
    assert (result.node_result("late").status, result["next"]) == ("timed_out", "left")


def test_a_task_that_ends_its_worker_runs_again(backend: DaskBackend, tmp_path: Path) -> None:
    """It is lost once, and comes again when the worker is back."""
    mark = str(tmp_path / "died")
    with Gate(30.0) as gate:
        address = gate.address

        def dies_once() -> str:
            if not os.path.exists(mark):
                stand(address)
                with open(mark, "w"):
                    os.kill(os.getpid(), 9)
            return where()

        run = DAG([Node("dies", dies_once, selector={"zone": "a"}, resources={"gpu": 1})]).start(backend=backend)
        visit = gate.meet()
        next(event for event in run.events(follow=True) if event.kind == "started")
        visit.release()
        result = run.wait(60)
    assert (result["dies"], result.node_result("dies").attempts) == ("left", 2)


def test_a_restart_of_the_workers_loses_what_ran() -> None:
    """Dask forgets all its tasks then: what had begun is lost with its worker, and what waited behind it is not."""
    settings: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=1, resources={"gpu": 1}, **settings) as cluster,
        Client(cluster) as client,
        DaskBackend(client=client) as backend,
        Gate(30.0) as gate,
    ):
        address = gate.address
        nodes = [
            Node("runs", lambda: stand(address), priority=1, resources={"gpu": 1}),
            Node("waits", int, resources={"gpu": 1}),
        ]
        run = DAG(nodes).start(backend=backend)
        gate.meet()
        next(event for event in run.events(follow=True) if event.kind == "started")
        client.restart()
        gate.meet().release()
        result = run.wait(50).raise_for_status()
    assert [result.node_result(name).attempts for name in ("runs", "waits")] == [2, 1]


def test_a_task_that_is_to_run_once_does_not_begin_again(backend: DaskBackend, tmp_path: Path) -> None:
    """Dask runs a task again whose worker died; one that has begun is lost, however soon it died, and two had places to go."""
    mark = tmp_path / "ran"

    def dies() -> None:
        with mark.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), 9)

    result = DAG([Node("dies", dies, resources={"both": 1}, on_lost="fail")]).run(backend=backend)
    assert (result.node_result("dies").status, mark.read_text()) == ("lost", "x")


def test_a_task_that_always_ends_its_worker_is_given_up(tmp_path: Path) -> None:
    """After three losses that were seen. At first nobody may know that it had begun, and Dask tries four times."""
    mark = tmp_path / "ran"

    def dies() -> None:
        with mark.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), 9)

    nodes = [Node("dies", dies, resources={"gpu": 1}, priority=1)]
    nodes += [Node(f"n{number}", partial(int, number), resources={"gpu": 1}) for number in range(5)]
    settings: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    # As many as may die, for Dask gives up one that dies before its nanny looks.
    with LocalCluster(n_workers=6, resources={"gpu": 1}, **settings) as cluster, Client(cluster) as client:
        result = DAG(nodes).run(backend=DaskBackend(client=client))
    assert isinstance(result.node_result("dies").error, PoisonousTaskError)
    assert len(mark.read_text()) <= 4 + 3
    assert result.succeeded == 5
    assert {result.node_result(f"n{number}").attempts for number in range(5)} == {1}


def values_of_dagrid(client: Client) -> dict[str, tuple[str, ...]]:
    return {key: who for key, who in client.who_has().items() if who and str(key).startswith("dagrid-value")}


@pytest.mark.parametrize("asks", [{"resources": {"both": 1}}, {}])
def test_a_large_value_stays_on_the_cluster(
    client: Client, backend: DaskBackend, monkeypatch: pytest.MonkeyPatch, asks: dict[str, Any]
) -> None:
    """It goes from worker to worker past this process, comes here when it is read, and is dropped when nobody refers to it."""
    nodes = [Node("made", lambda: b"x" * LARGE, selector={"name": "left"}, **asks)]
    nodes += [Node(f"left{n}", len, inputs={"obj": "made"}, selector={"name": "left"}, **asks) for n in range(3)]
    nodes += [Node(f"right{n}", len, inputs={"obj": "made"}, selector={"name": "right"}, **asks) for n in range(3)]
    fetched: list[str] = []
    fetch = Cluster._fetch

    async def noted(cluster: Cluster, key: str) -> bytes:
        fetched.append(key)
        return await fetch(cluster, key)

    monkeypatch.setattr(Cluster, "_fetch", noted)
    result = DAG(nodes).run(backend=backend)
    assert [result[node.id] for node in nodes[1:]] == [LARGE] * 6
    assert not fetched
    assert len(values_of_dagrid(client)) == 1
    assert len(result["made"]) == LARGE
    assert len(fetched) == 1
    del result
    gc.collect()
    fetched.clear()
    while values_of_dagrid(client):
        gc.collect()


def test_a_value_that_is_lost_is_said_to_be(client: Client) -> None:
    """Its worker has died with it: no hang, but an error that names the node."""
    settle(client, 2)
    with DaskBackend(client=client) as backend, Gate(30.0) as gate:
        address = gate.address
        nodes = [
            Node("made", lambda: b"x" * LARGE, selector={"name": "left"}),
            Node("wait", lambda: stand(address), selector={"name": "right"}),
            Node("taken", lambda made, wait: len(made), inputs={"made": "made", "wait": "wait"}),
        ]
        run = DAG(nodes).start(backend=backend)
        next(event for event in run.events(follow=True) if (event.kind, event.node) == ("completed", "made"))
        visit = gate.meet()
        ((left,),) = values_of_dagrid(client).values()
        os.kill(client.run(os.getpid, workers=[left])[left], 9)
        while values_of_dagrid(client):
            pass
        visit.release()
        result = run.wait(60)
    assert result.node_result("taken").status == "failed"
    assert "stayed where it was made" in str(result.node_result("taken").error)
    settle(client, 2)


def test_tasks_find_the_worker_and_a_client(backend: DaskBackend) -> None:
    """As tasks of Dask do, though they are none."""

    def asks() -> tuple[str, int]:
        return where(), get_client().submit(sum, [1, 2], pure=False).result(timeout=30)

    result = DAG([Node("one", asks, selector={"name": "left"})]).run(backend=backend).raise_for_status()
    assert result["one"] == ("left", 3)


def test_workers_come_and_go() -> None:
    """Who comes gets work of the run that goes on; what is with one that goes is performed again elsewhere."""
    with ExitStack() as opened:
        settings: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
        cluster = opened.enter_context(LocalCluster(n_workers=1, **settings))
        client = Client(cluster, set_as_default=False)
        opened.callback(client.close)
        backend = opened.enter_context(DaskBackend(client=client))
        gate = opened.enter_context(Gate(30.0))
        address = gate.address
        run = DAG([Node(f"n{number}", lambda: stand(address)) for number in range(3)]).start(backend=backend)
        first = gate.meet()
        cluster.scale(2)
        second = gate.meet()
        cluster.scale(1)
        second.wait_gone()
        first.release()
        for _ in range(2):
            gate.meet().release()
        result = run.wait(60).raise_for_status()
    assert sorted(result.node_result(f"n{number}").attempts for number in range(3)) == [1, 1, 2]


def test_a_worker_that_stands_still_keeps_nobody_waiting(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens the backend goes on with the others, and it joins when it goes on too."""
    settle(client, 2)
    monkeypatch.setattr(_dask, "ANSWER", 0.5)
    still = client.submit(os.getpid, resources={"gpu": 1}, pure=False).result(timeout=30)
    os.kill(still, signal.SIGSTOP)
    try:
        with DaskBackend(client=client) as backend:
            assert DAG([Node("any", where)]).run(backend=backend)["any"] == "right"
            os.kill(still, signal.SIGCONT)
            found = None
            while found is None:
                with suppress(UnsatisfiableError):
                    found = DAG([Node("there", where, selector={"name": "left"})]).run(backend=backend)["there"]
    finally:
        os.kill(still, signal.SIGCONT)
    assert found == "left"


CLUSTER = """
import asyncio
from distributed import Scheduler, Worker

async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler, Worker(scheduler.address, nthreads=1):
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(main())
"""


@pytest.mark.parametrize("asks", [{}, {"selector": {"host": "127.0.0.1"}, "resources": {"slot": 1}}])
def test_a_scheduler_that_is_gone_ends_the_run(asks: dict[str, Any]) -> None:
    """The run fails when the client has given up, and says why; nobody waits for ever."""
    program = CLUSTER.replace("nthreads=1", 'nthreads=1, resources={"slot": 1}')
    with ExitStack() as opened:
        process = opened.enter_context(
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        )
        opened.callback(process.kill)
        assert process.stdout is not None
        backend = opened.enter_context(DaskBackend(process.stdout.readline().strip(), timeout=2.0))
        gate = opened.enter_context(Gate(30.0))
        address = gate.address
        run = DAG([Node(f"n{number}", lambda: stand(address), **asks) for number in range(3)]).start(backend=backend)
        visit = gate.meet()
        process.kill()
        visit.wait_gone()
        result = run.wait(40)
    assert result.status.value == "failed"
    assert "scheduler" in str(result.node_result("n2").error)


def test_a_task_ends_whose_backend_is_closed(client: Client) -> None:
    """The client is somebody else's and goes on; what the run had there fails, and so does what comes later."""
    settle(client, 2)
    with Gate(30.0) as gate:
        nodes = [Node("held", partial(stand, gate.address), resources={"gpu": 1})]
        nodes += [Node("after", where, ["held"], resources={"slot": 1})]
        backend = DaskBackend(client=client, kill=True)
        run = DAG(nodes).start(backend=backend, on_failure="continue")
        visit = gate.meet()
        backend.close()
        visit.wait_gone()
        result = run.wait(30.0)
    assert {type(one.error) for one in result.node_results.values()} == {BackendClosedError}
