"""Steps that behave badly: output that is no text or fits nowhere, processes that will not end, and what is left of them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def is_there(pid):
    """Return whether a process runs, other than as a dead one that nobody has collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_output_that_is_no_text_is_kept_as_it_is_and_shown_as_far_as_it_can_be(runner):
    """The log has the bytes; the variable has the mark for what is none of UTF-8, and no process gets it for the NUL."""
    told = runner.run(
        """
        steps:
          - {name: a, command: "printf 'a\\\\377\\\\000b\\\\n'", output: O}
          - {name: b, command: 'true'}
          - {name: c, command: 'printf "%s" "$O"'}
        """
    )
    assert [told.node(name).status.value for name in "abc"] == ["completed", "completed", "failed"]
    assert "it has a NUL in it" in str(told.node("c").error)
    assert told.place.stdout("a").read_bytes() == b"a\xff\x00b\n"
    assert "\N{REPLACEMENT CHARACTER}" in told.node("a").value.outputs["O"]


def test_a_log_is_bounded_over_all_repetitions(runner):
    """What is repeated a thousand times must not fill the disk; what the last ones wrote is there, and outputs are whole."""
    told = runner.run(
        """
        maxOutputSize: 1000
        steps:
          - name: a
            command: for i in 1 2 3 4 5; do printf '%0100d' 0; printf '%0100d' 0 >&2; done; echo end $(date +%N) | tee last
            repeatPolicy: {repeat: true, limit: 40}
            output: O
        """
    )
    assert told.status == "succeeded", told.node("a").error
    last = (runner.folder / "last").read_text()
    assert told.out("a").startswith("[cut here: what was written before this try]\n")
    assert told.out("a").endswith(last)
    assert max(len(told.out("a")), len(told.err("a"))) < 2_000
    assert told.node("a").value.outputs["O"] == "0" * 500 + last.strip()


def test_a_full_disk_fails_the_step_that_meets_it(runner):
    """What a step writes is not lost in silence."""
    told = runner.run("steps: [{name: a, command: echo x, stdout: /dev/full}, {name: b, command: echo b}]")
    assert told.statuses == {"a": "failed", "b": "skipped"}
    assert "No space left on device" in str(told.node("a").error)


def test_a_script_that_ignores_to_be_stopped_is_killed_with_its_children(runner):
    """After the time of grace nothing of its group is left."""
    told = runner.run(
        """
        maxCleanUpTimeSec: 0.2
        steps:
          - name: a
            timeoutSec: 0.2
            command: |
              trap '' TERM
              (trap '' TERM; echo $BASHPID $$ > pids; exec sleep 600) &
              echo $! >> pids
              wait
              sleep 600
        """
    )
    assert told.node("a").status == "timed_out"
    pids = (runner.folder / "pids").read_text().split()
    assert pids
    assert not any(is_there(pid) for pid in pids)


def test_the_signal_that_stops_a_step_may_be_a_variable(runner):
    """As all texts of a step may; what it says is no signal only when the step runs."""
    told = runner.run(
        """
        env: {HOW: SIGINT}
        type: graph
        steps:
          - name: a
            command: "trap 'echo int; exit' INT; while :; do sleep 0.05; done"
            signalOnStop: $HOW
            timeoutSec: 0.3
          - {name: b, command: 'true', signalOnStop: '${NONE:-SIGNONE}'}
        """
    )
    assert told.statuses == {"a": "timed_out", "b": "failed"}
    assert told.out("a") == "int\n"
    assert str(told.node("b").error) == "There is no signal 'SIGNONE'; write one such as SIGTERM."


def test_nothing_runs_beside_a_try_that_is_being_stopped(runner):
    """What it does in its time of grace is done when its next try, what follows it and the handlers begin."""
    told = runner.run(
        """
        maxCleanUpTimeSec: 20
        handlerOn:
          exit: {command: echo exit >> story}
        steps:
          - name: a
            timeoutSec: 0.3
            retryPolicy: {limit: 1, intervalSec: 0}
            continueOn: {failure: true}
            command: |
              trap 'sleep 0.3; echo gone >> story; exit 1' TERM
              echo try >> story
              while :; do sleep 0.05; done
          - {name: b, command: echo b >> story}
        """
    )
    assert told.statuses == {"a": "timed_out", "b": "completed", "onExit": "completed"}
    assert (runner.folder / "story").read_text().split() == ["try", "gone", "try", "gone", "b", "exit"]


def test_a_daemon_that_a_step_leaves_behind_holds_nobody_up(runner):
    """It has its own session and the output of the step; the step ends when its own process does."""
    told = runner.run(
        """
        steps:
          - {name: a, command: 'setsid sh -c "echo \\$\\$ > pid; exec sleep 600" & while ! test -s pid; do :; done; echo ended'}
          - {name: b, command: echo b}
        """
    )
    pid = int((runner.folder / "pid").read_text())
    try:
        assert told.status == "succeeded"
        assert told.out("a") == "ended\n"
        assert is_there(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_secret_in_an_error_of_a_program_is_masked(runner, monkeypatch):
    """In the message, in the log of the run and in what the history keeps."""
    monkeypatch.setenv("PASSWORD_OF_MINE", "hunter2-and-more")
    told = runner.run(
        """
        secrets: [{name: PW, provider: env, key: PASSWORD_OF_MINE}]
        steps: [{name: a, command: 'echo "cannot log in as root:$PW" >&2; exit 1'}]
        """
    )
    assert str(told.node("a").error).endswith("cannot log in as root:*******")
    assert "hunter2" not in told.log + told.err("a")
