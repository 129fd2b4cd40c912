"""The call of an attempt, made of the bindings of its node and the values that there are. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any

from dagrid.attempt import Outcome
from dagrid.execution.binding import Bindings
from dagrid.execution.recording import Kept, Recorder
from dagrid.graph.node import OUTCOME
from dagrid.machine.closing import Verdict
from dagrid.machine.events import NODE_MASK, Kind
from dagrid.machine.plan import Request
from dagrid.machine.state import COMPLETED, FAILURES, State
from dagrid.ports import AWAITED, Artifacts, Call, Needs

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
        "_particular",
        "_plan",
        "_recorder",
        "_single",
        "_spares",
        "_state",
        "_values",
        "keys",
    )

    def __init__(
        self,
        values: list[Any],
        cache: OpenCache | None,
        recorder: Recorder | None = None,
        spares: Callable[[State, int], bool] | None = None,
    ) -> None:
        """Take the values of the run, where others are kept, and what says of a node that its call gets none."""
        self.keys: dict[int, str] = {}
        self._needs: list[Needs | None] = []  # by the number of a request in the plan, which may get more of them
        self._particular = False  # whether any of them is something in particular
        self._recorder = recorder
        self._values = values
        self._cache = cache
        self._spares = spares

    def made_of(self, state: State, bindings: Bindings) -> Callable[[int], Call]:
        """Return what makes calls from now on, as long as this state has the same plan, which does not grow, and these bindings
        count.
        """
        plan = self._plan = state.plan
        self._state = state
        self._bindings = bindings
        self._names = plan.names
        self._fns = bindings.fns
        self._single = bindings.single
        self._gather = bindings.gather
        self._kwargs = bindings.kwargs
        if len(self._needs) < len(plan.requests):
            new = [needs_of(request) for request in plan.requests[len(self._needs) :]]
            self._needs += new
            self._particular = self._particular or any(new)
        asked = plan.adds or plan.handlers or plan.fail_when_lost or bindings.lineages or bindings.needs
        telling = self._recorder is not None or asked
        made = self._telling if telling or self._particular else self._plain
        return made if self._spares is None else partial(self._sparing, self._spares, made)

    def riding(self, made: Callable[[int], Call], attempt: int) -> Call:
        """Return a call, which may take the value of an attempt that has not completed; `made` is what `made_of` returned."""
        state = self._state
        on = state.rides.get(attempt & NODE_MASK, -1)
        if state.riders.get(on) != attempt:
            return made(attempt)
        self._values[on & NODE_MASK] = AWAITED
        call = made(attempt)
        call.rides = on
        return call

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

    def _sparing(self, spares: Callable[[State, int], bool], made: Callable[[int], Call], attempt: int) -> Call:
        """Where less is kept: who makes a list that nobody asks for gets nothing."""
        node = attempt & NODE_MASK
        if not spares(self._state, node):
            return made(attempt)
        return Call(attempt, self._names[node], self._fns[node])  # type: ignore[arg-type]  # as in `_plain`

    def _telling(self, attempt: int) -> Call:
        """Where there are nodes that may tell more than their value, or have to be told more than their arguments."""
        node = attempt & NODE_MASK
        call = self._reading(attempt) if node in self._bindings.needs else self._plain(attempt)
        call.grows = node in self._plan.adds
        call.once = node in self._plan.fail_when_lost
        if node in self._state.attempts_before:
            call.round = self._state.rounds.get(node, 0)
            last, reopened = self._state.attempts_before[node][-1], self._state.reopened_at
            call.waited = last.kind is Kind.HELD and (not reopened or last.at >= reopened)
        call.needs = self._needs[self._plan.groups[node]]
        if node in self._bindings.outcomes:
            call.kwargs = {**(call.kwargs or {}), OUTCOME: self._outcome()}
        lineage = self._bindings.lineages.get(node)
        if lineage is not None:
            known = lineage.known(None if self._cache is None else self._cache(), self.keys)
            call.args = (*call.args[: lineage.place], known, *call.args[lineage.place :])
            call.grows = call.grows or known.artifacts is not None
        return call

    def _reading(self, attempt: int) -> Call:
        """Return the call of a node that may look at values which are not there."""
        node = attempt & NODE_MASK
        missing = self._missing(node)
        values = _Seen(self._values, missing) if missing else self._values
        fn, named = self._fns[node], self._kwargs[node] or {}
        assert fn is not None
        kwargs = {name: values[source] for name, source in named.items()}
        return Call(attempt, self._names[node], fn, tuple(self._gather[node](values)), kwargs or None)

    def _outcome(self) -> Outcome | None:
        """Return how the run ended but for its handlers."""
        ending = self._state.outcome
        if ending is None:
            return None
        status = Verdict(ending.verdict).name.lower()
        return Outcome(status, tuple([self._names[node] for node in ending.failed]), ending.reason)

    def _missing(self, node: int) -> set[int]:
        """Return the nodes that a node reads and that have no value by now; one that is not recorded yet is none."""
        status, values, recorder = self._state.status, self._values, self._recorder
        fresh = frozenset(() if recorder is None else self._state.completed_since(recorder.committed))
        doubtful = [
            source
            for source in self._bindings.sources(node)
            if status[source] != COMPLETED or source in fresh or type(values[source]) is Kept
        ]
        return {source for source in doubtful if not self._is_there(source, fresh)} - self._bindings.needs[node]

    def _is_there(self, node: int, fresh: Set[int]) -> bool:
        """Return whether a node has a value by now, or left one when it failed."""
        status, value = self._state.status[node], self._values[node]
        if status != COMPLETED:
            return status in FAILURES and value is not None
        return node not in fresh and not (isinstance(value, Kept) and value.absent)


class _Seen(Sequence[Any]):
    """The values of a run, with None in the place of those that a reader finds missing."""

    __slots__ = ("_missing", "_values")

    def __init__(self, values: Sequence[Any], missing: Set[int]) -> None:
        self._values = values
        self._missing = missing

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self._values)))]
        return None if place in self._missing else self._values[place]
