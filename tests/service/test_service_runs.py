"""The runs of a worker: what there is of one goes with it, however early it ends."""

from __future__ import annotations

import asyncio
import os
import threading

import cloudpickle
import pytest

from dagrid.execution.backends.cluster.contents import Contents
from dagrid.service.worker.folders import KEPT, Folders
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


def fill(folder):
    (folder / "logs" / "deep").mkdir()
    (folder / "logs" / "deep" / "step.out").write_text("mine")
    (folder / "logs" / "step.err").touch()
    (folder / "files").mkdir()
    (folder / "files" / "mine").touch()


def link_logs_elsewhere(folder):
    fill(folder)
    elsewhere = folder.parent.parent / "elsewhere"
    (folder / "logs").rename(elsewhere)
    (folder / "logs").symlink_to(elsewhere)


def link_elsewhere(folder):
    """Steps may leave anything."""
    fill(folder)
    (folder / "link").symlink_to(folder.parent)
    (folder / "logs" / "link").symlink_to(folder.parent.parent)


def remove_logs(folder):
    (folder / "logs").rmdir()


def remove(folder):
    (folder / "logs").rmdir()
    folder.rmdir()


@pytest.mark.parametrize("leave", [fill, link_elsewhere, link_logs_elsewhere, remove_logs, remove])
def test_a_run_finds_nothing_of_the_one_before(tmp_path, leave):
    """Its folder has another name, so that who still knows the old one finds nothing, and is empty but for the logs."""
    folders = Folders(tmp_path / "runs")
    for name in ("first", "second", "third"):
        folder = folders.give(name)
        assert folder == tmp_path / "runs" / name
        assert [(path.name, list(path.iterdir())) for path in folder.iterdir()] == [("logs", [])]
        other = folders.give("other")
        leave(folder)
        folders.take_back(folder)
        folders.take_back(other)
        assert list((tmp_path / "runs").iterdir()) == []
        if leave is link_logs_elsewhere:
            assert (tmp_path / "elsewhere" / "deep" / "step.out").read_text() == "mine"
            (tmp_path / "elsewhere").rename(tmp_path / f"elsewhere-{name}")
    folders.close()
    assert {path.name for path in tmp_path.iterdir() if "elsewhere" not in path.name} == {"runs"}


def nothing(files):
    """Most steps leave nothing where they run."""


def write_a_file(files):
    (files / "made").touch()


def forbid_it(files):
    files.chmod(0o500)


def mark_it(files):
    os.setxattr(files, "user.mark", b"mine")


@pytest.mark.parametrize(
    ("leave", "stays"), [(nothing, True), (write_a_file, False), (forbid_it, False), (mark_it, False)]
)
def test_where_steps_run_is_as_if_it_had_just_been_made(tmp_path, leave, stays):
    """The folder goes on to the next run if the one before has left nothing there, for where many are made that costs most."""
    folders = Folders(tmp_path / "runs")
    folder = folders.give("first")
    files = folder / "files"
    files.mkdir()
    before = files.stat()
    leave(files)
    folders.take_back(folder)
    given = folders.give("second")
    assert sorted(path.name for path in given.iterdir()) == (["files", "logs"] if stays else ["logs"])
    if stays:
        found = (given / "files").stat()
        assert (found.st_mode, found.st_ino) == (before.st_mode, before.st_ino)
        assert list((given / "files").iterdir()) == []
    folders.close()


def test_folders_are_kept_for_the_next_runs_and_no_more(tmp_path):
    """Of a thousand runs at once, few folders stay."""
    folders = Folders(tmp_path / "runs")
    given = [folders.give(f"run-{number}") for number in range(2 * KEPT)]
    known = {folder.stat().st_ino for folder in given}
    for folder in given:
        folders.take_back(folder)
    assert len(list((tmp_path / "spare").iterdir())) == KEPT
    assert {folders.give(f"again-{number}").stat().st_ino for number in range(KEPT)} < known
