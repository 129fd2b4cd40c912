r"""The text of a `.env` file becomes names and values, as godotenv reads it (github.com/joho/godotenv); no file is opened.

NAME=value            up to the end of the line, or to a # with a blank before it; `$NAME` is expanded
NAME="a $B\n"         may go over several lines; \n \r \t \" \\ \$ and `$NAME`
NAME='as it is'       may go over several lines
export NAME=value     the same; and so is `NAME: value`
"""

from __future__ import annotations

import re

import msgspec

from dagrid.workflow.expressions import Expression, Literal, parse
from dagrid.workflow.problems import Place, Problems

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*[=:][ \t]*", re.ASCII)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'")
_PLAIN = re.compile(r"(?:[^#\n]|(?<![ \t=:])#)*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|$)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Assignment(msgspec.Struct, frozen=True):
    """A name with its value: an expression without commands, to be evaluated when the names before it are known."""

    name: str
    value: Expression
    line: int


def read_dotenv(text: str, problems: Problems) -> tuple[Assignment, ...]:
    """Return the assignments of a text, in their order; a line that is none is noted and left out.

    Args:
        text: of the file.
        problems: gets what is wrong.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found = []
    position, line = 0, 1
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        begun = text[position:end].strip()
        if begun and not begun.startswith("#"):
            made, end = _assignment(text, position, end, line, problems)
            found += made
        line += text.count("\n", position, end + 1)
        position = end + 1
    return tuple(found)


def _assignment(text: str, start: int, end: int, line: int, problems: Problems) -> tuple[list[Assignment], int]:
    """Return the assignment that begins at a position (none if there is a problem), and where its last line ends."""
    name = _NAME.match(text, start, end)
    if name is None:
        problems.add(Place(line, 1), "this is no NAME=value; a name has letters, digits and _ and begins with no digit")
        return [], end
    value, after = _value(text, name.end(), end)
    if value is None:
        problems.add(Place(line, name.end() - start + 1), "a quote is opened and never closed; close it")
        return [], end
    rest = _REST.match(text, after)
    if rest is None:
        here = text.rfind("\n", 0, after) + 1
        problems.add(
            Place(line + text.count("\n", start, after), after - here + 1), "nothing may stand behind the closing quote"
        )
        following = text.find("\n", after)
        return [], len(text) if following < 0 else following
    return [Assignment(name[1], value, line)], rest.end()


def _value(text: str, start: int, end: int) -> tuple[Expression | None, int]:
    mark = text[start : start + 1]
    if mark == "'":
        single = _SINGLE.match(text, start)
        if single is None:
            return None, end
        return Expression((Literal(single[1], single[0]),)), single.end()
    if mark == '"':
        double = _DOUBLE.match(text, start)
        if double is None:
            return None, end
        unescaped = re.sub(r"\\([^$])", lambda found: _ESCAPES.get(found[1], found[1]), double[1], flags=re.DOTALL)
        return parse(unescaped, backticks=False), double.end()
    plain = _PLAIN.match(text, start, end)
    taken = plain[0] if plain else ""
    return parse(taken.rstrip(), backticks=False), start + len(taken)
