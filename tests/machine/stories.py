"""What the stories of the machine begin with: a world in which a test chooses what happens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dagrid.graph.node import Node
from dagrid.machine.plan import Settings
from dagrid.machine.state import State, Status
from tests.machine.world import Place, World, plan_of

A_CHAIN = [Node("a"), Node("b", None, ["a"]), Node("c", None, ["b"])]


def world(nodes: Sequence[Node], settings: Settings | None = None, **more: Any) -> World:
    """Make a world whose events a test chooses itself."""
    return World(plan_of(nodes, settings, **more), random.Random(0))


def words(state: State) -> str:
    """Return the status of every node."""
    return " ".join(Status(status).name.lower() for status in state.status)


def only(place: Place) -> int:
    """Return the one attempt that runs at a place."""
    (attempt,) = place.running
    return attempt


def begin(here: World, number: int = 0) -> int:
    """Let a worker start its next attempt, and return that."""
    here.start(here.places[number])
    return list(here.places[number].running)[-1]


def bundle_of_short_nodes(count: int, hold: float = 0.5, more: Sequence[Node] = ()) -> World:
    """Make a world whose one worker was sent short nodes ahead of time, and runs a long one of them."""
    here = world([*(Node(f"n{number}") for number in range(count)), *more], Settings(batch=100.0, hold=hold))
    here.join(window=count)
    begin(here)
    here.at += 0.01
    here.finish(here.places[0], next(iter(here.places[0].running)))
    assert len(here.places[0].waiting) > 1, "short nodes are sent ahead"
    begin(here)
    return here
