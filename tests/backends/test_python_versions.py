"""A driver and a worker of different Pythons: functions do not travel between them, and the error says so plainly."""

from __future__ import annotations

import pytest

from dagrid.errors import TransferError
from dagrid.execution.backends import _remote
from dagrid.machine.events import Outcome
from dagrid.ports import Call


def test_another_python_is_told_with_both_versions_and_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the worker would crash on strange bytecode, or worse, would not."""
    call = Call(1, "resample", lambda: 1)
    here = _remote.PYTHON
    sent = _remote.order(call)
    monkeypatch.setattr(_remote, "PYTHON", (3, 1))  # as on a worker of that version
    event = _remote.finished(_remote.read(_remote.perform(sent)), call, 0, 0.0, 0.0)
    assert event.outcome is Outcome.FAILED
    assert isinstance(event.value, TransferError)
    assert not event.retryable
    for words in (
        "'resample'",
        f"The driver runs Python {here[0]}.{here[1]} and this worker Python 3.1",
        "Start the workers",
    ):
        assert words in str(event.value)
