"""What is particular to a stranger: what it must have, how much it is given at once, and how odd its futures may be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from dagrid.errors import BackendClosedError
from dagrid.execution.backends.adapter import DEFAULT_SLOTS, adapt
from dagrid.machine.events import Outcome
from dagrid.ports import Encoded, FourMethods
from dagrid.testing import Probe


class Lazy:
    """It performs a call when it is asked for the result; its futures are anything at all."""

    name = "lazy"

    def __init__(self) -> None:
        self.downs: list[bool] = []
        self.seen: list[Any] = []

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.seen.append(fn)
        return lambda: fn(*args, **kwargs)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        return future()

    def shutdown(self, wait: bool = True) -> None:
        self.downs.append(wait)


class Refusing(Lazy):
    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise OSError("no connection")


class Sized(Lazy):
    max_workers = 3


class CallsBackTwice(Lazy):
    """Like an engine that tells of the end of a call more than once, and at once."""

    class Future:
        def __init__(self, value: Any) -> None:
            self.value = value

        def add_done_callback(self, callback: Callable[[Any], None]) -> None:
            callback(self)
            callback(self)

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.Future(fn(*args, **kwargs))

    def result(self, future: Any, timeout: float | None = None) -> Any:
        return future.value


class Parcel(Encoded):
    """A value in the form in which it travelled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def decode(self) -> Any:
        return self.value


def test_any_object_with_the_four_methods_is_enough() -> None:
    """A future may be a plain function; closing shuts the stranger down, once, in the way that was asked for."""
    stranger = Lazy()
    backend = adapt(stranger)
    with Probe(backend) as probe:
        assert [probe.value(probe.submit(pow, 2, number)) for number in range(5)] == [1, 2, 4, 8, 16]
    assert stranger.downs == []
    backend.close(wait=False)
    backend.close()
    assert stranger.downs == [False]
    probe.check()
    with pytest.raises(BackendClosedError, match="'lazy' is closed"):
        backend.open(probe)


def test_what_is_missing_is_named() -> None:
    """An object that only looks similar is refused before anything runs."""
    stranger: Any = object()
    with pytest.raises(TypeError, match="has no name, submit, result, shutdown"):
        adapt(stranger)


@pytest.mark.parametrize(("make", "slots"), [(Lazy, DEFAULT_SLOTS), (Sized, 3)])
def test_it_is_one_worker_with_as_many_slots_as_it_says(make: Callable[[], FourMethods], slots: int) -> None:
    """The slots are how many calls may be with it at once."""
    with Probe(adapt(make())) as probe:
        probe.wait_slots(slots)
        (worker,) = probe.workers()
        assert (worker.slots, worker.window, worker.pulls) == (slots, slots, False)


def test_a_submit_that_raises_is_a_failed_attempt() -> None:
    """An engine that lost its connection fails the attempts, and not the run that asked."""
    with Probe(adapt(Refusing())) as probe:
        outcome = probe.outcome(probe.submit(len, "word"))
        assert (outcome.kind, str(outcome.error), outcome.text) == (
            Outcome.FAILED,
            "no connection",
            "OSError: no connection",
        )
    probe.check()


def test_a_future_that_calls_back_twice_ends_once() -> None:
    """Exactly one terminal event, whatever a stranger does."""
    backend = adapt(CallsBackTwice())
    with Probe(backend) as probe:
        attempts = [probe.submit(len, "word") for _ in range(100)]
        assert [probe.value(attempt) for attempt in attempts] == [4] * 100
    backend.close()
    probe.check()


def test_encoded_arguments_are_opened_and_others_are_not() -> None:
    """A stranger knows nothing of our encodings, and bytes are not one of them."""
    with Probe(adapt(Lazy())) as probe:
        attempt = probe.submit(lambda *args, **kwargs: (args, kwargs), Parcel(1), b"raw", named=Parcel("two"))
        assert probe.value(attempt) == ((1, b"raw"), {"named": "two"})


def test_a_stranger_that_pickles_sends_nothing_of_ours() -> None:
    """Workers without this package can perform what they are sent; equal functions are told apart on this side only."""
    stranger = Lazy()
    with Probe(adapt(stranger)) as probe:
        for _ in range(2):
            assert probe.value(probe.submit(len, "word")) == 4
    data = pickle.dumps(stranger.seen[0])
    assert b"dagrid" not in data
    assert pickle.loads(data)("word") == 4
    assert stranger.seen[0].__name__ == "len"
    first, second = (seen.__dask_tokenize__() for seen in stranger.seen)
    assert first != second
