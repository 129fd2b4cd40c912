"""Handlers, and what they handle; worker processes import them. Each notes in a file that it ran."""

from __future__ import annotations

import threading
from typing import Any

from dagrid import SkipTask, current
from dagrid.attempt import Outcome
from dagrid.graph.node import Node
from dagrid.testing.gate import stand
from tests.execution.durable_tasks import die, note


def work(log: str) -> int:
    note(log, "work")
    return 7


def fail(log: str) -> None:
    note(log, "fail")
    raise ValueError("on purpose")


def skip(log: str) -> None:
    raise SkipTask("no need")


def handle(log: str, name: str, outcome: Outcome) -> tuple[str, tuple[str, ...], str]:
    note(log, name)
    return outcome.status, outcome.failed, outcome.reason


def look(log: str, outcome: Outcome, work: Any, other: Any = 1) -> tuple[str, Any, Any]:
    note(log, "look")
    return outcome.status, work, other


def outcome_first(outcome: Any, value: int) -> tuple[Any, int]:
    return getattr(outcome, "status", outcome), value


def outcome_last(value: int, outcome: Any) -> tuple[int, Any]:
    return value, getattr(outcome, "status", outcome)


def by_name(*, outcome: Any) -> Any:
    return getattr(outcome, "status", outcome)


def broken(log: str, name: str) -> None:
    note(log, name)
    raise KeyError(name)


def wait(log: str, address: Any) -> None:
    note(log, "wait")
    stand(address)


def sleep(log: str) -> None:
    note(log, "sleep")
    threading.Event().wait(20)


def grow() -> None:
    current().grow(Node("more"))


def fatal(log: str, name: str) -> str:
    return die(log, name)
