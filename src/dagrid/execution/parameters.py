"""What a function asks for, and which of the predecessors of its node its parameters name. Nothing is called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from dagrid.errors import UnboundParameterError, hint, nearest

Task = Callable[..., Any]


class Parameters(msgspec.Struct, frozen=True):
    """What a function asks for: names that may be passed by position, in order, then those passed by name only."""

    positional: tuple[str, ...] = ()
    keyword: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    rest: bool = False
    by_position_only: frozenset[str] = frozenset()


NO_PARAMETERS = Parameters()


@lru_cache(64)
def without_first(asked: Parameters, count: int) -> Parameters:
    """Return what is left to ask for when the first parameters are bound, as a partial of a function does for each element."""
    left = asked.positional[count:]
    if not (left or asked.keyword or asked.rest):
        return NO_PARAMETERS
    bound = frozenset(asked.positional[:count])
    return Parameters(left, asked.keyword, asked.required - bound, asked.rest, asked.by_position_only - bound)


def parameters_of(fn: Task) -> Parameters:
    """Return what a function asks for; a builtin that does not say is taken to ask for nothing."""
    try:
        signature = inspect.signature(fn)
    except (ValueError, TypeError):
        return NO_PARAMETERS
    positional: list[str] = []
    keyword: list[str] = []
    required: set[str] = set()
    only: set[str] = set()
    rest = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            (keyword if parameter.kind is parameter.KEYWORD_ONLY else positional).append(parameter.name)
            if parameter.default is parameter.empty:
                required.add(parameter.name)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                only.add(parameter.name)
    if not positional and not keyword and not rest:
        return NO_PARAMETERS
    return Parameters(tuple(positional), tuple(keyword), frozenset(required), rest, frozenset(only))


def matched(
    node: str, fn: Task, asked: Parameters, by_name: Mapping[str, int], explicit: set[str]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Return the numbers of the predecessors whose values a function takes, by position and by name.

    Args:
        node: its name, for what is said of it.
        fn: its task.
        asked: what that asks for.
        by_name: the numbers of its predecessors, by the parameter that names them.
        explicit: the parameters that `inputs` names.

    Raises:
        UnboundParameterError: a parameter names no predecessor.
    """
    args: list[int] = []
    kwargs: dict[str, int] = {}
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
            name: number
            for name, number in by_name.items()
            if name not in taken and (name in explicit or number not in renamed)
        }
    elif explicit - taken:
        stranger = sorted(explicit - taken)[0]
        raise UnboundParameterError(
            f"inputs of node {node!r} name the parameter {stranger!r}, which its task {_called(fn)} does not have."
            f"{hint(nearest(stranger, taken))}",
            node,
            stranger,
        )
    return tuple(args), kwargs


def _unbound(node: str, fn: Task, parameter: str, by_name: Mapping[str, int]) -> UnboundParameterError:
    known = ", ".join(map(repr, list(by_name)[:8])) or "none"
    return UnboundParameterError(
        f"The task {_called(fn)} of node {node!r} has a parameter {parameter!r}, which names no predecessor (there are: {known})."
        f"{hint(nearest(parameter, by_name))} Add an edge from it, bind it with inputs={{{parameter!r}: ...}}, "
        f"or give it a default.",
        node,
        parameter,
    )


def _called(fn: Task) -> str:
    return f"{getattr(fn, '__qualname__', None) or repr(fn)}()"
