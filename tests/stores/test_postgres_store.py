"""What only a store on a server has: other processes and machines, a server that goes away, answers that are lost, passwords."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from dagrid.errors import DuplicateRunError, JournalConflictError, StaleEpochError, StoreError, StoreVersionError
from dagrid.stores import open_artifacts, open_store
from dagrid.stores.postgres import PostgresArtifacts, PostgresStore
from dagrid.stores.statements import migrations
from tests.stores import appender
from tests.stores.cutting_proxy import proxy_to
from tests.stores.postgres_place import PASSWORD, free_port

pytestmark = pytest.mark.engine
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def start(program, *arguments):
    """Start one of the programs beside this file."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-W", "error", str(HERE / program), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.fixture
def url(postgres, tmp_path):
    """The URL of a schema that only this test has."""
    return postgres.url(tmp_path)


@pytest.fixture
def proxy(postgres):
    with proxy_to(postgres.port) as door:
        yield door


@pytest.fixture
def through_proxy(proxy, postgres, url):
    """The same schema, through a door that can be slammed."""
    return url.replace(f":{postgres.port}/", f":{proxy.port}/") + "&gssencmode=disable&sslmode=disable"


# --- other processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acknowledged", [1, 40, 150])
def test_a_killed_process_loses_nothing_that_was_acknowledged(url, acknowledged):
    """And leaves no part of an append: at most one that it could not report any more, whole."""
    with start("appender.py", url, "run") as process:
        for _ in range(acknowledged):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
    last = int(rest[-1]) if rest else acknowledged * appender.SIZE
    with PostgresStore(url) as store:
        epoch = store.acquire("run")  # what the dead process had sent is done, or never will be
        facts = list(store.read("run"))
        assert facts == [str(number).encode() for number in range(len(facts))]
        assert last <= len(facts) <= last + appender.SIZE
        assert len(facts) % appender.SIZE == 0
        assert store.append("run", epoch, len(facts), [b"more"]) == len(facts) + 1


def test_a_process_that_stands_still_keeps_nobody_from_its_run(url):
    """A machine that sleeps holds no lock: its run is taken over, and when it wakes up it hears that."""
    with start("appender.py", url, "run") as process:
        try:
            for _ in range(20):
                process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            with PostgresStore(url) as store:
                epoch = store.acquire("run")
                there = store.runs()[0].facts
                assert store.append("run", epoch, there, [b"taken"]) == there + 1
                process.send_signal(signal.SIGCONT)
                process.stdout.read()
                assert "StaleEpochError" in process.stderr.read()
                assert list(store.read("run"))[there:] == [b"taken"]
        finally:
            process.kill()


