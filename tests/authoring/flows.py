"""Tasks and flows at the top of a module, where other processes find them by name."""

from __future__ import annotations

import os
import threading
from typing import Any

from dagrid import DAG, Node, dag, task

NOT_PICKLABLE = threading.Lock()


@task
def load(count: int = 3) -> list[int]:
    return list(range(1, count + 1))


@task
def total(values: list[int], start: int = 0, *, factor: int = 1) -> int:
    return (sum(values) + start) * factor


@task(unpack_to=2)
def split(values: list[int], at: int = 1) -> tuple[list[int], list[int]]:
    return values[:at], values[at:]


@task
def guarded() -> int:
    """Needs a global that cannot be pickled: it runs in another process only if it is sent by name."""
    with NOT_PICKLABLE:
        return os.getpid()


@task
def five(name: str, *before: Any) -> str:
    return f"{name}({','.join(before)})" if before else name


@task
def fails(message: str) -> Any:
    raise LookupError(message)


@task
def explain(**named: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(named.items()))


@dag
def everything(count: int = 4, *, extra: int = 1) -> Any:
    values = load(count)
    head, tail = split(values)
    sums = [total(part, start=extra) for part in (head, tail)]
    return {
        "sums": sums,
        "of sums": total(sums),
        "picked": total([values[0], values[-1]], factor=10),
        "named": explain(first=values[0], rest=(tail, {"k": head}), constant="c"),
        "compared": (sums[0] < sums[1], sums[0] == 2, 10 - sums[0]),
        "constant": extra,
        "slice": values[1:3],
    }


EVERYTHING = {
    "sums": [2, 10],
    "of sums": 12,
    "picked": 50,
    "named": "constant=c, first=1, rest=([2, 3, 4], {'k': [1]})",
    "compared": (True, True, 8),
    "constant": 1,
    "slice": [2, 3],
}


@dag
def five_nodes() -> Any:
    a = five("a")
    b, c = five("b", a), five("c", a)
    d = five("d", b, c)
    return five("e", d, a)


@task
def plus(value: int, more: int = 1) -> int:
    return value + more


@task
def times(value: int, factor: int = 10) -> int:
    return value * factor


@task
def is_positive(value: int) -> bool:
    return value > 0


@task
def broken_at(value: int, bad: int) -> int:
    if value == bad:
        raise LookupError(f"no {value}")
    return value


@dag
def mapped(count: int) -> Any:
    """A map over what a run makes, one behind it, a map over a list, and what needs them."""
    added = plus.map(load(count), 100)
    scaled = times.map(added, factor=2)
    known = plus.map([1, 2])
    return {
        "added": added,
        "scaled": scaled,
        "sum": total(scaled),
        "known": known,
        "both": total([total(known), total(added)]),
    }


@task
def leaf(*values: Any) -> Any:
    return values


def describe(fn: Any, *args: Any) -> DAG:
    return dag(fn).build(*args)


def steps(log: list[str] | None = None, **settings: Any) -> DAG:
    """a -> b -> c and a -> d, which say when they run; settings by name."""

    def make(name: str) -> Any:
        def fn(**before: Any) -> str:
            if log is not None:
                log.append(name)
            return f"{name}({','.join(before.values())})"

        return fn

    edges = {"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}
    return DAG([Node(name, make(name), before, **settings.get(name, {})) for name, before in edges.items()])
