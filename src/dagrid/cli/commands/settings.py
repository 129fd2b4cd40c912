"""`dagrid config` and `dagrid version`: what is set, and what is installed."""

from __future__ import annotations

import platform
from typing import Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.config import BY_NAME, Value
from dagrid.config.table import BY_KEY
from dagrid.errors import InvalidSettingError, hint, nearest


@command(
    "config",
    click.Argument(["key"], required=False),
    examples=("dagrid config", "dagrid config home", "DAGRID_TZ=UTC dagrid config --json"),
)
def config_command(call: Call, key: str | None) -> None:
    """Show every setting with its value, and whether that came from a flag, a variable, the file, or nowhere.

    With a KEY only its value is printed.
    """
    if key is not None:
        setting = BY_KEY.get(key) or BY_NAME.get(key)
        if setting is None:
            raise InvalidSettingError(f"There is no setting {key!r}.{hint(nearest(key, BY_KEY))}")
        value = call.config.value(setting.name)
        if call.out.as_json:
            call.out.json(_record(value))
        else:
            call.out.line(_shown(value))
        return
    values = call.config.all()
    if call.out.as_json:
        call.out.json([_record(value) for value in values])
    else:
        rows = [(value.setting.key, _shown(value), value.source, value.setting.variable) for value in values]
        call.out.table(("SETTING", "VALUE", "FROM", "VARIABLE"), rows)
    for name, near in call.config.unknown_variables():
        call.out.say(f"dagrid: {name} is no setting.{hint(near)}")


@command("version", examples=("dagrid version",))
def version_command(call: Call) -> None:
    """Print the version of dagrid."""
    from dagrid import __version__

    if call.out.as_json:
        call.out.json({"dagrid": __version__, "python": platform.python_version(), "system": platform.platform()})
    else:
        call.out.line(f"dagrid {__version__}")


def _record(value: Value) -> dict[str, Any]:
    setting = value.setting
    return {
        "key": setting.key,
        "value": _masked(value),
        "source": value.source,
        "variable": setting.variable,
        "flags": list(setting.flags),
        "commands": list(setting.commands),
        "doc": setting.doc,
    }


def _shown(value: Value) -> str:
    said = _masked(value)
    if said is None:
        return f"({value.setting.shown})" if value.setting.shown else ""
    if isinstance(said, bool):
        return str(said).lower()
    if isinstance(said, tuple):
        return " ".join("=".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in said)
    return str(said)


def _masked(value: Value) -> Any:
    """Return a value as it may be shown: a text without what is secret in a URL; what is secret itself not at all."""
    from dagrid.masking import MASK, without_password

    said = value.value
    if not said or not isinstance(said, str):
        return said
    return MASK if value.setting.secret and "://" not in said else without_password(said)
