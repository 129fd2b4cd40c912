"""Workflows whose steps are performed by workers: which step goes where, and what the worker is asked to be."""

from __future__ import annotations

import msgspec
import pytest

from dagrid.errors import WorkflowError
from dagrid.execution.backends.command import CommandBackend
from dagrid.machine.events import WorkerJoined
from dagrid.ports import Capabilities
from dagrid.workflow import load, running

LABELS = {"zone": "a", "gpu": "true", "memory": "64G"}


class Labelling:
    """A host that is told of workers with labels."""

    def __init__(self, host):
        self._host = host

    def __getattr__(self, name):
        return getattr(self._host, name)

    def report(self, events):
        self._host.report(
            [
                msgspec.structs.replace(event, labels=LABELS, name="far") if isinstance(event, WorkerJoined) else event
                for event in events
            ]
        )


class Far(CommandBackend):
    """A worker with labels, which is here."""

    capabilities = Capabilities(kills=True, cancels=True, matches_selectors=True)

    def __init__(self, check):
        super().__init__(10)
        self.note = check

    def check(self, needs):
        self.note(needs)

    def open(self, host):
        return super().open(Labelling(host))


class Workers:
    """A fleet that notes what it is asked for."""

    def __init__(self):
        self.wanted = {}

    def place(self, context, about):
        def check(needs):
            self.wanted[about.name] = {name: dict(need.selector) for name, need in needs.items()}

        return Far(check)

    def began(self, started):
        """It keeps no list of runs."""


PIPELINE = """
workerSelector: {zone: a}
type: graph
steps:
  - {name: gpu, command: echo gpu, workerSelector: {gpu: "true"}}
  - {name: any, command: echo any}
  - {name: home, command: echo home, workerSelector: local}
  - {name: sub, call: other, workerSelector: {gpu: "true"}}
---
name: other
steps: [{name: one, command: echo one, workerSelector: {memory: 64G}}]
"""


def test_all_selectors_that_are_over_a_step_count(runner):
    """Those of the workflow, of the step, and of the step that called the workflow; what needs its run stays where that is."""
    fleet = Workers()
    started = runner.start(PIPELINE, fleet=fleet)
    assert started.finish().status == "succeeded"
    assert fleet.wanted["flow"] == {"gpu": {"zone": "a", "gpu": "true"}, "any": {"zone": "a"}}
    assert fleet.wanted["other"] == {"one": {"zone": "a", "gpu": "true", "memory": "64G"}}
    workers = {event.node: event.worker for event in started.run.events() if event.kind == "started"}
    assert {name for name, worker in workers.items() if worker == "far"} == {"gpu", "any"}


def test_labels_that_no_worker_can_have_together_are_refused(runner):
    """It would wait for ever; the message says which label is said twice, and where."""
    text = """
        workerSelector: {gpu: "true"}
        steps:
          - {name: a, command: echo, workerSelector: {gpu: "false"}}
    """
    with pytest.raises(WorkflowError, match=r"flow\.yaml:4:\d+: .*'a' cannot have both gpu=true and gpu=false"):
        runner.start(text, fleet=Workers())


def test_what_becomes_of_a_step_whose_worker_is_lost_can_be_said(runner):
    """In both spellings, for a step and for all; by default it is sent again."""
    text = """
        defaults: {on_worker_lost: fail}
        steps:
          - {name: a, command: echo}
          - {name: b, command: echo, onWorkerLost: requeue}
    """
    _, dag = running.dry(load(runner.write(text)))
    assert [dag.node(name).on_lost for name in "ab"] == ["fail", "requeue"]
