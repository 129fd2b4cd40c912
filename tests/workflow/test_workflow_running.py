"""Workflows run for real: order, failures, retries and repetitions, handlers, sub-workflows, and how long runs are kept."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import msgspec
import pytest

from dagrid.errors import CapabilityError, ParameterError, WorkflowError
from dagrid.workflow import loads, running


def test_runs_of_a_workflow_share_a_graph_that_says_nothing_of_one_of_them():
    """A graph that was made for the values or the labels of another run would try a step too often, or run where it must not."""
    plain = loads("steps: [{name: a, command: 'true'}]")
    assert running.dry(plain, ["A=1"])[1] is running.dry(plain, ["A=2"])[1]
    valued = loads("params: {N: 1}\nsteps: [{name: a, command: 'true', retryPolicy: {limit: $N, intervalSec: 1}}]")
    retries = [running.dry(valued, [f"N={number}"])[1].node("a").retries for number in (2, 3, 2)]
    assert [each and each.max_retries for each in retries] == [2, 3, 2]
    picky = loads("workerSelector: {gpu: 'true'}\nsteps: [{name: a, command: 'true'}]")
    running.dry(picky, labels={"gpu": "true"})
    with pytest.raises(CapabilityError):
        running.dry(picky)


@pytest.mark.parametrize(
    ("on", "status"),
    [
        ("{failure: true}", "partially_succeeded"),
        ("{exitCode: [1, 3]}", "partially_succeeded"),
        ("{output: 're:^ou.$'}", "partially_succeeded"),
        ("{exitCode: 3, markSuccess: true}", "succeeded"),
        ("{failure: true, markSuccess: true}", "succeeded"),
        ("{exitCode: [1]}", "failed"),
        ("{output: other}", "failed"),
    ],
)
def test_continue_on_says_whether_the_rest_runs(runner, on, status):
    """By any failure, by the exit code or by a line of the output; `markSuccess` makes it a success."""
    told = runner.run(
        f"""
        steps:
          - {{name: a, command: 'echo out; exit 3', continueOn: {on}}}
          - {{name: b, command: echo b}}
        """
    )
    assert told.status == status
    assert told.out("b") == ("" if status == "failed" else "b\n")


def test_a_skipped_step_lets_others_run_where_it_says_so(runner):
    """`continueOn.skipped` is about preconditions; what it skips otherwise is skipped with it."""
    told = runner.run(
        """
        steps:
          - {name: a, command: echo a, precondition: 'test -e nothing', continueOn: {skipped: true}}
          - {name: b, command: echo b}
        """
    )
    assert told.statuses == {"a": "skipped", "b": "completed"}
    assert "'test -e nothing' exited with code 1" in told.node("a").reason


def test_retries_only_what_is_worth_it(runner):
    """`exitCode` of a retryPolicy chooses; the limit may be a parameter."""
    told = runner.run(
        """
        params: N=2
        steps:
          - {name: a, command: 'echo x >> a.txt; exit 4'}
          - {name: b, command: 'echo x >> b.txt; exit 5'}
        defaults: {retryPolicy: {limit: $N, intervalSec: 0, exitCode: [4]}, continueOn: failure}
        """
    )
    assert (runner.folder / "a.txt").read_text() == "x\n" * 3
    assert (runner.folder / "b.txt").read_text() == "x\n"
    assert told.node("a").attempts == 3


def test_handlers_see_how_the_run_ended(runner):
    """Those of the outcome, then the exit handler; they read the outputs of steps."""
    told = runner.run(
        """
        handlerOn:
          success: {command: 'echo s'}
          failure: {command: 'echo "f $DAG_RUN_STATUS $A"'}
          exit: {command: 'echo "e $DAG_RUN_STATUS"'}
        steps:
          - {name: a, command: echo one, output: A}
          - {name: b, command: 'false'}
        """
    )
    assert told.status == "failed"
    assert (told.out("onFailure"), told.out("onExit")) == ("f failed one\n", "e failed\n")
    assert told.statuses["onSuccess"] == "skipped"


def test_a_timeout_of_the_run_leaves_the_handlers_their_time(runner):
    """The run has failed, what ran was stopped, and the failure handler runs all the same."""
    told = runner.run(
        """
        timeoutSec: 0.3
        handlerOn: {failure: {command: 'sleep 0.1; echo handled'}}
        steps: [{name: a, command: sleep 60}]
        """
    )
    assert told.status == "failed"
    assert told.out("onFailure") == "handled\n"


def test_messages_show_commands_as_the_file_has_them(runner):
    """The names under which a shell gets values are nobody's business."""
    told = runner.run("env: [V: '{\"a\": 1}']\nsteps: [{name: a, command: 'exit ${V.a}', args: [x y]}]")
    assert str(told.node("a").error) == "/bin/sh -e -c 'exit ${V.a} '\"'\"'x y'\"'\"'' exited with code 1."


