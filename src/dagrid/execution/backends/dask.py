"""A Dask cluster as a place: each of its workers is one of ours, and each call is a task that Dask runs there.

Dask carries the calls and keeps the workers alive; which call goes to which worker the engine decides.
It knows the sockets and Dask's public client, and nothing of the engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future as AnyFuture
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from itertools import count
from time import time
from typing import Any, ClassVar
from uuid import uuid4
from weakref import WeakKeyDictionary, finalize, ref

from distributed import Client, LocalCluster

from dagrid.errors import BackendError, CapabilityError, InvalidSettingError
from dagrid.execution.backends._dask_worker import die, ended_beside, greeting, perform_on_worker, refuse
from dagrid.execution.backends._remote import finished, order
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase, Sessions
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host

AHEAD = 8
"""How many calls may be with a worker for each that it runs at once."""
LARGE = 2**20
"""Calls of more bytes than this travel as data, not within a graph of Dask's."""
GRACE = 5.0
"""How many seconds the end of a session may take."""


class DaskBackend(BackendBase):
    """Perform attempts on the workers of a Dask cluster.

    Each Dask worker is a worker of the run under its address, with as many slots as it has threads; workers that come and go are
    seen. The workers need dagrid, and the Python of this process. The times of attempts are those of the workers' clocks.

    A client that is given or current is used and left open. With an address a connection is made, and closed with the backend.
    Without any of these, worker processes are started on this machine for as long as the backend is open; a script then needs
    Python's `if __name__ == "__main__"` guard, as always with Dask.

    Dask cannot stop what a worker runs. Where `kill` is on and every worker has one thread and a nanny, a cancelled or late
    attempt is stopped by ending the worker's process, which the nanny replaces. Otherwise it keeps its slot until it ends.

    Args:
        address: a scheduler's, such as "tcp://host:8786" or "host:8786".
        client: a `distributed.Client`, not an asynchronous one.
        max_workers: how many attempts run at once at most; for processes of our own also how many there are. None means all
            that the cluster has, or one for each processor.
        kill: end workers' processes to stop what they run. None: only if they are our own, for what else a worker keeps in
            memory is lost with it.
        timeout: seconds to wait for the scheduler.

    Raises:
        InvalidSettingError: settings that cannot be, or exclude each other.
        BackendError: there is no scheduler at the address.
        CapabilityError: the workers do not have dagrid.
    """

    name: ClassVar[str] = "dask"

    def __init__(
        self,
        address: str | None = None,
        client: Any = None,
        max_workers: int | None = None,
        kill: bool | None = None,
        timeout: float = 5.0,
    ) -> None:
        super().__init__()
        if max_workers is not None and max_workers < 1:
            raise InvalidSettingError(
                f"max_workers is {max_workers}. Give a positive number, or None for all there are."
            )
        if address is not None and client is not None:
            raise InvalidSettingError("Give an address or a client, not both.")
        client = client if client is not None else _current() if address is None else None
        if client is not None and client.asynchronous:
            raise InvalidSettingError("The client is asynchronous. Give one that was made with asynchronous=False.")
        self.max_workers = max_workers
        self._cluster: Any = None
        self._owned = client is None
        self.client: Any
        if client is None and address is None:
            self._cluster = _start_cluster(max_workers or os.cpu_count() or 1)
            address = self._cluster.scheduler_address
        self.client = client if client is not None else _connect(str(address), timeout)
        self.kill = kill if kill is not None else self._cluster is not None
        self.topic = f"dagrid-{uuid4().hex}"
        self.flights: dict[int, _Flight] = {}
        self.labels = count(uuid4().int >> 66)  # no other backend's calls on the same workers have these
        self.sessions: Sessions[DaskSession] = Sessions()
        self._finalizer = finalize(self, _let_go, self.client if self._owned else None, self._cluster)
        try:
            self._greet()
            threads = self.client.nthreads()
            self._kills = self.kill and set(threads.values()) == {1}
            self._watch = _watch(self.client)
            self.client.subscribe_topic(self.topic, self._began)
        except BaseException:
            self._finalizer()
            raise

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return Capabilities(kills=self._kills, cancels=True)

    def open(self, host: Host) -> DaskSession:
        """Begin to serve a run: announce the workers that there are."""
        self.check_open()
        session = DaskSession(self, host)
        self.sessions.add(session)
        session.announce(self.client.nthreads())
        self._watch.add(session.workers_changed)
        return session

    def release(self, wait: bool) -> None:
        """End every session, and what was started or connected here."""
        sessions = list(self.sessions)
        for session in sessions:
            session.close()
        if wait and not self._owned:
            wait_for([ending for session in sessions for ending in session.endings], GRACE)
        if not self._owned and self.client.status == "running":
            self.client.unsubscribe_topic(self.topic)
        self._finalizer()

    def forget(self, session: DaskSession) -> None:
        """A session has been closed."""
        self._watch.discard(session.workers_changed)
        self.sessions.discard(session)

    # --- in the client's loop ----------------------------------------------------------------------------------------------

    def soon(self, errand: Coroutine[Any, Any, None]) -> AnyFuture[None]:
        """Let the client's loop do something."""
        return asyncio.run_coroutine_threadsafe(errand, self.client.loop.asyncio_loop)

    async def ask(self, address: str, question: Callable[..., Any], *args: Any) -> Any:
        """Let a worker answer a question beside its tasks; None if it is not there any more."""
        try:
            replies = await self.client.run(question, *args, workers=[address], on_error="return")
        except Exception:  # noqa: BLE001 - the scheduler has gone, or the worker in the meantime: that is told elsewhere
            return None
        reply = replies.get(address)
        return None if isinstance(reply, BaseException) else reply

    async def stop(self, flight: _Flight) -> None:
        """End the process of a worker that runs a flight, when everything that it made before has been fetched."""
        if not self._kills:
            return
        while not flight.fetched.is_set():
            others = {
                other.label: other
                for other in list(self.flights.values())
                if other.address == flight.address and other is not flight
            }
            ended = await self.ask(flight.address, ended_beside, flight.label, list(others))
            if ended is None:
                return
            unfetched = [others[label].fetched.wait() for label in ended if not others[label].fetched.is_set()]
            if not unfetched:
                await self.ask(flight.address, die, flight.label)
                return
            await asyncio.wait([asyncio.ensure_future(one) for one in unfetched], timeout=GRACE)

    async def abandon(self, address: str, flights: Sequence[_Flight]) -> None:
        """Nobody waits for these any more: let those that have not started never start, and stop the others."""
        states = await self.ask(address, refuse, [flight.label for flight in flights]) or {}
        for flight in flights:
            if states.get(flight.label) == "running":
                await self.stop(flight)
            flight.fetched.set()
        with suppress(Exception):
            await self.client.cancel([flight.future for flight in flights])

    def _began(self, event: tuple[float, Any]) -> None:
        """A worker says that it has begun a task."""
        label, at = event[1]
        flight = self.flights.get(label)
        if flight is not None:
            flight.session.began(flight, at)

    def _greet(self) -> None:
        """Check that the workers that are there can perform calls."""
        replies = self.client.run(greeting, on_error="return")
        for address, reply in replies.items():
            if isinstance(reply, BaseException):
                raise CapabilityError(
                    f"The Dask worker {address} cannot perform calls of dagrid ({told(reply)}). Install dagrid where it runs."
                ) from reply


