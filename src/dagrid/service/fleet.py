"""The workers of a fleet as runs of workflows use them: through the hub of this process, or borrowed from another coordinator.

What a run takes along is made here of its context. Which runs there are, and when they begin, is for the coordinator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING

from dagrid.execution.backends.cluster.books import WorkerView
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.listener import PATIENCE
from dagrid.execution.backends.cluster.posts import key_of
from dagrid.execution.backends.cluster.session import FleetSession
from dagrid.execution.strands import Strands
from dagrid.ports import Capabilities, Host, Use
from dagrid.service.kit import WorkflowKit, kit_of
from dagrid.service.logs import RunLogs
from dagrid.service.parcels import Packer, Parcel

if TYPE_CHECKING:
    from pathlib import Path

    from dagrid.execution.backends.cluster.calling import Address
    from dagrid.execution.backends.cluster.hub import Hub
    from dagrid.history import About
    from dagrid.workflow.context import Context
    from dagrid.workflow.running import Started

COMMAND = "command"
STRANDS = 4
"""Threads that serve the uses of all runs of a coordinator: what they record while a slow disk syncs is written together."""
Connect = Callable[[FleetSession, RunLogs], Line]
"""Begins the use of the workers by a run, whose logs are written there."""


class FleetPlace:
    """What performs the steps of one run: a `dagrid.ports.Surviving` backend, for the place `command`."""

    name = "fleet"
    capabilities = Capabilities(kills=True, cancels=True, matches_selectors=True, survives=True)

    def __init__(
        self,
        connect: Connect,
        kit: WorkflowKit,
        parcel: Parcel,
        name: str,
        root: str,
        logs: RunLogs,
        is_remote: bool,
        strands: Strands | None,
    ) -> None:
        self._is_remote = is_remote
        self._strands = strands
        self._connect = connect
        self._kit = kit
        self._parcel = parcel
        self._name = name
        self._root = root
        self._logs = logs

    def open(self, host: Host) -> FleetSession:
        """Begin to serve the run."""
        return self.reopen(host, ())

    def reopen(self, host: Host, uses: Sequence[Use]) -> FleetSession:
        """Begin to serve the run where an earlier process has left it."""
        session = FleetSession(
            host,
            key_of(host.run, host.nonce, COMMAND),
            name=self._name,
            root=self._root,
            place=COMMAND,
            kit=self._kit,
            contents=self._parcel.read,
            along=self._parcel.letter,
            uses=uses,
            logs=self._logs if self._is_remote else None,
            strands=self._strands,
        )
        session.begin(lambda one: self._connect(one, self._logs), 2 * PATIENCE)
        return session

    def close(self, wait: bool = True) -> None:  # noqa: ARG002  # there is nothing to wait for
        """The run is over here."""
        self._logs.close()


class Fleet:
    """Workers for runs of workflows, see `dagrid.workflow.running.Fleet`.

    Args:
        connect: begins the use of the workers by a run.
        home: of the runs, which does not travel.
    """

    is_remote = True
    strands: Strands | None = None
    """What serves the uses of runs; None: a thread of its own serves each."""

    def __init__(self, connect: Connect, home: Path) -> None:
        self._connect = connect
        self._home = os.fspath(home)
        self._packer = Packer()

    def place(self, context: Context, about: About) -> FleetPlace:
        """Return what performs the steps of a run."""
        kit, parcel = kit_of(context, self._packer, (self._home,))
        root = about.more.get("root_name", about.name)
        logs = RunLogs(kit.kept.folder, context.workflow.max_output_size)
        return FleetPlace(self._connect, kit, parcel, about.name, root, logs, self.is_remote, self.strands)

    def began(self, started: Started) -> None:
        """Hear of a run that another one has called: nobody has to know of it here."""

    def close(self) -> None:
        """Let go of the workers."""


class OwnFleet(Fleet):
    """The workers that call at this process.

    Args:
        hub: where they call; it has started.
        home: of the runs.
    """

    is_remote = False

    def __init__(self, hub: Hub, home: Path) -> None:
        super().__init__(self._borrow, home)
        self._hub = hub
        self.strands = Strands("dagrid-fleet", STRANDS)

    def _borrow(self, session: FleetSession, logs: RunLogs) -> Line:
        return self._hub.borrow(session.opening(), session.tell, logs=logs)

    def close(self) -> None:
        """Hang up; workers go on with what they have, until this process or another one listens again."""
        self._hub.close()

    def workers(self) -> list[Shown]:
        """Return the workers as the API shows them."""
        return [shown(one) for one in self._hub.workers()]


def borrowed(address: Address, home: Path) -> Fleet:
    """Return the workers of a coordinator elsewhere, for runs of this process."""
    return Fleet(partial(_borrow, address), home)


def _borrow(address: Address, session: FleetSession, logs: RunLogs) -> Line:  # noqa: ARG001
    return borrow(address, session.reopen, session.tell)


@dataclass(frozen=True, slots=True)
class Activity:
    """A run on a worker, see `dagrid.service.api.Doing`."""

    run: str
    name: str
    root: str
    since: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A worker as it is shown, see `dagrid.service.api.Seen`."""

    id: str
    labels: dict[str, str]
    health: str
    heartbeat: float
    runs: list[Activity]


def shown(view: WorkerView) -> Shown:
    """Return a worker as it is shown, with times of day."""
    shift = time() - monotonic()
    runs = [Activity(one.run, one.name, one.root, one.since) for one in view.running]
    return Shown(view.id, dict(view.labels), view.health.name, view.heard + shift, runs)
