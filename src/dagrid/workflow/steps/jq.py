"""Filters of jq: `command` is the filter, `script` the JSON; by the package jq, or by the program of that name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.settings import Found, Setting, Settings
from dagrid.workflow.steps.texts import filled
from dagrid.workflow.steps.writing import emit
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

SETTINGS = Settings(
    "jq",
    [
        Setting("query", "text", "The filter, where `command` does not say it.", aliases=("filter",)),
        Setting("input", "any", "A file with JSON, JSON as text, or a value, where `script` is not the JSON."),
        Setting("raw", "flag", "Texts are printed without quotes, all else on one line.", False),
    ],
)
"""The settings."""

INDENT = 4
_BOUND = re.compile(r"\bas\s+[^|(]*|\bdef\s+[^:]*:")
_HALTING = "def halt_error: error; def halt_error(code): error; "
"""The package takes the end that a filter makes of itself for success, and says nothing of it."""
_EMPTY = "There is no JSON to filter; the text is empty."
_NAME = re.compile(r"\$(\w+)", re.ASCII)


class Jq:
    """A step of type jq."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step)
        has_query = SETTINGS.says(step, "query") is not None
        if len(step.command) > 1:
            yield place(step, "command", 1), "a step of type jq has one filter; join them with |"
        elif step.command and has_query:
            yield place(step, "command"), "the filter is in the settings too; keep one of the two"
        elif not step.command and not has_query:
            yield place(step), "a step of type jq needs a filter; write command: .name"
        if step.script and SETTINGS.says(step, "input") is not None:
            yield place(step, "script"), "the JSON is in the settings too, as `input`; keep one of the two"
        elif not step.script and SETTINGS.says(step, "input") is None:
            yield (
                place(step),
                "a step of type jq needs JSON; write it as `script`, or name a file with config: {input: FILE}",
            )

    def perform(self, work: Work) -> Generator[Any, Any, Returned | None]:
        """Filter."""
        step = work.step
        settings = dict(step.executor.config)
        query = filled(step.command[0], work, _bound(step.command[0])) if step.command else ""
        for name in ("query", "filter"):
            if isinstance(settings.get(name), str):
                query = filled(settings[name], work, _bound(settings[name]))
                settings.pop(name)
        config = SETTINGS.read((yield from work.plain(settings)))
        data, path = filled(step.script, work), ""
        if config["input"] is not None:
            data, path = _input(config["input"], work)
        if not path and not data.strip():
            raise StepError(_EMPTY)
        if find_spec("jq") is not None:
            return (yield from work.call(apply, query, data, path, raw=config["raw"]))
        program = shutil.which("jq", path=work.env.get("PATH", os.defpath))
        if program is None:
            raise StepError(
                "Steps of type jq need the package jq or the program jq: pip install 'dagrid[jq]'", retryable=False
            )
        style = ["--raw-output", "--compact-output"] if config["raw"] else ["--indent", str(INDENT)]
        # a filter may begin as an option does
        argv = [program, *style, f" {query}" if query.startswith("-") else query, *([path] if path else [])]
        (yield (yield from work.launch(argv, stdin=None if path else data.encode()))).check()
        return None


def apply(query: str, data: str, path: str = "", *, raw: bool = False) -> None:
    """Print what a filter makes of JSON.

    Args:
        query: the filter.
        data: one or more JSON values.
        path: a file that holds them instead.
        raw: print texts as they are.

    Raises:
        StepError: the filter is none, the JSON is none, or the filter does not fit it.
    """
    import jq

    if path:
        try:
            with open(path, encoding="utf-8-sig") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            raise StepError(
                f"The JSON cannot be read from {path!r}: {getattr(error, 'strerror', None) or error}."
            ) from None
    if not data.strip():
        raise StepError(_EMPTY)
    try:
        program = jq.compile(_HALTING + query if "halt_error" in query else query)
    except ValueError as error:
        raise StepError(f"The filter cannot be read: {_first(error)}", retryable=False) from None
    try:
        for value in program.input_text(data):
            emit(_shown(value, raw) + "\n")
    except ValueError as error:
        raise StepError(f"The filter does not go through the JSON: {_first(error)}") from None


def _shown(value: Any, raw: bool) -> str:
    if not raw:
        return json.dumps(value, ensure_ascii=False, indent=INDENT)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _input(value: Any, work: Work) -> tuple[str, str]:
    """Return the JSON that `input` is, or the file that has it."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False), ""
    if not value.strip() or value.lstrip()[:1] in ("{", "[", '"') or _is_json(value):
        return value, ""
    return "", work.file(value)


def _is_json(text: str) -> bool:
    """Return whether a text that could be the name of a file is a number, or true, false or null."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _bound(query: str) -> frozenset[str]:
    """Return the names that a filter gives a meaning itself."""
    return frozenset(name for found in _BOUND.findall(query) for name in _NAME.findall(found)) | {"ENV", "__loc__"}


def _first(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("jq: error: ").strip() if lines else type(error).__name__
