"""Two real IPython engines pass the suites that are shipped, the situations of growth and the mosaic; and more."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import cloudpickle
import ipyparallel
import psutil
import pytest

from dagrid import DAG, Node
from dagrid.errors import (
    BackendUnreachableError,
    CapabilityError,
    InvalidSettingError,
    TaskTimeoutError,
    TransferError,
    UnsatisfiableError,
)
from dagrid.execution.backends.ipyparallel import IPyParallelBackend
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance, Gate
from dagrid.testing.gate import stand
from tests.engines.mosaic_on_engine import MosaicOnEngine
from tests.growth.growth_situations import GrowthSituations, travelling_by_value

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    """The engines do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A controller and two engines on this machine."""
    cluster = ipyparallel.Cluster(n=2, log_level=50)
    try:
        yield cluster.start_cluster_sync() or cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture(scope="module")
def address(cluster: Any) -> str:
    """Its connection file."""
    return os.path.join(cluster.profile_dir, "security", f"ipcontroller-{cluster.cluster_id}-client.json")


@pytest.fixture(scope="module")
def engines(address: str) -> Iterator[Any]:
    client = ipyparallel.Client(address)
    client.wait_for_engines(2, timeout=60)
    yield client
    client.close()


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


class TestGrowth(GrowthSituations):
    @pytest.fixture
    def place(self, engines: Any) -> Iterator[Any]:
        with travelling_by_value(), IPyParallelBackend(client=engines) as backend:
            yield backend


@pytest.mark.example
class TestMosaic(MosaicOnEngine):
    @pytest.fixture(autouse=True)
    def _address(self, address: str, engines: Any) -> None:
        self.address = address

    def backend_argument(self) -> str:
        return f"ipyparallel?address={self.address}"


def test_a_graph_runs_on_engines_that_are_not_ours(engines: Any) -> None:
    """Values flow between engines, the client stays open, and no thread of a performer stays behind."""
    nodes = [Node("one", os.getpid), Node("two", lambda one: (one, os.getpid()), inputs={"one": "one"})]
    with IPyParallelBackend(client=engines) as backend:
        result = DAG(nodes).run(backend=backend)
    assert set(result["two"]) <= set(engines[:].apply_sync(os.getpid))

    def performers() -> int:
        return sum(thread.name == "dagrid-tasks" and thread.is_alive() for thread in threading.enumerate())

    deadline = perf_counter() + 10
    while any(engines[:].apply_sync(performers)):
        assert perf_counter() < deadline


def test_small_tasks_travel_together(engines: Any) -> None:
    """A thousand calls take some tens of messages, and not one each: of that the client keeps a list."""
    before = len(engines.history)
    with IPyParallelBackend(client=engines) as backend:
        assert DAG([Node(f"node {number}", os.getpid) for number in range(1000)]).run(backend=backend).ok
    assert len(engines.history) - before < 250


class Prompt:
    """A client, one of whose answers is there before who asked can say whom to tell, as when a thread is held up."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.prompt = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def __getitem__(self, engine: int) -> Any:
        view = self.client[engine]
        ask = view.apply_async

        def apply_async(*args: Any) -> Any:
            result = ask(*args)
            if self.prompt:
                self.prompt = False
                result.get(30)
            return result

        view.apply_async = apply_async
        return view


def test_an_answer_that_is_there_at_once(engines: Any) -> None:
    """It says that the call runs; how that ends is asked for all the same, though nothing else happens any more."""
    client = Prompt(engines)
    with IPyParallelBackend(client=client, max_workers=1) as backend, Gate(30.0) as gate:
        place = gate.address
        client.prompt = True
        run = DAG([Node("long", lambda: stand(place, "done"))]).start(backend=backend)
        visit = gate.meet()
        deadline = perf_counter() + 30
        while not run.running():
            assert perf_counter() < deadline
        visit.release()
        assert run.wait(30)["long"] == "done"
        assert not client.prompt


