"""How a node may be tried again, or run again because it asks for it: frozen records and the arithmetic of their delays.

This room knows numbers only: it neither sleeps nor draws; the caller brings the draw and does the waiting.
"""

from __future__ import annotations

import math

import msgspec

from dagrid.errors import InvalidNodeError


class Retry(msgspec.Struct, frozen=True):
    """Try a failed node again, at most `max_retries` times, with growing delays.

    Args:
        max_retries: how many tries may follow the first one; 0 means none.
        delay: seconds before the first retry.
        backoff: each further delay is that many times the one before; at least 1.
        max_delay: no delay is longer than this, in seconds.
        jitter: fraction of the delay, 0 to 1, that a random draw may take away from it, so that many failed nodes do
            not come back at one instant. 0 is exact, 1 is anything between nothing and the whole delay.
        on: the exception classes that are worth another try.

    Raises:
        InvalidNodeError: a number is out of its range, or `on` has something that is no exception class.
    """

    max_retries: int = 3
    delay: float = 0.0
    backoff: float = 2.0
    max_delay: float = 300.0
    jitter: float = 0.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool) or self.max_retries < 0:
            raise InvalidNodeError(f"Retry: max_retries is a whole number from 0 up, not {self.max_retries!r}.")
        _check_range("delay", self.delay, 0.0, None, "seconds from 0 up")
        _check_range("backoff", self.backoff, 1.0, None, "a factor from 1 up")
        _check_range("max_delay", self.max_delay, 0.0, None, "seconds from 0 up")
        _check_range("jitter", self.jitter, 0.0, 1.0, "a fraction from 0 to 1")
        msgspec.structs.force_setattr(self, "on", _exception_classes(self.on))

    def delay_before(self, retry_number: int, draw: float = 0.0) -> float:
        """Return the seconds to wait before a retry.

        Args:
            retry_number: 1 for the first retry.
            draw: a random number in [0, 1); it matters only with jitter.

        Raises:
            ValueError: retry_number is less than 1.
        """
        if retry_number < 1:
            raise ValueError(f"Retries are counted from 1, not {retry_number}.")
        if self.delay == 0.0:
            return 0.0
        try:
            grown = self.delay * self.backoff ** (retry_number - 1)
        except OverflowError:
            grown = self.max_delay
        return min(grown, self.max_delay) * (1.0 - self.jitter * draw)


class Repeat(msgspec.Struct, frozen=True):
    """Run a node again that asks for it by raising `RepeatTask`. Between two times it waits, and holds nothing.

    Args:
        limit: how many times it runs in all; when it asks once more then, it completes with what it left. 0 is no limit.
        interval: seconds before it runs the second time.
        backoff: each further wait is that many times the one before; at least 1.
        max_interval: no wait is longer than this, in seconds.

    Raises:
        InvalidNodeError: a number is out of its range.
    """

    limit: int = 0
    interval: float = 0.0
    backoff: float = 1.0
    max_interval: float = 300.0

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 0:
            raise InvalidNodeError(f"Repeat: limit is a whole number from 0 up, not {self.limit!r}.")
        _check_range("interval", self.interval, 0.0, None, "seconds from 0 up", "Repeat")
        _check_range("backoff", self.backoff, 1.0, None, "a factor from 1 up", "Repeat")
        _check_range("max_interval", self.max_interval, 0.0, None, "seconds from 0 up", "Repeat")

    def delay_after(self, repeats: int) -> float:
        """Return the seconds to wait for a node that has run again so many times."""
        if self.interval == 0.0:
            return 0.0
        try:
            grown = self.interval * self.backoff**repeats
        except OverflowError:
            grown = self.max_interval
        return min(grown, self.max_interval)


def as_retry(value: Retry | int | None) -> Retry | None:
    """Return the policy that a `retries` setting means: a whole number is that many retries without a delay.

    Raises:
        InvalidNodeError: the value is neither a Retry nor a whole number from 0 up.
    """
    if value is None or isinstance(value, Retry):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidNodeError(f"retries is a Retry(...) or a whole number, not {value!r}.")
    return Retry(max_retries=value)


def _check_range(name: str, value: object, least: float, most: float | None, what: str, of: str = "Retry") -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (most is not None and value > most):  # type: ignore[operator]
        raise InvalidNodeError(f"{of}: {name} is {what}, not {value!r}.")


def _exception_classes(on: object) -> tuple[type[BaseException], ...]:
    given = (on,) if isinstance(on, type) else on
    if not isinstance(given, (tuple, list)) or not given:
        raise InvalidNodeError(f"Retry: on is a tuple of exception classes, not {on!r}.")
    for one in given:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise InvalidNodeError(f"Retry: on has {one!r}, which is not an exception class.")
    return tuple(given)
