"""What it costs to keep a journal so that it survives: facts on a disk or a server, one by one, in batches, as they come."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import Figure, interleaved, per, timed
from dagrid.ports import Store
from dagrid.stores.memory import MemoryStore
from dagrid.stores.sqlite import SQLiteStore

DAGRID = "SQLiteStore"
POSTGRES = "PostgresStore"
MEMORY = "MemoryStore"
RAW = "raw sqlite3"
COMING = "as they come"
GROWN = "100 in a long run, "
# The facts of each append, and as many in all.
SIZES = {1: 2_000, 10: 20_000, 100: 100_000}
MANY = 200_000

Append = Callable[[int, list[bytes]], object]
Make = Callable[[], Store]


def store(quick: bool) -> Figure:
    """SQLite with every commit synced, beside PostgreSQL, the store in memory, and the plain way to use SQLite."""
    rounds = 3 if quick else 5
    figure = Figure("store", f"facts of 60 bytes, on the disk (medians of {rounds})", "us a fact", DAGRID)
    part = 20 if quick else 1
    with tempfile.TemporaryDirectory(prefix="dagrid-bench-") as folder, ExitStack() as opened:
        place = Path(folder)
        makers: dict[str, Make] = {DAGRID: lambda: SQLiteStore(_new(place))}
        if server := _server(opened):
            makers[POSTGRES] = server
            figure.notes.append(
                "PostgresStore: a server on this machine, as it comes (fsync and synchronous_commit on)"
            )
        else:
            figure.notes.append("PostgresStore is missing: there is no PostgreSQL, or no psycopg")
        for size, count in SIZES.items():
            action = partial(_batches, count=max(size, count // part), size=size)
            _enter(figure, f"{size} at once", makers, place, action, max(size, count // part), rounds)
        _enter(figure, COMING, makers, place, partial(_as_they_come, count=MANY // part), MANY // part, rounds)
        for name, make in makers.items():
            _grown(figure, name, make, MANY // part, rounds)
    figure.hold(f"{COMING}: 60,000 facts a second", figure.value(DAGRID, COMING), 1e6 / 60_000)
    first, last = (figure.value(DAGRID, f"{GROWN}{tenth}") for tenth in ("begin", "end"))
    grown = last / first if first and last else None
    figure.hold(f"an append at the end of {MANY // part:,} facts, part of one at the beginning", grown, 1.25, "of it")
    figure.notes.append(
        "raw sqlite3 has a row for each fact, and every commit synced too; it keeps no epoch and expects no number"
    )
    figure.notes.append(f"a long run has {MANY // part:,} facts: the medians of its first tenth and of its last")
    figure.notes.append("as they come: a thread makes facts as fast as it can, another appends whatever has come in")
    return figure


def _server(opened: ExitStack) -> Make | None:
    """Start a PostgreSQL if there is one, and return what makes a new store in it."""
    try:
        from dagrid.stores.postgres import PostgresStore
        from tests.stores.postgres_place import cluster

        server = opened.enter_context(cluster(fsync="on", full_page_writes="on", shared_buffers="128MB"))
    except (ImportError, OSError):
        return None
    number = itertools.count()
    return lambda: PostgresStore(server.url(next(number)))


def _enter(
    figure: Figure,
    column: str,
    makers: Mapping[str, Make],
    place: Path,
    action: Callable[[Append], None],
    count: int,
    rounds: int,
) -> None:
    contenders: dict[str, Callable[[], float]] = {
        **{name: partial(_with_store, make, action) for name, make in makers.items()},
        MEMORY: partial(_with_store, MemoryStore, action),
        RAW: partial(_with_rows, place, action),
    }
    for name, samples in interleaved(contenders, rounds).items():
        figure.put(name, column, [per(count, seconds) for seconds in samples])


def _grown(figure: Figure, name: str, make: Make, count: int, rounds: int) -> None:
    """Enter what an append costs in the first tenth and in the last of a run of so many facts."""
    first: list[float] = []
    last: list[float] = []
    for _ in range(rounds):
        took: list[float] = []
        with closing(make()) as kept:
            append = partial(kept.append, "run", kept.create("run"))
            for begin in range(0, count, 100):
                facts = _facts(begin, begin + 100)
                began = perf_counter()
                append(begin, facts)
                took.append(perf_counter() - began)
        tenth = max(1, len(took) // 10)
        first.append(per(100, median(took[:tenth])))
        last.append(per(100, median(took[-tenth:])))
    figure.put(name, f"{GROWN}begin", first)
    figure.put(name, f"{GROWN}end", last)


def _new(place: Path) -> Path:
    """Return a path where nothing is."""
    return Path(tempfile.mkdtemp(dir=place)) / "runs.db"


def _with_store(make: Make, action: Callable[[Append], None]) -> float:
    with closing(make()) as kept:
        return timed(action, partial(kept.append, "run", kept.create("run")))


def _with_rows(place: Path, action: Callable[[Append], None]) -> float:
    with closing(sqlite3.connect(_new(place), isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE facts (run TEXT, number INTEGER, fact BLOB, PRIMARY KEY (run, number))")

        def append(expected: int, facts: Sequence[bytes]) -> None:
            rows = [("run", expected + number, fact) for number, fact in enumerate(facts)]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")

        return timed(action, append)


def _facts(begin: int, end: int) -> list[bytes]:
    return [b"%060d" % number for number in range(begin, end)]


def _batches(append: Append, count: int, size: int) -> None:
    for begin in range(0, count, size):
        append(begin, _facts(begin, begin + size))


def _as_they_come(append: Append, count: int) -> None:
    """Make facts in a thread as fast as it can, and append all that have come in, until all are kept."""
    come: list[bytes] = []
    bell = threading.Event()

    def produce() -> None:
        for number in range(count):
            come.append(b"%060d" % number)
            if not bell.is_set():
                bell.set()

    producer = threading.Thread(target=produce)
    producer.start()
    kept = 0
    while kept < count:
        bell.wait()
        bell.clear()
        size = len(come)
        facts = come[:size]
        del come[:size]
        if facts:
            append(kept, facts)
            kept += size
    producer.join()
