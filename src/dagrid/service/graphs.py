"""Runs of Python graphs, each in a process of its own: what modules of users do when they are imported concerns nobody else.

Such a process is `dagrid perform`. It holds its run and records it, and borrows the workers as any caller does. If it ends before
the run has, its steps go on with the workers, and whoever performs the run next finds them again. When a run begins, and what
becomes of it, is for the coordinator.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile

from dagrid.execution.carriers import carry
from dagrid.execution.watchdog import watchdog

GRACE = 10.0
"""Seconds that a killed process may take to be gone."""
TAIL = 4_096
"""Bytes of what a process has said last."""


class GraphProcess:
    """One run, performed. It ends with this process, however that ends.

    Args:
        run: its id.
        folder: where its modules are.
        env: variables beside those of this process.
        again: also what has failed in it.
        roots: these nodes and all behind them as well.

    Raises:
        OSError: the folder is gone, or no process can be started.
    """

    def __init__(
        self, run: str, folder: str, env: Mapping[str, str], *, again: bool = False, roots: Sequence[str] = ()
    ) -> None:
        self.run = run
        self._is_to_end = False
        self._said = TemporaryFile()  # noqa: SIM115  # `_wait` closes it
        flags = [*(["--again"] if again else []), *(f"--from={root}" for root in roots)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagrid", "--quiet", "perform", *flags, run],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                cwd=folder or None,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except BaseException:
            self._said.close()
            raise
        self._watchdog = watchdog()
        self._watchdog.add(self._process.pid)

    def follow(self, over: Callable[[str], object]) -> None:
        """Call a function when it has ended, with what it said last, in a thread."""
        carry(lambda: self._wait(over), "dagrid-graph")

    @property
    def was_killed(self) -> bool:
        """Whether it has ended by a signal that nobody sent it here."""
        return (self._process.poll() or 0) < 0 and not self._is_to_end

    def stop(self) -> None:
        """Ask it to stop the run."""
        self._is_to_end = True
        self._signal(signal.SIGTERM)

    def let_go(self) -> None:
        """End it at once, and wait for that; the run is interrupted."""
        self._is_to_end = True
        self._signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _wait(self, over: Callable[[str], object]) -> None:
        with self._said as said:
            self._process.wait()
            self._watchdog.remove(self._process.pid)
            said.seek(max(said.seek(0, os.SEEK_END) - TAIL, 0))
            text = said.read().decode("utf-8", "replace").strip()
        over(text)
