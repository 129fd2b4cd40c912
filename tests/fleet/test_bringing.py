"""Large values on their way from a worker, whose coordinator is played."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from pathlib import Path

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import refusals
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.service.worker.bringing import Bringing
from dagrid.service.worker.later import Key

VALUE = bytes(600_000)
FULL = "[Errno 28] No space left on device"


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Let a test run in a loop, as a worker does."""

    @wraps(test)
    def run(**fixtures: object) -> None:
        asyncio.run(_awaited(test(**fixtures)))

    return run


async def _awaited(test: Awaitable[None]) -> None:
    await test


class Played:
    """A worker with a value; what is brought of it, and what is given up."""

    def __init__(self, folder: Path) -> None:
        self.contents = Contents(folder)
        self.digest = self.contents.put(VALUE)
        self.woken = asyncio.Event()
        self.given_up: list[tuple[Key, int, str]] = []
        self.bringing = Bringing(
            asyncio.get_running_loop(),
            self.contents,
            artifacts_of=lambda _: None,
            wake=self.woken.set,
            give_up=lambda *what: self.given_up.append(what),
        )

    def rests(self, attempt: int, run: str = "run") -> bool:
        return self.bringing.rests((run, 1, attempt), pb.Finished(attempt=attempt, apart=self.digest, size=len(VALUE)))

    def brought(self) -> Iterator[pb.Part]:
        """Return all pieces that are to go now."""
        while (up := self.bringing.piece()) is not None:
            yield from up.parts

    def answer(self, why: str = "", run: str = "run") -> None:
        self.bringing.hear(pb.Receipt(run=run, digest=self.digest, kept=not why, why=why))


@in_a_loop
async def test_an_end_rests_on_its_value_until_the_coordinator_has_it(tmp_path: Path) -> None:
    """That all of it was sent is not enough: there may be no room for it."""
    played = Played(tmp_path)
    assert played.rests(1)
    assert sum(len(part.data) for part in played.brought()) == len(VALUE)
    assert played.rests(1)
    assert not list(played.brought())
    played.answer()
    assert not played.rests(1)


@in_a_loop
async def test_what_finds_no_room_is_brought_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of it need not go, and nothing of it goes meanwhile, on another stream neither."""
    monkeypatch.setattr(refusals, "FIRST_PAUSE", 0.05)
    played = Played(tmp_path)
    assert played.rests(1)
    assert played.bringing.piece() is not None
    played.answer(FULL)
    assert played.rests(1)
    assert not list(played.brought())
    played.bringing.lose()
    assert played.rests(1)
    assert not list(played.brought())
    played.woken.clear()
    await played.woken.wait()
    assert played.rests(1)
    assert sum(len(part.data) for part in played.brought()) == len(VALUE)
    played.answer()
    assert not played.rests(1)


@in_a_loop
async def test_what_finds_no_room_for_minutes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PATIENCE", 0.0)
    played = Played(tmp_path)
    assert played.rests(1)
    played.answer(FULL)
    assert played.given_up == [(("run", 1, 1), len(VALUE), FULL)]


@in_a_loop
async def test_equal_values_are_answered_one_by_one(tmp_path: Path) -> None:
    """Each was brought for an end of its own, in a run of its own."""
    played = Played(tmp_path)
    assert all(played.rests(attempt, run) for attempt, run in ((1, "run"), (2, "run"), (1, "other")))
    assert sum(len(part.data) for part in played.brought()) == 3 * len(VALUE)
    played.answer()
    assert [played.rests(1), played.rests(2), played.rests(1, "other")] == [False, True, True]
    played.answer(run="other")
    assert [played.rests(2), played.rests(1, "other")] == [True, False]
    played.bringing.end("run")
    played.answer()
    assert [played.rests(1), played.rests(2)] == [True, True]
