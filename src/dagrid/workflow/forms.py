"""The values that may be written in several ways: env, schedules, outputs and their kin; what has a table is in `schema`, and
what declares parameters in `param_forms`."""

from __future__ import annotations

import re
import shlex
from typing import Any

from dagrid.workflow import source
from dagrid.workflow.fields import WRONG, Flag, Form, Schema, Text, wrong
from dagrid.workflow.model import Cron, Output, Parallel, Schedule, Variable, Written
from dagrid.workflow.parameters import compiled
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.source import Mapping, Node, Scalar, Sequence, plain, shown

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
OUTPUT_NAME = r"\$?[A-Za-z_][A-Za-z0-9_]*"
TEXT = Text()
SCALARS: Schema = {"type": ["string", "number", "boolean", "null"]}


def at(node: Node) -> Place:
    return Place(node.line, node.column)


# Variables ------------------------------------------------------------------------------------------------------------


def _env(node: Node, label: str, problems: Problems) -> Any:
    found: list[Variable] = []
    if type(node) is Mapping:
        _env_of_mapping(node, label, problems, found)
        return tuple(found)
    for item in node.items if type(node) is Sequence else [node]:
        if type(item) is Mapping:
            _env_of_mapping(item, label, problems, found)
        elif type(item) is Scalar and isinstance(item.value, str) and "=" in item.text:
            name, _, value = item.text.partition("=")
            _add_variable(name.strip(), value, item, label, problems, found)
        else:
            wrong(item, label, "a list of NAME=value or NAME: value", problems, "- NAME: value")
    return tuple(found)


def _env_of_mapping(node: Mapping, label: str, problems: Problems, found: list[Variable]) -> None:
    for name, (key, value) in node.entries.items():
        if type(value) is not Scalar:
            wrong(value, f"{label}.{name}", "text", problems)
        else:
            _add_variable(name, value.text if value.value is not None else "", key, label, problems, found)


def _add_variable(name: str, value: str, node: Scalar, label: str, problems: Problems, found: list[Variable]) -> None:
    if not _VARIABLE_NAME.fullmatch(name):
        problems.add(
            node,
            f"{label}: {name!r} is no name of a variable; a name has letters, digits and _ and begins with no digit",
        )
    else:
        found.append(Variable(name=name, value=value, places={"": at(node)}))


def _env_schema(known: Schema) -> Schema:  # noqa: ARG001
    mapping = {"type": "object", "additionalProperties": SCALARS}
    line = {"type": "string", "pattern": "="}
    return {"anyOf": [mapping, line, {"type": "array", "items": {"anyOf": [line, mapping]}}]}


ENV = Form(_env, _env_schema)


# Lists of words -------------------------------------------------------------------------------------------------------


def _tags(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Mapping:
        return tuple(f"{key}={entry.value.text}" for key, entry in node.entries.items() if type(entry.value) is Scalar)
    found = []
    for item in node.items if type(node) is Sequence else [node]:
        if type(item) is Mapping:
            found += [f"{key}={entry.value.text}" for key, entry in item.entries.items() if type(entry.value) is Scalar]
            continue
        text = TEXT.read(item, label, problems)
        if text is not WRONG:
            found += [word.strip() for word in text.split(",") if word.strip()]
    return tuple(dict.fromkeys(found))


def _tags_schema(known: Schema) -> Schema:  # noqa: ARG001
    mapping = {"type": "object", "additionalProperties": SCALARS}
    return {"anyOf": [TEXT.schema({}), mapping, {"type": "array", "items": {"anyOf": [TEXT.schema({}), mapping]}}]}


TAGS = Form(_tags, _tags_schema)


def _words(node: Node, label: str, problems: Problems) -> Any:
    """A command line in one text, also one that stands alone in a list, or its words in a list."""
    if type(node) is Sequence and len(node.items) == 1:
        node = node.items[0]
    if type(node) is Sequence:
        read = [TEXT.read(item, label, problems) for item in node.items]
        return WRONG if WRONG in read else tuple(read)
    text = TEXT.read(node, label, problems)
    if text is WRONG:
        return WRONG
    try:
        return tuple(shlex.split(text))
    except ValueError:
        problems.add(node, f"{label} has a quote that is not closed; close it, or write the words as a list")
        return WRONG


def _words_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"anyOf": [TEXT.schema({}), {"type": "array", "items": TEXT.schema({})}]}


