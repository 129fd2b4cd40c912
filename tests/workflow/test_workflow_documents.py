"""The published workflow of the Dagu document on distributed execution, word for word.

The indentation that its page lost is restored. Its other examples in YAML are settings, which are checked; those of Docker and
Kubernetes are not of this format.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagrid.workflow import dependencies, load, loads

DISTRIBUTED_PIPELINE = """
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

STEP = """\
  - name: step_{number}
    description: the step number {number}
    command: echo "${{OUT}} {number}"
    env:
      - A: one
    retryPolicy:
      limit: 3
      intervalSec: 1
"""


def test_the_workflow_of_the_document_validates():
    """It has a selector on a step and on a document, a call to a document, and a root command beside steps."""
    found = loads(DISTRIBUTED_PIPELINE, name="distributed-pipeline.yaml")
    (step,) = found.main.steps
    assert (found.main.name, step.name, step.call, step.kind) == (
        "distributed-pipeline",
        "train-model",
        "train-model",
        "dag",
    )
    assert step.worker_selector == {"gpu": "true"}
    called = found.locals["train-model"]
    assert called.worker_selector == {"gpu": "true"}
    assert [one.command for one in called.steps] == [("python train_model.py",)]
    assert [str(one) for one in found.warnings] == [
        "distributed-pipeline.yaml:11:10: the workflow has `steps` as well, and they count; remove `command`"
    ]


@pytest.mark.slow
def test_a_long_file_loads_quickly(tmp_path):
    """8,000 lines in 0.3 s is the promise, of the processor's time, for others may use it too."""
    file = tmp_path / "big.yaml"
    file.write_text("name: big\nsteps:\n" + "".join(STEP.format(number=number) for number in range(1000)))
    assert file.read_text().count("\n") > 8_000
    times = []
    for _ in range(5):
        began = time.process_time()
        waits = dependencies(load(file).main)
        times.append(time.process_time() - began)
        assert len(waits) == 1000
    assert statistics.median(times) < 0.3


@pytest.mark.slow
def test_a_file_of_mistakes_is_answered_quickly():
    """Suggestions are dear; a file in the wrong dialect altogether must not take minutes."""
    text = "steps:\n" + "".join(f"  - comand_{number}: x\n    depnds: y{number}\n" for number in range(2000))
    began = time.process_time()
    with pytest.raises(ValueError, match="unknown key 'comand_0' in step"):
        loads(text)
    assert time.process_time() - began < 5


COORDINATOR = """
# config.yaml
coordinator:
  host: 0.0.0.0
  port: 50055
  signingKey: "your-secret-key"
  tls:
    certFile: /path/to/server.crt
    keyFile: /path/to/server.key
    caFile: /path/to/ca.crt # For mutual TLS
"""

WORKER = """
# config.yaml
worker:
  id: "worker-gpu-01" # Defaults to hostname@PID
  maxActiveRuns: 10
  coordinatorHost: coordinator.example.com
  coordinatorPort: 50055
  labels:
    gpu: "true"
    memory: "64G"
    region: "us-east-1"
  insecure: false # Use TLS
  tls:
    certFile: /path/to/client.crt
    keyFile: /path/to/client.key
    caFile: /path/to/ca.crt
"""


@pytest.mark.parametrize("text", [COORDINATOR, WORKER], ids=["coordinator", "worker"])
def test_the_settings_of_the_document_validate_and_its_key_is_not_shown(text, tmp_path):
    """They are checked and shown with their place; the fleet that they are for is planned."""
    (tmp_path / "config.yaml").write_text(text)
    shown = dagrid(tmp_path, "config")
    assert f"config.yaml:{text.count(chr(10), 0, text.index('certFile')) + 1}:5" in shown.stdout
    assert "your-secret-key" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("labelled", ["flag", "file"])
def test_the_workflow_of_the_document_runs_where_the_machine_has_the_labels(labelled, tmp_path):
    """They are said on the command line or in the worker's own settings; without them it is refused, and the remedy is named."""
    (tmp_path / "pipeline.yaml").write_text(DISTRIBUTED_PIPELINE)
    (tmp_path / "train_model.py").write_text("print('trained')\n")
    refused = dagrid(tmp_path, "start", "pipeline.yaml")
    assert refused.returncode == 2
    assert "--worker.labels gpu=true" in refused.stderr
    if labelled == "file":
        (tmp_path / "config.yaml").write_text(WORKER)
    flags = ["--worker.labels", "gpu=true,cuda=11.8,memory=64G"] if labelled == "flag" else []
    done = dagrid(tmp_path, "start", *flags, "pipeline.yaml")
    assert done.returncode == 0, done.stderr
    listed = dagrid(tmp_path, "--json", "history", "--children")
    child = next(one["run"] for one in json.loads(listed.stdout) if one["parent"])
    assert dagrid(tmp_path, "logs", "--stdout", child, "train-model").stdout == "trained\n"


def dagrid(home, *words):
    """Run the command in a folder that is its home."""
    env = {**os.environ, "DAGRID_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-m", "dagrid", *words], cwd=home, env=env, capture_output=True, text=True, check=False
    )
