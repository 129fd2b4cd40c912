"""`dagrid status` and `dagrid explain`: how a run stands, step by step, and why."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.output import plain, took
from dagrid.cli.running import BAD, error_of, has_times, step_record
from dagrid.cli.runs import OF_A_RUN, check_step, chosen, chosen_step, run_argument, step_argument
from dagrid.cli.workflows import importable
from dagrid.errors import TransferError
from dagrid.history import INTERRUPTED, QUEUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrid.execution.results import NodeResult
    from dagrid.execution.run import Run
    from dagrid.history import RunInfo

GOES_ON = ("queued", "running", "waiting", "interrupted")
SENTENCES = {
    "waiting": "It waits for a person: dagrid approve, or dagrid reject.",
    INTERRUPTED: "Its process is gone: dagrid retry goes on with it.",
}
NEVER_BEGAN = {
    "failed": "It could not be started, and its log says why: dagrid logs.",
    "aborted": "It was taken out of its queue before it began: dagrid retry begins it.",
}
CUT_OFF = "ran when the process of the run ended"
PUT_OFF = "waited for its next try when the process of the run ended"


@command(
    "status",
    run_argument(),
    examples=("dagrid status", "dagrid status nightly", "dagrid status nightly --json"),
    completes=OF_A_RUN,
)
def status_command(call: Call, run: str | None) -> None:
    """Show how a run stands, step by step; without a RUN, all runs that have not ended.

    RUN is an id, the beginning of one, or a name for its newest run.
    """
    if run is None and not call.config["run_id"]:
        _all(call)
        return
    info = chosen(call, run)
    seen = look(call, info)
    steps = [] if seen is None else [seen.node_result(name) for name in seen.names]
    gone = _is_gone(call, info)
    children = call.history.children(info.run)
    if call.out.as_json:
        call.out.json(
            {
                **_record(call, info),
                "steps": [_step_record(seen, step, gone) for step in steps] if seen is not None else [],
                "waiting": []
                if seen is None
                else [{"step": name, "prompt": seen.held(name)[0]} for name in seen.waiting],
                "children": [_record(call, child) for child in children],
            }
        )
        return
    call.out.line(f"{info.name} is {info.status.replace('_', ' ')}: run {info.run}{_when(call, info)}")
    sentence = _sentence(call, info)
    if sentence:
        call.out.line(sentence)
    if seen is not None and steps:
        call.out.line()
        call.out.table(("STEP", "STATUS", "AFTER", "TOOK", "TRIES", ""), [_row(seen, step, gone) for step in steps])
        for name in seen.waiting:
            call.out.line(f"{name} waits for a person: {seen.held(name)[0]}")
    if children:
        call.out.line()
        call.out.table(("RUN", "NAME", "STATUS"), [(child.run, child.name, child.status) for child in children])


@command(
    "explain",
    run_argument(),
    step_argument(),
    examples=("dagrid explain nightly report", "dagrid explain nightly"),
    completes=OF_A_RUN,
)
def explain_command(call: Call, run: str | None, step: str | None) -> None:
    """Say why a step is not running, or how it ended; without a STEP, of every step that did not complete."""
    info, step = chosen_step(call, run, step)
    seen = look(call, info)
    if seen is None:
        told = {}
    elif step is not None:
        check_step(seen.names, step, info.run)
        told = _explained(seen, [step], _is_gone(call, info))
    else:
        rest = [name for name in seen.names if seen.status(name) != "completed"]
        told = _explained(seen, rest, _is_gone(call, info))
    sentence = _sentence(call, info)
    if call.out.as_json:
        call.out.json(
            plain({"run": info.run, "name": info.name, "status": info.status, "because": sentence}) | {"steps": told}
        )
        return
    if sentence:
        call.out.line(f"The run is {info.status}. {sentence}")
    for words in told.values():
        call.out.line(words)
    if not told and not sentence and seen is not None:
        call.out.line("Every step has completed.")


def _sentence(call: Call, info: RunInfo) -> str:
    """Return what a run that does nothing waits for, or why it never did anything."""
    about = call.history.about(info.run)
    if info.status == INTERRUPTED and about.served and not call.history.is_served:
        follows = "stops it" if about.stopping else "goes on with it"
        return f"Its coordinator is gone, and workers go on with what they have of it: the next coordinator {follows}."
    if info.status == QUEUED:
        begins = (
            "its coordinator begins it"
            if call.history.is_served
            else f"dagrid start --next {quote(about.queue)} begins it"
        )
        return f"It waits in the queue {about.queue!r}: {begins}."
    if info.ended and not call.history.has_begun(info.run):
        return NEVER_BEGAN.get(info.status, "")
    return SENTENCES.get(info.status, "")


def _is_gone(call: Call, info: RunInfo) -> bool:
    """Return whether nobody performs what a run had begun: its process is gone, and no worker has it."""
    return info.status == INTERRUPTED and not call.history.about(info.run).served


def _explained(run: Run, steps: Sequence[str], gone: bool) -> dict[str, str]:
    workers = run.elsewhere() if gone else {}
    return {step: _explanation(run, step, gone, workers.get(step)) for step in steps}


def _explanation(run: Run, step: str, gone: bool, worker: str | None) -> str:
    if worker is not None:
        return (
            f"{step!r} was with worker {worker!r} when the process of the run ended, and may go on there; dagrid retry with the "
            f"--coordinator.host of that worker goes on with it."
        )
    if gone and run.status(step) == "running":
        return f"{step!r} {CUT_OFF}; dagrid retry runs it again."
    if gone and _waits_for_a_time(run, step):
        return f"{step!r} {PUT_OFF}; dagrid retry goes on with it."
    return run.explain(step)


def _waits_for_a_time(run: Run, step: str) -> bool:
    return run.status(step) == "waiting" and step not in run.waiting


def look(call: Call, info: RunInfo) -> Run | None:
    """Return a view of a run; None of one that has not begun, or whose functions cannot be found here."""
    from dagrid.assemble import view

    if not call.history.has_begun(info.run):
        return None
    importable(call, call.history.about(info.run))
    try:
        return view(call.history.checkpoint, info.run)
    except TransferError as error:
        call.out.say(f"dagrid: {error}")
        return None


def _all(call: Call) -> None:
    infos = call.history.runs(status=GOES_ON, limit=None)
    if call.out.as_json:
        call.out.json([_record(call, info) for info in infos])
    elif infos:
        rows = [(info.run, info.name, info.status, call.out.time(info.created), info.host) for info in infos]
        call.out.table(("RUN", "NAME", "STATUS", "CREATED", "HOST"), rows)
    else:
        call.out.say("No run goes on.")


def _record(call: Call, info: RunInfo) -> dict[str, Any]:
    about = call.history.about(info.run)
    return {
        "run": info.run,
        "name": info.name,
        "status": info.status,
        "created": call.out.stamp(info.created),
        "ended": call.out.stamp(info.ended),
        "seconds": info.seconds,
        "host": info.host or about.host,
        "pid": info.pid or None,
        "params": list(about.params),
        "source": about.source,
        "folder": str(call.history.folder(info.run)),
    }


def _when(call: Call, info: RunInfo) -> str:
    if info.seconds is None:
        return f", since {call.out.time(info.created)}"
    if info.ended:
        return f", {call.out.time(info.created)}, after {took(info.seconds)}"
    process = f", process {info.pid}" if info.pid else ""
    return f", for {took(info.seconds)}, on {info.host}{process}"


def _seconds(run: Run, step: NodeResult) -> float:
    """Return how long a step took, or has been going on."""
    seconds = run.seconds - step.started if step.status == "running" else step.duration_seconds
    return max(seconds, 0.0)


def _step_record(run: Run, step: NodeResult, gone: bool) -> dict[str, Any]:
    if gone and step.status == "running":
        return {**step_record(step, None), "status": INTERRUPTED, "reason": CUT_OFF}
    if gone and _waits_for_a_time(run, step.name):
        return {**step_record(step, None), "reason": PUT_OFF}
    return step_record(step, _seconds(run, step))


def _row(run: Run, step: NodeResult, gone: bool) -> tuple[str, ...]:
    if gone and step.status == "running":
        return (step.name, INTERRUPTED, took(step.started), "", "", CUT_OFF)
    began = has_times(step)
    why = error_of(step) if step.status in BAD else step.reason
    if _waits_for_a_time(run, step.name):
        why = PUT_OFF if gone else run.explain(step.name).removeprefix(f"{step.name!r} ").removesuffix(".")
    return (
        step.name,
        step.status.value,
        took(step.started) if began else "",
        took(_seconds(run, step)) if began else "",
        str(step.attempts) if step.attempts > 1 else "",
        why,
    )
