"""What names mean at run time, and texts with their values in them, for Python and for shells. It starts nothing itself.

What needs a process (backticks) is a generator that yields a `Launch` and is sent its `Exit`, as in `dagrid.commands.Command`.

A shell expands variables by itself, from the environment, which is safe whatever they hold. Only what it cannot expand (paths
into JSON, fields of steps, slices, numbered parameters) is given to it under a name of ours, and its text is written so that it
expands that wherever it stands (`dagrid.workflow.quoting`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from dagrid.commands import Exit, Launch
from dagrid.errors import StepError
from dagrid.masking import masked
from dagrid.workflow.context import StepEnd
from dagrid.workflow.expressions import Command, Expression, Literal, Part, Reference, evaluate, parse
from dagrid.workflow.quoting import with_variables

Expanding = Generator[Launch, Exit, str]
Asking = Callable[[str, Mapping[str, str]], Launch]
"""Makes a process of a text for a shell, with variables beside those that all processes get."""
HELD = "DAGRID_VALUE_"
"""The names under which a shell gets what it cannot expand begin so."""
_MOST_NAMED = 60
_NO_NAME = re.compile(r"\W", re.ASCII)
MOST_EXPORTED = 100_000
"""How many bytes the value of a variable may have, to be in the environment of processes; Linux allows 131,072 with its name."""
ALWAYS_FITS = 200_000
"""So many characters in all variables together fit into any environment."""
MOST_AT_START = 6 << 20
"""What a process gets at its start has no more bytes, whatever the limit of the stack is."""
_READ_BY_SHELLS = re.compile(r"[\\'\"`~]|\$\(")


class Names:
    """The meaning of names: layers of variables, the first that has a name wins, and the ends of steps by id.

    Args:
        layers: of variables.
        steps: the ends of steps by their ids.
    """

    def __init__(self, layers: Sequence[Mapping[str, str]], steps: Mapping[str, StepEnd] | None = None) -> None:
        self.layers = layers
        self.steps = steps or {}
        self.printed: dict[str, str] = {}

    def variable(self, name: str) -> str | None:
        """Return the value of a variable, or None if no layer has it."""
        for layer in self.layers:
            found = layer.get(name)
            if found is not None:
                return found
        return None

    def step(self, id: str, field: str) -> str | None:
        """Return a field of the step with an id; see `dagrid.workflow.expressions.Scope`. A file of its output is there then."""
        end = self.steps.get(id)
        if end is None:
            return None
        if field == "exitCode":
            return "" if end.code is None else str(end.code)
        if field == "output":
            return next(iter(end.outputs.values()), "")
        path = end.stdout if field == "stdout" else end.stderr
        with suppress(
            OSError
        ):  # it has no file yet if it wrote nothing; who opens it is told what is wrong with its folder
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        return path

    def run(self, command: str) -> str:
        """Return what a command in backticks printed, which ran before."""
        return self.printed[command]


def expanded(text: str, names: Names, launch: Asking) -> Expanding:
    """Return a text with all that it says; what is in backticks runs.

    Args:
        text: as it stands in the workflow.
        names: what names mean.
        launch: makes a process of a command in backticks.

    Raises:
        StepError: a command in backticks fails, or no process can get a value that it names.
    """
    if "$" not in text and "`" not in text:
        return text
    expression = parse(text)
    yield from _run_commands(expression, names, launch)
    return evaluate(expression, names)


def _run_commands(expression: Expression, names: Names, launch: Asking) -> Generator[Launch, Exit, None]:
    """Run the commands in backticks, those inside of others first."""
    for part in expression.parts:
        inner = part.word if type(part) is Reference else part.command if type(part) is Command else None
        if inner is not None:
            yield from _run_commands(inner, names, launch)
        if type(part) is Command:
            command = evaluate(part.command, names)
            if command not in names.printed:
                made = launch(*_in_backticks(part.command, names))
                end = yield msgspec.structs.replace(made, said=(part.written,))
                if end.code:
                    said = end.last_words
                    shown = masked(part.written, made.mask)
                    raise StepError(
                        f"{shown} exited with code {end.code}{f': {said[-1]}' if said else '.'}", code=end.code
                    )
                names.printed[command] = end.stdout.decode("utf-8", "replace")


def for_shell(text: str, names: Names) -> tuple[str, dict[str, str]]:
    """Return a text for a shell, and what the shell needs in its environment beside the variables.

    Backticks, and all that a shell can expand, are left to it. No value is ever a part of the text.

    Raises:
        StepError: a value stands where no shell can be made to expand it, or no process can get it.
    """
    if "$" not in text:
        return text, {}
    expression = parse(text, backticks=False)
    _check_all_handed(expression, names)
    if not any(_is_ours(part, names) for part in expression.parts):
        return text, {}
    found = _Written(names)
    for part in expression.parts:
        found.add(part, part.written)
    return with_variables(found.text, found.places), found.held


def _in_backticks(command: Expression, names: Names) -> tuple[str, dict[str, str]]:
    """Return what is in backticks for a shell, and its environment: beside what the shell cannot expand all that is known of it.

    The backticks take the backslash off what is escaped in them.
    """
    _check_all_handed(command, names)
    found = _Written(names)
    for part in command.parts:
        found.add(part, part.text if type(part) is Literal else part.written)
    known = {part.name: names.variable(part.name) for part in _whole(command) if not part.name.isdigit()}
    env = {name: value for name, value in known.items() if value is not None}
    return with_variables(found.text, found.places), {**env, **found.held}


def _check_all_handed(expression: Expression, names: Names) -> None:
    for part in _whole(expression):
        _check_handed(part.written, names.variable(part.name) or "")


def _whole(expression: Expression) -> Iterator[Reference]:
    """Yield the references of which a shell needs the whole variable."""
    for part in expression.walk():
        if type(part) is Reference and not part.path and part.operation != "slice":
            yield part


class _Written:
    """A text for a shell while it is made, and the values of what the shell cannot expand, under names of ours."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.text = ""
        self.places: list[tuple[int, int]] = []
        self.held: dict[str, str] = {}

    def add(self, part: Part, written: str) -> None:
        """Add a part, as it is written unless it is ours."""
        begun = len(self.text)
        if type(part) is Reference and _is_ours(part, self.names) and self._give(part):
            self.places.append((begun, len(self.text)))
        else:
            self.text += written

    def _give(self, part: Reference) -> bool:
        """Add what the shell expands in place of a part, and return True, unless nobody knows the part."""
        word = part.word
        if word is None or _is_plain(word) or (part.quote == "'" and not part.path):
            value = _known(part, self.names)
            if value is not None:
                self.text += f"${{{self._hold(part, value)}}}"
            return value is not None
        name = part.name
        if part.path or (name.isdigit() and self.names.variable(name) is not None):
            value = _known(msgspec.structs.replace(part, operation="", word=None), self.names)
            name = self._hold(part, value or "")
        self.text += f"${{{name}{part.operation}"
        for one in word.parts:
            self.add(one, one.written)
        self.text += "}"
        return True

    def _hold(self, part: Reference, value: str) -> str:
        """Return the name of a value in the environment of the shell: one by which who reads a message of it knows the part."""
        _check_handed(part.written, value)
        said = _NO_NAME.sub("_", "_".join(map(str, (part.name, *part.path)))[:_MOST_NAMED])
        name = f"{HELD}{said}"
        while self.held.get(name, value) != value:
            name = f"{name}_{len(self.held) + 1}"
        self.held[name] = value
        return name


