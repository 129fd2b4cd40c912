"""The documented example of a custom backend, word for word, on a real Dask cluster of two worker processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dagrid.execution.backends.adapter import adapt
from dagrid.graph import DAG, Node
from dagrid.machine.events import Outcome
from dagrid.ports import Backend, FourMethods
from dagrid.testing import Gate, Probe
from dagrid.testing.gate import stand

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

EXAMPLE = '''
from dagrid.execution.backends.base import DistributedBackend

class DaskBackend:
    """Example backend using Dask distributed."""

    def __init__(self, scheduler_address: str):
        from dask.distributed import Client
        self._client = Client(scheduler_address)

    @property
    def name(self) -> str:
        return "dask"

    def submit(self, fn, *args, **kwargs):
        return self._client.submit(fn, *args, **kwargs)

    def result(self, future, timeout=None):
        return future.result(timeout=timeout)

    def shutdown(self, wait=True):
        self._client.close()
'''


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def stranger(scheduler: str) -> FourMethods:
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    made: FourMethods = names["DaskBackend"](scheduler)
    return made


@pytest.fixture
def probe(stranger: FourMethods) -> Iterator[Probe]:
    backend: Backend = adapt(stranger)
    with Probe(backend, patience=30.0) as probe:
        yield probe
    backend.close()
    probe.check()


def test_values_come_from_other_processes(probe: Probe) -> None:
    """Lambdas travel, arguments too, and both workers take part."""
    attempts = [probe.submit(lambda number: (number * 2, os.getpid()), number) for number in range(50)]
    values = [probe.value(attempt) for attempt in attempts]
    assert [value for value, _ in values] == [number * 2 for number in range(50)]
    assert len({pid for _, pid in values} - {os.getpid()}) == 2


def test_equal_calls_are_all_performed(probe: Probe) -> None:
    """Dask takes functions to be pure and remembers values; two nodes with one function are two tasks all the same."""
    tokens = [probe.value(probe.submit(os.urandom, 16)) for _ in range(2)]
    first, second = (probe.submit(os.urandom, 16) for _ in range(2))
    assert len({*tokens, probe.value(first), probe.value(second)}) == 4


def test_an_error_keeps_its_type_and_traceback(probe: Probe) -> None:
    """A failure is told as if it had happened here, and a retry is a new try."""

    def guilty() -> None:
        raise LookupError("not here")

    for _ in range(2):
        outcome = probe.outcome(probe.submit(guilty))
        assert outcome.kind is Outcome.FAILED
        assert type(outcome.error) is LookupError
        assert outcome.error.__traceback__ is not None
        frame = outcome.error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        assert frame.tb_frame.f_code.co_name == "guilty"


def test_what_cannot_travel_fails_alone(probe: Probe) -> None:
    """The attempt fails, the engine goes on."""
    assert probe.outcome(probe.submit(len, threading.Lock())).kind is Outcome.FAILED
    assert probe.outcome(probe.submit(threading.Lock)).kind is Outcome.FAILED
    assert probe.value(probe.submit(len, "still there")) == 11


def test_a_waiting_call_can_be_cancelled(probe: Probe) -> None:
    """Behind two running calls a third one waits; cancelled, it ends and frees its slot."""
    with Gate(patience=30.0) as gate:
        running = [probe.submit(stand, gate.address, str(number)) for number in range(2)]
        visits = [gate.meet() for _ in running]
        waiting = probe.submit(stand, gate.address, "never")
        probe.wait_started(waiting)
        probe.cancel(waiting)
        assert probe.outcome(waiting).kind is Outcome.CANCELLED
        for visit in visits:
            visit.release()
        assert [probe.value(attempt) for attempt in running] == ["0", "1"]


def test_the_four_methods_still_work(stranger: FourMethods) -> None:
    """The adapted object can be used as the stranger could."""
    public: Any = adapt(stranger)
    assert public.name == "dask"
    assert public.result(public.submit(sum, [1, 2, 3]), timeout=30) == 6
    public.shutdown(wait=True)


def test_a_graph_runs_on_it(stranger: FourMethods) -> None:
    """The object itself is the backend of a run: values flow from one worker process to the next."""
    nodes = [Node("one", lambda: b"raw"), Node("two", lambda one: (one, os.getpid()), inputs={"one": "one"})]
    value, pid = DAG(nodes).run(backend=stranger)["two"]
    assert value == b"raw"
    assert pid != os.getpid()
    stranger.shutdown(wait=True)
