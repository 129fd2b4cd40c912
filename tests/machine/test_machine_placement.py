"""Which worker gets which node, and when: slots, bundles, chains, limits, and what a growing graph changes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from dagrid.errors import GraphLimitError
from dagrid.graph.node import Node
from dagrid.machine.advance import RULES, advance
from dagrid.machine.commands import Perform, Recall
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    NODE_MASK,
    Finished,
    Growth,
    Outcome,
    RuleEvaluated,
    TimerKind,
    WorkerJoined,
)
from dagrid.machine.explain import explain
from dagrid.machine.plan import Settings
from dagrid.machine.state import PENDING, QUEUED, READY, RUNNING, State
from tests.machine.stories import A_CHAIN, begin, bundle_of_short_nodes, only, words, world
from tests.machine.world import World, plan_of

# --- placement ------------------------------------------------------------------------------------------------------------


def test_a_sequential_node_runs_alone_and_is_not_starved() -> None:
    """It waits for what runs, and what is behind it waits for it, though slots are free and bundles could be sent ahead."""
    nodes = [Node("a"), Node("alone", priority=1, is_sequential=True, depends_on=["a"]), *map(Node, "bcdefgh")]
    here = world(nodes, Settings(batch=10.0))
    here.join(slots=2, window=8)
    here.at = 0.1
    here.finish(here.places[0], begin(here))
    assert here.state.status[1] == READY
    ahead = [node for node, status in enumerate(here.state.status) if status in (QUEUED, RUNNING)]
    assert ahead == [2], "nothing is added beside what was under way"
    here.finish(here.places[0], begin(here))
    assert here.state.sequential
    assert here.state.active == 1
    here.finish(here.places[0], begin(here))
    assert here.order[2] == 1
    assert here.state.active > 1


def test_equal_workers_share_the_nodes() -> None:
    """Free slots are filled one by one round the workers, so that no worker idles beside a full one."""
    here = world([Node(name) for name in "abcd"])
    here.join(slots=2)
    here.join(slots=2)
    assert [len(place.waiting) for place in here.places.values()] == [2, 2]
    performed = decide(
        State(plan_of([Node("a"), Node("b")])),
        [WorkerJoined(0, "x", 0.0, slots=2), WorkerJoined(1, "y", 0.0, slots=2)],
        0.0,
    )
    assert performed == [Perform(0, [0]), Perform(1, [1])]


def test_one_step_wakes_as_many_sleepers_as_there_is_work() -> None:
    """A sleeper that wakes for nothing costs more than a node."""
    here = world([Node("a"), *[Node(f"b{number}", None, ["a"]) for number in range(3)]])
    for _ in range(5):
        here.join(pulls=True)
    assert [place.woken for place in here.places.values()].count(True) == 1
    here.ask(here.places[0])
    here.finish(here.places[0], 0)
    woken = [place.woken for place in here.places.values()]
    assert woken.count(True) == 2, "one of the three goes to the worker that is awake"


def test_a_sleeper_that_fits_is_woken_past_one_that_does_not() -> None:
    """The first worker that sleeps has not the labels; the second has: the node must not wait for ever."""
    here = world([Node("a", selector={"gpu": "true"})])
    here.join(pulls=True)
    here.join(pulls=True, labels={"gpu": "true"})
    assert [place.woken for place in here.places.values()] == [False, True]


@pytest.mark.parametrize("more", [(), (Node("never", selector={"gpu": "true"}),)])
def test_assigned_attempts_are_taken_back_for_an_idle_worker(more: Sequence[Node]) -> None:
    """A batch behind a long node must not wait while others idle, not even when some other node can never start."""
    here = bundle_of_short_nodes(6, more=more)
    held = list(here.places[0].waiting)
    here.join()
    assert not here.recalls, "not before `hold` seconds without news"
    (timer,) = here.timers
    assert timer.kind == TimerKind.REBALANCE
    assert timer.at == pytest.approx(here.at + 0.5)
    here.timer()
    assert here.recalls == [Recall(0, held)]
    here.answer_recall()
    assert here.places[1].waiting
    assert not here.state.losses


def test_short_nodes_of_a_place_are_sent_ahead_and_stay_there() -> None:
    """A word to a worker takes longer than a short command. That a worker of another place is idle is no help to them."""
    plan = plan_of(
        [*(Node(f"n{number}") for number in range(6)), Node("plain", depends_on=["n0"])],
        Settings(batch=100.0, hold=0.0),
        places=dict.fromkeys(range(6), "command"),
    )
    here = World(plan, random.Random(0), chains=True)
    here.join(window=6)
    here.join(window=6, place="command")
    begin(here, 1)
    here.at += 0.01
    here.finish(here.places[1], next(iter(here.places[1].running)))
    assert [attempt & NODE_MASK for attempt in here.places[1].waiting] == [1, 2, 3, 4, 5]
    assert [attempt & NODE_MASK for attempt in here.places[0].waiting] == [6], "it rides on nothing of another place"
    begin(here, 0)
    here.finish(here.places[0], next(iter(here.places[0].running)))
    assert not here.recalls


def test_half_a_worker_is_idle_too() -> None:
    """A free slot beside a busy one is as good as an idle worker."""
    here = bundle_of_short_nodes(6)
    here.join(slots=2, window=2)
    assert here.timers
    here.timer()
    here.answer_recall()
    begin(here, 1)
    begin(here, 1)
    assert len(here.places[1].running) == 2


def test_a_recall_that_came_too_late_is_not_the_last() -> None:
    """The worker had started all that was asked for and gives nothing back; later it can be asked again."""
    here = bundle_of_short_nodes(8)
    here.join()
    here.timer()
    recall = here.recalls.pop()
    here.at += 0.01
    here.finish(here.places[0], only(here.places[0]))
    begin(here)
    here.at += 5.0
    here.tell()
    assert here.recalls
    assert set(here.recalls[0].attempts) < set(recall.attempts)


def test_max_concurrency_holds_over_all_workers() -> None:
    """It is of the run: free slots do not matter, and nothing is sent ahead."""
    here = world([Node(name) for name in "abcdef"], Settings(max_concurrency=2, batch=100.0))
    here.join(slots=3, window=9)
    here.join(pulls=True)
    assert here.state.active == 2
    here.finish(here.places[0], begin(here))
    assert here.state.active <= 2


def test_amounts_of_resources_come_back_as_they_were_taken() -> None:
    """0.1 and 0.2 are no sums of powers of two: a node that needs all of 0.3 must start when the others have ended."""
    nodes = [Node("a", resources={"cpu": 0.1}), Node("b", resources={"cpu": 0.2})]
    here = world([*nodes, Node("all", None, ["a", "b"], resources={"cpu": 0.3})], Settings(resources={"cpu": 0.3}))
    here.join(slots=2)
    for _ in range(3):
        here.finish(here.places[0], begin(here))
    assert here.finished


# --- growth ---------------------------------------------------------------------------------------------------------------


def growing(nodes: Sequence[Node], rules: Sequence[bool] = (False,), settings: Settings | None = None) -> World:
    return World(plan_of(nodes, settings), random.Random(0), rules=rules)


def riding() -> World:
    """A chain of short nodes on a worker whose window is open; the first one runs, the others ride on each other."""
    here = World(plan_of([*A_CHAIN, Node("d", None, ["c"])]), random.Random(0), chains=True)
    here.join(slots=1, window=9)
    here.finish(here.places[0], begin(here))
    return here


def test_a_chain_of_short_nodes_travels_together() -> None:
    """What waits for one attempt alone is with its worker when that has completed; no word goes back and forth."""
    here = riding()
    assert list(here.places[0].waiting) == [1, 2, 3]
    assert words(here.state) == "completed queued pending pending"
    for _ in range(3):
        here.finish(here.places[0], begin(here))
    assert here.finished
    assert here.order == [0, 1, 2, 3]


def test_who_rides_on_a_failed_attempt_is_dropped() -> None:
    """The worker starts none of them, and the machine skips them: neither has to tell the other."""
    here = riding()
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    assert not here.places[0].waiting
    assert words(here.state) == "completed failed skipped skipped"


def test_who_rides_on_a_lost_attempt_goes_elsewhere() -> None:
    """The worker is gone with all of them; they come again, in order, on another one."""
    here = riding()
    begin(here)
    other = here.join(slots=1, window=9)
    here.vanish(0)
    for _ in range(3):
        here.finish(here.places[other], begin(here, other))
    assert here.finished


def test_what_the_run_does_not_count_goes_to_a_worker_that_delegates() -> None:
    """Resources of an engine and labels go to who finds a worker for them; everything else does not occupy that one."""
    nodes = [Node("plain"), Node("gpu", resources={"gpu": 1}), Node("here", selector={"zone": "a"})]
    here = world(nodes)
    here.join(window=9)
    assert "a worker with the resource 'gpu': none of the 1 has it" in explain(here.state, 1, 0.0)
    here.join(slots=9, delegates=True)
    given = [sorted(attempt for attempt in here.state.queues[worker]) for worker in (0, 1)]
    assert given == [[0], [1, 2]]


def test_a_worker_without_slots_is_only_named() -> None:
    """An engine with workers of its own says which of them performed an attempt; the slot is that of who was given it."""
    here = world([Node("a"), Node("b", None, ["a"])])
    given, named = here.join(), here.join(slots=0, window=0)
    attempt = begin(here, given)
    here.tell(Finished(given, attempt, Outcome.COMPLETED, 0.0, 0.0, by=named))
    assert here.state.performers == {0: named}
    assert not here.state.queues[named]
    assert list(here.state.queues[given]) == [1]


def test_a_patch_may_hang_on_what_has_ended() -> None:
    """New nodes behind completed ones start at once, behind failed ones they are skipped."""
    here = growing([Node("good"), Node("bad")])
    here.join(slots=2)
    here.finish(here.places[0], begin(here))
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    here.answer_rule([Node("x", None, ["good"]), Node("y", None, ["bad"]), Node("z", None, ["x", "y"])], applied=True)
    assert words(here.state) == "completed failed queued skipped skipped"


def test_a_rule_is_asked_again_when_what_it_read_has_changed() -> None:
    """Not on every event: only a node that its predicate looked at makes it worth asking again."""
    here = growing([Node("a"), Node("b")])
    here.join(slots=2)
    here.questions.clear()
    here.tell(RuleEvaluated(0, 0.0, reads={1: QUEUED}))
    here.finish(here.places[0], begin(here))
    assert not here.questions
    begin(here)
    assert here.questions == [0]


def test_an_answer_about_the_past_is_asked_again() -> None:
    """What the predicate read had changed before its answer came: its patch is not taken."""
    here = growing([Node("a"), Node("b", None, ["a"])])
    here.join()
    here.finish(here.places[0], begin(here))
    here.questions.clear()
    here.tell(RuleEvaluated(0, 0.0, Growth([Node("late")]), {0: PENDING}))
    assert len(here.state.plan) == 2
    assert here.questions == [0]


def test_the_fast_path_asks_the_rules_that_wait_for_a_node() -> None:
    """A rule that waits for the end of a node costs the others nothing, and does not miss it."""
    here = growing([Node("a"), Node("b", None, ["a"]), Node("c")])
    here.join(pulls=True)
    here.questions.clear()
    here.tell(RuleEvaluated(0, 0.0, Growth([Node("new")], [(1, False, None, ("b",))])))
    here.ask(here.places[0])
    assert advance(here.state, only(here.places[0]), 0, 0.0, 0.0) == 1
    assert not here.state.asks
    assert advance(here.state, 1, 0, 0.0, 0.0) == RULES
    assert here.state.asks == [1]


def test_growing_past_the_limit_stops_the_run_and_says_so() -> None:
    """A rule that adds nodes for ever must not fill the memory."""
    here = growing([Node("a")], settings=Settings(max_nodes=2))
    here.answer_rule([Node("b"), Node("c")], applied=True)
    assert "past 2 nodes" in here.state.error
    assert words(here.state) == "cancelled"
    with pytest.raises(GraphLimitError):
        here.state.plan.check_growth([Node("b"), Node("c")])


def test_rules_that_never_applied_are_named_unless_optional() -> None:
    """The end of the run is not a success when something that was wanted never became possible."""
    here = growing([], rules=[False, True])
    here.answer_rule()
    assert not here.finished
    here.answer_rule()
    assert here.finished
    assert here.state.unapplied == (0,)
