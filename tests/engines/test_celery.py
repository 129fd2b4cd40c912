"""Graphs on real Celery workers over a real Redis: what the suites for every backend do not ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Queue

import dagrid
from dagrid import DAG, Node
from dagrid.errors import BackendError, BackendNotInstalledError, InvalidSettingError, PoisonousTaskError
from dagrid.execution.backends._celery import Said, unseal
from dagrid.execution.backends.celery import CeleryBackend, install
from dagrid.machine.events import Outcome
from dagrid.testing import Gate, Probe
from dagrid.testing.gate import stand
from tests.engines.celery_place import free_port, installation, start_redis, start_worker, stop, wait_ready, wait_said

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

EXAMPLE = """
from celery import Celery
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.backends.celery import CeleryBackend

app = Celery("dagrid_tasks", broker="redis://localhost:6379")

backend = CeleryBackend(app=app, queue="dagrid")

with DistributedExecutor(dag, backend) as executor:
    result = executor.execute(tasks)
"""
PROJECT = """
from celery import Celery

app = Celery("proj", broker="redis://nowhere")
app.conf.worker_prefetch_multiplier = 1
"""


def stand_once(address: tuple[str, int], mark: str) -> None:
    """Wait at a gate, but not if this is tried again."""
    if not os.path.exists(mark):
        Path(mark).touch()
        stand(address)


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find the tests
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Workers of a project of the user's own, which names no result backend, with dagrid's module included."""
    folder = tmp_path_factory.mktemp("celery")
    (folder / "proj.py").write_text(textwrap.dedent(PROJECT))
    options = ("--include", "dagrid.execution.backends.celery", "-Q", "dagrid")
    with installation(folder, target="proj", options=options) as address:
        yield address


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers be asked more often than every other second."""
    monkeypatch.setattr("dagrid.execution.backends._celery_watch.PULSE", 0.5)


@pytest.fixture
def backend(broker: str) -> Iterator[CeleryBackend]:
    with CeleryBackend(broker) as backend:
        yield backend


def test_the_documented_example(broker: str) -> None:
    """Word for word, but for the port of the broker."""
    dag = DAG.builder().add_node("one").add_node("two").add_edge("one", "two").build()
    names: dict[str, Any] = {"dag": dag, "tasks": {"one": lambda: 1, "two": os.getpid}}
    exec(EXAMPLE.replace("redis://localhost:6379", broker), names)
    result = names["result"]
    assert (result.backend_name, result.execution_result.succeeded) == ("celery", 2)
    assert result.execution_result["two"] != os.getpid()


def test_both_workers_take_part_and_times_are_theirs(backend: CeleryBackend) -> None:
    """Two nodes that wait for each other's arrival can only end if two workers run them."""
    with Gate(20.0) as gate:
        address = gate.address
        nodes = [Node(name, partial(stand, address, name)) for name in "ab"]
        run = DAG([*nodes, Node("pid", os.getpid, ["a", "b"])]).start(backend=backend)
        visits = [gate.meet(), gate.meet()]
        begun = (event.node for event in run.events() if event.kind == "started")
        assert {next(begun), next(begun)} == {"a", "b"}
        for visit in visits:
            visit.release()
        result = run.wait(20)
    assert result.ok
    assert result.trace is not None
    assert all(0 <= node.duration_seconds < 20 for node in result.node_results.values())


def test_many_runs_at_once_on_one_backend(backend: CeleryBackend) -> None:
    """Their attempts share queue and threads, and are not mixed up."""
    results: dict[int, Any] = {}

    def one(number: int) -> None:
        nodes = [Node(f"n{index}", lambda index=index: (number, index)) for index in range(20)]
        result = DAG(nodes).run(backend=backend)
        results[number] = [result[name] for name in result]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: [(number, index) for index in range(20)] for number in range(4)}


def test_a_task_that_kills_its_process_is_poisonous(backend: CeleryBackend) -> None:
    """Each death is one lost attempt, never delivered again by Celery; after three the node fails and the rest is run."""
    nodes = [Node("crash", lambda: os.kill(os.getpid(), signal.SIGKILL)), Node("other", lambda: 1)]
    result = DAG(nodes).run(backend=backend)
    assert (result.succeeded, result.failed) == (1, 1)
    assert isinstance(result.node_results["crash"].error, PoisonousTaskError)


def test_outcomes_by_the_broker_itself(tmp_path: Path) -> None:
    """`rpc://` is what brokers get that are no Redis; its reports come over a queue."""
    module = "from celery import Celery\napp = Celery('p')\napp.conf.result_backend = 'rpc://'\n"
    (tmp_path / "by_rpc.py").write_text(module)
    options = ("--include", "dagrid.execution.backends.celery", "-Q", "dagrid")
    nodes = [Node("one", lambda: 1), Node("two", lambda one: one + 1, inputs={"one": "one"})]
    with (
        installation(tmp_path, 1, target="by_rpc", options=options) as address,
        CeleryBackend(address, result_backend="rpc://") as backend,
    ):
        assert DAG(nodes).run(backend=backend)["two"] == 2


