"""Ctrl-C that waits for a moment in which it does no harm. It knows no run."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, Self

INTERRUPTED = "interrupted by Ctrl-C"
"""Why a run is cancelled that somebody waits for."""

# The functions of `signal` make enums of numbers, which costs a short run a tenth of its time; those under them do not.
_signals: Any = sys.modules.get("_signal", signal)
_SIGINT = int(signal.SIGINT)


class HeldInterrupts:
    """Ctrl-C waits: while a run begins it would leave one that nobody can cancel, while one is recorded a torn record."""

    def __init__(self) -> None:
        self._late: list[tuple[int, FrameType | None]] = []
        self._handler: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = _signals.getsignal(_SIGINT)
            if callable(self._handler):
                _signals.signal(_SIGINT, self._hold)
                _holding.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if callable(self._handler):
            _signals.signal(_SIGINT, self._handler)
            _holding.remove(self)

    def _hold(self, *late: Any) -> None:
        press()
        self._late.append(late)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let Ctrl-C through for a while, also one that came before."""
        hold = _signals.getsignal(_SIGINT)
        _signals.signal(_SIGINT, self._handler)
        try:
            self.deliver()
            yield
        finally:
            _signals.signal(_SIGINT, hold)

    def deliver(self) -> None:
        """Do now what was held."""
        while self._late:
            self._handler(*self._late.pop())


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception is Ctrl-C: that comes in the main thread, and in all others somebody raised it."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def from_signal(error: BaseException) -> bool:
    """Return whether an exception in code of ours may be what the handler of a signal raised, Ctrl-C or another one."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


_pressed_at = [-math.inf]


def press() -> None:
    """Note that somebody wants an end."""
    _pressed_at[0] = time.monotonic()


def pressed_for() -> float:
    """Return how many seconds ago somebody pressed Ctrl-C, as far as was seen here: who waits for something may give it up."""
    return time.monotonic() - _pressed_at[0]


def leaving() -> list[signal.Signals]:
    """Return the signals that ask a process which serves to leave; the end of its terminal does, unless nohup started it."""
    hung_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGTERM, signal.SIGINT, *hung_up]


class Terminals:
    """Those of standard output and standard error, which may end before their process does."""

    def __init__(self) -> None:
        self._open = [number for number in (1, 2) if os.isatty(number)]

    def let_go(self) -> None:
        """Write to nowhere from now on in the place of those that have ended."""
        for number in self._open:
            if not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


_holding: list[HeldInterrupts] = []  # of the main thread, the only one that has signals


def interruptible() -> AbstractContextManager[None]:
    """Let Ctrl-C through while a run that is about to begin waits for something."""
    if _holding and threading.current_thread() is threading.main_thread():
        return _holding[-1].released()
    return nullcontext()
