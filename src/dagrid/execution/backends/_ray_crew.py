"""The actors that the runs of one Ray backend share, and the one thread that talks to all of them.

What an actor does with the calls that it gets is `_ray_worker`. It knows the port and Ray; what a run decides, it does not know.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any

import ray

from dagrid.errors import BackendClosedError, BackendUnreachableError
from dagrid.execution.backends import _ray_worker, _remote
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends._worker import told
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Host

WINDOW = 256
"""How many attempts may be with a worker."""
STILLBORN_LIMIT = 3
"""How many workers in a row may die while they start before no more are tried."""
PATIENCE = 0.5
"""Seconds that a worker has to hand in what it finished before it is killed; and that a close waits for a report being made."""


class Item:
    """A call with the lane that it is in; `alone` says that it may have killed a worker, and is to be tried by itself."""

    __slots__ = ("alone", "call", "cancelled", "lane", "sent", "started")

    def __init__(self, lane: Lane, call: Call) -> None:
        self.lane = lane
        self.call = call
        self.alone = self.cancelled = False
        self.sent = self.started = UNSTARTED


class Lane:
    """A worker as one run sees it: calls that wait, and the actor that serves it at present."""

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.waiting: deque[Item] = deque()
        self.actor: Actor | None = None


class Actor:
    """A worker process: what is with it, what it runs, and what it is to be told."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.ready = False
        self.doomed = 0  # the token of what it is to be killed for
        self.kill_at = 0.0
        self.lane: Lane | None = None
        self.under_way: dict[int, Item] = {}
        self.running = 0
        self.letters = 0
        self.tokens = 0

    def tell(self, calls: Sequence[tuple[int, bytes]] = (), back: Sequence[int] = (), stop: int = 0) -> None:
        """Send a letter; they are numbered, for Ray may deliver a large one late."""
        self.handle.tell.remote(self.letters, list(calls), list(back), stop)
        self.letters += 1

    def token_of(self, lane: Lane, attempt: int) -> int:
        """Return the token of an attempt that is with this actor, 0 if it is not."""
        found = (token for token, item in self.under_way.items() if item.lane is lane and item.call.attempt == attempt)
        return next(found, 0)


