"""A run that the command waits for: who looks on, what Ctrl-C and SIGTERM do, and what is said at the end."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagrid.cli.exits import exit_of_status
from dagrid.cli.output import plain, took
from dagrid.cli.workflows import said
from dagrid.errors import DagridError
from dagrid.execution.interrupts import HeldInterrupts

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.execution.results import ExecutionResult, NodeResult
    from dagrid.history import Place
    from dagrid.ports import Observer
    from dagrid.workflow.running import Started

# A graph of more nodes is shown as a bar.
MOST_STEPS = 1_000
MOST_LINES = 2_000
MOST_FAILURES = 20
BAD = ("failed", "timed_out", "lost")


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

        return Lines(self._tell, lambda at: f"[{at:8.3f}] ", MOST_LINES, frozenset({"run_ended"}))

    @staticmethod
    def _tell(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


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
    gc.enable()  # see `dagrid.cli.script`
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


def finished(call: Call, started: Started, held: HeldInterrupts) -> int:
    """Wait for a run of a workflow, say how it has ended or what it waits for, and return the exit code."""
    run, place, name = started.run, started.place, started.context.name
    with started:
        stopped = attend(run, held, run.settle)
        if not run.done:
            return _waits(call, started)
        result = started.finish()
    record = run_record(place.run_id, name, result)
    return told_end(call, record, result, stopped)


def _waits(call: Call, started: Started) -> int:
    """Say for whom a run waits, let go of it, and return the exit code."""
    run, run_id, name = started.run, started.place.run_id, started.context.name
    waiting = {step: run.held(step)[0] for step in run.waiting}
    started.detach()
    if call.out.as_json:
        record = {"run": run_id, "name": name, "status": "waiting"}
        call.out.json({**record, "waiting": [{"step": step, "prompt": prompt} for step, prompt in waiting.items()]})
    for step, prompt in waiting.items():
        call.out.say(f"{step} waits for a person{': ' if prompt else ''}{prompt}")
    call.out.say(f"Go on with it: dagrid approve {run_id} STEP, or dagrid reject {run_id} STEP")
    return exit_of_status("waiting")


def told_end(call: Call, record: dict[str, Any], result: ExecutionResult, stopped: bool) -> int:
    """Say how a run has ended, and return the exit code."""
    status = record["status"]
    if call.out.as_json:
        call.out.json(record)
    else:
        for line in failures(result):
            call.out.complain(line)
    call.out.say(f"{record['name']} {status.replace('_', ' ')} after {took(record['seconds'])}: run {record['run']}")
    return exit_of_status(status, stopped)


def run_record(run_id: str, name: str, result: ExecutionResult) -> dict[str, Any]:
    """Return what programs are told of a run and its steps."""
    return {
        "run": run_id,
        "name": name,
        "status": result.status.value,
        "seconds": result.total_duration_seconds,
        "steps": [step_record(one, one.duration_seconds) for one in result.node_results.values()],
    }


def step_record(result: NodeResult, seconds: float) -> dict[str, Any]:
    """Return what programs are told of a step, and of how long it took, or has been going on."""
    end = result.value
    is_step = type(end).__name__ == "StepEnd"
    return plain(
        {
            "name": result.name,
            "status": result.status.value,
            "attempts": result.attempts,
            "started": result.started if result.attempts else None,
            "seconds": seconds if result.attempts else None,
            "reason": result.reason,
            "error": error_of(result),
            "code": end.code if is_step else None,
            "outputs": {key: value for key, value in end.outputs.items() if key not in end.hidden} if is_step else None,
            "stdout": end.stdout if is_step else None,
            "stderr": end.stderr if is_step else None,
        }
    )


def error_of(result: NodeResult) -> str:
    """Return what a step has failed with, in words."""
    if result.error is None:
        return ""
    return (
        str(result.error) if isinstance(result.error, DagridError) else f"{type(result.error).__name__}: {result.error}"
    )


def failures(result: ExecutionResult) -> Iterator[str]:
    """Yield what went wrong, a line each, with the place in the user's code."""
    if result.failure is not None:
        yield f"dagrid: {result.failure}"
    failed = [one for one in result.node_results.values() if one.error is not None and one.status in BAD]
    for one in failed[:MOST_FAILURES]:
        words = said(one.error) if one.error is not None else ""
        yield f"{one.name}: {words}"
    if len(failed) > MOST_FAILURES:
        yield f"... and {len(failed) - MOST_FAILURES} more"
