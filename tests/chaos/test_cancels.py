"""Runs that are stopped at random moments, hundreds of them: `DAGRID_CHAOS_CANCELS` says how many."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest

from dagrid.errors import DagridError
from tests.chaos.rig import Flow, Rig, Step

CANCELS = int(os.environ.get("DAGRID_CHAOS_CANCELS", "40"))
AT_ONCE = 100


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("cancels"))
    try:
        yield made.begin()
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, CANCELS, AT_ONCE))
def test_a_run_may_be_stopped_at_any_moment(rig, first):
    """Each ends, stopped or done, and nothing of it is left."""
    draw = random.Random(first)
    flow = Flow([Step("a", 1), Step("b", 2, 0.02, parents=["a"]), Step("c", 3, 30.0, parents=["b"])])
    runs = []
    for _ in range(first, min(first + AT_ONCE, CANCELS)):
        runs.append(rig.submit(flow))
        time.sleep(draw.uniform(0.0, 0.02))  # a moment of its own, which the seed says
        if len(runs) > 3:
            stop(rig, runs[draw.randrange(len(runs))])
    left = set(runs)
    deadline = time.monotonic() + 50
    while left:
        assert time.monotonic() < deadline, left
        for run in sorted(left, key=lambda _: draw.random()):
            if rig.history.info(run).ended:
                left.discard(run)
            else:
                stop(rig, run)
    assert {rig.status(run) for run in runs} == {"aborted"}
    for run in runs:
        rig.check(run, flow, stopped=True)
    rig.check_nothing_is_left()


def stop(rig, run):
    """Ask for the end of a run, which may wait in its queue, be on its way, or be over."""
    with suppress(DagridError):
        rig.history.stop(run)
