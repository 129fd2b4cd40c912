"""The rules of the coordinator's book, one by one: who is let in, what counts, who is told what, and when."""

from __future__ import annotations

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.books import PUSHED, Health, health
from dagrid.execution.backends.cluster.ledger import CROWD, PROTOCOL, SLOWEST, Ledger
from dagrid.machine.events import Outcome
from tests.fleet.desks import LEASE, Desk, calls, done, hello, some


@pytest.fixture
def desk() -> Desk:
    """A ledger with one worker of two slots and one run, which have been told of each other."""
    made = Desk()
    assert made.come() is None
    made.open()
    return made


# --- workers ------------------------------------------------------------------------------------------------------------------


def test_a_worker_hears_how_often_to_speak_and_how_long_its_lease_is() -> None:
    desk = Desk()
    desk.come()
    assert desk.down().welcome == pb.Welcome(heartbeat=1.0, lease=LEASE, coordinator="c")


def test_a_worker_speaks_several_times_in_a_lease_however_short_that_is() -> None:
    ledger = Ledger(incarnation="c", lease=1.0, heartbeat=1.0)
    ledger.greet("w", hello(), 0.0)
    ((_, down),) = ledger.take()
    assert down.welcome == pb.Welcome(heartbeat=0.2, lease=1.0, coordinator="c")


def test_many_workers_speak_less_often_each() -> None:
    """A thousand that have nothing to do cost the coordinator little; those that came when they were few are told as well."""
    desk = Desk()
    for number in range(CROWD):
        desk.come(f"w{number}")
    assert {down.welcome.heartbeat for down in desk.sent().values()} == {1.0}
    desk.come("more")
    sent = desk.sent()
    assert sent["more"].welcome.heartbeat == 2.0
    assert sent["w0"] == pb.Down(heartbeat=2.0)
    for number in range(5 * CROWD):
        desk.come(f"v{number}")
    assert desk.sent()["v999"].welcome.heartbeat == SLOWEST


def test_another_protocol_is_refused_with_both_numbers() -> None:
    desk = Desk(version="2.0")
    refusal = desk.ledger.greet("w", pb.Hello(id="w", slots=1, protocol=7, version="9.9"), 0.0)
    assert refusal is not None
    assert refusal.final
    assert f"protocol {PROTOCOL} (dagrid 2.0)" in refusal.reason
    assert "protocol 7 (dagrid 9.9)" in refusal.reason
    refused = desk.ledger.open("r", pb.Open(run="r", protocol=7), 0.0)
    assert refused is not None
    assert refused.final


@pytest.mark.parametrize("hello", [pb.Hello(protocol=PROTOCOL, slots=1), pb.Hello(protocol=PROTOCOL, id="w")])
def test_a_worker_without_id_or_slots_is_refused(hello: pb.Hello) -> None:
    refusal = Desk().ledger.greet("w", hello, 0.0)
    assert refusal is not None
    assert refusal.final


def test_a_second_process_with_a_living_workers_id_is_refused_and_may_try_again() -> None:
    desk = Desk()
    desk.come(host="here", pid=7)
    refusal = desk.come(link="other", incarnation="w-2")
    assert refusal is not None
    assert not refusal.final
    assert "'w' already, on here with pid 7" in refusal.reason


def test_a_new_process_takes_the_id_of_one_that_is_not_heard_any_more(desk: Desk) -> None:
    desk.now = 5.0
    assert desk.come(link="other", incarnation="w-2") is None
    told = desk.told()
    assert [(gone.worker, gone.reason) for gone in told.gone] == [("w", "worker 'w' began anew")]
    assert [joined.generation for joined in told.joined] == [2]
    assert desk.ledger.hang_ups() == [("w", "worker 'w' began anew")]