def test_what_waits_behind_a_long_call_goes_to_another_engine(engines: Any) -> None:
    """No task is held back by a batch: what is with an engine that is busy comes back when the other is idle."""
    with IPyParallelBackend(client=engines) as backend, Gate(30.0) as gate:
        place = gate.address
        nodes = [Node(f"node {number}", os.getpid) for number in range(60)]
        nodes.insert(30, Node("long", lambda: stand(place), priority=-1))
        run = DAG([*nodes, *(Node(f"late {number}", os.getpid, priority=-2) for number in range(20))]).start(
            backend=backend
        )
        visit = gate.meet()
        deadline = perf_counter() + 30
        while run.counts()["completed"] < 80:
            assert perf_counter() < deadline, run.counts()
        visit.release()
        assert run.wait(30).ok


def test_an_engine_answers_others_while_it_performs(engines: Any) -> None:
    """Tasks do not occupy the main thread of an engine, which may be somebody's."""
    with IPyParallelBackend(client=engines) as backend, Gate(30.0) as gate:
        place = gate.address
        run = DAG([Node(f"node {number}", lambda: stand(place)) for number in range(2)]).start(backend=backend)
        visits = [gate.meet(), gate.meet()]
        assert engines[:].apply_sync(len, "abc") == [3, 3]
        for visit in visits:
            visit.release()
        assert run.wait(30).ok


def test_a_selector_finds_its_engine(engines: Any) -> None:
    """The number of an engine and its machine are labels; the nodes run there and nowhere else."""
    (host,) = set(engines[:].apply_sync(lambda: __import__("socket").gethostname()))
    nodes = [
        Node(f"node {number}", os.getpid, selector={"engine": "1", "host": host} if number % 2 else {})
        for number in range(20)
    ]
    with IPyParallelBackend(client=engines) as backend:
        result = DAG(nodes).run(backend=backend)
    assert {result[f"node {number}"] for number in range(1, 20, 2)} == {engines[1].apply_sync(os.getpid)}


def test_a_selector_that_nobody_offers(engines: Any) -> None:
    """It is refused before anything runs, with the node, what it asks for, and what there is."""
    with (
        IPyParallelBackend(client=engines) as backend,
        pytest.raises(UnsatisfiableError, match=r"'picky'.*gpu=true.*engine-0 has engine=0,host="),
    ):
        DAG([Node("picky", os.getpid, selector={"gpu": "true"})]).run(backend=backend)


def test_an_engine_joins_a_run(engines: Any, cluster: Any) -> None:
    """It serves the run that has begun, and has the labels of its environment; when it ends, the others go on."""
    with IPyParallelBackend(client=engines) as backend, Gate(60.0) as gate:
        place = gate.address
        run = DAG([Node(f"node {number}", lambda: stand(place)) for number in range(3)]).start(backend=backend)
        visits = [gate.meet(), gate.meet()]
        cluster.start_engines_sync(n=1, environment={"DAGRID_WORKER_LABELS": "gpu=true, memory=64G, spare"})
        visits.append(gate.meet())
        for visit in visits:
            visit.release()
        assert run.wait(30).ok
        (third,) = {engine for engine in engines.ids if engine > 1}
        asks = {"gpu": "true", "memory": "64G", "spare": "true"}
        picky = DAG([Node("picky", os.getpid, selector=asks)]).run(backend=backend)
        assert picky["picky"] == engines[third].apply_sync(os.getpid)
        assert picky.node_result("picky").worker == f"engine-{third}"
        os.kill(picky["picky"], signal.SIGKILL)
        assert DAG([Node(f"node {number}", os.getpid) for number in range(100)]).run(backend=backend).ok