def test_a_whole_worker_that_dies_costs_what_it_ran(tmp_path: Path, hurry: None) -> None:
    """Nobody tells of a killed worker: it is missed, and the attempt is tried on the other one."""
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    processes = [start_redis(tmp_path, port)]
    try:
        processes.append(start_worker(tmp_path, broker, "first"))
        wait_ready(tmp_path, "first")
        with CeleryBackend(broker) as backend, Gate(60.0) as gate:
            run = DAG([Node("n", partial(stand, gate.address, "done"))]).start(backend=backend)
            gate.meet()
            os.killpg(processes[1].pid, signal.SIGKILL)
            processes.append(start_worker(tmp_path, broker, "second"))
            gate.meet().release()
            result = run.wait(30)
            assert result["n"] == "done"
            assert result.node_results["n"].attempts == 2
    finally:
        for process in reversed(processes):
            stop(process, signal.SIGTERM if process is processes[0] else signal.SIGQUIT)


def test_a_broker_that_goes_away(tmp_path: Path, hurry: None) -> None:
    """Back in time the run goes on, though it forgot everything; gone for good the run fails and says so, and ends."""
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    server = start_redis(tmp_path, port)
    worker = start_worker(tmp_path, broker, "worker")
    try:
        wait_ready(tmp_path, "worker")
        with CeleryBackend(broker, patience=15.0) as backend, Gate(60.0) as gate:
            first = partial(stand_once, gate.address, str(tmp_path / "mark"))  # its outcome may be what is forgotten
            nodes = [Node("first", first), *[Node(f"n{i}", lambda: 1) for i in range(5)]]
            nodes.append(Node("last", lambda: 2, ["first"]))
            run = DAG(nodes).start(backend=backend)
            visit = gate.meet()
            stop(server, signal.SIGKILL)
            server = start_redis(tmp_path, port)
            visit.release()
            assert run.wait(60).succeeded == 7
        with CeleryBackend(broker, patience=1.0) as backend, Gate(60.0) as gate:
            run = DAG([Node("first", partial(stand, gate.address))]).start(backend=backend)
            gate.meet()
            stop(server, signal.SIGKILL)
            error = run.wait(30).node_results["first"].error
            assert isinstance(error, BackendError)
            assert "out of reach" in str(error)
    finally:
        stop(worker, signal.SIGKILL)
        stop(server)


def test_tasks_that_end_while_the_broker_is_away(tmp_path: Path, hurry: None) -> None:
    """Their worker cannot store what came of them, and tells Celery of a failure of its own: they are done again."""
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    server = start_redis(tmp_path, port)
    worker = start_worker(tmp_path, broker, "worker")
    try:
        wait_ready(tmp_path, "worker")
        with CeleryBackend(broker, patience=30.0) as backend, Gate(60.0) as gate:
            first = partial(stand_once, gate.address, str(tmp_path / "mark"))
            run = DAG([Node("first", first), Node("last", int, ["first"])]).start(backend=backend)
            visit = gate.meet()
            stop(server, signal.SIGKILL)
            visit.release()
            wait_said(tmp_path, "Exception raised outside body", "worker")
            server = start_redis(tmp_path, port)
            result = run.wait(60)
            assert result.succeeded == 2, result.node_results["first"].error
            assert result.node_results["first"].attempts == 2
    finally:
        stop(worker, signal.SIGKILL)
        stop(server)