def test_a_worker_that_is_silent_for_longer_than_its_lease_is_gone(desk: Desk) -> None:
    desk.pass_time(LEASE - 0.1)
    assert not desk.told().gone
    desk.pass_time(0.2)
    assert [gone.reason for gone in desk.told().gone] == ["worker 'w' was silent for 30 s"]
    assert desk.ledger.hang_ups() == [("w", "worker 'w' was silent for 30 s")]


def given(desk: Desk, *runs: str) -> None:
    """Let runs give a worker an attempt each, and let all this be told."""
    for run in runs:
        desk.open(run)
        desk.assign(*calls(1), run=run)
    desk.sent()


def next_to(desk: Desk, *runs: str) -> list[int]:
    """Return of how many attempts runs are told that they may have begun without a word."""
    sent = desk.sent()
    return [gone.next for run in runs for gone in sent[run].gone]


def test_a_worker_that_ends_takes_with_it_as_much_as_it_can_begin(desk: Desk) -> None:
    """Of a hundred runs that waited there the next one of each had begun, for all that they knew, and three such ends were the
    end of them all.
    """
    runs = ["s", "t", "u", "r"]
    given(desk, *runs[:3])
    desk.assign(*calls(1, 2, 3))
    desk.sent()
    desk.pass_time(31)
    assert next_to(desk, *runs) == [1, 1, 0, 0]


def test_a_worker_whose_slots_are_taken_may_have_begun_one_more(desk: Desk) -> None:
    """What has just ended may not be told yet, and the next one have ended the worker."""
    runs = ["s", "t", "u"]
    given(desk, *runs)
    for run in runs[:2]:
        desk.report(run=run, started=[pb.Started(attempt=1)])
    desk.sent()
    desk.pass_time(31)
    assert next_to(desk, *runs) == [0, 0, 1]


def test_no_more_may_have_ended_a_worker_of_another_coordinator() -> None:
    """Each run was asked for itself what it had given to a worker, and the machine of both was switched off three times."""
    desk = Desk()
    runs = ["s", "t", "u", "v"]
    for run in runs:
        desk.open(run, [pb.Use(fence=4, worker="w", queued=[1, 2], started=[3] if run == "s" else [])])
    desk.come()
    assert next_to(desk, *runs) == [1, 0, 0, 0]
    told = desk.open("x", [pb.Use(fence=4, worker="w", queued=[1])])
    assert [gone.next for gone in told.gone] == [0]


def test_whatever_a_worker_says_renews_its_lease(desk: Desk) -> None:
    for _ in range(10):
        desk.pass_time(LEASE - 1)
        desk.beat("w")
    assert not desk.told().gone


def test_a_coordinator_that_was_away_itself_lets_no_worker_pay_for_it(desk: Desk) -> None:
    """It was stopped, or its machine slept: what workers said in the meantime waits in the sockets."""
    desk.ledger.tick(10 * LEASE)
    assert not desk.told().gone
    desk.now = 10 * LEASE
    desk.pass_time(LEASE + 1)
    assert desk.told().gone


def test_the_same_process_comes_back_within_its_lease_and_nothing_is_gone(desk: Desk) -> None:
    desk.ledger.lose("w", 0.0)
    desk.pass_time(LEASE / 2)
    desk.come(link="newer")
    told = desk.told()
    assert not told.gone
    assert not told.joined


def test_what_is_said_on_an_older_stream_is_not_heard(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, open=[1])])
    desk.sent()
    desk.report("w", finished=[done(1)])
    assert not desk.told().reports
    desk.report("newer", finished=[done(1)])
    assert len(desk.told().reports) == 1


def test_health_is_told_by_the_seconds_of_silence() -> None:
    seconds = [0.0, 4.9, 5.0, 15.0, 15.1, 30.0, 30.1]
    wanted = ["HEALTHY", "HEALTHY", "WARNING", "WARNING", "UNHEALTHY", "UNHEALTHY", "OFFLINE"]
    assert [health(each).name for each in seconds] == wanted


