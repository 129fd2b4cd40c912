"""Values in the text of a command: whatever they hold, a real shell sees each as one value and never as a part of the program."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagrid.workflow.context import StepEnd
from dagrid.workflow.variables import Names, environment, for_program, for_shell

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\n"), max_size=20)
NASTY = [
    "'; touch hurt; '",
    '"; touch hurt; "',
    "$(touch hurt)",
    "`touch hurt`",
    "\\",
    "a b",
    "*",
    "${HOME}",
    "$HOME",
    "-n",
    "'",
    '"',
]


def printed(text, variables, steps=None, shell="/bin/sh"):
    """Return what a shell prints for a text of a workflow."""
    names = Names([variables, os.environ], steps)
    written, held = for_shell(text, names)
    env = {**environment(variables), **held, "PATH": os.environ["PATH"]}
    done = subprocess.run([shell, "-c", written], env=env, capture_output=True, text=True, check=True)
    return done.stdout


@given(TEXT)
@example(NASTY[0])
@example(NASTY[2])
@example(NASTY[3])
@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("printf '%s' \"${V.a}\"", ""),
        ("printf '%s' \"<${V.a}>\"", "<>"),
        ("printf '%s' '${V.a}'", ""),
        ("printf '%s' 'a ${V.a} b'", "a  b"),
        ("printf '%s' \"it's ${V.a}\"", "it's "),
    ],
)
def test_a_value_out_of_json_is_never_a_part_of_the_program(text, around, value):
    """In double quotes, in single quotes and with text around it, it is printed as it is."""
    expected = text.partition("'%s' ")[2][1:-1].replace("${V.a}", value)
    assert printed(text, {"V": json.dumps({"a": value})}) == expected


@pytest.mark.parametrize("value", NASTY)
def test_a_numbered_parameter_is_never_a_part_of_the_program(value, tmp_path, monkeypatch):
    """`$1` is none of the shell's own here; its value comes to it as that of a variable."""
    monkeypatch.chdir(tmp_path)
    assert printed('printf \'%s|\' "$1" "${1}"', {"1": value}) == f"{value}|{value}|"
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo $NAME ${NAME:-other} ${#NAME}", "ada ada 3\n"),  # all of it the shell's own
        ('echo "${UNKNOWN}" "${UNKNOWN:-none}"', " none\n"),
        ("echo '${NAME}'", "${NAME}\n"),
        ("echo \\${NAME} \\$NAME", "${NAME} $NAME\n"),
        ('echo "${NAME:0:2}" ${NAME:1}', "ad da\n"),  # a plain sh knows no slices
        ('echo "${V.list[1]} ${V.list} ${V.none}|"', "2 [1,2] |\n"),
        ('echo "${V.none:-nothing} ${V.a:-nothing}"', "nothing x\n"),
        ("echo $((${V.n} + 1)) $(echo ${V.n})", "5 4\n"),
        ("cat <<END\n${V.a}\nEND", "x\n"),
        ("cat <<'END'\n${V.a} $NAME\nEND", "x $NAME\n"),
        ("echo ${a_step.exitCode} ${a_step.stdout}", "3 /tmp/a.out\n"),
        ("echo $1 $2 ${9}|cat", "\n"),  # parameters that nobody gave are empty, as in any shell
        ("for i in 1 2; do echo $i; done", "1\n2\n"),
        ("echo `echo $NAME`", "ada\n"),
    ],
)
def test_a_shell_gets_what_it_cannot_find_by_itself(text, expected):
    """Paths, slices and fields of steps are ours; everything else is left to the shell, with its own rules."""
    variables = {"NAME": "ada", "V": '{"a":"x","n":4,"list":[1,2]}'}
    assert printed(text, variables, {"a_step": StepEnd(code=3, stdout="/tmp/a.out")}) == expected


def test_a_program_that_is_no_shell_keeps_its_dollars():
    """In a Python script only `${...}` with a known name is ours."""
    names = Names([{"NAME": "ada", "V": '{"a":1}'}])
    assert for_program("print('$NAME', '${NAME}', '${V.a}', '${other}', r'\\$')", names) == (
        "print('$NAME', 'ada', '1', '${other}', r'\\$')"
    )


def test_what_is_no_name_or_too_long_is_not_in_the_environment():
    """A process could not be started with it; a layer before another one wins."""
    found = environment({"A": "new", "1": "x", "LONG": "x" * 200_000}, {"A": "old", "B": "b", "LONG": "short"})
    assert found == {"A": "new", "B": "b"}
