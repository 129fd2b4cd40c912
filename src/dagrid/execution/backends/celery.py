"""Attempts as Celery tasks: what a Celery worker runs, and the backend that sends it there and hears what became of it.

The same module is loaded on both sides. It knows the port, `_remote` and Celery; nothing of the engine. Every attempt is one
message for one generic task, `dagrid.perform`, with a task id that is never used twice, so that a report of an attempt that is
over for us finds nobody. Publishing, draining and watching are three threads, which all runs of a backend share.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import os
import threading
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from celery import Celery, Task, shared_task
from celery.app import backends as result_backends
from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.exceptions import Ignore
from celery.states import READY_STATES

from dagrid.errors import BackendError, CapabilityError, InvalidSettingError
from dagrid.execution.backends import _remote
from dagrid.execution.backends.base import BackendBase
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host

TASK = "dagrid.perform"
QUEUE = "dagrid"
KEY_VARIABLE = "DAGRID_CELERY_KEY"
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

_log = logging.getLogger(__name__)

# --- what a worker runs ----------------------------------------------------------------------------------------------------


class Perform(Task):  # type: ignore[misc]
    """The generic task's settings, whatever the worker's app says.

    A message is acknowledged when its outcome is stored, so that a worker takes no more than it can run; one whose process died
    is not delivered again, for dagrid counts that attempt as lost and sends another one.
    """

    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = False
    track_started = False
    ignore_result = False
    store_errors_even_if_ignored = True
    max_retries = 0
    serializer = "json"
    _made: tuple[int, Any] | None = None

    @property
    def backend(self) -> Any:
        """Return where outcomes are stored: what the app is set to, else what suits its broker."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), _results_of(self.app, None)
        return self._made[1]


@shared_task(bind=True, base=Perform, name=TASK)  # type: ignore[untyped-decorator]
def perform(task: Any, body: str, mac: str | None = None) -> dict[str, str | None]:
    """Perform one call of dagrid's and return its report; both are bytes in base64, signed if there is a key."""
    request = task.request
    results, key = task.backend, _worker_key(task.app)
    sent = b64decode(body)
    if (reason := _refusal(key, request.id, sent, mac)) is not None:
        return {"refused": f"{request.hostname}: {reason}"}
    if (request.delivery_info or {}).get("redelivered"):
        if not isinstance(results, KeyValueStoreBackend):
            return {"again": "the broker delivered the call for a second time"}
        if results.get_state(request.id) != "PENDING":
            raise Ignore
    results.store_result(request.id, {"at": time.time(), "host": request.hostname}, STARTED, request=request)
    if len(_functions) > 1000:
        _functions.clear()
    report = _remote.perform(sent, _functions)
    if len(report) > LARGEST:
        return {"refused": f"{request.hostname}: the value has {len(report):,} bytes pickled, {_TOO_LARGE}"}
    return {"report": b64encode(report).decode(), "mac": _mac(key, b"report", request.id, report)}


_functions: dict[bytes, Callable[..., Any]] = {}
_TOO_LARGE = f"and no more than {LARGEST:,} travel through Celery. Leave it in a file or a store, and return its name."


def install(app: Celery) -> Celery:
    """Let the workers of an app run dagrid's calls and return the app; for the module that they are started with.

    The same is done by `--include dagrid.execution.backends.celery` on their command line.
    """
    app.conf.include = [*(app.conf.include or ()), __name__]
    return app


def _own_app(broker: str | None) -> Celery:
    made = Celery("dagrid", broker=broker, set_as_current=False)
    made.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        task_default_queue=QUEUE,
        task_serializer="json",
        worker_prefetch_multiplier=1,
    )
    return made


app = _own_app(None)
"""What `celery -A dagrid.execution.backends.celery -b BROKER worker` finds."""


def _results_url(app: Celery, wanted: str | None) -> str:
    """Return where outcomes are stored: what is wanted, what the app says, or what suits the broker."""
    chosen = wanted or app.conf.result_backend
    if chosen and not str(chosen).startswith("disabled"):
        return str(chosen)
    broker = str(app.conf.broker_read_url or app.conf.broker_url or "amqp://")
    return broker.split(";")[0] if broker.startswith(("redis", "rediss", "sentinel")) else "rpc://"


def _results_of(app: Celery, wanted: str | None) -> Any:
    """Make a result backend of our own, which disturbs nobody's: it speaks JSON only and keeps outcomes for an hour."""
    kind, url = result_backends.by_url(_results_url(app, wanted), app.loader)
    made = kind(app=app, url=url, serializer="json", accept=["json"], expires=HOUR)
    if isinstance(made, DisabledBackend) or not hasattr(made, "result_consumer"):
        raise InvalidSettingError(
            f"The result backend {kind.__name__} tells nobody when a task has ended. Use redis://... or rpc://."
        )
    return made


