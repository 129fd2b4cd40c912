"""The published examples that dagrid promises to run, word for word: nothing is changed but the product's name.

They come from dagron's page on distributed execution and from the article that introduced tawazi. What an example takes for
granted (`fetch_from_api`, `tasks`, ...) is given to it; the indentation that its web page lost is restored.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid.execution.backends.thread import ThreadBackend

DIAMOND = ("fetch_users", "fetch_orders", "join")

THREADS = """
import dagrid
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.backends.thread import ThreadBackend

dag = (
    dagrid.DAG.builder()
    .add_node("fetch_users")
    .add_node("fetch_orders")
    .add_node("join")
    .add_edge("fetch_users", "join")
    .add_edge("fetch_orders", "join")
    .build()
)

backend = ThreadBackend(max_workers=8)

with DistributedExecutor(dag, backend) as executor:
    result = executor.execute({
        "fetch_users": lambda: fetch_from_api("/users"),
        "fetch_orders": lambda: fetch_from_api("/orders"),
        "join": lambda: merge_data(),
    })

print(f"Backend: {result.backend_name}") # "thread"
print(f"Succeeded: {result.execution_result.succeeded}")
"""

PROCESSES = """
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend

backend = MultiprocessingBackend(max_workers=4)

with DistributedExecutor(dag, backend) as executor:
    result = executor.execute(tasks)
"""

MODULE_LEVEL = """
# This works:
def compute_features():
    return heavy_computation()

tasks = {"features": compute_features}
"""

LAMBDA = """
# This does NOT work with multiprocessing:
tasks = {"features": lambda: heavy_computation()}
"""

EXECUTOR = """
from dagrid.execution.distributed_executor import DistributedExecutor

executor = DistributedExecutor(
    dag,
    backend=backend,
    fail_fast=True, # skip downstream on failure
    enable_tracing=True, # record execution trace
    node_timeout=60.0, # per-node timeout in seconds
)

result = executor.execute(tasks)
"""

RESULT = """
result = executor.execute(tasks)

# Standard execution stats
er = result.execution_result
print(f"Succeeded: {er.succeeded}, Failed: {er.failed}")
print(f"Total time: {er.total_duration_seconds:.1f}s")

# Distributed metadata
print(f"Backend: {result.backend_name}")
print(f"Dispatch info: {result.dispatch_info}")
# e.g. {"fetch_users": {"backend": "ray"}, ...}
"""

CONTEXT_MANAGER = """
with DistributedExecutor(dag, backend) as executor:
    result = executor.execute(tasks)
# backend.shutdown(wait=True) is called automatically
"""

TIMEOUT = """
executor = DistributedExecutor(dag, backend, node_timeout=30.0)
result = executor.execute(tasks)

# Check for timed-out nodes
print(f"Timed out: {result.execution_result.timed_out}")
"""

TRACING = """
executor = DistributedExecutor(dag, backend, enable_tracing=True)
result = executor.execute(tasks)

trace = result.execution_result.trace
if trace:
    trace.to_chrome_json("distributed_trace.json")
"""

FAIL_FAST = """
executor = DistributedExecutor(dag, backend, fail_fast=True)
"""

COSTS = """
costs = {node: estimate_cost(node) for node in dag.node_names()}
"""

# The complete example, up to the line that chooses Ray.
TRAINING = """
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
"""

TRAINING_RUN = """
with DistributedExecutor(dag, backend, node_timeout=3600) as executor:
    result = executor.execute(tasks)

er = result.execution_result
print(f"Succeeded: {er.succeeded}/{er.succeeded + er.failed}")
print(f"Total time: {er.total_duration_seconds:.0f}s")
"""

PARTITIONED = """
from dagrid.execution.distributed import PartitionedDAGExecutor

executor = PartitionedDAGExecutor(
    dag,
    k=4, # target number of partitions
    strategy="level_based", # partitioning strategy
    max_workers=8, # workers per partition
    fail_fast=True,
)

result = executor.execute(tasks)
"""

LEVEL_BASED = """
executor = PartitionedDAGExecutor(dag, k=3, strategy="level_based")
"""

BALANCED = """
costs = {
    "extract": 5.0,
    "heavy_transform": 120.0,
    "light_transform": 2.0,
    "load": 10.0,
}

executor = PartitionedDAGExecutor(
    dag,
    k=2,
    strategy="balanced",
    costs=costs,
)
"""

COMMUNICATION_MIN = """
executor = PartitionedDAGExecutor(
    dag,
    k=3,
    strategy="communication_min",
    max_iterations=20, # Kernighan-Lin iterations
    max_imbalance=0.3, # allow 30% size imbalance
)
"""

ESTIMATED = """
costs = {node: estimate_cost(node) for node in dag.node_names()}

