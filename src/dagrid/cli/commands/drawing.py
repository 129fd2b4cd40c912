"""`dagrid graph`: what waits for what, as text, as Mermaid, as SVG, for Graphviz, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.workflows import given, is_graph, load_graph, load_workflow
from dagrid.errors import InvalidSettingError

if TYPE_CHECKING:
    from dagrid.graph.dag import DAG
    from dagrid.workflow import File


@command(
    "graph",
    click.Argument(["target"], type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=(
        "dagrid graph nightly.yaml",
        "dagrid graph flows.etl:nightly --format mermaid",
        "dagrid graph nightly.yaml --format svg --output nightly.svg",
    ),
)
def graph_command(call: Call, target: str, rest: tuple[str, ...]) -> None:
    """Draw a workflow in a file, or a graph of Python's as package.module:name."""
    if is_graph(target):
        dag, _ = load_graph(target, given(call, rest))
        if call.config["settings"]:
            from dagrid.config.graphs import tuned

            dag = tuned(dag, call.config["settings"]).dag
    else:
        dag = shape(load_workflow(call, target))
    text = drawn(dag, "json" if call.out.as_json else call.config["graph.format"], dag.name or target)
    output = call.config["graph.output"]
    if not output:
        call.out.write(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidSettingError(f"{output} cannot be written: {error.strerror}.") from error
    call.out.say(f"{output} is written")


def shape(file: File) -> DAG:
    """Return the steps of a workflow and what they wait for, as a graph that cannot run."""
    from dagrid.graph.dag import DAG
    from dagrid.graph.node import Node
    from dagrid.workflow import dependencies

    return DAG([Node(step, depends_on=before) for step, before in dependencies(file.main).items()], name=file.main.name)


def drawn(dag: DAG, form: str, title: str) -> str:
    """Return a graph in one of the forms of the settings."""
    if form == "mermaid":
        return dag.to_mermaid()
    if form == "dot":
        return dag.to_dot()
    if form == "json":
        return dag.to_json(indent=2) + "\n"
    if form == "svg":
        from dagrid.execution.report.sketch import svg

        return svg(dag.structure, title)
    return in_words(dag)


def in_words(dag: DAG) -> str:
    """Return the nodes by level, each with what it waits for."""
    levels = dag.topological_levels()
    figures = len(str(len(levels)))
    lines = []
    for number, level in enumerate(levels, 1):
        for at, name in enumerate(level):
            before = dag.predecessors(name)
            lead = str(number).rjust(figures) if at == 0 else " " * figures
            lines.append(f"{lead}  {name}" + (f"  <- {', '.join(before)}" if before else ""))
    return "\n".join(lines) + "\n" if lines else ""
