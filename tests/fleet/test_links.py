"""Streams break, readers are slow, files are long: nothing is lost by it, and memory stays what it was."""

from __future__ import annotations

import logging
import threading

import pytest

from dagrid.errors import BackendClosedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from tests.fleet.link_kit import settle
from tests.fleet.wire import PATIENCE, Run, Worker, hub, to

# Streams that break.


def test_a_worker_comes_back_when_the_coordinator_is_there_again(caplog) -> None:
    """It is away for a while; the worker says so once, and is linked again under the same coordinator's address."""
    with caplog.at_level(logging.WARNING, "dagrid.fleet"):
        with hub() as first:
            worker = Worker(to(first))
            worker.events.wait(lambda found: "welcome" in found)
        worker.events.wait(lambda found: found.count("failed") > 2)
        with hub(first.port):
            worker.events.wait(lambda found: found.count("welcome") == 2)
            assert worker.events.all.count("lost") == 1
            worker.close()
    said = [record.message for record in caplog.records if record.name == "dagrid.fleet"]
    assert len(said) <= 2, said


def test_what_a_worker_says_while_there_is_no_stream_is_said_later() -> None:
    with hub() as first:
        worker = Worker(to(first))
        worker.events.wait(lambda found: "welcome" in found)
    worker.events.wait(lambda found: "lost" in found)
    worker.say(pb.Up(heartbeat=pb.Heartbeat(echo=42)))
    with hub(first.port), worker:
        worker.downs.wait(lambda found: [down for down in found if down.echo == 42])


def test_a_run_elsewhere_opens_anew_what_it_has_under_way() -> None:
    """The coordinator has forgotten everything; the run says what it had, and takes the worker up again under its old fence."""
    run = Run()
    with hub() as first:
        worker = Worker(to(first), slots=4)
        worker.value_of = lambda call: None  # it is under way
        run.line = borrow(to(first), run.reopen, run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])
        run.uses = [pb.Use(fence=1, worker="w1", queued=[1])]
        worker.held = [pb.Held(run="run", fence=1, open=[1])]
    with hub(first.port), worker:
        again = run.tells.wait(lambda found: [each for tell in found for each in tell.joined if each.fence == 1])
        assert again[0].worker == "w1"
        worker.say(pb.Up(reports=[pb.Report(run="run", fence=1, finished=[pb.Finished(attempt=1, value=b"late")])]))
        assert run.ends(1)[1].value == b"late"
        run.close()


def test_what_was_asked_before_a_line_was_made_anew_is_not_asked_again() -> None:
    """It is in what the run opens with; asked twice, an attempt would be performed twice. Acks and cancels still hold."""
    run = Run()
    with hub() as first:
        run.line = borrow(to(first), run.reopen, run.tells.add)
        run.tells.wait(lambda found: [tell for tell in found if tell.HasField("welcome")])
    opened = threading.Event()

    def reopen(line) -> None:
        if not opened.is_set():
            opened.set()
            line.ask(pb.Ask(assigns=[pb.Assign(run="run", fence=9, worker="w1", calls=[pb.Call(attempt=9)])]))
        run.reopen(line)

    line = borrow(Address("127.0.0.1", first.port), reopen, run.tells.add)
    opened.wait(PATIENCE)
    with hub(first.port), Worker(Address("127.0.0.1", first.port)) as worker:
        run.line.close()
        run.line = line
        run.tells.all.clear()
        run.assign(run.joined(), pb.Call(attempt=1))
        assert run.ends(1)
        assert [call.attempt for down in worker.downs.all for assign in down.assigns for call in assign.calls] == [1]
        run.close()


def test_a_line_that_is_closed_says_the_end_of_its_run() -> None:
    """Else a worker would keep what it has of the run for a lease."""
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        run = Run()
        run.line = borrow(to(coordinator), run.reopen, run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1))
        run.ends(1)
        run.close()
        worker.downs.wait(lambda found: [down for down in found if "run" in down.over])


def test_a_run_whose_line_fails_to_take_what_it_is_told_harms_no_other(caplog) -> None:
    with caplog.at_level(logging.CRITICAL, "dagrid.fleet"), hub() as coordinator, Worker(to(coordinator)):

        def tell(_: pb.Tell) -> None:
            raise RuntimeError("a fault")

        coordinator.borrow(Run("broken").opening(), tell)
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1))
        assert run.ends(1)
        run.close()


def test_a_coordinator_that_is_closed_says_first_what_there_is_to_say() -> None:
    """Else a worker would keep what its run has taken, and wait for somebody to whom it could tell it."""
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1), pb.Call(attempt=2))
        run.ends(2)
        run.line.ask(pb.Ask(acks=[pb.Some(run="run", fence=1, attempts=[1])]))
        run.close()
        coordinator.close()
        worker.events.wait(lambda found: "lost" in found)
        assert any("run" in down.over for down in worker.downs.all)


def test_a_coordinator_that_is_closed_lends_nothing() -> None:
    with hub() as coordinator:
        line = coordinator.borrow(Run().opening(), lambda _: None)
    line.ask(pb.Ask(close=True))
    line.close()
    with pytest.raises(BackendClosedError):
        coordinator.borrow(Run().opening(), lambda _: None)
    with pytest.raises(BackendClosedError):
        coordinator.workers()
    coordinator.close()


def test_a_worker_that_is_asked_to_leave_is_told_so() -> None:
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        worker.events.wait(lambda found: "welcome" in found)
        assert coordinator.drain("w1")
        assert not coordinator.drain("another")
        worker.downs.wait(lambda found: [down for down in found if down.drain])


def test_a_label_that_run_after_run_lacks_is_said_once(caplog) -> None:
    """Each is given up before the next one comes: a hundred of them wrote a hundred lines. Where a worker that has it was there
    meanwhile, it is news again.
    """
    lacks = [pb.Lack(labels={"gpu": "true"}, node="train")]

    def lack(coordinator: Hub, times: int) -> None:
        for number in range(times):
            run = Run(f"run-{number}")
            run.line = coordinator.borrow(run.opening(), run.tells.add)
            run.line.ask(pb.Ask(lacks=pb.Lacks(lacks=lacks)))
            run.close()
        coordinator.workers()  # all that was asked before has been done

    def said() -> list[str]:
        return [record.message for record in caplog.records if "waits for a worker" in record.message]

    with caplog.at_level(logging.WARNING, "dagrid.fleet"), hub() as coordinator:
        lack(coordinator, 100)
        assert len(said()) == 1
        waiting = Run("waiting")
        waiting.line = coordinator.borrow(waiting.opening(), waiting.tells.add)
        waiting.line.ask(pb.Ask(lacks=pb.Lacks(lacks=lacks)))
        with Worker(to(coordinator), labels={"gpu": "true"}):
            waiting.joined()
        while any(view.connected for view in coordinator.workers()):
            settle(coordinator)
        lack(coordinator, 1)
        assert len(said()) == 2
        waiting.close()
