"""Which run, and which step of it, a text on the command line means; and what of both a shell completes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dagrid.cli.options import Complete, completing
from dagrid.cli.workflows import importable
from dagrid.errors import DagridError, InvalidSettingError, UnknownNodeError

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.history import RunInfo

MOST_COMPLETED = 50


def run_argument() -> click.Argument:
    """Return the argument that names a run; with `--run-id` it need not be there."""
    return click.Argument(["run"], required=False, shell_complete=completed_runs)


def step_argument(required: bool = False) -> click.Argument:
    """Return the argument that names a step of the run before it."""
    return click.Argument(["step"], required=required, shell_complete=completed_steps)


def chosen_step(call: Call, text: str | None, step: str | None) -> tuple[RunInfo, str | None]:
    """Return the run and the step that are meant; with `--run-id` the first of two words may be the step.

    Raises:
        UnknownRunError: there is no such run.
        InvalidSettingError: nobody says which.
    """
    if call.config["run_id"] and step is None:
        return chosen(call, None), text
    return chosen(call, text), step


def chosen(call: Call, text: str | None) -> RunInfo:
    """Return the run that is meant: by `--run-id`, or by a text as `History.find` takes it.

    Raises:
        UnknownRunError: there is none.
        InvalidSettingError: nobody says which.
    """
    said = call.config.value("run_id")
    if said.value:
        return call.history.find(said.value)
    if text is None:
        raise InvalidSettingError(
            f"Name the run: its id, the beginning of it, or a name, as in: dagrid {call.command} nightly"
        )
    return call.history.find(text)


def steps_of(call: Call, run_id: str) -> list[str]:
    """Return the names of the steps of a run that has begun, with those of its handlers. Raises DagridError: nobody knows."""
    from dagrid.execution.recording import read_head

    importable(call, call.history.about(run_id))
    return list(read_head(call.history.checkpoint, run_id)["dag"])


def check_step(known: Sequence[str], step: str, run_id: str) -> None:
    """Refuse a step that a run does not have.

    Raises:
        UnknownNodeError: with the nearest one.
    """
    if known and step not in known:
        raise UnknownNodeError.of(step, known, f"The run {run_id!r} has no step")


def _runs(call: Call, typed: str) -> list[tuple[str, str]]:
    runs = call.history.runs(limit=MOST_COMPLETED)
    ids = [(info.run, f"{info.name} {info.status}") for info in runs if info.run.startswith(typed)]
    return [*_names(call, typed), *ids]


def _names(call: Call, typed: str) -> list[tuple[str, str]]:
    names: dict[str, str] = {}
    for info in call.history.runs(limit=MOST_COMPLETED):
        names.setdefault(info.name, f"{info.status}, the newest of that name")
    return [(name, said) for name, said in names.items() if name.startswith(typed)]


def _steps(call: Call, typed: str) -> list[tuple[str, str]]:
    context = click.get_current_context()
    # Behind a flag whose value is still to come, click has not told arguments apart.
    run = context.params.get("run") or next(iter(context.args), None)
    try:
        return [(name, "") for name in steps_of(call, chosen(call, run).run) if name.startswith(typed)]
    except DagridError:
        return []


completed_runs: Complete = completing(_runs)
completed_names: Complete = completing(_names)
completed_steps: Complete = completing(_steps)
OF_A_RUN = {"run_id": completed_runs}
"""What completes the flag by which a command is told its run."""
