"""What a store is in the end, in a few lines: a list of facts for each run; and a comparison of a real one with it, call by call.

Whoever chooses the calls, a random number or a tool that looks for counterexamples, uses `StoreModel.perform`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagrid.errors import (
    DagridError,
    DuplicateRunError,
    JournalConflictError,
    StaleEpochError,
    UnknownRunError,
)
from dagrid.ports import RunRecord, Store

OPERATIONS = (
    "create",
    "acquire",
    "acquire_seen",
    "append",
    "append",
    "append",
    "append_wrong",
    "status",
    "read",
    "snapshot",
    "latest",
    "delete",
)
RUNS = 3


@dataclass(slots=True)
class _Model:
    epochs: list[int]
    facts: list[bytes] = field(default_factory=list)
    status: str = "running"
    ended: float = 0.0
    snapshot: tuple[int, bytes] | None = None

    def refusal(self, epoch: int, expected: int) -> type[DagridError] | None:
        if epoch != self.epochs[-1]:
            return StaleEpochError
        return JournalConflictError if expected != len(self.facts) else None


class StoreModel:
    """Perform calls on a store and on its model, and compare the answers.

    Args:
        store: the real one.
        prefix: what the names of its runs begin with, so that several models may share a store.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self.store = store
        self.prefix = prefix
        self._models: dict[str, _Model] = {}
        self._made = 0

    def perform(self, operation: str, choices: Sequence[int]) -> None:
        """Perform one of `OPERATIONS` on the store and on the model.

        Args:
            operation: its name.
            choices: three numbers from 0 that decide which run it is about, how much, and how wrong.
        """
        which, size, wrong = choices
        getattr(self, f"_{operation}")(f"{self.prefix}{which % RUNS}", size, wrong)

    def check(self) -> None:
        """Compare all that the store has of these runs with the model."""
        for run, model in self._models.items():
            assert list(self.store.read(run)) == model.facts
            assert self.store.latest(run) == model.snapshot
        expected = [
            RunRecord(run, run.upper(), 1.0, model.status, model.ended, model.epochs[-1], len(model.facts))
            for run, model in reversed(self._models.items())
        ]
        assert [record for record in self.store.runs() if record.run in self._models] == expected

    def _create(self, run: str, _size: int, _wrong: int) -> None:
        refusal = DuplicateRunError if run in self._models else None
        epoch = self._same(refusal, self.store.create, run, name=run.upper(), at=1.0)
        if refusal is None:
            self._models[run] = _Model([epoch])

    def _acquire(self, run: str, _size: int, _wrong: int) -> None:
        model = self._models.get(run)
        epoch = self._same(None if model else UnknownRunError, self.store.acquire, run)
        if model:
            assert epoch > model.epochs[-1]
            model.epochs.append(epoch)

    def _acquire_seen(self, run: str, _size: int, wrong: int) -> None:
        model = self._models.get(run)
        seen = model.epochs[-1 - wrong % 2 % len(model.epochs)] if model else 1
        refusal = model.refusal(seen, len(model.facts)) if model else UnknownRunError
        epoch = self._same(refusal, self.store.acquire, run, seen)
        if model and refusal is None:
            assert epoch > model.epochs[-1]
            model.epochs.append(epoch)

    def _delete(self, run: str, _size: int, wrong: int) -> None:
        if wrong % 2:  # so that a run has some life before it
            return
        self._same(None if self._models.pop(run, None) else UnknownRunError, self.store.delete, run)

    def _append(self, run: str, size: int, _wrong: int) -> None:
        model = self._models.get(run)
        self._append_as(run, model.epochs[-1] if model else 1, len(model.facts) if model else 0, size)

    def _append_wrong(self, run: str, size: int, wrong: int) -> None:
        model = self._models.get(run)
        epoch = model.epochs[wrong % len(model.epochs)] if model else 1
        self._append_as(run, epoch, (len(model.facts) if model else 0) + wrong % 3 - 1, size)

    def _status(self, run: str, size: int, wrong: int) -> None:
        model = self._models.get(run)
        epoch = model.epochs[-1 - wrong % 2 % len(model.epochs)] if model else 1
        self._append_as(run, epoch, len(model.facts) if model else 0, size, status=f"status {wrong}", at=float(size))

    def _append_as(self, run: str, epoch: int, expected: int, size: int, **more: Any) -> None:
        facts = [f"{run} {self._made + number}".encode() for number in range(size)]
        self._made += size
        model = self._models.get(run)
        refusal = model.refusal(epoch, expected) if model else UnknownRunError
        following = self._same(refusal, self.store.append, run, epoch, expected, facts, **more)
        if model and refusal is None:
            model.facts += facts
            assert following == len(model.facts)
            if more:
                model.status, model.ended = more["status"], more["at"]

    def _read(self, run: str, size: int, wrong: int) -> None:
        model = self._models.get(run)
        since = size * wrong
        facts = self._same(None if model else UnknownRunError, self.store.read, run, since)
        if model:
            assert list(facts) == model.facts[since:]

    def _snapshot(self, run: str, size: int, wrong: int) -> None:
        model = self._models.get(run)
        facts = max(0, len(model.facts) + 2 - size) if model else 0
        epoch = model.epochs[-1 - wrong % 2 % len(model.epochs)] if model else 1
        refusal: type[DagridError] | None = model.refusal(epoch, len(model.facts)) if model else UnknownRunError
        if model and refusal is None and facts > len(model.facts):
            refusal = JournalConflictError
        data = f"{facts} {size} {wrong}".encode()
        self._same(refusal, self.store.snapshot, run, epoch, facts, data)
        if model and refusal is None and (model.snapshot is None or model.snapshot[0] <= facts):
            model.snapshot = (facts, data)

    def _latest(self, run: str, _size: int, _wrong: int) -> None:
        model = self._models.get(run)
        assert self._same(None if model else UnknownRunError, self.store.latest, run) == (model and model.snapshot)

    def _same(self, refusal: type[DagridError] | None, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the answer of a call that must be refused exactly so, or not at all."""
        found: DagridError | None = None
        answer: Any = None
        try:
            answer = call(*args, **kwargs)
        except DagridError as error:
            found = error
        expected = refusal.__name__ if refusal else "an answer"
        assert type(found) is (refusal or type(None)), f"{call.__name__}{args}: {found!r} in place of {expected}"
        return answer
