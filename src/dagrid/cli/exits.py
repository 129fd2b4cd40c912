"""What the exit codes of the command mean, and which error has which. It prints nothing."""

from __future__ import annotations

from enum import IntEnum

from dagrid.errors import (
    DagridError,
    InternalError,
    RunError,
    TaskError,
    TransferError,
    UnknownNodeError,
    UnknownRunError,
    WorkflowNotFoundError,
)


class Exit(IntEnum):
    """How the command ended; each has a sentence in `MEANINGS`."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 3
    WAITING = 4
    UNKNOWN = 5
    FAULT = 70


MEANINGS = {
    Exit.SUCCESS: "It is done; a run has succeeded, or its preconditions did not hold.",
    Exit.FAILED: "The run has failed, or succeeded only in part.",
    Exit.USAGE: "What was asked cannot be: an option, a setting, a workflow, a store, or the state of a run.",
    Exit.INTERRUPTED: "The run was stopped: by Ctrl-C, by `dagrid stop`, or by the system.",
    Exit.WAITING: "The run waits for a person: see `dagrid approve`.",
    Exit.UNKNOWN: "There is no such run, step or file.",
    Exit.FAULT: "dagrid itself has a fault; a report of it is in the home.",
}


def exit_of_status(status: str, stopped: bool = False) -> Exit:
    """Return the code of a run that has ended with a status, or waits.

    Args:
        status: a word, such as "succeeded".
        stopped: whether somebody has stopped the run here.
    """
    if stopped and status != "succeeded":
        return Exit.INTERRUPTED
    if status in ("succeeded", "aborted"):  # nobody aborted it: it found that it need not run
        return Exit.SUCCESS
    return Exit.WAITING if status == "waiting" else Exit.FAILED


def exit_of_error(error: BaseException) -> Exit:
    """Return the code of an error that ends the command."""
    if isinstance(error, InternalError):
        return Exit.FAULT
    if isinstance(error, (UnknownRunError, UnknownNodeError, WorkflowNotFoundError)):
        return Exit.UNKNOWN
    if isinstance(error, (RunError, TaskError)) and not isinstance(error, TransferError):
        return Exit.FAILED
    if isinstance(error, (DagridError, OSError)):  # among them that nothing runs, for the graph cannot be brought here
        return Exit.USAGE
    return Exit.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Exit.FAULT
