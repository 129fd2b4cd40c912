"""Nothing is lost: whatever dies, fails or is taken over, a run goes on with what was not done, and nothing runs unwritten."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import dagrid
import dagrid.execution.backends.command
from dagrid import DAG, Node
from dagrid.assemble import restart
from dagrid.errors import (
    StaleEpochError,
    UnknownBackendError,
    UnknownRunError,
)
from dagrid.execution.recording import Checkpoint
from dagrid.stores import open_artifacts, open_store
from dagrid.stores.memory import MemoryStore
from dagrid.testing.gate import Gate, stand
from tests.execution.checkpointing import (
    PATIENCE,
    in_a_process,
    records,
    script,
)
from tests.execution.durable_tasks import note, noted

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
