"""The Ray examples of the reference document, word for word but for the name of the library and the address of the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from dagrid import DAG
from dagrid.execution.distributed_executor import DistributedExecutor

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
MEMORY = 100 * 2**20

CLUSTER = """
import ray
from dagrid.execution.backends.ray import RayBackend

# Connect to a remote cluster
ray.init(address="ray://cluster-head:10001")

backend = RayBackend() # uses the existing Ray session

with DistributedExecutor(dag, backend) as executor:
    result = executor.execute({
        "train_model_a": lambda: train_on_gpu("model_a"),
        "train_model_b": lambda: train_on_gpu("model_b"),
        "ensemble": lambda: combine_models(),
    })
"""

TRAINING = """
import dagrid
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.backends.ray import RayBackend

# Build a training pipeline
dag = (
    dagrid.DAG.builder()
    .add_node("load_data")
    .add_node("preprocess")
    .add_node("train_model_a")
    .add_node("train_model_b")
    .add_node("train_model_c")
    .add_node("ensemble")
    .add_node("evaluate")
    .add_edge("load_data", "preprocess")
    .add_edge("preprocess", "train_model_a")
    .add_edge("preprocess", "train_model_b")
    .add_edge("preprocess", "train_model_c")
    .add_edge("train_model_a", "ensemble")
    .add_edge("train_model_b", "ensemble")
    .add_edge("train_model_c", "ensemble")
    .add_edge("ensemble", "evaluate")
    .build()
)

def load_data():
    return load_dataset("imagenet")

def preprocess():
    return normalize_images()

def train_model_a():
    return train("resnet50", epochs=10)

def train_model_b():
    return train("vgg16", epochs=10)

def train_model_c():
    return train("efficientnet", epochs=10)

def ensemble():
    return combine_predictions()

def evaluate():
    return compute_metrics()

tasks = {
    "load_data": load_data,
    "preprocess": preprocess,
    "train_model_a": train_model_a,
    "train_model_b": train_model_b,
    "train_model_c": train_model_c,
    "ensemble": ensemble,
    "evaluate": evaluate,
}

# Dispatch to Ray -- models train in parallel on different machines
backend = RayBackend(num_cpus=32)

with DistributedExecutor(dag, backend, node_timeout=3600) as executor:
    result = executor.execute(tasks)

er = result.execution_result
print(f"Succeeded: {er.succeeded}/{er.succeeded + er.failed}")
print(f"Total time: {er.total_duration_seconds:.0f}s")
"""

# What the document's programs call, as small as it can be.
STAND_INS = """
import os

def train_on_gpu(model): return model, os.getpid()
def combine_models(): return "ensemble"
def load_dataset(name): return [name]
def normalize_images(): return [0.5]
def train(model, epochs): return model, epochs, os.getpid()
def combine_predictions(): return [1, 0]
def compute_metrics(): return {"accuracy": 0.9}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster that this process is not in: its head, with two CPUs."""
    settings = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(STAND_INS, found)
    yield found
    ray.shutdown()


def test_the_example_of_a_cluster(cluster: str, names: dict[str, Any]) -> None:
    """Who is connected to a cluster runs there, and stays connected; all its CPUs are used."""
    builder = DAG.builder().add_node("train_model_a").add_node("train_model_b").add_node("ensemble")
    dag = builder.add_edge("train_model_a", "ensemble").add_edge("train_model_b", "ensemble").build()
    names |= {"dag": dag, "DistributedExecutor": DistributedExecutor}
    exec(CLUSTER.replace("ray://cluster-head:10001", cluster), names)
    result = names["result"]
    found = result.execution_result
    assert (result.backend_name, found.succeeded, found["ensemble"]) == ("ray", 3, "ensemble")
    assert [found[f"train_model_{which}"][0] for which in "ab"] == ["model_a", "model_b"]
    assert os.getpid() not in {found[f"train_model_{which}"][1] for which in "ab"}
    assert names["backend"].num_cpus == 2
    assert ray.is_initialized()


def test_the_complete_example_of_training(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The whole program of the document prints what it says, and the session that it began ends with it."""
    exec(TRAINING, names)
    assert "Succeeded: 7/7\n" in capsys.readouterr().out
    found = names["result"].execution_result
    assert {found[f"train_model_{which}"][0] for which in "abc"} == {"resnet50", "vgg16", "efficientnet"}
    assert found["evaluate"] == {"accuracy": 0.9}
    assert not ray.is_initialized()
