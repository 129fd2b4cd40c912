"""Worker processes and their ends: who dies, what is stopped with whom, and that nothing is left."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest

from dagrid.errors import BackendClosedError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.machine.events import Finished, Outcome, Recalled, Started, WorkerGone
from dagrid.ports import Call
from tests.backends import process_tasks as tasks
from tests.backends.gates import Gate
from tests.backends.recorder import PATIENCE, Recorder, call


@pytest.mark.parametrize(
    ("death", "reason"),
    [(call(0, tasks.leave, 3), "exited with code 3"), (call(0, tasks.kill_self), "SIGKILL.*out of memory")],
    ids=["exit", "kill"],
)
def test_a_death_costs_the_running_attempt_alone(two: MultiprocessingBackend, death: Call, reason: str) -> None:
    """What had ended stays, what waited goes back, and another process takes the place."""
    host = Recorder(two)
    first, second = host.workers(2)
    before = [call(attempt, tasks.echo, attempt) for attempt in range(100, 110)]
    behind = [call(attempt, tasks.echo, attempt) for attempt in range(200, 210)]
    host.perform(first, *before, death, *behind)
    host.perform(second, call(1, tasks.echo, "neighbour"))
    gone = host.gone()
    assert gone.worker == first
    host.wait(lambda event: isinstance(event, WorkerGone) and re.search(reason, event.reason) is not None)
    position = host.events.index(gone)
    reported = {event.attempt for event in host.events[:position] if isinstance(event, Finished)}
    started = {event.attempt for event in host.events[:position] if isinstance(event, Started)}
    assert {event.attempt for event in before} <= reported
    assert death.attempt in started - reported
    assert not started & {event.attempt for event in behind}
    third = host.workers(3)[2]
    host.perform(third, *behind)
    assert [host.value(event.attempt) for event in behind] == list(range(200, 210))
    assert host.value(1) == "neighbour"


def test_a_cancelled_call_frees_its_process_at_once(one: MultiprocessingBackend, gate: Gate) -> None:
    """A timeout that waits for the task is none; what the task had started is ended too."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.hold_with_child, gate.path), call(1, tasks.echo, "behind"))
    gate.meet()
    host.started(0)
    host.session.cancel(worker, 0)
    gate.wait_gone()
    assert host.gone().worker == worker
    assert not [event for event in host.events if isinstance(event, Started) and event.attempt == 1]
    host.perform(host.workers(2)[1], call(2, tasks.echo, "next"))
    assert host.value(2) == "next"


def test_what_waits_behind_a_long_task_comes_back(one: MultiprocessingBackend, gate: Gate) -> None:
    """Idle workers take over what a batch holds back; the running call stays, and none is lost between the pipes."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.hold, gate.path), *[call(attempt, tasks.nothing) for attempt in range(1, 10)])
    gate.meet()
    host.started(0)
    large = bytes(2**19)
    host.perform(worker, *[call(attempt, tasks.echo, large) for attempt in range(10, 20)])
    host.session.recall(worker, list(range(19)))

    def given() -> list[int]:
        return sorted(number for event in host.events if isinstance(event, Recalled) for number in event.attempts)

    with host.changed:
        assert host.changed.wait_for(lambda: len(given()) == 18, PATIENCE), given()
    assert given() == list(range(1, 19))
    gate.release("done")
    assert host.value(0) == "done"
    assert len(host.value(19)) == len(large)
    assert {event.attempt for event in host.events if isinstance(event, Finished)} == {0, 19}


def test_a_waiting_call_is_cancelled_without_force(one: MultiprocessingBackend, gate: Gate) -> None:
    """The call that runs is somebody else's."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.hold, gate.path), call(1, tasks.nothing), call(2, tasks.echo, "last"))
    gate.meet()
    host.session.cancel(worker, 1)
    assert host.outcome(1).outcome == Outcome.CANCELLED
    gate.release("done")
    assert [host.value(0), host.value(2)] == ["done", "last"]


def test_the_end_of_a_session_stops_its_work_and_no_others(
    two: MultiprocessingBackend, gates: Callable[[], Gate]
) -> None:
    """A run that is over must not hold processes; what another run had waiting there is given back to it."""
    first, second = Recorder(two), Recorder(two)
    mine, theirs = gates(), gates()
    places, others = first.workers(2), second.workers(2)
    first.perform(places[0], call(0, tasks.hold, mine.path))
    mine.meet()
    second.perform(others[0], call(0, tasks.hold, theirs.path))  # finds the process that is free
    theirs.meet()
    second.perform(others[1], call(1, tasks.echo, "waits behind the first run's"))
    first.perform(places[1], call(1, tasks.echo, "waits behind the second run's"))
    first.session.close()
    mine.wait_gone()
    told = len(first.events)
    assert second.gone().worker == others[1]
    second.perform(second.workers(3)[2], call(1, tasks.echo, "again"))
    assert second.value(1) == "again"
    theirs.release("kept")
    assert second.value(0) == "kept"
    assert len(first.events) == told


def test_close_leaves_no_process(gates: Callable[[], Gate]) -> None:
    """With work running, with a session open, and twice."""
    for wait in (True, False):
        gate = gates()
        backend = MultiprocessingBackend(1)
        host = Recorder(backend)
        host.perform(host.workers(1)[0], call(0, tasks.hold_with_child, gate.path))
        gate.meet()
        backend.close(wait)
        gate.wait_gone()
        assert "closed" in host.gone().reason
        backend.close(wait)
        with pytest.raises(BackendClosedError):
            Recorder(backend)


# Only Linux kills for us what does not let go of the interpreter.
STUBBORN = ["hold_with_child", *(["hold_everything"] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("task", STUBBORN)
def test_nothing_outlives_a_killed_parent(gate: Gate, task: str) -> None:
    """Nobody is left to stop them: not the task, and not what it started."""
    program = f"""
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from tests.backends import process_tasks as tasks
from tests.backends.gates import Gate
MultiprocessingBackend(2).submit(tasks.{task}, {gate.path!r}).result()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    gate.meet()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gate.wait_gone()


def test_a_backend_that_is_dropped_ends_its_processes(gate: Gate) -> None:
    """A notebook makes many and closes none."""
    backend = MultiprocessingBackend(1)
    host = Recorder(backend)
    host.perform(host.workers(1)[0], call(0, tasks.fork_that_stays, gate.path))
    gate.meet()
    host.session.close()
    seen = weakref.ref(backend)
    del backend
    gc.collect()
    assert seen() is None
    gate.wait_gone()


def test_a_fork_of_the_program_does_not_keep_workers_alive(gates: Callable[[], Gate]) -> None:
    """A program may use the fork of multiprocessing beside us; its children must not stand in for their parent."""
    task, child = gates(), gates()
    program = f"""
import os, signal
from dagrid.errors import BackendClosedError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from tests.backends import process_tasks as tasks
backend = MultiprocessingBackend(1)
backend.submit(tasks.nothing).result()
backend.submit(tasks.hold, {task.path!r})
if os.fork():
    signal.pause()
try:
    backend.open(None)
except BackendClosedError:
    tasks.hold({child.path!r})
os._exit(0)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    task.meet()
    child.meet()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    task.wait_gone()
    child.release()
    child.wait_gone()
