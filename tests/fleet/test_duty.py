"""The rules of a worker's book, one by one: whose turn it is, what is said until it has arrived, and what is forgotten."""

from __future__ import annotations

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.duty import Forget, Leave, Prepare, Stop, TakeBack
from dagrid.machine.events import Outcome
from tests.fleet.desks import HEARTBEAT, LEASE, Post, calls, done, some

# --- whose turn it is -----------------------------------------------------------------------------------------------------


def test_as_many_run_as_there_are_slots_and_the_next_when_one_is_free() -> None:
    post = Post(slots=2)
    post.assign(*calls(1, 2, 3, 4))
    assert post.performs() == [("r", 1), ("r", 2)]
    post.finish(1)
    assert post.performs() == [("r", 3)]


def test_runs_take_turns_and_within_a_run_the_first_goes_first() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2, 3), run="a")
    post.assign(*calls(1, 2), run="b")
    post.assign(*calls(1), run="c")
    order = []
    for _ in range(6):
        ((run, attempt),) = post.performs()
        order.append((run, attempt))
        post.finish(attempt, run=run)
    assert order == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("a", 3), ("b", 2)]


def test_only_so_many_runs_are_active_and_the_next_begins_when_one_has_nothing_left() -> None:
    post = Post(slots=4, max_active_runs=1)
    post.assign(*calls(1, 2), run="a")
    post.assign(*calls(1), run="b")
    assert post.performs() == [("a", 1), ("a", 2)]
    post.finish(1, run="a")
    assert not post.performs()
    post.finish(2, run="a")
    assert post.performs() == [("b", 1)]


def test_runs_whose_turn_comes_next_are_prepared_once_and_no_others() -> None:
    """The next step begins at once when a slot is free, and a thousand runs that wait have no folders and files here yet."""
    post = Post(slots=1)
    post.note(post.duty.arrived(b"kit"))
    for run in "abcdefgh":
        post.assign(*calls(1), run=run, kit=b"kit")
    assert post.performs() == [("a", 1)]
    assert prepared(post) == [Prepare(run, b"kit") for run in "bcd"]
    post.finish(1, run="a")
    assert post.performs() == [("b", 1)]
    assert prepared(post) == [Prepare(run, b"kit") for run in "ef"]
    post.hear(over=["c"])
    assert Forget("c") in post.acts
    post.finish(1, run="b")
    assert post.performs() == [("d", 1)]
    assert prepared(post) == [Prepare(run, b"kit") for run in "gh"]


def prepared(post: Post) -> list[Prepare]:
    """Return what was to be prepared and was not looked at yet."""
    found = [act for act in post.acts if isinstance(act, Prepare)]
    post.acts = [act for act in post.acts if not isinstance(act, Prepare)]
    return found


def test_the_commands_of_a_run_are_no_other_run() -> None:
    post = Post(slots=4, max_active_runs=1)
    post.assign(*calls(1), run="a")
    post.assign(*calls(2), run="a:command")
    assert post.performs() == [("a", 1), ("a:command", 2)]


def test_short_calls_are_begun_ahead_as_soon_as_it_is_known_that_they_are_short() -> None:
    post = Post(slots=1)
    post.assign(*calls(*range(100)))
    assert len(post.performs()) == 1
    post.finish(0, took=0.0006)
    assert len(post.performs()) == 10  # a slot, and 5 ms of work


def test_long_calls_and_commands_are_not_begun_ahead() -> None:
    post = Post(slots=1)
    post.assign(*calls(*range(20)))
    post.finish(0, took=0.1)
    assert len(post.performs()) == 2
    other = Post(slots=1)
    other.assign(*calls(*range(20), place="command"))
    other.finish(0, took=0.0001)
    assert len(other.performs()) == 2


def test_a_chain_is_begun_as_one_and_takes_one_slot() -> None:
    post = Post(slots=1)
    acts = post.assign(*calls(1, 2, 3, rides={2: 1, 3: 2}))
    assert [(act.call.attempt, act.rides) for act in acts] == [(1, 0), (2, 1), (3, 2)]  # type: ignore[union-attr]
    post.assign(*calls(4))
    post.performs()
    for attempt in (1, 2):
        post.finish(attempt)
        assert not post.performs()
    post.finish(3)
    assert post.performs() == [("r", 4)]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.REPEATED])
