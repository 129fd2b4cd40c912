"""Dask clusters pass what is asked of every backend, and what only they can do or suffer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import cloudpickle
import dask
import pytest
from distributed import Client, LocalCluster

import dagrid
from dagrid import DAG, Node
from dagrid.errors import BackendError, BackendUnreachableError, InvalidSettingError
from dagrid.execution.backends.dask import PATIENT, DaskBackend
from dagrid.graph.grow import map_reduce
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance, Gate
from dagrid.testing.gate import stand
from tests.engines.dask_place import settle
from tests.engines.mosaic_on_engine import MosaicOnEngine
from tests.growth.growth_situations import GrowthSituations, travelling_by_value

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def started(**settings: Any) -> LocalCluster:
    return LocalCluster(dashboard_address="127.0.0.1:0", silence_logs=50, **settings)


def connected(cluster: LocalCluster) -> Iterator[Client]:
    """Connect without becoming the current client, which `with` would."""
    with dask.config.set(PATIENT), cluster:
        client = Client(cluster, set_as_default=False)
        yield client
        client.close()


@pytest.fixture(scope="module")
def processes(_by_value: None) -> Iterator[Client]:
    """Two worker processes of one thread each, with nannies."""
    yield from connected(started(n_workers=2, threads_per_worker=1))


@pytest.fixture(scope="module")
def threads(_by_value: None) -> Iterator[Client]:
    """One worker process of two threads, in which nothing can be killed."""
    yield from connected(started(n_workers=1, threads_per_worker=2))


class TestProcesses(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _client(self, processes: Client) -> None:
        self.client = processes

    def make_backend(self, slots: int) -> Backend:
        settle(self.client, 2)
        return DaskBackend(client=self.client, max_workers=slots, kill=True)


class TestThreads(BackendConformance):
    carries_surroundings = False
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
        settle(self.client, 2)
        return DaskBackend(client=self.client, max_workers=slots, kill=True)


class TestGrowth(GrowthSituations):
    @pytest.fixture
    def place(self, processes: Client) -> Iterator[DaskBackend]:
        with travelling_by_value(), DaskBackend(client=processes) as backend:
            yield backend


@pytest.mark.example
class TestMosaic(MosaicOnEngine):
    @pytest.fixture(autouse=True)
    def _client(self, processes: Client) -> None:
        self.client = processes

    def backend_argument(self) -> str:
        settle(self.client, 2)
        return address_of(self.client).replace("tcp", "dask")


def address_of(client: Client) -> str:
    return str(client.scheduler_info()["address"])


def test_a_url_names_the_scheduler(processes: Client) -> None:
    """The place is one text; the connection made for it is closed with the run, the cluster is not."""
    settle(processes, 2)
    url = f"dask://{address_of(processes).removeprefix('tcp://')}?max_workers=1"
    result = DAG([Node("one", os.getpid), Node("two", lambda one: (one, os.getpid()), inputs={"one": "one"})]).run(
        backend=url
    )
    first, second = result["two"]
    assert first == second != os.getpid()
    assert processes.status == "running"
    assert processes.submit(sum, [1, 2]).result(timeout=30) == 3


def test_the_current_client_is_used_and_left_open(threads: Client) -> None:
    """Who has a client does not name it again."""
    with threads.as_current(), DaskBackend() as backend:
        assert backend.client is threads
        assert DAG([Node("one", os.getpid)]).run(backend=backend)["one"] in threads.run(os.getpid).values()
    assert threads.status == "running"


def test_without_an_address_processes_are_started_and_ended() -> None:
    """They are ours: a late task is killed, and afterwards none of them is left."""
    with DaskBackend(max_workers=2) as backend, Gate(30.0) as gate:
        assert backend.capabilities.kills
        workers = set(backend.client.nthreads())
        address = gate.address
        nodes = [Node("late", lambda: stand(address), timeout=0.5), Node("pid", os.getpid)]
        result = DAG(nodes).run(backend=backend)
        assert result.node_result("late").status == "timed_out"
        gate.meet().wait_gone()
        while len(now := set(backend.client.nthreads())) < 2 or now == workers:
            pass  # until Dask knows: it would call the one that is gone for half a minute
        pids = set(backend.client.run(os.getpid).values())
    for pid in {result["pid"], *pids}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_of_ours_that_is_being_replaced_is_not_given_up() -> None:
    """A cluster of Dask's looks some time after each death, and ends the nanny of who is not there then, for ever."""
    before = dask.config.get("distributed.deploy.lost-worker-timeout")
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0.3s"}):
        with DaskBackend(max_workers=1) as backend, Gate(30.0) as gate:
            address = gate.address
            late = Node("late", lambda: stand(address), timeout=0.5, retries=2, continue_on=["failure"])
            result = DAG([late, Node("after", os.getpid, ["late"])]).run(backend=backend)
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "0.3s"
    assert (result.node_result("late").status, result.node_result("late").attempts) == ("timed_out", 3)
    assert result["after"] > 0
    assert dask.config.get("distributed.deploy.lost-worker-timeout") == before


