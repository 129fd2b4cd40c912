"""The worker process: it is linked with its coordinator, performs what it is given, and leaves when it is told to.

It gets a folder of its own, which goes with it; what workers have left behind that died is removed when the next one begins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagrid
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import WorkerLink
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.tls import caller_credentials
from dagrid.execution.folders import OwnFolder
from dagrid.interrupts import Terminals, leaving
from dagrid.service.worker.station import Station

_log = logging.getLogger("dagrid.worker")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is, and where its coordinator is.

    Attributes:
        address: of the coordinator.
        home: the folder in which it gets one of its own.
        id: what it is called; by default the name of the host and the number of the process.
        labels: what is said of it; selectors ask for them.
        slots: how many attempts it performs at once; by default one for each core.
        max_active_runs: of how many runs it performs attempts at a time; 0: of as many as come.
    """

    address: Address
    home: Path
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    slots: int = 0
    max_active_runs: int = 0


async def serve(settings: WorkerSettings) -> int:
    """Serve a coordinator until SIGTERM, Ctrl-C or the end of the terminal says to leave, and return the exit code.

    The first signal lets what runs end, and what it has to report arrive, unless no coordinator comes in a lease to take it; the
    second one stops what runs, which has its time of grace.

    Raises:
        FleetCertificateError: a file for TLS cannot be used; one that is renewed later is looked at with each call.
        FleetRefusedError: the coordinator does not want the worker, and will not.
    """
    if settings.address.tls is not None:
        caller_credentials(settings.address.tls)
    loop = asyncio.get_running_loop()
    folder = OwnFolder(settings.home / "worker")
    hello = greeting(settings)
    station: Station

    def wake() -> None:
        link.wake()

    def leave() -> None:
        link.leave()

    station = Station(hello, loop=loop, folder=folder.path, labels=settings.labels, wake=wake, leave=leave)
    link = WorkerLink(settings.address, station)
    linked = loop.create_task(link.run())
    ticking = loop.create_task(_tick(station))
    stopped = asyncio.Event()

    terminals = Terminals()

    def on_signal(number: int) -> None:
        terminals.let_go()
        if stopped.is_set() and number == signal.SIGHUP:
            return  # it comes from the shell and from the system
        if stopped.is_set():
            _log.warning("Stopping what runs here.")
            linked.cancel()
            return
        stopped.set()
        _log.info("Leaving when all is done that runs here. A second signal stops what runs.")
        station.drain()

    for number in leaving():
        loop.add_signal_handler(number, on_signal, number)
    _log.info("Worker %s with %d slots%s.", hello.id, hello.slots, _shown(settings.labels))
    try:
        await linked
    except asyncio.CancelledError:
        return 1
    finally:
        ticking.cancel()
        station.close()
        folder.remove()
    return 0


async def _tick(station: Station) -> None:
    while True:
        await asyncio.sleep(station.tick())


def greeting(settings: WorkerSettings) -> pb.Hello:
    """Return what a new worker says of itself."""
    return pb.Hello(
        id=settings.id or f"{socket.gethostname()}@{os.getpid()}",
        incarnation=secrets.token_hex(8),
        labels=settings.labels,
        slots=settings.slots or os.cpu_count() or 1,
        max_active_runs=settings.max_active_runs,
        protocol=PROTOCOL,
        version=dagrid.__version__,
        python=".".join(map(str, sys.version_info[:2])),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def _shown(labels: Mapping[str, str]) -> str:
    return " and labels " + ", ".join(f"{name}={value}" for name, value in labels.items()) if labels else ""
