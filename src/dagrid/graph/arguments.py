"""What a node's function is called with, where that is said outright: constants, and places for values of other nodes.

Plain data. This room knows nodes by name only, and neither who writes arguments nor who calls with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from copy import copy
from functools import lru_cache, partial
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple

import msgspec


class Ref(NamedTuple):
    """The place of a node's value among arguments, or of what is found in that value along a path of keys."""

    node: str
    path: tuple[Any, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """A list, tuple, dict or slice, or one of a subclass, that holds a `Ref` somewhere within.

    Args:
        kind: its type.
        items: what it holds; of a dict, the values.
        keys: those of a dict.
        empty: for a subclass of list or dict, one of it with nothing in it, but with all else that it has.
    """

    kind: type
    items: tuple[Any, ...]
    keys: tuple[Any, ...] = ()
    empty: Any = None

    @classmethod
    def of(cls, container: Any, items: tuple[Any, ...]) -> Group:
        """Return the group that stands for a container with other items in it.

        Raises:
            Exception: none can be made anew, for its class does not let that be done.
        """
        kind = type(container)
        keys = tuple(container) if isinstance(container, dict) else ()
        if kind in _GROUPED:
            return cls(kind, items, keys)
        if isinstance(container, tuple):
            made = cls(kind, items)
            if getattr(container, "__dict__", None):
                raise TypeError("it has attributes besides its items")
        else:
            empty = copy(container)
            empty.clear()
            made = cls(kind, items, keys, empty)
        made.filled(items)
        return made

    def filled(self, items: Iterable[Any]) -> Any:
        """Return a container of this kind with these items in it."""
        kind = self.kind
        if issubclass(kind, tuple):
            return tuple.__new__(kind, items)
        if kind is slice:
            return slice(*items)
        made: Any = kind() if self.empty is None else copy(self.empty)
        if issubclass(kind, dict):
            for key, item in zip(self.keys, items, strict=True):
                made[key] = item
        else:
            made.extend(items)
        return made


_GROUPED: tuple[type, ...] = (list, tuple, dict, slice)
_HOLDING: tuple[type, ...] = (list, tuple, set, frozenset, deque, type({}.keys()), type({}.values()), type({}.items()))


def is_grouped(kind: type) -> bool:
    """Return whether containers of a type may become a `Group`."""
    return issubclass(kind, _GROUPED)


@lru_cache(1_000)
def looking_into(kind: type) -> Callable[[Any], Collection[Any]] | None:
    """Return what lists the values that something of a type holds, keys aside; None where nobody looks for any."""
    if issubclass(kind, (dict, MappingProxyType)):
        return lambda one: one.values()
    if issubclass(kind, _HOLDING):
        return lambda one: one
    if kind is slice:
        return lambda one: (one.start, one.stop, one.step)
    if kind is FunctionType:
        return _bound_in
    if issubclass(kind, partial):
        return lambda one: (one.func, *one.args, *one.keywords.values())
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__struct_fields__", None)
    if fields:
        return lambda one: [getattr(one, name, None) for name in fields]
    return None


def _bound_in(fn: FunctionType) -> list[Any]:
    """Return the values that a function has beside its code: its defaults, and what it closes over as far as that is bound."""
    found = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    for cell in fn.__closure__ or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found


class Arguments(msgspec.Struct):
    """The arguments of one call. Whatever is neither a `Ref` nor a `Group` is a constant. Read-only by convention.

    Args:
        args: those passed by position.
        kwargs: those passed by name.
        sources: the nodes whose values are in them, each once; found by looking when they are not given.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    sources: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.sources is None:
            self.sources = tuple(dict.fromkeys(_nodes_in((*self.args, *(self.kwargs or {}).values()))))

    def renamed(self, name: Callable[[str], str]) -> Arguments:
        """Return the same with the values of nodes that have other names."""
        kwargs = None if not self.kwargs else {key: renamed(one, name) for key, one in self.kwargs.items()}
        return Arguments(tuple([renamed(one, name) for one in self.args]), kwargs, tuple(map(name, self.sources or ())))


def _nodes_in(items: Iterable[Any]) -> Iterable[str]:
    for one in items:
        if type(one) is Ref:
            yield one.node
        elif type(one) is Group:
            yield from _nodes_in(one.items)


def renamed(template: Any, name: Callable[[str], str]) -> Any:
    """Return a template in which the places are those of nodes with other names."""
    kind = type(template)
    if kind is Ref:
        return Ref(name(template.node), template.path)
    if kind is Group:
        return msgspec.structs.replace(template, items=tuple([renamed(one, name) for one in template.items]))
    return template


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a template with the values of nodes, by name, in their places; containers are made anew."""
    kind = type(template)
    if kind is Ref:
        value = values[template.node]
        for key in template.path:
            value = value[key]
        return value
    if kind is not Group:
        return template
    return template.filled([fill(one, values) for one in template.items])
