"""The seat of calls inside an engine, with the threads that an engine lends it: nobody sleeps on what is there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from dagrid.execution.backends import _remote
from dagrid.execution.backends._performer import FINISHED, Performer
from dagrid.execution.backends._transfer import encode_function
from dagrid.ports import Call

ROUNDS = 1_000
PATIENCE = 30.0


@pytest.fixture
def changing_threads() -> Iterator[None]:
    """Let threads change as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("changing_threads")
def test_a_letter_wakes_who_performs_not_who_listens() -> None:
    """Who listens may have gone to sleep before the one that performs has: each is to be woken for what it waits for."""
    performer = Performer()
    call = Call(0, "node", int)
    order = _remote.order(call, encode_function(call))
    ended = threading.Semaphore(0)

    def listen() -> None:
        heard = 0
        while heard < ROUNDS:
            performer.await_news(0.0)
            for kind, _, _ in performer.gathered():
                if kind == FINISHED:
                    heard += 1
                    ended.release()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    for number in range(ROUNDS):
        time.sleep(0.0001)  # not for something to happen: both go to sleep meanwhile, in whatever order
        performer.take_in_turn(number, [(number + 1, 0, order)], (), 0)
        assert ended.acquire(timeout=PATIENCE), f"call {number} was not performed"
    listening.join(PATIENCE)
    performer.end()