class Session:
    """One run's use of the workers. What changes is touched by the crew's thread alone, but for `closed`."""

    def __init__(self, crew: Crew, host: Host, backend: object) -> None:
        self.crew = crew
        self.host = host
        self.backend: object | None = backend  # while it is open, the backend is in use
        self.closed = False
        self.delivering = threading.Lock()
        self.events: list[Stimulus] = []
        self.lanes: dict[int, Lane] = {}
        self.functions: dict[int, tuple[bytes, Callable[..., Any]]] = {}
        self.shift = host.now() - time()

    def wake(self, worker: int) -> None:
        """Its workers do not pull."""

    def attend(self) -> None:
        """The crew has a thread of its own."""

    def perform(self, bundle: Bundle) -> None:
        self.crew.command(self.crew.perform, self, bundle)

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self.crew.command(self.crew.recall, self, worker, attempts)

    def cancel(self, worker: int, attempt: int) -> None:
        self.crew.command(self.crew.cancel, self, worker, attempt)

    def close(self) -> None:
        """Take back what waits and stop what runs."""
        if self.closed:
            return
        self.closed = True
        self.crew.command(self.crew.drop, self)
        # A report that is being made ends first, unless it is what called us, or waits for a lock that our caller holds.
        if not self.crew.is_own_thread() and self.delivering.acquire(timeout=PATIENCE):
            self.delivering.release()
        self.backend = None

    # For the crew's thread.

    def order(self, call: Call) -> bytes:
        """Return a call as bytes; its function is pickled once, and kept, so that its id is its own."""
        found = self.functions.get(id(call.fn))
        if found is None:
            found = self.functions[id(call.fn)] = (encode_function(call), call.fn)
        return _remote.order(call, found[0])

    def join(self, name: str) -> None:
        """Announce a worker."""
        number = self.host.new_worker()
        self.lanes[number] = Lane(self, number)
        self.events.append(WorkerJoined(number, name, self.host.now(), 1, self.crew.window))

    def end(self, item: Item, outcome: Outcome, error: BaseException | None = None, retryable: bool = False) -> None:
        """Report the end of a call of which no report came."""
        now = self.host.now()
        event = Finished(item.lane.number, item.call.attempt, outcome, now, now)
        if error is not None:
            event.value, event.error, event.retryable, event.draw = error, told(error), retryable, self.host.draw()
        self.events.append(event)

    def deliver(self) -> None:
        """Report what has gathered."""
        events, self.events = self.events, []
        with self.delivering:
            if self.closed:
                return
            try:
                self.host.report(events)
            except BaseException:  # noqa: BLE001 - a fault of one host must not end the others' runs
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class Crew:
    """The actors that the sessions of a backend share, and the thread that serves them.

    An actor serves one lane at a time, so that its death concerns one run; a lane that has nothing to do lets go of it. Lanes
    that want an actor when all are taken stand in a queue, and are served in turn. What is below `_loop` runs in the thread.
    """

    def __init__(self, make: Callable[[], Any], count: int, window: int, keep: float) -> None:
        self.count = count
        self.window = window
        self._make = make
        self._keep = keep
        self._guard = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._sessions: list[Session] = []
        self._actors: list[Actor] = []
        self._wanting: deque[Lane] = deque()
        self._stillborn = 0
        self._broken: Exception | None = None
        self._idle_since = perf_counter()

    def open(self, host: Host, backend: object) -> Session:
        session = Session(self, host, backend)
        with self._guard:
            if self._stopping:
                raise BackendClosedError("The backend 'ray' is closed. Make a new one.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="dagrid-ray", daemon=True)
                self._thread.start()
        self.command(self.enrol, session)
        return session

    def command(self, action: Callable[..., None], *args: Any) -> None:
        """Let the thread do something; may be called from any thread and never blocks."""
        self._inbox.put(partial(action, *args))

    def is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End the actors and the thread."""
        with self._guard:
            self._stopping = True
            thread = self._thread
        self.command(lambda: None)
        if thread is not None and not self.is_own_thread():
            thread.join()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                action = self._inbox.get(timeout=self._patience())
            except queue.Empty:
                pass
            else:
                action()
                while not self._inbox.empty():
                    self._inbox.get()()
            self._settle()
        self._kill_all()
        for session in self._sessions:
            session.events += [WorkerGone(n, session.host.now(), "the backend was closed") for n in session.lanes]
            session.deliver()
        self._sessions.clear()

    def _kill_all(self) -> None:
        for actor in self._actors:
            _kill(actor)
        self._actors.clear()

    def _patience(self) -> float | None:
        """Return for how long nothing needs to be looked at."""
        due = [actor.kill_at for actor in self._actors if actor.doomed]
        if self._actors and not self._sessions:
            due.append(self._idle_since + self._keep)
        return max(0.0, min(due) - perf_counter()) if due else None

    def _settle(self) -> None:
        """Hand out actors, send and report what has gathered, and end what has had its time."""
        now = perf_counter()
        for actor in [actor for actor in self._actors if actor.doomed and actor.kill_at <= now]:
            self._put_down(actor)
        if not self._sessions and self._idle_since + self._keep <= now:
            self._kill_all()
        self._hand_out()
        for actor in list(self._actors):
            self._feed(actor)
        for session in list(self._sessions):
            if session.events:
                session.deliver()

    # Lanes and actors.

    def _want(self, lane: Lane) -> None:
        if lane.waiting and lane.actor is None and lane not in self._wanting:
            self._wanting.append(lane)

    def _hand_out(self) -> None:
        """Give actors to the lanes that want one, and start what is missing."""
        self._wanting = deque(lane for lane in self._wanting if lane.waiting and not lane.session.closed)
        if not self._wanting:
            return
        for actor in self._actors:
            if actor.lane is not None and not actor.under_way and not actor.lane.waiting:
                self._unbind(actor)
        for actor in self._actors:
            if not self._wanting:
                return
            if actor.ready and not actor.under_way:
                lane = self._wanting.popleft()
                self._unbind(actor)  # a lane that has had its turn goes to the end of the queue
                actor.lane, lane.actor = lane, actor
        starting = sum(not actor.ready for actor in self._actors)
        for _ in range(min(len(self._wanting) - starting, self.count - len(self._actors))):
            self._start()
        if self._broken is not None and not self._actors:
            self._refuse_all(self._broken)

    def _unbind(self, actor: Actor) -> None:
        lane, actor.lane = actor.lane, None
        if lane is not None:
            lane.actor = None
            self._want(lane)

    def _start(self) -> None:
        if self._broken is not None:
            return
        try:
            actor = Actor(self._make())
            self._listen(actor)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds, the session's end among them
            self._broken = BackendUnreachableError(
                f"Ray cannot start a worker ({told(error)}). Put that right, then make a new backend."
            )
            return
        self._actors.append(actor)

    def _listen(self, actor: Actor) -> None:
        future = actor.handle.listen.remote().future()
        future.add_done_callback(lambda done: self.command(self._hear, actor, done))

    def _feed(self, actor: Actor) -> None:
        """Send what waits in the actor's lane; where other lanes wait for an actor, each gets its turn."""
        lane = actor.lane
        if lane is None or not lane.waiting or not actor.ready or actor.doomed:
            return
        if actor.under_way and (self._wanting or next(iter(actor.under_way.values())).alone):
            return
        calls: list[tuple[int, bytes]] = []
        session = lane.session
        while lane.waiting and not (lane.waiting[0].alone and actor.under_way):
            item = lane.waiting.popleft()
            try:
                data = session.order(item.call)
            except Exception as error:  # noqa: BLE001 - what is the user's cannot be pickled
                session.end(item, Outcome.FAILED, error)
                continue
            actor.tokens += 1
            actor.under_way[actor.tokens] = item
            item.sent = session.host.now()
            calls.append((actor.tokens, data))
            if item.alone:
                break
        if calls:
            self._tell(actor, calls)

    def _tell(self, actor: Actor, *args: Any) -> None:
        try:
            actor.tell(*args)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds, the session's end among them
            self._bury(actor, told(error))

    def _doom(self, actor: Actor, token: int) -> None:
        """Have a call stopped: if it waits it comes back, if it runs the actor says what it had finished and is killed."""
        self._tell(actor, (), (), token)
        if token == actor.running:
            actor.doomed, actor.kill_at = token, perf_counter() + PATIENCE

    def _put_down(self, actor: Actor) -> None:
        """Kill an actor for the sake of what it runs; what waited behind that goes on elsewhere."""
        _kill(actor)
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        self._put_back(actor)

    def _put_back(self, actor: Actor) -> None:
        """Let what a dead actor had not started wait for another."""
        for item in reversed(actor.under_way.values()):
            if item.lane.session.closed:
                continue
            if item.cancelled:
                item.lane.session.end(item, Outcome.CANCELLED)
            else:
                item.lane.waiting.appendleft(item)
        actor.under_way.clear()
        self._unbind(actor)

    def _bury(self, actor: Actor, reason: str) -> None:
        """An actor has died by itself: what it ran is lost."""
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        _kill(actor)
        if not actor.ready:
            self._note_stillborn(reason)
        running = actor.running
        if not running and len(actor.under_way) == 1:
            running = next(iter(actor.under_way))
        item = actor.under_way.pop(running, None)
        if item is None:
            # Any of these may be what killed it. One by one it will be seen.
            for suspect in actor.under_way.values():
                suspect.alone = True
        self._put_back(actor)
        if item is not None and not item.lane.session.closed:
            self._lose(item, reason)

    def _note_stillborn(self, reason: str) -> None:
        self._stillborn += 1
        if self._stillborn >= STILLBORN_LIMIT:
            self._broken = BackendUnreachableError(
                f"{STILLBORN_LIMIT} Ray workers in a row died while they started. Is dagrid installed where they run? "
                f"The last one: {reason}"
            )

    def _lose(self, item: Item, reason: str) -> None:
        lane, session = item.lane, item.lane.session
        if item.cancelled:
            session.end(item, Outcome.CANCELLED)
            return
        if item.started == UNSTARTED:
            session.events.append(Started(lane.number, item.call.attempt, session.host.now()))
        session.events.append(WorkerGone(lane.number, session.host.now(), reason))
        del session.lanes[lane.number]
        lane.waiting.clear()  # it goes back with the worker
        session.join("ray")

    def _refuse_all(self, error: Exception) -> None:
        while self._wanting:
            lane = self._wanting.popleft()
            while lane.waiting:
                lane.session.end(lane.waiting.popleft(), Outcome.FAILED, error)

    # The commands of sessions.

    def enrol(self, session: Session) -> None:
        if session.closed:
            return
        self._sessions.append(session)
        for _ in range(self.count):
            session.join("ray")

    def perform(self, session: Session, bundle: Bundle) -> None:
        lane = session.lanes.get(bundle.worker)
        if lane is None or session.closed:
            return
        lane.waiting.extend(Item(lane, call) for call in bundle.calls)
        self._want(lane)

    def recall(self, session: Session, worker: int, attempts: Sequence[int]) -> None:
        lane = session.lanes.get(worker)
        if lane is None or session.closed:
            return
        wanted = set(attempts)
        given = [item.call.attempt for item in lane.waiting if item.call.attempt in wanted]
        if given:
            lane.waiting = deque(item for item in lane.waiting if item.call.attempt not in wanted)
            session.events.append(Recalled(worker, given, session.host.now()))
        actor = lane.actor
        if actor is not None:
            back = [token for token, item in actor.under_way.items() if item.call.attempt in wanted]
            if back:
                self._tell(actor, (), back)

    def cancel(self, session: Session, worker: int, attempt: int) -> None:
        lane = session.lanes.get(worker)
        if lane is None or session.closed:
            return
        for item in lane.waiting:
            if item.call.attempt == attempt:
                lane.waiting.remove(item)
                session.end(item, Outcome.CANCELLED)
                return
        actor = lane.actor
        token = actor.token_of(lane, attempt) if actor is not None else 0
        if actor is not None and token:
            actor.under_way[token].cancelled = True
            self._doom(actor, token)

    def drop(self, session: Session) -> None:
        """Forget a session: what it has running is killed, what waits is taken back."""
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        self._idle_since = perf_counter()
        for lane in session.lanes.values():
            lane.waiting.clear()
            actor = lane.actor
            if actor is None:
                continue
            if actor.under_way:
                _kill(actor)
                self._actors.remove(actor)
                actor.under_way.clear()
            self._unbind(actor)
        session.events.clear()
        session.functions.clear()

    # What actors say.

    def _hear(self, actor: Actor, done: Any) -> None:
        if actor not in self._actors:
            return
        try:
            records = done.result()
        except BaseException as error:  # noqa: BLE001 - Ray raises all kinds
            self._bury(actor, _reason(error))
            return
        try:
            self._listen(actor)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds, the session's end among them
            self._bury(actor, told(error))
            return
        for kind, token, payload in records:
            if kind == _ray_worker.READY:
                actor.ready, self._stillborn = True, 0
            elif kind == _ray_worker.STARTED:
                self._take_start(actor, token, payload)
            elif kind == _ray_worker.FINISHED:
                self._take_end(actor, token, payload)
            elif kind == _ray_worker.BACK:
                self._take_back(actor, token)
            else:  # STOPPED: all that it had finished has been said
                self._put_down(actor)
                return

    def _take_start(self, actor: Actor, token: int, at: float) -> None:
        item = actor.under_way[token]
        session = item.lane.session
        actor.running = token
        item.started = min(max(item.sent, at + session.shift), session.host.now())
        session.events.append(Started(item.lane.number, item.call.attempt, item.started))
        if item.cancelled:
            actor.doomed, actor.kill_at = token, perf_counter() + PATIENCE

    def _take_end(self, actor: Actor, token: int, data: bytes) -> None:
        item = actor.under_way.pop(token)
        actor.running = 0
        if actor.doomed == token:
            actor.doomed = 0  # it was quicker
        session = item.lane.session
        event = _remote.finished(data, item.call, item.lane.number, session.host.draw(), session.shift)
        # The clocks of two machines differ; nothing has begun before it was sent, or ended after it was heard of.
        event.started = min(max(item.sent, event.started), session.host.now())
        event.ended = min(max(event.started, event.ended), session.host.now())
        session.events.append(event)

    def _take_back(self, actor: Actor, token: int) -> None:
        item = actor.under_way.pop(token)
        session = item.lane.session
        if item.cancelled:
            session.end(item, Outcome.CANCELLED)
        else:
            session.events.append(Recalled(item.lane.number, [item.call.attempt], session.host.now()))


def _kill(actor: Actor) -> None:
    try:
        ray.kill(actor.handle)
    except Exception:  # noqa: BLE001 - it is dead, or Ray is gone, and it with it
        pass


def _reason(error: BaseException) -> str:
    """Return what Ray says of a death, in one line."""
    return " ".join(str(error).split()) or told(error)