def test_a_worker_is_shown_with_what_runs_there_and_for_a_while_after_it_went(desk: Desk) -> None:
    desk.assign(*calls(1, 2, 3))
    desk.report(started=[pb.Started(attempt=1, at=1000.0), pb.Started(attempt=2, at=999.0)])
    (view,) = desk.ledger.workers(1.0)
    assert (view.id, view.health, view.slots, view.waiting) == ("w", Health.HEALTHY, 2, 1)
    assert [(each.run, each.name, each.root, each.since, each.started) for each in view.running] == [
        ("r", "r", "r", 999.0, 2)
    ]
    desk.pass_time(LEASE + 1)
    (view,) = desk.ledger.workers(desk.now)
    assert (view.health, view.running, view.connected) == (Health.OFFLINE, [], False)
    assert desk.ledger.workers(desk.now + 100 * LEASE) == []


def test_runs_of_one_id_are_shown_by_it_each_for_itself(desk: Desk) -> None:
    for key in ("monday~1", "monday~1:command", "monday~2"):
        desk.open(key)
        desk.assign(*calls(1), run=key)
        desk.report(run=key, started=[pb.Started(attempt=1, at=1.0)])
    (view,) = desk.ledger.workers(1.0)
    assert [(each.run, each.started) for each in view.running] == [("monday", 2), ("monday", 1)]


# --- what is given to workers ---------------------------------------------------------------------------------------------


def test_calls_go_to_their_worker_with_what_is_small_and_needed_once() -> None:
    desk = Desk(small=lambda digest: b"content" if digest == b"f" else None)
    desk.come()
    desk.open()
    down = desk.assign(*calls(1, function=b"f"), *calls(2, function=b"g"))
    assert [part.digest for part in down.parts] == [b"f"]
    assert [call.attempt for call in down.assigns[0].calls] == [1, 2]
    assert not desk.assign(*calls(3, function=b"f")).parts


def test_a_kit_is_sent_as_a_secret() -> None:
    """It may hold some; functions, and the files that it needs, may be kept in files."""
    desk = Desk(small=lambda digest: digest)
    desk.come()
    desk.open()
    asked = pb.Assign(run="r", fence=1, worker="w", generation=desk.generations["r", "w"], kit=b"kit", needs=[b"files"])
    asked.calls.extend(calls(1, function=b"f"))
    desk.ask(assigns=[asked])
    assert {part.digest: part.secret for part in desk.down().parts} == {b"f": False, b"kit": True, b"files": False}


def test_what_was_sent_long_ago_is_sent_again() -> None:
    """The books of a coordinator that is up for years do not grow by what its workers once got."""
    desk = Desk(small=lambda digest: digest)
    desk.come()
    desk.open()
    for number in range(PUSHED + 1):
        assert desk.assign(*calls(number + 1, function=b"%d" % number)).parts
    assert not desk.assign(*calls(PUSHED + 2, function=b"%d" % PUSHED)).parts
    assert [part.digest for part in desk.assign(*calls(PUSHED + 3, function=b"0")).parts] == [b"0"]


def test_an_end_is_kept_by_the_worker_until_the_run_has_taken_it(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.report(finished=[done(1)])
    told, down = desk.both()
    assert [each.attempt for each in told.reports[0].finished] == [1]
    assert not down.acks
    desk.ask(acks=some(1, 1))
    assert [list(each.attempts) for each in desk.down().acks] == [[1]]


def test_an_end_is_told_once_on_a_line_and_again_on_the_next_one(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.report(finished=[done(1)])
    assert len(desk.told().reports) == 1
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, ended=[1])])
    desk.report("newer", finished=[done(1)])
    assert not desk.told().reports
    told = desk.open(link="next", uses=[pb.Use(fence=1, worker="w", started=[1])])
    assert [each.attempt for each in told.reports[0].finished] == [1]


@pytest.mark.parametrize("fence", [0, 2])
def test_a_report_of_another_fence_does_not_count_and_is_to_be_forgotten(desk: Desk, fence: int) -> None:
    desk.assign(*calls(1))
    desk.report(fence=fence, finished=[done(1)])
    told, down = desk.both()
    assert not told.reports
    assert [(each.fence, list(each.attempts)) for each in down.acks] == [(fence, [1])]


