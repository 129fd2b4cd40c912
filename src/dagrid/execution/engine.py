"""The only loop: take events from the inbox, let the machine decide, perform its commands. It holds the user's values.

The engine is a monitor: any thread may step it under its lock. Who reports and finds the lock taken leaves, for the holder looks
at the inbox again before it goes. User code (tasks, rules, pickling) never runs under the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Protocol

from dagrid.attempt import Extra
from dagrid.errors import DagridError
from dagrid.execution.beginning import renewed, retry_timers
from dagrid.execution.binding import Binder, Bindings
from dagrid.execution.calls import Calls, OpenCache
from dagrid.execution.clock import Flag, let_others_run
from dagrid.execution.committing import NOBODY, Committer
from dagrid.execution.ends import Ends, open_error, open_extra
from dagrid.execution.faults import described, fault
from dagrid.execution.growing import Growing
from dagrid.execution.hosts import OpeningHost
from dagrid.execution.keeping import Keeping
from dagrid.execution.recording import Recorder, Recovered, pack_patch
from dagrid.execution.restoring import Given, Past
from dagrid.execution.sessions import OpenPlace, RunSessions
from dagrid.execution.timers import Timers
from dagrid.graph.recording import unrecorded
from dagrid.graph.rules import Rule
from dagrid.interrupts import INTERRUPTED, from_signal, is_interrupt
from dagrid.machine.advance import IDLE, RULES, SLOW, advance, can_grow, finish, grow, settled, take
from dagrid.machine.commands import Cancel, Command, Evaluate, Finish, Perform, Recall, SetTimer, Wake
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    NODE_MASK,
    Asked,
    Begun,
    CancelRequested,
    Finished,
    Outcome,
    Rejected,
    RuleEvaluated,
    Signalled,
    Stimulus,
    TimerKind,
)
from dagrid.machine.explain import lacks
from dagrid.machine.plan import Lack, Plan
from dagrid.machine.signals import stuck
from dagrid.machine.state import State
from dagrid.ports import Backend, Bundle, Call, Clock, Use

PATIENCE = 1_000
NOT_ASKED = Call(-1, "", callable)
_LEAVING_VALUES = (Outcome.COMPLETED, Outcome.HELD)


# Slots, for it has more members than the dicts of a class share the names of. `__dict__` is for `completed`, where more follows
# from a value than usual.
_MEMBERS = """
_asking _backend _calls _committer _inbox _keeping _leaves _lock _past _questions _sessions _timers _watchers _workers apart
began call_of clock detached done draw ended ends failure growing now recorder state values
"""


class Settable(Protocol):
    """Is told that there is something new: an event, or who acts as one."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