def test_engines_of_our_own_are_killed_and_replaced() -> None:
    """What runs too long is really stopped there; of a batch in an engine that dies only what it ran is lost; others come."""
    with IPyParallelBackend(max_workers=2) as backend, Gate(60.0) as gate:
        assert backend.capabilities.kills
        place = gate.address
        late = DAG([Node("slow", lambda: stand(place), timeout=0.3), Node("other", os.getpid)]).start(backend=backend)
        gate.meet().wait_gone()
        result = late.wait(60)
        assert result.succeeded == 1
        with pytest.raises(TaskTimeoutError):
            result["slow"]

        nodes = [Node(f"node {number}", os.getpid) for number in range(60)]
        nodes.insert(10, Node("dies", lambda: stand(place, str(os.getpid())) and os.getpid()))
        run = DAG(nodes).start(backend=backend)
        visit = gate.meet()
        deadline = perf_counter() + 30
        while run.running() != ["dies"]:
            assert perf_counter() < deadline
        os.kill(int(visit.label), signal.SIGKILL)
        gate.meet().release()
        result = run.wait(60)
        assert result.ok
        assert [name for name in result if result.node_result(name).attempts > 1] == ["dies"]

        pair = [Node(f"node {number}", lambda: stand(place, "here") and os.getpid()) for number in range(2)]
        run = DAG(pair).start(backend=backend)
        for visit in (gate.meet(), gate.meet()):
            visit.release()
        result = run.wait(60)
        pids = {result[name] for name in result}
    assert len(pids) == 2
    for pid in pids:
        _wait_gone(pid)


def _wait_gone(pid: int) -> None:
    deadline = perf_counter() + 10
    while perf_counter() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
    raise AssertionError(f"the engine {pid} is still there")


def test_many_runs_at_once(engines: Any) -> None:
    """They share the engines, and nobody gets the value of another."""
    dag = DAG([Node("one", os.getpid), Node("two", lambda one, number=0: number, inputs={"one": "one"})])
    with IPyParallelBackend(client=engines) as backend:
        runs = [
            dag.start({"two": lambda one, number=number: (bool(one), number)}, backend=backend) for number in range(12)
        ]
        assert [run.wait(60)["two"] for run in runs] == [(True, number) for number in range(12)]


def test_a_value_that_cannot_be_pickled(engines: Any) -> None:
    """The node fails and its error names the node and the type; the engine goes on."""
    with IPyParallelBackend(client=engines) as backend:
        result = DAG([Node("lock", threading.Lock), Node("fine", os.getpid)]).run(backend=backend)
    assert result["fine"]
    with pytest.raises(TransferError, match=re.escape("'lock'")):
        result["lock"]


def test_an_engine_with_another_python(engines: Any) -> None:
    """Both versions stand in the error, before anything is sent."""

    def pretend(version: tuple[Any, ...]) -> tuple[Any, ...]:
        before = tuple(sys.version_info)
        vars(sys)["version_info"] = version
        return before

    before = engines[1].apply_sync(pretend, (2, 7, 18))
    try:
        with pytest.raises(CapabilityError, match=r"engine 1 .*Python 2\.7 and this process Python 3"):
            IPyParallelBackend(client=engines)
    finally:
        engines[1].apply_sync(pretend, before)


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


def test_nobody_at_the_address(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(BackendUnreachableError, match=r"nowhere\.json"):
        IPyParallelBackend(str(tmp_path / "nowhere.json"), timeout=0.5)


@pytest.mark.parametrize("wrong", [{"max_workers": 0}, {"max_in_flight": -1}, {"address": "x", "client": object()}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    """They are refused before anything is started."""
    with pytest.raises(InvalidSettingError):
        IPyParallelBackend(**wrong)


ENGINES_OF_ITS_OWN = """
import threading
from dagrid import DAG, Node
from dagrid.execution.backends.ipyparallel import IPyParallelBackend
with IPyParallelBackend(max_workers=1) as backend:
    run = DAG([Node("long", lambda: threading.Event().wait())]).start(backend=backend)
    print("there", flush=True)
    run.wait()
"""


def test_engines_end_with_a_program_that_is_killed() -> None:
    """Also where nobody can tell them: controller, engines and nannies."""
    with subprocess.Popen([sys.executable, "-c", ENGINES_OF_ITS_OWN], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        begun = psutil.Process(program.pid).children(recursive=True)
        assert any("ipyparallel.engine" in one.cmdline() for one in begun)
        program.kill()
    assert not psutil.wait_procs(begun, timeout=60)[1]
