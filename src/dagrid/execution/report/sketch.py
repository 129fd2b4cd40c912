"""A graph as one SVG file, by itself: before it has run, or with the status of each node."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from dagrid.execution.report import graph, markup
from dagrid.execution.report.story import Step, Story, stem
from dagrid.execution.results import NodeResult, NodeStatus
from dagrid.execution.tracing import TraceSummary
from dagrid.graph.structure import Structure


def svg(structure: Structure, title: str, nodes: Sequence[NodeResult] | None = None) -> str:
    """Return the drawing of a graph.

    Args:
        structure: the graph.
        title: what it is called.
        nodes: what became of each node, in the order of the structure; without it nothing has.
    """
    names = structure.names
    told = nodes if nodes is not None else [NodeResult(name, NodeStatus.PENDING) for name in names]
    count = len(names)
    story = Story(
        title=title,
        status="",
        seconds=0.0,
        structure=structure,
        nodes=told,
        kinds=[stem(name) for name in names],
        birth=[0] * count,
        tries={},
        spans=[],
        workers={},
        steps=[Step(0.0, count)],
        tracebacks={},
        critical=[],
        summary=TraceSummary(0.0, 0.0, 0.0, 0, [], 0.0, []),
        troubles=[],
    )
    drawn = graph.draw(story).svg
    style = files("dagrid.execution.report").joinpath("graph.css").read_text(encoding="utf-8")
    head, _, body = drawn.partition(">")
    return f"{head}><title>{markup.text(title)}</title><style>\n{style}</style>{body}\n"