@pytest.mark.parametrize("top", ["", "shell: bash", "shell: [bash, -c]", "shell: bash --norc"])
@pytest.mark.parametrize("field", ["command", "script"])
def test_a_program_of_several_lines_ends_with_the_first_that_fails(runner, top, field):
    """As with Dagu: what follows on a fetch that failed would be done with nothing, and the step be called a success."""
    told = runner.run(f"{top}\nsteps:\n  - name: a\n    {field}: |\n      echo one\n      false\n      echo two\n")
    assert (told.status, told.out("a")) == ("failed", "one\n")


@pytest.mark.parametrize("field", ["command", "script"])
def test_a_shell_that_a_step_names_itself_goes_on_after_what_fails(runner, field):
    """As with Dagu: who writes the shell of a step says all of it."""
    told = runner.run(f"steps:\n  - name: a\n    shell: sh\n    {field}: |\n      false\n      echo two\n")
    assert (told.status, told.out("a")) == ("succeeded", "two\n")


def test_a_sub_workflow_is_a_run_of_its_own(runner):
    """Its outputs come back, its run has a parent, and listings leave it out."""
    told = runner.run(
        """
        steps:
          - {name: call, call: child, params: 'X=5', output: RES}
          - {name: show, command: 'echo "${RES.outputs.SUM} ${RES.status}"'}
        ---
        name: child
        params: X=1
        steps: [{name: s, command: 'echo $((X+1))', output: SUM}]
        """
    )
    assert told.out("show") == "6 succeeded\n"
    (child,) = runner.history.children(told.id)
    assert (child.name, child.parent, child.status) == ("child", told.id, "succeeded")
    assert [run.run for run in runner.history.runs()] == [told.id]


def test_a_list_that_only_a_run_knows(runner):
    """The items come from an output; each gets a run, and the step has a summary of them all."""
    told = runner.run(
        """
        steps:
          - {name: list, command: 'echo ''["a", "b c", {"k": 1}]''', output: LIST}
          - {name: fan, call: child, parallel: '${LIST}', params: 'IT=${ITEM}', output: RES}
          - {name: show, command: 'echo "${RES.summary.total} ${RES.outputs[1].O}"'}
        ---
        name: child
        params: IT=none
        steps: [{name: s, command: 'echo "<$IT>"', output: O}]
        """
    )
    assert told.status == "succeeded", told.node("fan").error
    assert told.out("show") == "3 <b c>\n"
    assert [one["outputs"]["O"] for one in json.loads(told.out("fan"))["results"]] == ["<a>", "<b c>", '<{"k":1}>']


