"""What happens to runs when processes die: a coordinator at any moment, a worker in the middle of a step."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cloudpickle
import pytest

from dagrid import DAG, Node
from dagrid.execution.backends.cluster import ClusterBackend
from dagrid.history import owners
from tests.service.processes import PATIENCE, Fleet, until


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A coordinator with a short lease, and two workers."""
    made = Fleet(tmp_path_factory.mktemp("faults"), ("coordinator", "--coordinator.lease=6s"))
    made.start()
    made.worker("one", "number=1")
    made.worker("two", "number=2")
    yield made.linked()
    made.close()


def done(folder):
    """Return how often each step has run, from a file that they write themselves."""
    path = folder / "done"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def test_a_step_goes_on_when_the_coordinator_dies(fleet, tmp_path):
    """It is not run again, and what it writes meanwhile is in its log in the end, once."""
    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done"
    step = f"echo begun | tee -a {tmp_path}/done; {wait}; echo ended; echo $DAGRID_ATTEMPT_KEY"
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}', output: OUT}}, {{name: b, command: 'echo $OUT'}}]")
    until(lambda: fleet.out(run, "a") == "begun\n", "the first line")
    fleet.coordinator.kill()
    assert fleet.status(run) == "interrupted"
    (tmp_path / "go").touch()
    fleet.start()
    assert fleet.ended(run) == "succeeded"
    begun, ended, key = fleet.out(run, "a").split()
    assert (begun, ended) == ("begun", "ended")
    assert (key.startswith(run), key.endswith("/a")) == (True, True)
    assert fleet.out(run, "b") == f"begun ended {key}\n"
    assert done(tmp_path) == {"begun": 1}


def test_a_log_is_followed_over_the_death_of_the_coordinator(fleet, tmp_path):
    """The run has not ended, and neither has what its steps write: who followed it saw the end of the command, and no word."""
    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done"
    run = fleet.enqueue(f"steps: [{{name: a, command: 'echo begun; {wait}; echo ended'}}]")
    reader = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "logs", "-f", run, "a"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DAGRID_HOME": str(fleet.home)},
    )
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "begun\n"
        fleet.coordinator.kill()
        fleet.start()
        (tmp_path / "go").touch()
        assert reader.communicate(timeout=PATIENCE)[0] == "ended\n"
        assert reader.returncode == 0
    finally:
        reader.kill()
        reader.communicate()


def test_a_coordinator_that_is_asked_to_end_lets_go(fleet, tmp_path):
    """SIGTERM: it ends well, the step goes on, and so does the run; one that only waits may be lost with it ever again."""
    step = f"echo begun >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done"
    run = fleet.enqueue(f"steps: [{{name: a, call: sub}}]\n---\nname: sub\nsteps: [{{name: b, command: '{step}'}}]")
    until(lambda: done(tmp_path), "the step")
    for _ in range(3):
        assert fleet.coordinator.end() == 0
        assert fleet.status(run) == "interrupted"
        fleet.start()
        until(lambda: fleet.history.children(run)[0].status == "running", "the sub-workflow")
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"
    assert done(tmp_path) == {"begun": 1}


def made():
    """Return more than goes in a message."""
    return bytes(range(256)) * 4_096


def after(path):
    """Say that it has begun, and wait for a file."""
    Path(path, "done").write_text("begun")
    while not Path(path, "go").exists():
        time.sleep(0.01)


def size(made, after):
    """Look at a value when a coordinator has died since it was made."""
    return len(made), made[:256] == bytes(range(256))


@pytest.mark.parametrize("dies", [True, False])
def test_a_large_value_outlives_the_coordinator_that_has_it(fleet, tmp_path, dies):
    """A run of a process elsewhere, without a checkpoint: it goes on with the next coordinator, which has the value again. It
    failed after a minute for each such value. Nothing is left of it afterwards.
    """
    nodes = [Node(made), Node("after", partial(after, str(tmp_path))), Node(size, depends_on=["made", "after"])]
    with ClusterBackend(f"grpc://127.0.0.1:{fleet.port}", files=[]) as place:
        run = DAG(nodes).start(backend=place)
        until(lambda: done(tmp_path) and run.status("made") == "completed", "the value")
        if dies:
            fleet.coordinator.kill()
        else:
            assert fleet.coordinator.end() == 0
        fleet.start()
        (tmp_path / "go").touch()
        assert run.wait()["size"] == (1 << 20, True)
    until(lambda: not list((fleet.home / "coordinator").glob("*/contents/*")), "the end of all contents")


