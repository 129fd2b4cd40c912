"""The driver's end of Celery: what is sent, what comes back, and which events follow. Two threads publish and drain.

It knows Celery, `_remote` and the lanes; how a session of a run speaks to its host it does not know, and nothing of what a worker
does. A third thread, of `_celery_watch`, looks after what nobody tells of.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from celery.backends.base import BaseKeyValueStoreBackend
from celery.states import READY_STATES

from dagrid.errors import BackendError, BackendUnreachableError, CapabilityError
from dagrid.execution.backends import _remote
from dagrid.execution.backends._celery import (
    BATCH_BYTES,
    LARGEST,
    MODULE,
    SOLO,
    STARTED,
    TASK,
    TOO_LARGE,
    Said,
    mac_of,
    pack_orders,
    results_of,
    unseal,
)
from dagrid.execution.backends._celery_lanes import Item, Lane, Message, heads, riders
from dagrid.execution.backends._celery_post import CONNECTING, PAUSE, Absence, Post, connect
from dagrid.execution.backends._celery_watch import GRACE, Watch
from dagrid.execution.backends.base import closed_under
from dagrid.machine.events import Outcome
from dagrid.ports import Call

if TYPE_CHECKING:
    from dagrid.execution.backends.celery import CeleryBackend, CelerySession

_DOING = "listening"
_log = logging.getLogger(MODULE)


class Line:
    """The ways to broker and result backend, and who waits for what: shared by all sessions of a backend."""

    def __init__(self, backend: CeleryBackend) -> None:
        self.app = backend.app
        self.queue = backend.queue
        self.patience = backend.patience
        self.closing = threading.Event()
        self.sessions: set[CelerySession] = set()
        self.results: Any = None
        self._refusing = False
        self.unkillable: dict[str, str] = {}
        """The workers that cannot stop what they run, with the kinds of their pools."""
        self._key = backend.key
        self._results_url = backend.result_backend
        self._guard = threading.Lock()
        self._messages: dict[str, Message] = {}
        self._prefix = f"dagrid-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._to_look: SimpleQueue[Message] = SimpleQueue()
        self._attached = threading.Event()
        connection = connect(self.app)
        self.absence = Absence(self.patience, connection.as_uri(), self.fail_all)
        self._post = Post(self.app, connection, self.absence, self.closing)
        self._reply_to = ""
        self._failure: BaseException | None = None
        self.watch = Watch(self)
        self._threads = [
            threading.Thread(target=loop, name=f"dagrid-celery-{what}", daemon=True)
            for what, loop in (("drain", self._drain_all), ("send", self._post.loop), ("watch", self.watch.loop))
        ]
        self._threads[0].start()
        if not self._attached.wait(max(GRACE, 10.0)) or self._failure is not None:
            self.closing.set()
            raise BackendUnreachableError(
                f"The result backend at {_shown(self._results_url)} cannot be reached: {self._failure or 'no answer'}. "
                "Start it, or give another one: result_backend=..."
            ) from self._failure
        for thread in self._threads[1:]:
            thread.start()
        _log.info("Celery's outcomes come by %s, calls go to queue %r.", _shown(self._results_url), self.queue)

    # --- what sessions ask for ---------------------------------------------------------------------------------------------

    def take(self, lane: Lane, calls: Sequence[Call]) -> None:
        """Send calls when their turn comes."""
        session = lane.session
        now = session.host.now()
        with self._guard:
            refusing = self._refusing
            for call in () if refusing else calls:
                item = session.items[call.attempt] = Item(lane, call, now)
                lane.waiting.append(item)
        if refusing:
            session.reports.refuse(lane.worker, calls, closed_under("celery"))
            return
        self._post.put(partial(self._pump, lane))

    def recall(self, session: CelerySession, attempts: Sequence[int]) -> list[Item]:
        """Take out those of these attempts that have not been sent, and return them."""
        with self._guard:
            return [item for attempt in attempts if (item := self._withdraw(session, attempt)) is not None]

    def cancel(self, session: CelerySession, attempt: int) -> Item | None:
        """Take out an attempt that has not started, as far as we know, or cannot be stopped, and return it; stop one that runs.

        A message is revoked when nothing else is in it that we wait for.
        """
        with self._guard:
            item = self._withdraw(session, attempt)
            if item is not None:
                return item
            item = session.items.get(attempt)
            message = item.lane.message if item is not None else None
            if item is None or message is None or attempt not in message.left:
                return None
            killed = message.running is not None and message.host not in self.unkillable
            if killed:
                message.cancelled = time.monotonic()
            else:
                for one in [item, *riders(message.items, [item])]:
                    message.left.pop(one.call.attempt, None)
                    session.items.pop(one.call.attempt, None)
                if message.left:
                    return item
                self._forget(message)
        self.revoke([message.id])
        self._post.put(partial(self._pump, message.lane))
        return None if killed else item

    def _withdraw(self, session: CelerySession, attempt: int) -> Item | None:
        """Take out an attempt that has not been sent. The caller holds the guard."""
        item = session.items.get(attempt)
        if item is None:
            return None
        message = item.lane.message
        inside = message is not None and attempt in message.left
        if inside and message is not None and message.sent:
            return None
        there = list(message.left.values()) if inside and message is not None else list(item.lane.waiting)
        for one in [item, *riders(there, [item])]:
            if inside and message is not None:
                del message.left[one.call.attempt]
            else:
                item.lane.waiting.remove(one)
            del session.items[one.call.attempt]
        return item

    def leave(self, session: CelerySession) -> None:
        """Kill all that a session has under way."""
        with self._guard:
            self.sessions.discard(session)
            session.items.clear()
            messages = [message for message in self._messages.values() if message.lane.session is session]
            for message in messages:
                self._forget(message)
        sent = [message.id for message in messages if message.sent]
        self._revoke_now(sent)

    def close(self) -> None:
        """Kill all that is under way, fail that and all that is still asked for, and end the threads."""
        with self._guard:
            self._refusing = True
            sent = [message.id for message in self._messages.values() if message.sent]
        self.fail_all(closed_under("celery"))
        self._revoke_now(sent)
        self.closing.set()
        self.watch.count_soon()
        self._post.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(GRACE)

    # --- the thread that publishes -----------------------------------------------------------------------------------------

    def _pump(self, lane: Lane) -> None:
        """Send what waits in a lane, if nothing of it is under way."""
        if self._post.given_up():
            return
        with self._guard:
            message = lane.load(self._new_name)
            if message is None:
                return
            self._messages[message.id] = message
        orders: dict[Item, bytes] = {}
        size = 0
        for place, item in enumerate(message.items):
            if item.call.attempt not in message.left:
                continue  # it fell with what it rides on, or was taken back
            if orders and size > BATCH_BYTES and not item.rides:
                with self._guard:
                    message.unload(message.items[place:])
                break
            try:
                orders[item] = order = lane.session.order(item.call)
                if len(order) > LARGEST:
                    del orders[item]
                    node, taken = item.call.node, f"{len(order):,} bytes pickled"
                    raise CapabilityError(f"The call of node {node!r} has {taken}, {TOO_LARGE}")
            except Exception as error:  # noqa: BLE001 - the user's code, and its outcome
                if self._take(message, [item, *riders(message.items, [item])]):
                    lane.session.fail(item, error)
            else:
                size += len(order)
        with self._guard:
            if self._messages.get(message.id) is not message:
                return
            if not message.seal(orders):
                self._forget(message)
                self._post.put(partial(self._pump, lane))
                return
        places = {item.call.attempt: place for place, item in enumerate(message.items)}
        body = pack_orders([(orders[item], places.get(item.call.rides, -1)) for item in message.items])
        mac = mac_of(self._key, b"order", message.id, body)
        try:
            self._post.persist(partial(self._publish, message, b64encode(body).decode(), mac))
        except Exception as error:  # noqa: BLE001 - every transport has its own
            if self.take_out(message.id) is message:
                self._fail(message, f"The call of node {{}} cannot be sent to queue {lane.queue!r}: {error!r}")
                self._post.put(partial(self._pump, lane))

    def _publish(self, message: Message, body: str, mac: str | None) -> None:
        if self._messages.get(message.id) is not message:
            return  # it was given up while the broker was away
        self._subscribe(message.id)
        first, more = message.items[0].call.node, len(message.items) - 1
        shown = f"({first!r}, and {more} more)" if more else f"({first!r},)"
        made = self.app.amqp.create_task_message(
            message.id, TASK, (body, mac), {}, reply_to=self._reply_to, argsrepr=shown, kwargsrepr="{}"
        )
        queue = message.lane.queue
        self.app.amqp.send_task_message(
            self._post.producer, TASK, made, queue=queue, serializer="json", retry=False, correlation_id=message.id
        )

    def revoke(self, ids: Sequence[str]) -> None:
        """Let the workers drop tasks, and kill the processes that run them."""
        if not ids:
            return
        control, post = self.app.control, self._post
        post.put(
            lambda: post.persist(
                lambda: control.revoke(list(ids), terminate=True, signal="SIGKILL", connection=post.connection)
            )
        )

    def _revoke_now(self, ids: Sequence[str]) -> None:
        """Revoke tasks, and wait for a moment until the workers have been told."""
        if not ids or self.closing.is_set():
            return
        told = threading.Event()
        self.revoke(ids)
        self._post.put(told.set)
        if threading.current_thread() not in self._threads:
            told.wait(GRACE)

    # --- the thread that drains --------------------------------------------------------------------------------------------

    def _drain_all(self) -> None:
        try:
            self._attach()
        except Exception as error:  # noqa: BLE001 - every transport has its own
            self._failure = error
            return
        finally:
            self._attached.set()
        while not self.closing.is_set():
            try:
                self._look()
                self.results.result_consumer.drain_events(timeout=0.5)
            except TimeoutError:
                continue
            except Exception as error:  # noqa: BLE001 - every transport has its own
                if not self.closing.is_set():
                    self._attach_again(error)
        try:
            self.results.result_consumer.stop()
        except Exception:  # noqa: BLE001 - it is over anyway
            pass

    def _attach(self) -> None:
        """Make a result backend and listen to it; it tells each change of state of a task that was subscribed to."""
        results = results_of(self.app, self._results_url)
        if hasattr(results, "_transport_options"):
            options = {**results._transport_options, "retry_policy": CONNECTING}  # noqa: SLF001 - one attach, not 20 s
            results._transport_options = options  # noqa: SLF001
        consumer = results.result_consumer
        consumer.on_state_change = self._on_state
        consumer._reconnect = _raise_away  # noqa: SLF001 - it would look first, subscribe then, and miss what comes between
        self._reply_to = str(getattr(results, "oid", ""))
        if not hasattr(consumer, "subscribed_to"):
            with self.app.connection_for_read(transport_options=CONNECTING) as trial:
                trial.ensure_connection(max_retries=1, timeout=3)
        consumer.start(self._new_name())
        self.results = results

    def _attach_again(self, error: BaseException) -> None:
        self.absence.met(_DOING, error)
        while not self.closing.is_set():
            try:
                self._attach()
                self._catch_up()
            except Exception as another:  # noqa: BLE001 - every transport has its own
                self.absence.met(_DOING, another)
                self.closing.wait(PAUSE)
            else:
                self.absence.over(_DOING)
                return

    def _catch_up(self) -> None:
        """After an absence: hear what was missed, and soon see whether what has not started is still there."""
        messages = self.under_way()
        for message in messages:
            self._subscribe(message.id)
        if isinstance(self.results, BaseKeyValueStoreBackend):
            for message in messages:
                self._on_state(self.results.get_task_meta(message.id), None)
        self.watch.doubt([message for message in messages if message.running is None])

    def look_at(self, message: Message) -> None:
        """Have a message looked up whose outcome we may not have heard of."""
        self._to_look.put(message)

    def _look(self) -> None:
        while True:
            try:
                message = self._to_look.get_nowait()
            except Empty:
                return
            if isinstance(self.results, BaseKeyValueStoreBackend) and self._messages.get(message.id) is message:
                self._on_state(self.results.get_task_meta(message.id), None)

    def _subscribe(self, name: str) -> None:
        consumer = self.results.result_consumer
        if hasattr(consumer, "subscribed_to"):
            consumer.consume_from(name)

    def _on_state(self, meta: dict[str, Any], _message: Any) -> None:
        name, status = meta.get("task_id", ""), meta["status"]
        if status == STARTED:
            message = self._messages.get(name)
            if message is not None:
                self._hear(message, meta["result"])
        elif status in READY_STATES:
            message = self.take_out(name)
            if message is not None:
                try:
                    self._settle(message, status, meta["result"])
                except Exception as error:
                    self.lose(message, f"its outcome could not be read: {error!r}")
                    raise
                finally:
                    self._post.put(partial(self._pump, message.lane))
                    self._post.put(partial(self._clean, name))
            if hasattr(self.results.result_consumer, "subscribed_to"):
                self.results.result_consumer.cancel_for(name)

    def _clean(self, name: str) -> None:
        try:
            self.results.forget(name)
        except Exception:  # noqa: BLE001 - it goes by itself in an hour
            pass

    # --- what follows ------------------------------------------------------------------------------------------------------

    def _hear(self, message: Message, result: Any) -> None:
        """A worker has cut a message short: what is finished counts, one call runs, and what does not ride on it goes back."""
        said = unseal(result, self._key, message.id, self.results)
        if isinstance(said, str):
            _log.warning("What a Celery worker tells of node %r is ignored: %s.", message.items[0].call.node, said)
            return
        self._note_pool(said)
        done = len(said.reports)
        if done >= len(message.items):
            return
        running = message.items[done]
        with self._guard:
            if self._messages.get(message.id) is not message or message.running is running:
                return
            message.running, message.host = running, said.host
            doomed = running.call.attempt not in message.left
            if doomed:
                message.cancelled = time.monotonic()
        ended = self._take(message, message.items[:done])
        behind = message.items[done + 1 :]
        along = riders(behind, [running])  # they go on here, as far as it completes
        back = self._back(message, [item for item in behind if item not in along], said.reports)
        if doomed:
            self.revoke([message.id])
        message.lane.session.tell(message, said, ended, None if doomed else running, back)

    def _note_pool(self, said: Said) -> None:
        if said.pool == self.unkillable.get(said.host, ""):
            return
        if not said.pool:  # another worker under the name of an earlier one
            del self.unkillable[said.host]
            return
        self.unkillable[said.host] = said.pool
        _log.warning(
            "The Celery worker %s cannot stop a task, for its pool is %r: one that is cancelled or late goes on to its end, and "
            "is not waited for. The pools prefork, gevent and eventlet can.%s",
            said.host,
            said.pool,
            f" It answers nothing while it works: after {self.patience:g} s (patience) it counts as gone."
            if said.pool == SOLO
            else "",
        )

    def _settle(self, message: Message, status: str, result: Any) -> None:
        """A message has come to its end, in one of the ways that Celery has."""
        session = message.lane.session
        if status != "SUCCESS" and not isinstance(result, BaseException):
            result = self.results.exception_to_python(result)  # as it came by a queue
        if status == "SUCCESS" and "said" in result:
            said = unseal(result, self._key, message.id, self.results)
            if isinstance(said, str):
                self._fail(message, f"The report of node {{}} is refused: {said}.")
                return
            self._note_pool(said)
            ended = self._take(message, message.items[: len(said.reports)])
            session.tell(message, said, ended, None, self._back(message, message.items, said.reports))
        elif status == "SUCCESS" and "refused" in result:
            self._fail(message, "The worker refused the call of node {}: " + result["refused"])
        elif status == "SUCCESS":
            self.lose(message, result["again"])
        elif message.cancelled:
            self.stop(message)
        elif type(result).__name__ == "WorkerLostError":
            self.lose(message, f"the process on {message.host or 'a Celery worker'} died: {result}")
        elif type(result).__name__ == "NotRegistered":
            self._fail(message, f"The Celery worker does not know the task {TASK!r}. Start it with: --include {MODULE}")
        elif status == "REVOKED":
            self._fail(message, "The call of node {} was revoked in Celery by others.")
        elif type(result).__name__ == "TimeLimitExceeded":
            limit = f"the hard time limit of the workers (task_time_limit): {result}"
            self._fail(
                message, f"The call of node {{}} took longer than {limit}. Raise it, or give the node a timeout."
            )
        else:  # what a task raises is in its report: this is of Celery itself, such as an outcome that could not be stored
            self.lose(message, f"Celery could not complete the call: {result!r}")

    def _back(self, message: Message, items: Sequence[Item], reports: Sequence[bytes]) -> list[Item]:
        """Take out calls that are not performed and return those to be given back: not those that ride on others of them."""
        left = self._take(message, items)
        if not any(item.rides for item in left):
            return left
        ended = {
            item.call.attempt for item, report in zip(message.items, reports, strict=False) if _remote.completed(report)
        }
        return [item for item in left if not item.rides or item.call.rides in ended]

    def _fail(self, message: Message, text: str) -> None:
        for item in self._heads(message):
            item.lane.session.fail(item, BackendError(text.replace("{}", repr(item.call.node))))

    def lose(self, message: Message, text: str) -> None:
        """A message that has been taken out has no outcome: what it ran is lost, and the others try it again."""
        session = message.lane.session
        with self._guard:
            unclear = message.running is None and len(message.left) > 1 and not session.reports.closed
            ridden = message.suspect() if unclear else []
        if unclear:
            self._take(message, message.items)
            session.give_back(ridden)
            self._post.put(partial(self._pump, message.lane))
            return
        for item in self._heads(message):
            session.end(item, Outcome.LOST, text=text)

    def stop(self, message: Message) -> None:
        """A message that has been taken out counts as stopped."""
        for item in self._heads(message):
            message.lane.session.end(item, Outcome.CANCELLED)
        self._post.put(partial(self._pump, message.lane))

    def take_back(self, messages: Sequence[Message]) -> None:
        """Give back what was sent and has not started; it is sent again under another id."""
        mine = [message for message in messages if self.take_out(message.id) is not None]
        self.revoke([message.id for message in mine])
        for message in mine:
            message.lane.session.give_back(self._heads(message))
            self._post.put(partial(self._pump, message.lane))

    def fail_all(self, error: BackendError, queue: str | None = None) -> None:
        """Fail what is sent and what waits behind it, everywhere or in one queue."""
        with self._guard:
            lanes = {item.lane for session in self.sessions for item in session.items.values()}
            if queue is not None:
                lanes = {lane for lane in lanes if lane.queue == queue}
            failed = []
            for lane in lanes:
                if lane.message is not None:
                    self._forget(lane.message)
                lane.waiting.clear()
                mine = [item for item in lane.session.items.values() if item.lane is lane]
                for item in mine:
                    del lane.session.items[item.call.attempt]
                failed += heads(mine)
        for item in failed:
            item.lane.session.fail(item, error)

    # --- who has what ------------------------------------------------------------------------------------------------------

    def under_way(self) -> list[Message]:
        """Return the messages that have been sent and have not come to an end."""
        with self._guard:
            return [message for message in self._messages.values() if message.sent]

    def take_out(self, name: str) -> Message | None:
        """Return a message that we wait for, and wait for it no more."""
        with self._guard:
            message = self._messages.get(name)
            if message is not None:
                self._forget(message)
            return message

    def _take(self, message: Message, items: Sequence[Item]) -> list[Item]:
        """Return those of these calls of which we did not know the end; now somebody says it, once."""
        with self._guard:
            found = [item for item in items if message.left.pop(item.call.attempt, None) is not None]
            for item in found:
                item.lane.session.items.pop(item.call.attempt, None)
            return found

    def _heads(self, message: Message) -> list[Item]:
        """Take all out, and return those that do not fall with others."""
        return heads(self._take(message, message.items))

    def _forget(self, message: Message) -> None:
        """The caller holds the guard."""
        del self._messages[message.id]
        if message.lane.message is message:
            message.lane.message = None

    def _new_name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"


def _raise_away() -> None:
    raise BackendUnreachableError("the connection was lost")


def _shown(url: str) -> str:
    """Return a URL without its password."""
    from kombu.utils.url import maybe_sanitize_url

    return str(maybe_sanitize_url(url))
