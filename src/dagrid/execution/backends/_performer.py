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
from functools import partial
from time import time
from typing import Any

from dagrid.attempt import before
from dagrid.execution.backends import _remote
from dagrid.execution.backends._worker import loads

READY, STARTED, FINISHED, BACK, STOPPED, KEPT, DROPPED = range(7)
"""The kinds of a record: (kind, token, payload), where the payload is a name, a time of the clock of day, or a report. KEPT is a
FINISHED whose value stays in the engine: its payload is the report and the engine's handle of the value (`with_kept`). DROPPED is
a call that will not be performed, for what it rides on has not completed."""

REMEMBERED = 512
"""How many functions are kept open."""

_NOTHING, _NEWS, _AN_END, _REST = range(4)
"""What a thread waits for."""

Record = tuple[int, int, Any]
Sent = tuple[Any, ...]
"""A call in a letter: its token, that of the call that it rides on (0: none), the order, and the handles of the references in it,
if there are any."""


def with_kept(records: list[Record], handle: Any) -> list[Record]:
    """Return records of `listen_apart` with the engine's handle of the value that came beside them."""
    return [
        (kind, token, (payload, handle)) if kind == KEPT else (kind, token, payload) for kind, token, payload in records
    ]


class Performer:
    """What an engine keeps alive in one of its processes, an actor.

    Tasks find the context variables that are set where it is made.

    Args:
        name: what it is called; by default the machine and the number of the process.
        fetch: returns the pickled values for the handles of references, in an engine that passes these.
    """

    def __init__(self, name: str = "", fetch: Callable[[Sequence[Any]], Sequence[bytes]] | None = None) -> None:
        self._fetch = fetch
        guard = threading.RLock()
        self._changed = threading.Condition(guard)  # for who waits for news
        self._wanted = threading.Condition(guard)  # for the thread that performs
        self._calls: deque[Sent] = deque()
        self._records: list[Record] = [(READY, 0, name or _remote.worker_name())]
        self._ridden: set[int] = set()  # the calls on which others ride that wait here
        self._bases: dict[int, Callable[[], Any]] = {}  # of those that have completed, what gives their values
        self._running = 0
        self._stopped = False
        self._over = False
        self._letters: dict[int, tuple[Sequence[Sent], Sequence[int], int]] = {}
        self._next_letter = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._awaited = _NOTHING
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._perform_all,), name="dagrid-tasks", daemon=True).start()

    async def tell(self, number: int, calls: Sequence[Sent], back: Sequence[int], stop: int) -> None:
        """Take a letter, in its turn.

        Args:
            number: its number, from 0.
            calls: to be performed.
            back: tokens of calls to be given back, if they have not started.
            stop: the token of one to be given back, or, if it runs, the last to be performed here; 0 for none.
        """
        self.take_in_turn(number, calls, back, stop)

    async def listen(self) -> list[Record]:
        """Return what has happened since the last time, as soon as there is something."""
        return (await self.listen_apart())[0]

    async def listen_apart(self, limit: float | None = None) -> tuple[list[Record], bytes | None]:
        """Return what has happened since the last time, and a value that is to be kept: the one of the last record.

        Args:
            limit: after so many seconds it returns in any case.
        """
        if self._news is None:
            self._news = asyncio.Event()
            self._loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if self._records:
                    break
                self._news.clear()
            try:
                async with asyncio.timeout(limit):
                    await self._news.wait()
            except TimeoutError:
                break
        return self.gathered_apart()

    @property
    def busy(self) -> bool:
        """Whether it performs a call."""
        return self._running != 0

    def end(self) -> None:
        """Perform nothing any more; what runs runs to its end, unheard. For engines that cannot end the process."""
        with self._changed:
            self._over = self._stopped = True
            self._calls.clear()
            self._wanted.notify()

    def _taken(self) -> tuple[list[Record], bytes | None]:
        """Take the records up to the first of a value that is to be kept, and this value."""
        with self._changed:
            records, self._records = self._records, []
            place = next((place for place, record in enumerate(records) if record[0] == KEPT), None)
            if place is None:
                return records, None
            self._records = records[place + 1 :]
        _, token, (report, kept) = records[place]
        return [*records[:place], (KEPT, token, report)], kept

    def _read(self, calls: Sequence[Sent], back: Sequence[int], stop: int) -> None:
        with self._changed:
            self._calls.extend(calls)
            self._ridden.update(call[1] for call in calls if call[1])
            for token in (*back, stop):
                self._give_back(token)
            if stop and stop == self._running:
                self._stopped = True
                self._record(STOPPED, stop)
            self._wanted.notify()

    def _give_back(self, token: int) -> None:
        for call in self._calls:
            if call[0] == token:
                self._calls.remove(call)
                self._record(BACK, token)
                self._bases.pop(call[1], None)
                self._drop_riders(token)
                return

    def _drop_riders(self, token: int) -> None:
        """A call has not completed: who rides on it is dropped, and who rides on that; the caller holds the lock."""
        while token in self._ridden:
            self._ridden.discard(token)
            rider = next(call for call in self._calls if call[1] == token)
            self._calls.remove(rider)
            token = rider[0]
            self._record(DROPPED, token)

    def _record(self, kind: int, token: int, payload: Any = None) -> None:
        """Note what happened, and wake who listens, if this is the first news; the caller holds the lock."""
        self._records.append((kind, token, payload))
        if len(self._records) == 1 and self._loop is not None and self._news is not None:
            self._loop.call_soon_threadsafe(self._news.set)
        if self._awaited == _NEWS or (
            kind != STARTED and (self._awaited == _AN_END or (self._awaited == _REST and not self._calls))
        ):
            self._changed.notify_all()

    # For engines that call in threads: any of them gives letters, and one waits.

    def take(self, calls: Sequence[Sent], back: Sequence[int], stop: int) -> None:
        """Take a letter as `tell` does; letters come in their order."""
        self._read(calls, back, stop)

    def take_in_turn(self, number: int, calls: Sequence[Sent], back: Sequence[int], stop: int) -> None:
        """Take a letter as `tell` does; they may come in any order."""
        with self._changed:
            self._letters[number] = (calls, back, stop)
            while (letter := self._letters.pop(self._next_letter, None)) is not None:
                self._next_letter += 1
                self._read(*letter)

    def await_news(self, linger: float) -> None:
        """Wait until something has happened, and for so many seconds at most until there is nothing to do."""
        self.await_rest(linger)
        while not self._records:
            self._await(_NEWS, lambda: bool(self._records), None)
            self.await_rest(linger)

    def await_end(self, limit: float) -> bool:
        """Wait until a call has ended, for so many seconds at most; return whether one has that was not told."""
        return self._await(_AN_END, lambda: any(record[0] != STARTED for record in self._records), limit)

    def await_rest(self, limit: float) -> bool:
        """Wait until there is nothing to do, for so many seconds at most; return whether that is so."""
        return self._await(_REST, lambda: not self._running and not self._calls, limit)

    @property
    def has_news(self) -> bool:
        """Whether something has happened that was not told, the start of a call too."""
        return bool(self._records)

    def gathered(self) -> list[Record]:
        """Return what has happened since the last time."""
        return self.gathered_apart()[0]

    def gathered_apart(self) -> tuple[list[Record], bytes | None]:
        """Return what has happened since the last time, and a value that is to be kept: the one of the last record."""
        records, kept = self._taken()
        ended = {token for kind, token, _ in records if kind in (FINISHED, KEPT)}
        return [record for record in records if record[0] != STARTED or record[1] not in ended], kept

    def _await(self, what: int, there: Callable[[], bool], limit: float | None) -> bool:
        with self._changed:
            self._awaited = what
            try:
                return self._changed.wait_for(there, limit)
            finally:
                self._awaited = _NOTHING

    def _perform_all(self) -> None:
        functions: dict[bytes, Callable[..., Any]] = {}
        while True:
            with self._changed:
                while not self._over and (not self._calls or self._stopped):
                    self._wanted.wait()
                if self._over:
                    return
                token, rides, data, *handles = self._calls.popleft()
                self._running = token
                self._record(STARTED, token, time())
            riding = before.set(self._bases.pop(rides)) if rides else None
            report, kept = self._perform(data, handles[0] if handles else None, functions)
            if riding is not None:
                before.reset(riding)
            with self._changed:
                self._running = 0
                if not self._stopped:
                    self._record(*((FINISHED, token, report) if kept is None else (KEPT, token, (report, kept))))
                    self._seat_rider(token, report, kept)
            kept = None  # it is the engine's
            if len(functions) > REMEMBERED:
                functions.clear()

    def _seat_rider(self, token: int, report: bytes, kept: bytes | None) -> None:
        """A call has ended: who rides on it may be performed, if it has completed; the caller holds the lock."""
        if token not in self._ridden:
            return
        if not _remote.completed(report):
            self._drop_riders(token)
            return
        self._ridden.discard(token)
        self._bases[token] = partial(_remote.value_of, report) if kept is None else partial(loads, kept)

    def _perform(
        self, data: bytes, handles: Sequence[Any] | None, functions: dict[bytes, Callable[..., Any]]
    ) -> tuple[bytes, bytes | None]:
        fetch = self._fetch
        if fetch is None:
            return _remote.perform(data, functions), None
        return _remote.perform_apart(data, functions, None if handles is None else partial(fetch, handles))
