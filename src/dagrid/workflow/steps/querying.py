"""The functions behind steps of type sql. They run in warm processes: a database is opened, asked, and closed again."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import IO, Any, Protocol

from dagrid.errors import StepError
from dagrid.masking import masked, passwords
from dagrid.workflow.steps.printing import Row, printed
from dagrid.workflow.steps.statements import Statement, first_word, statements
from dagrid.workflow.steps.writing import emit, note

Parameters = Mapping[str, Any] | Sequence[Any] | None

OWN = frozenset({
    "ABORT", "ATTACH", "BEGIN", "CHECKPOINT", "COMMIT", "DETACH", "END", "PRAGMA", "RELEASE", "ROLLBACK", "SAVEPOINT", "START",
    "VACUUM",
})  # fmt: skip
"""First words of statements that end a transaction, or cannot be in one: a text with one of them gets none around it."""
ROWS_AT_ONCE = 1000
PATIENCE = 30.0
"""Seconds for which a database may be locked by somebody else, or silent when it is opened."""
MOST_IN_A_FIELD = 1 << 30
"""How many characters a value in a file has at most."""
AGAIN = 0.1
"""Seconds between two interrupts of what does not end."""
_SILENT = frozenset({"Count", "Success"})
_ASKS = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
_RETURNS = re.compile(r"\breturning\b", re.IGNORECASE)


class Database(Protocol):
    """A connection, as far as it is needed here."""

    style: str
    undoes: bool
    """Whether a result that is not read to its end undoes what the transaction has done."""
    errors: tuple[type[Exception], ...]

    def execute(self, text: str, parameters: Parameters) -> int:
        """Run a statement whose rows nobody wants; return how many rows it changed, -1 if that is not known."""

    def rows(self, text: str, parameters: Parameters) -> tuple[Sequence[str], Iterator[Row]] | int:
        """Run a statement; return its columns and rows, or how many rows it changed."""

    def many(self, text: str, rows: Sequence[Row]) -> int:
        """Run a statement once for each row; return how many rows it changed, -1 if that is not known."""

    def interrupt(self) -> None:
        """Stop what runs, from another thread."""

    def close(self) -> None: ...


def query(
    kind: str,
    dsn: str,
    text: str,
    *,
    params: Parameters = None,
    format: str = "jsonl",
    file: str = "",
    headers: bool = True,
    null: str = "",
    most: int = 0,
    autocommit: bool = False,
    timeout: float = 0,
    taken: Mapping[str, Any] | None = None,
) -> None:
    """Run statements in order, and print the rows of the last one.

    Args:
        kind: `sqlite`, `duckdb` or `postgres`.
        dsn: where the database is.
        text: the statements.
        params: values of `:name`, or of `?` in their order.
        format, headers, null: how rows are printed, see `printed`.
        file: a file that gets the rows instead of the standard output.
        most: how many rows there are at most; 0 is any number.
        autocommit: each statement counts by itself; otherwise all of them or none.
        timeout: seconds for all of it; 0 is any time.
        taken: settings of an import that goes before them.

    Raises:
        StepError: the database cannot be opened, or a statement fails.
    """
    names = tuple(params) if isinstance(params, Mapping) else ()
    marks = params is not None and not isinstance(params, Mapping)
    found = list(statements(text, kind, names, marks))
    values = _values(found, params)
    with _opened(kind, dsn, min(timeout or PATIENCE, PATIENCE)) as database:
        wraps = not autocommit and (len(found) > 1 or taken is not None) and not any(one.word in OWN for one in found)
        with _limited(database, timeout), _explained(database, dsn):
            if wraps:
                database.execute("BEGIN", None)
            if taken is not None:
                _take(database, taken)
            for statement, given in zip(found[:-1], values[:-1], strict=True):
                database.execute(statement.text, given)
            if found:
                rest = _print(database, found[-1], values[-1], format, file, headers, null, most)
                if database.undoes and (wraps or found[-1].word != "SELECT"):
                    deque(rest, maxlen=0)
            if wraps:
                database.execute("COMMIT", None)


def _print(
    database: Database,
    statement: Statement,
    params: Parameters,
    format: str,
    file: str,
    headers: bool,
    null: str,
    most: int,
) -> Iterator[Row]:
    """Print what a statement answers, and return the rows that are too many."""
    answer = database.rows(statement.text, params)
    if isinstance(answer, int):
        if answer >= 0 and statement.word not in ("CREATE", "DROP", "ALTER", "SET"):
            note(f"{answer} row{'' if answer == 1 else 's'} changed")
        return iter(())
    columns, rows = answer
    chosen = islice(rows, most) if most else rows
    if not file:
        printed(columns, chosen, format, emit, headers=headers, null=null)
        return rows
    part = f"{file}.part{os.getpid()}"
    try:
        with open(part, "wb") as opened:
            count = printed(columns, chosen, format, lambda data: _fill(opened, data), headers=headers, null=null)
        os.replace(part, file)
    except OSError as error:
        raise StepError(f"The rows cannot be written to {file!r}: {error.strerror or error}.") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    note(f"{count} row{'' if count == 1 else 's'} in {file}")
    return rows


def _fill(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def _values(found: Sequence[Statement], params: Parameters) -> list[Parameters]:
    """Return what each statement is given of the parameters."""
    if params is None:
        return [None] * len(found)
    if isinstance(params, Mapping):
        unused = set(params) - {name for one in found for name in one.names}
        if unused:
            raise StepError(f"No statement has the parameter :{min(unused)}; remove it from `params`.", retryable=False)
        return [{name: params[name] for name in one.names} if one.names else None for one in found]
    wanted = sum(one.marks for one in found)
    if wanted != len(params):
        raise StepError(
            f"The statements have {wanted} parameters, and `params` has {len(params)} values.", retryable=False
        )
    rest = iter(params)
    return [list(islice(rest, one.marks)) if one.marks else None for one in found]


# Databases ------------------------------------------------------------------------------------------------------------


class _Sqlite:
    style = "sqlite"
    undoes = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error, sqlite3.Warning, OverflowError)

    def __init__(self, dsn: str, patience: float) -> None:
        self.connection = sqlite3.connect(
            dsn, timeout=patience, isolation_level=None, uri=dsn.startswith("file:"), check_same_thread=False
        )

    def execute(self, text: str, parameters: Parameters) -> int:
        cursor = self.connection.execute(text, parameters or ())
        if cursor.description is not None:
            cursor.fetchall()
        return cursor.rowcount

    def rows(self, text: str, parameters: Parameters) -> tuple[Sequence[str], Iterator[Row]] | int:
        cursor = self.connection.execute(text, parameters or ())
        if cursor.description is None:
            return cursor.rowcount
        return [column[0] for column in cursor.description], iter(cursor)

    def many(self, text: str, rows: Sequence[Row]) -> int:
        return self.connection.executemany(text, rows).rowcount

    def interrupt(self) -> None:
        self.connection.interrupt()

    def close(self) -> None:
        self.connection.close()


class _DuckDB:
    style = "duckdb"
    undoes = False

    def __init__(self, dsn: str, _patience: float) -> None:
        import duckdb

        self.errors: tuple[type[Exception], ...] = (duckdb.Error, RuntimeError)
        self.connection = duckdb.connect(dsn)
        self.connection.execute("SET enable_progress_bar = false")  # it would be drawn into the output

    def execute(self, text: str, parameters: Parameters) -> int:
        answer = self.rows(text, parameters)
        return answer if isinstance(answer, int) else -1

    def rows(self, text: str, parameters: Parameters) -> tuple[Sequence[str], Iterator[Row]] | int:
        cursor = self.connection.execute(text, parameters) if parameters else self.connection.execute(text)
        columns = [column[0] for column in cursor.description or ()]
        if not columns or (len(columns) == 1 and columns[0] in _SILENT and not self._asks(text)):
            first = cursor.fetchone() if columns else None
            return int(first[0]) if first and columns == ["Count"] else -1
        return columns, chain.from_iterable(iter(lambda: cursor.fetchmany(ROWS_AT_ONCE), []))

    def _asks(self, text: str) -> bool:
        """Return whether a statement asks for rows, whatever they are called; others answer with a number or a word."""
        return any(one.type.name.startswith(("SELECT", "EXECUTE")) for one in self.connection.extract_statements(text))

    def many(self, text: str, rows: Sequence[Row]) -> int:
        self.connection.executemany(text, rows)
        return -1

    def interrupt(self) -> None:
        self.connection.interrupt()

    def close(self) -> None:
        self.connection.close()


class _Postgres:
    style = "postgres"
    undoes = True

    def __init__(self, dsn: str, patience: float) -> None:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.types.numeric import NumericLoader

        class Finite(NumericLoader):
            """Makes what is no finite number a float, of which all outputs know what to write."""

            def load(self, data: Any) -> Any:
                found = super().load(data)
                return found if found.is_finite() else float(found)

        try:
            conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            if "://" not in dsn:  # what it says may be a part of the password
                raise ValueError("it is no connection string; write postgresql://USER@HOST/NAME") from None
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self.connection = psycopg.connect(
            dsn, autocommit=True, connect_timeout=max(1, round(patience)), application_name="dagrid"
        )
        self.connection.adapters.register_loader("numeric", Finite)
        # The server ends what nobody waits for any more, but an older one, or one on a system that cannot tell.
        with suppress(psycopg.Error):
            self.connection.execute("SET client_connection_check_interval = '1s'")

    def execute(self, text: str, parameters: Any) -> int:
        return self.connection.execute(text, parameters).rowcount

    def rows(self, text: str, parameters: Any) -> tuple[Sequence[str], Iterator[Row]] | int:
        import psycopg

        cursor = self.connection.cursor()
        if first_word(text) not in _ASKS and not _RETURNS.search(text):
            cursor.execute(text, parameters)
            if cursor.description is None:
                return cursor.rowcount
            return [column.name for column in cursor.description], iter(cursor)
        stream = cursor.stream(text, parameters)  # row by row: whatever its size, the result is never here as a whole
        try:
            first = [next(stream)]
        except StopIteration:
            first = []
        except psycopg.ProgrammingError as error:
            if error.sqlstate is not None or "didn't produce" not in str(error):
                raise
            return -1
        return [column.name for column in cursor.description or ()], chain(first, stream)

    def many(self, text: str, rows: Sequence[Row]) -> int:
        with self.connection.cursor() as cursor:
            cursor.executemany(text, rows)
            return cursor.rowcount

    def interrupt(self) -> None:
        self.connection.cancel_safe(timeout=10)

    def close(self) -> None:
        self.connection.close()


_KINDS: dict[str, Callable[[str, float], Database]] = {"sqlite": _Sqlite, "duckdb": _DuckDB, "postgres": _Postgres}
_PACKAGES = {"duckdb": ("duckdb", "duckdb"), "postgres": ("psycopg", "postgres")}


@contextmanager
def _opened(kind: str, dsn: str, patience: float) -> Iterator[Database]:
    """Open a database. Raises StepError, without what may be secret in `dsn`."""
    try:
        database = _KINDS[kind](dsn, patience)
    except ImportError:
        package, extra = _PACKAGES[kind]
        raise StepError(
            f"Steps of type {kind} need the package {package}: pip install 'dagrid[{extra}]'", retryable=False
        ) from None
    except Exception as error:  # noqa: BLE001  # each database has its own
        raise StepError(f"The database {shown(dsn)} cannot be opened: {_plain(error, dsn)}") from None
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _explained(database: Database, dsn: str) -> Iterator[None]:
    """Turn the errors of a database into ours."""
    try:
        yield
    except database.errors as error:
        raise StepError(_plain(error, dsn)) from None


@contextmanager
def _limited(database: Database, seconds: float) -> Iterator[None]:
    """Interrupt what takes longer. Raises StepError: it did."""
    if not seconds:
        yield
        return
    late, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        late.set()
        while not over.is_set():  # an interrupt that comes between two statements stops nothing
            with suppress(*database.errors):
                database.interrupt()
            over.wait(AGAIN)

    watcher = threading.Thread(target=watch, name="dagrid-sql-limit", daemon=True)
    watcher.start()
    try:
        yield
    except StepError:
        if late.is_set():
            raise StepError(
                f"The statements took longer than {seconds:g} s. Raise `timeout`, or make them quicker."
            ) from None
        raise
    finally:
        over.set()
        watcher.join()


def shown(dsn: str) -> str:
    """Return a DSN without a password."""
    scheme, mark, rest = dsn.partition("://")
    if not mark:
        return repr(dsn) if "=" not in dsn else "that is said"
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _plain(error: Exception, dsn: str) -> str:
    """Return what an error says, without what may be secret in a DSN."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:3]) or type(error).__name__
    secrets = {*passwords(dsn), *([dsn] if "://" in dsn or "=" in dsn else [])}
    text = masked(text, [secret for secret in secrets if len(secret) > 1])
    return text if text.endswith((".", "?", "!")) else f"{text}."


