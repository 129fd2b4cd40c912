"""Fingerprints of values and of code: equal ones in every process and under every hash seed, other ones for what differs.

It knows neither nodes nor caches. Pickles would not do: their bytes depend on which of two equal objects is which, on the order
of sets and on the process that made a class. A value is taken apart as a pickler does it, and what it is made of is hashed.
"""

from __future__ import annotations

import copyreg
import dis
import marshal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any
from weakref import WeakKeyDictionary

# Marshalled in the second version of its format, which knows no references: the same bytes for equal values of these types.
SCALARS: frozenset[type] = frozenset([NoneType, bool, int, float, complex, str, bytes, EllipsisType])
_FORMAT = 2
_FUNCTIONS_IN_C = (BuiltinFunctionType, type(str.join), type("".__add__), type(str.__add__))


_Look = Callable[["Hasher", Any], bytes]


class CannotHashError(Exception):
    """There is something of which no fingerprint can be made; the text says what."""


def fingerprint(value: Any) -> bytes:
    """Return the fingerprint of a value: 32 bytes.

    Types count (1 is not 1.0), and so does the order of a dict. Functions among values are told apart by their code.

    Raises:
        CannotHashError: the value, or something in it, cannot be taken apart.
    """
    return Hasher().of(value)


def combined(tag: str, parts: Iterable[bytes]) -> bytes:
    """Return one fingerprint for several, in their order."""
    digest = sha256(tag.encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def innermost(fn: Any) -> FunctionType | None:
    """Return the function in whose code a task begins, behind what wraps it; None where there is no code to be read."""
    *_, last = _layers(fn)
    return last if isinstance(last, FunctionType) else None


def _layers(fn: Any) -> Iterator[Any]:
    """Yield a task and what it wraps, one behind the other, down to code; of an object and of a method also the class."""
    while fn is not None:
        yield fn
        if isinstance(fn, FunctionType):
            return
        if isinstance(fn, partial):
            fn = _called(fn)
        elif isinstance(fn, MethodType):
            yield _kind(fn.__self__)
            fn = fn.__func__
        elif isinstance(fn, type):
            fn = _first(fn, "__init__") or _first(fn, "__new__")
        else:
            yield type(fn)
            if hasattr(fn, "__wrapped__"):
                fn = fn.__wrapped__
            else:
                fn = None if isinstance(fn, _FUNCTIONS_IN_C) else _first(type(fn), "__call__")


def _called(fn: partial[Any]) -> Any:
    """Return what a partial calls; one of ours wraps a task, which is among its arguments."""
    inner = (one for one in fn.args if callable(one)) if _package(fn.func) == "dagrid" else iter(())
    return next(inner, fn.func)


def _kind(owner: Any) -> type:
    return owner if isinstance(owner, type) else type(owner)


def _first(kind: type, name: str) -> FunctionType | None:
    found = getattr(kind, name, None)
    return found if isinstance(found, FunctionType) else None


class Hasher:
    """Makes fingerprints that belong together, so that what is shared between values is looked at once."""

    __slots__ = ("_by_name", "_known", "_open", "_package")

    def __init__(self, task: Any = None, by_name: bool = False) -> None:
        """Begin.

        Args:
            task: whose key they are for: in values too the classes of its package count by their code, others by their name.
            by_name: the name of the task stands for its code, unless it is a lambda; what is bound in it counts all the same.
        """
        self._package = _home(task)
        self._by_name = {id(one): one for one in _layers(task)} if by_name else {}
        self._known: dict[tuple[int, _Look], tuple[object, bytes]] = {}
        self._open: dict[tuple[int, _Look], int] = {}

    def of(self, value: Any) -> bytes:
        """Return the fingerprint of a value; see `fingerprint`."""
        if type(value) in SCALARS:
            return _scalars("scalar", value)
        return self._once(value, Hasher._compound)

    def task(self, fn: Any) -> bytes:
        """Return the fingerprint of what a node calls: its code, and the values that are bound in it."""
        return self._once(fn, Hasher._task)

    def _once(self, value: Any, look: _Look) -> bytes:
        """Look at something unless that has been done or is going on: in a circle, what counts is how far back it closes.

        A class and a function are more when they are looked at as code than as values.
        """
        place = id(value), look
        known = self._known.get(place)
        if known is not None:
            return known[1]
        if place in self._open:
            return combined("circle", [_number(len(self._open) - self._open[place])])
        self._open[place] = len(self._open)
        try:
            found = look(self, value)
        except RecursionError:
            raise CannotHashError(f"{_named(value)} is nested too deeply") from None
        finally:
            del self._open[place]
        self._known[place] = value, found  # with the value, so that its place is not given to another one
        return found

    # --- values -----------------------------------------------------------------------------------------------------------

    def _compound(self, value: Any) -> bytes:
        kind = type(value)
        if kind is list or kind is tuple:
            return self._sequence(kind.__name__, value)
        if kind is dict:
            if SCALARS.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values())):
                return _scalars("dict", value)
            return combined("dict of", [self.of(one) for pair in value.items() for one in pair])
        if kind is set or kind is frozenset:
            return combined(kind.__name__, sorted(map(self.of, value)))
        if isinstance(value, (FunctionType, MethodType, partial)):
            return self._task(value)
        if isinstance(value, type):
            return self._class(value) if _package(value) == self._package else _name("class", value)
        if kind is ModuleType:
            return combined("module", [value.__name__.encode()])
        if kind is bytearray:
            return combined("bytearray", [value])
        if kind is MappingProxyType:
            return combined("mapping", [self.of(dict(value))])
        numpy = sys.modules.get("numpy")
        if numpy is not None and kind is numpy.ndarray and not value.dtype.hasobject:
            data = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
            return combined("array", [self.of(value.dtype), _scalars("shape", value.shape), data])
        return self._object(value)

    def _sequence(self, kind: str, items: Any) -> bytes:
        if SCALARS.issuperset(map(type, items)):
            return _scalars(kind, items)
        return combined(f"{kind} of", map(self.of, items))

    def _object(self, value: Any) -> bytes:
        """Take an object apart as a pickler does."""
        kind = type(value)
        reduce = copyreg.dispatch_table.get(kind)
        try:
            reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except RecursionError:
            raise
        except Exception as error:
            raise CannotHashError(f"{_named(value)} cannot be hashed: {error}") from error
        if isinstance(reduced, str):
            return combined("global", [f"{getattr(value, '__module__', '')}.{reduced}".encode()])
        make, args, *rest = reduced
        parts = [self._maker(make), self.of(tuple(args))]
        for number, part in enumerate(rest[:3]):
            if part is not None:
                parts += [_number(number), self.of(list(part) if number else part)]
        return combined("object", parts)

    def _maker(self, make: Any) -> bytes:
        found = self._code(make, self._package)
        if found is not None:
            return found
        name = getattr(make, "__qualname__", "<")
        if "<" in name or isinstance(make, MethodType):
            return self.of(make)
        return _name("maker", make)

    # --- code -------------------------------------------------------------------------------------------------------------

    def _task(self, fn: Any) -> bytes:
        if isinstance(fn, FunctionType):
            return self._function(fn)
        if isinstance(fn, partial):
            return self._partial(fn)
        if isinstance(fn, MethodType):
            return combined("method", [self.task(fn.__func__), self.of(fn.__self__), self._class(_kind(fn.__self__))])
        if isinstance(fn, type):
            return self._class(fn)
        if isinstance(fn, _FUNCTIONS_IN_C):
            return self._object(fn)
        if not hasattr(fn, "__wrapped__"):
            return combined("callable", [self._compound(fn), self._class(type(fn))])
        inner = self.task(fn.__wrapped__)
        if _first(type(fn), "__call__") is None:  # written in C, and has nothing of its own that counts
            return inner
        return combined("wrapper", [inner, self._compound(fn), self.of(type(fn))])

    def _partial(self, fn: partial[Any]) -> bytes:
        return combined("partial", [self.task(fn.func), self.of(fn.args), self.of(fn.keywords)])

    def _function(self, fn: FunctionType) -> bytes:
        by_name = id(fn) in self._by_name and fn.__name__ != "<lambda>"
        shape = _shape(fn.__code__)
        parts = [_function_name(fn) if by_name else shape.digest, *self._bound(fn)]
        if not by_name:
            package = _package(fn)
            for name in shape.globals:
                parts.extend(self._global(fn.__globals__.get(name, _NOTHING), name, package, shape.names))
        return combined("function", parts)

    def _bound(self, fn: FunctionType) -> Iterator[bytes]:
        """Yield what counts of the values that a function has beside its code."""
        yield self.of(fn.__defaults__)
        yield self.of(fn.__kwdefaults__)
        package = _package(fn)
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            yield self._enclosed(name, cell, package)

    def _enclosed(self, name: str, cell: Any, package: str) -> bytes:
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            return b"-"
        try:
            found = self._code(value, package)
            return self.of(value) if found is None else found
        except CannotHashError as error:
            raise CannotHashError(f"{name!r}, which the function closes over, cannot be hashed: {error}") from error

    def _global(self, value: Any, name: str, package: str, names: tuple[str, ...]) -> Iterator[bytes]:
        """Yield what counts of a global that a function reads: code of its own package, and constants."""
        found = self._constant(value)
        if found is None:
            found = self._code(value, package)
        if found is not None:
            yield from (name.encode(), found)
        elif type(value) is ModuleType and value.__name__.partition(".")[0] == package:
            for attribute in names:
                found = self._code(getattr(value, attribute, None), package)
                if found is not None:
                    yield from (f"{name}.{attribute}".encode(), found)

    def _constant(self, value: Any) -> bytes | None:
        kind = type(value)
        if kind in SCALARS or (kind in (tuple, frozenset) and SCALARS.issuperset(map(type, value))):
            return self.of(value)
        return None

    def _code(self, value: Any, package: str) -> bytes | None:
        """Return the fingerprint of code of a package, or None for whatever is something else."""
        if not callable(value):
            return None
        if isinstance(value, FunctionType):
            return self.task(value) if _package(value) == package else None
        if isinstance(value, type):
            return self._class(value) if _package(value) == package else None
        wrapped = value.__dict__.get("__wrapped__") if hasattr(value, "__dict__") else None
        found = self._code(wrapped, package)
        if found is None or _package(type(value)) != package:
            return found
        return combined("wrapper", [self._class(type(value)), found])

    def _class(self, kind: type) -> bytes:
        return _name("class", kind) if id(kind) in self._by_name else self._once(kind, Hasher._members)

    def _members(self, kind: type) -> bytes:
        """Look at the methods and constants of a class and of those of its bases that its package has."""
        package = _package(kind)
        parts = [_name("class", kind)]
        for base in kind.__mro__:
            if base is not object and _package(base) != package:
                parts.append(_name("class", base))
            elif base is not object:
                for name in sorted(vars(base)):
                    parts.extend(self._member(name, vars(base)[name], package))
        return combined("members", parts)

    def _member(self, name: str, member: Any, package: str) -> Iterator[bytes]:
        if isinstance(member, property):
            inner = [member.fget, member.fset, member.fdel]
        else:
            inner = [getattr(member, each, None) for each in ("__func__", "func", "__wrapped__")]
        for fn in [member] if isinstance(member, FunctionType) else inner:
            if not isinstance(fn, FunctionType) or _is_written(name, fn):
                continue
            yield name.encode()
            if _package(fn) == package:
                yield self.task(fn)
            else:  # such as those that every enum is given
                yield combined("borrowed", [_name("function", fn), *self._bound(fn)])
        constant = None if name.startswith("__") else self._constant(member)
        if constant is not None:
            yield from (name.encode(), constant)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What does not change of a function: the fingerprint of its code, the globals that it only reads, all names in it."""

    digest: bytes
    globals: tuple[str, ...]
    names: tuple[str, ...]


_shapes: WeakKeyDictionary[CodeType, _Shape] = WeakKeyDictionary()


def _shape(code: CodeType) -> _Shape:
    found = _shapes.get(code)
    if found is None:
        read: set[str] = set()
        written: set[str] = set()
        names: set[str] = set()
        digest = _code_digest(code, read, written, names)
        globals_read = sorted(name for name in read - written if not name.startswith("__"))
        found = _shapes[code] = _Shape(digest, tuple(globals_read), tuple(sorted(names)))
    return found


def _code_digest(code: CodeType, read: set[str], written: set[str], names: set[str]) -> bytes:
    names.update(code.co_names)
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written.add(step.argval)
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    named = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    constants = [
        _code_digest(one, read, written, names) if isinstance(one, CodeType) else fingerprint(one)
        for one in code.co_consts
    ]
    return combined(
        "code",
        [
            _scalars("shape", shape),
            *[_scalars("names", each) for each in named],
            _scalars("steps", code.co_code),
            _scalars("exceptions", code.co_exceptiontable),
            *constants,
        ],
    )


def _function_name(fn: FunctionType) -> bytes:
    """Return what tells a function from others without its code; a script goes by its file, for all are `__main__`."""
    where = fn.__module__
    if where == "__main__":
        where = fn.__code__.co_filename.replace("\\", "/").rpartition("/")[2]
    return combined("name", [f"{where}:{fn.__qualname__}".encode()])


_NOTHING = object()


def _is_written(name: str, fn: FunctionType) -> bool:
    """Return whether a method looks like those that `@dataclass` writes: they follow from the fields, which values have."""
    return name.startswith("__") and getattr(fn, "__wrapped__", fn).__code__.co_filename == "<string>"


def _home(task: Any) -> str:
    """Return the package that a task is from."""
    while isinstance(task, partial):
        task = _called(task)
    return _package(task.__self__ if isinstance(task, MethodType) else task)


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None)).partition(".")[0]


def _name(tag: str, thing: Any) -> bytes:
    return combined(tag, [f"{thing.__module__}.{thing.__qualname__}".encode()])


def _scalars(tag: str, value: Any) -> bytes:
    try:
        return sha256(tag.encode() + marshal.dumps(value, _FORMAT)).digest()
    except ValueError as error:
        raise CannotHashError(f"{_named(value)} cannot be hashed: {error}") from error


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _named(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"
