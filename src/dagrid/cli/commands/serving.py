"""`dagrid coordinator` and `dagrid start-all`: runs of the home are performed on workers, until the process is told to end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from dagrid.cli.calls import Call
from dagrid.cli.exits import Exit
from dagrid.cli.fleets import (
    graph_variables,
    listener_claims,
    listener_tls,
    remarks,
    secret_lines,
    signing_key,
)
from dagrid.cli.garbage import collect_garbage
from dagrid.cli.options import command
from dagrid.interrupts import Terminals, leaving

if TYPE_CHECKING:
    from dagrid.service.serving import ApiSettings


@command(
    "coordinator",
    examples=(
        "dagrid coordinator --coordinator.host=0.0.0.0 --coordinator.port=50055",
        "dagrid coordinator --coordinator.tls-cert=server.crt --coordinator.tls-key=server.key",
        "DAGRID_COORDINATOR_SIGNING_KEY=... dagrid coordinator",
    ),
)
def coordinator_command(call: Call) -> int:
    """Perform the runs in all queues of the home on workers, which call here: see `dagrid worker`.

    SIGTERM and Ctrl-C end it; workers go on with what they have, and the next coordinator of the home goes on with all runs.
    """
    return _serve(call, call.config["coordinator.host"] or "127.0.0.1", None)


@command(
    "start-all",
    examples=(
        "dagrid start-all --host=0.0.0.0 --port=8080",
        "curl -H 'Authorization: Bearer TOKEN' localhost:8080/api/v2/workers",
    ),
)
def start_all_command(call: Call) -> int:
    """Be a coordinator, see `dagrid coordinator`, and answer HTTP: which workers there are, and how they are.

    Without a token it answers on its own machine only.
    """
    from dagrid.service.serving import ApiSettings

    config = call.config
    token = str(config["auth.token"] or "").strip()
    tokens = [token] if token else []
    if config["auth.token_file"]:
        tokens += secret_lines(call, "auth.token_file")
    return _serve(
        call, config["coordinator.host"] or config["host"], ApiSettings(config["host"], config["port"], tokens)
    )


def _serve(call: Call, host: str, api: ApiSettings | None) -> int:
    from dagrid.service.serving import Service, ServiceSettings

    config = call.config
    level = logging.WARNING if call.out.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", stream=sys.stderr)
    settings = ServiceSettings(
        host=host,
        port=config["coordinator.port"],
        key=signing_key(call),
        tls=listener_tls(call),
        claims=listener_claims(call),
        lease=config["coordinator.lease"],
        limits=dict(config["queues.config"]),
        graph_env=graph_variables(call),
        api=api,
    )
    remarks(call)
    wait = _until_signal()
    service = Service(call.history, settings, logging.getLogger("dagrid.fleet").warning)
    collect_garbage()
    try:
        call.out.say(f"Workers call at {_shown(host)}:{service.port}. Runs are those of {config.home}.")
        if api is not None:
            call.out.say(f"HTTP is answered at http://{_shown(api.host)}:{service.api_port}/api/v2/workers.")
        wait()
    finally:
        service.close()
    call.out.say("Ended. Workers go on with what they have, and the next coordinator with all runs.")
    return Exit.SUCCESS


def _until_signal() -> Callable[[], object]:
    """Return what waits until the process is asked to end, also by a signal that comes to another thread."""
    ours, theirs = socket.socketpair()
    ours.setblocking(True)
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())
    terminals = Terminals()
    for number in leaving():
        signal.signal(number, lambda *_: theirs)  # it holds the socket

    def wait() -> None:
        ours.recv(1)
        terminals.let_go()

    return wait


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
