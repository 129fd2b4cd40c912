"""The page that tells what is in the warehouse and what the queries said; it knows their results, no SQL and no workflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

BAR, LEFT, WIDTH = 18, 60, 720
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg text { font: 12px system-ui, sans-serif; fill: #444; }
svg rect { fill: #2a7f8e; }
"""


def write(answers: str, tables: str, scale: str, page: str) -> str:
    """Write the page, print the same as text, and return its path.

    Args:
        answers: what the step that ran the queries left: JSON with the outputs of each query.
        tables: for each table a line of JSON with its name and its size in rows.
        scale: the scale factor.
        page: where the page goes.
    """
    asked = [_asked(outputs) for outputs in json.loads(answers)["outputs"]]
    sizes = {one["name"]: int(one["size"]) for one in map(json.loads, tables.splitlines())}
    Path(page).write_text(_page(asked, sizes, scale), encoding="utf-8")
    for one in asked:
        print(
            f"{one['query']}  {one['seconds'] * 1e3:6.0f} ms  {one['rows']:4} rows  {one['verdict']:22}  {one['title']}"
        )
    checked = sum(one["compared"] > 0 for one in asked)
    print(f"{len(asked)} queries, {checked} checked, {sum(sizes.values()):,} rows at scale factor {scale}: {page}")
    return page


def _asked(outputs: Mapping[str, str]) -> dict[str, Any]:
    one: dict[str, Any] = json.loads(outputs["ASKED"])
    one["compared"] = int(outputs.get("COMPARED") or 0)
    one["verdict"] = f"{one['compared']:,} values as known" if one["compared"] else "not checked"
    return one


def _page(asked: Sequence[Mapping[str, Any]], tables: Mapping[str, int], scale: str) -> str:
    queries = [
        (one["query"], one["title"], one["rows"], f"{one['seconds'] * 1e3:.0f}", one["verdict"]) for one in asked
    ]
    return "".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>Warehouse</title>",
            f"<style>{STYLE}</style><h1>The TPC-H warehouse at scale factor {escape(scale)}</h1>",
            _table(("table", "rows"), ((name, f"{rows:,}") for name, rows in tables.items()), numbers={1}),
            "<h2>Queries</h2>",
            _table(("query", "what it asks", "rows", "ms", "answer"), queries, numbers={2, 3}),
            _picture(asked),
            "</html>\n",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: set[int]) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        kinds = [" class='number'" if place in numbers else "" for place in range(len(cells))]
        return "".join(f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{line(head, 'th')}</tr>{body}</table>"


def _picture(asked: Sequence[Mapping[str, Any]]) -> str:
    longest = max((one["seconds"] for one in asked), default=0.0) or 1.0
    bars = []
    for place, one in enumerate(asked):
        wide = one["seconds"] / longest * (WIDTH - LEFT - 80)
        top = place * (BAR + 4)
        bars.append(
            f"<text x='0' y='{top + 13}'>{escape(one['query'])}</text>"
            f"<rect x='{LEFT}' y='{top}' width='{wide:.1f}' height='{BAR}'/>"
            f"<text x='{LEFT + wide + 6:.1f}' y='{top + 13}'>{one['seconds'] * 1e3:.0f} ms</text>"
        )
    return f"<svg width='{WIDTH}' height='{len(asked) * (BAR + 4)}' role='img'>{''.join(bars)}</svg>"
