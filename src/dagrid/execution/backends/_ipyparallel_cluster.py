"""An ipyparallel cluster of our own on this machine: its processes end with this one, whatever ends it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import ipyparallel

from dagrid.execution.watchdog import Guard, watchdog


class OwnCluster:
    """A controller and engines, which ipyparallel begins as sessions of their own, so that they outlive who began them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._cluster: Any = ipyparallel.Cluster(n=size, log_level=logging.CRITICAL)
        self._guard: Guard | None = watchdog() if os.name == "posix" else None
        self._guarded: set[int] = set()

    def start(self) -> Any:
        """Start all of it, and return a client when the engines are there."""
        self._cluster.start_controller_sync()
        self._look()
        self._cluster.start_cluster_sync(n=self.size)
        self._look()
        client = self._cluster.connect_client_sync()
        client.wait_for_engines(self.size, block=False, timeout=self._cluster.engine_timeout).result()
        return client

    def start_engines(self, count: int) -> None:
        """Start so many engines more; they come when they are ready."""
        self._cluster.start_engines_sync(n=count)
        self._look()

    def stop(self) -> None:
        """End all of it."""
        self._cluster.stop_cluster_sync()
        self._look()

    def _look(self) -> None:
        """Guard the processes that there are now, and none that has ended."""
        if self._guard is None:
            return
        there = {one for one in _processes(self._cluster.to_dict()) if _is_there(one)}
        for one in self._guarded - there:
            self._guard.remove(one)
        for one in there - self._guarded:
            self._guard.add(one)
        self._guarded = there


def _processes(described: dict[str, Any]) -> Iterator[int]:
    """Return the processes in a description of a cluster; those that have ended may be among them."""
    if "controller" in described:
        yield described["controller"]["state"]["pid"]
    for engines in described["engines"]["sets"].values():
        for engine in engines["engines"].values():
            yield engine["pid"]


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
