"""Nothing is lost: whatever dies, fails or is taken over, a run goes on with what was not done, and nothing runs unwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
import dagrid.execution.backends.command
from dagrid import DAG, Node, NodeStatus, Patch, Retry, Rule, RunStatus, SkipTask, View, command, current, dag, task
from dagrid.assemble import restart, view
from dagrid.errors import (
    DuplicateRunError,
    InvalidSettingError,
    RuleError,
    RunError,
    StaleEpochError,
    StoreError,
    TaskTimeoutError,
    TransferError,
    UnknownBackendError,
    UnknownRunError,
)
from dagrid.execution.recording import Checkpoint
from dagrid.execution.simulate import VirtualClock
from dagrid.stores import open_artifacts, open_store
from dagrid.stores.memory import MemoryStore
from dagrid.testing.gate import Gate, stand
from tests.execution.durable_tasks import Unpicklable, note, noted

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


class FailingStore:
    """A store that works for so many appends, and then raises for ever, or until it is mended."""

    def __init__(self, good: int, error: Exception) -> None:
        self.inner = MemoryStore()
        self.good = good
        self.error = error
        self.refused = 0
        self.create, self.acquire, self.read = self.inner.create, self.inner.acquire, self.inner.read
        self.snapshot, self.latest, self.runs = self.inner.snapshot, self.inner.latest, self.inner.runs
        self.delete, self.about, self.describe = self.inner.delete, self.inner.about, self.inner.describe
        self.close = self.inner.close

    def append(self, *args: Any, **settings: Any) -> int:
        self.good -= 1
        if self.good < 0:
            self.refused += 1
            raise self.error
        return self.inner.append(*args, **settings)


class FullArtifacts:
    """Artifacts on a disk that is full."""

    def put(self, key: str, data: bytes) -> None:
        raise StoreError(f"no room for {key}")

    def get(self, key: str) -> bytes | None:
        return None

    def delete(self, key: str) -> None:
        """There is nothing."""

    def clear(self, key: str) -> None:
        """There is nothing."""


@pytest.fixture(params=["thread", "inline"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "kept")


def noting(log: str, count: int) -> list[Node]:
    """Return a chain of nodes that note that they ran."""
    return [Node(f"n{n}", partial(note, log, f"n{n}"), [f"n{n - 1}"] if n else []) for n in range(count)]


def records(folder: str) -> dict[str, Any]:
    store = open_store(f"{folder}/journal.db")
    try:
        return {record.run: record for record in store.runs()}
    finally:
        store.close()


def in_a_process(folder: str, log: str, graph: str, backend: str, first_snapshot: int = 50_000) -> None:
    """Start a run in a process that it kills."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.execution.durable_tasks", graph, log, folder, backend, str(first_snapshot)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr


