"""ipyparallel: attempts run in the engines of an IPython cluster, by performers that live there from run to run.

This is the face of the crew and of the fleet of engines; what a run decides, it does not know.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import ipyparallel

from dagrid.errors import BackendError, BackendUnreachableError, InvalidSettingError, UnsatisfiableError
from dagrid.execution.backends._crew import WINDOW, Crew
from dagrid.execution.backends._ipyparallel import Fleet
from dagrid.execution.backends._ipyparallel_cluster import OwnCluster
from dagrid.execution.backends._lanes import Session
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase, check_seconds, check_whole
from dagrid.machine.pick import matches
from dagrid.ports import Capabilities, Host, Needs

KEEP = 30.0
"""Seconds for which performers that have nothing to do stay in their engines."""
REACH = 5.0
"""Seconds that a cluster has to answer."""


class IPyParallelBackend(BackendBase):
    """Run tasks in the engines of an ipyparallel cluster, one at a time in each.

    A client that is given is used and left open, and its engines are left alone: what runs there cannot be stopped, so a call
    that is cancelled or late is abandoned in its thread, and the engine goes on with the next. Without a client or a file,
    engines are started on this machine, which end with the backend, and with the program, whatever ends that. They are killed to
    end what they run, and others take their place, which takes some seconds. Engines that come later are used too; what an
    engine ran that ends is lost.

    dagrid must be installed where the engines run, and the Python be of the same minor version. Tasks run in a thread which is
    not the main one, so that an engine answers others meanwhile; small ones travel many at a time.

    An engine has the labels `engine`, its number, and `host`, its machine, and those in its environment variable
    DAGRID_WORKER_LABELS: `gpu=true,memory=64G`. A node with a `selector` gets an engine with these labels.

    Args:
        address: the connection file of a running cluster, as `ipcluster start` writes it (ipcontroller-client.json).
        client: an `ipyparallel.Client`.
        max_workers: at most how many engines are used, and how many are started. None means all, or one for each processor.
        timeout: seconds that the controller of a file, and then the engines, have to answer.
        max_in_flight: how many attempts may be with the engines, the waiting ones included; None means 256 for each.

    Raises:
        InvalidSettingError: settings that cannot be, or exclude each other.
        BackendUnreachableError: no cluster answers, or none of its engines.
        CapabilityError: an engine lacks dagrid, or runs another Python.
    """

    name: ClassVar[str] = "ipyparallel"
    capabilities: Capabilities = Capabilities(cancels=True, chains=True, matches_selectors=True)  # type: ignore[misc]

    def __init__(
        self,
        address: str | None = None,
        client: Any = None,
        max_workers: int | None = None,
        timeout: float = REACH,
        max_in_flight: int | None = None,
    ) -> None:
        super().__init__()
        check_whole(max_workers=max_workers, max_in_flight=max_in_flight)
        check_seconds(timeout=timeout)
        if client is not None and not callable(getattr(client, "wait_for_engines", None)):
            raise InvalidSettingError(f"client is an ipyparallel.Client, not {client!r}.")
        if address is not None and client is not None:
            raise InvalidSettingError("Give the file of a cluster or a client, not both.")
        cluster = owned = None
        if client is None and address is not None:
            client = owned = _connect(address, timeout)
        elif client is None:
            cluster, owned = _start(max_workers or os.cpu_count() or 1)
            client = owned
            self.capabilities = Capabilities(kills=True, cancels=True, chains=True, matches_selectors=True)
        self.client = client
        fleet = Fleet(client, max_workers, cluster)
        try:
            fleet.join(timeout)
        except BaseException:
            _part(owned, cluster)
            raise
        sites = fleet.sites
        window = WINDOW if max_in_flight is None else max(1, max_in_flight // max(1, len(sites)))
        crew = Crew(self.name, fleet.seat, sites, window, KEEP)
        fleet.follow(crew)
        self._fleet, self._crew = fleet, crew
        # Also for a backend that is dropped without being closed, and at the end of the program.
        self._finalizer = weakref.finalize(self, _end, fleet, crew, owned, cluster)

    def check(self, needs: Mapping[str, Needs]) -> None:
        """Refuse a graph before it runs, of whose nodes some select engines that there are not.

        Raises:
            UnsatisfiableError: no engine has all the labels.
        """
        sites = self._fleet.sites
        for node, need in needs.items():
            wanted = tuple(need.selector.items())
            if not any(matches(site.labels, wanted) for site in sites):
                offered = "; ".join(f"{site.name} has {_listed(site.labels)}" for site in sites) or "there is no engine"
                raise UnsatisfiableError(
                    f"Node {node!r} selects workers with {_listed(need.selector)}, and no IPython engine has these labels: "
                    f"{offered}. Start an engine with DAGRID_WORKER_LABELS={_listed(need.selector)!r} in its environment."
                )

    def open(self, host: Host) -> Session:
        """Begin to serve a run: announce the engines."""
        self.check_open()
        return self._crew.open(host, self)

    def release(self, wait: bool) -> None:
        """End the performers, and what was started or connected here."""
        self._finalizer()


def _connect(address: str, timeout: float) -> Any:
    try:
        return ipyparallel.Client(address, timeout=timeout)
    except Exception as error:
        raise BackendUnreachableError(
            f"No ipyparallel cluster answers at {address!r} within {timeout:g} s ({told(error)}). "
            "Start one with `ipcluster start`, or correct the path of its connection file."
        ) from error


def _start(size: int) -> tuple[OwnCluster, Any]:
    cluster = OwnCluster(size)
    try:
        return cluster, cluster.start()
    except Exception as error:
        _part(None, cluster)
        raise BackendError(
            f"IPython engines cannot be started on this machine ({told(error)}). Start a cluster with "
            f"`ipcluster start -n {size}`, and give its connection file or a client."
        ) from error


def _end(fleet: Fleet, crew: Crew, client: Any, cluster: OwnCluster | None) -> None:
    fleet.retire()
    crew.stop()
    fleet.end()
    _part(client, cluster)


def _part(client: Any, cluster: OwnCluster | None) -> None:
    with suppress(Exception):
        if client is not None:
            client.close()
    with suppress(Exception):
        if cluster is not None:
            cluster.stop()


def _listed(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