def test_a_run_is_stopped_while_a_coordinator_takes_it_up(fleet, tmp_path, monkeypatch):
    """Who asks finds it interrupted, and held when that is to be noted for later: then who holds it is asked."""
    step = f"echo x >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done"
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}'}}]")
    until(lambda: done(tmp_path), "the step")
    fleet.coordinator.kill()
    take = owners.take

    def taken_before(*arguments):
        monkeypatch.setattr(owners, "take", take)
        fleet.start()
        until(lambda: fleet.status(run) == "running", "the run")
        return take(*arguments)

    monkeypatch.setattr(owners, "take", taken_before)
    assert fleet.history.stop(run).run == run
    assert fleet.ended(run) == "aborted"


def test_a_run_is_stopped_while_its_coordinator_is_away(fleet, tmp_path):
    """The next one has the worker kill what it has of it."""
    run = fleet.enqueue(f"steps: [{{name: a, command: 'echo $$ >> {tmp_path}/done; exec sleep 600'}}]")
    until(lambda: done(tmp_path), "the step")
    (pid,) = done(tmp_path)
    fleet.coordinator.kill()
    fleet.history.stop(run)
    assert fleet.status(run) == "interrupted"
    fleet.start()
    assert fleet.ended(run) == "aborted"
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the step")


def test_a_run_is_not_performed_beside_workers_that_it_had_borrowed(fleet, tmp_path):
    """`dagrid start --coordinator.host` is killed: its step ran a second time, here, beside the first, as explain had said."""
    step = f"echo begun >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done"
    (tmp_path / "flow.yaml").write_text(
        f"steps: [{{call: sub}}]\n---\nname: sub\nsteps: [{{name: a, command: '{step}'}}]\n"
    )
    home = tmp_path / "home"
    place = ["--coordinator.host=127.0.0.1", f"--coordinator.port={fleet.port}"]

    def dagrid(*arguments):
        words = [sys.executable, "-m", "dagrid", *arguments, "--dagrid-home", str(home)]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)

    words = ["start", str(tmp_path / "flow.yaml"), "--dagrid-home", str(home), *place]
    with subprocess.Popen([sys.executable, "-m", "dagrid", *words], stderr=subprocess.DEVNULL) as started:
        until(lambda: done(tmp_path), "the step")
        started.kill()
    told = dagrid("explain", "sub").stdout
    assert "and may go on there; dagrid retry with the --coordinator.host of that worker goes on with it." in told
    refused = dagrid("retry", "flow")
    assert (refused.returncode, done(tmp_path)) == (2, {"begun": 1})
    assert "Name that coordinator, --coordinator.host, or take the run over: --take-over." in refused.stderr
    (tmp_path / "go").touch()
    assert dagrid("retry", "flow", *place).returncode == 0
    assert done(tmp_path) == {"begun": 1}


def test_a_graph_is_not_performed_beside_workers_that_it_had_borrowed(fleet, tmp_path):
    """A graph of Python's that is killed: `dagrid retry` ran its node a second time, here, beside the first."""
    home = tmp_path / "home"
    (tmp_path / "borrowing_flows.py").write_text(
        f"""
import time
from pathlib import Path
from dagrid import DAG
here = Path({str(tmp_path)!r})
def work():
    with (here / "done").open("a") as file:
        file.write("begun\\n")
    while not (here / "go").exists():
        time.sleep(0.01)
flow = DAG.builder(name="borrowing").add_node("a", work).build()
"""
    )
    place = ["--coordinator.host=127.0.0.1", f"--coordinator.port={fleet.port}"]

    def dagrid(*arguments):
        words = [sys.executable, "-m", "dagrid", *arguments, "--dagrid-home", str(home)]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path)

    words = ["start", "borrowing_flows:flow", "--dagrid-home", str(home), *place]
    with subprocess.Popen([sys.executable, "-m", "dagrid", *words], stderr=subprocess.DEVNULL, cwd=tmp_path) as started:
        until(lambda: done(tmp_path), "the node")
        started.kill()
    told = dagrid("explain", "borrowing").stdout
    assert "and may go on there; dagrid retry with the --coordinator.host of that worker goes on with it." in told
    refused = dagrid("retry", "borrowing")
    assert (refused.returncode, done(tmp_path)) == (2, {"begun": 1})
    assert "Name that coordinator, --coordinator.host, or take the run over: --take-over." in refused.stderr
    (tmp_path / "go").touch()
    assert dagrid("retry", "borrowing", f"--backend=grpc://127.0.0.1:{fleet.port}").returncode == 0
    assert done(tmp_path) == {"begun": 1}


