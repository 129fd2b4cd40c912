"""Small graphs that tests cut into parts."""

from __future__ import annotations

from typing import Any

from dagrid import DAG, Node
from tests.execution.partition_tasks import (
    joined,
)


def lanes(count: int, length: int, fn: Any = joined) -> DAG:
    """Return so many chains, which have nothing to do with each other."""
    nodes = []
    for lane in range(count):
        for step in range(length):
            inputs = {"a": f"{lane}.{step - 1}"} if step else None
            nodes.append(Node(f"{lane}.{step}", fn, inputs=inputs))
    return DAG(nodes)


def two(first: Any, second: Any, **settings: Any) -> DAG:
    """Return two nodes, the second of which takes the value of the first; level by level they are two parts."""
    return DAG([Node("first", first), Node("second", second, inputs={"value": "first"}, **settings)])
