"""What the value of a field may be, and tables of fields that make records of mappings; which fields there are is not known here.

A kind of value reads a node of the tree, and describes itself as JSON schema. Reading never stops at a mistake: it is noted, and
`WRONG` takes the value's place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

import msgspec

from dagrid.workflow import source
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.source import Entry, Node, Scalar, plain, shown


class _Wrong:
    """Stands for a value that could not be read."""

    def __repr__(self) -> str:
        return "WRONG"


WRONG: Final[Any] = _Wrong()
_MOST_LISTED = 12
Schema = dict[str, Any]


class Kind(Protocol):
    """A kind of value."""

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        """Return the value, or WRONG when a problem was noted. `label` is the field as the file spells it."""

    def schema(self, known: Schema) -> Schema:
        """Return the JSON schema; `known` gets the schema of each record on the way, by its name."""


def wrong(node: Node, label: str, wanted: str, problems: Problems, example: str = "") -> Any:
    """Note that a value is not what it should be, and return WRONG."""
    tail = f"; write {example}" if example else ""
    problems.add(node, f"{label} is {wanted}, not {shown(node)}{tail}")
    return WRONG


class Text(msgspec.Struct, frozen=True):
    """Text; a number or a boolean counts as the text that stands in the file.

    Args:
        pattern: what the whole text must match.
        means: the pattern in words.
        longest: how many characters it may have; 0 is any number.
    """

    pattern: str = ""
    means: str = "text"
    longest: int = 0

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is not Scalar or node.value is None:
            return wrong(node, label, self.means, problems)
        text = node.text
        if self.longest and len(text) > self.longest:
            return wrong(node, label, f"at most {self.longest} characters long", problems)
        if self.pattern and not re.fullmatch(self.pattern, text, re.ASCII):
            return wrong(node, label, self.means, problems)
        return text

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        types = {"string": "", "number": "5", "boolean": "true"}
        fitting = [name for name, shown in types.items() if not shown or re.fullmatch(self.pattern or ".*", shown)]
        return {"type": fitting, **({"pattern": f"^(?:{self.pattern})$"} if self.pattern else {})}


class Flag(msgspec.Struct, frozen=True):
    """true or false."""

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is Scalar:
            if type(node.value) is bool:
                return node.value
            word = node.text.lower()
            if word in ("yes", "on", "true", "no", "off", "false"):
                meant = "true" if word in ("yes", "on", "true") else "false"
                problems.add(node, f"{label} is true or false, and {node.text!r} is text; write {meant}")
                return WRONG
        return wrong(node, label, "true or false", problems)

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        return {"type": "boolean"}


_WHOLE = "^[-+]?(?:[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"
_FRACTION = r"^[-+]?(?:[.][0-9]+|[0-9]+(?:[.][0-9]*)?)(?:[eE][-+]?[0-9]+)?$"


class Number(msgspec.Struct, frozen=True):
    """A finite number in a range.

    Args:
        least: the smallest value.
        most: the largest value.
        whole: whether it has no fraction.
        expandable: whether text with a `$` or a backtick may stand there, which is a number later.
        wanted: the range in words.
    """

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    expandable: bool = False
    wanted: str = "a number"

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is not Scalar:
            return wrong(node, label, self.wanted, problems)
        value = node.value if node.plain else source.resolve(node.text)
        kinds: tuple[type, ...] = (int,) if self.whole else (int, float)
        if type(value) in kinds and self.least <= value <= self.most and math.isfinite(value):  # type: ignore[operator, arg-type]
            return value
        if self.expandable and isinstance(value, str) and ("$" in value or "`" in value):
            return value
        return wrong(node, label, self.wanted, problems)

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        number: Schema = {"type": "integer" if self.whole else "number"}
        if self.least != -math.inf:
            number["minimum"] = self.least
        if self.most != math.inf:
            number["maximum"] = self.most
        text = _WHOLE if self.whole else f"{_WHOLE}|{_FRACTION}"
        return {"anyOf": [number, {"type": "string", "pattern": f"[$`]|{text}" if self.expandable else text}]}


SECONDS = Number(0, 1e10, wanted="seconds, 0 or more")
SECONDS_LATER = Number(0, 1e10, expandable=True, wanted="seconds, 0 or more")
COUNT = Number(0, 1_000_000_000, whole=True, wanted="a whole number, 0 or more")
COUNT_LATER = Number(0, 1_000_000_000, whole=True, expandable=True, wanted="a whole number, 0 or more")
POSITIVE = Number(1, 1_000_000_000, whole=True, wanted="a whole number, 1 or more")


class Choice(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is Scalar and node.text in self.words:
            return node.text
        if type(node) is Scalar and node.value is not None:
            question = problems.suggest(node.text, self.words)
            problems.add(node, f"{label} is {_either(self.words)}, not {shown(node)}.{question}")
            return WRONG
        return wrong(node, label, _either(self.words), problems)

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        return {"enum": list(self.words)}


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


class Many(msgspec.Struct, frozen=True):
    """A list; a single value counts as a list of one.

    Args:
        kind: what its items are.
        single: whether a single value may stand without the list.
    """

    kind: Kind
    single: bool = True

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is source.Sequence:
            read = [self.kind.read(item, label, problems) for item in node.items]
            return WRONG if WRONG in read else tuple(read)
        if not self.single:
            return wrong(node, label, "a list", problems)
        one = self.kind.read(node, label, problems)
        return one if one is WRONG else (one,)

    def schema(self, known: Schema) -> Schema:
        item = self.kind.schema(known)
        many: Schema = {"type": "array", "items": item}
        return {"anyOf": [item, many]} if self.single else many


class Table(msgspec.Struct, frozen=True):
    """A mapping of any keys to values of one kind."""

    kind: Kind

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is not source.Mapping:
            return wrong(node, label, "a mapping of names to values", problems)
        read = {key: self.kind.read(one.value, f"{label}.{key}", problems) for key, one in node.entries.items()}
        return WRONG if WRONG in read.values() else read

    def schema(self, known: Schema) -> Schema:
        return {"type": "object", "additionalProperties": self.kind.schema(known)}


class Anything(msgspec.Struct, frozen=True):
    """Any value, taken as it is."""

    def read(self, node: Node, label: str, problems: Problems) -> Any:  # noqa: ARG002
        return plain(node)

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        return {}


class AnyMapping(msgspec.Struct, frozen=True):
    """A mapping, taken as it is."""

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        return plain(node) if type(node) is source.Mapping else wrong(node, label, "a mapping", problems)

    def schema(self, known: Schema) -> Schema:  # noqa: ARG002
        return {"type": "object"}


class Form(msgspec.Struct, frozen=True):
    """A value that may be written in several ways: a function that reads it, and its schema."""

    reads: Callable[[Node, str, Problems], Any]
    describes: Callable[[Schema], Schema]

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        return self.reads(node, label, problems)

    def schema(self, known: Schema) -> Schema:
        return self.describes(known)


class Field(msgspec.Struct, frozen=True):
    """A row of the table: one field.

    Args:
        name: in snake_case; the camelCase spelling follows from it.
        kind: what its value may be.
        doc: what it means, in a sentence.
        attribute: what it is called in the record, if not as in the file.
        aliases: other names that people write, in snake_case.
    """

    name: str
    kind: Kind
    doc: str
    attribute: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        return self.attribute or self.name

    def spellings(self) -> list[str]:
        """Return every way to write the field, the documented one first."""
        names = (self.name, *self.aliases)
        return list(dict.fromkeys([*map(camel, names), *names]))


def camel(name: str) -> str:
    """Return the camelCase spelling of a name in snake_case."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


