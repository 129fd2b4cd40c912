"""A third party's backend, both ways, passes what is shipped for third parties, and does what it was written for."""

from __future__ import annotations

import os
from functools import partial

import pytest

from dagrid import DAG, Node
from dagrid.execution.backends.adapter import adapt
from dagrid.ports import Backend
from dagrid.testing import BackendConformance, EngineConformance, Gate
from dagrid.testing.gate import stand
from examples.fresh.backend import FourMethods, FreshBackend
from examples.fresh.fork import preload

pytestmark = [pytest.mark.example, pytest.mark.timeout(120)]
MODULES = ["dagrid.testing.conformance", "dagrid.testing.engine_conformance"]


class TestFourMethods(BackendConformance):
    transfers = True
    frees_slots = False  # a pool of threads cannot stop what it runs
    carries_surroundings = False  # processes are forked from a server that has those of its own start
    patience = 30.0

    def make_backend(self, slots: int) -> Backend:
        preload(MODULES)
        return adapt(FourMethods(slots))


class TestFresh(BackendConformance):
    carries_surroundings = False
    patience = 30.0

    def make_backend(self, slots: int) -> Backend:
        return FreshBackend(slots, MODULES)


class TestFreshWithTheEngine(EngineConformance):
    names_workers = False  # a name for each attempt would say nothing
    patience = 30.0

    def make_backend(self, slots: int) -> Backend:
        return FreshBackend(slots, MODULES)


def test_each_attempt_has_a_process_of_its_own():
    """That is what it is for: nothing of one task is left for the next."""
    nodes = [Node(f"n{i}", os.getpid) for i in range(4)]
    with FreshBackend(2, MODULES) as backend:
        result = DAG(nodes).run(backend=backend)
    pids = {result[f"n{i}"] for i in range(4)}
    assert len(pids) == 4
    assert os.getpid() not in pids


def test_a_late_attempt_is_killed():
    """A timeout ends the process, and not only the wait for it."""
    with FreshBackend(1, MODULES) as backend, Gate(30.0) as gate:
        run = DAG([Node("late", partial(stand, gate.address), timeout=1.0)]).start(backend=backend)
        gate.meet().wait_gone()
        assert run.wait(30).timed_out == 1
