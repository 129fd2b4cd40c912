"""The promises of the machine one by one: what follows from what, told as short stories."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dagrid.errors import GraphLimitError, IllegalTransitionError, InvalidSettingError, UnsatisfiableError
from dagrid.graph.node import Node
from dagrid.graph.policy import Retry
from dagrid.machine.advance import IDLE, RULES, advance, can_grow
from dagrid.machine.commands import Cancel, Evaluate, Finish, Perform, Recall, SetTimer
from dagrid.machine.decide import decide
from dagrid.machine.events import (
    NODE_MASK,
    Asked,
    CancelRequested,
    Finished,
    Growth,
    Kind,
    Outcome,
    Recalled,
    RuleEvaluated,
    Started,
    Stimulus,
    TimerDue,
    TimerKind,
    WorkerGone,
    WorkerJoined,
    attempt_id,
)
from dagrid.machine.explain import explain
from dagrid.machine.plan import Plan, Settings
from dagrid.machine.state import COMPLETED, PENDING, QUEUED, READY, RUNNING, SKIPPED, WAITING, State, Status, move
from tests.machine.world import Place, World, finished_facts, plan_of, replayed

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


# --- failures -------------------------------------------------------------------------------------------------------------


def test_a_failure_skips_its_descendants_and_nobody_else() -> None:
    """`on_failure="skip"`: the branch that failed ends, the others go on; each skipped node names its direct cause."""
    here = world([*A_CHAIN, Node("other"), Node("after", None, ["other"])])
    here.join(slots=2)
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    assert words(here.state) == "failed skipped skipped queued pending"
    assert here.state.cause == {1: 0, 2: 1}
    here.finish(here.places[0], begin(here))
    here.finish(here.places[0], begin(here))
    assert here.finished


def test_continue_runs_descendants_that_take_no_value() -> None:
    """`on_failure="continue"`: order alone does not need a success, a value does."""
    takes = {2: (0,)}
    here = world(
        [Node("a"), Node("clean", None, ["a"]), Node("use", None, ["a"]), Node("end", None, ["clean", "use"])],
        Settings(on_failure="continue"),
        sources=lambda node: takes.get(node, ()),
    )
    here.join()
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    assert words(here.state) == "failed queued skipped pending"
    here.finish(here.places[0], begin(here))
    here.finish(here.places[0], begin(here))
    assert words(here.state) == "failed completed skipped completed"


def test_stop_cancels_all_that_has_not_ended() -> None:
    """`on_failure="stop"`: what runs is told to stop, and the run is over when it has."""
    here = world([Node("a", priority=1), Node("b"), Node("c", None, ["b"])], Settings(on_failure="stop"))
    here.join(slots=2)
    first = begin(here)
    begin(here)
    here.finish(here.places[0], first, Outcome.FAILED)
    assert words(here.state) == "failed running cancelled"
    assert here.cancels == [Cancel(0, 1)]
    assert not here.finished
    here.answer_cancel()
    assert words(here.state) == "failed cancelled cancelled"
    assert here.finished


def test_a_worker_that_vanishes_three_times_poisons_the_node() -> None:
    """A task that kills its workers must not kill the fleet: the third loss is a failure, and descendants are skipped."""
    here = world(A_CHAIN)
    for loss in range(3):
        assert here.state.status[0] == READY
        number = here.join()
        begin(here, number)
        here.vanish(number)
        assert here.state.losses[0] == loss + 1
    assert words(here.state) == "failed skipped skipped"
    assert "lost 3 times" in here.state.detail[0]


def test_on_lost_fail_gives_no_second_try() -> None:
    """A node whose work must not happen twice is LOST with its worker."""
    here = world([Node("a", on_lost="fail"), Node("b", None, ["a"])])
    begin(here, here.join())
    here.vanish(0)
    assert words(here.state) == "lost skipped"


def test_what_had_not_started_goes_back_free_of_charge() -> None:
    """Only started attempts are lost with a worker; a queued one keeps its number and no loss is counted."""
    here = world([Node("a", on_lost="fail")])
    here.join()
    here.vanish(0)
    assert words(here.state) == "ready"
    assert not here.state.losses
    assert begin(here, here.join()) == 0


def test_what_was_lost_before_the_clock_began_is_ready_at_once() -> None:
    """The clock counts from the start of the machine, and a run may be older; it would wait for a time that never comes."""
    here = world([Node("a")])
    worker = here.join()
    begin(here, worker)
    here.tell(WorkerGone(worker, -1000.0))
    assert words(here.state) == "ready"


def test_retries_are_counted_and_wait_their_delay() -> None:
    """Two retries with delays 1 and 2 seconds, then it is over; an error that is not retryable ends at once."""
    here = world([Node("a", retries=Retry(2, delay=1.0)), Node("b", retries=5)])
    here.join()
    for number, delay in enumerate((1.0, 2.0)):
        here.finish(here.places[0], begin(here), Outcome.FAILED)
        assert here.state.status[0] == WAITING
        assert here.timers == [SetTimer(here.at + delay, TimerKind.RETRY, attempt_id(0, number + 1))]
        if not number:
            here.finish(here.places[0], begin(here), Outcome.FAILED, retryable=False)
        here.timer()
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    assert words(here.state) == "failed failed"
    assert here.at == 3.0


def test_a_timeout_ends_the_attempt_and_its_late_value_changes_nothing() -> None:
    """Time runs from the start, not from the assignment; the node ends when the place has answered, and its slot is free."""
    here = world([Node("a", timeout=2.0), Node("b", None, ["a"]), Node("c")])
    here.join()
    here.at = 10.0
    attempt = begin(here)
    assert here.timers == [SetTimer(12.0, TimerKind.TIMEOUT, attempt)]
    here.timer()
    assert words(here.state) == "running pending ready"
    assert here.cancels == [Cancel(0, attempt)]
    here.at = 13.0
    said = "'a' was told to stop 1.000 s ago (timeout of 2 s), and still runs on worker 'w0'."
    assert explain(here.state, 0, here.at) == said
    here.finish(here.places[0], attempt)
    assert words(here.state) == "timed_out skipped queued"


def test_a_timer_of_an_earlier_try_is_void() -> None:
    """The time limit of the first try must not end the second."""
    here = world([Node("a", timeout=2.0, retries=1)])
    here.join()
    here.finish(here.places[0], begin(here), Outcome.FAILED)
    here.at = 1.0
    begin(here)
    here.timer()
    assert not here.state.halted
    here.timer()
    assert here.at == 3.0
    here.answer_cancel()
    assert words(here.state) == "timed_out"


def test_a_retry_does_not_begin_beside_the_try_that_is_late() -> None:
    """It may have its time of grace, and write what the next one writes; the delay counts from when it has gone."""
    here = world([Node("a", timeout=2.0, retries=Retry(1, delay=5))])
    here.join(slots=2)
    begin(here)
    here.timer()
    here.at = 4.0
    assert words(here.state) == "running"
    here.answer_cancel()
    assert words(here.state) == "waiting"
    here.timer()
    assert here.at == 9.0
    here.finish(here.places[0], begin(here))
    assert words(here.state) == "completed"


def test_handlers_wait_for_what_was_told_to_stop() -> None:
    """They clean up after it. A second cancel stops them too, also before their turn, and is passed on to what has not gone."""
    nodes = [Node("a"), Node("sweep", handler="cancel"), Node("leave", handler="exit")]
    for twice, end in ((False, "cancelled queued pending"), (True, "cancelled cancelled cancelled")):
        here = world(nodes)
        here.join(slots=2)
        begin(here)
        for _ in range(1 + twice):
            here.cancel()
        assert here.cancels == [Cancel(0, 0)] * (1 + twice)
        assert words(here.state).startswith("running")
        here.answer_cancel()
        assert words(here.state) == end


def test_what_was_told_to_stop_ends_with_its_worker() -> None:
    """It is not lost: it was not wanted any more, and is not sent to another."""
    here = world([Node("a", timeout=2.0), Node("b")])
    here.join(slots=2)
    begin(here)
    here.timer()
    here.vanish(0)
    assert words(here.state) == "timed_out ready"
    begin(here, here.join())
    here.cancel()
    here.vanish(1)
    assert words(here.state) == "timed_out cancelled"
    assert not here.state.losses


def test_late_reports_of_a_vanished_worker_change_nothing() -> None:
    """A worker that was only cut off reports later: its node is another's by then."""
    here = world(A_CHAIN)
    old = begin(here, here.join())
    here.vanish(0)
    new = begin(here, here.join())
    assert new == attempt_id(0, 1)
    for late in (Finished(0, old, Outcome.COMPLETED, 0, 0), Finished(1, old, Outcome.FAILED, 0, 0), Started(0, old, 0)):
        here.tell(late)
        here.tell(Recalled(0, [old], 0), Recalled(1, [old], 0), WorkerGone(0, 0))
        assert words(here.state) == "running pending pending"
    here.finish(here.places[1], new)
    assert words(here.state) == "completed queued pending"


