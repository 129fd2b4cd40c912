"""What one run has from before it begins here: values that are given, what is no part of it, and what an earlier process left.

The state, the graph and the values are made again of the record. What the machine has to hear of it is told to the engine, which
does the rest: nothing is known here of the lock, of sessions and of timers. What can be said of the state alone is in
`beginning.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from dagrid.errors import RuleError
from dagrid.execution.beginning import beginning, uses, values_lost
from dagrid.execution.ends import Ends
from dagrid.execution.growing import Growing
from dagrid.execution.pickling import unpack
from dagrid.execution.recording import Recorder, Recovered, facts_of
from dagrid.machine.applying import apply
from dagrid.machine.events import Stimulus
from dagrid.machine.reopening import to_reopen
from dagrid.machine.state import COMPLETED, State
from dagrid.ports import Backend, Capabilities, Use

Given = tuple[Any, str]
Sources = Callable[[int], Sequence[int]]


class Past:
    """What one run has from before; most runs have none.

    Attributes:
        again: the nodes that had ended and run again, if the run is taken up again.
    """

    __slots__ = ("_given", "_omitted", "_recorder", "again")

    def __init__(self, given: Mapping[int, Given], omitted: Mapping[int, str], recorder: Recorder | None) -> None:
        """Take what there is.

        Args:
            given: by node number, a value from before and where it comes from.
            omitted: by node number, why it is not part of this run.
            recorder: of a run that is recorded.
        """
        self._given = given
        self._omitted = omitted
        self._recorder = recorder
        self.again: list[int] | None = None

    def restore(self, recovered: Recovered, state: State, growing: Growing, ends: Ends, can: Capabilities) -> State:
        """Make a run again of its journal, and return its state.

        Args:
            recovered: what the journal holds.
            state: of the run as it was before its first fact.
            growing, ends: of the same run; they get what it had.
            can: see `Growing.fork`.

        Raises:
            DagridError: the graph is no longer what the journal speaks of.
        """
        recorder = self._recorder
        assert recorder is not None
        recorder.restored(recovered)
        if recovered.picture is not None and recovered.state is not None:
            growing.fork(state, can)
            for patch in recovered.picture.patches:
                growth, rules = unpack(patch)
                growing.restore(state, growth, rules)
                state.plan.grow(growth.nodes)  # the snapshot has no plan
                growing.taken(state)
            recovered.state.plan = state.plan
            state = recovered.state
        for fact, data, rules in facts_of(recovered.entries):
            if fact.growth is not None:
                if growing.shared:
                    growing.fork(state, can)
                growing.restore(state, fact.growth, rules)
            apply(state, fact)
            growing.taken(state)
            recorder.note(fact, data)
        recorder.committed = len(state.journal)
        for node, kept in recorder.kept_values(state.plan.names):
            if state.status[node] == COMPLETED:
                ends.values[node] = kept
        for node, error in recorder.kept_errors():
            ends.fail(node, error)
        ends.left.update(recorder.kept_held(state.held, state.plan.names))
        if state.error:
            growing.failure = RuleError(state.error)
        state.ask_again()
        return state

    def reopen(self, state: State, roots: Iterable[int], spared: Collection[int], ends: Ends) -> None:
        """Let a run that was restored run again as far as it has ended, when it begins, see `reopening.to_reopen`."""
        self.again = to_reopen(state, roots, spared)
        ends.forget(self.again)

    def take_given(self, values: list[Any]) -> None:
        """Put the values that are given where values are kept, and into the record."""
        for node, (value, _) in self._given.items():
            values[node] = value
            if self._recorder is not None:
                self._recorder.keep(node, value)

    def uses(self, state: State, place: str, backend: Backend) -> list[Use]:
        """Return what an earlier process of the run left under way in a place where that goes on."""
        if self._recorder is None or not backend.capabilities.survives:
            return []
        return uses(state, place)

    def stimuli(
        self, state: State, values: Sequence[Any], sources: Sources, now: float, spared: Collection[int]
    ) -> list[Stimulus]:
        """Return what the machine has to be told before anything runs.

        Args:
            state, values: of the run.
            sources: for a node, those whose values it needs.
            now: the time of the run's clock.
            spared: the workers that did not go with an earlier process.
        """
        again = self.again or ()
        unended = [node for node, status in enumerate(state.status) if status < COMPLETED and node not in state.held]
        lost = self.lost(state, values, sources, [*unended, *again])
        if again:
            lost = [node for node in lost if node not in set(again)]
        reasons = {node: reason for node, (_, reason) in self._given.items()}
        return beginning(state, now, reasons, self._omitted, lost, self.again, spared)

    def lost(self, state: State, values: Sequence[Any], sources: Sources, nodes: Iterable[int]) -> list[int]:
        """Return the nodes whose values these ones need, and an earlier process could not keep."""
        return [] if self._recorder is None else values_lost(state, values, sources, nodes)
