"""The files of one run that its attempts write, where the run is not performed by its coordinator: written as they are told.

What cannot be written waits, and so does what follows in its file, until it is tried again. It knows neither lines nor time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.logbook import OPEN, OpenSink, Sink
from dagrid.execution.backends.cluster.sayings import Sayings

_log = logging.getLogger("dagrid.fleet")


class Sinks:
    """The files of a run; used in one thread.

    Args:
        run: whose they are.
        opener: opens them.
    """

    def __init__(self, run: str, opener: OpenSink) -> None:
        self._run = run
        self._opener = opener
        self._open: dict[str, Sink] = {}
        self._waiting: dict[tuple[str, int], pb.Log] = {}  # a worker sends only so much that is not acknowledged
        self._sayings = Sayings()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    def write(self, log: pb.Log) -> pb.LogAck | None:
        """Write a piece, and return what is to be acknowledged; None if it waits."""
        if any(file == log.file for file, _ in self._waiting) or not self._put(log):
            self._waiting[log.file, log.offset] = log
            return None
        return _ack(log)

    def again(self) -> Iterator[pb.LogAck]:
        """Write what waits, as far as that is possible, and yield what is to be acknowledged."""
        stuck = set()
        for key, log in list(self._waiting.items()):
            if log.file in stuck:
                continue
            if self._put(log):
                del self._waiting[key]
                yield _ack(log)
            else:
                stuck.add(log.file)

    def close(self) -> None:
        """Write nothing more."""
        while self._open:
            self._close(next(iter(self._open)))

    def _put(self, log: pb.Log) -> bool:
        """Write a piece, and return whether it is written."""
        try:
            sink = self._open.get(log.file)
            if sink is None:
                if len(self._open) >= OPEN:
                    self._close(next(iter(self._open)))
                sink = self._open[log.file] = self._opener(self._run, log.file)
            sink.seek(log.offset)
            sink.write(log.data)
            sink.flush()
        except (OSError, ValueError) as error:
            self._close(log.file)
            if self._sayings.due((log.file, str(error))):
                _log.error("%s cannot be written, and is tried again: %s", log.file, error)
            return False
        return True

    def _close(self, file: str) -> None:
        sink = self._open.pop(file, None)
        if sink is not None:
            with suppress(OSError):  # what could not be written is written anew
                sink.close()


def _ack(log: pb.Log) -> pb.LogAck:
    return pb.LogAck(run=log.run, file=log.file, offset=log.offset + len(log.data))