def test_a_place_that_refuses_an_attempt_cancels_its_node() -> None:
    """CANCELLED reported on the place's own account is an end like any other, also before the start."""
    here = world(A_CHAIN)
    here.join()
    here.tell(Finished(0, 0, Outcome.CANCELLED, 0.0, 0.0, error="the place is going away"))
    assert words(here.state) == "cancelled skipped skipped"
    assert [fact.kind for fact in here.state.facts() if fact.kind is Kind.STARTED] == []


# --- the end --------------------------------------------------------------------------------------------------------------


def test_nothing_happens_after_the_end() -> None:
    """A cancellation or a report that comes too late must not change a result that somebody has read."""
    here = world([Node("a")])
    here.join()
    here.finish(here.places[0], begin(here))
    journal = len(here.state.journal)
    late: list[Stimulus] = [
        CancelRequested(9.0),
        WorkerGone(0, 9.0),
        WorkerJoined(7, "w", 9.0),
        TimerDue(TimerKind.TIMEOUT, 0, 9.0),
    ]
    assert decide(here.state, late, 9.0) == []
    assert len(here.state.journal) == journal
    assert not here.state.cancelled


def test_an_empty_graph_ends_at_once() -> None:
    """Nothing to do is done."""
    state = State(plan_of([]))
    assert decide(state, [], 0.0) == [Finish()]


