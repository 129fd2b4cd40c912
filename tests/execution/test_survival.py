"""Backends whose attempts outlive the process of their run: what goes on there is found again, and never done twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from dagrid import DAG, Node
from dagrid.assemble import restart
from dagrid.commands import Command, Launch
from dagrid.execution.recording import Checkpoint
from dagrid.machine.events import Finished, Outcome, Recalled, Room, Started, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Capabilities, Host, Session, Use
from dagrid.stores import open_artifacts, open_store


class Elsewhere:
    """A backend of one worker that does what the test says, and has done nothing when the process of the run ends."""

    name = "elsewhere"
    capabilities = Capabilities(survives=True, kills=True, cancels=True, matches_selectors=True)

    def __init__(self, slots: int = 2, obeys: bool = True) -> None:
        self.slots = slots
        self.obeys = obeys
        self.uses: Sequence[Use] | None = None
        self.calls: list[Call] = []
        self.cancelled: list[int] = []
        self.ends: list[str] = []

    def open(self, host: Host) -> Session:
        self.host = host
        self.worker = host.new_worker()
        host.report([WorkerJoined(self.worker, "far", host.now(), self.slots, self.slots)])
        return self

    def reopen(self, host: Host, uses: Sequence[Use]) -> Session:
        self.host, self.uses = host, uses
        (self.worker,) = (use.worker for use in uses)
        return self

    def perform(self, bundle: Bundle) -> None:
        self.calls += bundle.calls

    def begin(self, attempt: int) -> None:
        self.host.report([Started(self.worker, attempt, self.host.now())])

    def end(self, attempt: int, value: Any) -> None:
        now = self.host.now()
        self.host.report([Finished(self.worker, attempt, Outcome.COMPLETED, now, now, value)])

    def wake(self, worker: int) -> None: ...

    def recall(self, worker: int, attempts: Sequence[int]) -> None: ...

    def cancel(self, worker: int, attempt: int) -> None:
        self.cancelled.append(attempt)
        if self.obeys:
            now = self.host.now()
            self.host.report([Finished(worker, attempt, Outcome.CANCELLED, now, now)])

    def attend(self) -> None: ...

    def leave(self) -> None:
        self.ends.append("left")

    def close(self, wait: bool = True) -> None:
        self.ends.append("closed")


@pytest.fixture
def kept(tmp_path) -> Iterator[Checkpoint]:
    """Where runs are kept, whoever performs them."""
    with closing(open_store(tmp_path / "runs.db")) as store:
        yield Checkpoint(store, open_artifacts(tmp_path / "values"))


def task() -> None:
    """Is never called here."""


def graph() -> DAG:
    return DAG([Node("one", task), Node("two", task), Node("three", task, ["one", "two"])])


@pytest.fixture
def left(kept) -> Any:
    """The checkpoint of a run whose process ended when `one` had started and `two` had not."""
    place = Elsewhere()
    run = graph().start(backend=place, checkpoint=kept, run_id="night")
    one, _ = (call.attempt for call in place.calls)
    place.begin(one)
    assert run.running() == ["one"]
    assert place.host.run == "night"
    return kept


def test_what_goes_on_elsewhere_is_not_begun_again(left) -> None:
    place = Elsewhere()
    run = restart(left, backend=place)
    assert place.uses == [Use(0, "far", [1], [0])]
    place.begin(1)
    place.end(0, "a")
    place.end(1, "b")
    (third,) = place.calls
    place.end(third.attempt, "c")
    result = run.wait(10)
    assert [result[name] for name in ("one", "two", "three")] == ["a", "b", "c"]
    assert [result.node_result(name).attempts for name in result] == [1, 1, 1]


def test_a_run_that_is_let_go_of_leaves_what_goes_on(kept) -> None:
    """Whoever closes it, and whenever: the worker must not take it for an end. A run that is closed has an end."""
    place = Elsewhere()
    run = graph().start(backend=place, checkpoint=kept, run_id="night")
    run.let_go()
    run.close()
    assert place.ends == ["left"]
    again = Elsewhere()
    run = restart(kept, backend=again)
    run.cancel()
    run.wait(10)
    assert again.ends == ["closed"]


def test_what_must_not_run_twice_counts_as_begun(kept) -> None:
    """Nobody knows whether it had: the word of that may have died with the process."""
    dag = DAG([Node("once", task, on_lost="fail"), Node("again", task)])
    place = Elsewhere()
    dag.start(backend=place, checkpoint=kept)
    again = Elsewhere()
    run = restart(kept, backend=again)
    assert again.uses == [Use(0, "far", [1], [0])]
    now = again.host.now()
    again.host.report([Finished(0, 0, Outcome.LOST, now, now), Recalled(0, [1], now)])
    assert [call.node for call in again.calls] == ["again"]
    again.end(1, None)
    assert run.wait(10).node_result("once").status == "lost"


def test_what_is_not_found_again_is_lost_if_it_had_started_and_free_if_not(left) -> None:
    place = Elsewhere()
    run = restart(left, backend=place)
    now = place.host.now()
    place.host.report([Finished(0, 0, Outcome.LOST, now, now), Recalled(0, [1], now)])
    assert {call.node for call in place.calls} == {"one", "two"}
    for call in place.calls[:2]:
        place.end(call.attempt, call.node)
    place.end(place.calls[2].attempt, "end")
    result = run.wait(10)
    assert result.node_result("one").attempts == 2
    assert result.node_result("two").attempts == 1


def test_a_worker_that_does_not_come_back_is_gone(left) -> None:
    place = Elsewhere()
    run = restart(left, backend=place)
    assert not place.calls
    now = place.host.now()
    place.worker = place.host.new_worker()
    joined = WorkerJoined(place.worker, "other", now, 2, 2)
    place.host.report([WorkerGone(0, now, "it kept silent"), joined])
    assert {call.node for call in place.calls} == {"one", "two"}
    run.cancel()
    assert run.wait(10).status == "aborted"


def test_a_limit_of_time_holds_on(kept) -> None:
    """An attempt that began before is late when its time is over, counted from its beginning."""
    place = Elsewhere()
    run = DAG([Node("slow", task, timeout=0.05)]).start(backend=place, checkpoint=kept)
    place.begin(place.calls[0].attempt)
    place = Elsewhere()
    run = restart(kept, backend=place)
    assert run.wait(10).node_result("slow").status == "timed_out"
    assert place.cancelled == [0]


def test_what_was_cancelled_before_is_cancelled_there(kept) -> None:
    """The process ended when it had recorded the cancel, and before the worker had heard of it."""
    place = Elsewhere(obeys=False)
    run = DAG([Node("slow", task), Node("after", task, ["slow"])]).start(
        backend=place, checkpoint=kept, run_id="stopped"
    )
    place.begin(place.calls[0].attempt)
    run.cancel()
    assert not run.done
    again = Elsewhere()
    assert restart(kept, "stopped", backend=again).wait(10).status == "aborted"
    assert again.cancelled == [0]


def test_what_was_to_stop_runs_once_more_in_a_run_that_is_taken_up(kept) -> None:
    """Its worker had not said that it has when somebody asked for the run again: both tries must not be at work at once."""
    place = Elsewhere(obeys=False)
    run = graph().start(backend=place, checkpoint=kept, run_id="night")
    place.begin(0)
    run.cancel()
    again = Elsewhere(obeys=False)
    run = restart(kept, "night", backend=again, again=True)
    assert again.cancelled == [0, 1]
    assert not again.calls
    for attempt in again.cancelled:
        now = again.host.now()
        again.host.report([Finished(0, attempt, Outcome.CANCELLED, now, now)])
    assert {call.node for call in again.calls} == {"one", "two"}
    for call in again.calls[:2]:
        again.end(call.attempt, call.node)
    again.end(again.calls[2].attempt, "end")
    assert run.wait(10).ok


def test_a_worker_that_others_have_gets_no_more_than_it_has_room_for() -> None:
    place = Elsewhere(slots=4)
    place_full = DAG([Node(f"node {number}", task) for number in range(8)]).start(backend=place)
    assert len(place.calls) == 4
    place.host.report([Room(place.worker, 2, place.host.now())])
    for call in place.calls[:3]:
        place.end(call.attempt, 0)
    assert len(place.calls) == 5
    place.host.report([Room(place.worker, 4, place.host.now())])
    assert len(place.calls) == 7
    place_full.cancel()


def test_commands_run_here_when_they_are_to() -> None:
    """Where all other commands run elsewhere."""
    place = Elsewhere()
    say = Command(lambda: Launch(["echo", "here"], capture=100, done=lambda end: end.stdout))
    dag = DAG([Node("here", say, place="here"), Node("there", say)])
    run = dag.start(places={"command": place}, backend="inline")
    place.end(place.calls[0].attempt, "there")
    result = run.wait(10)
    assert (result["here"].strip(), result["there"]) == (b"here", "there")


def test_labels_of_a_place_count() -> None:
    """A selector of a command is for the place of commands, whatever performs the others."""
    place = Elsewhere()
    say = Command(lambda: Launch(["true"]))
    run = DAG([Node("picky", say, selector={"gpu": "true"})]).start(places={"command": place}, backend="inline")
    assert "gpu=true" in run.explain("picky")
    run.cancel()