@pytest.mark.parametrize(("what", "attempts"), [("start", 1), ("outcome", 2)])
def test_a_connection_that_breaks_while_a_report_is_fetched(
    what: str, attempts: int, backend: CeleryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start is heard again, for Celery has it still; an outcome is lost, and no call is left of which nobody hears again."""
    broken = threading.Event()

    def broken_once(*arguments: Any) -> Said | str:
        said = unseal(*arguments)
        assert isinstance(said, Said)
        if bool(said.reports) == (what == "outcome") and not broken.is_set():
            broken.set()
            raise ConnectionError("broken")
        return said

    monkeypatch.setattr("dagrid.execution.backends._celery_line.unseal", broken_once)
    with Gate(60.0) as gate:
        run = DAG([Node("n", partial(stand, gate.address))]).start(backend=backend)
        begun = (event for event in run.events() if event.kind == "started")
        for _ in range(attempts):
            visit = gate.meet()
            next(begun)
            visit.release()
        result = run.wait(20)
    assert broken.is_set()
    assert result.node_results["n"].attempts == attempts, result.node_results["n"].error
    assert result.ok


def test_a_broker_that_is_gone_for_good_costs_one_patience(
    tmp_path: Path, hurry: None, caplog: pytest.LogCaptureFixture
) -> None:
    """However many nodes there are; it is said once, and the backend is of use again when the broker is back."""
    port = free_port()
    server = start_redis(tmp_path, port)
    try:
        with CeleryBackend(f"redis://127.0.0.1:{port}/0", patience=1.0, max_workers=2) as backend:
            run = DAG([Node(f"n{i}", int) for i in range(60)]).start(backend=backend)
            stop(server, signal.SIGKILL)
            result = run.wait(10)
            assert result.failed == 60
            assert all("out of reach" in str(node.error) for node in result.node_results.values())
            assert sum("is away" in record.getMessage() for record in caplog.records) == 1
            server = start_redis(tmp_path, port)
            text = "out of reach"
            while "out of reach" in text:
                text = str(DAG([Node("n", int)]).start(backend=backend).wait(20).node_results["n"].error)
            assert "No Celery worker takes from" in text, "it has been sent"
    finally:
        stop(server)


def test_a_queue_without_workers_ends_the_run(broker: str, hurry: None) -> None:
    """A mistyped queue must not hang for ever."""
    with CeleryBackend(broker, queue="nobody", patience=3.0) as backend:
        error = DAG([Node("n", lambda: 1)]).run(backend=backend).node_results["n"].error
        assert isinstance(error, BackendError)
        assert "'nobody'" in str(error)


def test_a_queue_without_workers_is_waited_for_as_long_as_patience_says(broker: str) -> None:
    """And not for several looks at the workers more."""
    for patience in (1.5, 4.0):
        with CeleryBackend(broker, queue="nobody", patience=patience) as backend:
            result = DAG([Node("n", int)]).run(backend=backend)
            assert patience <= result.node_results["n"].duration_seconds < patience + 3.0


def test_a_pool_that_cannot_stop_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its slot is free as soon as it is late, though it goes on; this is said once, and seen in the capabilities."""
    monkeypatch.setattr("dagrid.execution.backends._celery_watch.GRACE", 120.0)
    with (
        installation(tmp_path, 1, options=("-P", "threads", "-c", "2")) as address,
        CeleryBackend(address, max_workers=1) as backend,
        Gate(40.0) as gate,
    ):
        assert backend.capabilities.kills
        nodes = [Node("late", partial(stand, gate.address), timeout=1.0, priority=1), Node("next", int)]
        run = DAG(nodes).start(backend=backend)
        visit = gate.meet()
        result = run.wait(20)
        visit.release()
        visit.wait_gone()
        assert (result.timed_out, result.succeeded) == (1, 1)
        assert not backend.capabilities.kills
        assert sum("cannot stop a task" in record.getMessage() for record in caplog.records) == 1


def test_a_worker_that_answers_nothing_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is not the end of a worker with the pool `solo`, until patience ends."""
    monkeypatch.setattr("dagrid.execution.backends._celery_watch.PULSE", 0.2)
    with installation(tmp_path, 1, options=("-P", "solo")) as address, CeleryBackend(address) as backend:
        result = DAG([Node(name, partial(time.sleep, 8.0)) for name in "ab"]).start(backend=backend).wait(40)
        assert not backend.capabilities.kills
    assert result.ok
    assert [node.attempts for node in result.node_results.values()] == [1, 1]


def test_a_value_of_somebody_elses_task_is_no_outcome(broker: str) -> None:
    """A call that others revoke in Celery fails and says so, instead of running or hanging."""
    with CeleryBackend(broker) as backend, Probe(backend, 20.0) as probe, Gate(20.0) as gate:
        attempt = probe.submit(stand, gate.address, "x")
        gate.meet()
        probe.wait_started(attempt)
        (active,) = [task for tasks in backend.app.control.inspect().active(safe=True).values() for task in tasks]
        backend.app.control.revoke(active["id"], terminate=True, signal="SIGKILL")
        outcome = probe.outcome(attempt)
        assert outcome.kind is Outcome.FAILED
        assert "by others" in outcome.text


def test_a_broker_out_of_reach_is_told_at_once() -> None:
    """With its address, before anything runs."""
    port = free_port()
    with CeleryBackend(f"redis://127.0.0.1:{port}/0") as backend, pytest.raises(BackendError, match=str(port)):
        DAG([Node("n", lambda: 1)]).run(backend=backend)


@pytest.mark.parametrize(
    "settings",
    [
        {"broker": 5},
        {"broker": ""},
        {"broker": "nowhere"},
        {"broker": "nope://h"},
        {"broker": "redis://h:port"},
        {"app": "x"},
        {"result_backend": 5},
        {"result_backend": "nope://h"},
        {"queue": 5},
        {"queue": ""},
        {"queues": "gpu=true"},
        {"queues": 5},
        {"queues": [1, 2]},
        {"queues": {"gpu": "q"}},
        {"queues": {"gpu=true": 5}},
        {"key": ""},
        {"key": b""},
        {"key": 5},
        {"max_workers": 0},
        {"max_workers": "2"},
        {"max_workers": 1.5},
        {"max_workers": True},
        {"patience": 0},
        {"patience": "3"},
        {"patience": True},
        {"patience": float("nan")},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    """A mistake is told where it is made, by the name of the setting."""
    (name,) = settings
    with pytest.raises(InvalidSettingError, match=name.split("_")[0].rstrip("s")):
        CeleryBackend(**({} if name == "app" else {"broker": "redis://x"}) | settings)


def test_a_broker_for_which_a_package_is_not_installed() -> None:
    """It is named, with what to install, and no broker is asked."""
    with pytest.raises(BackendNotInstalledError, match=r"pip install 'celery\[sqs\]'"):
        CeleryBackend("sqs://")


def test_settings_in_a_name_that_cannot_be() -> None:
    """The form is told in which they are given."""
    for name in ("celery://host", "celery?server=redis://host"):
        with pytest.raises(InvalidSettingError, match=r"takes broker, app, .*'celery\?broker=\.\.\.'"):
            DAG([Node("n", int)]).run(backend=name)


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a current app nor the environment has one."""
    monkeypatch.setattr("celery._state._tls.current_app", None)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)


