"""What holds for any text: a result or a WorkflowError, texts without names come back, mistakes are found wherever they stand."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dagrid.errors import ParameterError, WorkflowError
from dagrid.workflow import dependencies, loads
from dagrid.workflow.expressions import evaluate, parse
from dagrid.workflow.fields import camel
from dagrid.workflow.model import Params
from dagrid.workflow.parameters import apply, split
from dagrid.workflow.problems import Problems
from dagrid.workflow.schema import EXECUTOR, STEP, WORKFLOW
from dagrid.workflow.source import read

WORDS = sorted(
    {*WORKFLOW.spelled, *STEP.spelled, *EXECUTOR.spelled, *WORKFLOW.hints, *STEP.hints, "limit", "condition", "items"}
)
SCALARS = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(
        [
            "a",
            "b",
            "true",
            "yes",
            "~",
            "-1",
            "3",
            "1.5",
            ".inf",
            "$A",
            "${A:-b}",
            "`x`",
            "re:(",
            "re:[[a]",
            "0 1 * * *",
            "chain",
            "graph",
        ]
    ),
    st.sampled_from(
        [
            "9" * 50,
            "0" * 5000,
            "CRON_TZ=x * * * * *",
            "L L * * 6#9",
            "*/0 * * * *",
            "A=b",
            "* * L/2 * 5L",
            "LW,1 1 LW 1 *",
        ]
    ),
    st.text(max_size=8).map(repr),
)
FLOW = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(st.one_of(st.sampled_from(WORDS), SCALARS), inner), max_size=5).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=30,
)
FIELDS = st.lists(st.tuples(st.sampled_from(sorted(WORKFLOW.spelled)), FLOW), min_size=1, max_size=6)
STEPS = st.lists(st.lists(st.tuples(st.sampled_from(sorted(STEP.spelled)), FLOW), min_size=1, max_size=6), max_size=3)
MARKUP = st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,?<~ \n\t\r0.\x00é\u2028\ufeff\ud800", max_size=60)
ANYTHING = st.text(alphabet="$`\\{}'\":-+#.[]0a V_@\n", max_size=40)


def check(text):
    """Load a text, and look at what comes: records that have an order, or problems with places inside of the text."""
    problems, found = outcome(text)
    if found is None:
        assert problems
        lines = len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text)) + 1
        for one in problems:
            assert 1 <= one.line <= lines, one
            assert one.column >= 1
            assert one.message == one.message.strip()
        return
    waits = dependencies(found.main)
    assert list(waits) == [step.name for step in found.main.steps]
    assert all(before in waits for one in waits.values() for before in one)
    assert all(step.kind for step in found.main.steps)


def outcome(text):
    """Return the problems of a text, and its workflows if it has none."""
    try:
        return (), loads(text, name="f.yaml")
    except WorkflowError as error:
        return error.problems, None


@given(st.one_of(st.text(max_size=80), MARKUP))
@example("[" * 3000)
@example("a: &a\n" + "- " * 3000)
@example("? ? ? a")
@example("!<tag:yaml.org,2002:int> a: b")
@example("%TAG ! !!\n---\na: !b c")
@example("steps: &s [*s]")
@example("\x85a: \u2028\tb: [")
def test_any_text_is_a_workflow_or_an_error(text):
    """No text of a user may end in a traceback."""
    check(text)


@pytest.mark.slow
@settings(max_examples=150)
@given(FIELDS, STEPS)
def test_any_values_of_the_known_fields_are_read_or_refused(fields, steps):
    """Every field gets every kind of value: each reader has to look before it takes."""
    text = "".join(f"{key}: {value}\n" for key, value in fields)
    listed = "".join("  - " + "\n    ".join(f"{key}: {value}" for key, value in step) + "\n" for step in steps)
    check(text)
    check(text + ("steps:\n" + listed if listed else ""))
    check("steps:\n" + listed if listed else "steps: [x]\n" + text)
    check("handlerOn:\n  exit: {command: x}\ndefaults: " + fields[0][1] + "\nsteps: [x]")


@given(ANYTHING)
def test_an_expression_keeps_its_text(text):
    """What is put back as it was written must be what was written, or a shell gets another program."""

    class Nobody:
        def variable(self, name):
            return None

        def step(self, id, field):
            return None

        def run(self, command):
            return "out"

    for backticks in (True, False):
        expression = parse(text, backticks=backticks)
        assert expression.written == text
        assert evaluate(expression, Nobody(), only=lambda part: False) == text
        assert isinstance(evaluate(expression, Nobody()), str)
    if not set(text) & set("$`"):
        assert evaluate(text, Nobody()) == text
        assert parse(text).is_literal


@given(ANYTHING, st.lists(st.text(max_size=10), max_size=4))
def test_any_parameters_are_taken_or_refused(text, given_values):
    """Both come from outside: the text of a caller, and a command line."""
    assert all(isinstance(value, str) for _, value in split(text))
    assert apply(Params(), text) == apply(Params(), text)
    if not given_values:
        assert apply(Params(is_closed=True), given_values) == ()
        return
    with pytest.raises(ParameterError) as caught:
        apply(Params(is_closed=True), given_values)
    assert len(caught.value.problems) == len(given_values)


@given(st.text(alphabet="abc dé=\"\\'`", max_size=12), st.sampled_from(["", "X", "LONG_NAME"]))
def test_a_quoted_parameter_comes_back(value, name):
    """Whoever quotes a value gets it whole, with blanks and quotes in it."""
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert split(f"first {name + '=' if name else ''}{quoted} last") == [("", "first"), (name, value), ("", "last")]


@given(st.integers(0, 30), st.integers(0, 30), st.data())
def test_a_key_that_stands_twice_is_found_wherever_it_stands(before, between, data):
    """The second one silently winning is the classic way to lose a setting."""
    keys = [f"k{number}" for number in range(before + between + 1)]
    again = data.draw(st.sampled_from(keys))
    indent = "  " * data.draw(st.integers(0, 3))
    lines = [f"{indent}{key}: 1" for key in (*keys, again)]
    outer = [f"{'  ' * level}o:" for level in range(len(indent) // 2)]
    problems = Problems("f")
    read("\n".join([*outer, *lines]), problems)
    (only,) = problems.found
    assert (only.line, only.column) == (len(outer) + len(lines), len(indent) + 1)
    assert repr(again) in only.message


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20), st.integers(0, 20))
def test_an_unknown_key_is_found_wherever_it_stands(key, line):
    """Whatever is no field is refused; a typo that is read over does not do what its author meant."""
    if key in STEP.spelled or key in STEP.hints:
        return
    comments = "# a comment\n" * line
    with pytest.raises(WorkflowError) as caught:
        loads(f"steps:\n  - command: x\n{comments}    {key}: 1\n", name="f")
    (only,) = caught.value.problems
    assert (only.line, only.column) == (3 + line, 5)
    assert only.message.startswith(f"unknown key '{key}' in step.")


@given(st.sampled_from(sorted({row.name for row in (*STEP.fields, *WORKFLOW.fields)})), st.data())
def test_a_typo_is_answered_with_the_key_that_was_meant(name, data):
    """One letter left out of a long key: the answer is that key, in the dialect of the file."""
    spelled = data.draw(st.sampled_from(sorted({name, camel(name)})))
    if len(spelled) < 8:
        return
    at = data.draw(st.integers(1, len(spelled) - 2))
    typo = spelled[:at] + spelled[at + 1 :]
    table = STEP if spelled in STEP.spelled else WORKFLOW
    if typo in table.spelled or ("_" in spelled and "_" not in typo):
        return
    text = f"steps: [{{command: x, {typo}: 1}}]" if table is STEP else f"{typo}: 1\nsteps: [x]"
    with pytest.raises(WorkflowError) as caught:
        loads(text)
    assert f"Did you mean '{spelled}'?" in str(caught.value)
