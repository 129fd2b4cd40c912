"""The progress bar: silent on short runs, readable on long ones, and never in the way of the run."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

import dagrid
from dagrid.observe.progress import Picture, Progress, clock_face

PATIENCE = 20.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen(io.StringIO):
    """A file that can be waited on until a text has been drawn on it."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = threading.Condition()

    def write(self, text: str) -> int:
        with self._drawn:
            size = super().write(text)
            self._drawn.notify_all()
        return size

    def wait_for(self, text: str) -> None:
        with self._drawn:
            assert self._drawn.wait_for(lambda: text in self.plain(), PATIENCE), (
                f"{text!r} never drawn: {self.plain()!r}"
            )

    def plain(self) -> str:
        return ESCAPES.sub("", self.getvalue())

    def console(self, **settings: Any) -> Console:
        return Console(file=self, width=120, **({"force_terminal": True, "legacy_windows": False} | settings))


class HandClock:
    """A clock that strikes when it is told to."""

    def __init__(self) -> None:
        self.actions: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return 100.0

    def call_at(self, when: float, action: Callable[[], None]) -> Callable[[], None]:
        entry = when, action
        self.actions.append(entry)
        return lambda: self.actions.remove(entry) if entry in self.actions else None

    def strike(self) -> None:
        for _, action in list(self.actions):
            action()


@dataclass
class Standing:
    """How a run stands, said by the test."""

    done: bool = False
    total: int = 100
    ended: int = 0
    seconds: float = 0.0
    names: list[str] = field(default_factory=list)
    some: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        return {status.value: 0 for status in dagrid.NodeStatus} | {"running": len(self.names)} | self.some

    def running(self, limit: int | None = None) -> list[str]:
        return self.names[:limit]


def drawn(picture: Picture) -> str:
    screen = Screen()
    screen.console().print(picture.draw())
    return screen.plain()


def test_a_bar_shows_what_runs_and_stays_with_the_last_state() -> None:
    """Who waits wants to know what for, and afterwards what came of it."""
    screen = Screen()

    def slow() -> None:
        screen.wait_for("slow")

    dag = dagrid.DAG([dagrid.Node("slow", slow), dagrid.Node("after", lambda: None, ["slow"])])
    dag.run(observers=[Progress(HandClock(), 0.0, screen.console())])
    assert "0/2" in screen.plain()
    assert "2/2" in screen.plain().splitlines()[-1]
    assert screen.plain().endswith("\n")


def test_a_failure_is_seen_while_the_run_goes_on() -> None:
    """A run of hours that failed in its first minute should say so in its first minute."""
    screen = Screen()

    def fail() -> None:
        raise ValueError("no")

    def slow() -> None:
        screen.wait_for("1 failed")

    nodes = [dagrid.Node("fail", fail), dagrid.Node("slow", slow), dagrid.Node("behind", lambda: None, ["fail"])]
    result = dagrid.DAG(nodes).run(
        observers=[Progress(HandClock(), 0.0, screen.console())], backend="thread?max_workers=2"
    )
    assert result["slow"] is None
    assert "1 skipped" in screen.plain().splitlines()[-1]
    assert "\x1b[1;31m1 failed" in screen.getvalue()


def test_no_colour_where_the_user_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is a promise to people who cannot read our colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    picture = Picture(Standing(some={"failed": 2}))
    screen.console().print(picture.draw())
    assert "2 failed" in screen.plain()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.getvalue())


def test_a_short_run_is_silent() -> None:
    """A bar that flashes for ten milliseconds is noise."""
    screen, clock = Screen(), HandClock()
    dagrid.DAG([dagrid.Node("quick", lambda: 1)]).run(observers=[Progress(clock, 1.0, screen.console())])
    clock.strike()
    assert screen.getvalue() == ""
    assert clock.actions == []


def test_the_bar_appears_when_the_delay_is_over() -> None:
    """The other half of the promise to be silent: it is not for ever."""
    screen, clock = Screen(), HandClock()
    dag = dagrid.DAG([dagrid.Node("slow", lambda: screen.wait_for("slow"))])
    run = dag.start(observers=[Progress(clock, 1.0, screen.console())])
    assert [when for when, _ in clock.actions] == [101.0]
    assert screen.getvalue() == ""
    clock.strike()
    assert run.wait(PATIENCE).raise_for_status().ok
    assert "1/1" in screen.plain()


