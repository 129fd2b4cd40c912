"""PostgreSQL passes the suites that every store and every place for values passes, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from dagrid.ports import Artifacts, Store
from dagrid.stores.postgres import PostgresArtifacts, PostgresStore
from dagrid.testing import ArtifactsConformance, StoreConformance, StoreModel
from tests.stores.postgres_place import Server
from tests.stores.test_store_conformance import CALLS

pytestmark = pytest.mark.engine


class TestPostgresStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _with_server(self, postgres: Server) -> None:
        self.server = postgres

    def open_store(self, place: Path) -> Store:
        return PostgresStore(self.server.url(place))


class TestPostgresArtifacts(ArtifactsConformance):
    @pytest.fixture(autouse=True)
    def _with_server(self, postgres: Server) -> None:
        self.server = postgres

    def open_artifacts(self, place: Path) -> Artifacts:
        return PostgresArtifacts(self.server.url(place))


@pytest.fixture(scope="module")
def journals(postgres):
    """One store for all examples: a new one for each would cost more than the calls."""
    with PostgresStore(postgres.url("model")) as store:
        yield store


@settings(max_examples=30, deadline=None)
@given(calls=CALLS)
def test_a_postgres_store_is_its_model(journals, calls):
    """Any calls, right and wrong, in any order: the answers of a list of facts for each run."""
    model = StoreModel(journals, prefix=f"{len(journals.runs())}-")
    for operation, choices in calls:
        model.perform(operation, choices)
    model.check()
