"""Steps of type sql: the same statements on three real databases, and what is each one's own."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from textwrap import indent

import pytest

from dagrid.errors import StepError
from dagrid.workflow.steps import querying
from dagrid.workflow.steps.printing import printed
from dagrid.workflow.steps.querying import query
from dagrid.workflow.steps.statements import statements
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work
from tests.steps.conftest import wrong

KINDS = ["sqlite", "duckdb", pytest.param("postgres", marks=pytest.mark.engine)]


@pytest.fixture(params=KINDS)
def database(request, tmp_path):
    """A kind of database, and the DSN of an empty one."""
    if request.param != "postgres":
        return request.param, f"data.{'db' if request.param == 'sqlite' else 'duckdb'}"
    server = request.getfixturevalue("postgres")
    name = f"d{abs(hash(str(tmp_path)))}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return "postgres", server.url(database=name).partition("?")[0]


class Asker:
    def __init__(self, perform, kind, dsn):
        self.perform, self.kind, self.dsn = perform, kind, dsn

    def __call__(self, script, more="", params="", before=""):
        return self.perform(
            f"{before}\n{params}\nsteps:\n  - name: a\n    type: {self.kind}\n    config:\n      dsn: '{self.dsn}'\n"
            f"{indent(more, '      ')}\n    script: |\n{indent(script, '      ')}\n"
        )


def call_here(work, fn, *args, **kwargs):
    """Call a function in this process, which is quicker by the start of another one."""
    saved, there = [os.dup(1), os.dup(2)], os.getcwd()
    sys.stdout.flush()
    for descriptor, path in ((1, work.stdout), (2, work.stderr)):
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, descriptor)
        os.close(log)
    os.chdir(work.folder)
    try:
        with (
            open(1, "w", closefd=False) as out,
            open(2, "w", closefd=False) as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            fn(*args, **kwargs)
    finally:
        os.chdir(there)
        for descriptor, one in zip((1, 2), saved, strict=True):
            os.dup2(one, descriptor)
            os.close(one)
    yield from ()
    return Returned()


@pytest.fixture
def ask(perform, database, monkeypatch):
    monkeypatch.setattr(Work, "call", call_here)
    return Asker(perform, *database)


TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, price DECIMAL(10, 2));\n"
ROWS = "INSERT INTO t VALUES (1, 'one; not two', 1.50), (2, NULL, 2.25);\n"


def test_the_rows_of_the_last_statement_are_the_output(ask):
    ended = ask(TABLE + ROWS + "-- a comment; with a semicolon\nSELECT id, name FROM t ORDER BY id;")
    assert not ended.error
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"id": 1, "name": "one; not two"},
        {"id": 2, "name": None},
    ]
    assert ask("INSERT INTO t VALUES (3, 'x', 0)").out == ""
    assert ask("UPDATE t SET name = 'y' WHERE id > 1").err == "2 rows changed\n"
    assert ask("SELECT * FROM t WHERE id > 9").out == ""


@pytest.mark.parametrize(
    ("output", "out"),
    [
        ("csv", "id,name\n1,one; not two\n2,-\n"),
        ("csv\nheaders: false", "1,one; not two\n2,-\n"),
        ("json", '[\n    {"id":1,"name":"one; not two"},\n    {"id":2,"name":null}\n]\n'),
        ("table", "id  name\n--  ------------\n 1  one; not two\n 2  -\n"),
        ("csv\nmax_rows: 1", "id,name\n1,one; not two\n"),
    ],
)
def test_forms_of_output(ask, output, out):
    assert not ask(TABLE + ROWS).error
    assert ask("SELECT id, name FROM t ORDER BY id", f"output: {output}\nnull: '-'").out == out


def test_all_statements_count_or_none(ask):
    """A step that fails half-way and is tried again must find what it found the first time."""
    assert not ask(TABLE).error
    assert ask(ROWS + "INSERT INTO no_such VALUES (1)").error
    assert ask("SELECT id FROM t").out == ""
    assert ask(ROWS + "INSERT INTO no_such VALUES (1)", "autocommit: true").error
    assert len(ask("SELECT id FROM t").out.splitlines()) == 2
    assert not ask("BEGIN; DELETE FROM t; COMMIT;").error
    assert ask("SELECT id FROM t").out == ""


def test_values_are_parameters_and_never_text(ask):
    hostile = "x'; DROP TABLE t; --"
    assert not ask(TABLE).error
    named = f"params: {{id: 7, name: {json.dumps(hostile)}}}"
    assert not ask("INSERT INTO t (id, name) VALUES (:id, :name); SELECT CAST('1' AS INTEGER)", named).error
    assert json.loads(ask("SELECT name FROM t WHERE id = :id AND name LIKE '%;%'", "params: {id: 7}").out) == {
        "name": hostile
    }
    by_position = "params: [8, a, 7, 8]"
    ended = ask("INSERT INTO t (id, name) VALUES (?, ?); SELECT count(*) AS n FROM t WHERE id IN (?, ?)", by_position)
    assert json.loads(ended.out) == {"n": 2}
    assert "have 1 parameters, and `params` has 2 values" in ask("SELECT ?", "params: [1, 2]").error
    assert "No statement has the parameter :b" in ask("SELECT :a", "params: {a: 1, b: 2}").error


def test_names_of_the_workflow_are_put_into_the_text(ask):
    script = "SELECT '${DAY}' AS a, $N AS b, '$1 ${NONE}' AS c, '`x`' AS d"
    ended = ask(script, before="params: {DAY: monday, N: 3}")
    assert json.loads(ended.out) == {"a": "monday", "b": 3, "c": "$1 ${NONE}", "d": "`x`"}


def test_errors_say_what_the_database_says(ask):
    ended = ask("SELECT * FROM no_such")
    assert "no_such" in ended.error
    assert "Traceback" not in ended.err
    assert ask("SELEC 1").error


def test_a_long_statement_is_interrupted(ask):
    table = "generate_series(1, 100000000)" if ask.kind == "postgres" else "range(10000000000)"
    slow = f"SELECT count(*) FROM {table} a, {table} b"
    if ask.kind == "sqlite":
        slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    assert "took longer than 0.3 s" in ask(slow, "timeout: 300ms").error


def test_an_interrupt_that_comes_between_two_statements_is_followed_by_others(monkeypatch, tmp_path):
    """It stops nothing; the statement behind it would otherwise have all the time in the world."""
    interrupt, calls = querying._Sqlite.interrupt, []

    def late(database):
        calls.append(database)
        if len(calls) > 1:
            interrupt(database)

    monkeypatch.setattr(querying._Sqlite, "interrupt", late)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    with pytest.raises(StepError, match=r"took longer than 0\.05 s"):
        query("sqlite", str(tmp_path / "data.db"), endless, timeout=0.05)


@pytest.mark.parametrize("more", ["maxRows: 1", "maxRows: 1\nfile: out.jsonl"])
def test_rows_that_are_too_many_undo_nothing(ask, more):
    """PostgreSQL was told to stop sending them, which undid all that the step had changed; and the step had succeeded."""
    table = "range(1, 20001) r(i)" if ask.kind == "duckdb" else "generate_series(1, 20000) r(i)"
    if ask.kind == "sqlite":
        table = "(WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 20000) SELECT i FROM r)"
    name = "x" * 500
    assert not ask(f"{TABLE}INSERT INTO t (id, name) SELECT i, '{name}' FROM {table}").error
    assert not ask("UPDATE t SET price = 1 WHERE id <= 10000;\nSELECT * FROM t ORDER BY id", more).error
    assert json.loads(ask("SELECT count(*) AS n FROM t WHERE price = 1").out) == {"n": 10000}
    assert not ask("DELETE FROM t WHERE id > 5000 RETURNING id, name", more).error
    assert json.loads(ask("SELECT count(*) AS n FROM t").out) == {"n": 5000}


def test_rows_go_to_a_file_whole_or_not_at_all(ask, tmp_path):
    assert not ask(TABLE + ROWS).error
    ended = ask("SELECT id FROM t ORDER BY id", "output: csv\nfile: out.csv")
    assert ended.out == ""
    assert "2 rows in" in ended.err
    assert (tmp_path / "out.csv").read_text() == "id\n1\n2\n"
    assert ask("SELECT id FROM no_such", "output: csv\nfile: out.csv").error
    assert (tmp_path / "out.csv").read_text() == "id\n1\n2\n"


def test_a_file_is_imported(ask, tmp_path):
    (tmp_path / "in.csv").write_text('id,name\n1,a\n2,\n3,"x, y"\n')
    assert not ask(TABLE).error
    taken = "import: {inputFile: in.csv, table: t, batchSize: 2}"
    ended = ask("SELECT id, name FROM t ORDER BY id", taken)
    assert "3 rows from" in ended.err
    assert [json.loads(line)["name"] for line in ended.out.splitlines()] == ["a", None, "x, y"]
    assert ask("SELECT 1 AS a", taken).error
    assert not ask("SELECT 1 AS a", "import: {inputFile: in.csv, table: t, onConflict: ignore}").error
    (tmp_path / "in.jsonl").write_text('{"id": 1, "name": "new"}\n')
    ended = ask(
        "SELECT name FROM t WHERE id = 1", "import: {file: in.jsonl, table: t, onConflict: replace, conflictTarget: id}"
    )
    assert json.loads(ended.out) == {"name": "new"}
    (tmp_path / "in.csv").write_text("id,name\n1\n")
    assert "a row of 1 values where there are 2 columns" in ask("SELECT 1", taken).error


def test_a_file_that_cannot_be_imported_is_told_why_and_where(ask, tmp_path):
    """A value that the first line has no name for was silently left out; other lines ended in tracebacks."""
    assert not ask(TABLE).error
    taken = "import: {file: in.jsonl, table: t}"
    for lines, told in (
        ('{"id": 1}\n\n{"id": 2, "name": "x"}\n', "line 3: the first line has no 'name'. Write columns: [...]"),
        ('{"id": 1}\n[2]\n', "line 2: it is no object of JSON"),
        ("7\n", "line 1: it is no object of JSON"),
        ('{"id": 1}\n{"id": }\n', "line 2: Expecting value"),
    ):
        (tmp_path / "in.jsonl").write_text(lines)
        ended = ask("SELECT 1", taken)
        assert told in ended.error
        assert "Traceback" not in ended.err
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n{"id": 2, "name": "x"}\n')
    ended = ask("SELECT id, name FROM t ORDER BY id", "import: {file: in.jsonl, table: t, columns: [id, name]}")
    assert [json.loads(line)["name"] for line in ended.out.splitlines()] == [None, "x"]


def test_a_long_value_is_imported(ask, tmp_path):
    """Python's own limit is 128 KiB, and nobody could raise it."""
    (tmp_path / "in.csv").write_text("id,name\n1," + "x" * 300_000 + "\n")
    assert not ask(TABLE).error
    ended = ask("SELECT length(name) AS n FROM t", "import: {inputFile: in.csv, table: t}")
    assert (ended.error, ended.out) == ("", '{"n":300000}\n')


