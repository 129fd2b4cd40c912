"""How PostgreSQL is reached: addresses, connections that are made again when they break, versions, and its errors in our words.

It knows the SQL by name only, and nothing of journals. Everything that is asked is one statement in a transaction of its own, so
nobody waits for a client that stands still.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dagrid.errors import StoreError, StoreVersionError
from dagrid.interrupts import pressed_for
from dagrid.masking import without_password
from dagrid.stores import refusals
from dagrid.stores.statements import Migration, migrations, statements

DEFAULT_SCHEMA = "dagrid"
# Of the lock that is held while a store is made or changed: "dgrd".
_log = logging.getLogger("dagrid.store")
LOCK = 0x64677264
# PostgreSQL takes no larger value, and no larger message: 1 GiB with what is around it.
LARGEST = 10**9
# Seconds between two tries to reach a server that has gone away.
SOONEST, LATEST = 0.02, 1.0
# What libpq does unless the URL or the environment says otherwise: a server that is gone without a word is noticed.
_DEFAULTS = {
    "connect_timeout": "10",
    "fallback_application_name": "dagrid",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "40000",
}
_SCHEMA = re.compile(r"(?<=[?&])schema=([^&]*)&?")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is: `shown` is what messages call it, without a password; `parameters` is what libpq takes."""

    shown: str
    schema: str
    parameters: Mapping[str, Any]


def address_of(url: str) -> Address:
    """Read a URL as libpq does, and our `schema` among its settings: https://www.postgresql.org/docs/current/libpq-connect.html

    Raises:
        StoreError: it is no such URL. The message does not say what stands in it, for that may be a password.
    """
    head, mark, query = url.partition("?") if "@" not in url else _behind_credentials(url)
    found = _SCHEMA.search(mark + query)
    schema = unquote(found[1]) if found else DEFAULT_SCHEMA
    rest = _SCHEMA.sub("", mark + query).rstrip("?&")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise StoreError(
            f"{schema!r} is no name for a schema of our own. Give letters, digits and '_', as in ?schema=dagrid."
        )
    try:
        parameters = conninfo_to_dict(head + rest)
    except psycopg.Error:
        parameters = {"port": "?"}
    ports = str(parameters.get("port", "")).split(",")
    misread = "@" in f"{parameters.get('host', '')}{parameters.get('dbname', '')}"
    if misread or not all(port.isdigit() or not port for port in ports):
        raise StoreError(
            f"{without_password(url)} is no PostgreSQL URL. Write postgresql://user@host:port/database, with %40, %2F and so on "
            "for special characters in a password."
        ) from None
    user, host, port, name = (str(parameters.get(key) or "") for key in ("user", "host", "port", "dbname"))
    shown = f"postgresql://{user}{'@' if user else ''}{host}{':' if port else ''}{port}/{name} (schema {schema})"
    return Address(shown, schema, {**_DEFAULTS, **parameters, "client_encoding": "utf8"})


