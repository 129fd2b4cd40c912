"""Where a shell expands variables in a text, and how the text is written so that it does so in quotes and documents too.

A scanner for what decides about it: quotes, comments, documents (`<<END`), `$(...)`, backticks, arithmetic. The text may be any:
what it cannot read is no reason to stop, for only variables are ever put into it, and none of what they hold.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection
from functools import cached_property

import msgspec

from dagrid.errors import StepError

_ESCAPED_IN_DOCUMENTS = re.compile(r"[\\$`]")
_DELIMITER = re.compile(r"[ \t]*((?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s'\"\\;&|<>()`])+)", re.DOTALL)
_QUOTES = re.compile(r"['\"\\]")
_UNQUOTED = re.compile(r"'([^']*)'|\"((?:\\.|[^\"\\])*)\"|\\(.)", re.DOTALL)
_COMMAND_BEGINS = re.compile(r"(?:\A|[;&|(){}!\n`]|\b(?:do|then|else|if|while|until))[ \t]*\Z")
_WORD_BEGINS = frozenset(" \t\n;&|()<>`")
_LOOKED_BACK = 80
_LOOKED_AHEAD = 16
"""How often all of a text is read again to see what `((` begins; where that is not enough it is broken, or nobody's."""
_DEEPEST = 16
"""How deep a text is read that stands in another, as a document in `$(...)` in a document does."""

_CODE, _PARENTHESIS, _ARITHMETIC, _CASE, _BACKTICK = "code", "(", "((", "case", "`"
_DOUBLE, _BRACE, _DOCUMENT = '"', "${", "<<"
_SPECIAL = {
    **dict.fromkeys(
        (_CODE, _PARENTHESIS, _CASE, _BACKTICK),
        re.compile(r"[\\'\"`()#\n]|\$['({]?|<<[<-]?|\b(?:case|esac)\b", re.ASCII),
    ),
    _ARITHMETIC: re.compile(r"[\\'\"`()]|\$[({]?"),
    _BRACE: re.compile(r"[\\'\"`}]|\$[({]?"),
    _DOUBLE: re.compile(r"[\\\"`]|\$[({]?"),
    _DOCUMENT: re.compile(r"[\\`]|\$[({]?"),
}
_PUSHING = {"$(": _PARENTHESIS, "(": _PARENTHESIS, "${": _BRACE}


class _Document(msgspec.Struct):
    """A document whose text follows at the end of the line: its delimiter, and where that stands."""

    delimiter: str
    start: int
    end: int
    is_quoted: bool
    is_indented: bool


def with_variables(text: str, variables: Collection[tuple[int, int]]) -> str:
    """Return a text for a shell in which it expands variables wherever they stand, with what is around them as it was.

    Args:
        text: for a shell.
        variables: where in it `${NAME}` or `${NAME:-...}` stands that is to be expanded, from and to, also in one another; all
            else stays as it is.

    Raises:
        StepError: one stands where no shell can be made to expand it.
    """
    scanner = _Scanner(text, variables)
    scanner.scan(0, len(text), _CODE)
    return scanner.edited()


class _Stack:
    """What is open, the innermost last; what is asked of all of it is known without a look at all of it."""

    def __init__(self, kind: str) -> None:
        self.kinds: list[str] = []
        self.around: list[str] = []  # for each, the innermost that is no `${`
        self.doubles = 0
        self.in_backticks = False
        self.is_quoted_again = False
        self.push(kind)

    def push(self, kind: str) -> None:
        self.around.append(kind if kind != _BRACE else self.around[-1] if self.around else _CODE)
        if kind == _BACKTICK:
            self.in_backticks = True
            self.is_quoted_again = self.doubles > 0  # a double quotation mark has a backslash before it now
        self.doubles += kind == _DOUBLE
        self.kinds.append(kind)

    def pop(self) -> str:
        kind = self.kinds.pop()
        self.around.pop()
        self.doubles -= kind == _DOUBLE
        if kind == _BACKTICK:
            self.in_backticks = self.is_quoted_again = False
        return kind

    def quotes(self) -> bool:
        """Return whether a single quotation mark quotes: it does not in `"${NAME:-'...'}"`."""
        return self.around[-1] not in (_DOUBLE, _DOCUMENT)

    def toggle_double(self) -> None:
        """Open or close double quotes."""
        if self.kinds[-1] == _DOUBLE:
            self.pop()
        else:
            self.push(_DOUBLE)

    def toggle_backticks(self) -> None:
        """Open or close backticks, with all that is open in them."""
        if not self.in_backticks:
            self.push(_BACKTICK)
            return
        while self.pop() != _BACKTICK:
            pass