Hint = Callable[[Entry, source.Mapping, Problems], str]
"""Says what to write instead of a key that is not taken; it has the key, and the mapping around it."""


class RecordOf(msgspec.Struct, dict=True):
    """A mapping that becomes a record: the fields that it may have.

    Args:
        record: the class of the record; its defaults are the format's.
        name: what such a mapping is called in messages and in the schema.
        fields: the rows.
        doc: what it is, in a sentence.
        shorthand: the field that a value without a mapping means.
        required: fields that must be there.
        hints: what to say of keys that are known, but not taken here.
    """

    record: Callable[..., Any]
    name: str
    fields: Sequence[Field]
    doc: str = ""
    shorthand: str = ""
    required: tuple[str, ...] = ()
    hints: Mapping[str, Hint] = {}

    @cached_property
    def spelled(self) -> dict[str, Field]:
        return {spelling: row for row in self.fields for spelling in row.spellings()}

    @cached_property
    def documented(self) -> list[str]:
        return [spelling for spelling in self.spelled if "_" not in spelling]

    @cached_property
    def listed(self) -> str:
        if len(self.fields) > _MOST_LISTED:
            return " `dagrid schema` shows all keys."
        return f" There are: {', '.join(sorted(row.spellings()[0] for row in self.fields))}."

    def read(self, node: Node, label: str, problems: Problems) -> Any:
        if type(node) is not source.Mapping:
            if not self.shorthand or (type(node) is Scalar and node.value is None):
                return wrong(node, label, "a mapping", problems)
            row = self.spelled[self.shorthand]
            value = row.kind.read(node, label, problems)
            at = Place(node.line, node.column)
            return value if value is WRONG else self.record(**{row.target: value}, places={"": at, row.target: at})
        values, places = self.values(node, label, problems)
        missing = [name for name in self.required if name not in places]
        for name in missing:
            spelled = next(row.spellings()[0] for row in self.fields if row.target == name)
            problems.add(node, f"{label or self.name} needs {spelled!r}; write {spelled}: ...")
        return self.record(**values, places=places) if values.keys() >= set(self.required) else WRONG

    def values(self, node: source.Mapping, label: str, problems: Problems) -> tuple[dict[str, Any], dict[str, Place]]:
        """Read all fields of a mapping; returns what could be read, and where each stands: with `!` what could not be read."""
        values: dict[str, Any] = {}
        places = {"": Place(node.line, node.column)}
        spelled = self.spelled
        prefix = f"{label}." if label else ""
        for key, entry in node.entries.items():
            row = spelled.get(key)
            if row is None:
                self.unknown(entry, node, label, problems)
                places[f"!{key}"] = Place(entry.key.line, entry.key.column)
                continue
            target = row.target
            value = entry.value
            if target in places:
                other = places[target]
                problems.add(
                    entry.key, f"{prefix}{key} is said in line {other.line} already, in another spelling; keep one"
                )
                continue
            if type(value) is Scalar and value.value is None:
                continue  # nothing is said
            places[target] = Place(value.line, value.column)
            if type(value) is source.Sequence:
                for index, item in enumerate(value.items):
                    places[f"{target}.{index}"] = Place(item.line, item.column)
            elif type(value) is source.Mapping and type(row.kind) is AnyMapping:
                for name, (inner, _) in value.entries.items():
                    places[f"{target}.{name}"] = Place(inner.line, inner.column)
            read = row.kind.read(value, prefix + key, problems)
            if read is WRONG:
                places[f"!{target}"] = places[target]
            else:
                values[target] = read
        return values, places

    def unknown(self, entry: Entry, around: source.Mapping, label: str, problems: Problems) -> None:
        key = entry.key
        said = self.hints.get(key.text)
        if said is not None:
            problems.add(key, said(entry, around, problems))
            return
        question = problems.suggest(key.text, self.spelled if "_" in key.text else self.documented)
        shown_key = key.text if len(key.text) <= 60 else key.text[:57] + "..."
        tail = question or self.listed
        problems.add(key, f"unknown key {shown_key!r} in {label or self.name}.{tail}")

    def schema(self, known: Schema) -> Schema:
        if self.name not in known:
            known[self.name] = {}
            known[self.name] = self.described(known)
        reference = {"$ref": f"#/$defs/{self.name}"}
        if not self.shorthand:
            return reference
        return {"anyOf": [self.spelled[self.shorthand].kind.schema(known), reference]}

    def described(self, known: Schema) -> Schema:
        defaults = self.defaults()
        properties: Schema = {}
        for row in self.fields:
            for number, spelling in enumerate(row.spellings()):
                described = {"description": row.doc, **row.kind.schema(known)}
                if (default := defaults.get(row.target)) is not None:
                    described["default"] = default
                if number:
                    described["description"] = f"The same as {row.spellings()[0]}."
                properties[spelling] = described
        made: Schema = {
            "description": self.doc,
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }
        required = [row.name for row in self.fields if row.target in self.required and len(row.spellings()) == 1]
        return made | {"required": required} if required else made

    def defaults(self) -> dict[str, Any]:
        """Return the default of each field that has a plain one other than nothing."""
        found = {}
        for one in msgspec.structs.fields(self.record):  # type: ignore[arg-type]
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            if isinstance(default, (bool, int, float, str, list)) and default not in ("", []):
                found[one.name] = default
        return found