class _Flight:
    """A call that is with a Dask worker. An attempt that was given back and comes again is another flight, of another `label`."""

    __slots__ = ("address", "call", "fetched", "future", "label", "sent", "session", "started", "worker")

    def __init__(self, session: DaskSession, call: Call, worker: int, address: str, label: int, sent: float) -> None:
        self.session = session
        self.call = call
        self.worker = worker
        self.address = address
        self.label = label
        self.sent = sent
        self.started = -1.0
        self.future: Any = None
        self.fetched = asyncio.Event()


class _Place:
    """A Dask worker as this run sees it: what is with it, in the order of sending, and how many of these run."""

    __slots__ = ("address", "flights", "late", "running", "slots")

    def __init__(self, address: str, slots: int) -> None:
        self.address = address
        self.slots = slots
        self.flights: dict[int, _Flight] = {}
        self.running: set[int] = set()
        self.late: list[_Flight] = []  # they have started, but the end of those before them has not been told yet


class DaskSession:
    """One run's use of the cluster.

    One thread does all there is to do, in the order in which it was asked for, and tells the host; it never waits for a worker.
    What has to wait does so in the client's loop, and leaves what it found out as a further thing to do.
    """

    def __init__(self, backend: DaskBackend, host: Host) -> None:
        self._backend = backend
        self._host = host
        self._shift = host.now() - time()
        self._guard = threading.Lock()
        self._quiet = threading.Condition(self._guard)
        self._telling = 0
        self._closed = False
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._places: dict[int, _Place] = {}
        self._attempts: dict[int, _Flight] = {}
        self._done: list[_Flight] = []
        self._events: list[Any] = []
        self._token = uuid4().hex
        self.endings: list[AnyFuture[None]] = []
        self._thread = threading.Thread(target=self._serve, name="dagrid-dask", daemon=True)

    def announce(self, threads: Mapping[str, int]) -> None:
        """Announce the workers and begin."""
        self._align(threads, ())
        self._tell()
        self._thread.start()

    def wake(self, worker: int) -> None:
        """Its workers do not pull."""

    def attend(self) -> None:
        """It has a thread."""

    def perform(self, bundle: Bundle) -> None:
        self._errands.put(partial(self._send, bundle))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._errands.put(partial(self._ask_back, worker, attempts, self._given_back))

    def cancel(self, worker: int, attempt: int) -> None:
        self._errands.put(partial(self._ask_back, worker, [attempt], self._cancelled))

    def workers_changed(self, threads: Mapping[str, int], gone: Sequence[str]) -> None:
        """Other workers are there than before."""
        self._errands.put(partial(self._align, threads, gone))

    def began(self, flight: _Flight, at: float) -> None:
        """A worker has begun a call, at a time of its clock of day."""
        self._errands.put(partial(self._begin, flight, at))

    def close(self) -> None:
        """Report nothing any more, and stop what is under way in the background."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            if threading.current_thread() is not self._thread:
                self._quiet.wait_for(lambda: not self._telling)
        self._errands.put(None)
        self._backend.forget(self)
        self._thread.join(GRACE) if threading.current_thread() is not self._thread else self._wind_up()

    # --- in the session's thread -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (errand := self._errands.get()) is not None:
            if self._closed:
                continue
            errand()
            if self._errands.empty() or len(self._events) > 1000:
                self._tell()
        self._wind_up()

    def _wind_up(self) -> None:
        flights, self._attempts = list(self._attempts.values()), {}
        by_address: dict[str, list[_Flight]] = {}
        for flight in flights:
            self._backend.flights.pop(flight.label, None)
            by_address.setdefault(flight.address, []).append(flight)
        with suppress(RuntimeError):  # the client's loop has ended
            self.endings += [self._backend.soon(self._backend.abandon(*item)) for item in by_address.items()]

    def _tell(self) -> None:
        events, self._events = self._events, []
        if not events:
            return
        with self._guard:
            if self._closed:
                return
            self._telling += 1
        try:
            self._host.report(events)
        finally:
            with self._guard:
                self._telling -= 1
                self._quiet.notify_all()

    def _align(self, threads: Mapping[str, int], gone: Sequence[str]) -> None:
        """Make the announced workers the same as those that are there."""
        for number, place in list(self._places.items()):
            if place.address not in threads or place.address in gone:
                self._lose(number, place)
        known = {place.address for place in self._places.values()}
        used = sum(place.slots for place in self._places.values())
        for address, count_ in threads.items():
            limit = self._backend.max_workers
            slots = count_ if limit is None else min(count_, limit - used)
            if address in known or slots < 1:
                continue
            used += slots
            number = self._host.new_worker()
            self._places[number] = _Place(address, slots)
            # Where the worker would run more at once than it should, nothing may wait there.
            window = AHEAD * slots if slots == count_ else slots
            self._events.append(WorkerJoined(number, address, self._host.now(), slots, window))

    def _lose(self, number: int, place: _Place) -> None:
        """A worker vanished. It takes calls in order, so that the first ones ran, also if it could not say so any more."""
        del self._places[number]
        now = self._host.now()
        for label, flight in place.flights.items():
            if len(place.running) < place.slots and label not in place.running:
                place.running.add(label)
                self._events.append(Started(number, flight.call.attempt, now))
        for flight in place.flights.values():
            self._forget(flight)
        self._events.append(WorkerGone(number, now, f"the Dask worker {place.address} ended"))
        lost = list(place.flights.values())
        if lost:
            self._backend.soon(self._backend.abandon(place.address, lost))

    def _forget(self, flight: _Flight) -> bool:
        self._backend.flights.pop(flight.label, None)
        return self._attempts.pop(flight.call.attempt, None) is not None

    def _send(self, bundle: Bundle) -> None:
        place = self._places.get(bundle.worker)
        if place is None:
            return  # its end has been told, and these calls went back with it
        flights: list[_Flight] = []
        orders: list[Any] = []
        now = self._host.now()
        for call in bundle.calls:
            try:
                sent = order(call)
                orders.append(sent if len(sent) < LARGE else self._scatter(sent, place.address))
            except Exception as error:  # noqa: BLE001 - what a user's pickling raises is the outcome
                self._fail(bundle.worker, call, error, retryable=False)
                continue
            flights.append(_Flight(self, call, bundle.worker, place.address, next(self._backend.labels), now))
        for flight in flights:
            self._attempts[flight.call.attempt] = self._backend.flights[flight.label] = flight
            place.flights[flight.label] = flight
        if flights:
            self._submit(place, flights, orders)

    def _scatter(self, sent: bytes, address: str) -> Any:
        return self._backend.client.scatter([sent], workers=[address], hash=False)[0]

    def _submit(self, place: _Place, flights: Sequence[_Flight], orders: Sequence[Any]) -> None:
        try:
            futures = self._backend.client.map(
                perform_on_worker,
                [flight.label for flight in flights],
                orders,
                topic=self._backend.topic,
                key=[f"{flight.call.node}-{flight.label}-{self._token}" for flight in flights],
                workers=[place.address],
                allow_other_workers=False,
                pure=False,
            )
        except Exception as error:  # noqa: BLE001 - the client is closed, or the scheduler gone
            for flight in flights:
                self._land(flight, _unreachable(error))
            return
        for flight, future in zip(flights, futures, strict=True):
            flight.future = future
            future.add_done_callback(partial(self._note_done, flight))

    def _begin(self, flight: _Flight, at: float) -> None:
        place = self._places.get(flight.worker)
        if place is None or flight.label not in place.flights:
            return
        flight.started = min(max(at + self._shift, flight.sent), self._host.now())
        if len(place.running) < place.slots:
            place.running.add(flight.label)
            self._events.append(Started(flight.worker, flight.call.attempt, flight.started))
        else:
            place.late.append(flight)

    def _leave(self, flight: _Flight) -> bool:
        """A flight is over: let those that have begun since begin for the host too. False if it was over before."""
        place = self._places.get(flight.worker)
        if place is None or place.flights.pop(flight.label, None) is None:
            return False
        place.running.discard(flight.label)
        return self._forget(flight)

    def _begin_late(self, worker: int) -> None:
        place = self._places.get(worker)
        while place is not None and place.late and len(place.running) < place.slots:
            flight = place.late.pop(0)
            if flight.label in place.flights:
                place.running.add(flight.label)
                self._events.append(Started(worker, flight.call.attempt, flight.started))

    def _land(self, flight: _Flight, answer: bytes | BaseException) -> None:
        if not self._leave(flight):
            return
        if isinstance(answer, BaseException):
            self._fail(flight.worker, flight.call, answer)
        else:
            event = finished(answer, flight.call, flight.worker, self._host.draw(), self._shift)
            event.started = max(event.started, flight.sent)
            event.ended = max(event.started, min(event.ended, self._host.now()))
            self._events.append(event)
        self._begin_late(flight.worker)

    def _fail(self, worker: int, call: Call, error: BaseException, *, retryable: bool = True) -> None:
        now, draw = self._host.now(), self._host.draw()
        self._events.append(
            Finished(worker, call.attempt, Outcome.FAILED, now, now, error, told(error), retryable, draw)
        )

    def _ask_back(self, worker: int, attempts: Sequence[int], answer: Callable[[_Flight, str], None]) -> None:
        """Ask a worker not to start these, and hear what it says of each."""
        found = [self._attempts[attempt] for attempt in attempts if attempt in self._attempts]
        found = [flight for flight in found if flight.worker == worker]
        if found:
            with suppress(RuntimeError):  # the client's loop has ended
                self._backend.soon(self._hear(found, answer))

    def _given_back(self, flight: _Flight, state: str) -> None:
        if state == "refused" and self._leave(flight):
            self._events.append(Recalled(flight.worker, [flight.call.attempt], self._host.now()))
            self._begin_late(flight.worker)

    def _cancelled(self, flight: _Flight, state: str) -> None:
        if state == "refused" and self._leave(flight):
            now = self._host.now()
            self._events.append(Finished(flight.worker, flight.call.attempt, Outcome.CANCELLED, now, now))
            self._begin_late(flight.worker)
        elif state == "running":
            self._backend.soon(self._backend.stop(flight))

    # --- in the client's loop, or threads of Dask's ------------------------------------------------------------------------

    async def _hear(self, flights: Sequence[_Flight], answer: Callable[[_Flight, str], None]) -> None:
        states = await self._backend.ask(flights[0].address, refuse, [flight.label for flight in flights])
        if states is None:
            return
        for flight in flights:
            self._errands.put(partial(answer, flight, states[flight.label]))
        refused = [flight.future for flight in flights if states[flight.label] == "refused"]
        if refused:
            await self._backend.client.cancel(refused)

    def _note_done(self, flight: _Flight, _future: object) -> None:
        """Dask has made a result, or never will: fetch it, with all others that there are by then."""
        with self._guard:
            if self._closed:
                return
            self._done.append(flight)
            first = len(self._done) == 1
        if first:
            with suppress(RuntimeError):  # the client's loop has ended
                self._backend.soon(self._fetch())

    async def _fetch(self) -> None:
        with self._guard:
            flights, self._done = self._done, []
        answers: list[Any] = []
        try:
            answers = await self._backend.client.gather([flight.future for flight in flights], errors="skip")
        except Exception:  # noqa: BLE001 - then each by itself
            pass
        if len(answers) != len(flights):
            answers = [await self._answer(flight) for flight in flights]
        for flight, answer in zip(flights, answers, strict=True):
            flight.fetched.set()
            if answer != b"":
                self._errands.put(partial(self._land, flight, answer))

    async def _answer(self, flight: _Flight) -> bytes | BaseException:
        try:
            found = await self._backend.client.gather([flight.future])
        except asyncio.CancelledError as error:
            return _unreachable(error)
        except Exception as error:  # noqa: BLE001 - whatever Dask says of the task
            return error
        return bytes(found[0])


class _Watch:
    """Who wants to know which workers a client's cluster has; one for each client, which takes only one listener itself."""

    def __init__(self, client: Any) -> None:
        self._client = ref(client)
        self._listeners: set[Callable[[Mapping[str, int], Sequence[str]], None]] = set()
        self._gone: list[str] = []
        client.subscribe_topic("all", self._hear)

    def add(self, listener: Callable[[Mapping[str, int], Sequence[str]], None]) -> None:
        self._listeners.add(listener)

    def discard(self, listener: Callable[[Mapping[str, int], Sequence[str]], None]) -> None:
        self._listeners.discard(listener)

    async def _hear(self, event: tuple[float, Any]) -> None:
        said = event[1]
        action = said.get("action") if isinstance(said, dict) else None
        if action not in ("add-worker", "remove-worker"):
            return
        if action == "remove-worker":
            self._gone.append(said.get("worker", ""))
        client = self._client()
        if client is None:
            return
        threads = dict(await client.scheduler.ncores())
        gone, self._gone = self._gone, []
        for listener in list(self._listeners):
            listener(threads, gone)


_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()
_watching = threading.Lock()


def _watch(client: Any) -> _Watch:
    with _watching:
        found = _watches.get(client)
        if found is None:
            found = _watches[client] = _Watch(client)
        return found


def _current() -> Any:
    try:
        return Client.current(allow_global=True)
    except ValueError:
        return None


def _connect(address: str, timeout: float) -> Any:
    try:
        return Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise BackendError(
            f"There is no Dask scheduler at {address!r} that answers within {timeout:g} s ({told(error)}). "
            "Start one there with `dask scheduler`, or correct the address."
        ) from error


def _start_cluster(processes: int) -> Any:
    return LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )


def _let_go(client: Client | None, cluster: Any) -> None:
    for one in (client, cluster):
        if one is not None:
            with suppress(Exception):
                one.close()


def _unreachable(error: BaseException) -> BackendError:
    found = BackendError(f"Dask did not perform the call ({told(error)}). See whether its scheduler still runs.")
    found.__cause__ = error
    return found
