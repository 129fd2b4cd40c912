"""What a history keeps of runs, who performs them, and how they are found and forgotten; with real processes and real locks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagrid.history
from dagrid import DAG, Node
from dagrid.assemble import start
from dagrid.errors import (
    DuplicateRunError,
    InvalidSettingError,
    RunHeldError,
    RunStateError,
    StoreError,
    StoreVersionError,
    UnknownRunError,
)
from dagrid.history import About, History, file_name, new_id, owners

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "home") as opened:
        yield opened


Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def perform(history: History) -> Iterator[Begin]:
    """Start processes that perform runs, and end them."""
    begun: list[subprocess.Popen[str]] = []

    def perform(action: str, argument: str, home: Path | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.history.performer", str(home or history.home), action, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        begun.append(process)
        return process

    yield perform
    for process in begun:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(PATIENCE)
        process.stdout.close()


def said(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return the run that a process performs, and its number, when it has begun."""
    assert process.stdout is not None
    run, pid = json.loads(process.stdout.readline())
    return run, pid


def ended(history: History, name: str = "nightly", status: str = "succeeded", at: float | None = None) -> str:
    """Make a run that has ended, and return its id."""
    with history.begin(name, About()) as place:
        history.checkpoint.store.append(
            place.run_id, place.epoch, 0, [b"fact"], status=status, at=time.time() if at is None else at
        )
        return place.run_id


# Beginning.


def test_a_run_has_a_place_and_is_found_again(history):
    """The whole circle: begun, performed, ended, found by another who opens the same home."""
    about = About(source="nightly.yaml", spec="steps: []", params=("DAY=1", "two"), trigger="manual")
    with history.begin("nightly", about) as place:
        assert place.folder == history.home / "logs" / "nightly" / place.run_id
        assert place.folder.is_dir()
        assert place.log == place.folder / "run.log"
        assert place.stdout("fetch") == place.folder / "fetch.out"
        assert place.stderr("fetch") == place.folder / "fetch.err"
        dag = DAG([Node("one", fn=int)])
        run = start(dag, checkpoint=history.checkpoint, run_id=place.run_id, epoch=place.epoch, progress=False)
        assert run.wait().ok
    with History(history.home) as other:
        (info,) = other.runs()
        assert (info.run, info.name, info.status, info.parent) == (place.run_id, "nightly", "succeeded", "")
        assert 0 < info.created <= info.ended <= time.time()
        kept = other.about(info.run)
        assert msgspec.structs.replace(kept, host="", pid=0, folder="", home="", created=0.0, name="") == about
        assert (kept.name, kept.pid, kept.host) == ("nightly", os.getpid(), os.uname().nodename)
        assert kept.folder == str(place.folder)


def test_nothing_is_made_before_it_is_needed(tmp_path):
    """Who only says where the home is leaves no trace of it."""
    with History(tmp_path / "home"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_home_is_its_owners(history):
    """Outputs of steps are nobody else's business."""
    ended(history)
    assert history.home.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be(tmp_path):
    """It is said which folder, and what to do."""
    (tmp_path / "file").write_text("")
    with History(tmp_path / "file" / "home") as history, pytest.raises(StoreError, match=r"file/home.*another home"):
        history.begin("nightly", About())


def test_ids_are_in_the_order_of_time():
    """Whoever sorts them has the newest last, and they are what other programs know as UUIDs of version 7."""
    ids = []
    for _ in range(100):
        ids.append(new_id())
        before = time.time_ns() // 245  # a step of the fraction
        while time.time_ns() // 245 == before:
            pass
    assert ids == sorted(ids)
    assert len(set(ids)) == 100
    form = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(form.fullmatch(run) for run in ids)


@pytest.mark.parametrize("run", ["", ".", "a.b", "a/b", "a b", "ä", "a" * 101, "../x"])
def test_ids_that_cannot_be(history, run):
    """An id is the name of a folder, and a dot in it means that a run was called."""
    with pytest.raises(InvalidSettingError, match="id of a run"):
        history.begin("nightly", About(), run)
    assert history.runs() == []


def test_an_id_is_given_once(history):
    """Under whatever name; and the first one loses nothing by the second."""
    with history.begin("nightly", About(spec="first"), "mine") as place:
        for name in ("other", "nightly"):
            with pytest.raises((DuplicateRunError, RunHeldError)):
                history.begin(name, About(spec="second"), "mine")
    for name in ("other", "nightly"):
        with pytest.raises(DuplicateRunError):
            history.begin(name, About(spec="second"), "mine")
    assert history.about("mine").spec == "first"
    assert place.folder.is_dir()
    assert not (history.home / "logs" / "other" / "mine").exists()


# Names of files.


@given(st.lists(st.text(max_size=255), unique=True, max_size=30))
def test_every_step_has_files_of_its_own(names):
    """Names have slashes, spaces and 255 letters; a file has none of these, and two of them never meet."""
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]{0,200}", file)