WORDS = Form(_words, _words_schema)


def _selector(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Scalar and node.text == "local":
        return "local"
    if type(node) is not Mapping:
        return wrong(node, label, "a mapping of labels to values, or `local`", problems, 'gpu: "true"')
    read = {key: TEXT.read(entry.value, f"{label}.{key}", problems) for key, entry in node.entries.items()}
    return WRONG if WRONG in read.values() else read


def _selector_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"anyOf": [{"const": "local"}, {"type": "object", "additionalProperties": TEXT.schema({})}]}


SELECTOR = Form(_selector, _selector_schema)


def _args(node: Node, label: str, problems: Problems) -> Any:
    """Arguments: by position in a list, by name in a mapping, or words in one text."""
    if type(node) is Sequence:
        return tuple([_argument(item) for item in node.items])
    if type(node) is Mapping:
        return plain(node)
    return _words(node, label, problems)


def _argument(node: Node) -> Any:
    value = plain(node)
    return Written(value, node.text) if type(node) is Scalar and str(value) != node.text else value


def _args_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"type": ["array", "object", "string", "number", "boolean"]}


ARGS = Form(_args, _args_schema)


# Numbers with units ---------------------------------------------------------------------------------------------------

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}{tail}": 1000**power for power, letter in enumerate("kmgt", 1) for tail in ("", "b")}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def _size(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Scalar:
        said = re.fullmatch(r"\s*([0-9]{1,15})\s*([A-Za-z]{0,3})\s*", node.text, re.ASCII)
        unit = _UNITS.get(said[2].lower()) if said else None
        if said and unit and int(said[1]):
            return int(said[1]) * unit
    return wrong(node, label, "a number of bytes, 1 or more", problems, f"{label.rpartition('.')[2]}: 10MiB")


def _size_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+ *[A-Za-z]{0,3}$"}]}


SIZE = Form(_size, _size_schema)


def _backoff(node: Node, label: str, problems: Problems) -> Any:
    value = node.value if type(node) is Scalar else None
    if isinstance(value, bool):
        return 2.0 if value else 0.0
    if isinstance(value, (int, float)) and 1 <= value <= 1000:
        return float(value)
    return wrong(node, label, "true (each interval is twice the last one) or a factor from 1 up", problems)


def _backoff_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"anyOf": [{"type": "boolean"}, {"type": "number", "minimum": 1}]}


BACKOFF = Form(_backoff, _backoff_schema)


def _repeat(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Scalar and (node.value is True or node.text == "while"):
        return "always" if node.value is True else "while"
    if type(node) is Scalar and (node.value is False or node.text == "until"):
        return "never" if node.value is False else "until"
    return wrong(node, label, "true, false, while or until", problems, "repeat: until")


def _repeat_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"enum": [True, False, "while", "until"]}


REPEAT = Form(_repeat, _repeat_schema)


# Schedules ------------------------------------------------------------------------------------------------------------

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def _cron(node: Node, label: str, problems: Problems) -> Cron | None:
    if type(node) is not Scalar or not isinstance(node.value, str):
        wrong(node, label, "a cron expression", problems, '"0 2 * * *"')
        return None
    words = node.text.split()
    zone = ""
    if words and words[0].startswith(("CRON_TZ=", "TZ=")):
        zone = words.pop(0).partition("=")[2]
        if not _is_zone(zone):
            problems.add(node, f"{label}: there is no time zone {zone[:60]!r}; write one such as CRON_TZ=Europe/Berlin")
            return None
    expression = " ".join(words)
    expression = _MACROS.get(expression.lower(), expression.replace("?", "*"))
    why = _cron_fault(expression)
    if why:
        shown_text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
        problems.add(
            node,
            f"{label}: {shown_text!r} is no cron expression: {why}; write minute, hour, day, month, weekday as in 0 2 * * 1-5",
        )
        return None
    return Cron(expression=expression, timezone=zone, places={"": at(node)})


