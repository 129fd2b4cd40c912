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
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Let it be so many seconds before the others."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._path)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["worker", "coordinator"])
def test_a_clock_that_jumps_loses_nothing(tmp_path, who):
    """An hour forward, two back, while a step runs: no lease ends, no envelope is too late, no step is lost or run again."""
    clock = Clock(tmp_path / "clock")
    key = {"DAGRID_COORDINATOR_SIGNING_KEY": "a-key-of-a-test"}
    fleet = Fleet(
        tmp_path, ("coordinator", "--coordinator.lease=3s"), key | (clock.env if who == "coordinator" else {})
    )
    try:
        fleet.start()
        fleet.env = key
        worker = fleet.worker("one", env=clock.env if who == "worker" else {})
        fleet.linked()
        for number, jump in enumerate((HOUR, -HOUR)):
            go = tmp_path / f"go-{number}"
            step = f"echo begun | tee -a {tmp_path}/begun-{number}; until test -e {go}; do sleep 0.01; done; date +%s"
            run = fleet.enqueue(
                f"steps: [{{name: a, command: '{step}', timeoutSec: 1000}}, 'echo more']", f"flow-{number}"
            )
            until(lambda run=run: fleet.out(run, "a") == "begun\n", "the first line")
            clock.set(jump)
            go.touch()
            assert fleet.ended(run) == "succeeded"
            assert (tmp_path / f"begun-{number}").read_text() == "begun\n"
        assert worker.text.count("Linked with") == 1, worker.text
    finally:
        fleet.close()
