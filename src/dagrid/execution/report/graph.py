"""The graph of a run as a drawing in SVG: each node a box in the colour of its status, or many nodes in one box.

A drawing of thousands of boxes shows nothing, so that a large graph is put together: nodes of one level and one kind, then of one
level, then of neighbouring levels, until there are few enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagrid.execution.report import markup
from dagrid.execution.report.story import Story
from dagrid.graph.analysis import level_numbers
from dagrid.graph.layout import HEIGHT, Layout, arrange
from dagrid.graph.structure import Structure

MOST_BOXES = 400
MOST_LINES = 2_000
DENSE = 150
BANDS = 60
LETTERS = 22
LETTER_WIDTH = 6.7
PADDING = 24.0
SIGNS = {
    "failed": "\N{MULTIPLICATION SIGN}",
    "timed_out": "!",
    "lost": "?",
    "cancelled": "/",
    "skipped": "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "running": "\N{HORIZONTAL ELLIPSIS}",
}
WORST_FIRST = (
    "failed",
    "lost",
    "timed_out",
    "cancelled",
    "skipped",
    "running",
    "waiting",
    "queued",
    "ready",
    "pending",
    "completed",
)


@dataclass(slots=True)
class Box:
    """What is drawn as one box.

    Args:
        label: what stands in it.
        members: the nodes that it stands for, by number.
        details: pairs of words that describe it.
    """

    label: str
    members: list[int]
    details: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Picture:
    """The drawing, what to say beside it, and what the script needs to know of it."""

    svg: str
    note: str
    boxes: Sequence[Box]
    script: list[dict[str, Any]]


def draw(story: Story) -> Picture:
    """Draw the graph of a run."""
    boxes, note = _boxes(story)
    box_of = {node: at for at, box in enumerate(boxes) for node in box.members}
    weight: Counter[tuple[int, int]] = Counter()
    for node, earlier in enumerate(story.structure.predecessors):
        for one in earlier:
            if box_of[one] != box_of[node]:
                weight[box_of[one], box_of[node]] += 1
    names = [str(at) for at in range(len(boxes))]
    before: list[list[int]] = [[] for _ in boxes]
    for one, node in weight:
        before[node].append(one)
    structure = Structure.of_predecessors(names, {name: at for at, name in enumerate(names)}, before)
    widths = [max(44.0, markup.columns(box.label) * LETTER_WIDTH + PADDING) for box in boxes]
    layout = arrange(structure, widths)
    chain = {(box_of[one], box_of[node]) for one, node in zip(story.critical, story.critical[1:], strict=False)}
    critical = {box_of[node] for node in story.critical}
    lines = sorted(weight, key=lambda edge: edge in chain)
    dense = ' class="dense"' if len(weight) > DENSE else ""
    parts = [
        f'<svg id="graph"{dense} xmlns="http://www.w3.org/2000/svg" width="{layout.width:g}" height="{layout.height:g}" '
        f'viewBox="0 0 {layout.width:g} {layout.height:g}" role="group" aria-label="The graph">'
    ]
    parts += [_line(edge, layout, weight[edge], edge in chain) for edge in lines]
    parts += [_box(story, at, boxes[at], layout, widths[at], at in critical) for at in range(len(boxes))]
    parts.append("</svg>")
    script = [
        {
            "label": markup.plain(markup.cut(_full_name(story, box), 300)),
            "details": [[key, markup.plain(markup.cut(value, 600))] for key, value in box.details],
            "births": sorted(story.birth[node] for node in box.members),
        }
        for box in boxes
    ]
    return Picture("".join(parts), note, boxes, script)


def _boxes(story: Story) -> tuple[list[Box], str]:
    """Return what is drawn, and how nodes were put together."""
    nodes = story.nodes
    edges = sum(map(len, story.structure.predecessors))
    if len(nodes) <= MOST_BOXES and edges <= MOST_LINES:
        return [_single(story, node) for node in range(len(nodes))], ""
    level = level_numbers(story.structure)
    deepest = max(level) + 1
    thick = math.ceil(deepest / BANDS)
    by_kind = _together(lambda node: (level[node], story.kinds[node]), len(nodes))
    if len(by_kind) <= MOST_BOXES // 2:
        groups = [_group(story, members) for members in by_kind]
        note = "nodes of one level and one kind, or one beginning of their names, are one box"
    else:
        by_level = _together(lambda node: level[node] // thick, len(nodes))
        groups = [_group(story, members, _levels(level, members)) for members in by_level]
        note = f"nodes of {thick} neighbouring levels are one box" if thick > 1 else "nodes of one level are one box"
    sizes = f"{markup.count(len(nodes), 'node')} and {markup.count(edges, 'edge')}"
    return groups, f"{sizes} are too many to draw one by one: {note}."


def _together(key: Callable[[int], Hashable], count: int) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for node in range(count):
        groups.setdefault(key(node), []).append(node)
    return list(groups.values())


def _levels(level: Sequence[int], members: Sequence[int]) -> str:
    first, last = (choice(level[node] for node in members) + 1 for choice in (min, max))
    return f"level {first}" if first == last else f"levels {first} to {last}"


def _single(story: Story, node: int) -> Box:
    found = story.nodes[node]
    details = [("Status", markup.word(found.status))]
    if found.reason:
        details.append(("Because", found.reason))
    if found.attempts:
        details += [
            ("Took", markup.seconds(found.duration_seconds)),
            ("Started after", markup.seconds(found.started)),
            ("Worker", found.worker),
        ]
    if found.attempts > 1:
        details.append(("Attempts", str(found.attempts)))
    details += [("Before", each) for each in story.tries.get(node, [])[:5]]
    if story.kinds[node] and story.kinds[node] != found.name:
        details.append(("Kind", story.kinds[node]))
    if story.birth[node]:
        step = story.steps[story.birth[node]]
        details.append(("Appended", f"by {step.rule or 'a rule'}, after {markup.seconds(step.at)}"))
    return Box(markup.shortened(found.name, LETTERS), [node], details)


def _group(story: Story, members: list[int], label: str = "") -> Box:
    if len(members) == 1:
        return _single(story, members[0])
    kinds = Counter(story.kinds[node] for node in members)
    (kind, _), *others = kinds.most_common()
    label = label or kind
    statuses = Counter(story.nodes[node].status.value for node in members)
    longest = max(members, key=lambda node: story.nodes[node].duration_seconds)
    details = [("Nodes", f"{len(members):,}")]
    details += [(markup.word(each).capitalize(), f"{statuses[each]:,}") for each in WORST_FIRST if statuses[each]]
    details += [
        ("Work", markup.seconds(sum(story.nodes[node].duration_seconds for node in members))),
        ("Longest", f"{story.nodes[longest].name}, {markup.seconds(story.nodes[longest].duration_seconds)}"),
    ]
    if others or kind not in label:
        details.append(
            ("Kinds", ", ".join(f"{name or 'unnamed'} ({number:,})" for name, number in kinds.most_common(8)))
        )
    return Box(f"{markup.shortened(label, LETTERS)} \N{MULTIPLICATION SIGN} {len(members):,}".strip(), members, details)


def _full_name(story: Story, box: Box) -> str:
    return story.nodes[box.members[0]].name if len(box.members) == 1 else box.label


def _line(edge: tuple[int, int], layout: Layout, weight: int, critical: bool) -> str:
    before, after = edge
    points = [
        (layout.x[before], layout.y[before] + HEIGHT / 2),
        *layout.bends.get(edge, ()),
        (layout.x[after], layout.y[after] - HEIGHT / 2 - (5 if critical else 4)),
    ]
    (x, y), *rest = points
    path = [f"M{x:g} {y:g}"]
    for to_x, to_y in rest:
        middle = (y + to_y) / 2
        path.append(f"V{to_y:g}" if x == to_x else f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}")
        x, y = to_x, to_y
    path.append("m-3.5 -1l3.5 5l3.5 -5")
    wide = f' style="stroke-width:{1.2 + math.log10(weight):.1f}"' if weight > 1 else ""
    name = "e critical" if critical else "e"
    return f'<path class="{name}" data-a="{before}" data-b="{after}" d="{"".join(path)}"{wide}/>'


def _box(story: Story, at: int, box: Box, layout: Layout, width: float, critical: bool) -> str:
    counts = Counter(story.nodes[node].status.value for node in box.members)
    many = len(box.members) > 1
    status = "many" if many else next(iter(counts))
    details = "\n".join(f"{key}: {markup.cut(value, 300)}" for key, value in box.details)
    name = _full_name(story, box)
    title = markup.text(f"{markup.shortened(name, 200)}\n{details}")
    label = f"{SIGNS[status]} {box.label}" if status in SIGNS else box.label
    left, top = round(layout.x[at] - width / 2, 1), layout.y[at] - HEIGHT / 2
    bar = _bar(counts, len(box.members), width) if many else ""
    return (
        f'<g class="n {status}{" critical" if critical else ""}" data-n="{at}" tabindex="-1" role="button" '
        f'transform="translate({left:g} {top:g})"><title>{title}</title>'
        f'<rect width="{width:g}" height="{HEIGHT:g}" rx="7"/>{bar}'
        f'<text x="{width / 2:g}" y="{14.5 if many else 19.5}">{markup.text(label)}</text></g>'
    )


def _bar(counts: Counter[str], total: int, width: float) -> str:
    parts = []
    left, room = 8.0, width - 16
    for status in WORST_FIRST:
        if counts[status]:
            wide = max(room * counts[status] / total, 1.5)
            parts.append(f'<rect class="part {status}" x="{left:.1f}" y="20.5" width="{wide:.1f}" height="4.5"/>')
            left += wide
    return "".join(parts)
