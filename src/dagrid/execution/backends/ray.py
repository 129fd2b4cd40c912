"""Ray: attempts run in actors, which are the worker processes of a Ray cluster, and live from run to run.

This is the driver's side: one thread for each backend, which alone touches what changes. What an actor does with the calls that it
gets is `_ray_worker`. It knows the port and Ray; what a run decides, it does not know.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any, ClassVar
from urllib.parse import urlsplit

import ray

from dagrid.errors import BackendClosedError, BackendUnreachableError, InvalidSettingError
from dagrid.execution.backends import _ray_worker, _remote
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, Stimulus, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host

OBJECT_STORE = 200 * 2**20
WINDOW = 256
"""How many attempts may be with a worker."""
STILLBORN_LIMIT = 3
"""How many workers in a row may die while they start before no more are tried."""
PATIENCE = 0.5
"""Seconds that a worker has to hand in what it finished before it is killed; and that a close waits for a report being made."""
REACH = 3.0
"""Seconds that an address has to answer."""


class RayBackend(BackendBase):
    """Run tasks in a Ray cluster: on this machine, or on many.

    A Ray session that there is already (`ray.init` was called) is used, and left as it is when the backend is closed. Else one is
    begun, and ended with the last backend that uses it. Each worker is an actor that holds one CPU of the cluster while it
    lives; they start when there is work for them, serve one run after the other, and go when there has been no run for a while.
    Cancels and timeouts kill the actor, and another takes its place.

    dagrid must be installed where the workers run, and the Python be of the same minor version. Functions travel by reference if
    they can be imported there, else by value. Tasks see the environment and the directory of their Ray worker; `runtime_env`
    changes these. They run in a thread of the actor which is not its main one.

    Args:
        num_cpus: how many attempts run at once at most; None means all CPUs of the cluster. A session that is begun on this
            machine gets so many CPUs, however many there are.
        address: of a cluster: `"ray://host:10001"`, `"host:6379"`, `"auto"`; None begins a session on this machine, unless the
            environment variable RAY_ADDRESS says otherwise.
        max_in_flight: how many attempts may be with the workers, the waiting ones included; None means 256 for each.
        object_store_memory: bytes of shared memory of a session that is begun on this machine; what does not fit goes to disk.
        keep_workers: seconds for which workers without a run keep their CPUs.
        actor_options: what else Ray is to know of a worker: `num_gpus`, `resources`, `memory`, `runtime_env`, ...

    Raises:
        InvalidSettingError: a number is not positive, or an option is unknown to Ray.
        BackendUnreachableError: there is no cluster at the address.
    """

    name: ClassVar[str] = "ray"
    capabilities: ClassVar[Capabilities] = Capabilities(kills=True, cancels=True)

    def __init__(
        self,
        num_cpus: int | None = None,
        address: str | None = None,
        max_in_flight: int | None = None,
        *,
        object_store_memory: int = OBJECT_STORE,
        keep_workers: float = 30.0,
        **actor_options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("num_cpus", num_cpus), ("max_in_flight", max_in_flight)):
            if value is not None and value < 1:
                raise InvalidSettingError(f"{name} is {value}. Give a positive number, or None.")
        make = _actor_class(actor_options)
        _cluster.join(num_cpus, address, object_store_memory)
        try:
            count = num_cpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        except BaseException:
            _cluster.leave()
            raise
        self.num_cpus = count
        self._crew = _Crew(make, count, max(1, (max_in_flight or WINDOW * count) // count), keep_workers)
        # Also for a backend that is dropped without being closed, and at the end of the program.
        self._finalizer = weakref.finalize(self, _end, self._crew)

    def open(self, host: Host) -> _Session:
        """Begin to serve a run: announce its workers, which start when they get something to do."""
        self.check_open()
        return self._crew.open(host, self)

    def release(self, wait: bool) -> None:
        """End the workers, and the Ray session if it was begun here and nobody else uses it."""
        self._finalizer.detach()
        _end(self._crew)

    def __repr__(self) -> str:
        closed = " (closed)" if self._closed else ""
        return f"<RayBackend of {self.num_cpus} workers{closed}>"


def _end(crew: _Crew) -> None:
    crew.stop()
    _cluster.leave()


def _actor_class(options: dict[str, Any]) -> Callable[[], Any]:
    """Return what starts an actor; Ray looks at the options at once."""
    try:
        kind = ray.remote(_ray_worker.Performer).options(**{"num_cpus": 1, **options, "max_restarts": 0})
    except (TypeError, ValueError) as error:
        raise InvalidSettingError(f"Ray cannot start workers with {options}: {error}") from error
    return lambda: kind.remote(_remote.PYTHON)


class _Cluster:
    """The Ray session of this process: there is one at most, so backends share it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._ours = False

    def join(self, num_cpus: int | None, address: str | None, object_store_memory: int) -> None:
        """Use the session that there is, or begin one."""
        with self._guard:
            if not ray.is_initialized():
                self._begin(num_cpus, address or os.environ.get("RAY_ADDRESS") or None, object_store_memory)
                self._users, self._ours = 0, True
            self._users += 1

    def leave(self) -> None:
        """The last one ends the session, if it is ours."""
        with self._guard:
            self._users -= 1
            if self._ours and self._users == 0:
                self._ours = False
                if ray.is_initialized():
                    ray.shutdown()

    @staticmethod
    def _begin(num_cpus: int | None, address: str | None, object_store_memory: int) -> None:
        quiet: dict[str, Any] = {"logging_level": "ERROR"}
        if address in (None, "local"):
            own = {"num_cpus": num_cpus, "object_store_memory": object_store_memory, "include_dashboard": False}
            ray.init(address="local", **own, **quiet)
            return
        assert address is not None
        try:
            _knock(address)
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise BackendUnreachableError(
                f"There is no Ray cluster at {address} ({told(error)}). Start one with `ray start --head`, or leave out the address "
                "for one on this machine."
            ) from error


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at an address; Ray itself would try for a long time."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), REACH).close()


