"""Which part of a graph is to run: what the targets need, what follows from the roots, without what is excluded. Pure.

This room knows names, tags, tasks and edges. Where the values of what does not run come from is for the rooms above.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from dagrid.errors import InvalidSettingError, PlanError, UnknownNodeError, hint
from dagrid.graph.node import Node, NodeRef, is_one, node_id, origin_of
from dagrid.graph.structure import Structure, suggest

SHOWN = 5
DEBUG = "a debug node"


class Choice(msgspec.Struct, eq=False):
    """What a run is asked to run; None means that nothing is said. An item is a name, a task, a function or a handle, or a tag.

    `graph` is what the graph is called, of which the handles have to be; `maps` are the nodes that are maps over values to come.
    """

    targets: Iterable[NodeRef] | None = None
    roots: Iterable[NodeRef] | None = None
    exclude: Iterable[NodeRef] | None = None
    debug: bool = False
    graph: str | None = None
    maps: Collection[int] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is said of what is to run."""
        return self.targets is None and self.roots is None and self.exclude is None


class Special(NamedTuple):
    """The nodes of a graph that do not run as the others do, by number."""

    setup: tuple[int, ...] = ()
    debug: tuple[int, ...] = ()


def special(structure: Structure, specs: Mapping[int, Node]) -> Special:
    """Return the setup and the debug nodes of a graph.

    Raises:
        PlanError: one depends, or something depends on it, in a way that cannot be.
    """
    setup = tuple([at for at, spec in specs.items() if spec.setup])
    debug = tuple([at for at, spec in specs.items() if spec.debug])
    names, early, late = structure.names, set(setup), set(debug)
    for at in setup:
        for one in structure.predecessors[at]:
            if one not in early:
                raise PlanError(
                    f"The setup node {names[at]!r} depends on {names[one]!r}, which is none and would run later. Make "
                    f"{names[one]!r} a setup node too, or {names[at]!r} none."
                )
    for at in debug:
        for after in structure.successors[at]:
            if after not in late:
                raise PlanError(
                    f"Node {names[after]!r} depends on the debug node {names[at]!r}, without which most runs have to do. Make "
                    f"{names[after]!r} a debug node too, or {names[at]!r} none."
                )
    return Special(setup, debug)


