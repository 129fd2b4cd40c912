"""Commands that read the history: history, logs, cleanup, stop, enqueue, dequeue, and what a shell completes of them."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagrid import DAG, Node
from dagrid.assemble import start
from dagrid.cli.exits import Exit
from dagrid.history import About, History
from tests.cli.conftest import PATIENCE
from tests.cli.test_describing import completed
from tests.cli.test_graphs import on_a_terminal

ROOT = Path(__file__).parents[2]


def ended(history, name="nightly", status="succeeded", run_id=None, **about):
    """Make a run that has ended, and return where it was."""
    with history.begin(name, About(**about), run_id) as place:
        history.checkpoint.store.append(place.run_id, place.epoch, 0, [b"fact"], status=status, at=time.time())
        return place


@pytest.fixture
def performer(history) -> Iterator[subprocess.Popen[str]]:
    """A process that performs a run `busy` until it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.history.performer", str(history.home), "begin", "busy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    yield process
    process.stdin.close()
    process.wait(PATIENCE)
    process.stdout.close()


# history


def test_runs_in_a_table(dagrid, history):
    """The newest first, with what people look for."""
    ended(history, "a", "failed", "run-1")
    ended(history, "b", "succeeded", "run-2")
    head, *rows = dagrid("history").out.splitlines()
    assert head.split() == ["RUN", "NAME", "STATUS", "CREATED", "TOOK"]
    assert [row.split()[:3] for row in rows] == [["run-2", "b", "succeeded"], ["run-1", "a", "failed"]]
    none = dagrid("history", "c")
    assert (none.code, none.out, none.err) == (0, "", "There are no such runs.\n")
    ended(history, "nightly", "succeeded", "run-3")
    assert dagrid("history", "nihgtly").err == "There are no such runs. Did you mean 'nightly'?\n"


def test_runs_for_programs(dagrid, history):
    """As JSON and as CSV, which hold the same."""
    ended(history, "a", "failed", "run-1", params=("X=1", "a b"), source="/x/a.yaml", trigger="manual")
    (record,) = dagrid("history", "--json").data
    assert dagrid("history", "-f", "json").data[0]["run"] == record["run"] == "run-1"
    assert (record["status"], record["params"], record["trigger"]) == ("failed", ["X=1", "a b"], "manual")
    assert record["created"].endswith("+00:00")
    assert 0 <= record["seconds"] < 60
    (row,) = csv.DictReader(io.StringIO(dagrid("history", "--format", "csv").out))
    assert (row["run"], row["status"], row["source"]) == ("run-1", "failed", "/x/a.yaml")


def test_runs_as_asked(dagrid, history, monkeypatch):
    """By name, status, time, number and id."""
    for number, status in enumerate(("failed", "succeeded", "failed")):
        ended(history, f"n{number % 2}", status, f"run-{number}")

    def listed(*arguments):
        said = dagrid("history", "--json", *arguments)
        assert said.code == 0, said.err
        return [one["run"] for one in said.data]

    assert listed() == ["run-2", "run-1", "run-0"]
    assert listed("n0") == ["run-2", "run-0"]
    assert listed("--status", "failed") == ["run-2", "run-0"]
    assert listed("--status", "failed", "--status", "succeeded", "-l", "2") == ["run-2", "run-1"]
    assert listed("--last", "1h") == ["run-2", "run-1", "run-0"]
    assert listed("--from", "today", "--to", "yesterday") == []
    assert listed("--to", "2020-01-01") == []
    assert listed("--to", "now", "--tz", "Asia/Tokyo") == ["run-2", "run-1", "run-0"]
    assert dagrid("history", "--from", "0001-01-01").code == Exit.USAGE
    assert listed("--run-id", "run-1") == ["run-1"]
    monkeypatch.setenv("DAGRID_HISTORY_LIMIT", "1")
    assert listed() == ["run-2"]
    assert listed("--limit", "0") == ["run-2", "run-1", "run-0"]
    assert dagrid("history", "--last", "1h", "--from", "today").code == Exit.USAGE
    assert dagrid("history", "--run-id", "nothing").code == Exit.UNKNOWN
    assert "succeeded" in dagrid("history", "--status", "succeded").err


