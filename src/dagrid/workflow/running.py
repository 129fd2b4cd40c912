"""Workflows run: a file and a history become a run, or a run that is there goes on, with all that belongs to it.

It joins what the other rooms make: the context, the graph, the place in the history, the engine. It decides nothing about steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from dagrid.assemble import restart, view
from dagrid.assemble import start as start_graph
from dagrid.errors import DagridError, RunStateError, UnknownRunError, WorkflowError, WorkflowNotFoundError
from dagrid.execution.backends.command import CommandBackend
from dagrid.execution.backends.inline import InlineBackend
from dagrid.execution.results import ExecutionResult
from dagrid.execution.run import Run
from dagrid.graph.dag import DAG
from dagrid.history import INTERRUPTED, SUCCEEDED, About, History, RunInfo
from dagrid.history import Place as Held
from dagrid.history.bells import RESUME
from dagrid.masking import masked
from dagrid.observe.log import RunLog
from dagrid.ports import Backend, Observer, Onlooker
from dagrid.workflow import compiled, steps
from dagrid.workflow.absent import ABSENT
from dagrid.workflow.answers import check, questions, tell
from dagrid.workflow.context import CURRENT, Child, ChildEnd, Context, Selector, StepEnd
from dagrid.workflow.files import File, find
from dagrid.workflow.lowering import lower
from dagrid.workflow.mailing import send_mails, send_waiting_mail
from dagrid.workflow.model import Workflow
from dagrid.workflow.model import place as place_of
from dagrid.workflow.problems import Place
from dagrid.workflow.recalling import document_of, keep_values, kept_values, source_of
from dagrid.workflow.surroundings import NOWHERE, logs_folder, surround, unmet
from dagrid.workflow.tracing import NOBODY, Above, trace_of, traces_of
from dagrid.workflow.warm import server_of

if TYPE_CHECKING:
    from dagrid.observe.otel import Traces

MOST_ATTEMPTS = 100_000
PROCESSES = 256
"""How many processes of a run are there at once, where the workflow does not say."""

Readers = Sequence[Observer | Onlooker]


class Fleet(Protocol):
    """Workers that perform steps of workflows, with all that a run needs there."""

    def place(self, context: Context, about: About) -> Backend:
        """Return what performs the steps of a run, for its place `command`; who asked closes it."""
        ...

    def began(self, started: Started) -> None:
        """Hear of a run that another one has called."""
        ...


class Started(msgspec.Struct):
    """A run of a workflow that is under way.

    Attributes:
        run: the handle on it.
        history: where all runs are kept.
        place: where this one is.
        context: what its steps share.
    """

    run: Run
    history: History
    place: Held
    context: Context
    _closing: ExitStack = msgspec.field(default_factory=ExitStack)
    _ended: bool = False

    @property
    def names(self) -> list[str]:
        """The steps, in the order of the file, without the handlers."""
        return [step.name for step in self.context.workflow.steps]

    def finish(self, tidy: bool = True) -> ExecutionResult:
        """Wait for the end, send the mails that are asked for, let go of the run, and return its result.

        Args:
            tidy: whether old runs of the workflow are forgotten too; see `tidy`.
        """
        try:
            result = self.run.wait()
            if not self._ended:
                self._ended = True
                send_mails(self.context, result)
                if tidy:
                    try:
                        self.tidy()
                    except (DagridError, OSError) as error:  # the run has ended as it has
                        self.context.note(f"old runs are still there: {error}")
                self._remove_container()
            return result
        finally:
            self.close()

    def tidy(self) -> None:
        """Forget runs of the workflow that are older, or more, than it keeps; those that other runs called go with these."""
        workflow = self.context.workflow
        if self.place.about.parent:
            return
        if workflow.hist_retention_runs:
            self.history.cleanup(keep=workflow.hist_retention_runs, name=workflow.name)
        elif workflow.hist_retention_days:
            self.history.cleanup(days=workflow.hist_retention_days, name=workflow.name)

    def _remove_container(self) -> None:
        if self.context.workflow.container is not None:
            from dagrid.workflow.steps.docker import remove  # few workflows have a container

            wrong = remove(self.context)
            if wrong:
                self.context.note(wrong)

    def detach(self) -> None:
        """Let go of a run that waits for a person, who gets a mail if one is asked for; `go_on` takes it up."""
        send_waiting_mail(self.context, {name: self.run.held(name)[0] for name in self.run.waiting})
        self.run.detach()
        self.close()

    def let_go(self) -> None:
        """Do nothing more for the run here, whatever is under way; `go_on` takes it up."""
        self.run.let_go()
        self.run.close()
        self.close()

    def close(self) -> None:
        """Let go of the run; one that has not ended goes on with `go_on`. May be called twice."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(
    file: File,
    params: Sequence[str] = (),
    *,
    history: History,
    run_id: str | None = None,
    name: str | None = None,
    document: str = "",
    labels: Mapping[str, str] | None = None,
    resources: Mapping[str, float] | None = None,
    observers: Readers = (),
    trigger: str = "manual",
    again: bool = False,
    queued: About | None = None,
    parent: str = "",
    root: str = "",
    root_name: str = "",
    selector: Selector | None = None,
    above: Above = NOBODY,
    fleet: Fleet | None = None,
) -> Started:
    """Start a run of a workflow.

    Args:
        file: what was loaded.
        params: `NAME=value`, or values by position.
        history: where it is kept.
        run_id: what it is called; by default a new id. One that waits in a queue is taken out of it.
        name: what the workflow is called in the history; by default its own name.
        document: the name of another document of the file than the first.
        labels: those of this machine, which selectors must match.
        resources: the capacity of what steps ask for with `resources`; `cpu` is the number of cores if nothing is said.
        observers: readers of the run.
        trigger: what started it, for the history.
        again: take up a run that ended before it began, see `History.begin`.
        queued: what is kept of a run that waits in a queue, if the caller has read it.
        parent, root: the ids of the runs that called this one, and that began it all.
        root_name: what that one is called.
        selector: the labels that the step which called this run wants of its workers.
        above: what the run that called this one says of traces and secrets.
        fleet: performs the steps; else this machine does.

    Raises:
        WorkflowError, ParameterError: the workflow cannot run with these parameters, or here; nothing has run.
        DuplicateRunError: there is a run of that id.
    """
    chosen = file.document(document)
    check_edits(file, chosen, params, "" if parent else run_id, history.knows)
    if name is not None and name != chosen.name:
        chosen = msgspec.structs.replace(chosen, name=name)
    kept = tuple([masked(one, above.secrets) for one in params])
    about = About(
        name=chosen.name,
        source=source_of(file),
        spec=file.text,
        params=kept,
        masked=kept != tuple(params),
        parent=parent,
        root=root,
        trigger=trigger,
        more={
            "document": document,
            "folder": file.folder,
            "labels": dict(labels or {}),
            "trace": trace_of(chosen, above),
            **({"resources": dict(resources)} if resources else {}),
            **({"root_name": root_name} if root_name else {}),
            **({"selector": selector} if selector else {}),
        },
    )
    with ExitStack() as closing:
        place = closing.enter_context(
            history.begin(
                chosen.name,
                about,
                run_id,
                logs_folder(file, chosen, params, above.secrets),
                again=again,
                queued=queued,
            )
        )
        try:
            context, readers = _context(history, place, file, chosen, params, above, fleet)
            keep_values(history, context)
            cancelled = place.about.stopping or _refused(context)
            first = chosen.steps[0].kind if chosen.steps and not cancelled else ""
            places = _performing(closing, context, place, fleet, first)
            dag = lower(context, fleet is not None)
            compiled.keep(file)
            run = _in(
                context,
                start_graph,
                dag,
                resources=_capacities(dag, resources),
                timeout=chosen.timeout_sec or None,
                cancelled=cancelled,
                run_id=place.run_id,
                epoch=place.epoch,
                checkpoint=history.checkpoint,
                **_settings([*readers, *observers], places),
            )
        except BaseException as error:
            history.discard(place, masked(str(error), above.secrets))  # nothing has run
            raise
        return Started(run, history, place, context, closing.pop_all())


