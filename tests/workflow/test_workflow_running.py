"""Workflows run for real: order, values, failures, handlers, sub-workflows, secrets, and what stays of each run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dagrid.errors import (
    CapabilityError,
    InvalidSettingError,
    ParameterError,
    RunStateError,
    UnknownNodeError,
    WorkflowError,
)
from dagrid.execution.watchdog import watchdog
from dagrid.workflow import loads, running
from tests.backends.command_tasks import children

SECRET = "s3cret-t0ken"


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


def test_outputs_reach_all_steps_behind_directly_or_not(runner):
    """A variable is there for every step that comes later, in its text and in the environment of its processes."""
    told = runner.run(
        """
        steps:
          - {name: a, command: echo one, output: A}
          - {name: b, command: 'true'}
          - {name: c, command: 'echo "$A"; sh -c "env | grep ^A="'}
        """
    )
    assert told.status == "succeeded"
    assert told.out("c") == "one\nA=one\n"


def test_a_step_does_not_see_what_does_not_come_before_it(runner):
    """What a step sees must not depend on which of two others happened to be quicker."""
    told = runner.run(
        """
        type: graph
        steps:
          - {name: a, command: echo one, output: A}
          - {name: b, command: 'echo "[$A]"'}
          - {name: c, command: 'echo "[$A]"', depends: [a, b]}
        """
    )
    assert (told.out("b"), told.out("c")) == ("[]\n", "[one]\n")


def test_fields_of_steps_are_files_and_codes(runner):
    """`${id.stdout}` is a file, also of a step that failed and is gone on after."""
    told = runner.run(
        """
        steps:
          - {name: first step, id: first, command: 'echo out; echo err >&2; exit 3', continueOn: {exitCode: [3]}}
          - {name: second, command: 'cat ${first.stdout} ${first.stderr}; echo ${first.exitCode}'}
        """
    )
    assert told.status == "partially_succeeded"
    assert told.out("second") == "out\nerr\n3\n"


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


def test_arguments_of_commands_are_as_the_file_has_them(runner):
    """Numbers are texts there, as they are in `params`; what is in a word is not expanded again; a last line may end."""
    (runner.folder / "tasks.py").write_text("def kinds(*values):\n    return repr(values)\n")
    told = runner.run(
        r"""
        env: [V: '{"a": "x"}']
        steps:
          - {name: w, exec: {command: printf, args: ['%s', '\${V.a} \`id\`']}, output: W}
          - name: a
            command: |
              printf '%s|'
            args: [true, 1.50, 007, 0x1F, 1e3, ~, 3, '$W']
          - {name: b, script: 'printf "%s|" "$@"', args: [true, 1.50, 007]}
          - {name: c, python: 'tasks:kinds', args: [true, 1.50, 0x1F, ~], output: KINDS}
        """
    )
    assert told.out("a") == "true|1.50|007|0x1F|1e3|~|3|${V.a} `id`|"
    assert told.out("b") == "true|1.50|007|"
    assert told.node("c").value.outputs == {"KINDS": "(True, 1.5, 31, None)"}


@pytest.mark.parametrize(
    "how", ["command: '', script: 'echo hi $#'", 'script: "#!\\necho hi $#"', "script: 'echo hi $#'"]
)
def test_a_script_is_the_shells_where_nothing_else_is_said(runner, how):
    """An empty command or first line says nothing; arguments come to it all the same."""
    assert runner.run(f"steps: [{{name: a, {how}, args: [x]}}]").out("a") == "hi 1\n"


def test_async_functions_run(runner):
    """A step has what they return."""
    (runner.folder / "tasks.py").write_text(
        "import asyncio\n\nasync def late(x):\n    await asyncio.sleep(0)\n    return x + 1\n"
    )
    told = runner.run("steps: [{name: a, python: 'tasks:late', args: [1], output: O}]")
    assert told.node("a").value.outputs == {"O": "2"}


def test_a_python_step_whose_process_dies_names_the_function(runner):
    """Not the program of ours that called it, which nobody knows."""
    (runner.folder / "deadly.py").write_text("import os\ndef end(): os.kill(os.getpid(), 9)\n")
    told = runner.run("steps: [{name: a, python: 'deadly:end'}]")
    assert str(told.node("a").error) == "The process of deadly:end was killed by SIGKILL before it had answered."


def test_a_text_that_is_no_unicode_fails_nothing(runner):
    """Half of a pair is a value of Python's; as the text of a variable it is a question mark."""
    (runner.folder / "tasks.py").write_text("def half():\n    return chr(0xD800)\ndef ask(x):\n    return ord(x)\n")
    told = runner.run(
        """
        steps:
          - {name: a, python: 'tasks:half', output: H}
          - {name: b, command: 'echo "$H"'}
          - {name: c, python: 'tasks:ask', args: ['${H}'], output: N}
        """
    )
    assert told.status == "succeeded", told.node("a").error
    assert (told.out("b"), told.node("c").value.outputs) == ("?\n", {"N": "55296"})


