"""Runs that are stopped through the real command: by Ctrl-C, by SIGTERM, from another shell."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from dagrid.cli.exits import Exit
from tests.cli.conftest import PATIENCE, appeared, process

STUBBORN = """
maxCleanUpTimeSec: 600
steps:
  - name: only
    command: trap 'touch told' TERM; touch there; until test -e go; do sleep 0.05 || :; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_workflow(dagrid, history, folder, number):
    """Its steps are stopped, its handlers run, and the code says that it was stopped."""
    (folder / "long.yaml").write_text(
        "handlerOn:\n  cancel: {command: touch cancelled}\n"
        "steps:\n  - {name: only, command: 'touch there; sleep 600'}\n  - {name: after, command: 'true'}\n"
    )
    with process("start", "long.yaml", start_new_session=True) as running:
        appeared(folder / "there")
        running.send_signal(number)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == Exit.INTERRUPTED, err
    assert "long aborted after" in err
    assert (folder / "cancelled").exists()
    assert history.runs()[0].status == "aborted"


def test_a_terminal_that_is_closed_stops_what_runs_in_it(history, folder):
    """Whoever closes the window, or loses the connection: the run was cut off, without its handlers or a word to its steps."""
    (folder / "long.yaml").write_text(
        "handlerOn:\n  cancel: {command: touch cancelled}\n"
        "steps:\n  - {name: only, command: 'trap \"touch told; exit\" TERM; touch there; while :; do sleep 0.05; done'}\n"
    )
    terminal, side = pty.openpty()
    heard = ["env", "--default-signal=HUP"]  # whoever runs the tests by nohup is deaf to it
    command = [*heard, "setsid", "--ctty", sys.executable, "-m", "dagrid", "start", "long.yaml"]
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side) as running:
        os.close(side)
        appeared(folder / "there")
        os.close(terminal)
        assert running.wait(PATIENCE) == Exit.INTERRUPTED
    assert (folder / "told").exists()
    assert (folder / "cancelled").exists()
    assert history.runs()[0].status == "aborted"


