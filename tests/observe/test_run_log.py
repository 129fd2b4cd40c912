"""The file that tells a run: each thing once, whoever goes on with the run, and nothing secret."""

from __future__ import annotations

import re
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import dagrid
from dagrid import DAG, Node
from dagrid.observe.log import RunLog


def one() -> int:
    return 1


def two(one: int) -> int:
    return one + 1


def told(path: Path) -> list[str]:
    """Return what the file tells, without the times."""
    text = re.sub(r" after [\d.]+ m?s$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line.partition(" ")[2] for line in text.splitlines()]


@pytest.mark.parametrize("kept", [0, 2, 3, 5], ids=["nothing", "a part", "more", "all"])
def test_who_goes_on_with_a_run_tells_only_what_the_file_does_not(kept: int, tmp_path: Path) -> None:
    """A process that is killed may not have told all that is recorded; the next one must neither repeat nor leave out."""
    log = tmp_path / "run.log"
    DAG([Node(one), Node(two, depends_on=[one])]).run(checkpoint=tmp_path, run_id="r", observers=[RunLog(log)])
    whole = told(log)
    assert whole == ["one: started", "one: completed", "two: started", "two: completed", "the run has ended"]
    log.write_text("".join(log.read_text(encoding="utf-8").splitlines(True)[:kept]), encoding="utf-8")
    dagrid.resume(tmp_path, "r", observers=[RunLog(log)])
    assert told(log) == whole


def test_the_file_is_there_before_the_run(tmp_path: Path) -> None:
    """The first node may look at it, and a reader of events comes to them when it can."""
    RunLog(tmp_path / "run.log")
    assert (tmp_path / "run.log").read_bytes() == b""


def test_what_finds_no_room_is_told_later(tmp_path: Path) -> None:
    """Nobody waits for it, and no line is lost, torn or there twice; a limit on files stands for a full disk."""
    log, limits = tmp_path / "run.log", resource.getrlimit(resource.RLIMIT_FSIZE)
    run = DAG([Node(one), Node(two, depends_on=[one])]).start()
    run.wait()
    reader = RunLog(log)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
        reader.begin(run)
        reader.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.stat().st_size == 50
    reader.end()
    assert told(log) == ["one: started", "one: completed", "two: started", "two: completed", "the run has ended"]


def test_what_happens_is_told_while_the_run_goes_on(tmp_path: Path) -> None:
    """Who looks at the log of a long run must see how far it is, and the log of another run that cannot be told is in no way."""

    class Broken:
        began = 0.0

        def watch(self, call: Callable[[], object]) -> None:
            """Nothing ever happens."""

    ends = threading.Event()
    log = tmp_path / "run.log"
    with pytest.MonkeyPatch.context() as patch:
        seen: list[object] = []
        patch.setattr(threading, "excepthook", seen.append)
        RunLog(tmp_path / "other.log").begin(Broken())
        run = DAG([Node(one), Node("wait", ends.wait, depends_on=[one])]).start(observers=[RunLog(log)])
        while not told(log)[1:]:
            assert not run.done
        ends.set()
        run.wait()
    assert told(log) == ["one: started", "one: completed", "wait: started", "wait: completed", "the run has ended"]
    assert len(seen) == 1


def test_who_reads_on_gets_what_came_since() -> None:
    """A reader that comes back must not have all of a long run made for it once more."""
    run = DAG([Node(one), Node(two, depends_on=[one])]).start()
    run.wait()
    whole = list(run.events())
    assert [event.sequence for event in whole] == list(range(len(whole)))
    assert list(run.events(since=2)) == whole[2:]
    assert not list(run.events(follow=False, since=len(whole)))


def test_what_cannot_be_opened_is_opened_later(tmp_path: Path) -> None:
    """A process that has too many files open showed a traceback, and told nothing of the run when it had room again."""
    log = tmp_path / "run.log"
    run = DAG([Node(one)]).start()
    run.wait()
    log.mkdir()
    reader = RunLog(log)
    reader.begin(run)
    log.rmdir()
    reader.end()
    assert told(log) == ["one: started", "one: completed", "the run has ended"]