def test_nodes_without_a_task_are_passed_over_in_one_step() -> None:
    """They are milestones: no worker sees them and their successors do not notice."""
    here = world([*A_CHAIN, Node("d", None, ["c"])], empty=[0, 1, 3])
    assert words(here.state) == "skipped skipped ready pending"
    here.join()
    here.finish(here.places[0], begin(here))
    assert words(here.state) == "skipped skipped completed skipped"
    assert not here.state.cause
    assert here.finished


def test_cancel_ends_the_run_when_all_has_stopped() -> None:
    """Waiting, ready and pending nodes are cancelled at once; what is with workers is told to stop."""
    nodes = [Node("a"), Node("b"), Node("c", retries=Retry(1, delay=9)), Node("d", None, ["a"])]
    here = world(nodes)
    here.join(slots=3)
    first, _, third = begin(here), begin(here), begin(here)
    here.finish(here.places[0], third, Outcome.FAILED)
    here.cancel()
    assert words(here.state) == "running running cancelled cancelled"
    assert sorted(cancel.attempt for cancel in here.cancels) == [first, 1]
    here.answer_cancel()
    assert not here.finished
    here.answer_cancel()
    assert words(here.state) == "cancelled cancelled cancelled cancelled"
    assert here.finished
    started = {fact.node for fact in finished_facts(here.state) if fact.started >= 0}
    assert started == {0, 1}, "what did not run when it was cancelled has no start"


def test_an_illegal_move_is_a_bug_of_ours_with_a_story() -> None:
    """Whoever reads the report shall see what had happened to the node."""
    here = world(A_CHAIN)
    with pytest.raises(IllegalTransitionError, match="'b' cannot go from PENDING to RUNNING"):
        move(here.state, 1, RUNNING)


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


# --- words ----------------------------------------------------------------------------------------------------------------


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


# --- size -----------------------------------------------------------------------------------------------------------------


