"""`dagrid worker`: this machine performs steps and calls for a coordinator."""

from __future__ import annotations

import asyncio
import logging
import os

from dagrid.cli.calls import Call
from dagrid.cli.fleets import caller_tls, remarks, signing_key
from dagrid.cli.garbage import collect_garbage
from dagrid.cli.options import command
from dagrid.config import BY_NAME


@command(
    "worker",
    examples=(
        "dagrid worker --worker.labels gpu=true,memory=64G --worker.coordinator-host coordinator.example.com",
        "dagrid worker --worker.id w1 --worker.slots 8 --worker.tls-ca ca.crt",
    ),
)
def worker_command(call: Call) -> int:
    """Perform what a coordinator gives, until SIGTERM: then what runs may end, and a second one stops it.

    The worker calls the coordinator, again and again where it does not answer, and goes on meanwhile with what it has. The
    signing key is read from DAGRID_COORDINATOR_SIGNING_KEY.
    """
    from dagrid.execution.backends.cluster.calling import Address
    from dagrid.service.worker.process import WorkerSettings, serve

    config = call.config
    key = signing_key(call)
    os.environ.pop(BY_NAME["coordinator.signing_key"].variable, None)  # nothing that runs here finds it there
    settings = WorkerSettings(
        address=Address(config["worker.coordinator_host"], config["worker.coordinator_port"], caller_tls(call), key),
        home=config.home,
        id=config["worker.id"] or "",
        labels=dict(config["worker.labels"]),
        slots=config["worker.slots"] or 0,
        max_active_runs=config["worker.max_active_runs"] or 0,
    )
    remarks(call)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    collect_garbage()
    return asyncio.run(serve(settings))
