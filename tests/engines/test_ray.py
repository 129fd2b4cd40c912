"""Ray as a place: the suites that are shipped for every backend, and what is Ray's own, in a real session on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import ray

from dagrid import DAG, Node
from dagrid.errors import BackendUnreachableError, InvalidSettingError, PoisonousTaskError
from dagrid.execution.backends.ray import RayBackend
from dagrid.testing import BackendConformance, EngineConformance
from tests.engines.mosaic_on_engine import MosaicOnEngine
from tests.growth.growth_situations import GrowthSituations, travelling_by_value

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

EXAMPLE = """
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.backends.ray import RayBackend

# Initialize Ray (or connect to an existing cluster)
backend = RayBackend(num_cpus=16)

with DistributedExecutor(dag, backend, node_timeout=300) as executor:
    result = executor.execute(tasks)
"""

OWN_SESSION = f"""
import dagrid, ray
dag = dagrid.DAG.builder().add_node("a").add_node("b").add_edge("a", "b").build()
tasks = {{"a": lambda: 1, "b": lambda: bytes(500_000)}}
{EXAMPLE}
print(result.backend_name, result.execution_result.succeeded, ray.is_initialized(), len(result.execution_result["b"]))
"""


OVER = """
import ray
from dagrid import DAG, Node
from dagrid.errors import BackendError
from dagrid.execution.backends.ray import RayBackend

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
backend = RayBackend()
for asks in ({"resources": {"CPU": 1}}, {}):
    DAG([Node("n", int, **asks)]).run(backend=backend).raise_for_status()
ray.shutdown()
for asks in ({}, {"resources": {"CPU": 1}}):
    try:
        found = DAG([Node("n", int, **asks)]).run(backend=backend).node_results["n"].error
    except BackendError as error:
        found = error
    print("session is over" in str(found), ray.is_initialized())
backend.close()
print(ray.is_initialized())
"""


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session of the user's, which backends find and leave as it is."""
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture
def backend(session: None) -> Iterator[RayBackend]:
    with RayBackend(num_cpus=2) as backend:
        yield backend