def go_on(
    history: History,
    run_id: str,
    *,
    params: Sequence[str] | None = None,
    again: bool = False,
    roots: Collection[str] = (),
    signals: Mapping[str, Mapping[str, str]] | None = None,
    rejects: Mapping[str, str] | None = None,
    observers: Readers = (),
    take_over: bool = False,
    above: Above = NOBODY,
    fleet: Fleet | None = None,
) -> Started:
    """Go on with a run that was interrupted, waits for a person, or has ended.

    Args:
        history: where it is kept.
        run_id: which run.
        params: those that it was given, of which the history may have masked some.
        again: take up a run that has ended: what did not complete runs again, unless it has succeeded.
        roots: these steps and all behind them run again as well.
        signals: for steps that wait for a person: approved, with what the person entered.
        rejects: for others: refused, and why.
        observers: readers of the run.
        take_over: also if another machine seems to perform it.
        above: what the run that called this one says of traces and secrets.
        fleet: performs the steps; else this machine does.

    Raises:
        UnknownRunError: there is no such run, or it is none of a workflow.
        RunHeldError: another process performs it.
        RunStateError: secrets were among its parameters, and these are not given; or a step does not wait for a person, and the
            run waits on.
        UnknownNodeError: there is no step to which something is said.
        InvalidSettingError: it was not told all that it asks for; the run waits on.
    """
    with ExitStack() as closing:
        served = history.about(run_id).served if fleet is ABSENT else None
        place = closing.enter_context(history.reopen(run_id, take_over=take_over, served=served))
        about = place.about
        if about.kind != "workflow":
            raise UnknownRunError(
                f"The run {run_id!r} is one of a Python graph: go on with it in Python, by dagrid.resume.", run_id
            )
        again = again and history.is_worth_another_try(run_id, roots)
        given = about.given if params is None else params
        file, workflow = document_of(about)
        if signals or rejects:
            check(view(history.checkpoint, run_id), run_id, workflow, signals or {}, rejects or {})
        kept = kept_values(history, run_id)
        context, readers = _context(history, place, file, workflow, given, above, fleet, kept, again)
        cancelled = about.stopping
        if (
            again
            and workflow.preconditions
            and not cancelled
            and not _has_begun(view(history.checkpoint, run_id), workflow)
        ):
            cancelled = _refused(context)
        run = _in(
            context,
            restart,
            history.checkpoint,
            run_id,
            again=again,
            roots=roots,
            cancelled=cancelled,
            **_settings([*readers, *observers], _performing(closing, context, place, fleet)),
        )
        tell(run, signals or {}, rejects or {}, context.secrets)
        return Started(run, history, place, context, closing.pop_all())


