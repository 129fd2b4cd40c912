"""Settings of the whole suite."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from dagrid import interrupts

if TYPE_CHECKING:
    from tests.stores.postgres_place import Server

# The machines that run this are shared and slow at times: a deadline for one example would fail on a busy day.
# The order of examples is fixed, so that a red build is red again for whoever looks into it.
settings.register_profile("dagrid", deadline=None, derandomize=True)
# A second interpreter sees fewer: what differs between Pythons does not hide in the hundredth graph.
settings.register_profile("again", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("dagrid")

# A shell starts what it starts in the background deaf to Ctrl-C, which the tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nobody_has_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for something gives it up when somebody has pressed Ctrl-C of late, and the test before may have done so."""
    monkeypatch.setattr(interrupts, "_pressed_at", [-math.inf])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests: each has a schema of its own in it."""
    from tests.stores.postgres_place import cluster  # only the tests with an engine have it

    with cluster() as server:
        yield server
