"""Files that grow at a worker arrive whole at the coordinator, whatever breaks on the way."""

from __future__ import annotations

import errno
import logging
import os
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import logbook
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.outbox import PIECE
from tests.fleet.link_kit import MIB, text
from tests.fleet.wire import Run, Stranger, Worker, hub, to


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
