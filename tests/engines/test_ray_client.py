"""Ray Client: programs that are no part of a cluster reach it at a `ray://` address, here of a head with two CPUs.

A session of Ray Client cannot live beside another in one process, so the programs are processes of their own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from dagrid.execution.backends import ray as room
from tests.engines.celery_place import free_port, stop

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

OPENING = """
import os, time, tracemalloc
import ray
from dagrid import DAG, Node
from dagrid.errors import BackendError, TransferError, UnsatisfiableError
from dagrid.execution.backends.ray import RayBackend
from dagrid.testing.gate import Gate, stand

address = os.environ["HEAD"]
ASKS = ({}, {"resources": {"CPU": 1}})
SIZE = 20 * 2**20
"""

WHOLE = """
backend = RayBackend(address=address)

for asks in ASKS:
    nodes = [
        Node("a", lambda: 20, **asks),
        Node("b", lambda: 1),
        Node("sum", lambda a, b: a + 2 * b, inputs={"a": "a", "b": "b"}, **asks),
        Node("bad", lambda value: [][value], inputs={"value": "sum"}, **asks),
        Node("after", int, ["bad"], **asks),
    ]
    result = DAG(nodes).run(backend=backend)
    print("values", result["sum"], type(result.node_results["bad"].error).__name__, result.skipped)

chain = [Node("n0", int)] + [Node(f"n{i}", lambda value: value + 1, inputs={"value": f"n{i - 1}"}) for i in range(1, 50)]
print("chain", DAG(chain).run(backend=backend)["n49"])
crowd = [Node(f"n{i}", int, **ASKS[1]) for i in range(60)]
print("crowd", DAG(crowd).run(backend=backend).succeeded)

tracemalloc.start()
nodes = [
    Node("make", lambda: bytes(SIZE)),
    Node("pass", lambda value: value, inputs={"value": "make"}, **ASKS[1]),
    Node("len", len, inputs={"obj": "pass"}),
]
result = DAG(nodes).run(backend=backend)
print("stays", result["len"] == SIZE, tracemalloc.get_traced_memory()[1] < SIZE / 4)
tracemalloc.stop()

for asks in ASKS:
    with Gate(30) as gate:
        door = gate.address
        run = DAG([Node(f"n{i}", lambda: stand(door), **asks) for i in range(4)]).start(backend=backend)
        visits = [gate.meet() for _ in range(2)]
        run.cancel()
        print("cancelled", run.wait(30).cancelled)
        for visit in visits:
            visit.wait_gone()
        late = DAG([Node("late", lambda: stand(door), timeout=0.6, **asks), Node("next", int, ["late"])])
        run = late.start(backend=backend)
        gate.meet().wait_gone()
        result = run.wait(30)
        print("late", result.timed_out, result.skipped)

try:
    DAG([Node("n", int, resources={"tape": 1})]).run(backend=backend)
except UnsatisfiableError as error:
    print("tape", "there is CPU" in str(error))

result = DAG([Node("large", lambda: bytes(SIZE))]).run(backend=backend)
backend.close()
print("ended", not ray.is_initialized(), len(result["large"]) == SIZE)
"""

THEIRS = """
ray.init(address=address, logging_level="ERROR")
theirs = ray.put("theirs")
with RayBackend() as backend:
    result = DAG([Node("a", lambda: bytes(SIZE))]).run(backend=backend)
print("left open", ray.is_initialized(), ray.get(theirs), len(result["a"]) == SIZE)

backend = RayBackend()
result = DAG([Node("a", lambda: bytes(SIZE))]).run(backend=backend)
ray.shutdown()
try:
    result["a"]
except TransferError as error:
    print("value", "session in which it was made is over" in str(error))
for asks in ASKS:
    try:
        found = DAG([Node("n", int, **asks)]).run(backend=backend).node_results["n"].error
    except BackendError as error:
        found = error
    print("over", "session is over" in str(found), ray.is_initialized())
backend.close()
"""

WITHOUT = """
import sys
sys.modules["grpc"] = None
from dagrid.errors import BackendNotInstalledError
from dagrid.execution.backends.ray import RayBackend
try:
    RayBackend(address="ray://127.0.0.1:10001")
except BackendNotInstalledError as error:
    print(error)
"""


@dataclass(frozen=True, slots=True)
class Head:
    """A cluster of one machine: where it is reached, and the environment of programs that may."""

    address: str
    environment: dict[str, str]

    def run(self, program: str) -> list[str]:
        """Return what a program that is a client of the cluster prints."""
        done = subprocess.run(
            [sys.executable, "-c", OPENING + program],
            capture_output=True,
            text=True,
            check=False,
            timeout=80,
            env={**self.environment, "HEAD": self.address},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head that hears this machine alone, with a token of its own; the paths of its sockets must be short."""
    port = free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # elsewhere too this makes Ray stay with 127.0.0.1
        "RAY_SCHEDULER_EVENTS": "0",  # who waits for CPUs is not to be told so between the lines of the program
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # with it the process for a client often dies while it starts
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--ray-client-server-port={port}", "--include-dashboard=false"]
    command += ["--disable-usage-stats", f"--object-store-memory={200 * 2**20}"]
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, f"--temp-dir={folder}"],
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        try:
            _wait_open(process, port, log)
            yield Head(f"ray://127.0.0.1:{port}", environment)
        finally:
            stop(process)


def _wait_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        with suppress(OSError):
            room._knock(f"127.0.0.1:{port}")
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            raise RuntimeError(log.read_text())
        if time.monotonic() > deadline:
            raise RuntimeError(log.read_text())


def test_an_address_of_ray_client(head: Head) -> None:
    """All that the backend can it can through Ray Client, for nodes of the workers and for tasks of Ray; its session ends."""
    assert head.run(WHOLE) == [
        "values 22 IndexError 1",
        "values 22 IndexError 1",
        "chain 49",
        "crowd 60",
        "stays True True",
        "cancelled 4",
        "late 1 1",
        "cancelled 4",
        "late 1 1",
        "tape True",
        "ended True True",
    ]


def test_a_session_of_ray_client_of_the_users(head: Head) -> None:
    """It is used, and left as it is; when the user ends it, what needs it says so, and Ray begins none by itself."""
    assert head.run(THEIRS) == [
        "left open True theirs True",
        "value True",
        "over True False",
        "over True False",
    ]


def test_without_the_packages_of_ray_client() -> None:
    """The command that installs them is in the message, before anybody knocks."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout.strip().endswith("pip install 'ray[client]'"), done.stderr
