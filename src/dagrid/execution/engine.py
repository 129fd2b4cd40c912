"""The only loop: take events from the inbox, let the machine decide, perform its commands. It holds the user's values.

The engine is a monitor: any thread may step it under its lock. Who reports and finds the lock taken leaves, for the holder looks
at the inbox again before it goes. User code (tasks, rules, pickling) never runs under the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

from dagrid.errors import DagridError, GraphLimitError, InternalError, RuleError, TaskError, TransferError
from dagrid.execution.binding import Binder, Bindings, check_sources
from dagrid.execution.clock import REAL_CLOCK, let_others_run
from dagrid.graph.node import Node
from dagrid.graph.rules import Patch, Rule, View, check_declared, check_patch, check_sealed
from dagrid.machine.commands import Cancel, Command, Evaluate, Finish, Perform, Recall, SetTimer, Wake
from dagrid.machine.decide import IDLE, SLOW, advance, decide
from dagrid.machine.events import (
    NODE_MASK,
    Asked,
    CancelRequested,
    Finished,
    Outcome,
    RuleEvaluated,
    Stimulus,
    TimerDue,
)
from dagrid.machine.plan import Plan
from dagrid.machine.state import State, Status
from dagrid.ports import Backend, Bundle, Call, Clock, Session, opened

PATIENCE = 1_000
INTERRUPTED = "interrupted by Ctrl-C"


class Engine:
    """One run: a machine's state, the values of its nodes, and a session of the backend where attempts are performed."""

    def __init__(
        self,
        plan: Plan,
        binder: Binder,
        bindings: Bindings,
        backend: Backend,
        clock: Clock,
        draw: Callable[[], float],
        rules: Sequence[Rule] = (),
    ) -> None:
        self.state = State(plan, [rule.optional for rule in rules], [rule.adds for rule in rules])
        self.values: list[Any] = [None] * len(plan)
        self.errors: dict[int, BaseException] = {}
        self.rules = list(rules)
        self._most_rules = len(self.rules) + plan.settings.max_nodes
        self.clock = clock
        self.now = clock.now
        self.draw = draw
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.began = 0.0
        self.ended = 0.0
        self._backend = backend
        self._binder = binder
        self._bindings = bindings
        self._fns = bindings.fns
        self._single = bindings.single
        self._gather = bindings.gather
        self._kwargs = bindings.kwargs
        self._names = plan.names
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._inbox: deque[Stimulus] = deque()
        self._questions: deque[int] = deque()
        self._asking = threading.Lock()
        self._timers: list[tuple[float, int, int]] = []
        self._armed: tuple[float, Callable[[], None]] | None = None
        self._watchers: list[threading.Event] = []
        self._workers = count()
        self._lent = False
        self._stirred = threading.Event()

    def start(self) -> None:
        """Open the backend and begin; returns at once."""
        self.began = self.now()
        with self._lock:
            self._session = self._backend.open(self)
            self._step(())
        self._after()
        if self.failure is not None and not self.state.finished:
            self.close()
            raise self.failure

    def attend(self, timeout: float | None = None) -> bool:
        """Wait for the end, and lend the calling thread to a backend that has none of its own.

        Returns:
            Whether the run has ended; False when `timeout` seconds are over before.
        """
        session = self._session
        assert session is not None
        if not session.attend():
            return self.done.wait(timeout)
        until = None if timeout is None else REAL_CLOCK.now() + timeout
        self._lent = True
        while True:
            self._stirred.clear()
            session.attend()
            left = None if until is None else until - REAL_CLOCK.now()
            if self.done.is_set() or (left is not None and left <= 0):
                return self.done.is_set()
            self._stirred.wait(left)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to stop: nothing new starts, and what runs is stopped where that is possible."""
        self.report([CancelRequested(self.now(), reason)])

    def close(self) -> None:
        """End the use of the backend; called when the run is over."""
        if self._session is not None:
            self._session.close()

    def watch(self) -> threading.Event:
        """Return an event that is set whenever there are new facts; the reader clears it."""
        event = threading.Event()
        self._watchers = [*self._watchers, event]
        return event

    def unwatch(self, event: threading.Event) -> None:
        """Set an event of `watch` no longer."""
        self._watchers = [each for each in self._watchers if each is not event]

    # --- what a backend may ask of its host ------------------------------------------------------------------------------

    def new_worker(self) -> int:
        """Return a number for a worker."""
        return next(self._workers)

    def report(self, events: Sequence[Stimulus]) -> None:
        """Push events into the run."""
        for event in events:
            if type(event) is Finished:
                self._prepare(event)
        self._inbox.extend(events)
        self._after()

    def next(self, worker: int) -> Call | None:
        """Give a worker that pulls its next call."""
        return self._exchange(worker, ())

    def completed(self, worker: int, call: Call, value: Any, started: float, ended: float) -> Call | None:
        """Take a value from a worker that pulls, and give it its next call."""
        attempt = call.attempt
        lock = self._lock
        if not lock.acquire(False):
            self._enter()
        try:
            state = self.state
            following = advance(state, attempt, worker, started, ended)
            reply: Call | None
            if following >= 0 and not self._watchers and not (state.heap and state.idle):
                self.values[attempt] = value
                reply = self._call(following)
            elif following == SLOW:
                done = Finished(worker, attempt, Outcome.COMPLETED, started, ended, value)
                reply = self._step((done, Asked(worker, ended)), worker)
            else:
                self.values[attempt] = value
                reply = self._step((Asked(worker, ended),) if following == IDLE else (), worker)
                if following >= 0:
                    reply = self._call(following)
        except Exception as error:  # noqa: BLE001  # a fault of ours must end the run, not the worker
            self.failure = _fault(error)
            self._end()
            reply = None
        finally:
            lock.release()
        if self._inbox or self._questions:
            self._after()
        return reply

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        """Take an exception from a worker that pulls, and give it its next call."""
        event = Finished(worker, call.attempt, Outcome.FAILED, started, ended, error)
        self._prepare(event)
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            return self._exchange(worker, (event, CancelRequested(ended, INTERRUPTED)))
        return self._exchange(worker, (event,))

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Take the lock without sleeping on it.

        Its holder may have lost the interpreter in the middle. Who sleeps on a lock is given it while another thread has the
        interpreter; that thread then finds the lock taken and sleeps on it in turn, and so every node costs two hand-overs. So
        this gives the interpreter away instead, and tries again when it is back.
        """
        for _ in range(PATIENCE):
            if self._lock.acquire(False):
                return
            let_others_run()
        self._lock.acquire()

    def _exchange(self, worker: int, events: Sequence[Stimulus]) -> Call | None:
        self._enter()
        try:
            reply = self._step([*events, Asked(worker, self.now())], worker)
        finally:
            self._lock.release()
        self._after()
        return reply

    def _drain(self) -> bool:
        """Take what is in the inbox; False when somebody holds the lock, who will look there and at the questions."""
        while self._inbox:
            if not self._lock.acquire(blocking=False):
                return False
            try:
                self._step(())
            finally:
                self._lock.release()
        return True

    def _after(self) -> None:
        """Take what came in, and ask the rules that the machine wants to know, outside of the lock, one at a time.

        Who asks also hands in the answer: the graph does not grow while a rule looks at it.
        """
        while self._drain():
            if not self._questions or not self._asking.acquire(blocking=False):
                return
            try:
                while self._questions:
                    answer = self._evaluate(self._questions.popleft())
                    self._enter()
                    try:
                        self._step((answer,))
                    finally:
                        self._lock.release()
            finally:
                self._asking.release()

    def _step(self, events: Sequence[Stimulus], worker: int = -1) -> Call | None:
        """Under the lock: take the inbox and these events, decide, perform. Return the call for the worker that asks."""
        try:
            return self._decide_and_perform(events, worker)
        except Exception as error:  # noqa: BLE001  # a fault of ours or of a backend must end the run, not leave it hanging
            self.failure = error
            self._end()
            return None

    def _decide(self, stimuli: Sequence[Stimulus]) -> list[Command]:
        try:
            return decide(self.state, stimuli, self.now())
        except DagridError:
            raise
        except Exception as error:
            raise _fault(error) from error

    def _end(self) -> None:
        self.ended = self.now()
        self._disarm()
        self.done.set()
        self._stirred.set()
        for watcher in self._watchers:
            watcher.set()

    def _decide_and_perform(self, events: Sequence[Stimulus], worker: int) -> Call | None:
        stimuli: list[Stimulus] = []
        grown: list[RuleEvaluated] = []
        while self._inbox:
            stimuli.append(self._inbox.popleft())
        for event in events:
            if type(event) is RuleEvaluated:
                grown.append(event)
            else:
                stimuli.append(event)
        for event in stimuli:
            if type(event) is Finished and self.state.current(event.attempt):
                self._keep(event)
        commands = self._decide(stimuli) if stimuli or not grown else []
        for answer in grown:
            commands += self._grow(answer)
        reply: Call | None = None
        for command in commands:
            if type(command) is Perform and command.worker == worker:
                reply = self._call(command.attempts[0])
            else:
                self._perform(command)
        for watcher in self._watchers:
            watcher.set()
        return reply

    def _perform(self, command: Command) -> None:
        session = self._session
        assert session is not None
        if isinstance(command, Perform):
            session.perform(Bundle(command.worker, [self._call(attempt) for attempt in command.attempts]))
        elif isinstance(command, Wake):
            session.wake(command.worker)
            if self._lent:
                self._stirred.set()
        elif isinstance(command, SetTimer):
            self._set_timer(command)
        elif isinstance(command, Recall):
            session.recall(command.worker, command.attempts)
        elif isinstance(command, Cancel):
            session.cancel(command.worker, command.attempt)
        elif isinstance(command, Evaluate):
            self._questions.append(command.rule)
        elif isinstance(command, Finish):
            self._end()

    def _call(self, attempt: int) -> Call:
        node = attempt & NODE_MASK
        values = self.values
        named = self._kwargs[node]
        single = self._single[node]
        return Call(
            attempt,
            self._names[node],
            self._fns[node],  # type: ignore[arg-type]  # a node without a task is passed over and never gets here
            (values[single],) if single >= 0 else self._gather[node](values),
            dict(zip(named, map(values.__getitem__, named.values()), strict=True)) if named else None,
        )

    def _prepare(self, event: Finished) -> None:
        """Outside of the lock: open the exception of a failed attempt and see whether it is worth another try."""
        if event.outcome != Outcome.FAILED:
            return
        error = event.value = _error_of(event, self._names[event.attempt & NODE_MASK])
        event.error = _described(error)
        event.draw = self.draw()
        retry = self.state.plan.retries.get(event.attempt & NODE_MASK)
        event.retryable = event.retryable and retry is not None and isinstance(error, retry.on)

    def _keep(self, event: Finished) -> None:
        node = event.attempt & NODE_MASK
        if event.outcome == Outcome.COMPLETED:
            self.values[node] = event.value
            self.errors.pop(node, None)
        elif event.outcome == Outcome.FAILED:
            self.errors[node] = event.value

    # --- timers: one heap for the run, one timer of the clock for its head -------------------------------------------------

    def _set_timer(self, command: SetTimer) -> None:
        heappush(self._timers, (command.at, command.kind, command.subject))
        if self._armed is None or command.at < self._armed[0]:
            self._arm()

    def _arm(self) -> None:
        self._disarm()
        if self._timers:
            when = self._timers[0][0]
            self._armed = when, self.clock.call_at(when, self._timers_due)

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed[1]()
            self._armed = None

    def _timers_due(self) -> None:
        now = self.now()
        with self._lock:
            self._armed = None
            while self._timers and self._timers[0][0] <= now:
                _, kind, subject = heappop(self._timers)
                self._inbox.append(TimerDue(kind, subject, now))
            if not self.done.is_set():
                self._arm()
        self._after()

    # --- growth ---------------------------------------------------------------------------------------------------------

    def _evaluate(self, number: int) -> RuleEvaluated:
        rule = self.rules[number]
        view = View(_Snapshot(self, number))
        try:
            if not rule.predicate(view):
                return RuleEvaluated(number, self.now(), reads=view.reads, looked=view.looked)
            patch = rule.body(view)
            if not isinstance(patch, Patch):
                raise TypeError(f"the body of a rule returns a Patch, not {type(patch).__name__}")
            nodes = patch.joined()
            check_declared(rule, nodes, patch.rules)
            if len(self.rules) + len(patch.rules) > self._most_rules:
                raise GraphLimitError(
                    f"There would be more than {self._most_rules} rules. Look for a rule that adds rules for ever, or allow "
                    f"more with max_nodes."
                )
        except Exception as error:  # noqa: BLE001  # a rule is the user's code; its failure fails the run, with its cause
            return self._rule_failed(number, error, view.reads)
        first = len(self.rules)
        self.rules.extend(patch.rules)
        rules = [(first + offset, each.optional, each.adds) for offset, each in enumerate(patch.rules)]
        return RuleEvaluated(number, self.now(), True, view.reads, nodes, rules, looked=view.looked, relies=view.relies)

    def _rule_failed(self, number: int, error: Exception, reads: dict[int, int]) -> RuleEvaluated:
        what = f"Rule {self.rules[number].name!r} failed: {_described(error)}"
        self.failure = error if isinstance(error, GraphLimitError) else RuleError(what, self.rules[number].name)
        if self.failure is not error:
            self.failure.__cause__ = error
        return RuleEvaluated(number, self.now(), reads=reads, error=what)

    def _grow(self, answer: RuleEvaluated) -> list[Command]:
        """Under the lock: check and bind the nodes of a patch, and let the machine take it, whole or not at all."""
        plan = self.state.plan
        known = len(plan)
        if answer.applied:
            try:
                check_sealed(answer.nodes, self.state.sealed | answer.relies)
                self._bind(answer.nodes)
            except DagridError as error:
                answer = self._rule_failed(answer.rule, error, dict(answer.reads))
        commands = self._decide([answer])
        if len(plan) == known:
            self._bindings.truncate(known)
            plan.empty = {node for node in plan.empty if node < known}
        else:
            self._names = plan.names
            self.values.extend([None] * (len(plan) - known))
        return commands

    def _bind(self, nodes: Sequence[Node]) -> None:
        """Bind the nodes of a patch, which the machine asks about when it takes them."""
        plan = self.state.plan
        check_patch(nodes, plan.index)
        plan.check_growth(nodes)
        names = _Names(plan.names, [node.id for node in nodes])
        numbers = {node.id: len(plan) + offset for offset, node in enumerate(nodes)}
        for node in nodes:
            fn = self._binder.task(node.id, node)
            before = [numbers[name] if name in numbers else plan.index[name] for name in node.required()]
            self._bindings.append(self._binder.bound(node.id, fn, node, before, names))
            if fn is None:
                plan.empty.add(numbers[node.id])
        check_sources(self._bindings, numbers.values(), names)