def _mac(key: bytes | None, what: bytes, task: str, data: bytes) -> str | None:
    """Return the signature of bytes that belong to a task, so that none fits another one."""
    if key is None:
        return None
    return hmac.new(key, b"\0".join((what, task.encode(), data)), hashlib.sha256).hexdigest()


def _refusal(key: bytes | None, task: str, sent: bytes, mac: str | None) -> str | None:
    """Say why a worker does not open a call, None if it may."""
    if key is None:
        if mac is None:
            return None
        return f"the call is signed, and this worker has no key. Start it with the driver's key in {KEY_VARIABLE}."
    if mac is None:
        return (
            "the call is not signed, and this worker takes signed ones only. Give the backend the worker's key: key=..."
        )
    if hmac.compare_digest(mac, _mac(key, b"order", task, sent) or ""):
        return None
    return "the signature of the call is wrong: it was altered, or the driver has another key than this worker."


def _worker_key(app: Celery) -> bytes | None:
    return _as_key(os.environ.get(KEY_VARIABLE) or app.conf.get("dagrid_key"))


def _as_key(key: str | bytes | None) -> bytes | None:
    return (key.encode() if isinstance(key, str) else key) or None


# --- the driver's side -----------------------------------------------------------------------------------------------------


class CeleryBackend(BackendBase):
    """Perform attempts on the workers of a Celery installation.

    Start workers with dagrid installed, `celery -A dagrid.execution.backends.celery -b redis://... worker -Q dagrid`, or your own
    with `celery -A your_app worker --include dagrid.execution.backends.celery -Q dagrid`. Cancelling and timing out kill the
    process that runs the task (with the prefork pool, which is Celery's default). With your own app set
    `worker_prefetch_multiplier = 1`, or a worker keeps short tasks behind a long one.

    Outcomes come by the result backend: by pub/sub of Redis, or a queue of the broker (`rpc://`). If neither `result_backend`
    nor the app's settings name one, it is the broker itself where that is Redis, else `rpc://`; workers find the same by the
    same rule. One that is named here must be in the workers' settings too. Values and functions travel as base64 in JSON;
    Celery's own pickle serializer is not used, yet what is in them is a pickle: give a `key` where others reach the broker.

    A worker that dies costs the attempts that it ran; they are lost, and not delivered again. What it had not started is sent
    again. When the broker is away for longer than `patience`, the attempts that are with it fail, and say so.

    Args:
        broker: its URL, such as "redis://localhost:6379"; not needed with an app.
        app: your Celery app. It is only read, never changed or closed.
        result_backend: the URL of the result backend.
        queue: where calls are sent; by default the app's default queue, and "dagrid" without an app.
        key: signs what is sent and what comes back (HMAC-SHA256); workers have it in the environment variable
            DAGRID_CELERY_KEY, or in their app's setting `dagrid_key`, and refuse what is not signed with it.
        max_in_flight: how many attempts of a run are with Celery at once, waiting ones included; how many of them run at once
            is the workers' affair.
        patience: seconds to wait for a broker that is away, and for the first worker.

    Raises:
        InvalidSettingError: neither broker nor app, or a number that cannot be.
    """

    name = "celery"
    capabilities = Capabilities(kills=True, cancels=True)

    def __init__(
        self,
        broker: str | None = None,
        app: Celery | None = None,
        result_backend: str | None = None,
        queue: str | None = None,
        *,
        key: str | bytes | None = None,
        max_in_flight: int = 64,
        patience: float = 30.0,
    ) -> None:
        super().__init__()
        if broker is None and app is None:
            raise InvalidSettingError(
                'CeleryBackend needs a broker, as in CeleryBackend("redis://localhost:6379"), or app=.'
            )
        if broker is not None and app is not None:
            raise InvalidSettingError("CeleryBackend takes a broker or an app, not both: the app has its own broker.")
        if max_in_flight < 1:
            raise InvalidSettingError(f"max_in_flight is a whole number from 1 up, not {max_in_flight!r}.")
        if patience <= 0:
            raise InvalidSettingError(f"patience is a number of seconds above 0, not {patience!r}.")
        self.app = _own_app(broker) if app is None else app
        self.queue = queue or str(self.app.conf.task_default_queue)
        self.key = _as_key(key)
        self.max_in_flight = max_in_flight
        self.patience = patience
        self.result_backend = _results_url(self.app, result_backend)
        self._line: Line | None = None

    def open(self, host: Host) -> CelerySession:
        """Begin to serve a run.

        Raises:
            BackendError: the broker or the result backend cannot be reached.
        """
        self.check_open()
        with self._guard:
            if self._line is None:
                self._line = Line(self)
            line = self._line
        session = CelerySession(line, host)
        session.announce(self.max_in_flight)
        return session

    def release(self, wait: bool) -> None:
        """End every session and the threads."""
        with self._guard:
            line = self._line
        if line is not None:
            line.close()


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


