"""`dagrid history`: which runs there are."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.output import took
from dagrid.cli.runs import OF_A_RUN, completed_names
from dagrid.errors import InvalidSettingError, UnknownRunError, hint

if TYPE_CHECKING:
    from dagrid.history import RunInfo

FIELDS = (
    "run",
    "name",
    "status",
    "created",
    "ended",
    "seconds",
    "host",
    "pid",
    "parent",
    "kind",
    "source",
    "trigger",
    "params",
)


@command(
    "history",
    click.Argument(["name"], required=False, shell_complete=completed_names),
    examples=(
        "dagrid history",
        "dagrid history nightly --status failed,interrupted --last 7d",
        "dagrid history --from 2026-01-01 --to 2026-02-01 --format csv > january.csv",
    ),
    completes=OF_A_RUN,
)
def history_command(call: Call, name: str | None) -> None:
    """List runs, the newest first: all, or those of one workflow."""
    config = call.config
    since, until = _time(call, "history.from"), _time(call, "history.to")
    if config["history.last"] is not None:
        if since is not None:
            raise InvalidSettingError("--last and --from both say where to begin. Keep one of them.")
        since = time() - config["history.last"]
    if config["run_id"]:
        runs = [call.history.find(config["run_id"])]
    else:
        runs = call.history.runs(
            name,
            config["history.status"] or None,
            since,
            until,
            config["history.limit"] or None,
            config["history.children"],
        )
    form = "json" if call.out.as_json else config["history.format"]
    if form == "table":
        _table(call, runs, name)
    elif form == "json":
        call.out.json([record(call, info) for info in runs])
    else:
        records = [record(call, info) for info in runs]
        call.out.csv(FIELDS, [[_cell(one[field]) for field in FIELDS] for one in records])


def record(call: Call, info: RunInfo) -> dict[str, Any]:
    """Return what programs are told of a run."""
    about = call.history.about(info.run)
    return {
        "run": info.run,
        "name": info.name,
        "status": info.status,
        "created": call.out.stamp(info.created),
        "ended": call.out.stamp(info.ended),
        "seconds": info.seconds,
        "host": info.host or about.host,
        "pid": info.pid or None,
        "parent": info.parent or None,
        "kind": about.kind,
        "source": about.source,
        "trigger": about.trigger,
        "params": list(about.params),
        "queue": about.queue,
        "folder": str(call.history.folder(info.run)),
    }


def _table(call: Call, runs: list[RunInfo], name: str | None) -> None:
    from dagrid.history.owners import host

    here = host()
    rows = []
    for info in runs:
        where = "" if info.host in ("", here) else f"on {info.host}"
        rows.append(
            (
                info.run,
                info.name,
                info.status,
                call.out.time(info.created),
                took(info.seconds) if info.seconds is not None else "",
                where,
            )
        )
    if not rows:
        call.out.say(f"There are no such runs.{_near(call, name)}")
        return
    call.out.table(("RUN", "NAME", "STATUS", "CREATED", "TOOK", ""), rows)


def _near(call: Call, name: str | None) -> str:
    """Return the end of a message that suggests the nearest name of a run, where there is none of that name."""
    try:
        if name is not None:
            call.history.find(name)
    except UnknownRunError as error:
        return hint(error.suggestion)
    return ""


def _time(call: Call, name: str) -> float | None:
    said = call.config[name]
    if said is None:
        return None
    from dagrid.config.times import moment

    return moment(said, call.zone)


def _cell(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value
