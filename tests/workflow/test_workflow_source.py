"""YAML text becomes a tree with places, or problems with places; never another error, and never without end."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest

from dagrid.workflow.problems import Problems
from dagrid.workflow.source import DEEPEST, Mapping, Scalar, plain, read

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{now}: &{now} [{', '.join(['*' + before] * 9)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)


def tree(text):
    """Return the documents of a text that has no problems."""
    problems = Problems("f.yaml")
    documents = read(text, problems)
    assert [str(one) for one in problems.found] == []
    return documents


def values(text):
    return [plain(document) for document in tree(text)]


def faults(text):
    problems = Problems("f.yaml")
    read(text, problems)
    return [str(one) for one in problems.found]


def test_every_value_knows_its_place():
    """All messages about a workflow stand or fall with the places of its values."""
    (document,) = tree('a: 1\nb:\n  - x\n  - "y": {z: |\n      text}\n'.replace("|\n      text}", "2}"))
    assert type(document) is Mapping
    assert (document.line, document.column) == (1, 1)
    key, listed = cast("tuple[Scalar, Any]", document.entries["b"])
    assert (key.line, key.column) == (2, 1)
    assert [(item.line, item.column) for item in listed.items] == [(3, 5), (4, 5)]
    inner = listed.items[1].entries["y"]
    assert (inner.key.line, inner.key.column) == (4, 5)
    two = inner.value.entries["z"].value
    assert type(two) is Scalar
    assert (two.value, two.line, two.column) == (2, 4, 14)


def test_columns_count_characters_and_not_bytes():
    """An editor goes to the character; a path of umlauts before it must not shift the place."""
    (document,) = tree('{"äöü": x}')
    value = document.entries["äöü"].value
    assert (value.line, value.column) == (1, 9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("Null", None),
        ("", None),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("190:20:30", "190:20:30"),
        ("-12", -12),
        ("+1.5e3", 1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("2026-03-29", "2026-03-29"),
        ("=", "="),
        ("1" * 5000, "1" * 5000),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("! 1", "1"),
        ("!!int 7", 7),
    ],
)
def test_scalars_are_read_by_the_core_schema(text, value):
    """A country code `no` and a switch `on` are text, and only true is true: that is YAML 1.2, and not what PyYAML does."""
    (document,) = tree(f"v: {text}")
    found = plain(document)["v"]
    assert found == value
    assert type(found) is type(value)


def test_a_file_holds_several_documents():
    """Local sub-workflows are further documents of the file."""
    assert values("a: 1\n---\nb: 2\n...\n---\n- c\n") == [{"a": 1}, {"b": 2}, ["c"]]


def test_anchors_belong_to_their_document():
    """An alias into another document is a mistake that would only work by accident."""
    assert faults("a: &x 1\nb: *x\n---\nc: *x\n") == ["f.yaml:4:4: there is no anchor &x above this alias."]


def test_the_merge_key_adds_what_is_not_said():
    """Defaults by anchor are how people avoid repeating themselves in YAML."""
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nmade: {<<: [*one, *two], c: 3, d: 4}\n"
    assert values(text)[0]["made"] == {"a": 1, "b": 1, "c": 3, "d": 4}
    assert values("q: {'<<': 1}") == [{"q": {"<<": 1}}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key 'a' stands in line 1 already; keep one of the two"),
        ("a:\n\t- b\n", "f.yaml:2:1: a tab stands where YAML takes only spaces; indent with spaces"),
        ("- a\n- 'b\n", "f.yaml:3:1: a quote is opened (begun in line 2) and never closed; close it"),
        ("a: [1, 2\n", "f.yaml:2:1: a list or mapping in brackets (begun in line 1) is not closed"),
        ("- a: 1\n   b: 2\n", "f.yaml:2:5: no value can begin here"),
        ("- a: x\n b: y\n", "f.yaml:2:2: this does not continue the list (begun in line 1): check the indentation"),
        ("a: `date`\n", "f.yaml:1:4: a value cannot begin with '`'; put it in quotes"),
        ("a: b: c\n", "f.yaml:1:5: no value can begin here, and ':' with a space behind it begins one; quote the text"),
        ("a: *b\n", "f.yaml:1:4: there is no anchor &b above this alias."),
        ("abc: &abc 1\na: *abd\n", "f.yaml:2:4: there is no anchor &abd above this alias. Did you mean 'abc'?"),
        ("a: &a {b: *a}\n", "f.yaml:1:11: *a stands inside of what it means; a value cannot contain itself"),
        ("a: !!python/name:os.system x\n", "f.yaml:1:4: the tag '!!python/name:os.system' means nothing here"),
        ("a: !!int x\n", "f.yaml:1:4: 'x' is not what its tag !!int says"),
        ("a: !!set {b}\n", "f.yaml:1:4: the tag '!!set' means nothing here"),
        ("a: {<<: 5}\n", "f.yaml:1:5: << takes a mapping, or a list of mappings, not 5"),
        ("{[a]: b}\n", "f.yaml:1:2: a key is text, not a list"),
        ("a: \x07\n", "f.yaml:1:4: the character U+0007 may not stand in YAML; remove it"),
        ("ok\na: \udc80\n", "f.yaml:2:4: the character U+DC80 is half of a pair"),
        ("[" * 5000, f"f.yaml:1:{DEEPEST + 1}: values are nested more than {DEEPEST} deep"),
        ("- " * 5000 + "a", f"f.yaml:1:{2 * DEEPEST + 1}: values are nested more than {DEEPEST} deep"),
        (BOMB, "the aliases of this file stand for more than 100,000 values; repeat less"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text, fault):
    """Whoever wrote the line finds it, and reads what to do; `while scanning a simple key` helps nobody."""
    (said,) = faults(text)
    assert fault in said


def test_aliases_do_not_deepen_without_end():
    """A chain of aliases nests as brackets do, and everything behind this room walks trees by recursion."""
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))
    assert "with this alias values are nested more than" in faults(text)[0]


def test_keys_that_stand_twice_are_all_found():
    """All mistakes at once: the second one is not hidden by the first."""
    found = faults("a: 1\nb: {c: 1, c: 2}\na: 3\na: 4\n")
    assert [line.split(": ")[0] for line in found] == ["f.yaml:2:11", "f.yaml:3:1", "f.yaml:4:1"]


def test_without_the_parser_the_remedy_is_said(monkeypatch):
    """The parser is an extra; who lacks it must read which one, not a traceback."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert faults("a: 1") == ["f.yaml: reading YAML needs PyYAML; install it with: pip install 'dagrid[workflow]'"]


def test_without_the_compiled_parser_the_same_is_read(monkeypatch):
    """PyYAML is installed without its C part on some machines, and files must mean the same there."""
    import yaml

    text = "a: &x [1, yes, 'q']\nb: {<<: {c: ~}, d: *x}\n---\ne: |\n  text\n"
    with_c = values(text)
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert values(text) == with_c == [{"a": [1, "yes", "q"], "b": {"c": None, "d": [1, "yes", "q"]}}, {"e": "text\n"}]
    assert "a tab stands where" in faults("a:\n\t- b\n")[0]
    assert "U+0007" in faults("a: \x07\n")[0]
