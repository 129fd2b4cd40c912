"""Files of variables: what a line means, and which line is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid.workflow.dotenv import read_dotenv
from dagrid.workflow.expressions import evaluate
from dagrid.workflow.problems import Problems


class Before:
    """The names of the lines before."""

    def __init__(self):
        self.known = {"HOME": "/home/me"}

    def variable(self, name):
        return self.known.get(name)

    def step(self, id, field):
        return None

    def run(self, command):
        raise AssertionError(f"a .env file ran {command!r}")


def values(text):
    """Return the names and values of a text, each line evaluated behind those before it, and its problems."""
    problems = Problems(".env")
    scope = Before()
    found = {}
    for one in read_dotenv(text, problems):
        found[one.name] = scope.known[one.name] = evaluate(one.value, scope)
    return found, [str(one) for one in problems.found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=fe", "fe"),
        ('A="two words"', "two words"),
        ("export A = x y ", "x y"),
        ("A: yaml", "yaml"),
        ("A=", ""),
        ("A=  # nothing", ""),
        ("A=b#c # comment", "b#c"),
        ("A=http://h/?x=1&y=2", "http://h/?x=1&y=2"),
        ("A=$HOME/${HOME}/$NOPE", "/home/me//home/me/$NOPE"),
        ("A='$HOME \\n'", "$HOME \\n"),
        ('A="$HOME\\n\\"q\\" \\$HOME"  # c', '/home/me\n"q" $HOME'),
        ('A="first\nsecond"', "first\nsecond"),
        ("A='first\n# second'", "first\n# second"),
        ("A=`date`", "`date`"),
        ("\ufeff# c\r\n\r\nA=1\r\n", "1"),
        ("A=1\nA=2", "2"),
    ],
)
def test_a_line_of_a_dotenv_file(text, value):
    """These files are shared with other programs, so they mean here what they mean there."""
    assert values(text) == ({"A": value}, [])


def test_a_later_line_uses_an_earlier_one():
    """A list of paths is built that way."""
    assert values("BIN=$HOME/bin\nPATHS=$BIN:/usr/bin")[0]["PATHS"] == "/home/me/bin:/usr/bin"


def test_wrong_lines_are_all_found():
    """The others count; each wrong one is said with its place."""
    found, problems = values("A=1\n1B=2\nC='x\ny' z\nnonsense\nD=\"open\nE=5\n")
    assert found == {"A": "1", "E": "5"}
    assert problems == [
        ".env:2:1: this is no NAME=value; a name has letters, digits and _ and begins with no digit",
        ".env:4:3: nothing may stand behind the closing quote",
        ".env:5:1: this is no NAME=value; a name has letters, digits and _ and begins with no digit",
        ".env:6:3: a quote is opened and never closed; close it",
    ]


@given(st.text(alphabet="AB=:\"'\\$#{}` \t\r\n1export", max_size=60))
def test_any_text_is_read_or_noted(text):
    """Each line is an assignment, a comment, empty, inside of quotes, or a problem in its line."""
    problems = Problems("f")
    found = read_dotenv(text, problems)
    lines = text.count("\n") + 1
    assert all(1 <= one.line <= lines for one in found)
    assert all(1 <= one.line <= lines for one in problems.found)
    assert [one.line for one in found] == sorted(one.line for one in found)


@given(st.text(max_size=20).filter(lambda text: "\r" not in text))
def test_a_quoted_value_comes_back(value):
    """What another program writes with quotes is what the steps get."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    found, problems = values(f'A="{escaped}"\nB=2')
    assert problems == []
    assert found["B"] == "2"
    assert found["A"] == value
