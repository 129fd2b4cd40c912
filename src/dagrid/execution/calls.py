"""The call of an attempt, made of the bindings of its node and the values that there are. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagrid.execution.binding import Bindings
from dagrid.machine.events import NODE_MASK
from dagrid.machine.plan import Plan, Request
from dagrid.ports import Artifacts, Call, Needs

NONE: list[Needs | None] = [None]
OpenCache = Callable[[], Artifacts | None]


def needs_of(request: Request) -> Needs | None:
    """Return what nodes with this request ask of the place where they run; None if that is nothing in particular."""
    if not (request.foreign or request.selector):
        return None
    return Needs(dict(request.foreign), dict(request.selector))


class Calls:
    """Makes the calls of one run.

    Attributes:
        keys: by node number, the key under which its value is kept between runs.
    """

    __slots__ = (
        "_bindings",
        "_cache",
        "_fns",
        "_gather",
        "_kwargs",
        "_names",
        "_needs",
        "_plan",
        "_single",
        "_values",
        "keys",
    )

    def __init__(self, values: list[Any], cache: OpenCache | None) -> None:
        self.keys: dict[int, str] = {}
        self._values = values
        self._cache = cache

    def made_of(self, plan: Plan, bindings: Bindings) -> Callable[[int], Call]:
        """Return what makes calls from now on, as long as this plan and these bindings count."""
        self._plan = plan
        self._bindings = bindings
        self._names = plan.names
        self._fns = bindings.fns
        self._single = bindings.single
        self._gather = bindings.gather
        self._kwargs = bindings.kwargs
        requests = plan.requests
        self._needs = [needs_of(request) for request in requests] if len(requests) > 1 else NONE
        return self._telling if plan.adds or bindings.lineages or any(self._needs) else self._plain

    def _plain(self, attempt: int) -> Call:
        node = attempt & NODE_MASK
        values = self._values
        named = self._kwargs[node]
        single = self._single[node]
        return Call(
            attempt,
            self._names[node],
            self._fns[node],  # type: ignore[arg-type]  # a node without a task is passed over and never gets here
            (values[single],) if single >= 0 else self._gather[node](values),
            dict(zip(named, map(values.__getitem__, named.values()), strict=True)) if named else None,
        )

    def _telling(self, attempt: int) -> Call:
        """Where there are nodes that may tell more than their value, or have to be told more than their arguments."""
        call = self._plain(attempt)
        node = attempt & NODE_MASK
        call.grows = node in self._plan.adds
        call.needs = self._needs[self._plan.groups[node]]
        lineage = self._bindings.lineages.get(node)
        if lineage is not None:
            known = lineage.known(None if self._cache is None else self._cache(), self.keys)
            call.args = (*call.args[: lineage.place], known, *call.args[lineage.place :])
            call.grows = call.grows or known.artifacts is not None
        return call
