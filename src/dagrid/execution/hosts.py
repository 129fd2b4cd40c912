"""Hosts that stand between a backend and the engine: they open the values that come to workers that pull.

Nodes with a place (the caller's thread, an event loop) run beside the backend of a run, in a session of another one; its host
tells the engine where its workers stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from dagrid.attempt import Extra
from dagrid.interrupts import is_interrupt
from dagrid.machine.events import Stimulus, WorkerJoined
from dagrid.ports import Backend, Call, Host, Session, Surviving, Use, opened


def session_of(backend: Backend, host: Host, uses: Sequence[Use]) -> Session:
    """Return what serves a run, which an earlier process may have left with a part of it under way."""
    if uses and isinstance(backend, Surviving):  # of few runs
        return backend.reopen(host, uses)
    return backend.open(host)


def _nothing() -> None:
    """Nothing is recorded."""


def part(session: Session, leaves: bool) -> None:
    """End the use of a backend; where the run is only let go of, what can go on there does (`Surviving`)."""
    leave = getattr(session, "leave", None) if leaves else None
    (leave or session.close)()


class OpeningHost:
    """The engine, for workers to which values come that are not open: kept on disk, or made in another process."""

    def __init__(self, engine: Host) -> None:
        self._engine = engine
        self.run = engine.run
        self.name = engine.name
        self.nonce = engine.nonce
        self.now = engine.now
        self.draw = engine.draw
        self.new_worker = engine.new_worker
        self.report = engine.report
        self.recorded = getattr(engine, "recorded", _nothing)
        self.lacks = getattr(engine, "lacks", dict)

    def next(self, worker: int) -> Call | None:
        return self._open(worker, self._engine.next(worker))

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        return self._open(worker, self._engine.completed(worker, call, value, started, ended, extra))

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        return self._open(worker, self._engine.failed(worker, call, error, started, ended))

    def _open(self, worker: int, call: Call | None) -> Call | None:
        """Return a call with the values themselves for arguments; one whose values cannot be opened has failed by it."""
        while call is not None:
            try:
                call.args = [opened(value) for value in call.args]
                if call.kwargs:
                    call.kwargs = {name: opened(value) for name, value in call.kwargs.items()}
            except BaseException as error:  # the user's type, or a value that is gone
                if is_interrupt(error):
                    raise
                now = self.now()
                call = self._engine.failed(worker, call, error, now, now)
            else:
                return call
        return None


class PlaceHost:
    """What the backend of a place takes for its host: the engine, whose workers are told apart by the place."""

    def __init__(
        self, engine: Host, name: str, backend: Backend, place_of: dict[int, PlaceHost], uses: Sequence[Use] = ()
    ) -> None:
        self._engine = engine
        self.run = engine.run
        self.name = engine.name
        self.nonce = engine.nonce
        self._name = name
        self._backend = backend
        self._place_of = place_of
        opening = OpeningHost(engine)
        self.now = engine.now
        self.draw = engine.draw
        self.recorded = getattr(engine, "recorded", _nothing)
        self.lacks = partial(engine.lacks, name) if hasattr(engine, "lacks") else dict
        self.next = opening.next
        self.completed = opening.completed
        self.failed = opening.failed
        place_of.update((use.worker, self) for use in uses)
        self.session: Session | None = session_of(backend, self, uses)

    def close(self, leaves: bool) -> None:
        """End the use of the place, see `part`."""
        session, self.session = self.session, None  # it refers to its host
        if session is not None:
            part(session, leaves)
        self._backend.close(wait=False)

    def new_worker(self) -> int:
        number = self._engine.new_worker()
        self._place_of[number] = self
        return number

    def report(self, events: Sequence[Stimulus]) -> None:
        self._engine.report(
            [
                msgspec.structs.replace(event, place=self._name) if isinstance(event, WorkerJoined) else event
                for event in events
            ]
        )
