"""The tables of TPC-H: loaded from Parquet into DuckDB, one transaction each, and what must hold of them.

It knows the shape of the tables, nothing of queries or of the workflow. Every function opens the warehouse and closes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import duckdb

LINES = {"0.01": 60_175, "0.1": 600_572, "1": 6_001_215}
"""How many lines of orders there are at some scale factors; there is no formula."""


class WrongTableError(RuntimeError):
    """A table is not what the specification says."""


@dataclass(frozen=True, slots=True)
class Table:
    """What must hold of a table.

    Attributes:
        key: its primary key.
        rows: how many rows it has, times the scale factor if `scales`.
        refers: columns, and the table and columns that have their values.
    """

    key: str
    rows: int
    scales: bool = True
    refers: Mapping[str, tuple[str, str]] = field(default_factory=dict)


TABLES = {
    "region": Table("r_regionkey", 5, scales=False),
    "nation": Table("n_nationkey", 25, scales=False, refers={"n_regionkey": ("region", "r_regionkey")}),
    "supplier": Table("s_suppkey", 10_000, refers={"s_nationkey": ("nation", "n_nationkey")}),
    "customer": Table("c_custkey", 150_000, refers={"c_nationkey": ("nation", "n_nationkey")}),
    "part": Table("p_partkey", 200_000),
    "partsupp": Table(
        "ps_partkey, ps_suppkey",
        800_000,
        refers={"ps_partkey": ("part", "p_partkey"), "ps_suppkey": ("supplier", "s_suppkey")},
    ),
    "orders": Table("o_orderkey", 1_500_000, refers={"o_custkey": ("customer", "c_custkey")}),
    "lineitem": Table(
        "l_orderkey, l_linenumber",
        6_000_000,
        refers={
            "l_orderkey": ("orders", "o_orderkey"),
            "l_partkey, l_suppkey": ("partsupp", "ps_partkey, ps_suppkey"),
        },
    ),
}


def load(table: str, data: str, warehouse: str, scale: str) -> int:
    """Load a table, whole or not at all, and return how many rows it has.

    Args:
        table: its name.
        data: the folder with its Parquet file.
        warehouse: the file of the database.
        scale: the scale factor.

    Raises:
        WrongTableError: it has not as many rows as it should; the warehouse is as it was.
    """
    began = perf_counter()
    source = str(Path(data, f"{table}.parquet")).replace("'", "''")
    with duckdb.connect(warehouse) as database:
        database.begin()
        database.execute(f"create or replace table {table} as from read_parquet('{source}')")
        database.execute(f"alter table {table} add primary key ({TABLES[table].key})")
        rows = _number(database, f"select count(*) from {table}")
        _check_rows(table, rows, scale)
        database.commit()
    print(f"{table}: {rows:,} rows in {perf_counter() - began:.2f} s")
    return rows


def check_keys(warehouse: str) -> int:
    """Look for rows that refer to what is not there, and return how many references were followed.

    Raises:
        WrongTableError: there are some.
    """
    followed = 0
    with duckdb.connect(warehouse, read_only=True) as database:
        for name, table in TABLES.items():
            for columns, (other, key) in table.refers.items():
                missing = _number(
                    database, f"select count(*) from {name} where ({columns}) not in (select ({key}) from {other})"
                )
                if missing:
                    raise WrongTableError(f"{missing:,} rows of {name} have a {columns} that no row of {other} has.")
                followed += _number(database, f"select count(*) from {name}")
    print(f"{followed:,} references lead somewhere")
    return followed


def _check_rows(table: str, rows: int, scale: str) -> None:
    said = TABLES[table]
    factor = float(scale)
    wanted = round(said.rows * factor) if said.scales else said.rows
    if table == "lineitem":
        wanted = LINES.get(f"{factor:g}", wanted)
        if f"{factor:g}" not in LINES and abs(rows - wanted) < 0.02 * wanted:
            return
    if rows != wanted:
        raise WrongTableError(f"{table} has {rows:,} rows, and {wanted:,} at scale factor {scale}.")


def _number(database: duckdb.DuckDBPyConnection, query: str) -> int:
    row = database.execute(query).fetchone()
    assert row is not None
    return int(row[0])