executor = PartitionedDAGExecutor(
    dag,
    k=4,
    strategy="balanced",
    costs=costs,
)
"""

# The article's listing; the bracket that it forgot to close is closed, and its address, lost on the way, is filled in.
ARTICLE = """
from time import time
from dagrid import DAG, ExecNode
import requests
# This function replaces A in the DAG diagram.
def fetch_distant_data(**results_dict):
    t0 = time()
    resp = requests.get("")
    print(f"fetch_distant_data: {time()-t0:.2f}s", flush=True)
    return len(resp.content)
# This function replaces B and C in the DAG diagram. It is used twice in the created DAG
def python_calculation_exec_node(**results_dict):
    t0 = time()
    sum = 0
    for i in range(10000000):
        if not sum % 3:
            sum += i
            sum += 1
    print(f"python_calculation_exec_node: {time() - t0:.2f}s", flush=True)
    return sum
# This function replaces D in the DAG diagram.
def final(len_data, execution_result, **results_dict):
    print('final ExecNode', flush=True)
    return f"{len_data} + {execution_result} = {len_data + execution_result}"

if __name__ == "__main__":
    # Define dependencies
    exec_nodes = [
        ExecNode("len_data", fetch_distant_data, priority=10, is_sequential=False),
        ExecNode("execution_result", python_calculation_exec_node, priority=0, is_sequential=False),
        ExecNode("execution_result2", python_calculation_exec_node, priority=0, is_sequential=False),
        ExecNode(final, final, ["len_data", "execution_result", "execution_result2"], is_sequential=False),
    ]

    # Create the DAG
    g = DAG(exec_nodes, max_concurrency=2)

    t0 = time()
    # Execute the DAG
    node_dict = g.execute()
    print(f"DAG ran in {time()-t0:.2f}s")
    print([node.result for node in node_dict.values()])
"""


def names(**given: Any) -> dict[str, Any]:
    """Return a namespace as a reader's file has it in the middle of the page."""
    from dagrid.execution.distributed_executor import DistributedExecutor

    dag = dagrid.DAG.builder().add_nodes(DIAMOND).add_edges((name, "join") for name in DIAMOND[:2]).build()
    tasks: dict[str, Callable[[], Any]] = {name: name.upper for name in DIAMOND}
    common = {"__name__": "reader", "dagrid": dagrid, "DistributedExecutor": DistributedExecutor, "dag": dag}
    return common | {"tasks": tasks} | given


@pytest.fixture
def backend() -> Iterator[ThreadBackend]:
    with ThreadBackend(max_workers=2) as made:
        yield made


def test_thread_backend(capsys: pytest.CaptureFixture[str]) -> None:
    """The first example of the page is the first thing anybody tries."""
    asked: list[str] = []
    where = names(fetch_from_api=asked.append, merge_data=lambda: sorted(asked))
    exec(THREADS, where)
    assert capsys.readouterr().out == "Backend: thread\nSucceeded: 3\n"
    assert where["result"].execution_result["join"] == ["/orders", "/users"]


@pytest.mark.parametrize("listing", [MODULE_LEVEL, LAMBDA], ids=["function", "lambda"])
def test_multiprocessing_backend(listing: str) -> None:
    """A function of the reader's file must reach the worker processes; so does a lambda, which the page says cannot."""
    where = names(heavy_computation=lambda: sum(range(1000)), dag=dagrid.DAG.builder().add_node("features").build())
    exec(listing, where)
    exec(PROCESSES, where)
    assert where["result"].backend_name == "multiprocessing"
    assert where["result"].execution_result["features"] == 499500


def test_executor_with_all_its_arguments(backend: ThreadBackend) -> None:
    """Programs pass these by keyword; a renamed one breaks them all."""
    where = names(backend=backend)
    exec(EXECUTOR, where)
    assert where["result"].execution_result.succeeded == 3
    assert where["result"].execution_result.trace is not None


