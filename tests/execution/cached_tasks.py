"""Tasks of cached nodes that other processes import by name, and values that are hard to hash or to store."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

CALLS: list[str] = []


def load() -> list[int]:
    CALLS.append("load")
    return [1, 2, 3]


def double(load: list[int]) -> list[int]:
    CALLS.append("double")
    return [2 * each for each in load]


def total(double: list[int]) -> int:
    CALLS.append("total")
    return sum(double)


def square(value: int) -> int:
    CALLS.append(f"square {value}")
    return value * value


def nothing() -> None:
    CALLS.append("nothing")


def lock() -> Any:
    return threading.Lock()


def held(lock: Any) -> bool:
    CALLS.append("held")
    return bool(lock.locked())


class Shy:
    """A value that can be stored and read, and tells when it is taken apart."""

    reduced = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        Shy.reduced += 1
        return Shy, (self.size,)


def shy() -> Shy:
    return Shy(3)


def size(shy: Shy) -> int:
    return shy.size


class Odd:
    """A value that says something impossible of how it is taken apart."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return 3


@dataclass(slots=True)
class Point:
    x: int
    tags: set[str] = field(default_factory=set)

    def far(self, than: int = 1) -> bool:
        return self.x > than


class Scale:
    """A callable object with a value of its own."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self) -> int:
        return self.times(2)

    def times(self, number: int) -> int:
        CALLS.append("times")
        return self.factor * number
