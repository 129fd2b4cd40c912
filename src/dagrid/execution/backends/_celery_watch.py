"""What nobody tells of: workers that died with what they ran, queues that no worker takes from, and how many workers there are.

A thread that asks Celery's workers every few seconds, by a connection of its own. It knows Celery and the line that it watches.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagrid.errors import BackendError
from dagrid.execution.backends._celery import MODULE, SOLO
from dagrid.execution.backends._celery_post import connect

if TYPE_CHECKING:
    from dagrid.execution.backends._celery_lanes import Message
    from dagrid.execution.backends._celery_line import Line

PULSE = 2.0
"""Seconds between two looks at the workers; an attempt that is missing at MISSES looks in a row is lost."""
MISSES = 3
GRACE = 5.0
"""Seconds after which a cancelled attempt counts as stopped, whether its worker answers or not."""
ANSWER = 1.0
"""Seconds for which answers of workers are waited for."""
CENSUS = 3
"""How many pulses there are from one census of the workers to the next."""
_DOING = "watching"
_log = logging.getLogger(MODULE)


class Watch:
    """Looks after one line."""

    def __init__(self, line: Line) -> None:
        self.processes: int | None = None
        """How many processes of Celery's take from the default queue; None until that is known."""
        self._line = line
        self._connection = connect(line.app)
        self._manned: dict[str, float] = {}
        """When it was last seen of a queue that a worker takes from it."""
        self._sighted = time.monotonic()
        """Since when workers can be asked without a pause."""
        self._unmanned: set[str] = set()
        self._news = threading.Event()

    def count_soon(self) -> None:
        """Count the workers before the next pulse, or see that the line is closed."""
        self._news.set()

    def doubt(self, messages: Sequence[Message]) -> None:
        """The broker may have lost these: see at the next two looks whether it has."""
        for message in messages:
            message.doubted = True
            message.misses = max(message.misses, MISSES - 2)
            message.sent -= 2 * PULSE
        self._sighted = time.monotonic()

    def loop(self) -> None:
        """The thread: look, until the line is closed."""
        pulses = 0
        pulse = time.monotonic() + PULSE
        while True:
            asked = self._news.wait(max(0.0, min(pulse - time.monotonic(), self._time_to_look_for_workers())))
            if self._line.closing.is_set():
                break
            self._news.clear()
            beat = time.monotonic() >= pulse
            try:
                if beat:
                    pulses += 1
                    self._end_cancelled()
                    self._look_for_lost()
                    asked = asked or (pulses % CENSUS == 0 and bool(self._line.sessions))
                self._look_for_workers()
                if asked:
                    self._count()
                self._line.absence.over(_DOING)
            except Exception as error:  # noqa: BLE001 - every transport has its own
                self._line.absence.met(_DOING, error)
                self._sighted = time.monotonic()
                self._connection.collect()
            if beat:
                pulse = time.monotonic() + PULSE
        self._connection.close()

    def _ask(self, timeout: float, hosts: Sequence[str] | None = None) -> Any:
        limit = None if hosts is None else len(hosts)
        return self._line.app.control.inspect(hosts, timeout=timeout, connection=self._connection, limit=limit)

    def _count(self) -> None:
        """Count the processes that take from the default queue, and let the runs know if there are more."""
        ask = self._ask(0.3)
        queues = ask.active_queues() or {}
        hosts = [host for host, found in queues.items() if any(queue["name"] == self._line.queue for queue in found)]
        if not hosts:
            return
        answers = self._ask(ANSWER, hosts).stats() or {}
        self.processes = sum(int(answer.get("pool", {}).get("max-concurrency") or 1) for answer in answers.values())
        for session in list(self._line.sessions):
            session.announce(self.processes)

    def _end_cancelled(self) -> None:
        limit = time.monotonic() - GRACE
        for message in self._line.under_way():
            if 0 < message.cancelled < limit and self._line.take_out(message.id) is not None:
                self._line.stop(message)

    def _look_for_lost(self) -> None:
        """Ask the workers whether they still have what was sent to them."""
        limit = time.monotonic() - 2 * PULSE
        messages = [message for message in self._line.under_way() if message.sent < limit]
        known = [message for message in messages if message.running is not None]
        if known:
            hosts = sorted({message.host for message in known})
            running = _ids((self._ask(ANSWER, hosts).active(safe=True) or {}).values())
            self._note_missing(known, running)
        unknown = [message for message in messages if message.running is None]
        queues = {message.lane.queue for message in unknown}
        empty = {queue for queue in queues if not self._waiting_in(queue)}
        unknown = [message for message in unknown if message.lane.queue in empty]
        if unknown:
            ask = self._ask(ANSWER)
            held = _ids((ask.active(safe=True) or {}).values()) | _ids((ask.reserved(safe=True) or {}).values())
            self._note_missing(unknown, held)

    def _waiting_in(self, queue: str) -> int:
        """Return how many messages a queue holds that no worker has taken."""
        with self._connection.channel() as channel:
            found = self._line.app.amqp.queues[queue].bind(channel)
            try:
                return int(found.queue_declare(passive=True).message_count)
            except self._connection.channel_errors:
                return 0  # Redis forgets a queue that is empty

    def _note_missing(self, messages: Sequence[Message], there: set[str]) -> None:
        gone = 0
        forgotten: list[Message] = []
        now = time.monotonic()
        mute = {host for host, pool in self._line.unkillable.copy().items() if pool == SOLO}
        for message in messages:
            if message.id in there:
                message.misses, message.seen = 0, now
            elif mute and message.host in {"", *mute} and now - max(message.seen, message.sent) < self._line.patience:
                continue
            else:
                message.misses += 1
            if message.misses == 1:
                self._line.look_at(message)  # perhaps it is only that nobody heard of its end
            if message.misses >= MISSES and message.doubted and message.running is None:
                forgotten.append(message)
            elif message.misses >= MISSES and self._line.take_out(message.id) is not None:
                gone += 1
                self._line.revoke([message.id])
                self._line.lose(message, f"the Celery worker {message.host} is gone".replace("  ", " "))
        self._line.take_back(forgotten)
        if gone:
            self._line.take_back([message for message in self._line.under_way() if message.running is None])

    def _in_doubt(self) -> dict[str, float]:
        """Return the queues of which only messages are known that wait, and since when no worker was seen to take from them."""
        messages = self._line.under_way()
        alive = {message.lane.queue for message in messages if message.running is not None}
        self._manned |= dict.fromkeys(alive, time.monotonic())
        sent: dict[str, float] = {}
        for message in messages:
            queue = message.lane.queue
            if queue not in alive:
                sent[queue] = min(sent.get(queue, message.sent), message.sent)
        return {queue: max(first, self._manned.get(queue, 0.0), self._sighted) for queue, first in sent.items()}

    def _time_to_look_for_workers(self) -> float:
        """Return seconds until workers are to be asked for whom patience ends, so that they can answer before."""
        since = min(self._in_doubt().values(), default=math.inf)
        return max(since + self._line.patience - ANSWER - time.monotonic(), 0.1)

    def _look_for_workers(self) -> None:
        """Warn of a queue that no worker consumes, and end what waits there too long."""
        now = time.monotonic()
        suspects = {
            queue: since
            for queue, since in self._in_doubt().items()
            if now - since >= min(PULSE, self._line.patience - ANSWER)
        }
        if suspects:
            found = (self._ask(ANSWER).active_queues() or {}).values()
            manned = {queue["name"] for queues in found for queue in queues}
            self._manned |= dict.fromkeys(manned, time.monotonic())
            suspects = {queue: since for queue, since in suspects.items() if queue not in manned}
        self._unmanned &= suspects.keys()
        for queue, since in suspects.items():
            text = (
                f"No Celery worker takes from queue {queue!r} at {self._connection.as_uri()}. "
                f"Start one: celery -A your_app worker --include {MODULE} -Q {queue}"
            )
            if queue not in self._unmanned:
                self._unmanned.add(queue)
                _log.warning(text)
            if time.monotonic() - since >= self._line.patience:
                self._line.fail_all(BackendError(text), queue)


def _ids(answers: Any) -> set[str]:
    return {task["id"] for tasks in answers for task in tasks}