def test_a_start_is_passed_on_unless_the_end_has_come_with_it(desk: Desk) -> None:
    desk.assign(*calls(1, 2))
    desk.report(started=[pb.Started(attempt=1, at=5.0), pb.Started(attempt=2, at=5.0)], finished=[done(2)])
    (report,) = desk.told().reports
    assert [each.attempt for each in report.started] == [1]
    assert [each.attempt for each in report.finished] == [2]


def test_what_was_sent_and_did_not_arrive_is_sent_again(desk: Desk) -> None:
    desk.assign(*calls(1, 2))
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, open=[2])])
    down = desk.down("newer")
    assert [call.attempt for call in down.assigns[0].calls] == [1]


def test_a_chain_that_did_not_arrive_is_sent_again_as_one(desk: Desk) -> None:
    desk.assign(*calls(1, 2, 3, rides={2: 1, 3: 2}))
    desk.come(link="newer")
    assert [(call.attempt, call.rides) for call in desk.down("newer").assigns[0].calls] == [(1, 0), (2, 2), (3, 3)]


def test_what_had_started_and_left_no_trace_is_lost(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.report(started=[pb.Started(attempt=1, at=5.0)])
    desk.sent()
    desk.come(link="newer")
    (report,) = desk.told().reports
    assert [(each.attempt, each.outcome) for each in report.finished] == [(1, Outcome.LOST)]


def test_what_a_worker_holds_and_nobody_wants_is_to_be_forgotten(desk: Desk) -> None:
    desk.come(link="newer", held=[pb.Held(run="r", fence=9, open=[1], ended=[2])])
    (acks,) = desk.down("newer").acks
    assert (acks.fence, sorted(acks.attempts)) == (9, [1, 2])


def test_a_cancel_and_a_recall_that_did_not_arrive_are_said_again(desk: Desk) -> None:
    desk.assign(*calls(1, 2))
    desk.ledger.lose("w", 0.0)
    desk.ask(cancels=some(1, 1), recalls=some(1, 2))
    assert not desk.down().cancels
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, open=[1, 2])])
    down = desk.down("newer")
    assert [list(each.attempts) for each in down.cancels] == [[1]]
    assert [list(each.attempts) for each in down.recalls] == [[2]]


def test_a_call_that_has_not_been_sent_is_given_back_at_once(desk: Desk) -> None:
    assign = pb.Assign(run="r", fence=1, worker="w", generation=1, calls=calls(1, 2, 3, rides={2: 1}))
    desk.ledger.ask("r", pb.Ask(assigns=[assign]), 0.0)
    desk.ask(recalls=some(1, 1))
    told, down = desk.both()
    assert [list(each.recalled) for each in told.reports] == [[1]]
    assert [call.attempt for call in down.assigns[0].calls] == [3]
    assert not down.recalls


def test_an_assignment_to_a_generation_that_is_over_goes_nowhere(desk: Desk) -> None:
    """The run has been told that the worker is gone, or is going to be."""
    desk.pass_time(LEASE + 1)
    desk.come(incarnation="w-2")
    stale = pb.Assign(run="r", fence=1, worker="w", generation=1, calls=calls(1))
    desk.ledger.ask("r", pb.Ask(assigns=[stale]), desk.now)
    assert not desk.down().assigns


def test_what_a_worker_may_forget_waits_for_what_presses(desk: Desk) -> None:
    """A message for each end that a run has taken, and for each run that is over, would cost as much as its calls do."""
    desk.assign(*calls(1))
    desk.open("brief")
    desk.assign(*calls(1), run="brief")
    desk.report(finished=[done(1)])
    desk.sent()
    desk.ask(acks=some(1, 1))
    desk.ask("brief", close=True)
    assert desk.ledger.take_pressing() == []
    assert desk.ledger.has_post
    desk.ask(assigns=[pb.Assign(run="r", fence=1, worker="w", generation=1, calls=calls(2))])
    ((_, down),) = desk.ledger.take_pressing()
    assert isinstance(down, pb.Down)
    assert [call.attempt for call in down.assigns[0].calls] == [2]
    assert [list(each.attempts) for each in down.acks] == [[1]]
    assert list(down.over) == ["brief"]
    assert not desk.ledger.has_post