class Counted(list[Any]):
    """A list that counts how often somebody looks into it."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


def chain(count: int) -> Plan:
    return plan_of([Node("n0"), *[Node(f"n{number}", None, [f"n{number - 1}"]) for number in range(1, count)]])


def fan(count: int) -> Plan:
    middle = [Node(f"n{number}", None, ["n0"]) for number in range(1, count - 1)]
    return plan_of([Node("n0"), *middle, Node("end", None, [node.id for node in middle])])


@pytest.mark.parametrize("shape", [chain, fan])
def test_an_early_failure_skips_a_hundred_thousand_nodes_in_linear_steps(shape: Any) -> None:
    """One look at the successors of each node, in one decision, however long the chain or wide the fan; so does a replay."""
    count = 100_000
    plan = shape(count)
    plan.successors = looked = Counted(plan.successors)
    state = State(plan)
    decide(state, [WorkerJoined(0, "w", 0.0)], 0.0)
    commands = decide(state, [Finished(0, 0, Outcome.FAILED, 0.0, 0.0)], 0.0)
    assert commands == [Finish()]
    assert state.count(SKIPPED) == count - 1
    assert looked.looks <= count
    assert len(state.journal) <= count + 6
    again = replayed(state, plan, ())
    assert again.status == state.status
    assert looked.looks <= 2 * count


def in_turn(plan: Plan, worker: int = 0) -> Iterator[int]:
    """Run a plan with one pulling worker by the fast path, and yield the node of each step."""
    state = State(plan)
    decide(state, [WorkerJoined(worker, "w", 0.0, pulls=True)], 0.0)
    (perform,) = (each for each in decide(state, [Asked(worker, 0.0)], 0.0) if isinstance(each, Perform))
    following = perform.attempts[0]
    while following >= 0:
        yield following
        following = advance(state, following, worker, 0.0, 0.0)
    assert following == IDLE
    assert decide(state, [Asked(worker, 0.0)], 0.0) == [Finish()]
    assert state.count(COMPLETED) == len(plan)


@pytest.mark.parametrize("shape", [chain, fan])
def test_a_hundred_thousand_nodes_run_in_order_in_one_step_each(shape: Any) -> None:
    """No node is looked at twice, and no depth ends in a RecursionError."""
    plan = shape(100_000)
    plan.successors = looked = Counted(plan.successors)
    assert list(in_turn(plan)) == list(range(100_000))
    assert looked.looks == 100_000


# --- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrency": 0},
        {"max_concurrency": True},
        {"max_concurrency": "2"},
        {"node_timeout": 0},
        {"node_timeout": "soon"},
        {"node_timeout": float("nan")},
        {"on_failure": "panic"},
        {"max_nodes": 0},
        {"max_nodes": "many"},
        {"resources": {"cpu": 0}},
        {"resources": {"cpu": "4"}},
        {"resources": {"cpu": float("inf")}},
    ],
)
def test_settings_that_cannot_be_are_refused_with_our_own_error(wrong: dict[str, Any]) -> None:
    """A mistake in a setting is a sentence that names the setting, never a TypeError out of the middle of the machine."""
    (name,) = wrong
    with pytest.raises(InvalidSettingError, match=name.removesuffix("s")):
        Settings(**wrong)


def test_a_node_that_could_never_start_is_refused() -> None:
    """Before anything runs, with the amounts in the message."""
    with pytest.raises(UnsatisfiableError, match=r"asks for 2 of resource 'gpu', and the run has 1 in all"):
        plan_of([Node("a", resources={"gpu": 2})], Settings(resources={"gpu": 1}))


def test_an_answer_that_is_out_of_date_is_not_taken_the_short_way() -> None:
    """A rule saw a node before it started; its patch would rest on what is no longer so, and the rule is asked again."""
    state = State(plan_of([Node("a"), Node("b")]), Growth(rules=[(0, False, None, ())]))
    decide(state, [WorkerJoined(0, "w", 0.0, pulls=True)], 0.0)
    answer = RuleEvaluated(0, 0.0, Growth([Node("c")]), reads={0: READY})
    assert can_grow(state, answer)
    decide(state, [Asked(0, 0.0)], 0.0)
    assert not can_grow(state, answer)
    assert Evaluate(0) in decide(state, [answer], 0.0)
