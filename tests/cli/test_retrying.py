"""Runs taken up again and begun anew through the real command: retry, also after a kill, and restart."""

from __future__ import annotations

import re
import signal

import pytest

from dagrid.cli.commands import resuming
from dagrid.cli.exits import Exit
from dagrid.errors import StoreError
from dagrid.history import About
from dagrid.stores.sqlite import SQLiteStore
from tests.cli.conftest import NIGHTLY, PATIENCE, appeared, process

pytestmark = pytest.mark.usefixtures("files")


def test_retry_goes_on_with_what_did_not_complete(dagrid, history, files):
    """The same run, with what completed before; from a named step all behind it is done anew."""
    assert dagrid("start", "nightly.yaml", "-q").code == Exit.FAILED
    (files / "ok").write_text("")
    said = dagrid("retry", "nightly", "--json")
    assert said.code == 0, said.err
    (info,) = history.runs()
    assert (said.data["run"], info.status) == (info.run, "succeeded")
    attempts = {step["name"]: step["attempts"] for step in said.data["steps"]}
    assert attempts == {"fetch": 1, "load": 2, "report": 1}
    again = dagrid("retry", "nightly")
    assert again.code == Exit.USAGE
    assert "has succeeded" in again.err
    anew = dagrid("retry", "nightly", "--from", "load", "--json")
    assert anew.code == 0, anew.err
    assert {step["name"]: step["attempts"] for step in anew.data["steps"]} == {"fetch": 1, "load": 3, "report": 2}
    wrong = dagrid("retry", "nightly", "--from", "laod")
    assert wrong.code == Exit.UNKNOWN
    assert "Did you mean 'load'?" in wrong.err


GRAPH = """
from pathlib import Path
from dagrid import DAG, Node


def load():
    Path("ok").read_bytes()


def done():
    with open("done", "a") as file:
        file.write("done\\n")


flow = DAG([Node("load", load), Node("on_success", done, handler="success")])
"""
STEPS = """
handlerOn: {success: {command: echo done >> done}}
steps: [{name: load, command: test -e ok}]
"""


@pytest.mark.parametrize("started", ["flow.yaml", "flow:flow"])
def test_two_who_retry_a_run_at_once_do_not_end_it_twice(dagrid, history, files, monkeypatch, started):
    """Who is slower has seen it as it was before the other one went on with it, and finds that it has succeeded."""
    (files / "flow.yaml").write_text(STEPS)
    (files / "flow.py").write_text(GRAPH)
    assert dagrid("start", started, "--name", "mine").code == 1
    seen = history.find("mine")
    (files / "ok").touch()
    assert dagrid("retry", "mine").code == 0
    monkeypatch.setattr(resuming, "chosen", lambda *_: seen)
    said = dagrid("retry", "mine")
    assert said.code == 0, said.err
    assert (files / "done").read_text() == "done\n"


def test_a_run_that_can_be_recorded_no_more_is_interrupted(dagrid, history, files, monkeypatch):
    """That is what it is to all others; who started it hears the same, and how it goes on."""
    (files / "full.yaml").write_text("steps: [echo a >> a, touch full, test -e ok]\n")
    append = SQLiteStore.append

    def refused(*arguments, **settings):
        if (files / "full").exists() and not (files / "ok").exists():
            raise StoreError("The disk is full: make room.")
        return append(*arguments, **settings)

    monkeypatch.setattr(SQLiteStore, "append", refused)
    said = dagrid("start", "full.yaml")
    (run,) = history.runs()
    assert (said.code, run.status) == (Exit.INTERRUPTED, "interrupted"), said.err
    assert "The disk is full: make room." in said.err
    assert "full interrupted after" in said.err
    assert f"Go on with it: dagrid retry {run.run}" in said.err
    (files / "ok").touch()
    assert dagrid("retry", run.run).code == 0
    assert (files / "a").read_text() == "a\n"


def test_retry_after_kill_9(dagrid, history, files):
    """A run whose process was killed is interrupted; what had completed stays, what was under way runs again."""
    (files / "long.yaml").write_text(
        "steps:\n"
        "  - {name: first, command: 'echo first >> ran'}\n"
        "  - {name: second, command: 'echo second >> ran; touch there; test -e go || sleep 600'}\n"
        "  - {name: third, command: 'echo third >> ran'}\n"
    )
    with process("start", "long.yaml") as running:
        appeared(files / "there")
        assert running.stderr is not None
        assert any("second: started" in line for line in running.stderr)
        running.kill()
        running.wait(PATIENCE)
    assert history.runs()[0].status == "interrupted"
    told = dagrid("status", "long").out
    assert "dagrid retry" in told
    assert re.search(r"second +interrupted +\d+ ms +ran when the process of the run ended\n", told), told
    assert (
        "'second' ran when the process of the run ended; dagrid retry runs it again." in dagrid("explain", "long").out
    )
    (first, second, third) = dagrid("status", "long", "--json").data["steps"]
    assert [step["status"] for step in (first, second, third)] == ["completed", "interrupted", "pending"]
    assert "seconds" not in second
    (files / "go").write_text("")
    said = dagrid("retry", "long")
    assert said.code == 0, said.err
    assert (files / "ran").read_text().split() == ["first", "second", "second", "third"]
    assert len(history.runs()) == 1


