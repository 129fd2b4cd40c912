"""A graph as text and back: JSON, records, Graphviz, Mermaid.

This room knows the settings of a node and how texts are quoted; it opens no file and runs nothing.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dagrid.errors import DagridError, GraphError, SerializationError, hint, nearest
from dagrid.graph.node import FIELDS, Node
from dagrid.graph.policy import Repeat, Retry
from dagrid.graph.structure import paused_gc

if TYPE_CHECKING:
    from dagrid.graph.dag import DAG

FORMAT_VERSION = 1
_TOP_LEVEL = ("dagrid", "name", "max_concurrency", "nodes")
_MAPPINGS = ("resources", "selector", "inputs", "metadata")
_PLAIN_TYPES = (str, int, float, bool, type(None))
_REPEAT_KEYS = ("limit", "interval", "backoff", "max_interval")
_RETRY_KEYS = ("max_retries", "delay", "backoff", "max_delay", "jitter", "on")


def to_records(dag: DAG) -> list[dict[str, Any]]:
    """Return one dict per node: id, depends_on if there are any, and every setting that differs from its default."""
    names = dag.structure.names
    records = []
    with paused_gc():
        for at, before in enumerate(dag.structure.predecessors):
            record: dict[str, Any] = {"id": names[at]}
            if before:
                record["depends_on"] = [names[one] for one in before]
            spec = dag.specs.get(at)
            if spec is not None:
                record |= _settings(spec)
            records.append(record)
    return records


def from_records(
    nodes: Iterable[Mapping[str, Any] | Node | str],
    edges: Iterable[tuple[str, str]] = (),
    *,
    name: str | None = None,
    max_concurrency: int | None = None,
) -> DAG:
    """Return the graph of records; see DAG.from_records."""
    from dagrid.graph.builder import DAGBuilder

    builder = DAGBuilder(name, max_concurrency)
    with paused_gc():
        for at, record in enumerate(nodes):
            if isinstance(record, str):
                builder.add_nodes((record,))
            else:
                builder.add(_node(record, f"record {at}"))
        return builder.add_edges(edges).build()


def to_json(dag: DAG, indent: int | None = None) -> str:
    """Return the graph as a JSON document; see DAG.to_json."""
    nodes: list[Any] = []
    for record in to_records(dag):
        record.pop("fn", None)
        record.pop("arguments", None)
        if len(record) == 1:
            nodes.append(record["id"])
            continue
        if "retries" in record:
            record["retries"] = _retry_record(record["retries"], record["id"])
        if "repeat" in record:
            record["repeat"] = msgspec.structs.asdict(record["repeat"])
        if "adds" in record:
            record["adds"] = sorted(record["adds"])
        for setting in ("payload", "metadata"):
            if setting in record:
                _check_plain(record[setting], record["id"], setting)
        nodes.append(record)
    document: dict[str, Any] = {"dagrid": FORMAT_VERSION}
    if dag.name is not None:
        document["name"] = dag.name
    if dag.max_concurrency is not None:
        document["max_concurrency"] = dag.max_concurrency
    document["nodes"] = nodes
    return json.dumps(document, indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> DAG:
    """Return the graph of a JSON document; see DAG.from_json."""
    try:
        with paused_gc():
            document = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise SerializationError("The document is nested too deeply to be a graph of ours.") from None
    except (ValueError, TypeError) as error:
        raise SerializationError(f"The document is not JSON: {error}.") from None
    if not isinstance(document, dict) or "dagrid" not in document:
        raise SerializationError(
            'The document is not a graph of ours: an object with "dagrid" and "nodes" is expected.'
        )
    version = document["dagrid"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise SerializationError(
            f'"dagrid" is {version!r}, and this release reads version {FORMAT_VERSION}. '
            "Read it with the release that wrote it."
        )
    for key in [one for one in document if one not in _TOP_LEVEL]:
        raise SerializationError(f"The document has {key!r}, which no graph has.{hint(nearest(key, _TOP_LEVEL))}")
    nodes = document.get("nodes")
    if not isinstance(nodes, list):
        raise SerializationError(f'"nodes" is a list, not {_short(nodes)}.')
    with paused_gc():
        records = [one if one and type(one) is str else _read_record(one, at) for at, one in enumerate(nodes)]
    try:
        return from_records(records, name=document.get("name"), max_concurrency=document.get("max_concurrency"))
    except GraphError:
        raise
    except DagridError as error:
        raise SerializationError(str(error)) from None


def to_dot(dag: DAG) -> str:
    """Return the graph in Graphviz's language; every name is quoted."""
    lines = [f"digraph {dot_text(dag.name or 'dag')} {{", "  rankdir=LR;"]
    quoted = [dot_text(name) for name in dag.structure.names]
    lines += [f"  {name};" for name in quoted]
    for at, before in enumerate(dag.structure.predecessors):
        lines += [f"  {quoted[one]} -> {quoted[at]};" for one in before]
    lines.append("}")
    return "\n".join(lines) + "\n"


def to_mermaid(dag: DAG) -> str:
    """Return the graph as a Mermaid flowchart: nodes are n0, n1, ... and the names are their labels."""
    lines = ["flowchart LR"]
    lines += [f'  n{at}["{mermaid_text(name)}"]' for at, name in enumerate(dag.structure.names)]
    for at, before in enumerate(dag.structure.predecessors):
        lines += [f"  n{one} --> n{at}" for one in before]
    return "\n".join(lines) + "\n"