def script(path: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of its own, whose functions are those of `__main__`."""
    path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)


# --- a process that dies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_a_killed_run_goes_on_with_what_had_not_finished(
    tmp_path: Path, folder: str, backend: str, first_snapshot: int
) -> None:
    """The reason for all of this; a value that could not be kept is made again, since its reader had not run, and no other."""
    log = str(tmp_path / "log")
    in_a_process(folder, log, "lost", backend, first_snapshot)
    assert noted(log) == ["first", "second", "dying"]
    result = dagrid.resume(folder, backend=backend)
    assert result["last"] == (1, "dying")
    assert Counter(noted(log)) == {"first": 1, "second": 2, "dying": 2, "last": 1}
    assert result.node_result("dying").attempts == 2


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_a_killed_run_that_grew_goes_on_and_asks_no_applied_rule_again(
    tmp_path: Path, folder: str, backend: str, first_snapshot: int
) -> None:
    """A rule's body may cost money, and its patch may differ the second time."""
    log = str(tmp_path / "log")
    in_a_process(folder, log, "growing", backend, first_snapshot)
    result = dagrid.resume(folder, "the-run", backend=backend)
    assert result["total"] == 4
    assert result["end"] == 5
    parts = {f"part{n}": 1 for n in range(3)}
    ran = Counter(noted(log))
    assert ran == {"count": 1, "spread": 1, **parts, "fatal": 2, "total": ran["total"], "finish": 1, "end": 1}
    assert ran["total"] in (1, 2)  # it was under way beside the one that died, or not
    again = dagrid.resume(folder, "the-run")
    assert again["end"] == 5
    assert Counter(noted(log)) == ran


SCRIPT = """
import os, signal, sys
import dagrid
from dataclasses import dataclass

LIMIT = 3

@dataclass
class Point:
    x: int

def make():
    return Point(LIMIT)

def die(make):
    assert isinstance(make, Point)
    if not os.path.exists(sys.argv[1] + "/died"):
        open(sys.argv[1] + "/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return make.x

def last(die, make):
    assert isinstance(make, Point)
    return die + make.x

if __name__ == "__main__":
    graph = dagrid.DAG([dagrid.Node("make", make), dagrid.Node("die", die, ["make"]), dagrid.Node("last", last, ["die", "make"])])
    if "again" in sys.argv:
        print(dagrid.resume(sys.argv[1] + "/kept")["last"])
    else:
        graph.run(checkpoint=sys.argv[1] + "/kept", backend=sys.argv[2])
"""


@pytest.mark.parametrize("where", ["itself", "another script", "here"])
def test_functions_of_a_script_go_on_wherever_it_is_resumed(tmp_path: Path, where: str) -> None:
    """A script is the usual way to use a library, and `__main__` is another module in each process."""
    ran = script(tmp_path / "one.py", SCRIPT, str(tmp_path), "inline")
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    if where == "here":
        sys.argv, argv = [sys.argv[0], str(tmp_path)], sys.argv
        try:
            assert dagrid.resume(tmp_path / "kept")["last"] == 6
        finally:
            sys.argv = argv
        return
    other = "import dagrid, sys\nprint(dagrid.resume(sys.argv[1] + '/kept')['last'])"
    text = SCRIPT if where == "itself" else other
    ran = script(tmp_path / f"{'one' if where == 'itself' else 'two'}.py", text, str(tmp_path), "inline", "again")
    assert ran.stdout.strip() == "6", ran.stderr


def test_a_run_that_never_began_is_passed_over(tmp_path: Path, folder: str) -> None:
    """Its process ended between two writes: there is nothing to go on with, and the one before it is still there."""
    store = open_store(f"{folder}/journal.db")
    store.create("empty", at=1.0)
    store.close()
    with pytest.raises(UnknownRunError, match="no run that has not ended"):
        dagrid.resume(folder)
    with pytest.raises(UnknownRunError, match="before it had begun"):
        dagrid.resume(folder, "empty")


# --- two owners -------------------------------------------------------------------------------------------------------------


def test_who_resumes_takes_over_and_the_old_one_does_nothing_more(tmp_path: Path, folder: str) -> None:
    """Two processes that both act on a run would send every mail twice."""
    log = str(tmp_path / "log")
    with Gate() as gate:
        nodes = [Node("held", partial(stand, gate.address)), Node("after", partial(note, log, "ran"), ["held"])]
        old = DAG(nodes).start(checkpoint=folder, run_id="shared", backend="thread")
        first = gate.meet()
        new = restart(folder, "shared", backend="thread")
        second = gate.meet()
        first.release()
        lost = old.wait(PATIENCE)
        assert noted(log) == []
        with pytest.raises(StaleEpochError):
            lost.raise_for_status()
        second.release()
        assert new.wait(PATIENCE).ok
    assert noted(log) == ["ran"]


def test_a_late_value_of_the_old_owner_does_not_replace_the_new_ones(folder: str) -> None:
    """An attempt that was only assigned keeps its number when it goes to the new owner; both then have a value for it."""
    store, artifacts = MemoryStore(), open_artifacts(f"{folder}/values")
    large = b"x" * 10_000
    old = DAG([Node("large", lambda: large)]).run(checkpoint=Checkpoint(store, artifacts), run_id="run")
    assert old.ok
    kept = list(Path(folder).rglob("@*"))
    assert [path.parent.name for path in kept] == ["1"]  # the epoch


@pytest.mark.parametrize("wrong", ["backend", "graph"])
def test_who_cannot_go_on_takes_nothing_over(folder: str, wrong: str) -> None:
    """A typo in `resume` must not end the process that does the work."""
    with Gate() as gate:
        run = DAG([Node("held", partial(stand, gate.address))]).start(checkpoint=folder, run_id="mine")
        visit = gate.meet()
        with pytest.raises(UnknownBackendError):
            dagrid.resume(folder, "mine", backend="treads")
        assert records(folder)["mine"].epoch == 1
        visit.release()
        assert run.wait(PATIENCE).ok


# --- a store that fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", range(2, 9))
def test_a_store_that_fails_ends_the_run_and_nothing_is_performed_after(
    tmp_path: Path, backend: str, good: int
) -> None:
    """Whichever write fails: no hang, that error, and no effect of what was not written, even when there is room again."""
    log = str(tmp_path / "log")
    store = FailingStore(good, StoreError("the disk is full"))
    nodes = noting(log, 12)
    checkpoint = Checkpoint(store, FullArtifacts())
    try:
        run = DAG(nodes).start(checkpoint=checkpoint, run_id="r", backend=backend)
    except StoreError:
        assert not noted(log)
        return
    run.wait(PATIENCE)
    store.good = 1_000
    count = len(noted(log))
    started = sum(event.kind == "started" for event in run.events(follow=False))
    assert count == started < 12
    assert store.refused == 1
    with pytest.raises(StoreError, match="disk is full"):
        run.result().raise_for_status()
    resumed = dagrid.resume(checkpoint, "r", backend=backend)
    assert resumed.ok
    twice = [name for name, times in Counter(noted(log)).items() if times > 1]
    assert len(set(noted(log))) == 12
    assert len(noted(log)) - 12 == len(twice) <= 1


@pytest.mark.parametrize("good", range(1, 5))
def test_a_part_of_a_graph_stays_a_part(tmp_path: Path, backend: str, good: int) -> None:
    """What is left out or has a value from before does not run after a restart either, however early the process ended."""
    log = str(tmp_path / "log")
    checkpoint = Checkpoint(store := FailingStore(good, StoreError("full")), FullArtifacts())
    graph = DAG([*noting(log, 4), Node("aside", partial(note, log, "aside"))])
    settings: dict[str, Any] = {"targets": ["n3"], "given": {"n0": 7}, "backend": backend}
    with pytest.raises(StoreError, match="full"):
        graph.start(checkpoint=checkpoint, run_id="r", **settings).wait(PATIENCE).raise_for_status()
    store.good = 1_000
    resumed = dagrid.resume(checkpoint, "r", backend=backend)
    assert resumed.ok
    assert resumed["n0"] == 7
    assert set(noted(log)) == {"n1", "n2", "n3"}


def test_artifacts_that_fail_end_the_run(backend: str) -> None:
    """A value that is not kept would be lost by a crash that nobody sees; the worker's thread must not die of it either."""
    checkpoint = Checkpoint(MemoryStore(), FullArtifacts())
    run = DAG([Node("large", lambda: bytes(10_000))]).start(checkpoint=checkpoint, backend=backend)
    with pytest.raises(StoreError, match="no room"):
        run.wait(PATIENCE).raise_for_status()


WATCHED: dict[str, Any] = {}


def look() -> tuple[int, int]:
    """Return how many facts the store has of the run that performs this, and how many events its reader sees."""
    events = sum(1 for _ in WATCHED["run"].events(follow=False))
    return WATCHED["store"].runs()[0].facts, events


def waiting() -> None:
    WATCHED["begun"].wait(PATIENCE)


def test_nothing_is_performed_or_read_before_it_is_written(folder: str) -> None:
    """Record before effect: a task that runs finds its start in the store, and no event is ahead of the store."""
    store = MemoryStore()
    WATCHED.update(store=store, begun=threading.Event())
    graph = DAG([Node("first", waiting), *[Node(f"n{n}", look, ["first"]) for n in range(30)]])
    run = graph.start(checkpoint=Checkpoint(store, open_artifacts(folder)), backend="thread?max_workers=3")
    WATCHED["run"] = run
    WATCHED["begun"].set()
    result = run.wait(PATIENCE)
    for n in range(30):
        facts, events = result[f"n{n}"]
        assert 0 < events < facts
    kinds = [event.kind for event in run.events(follow=False)]
    assert kinds.count("started") == 31
    assert store.runs()[0].facts == len(kinds) + 1


class CountingStore(MemoryStore):
    """A store that counts what is written to it, and lets somebody wait for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.appends = 0
        self.written = threading.Semaphore(0)

    def append(self, *args: Any, **settings: Any) -> int:
        self.appends += 1
        try:
            return super().append(*args, **settings)
        finally:
            self.written.release()


def test_a_short_command_is_one_write(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """That it has started is written with its end, and so is what follows on that: a sync is what a short step costs most."""
    monkeypatch.setattr(dagrid.execution.backends.command, "MOMENT", PATIENCE)
    store = CountingStore()
    graph = DAG([Node(f"n{n}", command(["true"]), [f"n{n - 1}"] if n else []) for n in range(30)])
    run = graph.start(checkpoint=Checkpoint(store, open_artifacts(folder)))
    run.wait(PATIENCE).raise_for_status()
    assert store.appends == 31, "one to begin, and one for each end"
    kinds = [event.kind for event in run.events(follow=False)]
    assert kinds.count("started") == kinds.count("completed") == 30
    assert store.runs()[0].facts == len(kinds) + 1


@pytest.mark.parametrize("on_lost", ["requeue", "fail"])
def test_the_start_of_a_long_command_is_written_before_its_end(folder: str, on_lost: Any) -> None:
    """A crash then finds that it had started."""
    store = CountingStore()
    line = Path(f"{folder}.fifo")
    os.mkfifo(line)
    graph = DAG([Node("long", command(["cat", str(line)]), on_lost=on_lost)])
    run = graph.start(checkpoint=Checkpoint(store, open_artifacts(folder)))
    assert store.written.acquire(timeout=PATIENCE), "it begins"
    with line.open("w"):
        assert store.written.acquire(timeout=PATIENCE), "it has started"
        assert not run.done
        (record,) = store.runs()
    run.wait(PATIENCE).raise_for_status()
    kinds = [event.kind for event in run.events(follow=False)]
    assert kinds.index("started") == record.facts - 2, "the facts begin with the owner of the run"


@pytest.mark.parametrize(("on_lost", "appends"), [("requeue", 2), ("fail", 3)])
def test_a_command_that_must_not_run_twice_is_written_when_it_has_started(
    monkeypatch: pytest.MonkeyPatch, folder: str, on_lost: Any, appends: int
) -> None:
    """However short it is: of one that the store knows nothing of, a crash would leave nothing but another try."""
    monkeypatch.setattr(dagrid.execution.backends.command, "MOMENT", PATIENCE)
    store = CountingStore()
    graph = DAG([Node("short", command(["true"]), on_lost=on_lost)])
    graph.run(checkpoint=Checkpoint(store, open_artifacts(folder)))
    assert store.appends == appends


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_a_graph_that_cannot_be_pickled_is_refused_before_anything_runs(folder: str) -> None:
    """It could not be resumed; and no run that never began stays behind."""
    lock = threading.Lock()
    with pytest.raises(InvalidSettingError, match="cannot be kept in a checkpoint"):
        DAG([Node("a", lambda: lock)]).run(checkpoint=folder)
    assert not Path(folder).exists() or not records(folder)


@pytest.mark.parametrize("by_task", [False, True])
def test_a_patch_that_cannot_be_pickled_fails_like_any_other(folder: str, backend: str, by_task: bool) -> None:
    """What the graph grew by would be gone after a crash. Nothing is left as if it were still to run, also in the record."""
    rules = [] if by_task else [Rule(lambda view: view.succeeded("a"), partial(_locked), name="grow")]
    nodes = [Node("a", _lock_up if by_task else int), Node("b", lambda: 1, ["a"]), Node("c", lambda: 1, ["b"])]
    result = DAG(nodes).run(rules=rules, checkpoint=folder, backend=backend)
    kept = view(folder)
    for found in (result, kept.result()):
        assert found.status is RunStatus.FAILED
        assert list(found) == ["a", "b", "c"]
        assert {found.node_results[name].status for name in ("b", "c")} <= {NodeStatus.SKIPPED, NodeStatus.CANCELLED}
    kept.close()
    with pytest.raises(TransferError if by_task else RuleError, match="What the graph grew by") as caught:
        result.raise_for_status()
    assert isinstance(caught.value if by_task else caught.value.__cause__, TransferError)


def _lock_up() -> None:
    lock = threading.Lock()
    current().grow(Node("new", lambda: lock))


def _locked(view: View) -> Patch:
    lock = threading.Lock()
    return Patch([Node("b", lambda: lock)])


@pytest.mark.parametrize("name", ["", "a b", "..", "a/b"])
def test_a_run_id_that_cannot_be_a_name_is_refused(folder: str, name: str) -> None:
    """It names folders; found at the first large value it would be a fault in the middle of a run."""
    with pytest.raises(InvalidSettingError, match="run_id"):
        DAG([Node("a", int)]).run(checkpoint=folder, run_id=name)


def test_a_run_id_is_given_once(folder: str) -> None:
    """Two runs of one name would mix their facts."""
    assert DAG([Node("a", int)]).run(checkpoint=folder, run_id="once").ok
    with pytest.raises(DuplicateRunError):
        DAG([Node("a", int)]).run(checkpoint=folder, run_id="once")
    with pytest.raises(UnknownRunError, match="once"):
        dagrid.resume(folder, "onec")


# --- values, errors, ends ---------------------------------------------------------------------------------------------------


def fail() -> None:
    raise ValueError("bad \udc80 name")


def skip() -> None:
    raise SkipTask("nothing to do")


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_an_ended_run_gives_its_result_again(tmp_path: Path, backend: str, first_snapshot: int) -> None:
    """Values of every size, errors with their type, what was skipped and why: as they were, also by way of a snapshot."""
    large = bytes(range(256)) * 400
    nodes = [
        Node("none", lambda: None),
        Node("small", lambda: {"a": (1, 2)}),
        Node("large", lambda: large),
        Node("lost", partial(Unpicklable, 1)),
        Node("failed", fail, retries=Retry(1)),
        Node("after", lambda failed: failed, ["failed"]),
        Node("passed", skip),
        *[Node(f"more{n}", partial(int, n)) for n in range(20)],
    ]
    store, artifacts = open_store(tmp_path / "journal.db"), open_artifacts(tmp_path / "values")
    checkpoint = Checkpoint(store, artifacts, first_snapshot)
    result = DAG(nodes).run(checkpoint=checkpoint, run_id="ended", backend=backend)
    assert store.runs()[0].status == "failed"
    again = dagrid.resume(checkpoint, "ended")
    assert (first_snapshot > 1) == (store.latest("ended") is None)
    assert store.runs()[0].epoch == 1, "who only reads takes nothing over"
    assert again["none"] is None
    assert again["small"] == {"a": (1, 2)}
    assert again["large"] == large
    assert [again[f"more{n}"] for n in range(20)] == list(range(20))
    with pytest.raises(TransferError, match="holds a socket"):
        again["lost"]
    with pytest.raises(ValueError, match="bad"):
        again["failed"]
    for name in ("none", "failed", "after", "passed"):
        old, new = result.node_result(name), again.node_result(name)
        assert (new.status, new.attempts, new.worker) == (old.status, old.attempts, old.worker)
        assert new.reason.encode("utf-8", "backslashreplace") == old.reason.encode("utf-8", "backslashreplace")
    assert again.status == result.status
    assert again.total_duration_seconds == pytest.approx(result.total_duration_seconds, abs=0.001)
    with pytest.raises(ValueError, match="bad"):
        again.raise_for_status()
    store.close()


@pytest.mark.parametrize(
    ("tasks", "status"),
    [([int], "succeeded"), ([fail], "failed"), ([int, KeyboardInterrupt], "aborted")],
)
def test_the_store_says_how_a_run_ended(folder: str, tasks: Sequence[Callable[[], Any]], status: str) -> None:
    """Who lists the runs reads no journals. Ctrl-C ends a run, and its record says so."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    nodes = [Node(f"n{n}", interrupt if each is KeyboardInterrupt else each) for n, each in enumerate(tasks)]
    run = DAG(nodes).start(checkpoint=folder, backend="inline")
    result = run.wait(PATIENCE)
    record = records(folder)[run.id]
    assert record.status == result.status == status
    assert record.ended >= record.created > 0
    with pytest.raises(UnknownRunError, match=status):
        dagrid.resume(folder)
    again = dagrid.resume(folder, run.id)
    assert again.status == status


def test_a_failed_rule_is_told_again(folder: str) -> None:
    """The reason for which a run failed is in its record, not only in the process that saw it."""

    def wrong(view: View) -> Patch:
        raise ZeroDivisionError("never")

    run = DAG([Node("a", int)]).start(
        rules=[Rule(lambda view: view.succeeded("a"), wrong, name="wrong")], checkpoint=folder
    )
    with pytest.raises(RuleError):
        run.wait(PATIENCE).raise_for_status()
    with pytest.raises(RuleError, match="ZeroDivisionError: never"):
        dagrid.resume(folder, run.id).raise_for_status()


def test_values_of_processes_are_kept(folder: str) -> None:
    """They arrive pickled and are kept so, large ones and those that nobody here has opened."""
    nodes = [
        Node("small", partial(range, 3)),
        Node("large", partial(bytes, 50_000)),
        Node("length", _length, ["large"]),
    ]
    run = DAG(nodes).start(checkpoint=folder, backend="multiprocessing?max_workers=1")
    result = run.wait(PATIENCE)
    again = dagrid.resume(folder, run.id)
    assert again["small"] == result["small"] == range(3)
    assert again["length"] == result["length"] == 50_000
    assert len(again["large"]) == 50_000


def _length(large: bytes) -> int:
    return len(large)


# --- time -------------------------------------------------------------------------------------------------------------------


def test_a_try_that_waited_for_its_time_still_waits(folder: str) -> None:
    """A service that asked for an hour gets its hour, counted from the failure and not from the restart."""
    tries = folder + ".tries"

    def flaky() -> int:
        with open(tries, "a") as file:
            file.write("x")
        if os.path.getsize(tries) < 2:
            raise OSError("busy")
        return 7

    clock = VirtualClock(100.0)
    store = MemoryStore()
    checkpoint = Checkpoint(store, open_artifacts(folder))
    dag = DAG([Node("flaky", flaky, retries=Retry(1, delay=3600.0, max_delay=3600.0))])
    first = dag.start(checkpoint=checkpoint, run_id="r", backend="inline", clock=clock)
    with pytest.raises(TimeoutError):
        first.wait(0)
    assert first.status("flaky") == "waiting"
    later = VirtualClock(5.0)
    second = restart(checkpoint, "r", backend="inline", clock=later)
    with pytest.raises(TimeoutError):
        second.wait(0)
    assert later.due == pytest.approx(3605.0, abs=5.0), (first.explain("flaky"), later.due)
    assert os.path.getsize(tries) == 1
    later.advance()
    result = second.wait(PATIENCE)
    assert result["flaky"] == 7
    assert result.node_result("flaky").attempts == 2


def test_a_try_whose_time_came_meanwhile_goes_at_once(folder: str) -> None:
    """Nobody was there when it was due."""
    flag = folder + ".flag"

    def flaky() -> int:
        if not os.path.exists(flag):
            Path(flag).touch()
            raise OSError("busy")
        return 7

    store = MemoryStore()
    checkpoint = Checkpoint(store, open_artifacts(folder))
    clock = VirtualClock(0.0)
    dag = DAG([Node("flaky", flaky, retries=Retry(1, delay=1e-6))])
    with pytest.raises(TimeoutError):
        dag.start(checkpoint=checkpoint, run_id="r", backend="inline", clock=clock).wait(0)
    late = VirtualClock()
    assert dagrid.resume(checkpoint, "r", backend="inline", clock=late)["flaky"] == 7
    assert late.due is None


def test_times_before_the_clock_of_a_new_machine_are_times_all_the_same(folder: str) -> None:
    """A machine that was restarted counts from zero, so what happened before has negative times: it ran nevertheless."""
    clock = VirtualClock(1000.0)
    run = DAG([Node("a", int)]).start(checkpoint=folder, backend="inline", clock=clock)
    run.wait(PATIENCE)
    again = restart(folder, run.id, clock=VirtualClock(-5000.0)).wait(PATIENCE)
    assert again.node_result("a").attempts == 1
    assert again.node_result("a").worker == "inline"
    assert again.trace is not None
    assert again.trace.summary().workers == 1


def test_a_timeout_is_recorded(folder: str) -> None:
    """What ended by the clock ends the same when it is read."""
    with Gate() as gate:
        run = DAG([Node("slow", partial(stand, gate.address), timeout=0.05)]).start(checkpoint=folder)
        gate.meet()
        assert run.wait(PATIENCE).timed_out == 1
    again = dagrid.resume(folder, run.id)
    assert again.node_result("slow").status is NodeStatus.TIMED_OUT
    with pytest.raises(TaskTimeoutError):
        again["slow"]


# --- handles, threads, processes ----------------------------------------------------------------------------------------------


def test_a_cancelled_run_is_recorded_as_such(folder: str) -> None:
    """It was wanted, so nothing goes on."""
    with Gate() as gate:
        run = DAG(
            [Node("held", partial(stand, gate.address)), Node("after", partial(note, folder, "after"), ["held"])]
        ).start(checkpoint=folder)
        gate.meet()
        with pytest.raises(TimeoutError):
            run.wait(0.01)
        run.cancel("enough")
        assert run.wait(PATIENCE).status is RunStatus.ABORTED
    again = dagrid.resume(folder, run.id)
    assert again.cancelled == 2
    with pytest.raises(RunError, match="enough"):
        again.raise_for_status()


def test_events_of_a_resumed_run_begin_at_its_beginning(tmp_path: Path, folder: str) -> None:
    """A page that shows a run shows all of it, whoever ran which part."""
    log = str(tmp_path / "log")
    in_a_process(folder, log, "lost", "inline")
    run = restart(folder, backend="inline")
    run.wait(PATIENCE)
    kinds = [(event.kind, event.node, event.attempt) for event in run.events(follow=False) if event.node]
    assert kinds == [
        ("started", "first", 1),
        ("completed", "first", 1),
        ("started", "second", 1),
        ("completed", "second", 1),
        ("started", "dying", 1),
        ("requeued", "dying", 1),
        ("value_lost", "second", 1),
        ("started", "second", 2),
        ("completed", "second", 2),
        ("started", "dying", 2),
        ("completed", "dying", 2),
        ("started", "last", 1),
        ("completed", "last", 1),
    ]
    assert [event.sequence for event in run.events(follow=False)] == list(range(len(list(run.events(follow=False)))))


def test_many_runs_at_once_in_one_folder(folder: str) -> None:
    """Threads share a folder; each run finds its own values and no other's."""
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        nodes = [Node("a", partial(bytes, 5000 + number)), Node("b", _length, inputs={"large": "a"})]
        result = DAG(nodes).run(checkpoint=folder, run_id=f"run{number}", backend="thread?max_workers=2")
        results[number] = result["b"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {number: 5000 + number for number in range(8)}
    assert {record.status for record in records(folder).values()} == {"succeeded"}
    for number in range(8):
        assert len(dagrid.resume(folder, f"run{number}")["a"]) == 5000 + number


MANY = """
import dagrid, sys
from dagrid import DAG, Node
for number in range(5):
    result = DAG([Node("a", lambda: bytes(9000)), Node("b", lambda a: len(a), ["a"])]).run(checkpoint=sys.argv[1])
    assert result["b"] == 9000
"""


def test_many_processes_at_once_in_one_folder(tmp_path: Path, folder: str) -> None:
    """A cron job and a colleague use the same folder."""
    path = tmp_path / "many.py"
    path.write_text(MANY)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen([sys.executable, str(path), folder], env=environment) for _ in range(3)]
    assert [process.wait(50) for process in running] == [0, 0, 0]
    assert len(records(folder)) == 15


INTERRUPTED = """
import os, signal, sys, threading
from dagrid import DAG, Node
def nothing():
    pass
def soon():
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGINT)).start()
nodes = [Node(f"n{n}", nothing if n else soon, [f"n{n-1}"] if n else []) for n in range(10_000)]
result = DAG(nodes).run(checkpoint=sys.argv[1], backend="inline", run_id="r")
print(result.status, result.succeeded, result.cancelled, result.failed)
"""


@pytest.mark.parametrize("after", [0.01, 0.023, 0.05])
def test_ctrl_c_leaves_a_whole_record(tmp_path: Path, folder: str, after: float) -> None:
    """Most of the time of short tasks is spent in writing: an interrupt there must tear nothing apart."""
    ran = script(tmp_path / "many.py", INTERRUPTED, folder, str(after))
    assert ran.returncode == 0, ran.stderr
    status, *told = ran.stdout.split()
    succeeded, cancelled, failed = map(int, told)
    assert status == "aborted"
    again = dagrid.resume(folder, "r")
    assert (again.succeeded, again.cancelled, again.failed) == (succeeded, cancelled, failed)
    assert succeeded + cancelled + failed == 10_000
    assert failed <= 1, "the task in which it came, if it was in none of ours"


@task
def double(x: int) -> int:
    return 2 * x


@dag
def flow(x: int) -> int:
    return double(double(x))


def test_a_flow_takes_a_checkpoint(folder: str) -> None:
    """What `@dag` describes is a graph like any other."""
    run = flow.start(3, checkpoint=folder)
    run.wait(PATIENCE)
    again = dagrid.resume(folder, run.id)
    assert again.ok
    assert 12 in [again[name] for name in again]


def test_a_run_is_resumed_again_and_again(tmp_path: Path, folder: str) -> None:
    """Each owner leaves a record that the next one can go on from, with one failed store after the other."""
    log = str(tmp_path / "log")
    inner = FailingStore(5, StoreError("full"))
    checkpoint = Checkpoint(inner, open_artifacts(folder), first_snapshot=6)
    DAG(noting(log, 20)).run(checkpoint=checkpoint, run_id="r", backend="inline")
    ended = []
    for _ in range(20):
        inner.good = 7
        try:
            result = dagrid.resume(checkpoint, "r", backend="inline")
        except StoreError:
            continue
        ended.append(result.ok)
        if result.ok:
            break
    assert ended[-1]
    ran = Counter(noted(log))
    assert len(ran) == 20
    assert max(ran.values()) <= 3
    assert ran.total() <= 20 + len(ended)


def test_who_writes_for_others_does_not_wait_for_them(folder: str) -> None:
    """Several chains, each on a worker: whoever writes the record takes along what others left, and then its own next node."""
    count, chains = 60, "abcdef"
    nodes = [Node(f"{c}{n}", _seven, [f"{c}{n - 1}"] if n else []) for c in chains for n in range(count)]
    result = DAG(nodes).run(checkpoint=folder, backend="thread?max_workers=6").node_results
    first = min(result[f"{c}{count - 1}"].ended for c in chains)
    reached = [sum(result[f"{c}{n}"].ended <= first for n in range(count)) for c in chains]
    assert min(reached) >= count // 6, reached
    assert max(reached) == count


def _seven() -> int:
    return 7
