"""What every store of journals must do, as tests to inherit: make a subclass and run pytest on it.

    class TestMine(StoreConformance):
        def open_store(self, place):
            return MyStore(place / "runs")

`place` is a folder of the test's own: the same store is meant whenever it is given again. The suite knows the sockets and no
store.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dagrid.errors import DuplicateRunError, JournalConflictError, StaleEpochError, StoreError, UnknownRunError
from dagrid.ports import RunRecord, Store
from dagrid.testing.conformance import raised
from dagrid.testing.crowd import PATIENCE, at_once
from dagrid.testing.store_model import OPERATIONS, StoreModel


def _numbered(begin: int, end: int) -> list[bytes]:
    return [str(number).encode() for number in range(begin, end)]


class StoreConformance:
    """The suite. Override `open_store`, and the attributes where the store differs.

    Attributes:
        durable: what has been acknowledged is there when the place is opened again.
        patience: seconds after which a test gives up.
        many: how many runs it is tried with.
    """

    __test__: ClassVar[bool] = False
    durable: ClassVar[bool] = True
    patience: ClassVar[float] = PATIENCE
    many: ClassVar[int] = 2_000

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.open_store is not StoreConformance.open_store

    def open_store(self, place: Path) -> Store:
        """Return the store that is kept in a folder: a new one the first time, and that one again each time after."""
        raise NotImplementedError("override open_store(place) and return a store")

    @contextmanager
    def opened(self, place: Path) -> Iterator[Store]:
        """Open the store of a folder, and close it afterwards."""
        store = self.open_store(place)
        try:
            yield store
        finally:
            store.close()

    # A journal.

    def test_facts_come_back_in_order(self, tmp_path: Path) -> None:
        """Appends of any size make one row of facts with one number each, and any bytes survive."""
        facts = [b"", b"\x00", bytes(range(256)), b"x" * 1000, *_numbered(0, 500)]
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            following = 0
            for size in (1, 2, 0, 100, 1, 400):
                assert store.append("run", epoch, following, facts[following : following + size]) == following + size
                following += size
            assert following == len(facts)
            assert list(store.read("run")) == facts

    def test_reading_from_any_number(self, tmp_path: Path) -> None:
        """From inside of an append, from its edges, from the end and from beyond it; never from before the first."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            for begin, end in ((0, 1), (1, 8), (8, 10)):
                store.append("run", epoch, begin, _numbered(begin, end))
            for since in range(13):
                assert list(store.read("run", since)) == _numbered(since, 10)
            assert isinstance(raised(store.read, "run", -1), StoreError)

    def test_a_new_run_is_empty(self, tmp_path: Path) -> None:
        """No facts, no snapshot, and it goes on."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run", name="nightly", at=12.5)
            assert list(store.read("run")) == []
            assert store.latest("run") is None
            assert store.runs() == [RunRecord("run", "nightly", 12.5, "running", 0.0, epoch, 0)]

    def test_what_is_known_of_a_run_beside_its_journal(self, tmp_path: Path) -> None:
        """It is there when the run is, is said anew by anybody, and is no part of the journal."""
        with self.opened(tmp_path) as store:
            for run, about in (("one", b"first"), ("two", b"")):
                store.create(run, about=about)
            assert isinstance(raised(lambda: store.create("one", about=b"again")), DuplicateRunError)
            assert (store.about("one"), store.about("two")) == (b"first", b"")
            store.acquire("one")
            store.describe("one", b"second")
            store.describe("two", bytes(100_000))
            assert (store.about("one"), store.about("two")) == (b"second", bytes(100_000))
            assert [(record.facts, list(store.read(record.run))) for record in store.runs()] == [(0, []), (0, [])]
            store.delete("one")
            doors: list[Callable[[], Any]] = [lambda: store.about("one"), lambda: store.describe("one", b"late")]
            for door in doors:
                assert isinstance(raised(door), UnknownRunError), repr(raised(door))
            store.create("one")
            assert store.about("one") == b""

    def test_numbers_must_follow(self, tmp_path: Path) -> None:
        """A gap, a repetition and a negative number are conflicts that change nothing, also when nothing is appended."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            store.append("run", epoch, 0, _numbered(0, 3))
            for expected in (-1, 0, 2, 4):
                for facts in ([b"wrong"], []):
                    error = raised(store.append, "run", epoch, expected, facts, status="wrong")
                    assert isinstance(error, JournalConflictError), f"number {expected}: {error!r}"
            assert list(store.read("run")) == _numbered(0, 3)
            assert store.runs()[0].status == "running"
            assert store.append("run", epoch, 3, _numbered(3, 4)) == 4

    def test_an_empty_append_sets_the_status(self, tmp_path: Path) -> None:
        """It takes no number, and what follows is not disturbed."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            assert store.append("run", epoch, 0, []) == 0
            assert store.append("run", epoch, 0, [], status="completed", at=9.0) == 0
            assert (store.runs()[0].status, store.runs()[0].ended) == ("completed", 9.0)
            assert store.append("run", epoch, 0, [b"late"]) == 1
            assert list(store.read("run")) == [b"late"]

    def test_all_or_none(self, tmp_path: Path) -> None:
        """When one fact of an append cannot be kept, none is."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            odd: Any = [b"0", "not bytes", b"2"]
            assert isinstance(raised(store.append, "run", epoch, 0, odd, status="wrong"), StoreError)
            assert list(store.read("run")) == []
            assert store.runs() == [RunRecord("run", epoch=epoch)]
            assert store.append("run", epoch, 0, [b"0"]) == 1

    def test_what_was_appended_is_the_stores_own(self, tmp_path: Path) -> None:
        """A caller uses its list again for the next facts."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            facts = [b"0", b"1"]
            store.append("run", epoch, 0, facts)
            facts[:] = [b"other"]
            assert list(store.read("run")) == [b"0", b"1"]

    def test_large_facts(self, tmp_path: Path) -> None:
        """Facts of 5 MB, among small ones."""
        large = [random.Random(number).randbytes(5 * 2**20) for number in range(2)]
        facts = [b"before", large[0], b"between", large[1], b"after"]
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            assert store.append("run", epoch, 0, facts[:2]) == 2
            assert store.append("run", epoch, 2, facts[2:]) == 5
            # Not compared in one piece: a failure would print them.
            assert all(ours == theirs for ours, theirs in zip(store.read("run"), facts, strict=True))

    def test_reading_is_a_look_at_one_moment(self, tmp_path: Path) -> None:
        """A reader gets what there was when it asked, and may append between two facts."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            store.append("run", epoch, 0, _numbered(0, 3))
            seen = []
            for number, fact in enumerate(store.read("run")):
                seen.append(fact)
                store.append("run", epoch, 3 + number, _numbered(3 + number, 4 + number))
            assert seen == _numbered(0, 3)
            assert list(store.read("run")) == _numbered(0, 6)

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        """Nothing stays open or locked behind a reader that stops in the middle, or never begins."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            following = 0
            for _ in range(1_000):
                following = store.append("run", epoch, following, _numbered(following, following + 1))
            abandoned = [store.read("run", since) for since in range(20)]
            for reader in abandoned[10:]:
                next(reader)
            assert store.append("run", epoch, following, [b"more"]) == following + 1
            at_once([lambda: store.append("run", epoch, following + 1, [b"and more"])], self.patience)
            del abandoned
            assert sum(1 for _ in store.read("run")) == following + 2

    def test_runs_do_not_mix(self, tmp_path: Path) -> None:
        """Two journals side by side, with names that only differ a little."""
        names = ["a", "A", "a ", "a%", "a_", "a/b", "Zürich \N{SNOWMAN}", ""]
        with self.opened(tmp_path) as store:
            epochs = {name: store.create(name) for name in names}
            for number in range(3):
                for name in names:
                    store.append(name, epochs[name], number, [f"{name}{number}".encode()])
            for name in names:
                assert list(store.read(name)) == [f"{name}{number}".encode() for number in range(3)]

    # Names.

    def test_a_run_begins_once(self, tmp_path: Path) -> None:
        """The second `create` is refused and leaves the first one's journal alone."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run", name="first")
            store.append("run", epoch, 0, [b"0"])
            error = raised(store.create, "run", name="second")
            assert isinstance(error, DuplicateRunError)
            assert "'run'" in str(error)
            assert list(store.read("run")) == [b"0"]
            assert store.runs() == [RunRecord("run", "first", epoch=epoch, facts=1)]

    def test_an_unknown_run(self, tmp_path: Path) -> None:
        """Every door says so, at once, with the name that was meant."""
        with self.opened(tmp_path) as store:
            store.create("nightly-1")
            doors: list[Callable[[], Any]] = [
                lambda: store.acquire("nihgtly-1"),
                lambda: store.acquire("nihgtly-1", 1),
                lambda: store.delete("nihgtly-1"),
                lambda: store.append("nihgtly-1", 1, 0, [b"0"]),
                lambda: store.append("nihgtly-1", 1, 0, []),
                lambda: store.read("nihgtly-1"),
                lambda: store.snapshot("nihgtly-1", 1, 0, b""),
                lambda: store.latest("nihgtly-1"),
            ]
            for door in doors:
                error = raised(door)
                assert isinstance(error, UnknownRunError), repr(error)
                assert (error.name, error.suggestion) == ("nihgtly-1", "nightly-1")

    def test_many_runs_the_newest_first(self, tmp_path: Path) -> None:
        """In the order of their creation, whatever their clocks said, and each with its own figures."""
        chance = random.Random(3)
        with self.opened(tmp_path) as store:
            expected = []
            for number in range(self.many):
                run, at = f"run-{number}", float(chance.randrange(1_000))
                epoch = store.create(run, name=f"name {number % 7}", at=at)
                record = RunRecord(run, f"name {number % 7}", at, epoch=epoch)
                if number % 100 == 0:
                    store.append(run, epoch, 0, _numbered(0, 5), status="failed", at=at + 1)
                    record = RunRecord(run, record.name, at, "failed", at + 1, epoch, 5)
                expected.append(record)
            assert store.runs() == expected[::-1]
            assert store.runs("run-1") == [record for record in expected[::-1] if record.run.startswith("run-1")]
            assert store.runs(expected[0].run + ".") == []

    def test_runs_are_found_by_what_is_known_of_them(self, tmp_path: Path) -> None:
        """Each question by itself and with others; the newest first, and no more than are asked for."""
        with self.opened(tmp_path) as store:
            for number in range(12):
                run = f"{'ab'[number % 2]}-{number}"
                epoch = store.create(run, name=f"name {number % 3}", at=float(number // 2))
                if number % 4:
                    store.append(run, epoch, 0, [], status=("queued", "failed")[number % 2], at=9.0)
            every = store.runs()
            assert store.runs(ids={"a-4", "b-1", "a", "nothing"}) == [every[7], every[10]]
            assert store.runs(ids=()) == store.runs(status=()) == store.runs(name="name") == store.runs(limit=0) == []
            assert store.runs(name="name 1") == every[1::3]
            assert store.runs(status={"failed", "running"}) == [one for one in every if one.status != "queued"]
            assert store.runs(since=2.0, until=3.0) == every[4:8]
            assert store.runs(old=5.0) == [one for one in every if one.status == "running" and one.created <= 5.0]
            assert store.runs("a", old=9.0) == store.runs("a")
            assert store.runs(limit=5) == every[:5]
            assert store.runs(limit=50) == every
            assert store.runs("b", name="name 1", status=["failed"], since=1.0, until=4.0, limit=1) == [every[4]]

    def test_a_prefix_is_text_and_no_pattern(self, tmp_path: Path) -> None:
        """Capitals, marks of patterns and letters beyond ASCII stand for themselves."""
        names = ("a", "A", "a%b", "axb", "a_b", "ä", "a.b", "b")
        with self.opened(tmp_path) as store:
            for name in names:
                store.create(name)
            for prefix in (*names, "a%", "a_", "a.", "c"):
                found = [record.run for record in store.runs(prefix)]
                assert found == [name for name in reversed(names) if name.startswith(prefix)], prefix

    # Owners.

    def test_whoever_acquires_is_the_only_writer(self, tmp_path: Path) -> None:
        """The owner before can neither append, nor set a status, nor keep a snapshot; and its facts stay."""
        with self.opened(tmp_path) as store:
            first = store.create("run")
            store.append("run", first, 0, [b"0"])
            second = store.acquire("run")
            assert second > first
            for epoch in (first, second + 1, 0, -1):
                for door in (
                    lambda epoch=epoch: store.append("run", epoch, 1, [b"wrong"]),
                    lambda epoch=epoch: store.append("run", epoch, 1, [], status="wrong"),
                    lambda epoch=epoch: store.snapshot("run", epoch, 1, b"wrong"),
                ):
                    error = raised(door)
                    assert isinstance(error, StaleEpochError), f"epoch {epoch}: {error!r}"
            assert store.append("run", second, 1, [b"1"]) == 2
            assert list(store.read("run")) == [b"0", b"1"]
            assert store.latest("run") is None
            assert store.runs() == [RunRecord("run", epoch=second, facts=2)]

    def test_a_stale_owner_hears_that_it_is_stale(self, tmp_path: Path) -> None:
        """Also when its number is wrong too: reading again and appending would not help it."""
        with self.opened(tmp_path) as store:
            first = store.create("run")
            store.append("run", store.acquire("run"), 0, [b"0"])
            assert isinstance(raised(store.append, "run", first, 0, [b"wrong"]), StaleEpochError)

    def test_every_owner_has_an_epoch_of_its_own(self, tmp_path: Path) -> None:
        """Threads that acquire at once get different epochs, and the greatest is the one that counts."""
        with self.opened(tmp_path) as store:
            store.create("run")
            epochs: list[int] = []
            at_once([lambda: epochs.extend(store.acquire("run") for _ in range(10))] * 4, self.patience)
            assert len(set(epochs)) == 40
            assert store.append("run", max(epochs), 0, [b"0"]) == 1

    def test_one_of_those_who_saw_an_epoch_gets_the_run(self, tmp_path: Path) -> None:
        """Who says which epoch it has seen is refused when another was faster: one of several starts what waits."""
        with self.opened(tmp_path) as store:
            first = store.create("run")
            store.append("run", first, 0, [b"0"])
            outcomes: list[BaseException | None] = []
            at_once([lambda: outcomes.append(raised(store.acquire, "run", first))] * 4, self.patience)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType"] + ["StaleEpochError"] * 3
            (record,) = store.runs()
            assert record.epoch > first
            assert store.acquire("run", record.epoch) > record.epoch
            assert isinstance(raised(store.acquire, "other", 1), UnknownRunError)

    def test_what_is_said_of_a_run_with_its_first_owner_or_a_new_one(self, tmp_path: Path) -> None:
        """It is there with the owner: no death of the process lies between the two. Who is refused says nothing."""
        with self.opened(tmp_path) as store:
            first = store.create("run", name="nightly", at=1.0, about=b"waits", status="queued")
            assert store.runs() == [RunRecord("run", "nightly", 1.0, "queued", epoch=first)]
            refused = raised(store.acquire, "run", first + 1, status="wrong", at=2.0, about=b"wrong")
            assert isinstance(refused, StaleEpochError)
            second = store.acquire("run", first)
            assert store.runs() == [RunRecord("run", "nightly", 1.0, "queued", epoch=second)]
            assert store.about("run") == b"waits"
            third = store.acquire("run", second, status="aborted", at=3.0, about=b"")
            assert store.runs() == [RunRecord("run", "nightly", 1.0, "aborted", 3.0, third)]
            assert store.about("run") == b""

    # The end of a run.

    def test_a_run_that_is_deleted(self, tmp_path: Path) -> None:
        """Nothing of it stays, nothing of another one goes, and its name is free again."""
        with self.opened(tmp_path) as store:
            epochs = {run: store.create(run) for run in ("one", "two")}
            for run, epoch in epochs.items():
                for number in range(5):
                    store.append(run, epoch, number, [run.encode()])
                store.snapshot(run, epoch, 4, run.encode())
            store.delete("one")
            doors: list[Callable[[], Any]] = [
                lambda: store.delete("one"),
                lambda: store.acquire("one"),
                lambda: store.append("one", epochs["one"], 5, [b"late"]),
                lambda: store.read("one"),
                lambda: store.snapshot("one", epochs["one"], 4, b"late"),
                lambda: store.latest("one"),
            ]
            for door in doors:
                assert isinstance(raised(door), UnknownRunError), repr(raised(door))
            assert [record.run for record in store.runs()] == ["two"]
            assert (list(store.read("two")), store.latest("two")) == ([b"two"] * 5, (4, b"two"))
            epoch = store.create("one")
            assert (list(store.read("one")), store.latest("one")) == ([], None)
            assert store.append("one", epoch, 0, [b"again"]) == 1
            assert [record.run for record in store.runs()] == ["one", "two"]

    def test_deleted_while_others_write(self, tmp_path: Path) -> None:
        """Of several that delete a run one does; who appends meanwhile succeeds before it, or finds no such run."""
        with self.opened(tmp_path) as store:
            for number in range(10):
                run = f"run-{number}"
                epoch = store.create(run)
                outcomes: list[BaseException | None] = []

                def append(run: str = run, epoch: int = epoch) -> None:
                    for number in range(20):
                        error = raised(store.append, run, epoch, number, [b"fact"])
                        assert error is None or isinstance(error, UnknownRunError), repr(error)

                def delete(run: str = run, outcomes: list[BaseException | None] = outcomes) -> None:
                    outcomes.append(raised(store.delete, run))

                at_once([append, delete, delete], self.patience)
                assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "UnknownRunError"]
            assert store.runs() == []

    # Several threads at once.

    def test_one_winner_for_each_number(self, tmp_path: Path) -> None:
        """Of several who append the same number exactly one succeeds, and the facts are the winners'."""
        with self.opened(tmp_path) as store:
            self._contend([store] * 4, store.create("run"))

    def test_one_winner_between_openings(self, tmp_path: Path) -> None:
        """The same where each has opened a durable store for itself, as processes do."""
        with self.opened(tmp_path) as one, self.opened(tmp_path) as other:
            epoch = one.create("run")
            self._contend([one, other] if self.durable else [one, one], epoch)

    def _contend(self, stores: Sequence[Store], epoch: int) -> None:
        rounds = 50
        won: list[tuple[int, bytes]] = []

        def append(store: Store, mine: bytes) -> None:
            for number in range(rounds):
                error = raised(store.append, "run", epoch, number, [mine])
                assert error is None or isinstance(error, JournalConflictError), repr(error)
                if error is None:
                    won.append((number, mine))

        at_once([partial(append, store, b"%d" % number) for number, store in enumerate(stores)], self.patience)
        assert [number for number, _ in sorted(won)] == list(range(rounds))
        assert [fact for _, fact in sorted(won)] == list(stores[0].read("run"))

    def test_a_run_begins_once_among_threads(self, tmp_path: Path) -> None:
        """Of several who create the same run exactly one succeeds."""
        with self.opened(tmp_path) as store:
            outcomes: list[BaseException | None] = []
            at_once([lambda: outcomes.append(raised(store.create, "run"))] * 4, self.patience)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DuplicateRunError"] * 3 + ["NoneType"]

    def test_a_reader_never_sees_a_gap(self, tmp_path: Path) -> None:
        """Facts become visible in the order of their numbers, and an append as a whole, while others write."""
        batch, batches = 7, 40
        with self.opened(tmp_path) as store:
            epochs = {run: store.create(run) for run in ("one", "two")}

            def write(run: str) -> None:
                for number in range(0, batch * batches, batch):
                    store.append(run, epochs[run], number, _numbered(number, number + batch))

            def follow(run: str) -> None:
                seen: list[bytes] = []
                deadline = time.monotonic() + self.patience
                while len(seen) < batch * batches:
                    assert time.monotonic() < deadline, f"only {len(seen)} facts have come"
                    more = list(store.read(run, len(seen)))
                    assert len(more) % batch == 0
                    seen.extend(more)
                    assert seen == _numbered(0, len(seen))

            at_once([partial(act, run) for run in epochs for act in (write, follow)], self.patience)

    # Snapshots.

    def test_the_latest_snapshot(self, tmp_path: Path) -> None:
        """The one that stands for the most facts, whichever came last; the facts stay."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            store.append("run", epoch, 0, _numbered(0, 10))
            for facts, data, latest in (
                (0, b"nothing", (0, b"nothing")),
                (4, b"four", (4, b"four")),
                (2, b"late", (4, b"four")),
                (4, b"again", (4, b"again")),
                (10, b"\x00" * 2**20, (10, b"\x00" * 2**20)),
            ):
                store.snapshot("run", epoch, facts, data)
                assert store.latest("run") == latest
            assert list(store.read("run")) == _numbered(0, 10)

    def test_a_snapshot_of_what_is_not_there(self, tmp_path: Path) -> None:
        """It would stand for facts that may come out otherwise."""
        with self.opened(tmp_path) as store:
            epoch = store.create("run")
            store.append("run", epoch, 0, _numbered(0, 3))
            for facts in (4, -1):
                assert isinstance(raised(store.snapshot, "run", epoch, facts, b"wrong"), JournalConflictError)
            assert store.latest("run") is None

    # The end.

    def test_close_twice_and_use_after_close(self, tmp_path: Path) -> None:
        """Whoever comes too late gets an error that says so, also in the middle of reading."""
        store = self.open_store(tmp_path)
        epoch = store.create("run")
        following = 0
        for _ in range(600):
            following = store.append("run", epoch, following, _numbered(following, following + 1))
        reader = store.read("run")
        next(reader)
        store.close()
        store.close()
        doors: list[Callable[[], Any]] = [
            lambda: store.create("other"),
            lambda: store.acquire("run"),
            lambda: store.delete("run"),
            lambda: store.append("run", epoch, following, [b"late"]),
            lambda: store.read("run"),
            lambda: list(reader),
            lambda: store.snapshot("run", epoch, 0, b""),
            lambda: store.latest("run"),
            store.runs,
        ]
        for door in doors:
            error = raised(door)
            assert isinstance(error, StoreError), repr(error)
            assert "closed" in str(error)

    def test_opened_again(self, tmp_path: Path) -> None:
        """A durable store has everything, and its epochs go on; any other begins anew."""
        with self.opened(tmp_path) as store:
            first = store.create("run", name="nightly", at=1.0)
            store.append("run", first, 0, _numbered(0, 300), status="paused", at=2.0)
            store.snapshot("run", first, 200, b"snapshot")
        with self.opened(tmp_path) as store:
            if not self.durable:
                assert store.runs() == []
                return
            assert store.runs() == [RunRecord("run", "nightly", 1.0, "paused", 2.0, first, 300)]
            assert list(store.read("run", 100)) == _numbered(100, 300)
            assert store.latest("run") == (200, b"snapshot")
            second = store.acquire("run")
            assert second > first
            assert store.append("run", second, 300, [b"300"]) == 301

    def test_opened_twiceat_once(self, tmp_path: Path) -> None:
        """Two who have the same durable store open see each other's facts, and their epochs hold between them."""
        with self.opened(tmp_path) as one, self.opened(tmp_path) as other:
            first = one.create("run")
            if not self.durable:
                assert other.runs() == []
                return
            second = other.acquire("run")
            assert isinstance(raised(one.append, "run", first, 0, [b"wrong"]), StaleEpochError)
            other.append("run", second, 0, [b"0"])
            assert list(one.read("run")) == [b"0"]

    def test_any_order_of_calls(self, tmp_path: Path) -> None:
        """Random calls, right and wrong, have the same answers as the few lines that a store is in the end."""
        with self.opened(tmp_path) as store:
            model = StoreModel(store, prefix="random-")
            chance = random.Random(11)
            for _ in range(400):
                model.perform(chance.choice(OPERATIONS), [chance.randrange(8) for _ in range(3)])
            model.check()
