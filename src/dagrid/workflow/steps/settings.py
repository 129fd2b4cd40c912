"""The settings of a type of steps, as a table: it checks what a file says, and reads what that means when its texts are expanded.

A type that comes by entry point may use it as well; which types there are is not known here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dagrid.errors import StepError, hint, nearest
from dagrid.workflow.model import Step, place
from dagrid.workflow.problems import Place

Found = Iterator[tuple[Place, str]]

WANTED = {
    "text": "text",
    "flag": "true or false",
    "count": "a whole number from 0 up",
    "number": "a whole number",
    "port": "a port from 1 to 65535",
    "seconds": "seconds, or text such as 30s or 1m",
    "texts": "a list of texts",
    "table": "a mapping of names to values",
    "words": "words as a shell would read them, or a list of them",
    "variables": "a list of NAME=VALUE, or a mapping",
    "any": "a value",
}
"""What the kinds of values are called in messages."""

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_LATE = re.compile(r"[$`]")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Args:
        name: in snake_case; a file may say it in camelCase.
        kind: what its value is, one of `WANTED`.
        doc: what it means, in a sentence.
        default: its value if nothing is said.
        choices: the only texts that it may be.
        aliases: other names for it.
        refused: why it is not taken, for one that people know from elsewhere.
        spelling: how it is documented, if that does not follow from its name.
    """

    name: str
    kind: str
    doc: str
    default: Any = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    refused: str = ""
    spelling: str = ""

    @property
    def shown(self) -> str:
        """The documented spelling."""
        return self.spelling or camel(self.name)

    @property
    def spellings(self) -> list[str]:
        """Every way to write it."""
        names = (self.name, *self.aliases)
        return [self.shown, *map(camel, names), *names]


class Settings:
    """All settings of one type.

    Args:
        kind: what the type is called in messages.
        rows: the settings.
    """

    def __init__(self, kind: str, rows: Sequence[Setting]) -> None:
        self.kind = kind
        self.rows = tuple(rows)

    @cached_property
    def spelled(self) -> dict[str, Setting]:
        """The settings by every way to write them."""
        return {spelling: row for row in self.rows for spelling in row.spellings}

    def check(self, step: Step, *required: str) -> Found:
        """Yield what is wrong with the settings of a step, as its file has them.

        Args:
            step: the step.
            required: settings that it cannot do without.
        """
        config = step.executor.config
        said: dict[str, str] = {}
        for key, value in config.items():
            row = self.spelled.get(key)
            wrong = self._unknown(key) if row is None else row.refused
            if row is not None and not wrong and not is_late(value):
                wrong = _wrong(row, value)
            if row is not None and value is not None and said.setdefault(row.name, key) != key:
                wrong = wrong or f"{key!r} means the same as {said[row.name]!r}, which is said already; keep one"
            if wrong:
                yield at(step, key), wrong
        for name in required:
            if name not in said:
                yield (
                    at(step),
                    f"a step of type {self.kind} needs {camel(name)!r}; write {camel(name)}: ... in its config",
                )

    def check_inner(self, step: Step, name: str, given: Any) -> Found:
        """Yield what is wrong with a mapping whose keys these settings are.

        Args:
            step: the step.
            name: the setting whose value the mapping is.
            given: the mapping, or a value that is none, of which others tell what is wrong.
        """
        for key, value in given.items() if isinstance(given, Mapping) else ():
            row = self.spelled.get(key)
            if row is None:
                known = ", ".join(sorted(row.shown for row in self.rows))
                yield at(step, name), f"unknown key {key!r} in {name}. There are: {known}"
            elif not is_late(value) and (wrong := _wrong(row, value)):
                yield at(step, name), f"in {name}: {wrong}"

    def says(self, step: Step, name: str) -> Any:
        """Return what the file says for a setting, or None."""
        return next(
            (
                value
                for key, value in step.executor.config.items()
                if key in self.spelled and self.spelled[key].name == name
            ),
            None,
        )

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all settings by their names, from expanded ones.

        Raises:
            StepError: one is unknown, or not what it must be.
        """
        values = {row.name: row.default for row in self.rows}
        for key, value in config.items():
            row = self.spelled.get(key)
            wrong = self._unknown(key) if row is None else row.refused or _wrong(row, value)
            if wrong:
                end = "" if wrong.endswith("?") else "."
                raise StepError(f"{wrong[0].upper()}{wrong[1:]}{end}", retryable=False)
            assert row is not None
            if value is not None:
                values[row.name] = _value(row, value)
        return values

    def _unknown(self, key: str) -> str:
        near = nearest(key, list(self.spelled))
        known = ", ".join(sorted(row.shown for row in self.rows if not row.refused))
        return f"unknown setting {key!r} of a step of type {self.kind}.{hint(near) or f' There are: {known}'}"


def camel(name: str) -> str:
    """Return the camelCase spelling of a name in snake_case."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def at(step: Step, key: str = "") -> Place:
    """Return where a setting of a step stands, or where its settings stand, or the step."""
    executor = step.executor
    for field in (f"config.{key}", "config", ""):
        if field in executor.places:
            return executor.places[field]
    return place(step)


def is_late(value: Any) -> bool:
    """Return whether what a value is will be known only when the step runs."""
    return isinstance(value, str) and _LATE.search(value) is not None


def duration(value: Any) -> float | None:
    """Return the seconds that a value means, or None if it means none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if value >= 0 else None
    text = str(value).strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(one or 0) for one in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _wrong(row: Setting, value: Any) -> str:
    """Return what is wrong with a value, empty if nothing is."""
    if value is None:
        return ""
    if _value(row, value) is None:
        return f"{row.shown!r} must be {WANTED[row.kind]}, not {_short(value)}"
    if row.choices and str(value) not in row.choices:
        question = hint(nearest(str(value), row.choices))
        return f"{row.shown!r} must be one of {', '.join(row.choices)}, not {_short(value)}.{question}"
    return ""


def _value(row: Setting, value: Any) -> Any:
    """Return a value as what it must be, or None if it is not that."""
    kind = row.kind
    if kind == "any":
        return value
    if kind == "table":
        return dict(value) if isinstance(value, Mapping) else None
    if kind == "variables":
        return value if isinstance(value, (Mapping, list, tuple, str)) else None
    if kind == "words" and isinstance(value, str):
        return _words(value)
    if kind in ("texts", "words"):
        items = value if isinstance(value, (list, tuple)) else [value]
        return [_text(one) for one in items] if all(_is_scalar(one) for one in items) else None
    if not _is_scalar(value):
        return None
    if kind == "text":
        return _text(value)
    if kind == "flag":
        return {"true": True, "false": False}.get(_text(value).strip().lower())
    if kind == "seconds":
        return duration(value)
    try:
        number = int(_text(value).strip())
    except ValueError:
        return None
    lowest, highest = {"count": (0, None), "port": (1, 65_535)}.get(kind, (None, None))
    return None if (lowest is not None and number < lowest) or (highest is not None and number > highest) else number


def _words(text: str) -> list[str] | None:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark that is not closed
        return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
