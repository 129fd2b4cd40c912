"""Queries: DuckDB and SQLite in a file or in memory, PostgreSQL by its URL; the rows of the last statement are printed."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.printing import FORMATS
from dagrid.workflow.steps.querying import query
from dagrid.workflow.steps.settings import Found, Setting, Settings, at, is_late
from dagrid.workflow.steps.texts import filled
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

SETTINGS = Settings(
    "sql",
    [
        Setting(
            "dsn",
            "text",
            "The database: a file, `:memory:`, or postgresql://USER@HOST/NAME.",
            "",
            aliases=("path", "url", "database"),
        ),
        Setting("output", "text", "How rows are printed.", "jsonl", FORMATS, aliases=("output_format",)),
        Setting(
            "file", "text", "A file that gets the rows in place of the standard output.", "", aliases=("output_file",)
        ),
        Setting("headers", "flag", "CSV begins with the names of the columns.", True),
        Setting("null", "text", "What stands for NULL in CSV and in tables.", "", aliases=("null_string",)),
        Setting("max_rows", "count", "How many rows are printed at most; 0 is all.", 0),
        Setting("params", "any", "Values of `:name` (a mapping) or of `?` (a list) in the statements."),
        Setting("autocommit", "flag", "Each statement counts by itself; without it all do or none.", False),
        Setting("timeout", "seconds", "How long the statements may take; 0 is any time.", 0.0),
        Setting("import", "table", "A file whose rows go into a table first; see below."),
        Setting("streaming", "flag", "Rows always come as a stream; nothing follows from it.", False),
    ],
)
"""The settings."""

IMPORT = Settings(
    "sql, `import`",
    [
        Setting("input_file", "text", "The file.", "", aliases=("file",)),
        Setting("table", "text", "The table, which is there.", ""),
        Setting("format", "text", "By default the ending of the file says it.", "", ("csv", "tsv", "jsonl")),
        Setting("has_header", "flag", "The first row names the columns.", True),
        Setting("delimiter", "text", "What stands between values.", ""),
        Setting("columns", "texts", "The names of the columns.", ()),
        Setting("null_values", "texts", "Texts that are NULL.", ("", "NULL", "null", "\\N")),
        Setting("batch_size", "count", "How many rows go at once.", 1000),
        Setting("on_conflict", "text", "What becomes of a row that is there.", "error", ("error", "ignore", "replace")),
        Setting("conflict_target", "text", "The columns that tell rows apart, for replace.", ""),
        Setting("update_columns", "texts", "The columns that are replaced; by default all others.", ()),
        Setting("skip_rows", "count", "So many rows are left out.", 0),
        Setting("max_rows", "count", "No more rows than that; 0 is all.", 0),
        Setting("dry_run", "flag", "The file is read, and nothing written.", False),
    ],
)
"""What `import` holds."""

_ONE_DELIMITER = """'delimiter' of `import` is one character, such as ";" or "\\t" in double quotes"""
_MEMORY = ":memory:"
_SCHEMES = {
    "postgres": "postgres",
    "postgresql": "postgres",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "duckdb": "duckdb",
}
_ENDINGS = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".duckdb": "duckdb", ".ddb": "duckdb"}


class Sql:
    """A step of type sql, duckdb, sqlite or postgres."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step)
        kind = step.executor.type
        dsn = SETTINGS.says(step, "dsn")
        if not dsn and kind in ("sql", "postgres"):
            shown = "postgresql://USER@HOST/NAME" if kind == "postgres" else "warehouse.duckdb"
            yield at(step), f"a step of type {kind} needs a database; write dsn: {shown} in the config"
        elif dsn and not is_late(dsn) and kind == "sql" and not kind_of(kind, str(dsn)):
            yield at(step, "dsn"), "it cannot be seen which database that is; write type: duckdb, sqlite or postgres"
        taken = SETTINGS.says(step, "import")
        yield from IMPORT.check_inner(step, "import", taken)
        delimiter = taken.get("delimiter") if isinstance(taken, Mapping) else None
        if isinstance(delimiter, str) and len(delimiter) > 1 and not is_late(delimiter):
            yield at(step, "import"), _ONE_DELIMITER
        if not step.command and not step.script and taken is None:
            yield place(step), f"a step of type {kind} has nothing to do; give it `command:` or `script:` with SQL"
        if step.command and step.script:
            yield place(step, "script"), "a step with SQL has a `command` or a `script`, not both; keep one"
        if not isinstance(SETTINGS.says(step, "params"), (dict, list, type(None))):
            yield at(step, "params"), "'params' is a mapping of names to values, or a list of values"

    def perform(self, work: Work) -> Generator[Any, Any, Returned]:
        """Run the statements."""
        step = work.step
        config = SETTINGS.read((yield from work.config()))
        params = config["params"]
        taken = None
        if config["import"] is not None:
            taken = IMPORT.read(config["import"])
            if not taken["input_file"] or not taken["table"]:
                raise StepError(
                    "`import` needs a file and a table; write import: {inputFile: ..., table: ...}", retryable=False
                )
            if len(taken["delimiter"]) > 1:
                raise StepError(f"{_ONE_DELIMITER}.", retryable=False)
            taken = taken | {"input_file": work.file(taken["input_file"]), "batch_size": taken["batch_size"] or 1000}
        names = tuple(params) if isinstance(params, Mapping) else ()
        text = step.script or ";\n".join(step.command)
        kind = kind_of(step.executor.type, config["dsn"])
        if not kind:
            raise StepError(
                "It cannot be seen which database that is; write type: duckdb, sqlite or postgres.", retryable=False
            )
        return (
            yield from work.call(
                query,
                kind,
                place_of(kind, config["dsn"], work),
                filled(text, work, names),
                params=params,
                format=config["output"],
                file=work.file(config["file"]) if config["file"] else "",
                headers=config["headers"],
                null=config["null"],
                most=config["max_rows"],
                autocommit=config["autocommit"],
                timeout=config["timeout"],
                taken=taken,
            )
        )


def kind_of(kind: str, dsn: str) -> str:
    """Return which database a step means: its type says it, or what it names does."""
    if kind != "sql":
        return kind
    scheme, mark, _ = dsn.partition("://")
    if mark:
        return _SCHEMES.get(scheme.lower(), "")
    if dsn.startswith("file:"):
        return "sqlite"
    return "duckdb" if dsn == _MEMORY else _ENDINGS.get(os.path.splitext(dsn)[1].lower(), "")


def place_of(kind: str, dsn: str, work: Work) -> str:
    """Return what a database is opened with."""
    if kind == "postgres":
        if not dsn:
            raise StepError("It is not said which database; write dsn: postgresql://USER@HOST/NAME.", retryable=False)
        return dsn
    scheme, mark, rest = dsn.partition("://")
    if mark and _SCHEMES.get(scheme.lower()) == kind:
        dsn = rest if rest.startswith("//") else rest.removeprefix("/")
        dsn = dsn.replace("//", "/", 1) if dsn.startswith("//") else dsn
    if not dsn or dsn == _MEMORY or dsn.startswith(("file:", "md:")):
        return dsn or _MEMORY
    return work.file(dsn)
