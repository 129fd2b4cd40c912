"""A store that fails, is full, or is that of another run: the run says so, and nothing runs that is not written."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
import dagrid.execution.backends.command
from dagrid import DAG, Node, NodeStatus, Patch, Rule, RunStatus, View, command, current
from dagrid.assemble import view
from dagrid.errors import (
    BackendUnreachableError,
    DuplicateRunError,
    InvalidSettingError,
    RuleError,
    StoreError,
    TransferError,
    UnknownRunError,
)
from dagrid.execution.recording import Checkpoint
from dagrid.ports import Encoded
from dagrid.stores import open_artifacts
from dagrid.stores.memory import MemoryStore
from tests.execution.checkpointing import (
    PATIENCE,
    FailingStore,
    FullArtifacts,
    noting,
    records,
)
from tests.execution.durable_tasks import note, noted

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


class Away(Encoded):
    """A value that is still where it was made, and cannot be had from there."""

    def packed(self) -> bytes:
        raise TransferError("it stayed there") from BackendUnreachableError("the coordinator that had it is away")


def test_a_value_that_could_not_be_fetched_is_not_said_to_be_one_that_cannot_be_pickled() -> None:
    """Who reads the record looks for the fault where it is."""
    checkpoint = Checkpoint(MemoryStore(), FullArtifacts())
    DAG([Node("far", Away)]).run(checkpoint=checkpoint, run_id="r", backend="inline")
    why = "could not be fetched (BackendUnreachableError: the coordinator that had it is away)"
    with pytest.raises(TransferError, match=re.escape(f"The value of node 'far' was not kept: it {why}. Run the node")):
        view(checkpoint, "r").result()["far"]


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
