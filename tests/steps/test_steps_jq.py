"""Steps of type jq: by the package and by the program, with the same output."""

from __future__ import annotations

import json

import pytest

from tests.steps.conftest import wrong

JSON = '{"id":"x","items":[1,2,3],"empty":{},"none":null}'


@pytest.fixture(params=["package", "program"])
def by(request, monkeypatch):
    """Both ways to filter: without the package the program on the PATH does it."""
    if request.param == "program":
        monkeypatch.setattr("dagrid.workflow.steps.jq.find_spec", lambda _: None)
    return request.param


def step(command, script=JSON, config="{}", extra=""):
    return f"""
        params: [WHO=x, N=1]
        steps:
          - name: a
            type: jq
            config: {config}
            command: {json.dumps(command)}
            script: |
              {script}
            {extra}
    """


def test_output_has_the_indentation_of_the_reference(perform, by):
    ended = perform(step("{id: .id, n: (.items|length)}"))
    assert not ended.error
    assert ended.out == '{\n    "id": "x",\n    "n": 3\n}\n'


@pytest.mark.parametrize(
    ("command", "out"),
    [(".id", "x\n"), (".items", "[1,2,3]\n"), (".items[]", "1\n2\n3\n"), ("[.id, true]", '["x",true]\n')],
)
def test_raw_output_is_one_line_for_each_value(perform, by, command, out):
    assert perform(step(command, config="{raw: true}")).out == out


def test_variables_of_the_workflow_are_put_in_and_those_of_the_filter_are_not(perform, by):
    """jq has `$name` too: what the filter binds is its own, even where the workflow knows the name."""
    assert perform(step(".items[${N}]")).out == "2\n"
    assert perform(step('select(.id == "$WHO") | .items[0]')).out == "1\n"
    assert perform(step(". as {id: $WHO} | $WHO + $WHO")).out == '"xx"\n'
    assert perform(step('"\\(.id)\\t" | length')).out == "2\n"


def test_json_comes_from_a_file_or_from_the_settings(perform, by, tmp_path):
    (tmp_path / "in.json").write_text('{"a": 1}\n{"a": 2}\n')
    many = "steps: [{name: a, type: jq, command: .a, config: {input: in.json}}]"
    assert perform(many).out == "1\n2\n"
    assert perform("steps: [{name: a, type: jq, command: .a, config: {input: {a: 7}}}]").out == "7\n"
    assert "no-such" in perform("steps: [{name: a, type: jq, command: .a, config: {input: no-such.json}}]").error


def test_json_as_text_may_be_a_number(perform, by):
    """The output of another step is one as likely as not, and no file has such a name."""
    text = "steps: [{{name: a, type: jq, command: '-. + 1', config: {{input: '${{N}}'}}, env: [N: '{}']}}]"
    assert perform(text.format("42")).out == "-41\n"
    assert "boolean" in perform(text.format("true")).error
    assert perform(text.format("")).error == "There is no JSON to filter; the text is empty."


def test_a_filter_may_end_the_step_as_a_failure(perform, by):
    """A filter that refuses what it reads must not look like one that found nothing."""
    ended = perform(step('if .id == "y" then . else halt_error end'))
    assert ended.error
    assert perform(step('"no" | halt_error(3)')).error


def test_what_cannot_be_filtered_fails_with_the_reason(perform, by):
    assert perform(step(".id[")).error
    assert perform(step(".id", script="{not json")).error
    ended = perform(step(".id.x"))
    assert "Cannot index string" in ended.error
    assert "Traceback" not in ended.err


def test_neither_package_nor_program(perform, monkeypatch):
    monkeypatch.setattr("dagrid.workflow.steps.jq.find_spec", lambda _: None)
    monkeypatch.setattr("dagrid.workflow.steps.jq.shutil.which", lambda *_, **__: None)
    ended = perform(step(".id"))
    assert ended.error.endswith("pip install 'dagrid[jq]'")
    assert not ended.retryable


def test_a_file_is_told_what_is_wrong_with_it():
    assert wrong("steps:\n  - {type: jq, command: .a}\n") == [
        "<text>:2:5: a step of type jq needs JSON; write it as `script`, or name a file with config: {input: FILE}"
    ]
    text = "steps:\n  - type: jq\n    config:\n      rwa: true\n    command: .a\n    script: '{}'\n"
    assert wrong(text) == ["<text>:4:7: unknown setting 'rwa' of a step of type jq. Did you mean 'raw'?"]
    text = "steps:\n  - type: jq\n    config: {raw: perhaps}\n    command: .a\n    script: '{}'\n"
    assert wrong(text) == ["<text>:3:14: 'raw' must be true or false, not 'perhaps'"]
