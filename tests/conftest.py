"""Settings of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.stores.postgres_place import Server

# The machines that run this are shared and slow at times: a deadline for one example would fail on a busy day.
# The order of examples is fixed, so that a red build is red again for whoever looks into it.
settings.register_profile("dagrid", deadline=None, derandomize=True)
settings.load_profile("dagrid")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests: each has a schema of its own in it."""
    from tests.stores.postgres_place import cluster  # only the tests with an engine have it

    with cluster() as server:
        yield server
