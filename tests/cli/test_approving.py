"""Runs that wait for a person, through the real command: also in what they have called, in handlers, and graphs of Python's."""

from __future__ import annotations

import re
import time

import pytest

from dagrid.cli.exits import Exit
from dagrid.workflow import running
from tests.cli.conftest import PATIENCE, appeared, process

NESTED = """
steps:
  - {name: a, call: mid}
  - {name: after, command: touch after}
---
name: mid
steps: [{name: b, call: leaf}]
---
name: leaf
steps:
  - {name: first, command: echo x >> first}
  - {name: ask, approval: {prompt: Well?, required: [WHY]}}
  - {name: last, command: 'echo "$WHY" >> last'}
"""
GRAPH = """
from dagrid import DAG, Node, WaitForSignal

def ask():
    raise WaitForSignal("Deploy?", {"version": "1.2"})

def deploy(ask):
    print("deployed", ask)

dag = DAG([Node(ask), Node(deploy, depends_on=["ask"])], name="deploying")
"""


SECRET = """
secrets: [{name: KEY, provider: env, key: HIDDEN}]
steps: [{name: c, call: one, params: "K=$KEY"}]
---
name: one
params: K=none
steps: [{name: ask, approval: well?}, {name: s, command: echo "$K" > got}]
"""
BEHIND = """
type: graph
steps:
  - {name: a, command: 'echo x >> tries; test $(wc -l < tries) != 2'}
  - {name: gate, approval: well?, depends: a}
  - {name: c, call: one, depends: a}
  - {name: last, command: touch last, depends: [gate, c]}
---
name: one
steps: [{name: s, command: echo s >> s, approval: {prompt: child?}}]
"""


@pytest.fixture
def nested(folder):
    (folder / "nested.yaml").write_text(NESTED)
    return folder


@pytest.mark.parametrize("which", ["whole", "child"])
def test_a_person_is_asked_in_what_was_called(dagrid, history, nested, which):
    """The whole waits, and says where; who answers there, or where it began, goes on with all of it."""
    said = dagrid("start", "nested.yaml", "--json")
    assert said.code == Exit.WAITING, said.err
    (run,) = history.runs()
    _, leaf = history.children(run.run)
    assert said.data["waiting"] == [{"run": leaf.run, "step": "ask", "prompt": "Well?"}]
    assert f"ask of run {leaf.run} waits for a person: Well?" in said.err
    assert f"dagrid approve {leaf.run} STEP" in said.err
    assert {info.status for info in (run, *history.children(run.run))} == {"waiting"}
    assert leaf.run in dagrid("status", "nested").out
    assert dagrid("retry", run.run, "-q").code == Exit.WAITING
    where = {"whole": [run.run], "child": [leaf.run, "ask"]}[which]
    said = dagrid("approve", *where)
    assert said.code == Exit.USAGE, "it asks for WHY"
    assert "asks for WHY" in said.err
    assert dagrid("approve", *where, "--input", "WHY=so").code == 0
    assert [(nested / name).read_text() for name in ("first", "last", "after")] == ["x\n", "so\n", ""]
    assert {info.status for info in history.runs(children=True)} == {"succeeded"}


def test_a_process_that_ends_when_it_has_kept_an_answer_leaves_a_run_to_go_on_with(dagrid, history, nested):
    """What was called does not wait any more, and what has called it still does: whoever answers once more hears what to do."""
    dagrid("start", "nested.yaml", "-q")
    (run,) = history.runs()
    _, leaf = history.children(run.run)
    running.answer(history, leaf.run, signals={"ask": {"WHY": "so"}})
    assert [history.info(one.run).status for one in (run, leaf)] == ["waiting", "interrupted"]
    assert "dagrid retry goes on with it" in dagrid("status", leaf.run).out
    said = dagrid("approve", run.run, "--input", "WHY=no")
    assert said.code == Exit.USAGE
    assert f"dagrid retry {run.run}" in said.err
    assert dagrid("retry", run.run, "-q").code == 0
    assert (nested / "last").read_text() == "so\n"


def test_a_run_waits_for_a_person(dagrid, history, files):
    """It holds no process: who approves it goes on with it, and what he says is there for the steps behind."""
    said = dagrid("start", "gate.yaml")
    assert said.code == Exit.WAITING, said.err
    assert "Are the figures right?" in said.err
    (info,) = history.runs()
    assert info.status == "waiting"
    status = dagrid("status", "gate", "--json").data
    assert status["waiting"] == [{"step": "check", "prompt": "Are the figures right?"}]
    assert dagrid("approve", "gate", "before").code == Exit.USAGE
    done = dagrid("approve", "gate", "check", "--input", "TICKET=OPS-7")
    assert done.code == 0, done.err
    assert dagrid("logs", "gate", "after", "--stdout").out == "after OPS-7\n"
    late = dagrid("approve", "gate")
    assert late.code == Exit.USAGE
    assert "No step of run" in late.err