def test_who_rides_is_dropped_without_a_word_with_an_end_that_carries_nobody(outcome: Outcome) -> None:
    post = Post()
    post.assign(*calls(1, 2, 3, rides={2: 1, 3: 2}))
    post.finish(1, outcome)
    (report,) = post.up().reports
    assert [each.attempt for each in report.finished] == [1]
    assert not report.recalled
    assert post.held() == {("r", 1): ([], [1])}


def test_a_call_waits_for_its_contents_which_are_wanted_once() -> None:
    post = Post()
    post.assign(*calls(1, function=b"f", apart=b"a"), *calls(2, function=b"f"), *calls(3), kit=b"k", needs=[b"n"])
    assert not post.performs()
    assert sorted(post.up().wants) == [b"a", b"f", b"k", b"n"]
    assert not post.up().wants
    for digest in (b"k", b"n"):
        post.note(post.duty.arrived(digest))
    assert post.performs() == [("r", 3)]
    post.note(post.duty.arrived(b"f"))
    assert post.performs() == [("r", 2)]
    post.finish(2)
    post.note(post.duty.arrived(b"a"))
    assert post.performs() == [("r", 1)]


def test_contents_are_wanted_again_on_a_new_stream_while_somebody_waits_for_them() -> None:
    post = Post()
    post.assign(*calls(1, function=b"f"), *calls(2, function=b"g"))
    post.up()
    post.hear(cancels=some(1, 2))
    post.duty.lose(0.0)
    post.welcome()
    assert list(post.up().wants) == [b"f"]


def test_what_needs_a_content_for_which_there_is_no_room_has_ended() -> None:
    """It would wait for good: what is refused is not sent again by itself. What does not need it goes on."""
    post = Post()
    post.assign(*calls(1, function=b"f"), *calls(2, rides={2: 1}), *calls(3, function=b"g"), *calls(4, function=b"f"))
    assert sorted(post.up().wants) == [b"f", b"g"]
    post.note(post.duty.refused(b"f", pb.Finished(outcome=Outcome.FAILED, error="No room.")))
    ends = [end for report in post.up().reports for end in report.finished]
    assert [(end.attempt, end.outcome, end.error) for end in ends] == [
        (1, Outcome.FAILED, "No room."),
        (4, Outcome.FAILED, "No room."),
    ]
    post.note(post.duty.arrived(b"g"))
    assert post.performs() == [("r", 3)]
    post.assign(*calls(5, function=b"f"))
    assert list(post.up().wants) == [b"f"]
    post.duty.passed(b"f")
    assert list(post.up().wants) == [b"f"]
    post.duty.passed(b"g")
    assert not post.up().wants


def test_a_call_waits_for_the_values_that_it_takes() -> None:
    """As for its arguments; one that was made here is here."""
    post = Post()
    post.note(post.duty.arrived(b"mine"))
    post.assign(*calls(1, values=[b"mine"]), *calls(2, values=[b"mine", b"other"]))
    assert post.performs() == [("r", 1)]
    assert list(post.up().wants) == [b"other"]
    post.note(post.duty.arrived(b"other"))
    assert post.performs() == [("r", 2)]


def test_an_attempt_that_is_cancelled_while_it_brings_its_value_has_none() -> None:
    """It may never find room where it is brought to; one without such a value has ended as it has ended."""
    post = Post()
    post.assign(*calls(1, 2, 3))
    for attempt, digest in ((1, b"large"), (2, b"")):
        end = pb.Finished(outcome=Outcome.COMPLETED, started=1.0, ended=2.0, apart=digest)
        post.note(post.duty.finished(attempt, end))
    post.up()
    key = ("r", 1)
    ends = (pb.Finished(outcome=Outcome.CANCELLED) for _ in range(4))
    assert [post.duty.unbrought(key, attempt, end) for attempt, end in enumerate(ends, 1)] == [
        True,
        False,
        False,
        False,
    ]
    ((end,),) = [report.finished for report in post.up().reports]
    assert (end.attempt, end.outcome, end.apart, end.ended) == (1, Outcome.CANCELLED, b"", 2.0)


# --- what is said until it has arrived --------------------------------------------------------------------------------------


