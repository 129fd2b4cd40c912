"""docs/steps.md: its tables are the settings that there are, and its examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dagrid.workflow import loads, steps
from dagrid.workflow.hints import STEP_TYPES
from dagrid.workflow.steps import archive, docker, file, http, jq, mail, sql, ssh
from tests.test_documentation import blocks_of

PAGE = Path(__file__).parents[2] / "docs" / "steps.md"
TABLES = {
    "http": http.SETTINGS,
    "jq": jq.SETTINGS,
    "ssh": ssh.SETTINGS,
    "docker": docker.SETTINGS,
    "mail": mail.SETTINGS,
    "smtp": mail.SMTP,
    "archive": archive.SETTINGS,
    "file": file.SETTINGS,
    "sql": sql.SETTINGS,
    "import": sql.IMPORT,
}
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = {next(iter(block.words), ""): block.text for block in blocks_of(TEXT) if block.language == "yaml"}


def table(settings):
    """Return the table of settings as the page has it."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for row in settings.rows:
        names = ", ".join(f"`{name}`" for name in dict.fromkeys([row.shown, *row.aliases]))
        default = "" if row.default in (None, "", ()) else f"`{json.dumps(row.default)}`".replace('"', "")
        if isinstance(row.default, tuple) and row.default:
            default = ", ".join(f"`{one or ' '}`" for one in row.default)
        doc = row.doc + (f" One of {', '.join(row.choices)}." if row.choices else "")
        lines.append(f"| {names} | {default} | {doc} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", TABLES)
def test_the_settings_on_the_page_are_those_that_there_are(name):
    found = re.search(rf"<!-- settings of {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found is not None
    assert found[1] == table(TABLES[name])


def test_every_type_is_on_the_page():
    for kind in set(STEP_TYPES.values()) - {"shell", "python", "dag", "approval"}:
        assert f"\n## {kind}\n" in TEXT
        assert kind in EXAMPLES
    assert set(steps.OURS) == set(STEP_TYPES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_sound(name):
    found = loads(EXAMPLES[name], types=steps.KINDS, inspect=steps.check)
    assert not found.warnings
