"""What a node's function is called with, where that is said outright: constants, and places for values of other nodes.

Plain data. This room knows nodes by name only, and neither who writes arguments nor who calls with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec


class Ref(NamedTuple):
    """The place of a node's value among arguments, or of what is found in that value along a path of keys."""

    node: str
    path: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A list, tuple or dict that holds a `Ref` somewhere within; `keys` are those of a dict."""

    kind: type
    items: tuple[Any, ...]
    keys: tuple[Any, ...] = ()


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
        return replace(template, items=tuple([renamed(one, name) for one in template.items]))
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
    items = [fill(one, values) for one in template.items]
    if template.kind is dict:
        return dict(zip(template.keys, items, strict=True))
    return tuple(items) if template.kind is tuple else items
