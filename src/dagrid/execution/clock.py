"""Real time: the one place that reads the clock and waits for it. One sleeping thread serves all timers of the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import msgspec

Action = Callable[[], None]

LONGEST = threading.TIMEOUT_MAX  # what a thread can wait for at once: 292 years
FEW = 64  # so many timers are not looked through for those that were prevented


class RealClock:
    """Seconds of `time.perf_counter`, and actions that are called when they are due."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._timers: list[tuple[float, int, list[Action | None]]] = []
        self._many = FEW
        self._order = count()
        self._thread: threading.Thread | None = None

    now = staticmethod(time.perf_counter)

    def call_at(self, when: float, action: Action) -> Callable[[], None]:
        """Call `action` at a time, from a thread of the clock's; the function returned prevents it."""
        holder: list[Action | None] = [action]
        with self._changed:
            if len(self._timers) >= self._many:
                self._let_go_of_prevented()
            heappush(self._timers, (when, next(self._order), holder))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="dagrid-clock", daemon=True)
                self._thread.start()
            elif self._timers[0][2] is holder:
                self._changed.notify()

        def prevent() -> None:
            holder[0] = None

        return prevent

    def _let_go_of_prevented(self) -> None:
        self._timers = [timer for timer in self._timers if timer[2][0] is not None]
        heapify(self._timers)
        self._many = 2 * len(self._timers) + FEW

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._timers or self._timers[0][0] > self.now():
                    self._changed.wait(min(self._timers[0][0] - self.now(), LONGEST) if self._timers else None)
                holder = heappop(self._timers)[2]
            action, holder[0] = holder[0], None
            if action is not None:
                action()
            del action  # it may refer to a run, until the next timer is due


REAL_CLOCK = RealClock()


SIGNALS_SEEN = 0.2


class Flag(msgspec.Struct, eq=False):
    """An event that costs next to nothing as long as nobody waits for it."""

    _set: bool = False
    _event: threading.Event | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        self._set = False
        if self._event is not None:
            self._event.clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, for `timeout` seconds at most; return whether it is.

        A signal that comes just before the main thread falls asleep does not wake it, so there this looks up now and then.
        """
        if self._set:
            return True
        with _MAKING:
            event = self._event = self._event or threading.Event()
        if self._set:
            return True
        if timeout is None and threading.current_thread() is threading.main_thread():
            while not event.wait(SIGNALS_SEEN):
                pass
            return True
        return event.wait(timeout if timeout is None else min(timeout, LONGEST))


_MAKING = threading.Lock()


def let_others_run() -> None:
    """Give the interpreter to another thread that wants it, and come back when it is free again."""
    time.sleep(0)
