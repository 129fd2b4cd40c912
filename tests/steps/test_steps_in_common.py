"""What holds for all types that compute in a warm process."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from dagrid.workflow import steps
from tests.steps.conftest import wrong

STEP = "steps: [{name: a, type: jq, command: '.a', config: {input: {a: 1}}, %s}]"


def test_output_goes_to_a_file_of_the_step_too(perform, tmp_path):
    assert perform(STEP % "stdout: 'out-${WHO}.txt', env: {WHO: you}").out == "1\n"
    assert (tmp_path / "out-you.txt").read_text() == "1\n"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            '{type: ssh, config: {host: a, shell: "bash \'x"}, command: a}',
            "'shell' must be words as a shell would read them",
        ),
        (
            "{type: ssh, config: {host: a, shell: {a: b}}, command: a}",
            "'shell' must be words as a shell would read them",
        ),
        (
            '{type: docker, config: {image: a, shell: "bash \'x"}, command: a}',
            "'shell' must be words as a shell would read",
        ),
        (
            "{type: docker, config: {image: a, env: 5}, command: a}",
            "'env' must be a list of NAME=VALUE, or a mapping, not 5",
        ),
    ],
)
def test_words_and_variables_are_checked_when_the_file_is_loaded(step, message):
    """Where the step read them they were errors of Python's."""
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize("step", ["type: sqlite, command: SELECT 1", "python: 'os:getcwd'"])
def test_a_folder_that_is_not_there_is_what_the_error_tells_of(perform, tmp_path, step):
    """And not a function of ours that cannot be called."""
    ended = perform(f"steps: [{{name: a, workingDir: none, {step}}}]")
    assert ended.error == (
        f"It cannot run in '{tmp_path}/none': No such file or directory. Make that folder, or name another one."
    )
    assert ended.err == ""


class Unready:
    def __init__(self, what):
        """It wants what nobody gives it."""


class Idle:
    """It performs nothing."""


class Unsure:
    def check(self, step):
        raise KeyError("oops")

    def perform(self, work):
        yield from ()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("Unready", "The step type 'theirs' cannot be loaded: TypeError: "),
        ("Idle", "The step type 'theirs' cannot be loaded: AttributeError: "),
        ("NoSuch", "The step type 'theirs' cannot be loaded: AttributeError: "),
        ("Unsure", "the step type 'theirs' cannot check the step: KeyError: 'oops'"),
    ],
)
def test_a_fault_of_a_type_that_others_bring_is_theirs(monkeypatch, place, message):
    """It was reported as a fault of dagrid, to be sent to those who cannot mend it."""
    point = EntryPoint("theirs", f"{__name__}:{place}", steps.GROUP)
    monkeypatch.setattr(steps, "_foreign", lambda: {"theirs": point})
    steps.of.cache_clear()
    (found,) = wrong("steps: [{type: theirs}]")
    steps.of.cache_clear()
    assert message in found
    assert f"That is a fault of the package {__name__}:{place}" in found


def test_files_of_the_folder_are_no_modules_of_ours(perform, tmp_path):
    """A workflow lies among its user's files; one called as a module of Python's must not be run in place of it."""
    for name in ("tarfile", "zipfile", "duckdb", "csv", "jq"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    assert perform(STEP % "env: {}").out == "1\n"
    assert perform("steps: [{type: archive, command: list, config: {source: none.zip}}]").error == (
        "There is no archive 'none.zip'."
    )
    assert perform("steps: [{type: duckdb, command: SELECT 1 AS a}]").out == '{"a":1}\n'


def test_a_choice_that_is_made_of_variables_is_one_of_those_there_are(perform):
    """Also one of which nobody knows the variable, so that its name is left."""
    step = "steps: [{type: sqlite, command: SELECT 1, config: {dsn: ':memory:', output: '%s'}, env: {A: js}}]"
    assert perform(step % "${A}on").out == '[\n    {"1":1}\n]\n'
    assert perform(step % "$A").error == (
        "'output' must be one of jsonl, json, csv, table, not 'js'. Did you mean 'json'?"
    )
    assert "not '$NOBODY'" in perform(step % "$NOBODY").error


def test_no_file_is_called_with_a_nul(perform):
    ended = perform('steps: [{type: jq, command: ., config: {input: "a\\0b"}}]')
    assert ended.error.startswith("The JSON cannot be read from ")
