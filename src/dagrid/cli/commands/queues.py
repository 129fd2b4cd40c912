"""`dagrid enqueue` and `dagrid dequeue`: runs that are to be started later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.workflows import given, is_graph, load_graph, load_workflow, warn
from dagrid.errors import RunStateError, UnknownRunError, hint, nearest
from dagrid.history import About, RunInfo


@command(
    "enqueue",
    click.Argument(["target"], type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=("dagrid enqueue nightly.yaml -- DAY=2026-01-31", "dagrid enqueue nightly --queue slow --priority 5"),
)
def enqueue_command(call: Call, target: str, rest: tuple[str, ...]) -> None:
    """Put a workflow, or a graph of Python's, into a queue. Prints the id of the run.

    `dagrid start --next QUEUE` starts it, and a coordinator of the home does by itself.
    """
    config = call.config
    params = given(call, rest)
    if is_graph(target):
        dag, _ = load_graph(call, target, params)
        name, queue = config["name"] or dag.name or target.rpartition(":")[2], ""
        about = About(kind="graph", source=target, more={"folder": os.getcwd()})
    else:
        from dagrid.workflow.running import check_edits

        file = load_workflow(call, target)
        check_edits(file, file.main, params, config["run_id"])
        warn(call, file, params)
        name, queue = config["name"] or file.main.name, file.main.queue
        path = os.path.abspath(file.name)
        spec = Path(path).read_text(encoding="utf-8-sig")
        about = About(source=path, spec=spec, at_once=max(file.main.max_active_runs, 0))
    queue = config["queue"] or queue or name
    about = _replaced(
        about, params=tuple(params), queue=queue, priority=config["priority"], trigger=config["trigger_type"]
    )
    run = call.history.enqueue(name, about, config["run_id"])
    if call.out.as_json:
        call.out.json({"run": run, "name": name, "queue": queue, "status": "queued"})
    else:
        call.out.line(run)
        call.out.say(f"{name} waits in the queue {queue}")


@command(
    "dequeue",
    click.Argument(["queue"], shell_complete=lambda *_: []),
    examples=("dagrid dequeue slow", "dagrid dequeue slow --dag-run nightly:0190b6c8-7d3f-7a01-8c59-6f5e0c1d2e3f"),
)
def dequeue_command(call: Call, queue: str) -> None:
    """Take a run out of a queue, by default the one that is the next; it has been aborted then. Prints its id."""
    said = call.config["dag_run"]
    if said:
        name, _, run_id = said.rpartition(":")
        waiting = [info.run for info in call.history.queued(queue) if name in ("", info.name)]
        info = call.history.dequeue(_meant(run_id, waiting, queue, name))
    else:
        info = _next(call, queue)
    if call.out.as_json:
        call.out.json({"run": info.run, "name": info.name, "queue": queue, "status": info.status})
    else:
        call.out.line(info.run)


def _next(call: Call, queue: str) -> RunInfo:
    """Take the next run out of a queue that nobody else takes meanwhile, and return it."""
    lost: set[str] = set()
    while True:
        waiting = [info.run for info in call.history.queued(queue) if info.run not in lost]
        if not waiting:
            raise UnknownRunError(f"No run waits in a queue {queue!r}.", queue)
        try:
            return call.history.dequeue(waiting[0])
        except (RunStateError, UnknownRunError):  # somebody was faster
            lost.add(waiting[0])


def _replaced(about: About, **changes: object) -> About:
    import msgspec

    return msgspec.structs.replace(about, **changes)


def _meant(said: str, waiting: Sequence[str], queue: str, name: str) -> str:
    """Return the run in a queue that an id means, or the beginning of one; of a workflow, if one is named."""
    found = [run for run in waiting if run == said] or [run for run in waiting if said and run.startswith(said)]
    if len(found) > 1:
        raise UnknownRunError(
            f"{len(found)} runs in the queue {queue!r} begin with {said!r}. Give more of the id.", said
        )
    if not found:
        near = hint(nearest(said, waiting))
        of = f" of {name!r}" if name else ""
        raise UnknownRunError(f"There is no run {said!r}{of} in the queue {queue!r}.{near}", said)
    return found[0]
