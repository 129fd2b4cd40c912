"""What a function asks for, and which of the predecessors of its node its parameters name. Nothing is called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import msgspec

from dagrid.errors import UnboundParameterError, hint, nearest
from dagrid.graph.arguments import Arguments, Ref
from dagrid.graph.node import Node

Task = Callable[..., Any]
Source = TypeVar("Source")


class Parameters(msgspec.Struct, frozen=True):
    """What a function asks for: names that may be passed by position, in order, then those passed by name only.

    Args:
        rest: it takes what else there is by name (`**rest`).
        more: it takes more by position than it names: `*args`, or a builtin that does not say what it asks for.
    """

    positional: tuple[str, ...] = ()
    keyword: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    rest: bool = False
    by_position_only: frozenset[str] = frozenset()
    more: bool = False


NO_PARAMETERS = Parameters()
UNSAID = Parameters(more=True)


@lru_cache(64)
def without_first(asked: Parameters, count: int) -> Parameters:
    """Return what is left to ask for when the first parameters are bound, as a partial of a function does for each element."""
    left = asked.positional[count:]
    if not (left or asked.keyword or asked.rest):
        return NO_PARAMETERS
    bound = frozenset(asked.positional[:count])
    return Parameters(
        left, asked.keyword, asked.required - bound, asked.rest, asked.by_position_only - bound, asked.more
    )


def parameters_of(fn: Task) -> Parameters:
    """Return what a function asks for; of a builtin that does not say, that is nothing by name."""
    try:
        signature = inspect.signature(fn)
    except (ValueError, TypeError):
        return UNSAID
    positional: list[str] = []
    keyword: list[str] = []
    required: set[str] = set()
    only: set[str] = set()
    rest = more = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            more = True
        else:
            (keyword if parameter.kind is parameter.KEYWORD_ONLY else positional).append(parameter.name)
            if parameter.default is parameter.empty:
                required.add(parameter.name)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                only.add(parameter.name)
    if not (positional or keyword or rest or more):
        return NO_PARAMETERS
    return Parameters(tuple(positional), tuple(keyword), frozenset(required), rest, frozenset(only), more)


def outright(node: Node, asked: Parameters, leading: int = 0) -> Arguments:
    """Return what a node's function is called with, said outright: what its parameters find by name, if it was not said so.

    Args:
        node: has a function.
        asked: what that asks for.
        leading: how many arguments go before these by position.

    Raises:
        UnboundParameterError: a parameter names neither a predecessor nor a node that this one reads.
    """
    if node.arguments is not None:
        return node.arguments
    assert node.fn is not None
    inputs = node.inputs or {}
    by_name = {name: Ref(name) for name in (*node.depends_on, *inputs.values(), *node.reads)}
    by_name |= {parameter: Ref(name) for parameter, name in inputs.items()}
    left = without_first(asked, leading) if leading else asked
    args, kwargs = matched(node.id, node.fn, left, by_name, set(inputs))
    return Arguments(args, kwargs or None)


def matched(
    node: str, fn: Task, asked: Parameters, by_name: Mapping[str, Source], explicit: set[str]
) -> tuple[tuple[Source, ...], dict[str, Source]]:
    """Return the predecessors whose values a function takes, by position and by name.

    Args:
        node: its name, for what is said of it.
        fn: its task.
        asked: what that asks for.
        by_name: its predecessors, by the parameter that names them.
        explicit: the parameters that `inputs` names.

    Raises:
        UnboundParameterError: a parameter names no predecessor.
    """
    args: list[Source] = []
    kwargs: dict[str, Source] = {}
    gap = False
    for name in asked.positional:
        if name not in by_name:
            if name in asked.required:
                raise _unbound(node, fn, name, by_name)
            gap = True
        elif not gap:
            args.append(by_name[name])
        elif name in asked.by_position_only:
            raise _unbound(node, fn, asked.positional[len(args)], by_name)
        else:
            kwargs[name] = by_name[name]
    for name in asked.keyword:
        if name in by_name:
            kwargs[name] = by_name[name]
        elif name in asked.required:
            raise _unbound(node, fn, name, by_name)
    taken = {*asked.positional, *asked.keyword}
    if asked.rest:
        renamed = {by_name[name] for name in explicit}
        kwargs |= {
            name: source
            for name, source in by_name.items()
            if name not in taken and (name in explicit or source not in renamed)
        }
    elif explicit - taken:
        stranger = sorted(explicit - taken)[0]
        raise UnboundParameterError(
            f"inputs of node {node!r} name the parameter {stranger!r}, which its task {_called(fn)} does not have."
            f"{hint(nearest(stranger, taken)) if taken else _no_names(fn, stranger)}",
            node,
            stranger,
        )
    return tuple(args), kwargs


def _unbound(node: str, fn: Task, parameter: str, by_name: Mapping[str, object]) -> UnboundParameterError:
    known = ", ".join(map(repr, list(by_name)[:8])) or "none"
    return UnboundParameterError(
        f"The task {_called(fn)} of node {node!r} has a parameter {parameter!r}, which names no predecessor (there are: {known})."
        f"{hint(nearest(parameter, by_name))} Add an edge from it, bind it with inputs={{{parameter!r}: ...}}, "
        f"or give it a default.",
        node,
        parameter,
    )


def _no_names(fn: Task, parameter: str) -> str:
    wrapper = f"lambda {parameter}: {_called(fn)[:-1]}{parameter})"
    return f" It says no names of what it takes. Give the node a function that does, such as {wrapper}."


def _called(fn: Task) -> str:
    while isinstance(fn, partial) and not hasattr(fn, "__qualname__"):
        fn = fn.func
    return f"{getattr(fn, '__qualname__', None) or repr(fn)}()"