class CelerySession:
    """One run's use of the line."""

    def __init__(self, line: Line, host: Host) -> None:
        self._line = line
        self.host = host
        self.worker = host.new_worker()
        self._shift = host.now() - time.time()
        self._quiet = threading.Condition()
        self._reporters: list[int] = []
        self.closed = False

    def announce(self, slots: int) -> None:
        """Announce the worker that stands for all of Celery's."""
        self._line.sessions.add(self)
        self.report(WorkerJoined(self.worker, "celery", self.host.now(), slots, slots))

    def wake(self, worker: int) -> None:
        """Its worker does not pull."""

    def perform(self, bundle: Bundle) -> None:
        for call in bundle.calls:
            if not self.closed:
                self._line.take(self, call)

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        given = self._line.drop(self, attempts, unsent=True)
        if given:
            self.report(Recalled(self.worker, [flight.call.attempt for flight in given], self.host.now()))

    def cancel(self, worker: int, attempt: int) -> None:
        for flight in self._line.drop(self, [attempt], unsent=False):
            self.end(flight, Outcome.CANCELLED)

    def attend(self) -> None:
        """The line has threads."""

    def close(self) -> None:
        """Kill what runs, and wait until the workers have been told to."""
        me = threading.get_ident()
        with self._quiet:
            if self.closed:
                return
            self.closed = True
            # A report under way ends first; the host may be closing from within one.
            self._quiet.wait_for(lambda: all(reporter == me for reporter in self._reporters), GRACE)
        self._line.leave(self)

    # --- reports, from the threads of the line -----------------------------------------------------------------------------

    def begin(self, flight: Flight, at: float) -> None:
        """An attempt has started, at a time of the worker's clock of day."""
        flight.started = min(max(at + self._shift, flight.submitted), self.host.now())
        self.report(Started(self.worker, flight.call.attempt, flight.started))

    def end(self, flight: Flight, outcome: Outcome, value: Any = None, text: str = "", retryable: bool = True) -> None:
        """An attempt has ended, otherwise than by a report of its own."""
        now = self.host.now()
        began = flight.submitted if flight.started is None else flight.started
        draw = self.host.draw() if outcome is Outcome.FAILED else 0.0
        event = Finished(self.worker, flight.call.attempt, outcome, began, now, value, text, retryable, draw)
        self.report(event)

    def fail(self, flight: Flight, error: BaseException, retryable: bool = False) -> None:
        """An attempt has failed for a reason that is not its own."""
        self.end(flight, Outcome.FAILED, error, f"{type(error).__name__}: {error}", retryable)

    def deliver(self, flight: Flight, sent_back: bytes) -> None:
        """The report of an attempt has come."""
        event = _remote.finished(sent_back, flight.call, self.worker, self.host.draw(), self._shift)
        event.started = max(event.started, flight.submitted)
        event.ended = min(max(event.ended, event.started), self.host.now())
        self.report(event)

    def report(self, event: WorkerJoined | Started | Finished | Recalled) -> None:
        """Push an event to the host, unless this session is over."""
        me = threading.get_ident()
        with self._quiet:
            if self.closed:
                return
            self._reporters.append(me)
        try:
            self.host.report([event])
        finally:
            with self._quiet:
                self._reporters.remove(me)
                self._quiet.notify_all()


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
                raise CapabilityError(f"The call of node {call.node!r} has {len(order):,} bytes pickled, {_TOO_LARGE}")
        except Exception as error:  # noqa: BLE001 - the user's code, and its outcome
            if self._take_out(flight.id) is not None:
                session.fail(flight, error)
            return
        body, mac = b64encode(order).decode(), _mac(self._key, b"order", flight.id, order)
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
        results = _results_of(self._app, self._results_url)
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
                    f"The Celery worker does not know the task {TASK!r}. Start it with: --include {__name__}",
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
        expected = _mac(self._key, b"report", flight.id, report)
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
            f"Start one: celery -A your_app worker --include {__name__} -Q {self._queue}"
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
