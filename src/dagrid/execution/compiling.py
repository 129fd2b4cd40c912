"""A graph bound to the tasks of a run and compiled with its settings, once for runs that are alike. It starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from dagrid.errors import InvalidSettingError, UnknownNodeError
from dagrid.execution.binding import Binder, Bindings, bind, check_sources
from dagrid.execution.part import Part
from dagrid.graph.dag import DAG
from dagrid.graph.node import NodeRef, is_one, node_id
from dagrid.machine.plan import Plan, Settings, order_keys

Keep = Literal["all", "outputs"] | Collection[NodeRef]
NamedKeep = Literal["all", "outputs"] | Collection[str]


class Compiled(msgspec.Struct, eq=False):
    """A graph bound to its tasks and compiled; kept with the graph, so that it is done once for runs that are alike.

    `own` says that all tasks are the nodes' own, which cannot change.
    """

    fns: list[Any]
    own: bool
    settings: Settings
    keys: list[int]
    binder: Binder
    bindings: Bindings
    plan: Plan

    def check_sources(self, part: Part) -> None:
        """Check that no node that runs takes the value of one that has neither a task nor a value."""
        names = self.plan.names
        running = (at for at in range(len(names)) if at not in part.omitted and at not in part.given)
        check_sources(self.bindings, running, names, part.given)


def compiled_for(dag: DAG, tasks: Mapping[str, Callable[..., Any]] | None, settings: Settings) -> Compiled:
    """Return a graph compiled with the functions and settings of a run; that of an earlier run where they are the same.

    Raises:
        PlanError, InvalidNodeError: they do not fit together.
    """
    structure, specs = dag.structure, dag.specs
    known: Compiled | None = dag.compiled
    alike = known is not None and (known.settings is settings or known.settings == settings)
    if alike and known is not None and known.own and not tasks:
        return known
    binder = Binder(tasks, structure.index, dag.outline.late(structure.index) if tasks and dag.outline else ())
    fns = binder.tasks(structure.names, specs)
    if alike and known is not None and known.fns == fns and dag.outline is None:
        return known
    ordered = known is not None and known.settings.deepest_first == settings.deepest_first
    keys = known.keys if known is not None and ordered else order_keys(structure, specs, settings)
    bindings = bind(binder, fns, structure.names, structure.predecessors, specs)
    plan = Plan(
        structure,
        specs,
        settings,
        empty=bindings.empty,
        sources=bindings.takes,
        keys=keys,
        places=bindings.places,
        alone=bindings.alone,
    )
    compiled = Compiled(fns, not tasks, settings, keys, binder, bindings, plan)
    dag.compiled = compiled
    return compiled


def checked_keep(keep: Keep, plan: Plan, grows: bool, dag: DAG, whole: bool) -> NamedKeep:
    """Return which values of a run are kept: a word, or the names of nodes.

    Args:
        keep: what is asked for.
        plan: the graph as it begins.
        grows: whether further nodes may come.
        dag: the graph itself.
        whole: whether all of it runs, so that what the function of `@dag` returned is all that comes out.

    Raises:
        InvalidSettingError, UnknownNodeError, HandleError: it cannot be, or names what is not there.
    """
    if isinstance(keep, str) and keep in ("all", "outputs"):
        return frozenset(dag.returned) if keep == "outputs" and whole and dag.returned else keep
    if is_one(keep) or not isinstance(keep, Iterable):
        shown = f" such as {{{keep!r}}}" if is_one(keep) else ""
        raise InvalidSettingError(f"keep is 'all', 'outputs' or a set of nodes{shown}; not {keep!r}.")
    kept = frozenset([node_id(one, dag.name) for one in keep])
    if not (grows or plan.adds):  # a node that comes later may have any name
        for name in kept:
            if name not in plan.index:
                raise UnknownNodeError.of(name, plan.index, "keep names a node that is not in the graph:")
    return kept