def test_a_limit_beyond_all_numbers_of_a_database(dagrid, history):
    """It is no limit."""
    ended(history, "only")
    assert "only" in dagrid("history", "--limit", "9" * 30).out


def test_names_cannot_steer_a_terminal(dagrid, history):
    """What a stranger has called a graph is shown and not obeyed."""
    ended(history, "evil\x1b[2J\nname", "failed", "run-1")
    said = dagrid("history")
    assert "\x1b" not in said.out
    assert r"evil\x1b[2J name" in said.out


def test_last_words_cannot_steer_a_terminal(dagrid, folder):
    """A step that fails says why in words of its own, which had cleared the screen of who was told of them."""
    (folder / "evil.yaml").write_text("steps: [{name: only, script: \"printf 'gone \\\\033[2J\\\\n' >&2; exit 1\"}]\n")
    for said in (dagrid("start", "evil.yaml"), dagrid("explain", "evil"), dagrid("status", "evil")):
        assert "\x1b" not in said.out + said.err
        assert r"gone \x1b[2J" in said.out + said.err


def test_colours_are_for_terminals(dagrid, history, monkeypatch):
    """A pipe gets none, whatever the variables say."""
    ended(history)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in dagrid("history").out


def test_a_run_that_goes_on(dagrid, history, performer):
    """It is running while its process lives; then it is interrupted."""
    (record,) = dagrid("history", "--json").data
    assert (record["status"], record["pid"]) == ("running", performer.pid)
    performer.kill()
    performer.wait(PATIENCE)
    assert dagrid("history", "--json").data[0]["status"] == "interrupted"


# logs


@pytest.fixture
def written(history):
    """A run of a workflow with two steps, of which one has written something."""
    graph = DAG([Node("fetch all", fn=int), Node("load", fn=int)])
    with history.begin("nightly", About(source="nightly.yaml"), "run-1") as place:
        start(graph, checkpoint=history.checkpoint, run_id="run-1", epoch=place.epoch, progress=False).wait()
    place.stdout("fetch all").write_bytes(b"one\ntwo\nthree\n")
    place.stderr("fetch all").write_bytes(b"oh\xff\n")
    place.log.write_text("began\nended\n")
    return place


def test_what_a_run_has_written(dagrid, written):
    """Of the run what happened; of a step its output and its errors, each where it belongs."""
    assert dagrid("logs", "nightly").out == "began\nended\n"
    assert dagrid("logs", "run-1", "fetch all", "--stdout").out == "one\ntwo\nthree\n"
    both = dagrid("logs", "nightly", "fetch all", "--stdout")
    assert both.err == ""
    assert dagrid("logs", "-r", "run-1").out == "began\nended\n"
    assert dagrid("logs", "-r", "run-1", "fetch all", "--stdout").out == "one\ntwo\nthree\n"


def test_logs_for_programs(dagrid, written, shell):
    """A list of lines, each with its stream; when they are followed, a line of JSON for each."""
    assert dagrid("logs", "nightly", "--json").data == [{"stream": "log", "line": line} for line in ("began", "ended")]
    written.stderr("fetch all").write_bytes(b"oh\xff")
    lines = [{"stream": "stdout", "line": line} for line in ("one", "two", "three")]
    lines.append({"stream": "stderr", "line": "oh\ufffd"})
    assert dagrid("logs", "nightly", "fetch all", "--json").data == lines
    followed = dagrid("logs", "nightly", "fetch all", "--json", "--follow", "-n", "1")
    assert [json.loads(line) for line in followed.out.splitlines()] == lines[2:]
    assert dagrid("logs", "nightly", "--json", "-n", "0").data == []


def test_long_logs_for_programs(dagrid, written):
    """They are never held as a whole: many lines are written as they are read, and a long one is put together once."""
    written.stdout("fetch all").write_bytes(b"y\n" * 300_000)
    tracemalloc.start()
    found = dagrid("logs", "nightly", "fetch all", "--json", "--stdout")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * len(found.out)
    assert found.data == [{"stream": "stdout", "line": "y"}] * 300_000
    written.stdout("fetch all").write_bytes(b"y" * 30_000_000)
    began = time.process_time()
    (line,) = dagrid("logs", "nightly", "fetch all", "--json", "--stdout").data
    assert len(line["line"]) == 30_000_000
    assert time.process_time() - began < 8


