"""Attempts on the workers of a Celery installation: the backend, its settings, and what a run sees of it.

Celery's workers load this module too; what they run is in `_celery_worker`. A message for the one generic task, `dagrid.perform`,
carries the calls of one lane, as many as are worth one message by the machine's measure.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celery import Celery

from dagrid.errors import BackendError, UnsatisfiableError
from dagrid.execution.backends import _remote
from dagrid.execution.backends._celery import Said, results_of, results_url
from dagrid.execution.backends._celery_lanes import Item, Lane, Message
from dagrid.execution.backends._celery_line import Line
from dagrid.execution.backends._celery_settings import (
    Selector,
    check_queues,
    own_app,
    read_app,
    read_key,
    read_name,
    read_queues,
    told,
)
from dagrid.execution.backends._celery_worker import KEY_VARIABLE, perform
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends.base import BackendBase, Reports, check_seconds, check_whole
from dagrid.machine.events import Finished, Outcome, Recalled, Started, Stimulus, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host, Needs

__all__ = ["KEY_VARIABLE", "CeleryBackend", "app", "install", "perform"]

UNKNOWN = 2
"""How many processes there are taken to be until Celery's workers have been counted."""
MOST = 256
"""How many lanes a run has at most, if it is not told."""
WINDOW = 256
"""How many attempts may be in a lane."""
ROUTED = 256
"""How many attempts may be on their way to the queues of a map."""


def install(app: Celery) -> Celery:
    """Let the workers of an app run dagrid's calls and return the app; for the module that they are started with.

    The same is done by `--include dagrid.execution.backends.celery` on their command line.
    """
    app.conf.include = [*(app.conf.include or ()), __name__]
    return app


app = own_app(None)
"""What `celery -A dagrid.execution.backends.celery -b BROKER worker` finds."""


