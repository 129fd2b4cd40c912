"""A long-lived worker inside an engine: it takes calls by the letter, performs them in turn, and tells what became of them.

Calls are performed in a thread of their own, while an event loop of the engine takes letters and hands out records: whatever has
gathered since the last time goes in one answer, so that short tasks cost a fraction of a message. It knows neither engines nor
runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from dagrid.execution.backends import _remote

READY, STARTED, FINISHED, BACK, STOPPED = range(5)
"""The kinds of a record: (kind, token, payload), where the payload is a name, a time of the clock of day, or a report."""

REMEMBERED = 512
"""How many functions are kept open."""

Record = tuple[int, int, Any]


class Performer:
    """What an engine keeps alive in one of its processes, an actor.

    Tasks find the context variables that are set where it is made.

    Args:
        name: what it is called; by default the machine and the number of the process.
    """

    def __init__(self, name: str = "") -> None:
        self._changed = threading.Condition()
        self._calls: deque[tuple[int, bytes]] = deque()
        self._records: list[Record] = [(READY, 0, name or _remote.worker_name())]
        self._running = 0
        self._stopped = False
        self._over = False
        self._letters: dict[int, tuple[Sequence[tuple[int, bytes]], Sequence[int], int]] = {}
        self._next_letter = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._perform_all,), name="dagrid-tasks", daemon=True).start()

    async def tell(self, number: int, calls: Sequence[tuple[int, bytes]], back: Sequence[int], stop: int) -> None:
        """Take a letter, in its turn.

        Args:
            number: its number, from 0.
            calls: tokens and calls to be performed.
            back: tokens of calls to be given back, if they have not started.
            stop: the token of one to be given back, or, if it runs, the last to be performed here; 0 for none.
        """
        self._letters[number] = (calls, back, stop)
        while (letter := self._letters.pop(self._next_letter, None)) is not None:
            self._next_letter += 1
            self._read(*letter)

    async def listen(self, limit: float | None = None) -> list[Record]:
        """Return what has happened since the last time, as soon as there is something, or nothing after `limit` seconds."""
        if self._news is None:
            self._news = asyncio.Event()
            self._loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                records, self._records = self._records, []
                self._news.clear()
            if records:
                break
            try:
                async with asyncio.timeout(limit):
                    await self._news.wait()
            except TimeoutError:
                return []
        ended = {token for kind, token, _ in records if kind == FINISHED}
        return [record for record in records if record[0] != STARTED or record[1] not in ended]

    @property
    def busy(self) -> bool:
        """Whether it performs a call."""
        return self._running != 0

    def end(self) -> None:
        """Perform nothing any more; what runs runs to its end, unheard. For engines that cannot end the process."""
        with self._changed:
            self._over = self._stopped = True
            self._calls.clear()
            self._changed.notify()

    def _read(self, calls: Sequence[tuple[int, bytes]], back: Sequence[int], stop: int) -> None:
        with self._changed:
            self._calls.extend(calls)
            for token in (*back, stop):
                self._give_back(token)
            if stop and stop == self._running:
                self._stopped = True
                self._record(STOPPED, stop)
            self._changed.notify()

    def _give_back(self, token: int) -> None:
        for call in self._calls:
            if call[0] == token:
                self._calls.remove(call)
                self._record(BACK, token)
                return

    def _record(self, kind: int, token: int, payload: Any = None) -> None:
        """Note what happened, and wake who listens, if this is the first news; the caller holds the lock."""
        self._records.append((kind, token, payload))
        if len(self._records) == 1 and self._loop is not None and self._news is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    def _perform_all(self) -> None:
        functions: dict[bytes, Callable[..., Any]] = {}
        while True:
            with self._changed:
                while not self._over and (not self._calls or self._stopped):
                    self._changed.wait()
                if self._over:
                    return
                token, data = self._calls.popleft()
                self._running = token
                self._record(STARTED, token, time())
            report = _remote.perform(data, functions)
            with self._changed:
                self._running = 0
                if not self._stopped:
                    self._record(FINISHED, token, report)
            if len(functions) > REMEMBERED:
                functions.clear()