def test_what_starts_and_ends_is_reported_and_an_end_says_all() -> None:
    post = Post()
    post.assign(*calls(1, 2))
    post.start(1)
    post.start(2)
    post.finish(2)
    (report,) = post.up().reports
    assert [each.attempt for each in report.started] == [1]
    assert [each.attempt for each in report.finished] == [2]


def test_an_end_is_said_on_every_stream_until_it_is_acknowledged() -> None:
    post = Post()
    post.assign(*calls(1))
    post.finish(1)
    for _ in range(2):
        assert [each.attempt for each in post.up().reports[0].finished] == [1]
        assert not post.up().reports
        post.duty.lose(0.0)
        assert post.duty.take() is None
        assert post.held() == {("r", 1): ([], [1])}
        post.welcome()
    post.hear(acks=some(1, 1))
    post.duty.lose(0.0)
    post.welcome()
    assert not post.up().reports
    assert post.held() == {("r", 1): ([], [])}


def test_everything_goes_on_while_there_is_no_stream() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2))
    post.up()
    post.duty.lose(0.0)
    post.start(1)
    post.finish(1)
    post.start(2)
    assert post.held() == {("r", 1): ([2], [1])}
    post.welcome()
    (report,) = post.up().reports
    assert [each.attempt for each in report.started] == [2]
    assert [each.attempt for each in report.finished] == [1]


def test_ends_are_said_in_the_order_in_which_they_came() -> None:
    """What is ridden on ends before what rides, and has to be heard before it."""
    post = Post()
    post.assign(*calls(5, 1, rides={1: 5}))
    post.finish(5)
    post.finish(1)
    post.duty.lose(0.0)
    post.welcome()
    assert [each.attempt for each in post.up().reports[0].finished] == [5, 1]


def test_what_is_given_back_between_greeting_and_welcome_is_reported() -> None:
    """The greeting had said that it was held."""
    post = Post()
    post.assign(*calls(1))
    post.hear(recalls=some(1, 1))
    post.duty.lose(0.0)
    post.duty.hello()
    post.duty.gave_back(post.token(1))
    post.welcome()
    assert [list(each.recalled) for each in post.up().reports] == [[1]]


def test_what_was_given_back_before_the_greeting_is_told_by_it() -> None:
    """It is sent again; a report would take that back."""
    post = Post()
    post.assign(*calls(1))
    post.hear(recalls=some(1, 1))
    post.duty.lose(0.0)
    post.duty.gave_back(post.token(1))
    assert post.held() == {("r", 1): ([], [])}
    post.welcome()
    assert not post.up().reports


def test_the_greeting_says_who_welcomed_it_last_and_what_rides() -> None:
    post = Post()
    assert post.duty.hello().coordinator == "c"
    post.assign(*calls(1, 2, rides={2: 1}))
    (held,) = post.duty.hello().held
    assert (list(held.open), list(held.rides)) == ([1, 2], [0, 2])


def test_heartbeats_are_due_and_say_how_much_there_is() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2, 3))
    post.duty.load = 0.5
    post.up()
    due = post.duty.next_tick
    assert due == HEARTBEAT
    assert not post.up().HasField("heartbeat")
    post.duty.tick(due)
    beat = post.up().heartbeat
    assert (beat.running, beat.waiting, beat.load) == (1, 2, 0.5)
    post.hear(heartbeat=3.0)
    post.duty.tick(due + HEARTBEAT)
    assert post.duty.next_tick == due + HEARTBEAT + 3.0
    post.duty.lose(due)
    assert post.duty.next_tick is None


# --- what is taken back, stopped, forgotten ---------------------------------------------------------------------------------


def test_what_waits_is_given_back_at_once_and_what_was_begun_is_asked_for() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2, 3))
    acts = post.hear(recalls=some(1, 1, 3))
    assert acts == [TakeBack(post.token(1))]
    assert [list(each.recalled) for each in post.up().reports] == [[3]]
    post.note(post.duty.gave_back(post.token(1)))
    assert [list(each.recalled) for each in post.up().reports] == [[1]]
    assert post.performs() == [("r", 1), ("r", 2)]


def test_what_has_started_is_not_given_back() -> None:
    post = Post()
    post.assign(*calls(1))
    post.start(1)
    assert not post.hear(recalls=some(1, 1))


