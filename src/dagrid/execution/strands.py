"""Threads that serve many, each of whom by one thread at a time. They know nobody whom they serve.

Where hundreds have a thread each, these take the interpreter from one another, and that costs more than what they do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic

from dagrid.execution.carriers import carry

Serve = Callable[[], float | None]
"""Does what there is to do for somebody, and returns when there is more at the latest, by `time.monotonic`."""


class Strands:
    """As many threads as there are strands, but only so many.

    Args:
        name: of the threads.
        most: how many there are at most; who keeps one waiting keeps others waiting with it.
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._name = name
        self._most = most
        self._guard = threading.Lock()
        self._strands = self._threads = 0
        self._stirred: SimpleQueue[Strand | None] = SimpleQueue()
        self._dues: list[tuple[float, int, Strand]] = []
        self._order = count()

    def begin(self, serve: Serve) -> Strand:
        """Serve somebody whenever the strand that is returned is stirred, until that ends."""
        with self._guard:
            self._strands += 1
            lacks_one = self._threads < min(self._strands, self._most)
            if lacks_one:
                self._threads += 1
        if lacks_one:
            carry(self._serve, self._name)
        return Strand(self, serve)

    # For strands.

    def expect(self, strand: Strand) -> None:
        """Serve a strand soon. It takes no lock, for it may be called where an object is dropped."""
        self._stirred.put(strand)

    def remind(self, strand: Strand, when: float) -> None:
        """Serve a strand at a time, if not before."""
        with self._guard:
            if when < strand.reminded:
                strand.reminded = when
                heappush(self._dues, (when, next(self._order), strand))

    def leave(self) -> None:
        """A strand has ended."""
        with self._guard:
            self._strands -= 1
            if self._threads > self._strands:
                self._threads -= 1
                self._stirred.put(None)

    # The threads.

    def _serve(self) -> None:
        while (strand := self._next()) is not None:
            strand.serve()

    def _next(self) -> Strand | None:
        while True:
            with self._guard:
                when = self._dues[0][0] if self._dues else inf
                if when <= monotonic():
                    strand = heappop(self._dues)[2]
                    strand.reminded = inf
                    return strand
            try:
                return self._stirred.get(timeout=None if when == inf else max(when - monotonic(), 0.0))
            except Empty:
                continue


class Strand:
    """What is done for somebody, one thing after another.

    Attributes:
        reminded: when it is served at the latest.
    """

    __slots__ = ("_again", "_ended", "_serve", "_serving", "_strands", "reminded")

    def __init__(self, strands: Strands, serve: Serve) -> None:
        self._strands = strands
        self._serve = serve
        self._serving = threading.Lock()
        self._again = self._ended = False
        self.reminded = inf

    def stir(self) -> None:
        """Have it served soon; from any thread, also where an object is dropped."""
        if not (self._again or self._ended):
            self._again = True
            self._strands.expect(self)

    def end(self) -> None:
        """Serve it no longer; called by who is served, when it is."""
        if not self._ended:
            self._ended = True
            self._serve = _nothing  # its last due may be some time off
            self._strands.leave()

    def serve(self) -> None:
        """Serve it, unless another thread does, which looks again then."""
        while self._serving.acquire(blocking=False):
            try:
                due = self._served()
            finally:
                self._serving.release()
            if due is not None:
                self._strands.remind(self, due)
            if not self._again:
                return

    def _served(self) -> float | None:
        self._again = False
        try:
            return self._serve()
        except Exception:  # noqa: BLE001 - one's fault is none of the others'
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        return None


def _nothing() -> None:
    """There is nothing to do any more."""
