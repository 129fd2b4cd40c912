"""One run's use of a fleet, between an engine that is played here and a coordinator that is, too."""

from __future__ import annotations

import gc
import operator
import pickle
import resource
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from dagrid.errors import BackendClosedError, TransferError
from dagrid.execution.backends.cluster import apart, refusals, session
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import INLINE, Apart
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.logbook import OpenSink, Sink
from dagrid.execution.backends.cluster.session import FleetSession
from dagrid.machine.events import Finished, Outcome, Recalled, Stimulus, WorkerJoined
from dagrid.ports import Bundle, Call, Host, Use
from tests.fleet.wire import PATIENCE, Heard, digest_of

LARGE = b"x" * (2 * INLINE)


class Engine:
    """Who opened the session: it hears what is reported."""

    run = name = nonce = ""

    def __init__(self) -> None:
        self.reported: Heard[Stimulus] = Heard()
        self.keeps = False  # the values that are reported, as one with a record does
        self.waits_for: threading.Event | None = None  # when an attempt has ended
        self._workers = count()

    def now(self) -> float:
        return time.perf_counter()

    def draw(self) -> float:
        return 0.5

    def new_worker(self) -> int:
        return next(self._workers)

    def report(self, events: Sequence[Stimulus]) -> None:
        for event in events:
            if self.waits_for is not None and isinstance(event, Finished):
                self.waits_for.wait(PATIENCE)
            if self.keeps and isinstance(event, Finished) and isinstance(event.value, Apart):
                with suppress(TransferError):
                    event.value.packed()
            self.reported.add(event)


class Line:
    """The way to a coordinator: it hears what is asked."""

    elsewhere = ""

    def __init__(self) -> None:
        self.asks: Heard[pb.Ask] = Heard()
        self.gifts: Heard[Iterator[pb.Part]] | None = None  # else all that is given is taken at once

    def ask(self, ask: pb.Ask) -> None:
        self.asks.add(ask)

    def give(self, parts: Iterator[pb.Part]) -> None:
        if self.gifts is None:
            self.asks.add(pb.Ask(parts=parts))
        else:
            self.gifts.add(parts)

    def close(self) -> None:
        pass


class Played:
    """A session with two workers."""

    def __init__(self, uses: Sequence[Use] = (), logs: OpenSink | None = None) -> None:
        self.engine = Engine()
        self.line = Line()
        self.session = FleetSession(cast(Host, self.engine), "run", uses=uses, logs=logs)  # it has no workers that pull
        self.session.begin(lambda _: self.line)
        self.welcome("first")
        joined = [pb.Joined(worker=worker, generation=1, slots=2) for worker in ("one", "two")]
        self.session.tell(pb.Tell(joined=joined))
        self.engine.reported.wait(lambda found: len(found) == 2)

    def welcome(self, coordinator: str, lease: float = 0.0) -> None:
        self.session.tell(pb.Tell(welcome=pb.Welcome(coordinator=coordinator, lease=lease)))

    def perform(self, worker: int, attempt: int) -> None:
        """Have a worker perform a call with a large argument, the same each time."""
        self.session.perform(Bundle(worker, [Call(attempt, f"node-{attempt}", operator.length_hint, (LARGE,))]))

    def assigned(self, attempt: int) -> pb.Call:
        """Wait for an assignment."""

        def found(asks: list[pb.Ask]) -> list[pb.Call]:
            calls = (call for ask in asks for assign in ask.assigns for call in assign.calls)
            return [call for call in calls if call.attempt == attempt]

        return self.line.asks.wait(found, f"attempt {attempt}")[-1]

    def end(self, worker: int, attempt: int, **value: Any) -> None:
        """Let an attempt complete, and wait until the engine has heard of it."""
        ended = pb.Finished(attempt=attempt, outcome=Outcome.COMPLETED, **value)
        self.session.tell(pb.Tell(reports=[pb.Report(run="run", fence=worker + 1, finished=[ended])]))
        self.engine.reported.wait(lambda found: any(getattr(event, "attempt", None) == attempt for event in found))

    def given(self, digest: bytes) -> bytes:
        """Want a content as a coordinator does that has not got it, and wait for it."""
        self.session.tell(pb.Tell(wants=[digest]))
        found = self.line.asks.wait(
            lambda asks: [ask for ask in asks if any(part.digest == digest for part in ask.parts)], "the content"
        )
        return b"".join(part.data for part in found[-1].parts)

    def value(self, data: bytes) -> Apart:
        """Let an attempt end whose value, in these bytes, has stayed with the coordinator, and return what the engine gets."""
        self.perform(0, attempt=1)
        self.assigned(1)
        self.end(0, attempt=1, apart=digest_of(data), size=len(data))
        ended = [event for event in self.engine.reported.all if isinstance(event, Finished)]
        assert isinstance(ended[-1].value, Apart)
        return ended[-1].value

    def wanted(self, digest: bytes) -> None:
        """Wait until the session wants a content."""
        self.line.asks.wait(lambda asks: any(digest in ask.wants for ask in asks), "that it is wanted")


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.session.close()


