"""Workers of a fleet as processes of their own, each with a home of its own, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20.0
LINKED = "Linked with the coordinator"


class Worker:
    """`dagrid worker` as a process: it is there when it is linked.

    Args:
        port: of the coordinator.
        home: of the worker.
        flags: more of them, without dashes, such as `labels="gpu=true"`.
    """

    def __init__(
        self, port: int, home: Path, wait: bool = True, env: dict[str, str] | None = None, **flags: str
    ) -> None:
        said = [f"--worker.{name.replace('_', '-')}={value}" for name, value in flags.items()]
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagrid", "worker", f"--worker.coordinator-port={port}", *said],
            env={**os.environ, "DAGRID_HOME": str(home), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.said(LINKED)

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, words: str, times: int = 1) -> str:
        """Wait until it has said something so often, and return the line."""

        def found() -> list[str]:
            return [line for line in self.lines if words in line]

        with self._changed:
            there = self._changed.wait_for(lambda: len(found()) >= times or self._ended, PATIENCE)
            assert there, self.lines
            assert len(found()) >= times, self.lines
            return found()[-1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """End it, with its group, however it stands."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


Start = Callable[..., Worker]


@contextmanager
def workers(port: int, folder: Path) -> Iterator[Start]:
    """Give a function that starts workers, which end afterwards; each call has its home below the folder."""
    started: list[Worker] = []

    def start(**settings: object) -> Worker:
        home = folder / f"home-{len(started)}"
        home.mkdir(parents=True)
        worker = Worker(port, home, **settings)  # type: ignore[arg-type]
        started.append(worker)
        return worker

    try:
        yield start
    finally:
        for worker in started:
            worker.end()
