r"""Text with `$NAME`, `${...}` and backticks in it: read once into parts, evaluated in a scope; nothing is run or looked up here.

    $V  ${V}            the value of a variable; as it was written if nobody knows it
    ${V:-d} ${V-d}      d if V is not set (with ':': or empty)      ${V:+d} ${V+d}  d if it is
    ${V:2} ${V:2:3}     from the third character on, three of them  ${#V}           how many characters V has
    ${V.a.b[1]}         a place in the JSON that V holds
    ${id.stdout}        of the step with that id: stdout and stderr (files), exitCode, output
    `command`           what the command prints, trimmed
    \$  \`              the character itself

Any text can be read: what is none of these stands for itself, for a shell may understand it. A variable without a path that
stands directly between single quotes is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec

SPECIAL_VARIABLES: Final = (
    "DAG_NAME",
    "DAG_RUN_ID",
    "DAG_RUN_STEP_NAME",
    "DAG_RUN_STEP_STDOUT_FILE",
    "DAG_RUN_STEP_STDERR_FILE",
    "DAG_RUN_LOG_FILE",
    "DAG_RUN_STATUS",
    "ITEM",
)
STEP_FIELDS: Final = {
    "stdout": "stdout",
    "stderr": "stderr",
    "exitCode": "exitCode",
    "exit_code": "exitCode",
    "output": "output",
}
_DEEPEST = 20


class Scope(Protocol):
    """What the names in an expression mean."""

    def variable(self, name: str) -> str | None:
        """Return the value of a variable, or None if there is none of that name."""

    def step(self, id: str, field: str) -> str | None:
        """Return `stdout`, `stderr` (paths), `exitCode` or `output` of the step with that id, or None if there is none."""

    def run(self, command: str) -> str:
        """Return what a command in backticks prints."""


class Literal(msgspec.Struct, frozen=True):
    """Text that stands for itself. `written` differs from it where something was escaped."""

    text: str
    written: str


class Reference(msgspec.Struct, frozen=True):
    """A name, and what is asked of it.

    Args:
        name: of a variable, or, with a path, of a step.
        written: as it stands in the text.
        path: keys and indices into JSON.
        operation: `""`, `":-"`, `"-"`, `":+"`, `"+"`, `"slice"` or `"length"`.
        word: what stands behind the operator.
        start: of a slice; may be negative.
        length: of a slice; None is all that is left.
        quote: the quotation mark on both sides of it, or nothing.
    """

    name: str
    written: str
    path: tuple[str | int, ...] = ()
    operation: str = ""
    word: Expression | None = None
    start: int = 0
    length: int | None = None
    quote: str = ""


class Command(msgspec.Struct, frozen=True):
    """A command in backticks."""

    command: Expression
    written: str
    quote: str = ""


Part = Literal | Reference | Command


class Expression(msgspec.Struct, frozen=True):
    """A text in parts; joined, what is written in them is the text again."""

    parts: tuple[Part, ...]

    @property
    def is_literal(self) -> bool:
        """Whether nothing in it is looked up or run."""
        return all(type(part) is Literal for part in self.parts)

    @property
    def written(self) -> str:
        return "".join([part.written for part in self.parts])

    def walk(self) -> Iterator[Part]:
        """Yield all parts, those inside of others too."""
        for part in self.parts:
            yield part
            inner = part.word if type(part) is Reference else part.command if type(part) is Command else None
            if inner is not None:
                yield from inner.walk()

    def names(self) -> frozenset[str]:
        """Return the names that it looks up: of variables, and of steps."""
        return frozenset(part.name for part in self.walk() if type(part) is Reference)

    def step_references(self) -> frozenset[tuple[str, str]]:
        """Return (id, field) of what may be asked of steps; an id that no step has is a variable that holds JSON."""
        found = set()
        for part in self.walk():
            if type(part) is Reference and len(part.path) == 1 and part.path[0] in STEP_FIELDS:
                found.add((part.name, STEP_FIELDS[str(part.path[0])]))
        return frozenset(found)


def parse(text: str, *, backticks: bool = True) -> Expression:
    """Read a text; there is none that cannot be read.

    Args:
        text: as it stands in the workflow.
        backticks: whether they mean a command; where a shell will read the text, leave them to the shell.
    """
    if "$" not in text and ("`" not in text or not backticks):
        return Expression((Literal(text, text),) if text else ())
    return _parse_cached(text, backticks) if len(text) <= 2_000 else _parse(text, backticks, 0)


def evaluate(
    expression: Expression | str,
    scope: Scope,
    *,
    only: Callable[[Part], bool] | None = None,
    escape: Callable[[str, str], str] | None = None,
    missing: Callable[[str], None] | None = None,
) -> str:
    """Return the text with what its parts mean in a scope.

    Args:
        expression: what `parse` returned, or text.
        scope: knows the names.
        only: which parts are evaluated; the others stay as they were written, for a shell to read.
        escape: is called with each value that is put in and the quotation mark around it (or nothing); returns what is put in.
        missing: is told of each path that the JSON of a variable does not have; in the text it is empty.
    """
    if isinstance(expression, str):
        expression = parse(expression)
    return _Evaluation(scope, only, escape, missing).text(expression)


_SPECIAL = re.compile(r"[\\$`]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+", re.ASCII)
_STEP = re.compile(r"\.([A-Za-z0-9_][A-Za-z0-9_-]*)|\[(-?[0-9]{1,9})\]|\[\"([^\"\]]*)\"\]", re.ASCII)
_SLICE = re.compile(r":\s*([0-9]{1,9})|:\s+(-[0-9]{1,9})", re.ASCII)
_OPERATORS = (":-", ":+", "-", "+")


def _parse(text: str, backticks: bool, depth: int) -> Expression:
    parts: list[Part] = []
    closings = _closings(text)
    begun = position = 0  # `begun`: where text begins that stands for itself
    while (found := _SPECIAL.search(text, position)) is not None:
        start = found.start()
        part, end = _part(text, start, closings, backticks, depth)
        if part is None:
            position = start + 1
            continue
        if begun < start:
            parts.append(Literal(text[begun:start], text[begun:start]))
        parts.append(part)
        begun = position = end
    if begun < len(text):
        parts.append(Literal(text[begun:], text[begun:]))
    return Expression(tuple(parts))


@lru_cache(maxsize=4096)
def _parse_cached(text: str, backticks: bool) -> Expression:
    return _parse(text, backticks, 0)


def _part(text: str, start: int, closings: dict[int, int], backticks: bool, depth: int) -> tuple[Part | None, int]:
    """Return the part that begins at a special character, and where it ends; None if the character stands for itself."""
    mark = text[start]
    if mark == "\\":
        following = text[start + 1 : start + 2]
        if following == "$" or (following == "`" and backticks):
            return Literal(following, "\\" + following), start + 2
        if following == "\\" and not backticks:  # to who reads the text a backslash, which escapes nothing
            return Literal("\\\\", "\\\\"), start + 2
        return None, start
    if depth >= _DEEPEST:
        return None, start
    if mark == "`":
        return _command(text, start, closings, depth) if backticks else (None, start)
    if text.startswith("{", start + 1):
        end = closings.get(start, -1)
        return (None, start) if end < 0 else (_braced(text, start, end, backticks, depth), end)
    name = _NAME.match(text, start + 1)
    if name is None:
        return None, start
    return Reference(name[0], text[start : name.end()], quote=_quote(text, start, name.end())), name.end()


def _closings(text: str) -> dict[int, int]:
    """Return for each `${` where what it opens ends, and for each backtick that opens, in one pass."""
    found: dict[int, int] = {}
    opened: list[int] = []
    tick = -1
    position = 0
    while position < len(text):
        mark = text[position]
        if mark == "\\":
            position += 2
            continue
        if mark == "$" and text.startswith("{", position + 1):
            opened.append(position)
            position += 2
            continue
        if mark == "}" and opened:
            found[opened.pop()] = position + 1
        elif mark == "`":
            if tick >= 0:
                found[tick] = position + 1
                tick = -1
            else:
                tick = position
        position += 1
    return found


def _command(text: str, start: int, closings: dict[int, int], depth: int) -> tuple[Part | None, int]:
    end = closings.get(start, -1)
    if end <= start + 2:
        return None, start
    return Command(_parse(text[start + 1 : end - 1], True, depth + 1), text[start:end], _quote(text, start, end)), end


def _quote(text: str, start: int, end: int) -> str:
    before = text[start - 1 : start]
    return before if before and before in "'\"" and text[end : end + 1] == before else ""


def _braced(text: str, start: int, end: int, backticks: bool, depth: int) -> Reference | None:
    """Return what stands in `${...}`, or None if it is none of ours."""
    inner = text[start + 2 : end - 1]
    written = text[start:end]
    quote = _quote(text, start, end)
    is_length = inner.startswith("#")
    name = _NAME.match(inner, 1 if is_length else 0)
    if name is None:
        return None
    position = name.end()
    path: list[str | int] = []
    while (step := _STEP.match(inner, position)) is not None:
        path.append(int(step[2]) if step[2] else step[3] if step[1] is None else step[1])
        position = step.end()
    rest = inner[position:]
    made = Reference(name[0], written, tuple(path), quote=quote)
    if is_length:
        return None if rest or path else msgspec.structs.replace(made, operation="length")
    if not rest:
        return made
    for operator in _OPERATORS[: 2 if path else 4]:
        if rest.startswith(operator):
            word = _parse(rest[len(operator) :], backticks, depth + 1)
            return msgspec.structs.replace(made, operation=operator, word=word)
    return _sliced(made, rest)


def _sliced(made: Reference, rest: str) -> Reference | None:
    first = _SLICE.match(rest)
    if first is None:
        return None
    start = int(first[1] or first[2])
    if first.end() == len(rest):
        return msgspec.structs.replace(made, operation="slice", start=start)
    second = _SLICE.fullmatch(rest, first.end())
    if second is None:
        return None
    return msgspec.structs.replace(made, operation="slice", start=start, length=int(second[1] or second[2]))


class _Evaluation:
    """One evaluation: the scope, and the wishes of who asked."""

    __slots__ = ("escape", "missing", "only", "scope")

    def __init__(
        self,
        scope: Scope,
        only: Callable[[Part], bool] | None,
        escape: Callable[[str, str], str] | None,
        missing: Callable[[str], None] | None,
    ) -> None:
        self.scope = scope
        self.only = only
        self.escape = escape
        self.missing = missing

    def text(self, expression: Expression) -> str:
        return "".join([self.part(part) for part in expression.parts])

    def part(self, part: Part) -> str:
        if self.only is not None and not self.only(part):
            return part.written
        if type(part) is Literal:
            return part.text
        if type(part) is Command:
            value: str | None = self.scope.run(self.text(part.command)).strip()
        elif part.quote == "'" and not part.path:  # type: ignore[union-attr]
            value = None
        else:
            value = self.reference(part)  # type: ignore[arg-type]
        if value is None:
            return part.written
        quote: str = part.quote  # type: ignore[union-attr]
        return value if self.escape is None else self.escape(value, quote)

    def reference(self, part: Reference) -> str | None:
        """Return the value of a reference, or None if nobody knows it."""
        operation = part.operation
        word = part.word
        value = self.value(part, silent=word is not None)
        if word is not None:
            is_set = bool(value) if operation.startswith(":") else value is not None
            if operation.endswith("-"):
                return value if is_set else self.text(word)
            return self.text(word) if is_set else ""
        if value is None or not operation:
            return value
        if operation == "length":
            return str(len(value))
        return _slice(value, part.start, part.length)

    def value(self, part: Reference, silent: bool) -> str | None:
        path = part.path
        if not path:
            return self.scope.variable(part.name)
        if len(path) == 1 and path[0] in STEP_FIELDS:
            of_step = self.scope.step(part.name, STEP_FIELDS[str(path[0])])
            if of_step is not None:
                return of_step
        held = self.scope.variable(part.name)
        if held is None:
            return None
        try:
            document = json.loads(held)
        except (ValueError, RecursionError):
            return None
        try:
            return json_text(_at(document, path))
        except LookupError:
            if silent:
                return None
            if self.missing is not None:
                self.missing(part.written)
            return ""


def json_text(value: Any) -> str:
    """Return a JSON value as an expression shows it: text without quotes, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _at(document: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        if isinstance(document, dict):
            document = document[str(key)]
        elif isinstance(document, list) and isinstance(key, int):
            document = document[key]
        else:
            raise LookupError(key)
    return document


def _slice(value: str, start: int, length: int | None) -> str:
    if start < 0:
        if -start > len(value):
            return ""
        start += len(value)
    if length is None:
        return value[start:]
    return value[start : start + length] if length >= 0 else value[start:length]