def test_a_delimiter_is_one_character(ask):
    message = "'delimiter' of `import` is one character"
    assert message in wrong("steps: [{type: duckdb, config: {import: {file: x, table: t, delimiter: '||'}}}]")[0]
    assert message in ask("SELECT 1", "import: {file: x, table: t, delimiter: '${D}'}", "params: [D='||']").error


def test_a_lock_is_waited_for_no_longer_than_the_statements_may_take(monkeypatch, tmp_path):
    """SQLite waits within one call, which no interrupt ends."""
    seen = []
    connect = sqlite3.connect

    def noted(dsn, *, timeout, **settings):
        seen.append(timeout)
        return connect(dsn, timeout=timeout, **settings)

    monkeypatch.setattr(sqlite3, "connect", noted)
    path = str(tmp_path / "data.db")
    query("sqlite", path, "CREATE TABLE t (a)")
    with contextlib.closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StepError, match=r"locked|took longer than 0\.2 s"):
            query("sqlite", path, "INSERT INTO t VALUES (1)", timeout=0.2)
    assert seen == [30.0, 0.2]


def test_a_large_result_streams(ask, tmp_path):
    """A result must not be held in memory: one of 160 MB comes through a process that grows by less than half of that."""
    if ask.kind == "sqlite":
        numbers = "WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < 399999)"
        text = f"{numbers} SELECT i, hex(zeroblob(200)) AS x FROM c"
    else:
        source = "generate_series(0, 399999) t(i)" if ask.kind == "postgres" else "range(400000) t(i)"
        text = f"SELECT i, repeat('0', 400) AS x FROM {source}"
    text = f"-- all of them\n{text}"
    limited = (
        "import resource\nfrom dagrid.workflow.steps.querying import query\n"
        "def limited(kind, dsn, text, **settings):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    query(kind, dsn, text, **settings)\n"
        "    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "    return grown\n"
    )
    (tmp_path / "limited.py").write_text(limited)
    program = f"import limited; print(limited.limited({ask.kind!r}, {ask.dsn!r}, {text!r}, file='out.jsonl'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=55
    )
    assert (tmp_path / "out.jsonl").stat().st_size > 160_000_000
    assert int(done.stdout) < 80_000


