"""The driver's end of Celery: who waits for which task, the connections to broker and result backend, and three threads.

It knows Celery and `_remote`; how a session of a run speaks to its host it does not know, and nothing of what a worker does.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import threading
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app import backends as result_backends
from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.states import READY_STATES

from dagrid.errors import BackendError, CapabilityError, InvalidSettingError
from dagrid.execution.backends import _remote
from dagrid.machine.events import Outcome, Recalled
from dagrid.ports import Call

if TYPE_CHECKING:
    from dagrid.execution.backends.celery import CeleryBackend, CelerySession

TASK = "dagrid.perform"
MODULE = "dagrid.execution.backends.celery"
LARGEST = 256 * 2**20
"""How many bytes a call or a report may have: Redis takes no text above 512 MiB, and in base64 they are a third longer."""
STARTED = "STARTED"
MISSES = 3
PULSE = 2.0
"""Seconds between two looks at the workers; an attempt that is missing at MISSES looks in a row is lost."""
GRACE = 5.0
"""Seconds after which a cancelled attempt counts as stopped, whether its worker answers or not."""
HOUR = 3600
_CONNECTING = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}

TOO_LARGE = f"and no more than {LARGEST:,} travel through Celery. Leave it in a file or a store, and return its name."
_log = logging.getLogger(MODULE)


def results_url(app: Celery, wanted: str | None) -> str:
    """Return where outcomes are stored: what is wanted, what the app says, or what suits the broker."""
    chosen = wanted or app.conf.result_backend
    if chosen and not str(chosen).startswith("disabled"):
        return str(chosen)
    broker = str(app.conf.broker_read_url or app.conf.broker_url or "amqp://")
    return broker.split(";")[0] if broker.startswith(("redis", "rediss", "sentinel")) else "rpc://"


def results_of(app: Celery, wanted: str | None) -> Any:
    """Make a result backend of our own, which disturbs nobody's: it speaks JSON only and keeps outcomes for an hour."""
    kind, url = result_backends.by_url(results_url(app, wanted), app.loader)
    made = kind(app=app, url=url, serializer="json", accept=["json"], expires=HOUR)
    if isinstance(made, DisabledBackend) or not hasattr(made, "result_consumer"):
        raise InvalidSettingError(
            f"The result backend {kind.__name__} tells nobody when a task has ended. Use redis://... or rpc://."
        )
    return made


def mac_of(key: bytes | None, what: bytes, task: str, data: bytes) -> str | None:
    """Return the signature of bytes that belong to a task, so that none fits another one."""
    if key is None:
        return None
    return hmac.new(key, b"\0".join((what, task.encode(), data)), hashlib.sha256).hexdigest()


class Flight:
    """An attempt that is with Celery under a task id of its own."""

    __slots__ = ("call", "cancelled", "host", "id", "misses", "sent", "session", "started", "submitted")

    def __init__(self, session: CelerySession, call: Call, name: str, now: float) -> None:
        self.session = session
        self.call = call
        self.id = name
        self.submitted = now
        self.sent = 0.0
        self.started: float | None = None
        self.host = ""
        self.cancelled = 0.0
        self.misses = 0


