"""Tasks that end in ways that others may go on after; worker processes import them."""

from __future__ import annotations

import threading
from typing import Any

from dagrid import SkipTask
from dagrid.errors import TaskError


class TimidError(Exception):
    """An exception of a user's that says of itself what follows from it."""

    tolerated = True


class FinalError(ConnectionError):
    retryable = False


def fail() -> None:
    raise ValueError("on purpose")


def fail_mildly() -> None:
    raise TimidError("nobody minds")


def fail_for_good() -> None:
    raise FinalError("no use in trying")


def say_so() -> None:
    error = TaskError("this once")
    error.tolerated = True
    error.retryable = False
    raise error


def fail_and_leave() -> None:
    error = TaskError("half way")
    error.tolerated = True
    error.left = "half"
    raise error


def skip() -> None:
    raise SkipTask("nothing to do")


def late() -> None:
    threading.Event().wait(20)


def taken(before: Any) -> tuple[str, Any]:
    return "ran", before