def test_what_is_told_of_a_step_whose_next_try_has_nobody_to_begin_it(dagrid, files):
    """It was said to be tried again in some seconds, by a process that was gone."""
    (files / "again.yaml").write_text(
        "steps: [{name: a, command: 'touch there; test -e go', retryPolicy: {limit: 3, intervalSec: 3600}}]\n"
    )
    with process("start", "again.yaml") as running:
        assert running.stderr is not None
        assert any("a: will be tried again" in line for line in running.stderr)
        running.kill()
        running.wait(PATIENCE)
    said = "waited for its next try when the process of the run ended"
    assert f"'a' {said}; dagrid retry goes on with it." in dagrid("explain", "again").out
    assert said in dagrid("status", "again").out
    assert dagrid("status", "again", "--json").data["steps"][0]["reason"] == said


def test_retry_as_often_as_its_process_is_killed(dagrid, history, files):
    """A person asks for it, also for what is called: it is not taken for what kills whoever performs it."""
    (files / "long.yaml").write_text(
        "steps: [{name: call, call: child}]\n"
        "---\n"
        "name: child\n"
        "steps: [{name: s, command: 'touch there.$(ls there.* 2> /dev/null | wc -l); test -e go || sleep 600'}]\n"
    )
    for number in range(4):
        with process(*("retry", history.runs()[0].run) if number else ("start", "long.yaml")) as running:
            appeared(files / f"there.{number}")
            running.kill()
            running.wait(PATIENCE)
    (files / "go").write_text("")
    said = dagrid("retry", "long")
    assert said.code == 0, said.err


def test_retry_of_a_run_that_never_began(dagrid, history, files):
    """Its process was killed before anything ran: it begins, under the id that it had."""
    (files / "ok").write_text("")
    about = About(source=str(files / "nightly.yaml"), spec=NIGHTLY, params=("DAY=monday",), more={"folder": str(files)})
    with history.begin("nightly", about) as place:
        run = place.run_id
    assert history.info(run).status == "interrupted"
    said = dagrid("retry", run)
    assert said.code == 0, said.err
    assert history.info(run).status == "succeeded"
    assert dagrid("logs", run, "fetch", "--stdout").out == "fetched monday\n"


def test_a_retry_that_is_refused_takes_nothing_away(dagrid, history, files):
    """A run that never began is all that is left of what somebody wanted: its id, its parameters, its text. A retry that cannot
    begin it either leaves it, says why, and the next one may find the remedy in place.
    """
    text = "dotenv: [settings.env]\nsteps: [{name: only, command: 'echo $ANSWER'}]\n"
    queued = history.enqueue("reads", About(queue="q", source="reads.yaml", spec=text, more={"folder": str(files)}))
    graph = history.enqueue(
        "later", About(kind="graph", queue="q", source="flows_of_later:dag", more={"folder": str(files)})
    )
    for run in (queued, graph):
        history.dequeue(run)
    (files / "settings.env").mkdir()  # it cannot be read
    before = history.about(queued)
    for run in (queued, graph):
        for _ in range(2):
            assert dagrid("retry", run).code == Exit.USAGE
    assert {info.run: info.status for info in history.runs()} == {queued: "failed", graph: "aborted"}
    assert (history.about(queued).spec, history.about(queued).queue) == (before.spec, "q")
    assert "could not be started" in (history.folder(queued) / "run.log").read_text()
    (files / "settings.env").rmdir()
    (files / "settings.env").write_text("ANSWER=42\n")
    (files / "flows_of_later.py").write_text("from dagrid import DAG, Node\ndag = DAG([Node('only', fn=int)])\n")
    for run in (queued, graph):
        assert dagrid("retry", run).code == 0
    assert dagrid("logs", queued, "only", "--stdout").out == "42\n"
    assert {info.status for info in history.runs()} == {"succeeded"}


def test_what_may_not_be_chosen_is_refused_before_it_waits(dagrid, history, files):
    """Whoever enqueues it hears so at once, and not whoever looks for its result."""
    (files / "fixed.yaml").write_text(
        "runConfig: {disableParamEdit: true, disableRunIdEdit: true}\nparams: A=1\nsteps: [{name: a, command: echo $A}]"
    )
    for chosen, wrong in ((("--run-id", "mine"), "the id of a run"), (("--", "A=2"), "its parameters")):
        said = dagrid("enqueue", "fixed.yaml", *chosen)
        assert said.code == Exit.USAGE
        assert f"{wrong} may not be" in said.err
    assert history.runs() == []
    assert dagrid("enqueue", "fixed.yaml").code == 0
    assert dagrid("start", "--next", "fixed").code == 0