def _cron_fault(expression: str) -> str:
    words = expression.split()
    if len(words) != 5:
        return f"it has {len(words)} fields and not 5"
    if len(expression) > 500:
        return "it is too long"
    from datetime import datetime

    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        return "reading one needs cronsim (pip install 'dagrid[workflow]')"
    try:
        CronSim(expression, datetime(2000, 1, 1))
    except CronSimError as error:
        return str(error)[:1].lower() + str(error)[1:]
    except (ValueError, AssertionError, TypeError):
        return "a field is out of its range"
    return ""


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _crons(node: Node, label: str, problems: Problems) -> tuple[Cron, ...]:
    nodes = node.items if type(node) is Sequence else [node]
    return tuple(cron for one in nodes if (cron := _cron(one, label, problems)) is not None)


_SCHEDULED = ("start", "stop", "restart")


def _schedule(node: Node, label: str, problems: Problems) -> Any:
    made = Schedule(places={"": at(node)})
    moments: list[str] = []
    if type(node) is Mapping and not _is_moment(node):
        for key, entry in node.entries.items():
            if key not in _SCHEDULED:
                question = problems.suggest(key, _SCHEDULED)
                problems.add(
                    entry.key, f"unknown key {key[:60]!r} in {label}.{question or ' There are: start, stop, restart.'}"
                )
                continue
            made.places[key] = at(entry.value)
            setattr(made, key, _crons(entry.value, f"{label}.{key}", problems))
        return made
    starts: list[Cron] = []
    for item in node.items if type(node) is Sequence else [node]:
        if type(item) is Mapping and _is_moment(item):
            moments += _moment(item, label, problems)
        elif (cron := _cron(item, label, problems)) is not None:
            starts.append(cron)
    made.start, made.at = tuple(starts), tuple(moments)
    made.places["start"] = at(node)
    return made


def _is_moment(node: Mapping) -> bool:
    return "kind" in node.entries or "at" in node.entries


def _moment(node: Mapping, label: str, problems: Problems) -> list[str]:
    """`{kind: at, at: 2026-03-29T02:10:00+01:00}`, or `{kind: cron, expression: ...}`, which is refused with a hint."""
    from datetime import datetime

    for key, entry in node.entries.items():
        if key not in ("kind", "at"):
            problems.add(
                entry.key, f"unknown key {key[:60]!r} in {label}. A moment is {{kind: at, at: 2026-03-29T02:10:00Z}}."
            )
            return []
    kind, moment = node.entries.get("kind"), node.entries.get("at")
    if kind is not None and not (type(kind.value) is Scalar and kind.value.text == "at"):
        problems.add(
            kind.value, f"{label}.kind is at, not {shown(kind.value)}; a cron expression is written without a mapping"
        )
        return []
    if moment is not None and type(moment.value) is Scalar:
        text = moment.value.text
        try:
            if datetime.fromisoformat(text).tzinfo is not None:
                return [text]
        except ValueError:
            pass
    wanted = "a moment with its time zone"
    wrong(node if moment is None else moment.value, f"{label}.at", wanted, problems, "at: 2026-03-29T02:10:00+01:00")
    return []


def _schedule_schema(known: Schema) -> Schema:  # noqa: ARG001
    cron: Schema = {"type": "string", "description": "A cron expression: minute, hour, day, month, weekday."}
    crons = {"anyOf": [cron, {"type": "array", "items": cron}]}
    moment = {
        "type": "object",
        "properties": {"kind": {"const": "at"}, "at": {"type": "string"}},
        "required": ["at"],
        "additionalProperties": False,
    }
    events = {"type": "object", "properties": dict.fromkeys(_SCHEDULED, crons), "additionalProperties": False}
    return {"anyOf": [cron, moment, events, {"type": "array", "items": {"anyOf": [cron, moment]}}]}


SCHEDULE = Form(_schedule, _schedule_schema)


# Outputs --------------------------------------------------------------------------------------------------------------

_OUTPUT_CHOICES = {"from": ("stdout", "stderr", "file"), "decode": ("text", "json", "yaml")}
_OUTPUT_TEXTS = {"name": "name", "path": "path", "select": "select", "key": "key"}
_OUTPUT_KEYS = frozenset({*_OUTPUT_CHOICES, *_OUTPUT_TEXTS, "value", "omit"})


