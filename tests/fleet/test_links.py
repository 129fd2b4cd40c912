"""Streams break, readers are slow, files are long: nothing is lost by it, and memory stays what it was."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dagrid.errors import BackendClosedError, BackendUnreachableError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import listener, logbook
from dagrid.execution.backends.cluster.calling import Address, call
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.outbox import PIECE, Outbox
from tests.fleet.wire import PATIENCE, Run, Stranger, Worker, digest_of, ended, hub, to

KEY = b"a key that both sides hold"
MIB = 2**20


def text(size: int) -> bytes:
    line = b"2026-01-01 00:00:00 INFO step %d has done what it had to do\n"
    return b"".join(line % number for number in range(size // 58))[:size]


def brought(value: bytes, run: str = "run") -> list[pb.Part]:
    """Return a value of a run in pieces, as a worker brings it."""
    pieces = list(parts(value, digest_of(value)))
    for piece in pieces:
        piece.run = run
    return pieces


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


# What is long.


@pytest.mark.parametrize(("elsewhere", "key"), [(False, None), (True, KEY)])
def test_large_contents_travel_both_ways(elsewhere: bool, key: bytes | None) -> None:
    """50 MiB of arguments to a worker that wants them, and a value of as much back, between everything else."""
    arguments, value = os.urandom(MIB) * 50, os.urandom(MIB) * 50
    mine, theirs = digest_of(arguments), digest_of(value)
    with hub(key=key) as coordinator, Worker(to(coordinator, key=key)) as worker:
        run = Run()
        address = to(coordinator, key=key)
        if elsewhere:
            run.line = borrow(address, run.reopen, run.tells.add)
        else:
            run.line = coordinator.borrow(run.opening(), run.tells.add)
        joined = run.joined()
        worker.value_of = lambda call: None
        run.line.ask(pb.Ask(parts=[pb.Part(digest=mine, size=len(arguments), data=arguments)]))
        run.assign(joined, pb.Call(attempt=1, apart=mine))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])
        worker.say(pb.Up(wants=[mine]))
        worker.downs.wait(lambda _: mine in worker.contents, "the arguments")
        assert worker.contents.get(mine) == arguments
        assert all(len(part.data) <= PIECE for down in worker.downs.all for part in down.parts)
        worker.outbox.feed(pb.Up(parts=[part]) for part in brought(value))
        worker.say(pb.Up(heartbeat=pb.Heartbeat(echo=7)))
        worker.downs.wait(lambda found: [down for down in found if down.echo == 7], "a word between the pieces")
        assert run.content(theirs) == value
        run.close()


def test_what_is_wanted_is_asked_of_the_run_that_named_it() -> None:
    """After a restart the coordinator has no contents; the run that named one still has it."""
    data = text(3 * MIB)
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        other, run = Run("other"), Run()
        other.line = coordinator.borrow(other.opening(), other.tells.add)
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        worker.value_of = lambda call: None
        run.assign(run.joined(), pb.Call(attempt=1, function=digest_of(data)))
        worker.say(pb.Up(wants=[digest_of(data)]))
        run.tells.wait(lambda found: [tell for tell in found if digest_of(data) in tell.wants])
        for part in parts(data, digest_of(data)):
            run.line.ask(pb.Ask(parts=[part]))
        worker.downs.wait(lambda _: digest_of(data) in worker.contents)
        assert not any(tell.wants for tell in other.tells.all)
        run.close()
        other.close()


def test_a_content_that_does_not_come_is_no_harm_to_runs_that_have_not_named_it() -> None:
    """Who named it was killed while it sent it, and whoever opens a line meanwhile and afterwards is welcome first."""
    data = text(4 * MIB)
    with hub() as coordinator, Worker(to(coordinator)) as worker, Stranger(coordinator.port, "Borrow") as killed:
        killed.say(pb.Ask(open=pb.Open(run="killed", protocol=PROTOCOL, python="3.11")))
        worker.value_of = lambda call: None if call.function else ended(call)
        assign = pb.Assign(run="killed", fence=1, worker="w1", calls=[pb.Call(attempt=1, function=digest_of(data))])
        while not assign.generation:
            for joined in killed.told().joined:
                assign.generation = joined.generation
        killed.say(pb.Ask(assigns=[assign]))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])
        worker.say(pb.Up(wants=[digest_of(data)]))
        assert list(killed.told().wants) == [digest_of(data)]
        killed.say(pb.Ask(parts=[next(parts(data, digest_of(data)))]))
        for run in (Run("meanwhile"), Run("afterwards")):
            run.line = borrow(to(coordinator), run.reopen, run.tells.add)
            run.assign(run.joined(), pb.Call(attempt=1))
            assert run.ends(1)
            assert run.tells.all[0].HasField("welcome")
            assert not any(tell.wants for tell in run.tells.all)
            run.close()
            killed.close()


def test_what_nobody_has_named_is_asked_of_who_opens_a_line_behind_its_welcome() -> None:
    """A worker lacks it since before this coordinator began."""
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        worker.say(pb.Up(wants=[b"from before"], heartbeat=pb.Heartbeat(echo=3)))
        worker.downs.wait(lambda found: [down for down in found if down.echo == 3])
        run = Run()
        run.line = borrow(to(coordinator), run.reopen, run.tells.add)
        run.tells.wait(lambda found: [tell for tell in found if b"from before" in tell.wants])
        assert run.tells.all[0].HasField("welcome")
        run.close()


def test_a_long_content_of_a_run_here_is_no_delay_for_others(monkeypatch) -> None:
    """It is taken piece by piece, and who comes is heard between two of them."""
    data = os.urandom(MIB) * 16
    with hub() as coordinator, Worker(to(coordinator)):
        takes: list[int] = []
        add = coordinator.contents.add

        def counted(part: pb.Part, source: object) -> bool:
            takes.append(len(part.data))
            return add(part, source)

        monkeypatch.setattr(coordinator.contents, "add", counted)
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.line.ask(pb.Ask(parts=[pb.Part(digest=digest_of(data), size=len(data), data=data)]))
        run.assign(run.joined(), pb.Call(attempt=1))
        assert run.ends(1)
        before = len(takes)
        assert run.content(digest_of(data)) == data
        assert before < len(takes) == len(data) // PIECE
        assert max(takes) == PIECE
        run.close()


def test_contents_are_let_go_when_nobody_needs_them(tmp_path: Path) -> None:
    """A run of a week must not fill the disk: arguments go with their attempt, values when dropped, all with the run."""
    folder = tmp_path / "contents"
    arguments, value, function = (bytes([number]) * MIB for number in range(3))
    with hub(folder=folder) as coordinator, Worker(to(coordinator)) as worker:
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        for data in (arguments, function):
            run.line.ask(pb.Ask(parts=list(parts(data, digest_of(data)))))
        worker.outbox.feed(pb.Up(parts=[part]) for part in brought(value))
        worker.wake()
        worker.value_of = lambda call: pb.Finished(attempt=call.attempt, apart=digest_of(value), size=len(value))
        run.content(digest_of(value))
        run.assign(run.joined(), pb.Call(attempt=1, apart=digest_of(arguments), function=digest_of(function)))
        run.ends(1)

        def kept() -> set[str]:
            coordinator.workers()  # all that was asked before has been done
            return {path.name for path in folder.iterdir()}

        run.content(digest_of(value))
        assert kept() == {digest_of(value).hex(), digest_of(function).hex()}
        run.line.ask(pb.Ask(drops=[pb.Some(run="run", fence=1, attempts=[1])]))
        assert kept() == {digest_of(function).hex()}
        run.close()
        assert kept() == set()
    assert not folder.exists()


def test_a_value_stays_when_an_equal_one_is_dropped(tmp_path: Path) -> None:
    """Attempts often return the same. The one value is dropped while the other is on its way, or is known to the run only later:
    the worker was hung up on for pieces that fitted nowhere, and the run waited for what nobody had any more.
    """
    folder = tmp_path / "contents"
    value = bytes(MIB)
    pieces = brought(value)
    with hub(folder=folder) as coordinator, Worker(to(coordinator)) as worker:
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        worker.value_of = lambda call: None
        run.assign(run.joined(), *(pb.Call(attempt=attempt) for attempt in (1, 2, 3)))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])

        def say(begun: list[pb.Part], attempt: int) -> None:
            """Bring pieces, those of the next value among them, and report one."""
            end = pb.Finished(attempt=attempt, apart=digest_of(value), size=len(value))
            for part in begun:
                worker.say(pb.Up(parts=[part]))
            worker.say(pb.Up(reports=[pb.Report(run="run", fence=1, finished=[end])]))
            run.ends(attempt)

        def drop(attempt: int) -> None:
            assert run.line is not None
            run.line.ask(pb.Ask(drops=[pb.Some(run="run", fence=1, attempts=[attempt])]))
            coordinator.workers()  # all that was asked before has been done

        say([*pieces, *pieces[:2]], 1)
        drop(1)
        say([*pieces[2:], *pieces], 2)
        assert run.content(digest_of(value)) == value
        drop(2)
        say([], 3)
        assert run.content(digest_of(value)) == value
        assert worker.events.all == ["welcome"]
        drop(3)
        assert not list(folder.iterdir())
        run.close()


def test_a_value_that_comes_before_its_run_is_kept_for_it(tmp_path: Path) -> None:
    """A coordinator begins anew, and the worker is back before the run. When it has told all, it may go, as its stream may."""
    folder = tmp_path / "contents"
    value = bytes(MIB)
    end = pb.Finished(attempt=1, apart=digest_of(value), size=len(value))
    run = Run()
    run.uses = [pb.Use(fence=1, worker="w1", queued=[1])]
    with hub(folder=folder, lease=2.0) as coordinator:
        with Stranger(coordinator.port) as stranger:
            held = [pb.Held(run="run", fence=1, open=[1])]
            stranger.say(pb.Up(hello=pb.Hello(id="w1", incarnation="w1", slots=2, protocol=PROTOCOL, held=held)))
            assert stranger.hear() is not None
            for part in brought(value):
                stranger.say(pb.Up(parts=[part]))
            stranger.say(pb.Up(reports=[pb.Report(run="run", fence=1, finished=[end])]))
            stranger.say(pb.Up(heartbeat=pb.Heartbeat(echo=1)))
            while (down := stranger.hear()) is not None and not down.echo:
                pass
            run.line = borrow(to(coordinator), run.reopen, run.tells.add)
            run.ends(1)
        while any(view.connected for view in coordinator.workers()):
            settle(coordinator)
        assert run.content(digest_of(value)) == value
        run.close()


def test_a_value_that_comes_after_its_run_is_let_go(tmp_path: Path) -> None:
    """A worker tells it again that has not heard that it arrived; it stays when the run has ended, and the value must not."""
    folder = tmp_path / "contents"
    value = bytes(MIB)
    end = pb.Finished(attempt=1, apart=digest_of(value), size=len(value))
    with hub(folder=folder, lease=2.0) as coordinator, Worker(to(coordinator)) as worker:
        looks_back_until = coordinator.now() + 2.0
        while coordinator.now() <= looks_back_until:  # a coordinator that has just begun keeps it, for its run may come
            settle(coordinator)
            worker.say(pb.Up(heartbeat=pb.Heartbeat()))
        worker.value_of = lambda call: None
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])
        run.close()
        worker.downs.wait(lambda found: [down for down in found if down.over])
        for part in brought(value):
            worker.say(pb.Up(parts=[part]))
        worker.say(pb.Up(reports=[pb.Report(run="run", fence=1, finished=[end])]))
        worker.say(pb.Up(heartbeat=pb.Heartbeat(echo=1)))
        worker.downs.wait(lambda found: [down for down in found if down.echo])
        settle(coordinator)
        assert not list(folder.iterdir())


@pytest.mark.parametrize("come", [2, 4])
def test_a_value_whose_run_ends_while_it_comes_is_let_go(tmp_path: Path, come: int) -> None:
    """A worker that brings it, or has brought it and not reported it, may stay for weeks. What it still sends does it no harm,
    and the same value is taken for another run.
    """
    folder = tmp_path / "contents"
    value = bytes(MIB)
    with hub(folder=folder, lease=2.0) as coordinator, Worker(to(coordinator)) as worker:
        looks_back_until = coordinator.now() + 2.0
        while coordinator.now() <= looks_back_until:
            settle(coordinator)
            worker.say(pb.Up(heartbeat=pb.Heartbeat()))
        run, other = Run(), Run("other")
        for each in (run, other):
            each.line = coordinator.borrow(each.opening(), each.tells.add)
            each.joined()

        def say(pieces: list[pb.Part], echo: int) -> None:
            for part in pieces:
                worker.say(pb.Up(parts=[part]))
            worker.say(pb.Up(heartbeat=pb.Heartbeat(echo=echo)))
            worker.downs.wait(lambda found: [down for down in found if down.echo == echo])

        pieces = brought(value)
        say(pieces[:come], 1)
        assert list(folder.iterdir())
        run.close()
        coordinator.workers()  # all that was asked before has been done
        assert not list(folder.iterdir())
        say(pieces[come:], 2)
        assert not list(folder.iterdir())
        say(brought(value, "other"), 3)
        assert other.content(digest_of(value)) == value
        assert worker.events.all == ["welcome"]
        other.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_value_that_nobody_has_is_said_to_be_gone(elsewhere: bool) -> None:
    """At once or, from a coordinator that has just begun and may get it back, after a lease. Who read it waited for a minute."""
    value = bytes(MIB)
    with hub(lease=1.0) as coordinator:
        run = Run()
        if elsewhere:
            run.line = borrow(to(coordinator), run.reopen, run.tells.add)
        else:
            run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.line.ask(pb.Ask(wants=[b"gone"]))

        def missed(digest: bytes) -> None:
            run.tells.wait(lambda found: [tell for tell in found if digest in tell.missing], "that it is gone")

        missed(b"gone")
        run.line.ask(pb.Ask(wants=[b"gone too"]))
        missed(b"gone too")
        with Worker(to(coordinator)) as worker, Worker(to(coordinator), "dying") as dying:
            dying.say(pb.Up(parts=brought(value)[:1]))
            dying.say(pb.Up(heartbeat=pb.Heartbeat(echo=1)))
            dying.downs.wait(lambda found: [down for down in found if down.echo])
            run.line.ask(pb.Ask(wants=[digest_of(value)]))
            worker.say(pb.Up(heartbeat=pb.Heartbeat(echo=1)))
            worker.downs.wait(lambda found: [down for down in found if down.echo])
            assert not [tell for tell in run.tells.all if digest_of(value) in tell.missing], "it is on its way"
        missed(digest_of(value))
        run.close()


def test_what_comes_under_a_wrong_name_ends_its_stream_alone() -> None:
    with hub() as coordinator, Stranger(coordinator.port) as stranger, Worker(to(coordinator)) as worker:
        stranger.say(pb.Up(hello=pb.Hello(id="liar", slots=1, protocol=PROTOCOL)))
        assert stranger.hear() is not None
        stranger.say(pb.Up(parts=[pb.Part(digest=digest_of(b"right"), size=5, data=b"wrong", run="run")]))
        assert "something else" in stranger.why()
        worker.events.wait(lambda found: "welcome" in found)


def settle(coordinator: Hub) -> None:
    """Let the coordinator do so much else that whatever it could do by itself would have been done."""
    with Worker(to(coordinator), "busy") as worker:
        run = Run("settling")
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        joined = run.joined("busy")
        for attempt in range(100):
            run.assign(joined, pb.Call(attempt=attempt))
            run.ends(attempt + 1)
        run.close()
        assert worker.downs.all


def test_a_worker_that_does_not_read_is_not_sent_what_it_wants_but_as_much_as_fits_on_the_way(monkeypatch) -> None:
    """A piece is read from the disk when it can be sent; else slow readers would fill the memory with what they want."""
    data = os.urandom(MIB) * 64
    made = 0
    with hub() as coordinator, Stranger(coordinator.port) as reluctant:
        pieces_of = coordinator.contents.pieces

        def counted(digest: bytes):
            nonlocal made
            for part in pieces_of(digest):
                made += 1
                yield part

        monkeypatch.setattr(coordinator.contents, "pieces", counted)
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.line.ask(pb.Ask(parts=list(parts(data, digest_of(data)))))
        reluctant.say(pb.Up(hello=pb.Hello(id="reluctant", slots=1, protocol=PROTOCOL)))
        for _ in range(3):
            reluctant.say(pb.Up(wants=[digest_of(data)]))
        settle(coordinator)
        assert 0 < made < 64 * MIB // PIECE // 2
        got = 0
        while got < len(data):
            down = reluctant.hear()
            assert down is not None
            got += sum(len(part.data) for part in down.parts)
        assert made == 64 * MIB // PIECE, "wanted three times, sent once"
        run.close()


def test_who_does_not_take_the_answers_is_not_listened_to(monkeypatch) -> None:
    """Else a worker could fill the memory of the coordinator with words to itself."""
    monkeypatch.setattr(listener, "BACKLOG", 16 * 2**10)
    shouted = 60
    with hub() as coordinator, Stranger(coordinator.port) as shouter:
        shouter.say(pb.Up(hello=pb.Hello(id="shouter", slots=1, protocol=PROTOCOL)))
        for number in range(shouted):  # each is answered with as many acks
            first = (number + 1) << 40
            ends = [pb.Finished(attempt=attempt) for attempt in range(first, first + 5_000)]
            shouter.say(pb.Up(reports=[pb.Report(run="none", fence=1, finished=ends)]))
        settle(coordinator)
        (caller,) = [caller for caller in coordinator._callers() if caller.name == "shouter"]
        assert caller.outbox.size < MIB
        acks = 0
        while acks < shouted * 5_000:
            down = shouter.hear()
            assert down is not None
            acks += sum(len(some.attempts) for some in down.acks)


def test_what_is_asked_at_once_goes_in_few_envelopes() -> None:
    """A message alone costs a hundred times as much as one of many."""
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        joined = run.joined()
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(PATIENCE)

        worker._loop.call_soon_threadsafe(hold)
        held.wait(PATIENCE)
        for attempt in range(1_000):
            run.assign(joined, pb.Call(attempt=attempt))
        go.set()
        assert len(run.ends(1_000)) == 1_000
        assert len([down for down in worker.downs.all if down.assigns]) < 10
        run.close()


def test_a_word_after_the_coordinator_has_hung_up_is_a_loss_of_the_stream() -> None:
    """It is tried again like any other: who calls may be about to say something when the end comes."""

    async def say_late(coordinator: Hub) -> None:
        hello = pb.Hello(id="w", slots=1, protocol=PROTOCOL, python="3.11")
        async with call(to(coordinator), "Work", pb.Up(hello=hello), pb.Down, lambda: None, lambda: None) as (link, _):
            await asyncio.to_thread(coordinator.close)
            while await link.hear() is not None:
                pass
            stream: Any = link._stream
            await stream.code()
            await link.send(pb.Up(mark=1))

    with hub() as coordinator, pytest.raises(BackendUnreachableError, match="has hung up"):
        asyncio.run(say_late(coordinator))


# Files that grow.


class Files:
    """The files of runs, where the coordinator writes them; `broken` says how often writing fails."""

    def __init__(self, folder: Path, broken: int = 0) -> None:
        self.folder = folder
        self.broken = broken

    def open(self, run: str, file: str) -> Any:
        path = self.folder / run / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.broken:
            self.broken -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


class Sender(Worker):
    """A worker whose runs write files, which it sends as a worker does: what was not acknowledged is sent again."""

    def __init__(self, address: Address, files: dict[str, bytes], most: int = 8 * MIB) -> None:
        self.files = files
        self.sent = dict.fromkeys(files, 0)
        self.acked = dict.fromkeys(files, 0)
        self.resent = 0
        self.most = most
        super().__init__(address)

    def piece(self) -> pb.Up | None:
        for file, data in self.files.items():
            start = self.sent[file]
            if start < len(data) and start - self.acked[file] < self.most:
                piece = data[start : start + PIECE]
                self.sent[file] += len(piece)
                return pb.Up(logs=[pb.Log(run="run", file=file, offset=start, data=piece)])
        return None

    def hear(self, down: pb.Down) -> None:
        for ack in down.log_acks:
            assert ack.offset > self.acked[ack.file]
            self.acked[ack.file] = ack.offset
        super().hear(down)
        self._say(pb.Up())

    def lost(self) -> None:
        self.resent += sum(self.sent.values()) - sum(self.acked.values())
        self.sent = dict(self.acked)
        super().lost()

    def wait_for_all(self) -> None:
        self.downs.wait(lambda _: all(self.acked[file] == len(data) for file, data in self.files.items()), "acks")


def logging_run(coordinator: Hub, files: Files) -> Run:
    run = Run()
    run.line = coordinator.borrow(run.opening(), run.tells.add, logs=files.open)
    return run


@pytest.mark.parametrize("packed", [False, True])
def test_files_arrive_as_they_were_written(tmp_path: Path, packed: bool, monkeypatch) -> None:
    """Over a network they are compressed; within a machine there is nothing to be saved by it."""
    shrunk: list[int] = []

    def compress(data: bytes, level: int) -> bytes:
        made = zlib.compress(data, level)
        shrunk.append(len(data) // len(made))
        return made

    monkeypatch.setattr(
        "dagrid.execution.backends.cluster.link.zlib", SimpleNamespace(**vars(zlib) | {"compress": compress})
    )
    monkeypatch.setattr(Address, "is_local", not packed)
    data = {"step.out": text(5 * MIB), "deep/er/step.err": os.urandom(300_000)}
    with hub() as coordinator:
        run = logging_run(coordinator, Files(tmp_path))
        with Sender(to(coordinator), data) as sender:
            sender.wait_for_all()
        assert {name: (tmp_path / "run" / name).read_bytes() for name in data} == data
        assert bool(shrunk) is packed
        assert not packed or max(shrunk) > 3
        run.close()


def test_no_byte_is_lost_or_there_twice_when_the_stream_breaks(tmp_path: Path) -> None:
    """Also when it is another coordinator that goes on with the file."""
    data = {"step.out": text(24 * MIB)}
    with hub() as first:
        logging_run(first, Files(tmp_path))
        sender = Sender(to(first), data)
        sender.downs.wait(lambda _: sender.acked["step.out"] > 4 * MIB)
    sender.events.wait(lambda found: "lost" in found)
    assert sender.acked["step.out"] < 24 * MIB
    with hub(first.port) as second:
        run = logging_run(second, Files(tmp_path))
        with sender:
            sender.wait_for_all()
        assert (tmp_path / "run" / "step.out").read_bytes() == data["step.out"]
        run.close()


def test_a_full_disk_holds_up_the_files_and_nothing_else(tmp_path: Path, monkeypatch, caplog) -> None:
    """What cannot be written waits, is tried again, and is there in the end; the worker stays alive meanwhile."""
    monkeypatch.setattr(logbook, "PAUSE", 0.01)
    data = {"step.out": text(2 * MIB), "other.out": text(MIB)}
    files = Files(tmp_path, broken=10)
    with caplog.at_level(logging.ERROR, "dagrid.fleet"), hub() as coordinator:
        run = logging_run(coordinator, files)
        with Sender(to(coordinator), data) as sender:
            sender.say(pb.Up(heartbeat=pb.Heartbeat(echo=3)))
            sender.downs.wait(lambda found: [down for down in found if down.echo == 3])
            sender.wait_for_all()
        assert not files.broken
        assert {name: (tmp_path / "run" / name).read_bytes() for name in data} == data
        run.close()
    assert 1 <= len([each for each in caplog.records if "cannot be written" in each.message]) <= 2


def test_who_sends_more_of_its_files_than_may_be_under_way_is_hung_up_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(logbook, "STUCK", MIB)
    with hub() as coordinator:
        run = logging_run(coordinator, Files(tmp_path, broken=1_000_000))
        sender = Sender(to(coordinator), {"step.out": text(4 * MIB)}, most=1_000 * MIB)
        sender.events.wait(lambda found: "lost" in found)
        sender.close()
        run.close()


def test_files_of_a_run_that_is_yet_to_be_opened_wait_for_it(tmp_path: Path) -> None:
    """Workers may be back at a coordinator that has begun anew before it has opened the runs of the one before it."""
    data = {"step.out": text(3 * MIB)}
    with hub() as coordinator, Sender(to(coordinator), data) as sender:
        sender.say(pb.Up(heartbeat=pb.Heartbeat(echo=3)))
        sender.downs.wait(lambda found: [down for down in found if down.echo == 3])
        run = logging_run(coordinator, Files(tmp_path))
        sender.wait_for_all()
        assert (tmp_path / "run" / "step.out").read_bytes() == data["step.out"]
        run.close()


def test_files_that_nobody_wants_are_acknowledged(tmp_path: Path) -> None:
    """Else the worker would keep them for ever."""
    with hub(lease=1.0) as coordinator, Sender(to(coordinator), {"step.out": text(MIB)}) as sender:
        sender.wait_for_all()


def test_gigabytes_would_flow_for_many_files_at_once(tmp_path: Path) -> None:
    """More files than are kept open at a time."""
    data = {f"step-{number}.out": text(1000 + number) * 3 for number in range(logbook.OPEN + 20)}
    with hub() as coordinator:
        run = logging_run(coordinator, Files(tmp_path))
        with Sender(to(coordinator), data) as sender:
            sender.wait_for_all()
        assert {name: (tmp_path / "run" / name).read_bytes() for name in data} == data
        run.close()


@pytest.mark.parametrize("file", ["../step.out", "/etc/passwd", "a//b", "a/./b", "a\0b", "", "x" * 2_000])
def test_a_worker_writes_nowhere_but_in_the_folder_of_its_run(tmp_path: Path, file: str) -> None:
    """It has the names from its own folder; one that has others is up to something."""
    with hub() as coordinator, Stranger(coordinator.port) as stranger:
        run = logging_run(coordinator, Files(tmp_path / "logs"))
        stranger.say(pb.Up(hello=pb.Hello(id="stranger", slots=1, protocol=PROTOCOL)))
        stranger.say(pb.Up(logs=[pb.Log(run="run", file=file, data=b"x")]))
        assert "there can be none of that name" in stranger.why()
        run.close()
    assert not list(tmp_path.iterdir())


def test_contents_that_cannot_be_kept_end_the_stream_and_are_sent_again(tmp_path: Path, monkeypatch) -> None:
    """The disk is full for a while."""
    value = text(MIB)
    with hub() as coordinator:
        add, broken = coordinator.contents.add, [True]

        def full(part: pb.Part, source: object) -> bool:
            if broken:
                broken.pop()
                raise OSError(errno.ENOSPC, "No space left on device")
            return add(part, source)

        monkeypatch.setattr(coordinator.contents, "add", full)
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        with Worker(to(coordinator)) as worker:
            worker.outbox.feed(pb.Up(parts=[part]) for part in brought(value))
            worker.wake()
            worker.events.wait(lambda found: "lost" in found)
            worker.outbox = Outbox()
            worker.outbox.feed(pb.Up(parts=[part]) for part in brought(value))
            worker.wake()
            assert run.content(digest_of(value)) == value
        broken.append(True)
        run.line.ask(pb.Ask(parts=list(parts(b"of a run", digest_of(b"of a run")))))
        refused = run.tells.wait(lambda found: [tell.refusal for tell in found if tell.HasField("refusal")])
        assert "No space left" in refused[0].reason


def test_who_is_told_something_may_look_at_the_workers() -> None:
    """It is called in the coordinator's thread, which must not wait for itself."""
    seen: list[str] = []
    with hub() as coordinator, Worker(to(coordinator)):
        run = Run()

        def tell(tell: pb.Tell) -> None:
            seen.extend(view.id for view in coordinator.workers())
            run.tells.add(tell)

        run.line = coordinator.borrow(run.opening(), tell)
        run.joined()
        assert "w1" in seen
        run.close()
