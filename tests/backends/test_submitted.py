"""The four public methods, on workers that are pushed and on workers that pull."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dagrid.errors import BackendClosedError, WorkerLostError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.backends.thread import ThreadBackend
from tests.backends import process_tasks as tasks
from tests.backends.gates import Gate

PATIENCE = 20.0


def test_the_public_methods(one: MultiprocessingBackend, gate: Gate) -> None:
    """They are futures as everybody knows them: a timeout, a cancel before the start, a callback, an error."""
    held = one.submit(tasks.hold, gate.path)
    gate.meet()
    waiting, last = one.submit(tasks.nothing), one.submit(tasks.echo, "last")
    called: list[Any] = []
    last.add_done_callback(lambda future: called.append(future.result()))
    with pytest.raises(TimeoutError):
        one.result(held, timeout=0)
    assert not held.cancel()
    assert waiting.cancel()
    gate.release("held")
    assert [one.result(held), one.result(last)] == ["held", "last"]
    assert waiting.cancelled()
    with pytest.raises(KeyError, match="gone"):
        one.result(one.submit(tasks.fail, KeyError, "gone"))
    with pytest.raises(WorkerLostError, match="exited with code 5"):
        one.result(one.submit(tasks.leave, 5))
    assert one.result(one.submit(tasks.echo, "healed")) == "healed"
    assert called == ["last"]


def test_shutdown_waits_for_what_was_submitted_or_says_so(gate: Gate) -> None:
    """A future that nobody resolves hangs whoever waits for it."""
    patient = MultiprocessingBackend(1)
    futures = [patient.submit(tasks.echo, number) for number in range(5)]
    patient.shutdown()
    assert [future.result(0) for future in futures] == list(range(5))
    hasty = MultiprocessingBackend(1)
    running, waiting = hasty.submit(tasks.hold, gate.path), hasty.submit(tasks.nothing)
    gate.meet()
    hasty.shutdown(wait=False)
    gate.wait_gone()
    for future in (running, waiting):
        assert isinstance(future.exception(PATIENCE), BackendClosedError)
    with pytest.raises(BackendClosedError, match="Make a new one"):
        hasty.submit(tasks.nothing)


def test_the_public_methods_of_workers_that_pull() -> None:
    """The same futures: what waits can be cancelled, what fails raises, a burst is done in full."""
    going = threading.Event()
    with ThreadBackend(2) as backend:
        held = [backend.submit(going.wait, PATIENCE) for _ in range(2)]
        waiting, last = backend.submit(tasks.nothing), backend.submit(tasks.echo, "last")
        assert waiting.cancel()
        going.set()
        assert [future.result(PATIENCE) for future in (*held, last)] == [True, True, "last"]
        with pytest.raises(KeyError, match="gone"):
            backend.result(backend.submit(tasks.fail, KeyError, "gone"), PATIENCE)
        burst = [backend.submit(tasks.echo, number) for number in range(500)]
        assert [backend.result(future, PATIENCE) for future in burst] == list(range(500))
    with pytest.raises(BackendClosedError):
        backend.submit(tasks.nothing)


def test_a_value_that_only_looks_encoded_is_left_alone() -> None:
    """Bytes have a method `decode` as well."""
    with ThreadBackend(1) as backend:
        assert backend.result(backend.submit(tasks.echo, b"raw"), PATIENCE) == b"raw"
