"""How somebody answers nodes that wait for it; and how a run is waited for, or given up, in which nothing else can happen.

It knows the state and the record of one run; when an answer is taken is for the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from dagrid.errors import RunError, TaskError
from dagrid.execution.clock import Flag
from dagrid.execution.ends import Ends
from dagrid.execution.recording import Recorder
from dagrid.machine.events import NODE_MASK, Again, Rejected, Signalled, Stimulus, attempt_id
from dagrid.machine.state import State, Status
from dagrid.ports import opened


class Waited(Protocol):
    """What is needed here of the engine."""

    state: State
    done: Flag
    detached: bool
    recorder: Recorder | None
    now: Callable[[], float]

    @property
    def ends(self) -> Ends: ...

    def report(self, events: Sequence[Stimulus]) -> None: ...

    def attend(self, timeout: float | None, enough: Callable[[], bool]) -> bool: ...

    def holding(self) -> AbstractContextManager[None]: ...

    def is_stuck(self) -> bool: ...

    def abandon(self) -> None: ...


class Signals:
    """Answers the nodes of one run that wait for somebody, each once."""

    def __init__(self, engine: Waited) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._answered: set[int] = set()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The nodes that wait."""
        state = self._engine.state
        return tuple([state.plan.names[node] for node in sorted(state.held.copy())])

    def held(self, node: int) -> tuple[str, Any]:
        """Return what a node says that it waits for, and what its task left. Raises RunError: it does not wait."""
        attempt = self._attempt(node)
        return self._engine.state.held[attempt & NODE_MASK], opened(self._engine.ends.left.get(node))

    def give(self, node: int, value: Any) -> None:
        """Complete a node that waits. Raises RunError: it does not wait, or was answered already."""
        engine = self._engine
        with self._lock:
            attempt = self._unanswered(node)
            if engine.recorder is not None:
                engine.recorder.keep(attempt, value)
            self._answered.add(attempt)
            engine.report([Signalled(engine.now(), attempt, value)])

    def refuse(self, node: int, reason: str) -> None:
        """Fail a node that waits. Raises RunError: it does not wait, or was answered already."""
        engine = self._engine
        name = engine.state.plan.names[node]
        with self._lock:
            attempt = self._unanswered(node)
            self._answered.add(attempt)
            error = TaskError(f"Node {name!r} was rejected: {reason}", name)
            engine.report([Rejected(engine.now(), attempt, f"rejected: {reason}", error)])

    def again(self, node: int) -> None:
        """Have a node performed again that waits. Raises RunError: it does not wait, or was answered already."""
        with self._lock:
            self._engine.report([Again(self._engine.now(), self._unanswered(node))])

    def settle(self, timeout: float | None) -> bool:
        """Wait until the run has settled; False when `timeout` seconds are over before."""
        return self._engine.attend(timeout, self.settled)

    def settled(self) -> bool:
        """Return whether the run has ended, or nothing can happen any more until somebody gives a signal."""
        engine = self._engine
        if engine.done.is_set():
            return True
        if not engine.state.held:
            return False
        with engine.holding():
            return engine.is_stuck()

    def detach(self) -> None:
        """Give the run up here, while nobody is about to answer: whoever takes it over goes on with it.

        Raises:
            RunError: it has no checkpoint, has ended, or something goes on in it.
        """
        engine = self._engine
        if engine.recorder is None:
            raise RunError(
                "The run has no checkpoint from which it could go on. Keep it, or start it with checkpoint=..."
            )
        with self._lock, engine.holding():
            self._check_kept()
            if engine.done.is_set():
                raise RunError("The run has ended, and waits for nobody.")
            if not engine.is_stuck():
                raise RunError("Something goes on in the run. Give it up when settle() has returned False.")
            engine.recorder.park()
            engine.abandon()

    def _check_kept(self) -> None:
        if self._engine.detached:
            raise RunError("The run was given up in this process. Take it over with dagrid.assemble.restart.")

    def _unanswered(self, node: int) -> int:
        attempt = self._attempt(node)
        if attempt in self._answered:
            raise RunError(f"Node {self._engine.state.plan.names[node]!r} was given a signal already.")
        return attempt

    def _attempt(self, node: int) -> int:
        self._check_kept()
        state = self._engine.state
        if node not in state.held or self._engine.done.is_set():
            word = Status(state.status[node]).name.lower().replace("_", " ")
            raise RunError(f"Node {state.plan.names[node]!r} does not wait for a signal: it is {word}.")
        return attempt_id(node, state.number_of(node))
