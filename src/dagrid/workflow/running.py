"""Workflows run: a file and a history become a run, or a run that is there goes on; what belongs to one is opened and closed here.

It joins what the other rooms make: the context, the graph, the place in the history, the engine. It decides nothing about steps.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from dagrid.assemble import restart
from dagrid.assemble import start as start_graph
from dagrid.errors import DagridError, RunHeldError, UnknownRunError, WorkflowNotFoundError
from dagrid.execution.backends.command import CommandBackend
from dagrid.execution.results import ExecutionResult
from dagrid.execution.run import Run
from dagrid.graph.dag import DAG
from dagrid.history import About, History, Place
from dagrid.masking import masked
from dagrid.observe.log import RunLog
from dagrid.ports import Observer, Onlooker
from dagrid.workflow import steps
from dagrid.workflow.context import CURRENT, Child, ChildEnd, Context, StepEnd
from dagrid.workflow.loading import File, find, load, loads
from dagrid.workflow.lowering import HANDLER_KIND, lower
from dagrid.workflow.mailing import send_mails
from dagrid.workflow.model import Workflow
from dagrid.workflow.surroundings import surround, unmet

MOST_ATTEMPTS = 100_000
PROCESSES = 256
"""How many processes of a run are there at once, where the workflow does not say."""
UNMET = "a precondition does not hold"

Readers = Sequence[Observer | Onlooker]


@dataclass(slots=True)
class Started:
    """A run of a workflow that is under way.

    Attributes:
        run: the handle on it.
        place: where it is kept.
        context: what its steps share.
        file: where the workflow stands.
    """

    run: Run
    place: Place
    context: Context
    file: File
    _closing: ExitStack = field(default_factory=ExitStack)
    _ended: bool = False

    @property
    def names(self) -> list[str]:
        """The steps, in the order of the file, without the handlers."""
        return [step.name for step in self.context.workflow.steps]

    def finish(self) -> ExecutionResult:
        """Wait for the end, send the mails that are asked for, let go of the run, and return its result."""
        try:
            result = self.run.wait()
            if not self._ended:
                self._ended = True
                send_mails(self.context, result)
            return result
        finally:
            self.close()

    def detach(self) -> None:
        """Let go of a run that waits for a person: `go_on` with what the person said takes it up again."""
        self.run.detach()
        self.close()

    def close(self) -> None:
        """Let go of the run; one that has not ended goes on with `go_on`. May be called twice."""
        self._closing.close()

    def outputs(self) -> dict[str, str]:
        """Return the output variables of the steps that have completed."""
        return outputs_of(self.context.workflow, self.run.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(
    file: File,
    params: Sequence[str] | str = (),
    *,
    history: History,
    run_id: str | None = None,
    name: str | None = None,
    workflow: Workflow | None = None,
    spec: str = "",
    labels: Mapping[str, str] | None = None,
    resources: Mapping[str, float] | None = None,
    observers: Readers = (),
    trigger: str = "manual",
    parent: str = "",
    root: str = "",
) -> Started:
    """Start a run of a workflow.

    Args:
        file: what was loaded.
        params: `NAME=value`, or values by position.
        history: where it is kept.
        run_id: what it is called; by default a new id.
        name: what the workflow is called in the history; by default its own name.
        workflow: another document of the file than the first.
        spec: the text of the file, kept with the run so that it can go on whatever becomes of the file; by default it is read.
        labels: those of this machine, which selectors must match.
        resources: the capacity of what steps ask for with `resources`; `cpu` is the number of cores if nothing is said.
        observers: readers of the run.
        trigger: what started it, for the history.
        parent, root: the ids of the runs that called this one, and that began it all.

    Raises:
        WorkflowError, ParameterError: the workflow cannot run with these parameters, or here; nothing has run.
        DuplicateRunError: there is a run of that id.
    """
    chosen = workflow or file.main
    if name is not None:
        chosen = msgspec.structs.replace(chosen, name=name)
    about = About(
        name=chosen.name,
        source=file.name if file.folder else "",
        spec=spec or _text(file),
        params=(params,) if isinstance(params, str) else tuple(params),
        document=chosen.name if workflow is not None else "",
        folder_of_file=file.folder,
        parent=parent,
        root=root,
        trigger=trigger,
        labels=dict(labels or {}),
    )
    with ExitStack() as closing:
        place = closing.enter_context(history.begin(chosen.name, about, run_id))
        context = surround(file, chosen, place, params, labels=labels, start_child=_Children(history, file, place, labels).start)
        history.note_values(place.run_id, _kept_values(context))
        reason = unmet(context)
        dag = lower(context)
        run = _in(
            context,
            start_graph,
            dag,
            **_settings(context, dag),
            resources=_capacities(dag, resources),
            timeout=chosen.timeout_sec or None,
            checkpoint=history.checkpoint,
            run_id=place.run_id,
            epoch=place.epoch,
            observers=[RunLog(place.log, context.secrets), *observers],
        )
        if reason:
            run.cancel(f"{UNMET}: {reason}")
        return Started(run, place, context, file, closing.pop_all())


def go_on(
    history: History,
    run_id: str,
    *,
    again: bool = False,
    roots: Collection[str] = (),
    signals: Mapping[str, Mapping[str, str]] | None = None,
    rejects: Mapping[str, str] | None = None,
    observers: Readers = (),
) -> Started:
    """Go on with a run that was interrupted, waits for a person, or has ended.

    Args:
        history: where it is kept.
        run_id: which run.
        again: take up a run that has ended: what did not complete runs again.
        roots: these steps and all behind them run again as well.
        signals: for steps that wait for a person: approved, with what the person entered.
        rejects: for others: refused, and why.
        observers: readers of the run.

    Raises:
        UnknownRunError: there is no such run, or it is none of a workflow.
        RunHeldError: another process performs it.
        RunError: a step does not wait for a person.
    """
    with ExitStack() as closing:
        place = closing.enter_context(history.reopen(run_id))
        about = place.about
        if about.kind != "workflow":
            raise UnknownRunError(f"The run {run_id!r} is one of a Python graph: go on with it in Python, by dagrid.resume.", run_id)
        file, workflow = _again(about)
        labels = about.labels
        context = surround(
            file,
            workflow,
            place,
            about.params,
            fixed=history.values_of(run_id),
            labels=labels,
            start_child=_Children(history, file, place, labels).start,
        )
        settings = _settings(context, None)
        settings.pop("max_concurrency")
        run = _in(
            context,
            restart,
            history.checkpoint,
            run_id,
            again=again,
            roots=roots,
            observers=[RunLog(place.log, context.secrets), *observers],
            **settings,
        )
        started = Started(run, place, context, file, closing.pop_all())
        try:
            _tell(run, signals or {}, rejects or {})
        except BaseException:
            started.close()
            raise
        return started


def dry(file: File, params: Sequence[str] | str = (), *, labels: Mapping[str, str] | None = None) -> tuple[Context, DAG]:
    """Return the context and the graph that a run would have; nothing is kept, and no step runs.

    Raises:
        WorkflowError, ParameterError: the workflow cannot run with these parameters, or here.
    """
    context = surround(file, file.main, _Nowhere(), params, labels=labels)
    return context, lower(context)


def outputs_of(workflow: Workflow, result: ExecutionResult) -> dict[str, str]:
    """Return the output variables of the steps of a workflow that have completed, but for those that are to be left out."""
    found: dict[str, str] = {}
    for step in workflow.steps:
        if (step.output or step.outputs or step.approval) and step.name in result:
            end = result.node_result(step.name).value
            if isinstance(end, StepEnd):
                found.update({name: value for name, value in end.outputs.items() if name not in end.hidden})
    return found


def _in(context: Context, start: Any, *args: Any, **settings: Any) -> Run:
    """Start a run whose steps find their context."""
    surroundings = copy_context()
    surroundings.run(CURRENT.set, context)
    run: Run = surroundings.run(lambda: start(*args, **settings))
    return run


def _settings(context: Context, dag: DAG | None) -> dict[str, Any]:
    at_once = context.workflow.max_active_steps or None
    return {
        "backend": "inline",
        "places": {"command": CommandBackend(MOST_ATTEMPTS, at_once or PROCESSES)},
        "max_concurrency": dag.max_concurrency if dag is not None else None,
        "progress": False,
        "cache": False,
    }


def _capacities(dag: DAG, said: Mapping[str, float] | None) -> dict[str, float]:
    asked = {name for node in dag.nodes for name in node.resources}
    own = {name: float(os.cpu_count() or 1) for name in ("cpu", "cpus", "cores")}
    return {name: amount for name, amount in (own | dict(said or {})).items() if name in asked or name in (said or {})}


def _tell(run: Run, signals: Mapping[str, Mapping[str, str]], rejects: Mapping[str, str]) -> None:
    """Tell steps that wait for a person what the person said."""
    for step, inputs in signals.items():
        _, held = run.held(step)
        end = held if isinstance(held, StepEnd) else StepEnd()
        run.signal(step, msgspec.structs.replace(end, outputs={**end.outputs, **inputs}))
    for step, reason in rejects.items():
        run.reject(step, reason)


def _text(file: File) -> str:
    """Return the text of a file, so that a run of it can go on without it."""
    try:
        with open(file.name, encoding="utf-8-sig") as opened:
            return opened.read()
    except OSError:
        return ""


def _again(about: About) -> tuple[File, Workflow]:
    """Return the file of a run as it was when it was started, and the document that runs."""
    file = loads(about.spec, name=about.source or about.name, exists=lambda _: True, types=steps.KINDS)
    file.folder = about.folder_of_file
    workflow = file.locals.get(about.document, file.main) if about.document else file.main
    return file, msgspec.structs.replace(workflow, name=about.name)


def _kept_values(context: Context) -> dict[str, str]:
    """Return the parameters of a run with their values, for whoever goes on with it; those that hold a secret are found anew."""
    names = {one.name or str(number) for number, one in enumerate(context.workflow.params.items, 1)} | set(context.given)
    values = {name: context.variables[name] for name in names if name in context.variables}
    return {name: value for name, value in values.items() if masked(value, context.secrets) == value}


class _Nowhere:
    """The folder of a run that is not run."""

    run_id = "dry"

    def __init__(self) -> None:
        from pathlib import Path

        self.log = Path(os.devnull)

    def stdout(self, step: str) -> Any:  # noqa: ARG002
        return self.log

    stderr = stdout


class _Children:
    """Starts the workflows that the steps of a run call, and goes on with those that an earlier process had begun."""

    def __init__(self, history: History, file: File, place: Place, labels: Mapping[str, str] | None) -> None:
        self._history = history
        self._file = file
        self._place = place
        self._labels = labels

    def start(self, child: Child) -> _Running:
        """Start one, see `dagrid.workflow.context.StartChild`."""
        try:
            return _Running(child, self._begun(child))
        except (UnknownRunError, KeyError):
            pass
        local = self._file.locals.get(child.call)
        file = self._file if local is not None else self._loaded(child.call)
        about = self._place.about
        return _Running(
            child,
            start(
                file,
                child.params,
                history=self._history,
                run_id=child.run_id,
                workflow=local,
                spec=about.spec if local is not None else "",
                labels=self._labels,
                trigger="call",
                parent=self._place.run_id,
                root=about.root or self._place.run_id,
            ),
        )

    def _begun(self, child: Child) -> Started:
        """Return a run that was begun before. Raises UnknownRunError: there is none."""
        info = self._history.info(child.run_id)
        return go_on(self._history, child.run_id, again=info.ended > 0 and info.status != "succeeded")

    def _loaded(self, name: str) -> File:
        found = find(name, self._file.folder)
        if found is None:
            raise WorkflowNotFoundError([self._file.problem(msgspec_place(), f"there is no workflow {name!r} beside this file")])
        return load(found, types=steps.KINDS)


def msgspec_place() -> Any:
    from dagrid.workflow.problems import Place as Where

    return Where()


class _Running:
    """A sub-workflow under way, see `dagrid.workflow.context.Running`."""

    def __init__(self, child: Child, started: Started) -> None:
        self._child = child
        self._started = started

    def wait(self) -> ChildEnd:
        """Wait for its end."""
        started = self._started
        result = started.finish()
        context = started.context
        values = started.place.about.params
        failed = next((node for node in result.node_results.values() if node.error is not None and node.status == "failed"), None)
        return ChildEnd(
            context.name,
            self._child.run_id,
            result.status.value,
            " ".join(values),
            outputs_of(context.workflow, result),
            str(failed.error) if failed is not None else "",
        )

    def cancel(self) -> None:
        """Stop it."""
        self._started.run.cancel("the step that called it was stopped")


__all__ = ["HANDLER_KIND", "DagridError", "RunHeldError", "Started", "dry", "go_on", "outputs_of", "start"]