def test_messages_show_commands_as_the_file_has_them(runner):
    """The names under which a shell gets values are nobody's business."""
    told = runner.run("env: [V: '{\"a\": 1}']\nsteps: [{name: a, command: 'exit ${V.a}', args: [x y]}]")
    assert str(told.node("a").error) == "/bin/sh -c 'exit ${V.a} '\"'\"'x y'\"'\"'' exited with code 1."


def test_python_steps_pass_values_as_they_are(runner):
    """By name of the step, by output, by id; as text where a shell needs it. What they print is in their logs."""
    (runner.folder / "tasks.py").write_text(
        "def make(count):\n    print('making')\n    return list(range(count))\n"
        "def total(make):\n    return sum(make)\n"
        "def both(numbers, text, total):\n    return {'type': type(numbers).__name__, 'text': text, 'total': total}\n"
    )
    told = runner.run(
        """
        steps:
          - {name: make, python: 'tasks:make', args: {count: 4}, output: LIST}
          - {name: total, id: sum, python: 'tasks:total'}
          - {name: both, python: 'tasks:both', args: {numbers: '${LIST}', text: 'is ${LIST}', total: '${sum.value}'}, output: R}
          - {name: show, command: 'echo "${R.type} ${R.text} ${R.total}"'}
        """
    )
    assert told.status == "succeeded", [node.error for node in told.result.node_results.values()]
    assert told.out("make") == "making\n"
    assert told.out("show") == "list is [0, 1, 2, 3] 6\n"


def test_a_part_of_a_value_is_not_the_value(runner):
    """An output that is chosen of it, or what a person has entered, is what it says, in a Python step as in a shell."""
    (runner.folder / "tasks.py").write_text(
        "def make():\n    return {'a': 5, 'b': [1]}\ndef took(**values):\n    return values\n"
    )
    started = runner.start(
        """
        steps:
          - name: make
            python: 'tasks:make'
            outputs: {A: {decode: json, select: a}, C: {value: const}, D: {}}
            approval: {prompt: well?, input: [T]}
          - {name: took, python: 'tasks:took', args: {a: '${A}', c: $C, d: '${D}', t: '${T}'}, output: R}
        """
    )
    assert not started.run.settle()
    started.detach()
    told = runner.go_on(started.place.run_id, signals={"make": {"T": "OPS-7"}})
    assert told.status == "succeeded"
    assert json.loads(told.node("took").value.outputs["R"]) == {
        "a": "5",
        "c": "const",
        "d": {"a": 5, "b": [1]},
        "t": "OPS-7",
    }