def test_a_cancel_stops_what_runs_and_ends_what_waits() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2))
    assert post.hear(cancels=some(1, 1, 2, 9)) == [Stop(post.token(1))]
    (report,) = post.up().reports
    assert [(each.attempt, each.outcome) for each in report.finished] == [(2, Outcome.CANCELLED)]
    post.finish(1, Outcome.COMPLETED)
    assert [each.outcome for each in post.up().reports[0].finished] == [Outcome.COMPLETED]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_who_rides_may_be_cancelled_together_with_what_it_rides_on(order: tuple[int, ...]) -> None:
    post = Post(slots=1)
    post.assign(*calls(9))
    post.assign(*calls(1, 2, 3, rides={2: 1, 3: 2}))
    assert not post.hear(cancels=some(1, *order))
    (report,) = post.up().reports
    assert 1 in [each.attempt for each in report.finished]
    assert {each.outcome for each in report.finished} == {Outcome.CANCELLED}
    post.hear(acks=some(1, *order))
    assert post.held() == {("r", 1): ([9], [])}


def test_what_nobody_wants_is_stopped_and_not_reported() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2))
    assert post.hear(acks=some(1, 1, 2)) == [Stop(post.token(1))]
    assert post.held() == {("r", 1): ([], [])}
    post.finish(1)
    assert not post.up().reports


def test_the_next_attempt_of_a_node_waits_until_an_unwanted_one_has_stopped() -> None:
    """The same effects at the same place at the same time would be one too many."""
    post = Post()
    post.assign(*calls(1))
    post.hear(acks=some(1, 1))
    post.performs()
    post.assign(*calls(1), fence=2)
    assert not post.performs()
    post.finish(1, Outcome.CANCELLED)
    assert post.performs() == [("r", 1)]


def test_a_run_that_is_over_is_forgotten_when_all_of_it_has_stopped() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2))
    assert post.hear(over=["r"]) == [Stop(post.token(1))]
    assert post.finish(1, Outcome.CANCELLED) == [Forget("r")]
    assert post.held() == {}
    assert not post.up().reports


def test_a_run_that_is_over_may_come_again_before_it_has_stopped() -> None:
    post = Post()
    post.assign(*calls(1))
    post.performs()
    assert post.hear(over=["r"], assigns=[pb.Assign(run="r", fence=9, calls=calls(5))]) == [Stop(post.token(1))]
    acts = post.finish(1, Outcome.CANCELLED)
    assert acts[0] == Forget("r")
    assert post.performs() == [("r", 5)]


def test_a_duplicate_is_not_performed_twice() -> None:
    post = Post()
    post.assign(*calls(1))
    post.assign(*calls(1))
    assert post.performs() == [("r", 1)]


# --- leaving ------------------------------------------------------------------------------------------------------------------


def test_a_worker_leaves_when_all_has_ended_and_arrived() -> None:
    post = Post(slots=1)
    post.assign(*calls(1, 2))
    post.start(1)
    post.performs()
    assert not post.note(post.duty.drain(1.0))
    up = post.up()
    assert up.draining
    assert [list(each.recalled) for each in up.reports] == [[2]]
    assert not post.assign(*calls(3))
    assert [list(each.recalled) for each in post.up().reports] == [[3]]
    assert not post.finish(1)
    assert not post.up().drained
    assert post.hear(acks=some(1, 1)) == [Leave()]
    assert post.up().drained
    assert post.duty.take() is None


def test_a_worker_that_is_to_leave_waits_a_lease_for_a_coordinator_that_is_away_and_no_longer() -> None:
    """Who comes then has given to others what it had; what still runs is let end."""
    post = Post()
    post.assign(*calls(1, 2))
    post.performs()
    for attempt in (1, 2):
        post.start(attempt)
    post.finish(1)
    post.duty.lose(100.0)
    post.note(post.duty.drain(101.0))
    assert post.duty.next_tick is None
    post.finish(2)
    assert post.duty.next_tick == 100.0 + LEASE
    assert not post.duty.tick(99.0 + LEASE)
    assert post.duty.tick(100.0 + LEASE) == [Leave(untold=2)]
    assert post.duty.next_tick is None


def test_a_worker_that_has_nothing_leaves_at_once() -> None:
    post = Post()
    assert post.hear(drain=True) == [Leave()]
    up = post.up()
    assert up.draining
    assert up.drained


# --- what is exclusive ---------------------------------------------------------------------------------------------------------


