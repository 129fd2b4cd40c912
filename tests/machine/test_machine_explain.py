"""What the machine says of a node that is not running."""

from __future__ import annotations

import pytest

from dagrid.graph.node import Node
from dagrid.graph.policy import Retry
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    Outcome,
    WorkerGone,
    WorkerJoined,
)
from dagrid.machine.explain import explain
from dagrid.machine.plan import Settings
from tests.machine.stories import begin, bundle_of_short_nodes, world


def test_explain_says_why_for_every_status() -> None:
    """Each sentence names what the node waits for, in terms of the user's own graph."""
    nodes = [
        Node("run"),
        Node("queued"),
        Node("ready", selector={"gpu": "true"}),
        Node("pending", None, ["run", "queued"]),
        Node("greedy", resources={"cpu": 2}),
        Node("again", retries=Retry(1, delay=4)),
        Node("bad"),
        Node("skipped", None, ["bad"]),
        Node("empty"),
        Node("done"),
        Node("slow", timeout=1.0),
        Node("gone", on_lost="fail"),
        Node("hungry", resources={"cpu": 1.5}),
    ]
    here = world(nodes, Settings(resources={"cpu": 2}), empty=[8])
    waits = here.state
    assert explain(waits, 0, 0.0) == "'run' is ready and waits for a worker: none has joined yet."
    decide(waits, [WorkerJoined(number, f"u{number}", 0.0, 0, 0, unfit="it is old") for number in (90, 91)], 0.0)
    words = "'run' is ready and waits for a worker: 'u90' cannot perform it, for it is old, nor can 1 more."
    assert explain(waits, 0, 0.0) == words
    decide(waits, [WorkerGone(number, 0.0) for number in (90, 91)], 0.0)
    here.join(slots=9)
    begun = {node: begin(here) for node in list(here.order)}
    place = here.places[0]
    assert explain(waits, 12, 0.0) == "'hungry' is ready and waits for 1.5 of resource 'cpu', of which 0 is free." or (
        explain(waits, 4, 0.0) == "'greedy' is ready and waits for 2 of resource 'cpu', of which 0.5 is free."
    )
    here.at = 0.5
    here.finish(place, begun[5], Outcome.FAILED)
    here.finish(place, begun[6], Outcome.FAILED)
    here.finish(place, begun[9])
    answers = [explain(waits, node, 1.5) for node in range(len(nodes))]
    assert answers[0] == "'run' has been running on worker 'w0' for 1.500 s."
    assert answers[2] == "'ready' is ready and waits for a worker with the labels gpu=true: none of the 1 has them."
    assert answers[3] == "'pending' waits for 'run' (running), 'queued' (running)."
    assert answers[5] == "'again' failed and is tried again in 3.000 s."
    assert answers[6] == "'bad' failed: failed on purpose."
    assert answers[7] == "'skipped' was skipped, because 'bad' failed."
    assert answers[8] == "'empty' was passed over: it has no task."
    assert answers[9] == "'done' completed after 0.500 s."


def test_explain_says_what_a_queued_node_is_behind() -> None:
    """A batch is a queue like any other."""
    here = bundle_of_short_nodes(6)
    first, second = here.places[0].waiting[:2]
    assert explain(here.state, first, 0.0).endswith("is queued on worker 'w0', behind 1 other.")
    assert explain(here.state, second, 0.0).endswith("is queued on worker 'w0', behind 2 others.")


@pytest.mark.parametrize(
    ("settings", "nodes", "answer"),
    [
        (Settings(max_concurrency=1), [Node("a"), Node("b")], "max_concurrency: 1 of 1 nodes are under way"),
        (Settings(), [Node("a", priority=1, is_sequential=True), Node("b")], "a sequential node to end"),
        (Settings(), [Node("a", priority=1), Node("b", is_sequential=True)], "the 1 nodes under way to end"),
        (Settings(), [Node("a"), Node("b")], "a free slot"),
    ],
)
def test_explain_says_what_a_ready_node_lacks(settings: Settings, nodes: list[Node], answer: str) -> None:
    """Each limit has its own words."""
    here = world(nodes, settings)
    here.join()
    assert answer in explain(here.state, 1, 0.0)
