"""`dagrid start` and `dagrid dry`: a workflow in a file, or a graph of Python's, is run, or only looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.output import plain
from dagrid.cli.running import Log, Watched, attend, stoppable, told_end
from dagrid.cli.workflows import given, is_graph, load_graph, said
from dagrid.errors import InvalidSettingError
from dagrid.history import About

if TYPE_CHECKING:
    from dagrid.execution.results import ExecutionResult, NodeResult
    from dagrid.graph.dag import DAG
    from dagrid.history import Place

BAD = ("failed", "timed_out", "lost")
MOST_FAILURES = 20


@command(
    "start",
    click.Argument(["target"], required=False, type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=(
        "dagrid start nightly.yaml -- DAY=2026-01-31",
        'dagrid start nightly -p "DAY=today FORCE=1" --name nightly-by-hand',
        "dagrid start flows.etl:nightly --backend multiprocessing -- 2026-01-31",
        "dagrid start --next default",
    ),
)
def start_command(call: Call, target: str | None, rest: tuple[str, ...]) -> int:
    """Run a workflow in a file, or a graph of Python's as package.module:name, and wait for its end.

    Parameters stand behind --, as NAME=value or by position. Ctrl-C stops the run. The exit code says how it ended.
    """
    if target is None:
        raise InvalidSettingError("Name what is to be started: a file, or package.module:name.")
    if is_graph(target):
        return _start_graph(call, target, given(call, rest))
    raise InvalidSettingError(f"{target} cannot be started yet.")


def _start_graph(call: Call, target: str, params: list[str]) -> int:
    from dagrid.assemble import start

    dag, settings = load_graph(target, params)
    name = call.config["name"] or dag.name or target.rpartition(":")[2]
    settings = {**settings, **_tuning(call, dag)}
    dag = settings.pop("dag", dag)
    for unwanted in ("checkpoint", "run_id", "progress", "observers"):
        settings.pop(unwanted, None)
    if call.config.value("backend").value:
        settings["backend"] = call.config["backend"]
    about = About(kind="graph", source=target, params=tuple(params), trigger=call.config["trigger_type"])
    watched = Watched(call, name, len(dag))
    with stoppable() as held, call.history.begin(name, about, call.config["run_id"]) as place:
        watched.at(place)
        try:
            run = start(
                dag,
                checkpoint=call.history.checkpoint,
                run_id=place.run_id,
                epoch=place.epoch,
                progress=False,
                observers=[Log(place), *watched.observers],
                **settings,
            )
        except BaseException as error:
            call.history.give_up(place, str(error))
            raise
        stopped = attend(run, held, run.wait)
        return _graph_ended(call, name, place, run.result(), stopped)


def _tuning(call: Call, dag: DAG) -> dict[str, Any]:
    """Return what the file of settings says of a graph and of its run."""
    path = call.config["settings"]
    if not path:
        return {}
    from dagrid.config.graphs import tuned

    found = tuned(dag, path)
    return {"dag": found.dag, "resources": found.resources, "max_concurrency": found.max_concurrency}


def _graph_ended(call: Call, name: str, place: Place, result: ExecutionResult, stopped: bool) -> int:
    if call.out.as_json:
        call.out.json(
            {
                "run": place.run_id,
                "name": name,
                "status": result.status.value,
                "seconds": result.total_duration_seconds,
                "nodes": [_node(one) for one in result.node_results.values()],
            }
        )
    else:
        _tell_failures(call, result)
    return told_end(call, name, place.run_id, result.status.value, result.total_duration_seconds, stopped)


def _node(result: NodeResult) -> dict[str, Any]:
    error = f"{type(result.error).__name__}: {result.error}" if result.error is not None else ""
    return plain(
        {
            "name": result.name,
            "status": result.status.value,
            "attempts": result.attempts,
            "seconds": result.duration_seconds if result.attempts else None,
            "reason": result.reason,
            "error": error,
        }
    )


def _tell_failures(call: Call, result: ExecutionResult) -> None:
    """Say what went wrong, with the place in the user's code."""
    if result.failure is not None:
        call.out.complain(f"dagrid: {result.failure}")
    failed = [one for one in result.node_results.values() if one.error is not None and one.status in BAD]
    for one in failed[:MOST_FAILURES]:
        call.out.complain(f"{one.name}: {said(one.error)}" if one.error is not None else one.name)
    if len(failed) > MOST_FAILURES:
        call.out.complain(f"... and {len(failed) - MOST_FAILURES} more")