@pytest.mark.engine
def test_a_password_is_in_no_message(perform, postgres, monkeypatch):
    wrong_one = "open-says-me"
    url = postgres.url(password=wrong_one).partition("?")[0]
    step = "steps: [{type: postgres, command: SELECT 1, config: {dsn: '%s'}}]"
    for dsn in (
        url,
        url.replace("127.0.0.1", "127.0.0.1:x"),
        "postgresql://dagrid:open-says-me@127.0.0.1:1/x",
        f"{url}?no=1",
    ):
        ended = perform(step % dsn)
        assert "cannot be opened" in ended.error
        assert wrong_one not in ended.error + ended.err + ended.out


@pytest.mark.parametrize("login", ["port:p", "port:port", "port"])
def test_a_login_spoils_no_message(perform, login):
    """A password that is a letter, or the name of the user, stands in other words too."""
    ended = perform(f"steps: [{{type: postgres, command: x, config: {{dsn: 'postgresql://{login}@127.0.0.1:1/x'}}}}]")
    assert "port 1 failed" in ended.error


@pytest.mark.engine
def test_a_part_of_a_password_is_in_no_message_either(perform):
    """What the client says of a connection string that it cannot read is the word where it stopped."""
    ended = perform(
        "steps: [{type: postgres, command: SELECT 1, config: {dsn: 'host=127.0.0.1 password=open says me'}}]"
    )
    assert "it is no connection string; write postgresql://USER@HOST/NAME" in ended.error
    assert "says" not in ended.error


