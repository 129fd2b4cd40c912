"""Strands: many are served by few threads, each by one at a time, and nothing that is said to one is lost."""

from __future__ import annotations

import gc
import threading
import weakref
from time import monotonic

import pytest

from dagrid.execution.strands import Strand, Strands

PATIENCE = 30.0


class Desk:
    """Somebody who is served: counts what was put before it, and sees whether two threads serve it at once."""

    def __init__(self, strands: Strands, wanted: int = 1) -> None:
        self.wanted = wanted
        self.put: list[None] = []
        self.done = 0
        self.met = False
        self.threads: set[int] = set()
        self.finished = threading.Event()
        self._alone = threading.Lock()
        self.strand = strands.begin(self.serve)

    def serve(self) -> float | None:
        if not self._alone.acquire(blocking=False):
            self.met = True
            return None
        try:
            self.threads.add(threading.get_ident())
            while self.put:
                self.put.pop()
                self.done += 1
        finally:
            self._alone.release()
        if self.done == self.wanted:
            self.strand.end()
            self.finished.set()
        return None

    def ask(self) -> None:
        self.put.append(None)
        self.strand.stir()


@pytest.mark.parametrize("most", [1, 3])
def test_each_is_served_by_one_thread_at_a_time_and_nothing_is_lost(most: int) -> None:
    strands = Strands("strands", most)
    desks = [Desk(strands, wanted=400) for _ in range(20)]

    def ask_all() -> None:
        for _ in range(100):
            for desk in desks:
                desk.ask()

    askers = [threading.Thread(target=ask_all) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE)
    assert all(desk.finished.wait(PATIENCE) for desk in desks)
    assert not any(desk.met for desk in desks)
    assert len(set().union(*(desk.threads for desk in desks))) <= most


def test_one_is_served_again_at_the_time_that_it_says() -> None:
    strands = Strands("strands")
    served: list[float] = []
    finished = threading.Event()

    def serve() -> float | None:
        served.append(monotonic())
        if len(served) < 3:
            return served[-1]
        strand.end()
        finished.set()
        return None

    strand = strands.begin(serve)
    strand.stir()
    assert finished.wait(PATIENCE)


def test_what_is_said_while_one_is_served_is_seen_to_afterwards() -> None:
    strands = Strands("strands", 2)
    begun, go_on, finished = threading.Event(), threading.Event(), threading.Event()
    times = 0

    def serve() -> float | None:
        nonlocal times
        times += 1
        if times == 1:
            begun.set()
            assert go_on.wait(PATIENCE)
            return None
        strand.end()
        finished.set()
        return None

    strand = strands.begin(serve)
    strand.stir()
    assert begun.wait(PATIENCE)
    strand.stir()
    other = Desk(strands)
    other.ask()  # the second thread has seen that the first strand is being served when this one is over
    assert other.finished.wait(PATIENCE)
    go_on.set()
    assert finished.wait(PATIENCE)


def test_the_fault_of_one_is_told_and_is_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    strands = Strands("strands")
    fault = ValueError("a fault")

    def fails() -> float | None:
        raise fault

    strand = strands.begin(fails)
    strand.stir()
    other = Desk(strands)
    other.ask()
    assert other.finished.wait(PATIENCE)
    assert told == [fault]
    strand.end()


def test_nothing_is_kept_of_one_that_has_ended_before_its_time() -> None:
    strands = Strands("strands")

    class Owner:
        strand: Strand

        def serve(self) -> float | None:
            served.set()
            return monotonic() + 3_600.0

    owner, served = Owner(), threading.Event()
    owner.strand = strands.begin(owner.serve)
    owner.strand.stir()
    assert served.wait(PATIENCE)
    desk = Desk(strands)
    desk.ask()  # the one thread has done with the first one when this is over
    assert desk.finished.wait(PATIENCE)
    owner.strand.end()
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