def _refused(context: Context) -> str:
    """Return why a run shall not begin; nothing if it shall."""
    reason = unmet(context)
    return f"a precondition does not hold: {reason}" if reason else ""


def _has_begun(run: Run, workflow: Workflow) -> bool:
    """Return whether any step of a run has begun, so that its preconditions have held."""
    return any(run.node_result(step.name, value=False).attempts for step in workflow.steps)


def answer(
    history: History,
    run_id: str,
    *,
    signals: Mapping[str, Mapping[str, str]] | None = None,
    rejects: Mapping[str, str] | None = None,
    take_over: bool = False,
) -> RunInfo:
    """Answer steps of a run that wait for a person, and leave all that follows to who serves the home, or to the caller.

    Takes what `go_on` takes, and raises as it does.

    Returns:
        The run to go on with: that one, or the first of those that have called it and wait for it.
    """
    whole = history.outermost(run_id)
    served = history.about(whole.run).served
    if whole.run != run_id:
        history.reopen(whole.run, take_over=take_over, served=served).close()  # or it says who performs it
    params = history.about(run_id).params  # as they are kept: no step runs here that would read a secret in them
    said: dict[str, Any] = {"signals": signals, "rejects": rejects, "take_over": take_over}
    try:
        started = go_on(history, run_id, params=params, fleet=ABSENT, **said)
    except RunStateError as error:
        if whole.run == run_id:
            raise
        raise RunStateError(
            f"{error} If it has been answered, go on with the run that waits for that: dagrid retry {whole.run}",
            error.status,
        ) from None
    if started.run.done:  # nothing followed
        started.finish()
    else:
        started.let_go()
    if served:
        history.tell(RESUME, whole.run)
    return whole


