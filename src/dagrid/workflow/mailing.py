"""Mails about a run, after its end, as the workflow asks for them: by `mailOn`, and by `mailOnError` of steps that failed."""

from __future__ import annotations

from dagrid.execution.results import ExecutionResult
from dagrid.workflow.context import Context


def send_mails(context: Context, result: ExecutionResult) -> None:
    """Send what is to be sent after a run; a mail that cannot be sent is said in the log of the run and changes nothing.

    Args:
        context: of the run.
        result: how it ended.
    """