def test_processes_that_open_a_new_database_at_once(url):
    """One of them makes the store, the others find it made, and all of them write."""
    processes = [start("opener.py", url, f"run-{number}", 25) for number in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        with process:
            _, told = process.communicate()
        assert process.returncode == 0, told
    with PostgresStore(url) as store:
        assert {record.run for record in store.runs()} == {f"run-{number}" for number in range(4)}
        for number in range(4):
            assert list(store.read(f"run-{number}")) == [f"run-{number} {fact}".encode() for fact in range(25)]


def test_threads_that_open_a_new_schema_at_once(postgres, tmp_path):
    """The same within a process, many times, for there the race is close; journals and values share a schema."""
    for attempt in range(5):
        place = postgres.url(tmp_path / str(attempt))
        together = threading.Barrier(4)
        problems: list[StoreError] = []

        def begin(number, place=place, together=together, problems=problems):
            together.wait(10)
            try:
                if number % 2:
                    PostgresArtifacts(place).put(f"key-{number}", b"value")
                else:
                    with PostgresStore(place) as store:
                        store.create(f"run-{number}")
            except StoreError as error:
                problems.append(error)

        threads = [threading.Thread(target=begin, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        with PostgresStore(place) as store:
            assert len(store.runs()) == 2


FORKED = """
import os, sys
from dagrid.stores import open_postgres
store, values = open_postgres(sys.argv[1])
store.create("parent")
store.create("child")
values.put("key", b"value")
child = os.fork()
mine = "parent" if child else "child"
for number in range(300):
    assert store.append(mine, 1, number, [b"%d" % number]) == number + 1
    assert len(list(store.read(mine, number))) == 1
    assert values.get("key") == b"value"
store.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""


def test_a_process_that_is_forked_off_has_connections_of_its_own(url):
    """Two processes that speak on one connection would read each other's answers."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", FORKED, url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (ran.stdout, ran.stderr) == ("both\n", "")


# --- a server that goes away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_restarts_in_the_middle(postgres, url, number):
    """Whoever appends waits for it and goes on, and each fact is there once; whether it was shut down or fell."""
    acknowledged: list[int] = []
    half, done = threading.Event(), threading.Event()

    def write():
        with PostgresStore(url) as store:
            epoch = store.create("run")
            following = 0
            while following < 3_000 or not done.is_set():
                following = store.append("run", epoch, following, [str(following).encode()])
                acknowledged.append(following)
                if following == 500:
                    half.set()

    with PostgresStore(url) as reader:
        reader.runs()  # its connection breaks while nobody uses it
        writer = threading.Thread(target=write)
        writer.start()
        assert half.wait(20)
        postgres.stop(number)
        before = len(acknowledged)
        postgres.start()
        done.set()
        writer.join(40)
        assert not writer.is_alive()
        facts = list(reader.read("run"))
    assert facts == [str(fact).encode() for fact in range(len(facts))]
    assert acknowledged == list(range(1, len(facts) + 1))
    assert before < len(facts)


def test_a_server_that_does_not_come_back(postgres, url):
    """After the timeout there is an error with what to do; when the server is there again, the store is too."""
    store = PostgresStore(url, timeout=0.2)
    with closing(store):
        epoch = store.create("run")
        postgres.stop()
        try:
            with pytest.raises(StoreError, match=r"127\.0\.0\.1:\d+/postgres.*Look whether the server runs") as caught:
                store.append("run", epoch, 0, [b"0"])
            assert PASSWORD not in "".join(traceback.format_exception(caught.value))
        finally:
            postgres.start()
        assert store.append("run", epoch, 0, [b"0"]) == 1


def test_close_ends_the_wait_for_a_server(postgres, url):
    """Nobody has to wait for a server whose answer is not wanted any more."""
    store = PostgresStore(url, timeout=50.0)
    epoch = store.create("run")
    postgres.stop()
    try:
        found: list[BaseException] = []

        def wait():
            try:
                store.append("run", epoch, 0, [b"0"])
            except StoreError as error:
                found.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        store.close()
        waiting.join(20)
        assert not waiting.is_alive()
        assert "is closed" in str(found[0])
    finally:
        postgres.start()


# --- answers that are lost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["cut_before", "cut_after"])
def test_an_append_whose_answer_is_lost_is_there_once(proxy, through_proxy, cut):
    """Whether the server had it or not: the store looks, and the caller hears that it is there."""
    with PostgresStore(through_proxy) as store:
        epoch = store.create("run")
        for number in range(12):  # the first ones in full, the later ones as prepared statements
            getattr(proxy, cut)(b"fact %d." % number)
            facts = [b"fact %d." % number, b"and more"]
            assert store.append("run", epoch, 2 * number, facts, status=f"at {number}", at=1.0) == 2 * number + 2
            assert proxy.cuts == number + 1
        assert list(store.read("run")) == [f for n in range(12) for f in (b"fact %d." % n, b"and more")]
        assert store.runs()[0].status == "at 11"


def test_a_lost_answer_hides_no_conflict(proxy, through_proxy, url):
    """What is there is another's: the facts are compared, not counted."""
    with PostgresStore(through_proxy) as store, PostgresStore(url) as other:
        epoch = store.create("run")
        other.append("run", epoch, 0, [b"theirs"])
        proxy.cut_before(b"ours")
        with pytest.raises(JournalConflictError):
            store.append("run", epoch, 0, [b"ours"])
        other.acquire("run")
        proxy.cut_after(b"again")
        with pytest.raises(StaleEpochError):
            store.append("run", epoch, 1, [b"again"])
        assert proxy.cuts == 2
        assert list(other.read("run")) == [b"theirs"]


@pytest.mark.parametrize("cut", ["cut_before", "cut_after"])
def test_a_run_whose_creation_was_not_answered_has_one_owner(proxy, through_proxy, cut):
    """It is created, and whoever holds it may append; a run that was there before is still a duplicate."""
    with PostgresStore(through_proxy) as store:
        store.create("older", name="nightly", at=1.0)
        store.append("older", 1, 0, [b"0"])
        getattr(proxy, cut)(b"newer")
        epoch = store.create("newer", name="nightly", at=2.0)
        assert store.append("newer", epoch, 0, [b"0"]) == 1
        getattr(proxy, cut)(b"older")
        with pytest.raises(DuplicateRunError):
            store.create("older", name="nightly", at=1.0)
        assert proxy.cuts == 2
        assert store.append("older", 1, 1, [b"1"]) == 2


@pytest.mark.parametrize("cut", ["cut_before", "cut_after"])
def test_all_else_can_be_done_again(proxy, through_proxy, cut):
    """To acquire, to look, and to keep snapshots and values."""
    store, values = PostgresStore(through_proxy), PostgresArtifacts(through_proxy)
    with closing(store):
        store.create("the-run")
        getattr(proxy, cut)(b"the-run")
        epoch = store.acquire("the-run")
        assert store.append("the-run", epoch, 0, [b"0"]) == 1
        getattr(proxy, cut)(b"the-run")
        assert list(store.read("the-run")) == [b"0"]
        getattr(proxy, cut)(b"the-picture")
        store.snapshot("the-run", epoch, 1, b"the-picture")
        assert store.latest("the-run") == (1, b"the-picture")
        getattr(proxy, cut)(b"the-key")
        values.put("the-key", b"value")
        getattr(proxy, cut)(b"the-key")
        assert values.get("the-key") == b"value"
        getattr(proxy, cut)(b"the-key")
        values.delete("the-key")
        assert values.get("the-key") is None
        assert proxy.cuts == 6


# --- versions and neighbours -----------------------------------------------------------------------------------------------


def make_version(postgres, place, version):
    """Make a store as the dagrid of a version did, with a run of two facts."""
    schema = postgres.url(place).partition("?schema=")[2]
    with postgres.connect(place) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        for migration in migrations("postgres", schema)[:version]:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute("INSERT INTO dagrid_version (version) VALUES (%s)", [migration.version])
        if version:
            connection.execute(
                "INSERT INTO runs (run, name, created, status, ended, epoch, facts)"
                " VALUES ('run', 'nightly', 1.0, 'running', 0, 3, 2)"
            )
            connection.execute(r"INSERT INTO segments VALUES (1, 0, 2, '\x92c40130c40131')")


def test_migrations_are_numbered_without_a_gap():
    """The number of the last one is the version of a store."""
    found = migrations("postgres", "dagrid")
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all(migration.statements for migration in found)


@pytest.mark.parametrize("version", range(len(migrations("postgres", "x")) + 1))
def test_a_store_of_an_older_version(postgres, tmp_path, url, version):
    """It is brought up to date when it is opened, once, with all that it holds; an empty schema is the oldest version."""
    make_version(postgres, tmp_path, version)
    for _ in range(2):
        with PostgresStore(url) as store:
            if version == 0:
                assert store.runs() == []
                continue
            (record,) = store.runs()
            assert (record.run, record.name, record.epoch, record.facts) == ("run", "nightly", 3, 2)
            assert list(store.read("run")) == [b"0", b"1"]
        values = PostgresArtifacts(url)
        values.put("key", b"value")
        assert values.get("key") == b"value"
    with postgres.connect(tmp_path) as connection:
        row = connection.execute("SELECT max(version), count(*) FROM dagrid_version").fetchone()
        assert row == (len(migrations("postgres", "x")),) * 2


def test_a_migration_that_fails_changes_nothing(postgres, tmp_path, url):
    """A schema that is half a store is none: what stood there before stays as it was."""
    make_version(postgres, tmp_path, 1)
    with postgres.connect(tmp_path) as connection:
        connection.execute("CREATE TABLE artifacts (in_the_way INTEGER)")
        with pytest.raises(StoreError, match="already exists"):
            PostgresStore(url)
        assert connection.execute("SELECT max(version) FROM dagrid_version").fetchone() == (1,)
        connection.execute("DROP TABLE artifacts")
        PostgresStore(url).close()


def test_a_store_of_a_newer_version(postgres, tmp_path, url):
    """It is refused with what to do, and left alone, by either door."""
    PostgresStore(url).close()
    with postgres.connect(tmp_path) as connection:
        connection.execute("INSERT INTO dagrid_version (version) VALUES (999)")
        for door in (PostgresStore, PostgresArtifacts):
            with pytest.raises(StoreVersionError, match=r"schema t.*999.*pip install --upgrade dagrid"):
                door(url)


def test_the_schema_of_another_program(postgres, tmp_path, url):
    """It has tables of its own; nothing is added to it, and the message says where to go."""
    schema = url.partition("?schema=")[2]
    with postgres.connect(tmp_path) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.execute("CREATE TABLE runs (kilometres INTEGER)")
        with pytest.raises(StoreError, match=r"schema of another program.*\?schema=NAME"):
            PostgresStore(url)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
    assert tables == [("runs",)]


def test_a_user_who_may_not_make_a_schema(postgres, tmp_path, url):
    """It may use one that was made for it, and otherwise hears what it lacks."""
    schema = url.partition("?schema=")[2]
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE {schema} LOGIN PASSWORD '{PASSWORD}'")
        theirs = url.replace("dagrid:", f"{schema}:")
        with pytest.raises(StoreError, match=r"permission denied.*Grant"):
            PostgresStore(theirs)
        connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")
        with PostgresStore(theirs) as store:
            assert store.create("run") == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_whatever_isolation_the_server_is_set_to(postgres, tmp_path, level):
    """There a conflict is an error of the server, which is tried again and then told as what it is."""
    url = postgres.url(tmp_path) + f"&options=-c%20default_transaction_isolation%3D{level.replace(' ', '%5C%20')}"
    with PostgresStore(url) as one, PostgresStore(url) as other:
        epoch = one.create("run")
        won: list[bytes] = []

        def append(store, mine):
            for number in range(50):
                try:
                    store.append("run", epoch, number, [mine])
                except JournalConflictError:
                    continue
                won.append(mine)

        threads = [threading.Thread(target=append, args=each) for each in ((one, b"one"), (other, b"other"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(one.read("run")) == sorted(won)
        assert len(won) == 50


def test_a_damaged_journal_is_not_read_as_a_short_one(postgres, tmp_path, url):
    """A segment that is gone, and one that is no segment."""
    with PostgresStore(url) as store, postgres.connect(tmp_path) as other:
        epoch = store.create("run")
        for number in range(3):
            store.append("run", epoch, number, [b"fact"])
        other.execute("DELETE FROM segments WHERE first = 1")
        with pytest.raises(StoreError, match=r"lacks fact 1 of run 'run'"):
            list(store.read("run"))
        other.execute(r"UPDATE segments SET data = '\x00' WHERE first = 2")
        with pytest.raises(StoreError, match="damaged"):
            list(store.read("run", 2))


def test_an_append_at_the_end_of_a_long_run_costs_as_much_as_one_at_its_beginning(postgres, tmp_path, url):
    """Whatever the length, the server writes as much to its log: a row changed and a row added."""

    def written():
        return int(other.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])

    with PostgresStore(url) as store, postgres.connect(tmp_path) as other:
        epoch = store.create("run")
        costs = []
        for begin in range(0, 2_000, 100):
            before = written()
            for number in range(begin, begin + 100):
                store.append("run", epoch, number, [b"fact"])
            costs.append(written() - before)
        assert sum(costs[-5:]) < 1.3 * sum(costs[:5])


# --- names, addresses and passwords ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "told"),
    [("a\x00b", "text"), ("half \ud800", "text"), ("x" * 200 + "".join(map(chr, range(300, 9000))), "shorter")],
)
def test_a_name_that_postgres_cannot_keep(url, run, told):
    """It is an error of ours, and the store goes on."""
    with PostgresStore(url) as store:
        with pytest.raises(StoreError, match=told):
            store.create(run)
        assert store.create("run") == 1


SECRETS = ["postgresql://me:{}@[half/db", "postgresql://me:{}@x@127.0.0.1:1/db", "postgresql://me:{}/x@127.0.0.1/db"]
SECRETS += [
    "postgresql://me:{}@127.0.0.1:port/db",
    "postgresql://me:{}@127.0.0.1/db?nothing=1",
    "mysql://me:{}@host/db",
]
SECRETS += ["postgresql://me:{}@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db?user=me&password={}&x=1"]
SECRETS += ["postgresql://me:{}@127.0.0.1:1/db?schema=no%20name", "postgresql://me:x?{}@127.0.0.1:1/db"]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("door", [open_store, open_artifacts])
def test_no_message_tells_a_password(text, door):
    """Not the message, and not the errors behind it, however wrong the URL is."""
    with pytest.raises(StoreError) as caught:
        door(text.format("open-sesame"))
    told = "".join(traceback.format_exception(caught.value, limit=0))
    assert "sesame" not in told


def test_a_wrong_password_and_a_database_that_is_not_there(postgres, tmp_path):
    """Each says what the server says, where, and what to look at, at once."""
    with pytest.raises(
        StoreError, match=r"dagrid@127\.0\.0\.1:\d+/postgres.*password authentication failed.*password"
    ) as caught:
        PostgresStore(postgres.url(tmp_path, password="open-barley"))
    assert "barley" not in "".join(traceback.format_exception(caught.value, limit=0))
    with pytest.raises(StoreError, match=r'"nowhere" does not exist.*database'):
        PostgresStore(postgres.url(tmp_path, database="nowhere"))


def test_nobody_answers():
    """A user's mistake is told at once and not after the timeout."""
    with pytest.raises(StoreError, match=r"Connection refused.*Look whether the server runs"):
        PostgresStore(f"postgresql://127.0.0.1:{free_port()}/db")


def test_open_by_url(url):
    """Either scheme, and the schema may stand anywhere among the settings; the store and the values are in one place."""
    places = [
        url,
        url.replace("postgresql://", "postgres://"),
        url.replace("?", "?connect_timeout=5&") + "&sslmode=prefer",
    ]
    for number, place in enumerate(places):
        with closing(open_store(place)) as store:
            assert isinstance(store, PostgresStore)
            store.create(f"run-{number}")
            assert len(store.runs()) == number + 1
        open_artifacts(place).put(f"key-{number}", b"value")
    values = open_artifacts(url)
    assert [values.get(f"key-{number}") for number in range(3)] == [b"value"] * 3


def test_tables_of_others_are_left_alone(postgres, tmp_path, url):
    """The default is a schema of our own, so tables of the same name in another one are neither read nor changed."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE public.runs (kilometres INTEGER)")
        try:
            with PostgresStore(url.partition("?")[0]) as store:
                store.create("run")
                assert "(schema dagrid)" in store.place
            assert connection.execute("SELECT count(*) FROM dagrid.runs").fetchone() == (1,)
            assert connection.execute("SELECT count(*) FROM public.runs").fetchone() == (0,)
        finally:
            connection.execute("DROP TABLE public.runs")
            connection.execute("DROP SCHEMA dagrid CASCADE")


def test_without_psycopg(monkeypatch):
    """The remedy is a command to copy."""
    monkeypatch.delitem(sys.modules, "dagrid.stores.postgres")
    monkeypatch.delitem(sys.modules, "dagrid.stores._postgres")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for door in (open_store, open_artifacts):
        with pytest.raises(StoreError, match=r"me:\*\*\*@host/db needs psycopg.*pip install 'dagrid\[postgres\]'"):
            door("postgresql://me:secret@host/db")


# --- values ----------------------------------------------------------------------------------------------------------------


def test_values_can_be_sent_to_another_process(url):
    """A worker that keeps the values of cached nodes gets the place with each call, and connects once."""
    values = PostgresArtifacts(url)
    values.put("key", b"value")
    data = pickle.dumps(values)
    one, other = pickle.loads(data), pickle.loads(data)
    assert one is other
    assert one.get("key") == b"value"
    one.disconnect()
    assert one.get("key") == b"value"


def test_connections_end_with_the_values(postgres, tmp_path):
    """Nobody closes a cache; a process that makes many of them must not use up the server."""
    marked = postgres.url(tmp_path) + "&application_name=counted"
    values = PostgresArtifacts(marked)
    values.put("key", b"value")
    values.get("key")
    del values
    with postgres.connect() as connection:
        deadline = time.monotonic() + 20
        counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
        while connection.execute(counted).fetchone() != (0,):
            assert time.monotonic() < deadline, "the connections are still there"


def test_the_proxy_is_what_it_says(postgres, proxy):
    """A test of lost answers would prove nothing if they came."""
    url = f"postgresql://dagrid:{PASSWORD}@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        proxy.cut_after(b"never answered")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 'never answered'")
    assert proxy.cuts == 1
