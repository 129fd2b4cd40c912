"""The files of runs that workers send piece by piece, written where the run wants them, beside the loop.

A piece is acknowledged when it is written. One that cannot be written is tried again every second, and so is what follows it in
its file; a worker sends only so much that is not acknowledged. It knows runs by their names, and no stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from dagrid.errors import TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.sayings import Sayings

OPEN = 128
"""How many files are open at a time."""
STUCK = 32 * 2**20
"""Bytes of one source that may wait to be written."""
LONGEST = 1_000
"""Characters in the name of a file."""
LARGEST = 2**44
"""The last byte that a file may have."""
PAUSE = 1.0
"""Seconds after which it is tried again."""

_log = logging.getLogger("dagrid.fleet")


class Sink(Protocol):
    """A file to write to, as `open(path, "r+b")` gives it; it is used in one thread at a time."""

    def seek(self, offset: int, /) -> object: ...

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...

    def close(self) -> object: ...


OpenSink = Callable[[str, str], Sink]
"""Opens the file of a run, given both names, for writing at any place; what is there stays. Called in any thread."""


class Logbook:
    """The files of all runs. All of it is called in the loop.

    Args:
        acknowledge: called with a source and how much of a file is written, where that is later than `write` returns.
    """

    def __init__(self, acknowledge: Callable[[Hashable, pb.LogAck], None]) -> None:
        self._acknowledge = acknowledge
        self._openers: dict[str, OpenSink] = {}
        self._sinks: OrderedDict[tuple[str, str], Sink] = OrderedDict()
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._stuck: dict[Hashable, deque[pb.Log]] = {}
        self._retrying: asyncio.TimerHandle | None = None
        self._writers = ThreadPoolExecutor(2, "dagrid-logs")
        self._sayings = Sayings()

    def begin(self, run: str, opener: OpenSink) -> None:
        """Write the files of a run from now on."""
        self._openers[run] = opener

    def end(self, run: str) -> None:
        """Write no files of a run any more."""
        if self._openers.pop(run, None) is not None:
            for key in [key for key in self._sinks if key[0] == run]:
                self._writers.submit(_close, self._sinks.pop(key))
            for key in [key for key in self._turns if key[0] == run]:
                del self._turns[key]

    async def write(self, source: Hashable, log: pb.Log) -> pb.LogAck | None:
        """Write a piece, and return what is to be acknowledged; None if it could not be written, and waits.

        Raises:
            TamperedError: more waits than a source may have sent, or there can be no such file.
        """
        _check(log)
        stuck = self._stuck.get(source)
        if stuck and any(each.run == log.run and each.file == log.file for each in stuck):
            self._keep(source, log)
            return None
        try:
            return await self._write(log)
        except OSError as error:
            if self._sayings.due((log.run, error.errno)):
                _log.error("%s of run %s cannot be written, and is tried again: %s", log.file, log.run, error)
            self._keep(source, log)
            return None

    def give_up(self, source: Hashable) -> None:
        """A source is gone: it will send again what was not acknowledged."""
        self._stuck.pop(source, None)

    async def close(self) -> None:
        """Write nothing more."""
        if self._retrying is not None:
            self._retrying.cancel()
        for run in list(self._openers):
            self.end(run)
        await asyncio.to_thread(self._writers.shutdown)

    async def _write(self, log: pb.Log) -> pb.LogAck:
        ack = pb.LogAck(run=log.run, file=log.file, offset=log.offset + len(log.data))
        key = log.run, log.file
        opener = self._openers.get(log.run)
        if opener is None:
            return ack  # nobody wants it
        async with self._turns.setdefault(key, asyncio.Lock()):
            sink = self._sinks.pop(key, None)
            loop = asyncio.get_running_loop()
            try:
                if sink is None:
                    sink = await loop.run_in_executor(self._writers, opener, *key)
                await loop.run_in_executor(self._writers, _put, sink, log.offset, log.data)
            except BaseException:
                if sink is not None:
                    self._writers.submit(_close, sink)
                raise
            if self._openers.get(log.run) is not opener:
                self._writers.submit(_close, sink)
                return ack
            self._sinks[key] = sink
        while len(self._sinks) > OPEN:
            self._writers.submit(_close, self._sinks.popitem(last=False)[1])
        return ack

    def _keep(self, source: Hashable, log: pb.Log) -> None:
        stuck = self._stuck.setdefault(source, deque())
        stuck.append(log)
        if sum(len(each.data) for each in stuck) > STUCK:
            raise TamperedError("It sends more of its files than may be under way.")
        if self._retrying is None:
            self._retrying = asyncio.get_running_loop().call_later(PAUSE, self._retry)

    def _retry(self) -> None:
        self._task = asyncio.create_task(self._try_again())

    async def _try_again(self) -> None:
        for source, stuck in list(self._stuck.items()):
            with suppress(OSError):
                while stuck and self._stuck.get(source) is stuck:
                    ack = await self._write(stuck[0])
                    stuck.popleft()
                    if self._stuck.get(source) is stuck:
                        self._acknowledge(source, ack)
            if not stuck and self._stuck.get(source) is stuck:
                del self._stuck[source]
        self._retrying = asyncio.get_running_loop().call_later(PAUSE, self._retry) if self._stuck else None


def _check(log: pb.Log) -> None:
    """Raise if a piece is not one of a file in the folder of its run."""
    names = log.file.split("/")
    if len(log.file) > LONGEST or any(name in ("", ".", "..") or "\0" in name for name in names):
        raise TamperedError(
            f"It sends a file {log.file[:100]!r}, and there can be none of that name in the folder of a run."
        )
    if log.offset > LARGEST:
        raise TamperedError(f"It sends byte {log.offset} of a file.")


def _put(sink: Sink, offset: int, data: bytes) -> None:
    sink.seek(offset)
    sink.write(data)
    sink.flush()


def _close(sink: Sink) -> None:
    with suppress(OSError):
        sink.close()
