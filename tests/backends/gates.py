"""A door for tasks in other processes: the test learns that one is there, lets it go on, and sees its process die."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Gate:
    """The test's side of `hold`: it learns that a task is there, lets it go on, and sees its process die."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._up: Any = None
        os.mkfifo(f"{path}.up")
        os.mkfifo(f"{path}.down")

    def meet(self) -> int:
        """Wait for the task and return its process id."""
        self.listen()
        return int(self._up.readline())

    def listen(self) -> None:
        """Wait for a process to have the task's end open."""
        self._up = open(f"{self.path}.up")  # noqa: SIM115 - the fixture closes it

    def release(self, word: str = "go") -> None:
        with open(f"{self.path}.down", "w") as down:
            down.write(word)

    def wait_gone(self) -> None:
        """Wait until no process has the task's end open."""
        assert self._up.read() == ""

    def close(self) -> None:
        if self._up is not None:
            self._up.close()
