"""What only a store in a file has: other processes, sudden death, versions, and files that are none of ours."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dagrid.errors import DuplicateRunError, StaleEpochError, StoreError, StoreVersionError, UnknownRunError
from dagrid.stores import open_store
from dagrid.stores.memory import MemoryStore
from dagrid.stores.segments import unpack
from dagrid.stores.sqlite import SCHEMA, SQLiteStore
from dagrid.stores.statements import migrations
from tests.stores import appender

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def start(program, *arguments):
    """Start one of the programs beside this file."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("acknowledged", [1, 40, 150])
def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path, acknowledged):
    """And leaves no part of an append: at most one that it could not report any more, whole."""
    file = tmp_path / "runs.db"
    with start("appender.py", file, "run") as process:
        for _ in range(acknowledged):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
    last = int(rest[-1]) if rest else acknowledged * appender.SIZE
    with SQLiteStore(file) as store:
        facts = list(store.read("run"))
        assert facts == [str(number).encode() for number in range(len(facts))]
        assert last <= len(facts) <= last + appender.SIZE
        assert len(facts) % appender.SIZE == 0
        assert store.append("run", store.acquire("run"), len(facts), [b"more"]) == len(facts) + 1


def test_processes_that_open_a_new_file_at_once(tmp_path):
    """One of them makes the store, the others find it made, and all of them write."""
    file = tmp_path / "new" / "runs.db"
    processes = [start("opener.py", file, f"run-{number}", 25) for number in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        with process:
            process.communicate()
        assert process.returncode == 0
    with SQLiteStore(file) as store:
        assert {record.run for record in store.runs()} == {f"run-{number}" for number in range(4)}
        for number in range(4):
            assert list(store.read(f"run-{number}")) == [f"run-{number} {fact}".encode() for fact in range(25)]


def test_threads_that_open_a_new_file_at_once(tmp_path):
    """The same within a process, many times, for there the race is close."""
    for attempt in range(10):
        file = tmp_path / f"{attempt}.db"
        together = threading.Barrier(4)
        problems: list[StoreError] = []

        def begin(number, file=file, together=together, problems=problems):
            together.wait(10)
            try:
                with SQLiteStore(file) as store:
                    store.create(f"run-{number}")
            except StoreError as error:
                problems.append(error)

        threads = [threading.Thread(target=begin, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        with SQLiteStore(file) as store:
            assert len(store.runs()) == 4


def test_a_writer_that_holds_the_file_too_long_is_named(tmp_path):
    """Whoever waits gets an error with the file and what to do, and can go on afterwards; readers do not wait at all."""
    file = tmp_path / "runs.db"
    with SQLiteStore(file, timeout=0.05) as store, closing(sqlite3.connect(file, isolation_level=None)) as other:
        epoch = store.create("run")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"runs\.db.*locked.*timeout"):
            store.append("run", epoch, 0, [b"0"])
        assert list(store.read("run")) == []
        other.execute("ROLLBACK")
        assert store.append("run", epoch, 0, [b"0"]) == 1


def make_version(file, version):
    """Make a store as the dagrid of a version did, with a run of two facts, and return how it was made."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for migration in migrations("sqlite", SCHEMA)[:version]:
            for statement in migration.statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        if version:
            connection.execute("INSERT INTO runs VALUES (1, 'run', 'nightly', 1.0, 'running', 0, 3, 2)")
            connection.execute("INSERT INTO segments VALUES (1, 0, 2, x'92c40130c40131')")


def test_migrations_are_numbered_without_a_gap():
    """The number of the last one is the version of a file."""
    found = migrations("sqlite", SCHEMA)
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all(migration.statements for migration in found)


@pytest.mark.parametrize("version", range(len(migrations("sqlite", SCHEMA)) + 1))
def test_a_store_of_an_older_version(tmp_path, version):
    """It is brought up to date when it is opened, once, with all that it holds; an empty file is the oldest version."""
    file = tmp_path / "runs.db"
    make_version(file, version)
    for _ in range(2):
        with SQLiteStore(file) as store:
            if version == 0:
                assert store.runs() == []
                continue
            (record,) = store.runs()
            assert (record.run, record.name, record.epoch, record.facts) == ("run", "nightly", 3, 2)
            assert list(store.read("run")) == [b"0", b"1"]
            store.snapshot("run", 3, 2, b"snapshot")
            assert store.latest("run") == (2, b"snapshot")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations("sqlite", SCHEMA)),)


def test_a_migration_that_fails_changes_nothing(tmp_path):
    """A file that is half a store is none: what stood there before stays as it was."""
    file = tmp_path / "runs.db"
    make_version(file, 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE snapshots (in_the_way)")
    with pytest.raises(StoreError, match="already exists"):
        SQLiteStore(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (1,)


def test_a_store_of_a_newer_version(tmp_path):
    """It is refused with what to do, and left alone."""
    file = tmp_path / "runs.db"
    make_version(file, len(migrations("sqlite", SCHEMA)))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreVersionError, match=r"runs\.db.*999.*pip install --upgrade dagrid"):
        SQLiteStore(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (999,)


def test_a_file_that_is_no_database(tmp_path):
    """The message names it, and not a byte of it is changed."""
    file = tmp_path / "notes.db"
    words = b"These are my notes.\n" * 100
    file.write_bytes(words)
    with pytest.raises(StoreError, match=r"notes\.db: file is not a database"):
        SQLiteStore(file)
    assert file.read_bytes() == words


def test_the_database_of_another_program(tmp_path):
    """It has tables of its own; nothing is added to it."""
    file = tmp_path / "photos.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE runs (kilometres)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"photos\.db is the database of another program"):
        SQLiteStore(file)
    assert file.read_bytes() == before


def test_a_place_where_no_file_can_be(tmp_path):
    """A folder, and a folder below a file."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"unable to open database file\. Choose"):
        SQLiteStore(tmp_path)
    with pytest.raises(StoreError, match="file/below cannot be made"):
        SQLiteStore(tmp_path / "file" / "below" / "runs.db")
    with pytest.raises(StoreError, match="MemoryStore"):
        SQLiteStore(":memory:")


def test_a_damaged_journal_is_not_read_as_a_short_one(tmp_path):
    """A segment that is gone, and one that is no segment."""
    file = tmp_path / "runs.db"
    with SQLiteStore(file) as store:
        epoch = store.create("run")
        for number in range(3):
            store.append("run", epoch, number, [b"fact"])
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("DELETE FROM segments WHERE first = 1")
        with pytest.raises(StoreError, match=r"runs\.db lacks fact 1 of run 'run'"):
            list(store.read("run"))
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("UPDATE segments SET data = x'00' WHERE first = 2")
        with pytest.raises(StoreError, match="damaged"):
            list(store.read("run", 2))


def test_a_damaged_file_of_which_sqlite_says_what_is_no_text(tmp_path):
    """Its message quotes what is damaged."""
    file = tmp_path / "runs.db"
    SQLiteStore(file).close()
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE runs", b"CREATE \xffABLE runs"))
    with pytest.raises(StoreError, match=r"malformed.*Restore"):
        SQLiteStore(file)


def test_a_segment_is_a_list_of_bytes():
    """Anything else that MessagePack can say is no journal."""
    with pytest.raises(StoreError, match="damaged"):
        unpack(b"\x93\x01\x02\x03")


def test_a_suggestion_among_many_runs_is_quick(tmp_path):
    """Only some of the newest are compared: to look through all would take seconds."""
    with SQLiteStore(tmp_path / "runs.db") as store:
        for number in range(300):
            store.create(f"run-{number:05}")
        with pytest.raises(UnknownRunError) as caught:
            store.acquire("run-0299")
        assert caught.value.suggestion == "run-00299"
        with pytest.raises(UnknownRunError) as caught:
            store.acquire("zzz")
        assert caught.value.suggestion is None


@pytest.mark.parametrize("name", ["runs.db", "runs.sqlite", "runs.sqlite3"])
def test_open_store_by_path(tmp_path, monkeypatch, name):
    """By the end of its name, as text or as a path; any name will do behind a scheme."""
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / name, str(tmp_path / name), f"sqlite:///{tmp_path / name}", f"sqlite:///{name}", name]
    for number, place in enumerate(places):
        store = open_store(place)
        assert isinstance(store, SQLiteStore)
        assert store.path == tmp_path / name
        store.create(f"run-{number}")
        store.close()
    with SQLiteStore(tmp_path / name) as store:
        assert len(store.runs()) == len(places)
    open_store("sqlite:///any.name").close()
    assert (tmp_path / "any.name").exists()


def test_open_store_in_memory():
    """A new one each time."""
    with closing(open_store("memory://")) as store:
        assert isinstance(store, MemoryStore)
        store.create("run")
    with closing(open_store("memory://")) as store:
        assert store.runs() == []


@pytest.mark.parametrize("place", ["runs", "runs.txt", "mysql://host/runs.db", "", "sqlite:///"])
def test_open_store_elsewhere(place):
    """What is no store says what is one."""
    with pytest.raises(StoreError):
        open_store(place)


def test_what_many_threads_write_goes_together_and_each_gets_its_own_answer(tmp_path):
    """They share transactions while the disk syncs; what one of them is refused takes nothing from the others."""
    with SQLiteStore(tmp_path / "runs.db") as store:
        refused = []

        def write(number):
            run = f"run{number}"
            epoch = store.create(run)
            for fact in range(20):
                assert store.append(run, epoch, fact, [bytes([fact])]) == fact + 1
                for wrong in (lambda: store.append(run, epoch + 1, fact + 1, [b"x"]), lambda: store.create(run)):  # noqa: B023
                    try:
                        wrong()
                    except StoreError as error:
                        refused.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(8):
            assert list(store.read(f"run{number}")) == [bytes([fact]) for fact in range(20)]
        assert len(refused) == 8 * 20 * 2
        assert {type(error) for error in refused} == {StaleEpochError, DuplicateRunError}