def test_result_and_where_it_ran(backend: ThreadBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """Reports are written from these names."""
    where = names(backend=backend)
    exec(EXECUTOR + RESULT, where)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["Succeeded: 3, Failed: 0", "Total time: 0.0s", "Backend: thread"]
    info = ast.literal_eval(lines[3].removeprefix("Dispatch info: "))
    assert {node: entry["backend"] for node, entry in info.items()} == dict.fromkeys(DIAMOND, "thread")


def test_context_manager_shuts_the_backend_down(backend: ThreadBackend) -> None:
    """Who relies on the `with` leaks threads if it does nothing."""
    where = names(backend=backend)
    exec(CONTEXT_MANAGER, where)
    assert where["result"].execution_result.ok
    with pytest.raises(dagrid.errors.BackendClosedError):
        backend.submit(print)


def test_node_timeout_that_is_kept(backend: ThreadBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit must not hurt who stays below it."""
    exec(TIMEOUT, names(backend=backend))
    assert capsys.readouterr().out == "Timed out: 0\n"


def test_node_timeout_that_is_broken(backend: ThreadBackend, capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on when the limit is over, not when the task feels like it; with another figure, to be quick."""
    never = threading.Event()
    where = names(backend=backend)
    where["tasks"]["fetch_users"] = never.wait
    try:
        exec(TIMEOUT.replace("30.0", "0.05"), where)
    finally:
        never.set()
    result = where["result"].execution_result
    assert capsys.readouterr().out == "Timed out: 1\n"
    assert (result.succeeded, result.skipped) == (1, 1)


def test_tracing_writes_a_chrome_trace(backend: ThreadBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened in a browser: it must be there, be JSON and have a bar for each node."""
    monkeypatch.chdir(tmp_path)
    exec(TRACING, names(backend=backend))
    trace = json.loads((tmp_path / "distributed_trace.json").read_text())
    assert {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"} == set(DIAMOND)


def test_fail_fast_skips_all_that_is_downstream(backend: ThreadBackend) -> None:
    """On all levels below, and nothing beside it."""

    def fail() -> None:
        raise RuntimeError("the API is down")

    builder = dagrid.DAG.builder().add_nodes([*DIAMOND, "report"]).add_edge("join", "report")
    dag = builder.add_edges((name, "join") for name in DIAMOND[:2]).build()
    where = names(backend=backend, dag=dag)
    where["tasks"] |= {"fetch_users": fail, "report": list}
    exec(FAIL_FAST, where)
    result = where["executor"].execute(where["tasks"]).execution_result
    assert (result.succeeded, result.failed, result.skipped) == (1, 1, 2)


def test_costs_by_node_name() -> None:
    """The page's way to estimate costs needs the names, and the graph takes the costs."""
    where = names(estimate_cost=len)
    exec(COSTS, where)
    assert where["costs"] == {name: len(name) for name in DIAMOND}
    assert where["dag"].critical_path(where["costs"]).nodes == ["fetch_orders", "join"]


def test_partitioned_executor() -> None:
    """The page's executor for large graphs, which gives an ordinary result."""
    where = names()
    exec(PARTITIONED, where)
    assert where["result"].succeeded == 3
    assert where["result"]["join"] == "JOIN"


@pytest.mark.parametrize("listing", [LEVEL_BASED, BALANCED, COMMUNICATION_MIN, ESTIMATED])
def test_ways_to_cut_a_graph(listing: str) -> None:
    """Each of them is one argument, and each runs; the costs are those of the page's own pipeline."""
    steps = ("extract", "heavy_transform", "light_transform", "load")
    builder = dagrid.DAG.builder().add_nodes(steps)
    for transform in steps[1:3]:
        builder.add_edge("extract", transform).add_edge(transform, "load")
    tasks = {name: name.upper for name in steps}
    where = names(dag=builder.build(), tasks=tasks, estimate_cost=len)
    exec(PARTITIONED, where)
    exec(listing, where)
    result = where["executor"].execute(tasks)
    assert result.succeeded == 4
    assert result["load"] == "LOAD"
    assert len(where["executor"].partition) >= where["executor"].partition.k


def test_complete_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole pipeline, with threads in place of Ray: the three models meet, so they are trained side by side."""
    together = threading.Barrier(3)
    done: list[str] = []

    def train(model: str, epochs: int) -> str:
        together.wait(timeout=20)
        return f"{model} after {epochs}"

    where = names(
        load_dataset=done.append,
        normalize_images=lambda: done.append("normalized"),
        train=train,
        combine_predictions=lambda: done.append("combined"),
        compute_metrics=lambda: [*done, "measured"],
        backend=ThreadBackend(max_workers=4),
    )
    exec(TRAINING + TRAINING_RUN, where)
    assert capsys.readouterr().out == "Succeeded: 7/7\nTotal time: 0s\n"
    assert where["er"]["evaluate"] == ["imagenet", "normalized", "combined", "measured"]
    assert where["er"]["train_model_b"] == "vgg16 after 10"


class Page(BaseHTTPRequestHandler):
    """A page of a known length."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1234")
        self.end_headers()
        self.wfile.write(b"x" * 1234)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_articles_program(address: str, tmp_path: Path) -> None:
    """Functions as nodes, results by name, priorities and two threads at most: the whole program, as a program."""
    program = tmp_path / "article.py"
    program.write_text(ARTICLE.replace('requests.get("")', f"requests.get({address!r})"), encoding="utf-8")
    done = subprocess.run([sys.executable, program], check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    length, first, second, text = ast.literal_eval(lines[-1])
    assert length == 1234
    assert first == second
    assert text == f"1234 + {first} = {1234 + first}"
    assert lines[-3] == "final ExecNode"
    assert lines[0].startswith("fetch_distant_data: "), "the node of the highest priority did not go first"