def test_a_person_refuses(dagrid, history, files):
    """The step has failed for that reason, and so has the run."""
    assert dagrid("start", "gate.yaml", "-q").code == Exit.WAITING
    said = dagrid("reject", "gate", "--reason", "the figures are wrong")
    assert said.code == Exit.FAILED
    assert "the figures are wrong" in said.err
    assert history.runs()[0].status == "failed"


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_the_run_is_named_by_its_flag_too(dagrid, history, files, command):
    """As for any command that is given a run; one that is told none says what to name."""
    assert dagrid("start", "gate.yaml", "-q").code == Exit.WAITING
    said = dagrid(command)
    assert (
        said.code,
        f"Name the run: its id, the beginning of it, or a name, as in: dagrid {command}" in said.err,
    ) == (
        Exit.USAGE,
        True,
    )
    (info,) = history.runs()
    dagrid(command, "--run-id", info.run, *(("--input", "TICKET=1") if command == "approve" else ()))
    assert history.runs()[0].status == ("succeeded" if command == "approve" else "failed")


def test_a_run_that_waits_can_be_stopped(dagrid, history, files):
    """Nobody performs it, and still it ends; so does one that waits in a queue."""
    assert dagrid("start", "gate.yaml", "-q").code == Exit.WAITING
    assert dagrid("stop", "gate", "--json").data["status"] == "aborted"
    run = dagrid("enqueue", "gate.yaml").out.strip()
    assert dagrid("stop", run, "--json").data["status"] == "aborted"
    assert history.queued() == []


def test_a_run_that_waits_while_other_steps_are_at_work(dagrid, history, files):
    """It cannot be answered yet, and it is said why; when they have ended it can."""
    (files / "both.yaml").write_text(
        "type: graph\nsteps:\n"
        "  - {name: check, command: touch asked, approval: {prompt: well?}}\n"
        "  - {name: long, command: 'until test -e go; do sleep 0.02; done'}\n"
    )
    with process("start", "both.yaml") as running:
        appeared(files / "asked")
        deadline = time.monotonic() + PATIENCE
        while not dagrid("status", "both", "--json").data["waiting"]:
            assert time.monotonic() < deadline
        said = dagrid("approve", "both")
        assert said.code == Exit.USAGE
        assert f"process {running.pid}" in said.err
        assert "still at work" in said.err
        (files / "go").touch()
        assert running.wait(PATIENCE) == Exit.WAITING
    assert dagrid("approve", "both").code == 0


def test_a_person_refuses_in_what_was_called(dagrid, history, nested):
    """It has failed, and so have those that called it; nobody is asked again before somebody tries it again."""
    assert dagrid("start", "nested.yaml", "-q").code == Exit.WAITING
    said = dagrid("reject", "nested", "--reason", "not today")
    assert said.code == Exit.FAILED
    assert "not today" in said.err
    assert {info.status for info in history.runs(children=True)} == {"failed"}
    assert dagrid("retry", "nested", "-q").code == Exit.WAITING


def test_a_run_is_stopped_that_waits_in_what_it_called(dagrid, history, nested):
    """None of them waits any more."""
    assert dagrid("start", "nested.yaml", "-q").code == Exit.WAITING
    assert dagrid("stop", "nested").code == 0
    assert {info.status for info in history.runs(children=True)} == {"aborted"}


def test_a_run_that_was_stopped_while_it_waited_is_taken_up_again(dagrid, history, nested):
    """Whoever tries it again is asked again: that those were stopped that it has called is no answer."""
    assert dagrid("start", "nested.yaml", "-q").code == Exit.WAITING
    assert dagrid("stop", "nested").code == 0
    assert dagrid("retry", "nested", "-q").code == Exit.WAITING
    assert dagrid("approve", "nested", "--input", "WHY=so").code == 0
    assert {info.status for info in history.runs(children=True)} == {"succeeded"}


def test_what_was_called_at_once_waits_at_once(dagrid, history, folder):
    """Each is answered by itself, and what the others did is not done again."""
    (folder / "many.yaml").write_text(
        "steps:\n  - {name: each, call: one, parallel: [1, 2]}\n"
        "---\nname: one\nsteps: [{name: s, command: echo s >> s, approval: {prompt: well?}}]\n"
    )
    assert dagrid("start", "many.yaml", "-q").code == Exit.WAITING
    said = dagrid("approve", "many")
    assert said.code == Exit.USAGE
    assert "Name one of them" in said.err
    (run,) = history.runs()
    first, second = history.children(run.run)
    assert dagrid("approve", first.run).code == Exit.WAITING
    assert dagrid("approve", second.run).code == 0
    assert (folder / "s").read_text() == "s\n" * 2


def test_a_failure_leaves_nobody_waiting_in_what_was_called_beside_it(dagrid, history, folder):
    """The step ends when all of its runs have: until then they can be answered, and what has failed does not run again."""
    (folder / "many.yaml").write_text(
        "steps: [{name: each, call: one, parallel: [1, 2, 3]}]\n"
        "---\nname: one\nsteps:\n"
        "  - {name: s, command: 'echo $1 >> s; test $1 != 2'}\n"
        "  - {name: ask, approval: well?, command: 'true'}\n"
    )
    assert dagrid("start", "many.yaml", "-q").code == Exit.WAITING
    (run,) = history.runs()
    first, third = [child for child in history.children(run.run) if child.status == "waiting"]
    assert dagrid("reject", first.run).code == Exit.WAITING
    said = dagrid("approve", third.run)
    assert said.code == Exit.FAILED
    assert "2 of 3 runs of the workflow 'one' did not succeed; the first of them has failed" in said.err
    assert sorted((folder / "s").read_text().split()) == ["1", "2", "3"]
    assert sorted(child.status for child in history.children(run.run)) == ["failed", "failed", "succeeded"]


