"""`dagrid retry`, `dagrid approve` and `dagrid reject`: a run that is there goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.fleets import backend_of, fleet_of, left_alone, names_workers
from dagrid.cli.launching import OF_GRAPHS, left_to_coordinator, queued_anew, refuse_without_effect, start_like
from dagrid.cli.options import command
from dagrid.cli.running import Watched, finished, finished_graph, stoppable
from dagrid.cli.runs import (
    OF_A_RUN,
    check_step,
    chosen,
    chosen_step,
    completed_steps,
    run_argument,
    step_argument,
    steps_of,
)
from dagrid.cli.workflows import importable
from dagrid.errors import InvalidSettingError, RunHeldError, RunStateError, TransferError
from dagrid.history import INTERRUPTED, QUEUED, SUCCEEDED, WAITING
from dagrid.history.bells import RESUME, RETRY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrid.execution.run import Run
    from dagrid.history import RunInfo
    from dagrid.workflow.context import Question


@command(
    "retry",
    run_argument(),
    examples=("dagrid retry nightly", "dagrid retry nightly --from load", "dagrid retry -r 0190b6c8"),
    completes={**OF_A_RUN, "step": completed_steps},
)
def retry_command(call: Call, run: str | None) -> int:
    """Go on with a run that failed, was stopped or was interrupted: what completed stays, all else runs.

    With --from a step and all behind it run anew as well, also in a run that has succeeded. RUN is an id, the beginning of
    one, or a name for its newest run.
    """
    info = chosen(call, run)
    roots = call.config["step"]
    history = call.history
    if info.status in ("running", QUEUED):
        history.reopen(
            info.run, take_over=call.config["take_over"]
        ).close()  # or it says who performs it, or when it begins
    if info.status == SUCCEEDED and not roots:
        raise RunStateError(
            f"Run {info.run!r} has succeeded, so there is nothing to go on with. Name a step with --from, or restart it.",
            info.status,
        )
    if not history.has_begun(info.run):
        # Nothing has run, so it begins with what is known of it.
        about = history.about(info.run)
        if left_alone(call, about) and history.is_served:
            return left_to_coordinator(call, history.requeue(info.run, queued_anew(call, info.name, about)))
        return start_like(call, about, about.given, run_id=info.run, name=info.name, again=True)
    for step in roots:
        check_step(steps_of(call, info.run), step, info.run)
    again = info.status != WAITING or bool(roots)  # what waits is asked on, but for what runs anew
    if left_alone(call, history.about(info.run)):
        if history.tell(RETRY, info.run, roots):
            return left_to_coordinator(call, info.run)
        _refuse_beside_workers(call, info)
    _refuse_beside_borrowed(call, info)
    if history.about(info.run).kind == "graph":
        return _go_on_with_graph(call, info, again=again, roots=roots)
    return _go_on(call, info, again=again, roots=roots)


def _refuse_beside_workers(call: Call, info: RunInfo) -> None:
    """Refuse to go on here with what workers may still perform, of which only the coordinator can hear.

    Raises:
        RunHeldError: a coordinator had the run, is away, and nobody has said that it is to be taken over.
    """
    if info.status == INTERRUPTED and not call.config["take_over"]:
        raise RunHeldError(
            f"The coordinator of {call.config.home} that performed run {info.run!r} is gone, and its workers may go on with the "
            f"steps. Start a coordinator of that home, which goes on with the run by itself, or take it over: --take-over."
        )


def _refuse_beside_borrowed(call: Call, info: RunInfo) -> None:
    """Refuse to perform here what workers may still perform that the run had borrowed.

    Raises:
        RunHeldError: a step was with one of them, no coordinator is named, and nobody has said that the run is to be taken over.
    """
    history = call.history
    about = history.about(info.run)
    if info.status != INTERRUPTED or call.config["take_over"] or names_workers(call, about):
        return
    from dagrid.assemble import view

    importable(call, about)
    for one in (info, *history.children(info.run)):
        if one.status != INTERRUPTED or not history.has_begun(one.run):
            continue
        for step, worker in view(history.checkpoint, one.run).elsewhere().items():
            raise RunHeldError(
                f"Step {step!r} of run {one.run!r} was with worker {worker!r} of a coordinator when the process of the run "
                f"ended, and may go on there. Name that coordinator, --coordinator.host, or take the run over: --take-over."
            )


@command(
    "perform",
    click.Argument(["run"]),
    click.Option(["--again"], is_flag=True),
    click.Option(["--from", "roots"], multiple=True),
    examples=("dagrid perform 0190b6c8",),
)
def perform_command(call: Call, run: str, again: bool, roots: tuple[str, ...]) -> int:
    """Perform a run of a graph of Python's for the coordinator of the home, which calls this and has the run again if it is not
    ended here. It waits in a queue, or has been begun; with --again what failed in it runs as well, and with --from a node and
    all behind it.
    """
    history = call.history
    if history.has_begun(run):
        return _go_on_with_graph(call, history.info(run), again=again, roots=roots, served=True)
    about = history.about(run)
    return start_like(call, about, about.given, run_id=run, name=about.name, served=True)


@command(
    "approve",
    run_argument(),
    step_argument(),
    examples=("dagrid approve nightly", "dagrid approve nightly check --input TICKET=OPS-7"),
    completes=OF_A_RUN,
)
def approve_command(call: Call, run: str | None, step: str | None) -> int:
    """Let a run go on that waits for a person, and wait for its end. STEP need not be named where only one waits.

    Where a run is asked that others have called, that one is answered, and the first of those goes on.
    """
    question = _asked(call, *chosen_step(call, run, step))
    return _answer(call, question.run, signals={question.step: dict(call.config["input"])})


@command(
    "reject",
    run_argument(),
    step_argument(),
    examples=('dagrid reject nightly check --reason "the figures are wrong"',),
    completes=OF_A_RUN,
)
def reject_command(call: Call, run: str | None, step: str | None) -> int:
    """Refuse what a run waits for: the step has failed, and the run ends as its workflow says."""
    question = _asked(call, *chosen_step(call, run, step))
    return _answer(call, question.run, rejects={question.step: call.config["reason"] or "rejected"})


def _answer(call: Call, run: str, **said: Any) -> int:
    """Say to a run what it waits for, and go on with the one that waits for that."""
    from dagrid.workflow.running import answer

    history, take_over = call.history, call.config["take_over"]
    whole = history.outermost(run)
    try:
        about = history.about(whole.run)
        if about.kind == "graph" and left_alone(call, about):
            return _answer_graph(call, whole, **said)
        if about.kind == "graph":
            return _go_on_with_graph(call, whole, **said)
        left = left_alone(call, about) or (about.served and whole.run != run)
        if whole.run == run and not left:
            return _go_on(call, whole, **said)
        answer(history, run, take_over=take_over, **said)
        return left_to_coordinator(call, whole.run) if left else _go_on(call, whole)
    except RunHeldError as error:
        raise RunHeldError(
            f"{error} Other steps of the run are still at work; answer when they have ended.", error.pid, error.host
        ) from error


def _go_on(call: Call, info: RunInfo, **how: Any) -> int:
    """Go on with a run of a workflow, and return the exit code. Raises InvalidSettingError: a backend is named."""
    refuse_without_effect(call, OF_GRAPHS)
    from dagrid.workflow.running import go_on

    watched = Watched(call, info.name, lambda: len(steps_of(call, info.run)))
    with stoppable() as held:
        started = go_on(
            call.history,
            info.run,
            take_over=call.config["take_over"],
            observers=watched.observers,
            fleet=fleet_of(call),
            **how,
        )
        watched.at(started.place)
        return finished(call, started, held)


def _go_on_with_graph(
    call: Call,
    info: RunInfo,
    *,
    again: bool = False,
    roots: tuple[str, ...] = (),
    served: bool | None = None,
    signals: Mapping[str, Mapping[str, str]] | None = None,
    rejects: Mapping[str, str] | None = None,
) -> int:
    """Go on with a run of a graph of Python's, and return the exit code; what is said to a node that waits is its value."""
    from dagrid.assemble import restart
    from dagrid.observe.log import RunLog

    history = call.history
    importable(call, history.about(info.run))
    watched = Watched(call, info.name, lambda: len(steps_of(call, info.run)))
    take_over = call.config["take_over"]
    with stoppable() as held, history.reopen(info.run, take_over=take_over, served=served) as place:
        watched.at(place)
        run = restart(
            history.checkpoint,
            info.run,
            backend=backend_of(call),
            again=again and history.is_worth_another_try(info.run, roots),
            roots=roots,
            cancelled=place.about.stopping,
            progress=False,
            observers=[RunLog(place.log), *watched.observers],
        )
        _say(run, signals, rejects)
        return finished_graph(call, run, info.run, info.name, held)