@pytest.mark.engine
def test_what_is_no_finite_number_is_still_json(perform, postgres):
    ask = Asker(perform, "postgres", postgres.url().partition("?")[0])
    text = "SELECT 'NaN'::numeric AS a, 'Infinity'::numeric AS b, 'NaN'::float8 AS c, 1.50::numeric AS d"
    assert ask(text).out == '{"a":null,"b":null,"c":null,"d":1.50}\n'
    assert ask(text, "output: csv").out == "a,b,c,d\nnan,inf,nan,1.50\n"


@pytest.mark.engine
def test_a_statement_of_a_step_that_was_killed_ends_in_the_server_too(perform, postgres):
    """Otherwise it holds its locks, and may change what the next try changes once more."""
    dsn = postgres.url().partition("?")[0]
    assert perform(
        f"steps: [{{type: postgres, timeoutSec: 0.5, config: {{dsn: '{dsn}'}}, command: SELECT pg_sleep(3333)}}]"
    ).error
    with postgres.connect() as connection:
        deadline = time.monotonic() + 50
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(3333)%' AND state = 'active'"
        while connection.execute(asked).fetchone()[0]:
            assert time.monotonic() < deadline
            connection.execute("SELECT pg_sleep(0.05)")


@pytest.mark.engine
def test_what_postgres_alone_has(perform, postgres):
    ask = Asker(perform, "postgres", postgres.url().partition("?")[0])
    assert not ask("VACUUM").error
    body = (
        "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN a; END; $body$;\n"
        "CREATE OR REPLACE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
        "SELECT f(3) AS f, g() AS g, '{\"a\": [1]}'::jsonb AS j, 5 % 3 AS m, 1.50::numeric AS d, E'it\\'s; x' AS e"
    )
    assert json.loads(ask(body).out) == {"f": 3, "g": 2, "j": {"a": [1]}, "m": 2, "d": 1.5, "e": "it's; x"}
    assert json.loads(ask("SELECT :a::text || '%' AS a", "params: {a: x}").out) == {"a": "x%"}


def test_what_sqlite_alone_has(perform):
    script = (
        "CREATE TABLE t (a); CREATE TABLE log (a);\n"
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); INSERT INTO log VALUES (new.a); END;\n"
        "INSERT INTO t VALUES (1); SELECT count(*) AS n FROM log;"
    )
    assert json.loads(Asker(perform, "sqlite", ":memory:")(script).out) == {"n": 2}


