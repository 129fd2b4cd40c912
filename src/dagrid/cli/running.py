"""A run that the command waits for: who looks on, what Ctrl-C and SIGTERM do, and what is said at the end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import localtime, strftime, time
from typing import TYPE_CHECKING, Any

from dagrid.cli.exits import Exit, exit_of_status
from dagrid.cli.output import took
from dagrid.execution.interrupts import HeldInterrupts

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.history import Place
    from dagrid.ports import Observer

# A graph of more nodes is shown as a bar.
MOST_STEPS = 1_000
MOST_LINES = 2_000


class Watched:
    """Who looks on while a run goes on; they are made before the run, and are told afterwards where its files are."""

    def __init__(self, call: Call, title: str, nodes: int = 0) -> None:
        self._place: Place | None = None
        self.observers: list[Any] = []
        if call.out.quiet or call.out.as_json:
            return
        if not sys.stderr.isatty():
            self.observers.append(self._lines())
        elif nodes > MOST_STEPS:
            from dagrid.execution.clock import REAL_CLOCK
            from dagrid.observe.progress import Progress

            self.observers.append(Progress(REAL_CLOCK, delay=0.0))
        else:
            from dagrid.observe.live import Live

            self.observers.append(Live(title, self._files))

    def at(self, place: Place) -> None:
        """Say where the files of the run are."""
        self._place = place

    def _files(self, step: str) -> Sequence[Path]:
        place = self._place
        return () if place is None else (place.stdout(step), place.stderr(step))

    def _lines(self) -> Observer:
        from dagrid.observe.lines import Lines

        return Lines(self._tell, lambda at: f"[{at:8.3f}] ", MOST_LINES)

    @staticmethod
    def _tell(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Log:
    """The file that tells what happened in a run, `run.log`; what was there before a run is gone on with stays."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._run: Any = None

    def begin(self, run: Any) -> None:
        """Say which run it is."""
        from dagrid.observe.lines import Lines

        self._run = run
        self._file = open(self._place.log, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # until `end`
        began = time() - run.seconds
        self._lines = Lines(self._put, lambda at: strftime("%Y-%m-%d %H:%M:%S ", localtime(began + at)))
        self._put(f"{strftime('%Y-%m-%d %H:%M:%S')} run {run.id} of {self._place.about.source}\n")

    def observe(self, events: Sequence[Any]) -> None:
        """Tell of these."""
        self._lines.observe(events)

    def end(self) -> None:
        """Say how it has ended, and close the file."""
        if self._run.done:
            self._put(f"{strftime('%Y-%m-%d %H:%M:%S')} the run has ended: {self._run.result().status}\n")
        self._file.close()

    def _put(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


@contextmanager
def stoppable() -> Iterator[HeldInterrupts]:
    """Let SIGTERM do what Ctrl-C does, and hold both back: they come through only while `attend` waits."""
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with HeldInterrupts() as held:
            yield held
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def attend(run: Any, held: HeldInterrupts, wait: Callable[[], object]) -> bool:
    """Wait for a run, and return whether it was stopped. The first Ctrl-C cancels it, the second its handlers, the third waits
    no longer.

    Args:
        run: the handle.
        held: what holds signals back meanwhile.
        wait: waits until it has ended, or waits for a person.

    Raises:
        KeyboardInterrupt: the third one.
    """
    stops = 0
    while True:
        try:
            with held.released():
                wait()
        except KeyboardInterrupt:
            stops += 1
            if stops == 3:
                raise
            run.cancel("interrupted")
        else:
            return stops > 0


def told_end(call: Call, name: str, run_id: str, status: str, seconds: float, stopped: bool) -> Exit:
    """Say how a run has ended, and return the exit code."""
    words = status.replace("_", " ")
    call.out.say(f"{name} {words} after {took(seconds)}: run {run_id}")
    if status == "waiting":
        call.out.say(f"It waits for a person: dagrid approve {run_id} STEP, or dagrid reject {run_id} STEP.")
    return exit_of_status(status, stopped)
