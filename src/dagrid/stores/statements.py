"""The SQL of the stores, read from the files beside this module: `sql/statements.sql` holds what every database is asked alike,
`sql/<dialect>/statements.sql` what only one of them is, and `sql/<dialect>/migrations/NNNN_name.sql` makes the tables.

In `statements.sql` each statement follows a line `-- name: ...`; `:name` is a value and `{schema}` where the tables are.
Migrations are numbered from 1 without a gap; the number of the last one is the version of the store. It knows no database.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Migration(msgspec.Struct, frozen=True):
    """What makes a store of one version of the version before; `statements` are run in order, all or none."""

    version: int
    name: str
    statements: tuple[str, ...]


def statements(dialect: str, schema: str) -> dict[str, str]:
    """Return the statements of a dialect by name, for tables in a schema."""
    found: dict[str, str] = {}
    for folder in (_sql(), _sql().joinpath(dialect)):
        pieces = _NAME.split(_text(folder.joinpath("statements.sql"), schema))
        found |= {name: _COMMENT.sub("", text).strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    return found


def migrations(dialect: str, schema: str) -> list[Migration]:
    """Return the migrations of a dialect in the order of their numbers, for tables in a schema."""
    files = sorted(_sql().joinpath(dialect, "migrations").iterdir(), key=lambda file: file.name)
    return [_migration(file, schema) for file in files if file.name.endswith(".sql")]


def _migration(file: Path, schema: str) -> Migration:
    number, _, name = file.name.removesuffix(".sql").partition("_")
    text = _COMMENT.sub("", _text(file, schema))
    return Migration(int(number), name, tuple(part.strip() for part in text.split(";\n") if part.strip()))


def _text(file: Path, schema: str) -> str:
    return file.read_text(encoding="utf-8").replace("{schema}", schema)


def _sql() -> Path:
    return Path(__file__).with_name("sql")