class Line:
    """The connections to broker and result backend, and who waits for what: shared by all sessions of a backend."""

    def __init__(self, backend: CeleryBackend) -> None:
        self._app = backend.app
        self._queue = backend.queue
        self._key = backend.key
        self._patience = backend.patience
        self._results_url = backend.result_backend
        self.sessions: set[CelerySession] = set()
        self._guard = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self._ids: dict[tuple[CelerySession, int], str] = {}
        self._prefix = f"dagrid-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._errands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._attached = threading.Event()
        self._away_since = 0.0
        self._unmanned_since = 0.0
        self._connection = self._connect()
        self._watching = self._connect()
        self._producer = self._app.amqp.Producer(self._connection)
        self._results: Any = None
        self._reply_to = ""
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=loop, name=f"dagrid-celery-{what}", daemon=True)
            for what, loop in (("send", self._send_all), ("drain", self._drain_all), ("watch", self._watch_all))
        ]
        self._threads[1].start()
        if not self._attached.wait(max(GRACE, 10.0)) or self._failure is not None:
            self._closing.set()
            raise BackendError(
                f"The result backend at {_shown(self._results_url)} cannot be reached: {self._failure or 'no answer'}. "
                "Start it, or give another one: result_backend=..."
            ) from self._failure
        self._threads[0].start()
        self._threads[2].start()
        _log.info("Celery's outcomes come by %s, calls go to queue %r.", _shown(self._results_url), self._queue)

    # --- what sessions ask for ---------------------------------------------------------------------------------------------

    def take(self, session: CelerySession, call: Call) -> None:
        """Send a call when its turn comes."""
        flight = Flight(session, call, self._new_name(), session.host.now())
        with self._guard:
            self._flights[flight.id] = flight
            self._ids[session, call.attempt] = flight.id
        self._errands.put(lambda: self._send(flight))

    def drop(self, session: CelerySession, attempts: Sequence[int], unsent: bool) -> list[Flight]:
        """Forget attempts that have not started and return them.

        What is under way is revoked, and forgotten if it has not started; with `unsent` only what has not been sent is taken.
        """
        found, revoked = [], []
        with self._guard:
            for attempt in attempts:
                flight = self._flights.get(self._ids.get((session, attempt), ""))
                if flight is None or (unsent and flight.sent):
                    continue
                if flight.sent:
                    revoked.append(flight.id)
                if flight.started is None:
                    self._forget(flight)
                    found.append(flight)
                else:
                    flight.cancelled = time.monotonic()
        self._revoke(revoked)
        return found

    def leave(self, session: CelerySession) -> None:
        """Kill all that a session has under way."""
        told = threading.Event()
        with self._guard:
            self.sessions.discard(session)
            flights = [flight for flight in self._flights.values() if flight.session is session]
            for flight in flights:
                self._forget(flight)
        sent = [flight.id for flight in flights if flight.sent]
        if not sent or self._closing.is_set():
            return
        self._revoke(sent)
        self._errands.put(told.set)
        if threading.current_thread() not in self._threads:
            told.wait(GRACE)

    def close(self) -> None:
        """End all sessions, then the threads."""
        for session in list(self.sessions):
            session.close()
        self._closing.set()
        self._errands.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(GRACE)

    # --- the thread that publishes -----------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:  # noqa: BLE001 - the thread must go on for the other calls
                _log.exception("An errand to Celery failed.")
        self._connection.close()

    def _connect(self) -> Any:
        """Open a connection to the broker that gives up soon; who uses it tries again for as long as it likes."""
        connection = self._app.connection_for_write(transport_options=_CONNECTING, connect_timeout=3)
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0.2, timeout=3)
        except Exception as error:
            raise BackendError(
                f"The broker at {connection.as_uri()} cannot be reached: {error}. Start it, or correct its address."
            ) from error
        return connection

    def _send(self, flight: Flight) -> None:
        if flight.id not in self._flights:
            return
        session, call = flight.session, flight.call
        try:
            order = _remote.order(call)
            if len(order) > LARGEST:
                raise CapabilityError(f"The call of node {call.node!r} has {len(order):,} bytes pickled, {TOO_LARGE}")
        except Exception as error:  # noqa: BLE001 - the user's code, and its outcome
            if self._take_out(flight.id) is not None:
                session.fail(flight, error)
            return
        body, mac = b64encode(order).decode(), mac_of(self._key, b"order", flight.id, order)
        with self._guard:
            if flight.id not in self._flights:
                return
            flight.sent = time.monotonic()
        self._persist(lambda: self._publish(flight, body, mac))

    def _publish(self, flight: Flight, body: str, mac: str | None) -> None:
        self._subscribe(flight.id)
        shown = f"({flight.call.node!r},)"
        message = self._app.amqp.create_task_message(
            flight.id, TASK, (body, mac), {}, reply_to=self._reply_to, argsrepr=shown, kwargsrepr="{}"
        )
        self._app.amqp.send_task_message(
            self._producer, TASK, message, queue=self._queue, serializer="json", retry=False, correlation_id=flight.id
        )

    def _revoke(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        control = self._app.control
        self._errands.put(
            lambda: self._persist(
                lambda: control.revoke(list(ids), terminate=True, signal="SIGKILL", connection=self._connection)
            )
        )

    def _persist(self, action: Callable[[], None]) -> None:
        """Do something with the broker; if it is away, again until it is back or patience ends."""
        end = time.monotonic() + self._patience
        while True:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - every transport has its own
                if self._closing.is_set():
                    return
                if time.monotonic() > end:
                    self._give_up(error)
                    return
                _log.warning("The broker %s is away (%s); trying again.", self._connection.as_uri(), error)
                self._closing.wait(0.5)
                self._reconnect()
            else:
                return

    def _reconnect(self) -> None:
        try:
            fresh = self._connect()
        except BackendError:
            return
        self._connection.collect()
        self._connection = fresh
        self._producer = self._app.amqp.Producer(fresh)

    # --- the thread that drains --------------------------------------------------------------------------------------------

    def _drain_all(self) -> None:
        try:
            self._attach()
        except Exception as error:  # noqa: BLE001 - every transport has its own
            self._failure = error
            return
        finally:
            self._attached.set()
        while not self._closing.is_set():
            try:
                self._results.result_consumer.drain_events(timeout=0.5)
            except TimeoutError:
                continue
            except Exception as error:  # noqa: BLE001 - every transport has its own
                if not self._closing.is_set():
                    self._attach_again(error)
        try:
            self._results.result_consumer.stop()
        except Exception:  # noqa: BLE001 - it is over anyway
            pass

    def _attach(self) -> None:
        """Make a result backend and listen to it; it tells each change of state of a task that was subscribed to."""
        results = results_of(self._app, self._results_url)
        if hasattr(results, "_transport_options"):
            options = {**results._transport_options, "retry_policy": _CONNECTING}  # noqa: SLF001 - one attach, not 20 s
            results._transport_options = options  # noqa: SLF001
        consumer = results.result_consumer
        consumer.on_state_change = self._on_state
        self._reply_to = str(getattr(results, "oid", ""))
        if not hasattr(consumer, "subscribed_to"):
            self._app.connection_for_read(transport_options=_CONNECTING).ensure_connection(max_retries=1, timeout=3)
        consumer.start(self._new_name())
        self._results = results

    def _attach_again(self, error: BaseException) -> None:
        _log.warning("The result backend %s is away (%s); trying again.", _shown(self._results_url), error)
        end = time.monotonic() + self._patience
        while not self._closing.is_set():
            try:
                self._attach()
                self._catch_up()
            except Exception as another:  # noqa: BLE001 - every transport has its own
                if time.monotonic() > end:
                    self._give_up(another)
                    end = time.monotonic() + self._patience
                self._closing.wait(0.5)
            else:
                return

    def _catch_up(self) -> None:
        """After an absence: hear what was missed, and take back what has not started, for the broker may have lost it."""
        with self._guard:
            flights = [flight for flight in self._flights.values() if flight.sent]
        for flight in flights:
            self._subscribe(flight.id)
        if isinstance(self._results, KeyValueStoreBackend):
            for flight in flights:
                self._on_state(self._results.get_task_meta(flight.id), None)
        self._take_back([flight for flight in flights if flight.started is None])

    def _subscribe(self, name: str) -> None:
        consumer = self._results.result_consumer
        if hasattr(consumer, "subscribed_to"):
            consumer.consume_from(name)

    def _on_state(self, meta: dict[str, Any], _message: Any) -> None:
        name, status = meta.get("task_id", ""), meta["status"]
        if status == STARTED:
            with self._guard:
                flight = self._flights.get(name)
                if flight is None or flight.started is not None:
                    return
                flight.host = meta["result"]["host"]
                flight.started = flight.submitted
            flight.session.begin(flight, meta["result"]["at"])
        elif status in READY_STATES:
            flight = self._take_out(name)
            if hasattr(self._results.result_consumer, "subscribed_to"):
                self._results.result_consumer.cancel_for(name)
            if flight is not None:
                self._settle(flight, status, meta["result"])
                self._errands.put(lambda: self._clean(name))

    def _clean(self, name: str) -> None:
        try:
            self._results.forget(name)
        except Exception:  # noqa: BLE001 - it goes by itself in an hour
            pass

    def _settle(self, flight: Flight, status: str, result: Any) -> None:
        session = flight.session
        if status == "SUCCESS":
            self._open(flight, result)
        elif flight.cancelled:
            session.end(flight, Outcome.CANCELLED)
        elif type(result).__name__ == "WorkerLostError":
            if flight.started is None:
                session.report(Recalled(session.worker, [flight.call.attempt], session.host.now()))
            else:
                session.end(flight, Outcome.LOST, text=f"the process on {flight.host} died: {result}")
        elif type(result).__name__ == "NotRegistered":
            session.fail(
                flight,
                BackendError(
                    f"The Celery worker does not know the task {TASK!r}. Start it with: --include {MODULE}",
                ),
            )
        elif status == "REVOKED":
            session.fail(
                flight, BackendError(f"The call of node {flight.call.node!r} was revoked in Celery by others.")
            )
        else:
            session.fail(flight, BackendError(f"Celery failed the call of node {flight.call.node!r}: {result!r}"))

    def _open(self, flight: Flight, result: Any) -> None:
        session = flight.session
        if "refused" in result:
            session.fail(
                flight, BackendError(f"The worker refused the call of node {flight.call.node!r}: {result['refused']}")
            )
            return
        if "again" in result:
            session.end(flight, Outcome.LOST, text=result["again"])
            return
        report = b64decode(result["report"])
        expected = mac_of(self._key, b"report", flight.id, report)
        if expected is not None and not hmac.compare_digest(result.get("mac") or "", expected):
            reason = "it was altered, or the worker has another key" if result.get("mac") else "it is not signed"
            session.fail(flight, BackendError(f"The report of node {flight.call.node!r} is refused: {reason}."))
            return
        session.deliver(flight, report)

    # --- the thread that watches -------------------------------------------------------------------------------------------

    def _watch_all(self) -> None:
        while not self._closing.wait(PULSE):
            try:
                self._end_cancelled()
                self._look_for_lost()
                self._look_for_workers()
                self._away_since = 0.0
            except Exception as error:  # noqa: BLE001 - every transport has its own
                self._away_since = self._away_since or time.monotonic()
                if time.monotonic() - self._away_since > self._patience:
                    self._give_up(error)
                self._watching.collect()
        self._watching.close()

    def _end_cancelled(self) -> None:
        limit = time.monotonic() - GRACE
        with self._guard:
            late = [flight for flight in self._flights.values() if flight.cancelled and flight.cancelled < limit]
        for flight in late:
            if self._take_out(flight.id) is not None:
                flight.session.end(flight, Outcome.CANCELLED)

    def _look_for_lost(self) -> None:
        """Ask the workers whether they still run what they have started."""
        limit = time.monotonic() - 2 * PULSE
        with self._guard:
            flights = [
                flight for flight in self._flights.values() if flight.started is not None and flight.sent < limit
            ]
        if not flights:
            return
        hosts = sorted({flight.host for flight in flights})
        ask = self._app.control.inspect(hosts, timeout=2.0, connection=self._watching, limit=len(hosts))
        running = {task["id"] for tasks in (ask.active(safe=True) or {}).values() for task in tasks}
        for flight in flights:
            flight.misses = 0 if flight.id in running else flight.misses + 1
            if flight.misses >= MISSES:
                self._lose(flight)

    def _lose(self, flight: Flight) -> None:
        if isinstance(self._results, KeyValueStoreBackend):
            meta = self._results.get_task_meta(flight.id)
            if meta["status"] in READY_STATES:
                self._on_state(meta, None)
                return
        if self._take_out(flight.id) is None:
            return
        self._revoke([flight.id])
        flight.session.end(flight, Outcome.LOST, text=f"the Celery worker {flight.host} is gone")
        with self._guard:
            waiting = [other for other in self._flights.values() if other.sent and other.started is None]
        self._take_back(waiting)

    def _take_back(self, flights: Sequence[Flight]) -> None:
        """Give back what was sent and has not started; it is sent again under another id."""
        mine = [flight for flight in flights if self._take_out(flight.id) is not None]
        self._revoke([flight.id for flight in mine])
        for flight in mine:
            flight.session.report(Recalled(flight.session.worker, [flight.call.attempt], flight.session.host.now()))

    def _look_for_workers(self) -> None:
        """Warn of a queue that no worker consumes, and end what waits there too long."""
        limit = time.monotonic() - PULSE
        with self._guard:
            alive = any(flight.started is not None for flight in self._flights.values())
            waiting = [flight for flight in self._flights.values() if 0 < flight.sent < limit]
        if alive or not waiting:
            self._unmanned_since = 0.0
            return
        ask = self._app.control.inspect(timeout=1.0, connection=self._watching)
        queues = {queue["name"] for found in (ask.active_queues() or {}).values() for queue in found}
        if self._queue in queues:
            self._unmanned_since = 0.0
            return
        text = (
            f"No Celery worker takes from queue {self._queue!r} at {self._watching.as_uri()}. "
            f"Start one: celery -A your_app worker --include {MODULE} -Q {self._queue}"
        )
        if not self._unmanned_since:
            self._unmanned_since = time.monotonic()
            _log.warning(text)
        elif time.monotonic() - self._unmanned_since > self._patience:
            self._fail_all(BackendError(text))

    # --- endings -----------------------------------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> None:
        """End all that is with a broker that does not come back."""
        text = f"Celery's broker or result backend has been out of reach for {self._patience:g} s: {error}."
        self._fail_all(BackendError(f"{text} The broker is {self._connection.as_uri()}; start it and run again."))

    def _fail_all(self, error: BackendError) -> None:
        with self._guard:
            flights = list(self._flights.values())
        for flight in flights:
            if self._take_out(flight.id) is not None:
                flight.session.fail(flight, error)

    def _new_name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _take_out(self, name: str) -> Flight | None:
        with self._guard:
            flight = self._flights.get(name)
            if flight is not None:
                self._forget(flight)
            return flight

    def _forget(self, flight: Flight) -> None:
        """The caller holds the guard."""
        del self._flights[flight.id]
        if self._ids.get((flight.session, flight.call.attempt)) == flight.id:
            del self._ids[flight.session, flight.call.attempt]


def _shown(url: str) -> str:
    """Return a URL without its password."""
    from kombu.utils.url import maybe_sanitize_url

    return str(maybe_sanitize_url(url))
