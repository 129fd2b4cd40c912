"""The ways to declare parameters: as a text, in lists and mappings, with types and limits, or as a JSON schema."""

from __future__ import annotations

import re
from typing import Any

from dagrid.workflow.fields import WRONG, Form, Schema, wrong
from dagrid.workflow.forms import SCALARS, TEXT, at, is_regex, value_text
from dagrid.workflow.model import Param, Params
from dagrid.workflow.parameters import TYPES, check, open_quote, split
from dagrid.workflow.problems import Problems
from dagrid.workflow.source import Mapping, Node, Scalar, Sequence, plain, shown

_RICH = {
    "type": "type",
    "default": "value",
    "value": "value",
    "required": "required",
    "enum": "enum",
    "minimum": "minimum",
    "maximum": "maximum",
    "minLength": "min_length",
    "min_length": "min_length",
    "maxLength": "max_length",
    "max_length": "max_length",
    "pattern": "pattern",
    "description": "description",
    "title": "",
    "label": "",
    "eval": "eval",
}
_PARAM_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


def _params(node: Node, label: str, problems: Problems) -> Any:
    made = Params(places={"": at(node)})
    items: list[Param] = []
    if type(node) is Mapping:
        properties = node.entries.get("properties")
        if properties is not None and type(properties.value) is Mapping:
            return _params_of_schema(made, node, properties.value, {}, label, problems)
        if "schema" in node.entries and node.entries.keys() <= {"schema", "values"}:
            return _params_with_schema(made, node, label, problems)
        _params_of_mapping(node, label, problems, items)
    elif type(node) is Sequence:
        for item in node.items:
            if type(item) is Mapping and "name" in item.entries and item.entries.keys() & _RICH.keys():
                _rich_param(item, label, problems, items)
            elif type(item) is Mapping:
                _params_of_mapping(item, label, problems, items)
            else:
                _params_of_text(item, label, problems, items)
    else:
        _params_of_text(node, label, problems, items)
    made.items = tuple(items)
    named: dict[str, Param] = {}
    for one in items:
        if one.name and one.name in named:
            first = named[one.name].places[""]
            problems.add(
                one.places[""], f"{label}: {one.name!r} stands in line {first.line} already; keep one of the two"
            )
        named.setdefault(one.name, one)
    return made


def _params_of_text(node: Node, label: str, problems: Problems, items: list[Param]) -> None:
    text = TEXT.read(node, label, problems)
    if text is not WRONG:
        if open_quote(text):
            problems.add(node, f"{label} has a quote that is not closed; close it, or write NAME: value")
        items += [
            Param(name=name, value=value, places={"": at(node), "value": at(node)}) for name, value in split(text)
        ]


def _params_of_mapping(node: Mapping, label: str, problems: Problems, items: list[Param]) -> None:
    for name, (key, value) in node.entries.items():
        places = {"": at(key), "value": at(value)}
        if not _PARAM_NAME.fullmatch(name):
            _refuse_param_name(key, label, problems)
        elif type(value) is Scalar:
            items.append(Param(name=name, value=value.text if value.value is not None else "", places=places))
        else:
            items.append(Param(name=name, value=value_text(value), places=places))


def _refuse_param_name(node: Node, label: str, problems: Problems) -> None:
    problems.add(
        node,
        f"{label}: {shown(node)} is no name of a parameter; a name has letters, digits and _ and begins with no digit",
    )


def _rich_param(node: Mapping, label: str, problems: Problems, items: list[Param]) -> None:
    name = node.entries["name"].value
    if type(name) is not Scalar or not _PARAM_NAME.fullmatch(name.text):
        _refuse_param_name(name, label, problems)
        return
    items.append(_described_param(name.text, node, f"{label}.{name.text}", problems, {"name"}))


