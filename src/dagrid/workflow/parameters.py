"""Parameters, from the text of a workflow and from the command line: names, positions, and what a value must be.

Nothing is expanded here: the value of a default is text with `$NAME`s, a value that was given is taken as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from dagrid.errors import ParameterError, Problem, hint, nearest
from dagrid.workflow.model import Param, Params

PLACE = "parameters"
TYPES = ("string", "integer", "number", "boolean")

_PAIR = re.compile(r"""(?:([^\s="'`]+)=)?("(?:\\.|[^"\\])*"|'[^']*'|`[^`]*`|[^\s"]+|"|)""", re.DOTALL)


class Argument(msgspec.Struct, frozen=True):
    """A parameter with its value for a run.

    Args:
        name: a positional one is called by its number among all, from "1".
        value: text.
        is_literal: whether the value was given from outside and is taken as it is; else it is expanded.
        param: what the workflow says of it, if anything.
    """

    name: str
    value: str
    is_literal: bool
    param: Param | None = None


def split(text: str) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of a text such as `first NAME="x y" last`; the name of a positional one is empty.

    A value may stand in double quotes (with a backslash before a quote), single quotes, or backticks, which it keeps.
    """
    return [(name, _unquoted(value)) for name, value in _split(text)]


def open_quote(text: str) -> str:
    """Return what a text for `split` has from a quote on that is not closed, or nothing."""
    for _, value in _split(text):
        if value[:1] in ("'", '"', "`") and value[:1] and (len(value) == 1 or value[-1] != value[0]):
            return value
    return ""


def _split(text: str) -> list[tuple[str, str]]:
    """Return the pairs as they are written, with their quotes."""
    found = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        pair = _PAIR.match(text, position)
        if pair is None or pair.end() == position:
            break
        found.append((pair[1] or "", pair[2]))
        position = pair.end()
    return found


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == "'" else value


def apply(params: Params, given: Sequence[str] | str = ()) -> tuple[Argument, ...]:
    """Return the values of a run: what was given, over the defaults of the workflow.

    A named value takes the place of the parameter of that name, a positional one that of the parameter at its position, whose
    name it gets. Others are added at the end.

    Args:
        params: of the workflow.
        given: `NAME=value` or a value each, as a command line brings them; or one text, which is split.

    Raises:
        ParameterError: a value that is missing, unknown or not what the workflow says of it; it has all of them.
    """
    pairs = split(given) if isinstance(given, str) else [_pair(one) for one in given]
    values: list[tuple[Param | None, str, str | None, bool]] = [
        (one, one.name, one.value, False) for one in params.items
    ]
    by_name = {one.name: index for index, one in enumerate(params.items) if one.name}
    problems = []
    for position, (name, value) in enumerate(pairs):
        index = by_name.get(name, -1) if name else position if position < len(params.items) else -1
        if index >= 0:
            param, known, _, _ = values[index]
            values[index] = (param, known, value, True)
        elif params.is_closed:
            problems.append(_unknown(name, value, by_name))
        else:
            if name:
                by_name[name] = len(values)
            values.append((None, name, value, True))
    arguments = []
    for index, (said, name, text, is_literal) in enumerate(values):
        name = name or str(index + 1)
        if text is None:
            if said is not None and said.required:
                problems.append(Problem(PLACE, 0, 0, f"{name!r} is missing; give it as {name}=..."))
            continue
        wrong = check(said, text) if said is not None and (is_literal or not _is_expandable(text)) else None
        if wrong is not None:
            problems.append(Problem(PLACE, 0, 0, wrong))
        arguments.append(Argument(name, text, is_literal, said))
    if problems:
        raise ParameterError(problems)
    return tuple(arguments)


def check(param: Param, value: str) -> str | None:
    """Return what is wrong with an expanded value, or None."""
    name = param.name or "the value"
    if param.type not in ("string", ""):
        from dagrid.workflow.source import resolve  # few parameters are no texts

        number = resolve(value)
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
        if param.type == "integer" and not (is_number and isinstance(number, int)):
            return f"{name!r} is a whole number, not {value!r}"
        if param.type == "number" and not is_number:
            return f"{name!r} is a number, not {value!r}"
        if param.type == "boolean" and not isinstance(number, bool):
            return f"{name!r} is true or false, not {value!r}"
        if is_number and param.minimum is not None and number < param.minimum:  # type: ignore[operator]
            return f"{name!r} is at least {param.minimum:g}, not {value}"
        if is_number and param.maximum is not None and number > param.maximum:  # type: ignore[operator]
            return f"{name!r} is at most {param.maximum:g}, not {value}"
    if param.enum and value not in param.enum:
        return f"{name!r} is one of {', '.join(param.enum)}, not {value!r}.{hint(nearest(value, param.enum))}"
    if param.min_length is not None and len(value) < param.min_length:
        return f"{name!r} has at least {param.min_length} characters, not {len(value)}"
    if param.max_length is not None and len(value) > param.max_length:
        return f"{name!r} has at most {param.max_length} characters, not {len(value)}"
    if param.pattern and not compiled(param.pattern).search(value):
        return f"{name!r} matches {param.pattern}, which {value!r} does not"
    return None


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a user's regular expression; what Python says of its style is nobody's concern.

    Raises:
        re.error: it is none. RecursionError and OverflowError: it is absurd.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern)


def _is_expandable(text: str) -> bool:
    return "$" in text or "`" in text


def _pair(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if separator and name and not re.search(r"\s", name):
        return name, value
    return "", given


def _unknown(name: str, value: str, known: Iterable[str]) -> Problem:
    if not name:
        return Problem(PLACE, 0, 0, f"{value!r} is one value too many; give it a name, as NAME={value}")
    return Problem(PLACE, 0, 0, f"there is no parameter {name!r}.{hint(nearest(name, known))}")
