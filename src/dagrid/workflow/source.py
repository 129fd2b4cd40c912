"""YAML text becomes a tree in which every value knows its line and column; what the keys mean is not known here.

The tree is built from the parser's events, without recursion, so that a text that nests or repeats itself without end is refused
and not followed. Scalars are read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): yes, no, on and
off are text. A key may stand once. Of YAML 1.1 it has the merge key `<<`, because people use it with anchors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dagrid.workflow.problems import Place, Problems

if TYPE_CHECKING:
    from yaml.events import Event

DEEPEST = 40
MOST_COPIES = 100_000
LONGEST = 16_000_000

Value = str | int | float | bool | None


class Scalar(msgspec.Struct, gc=False):
    """One value.

    Args:
        value: as the core schema reads it.
        text: as it is written, without quotes.
        line: counted from 1.
        column: counted from 1, in characters.
        plain: whether it stands without quotes, so that it may be something else than text.
    """

    value: Value
    text: str
    line: int
    column: int
    plain: bool = True


class Sequence(msgspec.Struct):
    """A list of values."""

    items: list[Node]
    line: int
    column: int


class Mapping(msgspec.Struct):
    """Keys with their values, by the key's text, in the order of the file."""

    entries: dict[str, Entry]
    line: int
    column: int


class Entry(NamedTuple):
    """A key and its value."""

    key: Scalar
    value: Node


Node = Scalar | Sequence | Mapping


def read(text: str, problems: Problems) -> list[Node]:
    """Return the documents of a text; what cannot be read is noted, and what stood before it is returned.

    Args:
        text: YAML, any number of documents.
        problems: gets what is wrong.
    """
    if len(text) > LONGEST:
        problems.add(Place(1, 1), f"the file has {len(text):,} characters; a workflow has at most {LONGEST:,}")
        return []
    try:
        import yaml  # 10 ms that only who reads YAML pays
    except ImportError:
        problems.add(Place(), "reading YAML needs PyYAML; install it with: pip install 'dagrid[workflow]'")
        return []

    builder = _Builder(problems)
    parser: Any = None
    try:
        parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        while True:
            event = parser.get_event()
            if event is None or type(event) is yaml.StreamEndEvent:
                break
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        _note_syntax(error, text, problems)
    except yaml.reader.ReaderError as error:
        _note_character(error, text, problems)
    except UnicodeEncodeError as error:
        place = _place_of(text, error.start)
        problems.add(place, f"the character U+{ord(text[error.start]):04X} is half of a pair, and no text; remove it")
    except _Hopeless:
        pass  # noted already
    finally:
        if parser is not None:
            parser.dispose()
    return builder.documents


def plain(node: Node) -> Any:
    """Return a tree as plain values: text, numbers, booleans, None, lists and dicts."""
    if type(node) is Scalar:
        return node.value
    if type(node) is Sequence:
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}  # type: ignore[union-attr]


def shown(node: Node) -> str:
    """Return what a value is, in words for a message."""
    if type(node) is Sequence:
        return "a list"
    if type(node) is Mapping:
        return "a mapping"
    return _shown_scalar(node)  # type: ignore[arg-type]


def _shown_scalar(node: Scalar) -> str:
    if node.value is None:
        return "nothing"
    text = node.text if len(node.text) <= 40 else node.text[:37] + "..."
    if isinstance(node.value, bool) or not isinstance(node.value, str):
        return text
    return repr(text)


class _Hopeless(Exception):  # noqa: N818  # leaves the loop; what is wrong is noted
    pass


class _Frame(msgspec.Struct):
    """A collection that is still open: what it has so far, and how large and deep that is."""

    node: Sequence | Mapping
    anchor: str | None
    key: Scalar | None = None
    merged: list[tuple[Scalar, Node]] | None = None
    size: int = 1
    height: int = 1


class _Anchor(NamedTuple):
    node: Node | None  # None as long as it is open
    size: int
    height: int