def test_duckdb_reads_files_of_the_folder(perform, tmp_path):
    (tmp_path / "in.csv").write_text("a,b\n1,x\n2,y\n")
    query = "SELECT sum(a) AS s, DATE '2024-01-02' AS d, 1.10 AS p, [1, 2] AS l FROM 'in.csv'"
    text = f'steps: [{{type: duckdb, command: "{query}"}}]'
    assert perform(text).out == '{"s":3,"d":"2024-01-02","p":1.10,"l":[1,2]}\n'


@pytest.mark.parametrize(
    "text", ["-- all\nSELECT 7 AS {}", "WITH x AS (SELECT 7 AS {}) SELECT * FROM x", "SELECT 7 AS {}"]
)
def test_a_column_may_be_called_as_duckdb_calls_what_it_did(perform, text):
    """A query that begins with a comment or with WITH was taken for a statement that had changed so many rows."""
    for name in ("Count", "Success"):
        ended = perform(f"steps: [{{type: duckdb, command: {json.dumps(text.format(name))}}}]")
        assert (ended.out, ended.err) == (f'{{"{name}":7}}\n', "")
    changed = perform("steps: [{type: duckdb, script: 'CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2)'}]")
    assert (changed.out, changed.err) == ("", "2 rows changed\n")


def test_a_general_type_sees_which_database_is_meant(perform, tmp_path, monkeypatch):
    monkeypatch.setattr(Work, "call", call_here)
    for dsn in ("x.db", "sqlite:///x.db", f"sqlite:///{tmp_path}/x.db", "file:x.db?mode=rw"):
        assert not perform(
            f"steps: [{{type: sql, command: CREATE TABLE IF NOT EXISTS t (a), config: {{dsn: '{dsn}'}}}}]"
        ).error
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.close()
    for dsn in ("y.duckdb", "duckdb:///y.duckdb", ":memory:"):
        assert json.loads(perform(f"steps: [{{type: sql, command: SELECT 1 AS a, config: {{dsn: '{dsn}'}}}}]").out) == {
            "a": 1
        }
    assert (tmp_path / "y.duckdb").exists()


@pytest.mark.parametrize(("kind", "package"), [("duckdb", "duckdb"), ("postgres", "psycopg")])
def test_a_package_that_is_missing(kind, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StepError, match=rf"need the package {package}: pip install 'dagrid\[{kind}\]'"):
        query(kind, "x", "SELECT 1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a; b ;; c", ["a", "b", "c"]),
        ("a ';' \";\" -- ;\n; b /* ; /* ; */ ; */ c", ["a ';' \";\" -- ;", "b /* ; /* ; */ ; */ c"]),
        ("a $$ ; $$; b $x$ ; $$ ; $x$", ["a $$ ; $$", "b $x$ ; $$ ; $x$"]),
        ("a 'it''s;'; b E'\\';'; c", ["a 'it''s;'", "b E'\\';'", "c"]),
        ("-- nothing\n;  ;", []),
        ("a 'never closed; b", ["a 'never closed", "b"]),
    ],
)
def test_statements_are_told_apart(text, found):
    assert [one.text for one in statements(text, "postgres")] == found


def test_columns_of_one_name_are_all_there():
    pieces: list[bytes] = []
    printed(["a", "a", "a"], [(1, 2, 3)], "jsonl", pieces.append, headers=True, null="")
    assert b"".join(pieces) == b'{"a":1,"a_2":2,"a_3":3}\n'


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{type: postgres, command: SELECT 1}",
            "a step of type postgres needs a database; write dsn: postgresql://USER@HOST/NAME",
        ),
        ("{type: sql, command: SELECT 1, config: {dsn: x.txt}}", "it cannot be seen which database that is"),
        ("{type: duckdb}", "a step of type duckdb has nothing to do"),
        ("{type: duckdb, command: SELECT 1, config: {output: jsno}}", "Did you mean 'json'?"),
        (
            "{type: duckdb, command: SELECT 1, config: {params: 3}}",
            "'params' is a mapping of names to values, or a list",
        ),
        (
            "{type: duckdb, command: SELECT 1, config: {dsn: a.duckdb, path: b.duckdb}}",
            "'path' means the same as 'dsn', which is said already; keep one",
        ),
        ("{type: duckdb, config: {import: {fiel: x, table: t}}}", "unknown key 'fiel' in import"),
        (
            "{type: duckdb, config: {import: {file: x, table: t, onConflict: igonre}}}",
            "in import: 'onConflict' must be one of error, ignore, replace, not 'igonre'. Did you mean 'ignore'?",
        ),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