def test_a_python_step_that_raises_fails_with_its_message_and_its_traceback(runner):
    """The message is in the history, the traceback of the user's own lines in the log."""
    (runner.folder / "tasks.py").write_text("def broken():\n    raise KeyError('nothing')\n")
    told = runner.run("steps: [{name: a, python: 'tasks:broken'}]")
    assert str(told.node("a").error) == "tasks:broken raised KeyError: 'nothing'"
    assert "tasks.py" in told.err("a")
    assert "dagrid" not in told.err("a")


def test_secrets_are_masked_wherever_they_would_be_seen(runner, monkeypatch):
    """In logs of commands and of Python, in outputs, in errors, in the log of the run, and in no file of the history."""
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)
    (runner.folder / "tasks.py").write_text(
        "import os\n\ndef tell():\n    print('py', os.environ['TOK'])\n    return os.environ['TOK']\n"
    )
    told = runner.run(
        """
        secrets: [{name: TOK, provider: env, key: TOKEN_OF_MINE}]
        steps:
          - {name: a, command: 'echo "tok=$TOK"; test -n "$TOK"', output: A}
          - {name: b, python: 'tasks:tell', output: B}
          - {name: c, command: 'echo "$A $B"; echo "$TOK" >&2; exit 1'}
        """
    )
    assert told.out("a") == "tok=*******\n"
    assert told.out("b") == "py *******\n"
    assert told.out("c") == "tok=******* *******\n"
    assert SECRET not in str(told.node("c").error)
    runner.history.close()
    found = [
        path for path in (runner.folder / "home").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert found == []


def _places_of(secret, folder):
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("items", ["", "parallel: ['${TOK}', 'x ${TOK}'],"])
def test_a_secret_that_a_called_workflow_gets_is_masked_there(runner, monkeypatch, items):
    """It is no secret of that document; its value still reaches it, also when it is taken up again, and stands nowhere."""
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)
    text = f"""
        secrets: [{{name: TOK, provider: env, key: TOKEN_OF_MINE}}]
        steps: [{{name: one, call: child, {items} params: 'T=${{TOK}}', output: RES}}]
        ---
        name: child
        params: [T=none]
        steps:
          - {{name: c, command: 'echo "got $T ${{#T}}"', output: CO}}
          - {{name: d, command: 'test -f ok || exit 3; echo "${{#T}}"'}}
          - {{name: e, call: grandchild, params: 'T=${{T}}'}}
        ---
        name: grandchild
        params: [T=none]
        steps: [{{name: g, command: 'echo "$T"'}}]
        """
    first = runner.run(text)
    assert first.status == "failed"
    (runner.folder / "ok").touch()
    told = runner.go_on(first.id, again=True)
    assert told.status == "succeeded", told.node("one").error
    children = runner.history.children(told.id)
    child = min(children, key=lambda one: len(one.run))
    place = runner.history.folder(child.run)
    assert (place / "c.out").read_text() == f"got ******* {len(SECRET)}\n"
    assert (place / "d.out").read_text().split()[-1] == str(len(SECRET))
    assert "T=*******" in told.out("one")
    runner.history.close()
    assert _places_of(SECRET, runner.folder / "home") == []


def test_a_called_workflow_that_had_a_secret_goes_on_with_its_caller_alone(runner, monkeypatch):
    """The history does not have the secret, and nothing else may be taken for it."""
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)
    told = runner.run(
        """
        secrets: [{name: TOK, provider: env, key: TOKEN_OF_MINE}]
        steps: [{name: one, call: child, params: 'T=${TOK}'}]
        ---
        name: child
        params: [T=none]
        steps: [exit 3]
        """
    )
    (child,) = runner.history.children(told.id)
    with pytest.raises(RunStateError, match=f"dagrid retry {told.id}"):
        runner.go_on(child.run, again=True)


