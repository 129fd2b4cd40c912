"""A backend that is closed under a run ends the run: what it has, where that can be, and what it is still asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dagrid import DAG, ExecutionResult, Node, NodeStatus, command
from dagrid.errors import BackendClosedError, WaitForSignal
from dagrid.execution.backends.command import CommandBackend
from dagrid.execution.backends.event_loop import EventLoopBackend
from dagrid.execution.backends.inline import InlineBackend
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.execution.distributed import PartitionedDAGExecutor
from dagrid.testing.gate import Gate, stand

PATIENCE = 10.0


def one() -> int:
    return 1


def signal_only() -> None:
    raise WaitForSignal("well?")


def refused(result: ExecutionResult, *nodes: str) -> bool:
    return all(isinstance(result.node_results[node].error, BackendClosedError) for node in nodes)


@pytest.mark.parametrize("backend", [InlineBackend, ThreadBackend, MultiprocessingBackend, EventLoopBackend])
def test_a_run_that_waits_for_somebody_ends_when_it_is_answered(backend: Callable[[], Any]) -> None:
    """Nothing is under way when the backend is closed: what comes later is what fails."""
    with backend() as place:
        run = DAG([Node("asked", signal_only), Node("after", one, ["asked"])]).start(backend=place)
        assert not run.settle(PATIENCE)
    run.signal("asked", 1)
    result = run.wait(PATIENCE)
    assert result["asked"] == 1
    assert refused(result, "after")
    assert "closed while a run went on" in str(result.node_results["after"].error)


def test_threads_may_end_what_they_run() -> None:
    """Who closes a backend and waits has what was under way."""
    begun, go = threading.Event(), threading.Event()

    def held() -> str:
        begun.set()
        go.wait(PATIENCE)
        return "done"

    backend = ThreadBackend(2)
    run = DAG([Node("held", held), Node("after", one, ["held"])]).start(backend=backend)
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=backend.close)
    closing.start()
    go.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert run.wait(PATIENCE)["held"] == "done"


def test_a_closed_backend_is_not_tried_again() -> None:
    """It is not opened again, however often a node is tried; others of the run have places of their own."""
    backend = ThreadBackend(1)
    with backend:
        run = DAG([Node("asked", signal_only), Node("after", one, ["asked"], retries=5)]).start(backend=backend)
        assert not run.settle(PATIENCE)
    run.signal("asked", 1)
    assert run.wait(PATIENCE).node_results["after"].attempts == 1


def test_tasks_of_a_loop_are_cancelled_and_fail() -> None:
    """They see the end where they await; the run hears why."""
    begun, cleaned = threading.Event(), threading.Event()

    async def waits() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    loop = EventLoopBackend()
    nodes = [Node("waits", waits), Node("after", waits, ["waits"]), Node("other", one)]
    run = DAG(nodes).start(backend="thread", places={"loop": loop}, on_failure="continue")
    assert begun.wait(PATIENCE)
    loop.close()
    result = run.wait(PATIENCE)
    assert cleaned.is_set()
    assert refused(result, "waits", "after")
    assert result["other"] == 1


def test_commands_are_stopped_and_fail() -> None:
    """The process is gone when the backend is closed."""
    place = CommandBackend()
    nodes = [Node("sleeps", command(["sleep", "60"])), Node("after", command(["true"]), ["sleeps"])]
    run = DAG(nodes).start(backend="thread", places={"command": place}, on_failure="continue")
    assert any(event.kind == "started" for event in run.events())
    place.close()
    result = run.wait(PATIENCE)
    assert refused(result, "sleeps", "after")


def test_parts_on_a_backend_that_is_closed() -> None:
    """A part is lost with its worker; those that were to follow fail, and so does the run."""
    with MultiprocessingBackend(2) as backend, Gate(PATIENCE) as gate:
        address = gate.address
        nodes = [Node("a", lambda: stand(address)), Node("b", one, ["a"]), Node("c", one, ["b"])]
        executor = PartitionedDAGExecutor(DAG(nodes), k=3, strategy="level_based", backend=backend)
        found: list[ExecutionResult] = []
        running = threading.Thread(target=lambda: found.append(executor.execute()))
        running.start()
        gate.meet()
        backend.close(wait=False)
        running.join(PATIENCE)
    (result,) = found
    assert result.status == "failed"
    assert refused(result, "a")
    assert {each.status for each in result.node_results.values()} == {NodeStatus.FAILED, NodeStatus.SKIPPED}