# What is taken in -----------------------------------------------------------------------------------------------------


def _take(database: Database, taken: Mapping[str, Any]) -> None:
    """Put the rows of a file into a table."""
    path = taken["input_file"]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            columns, rows = _read(file, path, taken)
            rows = islice(rows, taken["skip_rows"], None)
            if taken["max_rows"]:
                rows = islice(rows, taken["max_rows"])
            insert = _insert(database.style, columns, taken)
            count = 0
            while batch := list(islice(rows, taken["batch_size"])):
                for row in batch:
                    if len(row) != len(columns):
                        raise StepError(
                            f"{path!r} has a row of {len(row)} values where there are {len(columns)} columns.",
                            retryable=False,
                        )
                if not taken["dry_run"]:
                    database.many(insert, batch)
                count += len(batch)
    except OSError as error:
        raise StepError(f"{path!r} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise StepError(f"{path!r} cannot be read: {error}.", retryable=False) from None
    note(
        f"{count} row{'' if count == 1 else 's'} from {path} {'would go' if taken['dry_run'] else 'went'} into {taken['table']}"
    )


def _read(file: Any, path: str, taken: Mapping[str, Any]) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the columns and the rows of a file."""
    nulls = set(taken["null_values"])
    kind = taken["format"] or (
        "jsonl" if path.endswith((".jsonl", ".ndjson")) else "tsv" if path.endswith(".tsv") else "csv"
    )
    if kind == "jsonl":
        return _objects(file, path, taken["columns"])
    csv.field_size_limit(MOST_IN_A_FIELD)
    reader = csv.reader(file, delimiter=taken["delimiter"] or ("\t" if kind == "tsv" else ","))
    header = next(reader, []) if taken["has_header"] else []
    columns = list(taken["columns"] or header)
    if not columns:
        raise StepError(
            f"It is not said which columns {path!r} has; write columns: [...], or give it a header.", retryable=False
        )
    return columns, ([None if value in nulls else value for value in row] for row in reader if row)


def _objects(file: Any, path: str, said: Sequence[str]) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the columns and the rows of a file with an object of JSON on each line."""

    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    one = json.loads(line)
                except ValueError as error:
                    raise StepError(f"{path!r}, line {number}: {error}.", retryable=False) from None
                if not isinstance(one, dict):
                    raise StepError(f"{path!r}, line {number}: it is no object of JSON, as {{...}}.", retryable=False)
                yield number, one

    lines = objects()
    first = next(lines, None)
    columns = list(said or (first[1] if first else ()))

    def values(number: int, one: Mapping[str, Any]) -> list[Any]:
        if not said and not one.keys() <= set(columns):
            raise StepError(
                f"{path!r}, line {number}: the first line has no {min(one.keys() - set(columns))!r}. Write columns: [...] with "
                f"all that go into the table.",
                retryable=False,
            )
        return [json.dumps(v) if isinstance(v, (dict, list)) else v for v in map(one.get, columns)]

    return columns, (values(*one) for one in chain([first] if first else (), lines))


def _insert(style: str, columns: Sequence[str], taken: Mapping[str, Any]) -> str:
    """Return the statement that puts one row into a table."""
    table = ".".join(_name(part) for part in taken["table"].split("."))
    names = ", ".join(_name(column) for column in columns)
    marks = ", ".join(["%s" if style == "postgres" else "?"] * len(columns))
    text = f"INSERT INTO {table} ({names}) VALUES ({marks})"
    on_conflict, target = (
        taken["on_conflict"],
        [one.strip() for one in taken["conflict_target"].split(",") if one.strip()],
    )
    if on_conflict == "ignore":
        return f"{text} ON CONFLICT DO NOTHING"
    if on_conflict == "replace":
        if not target:
            raise StepError(
                "on_conflict: replace needs the columns that tell rows apart; write conflictTarget: id", retryable=False
            )
        updated = taken["update_columns"] or [column for column in columns if column not in target]
        changes = ", ".join(f"{_name(column)} = excluded.{_name(column)}" for column in updated)
        return f"{text} ON CONFLICT ({', '.join(map(_name, target))}) DO UPDATE SET {changes}"
    return text


def _name(text: str) -> str:
    doubled = text.strip().strip('"').replace('"', '""')
    return f'"{doubled}"'
