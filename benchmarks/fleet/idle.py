"""Workers that are linked with a coordinator and rest, many in one process: python -m benchmarks.fleet.idle PORT COUNT."""

from __future__ import annotations

import asyncio
import sys

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import WorkerLink
from dagrid.execution.backends.cluster.duty import Duty
from dagrid.execution.backends.cluster.ledger import PROTOCOL


class Idler:
    """The desk of a worker that is never given anything."""

    def __init__(self, number: int, welcomed: asyncio.Semaphore) -> None:
        self._welcomed = welcomed
        self.duty = Duty(pb.Hello(id=f"idle-{number}", incarnation=str(number), slots=1, protocol=PROTOCOL))

    def hello(self) -> pb.Hello:
        return self.duty.hello()

    def welcomed(self, welcome: pb.Welcome) -> None:
        self.duty.welcomed(welcome, asyncio.get_running_loop().time())
        self._welcomed.release()

    def hear(self, down: pb.Down) -> None:
        self.duty.hear(down, asyncio.get_running_loop().time())

    def take(self) -> pb.Up | None:
        return self.duty.take()

    def piece(self) -> None:
        return None

    def lost(self) -> None:
        raise SystemExit("the coordinator has gone")


async def main(port: int, count: int) -> None:
    """Link so many, say so, and send heartbeats until the process is killed."""
    loop = asyncio.get_running_loop()
    welcomed = asyncio.Semaphore(0)
    idlers = [Idler(number, welcomed) for number in range(count)]
    links = [WorkerLink(Address("127.0.0.1", port), idler) for idler in idlers]
    running = [loop.create_task(link.run()) for link in links]
    for _ in links:
        await welcomed.acquire()
    print("linked", flush=True)
    while running:
        due = min(idler.duty.next_tick or loop.time() + 1.0 for idler in idlers)
        await asyncio.sleep(max(0.01, due - loop.time()))
        for idler, link in zip(idlers, links, strict=True):
            if (idler.duty.next_tick or due + 1.0) <= loop.time():
                idler.duty.tick(loop.time())
                link.wake()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