def _is_plain(word: Expression) -> bool:
    """Return whether a word means to a shell what is written; quotes in it, and commands, are for the shell to read."""
    return not any(type(part) is Literal and _READ_BY_SHELLS.search(part.written) for part in word.walk())


def with_arguments(command: str, words: Sequence[str]) -> str:
    """Return a command for a shell with words behind it, each as it is."""
    return f"{command.rstrip()} {shlex.join(words)}" if words else command


def for_program(text: str, names: Names) -> str:
    """Return a text for an interpreter that is no shell: what stands in `${...}` and is known is put in, all else stays."""
    if "${" not in text:
        return text
    parts = [
        msgspec.structs.replace(part, quote="") if type(part) is Reference else part  # its quotes are none of a shell's
        for part in parse(text, backticks=False).parts
    ]
    return evaluate(Expression(tuple(parts)), names, only=_is_braced)


def environment(*layers: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process: layers of variables, of which the first that has a name wins.

    What has no name for an environment, or cannot stand in one, is left out.
    """
    found: dict[str, str] = {}
    for layer in reversed(layers):
        found.update(layer)
    if _are_plain(found):
        return found
    found = {}
    for layer in reversed(layers):
        for name, value in layer.items():
            if name[:1].isdigit() or "=" in name or not name:
                continue
            is_plain = value.isascii() and len(value) <= MOST_EXPORTED and "\0" not in value
            if not is_plain and _not_handed(value):
                found.pop(name, None)
            else:
                found[name] = value
    return found


def _are_plain(layer: Mapping[str, str]) -> bool:
    """Return whether all variables can stand in an environment, as they mostly can: there may be thousands for each process."""
    values = "".join(layer.values())
    return (
        all(map(str.isidentifier, layer))
        and values.isascii()
        and "\0" not in values
        and (len(values) <= MOST_EXPORTED or max(map(len, layer.values())) <= MOST_EXPORTED)
    )


def fitting(
    env: Mapping[str, str], argv: Sequence[str], named: Callable[[], Collection[str]] = frozenset
) -> Mapping[str, str]:
    """Return an environment with which a process can be started: of one that is too large the largest values are left out.

    Args:
        env: as it is to be.
        argv: what the process is started with.
        named: returns the names of variables that must stay.
    """
    if sum(map(len, env.values())) <= ALWAYS_FITS:
        return env
    room = min(os.sysconf("SC_ARG_MAX"), MOST_AT_START) - (16 << 10) - sum([_size(word) for word in argv])
    sizes = {name: _size(name) + _size(value) for name, value in env.items()}
    over = sum(sizes.values()) - room
    if over <= 0:
        return env
    found = dict(env)
    for name in sorted(sizes.keys() - set(named()), key=lambda name: (-sizes[name], name)):
        if over <= 0:
            break
        del found[name]
        over -= sizes[name]
    return found


def _size(text: str) -> int:
    """Return how many bytes of what a process gets at its start a text takes, with its end and the pointer to it."""
    return len(text.encode("utf-8", "surrogatepass")) + 9


def _not_handed(value: str) -> str:
    """Return why no process can have a value in its environment, empty if it can."""
    try:
        size = len(value) if value.isascii() else len(os.fsencode(value))
    except UnicodeEncodeError:
        return "is no text in UTF-8"
    if size > MOST_EXPORTED:
        return f"has {size} bytes, and {MOST_EXPORTED} are the most"
    return "has a NUL in it" if "\0" in value else ""


def _check_handed(written: str, value: str) -> None:
    why = _not_handed(value)
    if why:
        raise StepError(
            f"No process can get the value of {written} as a variable, for it {why}. Read it from a file: ${{ID.stdout}} is "
            f"that of the step with that id.",
            retryable=False,
        )


def _is_ours(part: Part, names: Names) -> bool:
    """Return whether a shell cannot expand a part by itself."""
    if type(part) is not Reference:
        return False
    if part.path or part.operation == "slice":
        return True
    if part.name.isdigit():
        return names.variable(part.name) is not None
    return part.word is not None and any(_is_ours(one, names) for one in part.word.walk())


def _known(part: Part, names: Names) -> str | None:
    """Return the value of a part, None if nobody knows it."""
    found: list[str] = []

    def taken(value: str, _: str) -> str:
        found.append(value)
        return value

    value = evaluate(Expression((part,)), names, escape=taken)
    return value if found else None


def _is_braced(part: Part) -> bool:
    return type(part) is Reference and part.written.startswith("${")
