"""Threads serve one run after another: what that saves, and what it must not keep."""

from __future__ import annotations

import gc
import os
import threading
import warnings
import weakref
from functools import partial

from dagrid import DAG, Node
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.testing import Gate
from dagrid.testing.gate import stand


class Thing:
    """Something that can be seen to be gone."""


def test_the_next_run_finds_the_threads_of_the_last():
    """Starting a thread takes longer than a run of a few short nodes, and services start many of those."""
    dag = DAG([Node("who", threading.get_native_id)])
    seen = {dag.run(backend="thread?max_workers=1")["who"] for _ in range(20)}
    assert len(seen) < 20


def test_a_waiting_thread_holds_nothing_of_a_run():
    """Values may be large, and a thread may wait."""
    gone = threading.Event()
    things: list[weakref.ref[Thing]] = []

    def make():
        thing = Thing()
        things.append(weakref.ref(thing, lambda _: gone.set()))
        return thing

    with ThreadBackend(max_workers=1) as backend:
        DAG([Node("make", make)]).run(backend=backend)
    for _ in range(1_000):  # the thread is told that the run is over, and may be a little late
        gc.collect()
        if gone.wait(0.01):
            break
    assert things[0]() is None


def test_closing_waits_for_what_runs_and_not_for_threads_that_wait():
    """`close(wait=True)` returns when the last task has ended; its thread then serves others."""
    with Gate() as gate:
        backend = ThreadBackend(max_workers=1)
        DAG([Node("slow", partial(stand, gate.address))]).start(backend=backend)
        visit = gate.meet()
        closing = threading.Thread(target=backend.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        visit.release()
        closing.join(10.0)
        assert not closing.is_alive()


def test_a_fork_starts_threads_of_its_own():
    """The threads that wait are not there in a child, which must not give them work."""
    dag = DAG([Node("one", lambda: 1)])
    assert dag.run(backend="thread")["one"] == 1
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # newer Pythons warn of forks beside threads, which is the point
        child = os.fork()
    if not child:
        try:
            os.write(writing, str(dag.run(backend="thread", progress=False)["one"]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"1"
    os.close(reading)
    os.waitpid(child, 0)