def dry(file: File, params: Sequence[str] = (), *, labels: Mapping[str, str] | None = None) -> tuple[Context, DAG]:
    """Return the context and the graph that a run would have; nothing is kept, and no step runs.

    Raises:
        WorkflowError, ParameterError: the workflow cannot run with these parameters, or here.
    """
    context = surround(file, file.main, NOWHERE, params, labels=labels)
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


def _context(
    history: History,
    place: Held,
    file: File,
    workflow: Workflow,
    params: Sequence[str],
    above: Above,
    fleet: Fleet | None,
    fixed: Mapping[str, str] | None = None,
    again: bool = False,
) -> tuple[Context, Readers]:
    """Return the context of a run and the readers that it wants."""
    about = place.about
    children = _Children(history, file, place, fleet, again)
    context = surround(
        file,
        workflow,
        place,
        params,
        fixed=fixed,
        labels=about.more.get("labels", {}),
        start_child=children.start,
        selector=about.more.get("selector"),
        mask=above.secrets,
        at_home=above.at_home,
    )
    children.secrets, children.at_home = context.secrets, context.at_home
    log = RunLog(context.logs.log, context.secrets)
    context.note = log.note
    told = {"dagrid.trigger": about.trigger, **({"dagrid.parent": about.parent} if about.parent else {})}
    children.traces = traces_of(context, about.more.get("trace", ""), above, told)
    return context, [log] if children.traces is None else [log, children.traces]


def check_edits(
    file: File,
    workflow: Workflow,
    params: Sequence[str],
    run_id: str | None,
    knows: Callable[[str], bool] = lambda _: False,
) -> None:
    """Refuse what the workflow does not let those change who start it, now or later.

    Args:
        file: where the workflow stands.
        workflow: the document that is to run.
        params, run_id: as they were given.
        knows: returns whether there is such a run already, so that nobody chooses its id now.

    Raises:
        WorkflowError: one of them was given, and may not be.
    """
    said = workflow.run_config
    has_chosen = said.disable_run_id_edit and run_id and not knows(run_id)
    for wrong, setting, what in (
        (said.disable_param_edit and params, "disable_param_edit", "its parameters may not be given"),
        (has_chosen, "disable_run_id_edit", "the id of a run may not be chosen"),
    ):
        if wrong:
            raise WorkflowError(
                [file.problem(place_of(said, setting), f"{workflow.name!r} is started as it is: {what}")]
            )


def _in(context: Context, start: Any, *args: Any, **settings: Any) -> Run:
    """Start a run whose steps find their context."""
    surroundings = copy_context()
    surroundings.run(CURRENT.set, context)
    run: Run = surroundings.run(lambda: start(*args, **settings))
    return run


def _performing(
    closing: ExitStack, context: Context, place: Held, fleet: Fleet | None, first: str = ""
) -> dict[str, Backend]:
    """Return what performs the steps. A Python process that one of the type `first` needs starts while the graph is made."""
    here = CommandBackend(MOST_ATTEMPTS, context.workflow.max_active_steps or PROCESSES)
    if fleet is None:
        if first in steps.WARM:
            closing.callback(here.forget_prepared)
            here.prepare(server_of(context), context.secrets)
        return {"command": here}
    workers = fleet.place(context, place.about)
    closing.callback(workers.close, wait=False)
    return {"command": workers, "here": workers if fleet is ABSENT else here}


def _settings(observers: Readers, places: Mapping[str, Backend]) -> dict[str, Any]:
    return {
        "backend": InlineBackend(),  # by its name it would be looked for among the entry points of all packages
        "places": places,
        "progress": False,
        "cache": False,
        "observers": observers,
    }