def test_a_name_without_a_broker_takes_that_of_the_current_app(broker: str, no_broker: None) -> None:
    """As the specification writes it; the app's default queue counts too."""
    app = Celery("mine", broker=broker, set_as_current=False)
    app.conf.task_default_queue = "dagrid"
    app.set_current()
    for name in ("celery?queue=dagrid", "celery"):
        assert DAG([Node("n", os.getpid)]).run(backend=name)["n"] != os.getpid()


def test_a_name_without_a_broker_takes_that_of_the_environment(
    broker: str, no_broker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the queue of who names no app."""
    monkeypatch.setenv("CELERY_BROKER_URL", broker)
    assert DAG([Node("n", os.getpid)]).run(backend="celery")["n"] != os.getpid()


def test_without_any_broker_all_ways_to_give_one_are_told(no_broker: None) -> None:
    """Instead of knocking at a default address."""
    with pytest.raises(InvalidSettingError, match=r"celery\?broker=.* app=.* current Celery app .* CELERY_BROKER_URL"):
        DAG([Node("n", int)]).run(backend="celery?queue=dagrid")


def test_a_queue_that_the_app_does_not_have(broker: str) -> None:
    """An app that makes no queues by itself is asked for none, and the broker is not taken to be away for it."""
    app = Celery("strict", broker=broker, set_as_current=False)
    app.conf.task_queues = [Queue("other")]
    app.conf.task_create_missing_queues = False
    assert CeleryBackend(app=app, queue="other").queue == "other"
    for settings in ({"queue": "dagrid"}, {"queue": "other", "queues": {"gpu=true": "dagrid"}}):
        with pytest.raises(InvalidSettingError, match=r"no queue 'dagrid'.* It has: 'other'"):
            CeleryBackend(app=app, **settings)


def test_what_cannot_be_sent_fails_at_once_for_its_own_reason(broker: str) -> None:
    """Only a connection is waited for."""
    app = Celery("changed", broker=broker, set_as_current=False)
    with CeleryBackend(app=app, queue="dagrid", patience=60.0) as backend:
        app.conf.task_queues = [Queue("other")]
        app.conf.task_create_missing_queues = False
        result = DAG([Node(f"n{i}", int) for i in range(20)]).start(backend=backend).wait(20)
    assert result.failed == 20
    assert all("cannot be sent to queue 'dagrid'" in str(node.error) for node in result.node_results.values())


def test_celery_is_loaded_only_when_it_is_used() -> None:
    """`import dagrid` stays light, and without Celery the name says how to get it."""
    code = """
    import sys, dagrid
    assert "celery" not in sys.modules
    sys.modules["celery"] = None
    try:
        dagrid.DAG([dagrid.Node("n", int)]).run(backend="celery")
    except dagrid.errors.BackendNotInstalledError as error:
        assert "dagrid[celery]" in str(error), error
    else:
        raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert dagrid is not None


def test_an_app_is_given_the_task_by_its_own_module():
    """Who starts workers of a project need not name dagrid's module on each command line."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.include = ["json"]
    assert install(app) is app
    app.loader.import_default_modules()
    assert "dagrid.perform" in app.tasks
    assert "json" in app.conf.include, "what the project includes itself stays"
