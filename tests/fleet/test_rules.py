"""What holds of the books whatever is done to them, in any order: drawn by chance, shrunk when it fails."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.duty import Act, Duty, Forget, Perform, Prepare, Stop, TakeBack
from dagrid.machine.events import Outcome
from tests.fleet.desks import Desk, Post, calls, done, hello, some
from tests.fleet.simulation import left_in_duty

RUNS = ("a", "b", "c")
OUTCOMES = st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED])


class WorkersBook(RuleBasedStateMachine):
    """A duty whose coordinator says anything that coordinators say, and whose calls end in any way."""

    @initialize(slots=st.integers(1, 3), most=st.integers(0, 2))
    def begin(self, slots: int, most: int) -> None:
        self.slots, self.most = slots, most
        self.duty = Duty(hello(slots=slots, max_active_runs=most))
        self.begun: dict[int, Perform] = {}
        self.riding: dict[int, int] = {}
        self.given = 0
        self.reported: Counter[tuple[str, int, int]] = Counter()
        self.wanted: set[tuple[str, int, int]] = set()
        self.connected = False

    @rule()
    @precondition(lambda self: not self.connected)
    def connect(self) -> None:
        held = self.duty.hello().held
        self.wanted = {(each.run, each.fence, attempt) for each in held for attempt in (*each.open, *each.ended)}
        self.duty.welcomed(pb.Welcome(heartbeat=1.0, lease=30.0), 0.0)
        self.connected = True
        self.reported.clear()

    @rule()
    @precondition(lambda self: self.connected)
    def break_stream(self) -> None:
        self.duty.lose(0.0)
        self.connected = False

    @rule(
        run=st.sampled_from(RUNS),
        fence=st.integers(1, 2),
        chain=st.integers(1, 3),
        function=st.sampled_from([b"", b"f"]),
    )
    @precondition(lambda self: self.connected)
    def assign(self, run: str, fence: int, chain: int, function: bytes) -> None:
        attempts = list(range(self.given, self.given + chain))
        self.given += chain
        on = dict(zip(attempts[1:], attempts, strict=False))
        given = calls(*attempts, rides=on, function=function)
        self.wanted |= {(run, fence, attempt) for attempt in attempts}
        self.obey(self.duty.hear(pb.Down(assigns=[pb.Assign(run=run, fence=fence, calls=given)]), 0.0))

    @rule(what=st.sampled_from(["acks", "recalls", "cancels"]), data=st.data())
    @precondition(lambda self: self.connected and self.wanted)
    def say(self, what: str, data: st.DataObject) -> None:
        run, fence, attempt = data.draw(st.sampled_from(sorted(self.wanted)))
        if what == "acks":
            self.wanted.discard((run, fence, attempt))
        said: dict[str, Any] = {what: some(fence, attempt, run=run)}
        self.obey(self.duty.hear(pb.Down(**said), 0.0))

    @rule(run=st.sampled_from(RUNS))
    @precondition(lambda self: self.connected)
    def over(self, run: str) -> None:
        self.wanted = {each for each in self.wanted if each[0] != run}
        self.obey(self.duty.hear(pb.Down(over=[run]), 0.0))

    @rule()
    def arrive(self) -> None:
        self.obey(self.duty.arrived(b"f"))

    @rule(data=st.data(), outcome=OUTCOMES)
    @precondition(lambda self: self.performable())
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        token = data.draw(st.sampled_from(self.performable()))
        del self.begun[token]
        self.carry(token, outcome == Outcome.COMPLETED)
        self.obey(self.duty.finished(token, pb.Finished(outcome=outcome, started=1.0, ended=2.0)))

    @rule()
    @precondition(lambda self: self.connected)
    def speak(self) -> None:
        up = self.duty.take()
        for report in up.reports if up is not None else ():
            for finished in report.finished:
                self.reported[report.run, report.fence, finished.attempt] += 1

    @invariant()
    @precondition(lambda self: hasattr(self, "duty"))
    def no_more_is_begun_than_there_are_slots_for(self) -> None:
        assert len(self.performable()) <= self.slots  # none of these calls is short

    @invariant()
    @precondition(lambda self: hasattr(self, "duty"))
    def no_more_runs_are_active_than_may_be(self) -> None:
        assert not self.most or len({perform.run for perform in self.begun.values()}) <= self.most

    @invariant()
    @precondition(lambda self: hasattr(self, "duty"))
    def an_end_is_said_once_on_a_stream(self) -> None:
        assert all(count == 1 for count in self.reported.values())

    @invariant()
    @precondition(lambda self: hasattr(self, "duty"))
    def no_slot_is_idle_while_something_could_be_begun(self) -> None:
        waiting = [job for job in self.duty._jobs.values() if job.waits and job.rides is None and not job.missing]
        free = [job for job in waiting if not job.run.leaving and job.named not in self.duty._stopping]
        active = {perform.run for perform in self.begun.values()} | {
            key[0] for key, _ in self.duty._jobs if self.duty._groups[key[0]].admitted
        }
        begins = [job for job in free if not self.most or job.key[0] in active or len(active) < self.most]
        assert not begins or len(self.performable()) >= self.slots

    def teardown(self) -> None:
        """When all has ended and arrived, nothing is left."""
        if not hasattr(self, "duty"):
            return
        if not self.connected:
            self.connect()
        self.arrive()
        for _ in range(1000):
            if not self.begun:
                break
            token = self.performable()[0]
            del self.begun[token]
            self.carry(token, True)
            self.obey(self.duty.finished(token, pb.Finished(started=1.0, ended=2.0)))
        self.obey(self.duty.hear(pb.Down(over=RUNS), 0.0))
        self.speak()
        assert not self.begun
        left_in_duty(self.duty)

    def performable(self) -> list[int]:
        return [token for token in self.begun if token not in self.riding]

    def carry(self, token: int, completed: bool) -> None:
        for rider in [rider for rider, on in self.riding.items() if on == token]:
            del self.riding[rider]
            if not completed:
                self.begun.pop(rider, None)
                self.carry(rider, False)

    def obey(self, acts: list[Act]) -> None:
        for act in acts:
            if isinstance(act, Perform):
                assert act.token not in self.begun
                self.begun[act.token] = act
                if act.rides:
                    self.riding[act.token] = act.rides
            elif isinstance(act, Forget):
                assert all(perform.run != act.run for perform in self.begun.values())
            elif isinstance(act, TakeBack):
                if act.token in self.begun and not any(on == act.token for on in self.riding.values()):
                    del self.begun[act.token]
                    self.obey(self.duty.gave_back(act.token))
            else:
                assert isinstance(act, (Prepare, Stop))


TestWorkersBook = WorkersBook.TestCase
TestWorkersBook.settings = settings(max_examples=40)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_of_runs_that_wait_none_is_begun_twice_before_another_is_begun_once(counts: list[int]) -> None:
    post = Post(slots=1)
    post.hear(
        assigns=[pb.Assign(run=f"r{each}", fence=1, calls=calls(*range(count))) for each, count in enumerate(counts)]
    )
    begun: Counter[str] = Counter()
    while found := post.performs():
        ((run, attempt),) = found
        begun[run] += 1
        waiting = [f"r{each}" for each, count in enumerate(counts) if begun[f"r{each}"] < count]
        assert all(begun[run] - begun[other] <= 1 for other in waiting)
        post.finish(attempt, run=run)
    assert [begun[f"r{each}"] for each in range(len(counts))] == counts


@st.composite
def words(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Draw what a run, its worker, and somebody with an old fence may say, in any order."""
    word = st.tuples(
        st.sampled_from(["assign", "start", "finish", "recalled", "old", "ack", "lose", "back"]),
        st.integers(0, 5),
    )
    return draw(st.lists(word, max_size=40))


