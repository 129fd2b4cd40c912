"""`dagrid worker`: this machine performs steps and calls for a coordinator."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from dagrid.cli.calls import Call
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
    """Perform what a coordinator gives, until SIGTERM: then what runs may end, and a second one stops it at once.

    The worker calls the coordinator, again and again where it does not answer, and goes on meanwhile with what it has. The
    signing key is read from DAGRID_COORDINATOR_SIGNING_KEY.
    """
    from dagrid.execution.backends.cluster.calling import Address
    from dagrid.execution.backends.cluster.tls import CallerTLS
    from dagrid.service.worker.process import WorkerSettings, serve

    config = call.config
    files = [config[f"worker.tls.{name}_file"] for name in ("ca", "cert", "key")]
    ca, certificate, key = (None if file is None else Path(file) for file in files)
    encrypted = any(files) if config["worker.insecure"] is None else not config["worker.insecure"]
    settings = WorkerSettings(
        address=Address(
            config["worker.coordinator_host"],
            config["worker.coordinator_port"],
            CallerTLS(ca, certificate, key) if encrypted else None,
            _signing_key(call),
        ),
        home=config.home,
        id=config["worker.id"] or "",
        labels=dict(config["worker.labels"]),
        slots=config["worker.slots"] or 0,
        max_active_runs=config["worker.max_active_runs"] or 0,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return asyncio.run(serve(settings))


def _signing_key(call: Call) -> bytes | None:
    """Return the signing key, and let nothing that runs here find it in its environment."""
    config = call.config
    file = config["coordinator.signing_key_file"]
    said = Path(file).read_text().strip() if file else config["coordinator.signing_key"]
    os.environ.pop(BY_NAME["coordinator.signing_key"].variable, None)
    return said.encode() if said else None
