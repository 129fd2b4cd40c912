"""What is measured on each engine, said once: an engine that is up is a `Place`, and `figures` is what it has to show.

It knows graphs by numbers and the backend's public face, and no engine.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import per, timed
from benchmarks.shapes import PARAMETERS, Shape, layered
from dagrid import DAG
from dagrid.ports import Backend

EACH, HAND = "dagrid, each node a task of the engine", "by hand, each node a task"
SMALL, BARE = "dagrid, small tasks", "by hand, batches of 100 calls that need nothing"
CHUNK = 100
PATIENCE = 8.0
"""How many seconds a contender may take in all rounds; one round is always taken."""
LITTLE = layered(2, 20)
Samples = dict[str, list[float]]


@dataclass
class Place:
    """An engine that is up, with two workers.

    Args:
        backend: ours, open.
        hand: the ways to run a graph by hand that may be the best, each task a task of the engine.
        bare: the ways to call a function that needs nothing so many times, in batches of `CHUNK`.
        needs: what a node of ours asks for, so that the engine is given it as a task of its own.
        exclusive: what ours keeps between runs is in the way of what is run by hand.
        versions: of the engine, for who reads the table.
    """

    backend: Backend
    hand: Mapping[str, Callable[[Shape], None]]
    bare: Mapping[str, Callable[[int], None]]
    needs: Mapping[str, float] = field(default_factory=dict)
    exclusive: bool = False
    versions: str = ""

    @property
    def delegates(self) -> bool:
        """Whether a node with needs of its own is a task of the engine."""
        return bool(getattr(self.backend.capabilities, "delegates", False))


@dataclass
class Contender:
    """A way to do so much work, and a little of the same with which it warms up."""

    run: Callable[[Any], None]
    work: Any
    little: Any
    count: int


@dataclass
class Measured:
    """The samples of each row, in microseconds a task, and what a reader must know."""

    samples: Samples
    notes: list[str]


def figures(place: Place, quick: bool) -> Measured:
    """Measure all rows on a place."""
    each, small = (layered(5, 20), layered(5, 20)) if quick else (layered(20, 50), layered(100, 100))
    count, rounds = (2 * CHUNK, 1) if quick else (100 * CHUNK, 11)
    by_hand = {name: Contender(run, each, LITTLE, len(each)) for name, run in place.hand.items()}
    bare = {name: Contender(run, count, 2 * CHUNK, count) for name, run in place.bare.items()}
    ours = Contender(_ours(place, place.needs if place.delegates else {}), each, LITTLE, len(each))
    as_used = Contender(_ours(place, {}), small, LITTLE, len(small))
    # What ours keeps while it is open must not be there when the engine is used by hand.
    apart = place.exclusive and not place.delegates
    groups = [by_hand, {EACH: ours}] if apart else [{**by_hand, EACH: ours}]
    rest = {SMALL: as_used, **bare}
    groups = [*groups, rest] if place.exclusive else [{**groups[0], **rest}]
    found: Samples = {}
    for group in groups:
        found |= _in_turn(group, rounds)
    notes = [place.versions] if place.versions else []
    for row, ways in ((HAND, place.hand), (BARE, place.bare)):
        best = min(ways, key=lambda way: median(found[way]))
        others = "".join(f"; {way} {median(found[way]):.3g}" for way in ways if way != best)
        notes.append(f"{row}: {best}{others}")
        found[row] = found[best]
    return Measured({row: found[row] for row in (EACH, HAND, SMALL, BARE)}, notes)


def _in_turn(contenders: Mapping[str, Contender], rounds: int) -> Samples:
    """Run the contenders in turn, after workers have started; who has taken `PATIENCE` seconds takes part no more."""
    for each in contenders.values():
        each.run(each.little)
    taken: Samples = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, each in contenders.items():
            if sum(taken[name]) < PATIENCE:
                gc.collect()
                taken[name].append(timed(each.run, each.work))
    return {name: [per(contenders[name].count, seconds) for seconds in samples] for name, samples in taken.items()}


def _ours(place: Place, needs: Mapping[str, float]) -> Callable[[Shape], None]:
    known: dict[int, DAG] = {}

    def run(shape: Shape) -> None:
        if len(shape) not in known:
            known[len(shape)] = _asking(shape, needs) if needs else shape.dag()
        result = known[len(shape)].run(backend=place.backend, progress=False)
        shape.check([result[f"n{len(shape) - 1}"]])

    return run


def _asking(shape: Shape, needs: Mapping[str, float]) -> DAG:
    """Return a graph whose nodes have needs of their own."""
    builder = DAG.builder()
    for node, (fn, before) in enumerate(zip(shape.fns, shape.takes, strict=True)):
        inputs = dict(zip(PARAMETERS[fn], [f"n{each}" for each in before], strict=True))
        builder.add_node(f"n{node}", fn, inputs=inputs, resources=dict(needs))
    return builder.build()


def sinks(shape: Shape) -> list[int]:
    """Return the nodes that nobody takes a value from: who has these has run the whole graph."""
    return [node for node, after in enumerate(shape.follows) if not after]


class Countdown:
    """What is ready, for who runs a graph by hand on an engine that takes no futures as arguments."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.values: list[Any] = [None] * len(shape)
        self.left = len(shape)
        self._waiting = [len(before) for before in shape.takes]

    def first(self) -> list[int]:
        """Return the nodes that need nothing."""
        return [node for node, missing in enumerate(self._waiting) if not missing]

    def arguments(self, node: int) -> list[Any]:
        """Return what a node is called with."""
        return [self.values[each] for each in self.shape.takes[node]]

    def done(self, node: int, value: Any) -> Sequence[int]:
        """Enter a value and return the nodes that are ready now."""
        self.values[node] = value
        self.left -= 1
        ready = []
        for after in self.shape.follows[node]:
            self._waiting[after] -= 1
            if not self._waiting[after]:
                ready.append(after)
        return ready
