"""`dagrid stop` and `dagrid restart`: the process that performs a run is asked to stop it, and what it is of is begun anew."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dagrid.cli.calls import Call
from dagrid.cli.exits import Exit
from dagrid.cli.fleets import left_alone
from dagrid.cli.launching import file_now, left_to_coordinator, queued_anew, start_like, start_workflow
from dagrid.cli.options import command
from dagrid.cli.running import attend, stoppable
from dagrid.cli.runs import OF_A_RUN, chosen, run_argument
from dagrid.cli.workflows import importable

if TYPE_CHECKING:
    from dagrid.history import RunInfo

PAUSE = 0.05
STOPPED = ("aborted", "interrupted")


@command("stop", run_argument(), examples=("dagrid stop nightly", "dagrid stop 0190b6c8"), completes=OF_A_RUN)
def stop_command(call: Call, run: str | None) -> int:
    """Stop a run, and wait until it has ended: its steps are asked to stop, its handlers run. One that ends in another way before
    it hears of that is said to, with an exit code that is not 0.

    One that waits, for a person or in a queue, is stopped as well, and one whose coordinator is gone as soon as the next one has
    it. RUN is an id, the beginning of one, or a name for its newest run.
    """
    now = _stopped(call, chosen(call, run))
    if call.out.as_json:
        call.out.json({"run": now.run, "name": now.name, "status": now.status})
    elif now.status in STOPPED:
        call.out.say(f"{now.name} is {now.status}")
    if now.status in STOPPED:
        return Exit.SUCCESS
    call.out.complain(f"{now.name} was not stopped, for it ended before that: it is {now.status}")
    return Exit.FAILED


@command(
    "restart", run_argument(), examples=("dagrid restart nightly", "dagrid restart -r 0190b6c8"), completes=OF_A_RUN
)
def restart_command(call: Call, run: str | None) -> int:
    """Stop a run if it goes on or waits, and start what it is of anew, with the same parameters, as a new run.

    A workflow is read from its file again. What a coordinator of the home has performed is put into its queue. RUN is an id, the
    beginning of one, or a name for its newest run.
    """
    info = chosen(call, run)
    about = call.history.about(info.run)
    file = None if about.kind == "graph" else file_now(call, about)
    workflow = None if file is None else file.document(about.document)
    if info.active:
        _stopped(call, info)
    if workflow is not None:
        time.sleep(workflow.restart_wait_sec)
    if left_alone(call, about) and call.history.is_served:
        return left_to_coordinator(call, call.history.enqueue(info.name, queued_anew(call, info.name, about, file)))
    if file is None:
        return start_like(call, about, about.given, name=info.name)
    return start_workflow(call, file, about.given, name=info.name, document=about.document)


def _given_up(call: Call, info: RunInfo) -> RunInfo:
    """Cancel a run that waits for a person, and those that it has called, and return how it stands then."""
    from dagrid.assemble import restart
    from dagrid.observe.log import RunLog
    from dagrid.workflow.running import go_on

    why = "stopped while it waited for a person"
    history = call.history
    with stoppable() as held:
        for run in (info.run, *[child.run for child in history.children(info.run)]):
            if history.info(run).status != "waiting":
                continue
            about = history.about(run)
            importable(call, about)
            if about.kind == "graph":
                with history.reopen(run) as place:
                    graph = restart(history.checkpoint, run, progress=False, observers=[RunLog(place.log)])
                    graph.cancel(why)
                    attend(graph, held, graph.wait)
                continue
            with go_on(history, run) as started:
                started.run.cancel(why)
                attend(started.run, held, started.run.wait)
                started.finish()
    return history.info(info.run)


def _stopped(call: Call, info: RunInfo) -> RunInfo:
    """Stop a run, whatever it waits for, and return how it stands when it has ended."""
    if info.status == "queued":
        return call.history.dequeue(info.run)
    if info.status == "waiting":
        return _given_up(call, info)
    info = call.history.stop(info.run)
    if info.status == "interrupted":
        call.out.say(f"Who serves {call.config.home} next stops it, and what workers have of it: run {info.run}")
        return info
    call.out.say(f"{info.name} is being stopped: run {info.run}, process {info.pid}")
    while (now := call.history.info(info.run)).status == "running":
        time.sleep(PAUSE)
    return now
