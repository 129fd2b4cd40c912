"""The times of a run as rows: one for the critical path, one for the growth of the graph, and one or more for each worker.

Few attempts are drawn one by one; of many, each worker gets a curve of how busy it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dagrid.execution.report import markup
from dagrid.execution.report.story import Story
from dagrid.execution.tracing import Span

MOST_BARS = 800
MOST_ROWS = 100
MOST_MARKS = 200
BINS = 240
LEGIBLE = 0.02
BAD = ("failed", "timed_out", "lost", "retry", "requeued", "cancelled")


def draw(story: Story) -> tuple[str, str]:
    """Return the rows as HTML, and what to say beside them."""
    if not story.spans:
        return "", "No attempt was started."
    scale = max(story.seconds, *(span.ended for span in story.spans), 1e-9)
    single = len(story.spans) <= MOST_BARS
    notes = []
    by_worker: dict[int, list[Span]] = {}
    for span in story.spans:
        by_worker.setdefault(span.worker, []).append(span)
    rows = [_axis(scale), _critical(story, scale)]
    if len(story.steps) > 1:
        rows.append(_growth(story, scale))
    workers = sorted(by_worker)
    for worker in workers[:MOST_ROWS]:
        name, slots = story.workers.get(worker, (str(worker), 1))
        if single:
            rows += _lanes(name, by_worker[worker], scale, frozenset(story.summary.critical_path))
        else:
            rows.append(_curve(name, max(slots, 1), by_worker[worker], scale))
    if not single:
        notes.append(
            f"{markup.count(len(story.spans), 'attempt')} are too many to draw one by one: the curves show how busy each worker "
            f"was, in {BINS} pieces of {markup.seconds(scale / BINS)}."
        )
    if len(workers) > MOST_ROWS:
        notes.append(f"Of {len(workers):,} workers the first {MOST_ROWS} are shown.")
    return "".join(rows), " ".join(notes)


def _row(name: str, inner: str, kind: str = "", title: str = "") -> str:
    label = f'<div class="who" title="{markup.text(title or name)}">{markup.text(name)}</div>'
    return f'<div class="row {kind}">{label}<div class="track">{inner}</div></div>'


def _axis(scale: float) -> str:
    marks = [f'<span style="left:{at / scale:.4%}">{markup.seconds(at)}</span>' for at in _ticks(scale)]
    return _row("", "".join(marks), "axis")


def _ticks(scale: float) -> Iterator[float]:
    rough = scale / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 2.5, 5) if power * factor >= rough), power * 10)
    for number in range(int(scale / step * 0.97) + 1):
        yield number * step


def _place(started: float, ended: float, scale: float) -> str:
    left = min(max(started / scale, 0.0), 1.0)
    width = min(max((ended - started) / scale, 0.0), 1.0 - left)
    return f"left:{left:.3%};width:{width:.3%}"


def _bar(name: str, said: str, started: float, ended: float, kind: str, scale: float) -> str:
    title = (
        f"{markup.shortened(name, 100)}: {said}, {markup.seconds(ended - started)} from {markup.seconds(started)} on"
    )
    label = markup.text(markup.shortened(name, 40)) if ended - started > scale * LEGIBLE else ""
    return f'<i class="{kind}" style="{_place(started, ended, scale)}" title="{markup.text(title)}">{label}</i>'


def _critical(story: Story, scale: float) -> str:
    nodes = [story.nodes[number] for number in story.critical]
    if len(nodes) > MOST_MARKS:
        nodes = sorted(nodes, key=lambda node: -node.duration_seconds)[:MOST_MARKS]
    bars = [_bar(node.name, "on the critical path", node.started, node.ended, "path", scale) for node in nodes]
    return _row("critical path", "".join(bars), "chain")


def _growth(story: Story, scale: float) -> str:
    steps = list(enumerate(story.steps))[1:]
    thinned = steps[:: math.ceil(len(steps) / MOST_MARKS)]
    marks = [
        f'<b data-step="{number}" style="left:{min(step.at / scale, 1.0):.3%}" '
        f'title="{markup.text(f"{step.rule}: {step.nodes} nodes after {markup.seconds(step.at)}")}"></b>'
        for number, step in thinned
    ]
    return _row("growth", "".join(marks), "growth")


def _lanes(name: str, spans: Sequence[Span], scale: float, critical: frozenset[str]) -> Iterator[str]:
    """Yield rows in which no two attempts overlap: a worker may perform several at once."""
    lanes: list[tuple[float, list[str]]] = []
    for span in sorted(spans, key=lambda span: (span.started, span.ended)):
        kind = f"{span.outcome} critical" if span.node in critical else span.outcome
        said = markup.word(span.outcome) if not span.number else f"try {span.number + 1}, {markup.word(span.outcome)}"
        bar = _bar(span.node, said, span.started, span.ended, kind, scale)
        for at, (free, bars) in enumerate(lanes):
            if free <= span.started + scale * 1e-4:
                bars.append(bar)
                lanes[at] = (span.ended, bars)
                break
        else:
            lanes.append((span.ended, [bar]))
    for at, (_, bars) in enumerate(lanes):
        yield _row("" if at else name, "".join(bars), title=name)


def _curve(name: str, slots: int, spans: Sequence[Span], scale: float) -> str:
    """Return how much of each piece of time a worker was busy, and how much of it with attempts that came to nothing."""
    every = [0.0] * BINS
    bad = [0.0] * BINS
    size = scale / BINS
    for span in spans:
        started, ended = max(span.started, 0.0), min(span.ended, scale)
        for at in range(min(int(started / size), BINS - 1), min(int(ended / size), BINS - 1) + 1):
            part = max(min(ended, (at + 1) * size) - max(started, at * size), 0.0) / size / slots
            every[at] += part
            if span.outcome in BAD:
                bad[at] += part
    failed = sum(span.outcome in BAD for span in spans)
    busy = sum(every) / BINS
    said = f"{name}: {markup.count(len(spans), 'attempt')}, {failed:,} in vain, {busy:.0%} busy"
    inner = (
        f'<svg viewBox="0 0 {BINS} 20" preserveAspectRatio="none" role="img" aria-label="{markup.text(said)}">'
        f"<title>{markup.text(said)}</title>{_area(every, 'completed')}{_area(bad, 'failed') if failed else ''}</svg>"
    )
    return _row(name, inner, "curve")


def _area(values: Sequence[float], kind: str) -> str:
    heights = [20 - 20 * min(value, 1.0) for value in values]
    steps = "".join(f"V{height:.3g}h1" for height in heights)
    return f'<path class="{kind}" d="M0 20{steps}V20z"/>'