def test_bytes_are_passed_on_as_they_are(written):
    """A log need not be text."""
    done = subprocess.run(
        [sys.executable, "-m", "dagrid", "logs", "nightly", "fetch all"], capture_output=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == (b"one\ntwo\nthree\n", b"oh\xff\n")


@pytest.mark.parametrize(
    ("lines", "expected"), [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (9, "one\ntwo\nthree\n")]
)
def test_only_the_last_lines(dagrid, written, lines, expected):
    """So many, or all if there are fewer."""
    assert dagrid("logs", "nightly", "fetch all", "--stdout", "-n", lines).out == expected


def test_the_last_line_that_has_no_end(dagrid, written):
    """It counts as one, and so does an empty one; also where the file is long."""
    written.stdout("fetch all").write_bytes(b"x" * 200_000 + b"\n\nlast")
    assert dagrid("logs", "nightly", "fetch all", "--stdout", "-n", "1").out == "last"
    assert dagrid("logs", "nightly", "fetch all", "--stdout", "-n", "2").out == "\nlast"
    assert len(dagrid("logs", "nightly", "fetch all", "--stdout", "-n", "3").out) == 200_000 + 6


def test_logs_that_there_are_not(dagrid, written, history):
    """No such run, no such step, a step that wrote nothing, a run whose folder is gone."""
    assert dagrid("logs", "nihgtly").code == Exit.UNKNOWN
    said = dagrid("logs", "nightly", "fetch al")
    assert said.code == Exit.UNKNOWN
    assert "Did you mean 'fetch all'?" in said.err
    quiet = dagrid("logs", "nightly", "load")
    assert (quiet.code, quiet.out) == (0, "")
    assert "has written nothing" in quiet.err
    assert dagrid("logs", "nightly", "load", "--stdout", "--stderr").code == Exit.USAGE
    assert dagrid("logs").code == Exit.USAGE
    for file in written.folder.iterdir():
        file.unlink()
    written.folder.rmdir()
    gone = dagrid("logs", "nightly")
    assert gone.code == Exit.UNKNOWN
    assert f"are not here: {written.folder} is gone." in gone.err


def test_a_log_is_followed_until_the_run_has_ended(history, performer):
    """What is written meanwhile comes at once, also where the file begins anew, and the end of the run ends it."""
    (info,) = history.runs()
    log = history.folder(info.run) / "run.log"
    log.write_text("first\n")
    reader = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "logs", "-f", "busy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert reader.stdout.readline() == "second\n"
        log.write_text("anew\n")
        assert reader.stdout.readline() == "anew\n"
        with log.open("a") as file:
            file.write("last\n")
        performer.kill()
        out, err = reader.communicate(timeout=PATIENCE)
        assert (out, err, reader.returncode) == ("last\n", "", 0)
    finally:
        reader.kill()
        reader.communicate()


def test_the_last_lines_of_a_log_are_followed_too(history, performer):
    """The store hears of the end first: that it has ended, or that a mail about it was not sent, is written after that."""
    (info,) = history.runs()
    log = history.folder(info.run) / "run.log"
    log.write_text("first\n")
    store = history.checkpoint.store
    (record,) = store.runs(ids={info.run})
    store.append(info.run, record.epoch, 0, [], status="failed", at=time.time())
    reader = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "logs", "-f", info.run], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("the run has ended\n")
        assert reader.stdout.readline() == "the run has ended\n"
        performer.kill()
        assert reader.communicate(timeout=PATIENCE)[0] == ""
    finally:
        reader.kill()
        reader.communicate()


def test_the_log_of_a_run_in_a_queue_is_followed_from_its_beginning(dagrid, history, folder):
    """Whoever has put it there need not know when its turn comes, nor type again when it has waited for a person."""
    (folder / "later.yaml").write_text(
        "logDir: elsewhere\nsteps: [{name: a, command: echo told, approval: {prompt: well?}}]\n"
    )
    run = dagrid("enqueue", "later.yaml").out.strip()
    said = dagrid("logs", run)
    assert (said.code, said.err) == (Exit.UNKNOWN, f"dagrid: Run '{run}' is queued and has written nothing.\n")
    reader = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "logs", "-f", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    try:
        assert dagrid("start", "--next", "later").code == Exit.WAITING
        while "waits for a person" not in (line := reader.stdout.readline()):
            assert line, reader.communicate()
        assert dagrid("approve", run).code == 0
        out, err = reader.communicate(timeout=PATIENCE)
        assert (out.endswith("the run has ended\n"), err, reader.returncode) == (True, "", 0)
    finally:
        reader.kill()
        reader.communicate()


