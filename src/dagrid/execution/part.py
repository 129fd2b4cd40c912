"""What of a graph one run performs: the part that was chosen, the values from before, and the setup nodes.

It joins what `graph.parts` finds with values that were given, come from an earlier run or were read from a file. How a run is
started is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import msgspec

from dagrid.errors import InvalidSettingError
from dagrid.execution.binding import Bindings
from dagrid.execution.results import ExecutionResult
from dagrid.graph.dag import DAG
from dagrid.graph.late import Outline, as_unread_list, split
from dagrid.graph.node import NodeRef
from dagrid.graph.parts import Choice, Meanings, check_values, choose, reach, resolve, special
from dagrid.graph.structure import Structure
from dagrid.ports import is_gone, opened

Path = str | PathLike[str]
Given = tuple[Any, str]
SET_UP = "set up before"
FOR_SETUP = "not needed for the setup"


class Before(msgspec.Struct, eq=False):
    """Where values come from that are not made anew, see `dagrid.assemble.start`."""

    given: Mapping[NodeRef, Any] | None = None
    from_run: ExecutionResult | None = None
    from_file: Path | None = None

    @property
    def empty(self) -> bool:
        return self.given is None and self.from_run is None and self.from_file is None


class Part(msgspec.Struct, eq=False):
    """A graph, and by number what does not run of it: what has a value, and what is omitted. `setup` is to run before it.

    `outputs` are the names of nodes that are outputs whoever takes their values: where not all is to run, what a function of
    `@dag` returned; and maps whose lists are read by nobody only because nothing of what maps them on runs.
    """

    dag: DAG
    given: dict[int, Given] = {}
    omitted: dict[int, str] = {}
    setup: list[int] = []
    outputs: frozenset[str] = frozenset()

    def check(self, bindings: Bindings) -> None:
        """Check that all values are there that are taken, and open those.

        Raises:
            PlanError: one is missing.
        """
        if self.omitted:
            check_values(self.dag.structure, self.omitted, bindings.takes, self.given)
        if not self.given:
            return
        taken = {at for at, (value, _) in self.given.items() if not is_gone(value)}
        if not self.dag.rules:
            running = (at for at in range(len(self.dag)) if at not in self.given and at not in self.omitted)
            taken &= {one for at in running for one in bindings.sources(at)}
        for at in taken:
            value, why = self.given[at]
            self.given[at] = opened(value), why


class Kept:
    """The values of the setup nodes of a graph, by name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[str, Any] = {}


_making = threading.Lock()


def kept_of(dag: DAG) -> Kept:
    """Return what is kept of a graph."""
    with _making:
        if dag.kept is None:
            dag.kept = Kept()
    kept: Kept = dag.kept
    return kept


def part_of(dag: DAG, choice: Choice, before: Before, overridden: Iterable[str] = ()) -> Part:
    """Return what a run performs of a graph.

    Args:
        dag: the graph.
        choice: what is to run.
        before: where values come from.
        overridden: the nodes that have another function in this run; setup nodes among them run like others.

    Raises:
        PlanError, UnknownNodeError, StoreError: what is asked for cannot be.
    """
    asked = not (before.empty and choice.whole)
    if dag.has_special is None:
        dag.has_special = any(spec.setup or spec.debug for spec in dag.specs.values())
    if not asked and dag.outline is None and not dag.has_special:
        return Part(dag)
    return _chosen(dag, choice, before, asked, set(overridden))


def _chosen(dag: DAG, choice: Choice, before: Before, asked: bool, overridden: set[str]) -> Part:
    whole, returned = dag if dag.outline is None else dag.outline, dag.returned
    structure, specs = whole.structure, whole.specs
    if dag.outline is not None:
        choice = msgspec.structs.replace(choice, maps=dag.outline.maps)
    kinds = special(structure, specs)
    given = _values(before, choice, whole.structure, specs)
    omitted = choose(structure, specs, choice, kinds, given)
    while _made_again(structure, given, omitted):
        omitted = choose(structure, specs, choice, kinds, given)
    if choice.exclude is not None:
        for at in resolve(choice.exclude, structure, specs, setting="exclude", graph=choice.graph, maps=choice.maps):
            given.pop(at, None)
            omitted[at] = "excluded"
    setup = [at for at in kinds.setup if at not in given and at not in omitted]
    if dag.outline is None:
        part = Part(dag, given, omitted, setup)
    else:
        if asked or omitted:
            check_values(structure, omitted, lambda at: [structure.index[one] for one in _taken(specs, at)], given)
            dag = split(
                dag.outline,
                name=dag.name,
                max_concurrency=dag.max_concurrency,
                known=given.keys(),
                unwanted=omitted.keys(),
            )
        names, index = structure.names, dag.structure.index
        part = Part(
            dag,
            {index[names[at]]: value for at, value in given.items()},
            {index[names[at]]: why for at, why in omitted.items() if names[at] in index},
            [index[names[at]] for at in setup],
        )
    if omitted:
        part.outputs = _not_followed(whole, omitted)
    if not choice.whole:
        part.outputs = part.outputs.union(returned)
    if any(dag.structure.names[at] in overridden for at in part.setup):
        part.setup = []
    return part