class _Scanner:
    def __init__(self, text: str, variables: Collection[tuple[int, int]], looking: _Scanner | None = None) -> None:
        self.text = text
        self.variables = sorted(variables)
        self.edits: list[tuple[int, int, str]] = []
        self.depth: int = looking.depth + 1 if looking is not None else 0
        self.first: _Scanner = looking.first if looking is not None else self
        self.left = _LOOKED_AHEAD * len(text)

    def edited(self) -> str:
        pieces: list[str] = []
        position = 0
        for start, end, replacement in sorted(self.edits):
            pieces += self.text[position:start], replacement
            position = end
        return "".join([*pieces, self.text[position:]])

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for index in range(bisect_left(self.variables, (start, 0)), len(self.variables)):
            one = self.variables[index]
            if one[0] >= end:
                break
            if not (found and one[0] < found[-1][1]):  # who stands in another goes with it
                found.append(one)
        return found

    def scan(self, position: int, end: int, kind: str) -> int:
        """Read a part of the text that is of one kind at its beginning, and return where that kind or the part ends."""
        text = self.text
        stack = _Stack(kind)
        waiting: list[_Document] = []
        while stack.kinds and (found := _SPECIAL[stack.kinds[-1]].search(text, position, end)) is not None:
            mark, begun, position = found[0], found.start(), found.end()
            top = stack.kinds[-1]
            if mark == "\\":
                if text.startswith('"', position) and stack.is_quoted_again:
                    mark = '"'
                position += 1
            if mark == "'" and stack.quotes():
                position = self._single(begun, end, "'", stack.is_quoted_again)
            elif mark == "$'":
                position = self._single(begun, end, "$'", stack.is_quoted_again)
            elif mark == '"':
                stack.toggle_double()
            elif mark == "`":
                stack.toggle_backticks()
            elif mark in ("$(", "(") and text.startswith("(", position) and self._computes(position + 1, end, top):
                stack.push(_ARITHMETIC)
                stack.push(_ARITHMETIC)
                position += 1
            elif mark in _PUSHING:
                stack.push(_ARITHMETIC if top == _ARITHMETIC and mark == "(" else _PUSHING[mark])
            elif (mark == ")" and top in (_PARENTHESIS, _ARITHMETIC)) or (mark == "}" and top == _BRACE):
                stack.pop()
            elif mark == "#" and (begun == 0 or text[begun - 1] in _WORD_BEGINS):
                position = self._after_comment(position, end, stack.in_backticks)
            elif mark in ("case", "esac") and _COMMAND_BEGINS.search(text, max(0, begun - _LOOKED_BACK), begun):
                if mark == "case":
                    stack.push(_CASE)
                elif top == _CASE:
                    stack.pop()
            elif mark in ("<<", "<<-"):
                document = self._document(position, end, mark == "<<-")
                if document is not None:
                    waiting.append(document)
                    position = document.end
            elif mark == "\n":
                for document in waiting:
                    position = self._read(document, position, end, stack.in_backticks)
                waiting = []
        return end if stack.kinds else position

    def _computes(self, position: int, end: int, top: str) -> bool:
        """Return whether arithmetic begins here, behind `((`: what ends in `))`. All else is a subshell in a subshell."""
        if top == _ARITHMETIC or self.first.left <= 0 or self.depth >= _DEEPEST:
            return True
        closed = _Scanner(self.text, (), self).scan(position, end, _ARITHMETIC)
        self.first.left -= closed - position
        return self.text.startswith(")", closed, end)

    def _single(self, begun: int, end: int, opening: str, is_quoted_again: bool) -> int:
        """Read what is in single quotes, and return where they end; a variable in them is put between two such texts."""
        pattern = r"(?:\\.|[^'\\])*" if opening == "$'" else r"[^']*"
        body = re.compile(pattern, re.DOTALL).match(self.text, begun + len(opening), end)
        assert body is not None
        quote = '\\"' if is_quoted_again else '"'
        for start, stop in self.within(body.start(), body.end()):
            self.edits.append((start, stop, f"'{quote}{self.text[start:stop]}{quote}{opening}"))
        return body.end() + 1

    def _after_comment(self, position: int, end: int, in_backticks: bool) -> int:
        found = re.compile(r"[`\n]" if in_backticks else r"\n").search(self.text, position, end)
        return found.start() if found is not None else end

    def _document(self, position: int, end: int, is_indented: bool) -> _Document | None:
        word = _DELIMITER.match(self.text, position, end)
        if word is None:
            return None
        delimiter = _UNQUOTED.sub(
            lambda found: found[1] or re.sub(r"\\(.)", r"\1", found[2] or "") or found[3] or "", word[1]
        )
        return _Document(delimiter, word.start(1), word.end(1), _QUOTES.search(word[1]) is not None, is_indented)

    def _read(self, document: _Document, position: int, end: int, in_backticks: bool) -> int:
        """Read the text of a document, and return where it ends, before the end of the line of its delimiter."""
        indent = r"\t*" if document.is_indented else ""
        closing = re.compile(rf"^{indent}{re.escape(document.delimiter)}$", re.MULTILINE).search(
            self.text, position, end
        )
        stop, after = closing.span() if closing is not None else (end, end)
        variables = self.within(position, stop)
        if not document.is_quoted:
            self.depth += 1
            if self.depth < _DEEPEST:
                self.scan(position, stop, _DOCUMENT)
            self.depth -= 1
        elif variables:
            if in_backticks:
                raise StepError(
                    "A quoted document (<<'END') in backticks takes no values; write $(...) in place of the backticks.",
                    retryable=False,
                )
            self._open(document, position, stop, variables)
            if closing is not None:
                self.edits.append((stop, after, self.delimiter))
        return after

    def _open(self, document: _Document, position: int, stop: int, variables: list[tuple[int, int]]) -> None:
        """Make a quoted document an unquoted one, in which all is escaped but variables."""
        self.edits.append((document.start, document.end, self.delimiter))
        for start, end in [*variables, (stop, stop)]:
            escaped = _ESCAPED_IN_DOCUMENTS.sub(r"\\\g<0>", self.text[position:start])
            self.edits.append((position, start, escaped))
            position = end

    @cached_property
    def delimiter(self) -> str:
        """A delimiter of documents that stands nowhere in the text."""
        found = "DAGRID_END"
        while found in self.text:
            found += "_"
        return found