def test_nohup_keeps_a_run_from_the_end_of_its_terminal(folder):
    """As it does any other command."""
    (folder / "long.yaml").write_text(
        "steps: [{name: only, command: 'touch there; until test -e go; do sleep 0.02; done'}]\n"
    )
    command = ["nohup", sys.executable, "-m", "dagrid", "start", "long.yaml"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        appeared(folder / "there")
        running.send_signal(signal.SIGHUP)
        (folder / "go").touch()
        assert running.wait(PATIENCE) == 0


HANDLED = """\
handlerOn: {cancel: {command: 'touch cancelling; sleep 600'}}
steps: [{name: only, command: 'touch there; sleep 600'}]
"""
CALLED = """\
steps: [{name: a, call: middle}]
---
name: middle
steps: [{name: b, call: inner}]
---
name: inner
"""


@pytest.mark.parametrize("text", [HANDLED, CALLED + HANDLED], ids=["its own", "of what it called"])
def test_a_second_signal_stops_the_handlers(history, folder, text):
    """Who cannot wait presses the keys again, and need not wait for those of what was called either, however deep they are."""
    (folder / "long.yaml").write_text(text)
    with process("start", "long.yaml", start_new_session=True) as running:
        for marker in ("there", "cancelling"):
            appeared(folder / marker)
            running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == Exit.INTERRUPTED, err
    assert {info.status for info in history.runs(children=True)} == {"aborted"}


def test_a_step_that_takes_its_time_of_grace_is_told_of(dagrid, folder):
    """It runs until it has gone; whoever looks meanwhile is told that it is being stopped, and why."""
    (folder / "long.yaml").write_text(STUBBORN)
    with process("start", "long.yaml", start_new_session=True) as running:
        appeared(folder / "there")
        assert running.stderr is not None
        assert any("only: started" in line for line in running.stderr)
        assert "'only' has been running for" in dagrid("explain", "long", "only").out, (
            "no worker is named where there is none"
        )
        running.send_signal(signal.SIGINT)
        appeared(folder / "told")
        assert dagrid("status", "long").out.rstrip().endswith("told to stop: interrupted")
        (step,) = dagrid("status", "long", "--json").data["steps"]
        assert (step["status"], step["reason"]) == ("running", "told to stop: interrupted")
        assert re.search(
            r"was told to stop [\d.]+ s ago \(interrupted\), and still runs\.", dagrid("explain", "long").out
        )
        (folder / "go").touch()
        _, err = running.communicate(timeout=PATIENCE)
    assert "only: told to stop: interrupted" in err
    assert dagrid("status", "long").out.rstrip().endswith("interrupted")


def test_what_a_run_has_called_is_stopped_as_any_step(dagrid, history, folder):
    """With its time of grace and its handlers; those of the run that called it begin when nothing of it is left."""
    (folder / "outer.yaml").write_text(
        "handlerOn: {exit: {command: echo outer >> order}}\n"
        "steps: [{name: kids, call: inner, parallel: [1, 2]}]\n"
        "---\n"
        "name: inner\n"
        "maxCleanUpTimeSec: 600\n"
        "handlerOn: {cancel: {command: echo handler >> order}}\n"
        "steps: [{name: s, command: 'trap \"echo step >> order; exit 1\" TERM; touch there.$1; while :; do sleep 0.05; done'}]\n"
    )
    with process("start", "outer.yaml", start_new_session=True) as running:
        for number in (1, 2):
            appeared(folder / f"there.{number}")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == Exit.INTERRUPTED, err
    order = (folder / "order").read_text().split()
    assert (sorted(order), order[-1]) == (["handler", "handler", "outer", "step", "step"], "outer")
    assert {info.status for info in history.runs(children=True)} == {"aborted"}


def test_what_a_run_has_called_is_not_stopped_with_its_caller_unasked(dagrid, history, folder):
    """Who wants one of them gone loses neither the others nor what called them, and is told how to end all of it."""
    (folder / "outer.yaml").write_text(
        "steps: [{name: kids, call: inner, parallel: [1, 2]}]\n---\nname: inner\n"
        "steps: ['touch there.$1; until test -e go; do sleep 0.05; done']\n"
    )
    with process("start", "outer.yaml", "-r", "outer") as running:
        for number in (1, 2):
            appeared(folder / f"there.{number}")
        child = history.children("outer")[0].run
        for command in ("stop", "restart"):
            said = dagrid(command, child)
            assert (said.code, "dagrid stop outer" in said.err) == (Exit.USAGE, True), said.err
        (folder / "go").touch()
        assert running.wait(PATIENCE) == 0
    assert {info.status for info in history.runs(children=True)} == {"succeeded"}


def test_a_step_between_two_tries_says_what_it_waits_for(dagrid, folder):
    """It does not run, and has no time; when it will is said in place of that."""
    (folder / "long.yaml").write_text(
        "steps: [{name: only, command: 'touch there; false', retryPolicy: {limit: 1, intervalSec: 600}}]\n"
    )
    with process("start", "long.yaml", start_new_session=True) as running:
        assert running.stderr is not None
        assert any("will be tried again" in line for line in running.stderr)
        told = dagrid("status", "long").out
        assert re.search(r"only +waiting +failed and is tried again in [\d.]+ s\n", told), told
        running.send_signal(signal.SIGINT)
        running.wait(PATIENCE)


def test_a_run_in_the_background_of_a_script_is_stopped(dagrid, history, folder):
    """There Ctrl-C is ignored, as it was for who pressed it in front of another program; who is asked to stop does."""
    (folder / "long.yaml").write_text("steps:\n  - {name: only, command: 'touch there; sleep 600'}\n")
    script = f"{sys.executable} -m dagrid start long.yaml & echo $!"
    subprocess.run(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    appeared(folder / "there")
    os.kill(history.runs()[0].pid, signal.SIGINT)
    assert dagrid("status", "long", "--json").data["status"] == "running"
    said = dagrid("stop", "long", "--json")
    assert (said.code, said.data["status"]) == (0, "aborted")


def test_stop_says_of_a_run_that_ended_otherwise(dagrid, history):
    """Whoever stops it relies on what is said; it may have come to its end meanwhile."""
    script = """if True:
        import signal, sys, time
        from dagrid.history import About, History

        with History(sys.argv[1]) as history, history.begin("busy", About(name="busy")) as place:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            print("there", flush=True)
            signal.sigwait({signal.SIGTERM})
            history.checkpoint.store.append(place.run_id, place.epoch, 0, [b"fact"], status="succeeded", at=time.time())
    """
    performer = [sys.executable, "-c", script, str(history.home)]
    with subprocess.Popen(performer, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        said = dagrid("stop", "busy", "--json")
    assert (said.code, said.data["status"]) == (Exit.FAILED, "succeeded")
    assert "busy was not stopped" in said.err


def test_a_server_that_is_gone_is_waited_for_until_somebody_stops_that(postgres, tmp_path, folder):
    """It is said when the waiting begins, and one Ctrl-C ends it, with a word about the server."""
    (folder / "long.yaml").write_text("steps: ['touch there; until test -e go; do sleep 0.02; done', echo]\n")
    with process("--store", postgres.url(tmp_path), "start", "long.yaml", start_new_session=True) as running:
        assert running.stderr is not None
        appeared(folder / "there")
        postgres.stop()
        try:
            (folder / "go").touch()
            said = ""
            while "is looked for" not in said:
                said = running.stderr.readline()
                assert said, "nothing was said of the server"
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=10)
        finally:
            postgres.start()
    assert running.returncode != Exit.SUCCESS
    assert "Look whether the server runs" in err