def test_what_a_process_before_this_one_has_not_sent_is_assigned_anew() -> None:
    """It was killed when it had assigned a call and not sent what that needs, which nobody has any more: the worker waited for it
    for ever, and so did the run. What has started needs nothing, and what this process has assigned is at hand.
    """
    uses = [
        Use(100 + fence, f"worker {fence}", queued=(fence, 10 + fence), started=(20 + fence,)) for fence in range(3)
    ]
    played = Played(uses)
    played.session.tell(
        pb.Tell(joined=[pb.Joined(worker=f"worker {n}", generation=1, fence=101 + n) for n in range(2)])
    )
    played.perform(100, attempt=30)
    played.assigned(30)
    played.session.tell(pb.Tell(wants=[digest_of(b"of the process before")]))
    recalls = played.line.asks.wait(lambda asks: [recall for ask in asks for recall in ask.recalls])
    assert [(recall.fence, list(recall.attempts)) for recall in recalls] == [(101, [0, 10]), (102, [1, 11])]
    played.session.tell(pb.Tell(reports=[pb.Report(run="run", fence=101, recalled=[0, 10])]))
    (recalled,) = played.engine.reported.wait(lambda found: [event for event in found if isinstance(event, Recalled)])
    assert (recalled.worker, list(recalled.attempts)) == (100, [0, 10])
    played.session.close()


def test_a_run_begins_with_the_workers_that_are_there() -> None:
    """They are reported before it is known how it goes on, so that they and what they get are one entry in its record."""
    engine, line = Engine(), Line()
    begun = FleetSession(cast(Host, engine), "run")

    def borrow(one: FleetSession) -> Line:
        joined = [pb.Joined(worker=worker, generation=1, slots=2) for worker in ("one", "two")]
        one.tell(pb.Tell(welcome=pb.Welcome(coordinator="first"), joined=joined))
        return line

    begun.begin(borrow, PATIENCE)
    assert [event.name for event in engine.reported.all if isinstance(event, WorkerJoined)] == ["one", "two"]
    begun.close()


def test_what_has_ended_before_a_run_goes_on_is_recorded_behind_its_beginning() -> None:
    """Who begins holds the run, and would wait for itself."""
    recorded: Heard[int] = Heard()

    class Recording(Engine):
        def recorded(self) -> None:
            recorded.add(threading.get_ident())

    engine, line = Recording(), Line()
    begun = FleetSession(cast(Host, engine), "run", uses=[Use(0, "one", started=(1,))])

    def borrow(one: FleetSession) -> Line:
        ended = pb.Finished(attempt=1, outcome=Outcome.COMPLETED)
        one.tell(
            pb.Tell(
                welcome=pb.Welcome(coordinator="first"),
                joined=[pb.Joined(worker="one", generation=1, fence=1)],
                reports=[pb.Report(run="run", fence=1, finished=[ended])],
            )
        )
        return line

    begun.begin(borrow, PATIENCE)
    line.asks.wait(lambda asks: [ack for ask in asks for ack in ask.acks], "that it is acknowledged")
    assert threading.get_ident() not in recorded.all
    assert any(isinstance(event, Finished) for event in engine.reported.all)
    begun.close()