class _Builder:
    """Takes events, leaves documents."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.documents: list[Node] = []
        self.frames: list[_Frame] = []
        self.anchors: dict[str, _Anchor] = {}
        self.copies = 0

    def take(self, event: Event) -> None:
        name = type(event).__name__
        if name == "ScalarEvent":
            self.add(self.scalar(event), event.anchor, 1, 0)  # type: ignore[attr-defined]
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            self.open(event)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            self.close()
        elif name == "AliasEvent":
            self.alias(event)
        elif name == "DocumentStartEvent":
            self.anchors = {}

    def scalar(self, event: Any) -> Scalar:
        mark = event.start_mark
        text: str = event.value
        tag = event.tag
        line, column = mark.line + 1, mark.column + 1
        if tag is None:
            if event.implicit[0]:
                return Scalar(resolve(text), text, line, column)
            return Scalar(text, text, line, column, False)
        if tag in ("!", _CORE + "str"):
            return Scalar(text, text, line, column, False)
        found = Scalar(resolve(text), text, line, column)
        kinds = _TAGGED.get(tag)
        if kinds is None:
            self.refuse_tag(found, tag)
        elif type(found.value) not in kinds:
            self.problems.add(found, f"{text!r} is not what its tag !!{tag[len(_CORE) :]} says; remove the tag")
        return found

    def refuse_tag(self, place: Scalar | Sequence | Mapping, tag: str) -> None:
        said = tag.replace(_CORE, "!!")
        self.problems.add(place, f"the tag {said!r} means nothing here; remove it")

    def open(self, event: Any) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if len(self.frames) >= DEEPEST:
            self.problems.add(Place(line, column), f"values are nested more than {DEEPEST} deep; use fewer levels")
            raise _Hopeless
        node: Sequence | Mapping
        if type(event).__name__ == "MappingStartEvent":
            node, tag = Mapping({}, line, column), _CORE + "map"
        else:
            node, tag = Sequence([], line, column), _CORE + "seq"
        if event.tag not in (None, "!", tag):
            self.refuse_tag(node, event.tag)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(None, 0, 0)
        self.frames.append(_Frame(node, event.anchor))

    def close(self) -> None:
        frame = self.frames.pop()
        if frame.merged:
            self.merge(frame)
        self.add(frame.node, frame.anchor, frame.size, frame.height)

    def alias(self, event: Any) -> None:
        mark = event.start_mark
        place = Place(mark.line + 1, mark.column + 1)
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            suggestion = self.problems.suggest(event.anchor, self.anchors)
            self.problems.add(place, f"there is no anchor &{event.anchor} above this alias.{suggestion}")
        elif anchor.node is None:
            self.problems.add(place, f"*{event.anchor} stands inside of what it means; a value cannot contain itself")
        else:
            self.copies += anchor.size
            if self.copies > MOST_COPIES:
                self.problems.add(
                    place, f"the aliases of this file stand for more than {MOST_COPIES:,} values; repeat less"
                )
                raise _Hopeless
            if len(self.frames) + anchor.height > DEEPEST:
                self.problems.add(
                    place, f"with this alias values are nested more than {DEEPEST} deep; use fewer levels"
                )
                raise _Hopeless
            self.add(anchor.node, None, anchor.size, anchor.height)
            return
        self.add(Scalar(None, "", place.line, place.column), None, 1, 0)

    def add(self, node: Node, anchor: str | None, size: int, height: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = _Anchor(node, size, height)
        if not self.frames:
            self.documents.append(node)
            return
        frame = self.frames[-1]
        frame.size += size
        if height >= frame.height:
            frame.height = height + 1
        into = frame.node
        if type(into) is Sequence:
            into.items.append(node)
        elif frame.key is None:
            frame.key = self.key(node)
        else:
            self.enter(frame, frame.key, node)
            frame.key = None

    def key(self, node: Node) -> Scalar:
        if type(node) is Scalar:
            return node
        self.problems.add(node, f"a key is text, not {shown(node)}; in front of ':' stands a name")
        return Scalar(None, "", node.line, node.column, False)

    def enter(self, frame: _Frame, key: Scalar, node: Node) -> None:
        entries = frame.node.entries  # type: ignore[union-attr]
        name = key.text
        if key.value is None and not key.plain:
            return  # it is no key
        if name == "<<" and key.plain:
            if frame.merged is None:
                frame.merged = []
            else:
                self.problems.add(key, "the merge key << stands here twice; write <<: [*one, *other]")
            frame.merged.append((key, node))
        elif name in entries:
            first = entries[name].key
            self.problems.add(key, f"the key {_short(name)} stands in line {first.line} already; keep one of the two")
        else:
            entries[name] = Entry(key, node)

    def merge(self, frame: _Frame) -> None:
        entries = frame.node.entries  # type: ignore[union-attr]
        for key, node in frame.merged or ():
            for source in node.items if type(node) is Sequence else [node]:
                if type(source) is not Mapping:
                    self.problems.add(key, f"<< takes a mapping, or a list of mappings, not {shown(source)}")
                    continue
                for name, entry in source.entries.items():
                    entries.setdefault(name, entry)


_CORE = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {
    _CORE + "int": (int,),
    _CORE + "float": (float, int),
    _CORE + "bool": (bool,),
    _CORE + "null": (type(None),),
}
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMERIC = frozenset("0123456789+-.")
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_MOST_DIGITS = 40


def resolve(text: str) -> Value:
    """Return what a plain scalar means by the core schema of YAML 1.2; a number of absurd length is text."""
    if text[:1] not in _NUMERIC:
        return _WORDS.get(text, text)
    if len(text) <= _MOST_DIGITS:
        if _DECIMAL.fullmatch(text):
            return int(text)
        if _OTHER_BASE.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
    return _WORDS.get(text, text)


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")


def _note_syntax(error: Any, text: str, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        problems.add(Place(1, 1), f"this is no YAML: {error}")
        return
    place = Place(mark.line + 1, mark.column + 1)
    opened = error.context_mark
    since = f" (begun in line {opened.line + 1})" if opened is not None and opened.line != mark.line else ""
    problems.add(place, _explained(str(error.problem or ""), str(error.context or ""), _at(text, place), since))


def _at(text: str, place: Place) -> str:
    """Return the rest of the line at a place."""
    lines = text.split("\n", place.line)
    return lines[place.line - 1][place.column - 1 :] if place.line <= len(lines) else ""


def _explained(problem: str, context: str, rest: str, since: str) -> str:
    if rest.startswith("\t"):
        return "a tab stands where YAML takes only spaces; indent with spaces"
    if "cannot start any token" in problem and rest:
        return f"a value cannot begin with {rest[0]!r}; put it in quotes"
    if "mapping values are not allowed" in problem:
        return "no value can begin here, and ':' with a space behind it begins one; quote the text, or check the indentation"
    if "expected ':'" in problem:
        return f"a key needs a ':' behind it{since}; write `key: value`"
    if "scalar" in context and "end of stream" in problem:
        return f"a quote is opened{since} and never closed; close it"
    if "expected ',' or" in problem:
        return f"a list or mapping in brackets{since} is not closed; separate with ',' and close it"
    if "did not find expected" in problem or "block" in context:
        what = "list" if "collection" in context else "mapping"
        return f"this does not continue the {what}{since}: check the indentation, and quotes around text with special characters"
    return f"this is no YAML: {problem or context}{since}; check quotes and indentation"


def _note_character(error: Any, text: str, problems: Problems) -> None:
    code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "?")
    found = text.find(chr(code)) if 0 <= code < 0x110000 else -1
    problems.add(_place_of(text, max(found, 0)), f"the character U+{code:04X} may not stand in YAML; remove it")


def _place_of(text: str, index: int) -> Place:
    start = text.rfind("\n", 0, index) + 1
    return Place(text.count("\n", 0, index) + 1, index - start + 1)