@given(words())
def test_every_attempt_gets_one_end_and_nothing_that_an_old_fence_says_is_told(said: list[tuple[str, Any]]) -> None:
    desk = Desk()
    desk.come("w", link="w0")
    desk.open()
    link, streams, given = "w0", 0, set()
    open_, ended = set(), set()
    ends: Counter[int] = Counter()

    def listen() -> None:
        for report in desk.told().reports:
            assert report.fence == 1
            for each in (*report.finished, *(pb.Finished(attempt=back) for back in report.recalled)):
                ends[each.attempt] += 1
                assert each.attempt in given

    for word, attempt in said:
        if word == "assign" and attempt not in given:
            given.add(attempt)
            asked = pb.Assign(run="r", fence=1, worker="w", generation=1, calls=calls(attempt))
            desk.ledger.ask("r", pb.Ask(assigns=[asked]), 0.0)
            open_.add(attempt)
        elif word == "start":
            desk.report(link, started=[pb.Started(attempt=attempt, at=1.0)])
        elif word == "finish":
            desk.report(link, finished=[done(attempt)])
            ended |= {attempt} & open_
            open_.discard(attempt)
        elif word == "recalled":
            desk.report(link, recalled=[attempt])
            open_.discard(attempt)
        elif word == "old":
            desk.report(link, fence=7, finished=[done(attempt)], recalled=[attempt])
            assert not desk.told().reports
        elif word == "ack":
            desk.ask(acks=some(1, attempt))
            ended.discard(attempt)
        elif word == "lose":
            desk.ledger.lose(link, 0.0)
        elif word == "back":
            streams += 1
            link = f"w{streams}"
            desk.come("w", link=link, held=[pb.Held(run="r", fence=1, open=open_, ended=ended)])
        listen()
    assert all(count == 1 for count in ends.values())