def _described_param(name: str, node: Mapping, label: str, problems: Problems, ignored: set[str]) -> Param:
    made = Param(name=name, places={"": at(node)})
    for key, (key_node, value) in node.entries.items():
        target = _RICH.get(key)
        if target is None and key not in ignored:
            question = problems.suggest(key, _RICH)
            problems.add(key_node, f"unknown key {key[:60]!r} in {label}.{question}")
        elif target:
            made.places[target] = at(value)
            _set_param(made, target, value, f"{label}.{key}", problems)
    if made.value is not None and "$" not in made.value and "`" not in made.value:
        why = check(made, made.value)
        if why:
            problems.add(made.places["value"], f"{label}: the default does not fit: {why}")
    return made


def _set_param(made: Param, target: str, node: Node, label: str, problems: Problems) -> None:
    value = plain(node)
    if target == "value":
        made.value = None if value is None else value_text(node)
    elif target == "type":
        if value not in TYPES:
            wrong(node, label, f"one of {', '.join(TYPES)}", problems)
        else:
            made.type = value
    elif target == "enum":
        if type(node) is not Sequence or any(type(item) is not Scalar for item in node.items):
            wrong(node, label, "a list of values", problems, "enum: [a, b]")
        else:
            made.enum = tuple(item.text for item in node.items if type(item) is Scalar)
    elif target in ("required", "eval"):
        if type(value) is not bool:
            wrong(node, label, "true or false", problems)
        else:
            setattr(made, target, value)
    elif target in ("minimum", "maximum", "min_length", "max_length"):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            wrong(node, label, "a number", problems)
        else:
            setattr(made, target, value)
    elif not isinstance(value, str):
        wrong(node, label, "text", problems)
    elif target != "pattern" or is_regex(value, node, label, problems):
        setattr(made, target, value)


_OF_OBJECTS = {"type", "properties", "required", "additionalProperties", "title", "description", "$schema", "$id"}


def _params_of_schema(
    made: Params, node: Mapping, properties: Mapping, values: dict[str, Node], label: str, problems: Problems
) -> Params:
    """Parameters as the properties of a JSON schema, with values beside it."""
    for key, entry in node.entries.items():
        if key not in _OF_OBJECTS:
            problems.add(
                entry.key,
                f"{label}: the schema of parameters has no {key[:60]!r} here; it has type, properties, required",
            )
    asked = plain(node.entries["required"].value) if "required" in node.entries else []
    required = asked if isinstance(asked, list) else []
    items = []
    for name, entry in properties.entries.items():
        described = entry.value
        if type(described) is not Mapping or not _PARAM_NAME.fullmatch(name):
            wrong(described, f"{label}.{name}", "a mapping such as {type: string}, with a proper name", problems)
            continue
        one = _described_param(name, described, f"{label}.{name}", problems, {"format", "examples"})
        one.required = name in required
        one.places[""] = at(entry.key)
        if name in values:
            _set_param(one, "value", values[name], f"{label}.{name}", problems)
        items.append(one)
    extra = node.entries.get("additionalProperties")
    made.is_closed = extra is not None and plain(extra.value) is False
    made.items = tuple(items)
    return made


def _params_with_schema(made: Params, node: Mapping, label: str, problems: Problems) -> Any:
    given = node.entries.get("values")
    values = given.value if given is not None else None
    if values is not None and type(values) is not Mapping:
        return wrong(values, f"{label}.values", "a mapping of names to values", problems)
    schema = node.entries["schema"].value
    if type(schema) is Mapping:
        properties = schema.entries.get("properties")
        if properties is None or type(properties.value) is not Mapping:
            return wrong(schema, f"{label}.schema", "a JSON schema with properties", problems)
        found = {name: entry.value for name, entry in values.entries.items()} if values is not None else {}
        return _params_of_schema(made, schema, properties.value, found, label, problems)
    text = TEXT.read(schema, f"{label}.schema", problems)
    if text is WRONG:
        return WRONG
    items: list[Param] = []
    if values is not None:
        _params_of_mapping(values, label, problems, items)
    made.schema, made.items = text, tuple(items)
    made.places["schema"] = at(schema)
    return made


def _params_schema(known: Schema) -> Schema:  # noqa: ARG001
    listed = {"type": "array", "items": {"anyOf": [SCALARS, {"type": "object"}]}}
    return {"anyOf": [SCALARS, {"type": "object"}, listed]}


PARAMS = Form(_params, _params_schema)
