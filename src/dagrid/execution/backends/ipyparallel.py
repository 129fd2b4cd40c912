"""Engines of ipyparallel as a place: each engine is a worker, and gets one call after the other.

What waits for an engine waits here, so that it can be taken back at any time. It knows the sockets and ipyparallel's client, and
nothing of the engine that runs the graph.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import time
from typing import Any, ClassVar
from weakref import finalize

import ipyparallel

from dagrid.errors import BackendError, InvalidSettingError
from dagrid.execution.backends._remote import finished, order, perform
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase, Sessions
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host

AHEAD = 4
"""How many calls may wait for an engine, the one that it performs included."""


class IPyParallelBackend(BackendBase):
    """Perform attempts on the engines of an ipyparallel cluster, one at a time on each.

    The engines need dagrid, and the Python of this process. A call counts as started when it is sent to its engine. What runs
    is not stopped: a cancelled or late attempt keeps its engine until it ends. Engines that join after a run has begun
    serve the next run. A client that is given is left open; without a client or a file, engines are started on this machine for
    as long as the backend is open.

    Args:
        address: the connection file of a running cluster, as `ipcluster start` writes it (ipcontroller-client.json).
        client: an `ipyparallel.Client`.
        max_workers: at most how many engines are used, and how many are started. None means all, or one for each processor.
        timeout: seconds to wait for the controller of a file.

    Raises:
        InvalidSettingError: settings that cannot be, or exclude each other.
        BackendError: no cluster answers.
    """

    name: ClassVar[str] = "ipyparallel"
    capabilities: ClassVar[Capabilities] = Capabilities(cancels=True)

    def __init__(
        self, address: str | None = None, client: Any = None, max_workers: int | None = None, timeout: float = 5.0
    ) -> None:
        super().__init__()
        if max_workers is not None and max_workers < 1:
            raise InvalidSettingError(
                f"max_workers is {max_workers}. Give a positive number, or None for all there are."
            )
        if address is not None and client is not None:
            raise InvalidSettingError("Give the file of a cluster or a client, not both.")
        self.max_workers = max_workers
        cluster: Any = None
        owned: Any = None
        if client is None and address is not None:
            client = owned = _connect(address, timeout)
        elif client is None:
            cluster = ipyparallel.Cluster(n=max_workers or os.cpu_count() or 1, log_level=logging.ERROR)
            client = owned = cluster.start_and_connect_sync()
        self.client = client
        self._seats: dict[int, _Seat] = {}
        self.sessions: Sessions[IPyParallelSession] = Sessions()
        self.errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self.errands,), name="dagrid-ipyparallel", daemon=True)
        self._thread.start()
        self._finalizer = finalize(self, _let_go, self.errands, owned, cluster)

    def open(self, host: Host) -> IPyParallelSession:
        """Begin to serve a run: announce the engines that there are."""
        self.check_open()
        with self._guard:
            for number in self.client.ids[: self.max_workers]:
                self._seats.setdefault(number, _Seat(number))
            session = IPyParallelSession(self, host, list(self._seats))
            self.sessions.add(session)
        session.announce()
        return session

    def release(self, wait: bool) -> None:
        """End every session, and what was started or connected here."""
        for session in self.sessions:
            session.close()
        self.errands.put(None)
        self._thread.join(5.0)
        self._finalizer()

    # --- in the thread that speaks to the client, which is not for several ---------------------------------------------------

    def take(self, session: IPyParallelSession, engine: int, calls: Sequence[Call]) -> None:
        """Queue calls for an engine."""
        seat = self._seats.get(engine)
        if seat is not None:
            seat.waiting.extend((session, call) for call in calls)
            self._go_on(seat)

    def give_back(self, session: IPyParallelSession, engine: int, attempts: Sequence[int]) -> list[int]:
        """Take back those of these attempts that wait; return which these are."""
        seat = self._seats.get(engine)
        if seat is None:
            return []
        found = [call.attempt for owner, call in seat.waiting if owner is session and call.attempt in attempts]
        seat.waiting = deque(item for item in seat.waiting if item[0] is not session or item[1].attempt not in found)
        return found

    def _go_on(self, seat: _Seat) -> None:
        """Send the next call to an engine that has none."""
        while seat.waiting and not seat.busy:
            session, call = seat.waiting.popleft()
            if session.closed:
                continue
            try:
                sent = order(call)
            except Exception as error:  # noqa: BLE001 - what a user's pickling raises is the outcome
                session.fail(seat.number, call, error, retryable=False)
                continue
            session.begin(seat.number, call)
            try:
                result = self.client[seat.number].apply_async(perform, sent)
            except Exception as error:  # noqa: BLE001 - the engine has gone, or the client is closed
                self._lose(seat, error)
                return
            seat.busy = True
            result.add_done_callback(
                lambda done, session=session, call=call: self.errands.put(
                    partial(self._land, seat, session, call, done)
                )
            )

    def _land(self, seat: _Seat, session: IPyParallelSession, call: Call, done: Any) -> None:
        seat.busy = False
        try:
            answer = done.result()
        except Exception as error:  # noqa: BLE001 - whatever ipyparallel says of the call
            if isinstance(error, ipyparallel.error.EngineError) or getattr(error, "ename", "") == "EngineError":
                self._lose(seat, error)
                return
            session.fail(seat.number, call, error)
        else:
            session.finish(seat.number, call, bytes(answer))
        self._go_on(seat)

    def _lose(self, seat: _Seat, error: BaseException) -> None:
        with self._guard:
            self._seats.pop(seat.number, None)
            sessions = list(self.sessions)
        for session in sessions:
            session.lose(seat.number, error)


class _Seat:
    """An engine: what waits for it, and whether it performs something."""

    __slots__ = ("busy", "number", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[tuple[IPyParallelSession, Call]] = deque()
        self.busy = False


class IPyParallelSession:
    """One run's use of the engines. What it reports, the backend's thread reports."""

    def __init__(self, backend: IPyParallelBackend, host: Host, engines: Sequence[int]) -> None:
        self._backend = backend
        self._host = host
        self._shift = host.now() - time()
        self._engines = {host.new_worker(): engine for engine in engines}
        self._workers = {engine: worker for worker, engine in self._engines.items()}
        self._sent: dict[int, float] = {}
        self._quiet = threading.Condition()
        self._telling = False
        self.closed = False

    def announce(self) -> None:
        """Announce the engines."""
        now = self._host.now()
        joined = [WorkerJoined(worker, f"engine-{engine}", now, 1, AHEAD) for worker, engine in self._engines.items()]
        self._host.report(joined)

    def wake(self, worker: int) -> None:
        """Its workers do not pull."""

    def attend(self) -> None:
        """The backend has a thread."""

    def perform(self, bundle: Bundle) -> None:
        engine = self._engines[bundle.worker]
        self._backend.errands.put(partial(self._backend.take, self, engine, bundle.calls))

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self._backend.errands.put(partial(self._recall, worker, attempts))

    def cancel(self, worker: int, attempt: int) -> None:
        self._backend.errands.put(partial(self._cancel, worker, attempt))

    def close(self) -> None:
        """Report nothing any more; a report under way ends first, unless it is what closes."""
        with self._quiet:
            self.closed = True
            self._quiet.wait_for(lambda: not self._telling or threading.current_thread().name == "dagrid-ipyparallel")
        self._backend.sessions.discard(self)

    # --- in the backend's thread ---------------------------------------------------------------------------------------------

    def begin(self, engine: int, call: Call) -> None:
        """A call goes to its engine."""
        now = self._sent[call.attempt] = self._host.now()
        self._tell(Started(self._workers[engine], call.attempt, now))

    def finish(self, engine: int, call: Call, answer: bytes) -> None:
        """A call has come back."""
        event = finished(answer, call, self._workers[engine], self._host.draw(), self._shift)
        event.started = max(event.started, self._sent.pop(call.attempt, 0.0))
        event.ended = max(event.started, min(event.ended, self._host.now()))
        self._tell(event)

    def fail(self, engine: int, call: Call, error: BaseException, *, retryable: bool = True) -> None:
        """A call could not be performed."""
        now, worker = self._host.now(), self._workers[engine]
        failed = Outcome.FAILED
        self._tell(Finished(worker, call.attempt, failed, now, now, error, told(error), retryable, self._host.draw()))

    def lose(self, engine: int, error: BaseException) -> None:
        """An engine has gone."""
        if engine in self._workers:
            self._tell(
                WorkerGone(self._workers.pop(engine), self._host.now(), f"engine {engine} ended ({told(error)})")
            )

    def _recall(self, worker: int, attempts: Sequence[int]) -> None:
        found = self._backend.give_back(self, self._engines[worker], attempts)
        if found:
            self._tell(Recalled(worker, found, self._host.now()))

    def _cancel(self, worker: int, attempt: int) -> None:
        if self._backend.give_back(self, self._engines[worker], [attempt]):
            now = self._host.now()
            self._tell(Finished(worker, attempt, Outcome.CANCELLED, now, now))

    def _tell(self, event: Any) -> None:
        with self._quiet:
            if self.closed:
                return
            self._telling = True
        try:
            self._host.report([event])
        finally:
            with self._quiet:
                self._telling = False
                self._quiet.notify_all()


def _serve(errands: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (errand := errands.get()) is not None:
        errand()


def _connect(address: str, timeout: float) -> Any:
    try:
        return ipyparallel.Client(address, timeout=timeout)
    except Exception as error:
        raise BackendError(
            f"No ipyparallel cluster answers at {address!r} within {timeout:g} s ({told(error)}). "
            "Start one with `ipcluster start`, or correct the path of its connection file."
        ) from error


def _let_go(errands: queue.SimpleQueue[Callable[[], None] | None], client: Any, cluster: Any) -> None:
    errands.put(None)
    with suppress(Exception):
        if client is not None:
            client.close()
    with suppress(Exception):
        if cluster is not None:
            cluster.stop_cluster_sync()
