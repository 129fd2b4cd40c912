"""What is long finds no room at the coordinator: who sends it is told so, and all else on its stream goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from tests.fleet.link_kit import MIB, brought, text
from tests.fleet.wire import Run, Worker, digest_of, hub, to


class Disk:
    """A disk that looks as full as a test wants."""

    def __init__(self, free: int) -> None:
        self.free = free

    def usage(self, _: object) -> SimpleNamespace:
        return SimpleNamespace(free=self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(MIB)
    monkeypatch.setattr(shutil, "disk_usage", made.usage)
    return made


@pytest.fixture
def coordinator(disk: Disk) -> Iterator[Hub]:
    with hub() as made:
        yield made


def opened(coordinator: Hub, elsewhere: bool = False) -> Run:
    """Return a run with a line."""
    run = Run()
    if elsewhere:
        run.line = borrow(to(coordinator), run.reopen, run.tells.add)
    else:
        run.line = coordinator.borrow(run.opening(), run.tells.add)
    return run


def bring(worker: Worker, value: bytes) -> None:
    worker.outbox.feed(pb.Up(parts=[part]) for part in brought(value))
    worker.wake()


def receipts(worker: Worker, count: int) -> list[pb.Receipt]:
    """Return what a worker was told of what it has brought, when that is so much."""

    def enough(downs: list[pb.Down]) -> list[pb.Receipt]:
        found = [receipt for down in downs for receipt in down.receipts]
        return found if len(found) >= count else []

    found = worker.downs.wait(enough, "receipts")
    assert isinstance(found, list)
    return found


def test_a_worker_hears_what_becomes_of_the_values_that_it_brings(
    coordinator: Hub, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Without room its stream was ended, and with it all else that it did, every few seconds for as long as that was so."""
    value = text(2 * MIB)
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), Worker(to(coordinator)) as worker:
        run = opened(coordinator)
        run.joined()
        for tries in (1, 2):
            for part in brought(value)[:2]:
                worker.say(pb.Up(parts=[part]))
            assert "No space left" in receipts(worker, tries)[-1].why
        assert not list(coordinator.contents.folder.iterdir())
        disk.free = 3 * MIB
        bring(worker, value)
        third = receipts(worker, 3)[-1]
        assert (third.run, third.digest, third.kept, third.why) == ("run", digest_of(value), True, "")
        assert run.content(digest_of(value)) == value
        run.close()
        assert worker.events.all.count("lost") == 0
    (said,) = [record.message for record in caplog.records if "no room" in record.message]
    assert "w1" in said


def test_room_is_kept_for_what_comes_already(coordinator: Hub, disk: Disk) -> None:
    """Two that fit one by one, and not both, would each have taken what the other needs, and what the journals need."""
    disk.free = 5 * MIB
    one, other = text(3 * MIB), text(4 * MIB)
    with Worker(to(coordinator), "one") as first, Worker(to(coordinator), "other") as second:
        run = opened(coordinator)
        run.joined("one")
        begin, *rest = brought(one)
        first.say(pb.Up(parts=[begin], wants=[b"nothing"]))
        run.tells.wait(lambda tells: any(b"nothing" in tell.wants for tell in tells), "the first piece")
        bring(second, other)
        assert "No space left" in receipts(second, 1)[0].why
        first.outbox.feed(pb.Up(parts=[part]) for part in rest)
        first.wake()
        assert receipts(first, 1)[0].kept
        run.close()


def test_a_value_whose_run_is_over_is_taken_as_kept(coordinator: Hub) -> None:
    """Its end waits for that, and is to be told, so that the worker hears that nobody wants it."""
    value = text(MIB // 2)
    with Worker(to(coordinator)) as worker:
        bring(worker, value)
        assert receipts(worker, 1)[0].kept


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_hears_that_there_is_no_room_for_what_it_gives(coordinator: Hub, disk: Disk, elsewhere: bool) -> None:
    """Its line was ended: for good in the coordinator's process, and every few seconds elsewhere."""
    data = text(2 * MIB)
    run = opened(coordinator, elsewhere)
    with Worker(to(coordinator)):
        run.joined()
        assert run.line is not None
        run.line.give(islice(parts(data, digest_of(data)), 2))
        (receipt,) = run.tells.wait(lambda found: [each for tell in found for each in tell.receipts], "a receipt")
        assert (receipt.run, receipt.digest, receipt.kept) == ("run", digest_of(data), False)
        assert "No space left" in receipt.why
        disk.free = 3 * MIB
        run.give(data)
        assert run.content(digest_of(data)) == data
        run.close()
    assert not [tell for tell in run.tells.all if tell.HasField("refusal")]