def test_who_rides_is_forgotten_with_an_end_that_carries_nobody(desk: Desk) -> None:
    desk.assign(*calls(1, 2, 3, rides={2: 1, 3: 2}))
    desk.report(finished=[done(1, Outcome.FAILED)])
    desk.ask(acks=some(1, 1))
    (view,) = desk.ledger.workers(0.0)
    assert view.waiting == 0
    desk.report(finished=[done(2)])
    assert [list(each.attempts) for each in desk.down().acks] == [[1, 2]]


# --- runs come and go -------------------------------------------------------------------------------------------------------


def test_the_least_loaded_worker_is_named_first_and_equal_ones_in_turn() -> None:
    desk = Desk()
    for worker in ("a", "b", "c"):
        desk.come(worker)
    first = [desk.open(f"r{number}").joined[0].worker for number in range(6)]
    assert sorted(first) == ["a", "a", "b", "b", "c", "c"]
    desk.assign(*calls(1), worker="a", run="r0")
    desk.assign(*calls(1), worker="c", run="r0", fence=2)
    assert all(desk.open(f"s{number}").joined[0].worker == "b" for number in range(3))


def test_calls_go_only_to_workers_with_their_python_and_commands_to_all() -> None:
    desk = Desk()
    desk.ledger.greet("w", pb.Hello(id="w", slots=1, protocol=PROTOCOL, python="3.12"), 0.0)
    (joined,) = desk.open("r").joined
    assert (joined.slots, "it has Python 3.12" in joined.unfit, "of Python 3.11" in joined.unfit) == (0, True, True)
    desk.pass_time(LEASE / 2)
    desk.ledger.greet("w again", pb.Hello(id="w", slots=1, protocol=PROTOCOL, python="3.12"), desk.now)
    assert not desk.told("r").joined, "it is said once"
    (command,) = desk.open("r:command").joined
    assert (command.slots, command.unfit) == (1, "")
    desk.pass_time(2 * LEASE)
    told = desk.sent()
    assert [[gone.generation for gone in told[run].gone] for run in ("r", "r:command")] == [[joined.generation]] * 2


def test_a_run_that_closes_is_over_at_all_workers_that_had_something_of_it(desk: Desk) -> None:
    desk.come("other")
    desk.sent()
    desk.assign(*calls(1))
    desk.ask(close=True)
    sent = desk.sent()
    assert list(sent["w"].over) == ["r"]
    assert "other" not in sent
    assert desk.ledger.workers(0.0)[0].waiting == 0


def test_a_run_whose_line_breaks_has_a_lease_to_come_back(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.ledger.leave("r", 0.0)
    for _ in range(3):
        desk.pass_time(LEASE / 2 - 1)
        desk.beat("w")
    assert list(desk.down().over) == ["r"]


def test_a_run_that_opens_again_is_told_what_it_missed(desk: Desk) -> None:
    desk.assign(*calls(1, 2, 3, 4))
    desk.ledger.leave("r", 0.0)
    desk.report(finished=[done(1)], started=[pb.Started(attempt=2, at=5.0)], recalled=[3])
    told = desk.open(uses=[pb.Use(fence=1, worker="w", queued=[1, 2, 3, 4, 5], started=[6])])
    assert [(joined.worker, joined.fence) for joined in told.joined] == [("w", 1)]
    (report,) = told.reports
    assert [(each.attempt, each.outcome) for each in report.finished] == [(6, Outcome.LOST), (1, Outcome.COMPLETED)]
    assert [each.attempt for each in report.started] == [2]
    assert sorted(report.recalled) == [3, 5]


def test_what_a_run_that_opens_again_does_not_list_is_stopped(desk: Desk) -> None:
    desk.assign(*calls(1, 2))
    desk.assign(*calls(1), fence=1)
    desk.open(link="next", uses=[pb.Use(fence=1, worker="w", queued=[1])])
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, open=[1, 2])])
    assert [list(each.attempts) for each in desk.down("newer").acks] == [[2]]


