"""What runs on the workers of a fleet, and who cannot come together: real processes, no sleep."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from dagrid import DAG, Node, Patch, Retry, Rule, WaitForSignal, command
from dagrid.errors import (
    BackendClosedError,
    BackendUnreachableError,
    CapabilityError,
    FleetKeyError,
    InvalidSettingError,
    TransferError,
)
from dagrid.execution.backends.cluster import backend
from dagrid.execution.backends.cluster.apart import INLINE
from dagrid.execution.backends.cluster.backend import KEY, ClusterBackend
from dagrid.testing import Gate
from dagrid.testing.gate import stand
from tests.fleet.fleet_place import PATIENCE, Start, workers

pytestmark = pytest.mark.usefixtures("by_value")


def test_commands_run_on_workers(fleet: ClusterBackend) -> None:
    """In a folder of their own, between functions, with a key that stays the same."""
    nodes = [
        Node("word", lambda: "hello"),
        Node("where", command("pwd; echo $DAGRID_ATTEMPT_KEY"), ["word"]),
        Node("lines", lambda where: where.split(), inputs={"where": "where"}),
    ]
    result = DAG(nodes).run(backend=fleet, progress=False).raise_for_status()
    folder, key = result["lines"]
    assert folder != os.getcwd()
    assert key.endswith("/where")
    while os.path.exists(folder):  # it is removed behind the end of the run
        assert DAG([Node("again", os.getpid)]).run(backend=fleet, progress=False).succeeded == 1
    assert {result.node_results[name].worker for name in ("word", "where")} == {"steady"}


def test_a_key_stays_the_same(fleet: ClusterBackend, tmp_path: Path) -> None:
    """However often a node is tried, so that its effects can be made idempotent; each node has its own."""
    mark = str(tmp_path / "keys")

    def second_time_lucky() -> None:
        with open(mark, "a+") as file:
            file.write(os.environ["DAGRID_ATTEMPT_KEY"] + "\n")
            file.seek(0)
            if len(file.readlines()) < 2:
                raise OSError("not yet")

    result = DAG([Node("a", second_time_lucky, retries=1)]).run(backend=fleet, progress=False).raise_for_status()
    assert result.node_results["a"].attempts == 2
    first, second = Path(mark).read_text().split()
    assert first == second
    assert first.endswith("/a")


@pytest.mark.parametrize("size", [5, 2 * INLINE], ids=["small", "large"])
def test_nothing_of_a_run_that_is_over_waits_for_the_collector(
    fleet: ClusterBackend, tmp_path: Path, size: int
) -> None:
    """A coordinator performs hundreds in a second, and looking for garbage would hold up all that go on. The engine had the large
    values, and each of them had the session, and so the engine, until the process ended.
    """
    dag = DAG([Node("word", lambda: "x" * size), Node("where", command("pwd"), ["word"])])
    gone = [threading.Event() for _ in range(3)]
    gc.collect()
    gc.disable()
    try:
        run = dag.start(backend=fleet, checkpoint=tmp_path, progress=False)
        sessions = list(fleet.sessions)
        assert len(sessions) == 2
        for one, event in zip([run, *sessions], gone, strict=True):
            weakref.finalize(one, event.set)
        run.watch(partial(getattr, run, "done"))
        assert run.wait().ok
        del run, sessions, one
        assert all(event.wait(PATIENCE) for event in gone)
    finally:
        gc.enable()


def test_large_values_outlive_the_run(fleet: ClusterBackend) -> None:
    """They pass through the coordinator, from node to node, and are there when the run has ended."""
    nodes = [
        Node("made", lambda: os.urandom(3 << 20)),
        Node("same", lambda made: made, inputs={"made": "made"}),
        Node("size", lambda made, same: (len(made), made == same), inputs={"made": "made", "same": "same"}),
    ]
    result = DAG(nodes).run(backend=f"grpc://127.0.0.1:{fleet.port}", progress=False).raise_for_status()
    assert result["size"] == (3 << 20, True)
    assert result["made"] == result["same"]


def test_large_values_pass_from_worker_to_worker(fleet: ClusterBackend, start: Start) -> None:
    """To where they were made and elsewhere, alone, deep in other values, twice, and to who returns what it got."""
    start(id="second", labels="second=yes")
    here, there = {"steady": "yes"}, {"second": "yes"}
    nodes = [
        Node("made", lambda: os.urandom(1 << 20), selector=here),
        Node("same", lambda made: made, ["made"], selector=there),
        Node("both", lambda one, two: [one, two], inputs={"one": "made", "two": "same"}, selector=here),
        Node("deep", lambda both, made: (both[0] == both[1] == made, len(made)), ["both", "made"], selector=there),
        Node("here", lambda both, made: (both[0] == both[1] == made, len(made)), ["both", "made"], selector=here),
    ]
    result = DAG(nodes).run(backend=fleet, progress=False, keep={"deep", "here"}).raise_for_status()
    assert result["deep"] == result["here"] == (True, 1 << 20)


def test_large_values_go_through_artifacts(fleet: ClusterBackend, tmp_path: Path) -> None:
    """Where there is a place that all reach they are put there, and nothing of them is left when the run has ended."""
    nodes = [
        Node("made", lambda: os.urandom(1 << 20)),
        Node("size", lambda made: len(made) + 0, inputs={"made": "made"}),
        Node(
            "kept",
            lambda made, place: [len(names) for _, _, names in os.walk(place)],
            inputs={"made": "made", "place": "place"},
        ),
        Node("place", lambda: str(tmp_path)),
    ]
    result = DAG(nodes).run(backend=f"grpc://127.0.0.1:{fleet.port}?artifacts={tmp_path}", progress=False)
    assert result.raise_for_status()["size"] == len(result["made"]) == 1 << 20
    assert sum(result["kept"]) == 1
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_a_run_whose_backend_is_closed_fails(fleet: ClusterBackend, gate: Gate) -> None:
    """It waited for ever, and nobody was told: who closes a backend at the end of `with` easily waits for the run behind that."""

    def ask() -> None:
        raise WaitForSignal("well?")

    nodes = [
        Node("made", lambda: bytes(1 << 20)),
        Node("first", partial(stand, gate.address, "first"), ["made"]),
        Node("behind", os.getpid, ["first"]),
        Node("asks", ask, ["made"]),
        Node("answered", lambda asks: asks, ["asks"]),
    ]
    with ClusterBackend(f"127.0.0.1:{fleet.port}", files=[]) as far:
        run = DAG(nodes).start(backend=far)
        gate.meet()
        until = monotonic() + PATIENCE
        while not run.waiting:
            assert monotonic() < until
    run.signal("asks", "yes")
    result = run.wait(PATIENCE)
    assert (result.status, len(result["made"])) == ("failed", 1 << 20)
    for name in ("first", "answered"):
        with pytest.raises(BackendClosedError, match="was closed while a run went on"):
            result[name]


def test_a_path_is_a_place_for_large_values(fleet: ClusterBackend, tmp_path: Path) -> None:
    """As it is for checkpoints and caches; what is none is refused before anything runs."""
    nodes = [Node("made", lambda: bytes(1 << 20)), Node("size", len, inputs={"obj": "made"})]
    with ClusterBackend(f"127.0.0.1:{fleet.port}", files=[], artifacts=tmp_path / "values") as far:
        result = DAG(nodes).run(backend=far, progress=False)
    assert result.raise_for_status()["size"] == 1 << 20
    assert (tmp_path / "values").is_dir(), "it has been there"
    with pytest.raises(InvalidSettingError, match="a folder, at a URL, or in an object"):
        ClusterBackend("127.0.0.1", files=[], artifacts=object())  # type: ignore[arg-type]


def test_who_looks_sees_what_a_graph_is_called(fleet: ClusterBackend, gate: Gate) -> None:
    """A list of workers with nothing but ids of runs says nobody what they do."""
    assert fleet.hub is not None
    for called, shown in (("nightly", "nightly"), (None, "graph")):
        run = DAG([Node("n", partial(stand, gate.address, "n"))], name=called).start(backend=fleet)
        visit = gate.meet()
        until = monotonic() + PATIENCE
        while not (doing := [one for worker in fleet.hub.workers() for one in worker.running]):
            assert monotonic() < until, "that it has begun is told a moment later"
        assert [(one.name, one.root) for one in doing] == [(shown, shown)]
        visit.release()
        assert run.wait(PATIENCE).succeeded == 1


def test_a_signing_key_that_is_no_text_is_refused() -> None:
    """A number was taken for the text of its digits."""
    with pytest.raises(InvalidSettingError, match="text or bytes, not 3"):
        ClusterBackend("127.0.0.1", signing_key=3)  # type: ignore[arg-type]


def test_an_address_that_is_none_is_refused() -> None:
    """A name and a password were left out in silence, as if somebody had looked at them; nor are they shown."""
    with pytest.raises(InvalidSettingError, match="None is not the address of a coordinator"):
        ClusterBackend(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="give its signing key as signing_key") as refused:
        DAG([Node("a", os.getpid)]).run(backend="grpc://me:secret@127.0.0.1:50055", progress=False)
    assert "secret" not in str(refused.value)


def test_an_error_that_is_too_long_for_a_message_is_told_in_part(fleet: ClusterBackend) -> None:
    """An exception may hold all that was looked at. Its worker was hung up on for the report, again and again, until its lease
    was over and all that it performed was lost.
    """

    def too_long() -> None:
        raise ValueError("these rows are wrong: " + "x" * (20 << 20))

    result = DAG([Node("a", too_long), Node("b", os.getpid)]).run(backend=fleet, progress=False)
    error = result.node_results["a"].error
    assert isinstance(error, TransferError)
    assert "raised ValueError: these rows are wrong: xx" in str(error)
    assert len(str(error)) < 1 << 20
    assert (result.node_results["a"].attempts, result.succeeded) == (1, 1)


def test_a_selector_waits_for_its_worker(
    fleet: ClusterBackend, start: Start, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once that nobody has the labels, and `explain` says which; when a worker comes that has them, it goes on."""
    nodes = [Node(f"gpu{number}", os.getpid, selector={"gpu": "true", "steady": "no"}) for number in range(50)]
    with caplog.at_level(logging.WARNING, "dagrid.fleet"):
        run = DAG([*nodes, Node("any", partial(stand, gate.address))]).start(backend=fleet)
        gate.meet().release()
        assert "gpu=true" in run.explain("gpu0")
        deadline = time.monotonic() + PATIENCE
        while "gpu=true" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        start(id="gpu", slots="1", labels="gpu=true,steady=no")
        result = run.wait(PATIENCE).raise_for_status()
    assert {result.node_results[node.id].worker for node in nodes} == {"gpu"}
    said = [record.getMessage() for record in caplog.records if "gpu=true" in record.getMessage()]
    assert len(said) == 2, said
    assert "waits for a worker with the labels gpu=true, steady=no" in said[0]
    assert said[1] == "Worker gpu is a worker with the labels gpu=true, steady=no: runs that waited for one go on"


