"""What the tests of Dask share; it knows Dask and no test."""

from __future__ import annotations

from distributed import Client

from dagrid.execution.backends._dask_worker import watches


def settle(client: Client, workers: int) -> None:
    """Wait until so many workers are there, and their nannies would replace them: Dask gives up one that dies before that."""
    client.wait_for_workers(workers, timeout=30)
    while not all(client.run(watches, nanny=True).values()):
        pass
