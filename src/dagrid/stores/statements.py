"""The SQL of the stores, read from the files beside this module: `sql/<dialect>/statements.sql` and `migrations/NNNN_name.sql`.

In `statements.sql` each statement follows a line `-- name: ...`. Migrations are numbered from 1 without a gap; the number of the
last one is the version of the store. It knows no database.
"""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """What makes a store of one version of the version before; `statements` are run in order, all or none."""

    version: int
    name: str
    statements: tuple[str, ...]


def statements(dialect: str) -> dict[str, str]:
    """Return the statements of a dialect by name."""
    pieces = _NAME.split(_folder(dialect).joinpath("statements.sql").read_text(encoding="utf-8"))
    return {name: _COMMENT.sub("", text).strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def migrations(dialect: str) -> list[Migration]:
    """Return the migrations of a dialect in the order of their numbers."""
    files = sorted(_folder(dialect).joinpath("migrations").iterdir(), key=lambda file: file.name)
    return [_migration(file) for file in files if file.name.endswith(".sql")]


def _migration(file: Traversable) -> Migration:
    number, _, name = file.name.removesuffix(".sql").partition("_")
    text = _COMMENT.sub("", file.read_text(encoding="utf-8"))
    return Migration(int(number), name, tuple(part.strip() for part in text.split(";\n") if part.strip()))


def _folder(dialect: str) -> Traversable:
    return importlib.resources.files("dagrid.stores").joinpath("sql", dialect)