@pytest.mark.usefixtures("session")
class TestRay(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    def make_backend(self, slots: int) -> RayBackend:
        return RayBackend(num_cpus=slots)


@pytest.mark.usefixtures("session")
class TestRayWithTheEngine(EngineConformance):
    patience = 30.0

    def make_backend(self, slots: int) -> RayBackend:
        return RayBackend(num_cpus=slots)


@pytest.mark.usefixtures("session")
class TestRayGrowth(GrowthSituations):
    @pytest.fixture
    def place(self, backend: RayBackend) -> Iterator[RayBackend]:
        with travelling_by_value():
            yield backend


@pytest.mark.example
@pytest.mark.usefixtures("session")
class TestRayMosaic(MosaicOnEngine):
    def backend_argument(self) -> str:
        return "ray?num_cpus=2"


def test_a_session_of_the_users_is_reused_and_left_alone(session: None) -> None:
    """Who called `ray.init` still has their cluster after the run; the page's example, word for word."""
    dag = DAG([Node("a"), Node("b", depends_on=["a"])])
    names = {"dag": dag, "tasks": {"a": lambda: 1, "b": lambda: 2}}
    exec(EXAMPLE, names)
    result = names["result"]
    assert (result.backend_name, result.execution_result["b"]) == ("ray", 2)  # type: ignore[attr-defined]
    assert ray.is_initialized()


def test_a_session_that_the_backend_began_ends_with_it() -> None:
    """The same example where there is no session; nothing but the program's own words is printed.

    A large value that had stayed in the session can still be read.
    """
    done = subprocess.run([sys.executable, "-c", OWN_SESSION], capture_output=True, text=True, check=False, timeout=100)
    assert (done.stdout, done.returncode) == ("ray 2 False 500000\n", 0), done.stderr


def test_a_session_that_is_over_is_not_replaced() -> None:
    """A backend whose session was ended says so: Ray by itself would begin another, which nobody would ever end."""
    done = subprocess.run([sys.executable, "-c", OVER], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "True False\nTrue False\nFalse\n", done.stdout + done.stderr


ENDS = """
import ray
from dagrid import DAG, Node
from dagrid.execution.backends.ray import RayBackend
from dagrid.testing import Gate
from dagrid.testing.gate import stand

for asks in ({"resources": {"CPU": 1}}, {}):
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with RayBackend() as backend, Gate(60.0) as gate:
        address = gate.address
        nodes = [Node("runs", lambda: stand(address), priority=1, **asks), Node("waits", int, **asks)]
        run = DAG(nodes).start(backend=backend)
        gate.meet()
        ray.shutdown()
        result = run.wait(60)
    print(*("session is over" in str(result.node_result(name).error) for name in ("runs", "waits")), ray.is_initialized())
"""


def test_a_session_that_ends_beneath_a_run_ends_it() -> None:
    """Ray answers nothing then that it was asked before, and the run must not wait for that."""
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False, timeout=110)
    assert done.stdout == "True True False\n" * 2, done.stdout + done.stderr


def test_nobody_at_the_address() -> None:
    """Within seconds, and with the address; Ray by itself would try for half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = f"""
from dagrid.execution.backends.ray import RayBackend
from dagrid.errors import BackendUnreachableError
for address in ("127.0.0.1:{port}", "ray://127.0.0.1:{port}"):
    try:
        RayBackend(address=address)
    except BackendUnreachableError as error:
        print(address in str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "True\nTrue\n", done.stderr
    assert issubclass(BackendUnreachableError, Exception)


OTHERS = """
import threading, socket, time
from dagrid import DAG, Node
from dagrid.execution.backends.ray import RayBackend
from dagrid.errors import BackendUnreachableError

for said in (b"", b"-ERR unknown command\\r\\n"):
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            kept.append(server.accept()[0])
            kept[-1].sendall(said)

    threading.Thread(target=serve, daemon=True).start()
    here = f"127.0.0.1:{server.getsockname()[1]}"
    for address in (here, f"ray://{here}"):
        began = time.monotonic()
        try:
            RayBackend(address=address)
        except BackendUnreachableError as error:
            print(address in str(error), time.monotonic() - began < 10)
with RayBackend(num_cpus=1) as backend:
    print(DAG([Node("n", int)]).run(backend=backend)["n"])
"""


def test_somebody_else_at_the_address() -> None:
    """Who is silent, and who speaks another language: within seconds, and a session on this machine may begin after it."""
    done = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=False, timeout=110)
    assert done.stdout == "True True\n" * 4 + "0\n", done.stdout + done.stderr


def test_a_client_that_did_not_come_about_leaves_nothing() -> None:
    """Ray's own connection fails after the first word too, and then believes that it is a client."""
    program = """
import os
os.environ["RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S"] = "1"  # it tries three times
import grpc
from ray._private import client_mode_hook
from concurrent.futures import ThreadPoolExecutor
from dagrid.execution.backends.ray import RayBackend
from dagrid.errors import BackendUnreachableError

server = grpc.server(ThreadPoolExecutor(1))  # which knows no method
port = server.add_insecure_port("127.0.0.1:0")
server.start()
try:
    RayBackend(address=f"ray://127.0.0.1:{port}")
except BackendUnreachableError as error:
    print(str(port) in str(error))
print(client_mode_hook.is_client_mode_enabled)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=110)
    assert done.stdout == "True\nFalse\n", done.stdout + done.stderr


def test_settings_that_make_no_sense(session: None) -> None:
    """A mistake is told before anything starts."""
    with pytest.raises(InvalidSettingError, match="num_cpus"):
        RayBackend(num_cpus=0)
    wrong: list[dict[str, Any]] = [{"num_cpus": "4"}, {"num_cpus": 1.5}, {"max_in_flight": "x"}, {"address": 5}]
    for settings in [*wrong, {"object_store_memory": 5}]:
        (name,) = settings
        with pytest.raises(InvalidSettingError, match=f"{name} is a .*, not "):
            RayBackend(**settings)
    with pytest.raises(InvalidSettingError, match="no_such_option"):
        RayBackend(no_such_option=1)


def test_workers_that_have_nothing_to_do_give_way(session: None) -> None:
    """To a node that uses Ray itself, while the run goes on, and to others after it; one that is a task of Ray waits for free."""

    def nested() -> int:
        return int(ray.get(ray.remote(lambda: 5).remote(), timeout=30))

    nodes = [Node(f"n{number}", partial(time.sleep, 0.5)) for number in range(4)]
    with RayBackend() as backend:
        result = DAG([*nodes, Node("nested", nested, [node.id for node in nodes])]).run(backend=backend)
        assert result["nested"] == 5
        assert ray.get(ray.remote(num_cpus=4)(nested).remote(), timeout=30) == 5
        result = DAG([Node(f"n{number}", nested, resources={"CPU": 1}) for number in range(4)]).run(backend=backend)
        assert [result[node.id] for node in nodes] == [5] * 4


def test_many_runs_share_the_workers(backend: RayBackend) -> None:
    """More runs than workers: each gets its turn, and its own values."""
    runs = [DAG([Node("n", partial(int, number))]).start(backend=backend) for number in range(10)]
    assert [run.wait(60)["n"] for run in runs] == list(range(10))


def test_a_task_that_always_kills_its_worker_is_given_up(backend: RayBackend) -> None:
    """It takes nobody along: neighbours complete, and the third loss ends it."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    result = DAG([Node("bad", die), *[Node(f"n{i}", partial(int, i)) for i in range(20)]]).run(backend=backend)
    assert result.succeeded == 20
    assert isinstance(result.node_results["bad"].error, PoisonousTaskError)
