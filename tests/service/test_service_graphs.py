"""Graphs of Python's in queues: the coordinator has each performed by a process, whose nodes run on workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from dagrid.history import History
from tests.service.processes import Fleet, until

MODULE = """
import os, time
from pathlib import Path
from dagrid import WaitForSignal, dag, task

@task
def mark(folder, what):
    with open(f"{folder}/done", "a") as file:
        file.write(f"{what} {os.environ['DAGRID_ATTEMPT_KEY']}\\n")
    return what

@task(selector={"number": "2"})
def stand(folder, before):
    mark(folder, "stood")
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return before + ", stood in " + os.getcwd()

@task
def tell(folder, found):
    Path(folder, "told").write_text(found)

@dag
def flow(folder: str):
    tell(folder, stand(folder, mark(folder, "begun")))

@task
def ask(before):
    raise WaitForSignal("Go on?")

@task(selector={"number": "2"})
def tell_answer(folder, said):
    tell.fn(folder, f"{said['who']} on {os.getcwd()}")

@dag
def asking(folder: str):
    tell_answer(folder, ask(mark(folder, "begun")))
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A coordinator with a signing key in a file, and two workers. Its backend is for graphs that are started by hand there."""
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "key").write_text("a key of these tests\n")
    env = {"DAGRID_COORDINATOR_SIGNING_KEY_FILE": str(folder / "key"), "DAGRID_BACKEND": "thread"}
    made = Fleet(folder, ("coordinator", "--coordinator.lease=6s"), env)
    made.start()
    for number in ("1", "2"):
        made.worker(f"w{number}", f"number={number}", env={"DAGRID_COORDINATOR_SIGNING_KEY": "a key of these tests"})
    (made.flows / "queued_flows.py").write_text(MODULE)
    yield made.linked()
    made.close()


def dagrid(fleet, *arguments):
    """Call the command where the modules are."""
    env = {**os.environ, **fleet.env, "DAGRID_HOME": str(fleet.home), "DAGRID_BACKEND": ""}
    return subprocess.run(
        [sys.executable, "-m", "dagrid", *arguments],
        cwd=fleet.flows,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def enqueued(fleet, target, *params):
    done = dagrid(fleet, "enqueue", target, "--queue=graphs", "--", *params)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def marks(folder):
    path = folder / "done"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_graph_in_a_queue_runs_on_the_workers(fleet, tmp_path):
    """It is begun without anybody looking, with the arguments that were said, and its nodes find their labels."""
    (tmp_path / "go").touch()
    run = enqueued(fleet, "queued_flows:flow", f"folder={tmp_path}")
    assert fleet.ended(run) == "succeeded"
    told = (tmp_path / "told").read_text()
    assert told.startswith(f"begun, stood in {fleet.folder}/w2")


@pytest.mark.engine
def test_the_store_of_a_graph_is_that_of_its_coordinator(postgres, tmp_path):
    """A flag had said it: the process of the graph looked for the run in the home, and the run had failed."""
    store = postgres.url(tmp_path)
    fleet = Fleet(tmp_path, ("coordinator", "--store", store))
    try:
        fleet.start()
        fleet.worker("w", "number=2")
        (tmp_path / "go").touch()
        (fleet.flows / "queued_flows.py").write_text(MODULE)
        flow = ("queued_flows:flow", "--store", store, "--", f"folder={tmp_path}")
        assert dagrid(fleet, "enqueue", *flow).returncode == 0
        with History(fleet.home, store) as history:
            (run,) = history.runs()
            until(lambda: history.info(run.run).ended, "the end of the run")
            assert history.info(run.run).status == "succeeded"
    finally:
        fleet.close()


def killed(coordinator):
    coordinator.kill()


def asked_to_end(coordinator):
    assert coordinator.end() == 0


@pytest.mark.parametrize("ended", [killed, asked_to_end])
def test_a_graph_outlives_its_coordinator(fleet, tmp_path, ended):
    """Its process ends with the coordinator; what runs on a worker goes on, and what is done is not done again."""
    run = enqueued(fleet, "queued_flows:flow", f"folder={tmp_path}")
    until(lambda: "stood" in marks(tmp_path), "the second node")
    ended(fleet.coordinator)
    until(lambda: fleet.status(run) == "interrupted", "the end of the process of the run")
    (tmp_path / "go").touch()
    fleet.start()
    assert fleet.ended(run) == "succeeded"
    assert marks(tmp_path) == ["begun", "stood"]


def killed_at_the_second_node(fleet, tmp_path, times):
    """Return a run whose process was killed so many times."""
    run = enqueued(fleet, "queued_flows:flow", f"folder={tmp_path}")
    until(lambda: "stood" in marks(tmp_path), "the second node")
    killed = 0
    for _ in range(times):
        until(lambda last=killed: fleet.history.info(run).pid not in (0, last), "a process")
        killed = fleet.history.info(run).pid
        os.kill(killed, signal.SIGKILL)
    return run


def test_a_graph_outlives_its_process(fleet, tmp_path):
    """Where memory is short the system kills it. Nobody had stopped the run, and yet it went on only when somebody said so, or
    the coordinator began anew.
    """
    run = killed_at_the_second_node(fleet, tmp_path, 2)
    fleet.coordinator.told(f"run {run} is taken up again")
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"
    assert marks(tmp_path) == ["begun", "stood"]


def test_a_graph_that_loses_its_process_again_and_again_is_left_alone(fleet, tmp_path):
    """What takes its process with it each time would do so for ever."""
    run = killed_at_the_second_node(fleet, tmp_path, 3)
    fleet.coordinator.told(f"run {run} is interrupted")
    (tmp_path / "go").touch()
    assert "The coordinator of" in dagrid(fleet, "retry", run).stderr
    assert fleet.ended(run) == "succeeded"


SLOW = """
import os, time
from pathlib import Path
from dagrid import dag, task

