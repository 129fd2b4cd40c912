"""Tasks that worker processes import by name; they load nothing heavy."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any


class Unwilling:
    """A value that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("I stay where I am")


class UnwillingError(Exception):
    """An error that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("I stay where I am")


class TwoWordError(Exception):
    """An error that is pickled without complaint and cannot be rebuilt."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def echo(value: Any = None) -> Any:
    return value


def nothing() -> None:
    return None


def hold(path: str) -> str:
    """Say hello through one FIFO, keep it open until death, and go on when the other one says so."""
    with open(f"{path}.up", "w") as up:
        up.write(f"{os.getpid()}\n")
        up.flush()
        with open(f"{path}.down") as down:
            return down.read()


def hold_with_child(path: str) -> None:
    """The same in a process of the task's own, which the task waits for."""
    program = f"import sys; sys.path[:] = {sys.path!r}\nfrom tests.backends.process_tasks import hold; hold({path!r})"
    subprocess.run([sys.executable, "-c", program], check=True)


def hold_everything(path: str) -> None:
    """Say hello, then wait in C without ever letting go of the interpreter."""
    with open(f"{path}.up", "w") as up:
        up.write(f"{os.getpid()}\n")
        up.flush()
        ctypes.PyDLL(None).pause()


def leave(code: int) -> None:
    os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(error: type[BaseException], *args: Any) -> None:
    def the_guilty_function() -> None:
        raise error(*args)

    the_guilty_function()


def unwilling() -> Unwilling:
    return Unwilling()


def fork_and_go() -> int:
    """Fork a child that goes on where its parent went on: into the worker's loop, where it has no business."""
    return os.fork()


def fork_that_stays(path: str) -> int:
    """Leave a forked child behind that lives on."""
    child = os.fork()
    if not child:
        hold(path)
        os._exit(0)
    return child


def append(path: str) -> None:
    with open(path, "a") as file:
        file.write("started\n")


def append_and_fail(path: str) -> None:
    append(path)
    raise RuntimeError("no licence")


def surroundings() -> tuple[str | None, str, str, bool]:
    return os.environ.get("DAGRID_TEST"), os.getcwd(), sys.stdin.read(), os.getpgrp() == os.getpid()
