"""The article's examples in the builder's words, and its timings as ratios: exact in virtual time, by events on real threads.

The listing itself, word for word, is in `test_reference_documents.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dagrid import DAG
from dagrid.execution.simulate import simulate

CPU = {"cpu": 1}
both_ways = pytest.mark.parametrize("pulls", [False, True])
backends = pytest.mark.parametrize("backend", ["inline", "thread?max_workers=2", "multiprocessing?max_workers=2"])


def fetch_distant_data(**results_dict: Any) -> int:
    return len(b"x" * 1234)


def python_calculation_exec_node(**results_dict: Any) -> int:
    return sum(number for number in range(1000) if not number % 3)


def final(len_data: int, execution_result: int, **results_dict: Any) -> str:
    others = ", ".join(f"{name}={value}" for name, value in results_dict.items())
    return f"{len_data} + {execution_result} = {len_data + execution_result}; {others}"


def article() -> DAG:
    """Return the graph of the article's listing, built step by step."""
    return (
        DAG.builder(max_concurrency=2)
        .add_node("len_data", fetch_distant_data, priority=10, is_sequential=False)
        .add_node("execution_result", python_calculation_exec_node, priority=0, is_sequential=False)
        .add_node("execution_result2", python_calculation_exec_node, priority=0, is_sequential=False)
        .add_node(
            "final",
            final,
            depends_on=["len_data", "execution_result", "execution_result2"],
            priority=10,
            is_sequential=False,
        )
        .build()
    )


def five() -> DAG:
    """Return A, then B, C and D, then E after C and D; no priority is set by hand."""
    builder = DAG.builder().add_node("A")
    for name in "BCD":
        builder.add_node(name, depends_on=["A"])
    return builder.add_node("E", depends_on=["C", "D"]).build()


def bound(fetch: float, compute: float) -> DAG:
    """Return a fetch that waits for the network, beside B and C that need the one CPU, and what joins them at no cost."""
    return (
        DAG.builder()
        .add_node("A", cost=fetch)
        .add_node("B", resources=CPU, cost=compute)
        .add_node("C", resources=CPU, cost=compute)
        .add_node("D", depends_on=["A", "B", "C"], cost=0.0)
        .build()
    )


@backends
def test_the_listing_with_a_builder(backend: str) -> None:
    """Results come as keyword arguments by the names of the dependencies; what has no parameter is in **results."""
    result = article().run(backend=backend, progress=False)
    number = python_calculation_exec_node()
    assert result["final"] == f"1234 + {number} = {1234 + number}; execution_result2={number}"
    assert [node.result for node in result.node_results.values()] == [1234, number, number, result["final"]]


def test_the_listing_goes_by_its_priorities() -> None:
    """Two at once, as the graph says: the fetch goes first, and what joins all is last."""
    result = simulate(article(), workers=4)
    assert result.total_duration_seconds == 3.0
    trace = result.trace
    assert trace is not None
    assert [span.node for span in trace][-1] == "final"
    assert result.node_results["len_data"].started == 0.0
    assert result.profile().slots == 2


@both_ways
@pytest.mark.parametrize(("threads", "ratio"), [(1, 5 / 3), (2, 1.0), (3, 1.0)])
def test_five_nodes_on_two_threads_take_the_longest_path(threads: int, ratio: float, pulls: bool) -> None:
    """Three units: C and D go before B, because E hangs on them; a third thread would gain nothing."""
    profile = simulate(five(), workers=threads, pulls=pulls).profile()
    assert profile.dependencies == 3.0
    assert profile.makespan / profile.dependencies == ratio
    assert profile.over_bound == 1.0


@both_ways
@pytest.mark.parametrize(("fetch", "compute"), [(3.0, 1.5), (5.0, 1.0), (1.0, 2.0)])
def test_waiting_and_computing_take_the_longer_branch(fetch: float, compute: float, pulls: bool) -> None:
    """Three threads and one CPU: 1.0 times the longer of the fetch and of both computations, one after the other."""
    result = simulate(bound(fetch, compute), workers=3, resources=CPU, pulls=pulls)
    assert result.total_duration_seconds / max(fetch, 2 * compute) == 1.0
    first, second = (result.node_results[name] for name in "BC")
    assert first.ended == second.started == compute


def test_waiting_and_computing_on_real_threads() -> None:
    """The fetch ends only when both computations have ended, so it ran beside them; they never ran beside each other."""
    cpu, fetching, left = threading.Lock(), threading.Event(), threading.Semaphore(0)

    def compute() -> None:
        assert cpu.acquire(blocking=False), "two computations at once"
        assert fetching.wait(20), "the fetch did not run beside the computation"
        cpu.release()
        left.release()

    def fetch() -> bool:
        fetching.set()
        return all(left.acquire(timeout=20) for _ in range(2))

    def join(**results: Any) -> Any:
        return results["A"]

    tasks: dict[str, Callable[..., Any]] = {"A": fetch, "B": compute, "C": compute, "D": join}
    result = bound(1.0, 1.0).run(tasks, backend="thread?max_workers=3", resources=CPU, progress=False)
    assert result["D"] is True
    times = {name: (node.started, node.ended) for name, node in result.node_results.items()}
    assert times["B"][1] <= times["C"][0] or times["C"][1] <= times["B"][0]
    assert times["A"][0] <= min(times["B"][1], times["C"][1])
    assert times["A"][1] >= max(times["B"][1], times["C"][1])