class Meanings:
    """What names, tasks and tags mean in a graph. All nodes are looked at once, when the first is asked for that is no name."""

    def __init__(
        self,
        structure: Structure,
        specs: Mapping[int, Node],
        setting: str,
        graph: str | None = None,
        maps: Collection[int] = (),
    ) -> None:
        """Take the graph, what the setting is called for which nodes are asked, and `graph` and `maps` as of a `Choice`."""
        self.structure = structure
        self.specs = specs
        self.setting = setting
        self.graph = graph
        self.maps = maps

    def nodes(self, one: object) -> list[int]:
        """Return the nodes that are made of a task or a function, and else the one that is called so.

        Raises:
            UnknownNodeError: there is none; the error has the nearest name.
            HandleError: a handle of another graph, or of a part of a value.
        """
        if not isinstance(one, str):
            made = {at for each in (one, origin_of(one)) if id(each) in self._made for at in self._made[id(each)][1]}
            if made:
                return sorted(made)
        name = node_id(one, self.graph)
        at = self.structure.index.get(name)
        if at is None:
            self._check_element(name)
            suggestion = suggest(name, self.structure.index)
            raise UnknownNodeError(
                f"{self.setting} asks for {name!r}, which is no node of the graph.{hint(suggestion)}", name, suggestion
            )
        return [at]

    def _check_element(self, name: str) -> None:
        """Check that a name which no node has is none that the element of a map will have, either."""
        base = name.rpartition("[")[0]
        if name.endswith("]") and self.structure.index.get(base) in self.maps:
            raise UnknownNodeError(
                f"{self.setting} asks for {name!r}, and how many nodes there are of the map {base!r} is found out by the run, so "
                f"none can be chosen before. Say {base!r}, which means all of them; or map over a list that is known when "
                f"the graph is described.",
                name,
                base,
            )

    def tagged(self, tag: str) -> list[int]:
        """Return the nodes that have a tag.

        Raises:
            UnknownNodeError: none has; the error has the nearest name and tag.
        """
        found = self._tagged.get(tag)
        if found is not None:
            return found
        self._check_element(tag)
        name, nearest_tag = suggest(tag, self.structure.index), suggest(tag, sorted(self._tagged))
        suggestions = [f"the node {name!r}"] if name else []
        suggestions += [f"the tag {nearest_tag!r}"] if nearest_tag else []
        did = f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""
        raise UnknownNodeError(
            f"{self.setting} asks for {tag!r}, which is neither a node nor a tag.{did}", tag, name or nearest_tag
        )

    @cached_property
    def _made(self) -> dict[int, tuple[object, list[int]]]:
        """By place in memory whatever a node's function may be called by, so that the place stays its own, and the nodes."""
        found: dict[int, tuple[object, list[int]]] = {}
        for at, spec in self.specs.items():
            if spec.fn is not None:
                task = origin_of(spec.fn)
                for maker in (spec.fn, task, getattr(task, "fn", task)):
                    found.setdefault(id(maker), (maker, []))[1].append(at)
        return found

    @cached_property
    def _tagged(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for at, spec in self.specs.items():
            for tag in spec.tags:
                found.setdefault(tag, []).append(at)
        return found


def resolve(
    asked: Iterable[NodeRef],
    structure: Structure,
    specs: Mapping[int, Node],
    *,
    setting: str,
    graph: str | None = None,
    maps: Collection[int] = (),
) -> dict[int, bool]:
    """Return the nodes that names, tasks, handles and tags mean, each with whether it was named, and not only its tag.

    A text is the name of a node if there is one, else a tag. A task or a function means every node that is made of it, and else
    the node that is called as it is.

    Args:
        asked: the list of these.
        structure, specs: the graph.
        setting: where they were said.
        graph, maps: as of a `Choice`.

    Raises:
        UnknownNodeError: one means nothing; the error has the nearest name and tag.
        HandleError: a handle of another graph, or of a part of a value.
        InvalidSettingError: it is not a list.
    """
    if is_one(asked) or not isinstance(asked, Iterable):
        shown = repr(asked) if isinstance(asked, str) else getattr(asked, "__name__", repr(asked))
        raise InvalidSettingError(f"{setting} is a list of names, tasks or tags; write {setting}=[{shown}].")
    meanings = Meanings(structure, specs, setting, graph, maps)
    found: dict[int, bool] = {}
    for one in asked:
        if isinstance(one, str) and one not in structure.index:
            for at in meanings.tagged(one):
                found.setdefault(at, False)
        else:
            found.update(dict.fromkeys(meanings.nodes(one), True))
    return found


def choose(
    structure: Structure, specs: Mapping[int, Node], choice: Choice, kinds: Special, known: Collection[int] = ()
) -> dict[int, str]:
    """Return the nodes that shall not run and have no value, by number, with the reason of each.

    Args:
        structure, specs: the graph.
        choice: what is asked for.
        kinds: its setup and debug nodes.
        known: nodes that have a value already: what they would need is not needed, and nothing that is excluded reaches them.

    Raises:
        UnknownNodeError: see `resolve`.
        InvalidSettingError: see `resolve`, and what is asked for are debug nodes, which do not run for that.
    """
    omitted: dict[int, str] = {}
    everything = range(len(structure.names))
    wanted: set[int] = set(everything)
    handlers = {
        at for at, spec in specs.items() if spec.handler is not None
    }  # they belong to the run, whatever of it is chosen
    targets: dict[int, bool] = {}
    if choice.targets is not None:
        targets = resolve(choice.targets, structure, specs, setting="targets", graph=choice.graph, maps=choice.maps)
        omitted.update(_debug(structure, choice, kinds, targets, known))
        begin = [at for at in targets if at not in omitted]
        if targets and not begin:
            _refuse_debug("targets", [at for at in targets if at not in known], structure)
        wanted = reach(structure.predecessors, begin, known)
        omitted.update(
            {
                at: "not needed for the targets"
                for at in everything
                if at not in wanted and at not in omitted and at not in handlers
            }
        )
    else:
        omitted.update(_debug(structure, choice, kinds, targets, known))
    if choice.roots is not None:
        roots = resolve(choice.roots, structure, specs, setting="roots", graph=choice.graph, maps=choice.maps)
        silent = [at for at in roots if omitted.get(at) == DEBUG and at not in known]
        if len(silent) == len(roots) or any(roots[at] for at in silent):
            _refuse_debug("roots", silent, structure)
        behind = reach(structure.successors, roots)
        setup = set(kinds.setup) & reach(structure.predecessors, behind)
        for at in everything:
            if at not in behind and at not in setup and at not in handlers:
                omitted.setdefault(at, "not behind the roots")
    if choice.exclude is not None:
        excluded = resolve(choice.exclude, structure, specs, setting="exclude", graph=choice.graph, maps=choice.maps)
        cause = _carried(structure, excluded, known)
        for at, why in cause.items():
            omitted[at] = "excluded" if why == at else f"needs {structure.names[why]!r}, which is excluded"
    return {at: why for at, why in omitted.items() if at not in known}


def check_values(
    structure: Structure, omitted: Mapping[int, str], taken: Callable[[int], Iterable[int]], known: Collection[int]
) -> None:
    """Check that what runs takes no value of what does not run and has none.

    Raises:
        PlanError: it does; the message has the names and the remedy.
    """
    missing: dict[int, int] = {}
    for at in range(len(structure.names)):
        if at not in omitted and at not in known:
            for one in taken(at):
                if one in omitted and one not in known:
                    missing.setdefault(one, at)
    if not missing:
        return
    names = structure.names
    shown = ", ".join(f"{names[one]!r} (for {names[at]!r})" for one, at in list(missing.items())[:SHOWN])
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    first = names[next(iter(missing))]
    raise PlanError(
        f"The part that shall run needs values from outside of it: of {shown}{more}. Give them with given={{{first!r}: ...}}, "
        f"from_run=... or from_file=..., or let these nodes run too."
    )


def reach(neighbours: Sequence[Sequence[int]], begin: Iterable[int], stop: Collection[int] = ()) -> set[int]:
    """Return the nodes `begin` and all that can be reached from them, without going beyond those of `stop`."""
    found = set(begin)
    stack = [at for at in found if at not in stop]
    while stack:
        for one in neighbours[stack.pop()]:
            if one not in found:
                found.add(one)
                if one not in stop:
                    stack.append(one)
    return found


def _debug(
    structure: Structure, choice: Choice, kinds: Special, targets: Mapping[int, bool], known: Collection[int]
) -> dict[int, str]:
    if choice.debug or not kinds.debug:
        return {}
    asked = [at for at in kinds.debug if targets.get(at)]
    needed = reach(structure.predecessors, asked, known)
    return {at: DEBUG for at in kinds.debug if at not in needed}


def _refuse_debug(setting: str, nodes: Sequence[int], structure: Structure) -> None:
    if nodes:
        names = [structure.names[at] for at in nodes[:SHOWN]]
        raise InvalidSettingError(
            f"{setting} asks for debug nodes, which do not run for that: {', '.join(map(repr, names))}. Name them among the "
            f"targets, as in targets=[{names[0]!r}], or say debug=True."
        )


def _carried(structure: Structure, begin: Iterable[int], known: Collection[int]) -> dict[int, int]:
    """Return what cannot run without the nodes `begin`, each with the one of them that is to blame."""
    cause = {at: at for at in begin}
    stack = [at for at in cause if at not in known]
    while stack:
        before = stack.pop()
        for one in structure.successors[before]:
            if one not in cause and one not in known:
                cause[one] = cause[before]
                stack.append(one)
    return cause
