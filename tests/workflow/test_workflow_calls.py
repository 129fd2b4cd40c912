"""Workflows that call others: which runs these are when the step runs again, and persons and limits in them."""

from __future__ import annotations

import json

import pytest

from dagrid.workflow import running


def test_a_call_that_is_repeated_runs_its_workflow_each_time(runner):
    """What was asked of it the time before may be another thing now."""
    told = runner.run(
        """
        steps:
          - name: poll
            call: child
            output: R
            repeatPolicy: {repeat: until, condition: "${R.outputs.N}", expected: "3", intervalSec: 0.01, limit: 6}
        ---
        name: child
        steps: [{name: count, command: 'echo x >> runs.txt; wc -l < runs.txt', output: N}]
        """
    )
    assert told.status == "succeeded"
    assert (runner.folder / "runs.txt").read_text() == "x\n" * 3
    assert [child.status for child in runner.history.children(told.id)] == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("printed", "items"),
    [
        ("a b", ["a", "b"]),
        ("101 102", ["101", "102"]),
        ("a", ["a"]),
        ("101", ["101"]),
        ("1.50", ["1.50"]),
        ("true", ["true"]),
        (r"\"a b\"", ["a b"]),
        ("[1, null]", ["1", "null"]),
        ("", []),
        ("{}", None),
        ("null", None),
    ],
)
def test_what_a_step_prints_is_a_list_of_words(runner, printed, items):
    """Also where there happens to be one, and that a number: a run that met two tickets went well, and one with one failed."""
    told = runner.run(
        f"""
        steps:
          - {{name: list, command: "echo '{printed}'", output: L}}
          - {{name: each, call: child, parallel: '${{L}}', params: 'X=${{ITEM}}', output: R}}
        ---
        name: child
        params: X
        steps: [{{name: one, command: 'echo "$X"', output: O}}]
        """
    )
    if items is None:
        assert "which is no list" in str(told.node("each").error)
    else:
        found = json.loads(told.node("each").value.outputs["R"])["outputs"]
        assert [one["O"] for one in found] == items


def test_a_call_that_runs_anew_runs_its_workflow_anew(runner):
    """Also one that had been repeated; one that is tried again goes on in the run that had failed, whichever that was."""
    told = runner.run(
        """
        steps:
          - name: each
            call: child
            repeatPolicy: {repeat: while, intervalSec: 0, limit: 2}
        ---
        name: child
        steps:
          - {name: first, command: echo x >> first.txt}
          - {name: second, command: 'test ! -e bad'}
        """
    )
    assert (told.status, (runner.folder / "first.txt").read_text()) == ("succeeded", "x\n" * 2)
    (runner.folder / "bad").touch()
    told = runner.go_on(told.id, again=True, roots=["each"])
    assert (told.status, (runner.folder / "first.txt").read_text()) == ("failed", "x\n" * 3)
    (runner.folder / "bad").unlink()
    told = runner.go_on(told.id, again=True)
    assert (told.status, (runner.folder / "first.txt").read_text()) == ("succeeded", "x\n" * 4)
    assert [child.status for child in runner.history.children(told.id)] == ["succeeded"] * 4


def test_a_call_that_is_tried_again_goes_on_in_the_run_that_failed(runner):
    """What succeeded there is not done twice."""
    told = runner.run(
        """
        steps: [{name: each, call: child, retryPolicy: {limit: 2, intervalSec: 0}}]
        ---
        name: child
        steps:
          - {name: first, command: echo x >> first.txt}
          - {name: second, command: 'echo x >> second.txt; test $(wc -l < second.txt) -ge 3'}
        """
    )
    assert (told.status, told.node("each").attempts) == ("succeeded", 3)
    assert (runner.folder / "first.txt").read_text() == "x\n"
    assert len(runner.history.children(told.id)) == 1


def test_a_person_is_asked_when_a_step_has_been_repeated_as_often_as_it_may(runner):
    """Whoever approves sees what the last repetition left; tries of an earlier round do not count."""
    started = runner.start(
        """
        steps:
          - name: a
            command: 'echo x >> runs.txt; wc -l < runs.txt'
            output: N
            approval: {prompt: Enough?}
            repeatPolicy: {repeat: while, intervalSec: 0, limit: 2}
          - {name: b, command: 'echo "$N"'}
        """
    )
    run = started.place.run_id
    assert started.run.settle(30) is False
    assert started.run.held("a")[0] == "Enough?"
    started.detach()
    assert runner.go_on(run, signals={"a": {}}).out("b") == "2\n"
    with running.go_on(runner.history, run, again=True, roots=["a"]) as again:
        assert again.run.settle(30) is False
        again.detach()
    assert runner.go_on(run, signals={"a": {}}).out("b") == "2\n4\n"


def test_a_list_that_nobody_knows_is_no_list_of_its_name(runner):
    """A typing error would otherwise run the workflow once, with the name of the variable as its item."""
    told = runner.run(
        """
        steps:
          - {name: list, command: 'echo "[]"', output: LIST}
          - {name: each, call: child, parallel: '${LITS}', params: 'ITEM=${ITEM}'}
        ---
        name: child
        steps: [echo]
        """
    )
    assert "The items of step 'each' are '${LITS}', and there is nothing of that name." in str(told.node("each").error)
    assert runner.history.children(told.id) == []


def test_what_there_is_of_a_resource_counts_in_what_is_called_too(runner):
    """Whoever starts the whole says it, and can say it to nothing that is called; also when that is called at a later try."""
    text = """
        steps:
          - {name: a, command: test -e go}
          - {name: b, call: child}
        ---
        name: child
        steps: [{name: c, call: grandchild}]
        ---
        name: grandchild
        steps: [{name: d, command: 'true', resources: {db: 2}}]
    """
    first = runner.run(text, resources={"db": 2})
    assert first.status == "failed"
    (runner.folder / "go").touch()
    again = runner.go_on(first.id, again=True)
    assert again.status == "succeeded", again.node("b").error


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("precondition: 'false'\nsteps: [x]", "has aborted: The run was stopped before it had ended: a precondition"),
        ("timeoutSec: 0.2\nsteps: [sleep 9]", "has failed: The run took longer than its timeout of 0.2 s."),
        ("steps: [{name: b, command: sleep 9, timeoutSec: 0.2}]", "has failed: Node 'b' took longer than its timeout"),
        ("steps: [{command: exit 4, continueOn: failure}, exit 5]", "exited with code 5."),
    ],
)
def test_who_calls_is_told_why_a_workflow_did_not_succeed(runner, said, why):
    """Whatever ended it: no step of it failed where it ran out of time, and one that was gone on after is not why."""
    told = runner.run(f"steps: [{{name: a, call: child}}]\n---\nname: child\n{said}")
    assert told.status == "failed"
    assert why in str(told.node("a").error)
