"""What is long travels apart, once, and goes when nobody needs it; readers that are slow hold up themselves alone."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagrid.errors import BackendUnreachableError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import listener
from dagrid.execution.backends.cluster import loop as fleet_loop
from dagrid.execution.backends.cluster.calling import call
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.outbox import PIECE
from tests.fleet.link_kit import KEY, MIB, brought, settle, text
from tests.fleet.wire import PATIENCE, Run, Stranger, Worker, digest_of, ended, hub, to


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
        run.give(arguments)
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
        run.give(data)
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
            run.give(data)
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


def test_a_value_stays_for_a_lease_each_time_that_its_run_has_no_line(monkeypatch) -> None:
    """A network that comes and goes: a lease after it had gone first, the values of a run went that was away for a moment just
    then, and what took them failed. So it was where the coordinator had been stopped, which gives everybody a new lease.
    """
    value = bytes(MIB)
    with hub() as coordinator, Worker(to(coordinator)) as worker:
        loop = coordinator._loop
        assert loop is not None
        call_later, timers = loop.call_later, []

        def noted(delay: float, call: Callable[..., object], *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            timer = call_later(delay, call, *args, **kwargs)
            if args == ("run",):
                timers.append(call)
            return timer

        monkeypatch.setattr(loop, "call_later", noted)
        run = Run()
        worker.value_of = lambda call: None
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1))
        worker.downs.wait(lambda found: [down for down in found if down.assigns])
        for part in brought(value):
            worker.say(pb.Up(parts=[part]))
        end = pb.Finished(attempt=1, apart=digest_of(value), size=len(value))
        worker.say(pb.Up(reports=[pb.Report(run="run", fence=1, finished=[end])]))
        run.ends(1)
        run.uses = [pb.Use(fence=1, worker="w1")]
        for _ in range(2):
            run.line.close()
            coordinator.workers()  # all that was asked before has been done
            loop.call_soon_threadsafe(timers[0], "run")  # a lease is over since the first time
            run.line = coordinator.borrow(run.opening(), run.tells.add)
        assert run.content(digest_of(value)) == value
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


def test_what_was_left_is_kept_for_a_lease_however_long_it_took_to_look_at_it(tmp_path: Path, monkeypatch) -> None:
    """Gigabytes take longer to read than a lease: they were let go of before anybody could call. So they were where the
    coordinator had been stopped for longer than that.
    """
    value = bytes(MIB)
    (tmp_path / digest_of(value).hex()).write_bytes(value)
    loop = fleet_loop.join()
    try:
        made = Hub(port=0, folder=tmp_path)
        inherit, ahead, time_of_loop = made.contents.inherit, [0.0], loop.time

        def slowly(holder: object) -> None:
            inherit(holder)
            ahead[0] = 3600.0

        monkeypatch.setattr(loop, "time", lambda: time_of_loop() + ahead[0])
        monkeypatch.setattr(made.contents, "inherit", slowly)
        made.start()
        for _ in range(2):
            made.workers()  # what was due has been done
            ahead[0] += 3600.0  # it was stopped, and nobody could call
        run = Run()
        opening = run.opening()
        opening.kept.add(fence=1, attempts=[1], digests=[digest_of(value)])
        run.line = made.borrow(opening, run.tells.add)
        assert run.content(digest_of(value)) == value
        run.close()
        made.close()
    finally:
        fleet_loop.leave()


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
        run.give(data)
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
