"""Fingerprints: equal for equal values in every process and under every hash seed, other ones for values that differ."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from datetime import date
from fractions import Fraction
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import cloudpickle
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid.execution.hashing import CannotHashError, Hasher, fingerprint, innermost
from tests.execution.cached_tasks import Point, Scale, square

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4), st.binary(max_size=4)
)
hashables = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=3
)
values = st.recursive(
    scalars | hashables.map(lambda one: {one}) | st.builds(Point, st.integers(), st.sets(st.text(max_size=2))),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(hashables, inner, max_size=3),
    max_leaves=8,
)


def told(value: Any) -> Any:
    """Return what tells values apart that Python takes for equal: types, signs of zero, the order of a dict."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(told(key), told(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted((told(each) for each in value), key=repr)
    if isinstance(value, (list, tuple)):
        return kind, [told(each) for each in value]
    if isinstance(value, Point):
        return kind, told(value.x), told(value.tags)
    return kind, repr(value)


@given(values)
def test_a_copy_has_the_same_fingerprint(value):
    """What went through a file or a pipe shares other parts with itself than before, and is the same value."""
    assert fingerprint(copy.deepcopy(value)) == fingerprint(value)
    assert fingerprint(pickle.loads(pickle.dumps(value))) == fingerprint(value)


@given(values, values)
def test_values_that_differ_have_other_fingerprints(first, second):
    """A wrong hit is a wrong result."""
    assert (fingerprint(first) == fingerprint(second)) == (told(first) == told(second))


ODD = [
    {"b": {"x", "y", "z"}, "a": frozenset("tuv")},
    Point(3, {"near", "far"}),
    OrderedDict(a=1),
    date(2020, 1, 2),
    Fraction(1, 3),
    PurePosixPath("/data"),
    partial(square, 3),
    square,
    Scale(2),
    Point(3).far,
    len,
    Point,
    range(5),
]

PROGRAM = """
import pickle, sys
from dagrid.execution.hashing import fingerprint
print([fingerprint(each).hex() for each in pickle.load(sys.stdin.buffer)])
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_with_another_hash_seed_finds_the_same(seed):
    """Otherwise a cache would be worth nothing once the program has ended."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=pickle.dumps(ODD),
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout.replace(b"'", b'"')) == [fingerprint(each).hex() for each in ODD]
    assert len({fingerprint(each) for each in ODD}) == len(ODD)


def test_arrays_are_told_by_type_shape_and_content():
    """Arrays are the values for which a cache is most often wanted; a memory order is no difference in value."""
    base = numpy.arange(6.0)
    different = [
        base,
        base.reshape(2, 3),
        base.astype("float32"),
        base + 1,
        base.view("int64"),
        base[:0],
        base.astype(object),
    ]
    assert len({fingerprint(each) for each in different}) == len(different)
    assert fingerprint(base.reshape(2, 3).copy(order="F")) == fingerprint(base.reshape(2, 3))
    assert fingerprint(numpy.array(base[::2])) == fingerprint(base[::2])


def test_a_circle_has_a_fingerprint():
    """Objects that know their parents are common."""

    def circle(inner: int) -> list[Any]:
        made: list[Any] = [inner]
        made.append(made)
        return made

    assert fingerprint(circle(1)) == fingerprint(circle(1)) != fingerprint(circle(2))


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("value", "why"),
    [(threading.Lock(), "lock"), ([{1: iter([])}, (each for each in "ab")], "generator"), (nested(100_000), "deeply")],
)
def test_what_cannot_be_hashed_is_named(value, why):
    """Who reads that a node was computed wants to know what to change."""
    with pytest.raises(CannotHashError, match=why):
        fingerprint(value)


def test_a_function_that_travelled_by_value_is_the_same_code():
    """Worker processes get the functions of a script in this way, and must find what its threads have stored."""
    factor = 3

    def scaled(value: int, *, by: tuple[int, ...] = (1, 2)) -> int:
        def inner() -> int:
            return factor * square(value)

        return inner() + len(by)

    assert Hasher().task(cloudpickle.loads(cloudpickle.dumps(scaled))) == Hasher().task(scaled)


def test_code_is_looked_for_behind_what_wraps_it():
    """Partials, methods and callable objects are tasks like others; what is written in C has no code to be read."""
    assert innermost(partial(partial(square, 1))) is square
    assert innermost(Point(1).far) is Point.far
    assert innermost(Scale(1)) is Scale.__call__
    written_in_c: list[Any] = [len, partial(len, "a"), "a".join, [].append, dict, str.join]
    for fn in written_in_c:
        assert innermost(fn) is None