EXAMPLE = """
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.backends.dask import DaskBackend

dag = (
    dagrid.DAG.builder()
    .add_node("fetch_users")
    .add_node("fetch_orders")
    .add_node("join")
    .add_edge("fetch_users", "join")
    .add_edge("fetch_orders", "join")
    .build()
)

backend = DaskBackend(address)

with DistributedExecutor(dag, backend, enable_tracing=True, node_timeout=60.0) as executor:
    result = executor.execute({
        "fetch_users": lambda: "users",
        "fetch_orders": lambda: "orders",
        "join": lambda: "joined",
    })
"""


def test_the_documented_example(processes: Client) -> None:
    """What the reference shows for its engines, with this one's name."""
    names: dict[str, Any] = {"dagrid": dagrid, "address": address_of(processes)}
    exec(EXAMPLE, names)
    result = names["result"]
    assert (result.backend_name, result.execution_result.succeeded) == ("dask", 3)
    assert result.dispatch_info["join"]["backend"] == "dask"
    assert result.execution_result.trace is not None


def test_a_graph_grows_on_it(processes: Client) -> None:
    """What a task returned says how many nodes follow."""
    rule = map_reduce("list", Node("up", lambda name: name.upper()), reduce=Node("join", "+".join))
    result = DAG([Node("list", lambda: ["a", "b", "c"])]).run(rules=[rule], backend=f"dask://{address_of(processes)}")
    assert result.raise_for_status()["join"] == "A+B+C"


def test_a_task_whose_worker_dies_runs_again(processes: Client, tmp_path: Any) -> None:
    """The loss is counted once, and the value comes from another process."""
    settle(processes, 2)
    mark = str(tmp_path / "died")

    def dies_once() -> int:
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), 9)
        return os.getpid()

    nodes = [Node("dies", dies_once), Node("after", lambda dies: dies, inputs={"dies": "dies"})]
    with DaskBackend(client=processes) as backend:
        result = DAG(nodes).run(backend=backend)
    assert result["after"] == result["dies"] != os.getpid()
    assert result.node_result("dies").attempts == 2


def test_a_worker_that_is_dying_is_no_reason_to_refuse_a_run(processes: Client) -> None:
    """The scheduler may not know yet; the others do, and what takes its place."""
    settle(processes, 2)
    os.kill(min(processes.run(os.getpid).values()), signal.SIGKILL)
    with DaskBackend(client=processes) as backend:
        assert DAG([Node("one", os.getpid)]).run(backend=backend).ok


def test_many_runs_at_once(processes: Client) -> None:
    """They share the workers, and nobody gets the value of another."""
    dag = DAG([Node("one", os.getpid), Node("two", lambda one, number=0: number, inputs={"one": "one"})])
    with DaskBackend(client=processes) as backend:
        runs = [
            dag.start({"two": lambda one, number=number: (bool(one), number)}, backend=backend) for number in range(12)
        ]
        assert [run.wait(60)["two"] for run in runs] == [(True, number) for number in range(12)]