def test_following_can_be_broken_off(history, performer):
    """Ctrl-C ends the reading, and not the run."""
    (info,) = history.runs()
    (history.folder(info.run) / "run.log").write_text("first\n")
    reader = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "logs", "-f", "busy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    reader.send_signal(signal.SIGINT)
    _, err = reader.communicate(timeout=PATIENCE)
    assert reader.returncode == Exit.INTERRUPTED
    assert "Traceback" not in err
    assert history.info(info.run).status == "running"


# cleanup


def test_cleanup_asks_first(dagrid, history, shell):
    """Where nobody can be asked, the answer must be there; nothing is removed otherwise."""
    for number in range(3):
        ended(history, run_id=f"run-{number}")
    assert dagrid("cleanup", "--dry-run").out.split() == ["run-2", "run-1", "run-0"]
    refused = shell("cleanup")
    assert refused.code == Exit.USAGE
    assert "3 runs would be removed for good" in refused.err
    code, drawn = on_a_terminal("cleanup", typed="n\n")
    assert (code, "0 runs removed" in drawn) == (0, True), drawn
    assert len(history.runs()) == 3
    code, drawn = on_a_terminal("cleanup", "--keep", "2", typed="y\n")
    assert (code, "Remove 1 run for good?" in drawn, "1 run removed" in drawn) == (0, True, True), drawn
    assert dagrid("cleanup", "--retention-days", "1", "--yes").out == ""
    assert dagrid("cleanup", "other", "--yes").out == ""
    said = dagrid("cleanup", "nightly", "--yes")
    assert (said.out.split(), said.err) == (["run-2", "run-1"], "2 runs removed\n")
    assert history.runs() == []


def test_what_goes_on_is_not_cleaned_up(dagrid, history, performer):
    """Neither what runs nor what waits in a queue."""
    dagrid("enqueue", _workflow(), "-u", "slow")
    assert dagrid("cleanup", "--yes").out == ""
    assert len(history.runs()) == 2


# stop


def test_stop_waits_for_the_end(dagrid, history, performer):
    """When it returns the run has ended; who stops it again is told how it stands."""
    said = dagrid("stop", "busy")
    assert (said.code, said.out) == (0, "")
    assert f"process {performer.pid}" in said.err
    assert performer.wait(PATIENCE) == -signal.SIGTERM
    again = dagrid("stop", "busy")
    assert again.code == Exit.USAGE
    assert "it is interrupted" in again.err


# queues


def _workflow() -> str:
    Path("nightly.yaml").write_text("queue: slow\nparams: DAY=today\nsteps:\n  - command: echo\n")
    return "nightly.yaml"


def test_into_a_queue_and_out_of_it(dagrid, history, folder):
    """The id is the data; the text of the workflow is kept, and which queue is told by flag, file or name."""
    first = dagrid("enqueue", _workflow(), "--", "DAY=monday")
    assert first.code == 0, first.err
    run = first.out.strip()
    about = history.about(run)
    assert (about.queue, about.params, about.source) == ("slow", ("DAY=monday",), str(folder / "nightly.yaml"))
    assert about.spec == (folder / "nightly.yaml").read_text()
    urgent = dagrid("enqueue", "nightly", "--priority", "5", "-r", "mine", "-N", "other", "--json").data
    assert urgent == {"run": "mine", "name": "other", "queue": "slow", "status": "queued"}
    assert [info.run for info in history.queued("slow")] == ["mine", run]
    said = dagrid("retry", "mine")
    assert (said.code, history.info("mine").status) == (Exit.USAGE, "queued")
    assert "Run 'mine' waits in a queue. Let it be started, or dequeue it." in said.err
    said = dagrid("start", "nightly", "-r", "mine", "-q")
    assert (said.code, history.about("mine").priority) == (Exit.USAGE, 5)
    assert "Run 'mine' waits in the queue 'slow': dagrid start --next slow begins what waits there." in said.err
    assert dagrid("dequeue", "slow").out == "mine\n"
    assert dagrid("dequeue", "slow", "-d", "nightly:none").code == Exit.UNKNOWN
    said = dagrid("dequeue", "slow", "-d", f"other:{run}")  # it is none of that workflow
    assert (said.code, f"no run '{run}' of 'other' in the queue" in said.err) == (Exit.UNKNOWN, True)
    assert "queue 'slow': dagrid start --next slow begins it." in dagrid("status", run).out
    assert dagrid("dequeue", "slow", "-d", f"nightly:{run[:-4]}", "--json").data["run"] == run
    assert dagrid("dequeue", "slow").code == Exit.UNKNOWN
    assert {info.status for info in history.runs()} == {"aborted"}


