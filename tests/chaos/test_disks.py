"""Disks that are full for a while, at the coordinator and at a worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_a_coordinator_without_room_goes_on_when_there_is_some(fleet, tmp_path):
    """What it cannot record has not happened; nothing runs twice, and all of it is there in the end."""
    home = tmp_path / "main" / "home"
    with small_disk(home, "8m") as room:
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        step = f"echo begun >> {tmp_path}/begun; until test -e {tmp_path}/go; do sleep 0.01; done; seq 20000"
        more = f"seq 20000; echo x >> {tmp_path}/after"
        run = tell(room, ENQUEUE, home, f"steps: [{{name: a, command: '{step}'}}, {{name: b, command: '{more}'}}]")
        until((tmp_path / "begun").exists, "the step")
        filling = fill(room.path(home))
        (tmp_path / "go").touch()
        until(lambda: "No space left" in fleet.coordinator.text or "full" in fleet.coordinator.text, "a word of it")
        filling.unlink()
        assert tell(room, ENDED, home, run) == "succeeded", fleet.coordinator.text
        assert (tmp_path / "begun").read_text() == "begun\n"
        assert (tmp_path / "after").read_text() == "x\n"
        for step in "ab":
            (log,) = room.path(home).glob(f"logs/flow/{run}/{step}.out")
            assert log.read_text() == "".join(f"{number}\n" for number in range(1, 20001))
        fleet.close()


def test_a_run_that_could_not_be_recorded_is_taken_up_again(fleet, tmp_path):
    """The journal itself finds no room: the run stands still, and goes on by itself when there is some."""
    home = tmp_path / "main" / "home"
    with small_disk(home, "8m") as room:
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        step = f"echo begun >> {tmp_path}/begun; until test -e {tmp_path}/go; do sleep 0.01; done"
        steps = [f"{{name: s{number}, command: 'echo s{number} >> {tmp_path}/done'}}" for number in range(60)]
        run = tell(room, ENQUEUE, home, f"steps: [{{name: a, command: '{step}'}}, {', '.join(steps)}]")
        until((tmp_path / "begun").exists, "the step")
        filling = fill(room.path(home))
        (tmp_path / "go").touch()
        until(lambda: "The disk is full" in fleet.coordinator.text, "a word of it")
        filling.unlink()
        assert tell(room, ENDED, home, run) == "succeeded", fleet.coordinator.text
        assert (tmp_path / "begun").read_text() == "begun\n"
        assert (tmp_path / "done").read_text().split() == [f"s{number}" for number in range(60)]
        fleet.close()


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