def _not_followed(whole: DAG | Outline, omitted: Collection[int]) -> frozenset[str]:
    """Return the names of maps whose lists nobody asks for, and nothing of whose items runs on."""
    structure = whole.structure
    found = set()
    for at, spec in whole.specs.items():
        if spec.fn is as_unread_list:
            after = {one for each in structure.predecessors[at] for one in structure.successors[each]} - {at}
        elif isinstance(whole, Outline) and at in whole.unread:
            after = set(structure.successors[at])
        else:
            continue
        if after.issubset(omitted):
            found.add(structure.names[at])
    return frozenset(found)


def _made_again(structure: Structure, given: dict[int, Given], omitted: Collection[int]) -> bool:
    """Take values that are gone from those that are given, where nodes that run wait for them; return whether there were any."""
    gone = {at for at, (value, _) in given.items() if is_gone(value)}
    if not gone:
        return False
    running = [at for at in range(len(structure.names)) if at not in given and at not in omitted]
    needed = reach(structure.predecessors, running, (given.keys() - gone).union(omitted)) & gone
    for at in needed:
        del given[at]
    return bool(needed)


def set_up(part: Part, kept: Kept, run: Callable[[dict[int, Given], dict[int, str]], ExecutionResult]) -> None:
    """Give a part the values of its setup nodes; those that nobody has run yet run now, once.

    Args:
        part: its `given` is completed.
        kept: the values of setup nodes that ran before.
        run: runs a graph but for what is given and what is omitted.

    Raises:
        BaseException: what a setup node raised; it is tried again the next time.
    """
    names = part.dag.structure.names
    with kept.lock:
        missing = [at for at in part.setup if names[at] not in kept.values]
        if missing:
            have = {at: (kept.values[names[at]], SET_UP) for at in part.setup if names[at] in kept.values}
            given = {**part.given, **have}
            others = {at: FOR_SETUP for at in range(len(names)) if at not in given and at not in missing}
            result = run(given, others).raise_for_status()
            kept.values.update({names[at]: result[names[at]] for at in missing if not result.passed_over(names[at])})
    for at in part.setup:
        if names[at] in kept.values:
            part.given[at] = kept.values[names[at]], SET_UP
        else:
            part.omitted.update(_without(part, at))


def _without(part: Part, at: int) -> dict[int, str]:
    """Return what does not run because a setup node was skipped."""
    structure = part.dag.structure
    name = structure.names[at]
    found = reach(structure.successors, [at], part.given.keys())
    return {one: "skipped by its setup" if one == at else f"needs {name!r}, which was skipped" for one in found}


def _taken(specs: Mapping[int, Any], at: int) -> Sequence[str]:
    spec = specs.get(at)
    return () if spec is None else spec.taken()


def _values(before: Before, choice: Choice, structure: Any, specs: Mapping[int, Any]) -> dict[int, Given]:
    """Return by number what has a value already. What was given goes before an earlier run, and that before a file."""
    found: dict[int, Given] = {}
    index = structure.index
    if before.from_file is not None:
        from dagrid.execution.saved import load  # tempfile and what it needs: few runs read a file

        if not isinstance(before.from_file, (str, PathLike)) or not fspath(before.from_file):
            raise InvalidSettingError(
                f"from_file is the path of a file that result.save(path) wrote, not {before.from_file!r}."
            )
        values = load(before.from_file)
        why = f"read from {before.from_file}"
        found.update({index[name]: (value, why) for name, value in values.items() if name in index})
    if before.from_run is not None:
        if not isinstance(before.from_run, ExecutionResult):
            raise InvalidSettingError(
                f"from_run is the result of an earlier run, not {before.from_run!r}. Wait for the run, and give what that "
                f"returns."
            )
        completed = before.from_run.completed()
        found.update(
            {index[name]: (value, "taken from an earlier run") for name, value in completed.items() if name in index}
        )
    for at in [at for at in found if at in specs and specs[at].handler is not None]:
        del found[at]  # each run has its own end
    if choice.roots is not None and found:
        anew = reach(
            structure.successors,
            resolve(choice.roots, structure, specs, setting="roots", graph=choice.graph, maps=choice.maps),
        )
        found = {at: value for at, value in found.items() if at not in anew}
    if before.given is not None:
        if not isinstance(before.given, Mapping):
            raise InvalidSettingError(f"given is a dict of values by node, not {before.given!r}.")
        meanings = Meanings(structure, specs, "given", choice.graph, choice.maps)
        for one, value in before.given.items():
            for at in meanings.nodes(one):
                found[at] = value, "given"
    return found