def test_a_person_is_asked_in_what_was_called_with_a_secret(dagrid, history, folder, monkeypatch):
    """The answer is taken without the secret, which only the run that called it has; that goes on with both."""
    monkeypatch.setenv("HIDDEN", "s3cr3t-t0ken")
    (folder / "secret.yaml").write_text(SECRET)
    assert dagrid("start", "secret.yaml", "-q").code == Exit.WAITING
    said = dagrid("approve", "secret")
    assert said.code == 0, said.err
    assert (folder / "got").read_text() == "s3cr3t-t0ken\n"
    assert {info.status for info in history.runs(children=True)} == {"succeeded"}


def test_what_a_person_says_is_kept_without_secrets(dagrid, history, folder, monkeypatch):
    """An answer is in the history as what steps print is, and a secret stands there never."""
    monkeypatch.setenv("HIDDEN", "s3cr3t-t0ken")
    (folder / "say.yaml").write_text(
        "secrets: [{name: KEY, provider: env, key: HIDDEN}]\n"
        "steps: [{name: a, approval: {prompt: one, input: [WHY]}}, {name: b, approval: two}]\n"
    )
    assert dagrid("start", "say.yaml", "-q").code == Exit.WAITING
    said = [
        dagrid("approve", "say", "--input", "WHY=for s3cr3t-t0ken"),
        dagrid("reject", "say", "--reason", "no s3cr3t-t0ken"),
    ]
    assert [one.code for one in said] == [Exit.WAITING, Exit.FAILED]
    said += [dagrid("status", "say"), dagrid("status", "say", "--json"), dagrid("explain", "say")]
    assert "for *******" in said[3].out
    assert "no *******" in said[3].out
    assert not [one for one in said if "s3cr3t" in one.out + one.err]
    assert not [file for file in history.home.rglob("*") if file.is_file() and b"s3cr3t" in file.read_bytes()]


def test_what_waits_behind_a_step_that_runs_anew_is_asked_anew(dagrid, history, folder):
    """It went on at once, or could be answered, while what comes before it was still at work, or had failed."""
    (folder / "behind.yaml").write_text(BEHIND)
    assert dagrid("start", "behind.yaml", "-q").code == Exit.WAITING
    assert dagrid("retry", "behind", "--from", "a", "-q").code == Exit.FAILED, "what comes before has failed"
    steps = dagrid("status", "behind", "--json").data["steps"]
    assert [step["status"] for step in steps] == ["failed", "skipped", "skipped", "skipped"]
    assert dagrid("retry", "behind", "-q").code == Exit.WAITING
    assert dagrid("approve", "behind", "gate").code == Exit.WAITING
    assert dagrid("approve", "behind").code == 0
    assert (folder / "last").exists()
    assert (folder / "s").read_text() == "s\n"
    assert dagrid("retry", "behind", "--from", "gate", "-q").code == Exit.WAITING
    assert dagrid("retry", "behind", "--from", "gate", "-q").code == Exit.WAITING
    assert dagrid("approve", "behind", "gate").code == 0


def test_a_handler_waits_for_a_person(dagrid, folder):
    """It is answered as any step is, by the name that it has in the run."""
    (folder / "end.yaml").write_text(
        "handlerOn: {exit: {command: echo bye, approval: {prompt: ok}}}\nsteps: [echo a]\n"
    )
    assert dagrid("start", "end.yaml", "-q").code == Exit.WAITING
    assert dagrid("approve", "end", "onExit").code == 0


def test_a_graph_of_pythons_waits_for_a_person(dagrid, history, folder):
    """What the person enters is the value of the node, as a mapping."""
    (folder / "flows.py").write_text(GRAPH)
    said = dagrid("start", "flows:dag", "--json")
    assert said.code == Exit.WAITING
    (run,) = history.runs()
    assert said.data["waiting"] == [{"run": run.run, "step": "ask", "prompt": "Deploy?"}]
    assert not re.search(r"\bms\b", dagrid("status", run.run).out.partition("ask")[2]), (
        "who waits for a person does not run"
    )
    assert run.status == "waiting"
    said = dagrid("approve", "deploying", "--input", "BY=Ada")
    assert said.code == 0, said.err
    assert "deployed {'BY': 'Ada'}" in said.out
    assert dagrid("start", "flows:dag", "-q").code == Exit.WAITING
    assert dagrid("reject", "deploying", "ask").code == Exit.FAILED
    assert dagrid("start", "flows:dag", "-q").code == Exit.WAITING
    assert dagrid("stop", "deploying").code == 0
    assert history.runs()[0].status == "aborted"
