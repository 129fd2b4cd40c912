"""Texts of steps that no shell of ours reads: queries, filters, commands for elsewhere; with the values of what they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Generator, Mapping
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.expressions import Literal, Reference, evaluate, parse
from dagrid.workflow.model import Written
from dagrid.workflow.variables import Names
from dagrid.workflow.work import Work

_NAMED = re.compile(r"\$(?:\{[^{}]*\}|(?P<name>[A-Za-z_]\w*)(?![\w$]))", re.ASCII)
_MARK = "\x01"


def known(work: Work, without: Collection[str] = ()) -> Names:
    """Return what names mean to a step, but for what only the environment of this process knows.

    Args:
        work: the step.
        without: names that mean something else where the text is read.
    """
    layers = [
        {name: value for name, value in layer.items() if name not in without} if without else layer
        for layer in work.names.layers[:-1]
    ]
    return Names(layers, work.names.steps)


def filled(text: str, work: Work, without: Collection[str] = ()) -> str:
    """Return a text of another language with the values of `${...}` and `$NAME` in it, between any quotes.

    What the workflow does not know stays as it is, and so do `$1` and what is in backticks.

    Args:
        text: as the file has it.
        work: the step.
        without: names that the language knows itself.
    """
    if "$" not in text:
        return text
    names = known(work, without)

    def value(found: re.Match[str]) -> str:
        return evaluate(parse(found[0], backticks=False), names)

    return _NAMED.sub(value, text)


def split(text: str, work: Work) -> Generator[Any, Any, list[str]]:
    """Return the words of a command, as a shell would split it; a value is one word, or part of one, whatever is in it.

    Raises:
        StepError: a quotation mark is not closed.
    """
    values: list[str] = []
    written = []
    for part in parse(text).parts:
        if type(part) is Literal or (type(part) is Reference and part.quote == "'" and not part.path):
            written.append(part.written)
            continue
        values.append((yield from work.text(part.written)))
        written.append(f"{_MARK}{len(values) - 1}{_MARK}")
    try:
        found = shlex.split("".join(written))
    except ValueError:
        raise StepError("The command has a quotation mark that is not closed; close it.", retryable=False) from None
    return [re.sub(f"{_MARK}(\\d+){_MARK}", lambda mark: values[int(mark[1])], word) for word in found]


def arguments(work: Work) -> Generator[Any, Any, list[str]]:
    """Return the words of `args` of a step, expanded; numbers and the like are as the file has them."""
    given = work.step.args
    if isinstance(given, Mapping):
        raise StepError("`args` by name are for Python functions; write them as a list.", retryable=False)
    return (yield from work.texts([one.text if isinstance(one, Written) else str(one) for one in given]))
