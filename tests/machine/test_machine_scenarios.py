"""The promises of the machine one by one: what follows from what, told as short stories."""

from __future__ import annotations

from typing import Any

import pytest

from dagrid.errors import IllegalTransitionError, InvalidSettingError, UnsatisfiableError
from dagrid.graph.node import Node
from dagrid.graph.policy import Retry
from dagrid.machine.advance import can_grow
from dagrid.machine.commands import Cancel, Evaluate, Finish, SetTimer
from dagrid.machine.decide import decide
from dagrid.machine.events import (
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
from dagrid.machine.plan import Settings
from dagrid.machine.state import READY, RUNNING, WAITING, State, move
from tests.machine.stories import A_CHAIN, begin, words, world
from tests.machine.world import finished_facts, plan_of

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
    with pytest.raises(
        UnsatisfiableError, match=r"asks for 2 of resource 'gpu', and the run has 1 in all: .* --resources gpu=2\."
    ):
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