@pytest.mark.parametrize("name", ["fetch", "cmd_1", "a.b-c", "x" * 100])
def test_a_plain_name_is_its_file(name):
    """People look for them."""
    assert file_name(name) == name


def test_a_name_that_looks_like_a_fingerprint():
    """What a name becomes is no name itself."""
    name = "load all/of it"
    assert file_name(name).startswith("load_all_of_it~")
    assert file_name(file_name(name)) != file_name(name)


# Who performs a run.


def test_a_run_is_running_while_its_process_lives(history, perform):
    """What another process performs is seen, with its number; killed at any point, it is interrupted, and anybody's."""
    process = perform("begin", "nightly")
    run, pid = said(process)
    info = history.info(run)
    assert (info.status, info.pid, info.host) == ("running", pid, os.uname().nodename)
    with pytest.raises(RunHeldError, match=f"process {pid}") as caught:
        history.reopen(run)
    assert caught.value.pid == pid
    process.kill()
    process.wait(PATIENCE)
    assert history.info(run).status == "interrupted"
    with history.reopen(run) as place:
        assert (place.run_id, place.folder.name) == (run, run)
        assert place.epoch > 1  # it never began, so it is to be started
        assert history.info(run).status == "running"
        assert history.about(run).pid == os.getpid()


def test_how_long_a_run_took_is_never_less_than_nothing(history):
    """The time of day may have been set back while it went on."""
    before = time.time()
    assert history.info(ended(history, at=before - 3600)).seconds == 0.0
    with history.begin("nightly", About()) as place:
        assert 0.0 <= history.info(place.run_id).seconds < time.time() - before + 60
    assert history.info(place.run_id).seconds is None  # interrupted


def test_a_run_that_ends_while_somebody_looks_was_not_interrupted(history, monkeypatch):
    """Between what the store says of it and the look at its lock its process may end it and let go."""
    place = history.begin("nightly", About())

    def holder(path):
        if not history.checkpoint.store.runs(status={"succeeded"}):
            history.checkpoint.store.append(place.run_id, place.epoch, 0, [b"fact"], status="succeeded", at=time.time())
            place.close()
        return found(path)

    found = owners.holder
    monkeypatch.setattr(owners, "holder", holder)
    info = history.info(place.run_id)
    assert info.status == "succeeded"
    assert info.ended


def test_a_run_that_has_begun_is_gone_on_with(history):
    """It has a journal, and who resumes takes it over by himself."""
    run = ended(history, status="failed")
    with history.reopen(run) as place:
        assert place.epoch == 0
        with pytest.raises(RunHeldError, match=f"process {os.getpid()}"):
            history.reopen(run)
    assert history.info(run).status == "failed"


@pytest.mark.parametrize("kept", [b'{"kind":"pipe"}', b'{"kind":"workfl', b'{"name":"\xff"}'])
def test_a_run_of_which_cannot_be_read_what_it_is_of_is_not_gone_on_with(history, kept):
    """A newer dagrid has kept it, or it is damaged: it is shown, but would be performed as something else, and stays as it is."""
    run = ended(history, status="failed")
    history.checkpoint.store.describe(run, kept)
    assert history.info(run).status == "failed"
    with pytest.raises(StoreVersionError, match="newer dagrid's, or damaged"):
        history.reopen(run)
    assert history.checkpoint.store.about(run) == kept