def test_whatever_a_secret_comes_through_is_masked(runner, monkeypatch):
    """Outputs that are made of texts or taken out of JSON, names of workflows, numbers of tries."""
    monkeypatch.setenv("TOKEN_OF_MINE", 'a "quoted" one')
    head = "secrets: [{name: TOK, provider: env, key: TOKEN_OF_MINE}]"
    told = runner.run(
        f"""
        {head}
        steps:
          - {{name: a, command: 'true', outputs: [{{name: A, value: '<${{TOK}}>'}}]}}
          - name: b
            script: |
              printf '{{"x": "%s"}}' "$(printf %s "$TOK" | sed 's/"/\\\\"/g')"
            outputs: [{{name: B, decode: json, select: x}}]
          - {{name: c, call: 'no_${{TOK}}'}}
        """
    )
    assert told.node("a").value.outputs == {"A": "<*******>"}
    assert told.node("b").value.outputs == {"B": "*******"}
    assert "no_*******" in str(told.node("c").error)
    with pytest.raises(WorkflowError, match=r"is '\*{7}' here"):
        runner.run(f"{head}\nsteps: [{{name: a, command: 'true', retryPolicy: {{limit: '${{TOK}}'}}}}]")


@pytest.mark.parametrize(
    "secret", ['a "quoted" one', "it's mine", "back\\slash", "caf\u00e9 au lait", 'two\nlines "here"']
)
def test_a_secret_is_masked_in_the_forms_in_which_dagrid_writes_it(runner, monkeypatch, secret):
    """Values that functions return and rows of tables are written as JSON, names in messages are quoted for Python and shells."""
    monkeypatch.setenv("TOKEN_OF_MINE", secret)
    told = runner.run(
        """
        secrets: [{name: TOK, provider: env, key: TOKEN_OF_MINE}]
        steps:
          - {name: a, python: 'builtins:dict', args: {token: '${TOK}'}, output: A}
          - {name: b, type: sqlite, config: {dsn: ':memory:', params: {t: '${TOK}'}}, command: 'SELECT :t AS token', output: B}
          - {name: c, exec: {command: '/nowhere/${TOK}', args: ['${TOK}']}, continueOn: failure}
          - {name: d, type: file, command: read, config: {path: '/nowhere/${TOK}'}, continueOn: failure}
        """
    )
    assert told.node("a").value.outputs == {"A": '{"token": "*******"}'}
    assert json.loads(told.node("b").value.outputs["B"]) == {"token": "*******"}
    said = f"{told.node('c').error} {told.node('d').error}"
    assert "*******" in said
    for form in {part for line in secret.splitlines() for part in (line, json.dumps(line)[1:-1], repr(line)[1:-1])}:
        assert form not in said
        assert _places_of(form, runner.folder) == []


def test_env_uses_parameters_that_are_made_when_a_run_begins(runner):
    """Also those of a command, which runs once, and again when the run is taken up: what has env in it is made after that."""
    told = runner.run(
        """
        params: ['DAY=`echo day; echo x >> asked`', 'FOLDER=$DAY/f', 'WHERE=$ROOT/$DAY', 'DEEP=${WHERE}/d', PLAIN=p]
        env: [{ROOT: '/r-$PLAIN'}, {TARGET: '$ROOT/$DAY/$FOLDER'}, {NOT_YET: '<$DEEP>'}]
        steps:
          - {name: a, command: 'echo "$TARGET $WHERE $DEEP $NOT_YET"; test -f ok'}
        """
    )
    said = "/r-p/day/day/f /r-p/day /r-p/day/d <$DEEP>\n"
    assert told.out("a") == said
    assert (runner.folder / "asked").read_text() == "x\n"
    (runner.folder / "ok").touch()
    again = runner.go_on(told.id, again=True)
    assert again.out("a") == 2 * said
    assert (runner.folder / "asked").read_text() == "x\n"