def test_where_there_is_no_terminal_only_the_last_state_is_written() -> None:
    """A log file wants one line, not a film."""
    screen = Screen()
    progress = Progress(HandClock(), 0.0, screen.console(force_terminal=False))
    dagrid.DAG([dagrid.Node("one", lambda: 1)]).run(observers=[progress])
    assert len(screen.getvalue().splitlines()) == 1
    assert "1/1" in screen.getvalue()


def test_a_run_that_nobody_waits_for_ends_its_bar() -> None:
    """A forgotten handle must not leave a terminal without its cursor."""
    screen = Screen()
    progress = Progress(HandClock(), 0.0, screen.console())
    run = dagrid.DAG([dagrid.Node("one", lambda: 1)]).start(observers=[progress])
    screen.wait_for("1/1")
    screen.wait_for("\n")
    run.wait()


def test_of_several_runs_one_has_the_screen() -> None:
    """Two bars that write over each other are worse than one."""
    outer, inner = Screen(), Screen()

    def nested() -> None:
        outer.wait_for("nested")
        dagrid.DAG([dagrid.Node("one", lambda: 1)]).run(observers=[Progress(HandClock(), 0.0, inner.console())])

    dagrid.DAG([dagrid.Node("nested", nested)]).run(observers=[Progress(HandClock(), 0.0, outer.console())])
    assert inner.getvalue() == ""
    assert "1/1" in outer.plain()


def test_only_three_names_are_shown() -> None:
    """A thousand nodes at once must still fit into a line."""
    assert "a, b, c +2" in drawn(Picture(Standing(names=list("abcde"))))


def test_on_a_narrow_screen_the_names_are_cut_first() -> None:
    """How far it is and what failed is what a bar is for; it must not wrap, or every look at it leaves a line."""
    screen = Screen()
    run = Standing(ended=50, seconds=65, names=["a_very_long_name_of_a_node"] * 3, some={"failed": 2})
    screen.console().print(Picture(run).draw(), width=70)
    (line,) = screen.plain().splitlines()
    assert "50/100  2 failed  1:05" in line
    assert "…" in line


def test_an_estimate_is_shown_only_when_it_is_more_than_a_guess() -> None:
    """An estimate from two nodes, or of a graph that still grows, misleads."""
    run = Standing(ended=2, seconds=10)
    picture = Picture(run)
    assert "left" not in drawn(picture)
    run.ended, run.seconds = 50, 65.0
    assert "about 1:05 left" in drawn(picture)
    run.total = 101
    assert "left" not in drawn(picture)
    run.ended = 101
    assert "101/101" in drawn(picture)
    assert "left" not in drawn(picture)


def test_an_empty_graph_has_a_full_bar() -> None:
    """Nothing to do is done; a division by zero is not."""
    assert "0/0" in drawn(Picture(Standing(total=0)))


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (65, "1:05"), (3600 * 12 + 61, "12:01:01")])
def test_times_are_written_as_clocks_show_them(seconds: float, text: str) -> None:
    """0:01:05 of three hours is read as one minute by half of the readers."""
    assert clock_face(seconds) == text


PROGRAM = "import dagrid; dagrid.DAG([dagrid.Node('one', lambda: print('data'))]).run(progress={})"


def run_on_a_terminal(progress: bool | None) -> tuple[bytes, bytes]:
    """Run a short graph with stderr on a terminal; return what went to stdout and to stderr."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(progress)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
            timeout=PATIENCE,
        )
        os.set_blocking(ours, False)
        try:
            seen = os.read(ours, 1 << 16)
        except BlockingIOError:
            seen = b""
        return done.stdout, seen
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (True, True), (False, False)])
def test_on_a_terminal(progress: bool | None, shown: bool) -> None:
    """stdout is data: a bar must never be found in it, nor data in the bar."""
    stdout, stderr = run_on_a_terminal(progress)
    assert stdout == b"data\n"
    assert (b"1/1" in stderr) is shown
    assert b"data" not in stderr


def test_without_a_terminal_nothing_is_written_unless_it_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    """A program in a pipe stays as quiet as its author made it."""
    dag = dagrid.DAG([dagrid.Node("one", lambda: 1)])
    dag.run()
    assert capfd.readouterr() == ("", "")
    dag.run(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "1/1" in err
