"""What the tests of stores share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.stores.postgres_place import Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests: each has a schema of its own in it."""
    from tests.stores.postgres_place import cluster  # only the tests with an engine have it

    with cluster() as server:
        yield server
