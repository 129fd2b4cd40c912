"""What runs on the workers of a fleet, and what becomes of it when they die, are stopped, or leave: real processes, no sleep."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from errno import EACCES
from functools import partial
from pathlib import Path
from time import monotonic

import cloudpickle
import pytest

from dagrid import DAG, Node, Patch, Retry, Rule, WaitForSignal, command
from dagrid.assemble import restart
from dagrid.commands import Command, Launch
from dagrid.errors import (
    BackendClosedError,
    BackendUnreachableError,
    CapabilityError,
    FleetKeyError,
    InvalidSettingError,
    PoisonousTaskError,
    TransferError,
)
from dagrid.execution.backends.cluster import backend
from dagrid.execution.backends.cluster.backend import KEY, ClusterBackend
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.project import packed, unpack
from dagrid.execution.folders import OwnFolder
from dagrid.execution.gathering import Folder
from dagrid.testing import Gate
from dagrid.testing.gate import stand
from tests.fleet.fleet_place import PATIENCE, Start, workers

LEASE = 1.0


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterBackend]:
    """A coordinator with a worker that nobody harms."""
    with (
        ClusterBackend.listening(lease=LEASE, heartbeat=0.1, files=[]) as place,
        workers(place.port, tmp_path_factory.mktemp("steady")) as start,
    ):
        start(id="steady", slots="2", labels="steady=yes")
        yield place


@pytest.fixture
def start(fleet: ClusterBackend, tmp_path: Path) -> Iterator[Start]:
    """Start more workers for one test."""
    with workers(fleet.port, tmp_path) as begin:
        yield begin


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate(PATIENCE) as made:
        yield made


def pids_and_stand(address: tuple[str, int], notes: str) -> int:
    """Note the process, and one that it has started; wait at the gate."""
    child = subprocess.Popen(["sleep", "1000"])
    with open(notes, "a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    stand(address, str(os.getpid()))
    child.kill()
    child.wait()
    return os.getpid()


def noted(notes: Path) -> list[int]:
    return [int(pid) for pid in notes.read_text().split()] if notes.exists() else []


def gone(pid: int) -> bool:
    """Return whether a process is no more, waiting for the end of one that dies."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([fd], [], [], PATIENCE)[0])
    finally:
        os.close(fd)


# --- what runs there ---------------------------------------------------------------------------------------------------------


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


def test_a_command_is_stopped_with_its_group(fleet: ClusterBackend, tmp_path: Path) -> None:
    """A cancelled run leaves nothing of its commands."""
    fifo = tmp_path / "pids"
    os.mkfifo(fifo)
    run = DAG([Node("slow", command(f"sleep 1000 & echo $$ $! > {fifo}; wait"))]).start(backend=fleet)
    pids = [int(pid) for pid in fifo.read_text().split()]
    run.cancel()
    assert run.wait(PATIENCE).cancelled == 1
    assert all(gone(pid) for pid in pids)


PROJECT = """
import sys
from dagrid import DAG, Node
from deep.helper import answer
if __name__ == "__main__":
    nodes = [Node("n", answer), Node("m", lambda n: n + answer(), inputs={"n": "n"})]
    result = DAG(nodes).run(backend=sys.argv[1], progress=False)
    print(result.raise_for_status()["m"])
"""


def test_a_project_travels(fleet: ClusterBackend, tmp_path: Path) -> None:
    """A script finds its own modules on the workers, and after a change the changed ones, in the same warm processes."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "main.py").write_text(PROJECT)
    for number in (20, 300):
        (tmp_path / "deep" / "helper.py").write_text(
            f"def answer():\n    from deep import more\n    return more.{'X'}\n"
        )
        (tmp_path / "deep" / "more.py").write_text(f"X = {number}\n")
        argv = [sys.executable, "main.py", f"grpc://127.0.0.1:{fleet.port}"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stdout.strip() == str(2 * number), done.stderr


READER = """
import os, sys
from dagrid import DAG, Node, command
from dagrid.execution.backends.cluster.backend import ClusterBackend
from mine import read

if __name__ == "__main__":
    nodes = [Node("python", read), Node("command", command("cat data/day.csv")), Node("where", os.getcwd)]
    for files in (["data/*.csv"], None):
        with ClusterBackend(sys.argv[1], files=files) as fleet:
            result = DAG(nodes[:] if files else nodes[2:]).run(backend=fleet, progress=False).raise_for_status()
        print(*(result[node.id] for node in nodes if node.id in result.node_results))
