"""docs/fleet.md is a program: what a newcomer copies from it runs, one part after the other, each in its own home."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagrid.history import About, History
from tests.service.processes import PATIENCE, free_port, until

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text("utf-8")
PARTS = re.split(r"<!-- (\w+) -->\n", PAGE)
SCRIPTS = {
    name: "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for name, text in zip(PARTS[1::2], PARTS[2::2], strict=True)
}


class Shell:
    """A shell that runs a part of the page in a folder, and goes on until it is left."""

    def __init__(self, folder, home, script):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DAGRID_")}
        port = str(free_port())
        self.api = str(free_port())
        self.home = folder / home
        self.said = folder / f"{home}.txt"
        script = script.replace("8080", self.api)
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                ["bash", "-c", f"set -eu\n{script}\necho all said\nwait"],
                cwd=folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={
                    **clean,
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}",
                    "DAGRID_HOME": str(self.home),
                    "DAGRID_COORDINATOR_PORT": port,
                    "DAGRID_WORKER_COORDINATOR_PORT": port,
                },
            )

    @property
    def text(self):
        return self.said.read_text("utf-8", "replace")

    def until(self, words):
        until(lambda: words in self.text or self.process.poll() is not None, words)
        assert words in self.text, self.text

    def leave(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture
def part(folder):
    """Run a part of the page."""
    begun = []

    def run(name):
        begun.append(Shell(folder, name, SCRIPTS[name]))
        return begun[-1]

    yield run
    for shell in begun:
        shell.leave()


def runs(shell):
    """Whether a run of the home is performed by a worker of it."""
    with History(shell.home) as history:
        text = "steps: [pwd]"
        run = history.enqueue("check", About(spec=text, queue="check"))
        until(lambda: history.info(run).ended, shell.text)
        return "/worker/" in next(history.folder(run).glob("*.out")).read_text()


def test_the_first_quarter_of_an_hour(part):
    """A workflow from the queue, and one that is waited for, both on the worker with the label."""
    shell = part("plain")
    shell.until("all said")
    assert "train succeeded" in shell.text
    assert "trained on what was prepared by" in shell.text
    assert shell.text.count("enqueued") == 0
    assert sum("train " in line and "succeeded" in line for line in shell.text.splitlines()) >= 2


@pytest.mark.parametrize("name", ["tls", "mutual", "claims", "key"])
def test_encryption_and_keys(part, name):
    """With the certificates that the page makes."""
    shell = part(name)
    shell.until("Linked with the coordinator")
    assert runs(shell)
    assert "sees what" not in shell.text


def test_http(part):
    """The reply of the page, but for the time."""
    shell = part("api")
    shell.until("Linked with the coordinator")
    found = until(lambda: asked(shell), "the reply of the API")
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (wanted,) = json.loads(shown)["workers"]
    (worker,) = found["workers"]
    assert {**worker, "last_heartbeat": ""} == {**wanted, "last_heartbeat": ""}


def asked(shell):
    told = subprocess.run(
        ["curl", "-s", "-H", "Authorization: Bearer a-token", f"http://localhost:{shell.api}/api/v2/workers"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(told.stdout) if told.stdout else {}
    return found if found.get("workers") else None
