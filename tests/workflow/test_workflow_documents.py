"""The published workflow of the Dagu document on distributed execution, word for word.

The indentation that its page lost is restored. Its other examples in YAML are settings of servers, not workflows.
"""

from __future__ import annotations

import statistics
import time

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
