"""A run that the command waits for: who looks on, what Ctrl-C and SIGTERM do, and what is said at the end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagrid.cli.exits import exit_of_status
from dagrid.cli.garbage import collect_garbage
from dagrid.cli.output import ReaderGoneError, plain, tell, took
from dagrid.cli.workflows import said
from dagrid.errors import DagridError, InternalError, StaleEpochError, StoreError
from dagrid.history import INTERRUPTED
from dagrid.interrupts import HeldInterrupts, Terminals, press

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.execution.results import ExecutionResult, NodeResult
    from dagrid.execution.run import Run
    from dagrid.history import Place
    from dagrid.ports import Observer
    from dagrid.workflow.context import Question
    from dagrid.workflow.running import Started

# A graph of more nodes is shown as a bar.
MOST_STEPS = 1_000
MOST_LINES = 2_000
MOST_FAILURES = 20
BAD = ("failed", "timed_out", "lost")


class Watched:
    """Who looks on while a run goes on; they are made before the run, and are told afterwards where its files are.

    Args:
        call, title: what is run, and what it is called.
        count: says how many nodes it has, where that counts.
    """

    def __init__(self, call: Call, title: str, count: Callable[[], int]) -> None:
        self._place: Place | None = None
        self.observers: list[Any] = []
        if call.out.quiet or call.out.as_json:
            return
        if not sys.stderr.isatty():
            self.observers.append(self._lines())
        elif count() > MOST_STEPS:
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

        return Lines(tell, lambda at: f"[{at:8.3f}] ", MOST_LINES, frozenset({"run_ended"}))


@contextmanager
def stoppable() -> Iterator[HeldInterrupts]:
    """Let SIGTERM, and the end of the terminal, do what Ctrl-C does, and hold all of them back but while `attend` waits.

    A shell that is no terminal starts what it starts in the background deaf to Ctrl-C; such a process hears SIGTERM all the same.
    One that was started by nohup does not hear that its terminal ends.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

        def interrupt(number: int, _: object) -> None:
            if number != signal.SIGINT or not is_deaf:
                press()
                raise KeyboardInterrupt

        def as_ctrl_c(*late: Any) -> None:
            now: Any = signal.getsignal(signal.SIGINT)  # who holds Ctrl-C back holds this back too
            now(*late)

        terminals = Terminals()

        def hung_up(*late: Any) -> None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it comes from the shell and from the system
            terminals.let_go()
            as_ctrl_c(*late)

        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, as_ctrl_c)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hung_up)
    try:
        with HeldInterrupts() as held:
            yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def attend(run: Run, held: HeldInterrupts, wait: Callable[[], object]) -> bool:
    """Wait for a run, and return whether it was stopped. The first Ctrl-C cancels it, the second its handlers, the third waits
    no longer.

    Args:
        run: what is cancelled.
        held: what holds signals back meanwhile.
        wait: waits until it has ended, or waits for a person.

    Raises:
        KeyboardInterrupt: the third one.
    """
    collect_garbage()
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
    return told_end(call, place.run_id, name, result, stopped)


def finished_graph(call: Call, run: Run, run_id: str, name: str, held: HeldInterrupts) -> int:
    """Wait for a run of a graph of Python's, say how it has ended or what it waits for, and return the exit code."""
    stopped = attend(run, held, run.settle)
    if not run.done:
        from dagrid.workflow.answers import questions

        asked = [question for _, question in questions(run, run_id)]
        run.detach()
        return told_waiting(call, run_id, name, asked)
    result = run.wait()
    return told_end(call, run_id, name, result, stopped)


def _waits(call: Call, started: Started) -> int:
    """Say for whom a run waits, let go of it, and return the exit code."""
    from dagrid.workflow.answers import questions

    run_id = started.place.run_id
    asked = [question for _, question in questions(started.run, run_id)]
    started.detach()
    return told_waiting(call, run_id, started.context.name, asked)