def _settings(spec: Node) -> dict[str, Any]:
    settings = spec.settings()
    settings.pop("depends_on", None)
    return {key: dict(value) if key in _MAPPINGS else value for key, value in settings.items()}


def _node(record: object, where: str) -> Node:
    if isinstance(record, Node):
        return record
    if not isinstance(record, Mapping):
        raise SerializationError(f"{where} is a name or a mapping, not {_short(record)}.")
    if "id" not in record:
        raise SerializationError(f'{where} has no "id".')
    for key in record:
        if key not in FIELDS:
            suggestion = nearest(key, FIELDS) if isinstance(key, str) else None
            raise SerializationError(f"{where} ({record['id']!r}) has {key!r}, which no node has.{hint(suggestion)}")
    return Node(**record)


def _read_record(record: object, at: int) -> Node:
    where = f"nodes[{at}]"
    if record == "":
        raise SerializationError(f"{where} is a name that is empty.")
    if not isinstance(record, dict):
        raise SerializationError(f"{where} is a name or an object, not {_short(record)}.")
    for key in ("fn", "arguments"):
        if key in record:
            raise SerializationError(
                f'{where} has "{key}": a document has no functions. Give them when the graph is run.'
            )
    if isinstance(record.get("retries"), dict):
        record = record | {"retries": _read_retry(record["retries"], f"{where}.retries")}
    if isinstance(record.get("repeat"), dict):
        record = record | {"repeat": _read_repeat(record["repeat"], f"{where}.repeat")}
    try:
        return _node(record, where)
    except SerializationError:
        raise
    except GraphError as error:
        raise SerializationError(f"{where}: {error}") from None


def _retry_record(retry: Retry, node: str) -> dict[str, Any]:
    found = {key: value for key, value in msgspec.structs.asdict(retry).items() if key != "on"}
    if retry.on != (Exception,):
        found["on"] = [_exception_name(one, node) for one in retry.on]
    return found


def _exception_name(one: type[BaseException], node: str) -> str:
    name = f"{one.__module__}:{one.__qualname__}"
    if _find_exception(name) is not one:
        raise SerializationError(
            f"Node {node!r}: its retries are for {one!r}, which cannot be found again by its name. "
            "Define that class at the top of a module."
        )
    return name


def _find_exception(name: str) -> type[BaseException] | None:
    """Find an exception class by module:name. Nothing is imported: a document must not be able to run code."""
    module, _, path = name.partition(":")
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _read_retry(record: dict[str, Any], where: str) -> Retry:
    for key in record:
        if key not in _RETRY_KEYS:
            raise SerializationError(f"{where} has {key!r}, which no Retry has.{hint(nearest(key, _RETRY_KEYS))}")
    given = dict(record)
    if "on" in given:
        names = given["on"]
        if not isinstance(names, list):
            raise SerializationError(f'{where}.on is a list of "module:Class", not {_short(names)}.')
        given["on"] = tuple(_read_exception(one, f"{where}.on[{at}]") for at, one in enumerate(names))
    try:
        return Retry(**given)
    except GraphError as error:
        raise SerializationError(f"{where}: {error}") from None


def _read_repeat(record: dict[str, Any], where: str) -> Repeat:
    for key in record:
        if key not in _REPEAT_KEYS:
            raise SerializationError(f"{where} has {key!r}, which no Repeat has.{hint(nearest(key, _REPEAT_KEYS))}")
    try:
        return Repeat(**record)
    except GraphError as error:
        raise SerializationError(f"{where}: {error}") from None


def _read_exception(name: object, where: str) -> type[BaseException]:
    found = _find_exception(name) if isinstance(name, str) else None
    if found is None:
        raise SerializationError(
            f"{where}: no exception class {name!r} is loaded. Import its module before you read this."
        )
    return found


def _check_plain(value: object, node: str, setting: str) -> None:
    """Check that a value comes back from JSON as it is, except that tuples become lists."""
    stack = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        if depth > 200:
            raise SerializationError(f"Node {node!r}: its {setting} is nested more than 200 deep, or contains itself.")
        if isinstance(one, dict):
            for key in one:
                if not isinstance(key, str):
                    raise SerializationError(
                        f"Node {node!r}: its {setting} has the key {key!r}; JSON keys are strings."
                    )
            stack += [(each, depth + 1) for each in one.values()]
        elif isinstance(one, (list, tuple)):
            stack += [(each, depth + 1) for each in one]
        elif not isinstance(one, _PLAIN_TYPES) or one in (float("inf"), float("-inf")) or one != one:
            raise SerializationError(
                f"Node {node!r}: its {setting} has {_short(one)}, which JSON cannot hold. "
                "Use numbers, text, lists and dicts, or leave it out."
            )


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_DOT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\0": "\ufffd"}
_DOT_SPECIAL = re.compile('["\\\\\n\r\0]')
_MERMAID_SPECIAL = re.compile(r"[^\w .,:/+=@-]|^\s|\s$", re.UNICODE)


def dot_text(name: str) -> str:
    """Return a name as Graphviz takes it, in quotes."""
    return '"' + _DOT_SPECIAL.sub(lambda found: _DOT_ESCAPES[found.group()], name) + '"'


def mermaid_text(name: str) -> str:
    """Return a name as Mermaid takes it between quotes."""
    return _MERMAID_SPECIAL.sub(lambda found: "<br/>" if found.group() == "\n" else f"#{ord(found.group())};", name)
