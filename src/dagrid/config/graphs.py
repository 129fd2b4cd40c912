"""Settings of the nodes of a Python graph from a file, by the name of a node or by a tag, applied before it runs.

    maxConcurrency: 8                  # of the run
    resources: {gpu: 2}                # what there is
    tags:
      io: {maxConcurrency: 2}          # at most two nodes with that tag at once
    nodes:
      train: {priority: 5, resources: {gpu: 1}}

Keys may be in camelCase or in snake_case. What a node says goes before what its tags say, and a later tag before an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from dagrid.config.files import Source, read
from dagrid.errors import DagridError, hint, nearest
from dagrid.graph.dag import DAG
from dagrid.graph.node import Node
from dagrid.graph.policy import Retry

# Which settings of a node a file may change: those of its run, none of what it is.
NODE = (
    "priority",
    "is_sequential",
    "resources",
    "selector",
    "retries",
    "timeout",
    "cost",
    "cache",
    "place",
    "on_lost",
    "max_concurrency",
)
RUN = ("max_concurrency", "resources", "nodes", "tags")
_RETRY = ("max_retries", "delay", "backoff", "max_delay", "jitter")
_LIMIT = "max_concurrency "


class Tuned(NamedTuple):
    """A graph with its settings, and those of its run."""

    dag: DAG
    resources: dict[str, float]
    max_concurrency: int | None


def tuned(dag: DAG, path: str | PathLike[str]) -> Tuned:
    """Return a graph with the settings of a file.

    Args:
        dag: the graph; it stays as it is.
        path: a file in YAML, TOML or JSON.

    Raises:
        InvalidSettingError: the file cannot be read, or a setting in it cannot be, or is of a node or tag that is not there.
    """
    return _Tuning(dag, read(Path(path))).tuned()


class _Tuning:
    def __init__(self, dag: DAG, source: Source) -> None:
        self._dag = dag
        self._source = source
        # A graph that grows is described by its outline; the nodes that it begins with are made of that.
        self._whole = dag if dag.outline is None else dag.outline
        self._names = self._whole.structure.names
        self._tags: dict[str, list[int]] = {}
        for at, spec in self._whole.specs.items():
            for tag in spec.tags:
                self._tags.setdefault(tag, []).append(at)
        self._limits: dict[str, float] = {}

    def tuned(self) -> Tuned:
        data = self._keys(self._source.data, RUN, "a run", ())
        most = data.get("max_concurrency", self._dag.max_concurrency)
        if most is not None and (type(most) is not int or most < 1):
            raise self._source.refuse(f"maxConcurrency is a whole number from 1 up, not {most!r}.", "maxConcurrency")
        capacities = self._amounts(data.get("resources") or {})
        changes: dict[int, dict[str, Any]] = {}
        for room in ("tags", "nodes"):
            for name, said in self._items(data.get(room), room):
                self._add(changes, room, name, said)
        specs = dict(self._whole.specs)
        for at, settings in changes.items():
            specs[at] = self._changed(at, settings)
        return Tuned(self._made(specs, most), {**capacities, **self._limits}, most)

    def _made(self, specs: dict[int, Node], most: int | None) -> DAG:
        if self._dag.outline is None:
            made = DAG.of(self._dag.structure, specs, name=self._dag.name, max_concurrency=most, rules=self._dag.rules)
        else:
            from dagrid.graph.late import Outline, split

            outline = Outline(self._dag.outline.structure, specs, self._dag.outline.maps, self._dag.outline.unread)
            made = split(outline, name=self._dag.name, max_concurrency=most)
        made.returned = self._dag.returned
        return made

    def _items(self, said: Any, room: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if said is None:
            return
        if not isinstance(said, Mapping):
            raise self._source.refuse(f"{room} holds settings by name.", room)
        for name, settings in said.items():
            if settings is not None and not isinstance(settings, Mapping):
                raise self._source.refuse(f"{name!r} has settings by name, such as priority: 5.", room, name)
            yield name, settings or {}

    def _add(self, changes: dict[int, dict[str, Any]], room: str, name: str, said: Mapping[str, Any]) -> None:
        index = self._whole.structure.index
        if room == "nodes" and name in index:
            chosen = [index[name]]
        elif name in self._tags:
            chosen = self._tags[name]
        else:
            known = list(self._tags) if room == "tags" else [*index, *self._tags]
            what = "tag" if room == "tags" else "node and no tag"
            raise self._source.refuse(f"the graph has no {what} {name!r}.{hint(nearest(name, known))}", room, name)
        settings = self._keys(said, NODE, "a node", (room, name))
        most = settings.pop("max_concurrency", None)
        if most is not None:
            if type(most) is not int or most < 1:
                raise self._source.refuse(f"maxConcurrency is a whole number from 1 up, not {most!r}.", room, name)
            self._limits[_LIMIT + name] = float(most)
        for at in chosen:
            change = changes.setdefault(at, {})
            limits = {**change.get("limits", {}), **({_LIMIT + name: 1.0} if most is not None else {})}
            change.update(settings)
            change["limits"] = limits
            change["where"] = (room, name)

    def _changed(self, at: int, settings: dict[str, Any]) -> Node:
        where = settings.pop("where")
        limits = settings.pop("limits")
        spec = self._whole.specs.get(at) or Node(self._names[at])
        if isinstance(settings.get("retries"), Mapping):
            said = self._keys(settings["retries"], _RETRY, "retries", (*where, "retries"))
            settings["retries"] = self._checked(lambda: Retry(**said), where)
        if limits:
            settings["resources"] = {**(settings.get("resources", spec.resources) or {}), **limits}
        made: Node = self._checked(lambda: spec.changed(**settings), where)
        return made

    def _checked(self, make: Any, where: tuple[str, ...]) -> Any:
        try:
            return make()
        except DagridError as error:
            raise self._source.refuse(str(error), *where) from error

    def _keys(
        self, said: Mapping[str, Any], known: tuple[str, ...], what: str, where: tuple[str, ...]
    ) -> dict[str, Any]:
        """Return settings by their names in Python."""
        found = {}
        for key, value in said.items():
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            if name not in known:
                raise self._source.refuse(f"{what} has no setting {key!r}.{hint(nearest(name, known))}", *where, key)
            if name in found:
                raise self._source.refuse(f"{key} stands there in another spelling too. Keep one.", *where, key)
            found[name] = value
        return found

    def _amounts(self, said: Any) -> dict[str, float]:
        if not isinstance(said, Mapping):
            raise self._source.refuse("resources are amounts by name, such as {gpu: 2}.", "resources")
        for name, amount in said.items():
            if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not amount > 0:
                raise self._source.refuse(
                    f"the amount of {name!r} is a number greater than 0, not {amount!r}.", "resources", name
                )
        return {name: float(amount) for name, amount in said.items()}
