"""Every store and every place for values passes the suite that is shipped for everybody's; and the suite catches wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid.errors import DagridError, StoreError
from dagrid.ports import Artifacts, Store
from dagrid.stores.artifacts import FolderArtifacts, FsspecArtifacts
from dagrid.stores.memory import MemoryStore
from dagrid.stores.sqlite import SQLiteStore
from dagrid.testing import ArtifactsConformance, StoreConformance, StoreModel
from dagrid.testing.store_model import OPERATIONS


class TestMemoryStore(StoreConformance):
    durable = False

    def open_store(self, place: Path) -> Store:
        return MemoryStore()


class TestSQLiteStore(StoreConformance):
    def open_store(self, place: Path) -> Store:
        return SQLiteStore(place / "runs.db")


class TestFolderArtifacts(ArtifactsConformance):
    def open_artifacts(self, place: Path) -> Artifacts:
        return FolderArtifacts(place / "values")


class TestFsspecInMemory(ArtifactsConformance):
    def open_artifacts(self, place: Path) -> Artifacts:
        return FsspecArtifacts(f"memory:/{place}")


class TestFsspecInAFolder(ArtifactsConformance):
    def open_artifacts(self, place: Path) -> Artifacts:
        return FsspecArtifacts(f"local://{place}/values")


CALLS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 7))),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(CALLS)
def test_a_memory_store_is_its_model(calls):
    """Any calls, right and wrong, in any order: the answers of a list of facts for each run."""
    with MemoryStore() as store:
        model = StoreModel(store)
        for operation, choices in calls:
            model.perform(operation, choices)
        model.check()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One file for all examples: a new one for each would cost more than the calls."""
    with SQLiteStore(tmp_path_factory.mktemp("model") / "runs.db") as store:
        yield store


@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_an_sqlite_store_is_its_model(database, calls):
    """The same on a file, where all or none is a matter of transactions."""
    model = StoreModel(database, prefix=f"{len(database.runs())}-")
    for operation, choices in calls:
        model.perform(operation, choices)
    model.check()


QUESTIONS = ("ids", "name", "status", "since", "until", "old", "limit")


class Forgetful(MemoryStore):
    """Each way in which a store can be wrong, one at a time."""

    fault = ""

    def append(
        self, run: str, epoch: int, expected: int, facts: Any, *, status: str | None = None, at: float = 0.0
    ) -> int:
        if self.fault == "takes a stale epoch":
            epoch = super().acquire(run)
        if self.fault == "takes any number":
            expected = len(list(super().read(run)))
        if self.fault == "keeps a part":
            for number, fact in enumerate(facts):
                super().append(run, epoch, expected + number, [fact])
            return super().append(run, epoch, expected + len(facts), [], status=status, at=at)
        return super().append(run, epoch, expected, facts, status=status, at=at)

    def read(self, run: str, since: int = 0) -> Any:
        if self.fault == "reads late":
            return self._read_late(run, since)
        return super().read(run, since + 1 if self.fault == "skips a fact" else since)

    def _read_late(self, run: str, since: int) -> Any:
        yield from super().read(run, since)

    def snapshot(self, run: str, epoch: int, facts: int, data: bytes) -> None:
        if self.fault == "keeps any snapshot":
            epoch = super().acquire(run)
        super().snapshot(run, epoch, facts, data)

    def acquire(self, run: str, epoch: int | None = None, **said: Any) -> int:
        if self.fault == "takes a run and says nothing of it":
            said = {}
        return super().acquire(run, None if self.fault == "gives a run to all who ask" else epoch, **said)

    def delete(self, run: str) -> None:
        if self.fault == "empties what it should delete":
            self._journal(run).facts.clear()
        elif self.fault == "deletes twice":
            self._journals.pop(run, None)
        else:
            super().delete(run)

    def runs(self, prefix: str = "", **which: Any) -> Any:
        which = {question: value for question, value in which.items() if self.fault != f"forgets {question}"}
        found = super().runs("" if self.fault == "lists all runs" else prefix, **which)
        return found[::-1] if self.fault == "lists the oldest first" else found

    def close(self) -> None:
        if self.fault != "stays open":
            super().close()


def suite_of_forgetful() -> StoreConformance:
    """Return the suite where pytest does not find it."""

    class Suite(StoreConformance):
        durable = False
        many = 20

        def open_store(self, place: Path) -> Store:
            return Forgetful()

    return Suite()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("takes a stale epoch", "test_whoever_acquires_is_the_only_writer"),
        ("takes any number", "test_numbers_must_follow"),
        ("keeps a part", "test_all_or_none"),
        ("reads late", "test_an_unknown_run"),
        ("skips a fact", "test_facts_come_back_in_order"),
        ("keeps any snapshot", "test_whoever_acquires_is_the_only_writer"),
        ("lists the oldest first", "test_many_runs_the_newest_first"),
        ("lists all runs", "test_a_prefix_is_text_and_no_pattern"),
        *((f"forgets {one}", "test_runs_are_found_by_what_is_known_of_them") for one in QUESTIONS),
        ("stays open", "test_close_twice_and_use_after_close"),
        ("gives a run to all who ask", "test_one_of_those_who_saw_an_epoch_gets_the_run"),
        (
            "takes a run and says nothing of it",
            "test_what_is_said_of_a_run_with_its_first_owner_or_a_new_one",
        ),
        ("empties what it should delete", "test_a_run_that_is_deleted"),
        ("deletes twice", "test_deleted_while_others_write"),
        ("gives a run to all who ask", "test_any_order_of_calls"),
        ("empties what it should delete", "test_any_order_of_calls"),
        ("skips a fact", "test_any_order_of_calls"),
        ("takes any number", "test_any_order_of_calls"),
    ],
)
def test_the_suite_catches(monkeypatch, tmp_path, fault, test):
    """A suite that every store passes proves nothing."""
    run = getattr(suite_of_forgetful(), test)
    run(tmp_path)
    monkeypatch.setattr(Forgetful, "fault", fault)
    with pytest.raises((AssertionError, DagridError)):
        run(tmp_path)


class Careless(FolderArtifacts):
    """Writes in place, so that a reader can see a part."""

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            for begin in range(0, len(data), 1_000):
                file.write(data[begin : begin + 1_000])


def test_the_suite_catches_a_value_that_is_not_whole(tmp_path):
    """What the draft beside the value is for."""

    class Suite(ArtifactsConformance):
        def open_artifacts(self, place: Path) -> Artifacts:
            return Careless(place)

    def often() -> None:
        for _ in range(10):  # on a busy machine nobody may look while somebody writes
            Suite().test_a_reader_sees_whole_values(tmp_path)

    with pytest.raises((AssertionError, StoreError)):
        often()
