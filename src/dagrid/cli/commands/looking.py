"""`dagrid dry`: what a workflow would do with these parameters, without doing any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.output import plain
from dagrid.cli.workflows import given, load_workflow, warn
from dagrid.masking import masked

if TYPE_CHECKING:
    from dagrid.graph.dag import DAG
    from dagrid.workflow.context import Context
    from dagrid.workflow.model import Step


@command(
    "dry",
    click.Argument(["target"], type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=("dagrid dry nightly.yaml -- DAY=2026-01-31", "dagrid dry nightly --json"),
)
def dry_command(call: Call, target: str, rest: tuple[str, ...]) -> None:
    """Check a workflow with its parameters, and show what would run, and in which order. No step runs."""
    from dagrid.workflow.running import dry

    file = load_workflow(call, target)
    params = given(call, rest)
    warn(call, file, params)
    context, dag = dry(file, params, labels=dict(call.config["worker.labels"]))
    plan = planned(context, dag, call.config["name"] or file.main.name)
    if call.out.as_json:
        call.out.json(plan)
        return
    count = len(plan["steps"])
    call.out.line(f"{plan['name']}: {count} step{'' if count == 1 else 's'}")
    for name, value in plan["params"].items():
        call.out.line(f"  {name}={value}")
    call.out.table(
        ("LEVEL", "STEP", "TYPE", "WAITS FOR", "DOES"),
        [
            (str(step["level"]), step["name"], step["type"], ", ".join(step.get("depends", ())), step.get("does", ""))
            for step in plan["steps"]
        ],
    )
    for step in plan["handlers"]:
        call.out.line(f"{step['name']}: {step.get('does', '')}")


def planned(context: Context, dag: DAG, name: str) -> dict[str, Any]:
    """Return what would run: parameters, steps by level, handlers; secrets are masked."""
    level = {step: number for number, steps in enumerate(dag.topological_levels(), 1) for step in steps}
    steps, handlers = [], []
    for node in (dag.node(step) for step in dag):
        spec = node.arguments.args[0].step if node.arguments is not None else None
        said = plain(
            {
                "name": node.id,
                "type": spec.kind if spec is not None else "",
                "does": masked(_does(spec), context.secrets) if spec is not None else "",
                "depends": list(node.depends_on),
                "preconditions": [one.condition for one in spec.preconditions] if spec is not None else [],
            }
        )
        if node.handler is not None or node.kind == "handler":
            handlers.append(said)
        else:
            steps.append({**said, "level": level[node.id]})
    steps.sort(key=lambda step: step["level"])
    params = {
        param.name or str(number): context.given.get(param.name or str(number), "")
        or context.variables.get(param.name or str(number), "")
        for number, param in enumerate(context.workflow.params.items, 1)
    }
    known = {**params, **context.given}
    return {
        "name": name,
        "params": {key: masked(value, context.secrets) for key, value in known.items()},
        "steps": steps,
        "handlers": handlers,
    }


def _does(step: Step) -> str:
    """Return in a line what a step does, as it is written."""
    if step.call:
        return f"{step.call} for each item" if step.parallel is not None else step.call
    if step.python:
        return step.python
    if step.exec is not None:
        return " ".join((step.exec.command, *map(str, step.exec.args)))
    if step.command:
        return "; ".join(step.command)
    lines = [line for line in step.script.splitlines() if line.strip() and not line.startswith("#!")]
    return lines[0] + (" ..." if len(lines) > 1 else "") if lines else ""