def _error_of(event: Finished, node: str) -> BaseException:
    """Return the exception of a failed attempt, whatever the place made of it."""
    try:
        error = opened(event.value)
    except Exception as unreadable:  # noqa: BLE001  # an exception class may refuse to be made again; the attempt failed all the same
        return TransferError(f"Node {node!r} failed, and its error cannot be read: {_described(unreadable)}.", node)
    if isinstance(error, BaseException):
        return error
    return TaskError(event.error or f"Node {node!r} failed, and its worker did not say why.", node)


def _fault(error: Exception) -> DagridError:
    """Return what failed inside of the scheduler as the error that asks for a report."""
    if isinstance(error, DagridError):
        return error
    fault = InternalError(f"The scheduler failed with {_described(error)}.")
    fault.__cause__ = error
    return fault


def _described(error: BaseException) -> str:
    """Return the class and the message of an exception, whose own `__str__` may fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # the user's code
        return f"{type(error).__name__}, which cannot be shown as text"


class _Names(Sequence[str]):
    """The names of a graph followed by those of a patch, without copying the first."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        self._old = old
        self._new = new

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    def __getitem__(self, number: Any) -> Any:
        return self._old[number] if number < len(self._old) else self._new[number - len(self._old)]


class _Snapshot:
    """What a rule's view reads of a running graph."""

    __slots__ = ("_engine", "_rule", "index", "kinds", "names")

    def __init__(self, engine: Engine, rule: int) -> None:
        plan = engine.state.plan
        self._engine = engine
        self._rule = rule
        self.names = plan.names
        self.index = plan.index
        self.kinds = plan.kinds

    def status(self, node: int) -> tuple[int, str]:
        code = self._engine.state.status[node]
        return code, Status(code).name.lower()

    def value(self, node: int) -> Any:
        return opened(self._engine.values[node])

    def closed(self, kind: str) -> bool:
        return self._engine.state.closed(kind, self._rule)
