"""Tasks that want to be run again, or wait for somebody; worker processes import them. Each notes that it ran."""

from __future__ import annotations

from typing import Any

from dagrid import RepeatTask, WaitForSignal, current
from tests.execution.durable_tasks import die, note, noted


def poll(log: str, times: int) -> int:
    """Want to be run again until it has run so many times."""
    note(log, "poll")
    count = noted(log).count("poll")
    if count < times:
        raise RepeatTask(count)
    return count


def poll_or_give_up(log: str, times: int) -> int:
    try:
        return poll(log, times)
    except RepeatTask as again:
        raise RepeatTask(again.value, ValueError(f"{again.value} times is enough")) from None


def poll_or_die(log: str, times: int, dies_at: int) -> int:
    if noted(log).count("poll") + 1 == dies_at:
        die(log, "poll", times=dies_at)
    return poll(log, times)


def flaky(log: str) -> str:
    """Fail, repeat, fail, repeat and complete."""
    note(log, "flaky")
    turn = noted(log).count("flaky")
    if turn in (1, 3):
        raise ValueError("on purpose")
    if turn in (2, 4):
        raise RepeatTask
    return "done"


def ask(log: str, prompt: str = "May it go on?") -> None:
    note(log, "ask")
    raise WaitForSignal(prompt, {"attempt": current().number, "data": "x" * 10_000})


async def ask_async(log: str) -> None:
    ask(log)


def then(log: str, asked: Any = None) -> Any:
    note(log, "then")
    return "then", asked


def fatal(log: str, asked: Any = None) -> str:
    return die(log, "fatal")
