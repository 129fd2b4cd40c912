"""Runs that are awaited: their loop goes on, no thread of it is taken, and they are cancelled with whoever awaits them."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dagrid import DAG, Node, Rule, RunStatus
from dagrid.assemble import view
from dagrid.errors import RunError
from dagrid.execution.sessions import RunSessions
from dagrid.graph.rules import Patch
from tests.execution.held_task import Held

PATIENCE = 10.0


def let_go(gates: list[Held]) -> None:
    for gate in gates:
        gate.release.set()


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


async def awaited(run: Any) -> Any:
    return await run


def test_an_end_that_is_reported_while_somebody_begins_to_wait_is_not_left_lying(monkeypatch):
    """Who reports and finds somebody looking at the run leaves, for whoever looks takes it up."""
    release, follow = threading.Event(), RunSessions.follow

    def follow_late(self: RunSessions, call: Any) -> None:
        release.set()
        deadline = time.monotonic() + PATIENCE
        while not run._engine._inbox:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        follow(self, call)

    async def wait() -> str:
        await until(release)
        return "done"

    async def main() -> Any:
        return await asyncio.wait_for(run, PATIENCE)

    monkeypatch.setattr(RunSessions, "follow", follow_late)
    run = DAG([Node("wait", wait)]).start()
    assert asyncio.run(main())["wait"] == "done"


def test_many_awaited_runs_leave_the_threads_of_the_loop_alone():
    """Else they starve what uses `asyncio.to_thread`, without which some of them may never end."""
    gates = [Held() for _ in range(8)]

    async def main() -> list[Any]:
        with ThreadPoolExecutor(1) as only:
            asyncio.get_running_loop().set_default_executor(only)
            waiting = [asyncio.ensure_future(awaited(DAG([Node("held", each)]).start())) for each in gates]
            for gate in gates:
                await until(gate.reached)
            async with asyncio.timeout(PATIENCE):
                while any(each.name in ("dagrid-lent", "dagrid-awaited") for each in threading.enumerate()):
                    await asyncio.sleep(0.001)
            await asyncio.to_thread(let_go, gates)
            return [(await each)["held"] for each in waiting]

    assert asyncio.run(main()) == ["done"] * len(gates)


def test_who_awaits_needs_no_thread_for_the_nodes_of_the_caller():
    """One is lent from the start, and to a place that the graph grows into."""
    here = Node("here", threading.get_ident, place="caller")
    grown = Rule(lambda view: "first" in view, lambda _: Patch([here]), name="grow", waits=("first",))

    async def main(graph: DAG, **settings: Any) -> Any:
        return await graph.start(**settings)

    for graph, settings in ((DAG([here]), {}), (DAG([here]), {"backend": "inline"})):
        assert asyncio.run(main(graph, **settings))["here"] != threading.get_ident()
    assert "here" in asyncio.run(main(DAG([Node("first", int)]), rules=[grown]))


def test_a_run_is_cancelled_with_the_task_that_awaits_it():
    """As a task would be; another one that awaits it gets its result, and what holds out is left after a moment."""
    gate, closed = Held(), []

    class Watcher:
        def begin(self, run: Any) -> None:
            """It looks only at the end."""

        def end(self) -> None:
            closed.append(True)

    async def main() -> Any:
        run = DAG([Node("held", gate), Node("after", int, depends_on=["held"])]).start(observers=[Watcher()])
        other = asyncio.ensure_future(awaited(run))
        await until(gate.reached)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run, 0.01)
        return await other

    result = asyncio.run(main())
    gate.release.set()
    assert result.status is RunStatus.ABORTED
    assert result.node_results["after"].status == "cancelled"
    assert closed == [True]
    with pytest.raises(RunError, match="cancelled with the task that awaited it"):
        result.raise_for_status()


def test_a_run_that_is_shielded_goes_on():
    """The way of asyncio, for who wants only to stop waiting."""
    gate = Held()

    async def main() -> Any:
        run = DAG([Node("held", gate)]).start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(run), 0.01)
        gate.release.set()
        return await run

    assert asyncio.run(main())["held"] == "done"


def test_the_handlers_of_a_run_that_is_cancelled_so_run_to_their_end():
    """They are what cleans up; who is cancelled once more does not wait for them."""
    held, cleaning = Held(), Held()

    async def main(times: int) -> Any:
        graph = DAG([Node("held", held), Node("clean", cleaning, handler="exit")])
        run = graph.start()
        waiting = asyncio.ensure_future(awaited(run))
        await until(held.reached)
        waiting.cancel()
        await until(cleaning.reached)
        if times == 1:
            cleaning.release.set()
        else:
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return run.status("clean")

    assert asyncio.run(main(2)) == "cancelled"
    held.reached.clear()
    cleaning.reached.clear()
    assert asyncio.run(main(1)) == "completed"
    held.release.set()


@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_ctrl_c_comes_through_while_a_run_is_awaited(backend):
    """Also where the task cannot be stopped, which goes on in its thread."""
    gate = Held()
    runs: list[Any] = []

    async def press() -> None:
        await until(gate.reached)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        pressing = asyncio.ensure_future(press())
        runs.append(DAG([Node("held", gate), Node("after", int, depends_on=["held"])]).start(backend=backend))
        await runs[0]
        await pressing

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert not gate.release.is_set()
    gate.release.set()
    assert runs[0].wait(PATIENCE).node_results["after"].status == "cancelled"


LET_GO = threading.Event()


def held() -> None:
    assert LET_GO.wait(PATIENCE)


def test_a_view_of_a_run_that_goes_on_cannot_be_awaited(tmp_path):
    """It is somebody else's, and to be cancelled by them."""
    run = DAG([Node(held)]).start(checkpoint=tmp_path)
    seen = view(tmp_path)
    with pytest.raises(RunError, match="a view"):
        asyncio.run(awaited(seen))
    seen.close()
    LET_GO.set()
    assert run.wait(PATIENCE).ok
    assert asyncio.run(awaited(view(tmp_path))).ok
