"""What lies between a worker and its coordinator: a TCP proxy that can be cut, slow, late, silent, and worse."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

PIECE = 16_384


class Proxy:
    """A proxy in front of a port of this machine. Its settings are changed at any time, from any thread.

    Attributes:
        port: where it listens.
        away: who calls is hung up on.
        delay: seconds by which all is late.
        rate: bytes a second each way; 0 is as fast as it goes.
        stalled: nothing passes, and nobody is told.
        break_next: the next piece goes half of its way; then the connection is cut.
        double_next: the next piece goes twice.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._came, "127.0.0.1", 0), self._loop
        ).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.peace()

    def peace(self) -> None:
        """Let all pass again."""
        self.away = self.stalled = self.break_next = self.double_next = False
        self.delay = 0.0
        self.rate = 0

    def cut(self) -> None:
        """Break all connections that there are."""
        self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        """Break all connections, and listen no more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError):
                if not self.away:
                    await self._joined(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(there)
        ways = [asyncio.ensure_future(self._way(reader, there)), asyncio.ensure_future(self._way(there_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers.discard(there)
            there.transport.abort()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what goes one way."""
        while data := await reader.read(PIECE):
            if self.delay:
                await asyncio.sleep(self.delay)
            while self.stalled:
                await asyncio.sleep(0.01)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            if self.break_next:
                self.break_next = False
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            if self.double_next:
                self.double_next = False
                data += data
            writer.write(data)
            await writer.drain()
