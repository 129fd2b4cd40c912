"""Runs that go on: with the answer of a person, after a failure, and after their process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagrid.errors import InvalidSettingError, RunStateError, UnknownNodeError


def test_an_approval_waits_without_a_process_and_goes_on_elsewhere(runner):
    """The run is given up while it waits; whoever approves goes on with it, and what the person entered is a variable."""
    started = runner.start(
        """
        steps:
          - {name: a, command: echo a}
          - {name: ask, approval: {prompt: Go on?, input: [WHY]}}
          - {name: b, command: 'echo "because $WHY"'}
        """
    )
    assert started.run.settle(30) is False
    assert started.run.waiting == ("ask",)
    started.detach()
    assert runner.history.info(started.place.run_id).status == "waiting"
    told = runner.go_on(started.place.run_id, signals={"ask": {"WHY": "it is late"}})
    assert told.status == "succeeded"
    assert told.out("b") == "because it is late\n"
    assert told.out("a") == "a\n"


@pytest.mark.parametrize(
    "step",
    [
        "type: approval",
        "type: hitl, config: {prompt: 'On with ${A}?', input: WHY}",
        "executor: {type: approval, config: {prompt: 'On with ${A}?', required: [WHY]}}",
        "executor: {type: hitl}, with: {prompt: 'On with ${A}?', input: [WHY]}",
        "executor: approval, approval: {prompt: 'On with ${A}?', input: [WHY]}",
    ],
)
def test_a_step_whose_type_is_to_wait_for_a_person_does(runner, step):
    """It had succeeded at once and asked nobody, whatever stood in its settings."""
    started = runner.start(f"params: A=a\nsteps: [{{name: ask, {step}}}, {{name: b, command: 'echo \"$WHY\"'}}]")
    assert started.run.settle(30) is False
    assert started.run.waiting == ("ask",)
    assert started.run.held("ask")[0] == ("On with a?" if "On" in step else "Shall 'ask' go on?")
    started.detach()
    told = runner.go_on(started.place.run_id, signals={"ask": {"WHY": "so"} if "On" in step else {}})
    assert told.status == "succeeded"
    assert told.out("b") == ("so\n" if "On" in step else "\n")


def test_who_speaks_to_a_step_that_does_not_wait_changes_nothing(runner):
    """The step is named, and the run still waits for whoever finds the right one."""
    started = runner.start(
        "steps: [{name: a, command: echo a}, {name: ask, approval: {prompt: Go on?, required: [WHY]}}]"
    )
    assert started.run.settle(30) is False
    started.detach()
    run = started.place.run_id
    with pytest.raises(RunStateError, match="'a' does not wait"):
        runner.go_on(run, signals={"a": {}})
    with pytest.raises(UnknownNodeError, match="there is no step 'asks'"):
        runner.go_on(run, rejects={"asks": "no"})
    with pytest.raises(InvalidSettingError, match="'ask' asks for WHY"):
        runner.go_on(run, signals={"ask": {"OTHER": "x"}})
    with pytest.raises(InvalidSettingError, match=r"'ask' does not ask for 'WYH'\. Did you mean 'WHY'"):
        runner.go_on(run, signals={"ask": {"WHY": "so", "WYH": "too"}})
    with pytest.raises(InvalidSettingError, match=r"'ask' does not ask for 'PATH'\. It asks for WHY\."):
        runner.go_on(run, signals={"ask": {"WHY": "so", "PATH": "/tmp"}})
    assert runner.history.info(run).status == "waiting"
    assert runner.go_on(run, signals={"ask": {"WHY": "so"}}).status == "succeeded"


def test_a_refusal_fails_the_step(runner):
    """Why it was refused is its error."""
    started = runner.start("steps: [{name: ask, approval: {prompt: Go on?}}, {name: b, command: echo b}]")
    assert started.run.settle(30) is False
    started.detach()
    told = runner.go_on(started.place.run_id, rejects={"ask": "not today"})
    assert told.status == "failed"
    assert "not today" in str(told.node("ask").error)


def test_a_run_that_failed_is_taken_up_where_it_failed(runner):
    """Steps that succeeded do not run again, unless somebody says from where."""
    text = """
        steps:
          - {name: a, command: echo a >> a.txt}
          - {name: b, command: test -e ready}
          - {name: c, command: echo c >> c.txt}
        """
    told = runner.run(text)
    assert told.status == "failed"
    (runner.folder / "ready").touch()
    told = runner.go_on(told.id, again=True)
    assert told.status == "succeeded"
    assert (runner.folder / "a.txt").read_text() == "a\n"
    told = runner.go_on(told.id, again=True, roots=["b"])
    assert told.status == "succeeded"
    assert (runner.folder / "a.txt").read_text() == "a\n"
    assert (runner.folder / "c.txt").read_text() == "c\n" * 2


KILLED = """
import sys
from dagrid.history import History
from dagrid.workflow import load, running
with History(sys.argv[2]) as history:
    running.start(load(sys.argv[1]), history=history, run_id="mine").finish()
"""


def test_a_run_survives_kill_9_and_goes_on_with_what_had_not_finished(runner):
    """What had succeeded is not done again, a date stays what it was, and a sub-workflow goes on as the same run."""
    path = runner.write(
        """
        params: DAY=`date +%s%N`
        steps:
          - {name: a, command: 'echo "$DAY" >> days.txt'}
          - {name: call, call: child}
          - {name: c, command: 'echo "$DAY" >> days.txt'}
        ---
        name: child
        steps:
          - {name: s, command: echo s >> s.txt}
          - {name: t, command: 'echo $PPID > pid.txt; echo t >> t.txt; test -e go || exec sleep 600'}
          - {name: u, command: echo u >> u.txt}
        """
    )
    os.mkfifo(runner.folder / "told")
    text = path.read_text().replace("echo t >> t.txt;", "echo t >> t.txt; test -e go || echo there > told;")
    path.write_text(text)
    home = runner.folder / "home"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(home)], cwd=Path(__file__).parents[2])
    try:
        assert (runner.folder / "told").read_text() == "there\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert runner.history.info("mine").status == "interrupted"
    (runner.folder / "go").touch()
    told = runner.go_on("mine")
    assert told.status == "succeeded"
    first, second = (runner.folder / "days.txt").read_text().split()
    assert first == second
    assert {name: (runner.folder / f"{name}.txt").read_text() for name in "stu"} == {
        "s": "s\n",
        "t": "t\nt\n",
        "u": "u\n",
    }
    assert len(runner.history.children("mine")) == 1


def test_a_sub_workflow_that_was_killed_before_it_had_begun_begins_anew(runner):
    """Its name stands in the history already, and nothing else of it."""
    text = """
        steps: [{name: call, call: child}]
        ---
        name: child
        steps: [{name: s, command: echo s}]
        """
    first = runner.run(text, run_id="mine")
    (child,) = runner.history.children("mine")
    runner.history.remove("mine")
    runner.history.checkpoint.store.create(child.run)
    again = runner.run(text, run_id="mine")
    assert (first.status, again.status) == ("succeeded", "succeeded")
    assert [run.status for run in runner.history.children("mine")] == ["succeeded"]
