"""A text of SQL as its statements, and their parameters as each database writes them. It knows no database."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*`)
    | (?P<comment>--[^\n]*)
    | (?P<opening>/\*)
    | (?P<dollar>\$(?:[A-Za-z_]\w*)?\$)
    | (?P<cast>::)
    | (?P<named>(?<![\w:])[:$@](?P<name>[A-Za-z_]\w*))
    | (?P<numbered>\$[0-9]+)
    | (?P<mark>\?)
    | (?P<percent>%)
    | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)
_BODY = re.compile(r"\bbegin\s+atomic\b", re.IGNORECASE)
_BODY_END = re.compile(r"\bend\s*$", re.IGNORECASE)
_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*([A-Za-z]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Args:
        text: with its parameters in the style of the database.
        word: its first word, in capitals.
        names: the named parameters that it has.
        marks: how many parameters by position it has.
    """

    text: str
    word: str
    names: tuple[str, ...] = ()
    marks: int = 0


def statements(text: str, style: str, names: Collection[str] = (), marks: bool = False) -> Iterator[Statement]:
    """Yield the statements of a text, without those that are empty.

    Args:
        text: statements, with `;` between them.
        style: how the database writes parameters: `sqlite`, `duckdb` or `postgres`.
        names: parameters that have a name, written `:name` or `$name`.
        marks: whether `?` is a parameter.
    """
    written: list[str] = []
    found: dict[str, None] = {}
    count = 0
    position = 0
    replaces = bool(names) or marks
    while True:
        token = _TOKEN.search(text, position)
        written.append(text[position : token.start() if token else len(text)])
        if token is None:
            break
        kind = token.lastgroup if token.lastgroup != "name" else "named"
        position = token.end()
        piece = token[0]
        if kind == "opening":
            position = _comment_end(text, token.start())
            piece = text[token.start() : position]
        elif kind == "dollar":
            end = text.find(piece, position)
            position = len(text) if end < 0 else end + len(piece)
            piece = text[token.start() : position]
        elif kind == "end":
            if _is_whole("".join(written), style):
                yield from _statement(written, found, count)
                written, found, count = [], {}, 0
                continue
        elif kind == "named" and token["name"] in names:
            found[token["name"]] = None
            piece = {"sqlite": ":{}", "duckdb": "${}", "postgres": "%({})s"}[style].format(token["name"])
            written.append(piece)
            continue
        elif kind == "mark" and marks:
            count += 1
            piece = "%s" if style == "postgres" else "?"
            written.append(piece)
            continue
        written.append(piece.replace("%", "%%") if replaces and style == "postgres" else piece)
    yield from _statement(written, found, count)


def _statement(written: list[str], names: dict[str, None], marks: int) -> Iterator[Statement]:
    text = "".join(written).strip()
    word = first_word(text)
    if word:
        yield Statement(text, word, tuple(names), marks)


def first_word(text: str) -> str:
    """Return the first word of a statement, in capitals, behind comments and parentheses; empty if there is none."""
    word = _WORD.match(text)
    return word[1].upper() if word is not None else ""


def _is_whole(text: str, style: str) -> bool:
    """Return whether a statement ends where a semicolon stands: those within a body do not end it."""
    if style == "sqlite":
        return sqlite3.complete_statement(text + ";")
    return not _BODY.search(text) or _BODY_END.search(text) is not None


def _comment_end(text: str, start: int) -> int:
    """Return where a comment ends that may hold others."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return start + mark.end()
    return len(text)