def test_what_is_exclusive_begins_when_it_is_known_how_long_the_lease_is() -> None:
    post = Post()
    post.assign(*calls(1, exclusive=True))
    assert not post.performs()
    echo = post.up().heartbeat.echo
    assert echo
    post.hear(echo=echo)
    assert post.performs() == [("r", 1)]


def test_what_is_exclusive_is_stopped_before_its_lease_is_over_and_counts_as_lost() -> None:
    post = Post(slots=3)
    post.assign(*calls(1, 2, exclusive=True), *calls(3))
    post.hear(echo=post.up().heartbeat.echo)
    post.duty.lose(0.0)
    due = post.duty.next_tick
    assert due is not None
    assert 0.8 * LEASE < due < LEASE
    acts = post.note(post.duty.tick(due))
    assert sorted(act.token for act in acts if isinstance(act, Stop)) == sorted([post.token(1), post.token(2)])
    post.finish(1, Outcome.CANCELLED)
    post.finish(2, Outcome.COMPLETED)
    post.welcome()
    (report,) = post.up().reports
    assert {each.attempt: each.outcome for each in report.finished} == {1: Outcome.LOST, 2: Outcome.COMPLETED}


def test_what_is_exclusive_and_was_killed_while_its_worker_was_stopped_counts_as_lost() -> None:
    """It did not fail: who has come back hears of its end before it has looked at the clock."""
    post = Post(slots=2)
    post.assign(*calls(1, 2, exclusive=True))
    post.hear(echo=post.up().heartbeat.echo)
    assert 0.9 * LEASE < post.duty.killed_at < LEASE
    post.duty.finished(post.token(1), pb.Finished(outcome=Outcome.FAILED), 0.1 * LEASE)
    post.duty.finished(post.token(2), pb.Finished(outcome=Outcome.FAILED), post.duty.killed_at)
    (report,) = post.up().reports
    assert {each.attempt: each.outcome for each in report.finished} == {1: Outcome.FAILED, 2: Outcome.LOST}


def test_what_is_exclusive_goes_on_while_the_coordinator_answers() -> None:
    post = Post()
    post.assign(*calls(1, exclusive=True))
    for second in range(100):
        post.now = float(second)
        post.note(post.duty.tick(post.now))
        post.hear(echo=post.up().heartbeat.echo)
    assert not [act for act in post.acts if isinstance(act, Stop)]


def test_nobody_asks_for_echoes_where_nothing_is_exclusive() -> None:
    post = Post()
    post.assign(*calls(1))
    post.duty.tick(HEARTBEAT)
    assert not post.up().heartbeat.echo


def test_what_is_exclusive_and_has_not_begun_is_given_back_when_there_is_another_coordinator() -> None:
    """It may have gone to another worker, and this one does not know that yet."""
    post = Post()
    post.assign(*calls(1, exclusive=True), *calls(2, function=b"f"))
    post.duty.lose(0.0)
    post.welcome("c")
    assert not post.up().reports
    post.duty.lose(0.0)
    post.welcome("d")
    assert [list(each.recalled) for each in post.up().reports] == [[1]]


def test_a_mark_is_sent_back_when_all_before_it_has_been_heard() -> None:
    post = Post()
    post.up()
    post.hear(mark=3)
    assert post.up().mark == 3
    assert post.duty.take() is None


def test_what_is_exclusive_does_not_begin_on_the_time_of_long_ago() -> None:
    """The process was stopped for longer than its lease, and the first that it hears of is that a slot is free."""
    post = Post(slots=1)
    post.assign(*calls(1), *calls(2, exclusive=True))
    post.hear(echo=post.up().heartbeat.echo)
    post.performs()
    post.finish(1)
    assert not post.performs()
    assert post.duty.next_tick == 0.0
    post.now = 2 * LEASE
    post.note(post.duty.tick(post.now))
    assert not post.performs()


def test_what_is_exclusive_begins_at_once_where_the_time_is_said() -> None:
    post = Post(slots=1)
    post.assign(*calls(1), *calls(2, exclusive=True), *calls(3, exclusive=True))
    post.hear(echo=post.up().heartbeat.echo)
    post.performs()
    post.note(post.duty.finished(post.token(1), done(1), 1.0))
    assert post.performs() == [("r", 2)]
    post.finish(2)
    post.note(post.duty.tick(1.0))
    assert post.performs() == [("r", 3)]
