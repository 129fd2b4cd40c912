"""The published set-up on real processes: a coordinator with an API and three workers, with the labels of the document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.service.processes import Fleet, Process, free_port, until

TOKEN = "a-token-of-a-test"
TOKENS = "another-token\nschlüssel-à\n"
PIPELINE = """
name: distributed-pipeline
steps:
  # This task requires GPU
  - name: train-model
    run: train-model
    workerSelector:
      gpu: "true"
---
name: train-model
command: python train_model.py
workerSelector:
  gpu: "true"
steps:
  - name: train-model
    command: python train_model.py
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """`start-all` and the three workers of the document."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "tokens").write_text(TOKENS, "utf-8")
    command = ("start-all", "--host=127.0.0.1", f"--port={free_port()}", f"--auth.token-file={folder / 'tokens'}")
    made = Fleet(folder, command, {"DAGRID_AUTH_TOKEN": TOKEN})
    made.start().told("HTTP is answered")
    made.worker("gpu", "gpu=true", "cuda=11.8", "memory=64G")
    made.worker("cpu", "cpu-arch=amd64", "cpu-cores=32", "region=us-east-1")
    made.worker("eu", "region=eu-west-1", "compliance=gdpr")
    yield made.linked()
    made.close()


def ask(fleet, path, token=TOKEN):
    """Ask the API, and return the answer and its code."""
    (port,) = [word.partition("=")[2] for word in fleet.command if word.startswith("--port=")]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}".encode().decode("latin-1"))  # the bytes that others send
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer), answer.status
    except urllib.error.HTTPError as error:
        return json.load(error), error.code


def test_the_pipeline_of_the_document_runs(fleet):
    """Its step calls a workflow, whose step runs on the worker with the label, with the file beside the workflow."""
    (fleet.flows / "train_model.py").write_text("import os; print('trained in', os.getcwd())\n")
    run = fleet.enqueue(PIPELINE.replace("python train_model.py", f"{sys.executable} train_model.py"), "pipeline")
    assert fleet.ended(run) == "succeeded"
    (child,) = fleet.history.children(run)
    said = fleet.out(child.run, "train-model")
    assert said.startswith("trained in ")
    assert str(fleet.folder / "gpu") in said


def test_every_step_goes_where_its_labels_are(fleet):
    """Plain commands too, exactly as written; without a selector any worker will do, and `local` is where the run is."""
    run = fleet.enqueue(
        """
        type: graph
        steps:
          - {name: gpu, command: pwd, workerSelector: {gpu: "true", memory: 64G}}
          - {name: us, command: pwd, workerSelector: {region: us-east-1}}
          - {name: eu, command: pwd, workerSelector: {region: eu-west-1, compliance: gdpr}}
          - {name: any, command: pwd}
          - {name: home, command: pwd, workerSelector: local}
        """,
        "labels",
    )
    assert fleet.ended(run) == "succeeded"
    places = {step: fleet.out(run, step) for step in ("gpu", "us", "eu", "any", "home")}
    for step, worker in (("gpu", "gpu"), ("us", "cpu"), ("eu", "eu")):
        assert f"/{worker}/home/worker/" in places[step]
    assert "/home/worker/" in places["any"]
    assert places["home"] == f"{fleet.flows}\n"


def test_a_step_without_a_worker_waits_and_says_so_once(fleet):
    """`explain` names the label, the log of the coordinator has one line, and nothing else is held up."""
    run = fleet.enqueue('steps: [{name: a, command: echo, workerSelector: {gpu: "True"}}]', "picky")
    words = "waits for a worker with the labels gpu=True"
    until(lambda: words in fleet.coordinator.text, words)
    assert fleet.ended(fleet.enqueue("steps: [echo]")) == "succeeded"
    told = subprocess.run(
        [sys.executable, "-m", "dagrid", "explain", run, "a", "--dagrid-home", str(fleet.home)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DAGRID_HOME": str(fleet.home)},
    )
    assert "a worker with the labels gpu=True: none of the 3 has them" in told.stdout
    fleet.history.stop(run)
    assert fleet.ended(run) == "aborted"
    assert fleet.coordinator.text.count(words) == 1


def test_a_label_that_nobody_has_is_said_once_whoever_waits_for_it(tmp_path):
    """Runs of a queue, one that is started from elsewhere, and a graph; where it was started it is said too."""
    fleet = Fleet(tmp_path)
    words = "waits for a worker with the labels gpu=true"
    started = []
    try:
        coordinator = fleet.start()
        plain = fleet.enqueue("steps: [echo]", "plain")
        coordinator.told("waits for a worker, and there is none")
        fleet.worker("cpu")
        assert fleet.ended(plain) == "succeeded"
        coordinator.told("Worker cpu is a worker: runs that waited for one go on")
        runs = [
            fleet.enqueue('steps: [{name: a, command: echo, workerSelector: {gpu: "true"}}]', "picky") for _ in range(5)
        ]
        (tmp_path / "graph").mkdir()
        (tmp_path / "graph" / "lacking_flows.py").write_text(
            "from dagrid import dag, task\n@task(selector={'gpu': 'true'})\ndef one(): ...\n@dag\ndef flow(): one()\n"
        )
        for folder, *arguments in (
            ("workflow", "start", fleet.flows / "picky.yaml"),
            ("graph", "start", "lacking_flows:flow"),
            ("command", "exec", "--worker-label", "gpu=true", "--", "echo"),
        ):
            started.append(Process(tmp_path / folder, arguments, {"DAGRID_COORDINATOR_PORT": str(fleet.port)}))
        for one in started:
            one.told(words)
        fleet.worker("gpu", "gpu=true")
        assert [one.process.wait(60) for one in started] == [0, 0, 0], [one.text for one in started]
        assert [fleet.ended(run) for run in runs] == ["succeeded"] * 5
        coordinator.told("Worker gpu is a worker with the labels gpu=true: runs that waited for one go on")
        assert coordinator.text.count(words) == 1
        assert [one.text.count(words) for one in started] == [1, 1, 1]
    finally:
        for one in started:
            one.process.kill()
        fleet.close()


def test_logs_are_there_while_a_step_runs(fleet):
    """Nobody waits for the end to see what goes on."""
    gate = fleet.folder / "gate"
    run = fleet.enqueue(
        f"steps: [{{name: a, command: 'echo begun; until test -e {gate}; do sleep 0.01; done; echo end'}}]"
    )
    until(lambda: fleet.out(run, "a") == "begun\n", "the first line")
    gate.touch()
    assert fleet.ended(run) == "succeeded"
    assert fleet.out(run, "a") == "begun\nend\n"


def test_a_log_is_bounded_over_all_repetitions(fleet):
    """As where no worker is: what is repeated a thousand times must not fill the disk, and outputs are whole."""
    run = fleet.enqueue(
        """
        maxOutputSize: 1000
        steps:
          - name: a
            command: for i in 1 2 3 4 5; do printf '%0100d' 0; printf '%0100d' 0 >&2; done; echo end $DAG_RUN_STEP_NAME
            repeatPolicy: {repeat: true, limit: 20}
            output: O
          - {name: b, command: 'echo "${#O} ${O:500}"'}
        """,
        "repeated",
    )
    assert fleet.ended(run) == "succeeded"
    assert fleet.out(run, "a").startswith("[cut here: what was written before this try]\n")
    assert fleet.out(run, "a").endswith("0end a\n")
    assert len(fleet.out(run, "a")) < 3_000
    assert fleet.out(run, "b") == "505 end a\n"


def test_values_pass_from_worker_to_worker(fleet):
    """Outputs, exit codes and Python values, from one machine to another."""
    (fleet.flows / "mine.py").write_text("def twice(value):\n    return 2 * value\n")
    run = fleet.enqueue(
        """
        params: N=4
        steps:
          - {name: one, python: "mine:twice", args: ["${N}"], output: A, workerSelector: {gpu: "true"}}
          - {name: two, command: 'echo "got $A"; exit 3', output: B, continueOn: {failure: true}, id: two,
             workerSelector: {region: eu-west-1}}
          - {name: three, command: 'echo "$B and ${two.exitCode}"', workerSelector: {region: us-east-1}}
        """,
        "values",
    )
    assert fleet.ended(run) == "partially_succeeded"
    assert fleet.out(run, "three") == "got 44 and 3\n"


def test_a_process_that_is_warm_ends_with_its_run(fleet):
    """It was started with the variables of the run, secrets among them, in a folder that is gone: nobody asks it again. Up to 64
    of them stayed with a worker.
    """
    (fleet.flows / "mine.py").write_text("import os\n\ndef number():\n    return os.getpid()\n")
    run = fleet.enqueue(
        """
        steps: [{name: one, python: "mine:number", output: A}, {name: two, command: echo $A}]
        """,
        "warm",
    )
    assert fleet.ended(run) == "succeeded"
    until(lambda: not Path("/proc", fleet.out(run, "two").strip()).exists(), "the end of the process")


def test_a_large_output_passes_from_worker_to_worker(fleet):
    """It stays with the coordinator between steps."""
    (fleet.flows / "long.py").write_text(
        "def make():\n    return 'x' * 500_000\n\ndef size(value):\n    return len(value)\n"
    )
    run = fleet.enqueue(
        """
        steps:
          - {name: one, python: "long:make", output: A, workerSelector: {gpu: "true"}}
          - {name: two, python: "long:size", args: ["${A}"], output: B, workerSelector: {region: eu-west-1}}
          - {name: three, python: "long:size", args: ["${A}"], output: C, workerSelector: {gpu: "true"}}
          - {name: four, command: 'echo "$B $C"', depends: [two, three]}
        """,
        "large",
    )
    assert fleet.ended(run) == "succeeded"
    assert fleet.out(run, "four") == "500000 500000\n"


def test_a_step_can_look_into_the_files_of_another(fleet):
    """`${id.stdout}` is a file; it is there on another worker too, and where the run is."""
    run = fleet.enqueue(
        """
        steps:
          - {name: one, id: one, command: 'echo out; echo err >&2', workerSelector: {gpu: "true"}}
          - {name: two, command: 'cat ${one.stdout} ${one.stderr}', workerSelector: {region: eu-west-1}}
          - {name: three, command: 'cat ${one.stdout}', workerSelector: local}
        """,
        "files",
    )
    assert fleet.ended(run) == "succeeded"
    assert (fleet.out(run, "two"), fleet.out(run, "three")) == ("out\nerr\n", "out\n")


def test_fifty_runs_end(fleet):
    """All at once, each of one step."""
    runs = [fleet.enqueue("steps: ['true']", "many") for _ in range(50)]
    assert {fleet.ended(run) for run in runs} == {"succeeded"}


def test_the_api_replies_as_the_document_says(fleet):
    """To the letter: the keys, their order, a label as text, times in UTC; `running_tasks` are runs."""
    gate = fleet.folder / "api-gate"
    run = fleet.enqueue(
        f"""
        name: ml-pipeline
        type: graph
        steps:
          - {{name: a, command: 'until test -e {gate}; do sleep 0.01; done', workerSelector: {{gpu: "true"}}}}
          - {{name: b, command: 'until test -e {gate}; do sleep 0.01; done', workerSelector: {{gpu: "true"}}}}
        """,
        "ml-pipeline",
    )

    def busy():
        answer, code = ask(fleet, "/api/v2/workers")
        assert code == 200
        assert list(answer) == ["workers"]
        found = {worker["id"]: worker for worker in answer["workers"]}
        return found if found["gpu"]["running_tasks"] else None

    found = until(busy, "a run on the worker")
    gate.touch()
    assert set(found) == {"gpu", "cpu", "eu"}
    gpu = found["gpu"]
    assert list(gpu) == ["id", "labels", "health_status", "last_heartbeat", "running_tasks"]
    assert gpu["labels"] == {"gpu": "true", "cuda": "11.8", "memory": "64G"}
    assert gpu["health_status"] == "HEALTHY"
    (task,) = gpu["running_tasks"]
    assert list(task) == ["dag_name", "dag_run_id", "root_dag_run_name", "started_at"]
    assert (task["dag_name"], task["dag_run_id"], task["root_dag_run_name"]) == ("ml-pipeline", run, "ml-pipeline")
    for stamp in (gpu["last_heartbeat"], task["started_at"]):
        at = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - at).total_seconds()) < 20
    assert fleet.ended(run) == "succeeded"


def test_the_api_asks_for_a_token(fleet):
    """But not of who only looks whether the process lives. One with an accent was as good as none."""
    for token in (TOKEN, *TOKENS.split()):
        assert ask(fleet, "/api/v2/workers", token)[1] == 200, token
    for token in ("", "another", TOKEN[:-1]):
        answer, code = ask(fleet, "/api/v2/workers", token)
        assert (code, answer["code"]) == (401, "unauthorized")
    for path, said in (("/healthz", "ok"), ("/readyz", "ok"), ("/api/v2/health", "healthy")):
        answer, code = ask(fleet, path, "")
        assert (code, answer["status"]) == (200, said)
    assert ask(fleet, "/api/v2/nothing") == ({"code": "not_found", "message": "Not Found."}, 404)