class CeleryBackend(BackendBase):
    """Perform attempts on the workers of a Celery installation.

    Start workers with dagrid installed, `celery -A dagrid.execution.backends.celery -b redis://... worker -Q dagrid`, or your own
    with `celery -A your_app worker --include dagrid.execution.backends.celery -Q dagrid`. Cancelling and timing out kill the
    process that runs the task (with the prefork pool, which is Celery's default). The pools `threads` and `solo` cannot: there
    such a task is abandoned, and holds its thread until it ends; a `solo` worker answers nothing while it works, so that one that
    is silent for longer than `patience` counts as gone. With your own app set `worker_prefetch_multiplier = 1`, or a worker keeps
    short tasks behind a long one.

    A run uses as many processes as take from the queue; more are used when they come. Short tasks share a message: about a
    millisecond of work, by what tasks took so far. A message that takes longer after all is cut short after some milliseconds,
    and what has not started goes elsewhere.

    Outcomes come by the result backend: by pub/sub of Redis, or a queue of the broker (`rpc://`). If neither `result_backend`
    nor the app's settings name one, it is the broker itself where that is Redis, else `rpc://`; workers find the same by the
    same rule. One that is named here must be in the workers' settings too. Values and functions travel as base64 in JSON;
    Celery's own pickle serializer is not used, yet what is in them is a pickle: give a `key` where others reach the broker.

    A worker that dies costs the attempts that it ran; they are lost, and not delivered again. So are those whose outcome a worker
    could not store, because the broker was away when they ended. What it had not started is sent again; so are the few
    milliseconds of short tasks that shared its last message and had not been reported yet. When the broker is away for longer
    than `patience`, the attempts that are with it fail, and say so, and so do others until it is back.

    Args:
        broker: its URL, such as "redis://localhost:6379". Without a broker and an app, the current Celery app of this thread is
            used if it has a broker, else the broker in the environment variable CELERY_BROKER_URL. (Where that is set, Celery
            lets it take the place of any other broker.)
        app: your Celery app. It is only read, never changed or closed.
        result_backend: the URL of the result backend.
        queue: where calls are sent; by default the app's default queue, and "dagrid" without an app.
        queues: other queues for nodes with a selector, as in `{"gpu=true": "gpu-queue"}`. A key may name several labels,
            "gpu=true,zone=a"; in place of a mapping, pairs of a dict of labels and a queue will do. A node goes to the queue of
            exactly its selector; one that is not listed is refused before anything runs.
        key: signs what is sent and what comes back (HMAC-SHA256); workers have it in the environment variable
            DAGRID_CELERY_KEY, or in their app's setting `dagrid_key`, and refuse what is not signed with it.
        max_workers: how many attempts of a run are performed at once, at most; by default as many as there are processes. Give
            it where the workers cannot be asked (`worker_enable_remote_control` is off).
        patience: seconds to wait for a broker that is away, and for the first worker.

    Raises:
        InvalidSettingError: there is no broker, a setting that cannot be, or a queue that the app does not have and may not make.
        BackendNotInstalledError: a package for such a broker is not installed.
    """

    name = "celery"

    def __init__(
        self,
        broker: str | None = None,
        app: Celery | None = None,
        result_backend: str | None = None,
        queue: str | None = None,
        *,
        queues: Mapping[Any, str] | Iterable[tuple[Selector, str]] | None = None,
        key: str | bytes | None = None,
        max_workers: int | None = None,
        patience: float = 30.0,
    ) -> None:
        super().__init__()
        check_whole(max_workers=max_workers)
        if patience != math.inf:  # who waits for ever may say so
            check_seconds(patience=patience)
        self.app = read_app(broker, app)
        self.queue = read_name("queue", queue) or str(self.app.conf.task_default_queue)
        self.queues = read_queues(queues)
        check_queues(self.app, {self.queue, *self.queues.values()})
        self.key = read_key(key)
        self.max_workers = max_workers
        self.patience = patience
        self.result_backend = results_url(self.app, read_name("result_backend", result_backend))
        results_of(self.app, self.result_backend)
        self._line: Line | None = None

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """What can be done; `kills` is false from when a worker has answered that cannot stop a task."""
        kills = self._line is None or not self._line.unkillable
        return Capabilities(kills=kills, cancels=True, chains=True, delegates=bool(self.queues))

    def check(self, needs: Mapping[str, Needs]) -> None:
        """Refuse a graph before it runs, of whose nodes some ask for what no queue is for.

        Raises:
            UnsatisfiableError: a node's selector is not among `queues`, or it asks for a resource that the run does not count.
        """
        for node, need in needs.items():
            self.route(node, need)

    def route(self, node: str, needs: Needs) -> str:
        """Return the queue for a node.

        Raises:
            UnsatisfiableError: there is none.
        """
        if needs.resources:
            resource = min(needs.resources)
            raise UnsatisfiableError(
                f"Node {node!r} asks for resource {resource!r}, which this run does not have, and Celery's workers do not count "
                f"resources. Say how much there is: resources={{{resource!r}: ...}}, or give the node a selector and a queue."
            )
        queue = self.queues.get(frozenset(needs.selector.items()))
        if queue is None:
            offered = ", ".join(f"{told(labels)!r}" for labels in self.queues) or "none"
            raise UnsatisfiableError(
                f"No queue of Celery's is for {told(needs.selector.items())!r}, the selector of node {node!r}. There is "
                f"{offered}. Add it to queues=, or select something else."
            )
        return queue

    def open(self, host: Host) -> CelerySession:
        """Begin to serve a run.

        Raises:
            BackendUnreachableError: the broker or the result backend cannot be reached.
        """
        self.check_open()
        with self._guard:
            if self._line is None:
                self._line = Line(self)
            line = self._line
        session = CelerySession(self, line, host)
        session.begin()
        return session

    def release(self, wait: bool) -> None:
        """End every session and the threads."""
        with self._guard:
            line = self._line
        if line is not None:
            line.close()


