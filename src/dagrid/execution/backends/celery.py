"""Attempts as Celery tasks: what a Celery worker runs, and the backend that sends it there and hears what became of it.

The same module is loaded on both sides. It knows the port, `_remote` and Celery; nothing of the engine. Every attempt is one
message for one generic task, `dagrid.perform`, with a task id that is never used twice, so that a report of an attempt that is
over for us finds nobody. Publishing, draining and watching are three threads, which all runs of a backend share.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, Task, shared_task
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import Ignore

from dagrid.errors import InvalidSettingError
from dagrid.execution.backends import _remote
from dagrid.execution.backends._celery import (
    GRACE,
    LARGEST,
    STARTED,
    TASK,
    TOO_LARGE,
    Flight,
    Line,
    mac_of,
    results_of,
    results_url,
)
from dagrid.execution.backends.base import BackendBase
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerJoined
from dagrid.ports import Bundle, Capabilities, Host

QUEUE = "dagrid"
KEY_VARIABLE = "DAGRID_CELERY_KEY"

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
            self._made = os.getpid(), results_of(self.app, None)
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
        return {"refused": f"{request.hostname}: the value has {len(report):,} bytes pickled, {TOO_LARGE}"}
    return {"report": b64encode(report).decode(), "mac": mac_of(key, b"report", request.id, report)}


_functions: dict[bytes, Callable[..., Any]] = {}


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
    if hmac.compare_digest(mac, mac_of(key, b"order", task, sent) or ""):
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
        self.result_backend = results_url(self.app, result_backend)
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
