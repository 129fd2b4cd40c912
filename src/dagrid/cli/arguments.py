"""Texts of the command line as the arguments of a Python function, of the types that its annotations say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from dagrid.errors import InvalidSettingError, hint, nearest

_NAMED = re.compile(r"([A-Za-z_]\w*)=")
_UNSAID = (inspect.Parameter.empty, Any, object)
_NONE = ("none", "null")
_EXAMPLES = (({list, tuple, set, frozenset, Sequence}, "[1, 2]"), ({dict, Mapping}, '{"a": 1}'))


def arguments(function: Callable[..., Any], params: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return what a function is called with, by position and by name.

    Args:
        function: whose annotations say what its values are; where one says nothing, a text that is JSON is that.
        params: as NAME=value or by position.

    Raises:
        InvalidSettingError: it has no such parameter, a value is not what its parameter must be, or one is missing.
    """
    signature = _signature(function)
    called = getattr(function, "__name__", str(function))
    asked = signature.parameters
    by_position = [one for one in asked.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    more = next((one for one in asked.values() if one.kind is one.VAR_POSITIONAL), None)
    others = next((one for one in asked.values() if one.kind is one.VAR_KEYWORD), None)
    by_name = {one.name: one for one in asked.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in params:
        found = _NAMED.match(text)
        if found is None:
            known = by_position[len(args)] if len(args) < len(by_position) else more
            args.append(_value(text, known.annotation, known.name) if known is not None else text)
            continue
        name = found[1]
        known = by_name.get(name, others)
        if known is None:
            raise _unknown(called, signature, text, name, list(by_name))
        if name in kwargs:
            raise InvalidSettingError(f"{name} is given twice. Keep one of the two.")
        kwargs[name] = _value(text[found.end() :], known.annotation, name)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidSettingError(f"{called}{signature}: {error}.") from error
    return args, kwargs


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function; an annotation that means nothing when it runs, as one for checkers, says nothing."""
    with suppress(Exception):
        return inspect.signature(function, eval_str=True)
    signature = inspect.signature(function)
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return signature.replace(
        parameters=[one.replace(annotation=_meant(one.annotation, names)) for one in signature.parameters.values()]
    )


def _meant(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    with suppress(Exception):
        return eval(annotation, names)  # as `inspect` and `typing` do
    return inspect.Parameter.empty


def _unknown(
    called: str, signature: inspect.Signature, text: str, name: str, known: Sequence[str]
) -> InvalidSettingError:
    remedy = hint(nearest(name, known))
    if known and not remedy:
        remedy = f" A text with = in it is given by name, such as {known[0]}={text}."
    return InvalidSettingError(f"{called}{signature} has no parameter {name!r}.{remedy}")


def _value(text: str, kind: Any, name: str) -> Any:
    """Return what a text means to a parameter.

    Raises:
        InvalidSettingError: it does not mean what the parameter must be.
    """
    if kind in _UNSAID:
        return _json(text)
    try:
        return _read(text, kind)
    except (ValueError, KeyError):
        shown = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
        example = next((one for kinds, one in _EXAMPLES if kinds & _origins(kind)), None)
        remedy = f" Write it as JSON, such as {name}='{example}'." if example else ""
        raise InvalidSettingError(f"{name} is {shown}, not {text!r}.{remedy}") from None


def _read(text: str, kind: Any) -> Any:
    """Return a text as what an annotation says.

    Raises:
        ValueError, KeyError: it is not that.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        return _read(text, get_args(kind)[0])
    if origin in (Union, UnionType):
        return _one_of(text, get_args(kind))
    if kind in (None, type(None)):
        return dict.fromkeys(_NONE)[text.lower()]
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if isinstance(kind, type) and issubclass(kind, (int, float, Path)) and kind.__module__ in ("builtins", "pathlib"):
        return kind(text)
    return _converted(text, kind)


def _one_of(text: str, kinds: Sequence[Any]) -> Any:
    """Return a text as the first of several types that it is; any text is a text, so that counts last."""
    for kind in sorted(kinds, key=lambda one: one is str or one is Path):
        with suppress(ValueError, KeyError):
            return _read(text, kind)
    raise ValueError(text)


def _converted(text: str, kind: Any) -> Any:
    """Return a text as a type that JSON can say: a list, a mapping, a record, a time, an enumeration."""
    import msgspec

    value = _json(text)
    try:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(text, kind, strict=False, dec_hook=_made)
        return msgspec.convert(value, kind, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    except TypeError:  # a type that only its author knows how to make
        return value


def _made(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Path) and isinstance(value, str):
        return kind(value)
    raise TypeError(kind)


def _json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def _origins(kind: Any) -> set[Any]:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return {get_origin(one) or one for one in kinds}
