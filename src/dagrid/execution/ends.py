"""What the end of an attempt brings: a value, or an exception by which its task may ask for something else. What is kept of it.

It is opened outside of the lock, for that calls the user's code, and kept under it. Whether an end counts, and what follows from
it, is for the machine. Nothing is known here of the lock, of the store, or of the place that performed the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dagrid.attempt import Extra
from dagrid.errors import CapabilityError, InvalidPatchError, RepeatTask, SkipTask, WaitForSignal
from dagrid.execution.faults import described, error_of, said
from dagrid.execution.growing import Growing
from dagrid.interrupts import is_interrupt
from dagrid.machine.events import NODE_MASK, Finished, Outcome, Rejected, Signalled
from dagrid.machine.signals import runs_no_more, waits
from dagrid.machine.state import State
from dagrid.ports import AWAITED, opened


def open_error(event: Finished, state: State, draw: Callable[[], float], apart: bool) -> None:
    """Open the exception of a failed attempt, and see what its task wanted by it and whether it is worth another try.

    Args:
        event: changed in place.
        state: of the run.
        draw: returns random numbers in [0, 1).
        apart: whether this is a part of a graph, whose nodes can say nothing to those of others.
    """
    node = event.attempt & NODE_MASK
    _take_wish(event, error_of(event, state.plan.names[node]), state, apart)
    if event.outcome != Outcome.FAILED:
        return
    error, retry = event.value, state.plan.retries.get(node)
    event.error = described(error)
    event.draw = draw()
    event.retryable = event.retryable and retry is not None and isinstance(error, retry.on)
    event.retryable = event.retryable and said(error, "retryable", True)
    event.tolerated = not apart and said(error, "tolerated", False)


def open_extra(event: Finished, state: State, growing: Growing, apart: bool) -> None:
    """Open what a task left beside its value, in place; a patch that is not one, or of a part, fails the attempt."""
    node = event.attempt & NODE_MASK
    try:
        extra: Extra = opened(event.extra)
        event.extra = extra
        event.note = extra.note
        if extra.patch is not None and apart:
            raise CapabilityError("A node of a part of a graph cannot append to it. Run the graph with DAG.run.")
        event.growth = growing.left_by(extra, state.plan.adds.get(node), state.plan.settings)
        if event.growth is not None and node in state.plan.handlers:
            raise InvalidPatchError("A handler runs when the graph has ended, and appends nothing to it.")
        if event.growth is not None and growing.kept:
            raise InvalidPatchError(
                f"The setup node {state.plan.names[node]!r} runs before all runs of its graph, and what it appends would be in "
                f"none of them. Let another node append it."
            )
    except BaseException as error:  # the user's code, and a patch that is not one fails the attempt
        if is_interrupt(error):
            raise
        event.outcome, event.value, event.growth, event.extra = Outcome.FAILED, error, None, None


def _take_wish(event: Finished, error: BaseException, state: State, apart: bool) -> None:
    """Make of a failure what the task wanted by it, if it wanted anything; else give it the error as its value."""
    event.value = error
    if isinstance(error, SkipTask):
        event.outcome, event.error = Outcome.SKIPPED, str(error)
    elif isinstance(error, RepeatTask):
        done = runs_no_more(state, event.attempt & NODE_MASK)
        if done and error.instead is not None:
            _take_wish(event, error.instead, state, apart)
            return
        event.outcome, event.error = Outcome.COMPLETED if done else Outcome.REPEATED, ""
        event.value = error.value
    elif isinstance(error, WaitForSignal) and apart:
        said = "A node of a part of a graph cannot wait for a signal. Run the graph with DAG.start."
        event.value = CapabilityError(said)
    elif isinstance(error, WaitForSignal):
        event.outcome, event.error = Outcome.HELD, error.prompt
        event.value = error.value


class Ends:
    """What the nodes of one run left; all of it is called under the lock.

    Attributes:
        values: those of the run, by node number.
        errors: by node number, what failed it.
        left: by node number, what a task left that waits for a signal.
    """

    __slots__ = ("_keys", "errors", "left", "values")

    def __init__(self, values: list[Any], keys: dict[int, str]) -> None:
        """Take where values are kept, and the keys under which those of cached nodes are kept between runs."""
        self.values = values
        self._keys = keys
        self.errors: dict[int, BaseException] = {}
        self.left: dict[int, Any] = {}

    def keep(self, event: Finished, state: State) -> None:
        """Keep what an attempt brought, if it is the one that counts."""
        if not state.accepts(event.attempt):
            return
        node = event.attempt & NODE_MASK
        if event.outcome == Outcome.COMPLETED:
            self.values[node] = event.value
            self.errors.pop(node, None)
            if event.extra is not None and event.extra.key:
                self._keys[node] = event.extra.key
            return
        if self.values[node] is AWAITED:  # who was to ride on it may run without its value
            self.values[node] = None
        if event.outcome == Outcome.FAILED:
            self.fail(node, event.value)
        elif event.outcome == Outcome.HELD:
            self.left[node] = event.value

    def keep_answer(self, event: Signalled | Rejected, state: State) -> None:
        """Keep what somebody said to a node that waits for it."""
        if not waits(state, event.attempt):
            return
        node = event.attempt & NODE_MASK
        self.left.pop(node, None)
        if isinstance(event, Signalled):
            self.values[node] = event.value
            self.errors.pop(node, None)
        else:
            self.errors[node] = event.error

    def fail(self, node: int, error: BaseException) -> None:
        """Keep what failed a node, with the value that an exception may have left in spite of that."""
        self.errors[node] = error
        self.values[node] = getattr(error, "left", None)

    def forget(self, nodes: Iterable[int]) -> None:
        """These nodes run again: what they left is of no use any more."""
        for node in nodes:
            self.values[node] = None
            self.errors.pop(node, None)
