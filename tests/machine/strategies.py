"""Graphs and settings by chance, small enough to be read when they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hypothesis import strategies as st

from dagrid.graph.node import ContinueOn, HandlerOf, Node
from dagrid.graph.policy import Repeat, Retry
from dagrid.machine.plan import Plan, Settings
from tests.machine.world import plan_of

RETRIES = [None, None, Retry(1), Retry(2, delay=0.5), Retry(1, delay=0.1, jitter=0.5)]
CONTINUE_ON: list[list[ContinueOn]] = [[], [], ["failure"], ["skipped"], ["success"], ["failure", "skipped"]]
HANDLERS: list[HandlerOf] = ["success", "failure", "cancel", "exit"]
REPEATS = [None, Repeat(2), Repeat(3, interval=0.5, backoff=2.0)]
AMOUNTS = [0.1, 0.2, 0.3, 1]


@dataclass(frozen=True, repr=False)
class Case:
    """A graph with its settings; `plan` compiles it afresh."""

    nodes: Sequence[Node]
    settings: Settings
    empty: frozenset[int]
    takes: Sequence[tuple[int, ...]] | None

    def __repr__(self) -> str:
        return f"Case({self.nodes!s}, {self.settings}, {self.empty}, {self.takes})"

    def plan(self) -> Plan:
        sources: Callable[[int], Sequence[int]] | None = None
        if self.takes is not None:
            sources = partial(_sources, self.takes)
        return plan_of(self.nodes, self.settings, self.empty, sources)


def _sources(takes: Sequence[tuple[int, ...]], node: int) -> tuple[int, ...]:
    return takes[node] if node < len(takes) else ()


@st.composite
def plain_nodes(draw: st.DrawFn, most: int = 12) -> list[Node]:
    """Draw nodes that have nothing but edges and priorities."""
    count = draw(st.integers(1, most))
    return [
        Node(f"n{number}", None, [f"n{before}" for before in _before(draw, number)], draw(st.integers(-1, 1)))
        for number in range(count)
    ]


@st.composite
def cases(draw: st.DrawFn, most: int = 12) -> Case:
    """Draw a graph with whatever a node can have."""
    count = draw(st.integers(1, most))
    nodes = []
    takes = []
    for number in range(count):
        before = _before(draw, number)
        takes.append(tuple(each for each in before if draw(st.booleans())))
        nodes.append(
            Node(
                f"n{number}",
                None,
                [f"n{each}" for each in before],
                priority=draw(st.integers(-1, 1)),
                is_sequential=draw(st.integers(0, 5)) == 0,
                resources={"cpu": draw(st.sampled_from(AMOUNTS))} if draw(st.integers(0, 3)) == 0 else None,
                selector={"gpu": "true"} if draw(st.integers(0, 5)) == 0 else None,
                retries=draw(st.sampled_from(RETRIES)),
                timeout=draw(st.sampled_from([None, None, 0.4])),
                on_lost=draw(st.sampled_from(["requeue", "requeue", "fail"])),
                continue_on=draw(st.sampled_from(CONTINUE_ON)),
                repeat=draw(st.sampled_from(REPEATS)),
            )
        )
    for number, word in enumerate(draw(st.lists(st.sampled_from(HANDLERS), max_size=3))):
        nodes.append(Node(f"h{number}", handler=word, retries=draw(st.sampled_from(RETRIES))))
    settings = Settings(
        max_concurrency=draw(st.sampled_from([None, None, 1, 3])),
        on_failure=draw(st.sampled_from(["skip", "continue", "stop"])),
        resources={"cpu": draw(st.sampled_from([1, 1.3]))},
        node_timeout=draw(st.sampled_from([None, None, 2.0])),
        timeout=draw(st.sampled_from([None, None, None, 1.0])),
        batch=draw(st.sampled_from([0.001, 1.0])),
    )
    empty = frozenset(number for number in range(len(nodes)) if draw(st.integers(0, 7)) == 0)
    return Case(nodes, settings, empty, takes if draw(st.booleans()) else None)


def _before(draw: st.DrawFn, number: int) -> list[int]:
    if not number:
        return []
    return sorted(draw(st.sets(st.integers(0, number - 1), max_size=3)))