def test_a_run_is_not_performed_beside_workers_whose_coordinator_is_away(fleet, tmp_path):
    """Somebody sees that it is interrupted, and types `dagrid retry`: the step ran a second time, here, beside the first."""
    step = f"echo begun >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done"
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}'}}]")
    until(lambda: done(tmp_path), "the step")
    fleet.coordinator.kill()
    retry = [sys.executable, "-m", "dagrid", "retry", run, "--dagrid-home", str(fleet.home)]
    told = subprocess.run(retry, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert told.returncode == 2
    assert "take it over: --take-over" in told.stderr
    fleet.start()
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"
    assert done(tmp_path) == {"begun": 1}


def test_nothing_is_lost_and_nothing_runs_twice(fleet, tmp_path):
    """The coordinator is killed again and again while runs begin, go on and end; sub-workflows among them."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw = random.Random(seed)
    text = f"""
type: graph
steps:
  - {{name: a, command: 'echo "$DAG_RUN_ID/a" >> {tmp_path}/done'}}
  - {{name: b, command: 'sleep 0.0$RANDOM; echo "$DAG_RUN_ID/b" >> {tmp_path}/done', depends: a, shell: bash}}
  - {{name: c, command: 'echo "$DAG_RUN_ID/c" >> {tmp_path}/done', depends: a}}
  - {{name: sub, call: other, depends: [b, c]}}
---
name: other
steps: [{{name: d, command: 'echo "$DAG_RUN_ID/d" >> {tmp_path}/done'}}]
"""
    runs = [fleet.enqueue(text, "often") for _ in range(12)]
    for _ in range(6):
        time.sleep(draw.uniform(0.05, 0.6))  # a moment of its own, which the seed says
        fleet.coordinator.kill()
        runs += [fleet.enqueue(text, "often") for _ in range(2)]
        fleet.start()
    assert {fleet.ended(run) for run in runs} == {"succeeded"}
    children = [child.run for run in runs for child in fleet.history.children(run)]
    wanted = {f"{run}/{step}": 1 for run in runs for step in "abc"} | {f"{child}/d": 1 for child in children}
    assert len(children) == len(runs)
    assert done(tmp_path) == wanted


def test_a_step_whose_worker_dies_runs_elsewhere(fleet, tmp_path):
    """After a lease, and it says so; one that must not run again fails."""
    step = f"echo $DAGRID_ATTEMPT_KEY >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done"
    again = fleet.enqueue(f"steps: [{{name: a, command: '{step}'}}]", "again")
    once = fleet.enqueue(f"steps: [{{name: a, command: '{step}', onWorkerLost: fail}}]", "once")
    until(lambda: sum(done(tmp_path).values()) == 2, "both steps")
    for worker in fleet.workers.values():
        worker.kill()
    for name in ("three", "four"):
        fleet.worker(name)
    until(lambda: sum(done(tmp_path).values()) == 3, "the step once more")
    (tmp_path / "go").touch()
    assert fleet.ended(again) == "succeeded"
    assert fleet.ended(once) == "failed"
    assert {key.partition("~")[0]: times for key, times in done(tmp_path).items()} == {again: 2, once: 1}


@pytest.mark.parametrize("asked", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP]])
def test_a_worker_that_is_asked_to_end_finishes_first(fleet, tmp_path, asked):
    """SIGTERM, or the end of its terminal, of which shell and system tell: no step is lost, what had not begun goes elsewhere.

    Nothing is left of it.
    """
    worker = fleet.worker("five", "leaving=yes")
    worker.told("Linked")
    step = f"echo x >> {tmp_path}/done; until test -e {tmp_path}/go; do sleep 0.01; done; echo end"
    run = fleet.enqueue(f"steps: [{{name: a, command: '{step}', workerSelector: {{leaving: 'yes'}}}}]")
    until(lambda: done(tmp_path), "the step")
    for number in asked:
        worker.process.send_signal(number)
        worker.told("Leaving")
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"
    assert fleet.out(run, "a") == "end\n"
    assert worker.process.wait(20) == 0
    assert list((worker.folder / "home" / "worker").iterdir()) == []


def test_a_home_is_served_once(fleet):
    """A second coordinator is told who serves the home, and ends."""
    told = subprocess.run(
        [sys.executable, "-m", "dagrid", "coordinator", "--dagrid-home", str(fleet.home), "--coordinator.port=1024"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert told.returncode != 0
    assert f"is performed by process {fleet.coordinator.process.pid}" in told.stderr
