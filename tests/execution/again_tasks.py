"""Tasks that note that they ran, and fail as long as a file says so; worker processes import them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dagrid import Node, SkipTask, current
from tests.execution.durable_tasks import die, note


def step(log: str, name: str, /, **before: Any) -> int:
    """Note the name; fail or skip if there is a file that says so."""
    note(log, name)
    if Path(f"{log}.fail.{name}").exists():
        raise ValueError(f"{name} on purpose")
    if Path(f"{log}.skip.{name}").exists():
        raise SkipTask("not today")
    return 1 + sum(each or 0 for each in before.values())


def dying(log: str, name: str, /, **before: Any) -> int:
    """As `step`, but the second time it ends the process."""
    found = step(log, name, **before)
    if Path(f"{log}.die.{name}").exists():
        Path(f"{log}.die.{name}").unlink()
        die(log, name, times=99)
    return found


def growing(log: str, /, **before: Any) -> int:
    current().grow(Node("more", lambda: note(log, "more")))
    return step(log, "growing")


def listed(log: str) -> list[int]:
    note(log, "source")
    return [20, 21]


def element(log: str, number: int) -> int:
    note(log, "element")
    return 2 * number
