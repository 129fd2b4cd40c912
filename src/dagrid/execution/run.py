"""A handle on a run: wait for it, cancel it, read its events, ask why something does not run. It decides nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import time
from typing import Any, Protocol, TypeGuard

import msgspec

from dagrid.errors import InvalidSettingError, RunError, RunTimeoutError, UnknownNodeError
from dagrid.execution.carriers import carry
from dagrid.execution.engine import Engine, Settable
from dagrid.execution.results import ExecutionResult, NodeResult, NodeStatus
from dagrid.execution.signalling import Signals
from dagrid.graph.node import NodeRef, node_id
from dagrid.interrupts import INTERRUPTED, HeldInterrupts
from dagrid.machine.events import Kind
from dagrid.machine.explain import explain
from dagrid.machine.state import Status
from dagrid.ports import Observer, Onlooker, RunEvent

INTERRUPT_GRACE = 0.5
GATHERED = 0.05
"""For so many seconds events are gathered for an observer, whose thread would else be woken for each of them."""
_UNENDED = frozenset(NodeStatus(status.name.lower()) for status in Status if not status.terminal)
_WORDS = {kind: kind.name.lower() for kind in Kind}
_CLOSING = threading.Lock()


class Changed(Settable, Protocol):
    """An event of those who read what happens."""

    def clear(self) -> None: ...


class _Stirring:
    """An event that has those who wait for the run look up when it is set."""

    __slots__ = ("_is_set", "_stir")

    def __init__(self, stir: Callable[[], object]) -> None:
        self._stir = stir
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._stir()

    def clear(self) -> None:
        self._is_set = False


class _Told:
    """An event that calls a function when it is set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def is_set(self) -> bool:
        return False  # it wants to hear of everything

    def set(self) -> None:
        self._call()


def checked_observers(given: Iterable[Observer | Onlooker] | None) -> list[Observer | Onlooker]:
    """Return what was given as observers, where None is none; before the run begins, for one that fails then has nobody's handle.

    Raises:
        InvalidSettingError: something cannot look at a run, or it is no list of them.
    """
    if not given:
        return []
    if _is_onlooker(given) or not isinstance(given, Iterable):
        raise InvalidSettingError(
            f"observers is a list of readers and onlookers of the run; write observers=[{given!r}]."
        )
    found = list(given)
    for one in found:
        if isinstance(one, type) or not _is_onlooker(one):
            raise InvalidSettingError(f"observers holds objects with begin(run) and end(), not {one!r}.")
    return found


def _is_onlooker(found: object) -> TypeGuard[Onlooker]:
    """Return what `isinstance` does, which looks through the protocol each time, for every run."""
    return hasattr(found, "begin") and hasattr(found, "end")


def _is_observer(found: Onlooker) -> TypeGuard[Observer]:
    return hasattr(found, "observe")