def _behind_credentials(url: str) -> tuple[str, str, str]:
    """Split a URL before its settings; a password may have question marks."""
    credentials, _, rest = url.rpartition("@")
    head, mark, query = rest.partition("?")
    return f"{credentials}@{head}", mark, query


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said. `changed` counts rows; `doubtful` says that the statement may have been performed before, too, for
    a connection broke under it.
    """

    rows: list[tuple[Any, ...]]
    changed: int
    doubtful: bool


class Link:
    """A connection that several threads share, one at a time. It is made when it is used, and again when it broke.

    Args:
        address: of the server.
        patience: seconds to look for a server that has gone away.
    """

    def __init__(self, address: Address, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._sql = _queries(address.schema)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._process = 0

    def ask(self, name: str, values: Mapping[str, Any]) -> Answer:
        """Perform a statement, again and again while the server cannot be reached, for as long as there is patience.

        Whoever presses Ctrl-C has none.

        Raises:
            StoreError: the server refuses it, or cannot be reached, or this is closed.
        """
        until = None
        pause = SOONEST
        doubtful = told = False
        with self._lock:
            while True:
                sent = False
                try:
                    connection = self._open()
                    sent = True
                    return self._perform(connection, name, values, doubtful)
                except (psycopg.Error, UnicodeEncodeError) as error:
                    lost = self._has_lost(error)
                    if not lost and not _is_conflict(error):
                        raise explained(self._address.shown, error) from error
                    doubtful = doubtful or (sent and lost)
                    now = time.monotonic()
                    until = now + self._patience if until is None else until
                    if now >= until or (lost and pressed_for() < self._patience):
                        raise explained(self._address.shown, error) from error
                    if lost and not told:
                        told = True
                        said = explained(self._address.shown, error)
                        _log.error("%s It is looked for for %g s; what is to be recorded waits.", said, self._patience)
                self._closed.wait(pause)
                pause = min(2 * pause, LATEST)

    def prepare(self) -> None:
        """Make the schema a store of this version, unless it is one; of several processes that do so at once, one does.

        Raises:
            StoreError: the server cannot be reached, or the schema is that of another program.
            StoreVersionError: a newer dagrid has written it.
        """
        with self._lock:
            try:
                connection = self._open()
                if self._version(connection) < _migrations(self._address.schema)[-1].version:
                    self._migrate(connection)
            except psycopg.Error as error:
                self._drop()
                raise explained(self._address.shown, error) from error
            except BaseException:
                self._drop()
                raise

    def disconnect(self) -> None:
        """Let go of the connection; the next use makes another one."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Close for good. May be called twice."""
        self._closed.set()
        self.disconnect()

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._closed.is_set():
            raise refusals.closed(self._address.shown)
        if self._process != os.getpid():  # the connection of the process that this one was forked off stays open there
            self._connection, self._process = None, os.getpid()
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(autocommit=True, **self._address.parameters)
        return self._connection

    def _perform(
        self, connection: psycopg.Connection[tuple[Any, ...]], name: str, values: Mapping[str, Any], doubtful: bool
    ) -> Answer:
        try:
            with connection.execute(self._sql[name], values, binary=True) as cursor:
                rows = cursor.fetchall() if cursor.description else []
                return Answer(rows, cursor.rowcount, doubtful)
        except BaseException:
            # An interrupt may come at any moment, and what it leaves half done must not be found by the next one.
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self._drop()
            raise

    def _has_lost(self, error: Exception) -> bool:
        """Whether an error means that there is no connection any more."""
        state = getattr(error, "sqlstate", None) or ""
        if self._connection is None or self._connection.closed or state.startswith("08") or state in _GOING:
            self._drop()
            return isinstance(error, psycopg.OperationalError)
        return False

    def _drop(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _version(self, connection: psycopg.Connection[tuple[Any, ...]]) -> int:
        """Return the version of the store in the schema, 0 when there is none."""
        schema = quoted(self._address.schema)
        row = connection.execute(
            self._sql["whose"], {"schema": schema, "marker": f"{schema}.dagrid_version"}
        ).fetchone()
        assert row is not None
        _, ours, tables = row
        if not ours and tables:
            raise StoreError(
                f"{self._address.shown} is the schema of another program; nothing was changed. Choose another one: ?schema=NAME"
            )
        if not ours:
            return 0
        row = connection.execute(self._sql["version"]).fetchone()
        assert row is not None
        newest = _migrations(self._address.schema)[-1].version
        if row[0] > newest:
            raise StoreVersionError(
                f"{self._address.shown} was written by a newer dagrid: it is a store of version {row[0]}, and this dagrid knows "
                f"those up to {newest}. Upgrade it: pip install --upgrade dagrid"
            )
        return int(row[0])

    def _migrate(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        schema = quoted(self._address.schema)
        with connection.transaction():
            connection.execute(self._sql["lock"], {"patience": f"{max(1, int(self._patience * 1000))}ms", "key": LOCK})
            found = connection.execute(self._sql["whose"], {"schema": schema, "marker": f"{schema}.dagrid_version"})
            row = found.fetchone()
            assert row is not None
            if not row[0]:
                connection.execute(self._sql["create_schema"])
            for migration in _migrations(self._address.schema)[self._version(connection) :]:
                for statement in migration.statements:
                    connection.execute(statement.encode())
                connection.execute(self._sql["set_version"], {"version": migration.version})


def check_size(data: bytes) -> None:
    """Refuse what PostgreSQL could not take in one piece.

    Raises:
        StoreError: it is larger than 1 GB.
    """
    if len(data) > LARGEST:
        raise StoreError("An append, a snapshot and an artifact hold at most 1 GB each: keep less at once.")


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def explained(shown: str, error: Exception) -> StoreError:
    """Return what PostgreSQL or its driver says, with the place and what to do."""
    state = "22" if isinstance(error, UnicodeEncodeError) else getattr(error, "sqlstate", None) or ""
    diagnosis = getattr(error, "diag", None)
    told = (diagnosis.message_primary if diagnosis else None) or " ".join(str(error).split())
    remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or "Look at the server and its log."
    if not state and isinstance(error, psycopg.OperationalError):
        remedy = "Look whether the server runs, and at host, port, user, password and database."
    return StoreError(f"{shown}: {told.rstrip('.?')}. {remedy}")


def _is_conflict(error: Exception) -> bool:
    """Whether the server asks that the statement be tried again: it has undone it for another one's sake."""
    return (getattr(error, "sqlstate", None) or "").startswith("40")


# The server ends, has ended another process of it, begins, or closes what was idle.
_GOING = frozenset({"57P01", "57P02", "57P03", "57P05"})
_REMEDIES = {
    "08": "Look whether the server runs, and at host and port.",
    "22": "Give names that PostgreSQL can keep as text.",
    "25006": "Name the server that takes writes, such as with ?target_session_attrs=read-write.",
    "28": "Give a user and a password that the server takes, in the URL, in PGPASSWORD or in a password file.",
    "3D000": "Create the database, or name another one.",
    "42501": "Grant this user what it lacks, or let its owner open the store once.",
    "53100": "The disk of the server is full: make room.",
    "53300": "Close connections, or raise max_connections of the server.",
    "54": "Give shorter names, and append less at once.",
    "55P03": "Another process has been changing the store all the time: let it finish.",
    "57014": "The server gave up: raise its statement_timeout for this user.",
}


@cache
def _queries(schema: str) -> dict[str, bytes]:
    found = statements("postgres", quoted(schema))
    return {name: _PARAMETER.sub(r"%(\1)s", text).encode() for name, text in found.items()}


@cache
def _migrations(schema: str) -> list[Migration]:
    return migrations("postgres", quoted(schema))