def test_who_opens_a_run_that_is_open_takes_it_over(desk: Desk) -> None:
    desk.open(link="next")
    assert desk.ledger.hang_ups() == [("r", "run 'r' was opened by somebody else")]
    desk.assign(*calls(1), link="r")
    assert not desk.down().assigns


# --- after a restart ---------------------------------------------------------------------------------------------------------


def listed(*, queued: list[int] | None = None, started: list[int] | None = None) -> list[pb.Use]:
    return [pb.Use(fence=4, worker="w", queued=queued or [], started=started or [])]


def test_a_use_from_before_goes_on_when_its_worker_comes(desk: Desk) -> None:
    desk = Desk()
    told = desk.open(uses=listed(queued=[1, 2], started=[3, 4]))
    assert not told.joined
    assert [(room.worker, room.generation, room.slots) for room in told.rooms] == [("w", 0, 0)]
    desk.come(held=[pb.Held(run="r", fence=4, open=[2, 3], ended=[9])])
    told, down = desk.both()
    assert [(each.worker, each.fence) for each in told.joined] == [("w", 4)]
    assert [(each.worker, each.slots) for each in told.rooms] == [("w", 2)]
    (report,) = told.reports
    assert list(report.recalled) == [1]
    assert [(each.attempt, each.outcome) for each in report.finished] == [(4, Outcome.LOST)]
    assert [list(each.attempts) for each in down.acks] == [[9]]


def test_a_use_from_before_goes_on_when_its_worker_was_there_first() -> None:
    desk = Desk()
    desk.come(held=[pb.Held(run="r", fence=4, open=[2], ended=[3])])
    desk.report(fence=4, finished=[done(3)])
    told = desk.open(uses=listed(queued=[1, 2], started=[3]))
    assert [(each.worker, each.fence) for each in told.joined] == [("w", 4)]
    (report,) = told.reports
    assert [each.attempt for each in report.finished] == [3]
    assert list(report.recalled) == [1]


def test_what_is_assigned_to_a_worker_that_has_not_come_waits_for_it() -> None:
    desk = Desk()
    desk.open(uses=listed(started=[1]))
    asked = pb.Assign(run="r", fence=4, worker="w", calls=calls(2))
    desk.ledger.ask("r", pb.Ask(assigns=[asked]), 0.0)
    desk.come(held=[pb.Held(run="r", fence=4, open=[1])])
    assert [call.attempt for call in desk.down().assigns[0].calls] == [2]


def test_a_use_from_before_ends_when_its_worker_does_not_come_within_a_lease() -> None:
    desk = Desk()
    desk.open(uses=listed(started=[1]))
    desk.pass_time(LEASE - 1)
    assert not desk.told().gone
    desk.pass_time(2)
    assert [(gone.worker, gone.fence) for gone in desk.told().gone] == [("w", 4)]


def test_a_use_from_before_ends_when_its_worker_has_forgotten_it() -> None:
    desk = Desk()
    desk.open(uses=listed(started=[1]))
    desk.come(incarnation="w-2")
    told = desk.told()
    assert [gone.fence for gone in told.gone] == [4]
    assert [joined.fence for joined in told.joined] == [0]


def test_what_a_worker_holds_of_a_run_that_has_not_been_opened_is_left_alone_for_a_lease() -> None:
    """The coordinator has begun anew, and takes up its runs one after the other."""
    desk = Desk()
    desk.come(held=[pb.Held(run="r", fence=4, open=[1])], coordinator="before")
    assert not desk.down().over
    desk.pass_time(LEASE - 1)
    desk.beat("w")
    assert not desk.down().over
    desk.pass_time(2)
    assert list(desk.down().over) == ["r"]