def test_a_file_of_secrets_and_dotenv(runner):
    """A secret may come from a file beside the workflow; dotenv files are read in order."""
    (runner.folder / "key").write_text(SECRET + "\n")
    (runner.folder / "a.env").write_text("X=1\nY=${X}2\n")
    (runner.folder / "b.env").write_text("X=3\n")
    told = runner.run(
        """
        dotenv: [a.env, b.env, missing.env]
        secrets: [{name: KEY, provider: file, key: key}]
        steps: [{name: a, command: 'echo "$X $Y ${#KEY}"'}]
        """
    )
    assert told.out("a") == "3 12 12\n"


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params: [{name: N, type: integer, required: true}]\nsteps: [x]", "'N' is missing"),
        ("secrets: [{name: S, provider: env, key: NOT_THERE}]\nsteps: [x]", "which is not set"),
        ("secrets: [{name: S, provider: file, key: not_there}]\nsteps: [x]", "cannot be read"),
        ("env: {A: '`exit 3`'}\nsteps: [x]", "exited with code 3"),
        ("steps: [{command: x, retryPolicy: {limit: $NO, intervalSec: 1}}]", "a number from 0 up is wanted"),
        ("steps: [{command: x, retryPolicy: {limit: '`exit 3`', intervalSec: 1}}]", "exited with code 3"),
        ("steps: [{script: '#!/usr/bin/env \"x'}]", "a quote that is not closed"),
        ("steps: [{command: 'python3 \"x', script: x}]", "a quote that is not closed"),
        ("shell: ['bash \"x']\nsteps: [x]", "a quote that is not closed"),
        ('workingDir: "a\\0b"\nsteps: [x]', "a text without NUL"),
        ('dotenv: ["a\\0b"]\nsteps: [x]', "null byte"),
        ('logDir: "a\\0b"\nsteps: [x]', "a text without NUL"),
        ('secrets: [{name: S, provider: file, key: "a\\0b"}]\nsteps: [x]', "null byte"),
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


def test_a_selector_is_honoured_or_refused(runner):
    """It runs where the machine has the label, and else says how to let it run."""
    text = "steps: [{name: a, command: echo a, workerSelector: {gpu: 'true'}}]"
    with pytest.raises(CapabilityError, match=r"--worker\.labels gpu=true"):
        runner.run(text)
    assert runner.run(text, labels={"gpu": "true"}).status == "succeeded"


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


def test_many_large_outputs_keep_no_step_from_starting(runner):
    """What a step names it has; of the others those are left out for which there is no room."""
    steps = "\n".join(f"- {{name: s{n}, command: 'printf %090000d {n}', output: OUT{n}}}" for n in range(25))
    told = runner.run(
        f"""
        type: graph
        steps:
        - {{name: none, depends: all, command: 'env | wc -c'}}
        - {{name: last, depends: all, command: 'echo ${{#OUT3}}; test `id -u` = "$(id -u)"', preconditions: ['test -n "$OUT24"']}}
        - {{name: prog, depends: all, script: "#!/usr/bin/env python3\\nimport os\\nprint(len(os.environ['OUT7']))"}}
        - {{name: py, depends: all, python: 'os:getcwd'}}
        - {{name: all, command: 'true', depends: [{", ".join(f"s{n}" for n in range(25))}]}}
"""
        + "\n".join(f"        {line}" for line in steps.splitlines())
    )
    assert set(told.statuses.values()) == {"completed"}, [told.node("none").error, told.node("last").error]
    assert told.out("last") == told.out("prog") == "90000\n"


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


def test_settings_may_be_what_commands_print(runner):
    """Backticks run in the folder of the workflow, in numbers of tries, and in paths of logs and of variables."""
    (runner.folder / "sub").mkdir()
    (runner.folder / "sub" / "x.env").write_text("X=found\n")
    told = runner.run(
        """
        workingDir: '`pwd`/sub'
        dotenv: ['`echo x`.env']
        logDir: '`echo logs`'
        steps:
          - {name: a, command: 'pwd; echo $X'}
          - {name: b, command: 'echo x >> tries; test $(wc -l < tries) = 3', retryPolicy: {limit: '`echo 2`', intervalSec: 0}}
        """
    )
    assert told.status == "succeeded"
    assert told.out("a") == f"{runner.folder / 'sub'}\nfound\n"
    assert told.folder.parent == runner.folder / "logs" / "flow"


