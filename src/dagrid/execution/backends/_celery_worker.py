"""What a Celery worker runs: one generic task, which performs the calls of a message in turn and tells what became of them.

A message holds about a millisecond of work by what its sender knows. One that takes longer is cut short: what is finished is told
at once, and what has not started goes back, so that no call waits behind a long one. It knows `_remote` and Celery, no runs.
"""

from __future__ import annotations

import hmac
import logging
import os
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from billiard.process import current_process
from celery import Celery, Task, shared_task
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import Ignore
from kombu.utils.compat import detect_environment

from dagrid.attempt import before
from dagrid.execution.backends import _remote
from dagrid.execution.backends._celery import (
    BATCH_BYTES,
    LARGEST,
    MODULE,
    SOLO,
    STARTED,
    TASK,
    THREADS,
    TOO_LARGE,
    Orders,
    Said,
    as_key,
    mac_of,
    results_of,
    seal,
    unpack_orders,
)

KEY_VARIABLE = "DAGRID_CELERY_KEY"
CUT = 0.005
"""Seconds after which a message is cut short; the senders mean them to take a millisecond."""
AGAIN = 0.001
REMEMBERED = 1000
"""How many functions are kept open."""
_log = logging.getLogger(MODULE)
_functions: dict[bytes, Callable[..., Any]] = {}


class Perform(Task):  # type: ignore[misc]
    """The generic task's settings, whatever the worker's app says.

    A message is acknowledged when its outcome is stored, so that a worker takes no more than it can run; one whose process died
    is not delivered again, for dagrid counts the attempt that it ran as lost and sends another one.
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
    """Perform the calls of a message and return their reports; both are bytes in base64, signed if there is a key."""
    request = task.request
    results, key = task.backend, _worker_key(task.app)
    sent = b64decode(body)
    if (reason := _refusal(key, request.id, sent, mac)) is not None:
        return {"refused": f"{request.hostname}: {reason}"}
    if (request.delivery_info or {}).get("redelivered"):
        if not isinstance(results, BaseKeyValueStoreBackend):
            return {"again": "the broker delivered the call for a second time"}
        if results.get_state(request.id) != "PENDING":
            raise Ignore
    if len(_functions) > REMEMBERED:
        _functions.clear()

    said = Said(request.hostname, os.getpid(), [], {}, pool=_pool())

    def tell(said: Said) -> None:
        results.store_result(request.id, seal(said, key, request.id, results), STARTED, request=request)

    batch = Batch(unpack_orders(sent), said, tell)
    with _watched(batch):
        batch.perform()
    return seal(said, key, request.id, results)


class Batch:
    """The calls of a message while they are performed, one after the other.

    Args:
        orders: what `_remote.order` made, in the order in which they are performed.
        said: where the reports go.
        tell: takes what there is to say while a call runs.
    """

    def __init__(self, orders: Orders, said: Said, tell: Callable[[Said], None]) -> None:
        self.look_at = time.monotonic() + CUT
        self._orders = orders
        self._said = said
        self._tell = tell
        self._end = len(orders)
        self._begun = 0
        self._told = 0
        self._since = 0.0
        self._bytes = 0
        self._step = threading.Lock()

    @property
    def told(self) -> bool:
        """Whether it has been cut short."""
        return self._told > 0

    def perform(self) -> None:
        """Perform the calls until the last one, or until the message is cut short."""
        said = self._said
        for place, (order, rides) in enumerate(self._orders):
            with self._step:
                if place >= self._end or self._bytes > BATCH_BYTES:
                    return
                self._begun, self._since = place + 1, time.time()
            report = self._perform(order, rides)
            if len(report) > LARGEST:
                said.refused[place] = f"{said.host}: the value has {len(report):,} bytes pickled, {TOO_LARGE}"
                report = b""
            self._bytes += len(report)
            said.reports.append(report)

    def _perform(self, order: bytes, rides: int) -> bytes:
        if rides < 0:
            return _remote.perform(order, _functions)
        base = self._said.reports[rides]
        if not _remote.completed(base):
            return b""
        token = before.set(lambda: _remote.value_of(base))
        try:
            return _remote.perform(order, _functions)
        finally:
            before.reset(token)

    def cut_short(self) -> bool:
        """Tell what there is, and perform no more than the call that runs and those that ride on it.

        Returns:
            Whether there is nothing more to tell before the end. It is False too if no call runs at this moment.
        """
        with self._step:
            said = self._said
            done = len(said.reports)
            if done >= self._begun:
                return done >= self._end
            if self._told != self._begun:
                self._told = self._begun
                self._end = self._begun
                while self._end < len(self._orders) and self._orders[self._end][1] >= done:
                    self._end += 1
                try:
                    self._tell(Said(said.host, said.process, said.reports[:done], said.refused, self._since, said.pool))
                except Exception:  # noqa: BLE001 - every transport has its own, and the outcome says all of it again
                    _log.warning("What a message has come to could not be told.", exc_info=True)
            return self._end == self._begun


class _Watcher:
    """The thread of a process that cuts messages short."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._batches: set[Batch] = set()
        self._changed = threading.Condition()
        self._asleep = False
        threading.Thread(target=self._watch, name="dagrid-celery-cut", daemon=True).start()

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        with self._changed:
            self._batches.add(batch)
            if self._asleep:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._batches.discard(batch)

    def _watch(self) -> None:
        while True:
            batch = self._next()
            if batch.cut_short():
                with self._changed:
                    self._batches.discard(batch)
            else:
                batch.look_at = time.monotonic() + (CUT if batch.told else AGAIN)

    def _next(self) -> Batch:
        """Wait for the next batch that takes too long."""
        with self._changed:
            while True:
                if not self._batches:
                    self._asleep = True
                    self._changed.wait()
                    self._asleep = False
                    continue
                batch = min(self._batches, key=lambda one: one.look_at)
                left = batch.look_at - time.monotonic()
                if left <= 0:
                    return batch
                self._changed.wait(left)


_watcher: _Watcher | None = None
_making = threading.Lock()


def _watched(batch: Batch) -> Any:
    """Have a batch watched while it is performed; each process has a watcher of its own."""
    global _watcher
    with _making:
        if _watcher is None or _watcher.process != os.getpid():
            _watcher = _Watcher()
        return _watcher.watching(batch)


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


def _pool() -> str:
    """Return in which kind of pool this runs, as `Said` has it."""
    if current_process().name != "MainProcess" or detect_environment() != "default":  # type: ignore[no-untyped-call]
        return ""
    return SOLO if threading.current_thread() is threading.main_thread() else THREADS


def _worker_key(app: Celery) -> bytes | None:
    return as_key(os.environ.get(KEY_VARIABLE) or app.conf.get("dagrid_key"))
