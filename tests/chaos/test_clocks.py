"""Clocks that jump: what is counted from one moment to another is counted by a clock that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.processes import Fleet, until

HOUR = 3600


def library():
    """Return the library that gives a process another clock."""
    found = [
        *Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"),
        *Path("/usr/local/lib").glob("**/libfaketimeMT*"),
    ]
    assert found, "There is no libfaketime. Install it (on Debian: apt-get install libfaketime), or run tools/servers."
    return str(found[0])


class Clock:
    """The clock of day of a process, as a file has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        self.env = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Let it be so many seconds before the others."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._path)


@pytest.mark.slow
def test_clocks_that_jump_lose_nothing(tmp_path):
    """An hour there and an hour back, at the same time, while a step runs: no lease ends, and no envelope comes too late."""
    key = {"DAGRID_COORDINATOR_SIGNING_KEY": "a-key-of-a-test"}
    here, there = Clock(tmp_path / "here"), Clock(tmp_path / "there")
    fleet = Fleet(tmp_path, ("coordinator", "--coordinator.lease=6s"), key | here.env)
    try:
        fleet.start()
        worker = fleet.worker("one", env=there.env)
        fleet.linked()
        for number, jump in enumerate((HOUR, -HOUR)):
            go, begun = tmp_path / f"go-{number}", tmp_path / f"begun-{number}"
            step = f"echo begun | tee -a {begun}; until test -e {go}; do sleep 0.01; done"
            text = f"steps: [{{name: a, command: '{step}', timeoutSec: 1000}}, 'echo more']"
            run = fleet.enqueue(text, f"flow-{number}")
            until(lambda run=run: fleet.out(run, "a") == "begun\n", "the first line")
            here.set(jump)
            there.set(-jump)
            go.touch()
            assert fleet.ended(run) == "succeeded"
            assert begun.read_text() == "begun\n"
        assert worker.text.count("Linked with") == 1, worker.text
    finally:
        fleet.close()