def test_a_process_forked_off_does_not_pass_for_the_owner(history, perform):
    """A worker or a daemon may outlive the process that performs the run: the lock is not its."""
    process = perform("orphan", "nightly")
    run, _ = said(process)
    process.kill()
    process.wait(PATIENCE)
    assert history.info(run).status == "interrupted"
    history.reopen(run).close()


def test_looking_does_not_disturb(history, perform):
    """While one looks all the time who performs a run, others still get it."""
    run = ended(history)
    looker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from dagrid.history.owners import holder\n"
            "print(flush=True)\n"
            "while True: holder(Path(sys.argv[1]))",
            str(history.folder(run) / "owner.lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert looker.stdout is not None
    try:
        looker.stdout.readline()
        for _ in range(200):
            history.reopen(run).close()
    finally:
        looker.kill()
        looker.wait(PATIENCE)
        looker.stdout.close()


def test_who_serves_holds_all_its_runs_by_one_file(history, perform):
    """A file for each would have to be made for each, and kept; yet each is let go of by itself."""
    history.serve()
    first, second = (history.begin("nightly", About()) for _ in range(2))
    serving = (history.home / "serving.lock").stat()
    assert all(serving.st_ino == (place.folder / "owner.lock").stat().st_ino for place in (first, second))
    for place in (first, second):
        assert (history.info(place.run_id).status, history.info(place.run_id).pid) == ("running", os.getpid())
        with pytest.raises(RunHeldError):
            history.reopen(place.run_id)
    first.close()
    first.close()
    assert history.info(first.run_id).status == "interrupted"
    assert history.info(second.run_id).status == "running"
    process = perform("reopen", first.run_id)
    assert said(process) == (first.run_id, process.pid)
    assert history.info(first.run_id).pid == process.pid
    assert history.info(second.run_id).pid == os.getpid()
    second.close()


def test_who_serves_was_killed(history, perform):
    """All its runs are interrupted, also for who serves then, and each is taken up by itself, whoever else looks at it."""
    process = perform("serve", "nightly")
    runs, pid = said(process)
    assert {(history.info(run).status, history.info(run).pid) for run in runs} == {("running", pid)}
    process.kill()
    process.wait(PATIENCE)
    assert {history.info(run).status for run in runs} == {"interrupted"}
    history.serve()
    assert {history.info(run).status for run in runs} == {"interrupted"}
    for number, run in enumerate(runs):
        with history.reopen(run):
            held = {history.info(one).status for one in runs[: number + 1]}
            assert held == ({"running"} if number == 0 else {"running", "interrupted"})
            assert {history.info(one).status for one in runs[number + 1 :]} <= {"interrupted"}
            assert [path.name for path in history.folder(run).iterdir()] == ["owner.lock"]


def test_a_run_of_who_was_killed_is_got_once(history, perform):
    """Two take it up at once, each of which finds that nobody has it any more."""
    process = perform("serve", "nightly")
    runs, _ = said(process)
    process.kill()
    process.wait(PATIENCE)
    for run in runs:
        racers = [perform("reopen", run) for _ in range(2)]
        got = [line for line in (racer.stdout.readline() for racer in racers) if line]
        assert len(got) == 1
        assert history.info(run).pid == json.loads(got[0])[1]


def test_a_folder_on_another_file_system(history):
    """No file has names on two of them; where there is one only, it holds all the same."""
    other = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    history.serve()
    with TemporaryDirectory(dir=other) as logs, history.begin("nightly", About(), logs=Path(logs)) as place:
        assert history.info(place.run_id).pid == os.getpid()
        with pytest.raises(RunHeldError):
            history.reopen(place.run_id)


def test_a_lock_whose_file_somebody_removed_gets_no_other_names(history, perform):
    """Another process serves the home then, and its lock is not ours to give away."""
    history.serve()
    (history.home / "serving.lock").unlink()
    process = perform("serve", "nightly")
    runs, pid = said(process)
    with history.begin("nightly", About()) as place:
        assert history.info(place.run_id).pid == os.getpid()
        assert {history.info(run).pid for run in runs} == {pid}


def test_a_run_on_another_machine(history):
    """From here nobody can see whether it goes on: it is said where, and it can be taken over on purpose."""
    with history.begin("nightly", About()) as place:
        run = place.run_id
    elsewhere = msgspec.structs.replace(history.about(run), host="far-away", folder="/not/here", home="another")
    history.checkpoint.store.describe(run, msgspec.json.encode(elsewhere))
    info = history.info(run)
    assert (info.status, info.host, info.pid) == ("running", "far-away", 0)
    for refused in (history.stop, history.reopen):
        with pytest.raises(RunHeldError, match="far-away") as caught:
            refused(run)
        assert caught.value.host == "far-away"
    with history.reopen(run, take_over=True) as place:
        assert place.folder.is_dir()
        assert history.info(run).host == os.uname().nodename


def test_a_home_that_is_on_another_machine_by_now(history):
    """A container is replaced by one of another name, with the same volume: what ran there was said to run for ever."""
    with history.begin("nightly", About()) as place:
        run = place.run_id
        before = msgspec.structs.replace(history.about(run), host="the-container-before", pid=7)
        history.checkpoint.store.describe(run, msgspec.json.encode(before))
        assert history.info(run).status == "running"
    assert history.info(run).status == "interrupted"
    with history.reopen(run) as place:
        assert history.about(run).host == os.uname().nodename


# Stopping.


def test_stop_reaches_the_process(history, perform):
    """By SIGTERM, which it may take as it likes; once it is gone there is nobody to stop."""
    process = perform("begin", "nightly")
    run, pid = said(process)
    assert history.stop(run).pid == pid
    assert process.wait(PATIENCE) == -signal.SIGTERM
    with pytest.raises(RunStateError, match="interrupted") as caught:
        history.stop(run)
    assert caught.value.status == "interrupted"


def test_stop_never_meets_another_process(history, monkeypatch):
    """A number that was given anew, or a lock of a process that does not say when it began, is left alone."""
    monkeypatch.setattr(dagrid.history, "PATIENCE", 0.01)
    run = ended(history, status="running")
    lock = history.folder(run) / "owner.lock"
    with history.reopen(run):
        # What stands in the file speaks of a process that has this number and began at another time.
        lock.write_text(json.dumps({"pid": os.getpid(), "started": 1, "host": os.uname().nodename}))
        with pytest.raises(RunHeldError, match="does not answer"):
            history.stop(run)


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """Take note of each SIGTERM that this process gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_stop_asks_who_performs_many_runs_and_never_signals(history, signals, monkeypatch):
    """Also one that has only just taken the run, of whom nothing is known yet: a signal would end all that it performs."""
    run = ended(history, status="running")
    bell = history.serve()
    looks = iter([owners.Owner()] * 3)
    monkeypatch.setattr(owners, "holder", lambda path, holder=owners.holder: next(looks, None) or holder(path))
    with history.reopen(run):
        history.stop(run)
    assert (bell.read(), signals) == ([("stop", run, [])], [])


def test_stop_leaves_alone_who_is_ending(history, signals, monkeypatch):
    """It performs many runs, and hears nothing any more: it is waited for until it lets go, for a while."""
    monkeypatch.setattr(dagrid.history, "PATIENCE", 0.01)
    run = ended(history, status="running")
    bell = history.serve()
    with history.reopen(run):
        bell.close()
        with pytest.raises(RunHeldError, match=f"process {os.getpid()}, which does not answer"):
            history.stop(run)
    assert not signals


# Queues.


def test_runs_wait_in_queues(history):
    """By priority, then as they came; each queue has its own."""
    for name, queue, priority in (("a", "q", 0), ("b", "q", 5), ("c", "r", 9), ("d", "q", 5), ("e", "q", 0)):
        history.enqueue(name, About(queue=queue, priority=priority, spec=name), run_id=f"run-{name}")
    assert [info.name for info in history.queued("q")] == ["b", "d", "a", "e"]
    assert [info.name for info in history.queued()] == ["c", "b", "d", "a", "e"]
    assert {info.status for info in history.runs()} == {"queued"}
    with history.begin("b", About(spec="b"), "run-b") as place:
        assert place.epoch > 1
        assert history.info("run-b").status == "running"
        about = history.about("run-b")
        assert (about.queue, about.priority, about.pid) == ("q", 5, os.getpid())
        dag = DAG([Node("one", fn=int)])
        run = start(dag, checkpoint=history.checkpoint, run_id=place.run_id, epoch=place.epoch, progress=False)
        assert run.wait().ok
    assert history.info("run-b").status == "succeeded"
    assert [info.name for info in history.queued("q")] == ["d", "a", "e"]


def test_out_of_a_queue(history):
    """It is aborted, so it stays in the history, and can still be begun by who wants it after all."""
    run = history.enqueue("nightly", About(queue="q"))
    with pytest.raises(RunStateError, match="queue"):
        history.reopen(run)
    with pytest.raises(RunStateError, match="queued"):
        history.remove(run)
    assert history.dequeue(run).status == "aborted"
    assert history.queued() == []
    with pytest.raises(RunStateError, match="aborted"):
        history.dequeue(run)
    with history.reopen(run) as place:
        assert place.epoch > 0


def test_each_queued_run_is_begun_once(history, perform):
    """Several processes that empty a queue at once get every run, and none twice."""
    runs = [history.enqueue("nightly", About(queue="q")) for _ in range(30)]
    racers = [perform("race", "q") for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    got = []
    for racer in racers:
        assert racer.stdout is not None
        got += json.loads(racer.stdout.readline())
    assert sorted(got) == sorted(runs)


# Finding.


def test_runs_are_listed_as_asked(history):
    """The newest first; by name, status and time; never more than wanted."""
    runs = [ended(history, name, status) for name, status in (("a", "failed"), ("b", "failed"), ("a", "succeeded"))]
    listed = [info.run for info in history.runs()]
    assert listed == runs[::-1]
    assert [info.run for info in history.runs("a")] == [runs[2], runs[0]]
    assert [info.run for info in history.runs(status="failed")] == [runs[1], runs[0]]
    assert [info.run for info in history.runs("a", status=("failed", "aborted"))] == [runs[0]]
    assert [info.run for info in history.runs(limit=2)] == listed[:2]
    middle = history.info(runs[1]).created
    assert [info.run for info in history.runs(since=middle)] == listed[:2]
    assert [info.run for info in history.runs(until=middle)] == listed[1:]
    assert [info.run for info in history.runs(status="failed", limit=1)] == [runs[1]]


def test_a_run_is_found_by_what_people_type(history):
    """An id, a name for its newest run, or enough of an id; an answer that is not certain is none."""
    for run in ("night-1", "night-22", "other"):
        with history.begin("nightly", About(), run):
            pass
    assert history.find("night-1").run == "night-1"
    assert history.find("night-2").run == "night-22"
    assert history.find("nightly").run == "other"
    with pytest.raises(UnknownRunError, match="begins the ids of 2 runs: night-22, night-1"):
        history.find("night")
    with pytest.raises(UnknownRunError, match="Did you mean 'nightly'") as caught:
        history.find("nihgtly")
    assert caught.value.suggestion == "nightly"
    with pytest.raises(UnknownRunError):
        history.find("")


def test_runs_that_runs_call(history):
    """They are part of their parents: left out of listings, found by their ids and names, removed with them."""
    with history.begin("main", About(), "one") as place:
        child = About(parent=place.run_id, root=place.run_id)
        with history.begin("part", child, "one.a") as below:
            grandchild = About(parent="one.a", root="one")
            with history.begin("part", grandchild, "one.a.b"):
                assert below.folder == history.home / "logs" / "part" / "one.a"
        for wrong in ("two.a", "one", "one.", "onea", "one.a/b"):
            with pytest.raises(InvalidSettingError, match="called by 'one'"):
                history.begin("part", child, wrong)
        history.checkpoint.store.append("one", place.epoch, 0, [], status="succeeded", at=1.0)
    assert [info.run for info in history.runs()] == ["one"]
    assert [info.run for info in history.runs(children=True)] == ["one.a.b", "one.a", "one"]
    assert [(info.run, info.parent) for info in history.children("one")] == [("one.a", "one"), ("one.a.b", "one.a")]
    assert history.find("on").run == "one"
    assert history.find("one.a.").run == "one.a.b"
    assert history.find("part").run == "one.a.b", "no other run has that name"
    history.remove("one")
    assert history.runs(children=True) == []
    assert list((history.home / "logs" / "part").iterdir()) == []


def test_runs_that_did_not_come_from_here(history):
    """A graph that Python keeps in the same store is shown with what is known of it."""
    dag = DAG([Node("one", fn=int)], name="mine")
    assert dag.run(checkpoint=history.checkpoint, run_id="v1.2", progress=False).ok
    assert [(info.run, info.name, info.status) for info in history.runs()] == [("v1.2", "mine", "succeeded")]
    assert history.about("v1.2").name == "mine"
    history.remove("v1.2")
    assert history.runs() == []


def test_a_home_that_was_moved(history, tmp_path):
    """Its runs are where it is now, not where they were."""
    run = ended(history)
    history.close()
    history.home.rename(tmp_path / "moved")
    with History(tmp_path / "moved") as moved:
        assert moved.folder(run) == tmp_path / "moved" / "logs" / "nightly" / run
        moved.remove(run)
    assert list((tmp_path / "moved" / "logs" / "nightly").iterdir()) == []


# Forgetting.


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_nothing_stays_of_a_run_that_is_removed(history):
    """Journal, large values and logs; and everything of its neighbour."""
    large = DAG([Node("big", fn=lambda: "x" * 100_000)])
    ids = []
    before: set[str] = set()
    for number in range(2):
        with history.begin("nightly", About(), f"run-{number}") as place:
            place.stdout("big").write_text("said")
            run = start(large, checkpoint=history.checkpoint, run_id=place.run_id, epoch=place.epoch, progress=False)
            assert run.wait().ok
            ids.append(place.run_id)
        if number == 0:
            before = files(history.home / "values") | files(history.home / "logs")
    history.remove(ids[1])
    assert files(history.home / "values") | files(history.home / "logs") == before
    with pytest.raises(UnknownRunError):
        history.remove(ids[1])
    assert [info.run for info in history.runs()] == ids[:1]


def test_what_has_not_ended_is_not_removed(history, perform):
    """Neither by name nor by a cleanup of all; what was interrupted may go."""
    process = perform("begin", "nightly")
    run, _ = said(process)
    with pytest.raises(RunStateError, match="running"):
        history.remove(run)
    assert history.cleanup(days=0) == []
    process.kill()
    process.wait(PATIENCE)
    assert [info.run for info in history.cleanup(days=0)] == [run]
    assert history.runs() == []


def test_cleanup_by_age_and_number(history):
    """Days since the end, or the newest of each name; a dry run changes nothing."""
    day = 86400.0
    now = time.time()
    old = [ended(history, name, at=now - age * day) for name, age in (("a", 40), ("a", 20), ("b", 40), ("a", 1))]
    chosen = history.cleanup(days=30, dry_run=True)
    assert {info.run for info in chosen} == {old[0], old[2]}
    assert len(history.runs()) == 4
    assert [info.run for info in history.cleanup(keep=2, dry_run=True)] == [old[0]]
    assert [info.run for info in history.cleanup(days=30, name="b")] == [old[2]]
    assert [info.run for info in history.cleanup(keep=1)] == [old[1], old[0]]
    assert [info.run for info in history.runs()] == [old[3]]
    assert history.cleanup() == []


def test_a_removal_that_was_cut_short_can_be_ended(history, monkeypatch):
    """The journal goes last: as long as anything may be left, the run is there to be removed."""
    run = ended(history)

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history.checkpoint.store, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        history.remove(run)
    monkeypatch.undo()
    history.remove(run)
    assert history.runs() == []