@pytest.mark.parametrize(
    "value", ["$(touch hurt)", "x; touch hurt", '"; touch hurt; "', "'; touch hurt; '", "`touch hurt`"]
)
def test_no_value_is_run_in_backticks(runner, value):
    """Parameters, outputs and places in JSON are variables of the shell that reads a command in backticks."""
    told = runner.run(
        """
        params: [P: none]
        env: [J: '{"a":1}', ENV: '`printf "<%s>" "$P" "${J.a}" "${P:0:99}"`']
        steps:
          - {name: a, command: 'printf "%s" "$ENV"'}
          - {name: b, command: 'printf "%s" "$P"', output: OUT}
          - {name: c, command: "true", preconditions: [{condition: '`printf %s "$OUT"`', expected: $P}]}
          - {name: d, call: child, params: {R: '`printf %s "$OUT"`'}, output: CALLED}
          - {name: e, command: 'echo "${CALLED.outputs.R}"'}
        ---
        name: child
        params: [R: none]
        steps: [{command: 'printf "%s" "$R"', output: R}]
        """,
        [f"P={value}"],
    )
    assert set(told.statuses.values()) == {"completed"}
    assert told.out("a") == f"<{value}><1><{value}>"
    assert told.out("e") == f"{value}\n"
    assert not list(runner.folder.rglob("hurt"))


def test_commands_in_backticks_know_all_that_settings_know(runner, monkeypatch):
    """What only the environment of dagrid has is known to them, as in the text around; what is escaped is the shell's own."""
    monkeypatch.setenv("ONLY_HERE", "a  b")
    told = runner.run(
        r"""
        params: one
        env:
          - A: '`printf "%s|" $ONLY_HERE "$ONLY_HERE" ${NONE:-$1}`'
          - B: "`for P in 1 2; do printf %s $P; done; echo a b | awk '{print \\$2}'`"
        steps: [{name: a, command: 'echo "$A $B"'}]
        """,
        ["two"],
    )
    assert told.out("a") == "a|b|a  b|two| 12b\n"


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


def test_a_step_that_writes_nothing_has_its_files_when_somebody_asks_for_them(runner):
    """Two files for each of a thousand silent steps cost more than the steps; what is read of one must be there all the same."""
    told = runner.run(
        """
        steps:
          - {name: a, id: silent, python: 'operator:index', args: [1]}
          - {name: b, command: 'test -e "${silent.stdout}" && wc -c < "${silent.stdout}"'}
          - {name: c, python: 'builtins:print', args: [hello]}
          - {name: d, id: quiet, command: 'true'}
          - {name: e, command: 'cat "${quiet.stdout}" "${quiet.stderr}"'}
          - {name: f, command: 'echo why >&2'}
          - {name: g, command: 'true'}
        """
    )
    assert (told.status, told.out("b").strip(), told.out("c"), told.err("f")) == ("succeeded", "0", "hello\n", "why\n")
    files = {name for name in os.listdir(told.folder) if name.endswith((".out", ".err"))}
    assert files == {"a.out", "b.out", "c.out", "d.out", "d.err", "f.err"}


def test_a_python_step_whose_output_cannot_be_written_fails_with_the_reason(runner):
    """Who writes more than a pipe holds would hang for ever; what cannot be opened is found out before the function runs."""
    (runner.folder / "talks.py").write_text("def f():\n    print('x' * 1_000_000)\n")
    told = runner.run(
        """
        type: graph
        steps:
          - {name: a, python: talks:f, stdout: /dev/full, timeoutSec: 20}
          - {name: b, python: talks:f, stderr: /dev/null/no}
        """
    )
    assert str(told.node("a").error) == (
        "The output of talks:f is not complete: '/dev/full' cannot be written: No space left on device"
    )
    assert "'/dev/null/no' cannot be written: Not a directory" in str(told.node("b").error)
    assert told.out("b") == ""


