"""The queries of TPC-H: asked of the warehouse, and the answers held against those that another database gave.

It knows files of SQL and of answers; it knows nothing of how tables are loaded or of the workflow.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from math import isclose
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb

HERE = Path(__file__).parent
QUERIES, ANSWERS = HERE / "queries", HERE / "answers"
PART = 1e-9
"""How far two numbers may be apart, as a part of them: one database computes in decimals, the other in binary."""


class WrongAnswerError(RuntimeError):
    """An answer is not the known one."""


def ask(query: str, warehouse: str, results: str) -> dict[str, Any]:
    """Ask a query, keep its answer as `<query>.csv`, and return what is to be told of it.

    Args:
        query: its name, such as q01.
        warehouse: the file of the database.
        results: the folder for the answer.
    """
    text = (QUERIES / f"{query}.sql").read_text("utf-8")
    with duckdb.connect(warehouse, read_only=True) as database:
        began = perf_counter()
        database.execute(text)
        rows = database.fetchall()
        seconds = perf_counter() - began
        names = [column[0] for column in database.description or []]
    write_answer(Path(results, f"{query}.csv"), names, rows)
    title = text.splitlines()[0].removeprefix("--").strip()
    print(f"{query}: {len(rows)} rows in {seconds * 1e3:.0f} ms")
    return {"query": query, "title": title, "rows": len(rows), "seconds": seconds}


def compare(query: str, results: str) -> int:
    """Hold an answer against the known one, and return how many values were compared.

    Raises:
        WrongAnswerError: they differ; the message says where first.
    """
    found, known = read_answer(Path(results, f"{query}.csv")), read_answer(ANSWERS / f"{query}.csv")
    if len(found) != len(known):
        raise WrongAnswerError(f"{query} has {len(found) - 1} rows, and the known answer {len(known) - 1}.")
    for number, (ours, theirs) in enumerate(zip(found, known, strict=True)):
        for name, one, other in zip(found[0], ours, theirs, strict=True):
            if not _is_same(one, other):
                raise WrongAnswerError(f"{query}, row {number}, {name}: {one}, and the known answer has {other}.")
    compared = len(known[0]) * (len(known) - 1)
    print(f"{query}: {compared} values are those of the known answer")
    return compared


def write_answer(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write an answer as CSV; a file that is there is whole."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_text(value) for value in row] for row in rows)
    part.replace(path)


def read_answer(path: Path) -> list[list[str]]:
    """Return the lines of an answer, the names of its columns first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _is_same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return isclose(float(one), float(other), rel_tol=PART)
    except ValueError:
        return False