def _answer_graph(call: Call, info: RunInfo, **said: Any) -> int:
    """Say to a graph of Python's what it waits for, leave what follows to the coordinator that performs it, and return the exit
    code.
    """
    from dagrid.assemble import restart
    from dagrid.observe.log import RunLog
    from dagrid.workflow.absent import ABSENT

    history = call.history
    importable(call, history.about(info.run))
    with history.reopen(info.run, take_over=call.config["take_over"], served=True) as place:
        run = restart(
            history.checkpoint,
            info.run,
            backend=ABSENT,
            cancelled=place.about.stopping,
            progress=False,
            observers=[RunLog(place.log)],
        )
        _say(run, **said)
        if run.done:  # nothing followed
            run.wait()
        else:
            run.let_go()
            run.close()
    history.tell(RESUME, info.run)
    return left_to_coordinator(call, info.run)


def _say(
    run: Run, signals: Mapping[str, Mapping[str, str]] | None = None, rejects: Mapping[str, str] | None = None
) -> None:
    """Say to nodes what they wait for."""
    for node, value in (signals or {}).items():
        run.signal(node, dict(value))
    for node, reason in (rejects or {}).items():
        run.reject(node, reason)


def _asked(call: Call, info: RunInfo, step: str | None) -> Question:
    """Return what a run asks a person, or what the step does that is named."""
    from dagrid.assemble import view
    from dagrid.workflow.answers import questions

    if not call.history.has_begun(info.run):
        raise RunStateError(f"Run {info.run!r} waits for no person: it is {info.status}.", info.status)
    importable(call, call.history.about(info.run))
    try:
        asked = list(questions(view(call.history.checkpoint, info.run), info.run))
    except TransferError:
        asked = []
    if step is not None:
        check_step(steps_of(call, info.run), step, info.run)
        asked = [(name, question) for name, question in asked if name == step]
        if not asked:
            raise RunStateError(f"Step {step!r} of run {info.run!r} does not wait for a person.", info.status)
    if not asked:
        raise RunStateError(f"No step of run {info.run!r} waits for a person: the run is {info.status}.", info.status)
    if len(asked) > 1:
        listed = ", ".join(one.step if one.run == info.run else f"{one.step} of run {one.run}" for _, one in asked)
        raise InvalidSettingError(f"These steps wait: {listed}. Name one of them.")
    return asked[0][1]