def test_each_python_step_has_its_own_environment_and_folder_whatever_the_one_before_did(runner):
    """They share a process: who went elsewhere, or changed a variable, must not take the next one along, nor its own next try."""
    (runner.folder / "moves.py").write_text(
        "import os\n\n\ndef away():\n    seen = os.getcwd(), os.environ.get('ODD')\n"
        "    os.chdir('/')\n    os.environ['ODD'] = 'x'\n"
        "    raise RuntimeError(seen)\n\n\ndef here():\n    return [os.getcwd(), os.environ.get('ODD')]\n"
    )
    told = runner.run(
        """
        steps:
          - {name: a, python: 'moves:away', retryPolicy: {limit: 1, intervalSec: 0}, continueOn: {failure: true}}
          - {name: b, python: 'moves:here', output: B}
          - {name: c, command: 'echo "$B"'}
        """
    )
    assert told.node("a").attempts == 2
    assert told.err("a").count(f"RuntimeError: ('{runner.folder}', None)") == 2
    assert json.loads(told.out("c")) == [str(runner.folder), None]


def test_a_workflow_that_begins_in_python_ends_its_process_also_where_nothing_runs(runner):
    """It is started before the graph is made, which may be refused; or everything is skipped."""
    watchdog()  # it stays
    before = children()
    told = runner.run("steps: [{name: a, python: 'os:getpid', preconditions: [{condition: 'no', expected: 'yes'}]}]")
    assert told.node("a").status == "skipped"
    with pytest.raises(CapabilityError):
        runner.start("steps: [{name: a, python: 'os:getpid', workerSelector: {gpu: 'true'}}]")
    assert children() == before


def test_a_value_is_passed_by_no_name_to_what_tells_no_names(runner):
    """A type written in C may not say what it takes, and is called all the same behind a step that returned something."""
    told = runner.run(
        """
        steps:
          - {name: a, python: 'operator:index', args: [1]}
          - {name: b, python: 'builtins:dict', args: {x: 1}, output: B}
          - {name: c, command: 'echo "$B"'}
        """
    )
    assert told.out("c") == '{"x": 1}\n'


def test_a_value_is_passed_to_the_parameter_of_its_name_that_is_still_free(runner):
    """Whatever the function looks like: one that takes any number of values, a decorated one, an object that is called."""
    (runner.folder / "takes.py").write_text(
        "import functools\n\n\ndef make():\n    return 5\n\n\n"
        "def rest(*numbers, make):\n    return [*numbers, make]\n\n\n"
        "def place(make=0, /, other=1):\n    return [make, other]\n\n\n"
        "def taken(make, other=1):\n    return [make, other]\n\n\n"
        "def twice(fn):\n    @functools.wraps(fn)\n    def inner(*args, **kwargs):\n"
        "        return fn(*args, **kwargs) * 2\n    return inner\n\n\n"
        "decorated = twice(rest)\n\n\n"
        "class Called:\n    def __call__(self, first, make):\n        return [first, make]\n\n\ncalled = Called()\n"
    )
    functions = {
        "rest": ([1, 2], [1, 2, 5]),
        "place": ([], [0, 1]),
        "taken": ([1, 2], [1, 2]),
        "decorated": ([1, 2], [1, 2, 5] * 2),
        "called": ([1], [1, 5]),
    }
    told = runner.run(
        "type: graph\nsteps:\n  - {name: make, python: 'takes:make'}\n"
        + "".join(
            f"  - {{name: {name}, python: 'takes:{name}', args: {args}, depends: make, output: X}}\n"
            for name, (args, _) in functions.items()
        )
    )
    returned = {name: json.loads(told.node(name).value.outputs["X"]) for name in functions}
    assert returned == {name: expected for name, (_, expected) in functions.items()}


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