"""


def test_named_files_are_where_a_run_works(fleet: ClusterBackend, tmp_path: Path) -> None:
    """Beside the modules of the project, for functions and for commands, in a folder that goes with the run."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "day.csv").write_text("1,2")
    (tmp_path / "mine.py").write_text("def read(): return open('data/day.csv').read()\n")
    (tmp_path / "main.py").write_text(READER)
    argv = [sys.executable, "main.py", f"127.0.0.1:{fleet.port}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    (python, by_command, first), (second,) = (line.split() for line in done.stdout.splitlines())
    assert (python, by_command) == ("1,2", "1,2"), done.stderr
    assert Path(first).name == Path(second).name == "work"
    assert first != second
    started = DAG([Node("where", os.getcwd)]).run(backend=fleet, progress=False).raise_for_status()["where"]
    assert started not in (first, second, os.getcwd())


def test_a_module_that_goes_while_it_is_looked_at_is_not_packed(tmp_path: Path) -> None:
    """Editors, and tasks of other runs, write where a project is."""
    (tmp_path / "stays.py").touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / f"goes_{number}").mkdir()
                (tmp_path / f"goes_{number}" / "module.py").touch()
            for number in range(20):
                shutil.rmtree(tmp_path / f"goes_{number}")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = [packed(None, tmp_path) for _ in range(300)]
    finally:
        ended.set()
        thread.join()
    assert None not in found