async def far_away() -> None:
    """An async task runs in the event loop of the process that has the run."""


@pytest.mark.parametrize(
    "node",
    [Node("n", far_away, selector={"steady": "yes"}), Node("n", int, place="caller", selector={"steady": "yes"})],
)
def test_what_runs_where_the_run_is_finds_no_worker(fleet: ClusterBackend, node: Node) -> None:
    """It waited for ever for labels that its place cannot have, also while a worker had them."""
    with pytest.raises(CapabilityError, match=r"'n' selects workers by labels, and its place '(loop|caller)'"):
        DAG([node]).run(backend=fleet, progress=False)


def test_an_async_task_that_is_appended_finds_no_worker_either(fleet: ClusterBackend) -> None:
    """Then the run fails: it has begun already."""
    far = Node("far", far_away, selector={"steady": "yes"})
    rule = Rule(lambda view: view.succeeded("first"), lambda view: Patch([far]))
    result = DAG([Node("first", os.getpid)]).run(rules=[rule], backend=fleet, progress=False)
    assert "'far' selects workers by labels, and its place 'loop'" in str(result.failure)


def test_a_key_is_proved_and_not_handed_on(tmp_path: Path) -> None:
    """A worker with another key is refused and ends; one with the right key serves, and what it runs does not find the key."""
    with (
        ClusterBackend.listening(files=[], signing_key="right") as place,
        workers(place.port, tmp_path) as start,
    ):
        wrong = start(wait=False, env={KEY: "wrong"})
        wrong.said("signing key")
        assert wrong.wait() != 0
        assert len([line for line in wrong.lines if "signing key" in line]) == 1
        start(slots="1", env={KEY: "right"})
        nodes = [Node("python", partial(os.environ.get, KEY)), Node("command", command(f"echo ${KEY}"))]
        with ClusterBackend(f"127.0.0.1:{place.port}", "right", files=[]) as far:
            result = DAG(nodes).run(backend=far, progress=False).raise_for_status()
        assert (result["python"], result["command"]) == (None, "")
        with pytest.raises(FleetKeyError), ClusterBackend(f"127.0.0.1:{place.port}", "wrong", files=[]) as far:
            DAG(nodes).run(backend=far, progress=False)


def test_an_idle_worker_is_small(start: Start) -> None:
    """There may be one on every machine: it takes no more than 60 MB before it has something to do."""
    worker = start(slots="2")
    resident = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 60e6


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a fleet that is not there says so, and does not wait for ever."""
    monkeypatch.setattr(backend, "PATIENCE", 0.3)
    with pytest.raises(BackendUnreachableError, match=r"127\.0\.0\.1:1\b"):
        DAG([Node("n", os.getpid, retries=Retry(1))]).run(backend="grpc://127.0.0.1:1", progress=False)