folder = Path(FOLDER)
if "DAGRID_COORDINATOR_HOST" in os.environ:
    (folder / "made").write_text(str(os.getpid()))
    while not (folder / "go").exists():
        time.sleep(0.01)

@task
def done():
    return "done"

@dag
def flow():
    return done()
"""


def killed_while_its_graph_is_made(fleet, folder, times):
    """Return a run whose process was killed so many times before the run had begun.

    The module is the test's own: of two texts of one size in one second, Python may go on with what it compiled of the first.
    """
    module = f"slow_{folder.name}"
    (fleet.flows / f"{module}.py").write_text(SLOW.replace("FOLDER", repr(str(folder))))
    run = enqueued(fleet, f"{module}:flow")
    for _ in range(times):
        until((folder / "made").exists, "a process")
        pid = int(until((folder / "made").read_text, "its number"))
        (folder / "made").unlink()
        os.kill(pid, signal.SIGKILL)
    return run


def test_a_graph_outlives_its_process_before_it_has_begun(fleet, tmp_path):
    """It had failed with "Its process ended before the run began", though nobody had stopped it and nothing was wrong with it."""
    run = killed_while_its_graph_is_made(fleet, tmp_path, 2)
    (tmp_path / "go").touch()
    assert fleet.ended(run) == "succeeded"


def test_a_graph_that_never_begins_has_failed(fleet, tmp_path):
    """What takes its process with it while it is made would do so for ever."""
    run = killed_while_its_graph_is_made(fleet, tmp_path, 3)
    assert fleet.ended(run) == "failed"
    fleet.coordinator.told(f"run {run} could not be performed: Its process ended before the run began.")


def test_a_graph_is_stopped_and_goes_on(fleet, tmp_path):
    """`dagrid stop` and `dagrid retry` find it wherever it is performed; the retry is the coordinator's."""
    run = enqueued(fleet, "queued_flows:flow", f"folder={tmp_path}")
    until(lambda: "stood" in marks(tmp_path), "the second node")
    assert dagrid(fleet, "stop", run).returncode == 0
    assert fleet.status(run) == "aborted"
    (tmp_path / "go").touch()
    again = dagrid(fleet, "retry", run)
    assert "The coordinator of" in again.stderr
    until(lambda: fleet.status(run) == "succeeded", "the end of the retry")
    assert marks(tmp_path) == ["begun", "stood", "stood"]
    (tmp_path / "told").unlink()
    first = next(one["name"] for one in json.loads(dagrid(fleet, "status", run, "--json").stdout)["steps"])
    assert "The coordinator of" in dagrid(fleet, "retry", run, "--from", first).stderr
    until((tmp_path / "told").exists, "the end of what runs once more")
    assert marks(tmp_path) == ["begun", "stood", "stood", "begun", "stood"]


def test_what_a_person_says_to_a_graph_is_passed_on(fleet, tmp_path):
    """Its nodes want the workers that they were begun on: whoever answers has none of their labels, and need not wait."""
    run, refused = (enqueued(fleet, "queued_flows:asking", f"folder={tmp_path}") for _ in range(2))
    for each in (run, refused):
        until(lambda each=each: fleet.status(each) == "waiting", "what asks a person")
    said = dagrid(fleet, "approve", run, "--input", "who=Zoë")
    assert "The coordinator of" in said.stderr
    assert fleet.ended(run) == "succeeded"
    assert (tmp_path / "told").read_text().startswith(f"Zoë on {fleet.folder}/w2")
    said = dagrid(fleet, "reject", refused, "--reason", "not today")
    assert fleet.ended(refused) == "failed"
    assert "not today" in dagrid(fleet, "explain", refused).stdout


def test_a_graph_that_cannot_be_made_has_failed(fleet, tmp_path):
    """Its log says why, and the coordinator says it too."""
    (fleet.flows / "lost_flows.py").write_text(MODULE)
    go = enqueued(fleet, "lost_flows:flow", f"folder={tmp_path}")
    until(lambda: "stood" in marks(tmp_path), "that one which holds nothing up")
    (tmp_path / "go").touch()
    assert fleet.ended(go) == "succeeded"
    (fleet.flows / "broken_flows.py").write_text(
        "import os\nfrom dagrid import dag\nif 'DAGRID_COORDINATOR_HOST' in os.environ: 1 / 0\n@dag\ndef flow(): ...\n"
    )
    run = enqueued(fleet, "broken_flows:flow")
    assert fleet.ended(run) == "failed"
    assert "ZeroDivisionError" in (fleet.history.folder(run) / "run.log").read_text()
    fleet.coordinator.told(f"run {run} could not be performed")


def test_a_graph_is_started_on_the_workers_of_a_coordinator(fleet, tmp_path):
    """`--coordinator.host` means them for a graph as it does for a workflow."""
    (tmp_path / "go").touch()
    place = ["--coordinator.host=127.0.0.1", f"--coordinator.port={fleet.port}"]
    done = dagrid(fleet, "start", *place, "queued_flows:flow", "--", f"folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"stood in {fleet.folder}/w2" in (tmp_path / "told").read_text()
