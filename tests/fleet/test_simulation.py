"""Nothing is lost and nothing runs twice, whatever happens to the fleet: random schedules on a virtual clock.

`DAGRID_CHAOS_SCHEDULES` says how many of each kind; a seed that fails is looked at with `python -m tests.fleet.simulation`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fleet.simulation import live

SCHEDULES = int(os.environ.get("DAGRID_CHAOS_SCHEDULES", "50"))
AT_ONCE = 250
"""So many schedules are one test, which ends long before its time is over."""
KINDS = ("", "chains", "gentle", "gentle chains")


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_ends_with_what_a_run_without_faults_gives(kind: str, first: int) -> None:
    for seed in range(first, min(first + AT_ONCE, SCHEDULES)):
        try:
            live(seed, gentle="gentle" in kind, chains="chains" in kind)
        except Exception as error:
            error.add_note(f"Look at it with: python -m tests.fleet.simulation {seed} {kind}")
            raise


def test_a_schedule_follows_from_its_seed_in_every_process() -> None:
    """Else a seed that failed could not be looked at: the order of a set of texts is another one in each process."""
    look = "from tests.fleet.simulation import live; print([[work.facts for work in live(n).works] for n in range(12)])"
    told = [
        subprocess.run(
            [sys.executable, "-c", look],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(told[0]) > 10_000
    assert told[0] == told[1]


def test_the_schedules_have_what_they_are_for() -> None:
    """Faults that never come would find nothing: over a few schedules each kind of trouble is there."""
    seen: set[str] = set()
    for seed in range(40):
        seen |= live(seed, chains=seed % 2 == 0).time.seen
    assert seen >= {"COMPLETED", "REQUEUED", "RECALLED", "RETRY", "CANCELLED", "TIMED_OUT", "WORKER_GONE", "FREED"}
    assert seen >= {"death of a Coordinator", "death of a Borrower", "death of a WorkerProcess"}
    assert seen >= {"a use goes on", "room", "a chain", "something exclusive"}
