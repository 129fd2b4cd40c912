"""The runs of a worker: what there is of one goes with it, however early it ends."""

from __future__ import annotations

import asyncio
import threading

import cloudpickle

from dagrid.execution.backends.cluster.contents import Contents
from dagrid.service.worker.runs import Runs

ARRIVES, MAY = threading.Event(), threading.Event()


class SlowKit:
    """A kit that is still being opened when its run ends."""

    contents = ()

    def arrive(self, folder, content, labels):
        for number in range(3):
            (folder / f"before-{number}").touch()
        ARRIVES.set()
        assert MAY.wait(20)
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").touch()


def test_a_run_that_ends_while_its_kit_is_opened_leaves_nothing(tmp_path):
    """A run that is cancelled at once, of which much has to be unpacked."""
    contents = Contents(tmp_path / "contents")

    async def begin_and_end():
        runs = Runs(asyncio.get_running_loop(), tmp_path / "runs", contents, {}, lambda _: None)
        run = runs.begin("run", contents.put(cloudpickle.dumps(SlowKit())), lambda _: None)
        assert await asyncio.to_thread(ARRIVES.wait, 20)
        runs.end(run)
        runs.end(runs.begin("other", b"", lambda _: None))  # it ends behind the first one, or with it
        MAY.set()
        await asyncio.to_thread(runs.close)
        assert run.error is None

    asyncio.run(begin_and_end())
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_comes_again_waits_for_its_own_kit(tmp_path):
    """Its calls must not find nothing around them because the kit of its first time here has been opened meanwhile."""
    contents = Contents(tmp_path / "contents")

    async def begin_again():
        runs = Runs(asyncio.get_running_loop(), tmp_path / "runs", contents, {}, told.append)
        kit, there = contents.put(cloudpickle.dumps(SlowKit())), asyncio.Event()
        MAY.set()

        def ready(run):
            opened.append(run)
            there.set()

        first = runs.begin("run", kit, ready)
        runs.end(first)
        second = runs.begin("run", kit, ready)
        assert [first.ready, second.ready] == [False, False]
        await there.wait()
        assert opened == told == [second]
        await asyncio.to_thread(runs.close)

    told, opened = [], []
    asyncio.run(begin_again())
