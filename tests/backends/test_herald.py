"""Who says of calls in an engine's worker that they have begun: those that last are told of, once, and no others."""

from __future__ import annotations

import queue
import time
from functools import partial

from dagrid.execution.backends._herald import Herald


def test_a_call_that_lasts_is_told_of_once() -> None:
    """With the time of day at which it began, while it still runs; several at once each by itself."""
    herald, heard = Herald(after=0.001), queue.SimpleQueue[tuple[str, float]]()
    before = time.time()

    def tell(name: str, at: float) -> None:
        heard.put((name, at))

    numbers = [herald.enter(partial(tell, name)) for name in ("one", "two")]
    found = dict(heard.get(timeout=10) for _ in numbers)
    assert all(before <= at <= time.time() for at in found.values())
    assert sorted(found) == ["one", "two"]
    for number in numbers:
        herald.leave(number)
    assert heard.empty()


def test_a_call_that_is_over_is_not_told_of() -> None:
    """Its report says it all; what comes after it is told of as ever, and a failing engine ends nothing."""
    herald, heard = Herald(after=0.2), queue.SimpleQueue[str]()  # nobody is preempted for that long
    herald.leave(herald.enter(lambda at: heard.put("over")))

    def fail(at: float) -> None:
        heard.put("failing")
        raise ConnectionError("the engine is gone")

    herald.enter(fail)
    assert heard.get(timeout=10) == "failing"
    herald.enter(lambda at: heard.put("after"))
    assert heard.get(timeout=10) == "after"


def test_it_wakes_up_again() -> None:
    """Where nothing has happened for long it rests, and the next call is told of all the same."""
    herald, heard = Herald(after=0.0), queue.SimpleQueue[float]()
    for _ in range(5):
        number = herald.enter(heard.put)
        assert heard.get(timeout=10) > 0
        herald.leave(number)
        while not herald._resting:
            time.sleep(0)
