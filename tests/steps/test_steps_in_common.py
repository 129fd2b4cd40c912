"""What holds for all types that compute in a warm process."""

from __future__ import annotations

STEP = "steps: [{name: a, type: jq, command: '.a', config: {input: {a: 1}}, %s}]"


def test_output_goes_to_a_file_of_the_step_too(perform, tmp_path):
    assert perform(STEP % "stdout: 'out-${WHO}.txt', env: {WHO: you}").out == "1\n"
    assert (tmp_path / "out-you.txt").read_text() == "1\n"


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