def told_waiting(call: Call, run_id: str, name: str, asked: Sequence[Question]) -> int:
    """Say for what a run waits, and return the exit code."""
    if call.out.as_json:
        waiting = [{"run": one.run, "step": one.step, "prompt": one.prompt} for one in asked]
        _told_programs(call, {"run": run_id, "name": name, "status": "waiting", "waiting": waiting})
    for one in asked:
        where = "" if one.run == run_id else f" of run {one.run}"
        call.out.say(f"{one.step}{where} waits for a person{': ' if one.prompt else ''}{one.prompt}")
    for run in dict.fromkeys(one.run for one in asked):
        call.out.say(f"Go on with it: dagrid approve {run} STEP, or dagrid reject {run} STEP")
    return exit_of_status("waiting")


def told_end(call: Call, run_id: str, name: str, result: ExecutionResult, stopped: bool) -> int:
    """Say how a run has ended, and return the exit code.

    Raises:
        InternalError: it has ended by a fault of dagrid's.
    """
    unrecorded = isinstance(result.failure, StoreError)  # it has ended here, and not where it is kept
    status = INTERRUPTED if unrecorded else result.status.value
    if call.out.as_json:
        _told_programs(call, {**run_record(run_id, name, result), "status": status})
    else:
        for line in failures(result):
            call.out.complain(line)
    call.out.say(f"{name} {status.replace('_', ' ')} after {took(result.total_duration_seconds)}: run {run_id}")
    if isinstance(result.failure, InternalError):
        raise result.failure
    if unrecorded and not isinstance(result.failure, StaleEpochError):
        call.out.say(f"Go on with it: dagrid retry {run_id}")
    return exit_of_status(status, stopped or unrecorded)


def _told_programs(call: Call, record: dict[str, Any]) -> None:
    """Write how a run stands as JSON; if nobody reads it any more, the exit code still tells of the run."""
    with suppress(ReaderGoneError):
        call.out.json(record)


def run_record(run_id: str, name: str, result: ExecutionResult) -> dict[str, Any]:
    """Return what programs are told of a run and its steps."""
    failure = {} if result.failure is None else {"error": str(result.failure)}
    return {
        "run": run_id,
        "name": name,
        "status": result.status.value,
        "seconds": result.total_duration_seconds,
        **failure,
        "steps": [step_record(one, one.duration_seconds) for one in result.node_results.values()],
    }


def step_record(result: NodeResult, seconds: float | None) -> dict[str, Any]:
    """Return what programs are told of a step, and of how long it took, or has been going on, if anybody knows."""
    end: Any = result.value if result.error is None else getattr(result.error, "left", None)
    is_step = type(end).__name__ == "StepEnd"
    return plain(
        {
            "name": result.name,
            "status": result.status.value,
            "attempts": result.attempts,
            "started": result.started if has_times(result) else None,
            "seconds": seconds if has_times(result) else None,
            "reason": result.reason,
            "error": error_of(result),
            "code": end.code if is_step else None,
            "outputs": {key: value for key, value in end.outputs.items() if key not in end.hidden} if is_step else None,
            "stdout": end.stdout if is_step else None,
            "stderr": end.stderr if is_step else None,
        }
    )


def has_times(result: NodeResult) -> bool:
    """Return whether a step runs, or ran to an end; who waits, for a person or for its next try, does neither."""
    return result.status == "running" or result.ended > 0


def error_of(result: NodeResult) -> str:
    """Return what a step has failed with, in words."""
    if result.error is None:
        return ""
    return (
        str(result.error) if isinstance(result.error, DagridError) else f"{type(result.error).__name__}: {result.error}"
    )


def failures(result: ExecutionResult) -> Iterator[str]:
    """Yield what went wrong, a line each, with the place in the user's code."""
    if result.failure is not None and not isinstance(result.failure, InternalError):
        yield f"dagrid: {result.failure}"
    if not any(map(result.counts().get, BAD)):
        return  # to tell of thousands of steps that nothing is wrong with them takes a while
    failed = [one for one in result.node_results.values() if one.error is not None and one.status in BAD]
    for one in failed[:MOST_FAILURES]:
        words = said(one.error) if one.error is not None else ""
        yield f"{one.name}: {words}"
    if len(failed) > MOST_FAILURES:
        yield f"... and {len(failed) - MOST_FAILURES} more"
