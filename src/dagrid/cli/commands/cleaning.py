"""`dagrid cleanup`: old runs are forgotten, with their journals, values and logs."""

from __future__ import annotations

import sys

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.runs import completed_names
from dagrid.errors import InvalidSettingError, UnknownRunError

MOST_SHOWN = 20


@command(
    "cleanup",
    click.Argument(["name"], required=False, shell_complete=completed_names),
    examples=(
        "dagrid cleanup --retention-days 30",
        "dagrid cleanup nightly --keep 10 --yes",
        "dagrid cleanup --dry-run",
    ),
)
def cleanup_command(call: Call, name: str | None) -> None:
    """Forget runs that have ended: all, those of one workflow, or those that ended long ago.

    What runs, waits for a person or waits in a queue stays.
    """
    config = call.config
    keep = config["cleanup.keep"]
    days = config["cleanup.retention_days"]
    if keep is not None and config.value("cleanup.retention_days").source == "default":
        days = None
    if name is not None and not call.history.runs(name, limit=1, children=True):
        call.history.find(name)  # or it says that there is none
        raise UnknownRunError(f"No workflow or graph {name!r} has run. Name one, and no run of it.", name)
    chosen = call.history.cleanup(days, keep, name, dry_run=True)
    dry = config["cleanup.dry_run"]
    if dry:
        removed = chosen
    elif chosen and not config["cleanup.yes"] and not _is_meant(call, [f"{info.run} {info.name}" for info in chosen]):
        removed = []
    else:
        removed = call.history.cleanup(days, keep, name)
    if call.out.as_json:
        call.out.json([{"run": info.run, "name": info.name, "status": info.status} for info in removed])
        return
    for info in removed:
        call.out.line(info.run)
    what = "would be removed" if dry else "removed"
    call.out.say(f"{len(removed)} run{'' if len(removed) == 1 else 's'} {what}")


def _is_meant(call: Call, runs: list[str]) -> bool:
    """Ask a person whether runs shall be removed. Raises InvalidSettingError: nobody is there."""
    if not sys.stdin.isatty():
        raise InvalidSettingError(
            f"{len(runs)} runs would be removed for good. Say --yes if that is meant, or --dry-run."
        )
    for one in runs[:MOST_SHOWN]:
        call.out.complain(one)
    if len(runs) > MOST_SHOWN:
        call.out.complain(f"... and {len(runs) - MOST_SHOWN} more")
    return click.confirm(f"Remove {len(runs)} run{'' if len(runs) == 1 else 's'} for good?", err=True)
