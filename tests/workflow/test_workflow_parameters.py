"""Parameters: the ways to declare them, and what a command line makes of them."""

from __future__ import annotations

import pytest

from dagrid.errors import ParameterError, WorkflowError
from dagrid.workflow import loads
from dagrid.workflow.parameters import apply, check, split


def declared(params):
    return loads(f"params: {params}\nsteps: [echo]\n").main.params


def run(params, *given):
    """Return name -> value as a run would have them."""
    return {one.name: one.value for one in apply(declared(params), given)}


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("first second", [("", "first"), ("", "second")]),
        ("X=1 Y=two", [("X", "1"), ("Y", "two")]),
        ('X="a b" c', [("X", "a b"), ("", "c")]),
        (r'X="say \"hi\"" "a b"', [("X", 'say "hi"'), ("", "a b")]),
        ("X='a \"b\"'", [("X", 'a "b"')]),
        ("X=`date +%s` Y=", [("X", "`date +%s`"), ("Y", "")]),
        ("U=http://h/?a=b&c=d", [("U", "http://h/?a=b&c=d")]),
        ("it's fine", [("", "it's"), ("", "fine")]),
        ("X=${ITEM.a} ${V}", [("X", "${ITEM.a}"), ("", "${V}")]),
        ("", []),
        ("  ", []),
        ("=x", [("", "=x")]),
    ],
)
def test_a_text_is_split_into_names_and_values(text, pairs):
    """Sub-workflows and the command line pass parameters as one text."""
    assert split(text) == pairs


@pytest.mark.parametrize(
    ("params", "values"),
    [
        ("first second", {"1": "first", "2": "second"}),
        ('"X=1 Y=two"', {"X": "1", "Y": "two"}),
        ("[a, {X: 1}, Y=2 z]", {"1": "a", "X": "1", "Y": "2", "4": "z"}),
        ("{X: 1.10, Y: yes, Z: }", {"X": "1.10", "Y": "yes", "Z": ""}),
        ('[{ENVN: dev}, {PORT: 8080}, "FLAG=x y"]', {"ENVN": "dev", "PORT": "8080", "FLAG": "x", "4": "y"}),
        ("[{name: X, default: 5, type: integer}, {name: Y}]", {"X": "5", "name": "Y"}),
        ("{type: object, properties: {X: {type: integer, default: 5}, Y: {}}}", {"X": "5"}),
        ("{schema: {properties: {X: {type: integer}}}, values: {X: 7}}", {"X": "7"}),
        ("{schema: params.json, values: {X: 7}}", {"X": "7"}),
    ],
)
def test_every_way_to_declare_parameters(params, values):
    """All of them are in use; a positional one is called by its number among all."""
    assert run(params) == values


def test_what_is_given_wins():
    """By name wherever it stands, by position the one at that position, which keeps its name; the rest is added."""
    assert run('"X=1 Y=2"', "Y=9") == {"X": "1", "Y": "9"}
    assert run("a b", "z") == {"1": "z", "2": "b"}
    assert run('"X=1 Y=2"', "z") == {"X": "z", "Y": "2"}
    assert run("a", "p", "q", "NEW=1", "NEW=2") == {"1": "p", "2": "q", "NEW": "2"}
    assert {one.name: one.value for one in apply(declared("a"), 'X="b c" d')} == {"1": "a", "X": "b c", "3": "d"}


def test_given_values_are_taken_as_they_are():
    """A default is text of the author and is expanded; a value from outside must not run commands."""
    arguments = apply(declared('"X=`date` Y=$X"'), ["Y=`rm -rf /`", "-", "two words"])
    assert [(one.name, one.value, one.is_literal) for one in arguments] == [
        ("X", "`date`", False),
        ("Y", "-", True),
        ("3", "two words", True),
    ]


CLOSED = (
    "{type: object, required: [X], additionalProperties: false, "
    "properties: {X: {type: integer, minimum: 1}, M: {enum: [a, b]}}}"
)


def test_all_that_does_not_fit_is_said_at_once():
    """A start with five wrong parameters is mended in one go."""
    with pytest.raises(ParameterError) as caught:
        apply(declared(CLOSED), ["M=c", "XX=3", "1", "2", "three"])
    assert [str(one) for one in caught.value.problems] == [
        "parameters: there is no parameter 'XX'. Did you mean 'X'?",
        "parameters: '1' is one value too many; give it a name, as NAME=1",
        "parameters: '2' is one value too many; give it a name, as NAME=2",
        "parameters: 'three' is one value too many; give it a name, as NAME=three",
        "parameters: 'X' is missing; give it as X=...",
        "parameters: 'M' is one of a, b, not 'c'.",
    ]
    with pytest.raises(ParameterError, match="'X' is at least 1, not 0"):
        apply(declared(CLOSED), ["X=0"])


@pytest.mark.parametrize(
    ("rule", "good", "bad", "message"),
    [
        ("type: integer", "-5", "5.5", "'P' is a whole number"),
        ("type: number", "5.5", "five", "'P' is a number"),
        ("type: boolean", "true", "yes", "'P' is true or false"),
        ("type: number, maximum: 2", "2", "3", "'P' is at most 2"),
        ("minLength: 2", "ab", "a", "at least 2 characters"),
        ("max_length: 2", "ab", "abc", "at most 2 characters"),
        ("pattern: '^v[0-9]'", "v1", "1", "'P' matches"),
        ("enum: [1.0, 2]", "1.0", "1", "'P' is one of 1.0, 2"),
    ],
)
def test_a_value_is_what_its_parameter_says(rule, good, bad, message):
    """A parameter that says what it takes refuses the rest before anything runs."""
    param = declared(f"[{{name: P, required: false, {rule}}}]").items[0]
    assert check(param, good) is None
    assert message in str(check(param, bad))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("[{name: X, type: int}]", "f.yaml:1:26: params.X.type is one of string, integer, number, boolean, not 'int'"),
        (
            "[{name: X, defalt: 1, type: string}]",
            "f.yaml:1:20: unknown key 'defalt' in params.X. Did you mean 'default'?",
        ),
        (
            "[{name: X, type: integer, default: x}]",
            "f.yaml:1:44: params.X: the default does not fit: 'X' is a whole number",
        ),
        ("[{name: X, pattern: '['}]", "f.yaml:1:29: params.X.pattern: '[' is no regular expression"),
        ("[{X: 1}, {X: 2}]", "f.yaml:1:19: params: 'X' stands in line 1 already"),
        ("{a b: 1}", "f.yaml:1:10: params: 'a b' is no name of a parameter"),
        ("[[a]]", "f.yaml:1:10: params is text, not a list"),
    ],
)
def test_a_wrong_declaration_is_refused_at_its_place(params, message):
    """The author reads it when the file is loaded, not the person who starts it at night."""
    with pytest.raises(WorkflowError) as caught:
        loads(f"params: {params}\nsteps: [echo]\n", name="f.yaml")
    assert str(caught.value).startswith(message)