def test_a_run_that_ended_while_its_worker_was_away_is_over_at_once(desk: Desk) -> None:
    desk.assign(*calls(1))
    desk.ledger.lose("w", 0.0)
    desk.ask(close=True)
    desk.come(link="newer", held=[pb.Held(run="r", fence=1, open=[1])], coordinator="c")
    assert list(desk.down("newer").over) == ["r"]


# --- leaving ------------------------------------------------------------------------------------------------------------------


def test_a_worker_that_wants_to_leave_gets_no_more_and_goes_without_loss(desk: Desk) -> None:
    desk.assign(*calls(1, 2, 3))
    desk.report(started=[pb.Started(attempt=1, at=5.0)])
    desk.sent()
    desk.ledger.hear("w", pb.Up(draining=True), 1.0)
    told, down = desk.both()
    assert [(room.worker, room.slots) for room in told.rooms] == [("w", 0)]
    assert [list(each.attempts) for each in down.recalls] == [[2, 3]]
    assert not desk.open("later").joined
    desk.report(finished=[done(1)], recalled=[2, 3])
    desk.ask(acks=some(1, 1))
    desk.ledger.hear("w", pb.Up(drained=True), 2.0)
    assert [gone.reason for gone in desk.told().gone] == ["worker 'w' took its leave"]
    assert desk.ledger.hang_ups() == [("w", "worker 'w' took its leave")]
    assert desk.ledger.workers(2.0) == []


def test_a_worker_can_be_asked_to_leave(desk: Desk) -> None:
    assert desk.ledger.drain("w")
    assert desk.down().drain
    assert not desk.ledger.drain("nobody")


def test_a_worker_whose_stream_broke_is_given_nothing_until_it_is_back(desk: Desk) -> None:
    desk.ledger.lose("w", 0.0)
    assert [room.slots for room in desk.told().rooms] == [0]
    desk.come(link="newer")
    assert [room.slots for room in desk.told().rooms] == [2]


# --- between runs ------------------------------------------------------------------------------------------------------------


def crowd(desk: Desk, runs: int, slots: int = 1) -> None:
    """Let so many runs of one step be with worker `a`, which has one slot, while `b` has nothing."""
    desk.come("a", slots=1)
    desk.come("b", slots=slots)
    for number in range(runs):
        desk.open(f"r{number}")
    desk.ledger.lose("b", desk.now)
    for number in range(runs):
        desk.assign(*calls(0), run=f"r{number}", worker="a")
    desk.report("a", run="r0", started=[pb.Started(attempt=0, at=1.0)])
    desk.sent()


def test_what_waits_behind_other_runs_goes_to_a_worker_that_has_nothing_to_do() -> None:
    desk = Desk()
    crowd(desk, 3)
    desk.come("b", link="newer", slots=1)
    sent = desk.sent()
    (recall,) = sent["a"].recalls
    assert (recall.run, list(recall.attempts)) == ("r2", [0])
    assert [(room.worker, room.slots) for room in sent["r2"].rooms if room.worker == "a"] == [("a", 0)]
    assert all(room.worker == "b" for run in ("r0", "r1") for room in sent[run].rooms)
    desk.report("a", run="r2", recalled=[0])
    assert list(desk.told("r2").reports[0].recalled) == [0]
    desk.assign(*calls(0), run="r2", worker="b", fence=2)
    desk.report("a", run="r0", finished=[done(0)])
    assert not desk.told("r2").rooms  # there is one left, which takes the slot
    desk.report("a", run="r1", finished=[done(0)])
    assert [(room.worker, room.slots) for room in desk.told("r2").rooms] == [("a", 1)]


