"""docs/steps.md: its tables are the settings that there are, and its examples run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dagrid.workflow import loads, steps
from dagrid.workflow.hints import STEP_TYPES
from dagrid.workflow.steps import archive, docker, file, http, jq, mail, sql, ssh
from tests.steps.smtp_place import Sink, mail_server
from tests.steps.sshd_place import ssh_server
from tests.steps.test_steps_http import serving
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


def run(perform, name, params=()):
    """Perform the steps of an example one after the other; none may fail. Returns what each wrote."""
    text = EXAMPLES[name]
    ended = [perform(text, params, number) for number in range(len(loads(text).main.steps))]
    assert not [one.error for one in ended if one.error]
    return [one.out for one in ended]


def test_the_example_of_jq(perform):
    assert run(perform, "jq") == ['[\n    "lamp"\n]\n']


def test_the_example_of_http(perform):
    server, thread = serving()
    try:
        (out,) = run(perform, "http", [f"API=http://127.0.0.1:{server.server_address[1]}"])
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
    asked = json.loads(out)
    assert (asked["method"], asked["path"], json.loads(asked["body"])) == (
        "POST",
        "/orders",
        {"article": "lamp", "count": 2},
    )
    assert asked["headers"]["x-request"] == "run-1"


@pytest.mark.engine
def test_the_example_of_ssh(perform, tmp_path, monkeypatch):
    """The page has another user, key and port than the server of the tests: they are filled in by the client's configuration."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    with ssh_server(folder) as server:
        text = EXAMPLES["ssh"]
        said = text[text.index("ssh:") : text.index("\n", text.index("ssh:"))]
        here = f"ssh: {server.settings(timeout='10s')}"
        assert all(name in said for name in ("host", "user", "key", "timeout"))
        monkeypatch.setitem(EXAMPLES, "ssh", text.replace(said, here).replace("$HOME", str(tmp_path)))
        assert run(perform, "ssh") == ["deploying main\n"]
    assert (tmp_path / "checkouts").is_dir()


def test_the_example_of_docker(perform, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / "docker"
    client.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    (out,) = run(perform, "docker")
    assert out.splitlines()[-4:] == ["python:3.12-slim", "python", "-c", "import sys; print(sys.version)"]


def test_the_example_of_mail(perform):
    sink = Sink()
    with mail_server(sink) as port:
        run(perform, "mail", ["SMTP_HOST=127.0.0.1", f"SMTP_PORT={port}"])
    (message,) = sink.messages
    assert message["To"] == "ann@example.com, bob@example.com"
    (attachment,) = message.iter_attachments()
    assert attachment.get_content().strip() == "42"


def test_the_example_of_archive(perform, tmp_path):
    run(perform, "archive")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["a.csv"]


def test_the_example_of_file(perform, tmp_path):
    run(perform, "file")
    assert (tmp_path / "kept" / "2024-05-01.txt").read_text() == "all is well"


def test_the_example_of_sql(perform):
    for _ in range(2):  # it may run again on what it left
        assert run(perform, "sql")[1] == "day,total\nmonday,19.75\n"


PROGRAM = """
import sys
from pathlib import Path
from tests.steps.conftest import Performer, wrong
perform = Performer(Path(sys.argv[1]))
ended = perform("steps: [{type: shout, command: hello, config: {times: 2}}]")
assert (ended.error, ended.out) == ("", "HELLO\\nHELLO\\n"), ended
print(perform("steps: [{type: shout}]").error)
print(*wrong("steps: [{type: shuot, command: a}, {type: shout, command: a, config: {tmies: 1}}]"), sep="\\n")
"""


def test_a_type_of_another_package(tmp_path):
    """The package of the page, registered as an installed one is: found by its entry point, checked, and run."""
    (source,) = [block.text for block in blocks_of(TEXT) if block.language == "python"]
    (points,) = [block.text for block in blocks_of(TEXT) if block.language == "toml"]
    site = tmp_path / "site"
    about = site / "dagrid_shout-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "dagrid_shout.py").write_text(source)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dagrid-shout\nVersion: 1.0\n")
    registered = tomllib.loads(points)["project"]["entry-points"]["dagrid.steps"]
    (about / "entry_points.txt").write_text("[dagrid.steps]\n" + "".join(f"{k} = {v}\n" for k, v in registered.items()))
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "work"],
        env={**os.environ, "PYTHONPATH": f"{site}:{Path(__file__).parents[2]}", "SHELL": "/bin/sh"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "There is nothing to shout; give the step a command.",
        "<text>:1:16: there is no step type 'shuot'. Did you mean 'shout'?",
        "<text>:1:71: unknown setting 'tmies' of a step of type shout. Did you mean 'times'?",
    ]
