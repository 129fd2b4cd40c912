"""Disks that are full for a while, at the coordinator and at a worker."""

from __future__ import annotations

import pytest

from dagrid.history import History
from tests.chaos.rooms import fill, small_disk
from tests.service.processes import Fleet, Process, until, until_listening


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path, ("coordinator", "--coordinator.lease=3s"))
    yield made
    made.close()


def start(fleet, room):
    """Start the coordinator in a room."""
    arguments = (*fleet.command, f"--coordinator.port={fleet.port}")
    fleet.coordinator = Process(fleet.folder / "main", arguments, {}, room.inside)
    return until_listening(fleet.coordinator, fleet.port)


def test_a_coordinator_without_room_goes_on_when_there_is_some(fleet, tmp_path):
    """What it cannot record has not happened; nothing runs twice, and all of it is there in the end."""
    home = tmp_path / "main" / "home"
    with small_disk(home, "8m") as room:
        fleet.history.close()
        fleet.history = History(room.path(home))
        start(fleet, room)
        fleet.worker("one")
        fleet.linked()
        step = f"echo begun >> {tmp_path}/begun; until test -e {tmp_path}/go; do sleep 0.01; done"
        more = "seq 20000; echo x >> " + str(tmp_path / "after")
        run = fleet.enqueue(f"steps: [{{name: a, command: '{step}; seq 20000'}}, {{name: b, command: '{more}'}}]")
        until((tmp_path / "begun").exists, "the step")
        filling = fill(room.path(home))
        (tmp_path / "go").touch()
        until(lambda: "No space left" in fleet.coordinator.text or "full" in fleet.coordinator.text, "a word of it")
        filling.unlink()
        if fleet.coordinator.process.poll() is not None:
            start(fleet, room)
        assert fleet.ended(run) == "succeeded", fleet.coordinator.text
        assert (tmp_path / "begun").read_text() == "begun\n"
        assert (tmp_path / "after").read_text() == "x\n"
        for name in "ab":
            assert fleet.history.folder(run)
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
        print(status, fleet.workers["one"].text)
        again = fleet.enqueue(text, "again")
        assert fleet.ended(again) == "succeeded"
        assert fleet.out(again, "a") == "hello\n"
        assert status == "failed"
        until(lambda: not list(room.path(home).glob("worker/*/runs/*")), "an empty folder")
        fleet.close()
