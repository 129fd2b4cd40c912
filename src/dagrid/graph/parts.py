"""Which part of a graph is to run: what the targets need, what follows from the roots, without what is excluded. Pure.

This room knows names, tags, tasks and edges. Where the values of what does not run come from is for the rooms above.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from dagrid.errors import InvalidSettingError, PlanError, UnknownNodeError, hint
from dagrid.graph.node import Node, NodeRef, is_one, node_id, origin_of
from dagrid.graph.structure import Structure, suggest

SHOWN = 5


class Choice(msgspec.Struct, eq=False):
    """What a run is asked to run; None means that nothing is said. An item is a name, a task, a function or a handle, or a tag.

    `graph` is what the graph is called, of which the handles have to be.
    """

    targets: Iterable[NodeRef] | None = None
    roots: Iterable[NodeRef] | None = None
    exclude: Iterable[NodeRef] | None = None
    debug: bool = False
    graph: str | None = None


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


def resolve(
    asked: Iterable[NodeRef],
    structure: Structure,
    specs: Mapping[int, Node],
    *,
    setting: str,
    tags: bool = True,
    graph: str | None = None,
) -> dict[int, bool]:
    """Return the nodes that names, tasks, handles and tags mean, each with whether it was named, and not only its tag.

    A text is the name of a node if there is one, else a tag. A task or a function means every node that is made of it, and else
    the node that is called as it is.

    Args:
        asked: the list of these.
        structure, specs: the graph.
        setting: where they were said.
        tags: whether a tag may stand there.
        graph: what the graph is called, of which the handles have to be.

    Raises:
        UnknownNodeError: one means nothing; the error has the nearest name and tag.
        HandleError: a handle of another graph, or of a part of a value.
        InvalidSettingError: it is not a list.
    """
    if is_one(asked) or not isinstance(asked, Iterable):
        shown = repr(asked) if isinstance(asked, str) else getattr(asked, "__name__", repr(asked))
        raise InvalidSettingError(f"{setting} is a list of names, tasks or tags; write {setting}=[{shown}].")
    found: dict[int, bool] = {}
    for one in asked:
        if isinstance(one, str) and one not in structure.index and tags:
            for at in _tagged(one, structure, specs, setting):
                found.setdefault(at, False)
        else:
            found.update(dict.fromkeys(_named(one, structure, specs, setting, graph), True))
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
        UnknownNodeError, InvalidSettingError: see `resolve`.
    """
    omitted: dict[int, str] = {}
    everything = range(len(structure.names))
    wanted: set[int] = set(everything)
    handlers = {
        at for at, spec in specs.items() if spec.handler is not None
    }  # they belong to the run, whatever of it is chosen
    targets: dict[int, bool] = {}
    if choice.targets is not None:
        targets = resolve(choice.targets, structure, specs, setting="targets", graph=choice.graph)
        omitted.update(_debug(structure, choice, kinds, targets, known))
        begin = [at for at in targets if at not in omitted]
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
        roots = resolve(choice.roots, structure, specs, setting="roots", graph=choice.graph)
        behind = reach(structure.successors, roots)
        setup = set(kinds.setup) & reach(structure.predecessors, behind)
        for at in everything:
            if at not in behind and at not in setup and at not in handlers:
                omitted.setdefault(at, "not behind the roots")
    if choice.exclude is not None:
        excluded = resolve(choice.exclude, structure, specs, setting="exclude", graph=choice.graph)
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
    return {at: "a debug node" for at in kinds.debug if at not in needed}


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


def _tagged(tag: str, structure: Structure, specs: Mapping[int, Node], setting: str) -> list[int]:
    found = [at for at, spec in specs.items() if tag in spec.tags]
    if found:
        return found
    tags = sorted({each for spec in specs.values() for each in spec.tags})
    name, nearest_tag = suggest(tag, structure.index), suggest(tag, tags)
    suggestions = [f"the node {name!r}"] if name else []
    suggestions += [f"the tag {nearest_tag!r}"] if nearest_tag else []
    did = f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""
    raise UnknownNodeError(
        f"{setting} asks for {tag!r}, which is neither a node nor a tag.{did}", tag, name or nearest_tag
    )


def _named(one: object, structure: Structure, specs: Mapping[int, Node], setting: str, graph: str | None) -> list[int]:
    if not isinstance(one, str):
        wanted = {id(one), id(origin_of(one))}
        made = [at for at, spec in specs.items() if not wanted.isdisjoint(_makers(spec.fn))]
        if made:
            return made
    name = node_id(one, graph)
    at = structure.index.get(name)
    if at is None:
        suggestion = suggest(name, structure.index)
        raise UnknownNodeError(
            f"{setting} asks for {name!r}, which is no node of the graph.{hint(suggestion)}", name, suggestion
        )
    return [at]


def _makers(fn: object) -> set[int]:
    """Return what a node's function may be called by: itself, its task, and the function that was marked as that."""
    if fn is None:
        return set()
    task = origin_of(fn)
    return {id(fn), id(task), id(getattr(task, "fn", task))}