class Run:
    """One execution of a graph, under way or over. `await run` waits for it and blocks neither the event loop nor its threads.

    When a task that awaits it is cancelled (`asyncio.timeout`, or Ctrl-C under `asyncio.run`), the run is cancelled with it, as
    an `asyncio.Task` would be; whoever else awaits it gets its result. The task is held up until the run has ended, for half a
    second at most, or until its handlers have run. `await asyncio.shield(run)` leaves the run alone.

    Attributes:
        id: what it is called in its checkpoint, if it has one.
        since: how many seconds it had been going on when this process took it up; 0 where it began here.
        name: that of its graph, if it has one.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        traced: bool = True,
        observers: Sequence[Observer | Onlooker] = (),
        release: Callable[[], None] | None = None,
        run_id: str = "",
        since: float = 0.0,
        name: str | None = None,
        view: bool = False,
    ) -> None:
        self.id = run_id
        self.since = since
        self.name = name or ""
        self._view = view
        self._own_signals: Signals | None = None
        self._engine = engine
        self._traced = traced
        self._release = release
        self._closed = False
        self._released = False
        self._releasing = threading.Lock()
        self._starter = threading.get_ident()
        self._readers: list[threading.Event] = []
        self._onlookers: list[Onlooker] = []
        for observer in observers:
            if _is_observer(observer):
                ended = threading.Event()
                self._readers.append(ended)
                carry(partial(self._read, observer, ended), "dagrid-reader")
            else:
                self._onlookers.append(observer)
        try:
            for onlooker in self._onlookers:
                onlooker.begin(self)
        except BaseException:
            engine.cancel("an onlooker could not begin")  # nobody will have the handle
            raise

    def __repr__(self) -> str:
        return f"<Run: {self.ended} of {self.total} nodes have ended>"

    @property
    def done(self) -> bool:
        """Whether every node has ended."""
        return self._engine.done.is_set() and not self._engine.detached

    @property
    def total(self) -> int:
        """How many nodes there are; more while a graph grows."""
        return len(self._engine.state.status)

    @property
    def ended(self) -> int:
        """How many nodes have ended, well or not."""
        state = self._engine.state
        return len(state.status) - state.remaining

    @property
    def seconds(self) -> float:
        """How long the run has been going on, or took."""
        engine = self._engine
        return (engine.ended if self.done else engine.now()) - engine.began

    @property
    def began(self) -> float:
        """When the run began, in seconds since 1970; the times of its events count from there."""
        return time() - (self._engine.now() - self._engine.began)

    def wait(self, timeout: float | None = None) -> ExecutionResult:
        """Wait for the end of the run.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: the run goes on, and can be waited for again.
            RunError: this is a view of a run that has not ended; whoever has it can wait for it.
        """
        self._check_own("waited for")
        if not self._engine.attend(timeout):
            raise TimeoutError(f"The run has not ended after {timeout:g} s; it goes on. Wait again, or cancel it.")
        self._close()
        return self.result()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended (True), or nothing can happen any more until somebody gives a signal (False).

        Raises:
            TimeoutError: after `timeout` seconds neither holds.
            RunError: this is a view of a run that has not ended.
        """
        self._check_own("waited for")
        if not self._signals.settle(timeout):
            raise TimeoutError(f"The run has not settled after {timeout:g} s; it goes on. Wait again, or cancel it.")
        if self.done:
            self._close()
        return self.done

    @property
    def waiting(self) -> tuple[str, ...]:
        """The nodes that wait for a signal, see `dagrid.WaitForSignal`."""
        return self._signals.waiting

    def held(self, name: NodeRef) -> tuple[str, Any]:
        """Return what a node says that it waits for, and the value that its task left.

        Raises:
            UnknownNodeError: there is no such node.
            RunError: it does not wait for a signal.
        """
        return self._signals.held(self._number(name))

    def signal(self, name: NodeRef, value: Any = None) -> None:
        """Complete a node that waits for a signal, with this value.

        Raises:
            UnknownNodeError: there is no such node.
            RunError: it does not wait for a signal, was given one already, or this is a view.
        """
        self._check_own("signalled")
        self._signals.give(self._number(name), value)

    def reject(self, name: NodeRef, reason: str = "no reason was given") -> None:
        """Fail a node that waits for a signal. Raises as `signal` does."""
        self._check_own("signalled")
        self._signals.refuse(self._number(name), reason)

    def again(self, name: str) -> None:
        """Perform a node again that waits for a signal: it may find what it waits for, or wait on. Raises as `signal` does."""
        self._check_own("signalled")
        self._signals.again(self._number(name))

    def detach(self) -> None:
        """Give up a run that waits for signals only: its store says "waiting", and who resumes it goes on and can signal it.

        Raises:
            RunError: it has no checkpoint, has ended, or something goes on in it (`settle` tells when nothing does).
            StaleEpochError: somebody else has taken the run over.
        """
        self._check_own("given up")
        self._signals.detach()
        self._close()

    def wait_or_interrupt(self, held: HeldInterrupts) -> ExecutionResult:
        """Wait for the end; Ctrl-C, also one that was held, cancels the run, and the result says so.

        Raises:
            KeyboardInterrupt: a second one (a third one, where there are handlers, which the second stops), or one that came too
                late to cancel anything.
        """
        try:
            held.deliver()
            return self.wait()
        except KeyboardInterrupt:
            self.cancel(INTERRUPTED)
            result = self._wait_for_the_end()
            if not self._engine.state.cancelled:
                raise
            return result

    def _wait_for_the_end(self) -> ExecutionResult:
        """Wait for a run that was interrupted: for what has its time of grace, and for handlers, which Ctrl-C stops too."""
        try:
            return self.wait()
        except KeyboardInterrupt:
            if not self._engine.state.plan.handlers:
                raise
            self.cancel(INTERRUPTED)
            return self.wait()

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop the run: nothing new starts, what runs is stopped where the backend can, the rest is cancelled.

        Handlers run then; a second time this stops them too.
        """
        self._check_own("cancelled")
        self._engine.cancel(reason)

    def let_go(self) -> None:
        """Do nothing more for a run with a checkpoint here, whatever is under way: who resumes it goes on from its record.

        Of several that hear of each other all are let go of before one is closed.
        """
        self._check_own("let go of")
        self._engine.let_go()

    def watch(self, call: Callable[[], object]) -> None:
        """Have a function called whenever something has happened, and at the end; from any thread, so it must be short."""
        self._engine.watch(_Told(call))

    @property
    def settled(self) -> bool:
        """Whether the run has ended, or nothing can happen any more until somebody gives a signal."""
        return self._signals.settled()

    def result(self) -> ExecutionResult:
        """Return the result of a run that has ended.

        Raises:
            RunError: it has not; `counts()`, `status(name)` and `events()` say how it stands.
        """
        if self._engine.detached:
            raise RunError("The run was given up in this process. Take it over with dagrid.assemble.restart.")
        if not self.done:
            raise RunError("The run has not ended, so it has no result. Wait for it with wait(), or await it.")
        self._leave()
        return self._result()

    def _result(self) -> ExecutionResult:
        engine = self._engine
        names = engine.growing.names
        failure = engine.failure or engine.growing.failure
        if failure is None and engine.state.expired:
            failure = RunTimeoutError(f"The run took longer than its {engine.state.expired}.")
        return ExecutionResult(
            engine.state,
            engine.values,
            engine.ends.errors,
            engine.began,
            engine.ended,
            failure,
            names,
            self._traced,
            engine.backend_name,
            self.name or None,
        )

    @property
    def names(self) -> list[str]:
        """The names of all nodes that the graph has by now."""
        return list(self._engine.state.plan.names)

    def counts(self) -> dict[str, int]:
        """Return how many nodes have each status at this moment."""
        return {status.name.lower(): self._engine.state.count(status) for status in Status}

    def running(self, limit: int | None = None) -> list[str]:
        """Return the names of the nodes that run at this moment, in order of insertion, no more than `limit`."""
        state = self._engine.state
        found: list[str] = []
        node = state.status.find(Status.RUNNING)
        while node >= 0 and (limit is None or len(found) < limit):
            found.append(state.plan.names[node])
            node = state.status.find(Status.RUNNING, node + 1)
        return found

    def status(self, name: NodeRef) -> NodeStatus:
        """Return where a node stands at this moment."""
        return NodeStatus(Status(self._engine.state.status[self._number(name)]).name.lower())

    def node_result(self, name: NodeRef, *, value: bool = True) -> NodeResult:
        """Return what has become of a node so far; without its value, if that is not to be opened.

        Raises:
            UnknownNodeError: there is no such node.
        """
        told = self._result().node_result(name, value=value)
        return msgspec.structs.replace(told, error=None) if self.status(name) in _UNENDED else told

    def elsewhere(self) -> dict[str, str]:
        """Return the nodes that are with workers which go on when the process of the run ends, each with its worker."""
        state = self._engine.state
        found: dict[str, str] = {}
        for status in (Status.QUEUED, Status.RUNNING):
            node = state.status.find(status)
            while node >= 0:
                worker = state.workers.get(state.where[node])
                if worker is not None and worker.survives:
                    found[state.plan.names[node]] = worker.name
                node = state.status.find(status, node + 1)
        return found

    def explain(self, name: NodeRef) -> str:
        """Return in words why a node is not running, or how it ended.

        Raises:
            UnknownNodeError: there is no such node.
        """
        return explain(self._engine.state, self._number(name), self._engine.now())

    def events(self, follow: bool = True, since: int = 0) -> Iterator[RunEvent]:
        """Yield the facts of the run in their order.

        Args:
            follow: wait for further ones until the run has ended; otherwise, and in a view, stop at the last one there is. The
                thread that started the run waits for it then as in `wait`: what needs its thread runs there.
            since: the number of the first one (`RunEvent.sequence`).

        Raises:
            InvalidSettingError: the number is below 0.
        """
        if since < 0:
            raise InvalidSettingError(f"since is the number of an event, counted from 0; not {since!r}.")
        if threading.get_ident() == self._starter:
            own = _Stirring(self._engine.stir)
            batches = self._batches(own if follow else None, partial(self._engine.attend, None, own.is_set), since)
        else:
            changed = threading.Event()
            batches = self._batches(changed if follow else None, changed.wait, since)
        for batch in batches:
            yield from batch
        if follow and self.done:
            self._leave()

    def __await__(self) -> Generator[Any, None, ExecutionResult]:
        return self._awaited().__await__()

    async def _awaited(self) -> ExecutionResult:
        import asyncio

        self._check_own("waited for")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[ExecutionResult] = loop.create_future()
        ended.add_done_callback(asyncio.Future.exception)  # nobody may look at it any more

        def deliver() -> None:
            try:
                tell = partial(ended.set_result, self.wait())
            except BaseException as error:  # noqa: BLE001  # it is for whoever awaits the run
                tell = partial(ended.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(tell)

        self._engine.follow(partial(carry, deliver, "dagrid-awaited"))
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            stop = partial(carry, partial(self.cancel, "cancelled with the task that awaited it"), "dagrid-cancel")
            stop()
            try:
                await asyncio.wait([ended], timeout=None if self._engine.state.plan.handlers else INTERRUPT_GRACE)
            except asyncio.CancelledError:
                stop()  # the handlers too
                await asyncio.wait([ended], timeout=INTERRUPT_GRACE)
            raise
        return ended.result()

    def _batches(self, changed: Changed | None, wait: Callable[[], object], since: int = 0) -> Iterator[list[RunEvent]]:
        """Yield what has happened, and what happens: `changed` is set then, and `wait` waits for it; None waits for nothing."""
        if changed is None or self._view:
            yield from self._read_on(None, wait, since)
            return
        self._engine.watch(changed)
        try:
            yield from self._read_on(changed, wait, since)
        finally:
            self._engine.unwatch(changed)

    def _read_on(self, changed: Changed | None, wait: Callable[[], object], position: int) -> Iterator[list[RunEvent]]:
        engine = self._engine
        while True:
            over = engine.done.is_set()
            until = engine.readable
            if until > position:
                yield self._told(position, until)
                position = until
            if changed is None or over:
                return
            wait()
            changed.clear()

    def _told(self, since: int, until: int) -> list[RunEvent]:
        """Return the facts between two positions of the journal as events."""
        state, began = self._engine.state, self._engine.began
        names, workers = state.plan.names, state.workers
        told = []
        for sequence, fact in enumerate(state.facts(since, until), since):
            node, worker, at = fact.node, workers.get(fact.worker), fact.at - began
            about, number = (names[node], fact.number + 1) if node >= 0 else ("", 0)
            who = worker.name if worker is not None else ""
            told.append(RunEvent(sequence, at if at > 0.0 else 0.0, _WORDS[fact.kind], about, number, who, fact.detail))
        return told

    def _read(self, observer: Observer, ended: threading.Event) -> None:
        changed = threading.Event()

        def gather() -> None:
            changed.wait()
            self._engine.done.wait(GATHERED)

        try:
            observer.begin(self)
            try:
                for batch in self._batches(changed, gather):
                    observer.observe(batch)
            finally:
                observer.end()
        finally:
            ended.set()

    def close(self) -> None:
        """Let go of what a view has open, or a run that was let go of: no more of its values are wanted.

        Other runs do that at their end.
        """
        if self._view or self._engine.detached:
            self._close()

    @property
    def _signals(self) -> Signals:
        with _CLOSING:
            if self._own_signals is None:
                self._own_signals = Signals(self._engine)
            return self._own_signals

    def _check_own(self, what: str) -> None:
        if self._view and not self.done:
            raise RunError(
                f"This is a view of a run that goes on elsewhere, or has stopped, so it cannot be {what}. Take it over with "
                f"dagrid.assemble.restart, or look again with view."
            )

    def _close(self) -> None:
        with _CLOSING:
            if self._closed:
                return
            self._closed = True
        self._vacate()
        for onlooker in self._onlookers:
            onlooker.end()
        for reader in self._readers:
            reader.wait()

    def _leave(self) -> None:
        """Let go of the place of a run that has ended, for who has seen that may never wait for it. Its observers may look on."""
        if not self._view:
            self._vacate()

    def _vacate(self) -> None:
        """Let go of the place where the run is performed; who comes meanwhile waits until that is done."""
        with self._releasing:
            if not self._released:
                self._released = True
                self._engine.close()
                if self._release is not None:
                    self._release()

    def _number(self, node: NodeRef) -> int:
        index = self._engine.state.plan.index
        name = node_id(node, self.name or None)
        if name not in index:
            raise UnknownNodeError.of(name, index, "The run has no node")
        return index[name]
