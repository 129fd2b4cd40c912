"""docs/cli.md says what the commands, the settings and the exit codes are: it is held against them here.

`DAGRID_WRITE_DOCS=1 pytest tests/cli/test_documentation_of_commands.py` writes the tables anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrid.cli.app import COMMANDS
from dagrid.cli.exits import MEANINGS
from dagrid.config import SETTINGS
from dagrid.config.graphs import NODE

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
WRITE = os.environ.get("DAGRID_WRITE_DOCS", "")


def commands() -> str:
    rows = [f"| `dagrid {name}` | {said} |" for name, (_, said) in COMMANDS.items()]
    return "\n".join(["| command | |", "| --- | --- |", *rows])


def exit_codes() -> str:
    rows = [f"| {int(code)} | {code.name} | {said} |" for code, said in MEANINGS.items()]
    return "\n".join(["| code | name | meaning |", "| --- | --- | --- |", *rows])


def settings() -> str:
    rows = []
    for one in SETTINGS:
        default = one.shown or ("" if one.default in (None, (), "") else f"`{str(one.default).lower()}`")
        where = ", ".join(one.commands) or "all"
        letters = f" ({', '.join(one.letters)})" if one.letters else ""
        flags = ", ".join(f"`{flag}`{'' if flag.startswith('--') else letters}" for flag in one.flags)
        rows.append(f"| `{one.key}` | {flags} | `{one.variable}` | {default} | {where} | {one.doc} |")
    head = ["| key | flags | variable | default | commands | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def node_settings() -> str:
    names = [re.sub(r"_([a-z])", lambda found: found[1].upper(), name) for name in NODE]
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`."


@pytest.mark.parametrize(
    ("part", "made"),
    [("commands", commands), ("exit codes", exit_codes), ("settings", settings), ("node settings", node_settings)],
)
def test_the_page_says_what_there_is(part: str, made: Callable[[], str]) -> None:
    """Nobody has to look whether a page still holds."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"(<!-- {part} -->\n)(.*?)(\n?<!-- end -->)", text, re.DOTALL)
    assert found is not None, f"the page has no part {part!r}"
    if WRITE:
        PAGE.write_text(text[: found.end(1)] + made() + "\n" + text[found.end(2) :].lstrip("\n"), encoding="utf-8")
        return
    assert found[2] == made(), f"{PAGE.name} is not up to date; see the top of this module"
