"""What tests of types of steps share: one step, performed with real processes, in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from dagrid.commands import Command
from dagrid.errors import TaskError
from dagrid.execution.backends.command import CommandBackend
from dagrid.graph.dag import DAG
from dagrid.graph.node import Node
from dagrid.observe.log import RunLog
from dagrid.workflow import load, steps
from dagrid.workflow.context import Spec
from dagrid.workflow.surroundings import surround
from dagrid.workflow.work import Work


@dataclass
class Logs:
    folder: Path
    run_id: str = "run-1"

    @property
    def log(self):
        return self.folder / "run.log"

    def files(self, step):
        return str(self.folder / f"{step}.out"), str(self.folder / f"{step}.err")


@dataclass
class Ended:
    """What became of a step: what it wrote, and why it failed, empty if it did not."""

    out: str
    err: str
    error: str
    retryable: bool = True


class Performer:
    """Performs the first step of a workflow, as a run does, without what is the same for all types."""

    def __init__(self, folder):
        self.folder = folder
        self.logs = Logs(folder / "logs")
        self.logs.folder.mkdir()
        self.resumed = False

    def context(self, text, params=()):
        path = self.folder / "flow.yaml"
        path.write_text(dedent(text))
        file = load(path, types=steps.KINDS, inspect=steps.check)
        context = surround(file, file.main, self.logs, params)
        context.is_resumed = self.resumed
        context.note = RunLog(context.logs.log, context.secrets).note
        return context

    def dag(self, text, params=(), number=0):
        context = self.context(text, params)
        step = context.workflow.steps[number]
        work = Work(context, Spec(step=step), [], {})

        def perform():
            yield from work.prepare()
            return (yield from steps.of(step.kind).perform(work))

        timeout = step.timeout_sec or None
        return DAG([Node(step.name, Command(perform), timeout=timeout)]), step.name

    def start(self, text, params=()):
        dag, _ = self.dag(text, params)
        return dag.start(backend="inline", places={"command": CommandBackend(4)}, progress=False, cache=False)

    def __call__(self, text, params=(), number=0):
        dag, name = self.dag(text, params, number)
        logs = [Path(path) for path in self.logs.files(name)]
        for path in logs:
            path.unlink(missing_ok=True)
        result = dag.run(backend="inline", places={"command": CommandBackend(4)}, progress=False, cache=False)
        error = result.node_results[name].error
        if error is not None and not isinstance(error, TaskError):
            raise error
        out, err = (path.read_text() if path.exists() else "" for path in logs)
        return Ended(out, err, "" if error is None else str(error), getattr(error, "retryable", True))


@pytest.fixture
def perform(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    return Performer(tmp_path)


def wrong(text):
    """Return what a file with a text is told to be wrong, line by line."""
    from dagrid.errors import WorkflowError
    from dagrid.workflow import loads

    try:
        loads(dedent(text), types=steps.KINDS, inspect=steps.check)
    except WorkflowError as error:
        return str(error).splitlines()
    return []


@pytest.fixture(scope="session")
def postgres():
    """One server for all tests."""
    from tests.stores.postgres_place import cluster  # only the tests with an engine have it

    with cluster() as server:
        yield server
