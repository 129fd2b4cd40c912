"""How the answers in `answers/` were made: the same queries, asked of SQLite, over the same tables in another format.

    python -m examples.warehouse.answers

Nothing is shared with what is checked but the generator and the text of the queries: tpchgen-cli writes CSV in place of Parquet,
SQLite keeps it in its own kinds of columns (decimals as binary numbers), plans the queries and computes. What of the
specification's SQL is foreign to SQLite is rewritten here. Run it again when a query is added; it takes about a minute.
"""

from __future__ import annotations

import csv
import re
import sqlite3
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from examples.warehouse.queries import ANSWERS, QUERIES, write_answer
from examples.warehouse.tables import TABLES

SCALE = "0.1"
WHOLE = ("key", "size", "number", "shippriority", "availqty")
REAL = ("quantity", "price", "discount", "tax", "acctbal", "cost")
"""How the names of columns end that hold numbers; all others are text."""
REWRITTEN = (
    (r"date '([0-9-]+)' ([+-]) interval '(\d+)' (\w+)", r"date('\1', '\2\3 \4')"),
    (r"date '([0-9-]+)'", r"'\1'"),
    (r"extract\(year from (\w+)\)", r"cast(strftime('%Y', \1) as integer)"),
    (r"substring\((\w+) from (\d+) for (\d+)\)", r"substr(\1, \2, \3)"),
    (r"with revenue as \(", r"with revenue as materialized ("),
)
INDEXES = ("lineitem (l_partkey, l_suppkey)", "orders (o_custkey)", "lineitem (l_suppkey)")


def main() -> None:
    """Generate, load, ask, and write the answers."""
    ANSWERS.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        generate = ["tpchgen-cli", "csv", "--scale-factor", SCALE, "--output-dir", folder, "--quiet"]
        subprocess.run(generate, check=True)
        database = sqlite3.connect(":memory:")
        for table, described in TABLES.items():
            with Path(folder, f"{table}.csv").open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                names = next(lines)
                columns = ", ".join(f"{name} {_kind(name)}" for name in names)
                database.execute(f"create table {table} ({columns}, primary key ({described.key})) without rowid")
                database.executemany(f"insert into {table} values ({', '.join('?' * len(names))})", lines)
    for index in INDEXES:
        database.execute(f"create index by_{re.sub('[^a-z]+', '_', index)} on {index}")
    database.execute("pragma case_sensitive_like = true")
    database.execute("analyze")
    for path in sorted(QUERIES.glob("*.sql")):
        began = perf_counter()
        asked = database.execute(rewritten(path.read_text("utf-8")))
        rows = asked.fetchall()
        write_answer(ANSWERS / f"{path.stem}.csv", [column[0] for column in asked.description], rows)
        print(f"{path.stem}: {len(rows)} rows in {perf_counter() - began:.2f} s")


def rewritten(query: str) -> str:
    """Return a query as SQLite reads it."""
    for pattern, replacement in REWRITTEN:
        query = re.sub(pattern, replacement, query)
    return query


def _kind(column: str) -> str:
    return "integer" if column.endswith(WHOLE) else "real" if column.endswith(REAL) else "text"


if __name__ == "__main__":
    main()