class Engine:
    """One run: a machine's state, the values of its nodes, and a session of the backend where attempts are performed."""

    __slots__ = ("__dict__", *_MEMBERS.split())

    def __init__(
        self,
        plan: Plan,
        binder: Binder,
        bindings: Bindings,
        backend: Backend,
        clock: Clock,
        draw: Callable[[], float],
        place: OpenPlace | None = None,
        cache: OpenCache | None = None,
        rules: Sequence[Rule] = (),
        given: Mapping[int, Given] | None = None,
        omitted: Mapping[int, str] | None = None,
        recorder: Recorder | None = None,
        keeping: Keeping | None = None,
        name: str = "",
    ) -> None:
        """Take all that a run needs.

        Args:
            plan, binder, bindings: the graph, compiled and bound.
            backend: where attempts are performed.
            clock: where time comes from.
            draw: returns random numbers in [0, 1).
            place: opens what performs the nodes that have a place of their own.
            cache: returns where the values of cached nodes are kept; None keeps none.
            rules: those of a growing graph.
            given: by node number, a value from before and where it comes from.
            omitted: by node number, why it is not part of this run.
            recorder: writes the journal into a store; what happens has no effect before it is written.
            keeping: drops values that nobody needs any more.
            name: what the graph is called.
        """
        self.values: list[Any] = [None] * len(plan.names)
        packing = None if recorder is None else pack_patch
        self.growing = Growing(rules, binder, bindings, plan.settings.max_nodes, self.values, packing)
        self.state = State(plan, self.growing.begin())
        self.name = name
        self.clock = clock
        self.now = clock.now
        self.draw = draw
        self.done = Flag()
        self.failure: BaseException | None = None
        self.detached = False
        self._leaves = False  # whether what is under way goes on without this engine
        self.apart = False  # whether this is a part of a graph, whose nodes can say nothing to those of others
        self.began = 0.0
        self.ended = 0.0
        self._backend = backend
        self.recorder = recorder
        self._past: Past | None = None
        if given or omitted or recorder is not None:
            self._past = Past(given or {}, omitted or {}, recorder)
        self._committer = None if recorder is None else Committer(recorder)
        self._keeping = keeping
        if recorder is not None:
            self.completed = self._completed_thoughtfully  # type: ignore[method-assign]
        elif keeping is not None:
            self.completed = partial(self._completed_and_dropped, keeping)  # type: ignore[method-assign]
        self._calls = Calls(self.values, cache, recorder, None if keeping is None else keeping.spares)
        self.ends = Ends(self.values, self._calls.keys)
        self._sessions = RunSessions(place, self.done)
        self._lock = threading.Lock()
        self._inbox: deque[Stimulus] = deque()
        self._questions: deque[int] = deque()
        self._asking = threading.Lock()
        self._timers = Timers(clock)
        self._watchers: list[Settable] = []
        self._workers = count()

    @unrecorded
    def start(self, cancelled: str = "") -> None:
        """Open the backend and begin, or go on where a run that was restored has stopped; returns at once.

        Args:
            cancelled: why nothing is to run but handlers, if that is so.
        """
        self.began = self.began or self.now()
        past = self._past
        if past is not None:
            past.take_given(self.values)
        with self._lock:
            limit = self.state.plan.settings.timeout
            if limit is not None:
                reopened = past is not None and past.again is not None
                since = self.now() if reopened else self.state.reopened_at or self.began
                self._timers.set(since + limit, TimerKind.RUN, 0, self._timers_due)
            left = self._uses("", self._backend)
            self._sessions.open(self._backend, self if self.recorder is None else OpeningHost(self), left)
            self._point()
            places = self.growing.bindings.places
            for place in set(places.values()) if places else ():
                self._sessions.open_place(place, self, self._uses)
            spared = set(self._sessions.place_of)
            for use in left:
                spared.add(use.worker)
            first: list[Stimulus] = []
            if past is not None:
                now = self.now()
                for timer in retry_timers(self.state, now):
                    self.perform(timer)
                first = past.stimuli(self.state, self.values, self.growing.bindings.takes, now, spared)
            if cancelled:
                first.append(CancelRequested(self.now(), cancelled))
            self._step(first)
            for worker in spared:
                for command in renewed(self.state, worker):
                    self.perform(command)
        self._after()
        if self.failure is not None and not self.state.finished:
            self.close()
            raise self.failure

    def _uses(self, place: str, backend: Backend) -> list[Use]:
        """Return what an earlier process of the run left under way in a place where that goes on."""
        return [] if self._past is None else self._past.uses(self.state, place, backend)

    def restore(self, recovered: Recovered) -> None:
        """Take over a run from its journal, before it is started.

        Raises:
            DagridError: the graph is no longer what the journal speaks of.
        """
        past = self._past
        assert past is not None
        self.began = recovered.began
        self.state = past.restore(recovered, self.state, self.growing, self.ends, self._backend.capabilities)
        self._workers = count(max(self.state.workers, default=-1) + 1)
        self._point()
        if self.state.finished:
            self.ended = self.state.finished_at
            self.done.set()

    def reopen(self, roots: Iterable[int], spared: Collection[int]) -> None:
        """Let a run that was restored run again as far as it has ended, when it is started, see `reopening.to_reopen`."""
        assert self._past is not None
        self._past.reopen(self.state, roots, spared, self.ends)
        self.growing.failure = None
        self.done.clear()

    @unrecorded
    def attend(self, timeout: float | None = None, enough: Callable[[], bool] | None = None) -> bool:
        """Wait for the end or until it is enough, and lend the calling thread to a backend that has none of its own.

        Returns:
            Whether it is; False when `timeout` seconds are over before.
        """
        return self._sessions.attend(timeout, enough or self.done.is_set)

    def follow(self, call: Callable[[], object]) -> None:
        """Have a function called when the run is over, from any thread and under the lock, so it must be short."""
        with self.holding():
            self._sessions.follow(call)

    def let_go(self) -> None:
        """Do nothing more for the run here: whoever takes it over goes on from what is recorded."""
        with self.holding():
            if not self.done.is_set():
                self._leaves = True
                self.abandon()

    def abandon(self) -> None:
        """Under the lock: end the run here, and not for whoever takes it over."""
        self.detached = True
        self._end()

    def is_stuck(self) -> bool:
        """Under the lock: whether nothing can happen, and all that has happened is recorded."""
        return not (self._inbox or self._questions) and stuck(self.state) and self.readable == len(self.state.journal)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to stop: nothing new starts, and what runs is stopped where that is possible."""
        self.report([CancelRequested(self.now(), reason)])

    def close(self) -> None:
        """End the use of the backend; called when the run is over."""
        self._sessions.close(self._leaves)
        self._watchers = []  # they have been told of the end, and may refer to whoever has the run
        if self.recorder is not None or self._keeping is not None:
            self.__dict__.clear()  # `completed` refers to the engine, where there is more to a completion

    def watch(self, event: Settable) -> None:
        """Set an event whenever there are new facts; its reader clears it."""
        self._watchers = [*self._watchers, event]

    def unwatch(self, event: Settable) -> None:
        """Set an event of `watch` no longer."""
        self._watchers = [each for each in self._watchers if each is not event]

    def stir(self) -> None:
        """Have those who wait by `attend` look again whether it is enough."""
        self._sessions.stirred.set()

    # --- what a backend may ask of its host ------------------------------------------------------------------------------

    @property
    def run(self) -> str:
        """The id of a run that is recorded."""
        return "" if self.recorder is None else self.recorder.run

    @property
    def nonce(self) -> str:
        """What tells a run that is recorded from any other of its id."""
        return "" if self.recorder is None else self.recorder.nonce

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

    def recorded(self) -> None:
        """Wait until all that was reported is recorded, in a run that is."""
        if self._committer is None:
            return
        with self.holding():
            if self._inbox:
                self._step(())
        self._committer.flush(self)

    def lacks(self, place: str = "") -> Mapping[Lack, str]:
        """Return what nodes of a place wait for that no worker there has, see `dagrid.ports.Lacking`."""
        return lacks(self.state, place)

    def next(self, worker: int) -> Call | None:
        """Give a worker that pulls its next call."""
        if self._committer is not None:
            held, _ = self._committer.take(self, worker)
            if held is not None:
                if self._inbox:
                    self._after()
                return held
        return self._exchange(worker, ())

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        """Take a value from a worker that pulls, and give it its next call."""
        attempt = call.attempt
        if extra is not None:
            event = Finished(worker, attempt, Outcome.COMPLETED, started, ended, value, extra=extra)
            self._prepare(event)
            return self._exchange(worker, (event,))
        lock = self._lock
        if not lock.acquire(False):  # a call for nothing would be a twentieth of what a node costs
            self.enter()
        try:
            reply: Call | None
            state = self.state
            following = advance(state, attempt, worker, started, ended)
            if following >= 0 and not self._watchers and not (state.idle and state.heap):
                self.values[attempt] = value
                reply = self.call_of(following)
            elif following == RULES:
                self.values[attempt] = value
                self._questions.extend(state.asks)
                state.asks.clear()
                if self._keeping is not None:
                    self._keeping.drop(state, self.values, len(state.journal))
                reply = NOT_ASKED
            elif following == SLOW:
                done = Finished(worker, attempt, Outcome.COMPLETED, started, ended, value)
                reply = self._step((done, Asked(worker, ended)), worker)
            elif not (state.remaining or self._inbox or self._keeping) and finish(state, self.now()):
                self.values[attempt] = value
                self._end()
                reply = None
            else:
                self.values[attempt] = value
                reply = self._handed(following, worker, ended)
        except BaseException as error:  # noqa: BLE001  # it must end the run, not the worker
            self._broken(error)
            reply = None
        finally:
            lock.release()
        if reply is NOT_ASKED:
            reply = self._after(worker)
            return self._exchange(worker, ()) if reply is NOT_ASKED else reply
        if self._inbox or self._questions:
            self._after()
        return reply

    def _completed_thoughtfully(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        """As `completed`, for runs in which more follows from a value than what its successors need."""
        event = Finished(worker, call.attempt, Outcome.COMPLETED, started, ended, value, extra=extra)
        self._prepare(event)
        return self._exchange(worker, (event,))

    def _completed_and_dropped(
        self,
        keeping: Keeping,
        worker: int,
        call: Call,
        value: Any,
        started: float,
        ended: float,
        extra: Extra | None = None,
    ) -> Call | None:
        """As `completed`; then what nobody needs any more is dropped."""
        reply = Engine.completed(self, worker, call, value, started, ended, extra)
        self.enter()
        try:
            keeping.drop(self.state, self.values, len(self.state.journal))
        finally:
            self._lock.release()
        if self._inbox:
            self._after()
        return reply

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        """Take an exception from a worker that pulls, and give it its next call."""
        event = Finished(worker, call.attempt, Outcome.FAILED, started, ended, error)
        self._prepare(event)
        if is_interrupt(error):
            return self._exchange(worker, (event, CancelRequested(ended, INTERRUPTED)))
        return self._exchange(worker, (event,))

    # --- the loop -------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Take the lock without sleeping on it.

        Its holder may have lost the interpreter in the middle. Who sleeps on a lock is given it while another thread has the
        interpreter; that thread then finds the lock taken and sleeps on it in turn, and so every node costs two hand-overs. So
        this gives the interpreter away instead, and tries again when it is back.
        """
        acquire = self._lock.acquire
        if acquire(False):
            return
        for _ in range(PATIENCE):
            let_others_run()
            if acquire(False):
                return
        acquire()

    def _exchange(self, worker: int, events: Sequence[Stimulus]) -> Call | None:
        reply: Call | None
        self.enter()
        try:
            now = self.now()
            following = IDLE if events or self._inbox or self.recorder is not None else take(self.state, worker, now)
            reply = self._handed(following, worker, now, events)
        except BaseException as error:  # noqa: BLE001  # it must end the run, not the worker
            self._broken(error)
            reply = None
        finally:
            self._lock.release()
        self._after(committer=worker)
        return reply if self._committer is None else self._take_held(self._committer, worker)

    def _take_held(self, committer: Committer, worker: int) -> Call | None:
        """Return the call that was held for a worker until it was recorded; without one, it is woken when there is."""
        held, left = committer.take(self, worker, sleep=True)
        while left:
            self._after(committer=worker)
            held, left = committer.take(self, worker, sleep=True)
        if self._inbox:
            self._after()
        return held

    def leave(self) -> None:
        """Give the lock back; who found it taken meanwhile has left, so look at the inbox then."""
        self._lock.release()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the lock for a look at the run; what came in meanwhile is taken up when it is given back."""
        self.enter()
        try:
            yield
        finally:
            self.leave()
            if self._inbox:
                self._after()

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

    def _after(self, worker: int = NOBODY, committer: int = NOBODY) -> Call | None:
        """Take what came in, and ask the rules that the machine wants to know, outside of the lock, one at a time.

        Who asks also hands in the answer: the graph does not grow while a rule looks at it.

        Args:
            worker: one that pulls, and asks for its next call with the last answer.
            committer: one that pulls, and writes the record while it waits for its next call.

        Returns:
            The call for the worker; NOT_ASKED when it has still to ask.
        """
        reply: Call | None = NOT_ASKED
        try:
            while not self._inbox or self._drain():
                if self._committer is not None:
                    self._committer.commit(self, committer)
                if self._inbox:
                    continue
                if not self._questions or not self._asking.acquire(blocking=False):
                    return reply
                try:
                    while self._questions:
                        answer = self.growing.evaluate(self.state, self._questions.popleft(), self.now())
                        last = worker != NOBODY and reply is NOT_ASKED and not self._questions
                        self.enter()
                        try:
                            given = self._answered(answer, worker if last else NOBODY)
                        finally:
                            self._lock.release()
                        if last:
                            reply = given
                finally:
                    self._asking.release()
        except BaseException as error:  # noqa: BLE001  # it must end the run, not the thread that steps it
            self.give_up(error, ours=True)
            return None
        return reply

    def _answered(self, answer: RuleEvaluated, worker: int) -> Call | None:
        """Under the lock: take the answer of a rule, and give a worker that asks with it its next call."""
        state, now, asks = self.state, self.now(), worker != NOBODY
        if self._inbox or self.recorder is not None or self._keeping is not None or not can_grow(state, answer):
            return self._step((answer, Asked(worker, now)) if asks else (answer,), worker)
        try:
            bound = self._bound(answer)
            if bound is not answer:
                return self._step((bound, Asked(worker, now)) if asks else (bound,), worker)
            grow(state, answer)
            self._after_growth(answer)
            if asks:
                return self._handed(take(state, worker, now), worker, now)
            if not settled(state) or self._watchers or (state.idle and state.heap):
                return self._step((), worker)
        except BaseException as error:  # noqa: BLE001  # it must end the run, not the worker
            self._broken(error)
        return None

    def _handed(self, following: int, worker: int, at: float, events: Sequence[Stimulus] = ()) -> Call | None:
        """Under the lock: return the call of a node that a worker was given on the hot path; decide what is left to decide."""
        state = self.state
        if following < 0:
            return self._step((*events, Asked(worker, at)), worker)
        if self._watchers or (state.idle and state.heap):
            self._step(())
        return self.call_of(following)

    def _step(self, events: Sequence[Stimulus], worker: int = -1) -> Call | None:
        """Under the lock: take the inbox and these events, decide, perform. Return the call for the worker that asks."""
        try:
            return self._decide_and_perform(events, worker)
        except BaseException as error:  # noqa: BLE001  # of ours or of a backend, it must end the run, not leave it hanging
            self._broken(error, ours=False)
        return None

    def _broken(self, error: BaseException, ours: bool = True) -> None:
        """Under the lock: end a run that cannot go on; what a signal raised goes on to who waits for the run."""
        if from_signal(error):
            raise error
        self.failure = fault(error) if ours or not isinstance(error, Exception) else error
        self._end()

    def _decide(self, stimuli: Iterable[Stimulus]) -> list[Command]:
        try:
            return decide(self.state, stimuli, self.now())
        except DagridError:
            raise
        except Exception as error:
            raise fault(error) from error

    def _end(self) -> None:
        self.ended = self.state.finished_at if self.state.finished else self.now()
        self._timers.stop()
        self.done.set()
        self._sessions.ended()
        self.tell()

    def _decide_and_perform(self, events: Sequence[Stimulus], worker: int) -> Call | None:
        reply: Call | None = None
        plain = not self._inbox and all(type(event) is Asked for event in events)
        commands = self._decide(events if plain else self._taken(events))
        if self._committer is not None:
            self._committer.hold(self, commands, worker)
            return None
        if self._keeping is not None:
            self._keeping.drop(self.state, self.values, len(self.state.journal))
        for command in commands:
            if type(command) is Perform and command.worker == worker:
                reply = self.call_of(command.attempts[0])
            else:
                self.perform(command)
        self.tell()
        return reply

    def _taken(self, events: Sequence[Stimulus]) -> Iterator[Stimulus]:
        """Yield the inbox and these events; keep the values of what ended, and bind the nodes that the graph grows by."""
        came: list[Stimulus] = []
        while self._inbox:
            came.append(self._inbox.popleft())
        for event in (*came, *events):
            if type(event) is Finished and event.attempt & NODE_MASK in self.state.remade:
                event.growth = None
            if isinstance(event, (Finished, RuleEvaluated)) and event.growth is not None:
                bound = self._bound(event)
                growing, past = self.growing, self._past
                lost = past and past.lost(self.state, self.values, growing.bindings.takes, growing.bound)
                if lost:
                    yield Begun(self.now(), lost=lost)
                yield bound
                self._after_growth(bound)
            else:
                if type(event) is Finished:
                    self.ends.keep(event, self.state)
                elif type(event) is Signalled or type(event) is Rejected:
                    self.ends.keep_answer(event, self.state)
                yield event

    def _bound(self, event: Finished | RuleEvaluated) -> Finished | RuleEvaluated:
        """Bind what the graph is to grow by. What does not fit fails the rule, or the attempt that left it."""
        assert event.growth is not None
        growing = self.growing
        current = isinstance(event, RuleEvaluated) or self.state.accepts(event.attempt)
        try:
            if current:
                if growing.shared:
                    growing.fork(self.state, self._backend.capabilities)
                    self._point()
                growing.bind(self.state, event.growth)
                if self._keeping is not None:
                    self._keeping.check(growing.bound, self.values, self.state.plan.names)
        except DagridError as error:
            if isinstance(event, RuleEvaluated):
                return growing.failed(event.rule, event.at, error, event.reads)
            event.outcome, event.value, event.growth = Outcome.FAILED, error, None
            event.error, event.retryable = described(error), False
        if isinstance(event, Finished):
            self.ends.keep(event, self.state)
        return event

    def _point(self) -> None:
        """Make calls of the plan and the bindings, which are others or have more to tell."""
        bindings = self.growing.bindings
        self.call_of = self._calls.made_of(self.state, bindings)
        if self._keeping is not None:
            self._keeping.bindings = bindings
        # Calls travel together where the backend can, and nothing has to be known of one before the next may begin.
        chains = self._backend.capabilities.chains
        self.state.chains = chains and self.recorder is None and not bindings.lineages

    def _after_growth(self, event: Finished | RuleEvaluated) -> None:
        known = len(self.values)
        growing, plan = self.growing, self.state.plan
        if isinstance(event, RuleEvaluated) and event.rule not in self.state.rules:
            growing.rules.pop(event.rule, None)  # it is asked no more
        if self.recorder is None and event.growth is not None:
            event.growth.forget()
        if len(plan.names) == known:
            growing.forget(self.state)
            return
        growing.taken(self.state)
        self._point()
        places = growing.bindings.places
        if places:
            for node in range(known, len(plan)):
                if node in places:
                    self._sessions.open_place(places[node], self, self._uses)

    def drop(self, until: int) -> None:
        """Drop the values that nobody needs any more after what the journal says up to a place."""
        if self._keeping is not None:
            self._keeping.drop(self.state, self.values, until)

    def tell(self) -> None:
        """Tell those who follow the run that there is something new."""
        for watcher in self._watchers:
            if not watcher.is_set():  # it reads after it has cleared the event
                watcher.set()
        if self.state.held:
            self._sessions.stirred.set()  # somebody may wait until nothing else is left

    def give_up(self, error: BaseException, ours: bool = False) -> None:
        """End the run here, with this error: what cannot be recorded must not have an effect. `ours`: it is a fault of dagrid."""
        self.enter()
        try:
            if not self.done.is_set():
                self._broken(error, ours)
        finally:
            self.leave()

    @property
    def backend_name(self) -> str:
        """What the backend of the run is called."""
        return self._backend.name

    @property
    def readable(self) -> int:
        """How many entries of the journal may be read: what is not recorded has not happened yet."""
        return len(self.state.journal) if self.recorder is None else self.recorder.committed

    def perform(self, command: Command) -> None:
        if isinstance(command, Perform):
            made = self.call_of
            if self.state.riders:
                made = partial(self._calls.riding, made)
            self._sessions.of(command.worker).perform(Bundle(command.worker, list(map(made, command.attempts))))
        elif isinstance(command, Wake):
            self._sessions.wake(command.worker)
        elif isinstance(command, SetTimer):
            self._timers.set(command.at, command.kind, command.subject, self._timers_due)
        elif isinstance(command, Recall):
            self._sessions.of(command.worker).recall(command.worker, command.attempts)
        elif isinstance(command, Cancel):
            self._sessions.of(command.worker).cancel(command.worker, command.attempt)
        elif isinstance(command, Evaluate):
            self._questions.append(command.rule)
        elif isinstance(command, Finish):
            self._end()

    def _prepare(self, event: Finished) -> None:
        """Outside of the lock: open what a task left, or the exception of a failed attempt, and see whether it is worth a try."""
        try:
            if event.extra is not None and event.outcome == Outcome.COMPLETED:
                open_extra(event, self.state, self.growing, self.apart)
            if event.outcome == Outcome.FAILED:
                open_error(event, self.state, self.draw, self.apart)
            if self.recorder is not None and event.outcome in _LEAVING_VALUES:
                if self._keeping is not None and self._keeping.spared(event.attempt & NODE_MASK):
                    self.recorder.pass_over(event.attempt, "nobody asked for this list")
                else:
                    self.recorder.keep(event.attempt, event.value)
        except BaseException as error:  # noqa: BLE001  # whatever the artifacts, or what the user made, raise
            self.give_up(error)

    def _timers_due(self) -> None:
        now = self.now()
        with self._lock:
            self._inbox.extend(self._timers.take(now, self._timers_due))
        self._after()