def test_a_run_in_a_queue_is_not_retried(dagrid, history, files):
    """It has not failed, and whoever serves the queue would perform it as well."""
    run = history.enqueue("nightly", About(queue="q", source="nightly.yaml", spec=NIGHTLY, more={"folder": str(files)}))
    said = dagrid("retry", run)
    assert said.code == Exit.USAGE
    assert "dequeue" in said.err
    assert history.info(run).status == "queued"


def test_restart_is_a_new_run(dagrid, history, files):
    """Of the file as it is now, with the parameters of then."""
    assert dagrid("start", "nightly.yaml", "-q", "--", "DAY=monday").code == Exit.FAILED
    (files / "nightly.yaml").write_text("params: DAY\nsteps: [{name: new, command: 'echo new $DAY'}]\n")
    assert dagrid("restart", "nightly").code == 0
    new, old = history.runs()
    assert (new.status, old.status) == ("succeeded", "failed")
    assert dagrid("logs", "nightly", "new", "--stdout").out == "new monday\n"
    # Where the file is gone, what it was is known.
    (files / "nightly.yaml").unlink()
    assert dagrid("restart", "nightly").code == 0
    assert dagrid("start", "--from-run-id", old.run, "-q").code == Exit.FAILED


def test_restart_means_the_same_file_from_another_folder(dagrid, history, files, monkeypatch):
    """There may be another workflow of that name where somebody types the command, and nobody has asked for that."""
    assert dagrid("start", "nightly.yaml", "-q").code == Exit.FAILED
    (files / "elsewhere").mkdir()
    (files / "elsewhere" / "nightly.yaml").write_text("steps: [echo other]\n")
    (files / "nightly.yaml").write_text("steps: [echo changed]\n")
    monkeypatch.chdir(files / "elsewhere")
    assert dagrid("restart", "nightly").code == 0
    run = history.runs()[0].run
    assert history.about(run).source == str(files / "nightly.yaml")
    assert dagrid("logs", run, "cmd_1").out == "changed\n"


def test_what_was_called_is_started_anew_by_itself(dagrid, history, files):
    """It is one document of a file of several: all of that file ran once more, under the name of what was called."""
    (files / "two.yaml").write_text(
        "steps:\n  - {name: only, call: inner, params: X=then}\n  - touch outer\n"
        "---\nname: inner\nparams: X=never\nsteps: ['echo $X >> ran']\n"
    )
    assert dagrid("start", "two.yaml").code == 0
    (files / "outer").unlink()
    assert dagrid("restart", "inner").code == 0
    assert dagrid("retry", "inner", "--from", "cmd_1").code == 0
    assert dagrid("start", "--from-run-id", "inner").code == 0
    assert (files / "ran").read_text().split() == ["then"] * 4
    assert [info.name for info in history.runs()] == ["inner", "inner", "two"]
    assert not (files / "outer").exists()
    # Where the file has it no more, there is nothing to be started.
    (files / "two.yaml").write_text("steps: [touch outer]\n---\nname: iner\nsteps: ['true']\n")
    said = dagrid("restart", "inner")
    assert (said.code, "Did you mean 'iner'?" in said.err) == (Exit.UNKNOWN, True)


def test_restart_stops_what_waits(dagrid, history, files):
    """A person was still asked, and a queue still had the run, beside the one that was to take its place."""
    (files / "ask.yaml").write_text("steps: [{name: a, command: 'true', approval: {prompt: well?}}]\n")
    assert dagrid("start", "ask.yaml").code == Exit.WAITING
    assert dagrid("restart", "ask").code == Exit.WAITING
    assert dagrid("enqueue", "nightly.yaml").code == 0
    assert dagrid("restart", "nightly").code == Exit.FAILED
    stands = [(info.name, info.status) for info in history.runs()]
    assert stands == [("nightly", "failed"), ("nightly", "aborted"), ("ask", "waiting"), ("ask", "aborted")]


def test_restart_stops_what_goes_on(dagrid, history, files):
    """The old run is over before the new one begins."""
    (files / "long.yaml").write_text(
        "steps:\n  - {name: only, command: 'test -e there || { touch there; sleep 600; }'}\n"
    )
    with process("start", "long.yaml") as running:
        appeared(files / "there")
        said = dagrid("restart", "long")
        assert said.code == 0, said.err
        assert running.wait(PATIENCE) == Exit.INTERRUPTED
    assert [info.status for info in history.runs()] == ["succeeded", "aborted"]


def test_a_run_that_is_performed_is_not_taken_away(dagrid, history, files):
    """Whoever retries it is told which process has it."""
    (files / "long.yaml").write_text("steps:\n  - {name: only, command: 'touch there; sleep 600'}\n")
    with process("start", "long.yaml") as running:
        appeared(files / "there")
        said = dagrid("retry", "long")
        assert said.code == Exit.USAGE
        assert f"process {running.pid}" in said.err
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == Exit.INTERRUPTED