def test_the_next_of_a_queue_is_one_that_waits(dagrid, history, monkeypatch):
    """Who starts runs takes some meanwhile: those behind them are still there, and one of them was asked for."""
    for run in ("run-1", "run-2"):
        history.enqueue("nightly", About(queue="slow"), run)
    seen = [history.queued("slow")]
    history.dequeue("run-1")
    monkeypatch.setattr(History, "queued", lambda *_: seen.pop() if seen else [history.info("run-2")])
    assert dagrid("dequeue", "slow").out == "run-2\n"


def test_the_beginning_of_an_id_must_be_that_of_one_run(dagrid, history):
    """Of two that begin alike none is taken, unless one is called just that."""
    Path("nightly.yaml").write_text("steps: [x]\n")
    for run in ("run", "run-1", "run-2"):
        assert dagrid("enqueue", "nightly.yaml", "-r", run, "-q").code == 0
    said = dagrid("dequeue", "nightly", "-d", "run-")
    assert said.code == Exit.UNKNOWN
    assert "2 runs in the queue 'nightly' begin with 'run-'. Give more of the id." in said.err
    assert dagrid("dequeue", "nightly", "-d", "run").out == "run\n"
    assert dagrid("dequeue", "nightly", "-d", "run-2").out == "run-2\n"


@pytest.mark.parametrize("command", ["start", "dry", "enqueue"])
def test_a_parameter_that_is_none_but_looks_like_one(dagrid, history, command):
    """Others may be given, which steps find; one that is written almost as one that there is was hardly meant to be another."""
    Path("nightly.yaml").write_text("params: {DAY: today}\nsteps: ['true']\n")
    said = dagrid(command, "nightly.yaml", "--", "DYA=monday", "OTHER=x")
    assert said.code == 0
    assert "nightly.yaml has no parameter 'DYA', which is one more now. Did you mean 'DAY'? (warning)" in said.err
    assert "OTHER" not in said.err
    assert "(warning)" not in dagrid(command, "nightly.yaml", "-q", "--", "DYA=monday").err


def test_what_cannot_run_does_not_wait(dagrid, history):
    """A mistake is told when it is made, and not in the night."""
    Path("closed.yaml").write_text("params:\n  - {name: N, type: integer, required: true}\nsteps:\n  - command: echo\n")
    for arguments in (
        ["closed.yaml"],
        ["closed.yaml", "--", "N=x"],
        ["none.yaml"],
        ["closed.yaml", "-r", "a/b", "--", "N=1"],
    ):
        assert dagrid("enqueue", *arguments).code in (Exit.USAGE, Exit.UNKNOWN), arguments
    assert history.runs() == []


# completion


def test_runs_and_steps_are_completed(dagrid, history, written):
    """Names, ids, and the steps of the run that stands before."""
    ended(history, "other", run_id="run-2")
    assert set(completed("logs", "")) == {"plain,nightly", "plain,other", "plain,run-1", "plain,run-2"}
    assert completed("logs", "run-2") == ["plain,run-2"]
    assert completed("logs", "nightly", "l") == ["plain,load"]
    assert completed("logs", "nothing", "") == []
    assert completed("retry", "nightly", "--from", "l") == ["plain,load"]
    assert set(completed("logs", "--run-id", "run-")) == {"plain,run-1", "plain,run-2"}
    for command in ("history", "cleanup"):  # these take names alone
        assert set(completed(command, "")) == {"plain,nightly", "plain,other"}
