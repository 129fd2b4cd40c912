"""Two hosts with a cable between them, which is pulled: nobody is told, there is silence."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.chaos.rooms import two_hosts
from tests.service.processes import Fleet, Process, processes, until

LEASE = 3
STEP = "echo $DAGRID_HOME >> {folder}/begun; until test -e {folder}/go; do sleep 0.01; done; echo $DAGRID_HOME"
LINKED = "Linked with the coordinator"


@pytest.fixture(scope="module")
def hosts():
    with two_hosts() as both:
        yield both


@pytest.fixture
def fleet(hosts, tmp_path):
    """A coordinator on the one host, a worker on the other, and a room for the workers of both."""
    made = Fleet(tmp_path, ("coordinator", "--coordinator.host=10.213.0.1", f"--coordinator.lease={LEASE}s"))
    made.coordinator = Process(
        made.folder / "main", (*made.command, f"--coordinator.port={made.port}"), {}, hosts[0].inside
    ).told("Workers call at")
    start(made, "far", hosts[1]).told(LINKED)
    yield made
    made.close()


def start(fleet, id, host):
    """Start a worker on a host."""
    flags = ("--worker.coordinator-host=10.213.0.1", f"--worker.coordinator-port={fleet.port}", f"--worker.id={id}")
    fleet.workers[id] = Process(fleet.folder / id, ("worker", *flags), {}, host.inside)
    return fleet.workers[id]


def begun(folder):
    """Return which workers have begun the step, by their homes, and how often."""
    path = folder / "begun"
    return (
        Counter(os.path.basename(os.path.dirname(home)) for home in path.read_text().split()) if path.exists() else {}
    )


@pytest.mark.slow
def test_a_host_that_is_cut_off_for_a_lease_loses_its_step(fleet, hosts, tmp_path):
    """The step goes to the other one, and counts there; what was cut off ends what it has, and serves again."""
    step = STEP.format(folder=tmp_path)
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}'}}]")
    until(lambda: begun(tmp_path), "the step")
    hosts[1].run("ip", "link", "set", "cable", "down")
    start(fleet, "near", hosts[0]).told(LINKED)
    until(lambda: begun(tmp_path) == {"far": 1, "near": 1}, "the step once more")
    hosts[1].run("ip", "link", "set", "cable", "up")
    until(lambda: fleet.workers["far"].text.count(LINKED) == 2, "the worker")
    until(lambda: len(processes(tmp_path / "go")) == 1, "the end of the step there")
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"
    assert fleet.out(run, "a").strip() == str(tmp_path / "near" / "home")
    assert begun(tmp_path) == {"far": 1, "near": 1}
    until(lambda: not list((tmp_path / "far" / "home" / "worker").glob("*/runs/*")), "an empty folder")
    assert fleet.workers["near"].end() == 0
    again = fleet.enqueue("steps: [{name: a, command: 'echo $DAGRID_HOME'}]", "again")
    assert fleet.ended(again) == "succeeded"
    assert fleet.out(again, "a").strip() == str(tmp_path / "far" / "home")


@pytest.mark.slow
def test_a_host_that_is_cut_off_for_a_moment_keeps_its_step(fleet, hosts, tmp_path):
    """It ends while the cable is out, and is told when it is in again."""
    step = STEP.format(folder=tmp_path)
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}; echo >> {tmp_path}/over'}}]")
    until(lambda: begun(tmp_path), "the step")
    hosts[1].run("ip", "link", "set", "cable", "down")
    (tmp_path / "go").touch()
    until((tmp_path / "over").exists, "the end of the step")
    hosts[1].run("ip", "link", "set", "cable", "up")
    assert fleet.ended(run) == "succeeded"
    assert begun(tmp_path) == {"far": 1}
