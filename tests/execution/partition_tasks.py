"""Tasks of the partition tests that worker processes import by name."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagrid import SkipTask, current

LOCK = threading.Lock()


class Unsendable:
    """A value that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("I stay where I am")


class Counted:
    """A value that counts how often it was made from its bytes, in this process."""

    opened = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).opened += 1
        self.__dict__.update(state)


def joined(a: Any = None, b: Any = None, c: Any = None) -> str:
    """Return something that tells which values came from where."""
    return f"{current().node}({a}, {b}, {c})"


def failing(a: Any = None, b: Any = None, c: Any = None) -> str:
    raise ValueError(f"{current().node} cannot")


def skipping(a: Any = None, b: Any = None, c: Any = None) -> str:
    raise SkipTask(f"{current().node} will not")


def flaky(a: Any = None, b: Any = None, c: Any = None) -> str:
    """Fail the first time."""
    if current().number == 1:
        raise OSError("not yet")
    return joined(a, b, c)


def where() -> int:
    return os.getpid()


def number() -> int:
    return 7


def plus_one(before: int) -> int:
    return before + 1


def counted() -> Counted:
    return Counted(3)


def unsendable() -> Unsendable:
    return Unsendable()


def behind(value: Any) -> str:
    return type(value).__name__


def die_once(path: str) -> str:
    """Kill the process that performs this, but for the second time."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Courier:
    """A stranger's backend that performs calls at once, and to which everything travels as bytes, as over a wire."""

    name = "courier"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.returned: list[bytes] = []

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes | BaseException:
        data = pickle.dumps((fn, args, kwargs))
        self.sent.append(data)
        there, theirs, named = pickle.loads(data)
        try:
            back = pickle.dumps(there(*theirs, **named))
        except Exception as error:  # noqa: BLE001  # what a task raises comes back
            return pickle.loads(pickle.dumps(error))
        self.returned.append(back)
        return back

    def result(self, future: Any, timeout: float | None = None) -> Any:
        if isinstance(future, BaseException):
            raise future
        return pickle.loads(future)

    def shutdown(self, wait: bool = True) -> None:
        """There is nothing to let go of."""