def test_a_sub_workflow_in_another_file_and_its_failure(runner):
    """It is found beside the file; why it failed is in the message of the step."""
    runner.write("steps: [{name: s, command: 'echo no >&2; exit 7'}]", "other")
    told = runner.run("steps: [{name: call, call: other}]")
    assert told.status == "failed"
    assert "The workflow 'other' has failed" in str(told.node("call").error)
    assert "no" in str(told.node("call").error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params: [{name: N, type: integer, required: true}]\nsteps: [x]", "'N' is missing"),
        ("secrets: [{name: S, provider: env, key: NOT_THERE}]\nsteps: [x]", "which is not set"),
        ("secrets: [{name: S, provider: file, key: not_there}]\nsteps: [x]", "cannot be read"),
        ("env: {A: '`exit 3`'}\nsteps: [x]", "exited with code 3"),
        ("steps: [{command: x, retryPolicy: {limit: $NO, intervalSec: 1}}]", "a number from 0 up is wanted"),
        ("steps: [{command: x, retryPolicy: {limit: '`exit 3`', intervalSec: 1}}]", "exited with code 3"),
        (
            "precondition: {condition: '`exit 3`', expected: x}\nsteps: [x]",
            "flow.yaml:1:15: `exit 3` exited with code 3",
        ),
        (
            "env: {A: (}\nprecondition: {condition: x, expected: 're:$A'}\nsteps: [x]",
            "'re:\\(' is no regular expression",
        ),
        ("workingDir: nowhere\nprecondition: 'true'\nsteps: [x]", "there is no '.*nowhere'"),
        ("shell: /no/sh\nprecondition: 'true'\nsteps: [x]", "there is no '/no/sh'"),
        ("steps: [{script: '#!/usr/bin/env \"x'}]", "a quote that is not closed"),
        ("steps: [{command: 'python3 \"x', script: x}]", "a quote that is not closed"),
        ("shell: ['bash \"x']\nsteps: [x]", "a quote that is not closed"),
        ('workingDir: "a\\0b"\nsteps: [x]', "a text without NUL"),
        ('dotenv: ["a\\0b"]\nsteps: [x]', "null byte"),
        ('logDir: "a\\0b"\nsteps: [x]', "a text without NUL"),
        ('secrets: [{name: S, provider: file, key: "a\\0b"}]\nsteps: [x]', "the name of a variable or a file"),
        ("logDir: '${LOGS}/x'\nsteps: [x]", r"LOGS\} is not known before the run begins"),
        ("logDir: 'x/$DAG_RUN_ID'\nsteps: [x]", "is not known before the run begins"),
        ("logDir: '${S}'\nsecrets: [{name: S, provider: env, key: HOME}]\nsteps: [x]", "called as a secret"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(runner, text, message):
    """With the place in the file; and no run stays in the history."""
    with pytest.raises((WorkflowError, ParameterError), match=message):
        runner.run(text)
    assert runner.history.runs() == []


def test_a_condition_that_cannot_be_known_fails_its_step(runner):
    """What a pattern is made of is known only then, and a user has no use for where Python read it."""
    told = runner.run(
        """
        env: {A: (}
        type: graph
        steps:
          - {name: a, command: 'true', precondition: {condition: x, expected: 're:$A'}}
          - {name: b, command: 'true', repeatPolicy: {repeat: until, condition: x, expected: 're:$A'}}
        """
    )
    why = "'re:(' is no regular expression: missing ), unterminated subpattern at position 0."
    assert {str(told.node(name).error) for name in "ab"} == {why}


def test_a_selector_is_honoured_or_refused(runner):
    """It runs where the machine has the label, and else says how to let it run."""
    text = "steps: [{name: a, command: echo a, workerSelector: {gpu: 'true'}}]"
    with pytest.raises(CapabilityError, match=r"--worker\.labels gpu=true"):
        runner.run(text)
    assert runner.run(text, labels={"gpu": "true"}).status == "succeeded"


def test_a_dry_run_has_the_graph_and_runs_nothing(runner):
    """Parameters are checked and filled in."""
    file = loads("params: A=1\nsteps: [{name: a, command: touch hurt}, {name: b, command: x}]")
    context, dag = running.dry(file, ["A=2"])
    assert list(dag) == ["a", "b"]
    assert context.variables["A"] == "2"
    assert not Path("hurt").exists()


@pytest.mark.parametrize(
    ("policy", "status", "runs"),
    [
        ("{repeat: until, exitCode: [0], intervalSec: 0, limit: 9}", "succeeded", 3),
        ("{repeat: while, exitCode: [1], intervalSec: 0, limit: 2}", "failed", 2),
        ("{repeat: while, exitCode: [7], intervalSec: 0}", "failed", 1),
        ("{repeat: until, condition: 'test -e never', intervalSec: 0, limit: 4}", "failed", 1),
        ("{repeat: true, intervalSec: 0, limit: 5}", "failed", 1),
    ],
)
def test_a_failure_is_repeated_only_where_exit_codes_are_asked_for(runner, policy, status, runs):
    """And when the limit is reached it is a failure all the same."""
    told = runner.run(
        f"""
        steps:
          - name: a
            command: 'echo x >> runs.txt; test $(wc -l < runs.txt) -ge 3'
            repeatPolicy: {policy}
        """
    )
    assert told.status == status
    assert (runner.folder / "runs.txt").read_text() == "x\n" * runs


def test_old_runs_are_forgotten_as_the_workflow_says(runner):
    """By number; runs of other workflows, and of those that it called, are another matter."""
    text = """
        histRetentionRuns: 2
        steps: [{name: call, call: child}]
        ---
        name: child
        steps: [{name: s, command: echo s}]
        """
    runner.run("steps: [{name: a, command: echo a}]", name="other")
    ids = [runner.run(text).id for _ in range(4)]
    assert [run.run for run in runner.history.runs(name="flow")] == ids[:1:-1]
    assert len(runner.history.runs(name="other")) == 1
    assert len(runner.history.runs(name="child", children=True)) == 2


def test_old_runs_that_cannot_be_forgotten_are_no_fault_of_the_new_one(runner):
    """A folder of another user's, or a store that is busy, made an error of a run that had succeeded."""
    text = "histRetentionRuns: 1\nsteps: [{name: a, command: echo a}]"
    old = runner.run(text)
    (old.place.folder / "owner.lock").unlink()
    (old.place.folder / "owner.lock").mkdir()
    told = runner.run(text)
    assert told.status == "succeeded"
    assert "old runs are still there: " in told.log
    assert len(runner.history.runs()) == 2


def test_a_workflow_may_be_started_only_as_it_is(runner):
    """`runConfig` says what may not be changed."""
    text = (
        "runConfig: {disableParamEdit: true, disableRunIdEdit: true}\nparams: A=1\nsteps: [{name: a, command: echo $A}]"
    )
    with pytest.raises(WorkflowError, match="parameters may not be given"):
        runner.run(text, ["A=2"])
    with pytest.raises(WorkflowError, match="id of a run may not be chosen"):
        runner.run(text, run_id="mine")
    assert runner.run(text).out("a") == "1\n"


def test_a_step_is_kept_with_what_it_says_and_no_more():
    """A step has some fifty fields, and is in the record of its run and in each call that goes to a worker."""
    steps = loads(
        """
        steps:
          - {name: a, command: echo a}
          - name: b
            python: m:f
            args: {x: [1, 0, false, ~]}
            env: [A: '1']
            retryPolicy: {limit: 0, intervalSec: 1}
            continueOn: {exitCode: [3]}
            depends: []
            timeoutSec: 0.5
        """
    ).main.steps
    assert [pickle.loads(pickle.dumps(step)) for step in steps] == list(steps)
    assert len(pickle.dumps(msgspec.structs.replace(steps[0], places={}))) < 200
