"""Run a workflow of a test for real, and tell what came of it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from dagrid.history import History
from dagrid.workflow import load, running, steps


class Told:
    """A run that has ended: its status, and of each node its status, its output and its error."""

    def __init__(self, started, result):
        self.id = started.place.run_id
        self.folder = started.place.folder
        self.place = started.place
        self.result = result
        self.status = result.status.value

    def out(self, step):
        path = self.place.stdout(step)
        return path.read_text() if path.exists() else ""

    def err(self, step):
        path = self.place.stderr(step)
        return path.read_text() if path.exists() else ""

    def node(self, step):
        return self.result.node_results[step]

    @property
    def statuses(self):
        return {name: node.status.value for name, node in self.result.node_results.items()}

    @property
    def log(self):
        return self.place.log.read_text()


class Runner:
    """Runs workflows in a folder, with a history beside it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.history = History(self.folder / "home")

    def write(self, text, name="flow"):
        path = self.folder / f"{name}.yaml"
        path.write_text(dedent(text))
        return path

    def start(self, text, params=(), name="flow", **settings):
        file = load(self.write(text, name), types=steps.KINDS)
        return running.start(file, params, history=self.history, **settings)

    def run(self, text, params=(), name="flow", **settings):
        started = self.start(text, params, name, **settings)
        return Told(started, started.finish())

    def go_on(self, run_id, **settings):
        started = running.go_on(self.history, run_id, **settings)
        return Told(started, started.finish())


@contextmanager
def runner_in(folder):
    runner = Runner(folder)
    with runner.history:
        yield runner
