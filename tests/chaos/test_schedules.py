"""Nothing is lost and nothing runs twice on real processes, whatever happens to them: random schedules.

`DAGRID_CHAOS_SEEDS` says how many; `DAGRID_CHAOS_SEED` is the one that is looked at alone.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.rig import Rig
from tests.chaos.schedules import Schedule

SEEDS = range(int(os.environ.get("DAGRID_CHAOS_SEEDS", "2")))
if "DAGRID_CHAOS_SEED" in os.environ:
    SEEDS = range(int(os.environ["DAGRID_CHAOS_SEED"]), int(os.environ["DAGRID_CHAOS_SEED"]) + 1)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("chaos"))
    try:
        yield made.begin()
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_every_run_ends_as_it_would_without_faults(rig, seed):
    schedule = Schedule(seed)
    print(f"DAGRID_CHAOS_SEED={seed}: {[(round(at, 2), name, target) for at, name, target in schedule.faults]}")
    try:
        schedule.perform(rig)
        for run, flow in schedule.runs.items():
            rig.check(run, flow, run in schedule.stopped)
        rig.check_nothing_is_left()
    except BaseException:
        for run in schedule.runs:
            print(run, rig.status(run), "stopped" if run in schedule.stopped else "")
            print(*rig.events(run) if rig.history.has_begun(run) else (), *rig.lines(run), sep="\n  ")
        for process in (rig.coordinator, *rig.workers.values()):
            print(process.folder.name, process.text[-3_000:], sep=":\n")
        raise