def _outputs(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Sequence:
        found = [_output(item, label, "", problems) for item in node.items]
    elif type(node) is Mapping and not node.entries.keys() <= _OUTPUT_KEYS:
        found = [_named_output(name, entry, label, problems) for name, entry in node.entries.items()]
    else:
        found = [_output(node, label, "", problems)]
    return tuple(one for one in found if one is not None)


def _named_output(name: str, entry: source.Entry, label: str, problems: Problems) -> Output | None:
    if not re.fullmatch(OUTPUT_NAME, name, re.ASCII):
        _refuse_output_name(entry.key, label, problems)
        return None
    if type(entry.value) is Mapping:
        return _output(entry.value, f"{label}.{name}", name, problems)
    return Output(name=name.lstrip("$"), value=value_text(entry.value), places={"": at(entry.key)})


def value_text(node: Node) -> str:
    import json

    return node.text if type(node) is Scalar else json.dumps(plain(node), ensure_ascii=False)


def _output(node: Node, label: str, name: str, problems: Problems) -> Output | None:
    made = Output(name=name.lstrip("$"), places={"": at(node)})
    if type(node) is not Mapping:
        return _set_output_name(made, node, label, problems)
    for key, entry in node.entries.items():
        value = entry.value
        if key not in _OUTPUT_KEYS:
            question = problems.suggest(key, _OUTPUT_KEYS)
            problems.add(entry.key, f"unknown key {key[:60]!r} in {label}.{question}")
            continue
        made.places[key] = at(value)
        if key == "value":
            made.value = value_text(value)
        elif key == "omit":
            made.omit = Flag().read(value, f"{label}.omit", problems) is True
        elif key in _OUTPUT_CHOICES:
            words = _OUTPUT_CHOICES[key]
            if type(value) is not Scalar or value.text not in words:
                wrong(value, f"{label}.{key}", f"one of {', '.join(words)}", problems)
            else:
                setattr(made, "source" if key == "from" else key, value.text)
        elif key == "name":
            _set_output_name(made, value, label, problems)
        elif (text := TEXT.read(value, f"{label}.{key}", problems)) is not WRONG:
            setattr(made, key, text)
    if made.source == "file" and not made.path:
        problems.add(node, f"{label} is taken from a file, and says not from which; write path: FILE")
    return made


def _set_output_name(made: Output, node: Node, label: str, problems: Problems) -> Output | None:
    if (
        type(node) is not Scalar
        or not isinstance(node.value, str)
        or not re.fullmatch(OUTPUT_NAME, node.text, re.ASCII)
    ):
        _refuse_output_name(node, label, problems)
        return None
    made.name = node.text.lstrip("$")
    return made


def _refuse_output_name(node: Node, label: str, problems: Problems) -> None:
    wrong(
        node, label, "the name of a variable (letters, digits and _)", problems, f"{label.rpartition('.')[2]}: RESULT"
    )


def _outputs_schema(known: Schema) -> Schema:  # noqa: ARG001
    name = {"type": "string", "pattern": f"^{OUTPUT_NAME}$"}
    return {"anyOf": [name, {"type": "object"}, {"type": "array", "items": {"anyOf": [name, {"type": "object"}]}}]}


OUTPUTS = Form(_outputs, _outputs_schema)


# Items of a parallel step ---------------------------------------------------------------------------------------------


def _items(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Scalar and isinstance(node.value, str) and ("$" in node.text or "`" in node.text):
        return node.text
    if type(node) is not Sequence:
        return wrong(node, label, "a list, or text that is one at run time", problems, "[a, b] or ${LIST}")
    return tuple(item.text if type(item) is Scalar else plain(item) for item in node.items)


def _items_schema(known: Schema) -> Schema:  # noqa: ARG001
    return {"anyOf": [{"type": "array"}, {"type": "string", "pattern": "[$`]"}]}


ITEMS = Form(_items, _items_schema)


def items_without_mapping(node: Node, label: str, problems: Problems) -> Any:
    """`parallel: [a, b]` and `parallel: ${LIST}`, without `items:`."""
    items = _items(node, label, problems)
    return WRONG if items is WRONG else Parallel(items=items, places={"": at(node), "items": at(node)})


def is_regex(pattern: str, node: source.Scalar | Place | Node, label: str, problems: Problems) -> bool:
    """Return whether a text is a regular expression; if not, the problem is noted."""
    try:
        compiled(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        problems.add(node, f"{label}: {pattern[:60]!r} is no regular expression: {error}")
        return False
    return True