def test_a_project_with_names_that_are_no_text_travels(tmp_path: Path) -> None:
    """Files from older machines have such names; one of them, wherever it lay, and no run began."""
    names = {os.fsdecode(b"caf\xe9.py"), "naïve.py", os.fsdecode(b"d\xe9/data")}
    for name in names:
        (tmp_path / "here" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "here" / name).write_text(ascii(name))
    project = packed([os.fsdecode(b"d\xe9")], tmp_path / "here")
    assert project is not None
    (tmp_path / "archive").write_bytes(project.data)
    unpack(tmp_path / "archive", tmp_path / "there")
    files = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "there")): path.read_text() for path in files} == {
        name: ascii(name) for name in names
    }


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is may be somebody else's; who starts a run is told which, and that it is not dagrid's fault."""
    (tmp_path / "others.py").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TransferError, match=r"others\.py cannot be read \(Permission denied\)"):
        packed(None, tmp_path)


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


def test_what_a_worker_has_unpacked_does_not_travel(tmp_path: Path) -> None:
    """A worker may be at home in the folder of the project. What travelled with each run was packed anew by those beside it, with
    what had travelled with them: after some dozen runs at once it was thousands of folders.
    """
    (tmp_path / "mine.py").write_text("mine = 1")
    before = packed(None, tmp_path)
    own = OwnFolder(tmp_path / "state" / "worker")
    try:
        (own.path / "runs").mkdir()
        (own.path / "runs" / "mine.py").write_text("mine = 1")
        assert packed(None, tmp_path) == before
        assert [one.path for one in Folder(tmp_path).everything() if not one.is_folder] == ["mine.py"]
    finally:
        own.remove()


def test_a_file_that_is_not_there_is_refused_when_the_backend_is_made() -> None:
    with pytest.raises(InvalidSettingError, match=r"nothing called 'nosuch\.csv'"):
        ClusterBackend("127.0.0.1", files=["nosuch.csv"])
    with pytest.raises(InvalidSettingError, match=r"nothing called 'nosuch\.csv'"):
        ClusterBackend.listening(files=["nosuch.csv"])


# --- labels ------------------------------------------------------------------------------------------------------------------


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


# --- workers that die, are stopped, or leave ---------------------------------------------------------------------------------


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


def test_an_idle_worker_is_killed(fleet: ClusterBackend, start: Start) -> None:
    """Nothing is lost, and nothing of it is left."""
    victim = start(id="victim", slots="1", labels="kind=victim")
    result = DAG([Node("warm", os.getpid, selector={"kind": "victim"})]).run(backend=fleet, progress=False)
    victim.signal(signal.SIGKILL)
    assert gone(result["warm"])
    assert DAG([Node("n", os.getpid)]).run(backend=fleet, progress=False).raise_for_status()["n"]


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_a_busy_worker_is_killed(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path, group: bool) -> None:
    """What it ran goes to another worker, once; its processes and what they had started are gone."""
    notes = tmp_path / "notes"
    victim = start(id="victim", slots="1", labels="kind=victim")
    nodes = [
        Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"}),
        Node("m", os.getpid),
    ]
    run = DAG(nodes).start(backend=fleet)
    gate.meet()
    os.killpg(victim.pid, signal.SIGKILL) if group else victim.signal(signal.SIGKILL)
    assert all(gone(pid) for pid in noted(notes))
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result.node_results["n"].worker, result.node_results["n"].attempts) == ("heir", 2)
    assert len(noted(notes)) == 4


def test_a_worker_is_killed_between_the_end_and_its_report(
    fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path
) -> None:
    """It had finished and could not say so: it is done once more, and one outcome counts."""
    notes = tmp_path / "notes"
    victim = start(id="victim", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    visit = gate.meet()
    victim.signal(signal.SIGSTOP)
    visit.release()
    visit.wait_gone()
    victim.signal(signal.SIGKILL)
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert result.node_results["n"].worker == "heir"
    assert all(gone(pid) for pid in noted(notes)[:2])


def test_a_worker_that_was_stopped_comes_back(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """After two leases its attempt is with another worker; what it says of it then is refused, and it works on."""
    notes = tmp_path / "notes"
    sleeper = start(id="sleeper", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    visit = gate.meet()
    sleeper.signal(signal.SIGSTOP)
    start(id="heir", slots="1", labels="kind=victim")
    again = gate.meet()  # which comes when the lease is over
    visit.release()
    sleeper.signal(signal.SIGCONT)
    sleeper.said("Linked with the coordinator", times=2)
    again.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert result.node_results["n"].worker == "heir"
    os.kill(sleeper.pid, 0)
    more = DAG([Node(f"m{number}", os.getpid, selector={"kind": "victim"}) for number in range(40)])
    assert more.run(backend=fleet, progress=False).succeeded == 40


def test_what_kills_its_worker_is_poisonous(fleet: ClusterBackend) -> None:
    """A call that kills its process is given up after three losses; the worker itself lives."""

    def poison() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    result = DAG([Node("p", poison), Node("n", os.getpid)]).run(backend=fleet, progress=False)
    assert isinstance(result.node_results["p"].error, PoisonousTaskError)
    assert result.succeeded == 1


def test_what_ends_its_worker_before_anybody_hears_of_it_is_poisonous_and_not_what_waits_behind(
    fleet: ClusterBackend, start: Start
) -> None:
    """Else it would end one worker after the other."""
    nodes = [Node(f"n{number}", os.getpid, selector={"one": "yes"}, priority=-1) for number in range(9)]
    poison = Node("p", command("kill -9 $PPID; sleep 5"), selector={"one": "yes"}, priority=1)
    run = DAG([poison, *nodes]).start(backend=fleet, progress=False)
    for number in range(4):
        worker = start(id=f"w{number}", slots="1", labels="one=yes")
        if number < 3:
            worker.wait()
    result = run.wait(PATIENCE)
    assert isinstance(result.node_results["p"].error, PoisonousTaskError)
    assert result.succeeded == 9


def test_a_worker_leaves_when_it_is_done(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """SIGTERM lets what runs end, and gives back what waits; then the worker is gone, with its folder, and nothing was lost."""
    leaver = start(id="leaver", slots="1", labels="kind=victim")
    nodes = [Node(f"n{number}", partial(stand, gate.address), selector={"kind": "victim"}) for number in range(3)]
    run = DAG(nodes).start(backend=fleet)
    visit = gate.meet()
    leaver.signal(signal.SIGTERM)
    leaver.said("Leaving")
    start(id="heir", slots="2", labels="kind=victim")
    others = [gate.meet() for _ in range(2)]
    for each in (visit, *others):
        each.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert sorted(node.worker for node in result.node_results.values()) == ["heir", "heir", "leaver"]
    assert leaver.wait() == 0
    assert list((tmp_path / "home-0" / "worker").iterdir()) == []


def test_a_second_signal_stops_at_once(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """Who cannot wait says so twice: what runs is killed, and goes to another worker."""
    notes = tmp_path / "notes"
    leaver = start(id="leaver", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    gate.meet()
    leaver.signal(signal.SIGTERM)
    leaver.said("Leaving")
    leaver.signal(signal.SIGTERM)
    assert leaver.wait() == 1
    assert all(gone(pid) for pid in noted(notes))
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    assert run.wait(PATIENCE).raise_for_status().node_results["n"].worker == "heir"


def test_what_dead_workers_left_is_removed(start: Start, tmp_path: Path) -> None:
    """The next one with the same home finds the folder of one that was killed, and removes it."""
    victim = start(id="victim", slots="1")
    (folder,) = (tmp_path / "home-0" / "worker").iterdir()
    victim.signal(signal.SIGKILL)
    victim.wait()
    start(id="next", slots="1", env={"DAGRID_HOME": str(tmp_path / "home-0")})
    assert not folder.exists()


def test_what_is_exclusive_is_killed_while_its_worker_is_stopped(
    fleet: ClusterBackend, start: Start, gate: Gate
) -> None:
    """Who is stopped cannot see to that; another worker begins it when it is dead."""
    task = f"import os; from dagrid.testing.gate import stand; stand({gate.address}, str(os.getpid()))"
    exclusive = Command(lambda: Launch([sys.executable, "-c", task]), exclusive=True)
    first = start(id="first", slots="1", labels="one=yes")
    run = DAG([Node("n", exclusive, selector={"one": "yes"})]).start(backend=fleet, progress=False)
    pid = gate.meet().label
    first.signal(signal.SIGSTOP)
    start(id="second", slots="1", labels="one=yes")
    again = gate.meet()
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    first.signal(signal.SIGCONT)
    again.release()
    assert run.wait(PATIENCE).raise_for_status().node_results["n"].worker == "second"


# --- coordinators and runs that begin anew ------------------------------------------------------------------------------------


def test_a_coordinator_begins_anew(gate: Gate, tmp_path: Path) -> None:
    """What runs goes on, and its end is told to the one that comes after; what is asked meanwhile is not lost."""
    first = Hub(port=0, lease=5.0, heartbeat=0.1)
    first.start()
    with workers(first.port, tmp_path) as start:
        worker = start(id="w", slots="1")
        nodes = [Node("n", partial(pids_and_stand, gate.address, str(tmp_path / "notes"))), Node("m", os.getpid, ["n"])]
        run = DAG(nodes).start(backend=f"grpc://127.0.0.1:{first.port}")
        visit = gate.meet()
        first.close()
        visit.release()
        visit.wait_gone()
        second = Hub(port=first.port, lease=5.0, heartbeat=0.1)
        second.start()
        try:
            worker.said("Linked with the coordinator", times=2)
            result = run.wait(PATIENCE).raise_for_status()
            assert result.node_results["n"].attempts == 1
            assert len(noted(tmp_path / "notes")) == 2
        finally:
            second.close()


def test_a_worker_that_is_to_leave_waits_for_no_coordinator_longer_than_a_lease(gate: Gate, tmp_path: Path) -> None:
    """Nobody wants its ends any more then; it says that there were some."""
    hub = Hub(port=0, lease=LEASE)
    hub.start()
    with workers(hub.port, tmp_path) as start:
        worker = start(slots="1")
        run = DAG([Node("n", partial(stand, gate.address))]).start(
            backend=f"grpc://127.0.0.1:{hub.port}", progress=False
        )
        visit = gate.meet()
        hub.close()
        worker.signal(signal.SIGTERM)
        visit.release()
        assert worker.wait() == 0
        assert "attempts: 1" in worker.said("left untold")
        run.let_go()
        run.close()


SCRIPT = """
import sys
from functools import partial
from dagrid import DAG, Node
from dagrid.testing.gate import stand
address, backend, folder = ("127.0.0.1", int(sys.argv[1])), sys.argv[2], sys.argv[3]
nodes = [Node("a", partial(stand, address, "a")), Node("b", partial(stand, address, "b"), ["a"])]
DAG(nodes).run(backend=backend, checkpoint=folder, run_id="r", progress=False)
"""


def test_a_run_is_taken_up_again(fleet: ClusterBackend, gate: Gate, tmp_path: Path) -> None:
    """The script is killed while a node runs: that goes on, and whoever takes up the run gets its value, not a second one."""
    kept, address = str(tmp_path / "kept"), f"grpc://127.0.0.1:{fleet.port}"
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(gate.address[1]), address, kept], cwd=tmp_path)
    visit = gate.meet()
    script.kill()
    script.wait(PATIENCE)
    run = restart(kept, "r", backend=address)
    visit.release()
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result["a"], result["b"]) == ("a", "b")
    assert [result.node_results[name].attempts for name in "ab"] == [1, 1]


def test_two_runs_of_one_id_have_nothing_of_each_other(fleet: ClusterBackend, gate: Gate, tmp_path: Path) -> None:
    """An id is unique in its checkpoint, and a fleet serves runs of many."""
    runs, visits = {}, []
    for who in ("first", "second"):
        dag = DAG([Node("n", partial(stand, gate.address, who))])
        address = f"grpc://127.0.0.1:{fleet.port}"
        runs[who] = dag.start(backend=address, checkpoint=tmp_path / who, run_id="monday", progress=False)
        visits.append(gate.meet())
    for visit in visits:
        visit.release()
    for who, run in runs.items():
        assert run.wait(PATIENCE).raise_for_status()["n"] == who


# --- who cannot come together ------------------------------------------------------------------------------------------------


def test_a_key_is_proved_and_not_handed_on(tmp_path: Path) -> None:
    """A worker with another key is refused and ends; one with the right key serves, and what it runs does not find the key."""
    with (
        ClusterBackend.listening(files=[], signing_key="right") as place,
        workers(place.port, tmp_path) as start,
    ):
        wrong = start(wait=False, env={KEY: "wrong"})
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
