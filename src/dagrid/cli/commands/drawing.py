"""`dagrid graph`: what waits for what, as text, as Mermaid, as SVG, for Graphviz, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagrid.cli.calls import Call
from dagrid.cli.launching import OF_GRAPHS, refuse_without_effect
from dagrid.cli.options import command
from dagrid.cli.output import tame
from dagrid.cli.workflows import given, importable, is_graph, load_graph, load_workflow
from dagrid.config import DEFAULT
from dagrid.config.kinds import is_text
from dagrid.errors import InvalidSettingError, RunStateError, UnknownRunError, WorkflowNotFoundError

if TYPE_CHECKING:
    from dagrid.execution.results import NodeResult
    from dagrid.graph.dag import DAG
    from dagrid.workflow import File


SUFFIXES = {".svg": "svg", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".json": "json", ".txt": "text"}
"""Which form a file has where nobody says one; one without an ending has the form of the settings."""


@command(
    "graph",
    click.Argument(["target"], type=click.Path()),
    click.Argument(["rest"], nargs=-1, metavar="[-- PARAMS]"),
    examples=(
        "dagrid graph nightly.yaml",
        "dagrid graph flows.etl:nightly --format mermaid",
        "dagrid graph nightly.yaml --output nightly.svg",
        "dagrid graph 0190b6c8 --format svg > run.svg",
    ),
)
def graph_command(call: Call, target: str, rest: tuple[str, ...]) -> None:
    """Draw a workflow in a file, a graph of Python's as package.module:name, or a run with the status of its steps."""
    nodes = None
    if is_graph(target):
        dag, _ = load_graph(call, target, given(call, rest))
        if call.config["settings"]:
            from dagrid.config.graphs import tuned

            dag = tuned(dag, call.config["settings"]).dag
    else:
        refuse_without_effect(call, OF_GRAPHS)
        try:
            dag = shape(load_workflow(call, target))
        except WorkflowNotFoundError as error:
            found = _run(call, target)
            if found is None:
                raise error from None
            dag, nodes = found
    output = call.config["graph.output"]
    form = call.config["graph.format"]
    if output and call.config.value("graph.format").source == DEFAULT and not call.out.as_json:
        form = _form_of(output, form)
    text = drawn(dag, "json" if call.out.as_json else form, dag.name or target, nodes)
    if not output:
        call.out.write(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidSettingError(f"{output} cannot be written: {error.strerror}.") from error
    call.out.say(f"{output} is written")


def _form_of(output: str, form: str) -> str:
    """Return the form that the ending of a file says; the given one if it has no ending."""
    suffix = Path(output).suffix.lower()
    if suffix and suffix not in SUFFIXES:
        raise InvalidSettingError(
            f"Nothing that ends in {suffix} can be drawn: {output} may end in {', '.join(SUFFIXES)}, or --format says its form."
        )
    return SUFFIXES.get(suffix, form)


def shape(file: File) -> DAG:
    """Return the steps of a workflow and what they wait for, as a graph that cannot run."""
    from dagrid.graph.dag import DAG
    from dagrid.graph.node import Node
    from dagrid.workflow import dependencies

    return DAG([Node(step, depends_on=before) for step, before in dependencies(file.main).items()], name=file.main.name)


def _run(call: Call, target: str) -> tuple[DAG, dict[str, NodeResult]] | None:
    """Return the graph of a run with what became of its nodes; None if there is no such run."""
    from dagrid.assemble import view
    from dagrid.execution.recording import read_head

    if not is_text(target):
        return None
    try:
        info = call.history.find(target)
    except UnknownRunError:
        return None
    if not call.history.has_begun(info.run):
        raise RunStateError(f"Run {info.run!r} is {info.status} and has not begun: draw its file.", info.status)
    importable(call, call.history.about(info.run))
    dag: DAG = read_head(call.history.checkpoint, info.run)["dag"]
    seen = view(call.history.checkpoint, info.run)
    return dag, {name: seen.node_result(name, value=False) for name in dag}


def drawn(dag: DAG, form: str, title: str, nodes: Mapping[str, NodeResult] | None = None) -> str:
    """Return a graph in one of the forms of the settings, the status of its nodes where these are known."""
    if form == "mermaid":
        return dag.to_mermaid()
    if form == "dot":
        return dag.to_dot()
    if form == "json":
        return dag.to_json(indent=2) + "\n"
    if form == "svg":
        from dagrid.execution.report.sketch import svg

        return svg(dag.structure, title, None if nodes is None else list(nodes.values()))
    return in_words(dag, nodes)


def in_words(dag: DAG, nodes: Mapping[str, NodeResult] | None = None) -> str:
    """Return the nodes by level, each with what it waits for."""
    levels = dag.topological_levels()
    figures = len(str(len(levels)))
    lines = []
    for number, level in enumerate(levels, 1):
        for at, name in enumerate(level):
            before = dag.predecessors(name)
            lead = str(number).rjust(figures) if at == 0 else " " * figures
            status = f"  [{nodes[name].status}]" if nodes is not None else ""
            waits = f"  <- {', '.join(map(tame, before))}" if before else ""
            lines.append(f"{lead}  {tame(name)}{status}{waits}")
    return "\n".join(lines) + "\n" if lines else ""