_cluster = _Cluster()


class _Item:
    """A call with the lane that it is in; `alone` says that it may have killed a worker, and is to be tried by itself."""

    __slots__ = ("alone", "call", "cancelled", "lane", "sent", "started")

    def __init__(self, lane: _Lane, call: Call) -> None:
        self.lane = lane
        self.call = call
        self.alone = self.cancelled = False
        self.sent = self.started = UNSTARTED


class _Lane:
    """A worker as one run sees it: calls that wait, and the actor that serves it at present."""

    def __init__(self, session: _Session, number: int) -> None:
        self.session = session
        self.number = number
        self.waiting: deque[_Item] = deque()
        self.actor: _Actor | None = None


class _Actor:
    """A worker process: what is with it, what it runs, and what it is to be told."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.ready = False
        self.doomed = 0  # the token of what it is to be killed for
        self.kill_at = 0.0
        self.lane: _Lane | None = None
        self.under_way: dict[int, _Item] = {}
        self.running = 0
        self.letters = 0
        self.tokens = 0

    def tell(self, calls: Sequence[tuple[int, bytes]] = (), back: Sequence[int] = (), stop: int = 0) -> None:
        """Send a letter; they are numbered, for Ray may deliver a large one late."""
        self.handle.tell.remote(self.letters, list(calls), list(back), stop)
        self.letters += 1

    def token_of(self, lane: _Lane, attempt: int) -> int:
        """Return the token of an attempt that is with this actor, 0 if it is not."""
        found = (token for token, item in self.under_way.items() if item.lane is lane and item.call.attempt == attempt)
        return next(found, 0)


class _Session:
    """One run's use of the workers. What changes is touched by the crew's thread alone, but for `closed`."""

    def __init__(self, crew: _Crew, host: Host, backend: object) -> None:
        self.crew = crew
        self.host = host
        self.backend: object | None = backend  # while it is open, the backend is in use
        self.closed = False
        self.delivering = threading.Lock()
        self.events: list[Stimulus] = []
        self.lanes: dict[int, _Lane] = {}
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
        self.lanes[number] = _Lane(self, number)
        self.events.append(WorkerJoined(number, name, self.host.now(), 1, self.crew.window))

    def end(self, item: _Item, outcome: Outcome, error: BaseException | None = None, retryable: bool = False) -> None:
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


class _Crew:
    """The actors that the sessions of a backend share, and the thread that serves them.

    An actor serves one lane at a time, so that its death concerns one run; a lane that has nothing to do lets go of it. Lanes that
    want an actor when all are taken stand in a queue, and are served in turn. What is below `_loop` runs in the thread.
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
        self._sessions: list[_Session] = []
        self._actors: list[_Actor] = []
        self._wanting: deque[_Lane] = deque()
        self._stillborn = 0
        self._broken: Exception | None = None
        self._idle_since = perf_counter()

    def open(self, host: Host, backend: object) -> _Session:
        session = _Session(self, host, backend)
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

    def _want(self, lane: _Lane) -> None:
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

    def _unbind(self, actor: _Actor) -> None:
        lane, actor.lane = actor.lane, None
        if lane is not None:
            lane.actor = None
            self._want(lane)

    def _start(self) -> None:
        if self._broken is not None:
            return
        try:
            actor = _Actor(self._make())
            self._listen(actor)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds, the session's end among them
            self._broken = BackendUnreachableError(
                f"Ray cannot start a worker ({told(error)}). Put that right, then make a new backend."
            )
            return
        self._actors.append(actor)

    def _listen(self, actor: _Actor) -> None:
        future = actor.handle.listen.remote().future()
        future.add_done_callback(lambda done: self.command(self._hear, actor, done))

    def _feed(self, actor: _Actor) -> None:
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

    def _tell(self, actor: _Actor, *args: Any) -> None:
        try:
            actor.tell(*args)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds, the session's end among them
            self._bury(actor, told(error))

    def _doom(self, actor: _Actor, token: int) -> None:
        """Have a call stopped: if it waits it comes back, if it runs the actor says what it had finished and is killed."""
        self._tell(actor, (), (), token)
        if token == actor.running:
            actor.doomed, actor.kill_at = token, perf_counter() + PATIENCE

    def _put_down(self, actor: _Actor) -> None:
        """Kill an actor for the sake of what it runs; what waited behind that goes on elsewhere."""
        _kill(actor)
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        self._put_back(actor)

    def _put_back(self, actor: _Actor) -> None:
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

    def _bury(self, actor: _Actor, reason: str) -> None:
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

    def _lose(self, item: _Item, reason: str) -> None:
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

    def enrol(self, session: _Session) -> None:
        if session.closed:
            return
        self._sessions.append(session)
        for _ in range(self.count):
            session.join("ray")

    def perform(self, session: _Session, bundle: Bundle) -> None:
        lane = session.lanes.get(bundle.worker)
        if lane is None or session.closed:
            return
        lane.waiting.extend(_Item(lane, call) for call in bundle.calls)
        self._want(lane)

    def recall(self, session: _Session, worker: int, attempts: Sequence[int]) -> None:
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

    def cancel(self, session: _Session, worker: int, attempt: int) -> None:
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

    def drop(self, session: _Session) -> None:
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

    def _hear(self, actor: _Actor, done: Any) -> None:
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

    def _take_start(self, actor: _Actor, token: int, at: float) -> None:
        item = actor.under_way[token]
        session = item.lane.session
        actor.running = token
        item.started = min(max(item.sent, at + session.shift), session.host.now())
        session.events.append(Started(item.lane.number, item.call.attempt, item.started))
        if item.cancelled:
            actor.doomed, actor.kill_at = token, perf_counter() + PATIENCE

    def _take_end(self, actor: _Actor, token: int, data: bytes) -> None:
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

    def _take_back(self, actor: _Actor, token: int) -> None:
        item = actor.under_way.pop(token)
        session = item.lane.session
        if item.cancelled:
            session.end(item, Outcome.CANCELLED)
        else:
            session.events.append(Recalled(item.lane.number, [item.call.attempt], session.host.now()))


def _kill(actor: _Actor) -> None:
    try:
        ray.kill(actor.handle)
    except Exception:  # noqa: BLE001 - it is dead, or Ray is gone, and it with it
        pass


def _reason(error: BaseException) -> str:
    """Return what Ray says of a death, in one line."""
    return " ".join(str(error).split()) or told(error)
