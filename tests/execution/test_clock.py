"""Real time: what a thread can wait for, and what is kept of timers that were prevented."""

from __future__ import annotations

import threading

import pytest

from dagrid import DAG, Node, command
from dagrid.execution.clock import RealClock

CENTURIES = 1e11


class Watched(threading.Condition):
    """A condition that tells for how long somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float | None] = []
        self.entered = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        self.entered.set()
        return super().wait(timeout)


def test_a_timer_may_be_due_after_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can wait for more than 292 years, and the one that tried would end with a traceback, under all other timers."""
    clock, watched = RealClock(), Watched()
    monkeypatch.setattr(clock, "_changed", watched)
    clock.call_at(clock.now() + CENTURIES, lambda: None)
    assert watched.entered.wait(30)
    assert watched.asked == [threading.TIMEOUT_MAX]
    due = threading.Event()
    clock.call_at(clock.now(), due.set)
    assert due.wait(30)


def test_a_run_may_be_waited_for_any_time() -> None:
    """Who means "for as long as it takes" writes a large number."""
    assert DAG([Node("a", command("true"))]).start(backend="inline").settle(CENTURIES)


def test_nothing_is_kept_of_timers_that_were_prevented() -> None:
    """A run that has ended prevents its timer, which may be due in a day; of a million runs a million would wait for that day."""
    clock = RealClock()
    tomorrow = clock.now() + 86400.0
    kept = clock.call_at(tomorrow, lambda: None)
    for _ in range(1000):
        clock.call_at(tomorrow, lambda: None)()
    assert len(clock._timers) < 200
    kept()
