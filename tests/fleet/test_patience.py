"""A worker without its coordinator is quiet, and hardly costs anything; with it again, it is back within seconds."""

from __future__ import annotations

import itertools
import logging
import random

from dagrid.errors import BackendUnreachableError
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import OFTEN, PAUSE, STEADY, LastWords, Patience
from dagrid.execution.backends.cluster.sayings import KNOWN, Sayings

AWAY = BackendUnreachableError("nobody is there")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def patience(draw=lambda: 1.0, clock=None) -> Patience:
    return Patience(Address("host"), draw, clock or Clock())


def test_pauses_grow_to_three_seconds_and_no_further() -> None:
    waiting, pauses = patience(), []
    for _ in range(100):
        waiting.failed(AWAY)
        pauses.append(waiting.seconds())
    assert pauses[0] < 0.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE == 3.0


def test_no_two_callers_come_at_once() -> None:
    """A thousand workers whose coordinator begins anew would else all call in the same moment, and again."""
    draw = random.Random(1).random
    callers = [patience(draw) for _ in range(100)]
    for caller in callers:
        for _ in range(10):
            caller.failed(AWAY)
    pauses = sorted(caller.seconds() for caller in callers)
    assert pauses[0] < 1.2
    assert pauses[-1] > 2.7
    assert max(later - earlier for earlier, later in itertools.pairwise(pauses)) < 0.3


def test_a_stream_that_was_good_is_made_anew_at_once_and_one_that_never_is_not() -> None:
    """A coordinator that hangs up on each greeting must not be called ten times a second."""
    clock = Clock()
    waiting = patience(clock=clock)
    for _ in range(20):
        waiting.linked()
        clock.now += STEADY / 2
        waiting.failed(AWAY)
    assert waiting.seconds() == PAUSE
    waiting.linked()
    clock.now += STEADY
    waiting.failed(AWAY)
    assert waiting.seconds() < 0.5


def test_who_may_lose_what_he_has_in_a_short_time_is_back_before() -> None:
    """A coordinator with leases of two seconds began anew, and workers and runs that were well came back after three: values that
    the runs had not fetched yet were gone by then.
    """
    waiting = patience()
    for lease, longest in ((2.0, 0.4), (30.0, PAUSE), (3600.0, PAUSE)):
        waiting.linked(lease)
        for _ in range(20):
            waiting.failed(AWAY)
        assert waiting.seconds() == longest


def test_an_hour_without_a_coordinator_fits_on_a_page(caplog) -> None:
    clock = Clock()
    waiting = patience(lambda: random.Random(int(clock.now)).random(), clock)
    with caplog.at_level(logging.INFO, "dagrid.fleet"):
        while clock.now < 3600:
            waiting.failed(AWAY)
            clock.now += waiting.seconds()
    assert 55 <= len(caplog.records) <= 62, "once a minute"


def test_reasons_that_change_are_said_at_most_once_a_second(caplog) -> None:
    clock = Clock()
    waiting = patience(clock=clock)
    with caplog.at_level(logging.INFO, "dagrid.fleet"):
        for number in range(1000):
            waiting.failed(BackendUnreachableError(f"reason {number}"))
            clock.now += 0.01
    assert len(caplog.records) == 10


def test_many_runs_without_a_coordinator_say_so_once(caplog) -> None:
    """A program with eight runs said it eight times a second, while the coordinator began anew."""
    clock, words = Clock(), LastWords()
    lines = [Patience(Address("host"), lambda: 1.0, clock, words) for _ in range(8)]
    for reason in ("the stream has broken", "nobody is there", "nobody is there"):
        for line in lines:
            line.failed(BackendUnreachableError(reason))
        clock.now += OFTEN
    assert [record.getMessage().partition(".")[0] for record in caplog.records] == [
        "the stream has broken",
        "nobody is there",
    ]


def test_what_went_wrong_is_a_sentence_of_its_own(caplog) -> None:
    """Whatever gRPC, or the system, has called it."""
    for words in ("nobody is there", "nobody is there.", "Is it there?"):
        patience().failed(BackendUnreachableError(words))
    said = [record.getMessage().partition(" It is tried again")[0] for record in caplog.records]
    assert said == ["nobody is there.", "nobody is there.", "Is it there?"]


def test_what_was_said_is_forgotten_in_the_end() -> None:
    """Strangers that say something new each time must neither fill the log nor the memory."""
    clock = Clock()
    sayings = Sayings(60.0, clock)
    assert sum(sayings.due(number) for number in range(10_000)) == KNOWN + 1
    assert len(sayings._said) <= KNOWN + 1
    clock.now = 61.0
    assert sayings.due("again")
    assert not sayings.due("again")
