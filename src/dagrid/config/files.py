"""Files of settings, in YAML, TOML or JSON: plain values, and where each of them stands. It knows no setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dagrid.errors import InvalidSettingError

Way = tuple[str, ...]
DEEPEST = 50


class Source:
    """A file that was read.

    Attributes:
        name: what the file is called.
        data: a mapping, with mappings, lists and plain values in it.
    """

    def __init__(self, name: str, data: Mapping[str, Any], places: Mapping[Way, tuple[int, int]]) -> None:
        self.name = name
        self.data = data
        self._places = places

    def where(self, *path: str) -> str:
        """Return where a value stands, for a message: by line and column, where the file's kind tells them."""
        while path and path not in self._places:
            path = path[:-1]
        place = self._places.get(path)
        return self.name if place is None or not path else f"{self.name}:{place[0]}:{place[1]}"

    def refuse(self, message: str, *path: str) -> InvalidSettingError:
        """Return the error for a value that cannot be."""
        return InvalidSettingError(f"{self.where(*path)}: {message}")


def read(path: Path, *, texts: bool = False) -> Source:
    """Read a file of settings; an empty one says nothing.

    Args:
        path: the file.
        texts: numbers, true and false stay the text that was written, for who reads values out of texts. Of TOML, whose reader
            does not tell them, whole numbers and truths are what they mean.

    Raises:
        InvalidSettingError: it cannot be read, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidSettingError(f"{path}: the settings cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidSettingError(f"{path}: this is no UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    places: dict[Way, tuple[int, int]] = {}
    suffix = path.suffix.lower()
    try:
        data = (
            _toml(path, text, texts)
            if suffix == ".toml"
            else _json(path, text, texts)
            if suffix == ".json"
            else _yaml(path, text, texts, places)
        )
    except RecursionError:
        raise _too_deep(path) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InvalidSettingError(f"{path}: settings are a mapping of names, not {type(data).__name__}.")
    return Source(str(path), data, places)


def _toml(path: Path, text: str, texts: bool) -> Any:
    import tomllib

    try:
        return tomllib.loads(text, parse_float=str if texts else float)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettingError(f"{path}: this is no TOML: {error}.") from error


def _json(path: Path, text: str, texts: bool) -> Any:
    import json

    try:
        numbers: dict[str, Any] = {"parse_float": str, "parse_int": str} if texts else {}
        return json.loads(text, object_pairs_hook=partial(_once, path), **numbers) if text.strip() else None
    except json.JSONDecodeError as error:
        raise InvalidSettingError(f"{path}:{error.lineno}:{error.colno}: this is no JSON: {error.msg}.") from error


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of JSON, in which no name stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidSettingError(f"{path}: there are two values of {twice!r}. Keep one.")
    return found


def _yaml(path: Path, text: str, texts: bool, places: dict[Way, tuple[int, int]]) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InvalidSettingError(f"{path} needs PyYAML, which is not installed: pip install 'dagrid[cli]'") from error
    kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = kind(text)
    try:
        _check_depth(path, yaml.parse(text, kind))
        root = loader.get_single_node()
        return (
            None if root is None else _value(root, (), places, path, _text_of if texts else partial(_plain, loader), 0)
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise InvalidSettingError(
            f"{path}{where}: this is no YAML: {error.problem or error.context}. Check quotes, and the indentation, which is of "
            f"spaces alone."
        ) from error
    except InvalidSettingError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidSettingError(f"{path}: this is no YAML: {error}.") from error
    finally:
        loader.dispose()


def _check_depth(path: Path, events: Iterable[Any]) -> None:
    """Refuse what nests so deep that making nodes of it ends the process."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _too_deep(path)


def _too_deep(path: Path) -> InvalidSettingError:
    return InvalidSettingError(f"{path}: settings are not nested so deep.")


def _value(
    node: Any, at: Way, places: dict[Way, tuple[int, int]], path: Path, plain: Callable[[Any], Any], depth: int
) -> Any:
    import yaml

    if depth > DEEPEST:
        raise _too_deep(path)
    places[at] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            below = (*at, name)
            if name in found:
                place = f"{key.start_mark.line + 1}:{key.start_mark.column + 1}"
                raise InvalidSettingError(f"{path}:{place}: there are two values of {name!r}. Keep one.")
            found[name] = _value(value, below, places, path, plain, depth + 1)
            places[below] = (key.start_mark.line + 1, key.start_mark.column + 1)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(one, (*at, str(number)), places, path, plain, depth + 1) for number, one in enumerate(node.value)
        ]
    return plain(node)


def _text_of(node: Any) -> str | None:
    return None if node.tag.endswith(":null") else str(node.value)


def _plain(loader: Any, node: Any) -> Any:
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":  # yes, no, on and off are text, as in YAML 1.2
        return {"true": True, "false": False}.get(node.value.lower(), node.value)
    return loader.construct_object(node) if kind in ("int", "float") else node.value


__all__ = ["Source", "read"]