def test_the_end_of_the_last_attempt_is_not_acknowledged_beside_the_end_of_the_run(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that nobody keeps anything of it."""
    monkeypatch.setattr(session, "MOMENT", 10 * PATIENCE)
    played.perform(0, attempt=1)
    played.assigned(1)
    played.end(0, attempt=1)
    played.session.close()
    played.line.asks.wait(lambda asks: any(ask.close for ask in asks), "that it is closed")
    assert not [ack for ask in played.line.asks.all for ack in ask.acks]


def test_an_end_is_acknowledged_with_the_calls_that_follow_or_in_a_moment(played: Played) -> None:
    played.perform(0, attempt=1)
    played.assigned(1)
    played.end(0, attempt=1)
    played.perform(0, attempt=2)
    played.assigned(2)
    played.end(0, attempt=2)
    acks = played.line.asks.wait(
        lambda asks: (
            (found := [ack for ask in asks for ack in ask.acks])
            and sum(len(ack.attempts) for ack in found) == 2
            and found
        ),
        "that both are acknowledged",
    )
    assert sorted(attempt for ack in acks for attempt in ack.attempts) == [1, 2]


def test_arguments_are_given_as_long_as_any_attempt_has_equal_ones(played: Played) -> None:
    """The coordinator lets go of them with the end of the one attempt, of which it heard before the other was asked for. The
    worker of that one waits for them for ever if they are not here any more.
    """
    played.perform(0, attempt=1)
    played.perform(1, attempt=2)
    apart = played.assigned(2).apart
    assert apart == played.assigned(1).apart
    played.end(0, attempt=1)
    assert LARGE in played.given(apart)


def test_arguments_are_given_to_who_is_asked_when_a_worker_with_equal_ones_is_lost(played: Played) -> None:
    """A coordinator that begins anew has none of them."""
    played.perform(0, attempt=1)
    played.perform(1, attempt=2)
    apart = played.assigned(2).apart
    played.welcome("second")
    played.session.tell(pb.Tell(gone=[pb.Gone(worker="one", generation=1, reason="gone", next=1)]))
    played.engine.reported.wait(lambda found: len(found) == 4)
    assert LARGE in played.given(apart)


def test_arguments_are_let_go_of_with_the_last_attempt_that_has_equal_ones(played: Played) -> None:
    """A run of many large calls keeps none of those that have ended: what the coordinator wants then is not sent."""
    played.perform(0, attempt=1)
    played.perform(1, attempt=2)
    apart = played.assigned(2).apart
    played.end(0, attempt=1)
    played.end(1, attempt=2)
    played.session.tell(pb.Tell(wants=[apart]))
    played.perform(0, attempt=3)
    played.assigned(3)
    assert not [part for ask in played.line.asks.all for part in ask.parts if part.digest == apart]


def test_a_value_is_whole_whose_pieces_come_again_on_another_stream(played: Played) -> None:
    """The network is cut when half of it is here: the coordinator sends all of it anew, and no piece counts twice."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    first, *rest = parts(data, digest_of(data))
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(digest_of(data))
        for part in (first, rest[0], first):
            played.session.tell(pb.Tell(parts=[part]))
        assert not wait([read], 0.2).done
        for part in rest:
            played.session.tell(pb.Tell(parts=[part]))
        assert read.result() == LARGE


def test_equal_values_are_fetched_once_by_all_who_read_them_at_once(played: Played) -> None:
    """Asked for twice, the second half of one way would be taken for the beginning of the other."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(value.decode) for _ in range(2)]
        played.wanted(digest_of(data))
        for part in parts(data, digest_of(data)):
            played.session.tell(pb.Tell(parts=[part]))
        assert [read.result() for read in reading] == [LARGE, LARGE]
    assert [wanted for ask in played.line.asks.all for wanted in ask.wants] == [digest_of(data)]


def take(played: Played, *values: object) -> pb.Call:
    """Have a worker perform a call that takes values, and return how it was assigned."""
    played.session.perform(Bundle(1, [Call(7, "taking", operator.length_hint, values)]))
    return played.assigned(7)


def test_a_value_stays_where_it_is_when_a_call_takes_it(played: Played) -> None:
    """However deep it stands in the arguments: it went to this process and back, and lay there three times meanwhile."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    call = take(played, value, {"deep": [value]}, "small")
    assert (list(call.values), call.apart) == ([digest_of(data)], b"")
    assert len(call.arguments) < 1_000
    assert not [wanted for ask in played.line.asks.all for wanted in ask.wants]
    played.session.leave()  # and not closed, for then it is fetched


def test_a_value_is_held_as_long_as_a_call_that_takes_it_is_under_way(played: Played) -> None:
    """Also when nobody else refers to it any more."""
    value = played.value(pickle.dumps(LARGE))
    take(played, value)
    gone = weakref.ref(value)
    del value
    played.engine.reported.all.clear()
    gc.collect()
    assert gone() is not None
    played.end(1, attempt=7)
    gc.collect()
    assert gone() is None
    (drop,) = played.line.asks.wait(lambda asks: [drop for ask in asks for drop in ask.drops], "that it is dropped")
    assert (drop.fence, list(drop.attempts)) == (1, [1])


def test_a_call_whose_value_nobody_has_any_more_fails(played: Played) -> None:
    """The coordinator began anew without its folder: the worker waited for the value for ever."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    take(played, value)
    played.session.tell(pb.Tell(wants=[digest_of(data)]))
    (failed,) = played.engine.reported.wait(
        lambda found: [event for event in found if isinstance(event, Finished) and event.attempt == 7], "the failure"
    )
    assert failed.outcome == Outcome.FAILED
    assert not failed.retryable
    assert isinstance(failed.value, TransferError)
    assert "'node-1'" in str(failed.value)
    assert "nobody has it any more" in str(failed.value)
    (cancel,) = played.line.asks.wait(lambda asks: [cancel for ask in asks for cancel in ask.cancels], "the cancel")
    assert (cancel.fence, list(cancel.attempts)) == (2, [7])
    played.session.leave()


def test_a_value_that_was_read_is_given_where_nobody_else_has_it_any_more(played: Played) -> None:
    """It is here too by then."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(digest_of(data))
        played.session.tell(pb.Tell(parts=parts(data, digest_of(data))))
        assert read.result(PATIENCE) == LARGE
    assert list(take(played, value).values) == [digest_of(data)]
    assert played.given(digest_of(data)) == data


def test_a_value_that_is_kept_elsewhere_too_is_not_held_here(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """A run with a checkpoint has it there; it is read there, and brought here once, into a file, when the session ends."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.packed)
        played.wanted(digest_of(data))
        played.session.tell(pb.Tell(parts=parts(data, digest_of(data))))
        assert read.result(PATIENCE) == data
    copies = [data, data]
    value.also_at(copies.pop)
    assert value.decode() == LARGE
    monkeypatch.setattr(apart, "IN_MEMORY", INLINE)
    played.session.close()
    assert value.decode() == value.decode() == LARGE
    assert not copies
    assert sum(len(ask.wants) for ask in played.line.asks.all) == 1


def test_what_comes_while_the_session_waits_does_not_gather(played: Played) -> None:
    """Who keeps a record waits there for a large value, all of whose pieces lay in memory a second time until it was whole."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    gate = threading.Event()
    played.engine.waits_for = gate
    played.perform(0, 1)
    played.assigned(1)
    ended = pb.Finished(attempt=1, outcome=Outcome.COMPLETED)
    played.session.tell(pb.Tell(reports=[pb.Report(run="run", fence=1, finished=[ended])]))
    before = resident()
    for _ in range(256):
        played.session.tell(pb.Tell(parts=[pb.Part(digest=b"large", size=1 << 26, data=bytes(1 << 18))]))
    grown = resident() - before
    gate.set()
    assert grown < 1 << 24


@pytest.mark.parametrize("full", [False, True])
def test_a_very_large_value_is_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played, full: bool
) -> None:
    """All of those that a run had made lay in memory when it had ended, whether somebody read them or not. Where the disk has no
    room they still do.
    """
    monkeypatch.setattr(apart, "IN_MEMORY", INLINE)
    data = pickle.dumps(LARGE)
    value = played.value(data)
    path = tmp_path / "aside"
    monkeypatch.setattr(apart, "TemporaryFile", partial(open, path, "w+b"))
    with full_disk() if full else nullcontext(), ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(digest_of(data))
        played.session.tell(pb.Tell(parts=parts(data, digest_of(data))))
        assert read.result(PATIENCE) == LARGE
    assert path.read_bytes() == (b"" if full else data)
    assert value.decode() == LARGE
    assert value.packed() == data


@contextmanager
def full_disk() -> Iterator[None]:
    """Let files of this process grow no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, usual)


def test_what_is_to_end_is_not_waited_for_longer_than_a_lease_while_the_coordinator_is_away(played: Played) -> None:
    """Nobody is there who could say that it has ended: a run that was cancelled went on until the coordinator was back. Who
    comes back with it hears that it is not wanted. What was not sent any more ends at once.
    """
    for attempt in (1, 2):
        played.perform(0, attempt)
        played.assigned(attempt)
    played.welcome("first", lease=0.2)
    played.session.cancel(0, 1)
    played.line.asks.wait(lambda asks: any(ask.cancels for ask in asks))
    assert not [event for event in played.engine.reported.all if isinstance(event, Finished)]
    played.session.reopen(played.line)
    ended = played.engine.reported.wait(lambda found: [event for event in found if isinstance(event, Finished)])
    assert [(event.attempt, event.outcome) for event in ended] == [(1, Outcome.CANCELLED)]
    assert [list(use.queued) for use in played.session.opening().uses] == [[2], []]
    played.perform(0, 3)
    played.session.cancel(0, 3)
    ended = played.engine.reported.wait(lambda found: [event for event in found if isinstance(event, Finished)][1:])
    assert [(event.attempt, event.outcome) for event in ended] == [(3, Outcome.CANCELLED)]


def test_a_value_that_nobody_has_any_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """Who reads it hears that at once, and whose it was."""
    data = pickle.dumps(LARGE)
    value = played.value(data)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(digest_of(data))
        played.session.tell(pb.Tell(missing=[b"another", digest_of(data)]))
        with pytest.raises(TransferError, match=r"'node-1'.*nobody has it any more"):
            read.result(PATIENCE)
    monkeypatch.setattr(apart, "FETCHING", 0.0)  # nobody answers when it is wanted again at the end
    played.welcome("first", lease=0.1)


def test_a_value_is_waited_for_while_the_coordinator_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, played: Played
) -> None:
    """So is everything else of its run; where the coordinator took longer than a minute to come back, the value was lost."""
    monkeypatch.setattr(apart, "FETCHING", 0.05)
    played.welcome("first", lease=0.05)
    data = pickle.dumps(LARGE)
    value = played.value(data)
    played.session.reopen(played.line)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(digest_of(data))
        assert not wait([read], 0.5).done
        played.session.reopen(played.line)
        played.welcome("second", lease=30)
        for part in parts(data, digest_of(data)):
            played.session.tell(pb.Tell(parts=[part]))
        assert read.result(PATIENCE) == LARGE
    said = [record.message for record in caplog.records]
    assert said == ["Large values are with the coordinator, which is away. They are waited for until it is back."]


def test_who_cancels_does_not_wait_for_a_value_of_a_coordinator_that_is_away(played: Played) -> None:
    """Who keeps a record fetches the value to be kept where the end is reported, and would do so as long as it takes."""
    played.engine.keeps = True
    played.welcome("first", lease=0.05)
    played.perform(0, 1)
    played.perform(0, 2)
    played.assigned(2)
    data = pickle.dumps(LARGE)
    ended = pb.Finished(attempt=1, outcome=Outcome.COMPLETED, apart=digest_of(data), size=len(data))
    played.session.tell(pb.Tell(reports=[pb.Report(run="run", fence=1, finished=[ended])]))
    played.wanted(digest_of(data))
    played.session.reopen(played.line)
    played.session.cancel(0, 2)
    played.engine.reported.wait(lambda found: [event for event in found if isinstance(event, Finished)][1:])
    events = [event for event in played.engine.reported.all if isinstance(event, Finished)]
    assert [(event.attempt, event.outcome) for event in events] == [(1, Outcome.COMPLETED), (2, Outcome.CANCELLED)]


def test_what_finds_no_room_where_the_run_is_is_written_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody sent it again on a line that was well, and its attempt never ended: `dagrid start` waited for ever once its disk had
    been full for a moment.
    """
    monkeypatch.setattr(session, "PAUSE", 0.02)
    path, tries = tmp_path / "out", count()

    def opened(run: str, file: str) -> Sink:
        if next(tries) < 3:
            raise OSError(28, "No space left on device")
        return path.open("r+b" if path.exists() else "w+b")

    played = Played(logs=opened)
    for offset, data in ((0, b"first "), (6, b"second"), (0, b"first ")):  # on another line it comes once more
        played.session.tell(pb.Tell(logs=[pb.Log(run="run", file="a.out", offset=offset, data=data)]))
    acks = played.line.asks.wait(lambda asks: [ack for ask in asks for ack in ask.log_acks][1:], "all acknowledgements")
    assert [ack.offset for ack in acks] == [12]
    assert path.read_bytes() == b"first second"
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    played.session.close()


def refuse(played: Played, digest: bytes) -> None:
    """Let a coordinator have no room for what is given."""
    receipt = pb.Receipt(run="run", digest=digest, why="[Errno 28] No space left on device")
    played.session.tell(pb.Tell(receipts=[receipt]))


def test_what_finds_no_room_is_given_again_after_a_pause(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """The coordinator may have room for it by then."""
    monkeypatch.setattr(refusals, "FIRST_PAUSE", 0.05)
    played.perform(0, attempt=1)
    digest = played.assigned(1).apart
    assert played.given(digest)
    refuse(played, digest)
    played.line.asks.wait(
        lambda asks: [ask for ask in asks if any(part.digest == digest for part in ask.parts)][1:], "it"
    )


def test_nothing_more_is_given_of_what_finds_no_room(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """What was left of it came between the pieces of the next try, and the coordinator hung up."""
    monkeypatch.setattr(refusals, "FIRST_PAUSE", 0.01)
    gifts = played.line.gifts = Heard()
    played.perform(0, attempt=1)
    digest = played.assigned(1).apart
    played.session.tell(pb.Tell(wants=[digest]))
    first = gifts.wait(lambda found: found)[0]
    assert next(first).offset == 0
    refuse(played, digest)
    second = gifts.wait(lambda found: found[1:])[0]
    assert next(second).offset == 0
    assert list(first) == []
    assert sum(len(part.data) for part in second) > INLINE


def test_what_needs_what_finds_no_room_for_minutes_has_failed(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """It was given again every few seconds for ever. What waits at a worker is taken back, and all else goes on."""
    monkeypatch.setattr(refusals, "PATIENCE", 0.0)
    played.perform(0, attempt=1)
    digest = played.assigned(1).apart
    played.session.perform(Bundle(0, [Call(2, "node-2", int)]))
    played.assigned(2)
    refuse(played, digest)
    ended = played.engine.reported.wait(lambda found: [event for event in found if isinstance(event, Finished)])
    assert [(event.attempt, event.outcome, event.retryable) for event in ended] == [(1, Outcome.FAILED, True)]
    with pytest.raises(
        TransferError, match=r"finds no room with the coordinator .*No space left.* Make room on its disk"
    ):
        raise ended[0].value
    cancelled = played.line.asks.wait(lambda asks: [each for ask in asks for each in ask.cancels], "a cancel")
    assert [list(each.attempts) for each in cancelled] == [[1]]


def test_closing_does_not_wait_for_a_coordinator_that_has_been_away_for_a_lease(played: Played) -> None:
    """It took a minute to close a run that was cancelled because its coordinator did not come back."""
    value = played.value(pickle.dumps(LARGE))
    played.welcome("first", lease=0.05)
    played.session.reopen(played.line)
    played.session.close()
    with pytest.raises(TransferError, match=r"'node-1'.*the run was closed"):
        value.decode()


def test_a_value_is_not_waited_for_where_the_run_is_refused(played: Played) -> None:
    """A coordinator that refuses it for good is never going to send anything."""
    value = played.value(pickle.dumps(LARGE))
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(value.decode)
        played.wanted(value.digest)
        played.session.tell(pb.Tell(refusal=pb.Refusal(reason="it is not wanted", final=True)))
        with pytest.raises(TransferError, match=r"'node-1'.*it is not wanted"):
            read.result(PATIENCE)


def test_a_run_may_end_while_its_backend_is_closed(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """Both hang up; the second one found no line, after it had seen that there was one."""
    arrived, go = threading.Event(), threading.Event()
    bring_home, ask = apart.Values.bring_home, played.line.ask
    closing = threading.Thread(target=played.session.give_up, args=(BackendClosedError("closed"),))

    def stand(values: apart.Values) -> None:
        if threading.current_thread() is closing:
            arrived.set()
            go.wait(PATIENCE)
        bring_home(values)

    def ask_meanwhile(said: pb.Ask) -> None:
        ask(said)
        if said.close and threading.current_thread() is not closing:
            go.set()
            closing.join(PATIENCE)

    monkeypatch.setattr(apart.Values, "bring_home", stand)
    monkeypatch.setattr(played.line, "ask", ask_meanwhile)
    closing.start()
    assert arrived.wait(PATIENCE)
    played.session.close()
    assert not closing.is_alive()
    assert sum(said.close for said in played.line.asks.all) == 1
