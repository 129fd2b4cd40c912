"""Secrets reach the steps, and are masked wherever they would be seen."""

from __future__ import annotations

import copyreg
import json
from types import TracebackType

import pytest
from tblib import pickling_support  # type: ignore[import-untyped]

from dagrid.errors import RunStateError, StepError, WorkflowError

SECRET = "s3cret-t0ken"


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


@pytest.mark.parametrize("again", ["", "repeatPolicy: {repeat: while, exitCode: [1], limit: 1, intervalSec: 0}"])
@pytest.mark.parametrize("step", ["call: 'no${TOK}'", "call: child, stdout: '/dev/null/${TOK}'"])
def test_a_secret_in_what_a_step_fails_with_is_masked(runner, monkeypatch, step, again):
    """Whoever raises it, and also where the step would have been run again but for the number of times, or where errors are kept
    with what they come from, as Dask has them kept."""
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)
    monkeypatch.setitem(copyreg.dispatch_table, StepError, pickling_support.pickle_exception)
    monkeypatch.setitem(copyreg.dispatch_table, TracebackType, pickling_support.pickle_traceback)
    told = runner.run(
        f"""
        secrets: [{{name: TOK, provider: env, key: TOKEN_OF_MINE}}]
        steps: [{{name: a, {step}, {again}}}]
        ---
        name: child
        steps: ['true']
        """
    )
    error = told.node("a").error
    assert "*******" in str(error)
    assert SECRET not in str(error)
    assert isinstance(error, StepError)
    runner.history.close()
    assert _places_of(SECRET, runner.folder / "home") == []


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


def test_the_password_of_a_store_is_a_secret_although_processes_have_it(runner, monkeypatch):
    """What a step starts may need the store; who reads what it printed of its environment does not."""
    monkeypatch.setenv("DAGRID_STORE", f"postgresql://ann:{SECRET}@host/db")
    (runner.folder / "tasks.py").write_text("import os\n\ndef tell():\n    return os.environ['DAGRID_STORE']\n")
    told = runner.run(
        """
        steps:
          - {name: a, command: 'echo "$DAGRID_STORE" | wc -c; env', output: A}
          - {name: b, python: 'tasks:tell', output: B}
          - {name: c, command: 'echo "$B"; echo "$DAGRID_STORE" | tr -d "\n" | cut -d: -f3 >&2; exit 1'}
        """
    )
    assert told.out("a").startswith(f"{len(f'postgresql://ann:{SECRET}@host/db') + 1}\n")
    assert "DAGRID_STORE=postgresql://ann:*******@host/db\n" in told.out("a")
    assert told.out("c") == "postgresql://ann:*******@host/db\n"
    assert str(told.node("c").error).endswith("*******@host/db")
    runner.history.close()
    assert _places_of(SECRET, runner.folder / "home") == []
