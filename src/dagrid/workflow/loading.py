"""Files and texts become checked workflows: the one room that opens files, and joins source, table and checks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from dagrid.errors import Problem, WorkflowNotFoundError, hint, nearest
from dagrid.workflow import checks
from dagrid.workflow.fields import WRONG
from dagrid.workflow.files import SUFFIXES, File, contents, find, meant
from dagrid.workflow.model import Workflow, place, said
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.schema import WORKFLOW
from dagrid.workflow.source import Mapping, Node, Scalar, read, shown


def load(
    path: str | os.PathLike[str],
    *,
    exists: Callable[[str], bool] | None = None,
    types: Collection[str] = (),
    inspect: checks.Inspect | None = None,
) -> File:
    """Read and check the workflows of a file.

    Args:
        path: the file; without its suffix too.
        exists: whether there is a workflow of that name; it is asked after the documents of the file and the files beside it.
        types: the types of steps that there are beside those of the format.
        inspect: knows what the types want of their steps: `dagrid.workflow.steps.check`.

    Raises:
        WorkflowNotFoundError: there is no such file, or it cannot be read.
        WorkflowError: all that is wrong with it.
    """
    found = meant(path)
    try:
        data = contents(found)
    except OSError as error:
        raise WorkflowNotFoundError([Problem(str(path), 0, 0, _why(error, Path(path)))]) from error
    problems = Problems(str(found))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        where = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        problems.add(where, f"byte 0x{data[error.start]:02X} is no UTF-8; save the file as UTF-8")
        problems.refuse()
        raise

    folder = found.absolute().parent

    def beside(name: str) -> bool:
        return find(name, folder) is not None or (exists is not None and exists(name))

    return _file(text, problems, found.stem, str(folder), beside, types, inspect)


def loads(
    text: str,
    *,
    name: str = "<text>",
    exists: Callable[[str], bool] | None = None,
    types: Collection[str] = (),
    inspect: checks.Inspect | None = None,
) -> File:
    """Read and check the workflows of a text.

    Args:
        text: YAML, one or more documents.
        name: what the text is called in messages; the name of a first document that has none.
        exists: whether there is a workflow of that name outside of the text; without it there is none.
        types: the types of steps that there are beside those of the format.
        inspect: knows what the types want of their steps: `dagrid.workflow.steps.check`.

    Raises:
        WorkflowError: all that is wrong with it.
    """
    return _file(text, Problems(name), Path(name).stem, "", exists, types, inspect)


def _why(error: OSError, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        try:
            near = nearest(path.name, [one.name for one in path.parent.iterdir() if one.suffix in SUFFIXES])
        except OSError:
            near = None
        return f"there is no such file.{hint(near)}"
    return f"the file cannot be read: {error.strerror or error}"


def _file(
    text: str,
    problems: Problems,
    stem: str,
    folder: str,
    exists: Callable[[str], bool] | None,
    types: Collection[str],
    inspect: checks.Inspect | None,
) -> File:
    documents = [node for node in read(text, problems) if not (type(node) is Scalar and node.value is None)]
    if not documents and not problems.found:
        problems.add(Place(1, 1), "the file is empty; a workflow needs `steps:` with a list of steps")
    workflows = [_workflow(node, problems) for node in documents]
    made = [one for one in workflows if one is not None]
    local = _locals(workflows, problems)
    for number, workflow in enumerate(made):
        if not workflow.name and number == 0:
            workflow.name = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_") or "workflow"
        checks.complete(workflow, problems)
    calls: dict[str, None] = {}

    def is_there(name: str) -> bool:
        calls[name] = None
        return exists is not None and exists(name)

    for workflow in made:
        checks.check(workflow, local.keys(), is_there, types, problems, inspect)
    checks.check_calls(local, problems)
    problems.refuse()
    return File(
        name=problems.file,
        folder=folder,
        text=text,
        main=made[0],
        locals=local,
        warnings=problems.sorted_warnings(),
        calls=tuple(calls),
    )


def _workflow(node: Node, problems: Problems) -> Workflow | None:
    if type(node) is not Mapping:
        problems.add(node, f"a workflow is a mapping with `steps:`, not {shown(node)}")
        return None
    read_workflow = WORKFLOW.read(node, "", problems)
    return None if read_workflow is WRONG else read_workflow


def _locals(workflows: list[Workflow | None], problems: Problems) -> dict[str, Workflow]:
    """Return the documents behind the first one by their names, which none of them shares with another."""
    found: dict[str, Workflow] = {}
    named = {one.name: one for one in workflows[:1] if one is not None and one.name}
    for workflow in workflows[1:]:
        if workflow is None:
            continue
        if not workflow.name:
            if not said(workflow, "name"):
                problems.add(
                    place(workflow),
                    "a document behind the first one needs a name, by which steps call it; write `name:`",
                )
        elif workflow.name in named:
            line = place(named[workflow.name], "name").line
            problems.add(
                place(workflow, "name"),
                f"there is a workflow {workflow.name!r} in line {line} already; give this one another name",
            )
        else:
            found[workflow.name] = named[workflow.name] = workflow
    return found
