"""Large values on their way to where their runs want them: to artifacts, or piece by piece to the coordinator.

An end is told when its value is there. What finds no room with the coordinator is brought again, less and less often, until it
is given up. Used in the worker's loop. It knows attempts by their names, and nothing of calls.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import artifact_key
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.cluster.refusals import Refusals
from dagrid.ports import Artifacts
from dagrid.service.worker.later import Key

_log = logging.getLogger("dagrid.worker")


class Bringing:
    """The large values of a worker.

    Args:
        loop: of the worker.
        contents: has the values.
        artifacts_of: returns where a run wants its large values to be kept; None: with the coordinator.
        wake: called when there is something to say, or an end may be told.
        give_up: called with an attempt whose value finds no room, with its size and why.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        contents: Contents,
        *,
        artifacts_of: Callable[[str], Artifacts | None],
        wake: Callable[[], None],
        give_up: Callable[[Key, int, str], None],
    ) -> None:
        self._loop = loop
        self._contents = contents
        self._artifacts_of = artifacts_of
        self._wake = wake
        self._give_up = give_up
        self._there: set[Key] = set()  # what was brought on this stream
        self._on_way: dict[Key, pb.Finished] = {}  # what was begun and not answered, in that order
        self._pieces: dict[Key, Iterator[pb.Part]] = {}
        self._putting: set[Key] = set()
        self._refusals = Refusals()
        self._kept_back: dict[Key, TimerHandle] = {}  # for these there was no room

    def rests(self, key: Key, end: pb.Finished) -> bool:
        """Return whether the value of an end is still to be brought; it is begun, if it was not."""
        if key in self._there:
            return False
        artifacts = self._artifacts_of(key[0])
        if artifacts is None:
            self._begin(key, end)
        elif key not in self._putting:
            self._putting.add(key)
            put = self._loop.run_in_executor(None, self._put, artifacts, key[0], end.apart)
            put.add_done_callback(partial(self._has_put, key, end))
        return True

    def is_there(self, key: Key) -> bool:
        """Return whether a value has been brought."""
        return key in self._there

    def piece(self) -> pb.Up | None:
        """Return the next piece for the coordinator."""
        for key, parts in list(self._pieces.items()):
            part = next(parts, None)
            if part is not None:
                part.run = key[0]
                return pb.Up(parts=[part])
            del self._pieces[key]
        return None

    def hear(self, receipt: pb.Receipt) -> None:
        """The coordinator says what has become of a value: of the first one that was begun."""
        about = (receipt.run, receipt.digest)
        key = next((key for key, end in self._on_way.items() if (key[0], end.apart) == about), None)
        if key is None:
            return
        end = self._on_way.pop(key)
        self._pieces.pop(key, None)
        if receipt.kept:
            self._there.add(key)
            self._refusals.forget(key)
        elif receipt.why:
            self._put_off(key, end, receipt.why)
        self._wake()

    def forget(self, key: Key) -> None:
        """Nobody wants the value of an attempt any more."""
        self._there.discard(key)
        self._putting.discard(key)
        self._refusals.forget(key)
        if key in self._kept_back:
            self._kept_back.pop(key).cancel()
        self._on_way.pop(key, None)
        self._pieces.pop(key, None)

    def end(self, run: str) -> None:
        """Nobody wants anything of a run any more."""
        for key in [key for key in (*self._there, *self._putting, *self._kept_back, *self._on_way) if key[0] == run]:
            self.forget(key)

    def lose(self) -> None:
        """The stream has ended: all that has not been acknowledged is brought again."""
        self._there.clear()
        self._on_way.clear()
        self._pieces.clear()

    def _begin(self, key: Key, end: pb.Finished) -> None:
        if key in self._on_way or key in self._kept_back:
            return
        self._on_way[key] = end
        self._pieces[key] = self._contents.pieces(end.apart)

    def _put_off(self, key: Key, end: pb.Finished, why: str) -> None:
        pause = self._refusals.pause(key, monotonic())
        if pause is None:
            self._give_up(key, end.size, why)
        else:
            self._kept_back[key] = self._loop.call_later(pause, self._again, key)

    def _again(self, key: Key) -> None:
        del self._kept_back[key]
        self._wake()

    def _put(self, artifacts: Artifacts, run: str, digest: bytes) -> bool:
        try:
            artifacts.put(artifact_key(run, digest), self._contents.get(digest))
        except Exception as error:  # noqa: BLE001 - whatever the place raises
            _log.error(
                "A value of run %s cannot be kept with the artifacts, and goes to the coordinator: %s", run, error
            )
            return False
        return True

    def _has_put(self, key: Key, end: pb.Finished, done: Future[bool]) -> None:
        if key not in self._putting:
            return  # nobody wants it any more
        self._putting.discard(key)
        if done.result():
            self._there.add(key)
        else:
            self._begin(key, end)
        self._wake()
