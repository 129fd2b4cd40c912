"""Which names the texts of a step use: of variables, and of steps whose files and exit codes it reads; no value is known here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import msgspec

from dagrid.workflow.expressions import parse
from dagrid.workflow.model import Step, Workflow

EXPANDED = (
    "command",
    "args",
    "script",
    "exec",
    "env",
    "preconditions",
    "repeat_policy",
    "retry_policy",
    "executor",
    "params",
    "parallel",
    "call",
    "shell",
    "working_dir",
    "stdout",
    "stderr",
    "output",
    "outputs",
    "container",
    "approval",
    "signal_on_stop",
)
"""The fields of a step whose texts are expanded."""
_expanded = attrgetter(*EXPANDED)
_UNSAID = _expanded(Step())

OF_ITS_FILES = "DAG_RUN_STEP_STD"
"""How the names of the variables begin that say where the files of a step's own output are."""
_OF_A_STEP = re.compile(r"\$\{[A-Za-z]\w*\.(?:stdout|stderr|exitCode|exit_code|output)\b", re.ASCII)
_WORD = re.compile(r"\w+")
_NOT_EXPANDED = frozenset({"places", "name", "type", "source", "decode"})


def texts(step: Step) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for every text of a step in which there may be `$NAME`s or backticks."""
    for field, value, unsaid in zip(EXPANDED, _expanded(step), _UNSAID, strict=True):
        if value is not unsaid and value != unsaid:
            for text in _strings(value):
                if "$" in text or "`" in text:
                    yield field, text


def names(step: Step) -> frozenset[str]:
    """Return all names that the texts of a step use, of variables and of steps."""
    found: set[str] = set()
    for _, text in texts(step):
        found |= parse(text).names()
    return frozenset(found)


def words(step: Step) -> frozenset[str]:
    """Return all words in the texts of a step: whichever variables its programs read, they are among these."""
    return frozenset(
        word for field in EXPANDED for text in _strings(getattr(step, field)) for word in _WORD.findall(text)
    )


def step_references(step: Step, workflow: Workflow) -> tuple[tuple[str, str], ...]:
    """Return (name of a step, field) for all that a step asks of others by their ids: `stdout`, `stderr`, `exitCode`, `output`.

    The first two are files, which must be brought to where the step runs.
    """
    by_id = {one.id: one.name for one in workflow.steps if one.id}
    return (
        tuple((by_id[asked_id], field) for _, asked_id, field in asked(texts(step)) if asked_id in by_id)
        if by_id
        else ()
    )


def asked(said: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (field, id, what is asked) of the `texts` of a step, each once; an id that no step has may be a variable."""
    seen = set()
    for field, text in said:
        if not _OF_A_STEP.search(text):
            continue
        for asked_id, what in sorted(parse(text).step_references()):
            if (asked_id, what) not in seen:
                seen.add((asked_id, what))
                yield field, asked_id, what


def variables(workflow: Workflow) -> frozenset[str]:
    """Return the names that the file gives values to: by env, params, secrets, outputs and approvals."""
    found = {one.name for one in workflow.env} | {one.name for one in workflow.secrets}
    found.update(one.name for one in workflow.params.items)
    for step in workflow.steps:
        found.update(one.name for one in step.env)
        found.update(one.name for one in (*step.output, *step.outputs))
        if step.approval is not None:
            found.update(step.approval.input)
    return frozenset(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            one = getattr(value, field)
            if one and field not in _NOT_EXPANDED:
                yield from _strings(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _strings(one)