def test_nobody_at_the_address() -> None:
    """The error names the address, and comes within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(BackendError, match=rf"127\.0\.0\.1:{port}.*dask scheduler"):
        DaskBackend(f"127.0.0.1:{port}", timeout=0.5)


@pytest.mark.parametrize("said", [b"", b"-ERR unknown command\r\n"])
def test_somebody_else_at_the_address(said: bytes) -> None:
    """Who is silent, and who speaks another language, is no scheduler; Dask by itself would wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as kept:

        def serve() -> None:
            kept.enter_context(server.accept()[0]).sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(BackendUnreachableError, match=rf"127\.0\.0\.1:{port}.*dask scheduler"):
            DaskBackend(f"127.0.0.1:{port}", timeout=0.5)
        assert time.monotonic() - began < 5
        thread.join()


def test_settings_that_cannot_be(threads: Client) -> None:
    """They are refused before anything is started."""
    with pytest.raises(InvalidSettingError, match="from 1 up"):
        DaskBackend(max_workers=0)
    for url, told in (
        ("dask?client=5", "client is a distributed"),
        ("dask://h:1?timeout=abc", "timeout is a number of seconds"),
        ("dask://h:1?timeout=nan", "timeout is a number of seconds"),
        ("dask?max_workers=two", "max_workers is a whole number"),
    ):
        with pytest.raises(InvalidSettingError, match=told):
            DAG([Node("n", int)]).run(backend=url)
    with pytest.raises(InvalidSettingError, match="not both"):
        DaskBackend("127.0.0.1:1", client=threads)


def test_without_the_package() -> None:
    """The error says what to install; the rest of dagrid works without."""
    program = """
import sys
sys.modules["distributed"] = None
import dagrid
from dagrid.errors import BackendNotInstalledError
dag = dagrid.DAG([dagrid.Node("one", lambda: 1)])
assert dag.run()["one"] == 1
try:
    dag.run(backend="dask")
except BackendNotInstalledError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'dagrid[dask]'" in found.stdout
    assert "distributed" in found.stdout


OWN_CLUSTER = """
import dagrid
if __name__ == "__main__":
    print(dagrid.DAG([dagrid.Node("one", int)]).run(backend="dask?max_workers=1")["one"])
"""


OWN_CLIENT = """
import dagrid
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster):
            print(dagrid.DAG([dagrid.Node("one", int)]).run(backend="dask")["one"])
        while len(cluster.scheduler.clients) > 1:  # the cluster has one itself
            pass
"""


@pytest.mark.parametrize("text", [OWN_CLUSTER, OWN_CLIENT])
def test_a_program_with_a_cluster_of_its_own_prints_what_it_prints(tmp_path: Any, text: str) -> None:
    """The cluster goes without a word of Dask's in the user's terminal, and so does a client of the user's."""
    program = tmp_path / "program.py"
    program.write_text(text)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=100)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


def test_a_program_without_the_guard_is_told_of_it(tmp_path: Any) -> None:
    """Its workers, which load it, do not begin workers of their own."""
    program = tmp_path / "program.py"
    program.write_text("import dagrid; dagrid.DAG([dagrid.Node('one', int)]).run(backend='dask?max_workers=1')")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("dagrid.errors.BackendError: ")]
    assert len(said) == 2  # of the worker, and here
    assert all('below `if __name__ == "__main__":`' in line for line in said)


def test_an_error_comes_without_its_cause(processes: Client) -> None:
    """Dask has tracebacks and causes pickled; here they come as a text, so that a cause may be what it likes."""

    def fail() -> None:
        cause = OSError()
        cause.args = (threading.Lock(),)
        raise ValueError("it is") from cause

    result = DAG([Node("fail", fail)]).run(backend=DaskBackend(client=processes))
    error = result.node_results["fail"].error
    assert isinstance(error, ValueError)
    assert "OSError" in str(error.__cause__)
