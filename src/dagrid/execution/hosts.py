"""The host of a place of its own: it tells the engine where its workers stand, and opens the values that come to them.

Nodes with a place (the caller's thread, an event loop) run beside the backend of a run, in a session of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from dagrid.attempt import Extra
from dagrid.machine.events import Stimulus, WorkerJoined
from dagrid.ports import Backend, Call, Host, opened


class PlaceHost:
    """What the backend of a place takes for its host: the engine, whose workers are told apart by the place."""

    def __init__(self, engine: Host, name: str, backend: Backend, place_of: dict[int, PlaceHost]) -> None:
        self._engine = engine
        self._name = name
        self._backend = backend
        self._place_of = place_of
        self.now = engine.now
        self.draw = engine.draw
        self.session = backend.open(self)

    def close(self) -> None:
        """End the use of the place."""
        self.session.close()
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

    def next(self, worker: int) -> Call | None:
        return with_open_values(self._engine.next(worker))

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        return with_open_values(self._engine.completed(worker, call, value, started, ended, extra))

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        return with_open_values(self._engine.failed(worker, call, error, started, ended))


def with_open_values(call: Call | None) -> Call | None:
    """Return a call whose arguments are the values themselves, in whatever form they travelled; else one that fails."""
    if call is not None:
        try:
            call.args = [opened(value) for value in call.args]
            if call.kwargs:
                call.kwargs = {name: opened(value) for name, value in call.kwargs.items()}
        except Exception as error:  # noqa: BLE001  # the user's types, and the thread is the user's too
            call.fn, call.args, call.kwargs = partial(_fail, error), (), None
    return call


def _fail(error: Exception) -> None:
    raise error
