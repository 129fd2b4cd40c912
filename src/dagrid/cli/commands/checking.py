"""`dagrid validate` and `dagrid schema`: what a workflow may be, and what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.exits import Exit
from dagrid.cli.options import command
from dagrid.cli.workflows import load_workflow
from dagrid.errors import (
    InvalidSettingError,
    Problem,
    TransferError,
    WorkflowError,
    WorkflowNotFoundError,
    hint,
    nearest,
)
from dagrid.execution.gathering import Folder
from dagrid.workflow import File
from dagrid.workflow.model import place


@command(
    "validate",
    click.Argument(["files"], nargs=-1, required=True, type=click.Path()),
    examples=("dagrid validate nightly.yaml", "dagrid validate --json flows/*.yaml"),
)
def validate_command(call: Call, files: tuple[str, ...]) -> int:
    """Say all that is wrong with workflows, and what would be right, with file, line and column."""
    code = Exit.SUCCESS
    reports: list[dict[str, Any]] = []
    for name in files:
        report: dict[str, Any] = {"file": name, "valid": True, "problems": [], "warnings": []}
        try:
            found = load_workflow(call, name)
            warnings = (*found.warnings, *_absent(found))
            report["steps"] = len(found.main.steps)
        except WorkflowError as error:
            missing = isinstance(error, WorkflowNotFoundError)
            code = max(code, Exit.UNKNOWN if missing else Exit.USAGE)
            warnings = error.warnings
            report["valid"] = False
            report["problems"] = [one._asdict() for one in error.problems]
            if not call.out.as_json:
                for problem in error.problems:
                    call.out.line(str(problem))
        report["warnings"] = [one._asdict() for one in warnings]
        if call.out.as_json:
            reports.append(report)
            continue
        for warning in warnings:
            call.out.say(f"{warning} (warning)")
        if report["valid"]:
            steps = report["steps"]
            call.out.say(f"{name}: all is well: {steps} step{'' if steps == 1 else 's'}")
    if call.out.as_json:
        call.out.json(reports)
    return code


def _absent(file: File) -> Iterator[Problem]:
    """Yield what is named for workers and is not there: on a fleet, the run would be refused."""
    for workflow in (file.main, *file.locals.values()):
        for name in workflow.files:
            try:
                next(Folder(file.folder).named([name]), None)
            except (InvalidSettingError, TransferError) as error:
                yield file.problem(place(workflow, "files"), str(error))


@command(
    "schema",
    click.Argument(["kind"], required=False, default="dag", type=click.Choice(("dag", "config"))),
    click.Argument(["path"], required=False),
    examples=("dagrid schema > dagrid.schema.json", "dagrid schema dag steps.retryPolicy", "dagrid schema config"),
)
def schema_command(call: Call, kind: str, path: str | None) -> None:
    """Print the JSON schema of workflows (dag), or of config.yaml (config), for editors and for other programs.

    With a PATH, only what it says of that field, and of what that refers to.
    """
    if kind == "config":
        from dagrid.config.table import schema

        whole = schema()
    else:
        from dagrid.workflow import json_schema

        whole = json_schema()
    call.out.json(_with_definitions(_part(whole, path), whole) if path else whole)


def _part(whole: dict[str, Any], path: str) -> Any:
    at: Any = whole
    for name in path.split("."):
        known: dict[str, Any] = {}
        for part in _alternatives(at, whole, set()):
            known = {**part.get("properties", {}), **known}
        if name not in known:
            raise InvalidSettingError(
                f"The schema has no field {name!r} there.{hint(nearest(name, known))}"
                f"{' There are: ' + ', '.join(known) + '.' if known else ''}"
            )
        at = known[name]
    return at


def _with_definitions(part: Any, whole: dict[str, Any]) -> Any:
    """Return a part of a schema with the definitions that it refers to, and that these refer to, or it would say nothing."""
    found: dict[str, Any] = {}
    texts = [json.dumps(part)]
    while texts:
        for name in re.findall(r'"#/\$defs/([^"]+)"', texts.pop()):
            if name not in found:
                found[name] = whole["$defs"][name]
                texts.append(json.dumps(found[name]))
    return {**part, "$defs": dict(sorted(found.items()))} if found else part


def _alternatives(schema: Any, whole: dict[str, Any], seen: set[int]) -> list[dict[str, Any]]:
    """Return the mappings that a schema allows, also as the items of a list."""
    if not isinstance(schema, dict) or id(schema) in seen:
        return []
    seen.add(id(schema))
    found = [schema]
    if "$ref" in schema:
        at: Any = whole
        for part in schema["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        found += _alternatives(at, whole, seen)
    for key in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(key, ()):
            found += _alternatives(one, whole, seen)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += _alternatives(schema[key], whole, seen)
    return found
