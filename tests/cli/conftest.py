"""What the tests of the command line share: a home, a folder to be in, and the command itself, here or as a process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagrid.cli import main
from dagrid.history import History

PATIENCE = 40.0

NIGHTLY = """
params: DAY=today
steps:
  - name: fetch
    command: echo "fetched $DAY"
    output: GOT
  - name: load
    command: 'test -e ok || { echo "no ok file" >&2; exit 3; }'
  - name: report
    command: echo "report of $GOT"
"""
GATE = """
steps:
  - {name: before, command: echo before}
  - name: check
    command: echo figures
    approval: {prompt: Are the figures right?, input: [TICKET]}
  - {name: after, command: 'echo "after $TICKET"'}
"""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command has ended, and what it has said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its data, which are JSON."""
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, with a home beside it; nothing of this machine's settings counts."""
    for name in [name for name in os.environ if name.startswith("DAGRID_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DAGRID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGRID_TZ", "UTC")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield work
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", "") and str(work) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def files(folder: Path) -> Path:
    """The folder, with a workflow that fails as long as there is no file `ok`, and one that waits for a person."""
    (folder / "nightly.yaml").write_text(NIGHTLY)
    (folder / "gate.yaml").write_text(GATE)
    return folder


@pytest.fixture
def history(folder: Path) -> Iterator[History]:
    with History(os.environ["DAGRID_HOME"]) as opened:
        yield opened


@pytest.fixture
def dagrid(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process, which is quick."""

    def run(*arguments: object) -> Said:
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def shell() -> Command:
    """Run the command as a process of its own, as a user does."""

    def run(*arguments: object, **settings: Any) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "dagrid", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            **settings,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def appeared(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.01)


@contextlib.contextmanager
def process(*arguments: object, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a process; its group is ended in the end."""
    begun = subprocess.Popen(
        [sys.executable, "-m", "dagrid", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )
    try:
        yield begun
    finally:
        begun.kill()
        begun.communicate()