def _capacities(dag: DAG, said: Mapping[str, float] | None) -> dict[str, float]:
    """Return the capacity of what steps ask for: what nobody gives one there is once, as a lock is."""
    asked = {resource for name in dag for resource in dag.node(name).resources}
    if not asked:
        return {}
    cores = float(os.cpu_count() or 1)
    known = {**dict.fromkeys(("cpu", "cpus", "cores"), cores), **(said or {})}
    return {resource: known.get(resource, 1.0) for resource in asked}


class _Children:
    """Starts the workflows that the steps of a run call, and goes on with those that an earlier process had begun.

    Args:
        again: whether somebody asked for the run once more, and so for those of them that were interrupted with it.
    """

    def __init__(self, history: History, file: File, place: Held, fleet: Fleet | None, again: bool) -> None:
        self._fleet = fleet
        self._again = again
        self._history = history
        self._file = file
        self._place = place
        self.traces: Traces | None = None
        self.secrets: tuple[str, ...] = ()
        self.at_home: tuple[str, ...] = ()

    def start(self, child: Child) -> _Running:
        """Start one, see `dagrid.workflow.context.StartChild`."""
        store = self._history.checkpoint.store
        known = next(iter(store.runs(ids={child.run_id})), None)
        if known is not None and not known.facts:
            store.delete(child.run_id)  # its process was killed when it had only just given the name
        if known is None or not known.facts:
            return self._begun(child, self._new(child))
        info = self._history.info(child.run_id)
        # One that has succeeded gives its result, or has ended while the step waited for that; any other is taken up again.
        has_failed = info.ended > 0 and info.status != SUCCEEDED
        again = not child.waited and (has_failed or (self._again and info.status == INTERRUPTED))
        above = self._above(child)
        started = go_on(self._history, child.run_id, params=child.params, again=again, above=above, fleet=self._fleet)
        return self._begun(child, started)

    def _begun(self, child: Child, started: Started) -> _Running:
        if self._fleet is not None:
            self._fleet.began(started)
        return _Running(child, started)

    def _new(self, child: Child) -> Started:
        about = self._place.about
        is_local = child.call in self._file.locals
        return start(
            self._file if is_local else self._loaded(child.call),
            child.params,
            history=self._history,
            run_id=child.run_id,
            document=child.call if is_local else "",
            labels=about.more["labels"],
            resources=about.more.get("resources"),
            trigger="call",
            parent=self._place.run_id,
            root=about.root or self._place.run_id,
            root_name=about.more.get("root_name", about.name),
            selector=child.selector,
            above=self._above(child),
            fleet=self._fleet,
        )

    def _above(self, child: Child) -> Above:
        return Above(child.traceparent, self.traces, self.secrets, self.at_home)

    def _loaded(self, name: str) -> File:
        found = find(name, self._file.folder)
        if found is None:
            raise WorkflowNotFoundError(
                [self._file.problem(Place(), f"there is no workflow {name!r}, neither in this file nor beside it")]
            )
        return compiled.load(found, self._history.home)


class _Running:
    """A sub-workflow under way, see `dagrid.workflow.context.Running`."""

    def __init__(self, child: Child, started: Started) -> None:
        self._child = child
        self._started = started

    def wait(self) -> ChildEnd:
        """See there."""
        started = self._started
        context, params = started.context, " ".join(started.place.about.params)
        if not started.run.settle():
            asked = tuple([question for _, question in questions(started.run, self._child.run_id)])
            started.detach()
            return ChildEnd(context.name, self._child.run_id, "waiting", params, questions=asked)
        result = started.finish()
        return ChildEnd(
            context.name,
            self._child.run_id,
            result.status.value,
            params,
            outputs_of(context.workflow, result),
            _why(result),
        )

    def cancel(self) -> None:
        """Stop it, the second time with its handlers."""
        self._started.run.cancel("the step that called it was stopped")


def _why(result: ExecutionResult) -> str:
    """Return in words why a run did not succeed, empty if it did."""
    try:
        result.raise_for_status()
    except Exception as error:  # noqa: BLE001  # of any step, or of the run itself
        return getattr(error, "reason", "") or str(error)
    return ""
