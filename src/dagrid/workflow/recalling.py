"""What the history is told of a workflow that is run, and how whoever goes on with the run has it again. It starts nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec

from dagrid.history import About, History
from dagrid.masking import masked
from dagrid.workflow import steps
from dagrid.workflow.context import Context
from dagrid.workflow.files import File
from dagrid.workflow.model import Workflow

if TYPE_CHECKING:
    from dagrid.workflow.checks import Inspect


def source_of(file: File) -> str:
    """Return where a workflow is found again, also from another folder."""
    path = os.path.join(file.folder, os.path.basename(file.name))
    return path if file.folder and os.path.isfile(path) else file.name


def file_of(about: About, inspect: Inspect | None = steps.check) -> File:
    """Return the workflow of a run as it was written when the run was begun, or put into its queue.

    Args:
        about: the run.
        inspect: what is asked of the types of steps.

    Raises:
        WorkflowError: this version of dagrid cannot read it.
    """
    from dagrid.workflow.loading import loads  # who starts a file may know it already

    file = loads(about.spec, name=about.source or about.name, exists=lambda _: True, types=steps.KINDS, inspect=inspect)
    file.folder = about.more.get("folder") or os.path.dirname(about.source)
    return file


def document_of(about: About) -> tuple[File, Workflow]:
    """Return the file of a run as it was when it was started, and the document that runs."""
    file = file_of(about, None)
    return file, msgspec.structs.replace(file.document(about.document), name=about.name)


def keep_values(history: History, context: Context) -> None:
    """Keep the values of parameters that may be others later, such as a date; one that holds a secret is found anew."""
    values = {}
    for number, param in enumerate(context.workflow.params.items, 1):
        name = param.name or str(number)
        if param.eval and param.value is not None and ("$" in param.value or "`" in param.value):
            value = context.variables[name]
            if masked(value, context.secrets) == value:
                values[name] = value
    if values:
        history.checkpoint.artifacts.put(f"{context.logs.run_id}/values", json.dumps(values).encode())


def kept_values(history: History, run_id: str) -> dict[str, str]:
    """Return those of the parameters of a run that `keep_values` has kept, by name."""
    data = history.checkpoint.artifacts.get(f"{run_id}/values")
    return json.loads(data) if data is not None else {}
