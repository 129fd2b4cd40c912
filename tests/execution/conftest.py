"""What many tests of runs begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.execution.cached_tasks import CALLS


@pytest.fixture(params=["thread", "inline"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder for a checkpoint, which is not there yet."""
    return str(tmp_path / "kept")


@pytest.fixture(autouse=True)
def _no_calls_from_before() -> None:
    CALLS.clear()
