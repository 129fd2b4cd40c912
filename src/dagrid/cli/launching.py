"""Runs are begun: of a workflow, of a graph of Python's, of what an earlier run was of, of what waits in a queue."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagrid.cli.exits import Exit
from dagrid.cli.fleets import backend_of, fleet_of
from dagrid.cli.running import Watched, finished, finished_graph, stoppable
from dagrid.cli.workflows import importable, load_graph, load_workflow
from dagrid.errors import DuplicateRunError, InvalidSettingError, RunHeldError, UnknownRunError
from dagrid.history import QUEUED, About

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.graph.dag import DAG
    from dagrid.workflow import File

# Flags of one of the two, and what is to be said of them to who gives them for the other.
OF_GRAPHS = {
    "backend": "is for graphs of Python's. Steps of a workflow run here, or on the workers of a coordinator: "
    "--coordinator.host.",
    "settings": "is for graphs of Python's. What the steps of a workflow ask for stands in its file.",
}
OF_WORKFLOWS = {
    "worker.labels": "is for workflows. Nodes of a graph run where --backend says, on workers that say their labels."
}


def start_workflow(
    call: Call,
    file: File,
    params: Sequence[str],
    *,
    document: str = "",
    run_id: str | None = None,
    name: str | None = None,
    again: bool = False,
) -> int:
    """Run a workflow, wait for its end, and return the exit code.

    Args:
        call: the command.
        file, params: the workflow, and what it is given.
        document: the name of another document of the file than the first.
        run_id, name: of the run.
        again: take up a run that ended before it began, see `History.begin`.

    Raises:
        InvalidSettingError: a flag is for graphs of Python's.
    """
    refuse_without_effect(call, OF_GRAPHS)
    from dagrid.workflow.running import start

    workflow = file.document(document)
    watched = Watched(call, name or workflow.name, lambda: len(workflow.steps))
    with stoppable() as held:
        started = start(
            file,
            params,
            history=call.history,
            run_id=run_id,
            name=name,
            document=document,
            again=again,
            labels=dict(call.config["worker.labels"]),
            resources=dict(call.config["resources"]),
            observers=watched.observers,
            trigger=call.config["trigger_type"],
            fleet=fleet_of(call),
        )
        watched.at(started.place)
        return finished(call, started, held)


def start_graph(
    call: Call,
    target: str,
    params: Sequence[str],
    *,
    run_id: str | None = None,
    name: str | None = None,
    folder: str = "",
    served: bool | None = None,
    again: bool = False,
) -> int:
    """Run a graph of Python's, wait for its end, and return the exit code.

    Args:
        call: the command.
        target, params: the graph, and what the function that makes it is called with.
        run_id, name: of the run.
        folder: where its modules are; by default here.
        served: whether a coordinator of the home has it run, and takes it up again.
        again: take up a run that ended before it began, see `History.begin`.

    Raises:
        InvalidSettingError: a flag is for workflows.
    """
    refuse_without_effect(call, OF_WORKFLOWS)
    from dagrid.assemble import start
    from dagrid.observe.log import RunLog

    dag, settings = load_graph(call, target, params)
    name = name or dag.name or target.rpartition(":")[2]
    settings = {**settings, **_tuning(call, dag)}
    dag = settings.pop("dag", dag)
    for ours in ("checkpoint", "run_id", "progress", "observers"):
        settings.pop(ours, None)
    backend = backend_of(call)
    if backend is not None:
        settings["backend"] = backend
    resources = dict(call.config["resources"])
    if resources:
        settings["resources"] = {**(settings.get("resources") or {}), **resources}
    about = About(
        kind="graph",
        source=target,
        params=tuple(params),
        trigger=call.config["trigger_type"],
        more={"folder": folder or os.getcwd()},
    )
    watched = Watched(call, name, lambda: len(dag))
    with stoppable() as held, call.history.begin(name, about, run_id, served=served, again=again) as place:
        watched.at(place)
        try:
            run = start(
                dag,
                checkpoint=call.history.checkpoint,
                run_id=place.run_id,
                epoch=place.epoch,
                progress=False,
                cancelled=place.about.stopping,
                observers=[RunLog(place.log), *watched.observers],
                **settings,
            )
        except BaseException as error:
            call.history.discard(place, str(error))
            raise
        return finished_graph(call, run, place.run_id, name, held)


def start_like(call: Call, about: About, params: Sequence[str], **settings: Any) -> int:
    """Run what an earlier run was of, as it was written then."""
    if about.kind == "graph":
        importable(call, about)
        return start_graph(call, about.source, params, folder=about.more.get("folder", ""), **settings)
    from dagrid.workflow.recalling import file_of

    return start_workflow(call, file_of(about), params, document=about.document, **settings)


def start_next(call: Call, queue: str) -> int:
    """Run what is the next in a queue, and return the exit code; several processes that do so never take the same run.

    Raises:
        UnknownRunError: nothing waits there.
    """
    lost: set[str] = set()
    while True:
        waiting = [info for info in call.history.queued(queue) if info.run not in lost]
        if not waiting:
            raise UnknownRunError(f"No run waits in a queue {queue!r}.", queue)
        run = waiting[0]
        try:
            about = call.history.about(run.run)
            return start_like(call, about, about.given, run_id=run.run, name=run.name)
        except (DuplicateRunError, RunHeldError):  # somebody was faster
            lost.add(run.run)


def left_to_coordinator(call: Call, run_id: str) -> int:
    """Say that a run is performed by the coordinator of the home, and return the exit code."""
    if call.out.as_json:
        call.out.json(
            {"run": run_id, "name": call.history.info(run_id).name}
        )  # how it stands is another thing in a moment
    call.out.say(f"The coordinator of {call.config.home} performs it: run {run_id}")
    return Exit.SUCCESS


def queued_anew(call: Call, name: str, about: About, file: File | None = None) -> About:
    """Return what is put into the queue of a run again: what that was of, as it was or as its file is now."""
    return About(
        kind=about.kind,
        source=about.source,
        spec=about.spec if file is None else file.text,
        params=about.given,
        trigger=call.config["trigger_type"],
        queue=about.queue or name,
        priority=about.priority,
        at_once=about.at_once if file is None else max(file.document(about.document).max_active_runs, 0),
        more={"folder": about.more.get("folder", "") if file is None else file.folder, "document": about.document},
    )


def file_now(call: Call, about: About) -> File:
    """Return the workflow of a run as its file is now or, where that is gone, as it was."""
    from dagrid.workflow.recalling import file_of

    path = Path(about.more.get("folder", ""), about.source)
    return load_workflow(call, str(path)) if path.is_file() else file_of(about)


def _tuning(call: Call, dag: DAG) -> dict[str, Any]:
    """Return what the file of settings says of a graph and of its run."""
    path = call.config["settings"]
    if not path:
        return {}
    from dagrid.config.graphs import tuned

    found = tuned(dag, path)
    return {"dag": found.dag, "resources": found.resources, "max_concurrency": found.max_concurrency}


def refuse_without_effect(call: Call, remedies: Mapping[str, str]) -> None:
    """Refuse flags that say nothing of what they are given for; a variable or a file may say it for other calls.

    Raises:
        InvalidSettingError: one of them was given.
    """
    for name, remedy in remedies.items():
        said = call.config.value(name)
        if said.value and said.source.startswith("-"):
            raise InvalidSettingError(f"{said.source} {remedy}")


def refuse_queued(call: Call, run_id: str) -> None:
    """Refuse to begin something under the id of a run that waits, which would not be begun any more.

    Raises:
        DuplicateRunError: such a run waits in a queue.
    """
    if call.history.knows(run_id) and call.history.info(run_id).status == QUEUED:
        queue = call.history.about(run_id).queue
        raise DuplicateRunError(
            f"Run {run_id!r} waits in the queue {queue!r}: dagrid start --next {queue} begins what waits there. Give this one "
            f"another id."
        )


def refuse_both(call: Call, *names: str) -> None:
    """Refuse settings that each say what is to be started.

    Raises:
        InvalidSettingError: more than one was given.
    """
    said = [call.config.value(name).named for name in names if call.config[name]]
    if len(said) > 1:
        raise InvalidSettingError(f"{' and '.join(said)} each say what is to be started. Keep one of them.")
