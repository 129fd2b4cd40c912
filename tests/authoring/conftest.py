"""The places where flows run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dagrid.execution.backends.inline import InlineBackend
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.backends.thread import ThreadBackend

PLACES = {
    "inline": InlineBackend,
    "thread": lambda: ThreadBackend(max_workers=2),
    "multiprocessing": lambda: MultiprocessingBackend(max_workers=2),
}


@pytest.fixture(scope="module", params=list(PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A backend, one for a module of tests."""
    made = PLACES[request.param]()
    yield made
    made.close()
