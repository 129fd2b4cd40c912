"""`dagrid stop`: the process that performs a run is asked to stop it."""

from __future__ import annotations

import time

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.runs import chosen, run_argument

PAUSE = 0.05


@command("stop", run_argument(required=False), examples=("dagrid stop nightly", "dagrid stop 0190b6c8"))
def stop_command(call: Call, run: str | None) -> None:
    """Stop a run, and wait until it has ended: its steps are asked to stop, its handlers run.

    RUN is an id, the beginning of one, or a name for its newest run.
    """
    info = call.history.stop(chosen(call, run).run)
    call.out.say(f"{info.name} is being stopped: run {info.run}, process {info.pid}")
    while (now := call.history.info(info.run)).status == "running":
        time.sleep(PAUSE)
    if call.out.as_json:
        call.out.json({"run": now.run, "name": now.name, "status": now.status})
    else:
        call.out.say(f"{now.name} is {now.status}")
