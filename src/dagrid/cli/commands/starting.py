"""`dagrid start`: a workflow in a file, or a graph of Python's, is run."""

from __future__ import annotations

import click

from dagrid.cli.calls import Call
from dagrid.cli.launching import (
    refuse_both,
    refuse_queued,
    start_graph,
    start_like,
    start_next,
    start_workflow,
)
from dagrid.cli.options import command
from dagrid.cli.workflows import given, is_graph, load_workflow, warn
from dagrid.errors import InvalidSettingError


@command(
    "start",
    click.Argument(["target"], required=False, type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=(
        "dagrid start nightly.yaml -- DAY=2026-01-31",
        'dagrid start nightly -p "DAY=today FORCE=1" --name nightly-by-hand',
        "dagrid start flows.etl:nightly --backend multiprocessing -- 2026-01-31",
        "dagrid start --next slow",
    ),
)
def start_command(call: Call, target: str | None, rest: tuple[str, ...]) -> int:
    """Run a workflow in a file, or a graph of Python's as package.module:name, and wait for its end.

    Parameters stand behind --, as NAME=value or by position. Ctrl-C stops the run. The exit code says how it ended.
    """
    config = call.config
    run_id, name = config["run_id"], config["name"]
    refuse_both(call, "next", "from_run_id")
    if config["next"]:
        if target is not None or run_id or name:
            raise InvalidSettingError("--next says all of what is to be started: a run that waits.")
        return start_next(call, config["next"])
    if run_id:
        refuse_queued(call, run_id)
    params = given(call, rest)
    if config["from_run_id"]:
        about = call.history.about(call.history.find(config["from_run_id"]).run)
        params = params or list(about.given)
        if target is None:
            return start_like(call, about, params, run_id=run_id, name=name or about.name)
    if target is None:
        raise InvalidSettingError("Name what is to be started: a file, or package.module:name.")
    if is_graph(target):
        return start_graph(call, target, params, run_id=run_id, name=name)
    file = load_workflow(call, target)
    warn(call, file, params)
    return start_workflow(call, file, params, run_id=run_id, name=name)