def test_no_more_is_taken_back_than_there_are_free_slots() -> None:
    desk = Desk()
    crowd(desk, 8, slots=2)
    desk.come("b", link="newer", slots=2)
    for _ in range(5):
        desk.beat("a", "newer")
    assert sum(len(each.attempts) for each in desk.down("a").recalls) == 2


def test_an_attempt_is_taken_back_once() -> None:
    """Its run may have put it there because it can be nowhere else."""
    desk = Desk()
    crowd(desk, 2)
    desk.come("b", link="newer", slots=1)
    assert len(desk.down("a").recalls) == 1
    desk.report("a", run="r1", recalled=[0])
    desk.assign(*calls(0), run="r1", worker="a")
    for _ in range(5):
        desk.now += 1
        desk.beat("a", "newer")
    assert not desk.down("a").recalls


def test_what_waits_behind_its_own_run_is_left_to_that_run() -> None:
    desk = Desk()
    desk.come("a", slots=1)
    desk.come("b", slots=1)
    desk.open("r")
    down = desk.assign(*calls(0, 1, 2), worker="a")
    desk.beat("a", "b")
    assert not down.recalls
    assert not desk.down("a").recalls


def test_a_run_that_a_worker_does_not_take_yet_goes_to_one_that_takes_it() -> None:
    """`max_active_runs` keeps it waiting though there are slots."""
    desk = Desk()
    desk.come("a", slots=4, max_active_runs=1)
    desk.come("b", slots=4)
    desk.open("r0")
    desk.open("r1")
    desk.assign(*calls(0), run="r0", worker="a")
    asked = pb.Assign(run="r1", fence=1, worker="a", generation=desk.generations["r1", "a"], calls=calls(0))
    desk.ledger.ask("r1", pb.Ask(assigns=[asked]), desk.now)
    told, down = desk.both("r1", "a")
    assert not down.assigns  # it had not been sent
    assert list(told.reports[0].recalled) == [0]
    assert [(room.worker, room.slots) for room in told.rooms] == [("a", 0)]


def test_what_a_worker_said_before_it_heard_that_it_is_to_forget_an_attempt_is_not_of_the_next_one(desk: Desk) -> None:
    """A run that was taken up again gave the same attempt to the same use: what rode before does so no more."""
    desk.assign(*calls(1, 2, rides={2: 1}))
    desk.open(link="next", uses=[pb.Use(fence=1, worker="w", started=[1])])
    asked = pb.Assign(run="r", fence=1, worker="w", generation=1, calls=calls(2))
    desk.ledger.ask("next", pb.Ask(assigns=[asked]), 0.0)
    assert not desk.down().assigns
    desk.report(finished=[done(1), done(2, Outcome.FAILED)])
    assert [each.attempt for each in desk.told("next").reports[0].finished] == [1]
    desk.ledger.hear("w", pb.Up(mark=1), 0.0)
    down = desk.down()
    assert [call.attempt for call in down.assigns[0].calls] == [2]
    desk.report(finished=[done(2)])
    assert [each.outcome for each in desk.told("next").reports[0].finished] == [Outcome.COMPLETED]


def test_what_a_worker_that_wants_to_leave_holds_goes_on_after_a_restart() -> None:
    desk = Desk()
    desk.come(held=[pb.Held(run="r", fence=4, open=[1])])
    desk.ledger.hear("w", pb.Up(draining=True), 0.0)
    told = desk.open(uses=listed(started=[1]))
    assert not told.gone
    assert [joined.fence for joined in told.joined] == [4]
    assert [(room.worker, room.slots) for room in told.rooms] == [("w", 0)]


def test_a_fence_that_a_worker_does_not_hold_does_not_go_on_with_it_though_nothing_is_under_way() -> None:
    """Another process of that id may hold it, and be let in later: no two are ever under one fence."""
    desk = Desk()
    desk.come()
    told = desk.open(uses=listed())
    assert [gone.fence for gone in told.gone] == [4]
    assert [joined.fence for joined in told.joined] == [0]
