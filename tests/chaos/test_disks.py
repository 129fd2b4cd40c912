"""Disks that are full for a while, at the coordinator and at a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from dagrid import DAG, Node, NodeStatus
from dagrid.execution.backends.cluster.backend import ClusterBackend
from tests.chaos.rooms import fill, small_disk
from tests.service.processes import Fleet, Process, until, until_listening

ENQUEUE = """
import sys
from dagrid.history import About, History
home, text = sys.argv[1:]
print(History(home).enqueue("flow", About(source="flow.yaml", spec=text, queue="flow")))
"""
ENDED = """
import sys, time
from dagrid.history import History
history = History(sys.argv[1])
while not history.info(sys.argv[2]).ended:
    time.sleep(0.05)
print(history.info(sys.argv[2]).status)
"""


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path, ("coordinator", "--coordinator.lease=3s"))
    yield made
    made.close()


def start(fleet, room):
    """Start the coordinator in a room."""
    arguments = (*fleet.command, f"--coordinator.port={fleet.port}")
    fleet.coordinator = Process(fleet.folder / "main", arguments, {}, room.inside)
    until_listening(fleet.coordinator, fleet.port)


def tell(room, code, *words):
    """Return what some code says in a room; SQLite knows files by where they are, so nobody else may open them there."""
    argv = [*room.inside, sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=40).stdout.strip()


@pytest.mark.slow
def test_a_coordinator_without_room_goes_on_when_there_is_some(fleet, tmp_path):
    """What it cannot record has not happened; the runs stand still, nothing runs twice, and all of it is there in the end."""
    home, done = tmp_path / "main" / "home", tmp_path / "done"
    with small_disk(home, "8m") as room:
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        wait = f"echo begun >> {tmp_path}/{{0}}; until test -e {tmp_path}/go; do sleep 0.01; done"
        steps = [f"{{name: s{number}, command: 'echo s{number} >> {done}'}}" for number in range(60)]
        silent = f"steps: [{{name: a, command: '{wait.format('silent')}'}}, {', '.join(steps)}]"
        talks = f"steps: [{{name: a, command: '{wait.format('talks')}; seq 20000'}}]"
        runs = [tell(room, ENQUEUE, home, text) for text in (silent, talks)]
        for name in ("silent", "talks"):
            until((tmp_path / name).exists, f"the step that {name}")
        filling = fill(room.path(home))
        (tmp_path / "go").touch()
        until(lambda: "The disk is full" in fleet.coordinator.text, "a word of it")
        filling.unlink()
        assert [tell(room, ENDED, home, run) for run in runs] == ["succeeded"] * 2, fleet.coordinator.text
        assert [(tmp_path / name).read_text() for name in ("silent", "talks")] == ["begun\n"] * 2
        assert done.read_text().split() == [f"s{number}" for number in range(60)]
        (log,) = room.path(home).glob(f"logs/flow/{runs[1]}/a.out")
        assert log.read_text().split() == [str(number) for number in range(1, 20001)]
        fleet.close()


@pytest.mark.slow
def test_a_worker_without_room_fails_what_needs_some(fleet, tmp_path):
    """A run that cannot have its folder fails and says so; the worker lives, and performs the next one."""
    home = tmp_path / "one" / "home"
    with small_disk(home, "1m") as room:
        fleet.start()
        flags = (f"--worker.coordinator-port={fleet.port}", "--worker.id=one")
        fleet.workers["one"] = Process(tmp_path / "one", ("worker", *flags), {}, room.inside)
        fleet.linked()
        filling = fill(room.path(home))
        text = "steps: [{name: a, command: echo hello}]"
        full = fleet.enqueue(text, "full")
        status = fleet.ended(full)
        filling.unlink()
        again = fleet.enqueue(text, "again")
        assert fleet.ended(again) == "succeeded"
        assert fleet.out(again, "a") == "hello\n"
        assert status == "failed"
        until(lambda: not list(room.path(home).glob("worker/*/runs/*")), "an empty folder")
        fleet.close()


@pytest.mark.slow
def test_a_worker_without_room_lives_whatever_it_is_sent_and_whatever_it_makes(fleet, tmp_path):
    """An argument that does not fit ended the worker, with all else that ran there, and then the next one. A node that has no
    room has failed, may be tried again where there is some, and says what was wrong.
    """
    home = tmp_path / "one" / "home"
    with small_disk(home, "8m") as room, ExitStack() as closing:
        fleet.start()
        flags = (f"--worker.coordinator-port={fleet.port}", "--worker.id=one")
        fleet.workers["one"] = Process(tmp_path / "one", ("worker", *flags), {}, room.inside)
        fleet.linked()
        backend = closing.enter_context(ClusterBackend(f"grpc://127.0.0.1:{fleet.port}", files=[]))

        def begins(there=str(tmp_path / "there"), go=str(tmp_path / "go")):
            from pathlib import Path
            from time import sleep

            Path(there).touch()
            while not Path(go).exists():
                sleep(0.01)
            return "went on"

        beside = DAG([Node("beside", begins)]).start(backend=backend, progress=False)
        until((tmp_path / "there").exists, "the node beside")
        large = os.urandom(20_000_000)
        sent = Node("sent", lambda content=large: len(content), retries=1)
        made = Node("made", lambda: os.urandom(20_000_000))
        result = DAG([sent, made]).run(backend=backend, progress=False)
        for node, tries in (("sent", 2), ("made", 1)):
            found = result.node_results[node]
            assert (found.status, found.attempts) == (NodeStatus.FAILED, tries)
            assert "No space left" in str(found.error)
        (tmp_path / "go").touch()
        assert beside.wait()["beside"] == "went on"
        assert DAG([Node("small", int)]).run(backend=backend, progress=False)["small"] == 0
        assert fleet.workers["one"].text.count("Linked") == 1
        fleet.close()


@pytest.mark.slow
def test_a_run_that_is_stopped_does_not_wait_for_a_value_that_finds_no_room(fleet, tmp_path):
    """Its node has ended and its value cannot be brought: nobody wants that any more. Without room for it the run never ended."""
    with small_disk(tmp_path / "main" / "home", "8m") as room, ExitStack() as closing:
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        backend = closing.enter_context(ClusterBackend(f"grpc://127.0.0.1:{fleet.port}", files=[]))
        run = DAG([Node("made", lambda: os.urandom(20_000_000))]).start(backend=backend, progress=False)
        until(lambda: "No space left" in fleet.coordinator.text, "a word of it")
        run.cancel()
        assert run.wait().node_results["made"].status == NodeStatus.CANCELLED
        assert DAG([Node("small", int)]).run(backend=backend, progress=False)["small"] == 0
        fleet.close()


@pytest.mark.slow
def test_a_value_that_finds_no_room_is_brought_when_there_is_some(fleet, tmp_path):
    """It ended the stream of its worker every few seconds, and stood in the way of all others there."""
    with small_disk(tmp_path / "main" / "home", "40m") as room, ExitStack() as closing:
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        backend = closing.enter_context(ClusterBackend(f"grpc://127.0.0.1:{fleet.port}", files=[]))
        filling = room.path(tmp_path / "main" / "home") / "filling"
        filling.write_bytes(bytes(25_000_000))
        run = DAG([Node("made", lambda: os.urandom(20_000_000))]).start(backend=backend, progress=False)
        until(lambda: "There is no room for what one sends (20" in fleet.coordinator.text, "a word of it")
        assert DAG([Node("small", int)]).run(backend=backend, progress=False)["small"] == 0
        large = os.urandom(18_000_000)
        sent = DAG([Node("sent", lambda content=large: len(content))]).start(backend=backend, progress=False)
        until(lambda: "(18" in fleet.coordinator.text, "a word of what is sent")
        filling.unlink()
        assert len(run.wait()["made"]) == 20_000_000
        assert sent.wait()["sent"] == len(large)
        assert fleet.workers["one"].text.count("Linked") == 1
        assert fleet.coordinator.text.count("There is no room") == 2
        fleet.close()
