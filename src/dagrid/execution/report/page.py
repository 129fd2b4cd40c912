"""The page of a run, put together: one file, which asks nothing of a network and runs no script but the one in it.

The look is in `graph.css` and `page.css`, what moves in `page.js`.
Every text of the user's goes through `markup.text` or `markup.data`.
"""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from types import TracebackType
from typing import TYPE_CHECKING

from dagrid.execution.report import graph, markup, timeline
from dagrid.execution.report.story import Story

if TYPE_CHECKING:
    from dagrid.execution.results import NodeResult

MOST_ROWS = 25
MOST_FAILURES = 50
MOST_LINKS = 24
MOST_LETTERS = 12_000
FAILED = ("failed", "timed_out", "lost")
COLUMNS = ("Node", "Took", "Status", "Worker", "Started after", "Attempts")
VERDICTS = {"succeeded": "completed", "failed": "failed", "partially_succeeded": "timed_out", "aborted": "cancelled"}


def render(story: Story) -> str:
    """Return the page of a run as HTML."""
    style, script = _file("graph.css") + _file("page.css"), _file("page.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    picture = graph.draw(story)
    told = {
        "boxes": picture.script,
        "steps": [[step.nodes, _step(number, story)] for number, step in enumerate(story.steps)],
    }
    body = "\n".join(
        part
        for part in (
            _head(story),
            _troubles(story),
            _failures(story),
            _graph(story, picture),
            _timeline(story),
            _path(story),
            _slowest(story),
        )
        if part
    )
    title = markup.text(story.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}: {markup.word(story.status)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Made by dagrid. Times are those of the tasks themselves, measured where they ran.</footer>
<script type="application/json" id="told">{markup.data(told)}</script>
<script>{script}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    return files("dagrid.execution.report").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, heading: str, inner: str, note: str = "") -> str:
    said = f'<p class="note">{markup.text(note)}</p>' if note else ""
    return f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{heading}</h2>{said}{inner}</section>'


def _head(story: Story) -> str:
    counts = Counter(node.status.value for node in story.nodes)
    total = max(len(story.nodes), 1)
    bar = "".join(
        f'<i class="{status}" style="width:{counts[status] / total:.3%}"></i>'
        for status in graph.WORST_FIRST[::-1]
        if counts[status]
    )
    legend = "".join(
        f'<li><i class="{status}"></i>{counts[status]:,} {markup.word(status)}</li>'
        for status in graph.WORST_FIRST[::-1]
        if counts[status]
    )
    summary = story.summary
    figures = [
        (markup.seconds(story.seconds), "in all"),
        (f"{len(story.nodes):,}", "node" if len(story.nodes) == 1 else "nodes"),
        (markup.seconds(summary.busy_seconds), "of work"),
        (f"{summary.parallelism:.2f}", "tasks at once"),
        (f"{summary.workers:,}", "worker" if summary.workers == 1 else "workers"),
        (markup.seconds(summary.critical_path_seconds), "critical path"),
    ]
    cells = "".join(f"<div><dd>{figure}</dd><dt>{name}</dt></div>" for figure, name in figures)
    verdict = VERDICTS.get(story.status, "running")
    return (
        f'<header><h1>{markup.text(story.title)}</h1><p class="verdict {verdict}">{markup.word(story.status)}</p></header>'
        f'<dl class="figures">{cells}</dl><div class="shares" aria-hidden="true">{bar}</div><ul class="legend">{legend}</ul>'
    )


def _troubles(story: Story) -> str:
    return "".join(f'<p class="trouble" role="alert">{markup.text(each)}</p>' for each in story.troubles)


def _step(number: int, story: Story) -> str:
    step = story.steps[number]
    if not number:
        return f"At the start: {markup.count(step.nodes, 'node')}."
    more = step.nodes - story.steps[number - 1].nodes
    rule = f" by {markup.shortened(step.rule, 100)}" if step.rule else ""
    when = f"Patch {number} of {len(story.steps) - 1}{rule}, after {markup.seconds(step.at)}"
    return f"{when}: {more:,} more, {markup.count(step.nodes, 'node')}."


def _graph(story: Story, picture: graph.Picture) -> str:
    if not story.nodes:
        return _section("the-graph", "The graph", '<p class="note">The graph has no nodes.</p>')
    last = len(story.steps) - 1
    slider = ""
    if last:
        slider = (
            f'<div class="grow scripted"><label for="step">Growth</label><input type="range" id="step" min="0" max="{last}" '
            f'value="{last}" step="1" aria-describedby="step-said"><output id="step-said" for="step">'
            f"{markup.text(_step(last, story))}</output></div>"
        )
    tools = (
        '<div class="tools scripted"><button type="button" data-zoom="out" aria-label="Smaller">\N{MINUS SIGN}</button>'
        '<button type="button" data-zoom="fit">Fit</button><button type="button" data-zoom="in" aria-label="Larger">+</button>'
        '<span class="note">Choose a box for its details; arrow keys follow the edges.</span></div>'
    )
    inner = (
        f'{slider}<div class="board"><div class="pan" id="pan">{picture.svg}</div>'
        f'<aside id="details" aria-live="polite" hidden></aside></div>{tools}'
    )
    return _section("the-graph", "The graph", inner, picture.note)


def _timeline(story: Story) -> str:
    rows, note = timeline.draw(story)
    return _section("timeline", "The timeline", f'<div class="rows">{rows}</div>', note)


def _path(story: Story) -> str:
    if not story.critical:
        return ""
    nodes = [story.nodes[number] for number in story.critical]
    shown = nodes if len(nodes) <= MOST_LINKS else [*nodes[: MOST_LINKS // 2], *nodes[-MOST_LINKS // 2 :]]
    items = [
        f"<li><bdi>{markup.text(markup.shortened(node.name, 60))}</bdi> <span>{markup.seconds(node.duration_seconds)}</span></li>"
        for node in shown
    ]
    if len(shown) < len(nodes):
        items.insert(MOST_LINKS // 2, f'<li class="gap">\N{HORIZONTAL ELLIPSIS} {len(nodes) - len(shown):,} more</li>')
    note = (
        f"The chain of completed nodes that took longest, {markup.seconds(story.summary.critical_path_seconds)}: "
        f"no number of workers makes the run shorter."
    )
    return _section("path", "The critical path", f'<ol class="links">{"".join(items)}</ol>', note)


def _slowest(story: Story) -> str:
    ran = [node for node in story.nodes if node.attempts]
    if not ran:
        return ""
    shown = sorted(ran, key=lambda node: -node.duration_seconds)[:MOST_ROWS]
    longest = max(shown[0].duration_seconds, 1e-9)
    critical = frozenset(story.summary.critical_path)
    rows = "".join(_slow(node, longest, node.name in critical) for node in shown)
    note = f"{len(shown)} of {len(ran):,} nodes that ran." if len(ran) > len(shown) else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    inner = f'<div class="scroll" tabindex="0" role="region" aria-labelledby="h-slowest">{table}</div>'
    return _section("slowest", "The slowest nodes", inner, note)


def _slow(node: NodeResult, longest: float, critical: bool) -> str:
    took = node.duration_seconds
    cells = (
        f'<td class="time"><i style="width:{max(took, 0.0) / longest * 90:.1f}px"></i>{markup.seconds(took)}</td>',
        f'<td><span class="dot {node.status.value}"></span>{markup.word(node.status.value)}</td>',
        f"<td>{markup.text(node.worker)}</td>",
        f"<td>{markup.seconds(node.started)}</td>",
        f"<td>{node.attempts}</td>",
    )
    name = f"<bdi>{markup.text(markup.shortened(node.name, 60))}</bdi>"
    mark = "<em> on the critical path</em>" if critical else ""
    return f'<tr><th scope="row">{name}{mark}</th>{"".join(cells)}</tr>'


def _failures(story: Story) -> str:
    failed = [number for number, node in enumerate(story.nodes) if node.status in FAILED]
    skipped = _skipped(story)
    if not failed and not skipped:
        return ""
    parts = [_failure(story, number, first=at < 3) for at, number in enumerate(failed[:MOST_FAILURES])]
    note = f"The first {MOST_FAILURES} of {len(failed):,}." if len(failed) > MOST_FAILURES else ""
    heading = "What failed" if failed else "What was skipped"
    return _section("failures", heading, "".join(parts) + skipped, note)


def _failure(story: Story, number: int, first: bool) -> str:
    node = story.nodes[number]
    error = node.error
    said = _said(error) if error is not None else node.reason
    where = [markup.word(node.status.value)]
    if node.worker:
        where.append(f"on {node.worker}")
    if node.attempts > 1:
        where.append(f"after {node.attempts} attempts")
    told = "".join(f"<li>{markup.text(markup.cut(each, 600))}</li>" for each in story.tries.get(number, [])[:20])
    trace = _traceback(error, story.tracebacks.get(number, error.__traceback__)) if error is not None else ""
    inner = (f"<ul>{told}</ul>" if told else "") + (f'<pre tabindex="0">{markup.text(trace)}</pre>' if trace else "")
    opened = " open" if first else ""
    summary = (
        f'<bdi>{markup.text(markup.cut(node.name, 300))}</bdi> <span class="where">{markup.text(", ".join(where))}</span>'
        f'<span class="said">{markup.text(markup.cut(said, 600))}</span>'
    )
    return f'<details class="failure {node.status.value}"{opened}><summary>{summary}</summary>{inner}</details>'


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _traceback(error: BaseException, trace: TracebackType | None) -> str:
    """Return where the task failed; empty for an error that was never raised."""
    if trace is None and error.__cause__ is None and not getattr(error, "__notes__", None):
        return ""
    return markup.cut("".join(traceback.format_exception(type(error), error, trace)).strip(), MOST_LETTERS)


def _skipped(story: Story) -> str:
    causes = Counter(
        node.reason for node in story.nodes if node.status == "skipped" and node.reason != "it has no task"
    )
    if not causes:
        return ""
    items = "".join(_cause(reason, number) for reason, number in causes.most_common(MOST_FAILURES))
    return f'<ul class="skips">{items}</ul>'


def _cause(reason: str, number: int) -> str:
    return f"<li>{markup.count(number, 'node')} skipped: {markup.text(markup.cut(reason, 300))}</li>"


def troubles(failure: BaseException | None, cancelled: str, unapplied: list[str]) -> Iterator[str]:
    """Yield why a run as a whole did not succeed.

    Args:
        failure: what ended the run from outside of its nodes.
        cancelled: why it was stopped; empty when it was not.
        unapplied: the rules that never became applicable.
    """
    if failure is not None:
        yield markup.cut(_said(failure), 2_000)
    elif cancelled:
        yield f"The run was stopped: {markup.cut(cancelled, 2_000)}"
    if unapplied:
        yield f"These rules never became applicable: {', '.join(unapplied)}."