class CelerySession:
    """One run's use of the line."""

    def __init__(self, backend: CeleryBackend, line: Line, host: Host) -> None:
        self.host = host
        self.items: dict[int, Item] = {}
        """The calls of which we do not know the end, by attempt; the line's, under its guard."""
        self.reports = Reports(host)
        self._backend = backend
        self._line = line
        self._shift = host.now() - time.time()
        self._lanes: dict[int, Lane] = {}
        self._router = -1
        self._performers: dict[tuple[str, int], int] = {}
        self._functions: dict[int, tuple[bytes, Callable[..., Any]]] = {}
        self._growing = threading.Lock()

    def begin(self) -> None:
        """Announce the first workers."""
        self._line.sessions.add(self)
        if self._backend.queues:
            self._router = self.host.new_worker()
            self.reports.tell([WorkerJoined(self._router, "celery", self.host.now(), ROUTED, ROUTED, delegates=True)])
        if self._backend.max_workers is not None:
            self._join(self._backend.max_workers)
        else:
            self.announce(self._line.watch.processes or UNKNOWN)
            self._line.watch.count_soon()

    def announce(self, processes: int) -> None:
        """So many processes take from the queue."""
        if self._backend.max_workers is None:
            self._join(min(processes, MOST))

    def _join(self, count: int) -> None:
        with self._growing:
            joined: list[Stimulus] = []
            while len(self._lanes) < count:
                number = self.host.new_worker()
                self._lanes[number] = Lane(self, number, self._backend.queue)
                joined.append(WorkerJoined(number, "celery", self.host.now(), 1, WINDOW))
        if joined:
            self.reports.tell(joined)

    def wake(self, worker: int) -> None:
        """Its workers do not pull."""

    def perform(self, bundle: Bundle) -> None:
        if self.reports.closed:
            return
        if bundle.worker != self._router:
            self._line.take(self._lanes[bundle.worker], bundle.calls)
            return
        for call in bundle.calls:
            lane = Lane(self, bundle.worker, "")
            try:
                lane.queue = self._backend.route(call.node, call.needs or Needs())
            except UnsatisfiableError as error:  # of a node that was not there when the graph was checked
                self.fail(Item(lane, call, self.host.now()), error)
            else:
                self._line.take(lane, [call])

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self.give_back(self._line.recall(self, attempts))

    def cancel(self, worker: int, attempt: int) -> None:
        item = self._line.cancel(self, attempt)
        if item is not None:
            self.end(item, Outcome.CANCELLED)

    def attend(self) -> None:
        """The line has threads."""

    def close(self) -> None:
        """Kill what runs, and wait until the workers have been told to."""
        if not self.reports.shut():
            return
        self.reports.settle()
        self._line.leave(self)
        self._functions.clear()

    # --- what the line asks for, from its threads --------------------------------------------------------------------------

    def order(self, call: Call) -> bytes:
        """Return a call as bytes; a function is pickled once. Only the line's publishing thread calls this."""
        known = self._functions.get(id(call.fn))
        if known is None:
            if len(self._functions) >= WINDOW:
                self._functions.clear()
            known = self._functions[id(call.fn)] = encode_function(call), call.fn  # while it is kept, its id is its own
        return _remote.order(call, known[0])

    def tell(
        self, message: Message, said: Said, ended: Sequence[Item], running: Item | None, back: Sequence[Item]
    ) -> None:
        """A worker has told what became of a message.

        Args:
            message: which one.
            said: what the worker says of it.
            ended: the calls of it whose reports are taken.
            running: the one that has started.
            back: those that are not performed.
        """
        now = self.host.now()
        events: list[Stimulus] = []
        by = self._performer(said, events) if ended else -1
        place_of = {item: place for place, item in enumerate(message.items)}
        for item in ended:
            place = place_of[item]
            report = said.reports[place]
            if place in said.refused:
                text = f"The worker refused the call of node {item.call.node!r}: {said.refused[place]}"
                events.append(self._ending(item, Outcome.FAILED, BackendError(text), text, False))
                continue
            if not report:
                continue  # it rode on one that did not complete
            event = _remote.finished(_remote.read(report), item.call, item.lane.worker, self.host.draw(), self._shift)
            event.started = min(max(event.started, item.submitted), now)
            event.ended = min(max(event.ended, event.started), now)
            event.by = by
            events.append(event)
        if running is not None:
            running.started = min(max(said.since + self._shift, running.submitted), now)
            events.append(Started(running.lane.worker, running.call.attempt, running.started))
        if back:
            events.append(Recalled(message.lane.worker, [item.call.attempt for item in back], now))
        if events:
            self.reports.tell(events)

    def _performer(self, said: Said, events: list[Stimulus]) -> int:
        """Return the number under which a process of Celery's is named, and name it when it is new."""
        who = said.host, said.process
        number = self._performers.get(who)
        if number is None:
            number = self._performers[who] = self.host.new_worker()
            events.append(WorkerJoined(number, f"{said.host}:{said.process}", self.host.now(), slots=0, window=0))
        return number

    def give_back(self, items: Sequence[Item]) -> None:
        """Calls have not started and are not performed."""
        by_worker: dict[int, list[int]] = {}
        for item in items:
            by_worker.setdefault(item.lane.worker, []).append(item.call.attempt)
        if by_worker:
            now = self.host.now()
            self.reports.tell([Recalled(worker, attempts, now) for worker, attempts in by_worker.items()])

    def end(self, item: Item, outcome: Outcome, value: Any = None, text: str = "", retryable: bool = True) -> None:
        """An attempt has ended, otherwise than by a report of its own."""
        self.reports.tell([self._ending(item, outcome, value, text, retryable)])

    def _ending(self, item: Item, outcome: Outcome, value: Any, text: str, retryable: bool) -> Finished:
        now = self.host.now()
        began = item.submitted if item.started is None else item.started
        draw = self.host.draw() if outcome is Outcome.FAILED else 0.0
        return Finished(item.lane.worker, item.call.attempt, outcome, began, now, value, text, retryable, draw)

    def fail(self, item: Item, error: BaseException, retryable: bool = False) -> None:
        """An attempt has failed for a reason that is not its own."""
        self.end(item, Outcome.FAILED, error, f"{type(error).__name__}: {error}", retryable)
