"""What is kept of the output of steps and of runs: how much, where, and what fails where it is not all of it."""

from __future__ import annotations

import json


def test_logs_of_a_step_that_floods_are_bounded(runner):
    """A hundred megabytes on one line: the log is cut where nobody relies on it, and the step fails where somebody does."""
    flood = "head -c 100000000 /dev/zero | tr '\\\\0' x"
    told = runner.run(f'steps: [{{name: a, command: "{flood}"}}, {{name: b, command: "{flood}", output: B}}]')
    assert told.statuses == {"a": "completed", "b": "failed"}
    assert "maxOutputSize" in str(told.node("b").error)
    assert all(told.place.stdout(name).stat().st_size < 1_100_000 for name in "ab")


def test_files_that_a_step_names_get_all_that_it_writes(runner):
    """The log beside them is bounded; a table of two megabytes was cut in the middle, and the step after it read that."""
    (runner.folder / "tasks.py").write_text("def told():\n    print('y' * 2_000_000)\n")
    told = runner.run(
        """
        steps:
          - {name: a, command: 'seq 1 400000; seq 1 300000 >&2', stdout: out.txt, stderr: err.txt}
          - {name: b, python: 'tasks:told', stdout: python.txt}
          - {name: c, call: child, stdout: child.json}
        ---
        name: child
        steps: ['true']
        """
    )
    assert told.status == "succeeded"
    for name, lines, last in (("out.txt", 400_000, "400000"), ("err.txt", 300_000, "300000"), ("python.txt", 1, "yyy")):
        text = (runner.folder / name).read_text()
        assert (text.count("\n"), text.rstrip().endswith(last)) == (lines, True)
    assert json.loads((runner.folder / "child.json").read_text())["status"] == "succeeded"
    assert all(told.place.stdout(name).stat().st_size < 1_100_000 for name in "ab")


def test_a_step_that_fails_says_why_whatever_became_of_its_outputs(runner):
    """No JSON comes of what has failed: that was told in place of the exit code, tried again against the policy, and forgiven
    by nobody.
    """
    told = runner.run(
        """
        steps:
          - name: a
            command: echo tried; exit 3
            outputs: {A: {decode: json}, B: {from: file, path: nothing}, C: {}}
            retryPolicy: {limit: 5, intervalSec: 0, exitCode: [9]}
            continueOn: {exitCode: [3]}
          - {name: b, command: 'echo "<$A$B$C>"'}
        """
    )
    assert told.status == "partially_succeeded"
    assert told.node("a").attempts == 1
    assert "exited with code 3" in str(told.node("a").error)
    assert told.out("b") == "<tried>\n"


def test_an_output_is_all_of_it_or_the_step_fails(runner):
    """Of a file, or of what a workflow that was called has left, a part was taken for the whole."""
    (runner.folder / "large.txt").write_text("x" * 5_000)
    told = runner.run(
        """
        maxOutputSize: 4000
        steps:
          - {name: file, command: 'true', outputs: {A: {from: file, path: large.txt}}, continueOn: {failure: true}}
          - {name: call, call: child, parallel: [1, 2, 3, 4], output: B, continueOn: {failure: true}}
        ---
        name: child
        steps: [{name: s, command: 'printf %01000d 1', output: O}]
        """
    )
    assert told.statuses == {"file": "failed", "call": "failed"}
    for name in ("file", "call"):
        assert "than 4000 bytes" in str(told.node(name).error)
        assert "raise maxOutputSize" in str(told.node(name).error)


def test_a_log_that_others_read_is_whole_or_the_step_fails(runner):
    """Who reads a part for the whole counts wrong, and nobody hears of it."""
    text = "steps: [{name: a, id: one, command: 'seq 1 400000'}, {name: b, command: 'wc -l < ${one.stdout}'}]"
    told = runner.run(text)
    assert told.statuses == {"a": "failed", "b": "skipped"}
    assert "raise maxOutputSize" in str(told.node("a").error)
    told = runner.run(f"maxOutputSize: 10000000\n{text}")
    assert (told.status, told.out("b").strip()) == ("succeeded", "400000")


def test_the_log_of_a_run_tells_what_happened(runner):
    """A line for each thing, with its time; `DAG_RUN_LOG_FILE` names it."""
    told = runner.run("steps: [{name: a, command: 'test -e \"$DAG_RUN_LOG_FILE\"'}, {name: b, command: exit 2}]")
    words = [line.split(" ", 1)[1] for line in told.log.splitlines()]
    assert words[0] == "a: started"
    assert words[1].startswith("a: completed after ")
    assert any(line.startswith("b: failed after ") for line in words)
    assert words[-1] == "the run has ended"


def test_logs_may_stand_elsewhere(runner, monkeypatch):
    """`logDir` names the folder, from that of the file; the run is found and taken up there."""
    monkeypatch.setenv("WHERE", "elsewhere")
    told = runner.run("logDir: $WHERE/logs\nsteps: [{name: a, command: 'echo a; test -e ready'}]")
    assert told.folder == runner.folder / "elsewhere" / "logs" / "flow" / told.id
    (runner.folder / "ready").touch()
    told = runner.go_on(told.id, again=True)
    assert told.folder.parts[-4] == "elsewhere"
    assert told.out("a") == "a\na\n"


def test_logs_may_stand_where_parameters_and_env_say(runner):
    """They are found out before the run has a place."""
    text = "logDir: '${LOGS}/$DAY'\nenv: [LOGS: logs]\nparams: [DAY: monday]\nsteps: [{name: a, command: echo a}]"
    told = runner.run(text, ["DAY=friday"])
    assert told.folder == runner.folder / "logs" / "friday" / "flow" / told.id
    assert runner.history.folder(told.id) == told.folder


def test_the_files_of_a_step_are_there_for_itself_before_it_has_written(runner):
    """A step that watches what another program of it writes found nothing at `DAG_RUN_STEP_STDOUT_FILE`."""
    told = runner.run(
        """
        steps:
          - {name: a, command: 'cat "$DAG_RUN_STEP_STDOUT_FILE" "${DAG_RUN_STEP_STDERR_FILE}"'}
          - {name: b, command: 'test -s "$OWN" || echo first', env: [OWN: $DAG_RUN_STEP_STDOUT_FILE]}
          - {name: c, command: 'cat $OWN', env: [OWN: $DAG_RUN_STEP_STDOUT_FILE]}
        """
    )
    assert set(told.statuses.values()) == {"completed"}, told.node("a").error or told.node("c").error
    assert told.out("b") == "first\n"


def test_only_the_log_is_merged(runner):
    """The output of a step, and the file that it names, have its standard output alone, whatever its type."""
    (runner.folder / "noisy.py").write_text(
        "import sys\ndef f():\n    print('out')\n    print('err', file=sys.stderr)\n"
    )
    told = runner.run(
        """
        logOutput: merged
        steps:
          - {name: a, command: 'echo out; echo err >&2', output: A}
          - {name: b, command: 'echo out; echo err >&2', stdout: file.txt}
          - {name: c, python: noisy:f, output: C}
          - {name: d, call: child, output: D}
          - {name: show, command: 'echo "$A $C ${D.status}"'}
        ---
        name: child
        steps: [echo]
        """
    )
    assert (told.status, told.out("show")) == ("succeeded", "out out succeeded\n")
    assert (runner.folder / "file.txt").read_text() == "out\n"
    assert [set(told.out(step).split()) for step in "abc"] == [{"out", "err"}] * 3
