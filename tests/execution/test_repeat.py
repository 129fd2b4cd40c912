"""A task that raises RepeatTask runs again: as often as its node says, after a wait that holds nothing, and it has not failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dagrid
from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, Repeat, Retry
from dagrid.assemble import view
from dagrid.errors import CapabilityError, InvalidNodeError, SerializationError
from tests.execution.durable_tasks import noted
from tests.execution.wishing_tasks import flaky, poll, poll_or_give_up

ROOT = Path(__file__).parents[2]
BACKENDS = ["inline", "thread", "multiprocessing?max_workers=1"]


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_task_runs_again_until_it_is_content(log: str, tmp_path: Path, backend: str, recorded: bool) -> None:
    """Without a setting too; its value is that of the last time."""
    nodes = [Node("poll", partial(poll, log, 4)), Node("next", lambda poll: poll + 1, ["poll"])]
    result = DAG(nodes).run(backend=backend, checkpoint=tmp_path / "kept" if recorded else None)
    assert result["next"] == 5
    assert result.node_result("poll").attempts == 4
    assert result.ok


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_at_its_limit_a_node_completes_with_what_its_task_left(
    log: str, tmp_path: Path, backend: str, recorded: bool
) -> None:
    """The value of the last RepeatTask, also for who reads the record."""
    nodes = [
        Node("poll", partial(poll, log, 9), repeat=Repeat(limit=3)),
        Node("next", lambda poll: poll * 10, ["poll"]),
    ]
    result = DAG(nodes).run(backend=backend, checkpoint=tmp_path / "kept" if recorded else None, run_id=None)
    assert (result["poll"], result["next"]) == (3, 30)
    assert noted(log) == ["poll"] * 3
    if recorded:
        store_view = view(tmp_path / "kept")
        assert store_view.node_result("poll").value == 3
        store_view.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_its_limit_a_task_may_raise_something_instead(log: str, backend: str) -> None:
    """Until then it is run again, and has not failed."""
    result = DAG([Node("poll", partial(poll_or_give_up, log, 9), repeat=Repeat(limit=3))]).run(backend=backend)
    assert (result.node_result("poll").status, noted(log)) == (NodeStatus.FAILED, ["poll"] * 3)
    assert "3 times is enough" in str(result.node_result("poll").error)
    enough = DAG([Node("poll", partial(poll_or_give_up, log, 6), repeat=Repeat(limit=3))]).run(backend=backend)
    assert enough["poll"] == 6


def test_repeats_use_up_no_retries(log: str) -> None:
    """They are no failures."""
    result = DAG([Node("flaky", partial(flaky, log), retries=Retry(2), repeat=Repeat(limit=3))]).run(backend="inline")
    assert result["flaky"] == "done"
    assert result.node_result("flaky").attempts == 5


def test_the_waits_grow_and_hold_no_slot(log: str) -> None:
    """One worker performs others meanwhile; the clock says how long the waits were."""
    assert [Repeat(interval=2.0, backoff=3.0, max_interval=10.0).delay_after(n) for n in range(3)] == [2.0, 6.0, 10.0]
    nodes = [
        Node("poll", partial(poll, log, 3), repeat=Repeat(interval=0.2, backoff=2.0), priority=1),
        Node("other", lambda: 1),
    ]
    run = DAG(nodes).start(backend="thread?max_workers=1")
    result = run.wait(20)
    assert result.node_result("other").ended < result.node_result("poll").started
    assert result.total_duration_seconds >= 0.6
    trace = result.trace
    assert trace is not None
    assert [span.outcome for span in trace if span.node == "poll"] == ["repeated", "repeated", "completed"]
    assert result.profile().to_dict()


def test_a_wait_is_explained_and_cancelled(log: str) -> None:
    """It may be an hour."""
    run = DAG([Node("poll", partial(poll, log, 9), repeat=Repeat(interval=3600.0, max_interval=3600.0))]).start()
    next(event for event in run.events() if event.kind == "repeated")
    assert run.status("poll") is NodeStatus.WAITING
    assert run.explain("poll").endswith(" s, as it asked to; 1 times so far.")
    run.cancel()
    assert run.wait(20).node_result("poll").status is NodeStatus.CANCELLED


DYING = """
import sys
from functools import partial
from dagrid import DAG, Node, Repeat
from tests.execution.wishing_tasks import poll_or_die

log, folder = sys.argv[1:]
node = Node("poll", partial(poll_or_die, log, 99, 3), repeat=Repeat(limit=4, interval=0.01))
DAG([node]).run(backend="inline", checkpoint=folder, run_id="run")
"""


def test_a_killed_run_counts_on(log: str, tmp_path: Path) -> None:
    """How often it has run is in the journal; the time that died with its process does not count as one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", DYING, log, str(tmp_path / "kept")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert noted(log) == ["poll"] * 3
    result = dagrid.resume(tmp_path / "kept", "run", backend="inline")
    assert result["poll"] == 5  # two before, one that died, and two: four that counted
    assert result.node_result("poll").attempts == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Repeat(limit=-1), "limit is a whole number"),
        (lambda: Repeat(interval=-1.0), "Repeat: interval is seconds"),
        (lambda: Repeat(backoff=0.5), "Repeat: backoff is a factor"),
        (lambda: Node("a", int, repeat=3), "repeat is a Repeat"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    """Before anything runs."""
    with pytest.raises(InvalidNodeError, match=words):
        make()


def test_json_keeps_it() -> None:
    """And says what no Repeat has."""
    graph = DAG([Node("a", repeat=Repeat(3, 1.5))])
    assert DAG.from_json(graph.to_json()).node("a").repeat == Repeat(3, 1.5)
    with pytest.raises(SerializationError, match="Did you mean 'limit'"):
        DAG.from_json(graph.to_json().replace('"limit"', '"limits"'))


def test_parts_refuse_the_setting() -> None:
    """What a part is told of a node has no place for it."""
    with pytest.raises(CapabilityError, match="run again"):
        PartitionedDAGExecutor(DAG([Node("a", int, repeat=Repeat())]), 1)
