"""The journal of a run in a store: facts with what they stand for (values, errors, patches), written before their effects leave.

It makes bytes of facts and facts of bytes, and keeps values that are large as artifacts. When a fact is written, and what is held
back until then, is for the engine. Times stand in the journal by the clock of the process that wrote them; each owner of a run
writes first how that clock stands to the time of day.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from dagrid.errors import InvalidSettingError, StoreVersionError, TransferError, UnknownRunError
from dagrid.execution.pickling import PROTOCOL, pack, unpack
from dagrid.execution.results import RunStatus, run_status
from dagrid.graph.rules import Rule
from dagrid.interrupts import is_interrupt
from dagrid.machine.events import UNSTARTED, Fact, Growth, Kind, attempt_id
from dagrid.machine.state import State
from dagrid.ports import Artifacts, Encoded, Store

FORMAT = 1
INLINE = 4096
FIRST_SNAPSHOT = 50_000
_ABSENT, _HERE, _ELSEWHERE = b"-", b"i", b"a"


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a run is kept while it goes on: its journal in a store, its large values as artifacts.

    Args:
        store: takes the facts.
        artifacts: takes the values that are larger than 4 KiB.
        first_snapshot: after so many facts a snapshot is made, and again whenever there are twice as many, so that who resumes
            a long run does not read it all.
    """

    store: Store
    artifacts: Artifacts
    first_snapshot: int = FIRST_SNAPSHOT


class Entry(msgspec.Struct, array_like=True, omit_defaults=True):
    """A fact as it is written; `data` holds what the fact stands for."""

    kind: int
    at: float
    node: int = -1
    number: int = 0
    worker: int = -1
    started: float = UNSTARTED
    due: float = 0.0
    cause: int = -1
    detail: str = ""
    numbers: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    data: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
# The entry with which an owner of the run begins: `due` is what its clock lacks to the time of day, in seconds.
_OWNED = -1


class Kept(Encoded):
    """A value that is in the journal or among the artifacts, and read when somebody wants it."""

    __slots__ = ("_artifacts", "_data", "_node")

    def __init__(self, data: bytes, artifacts: Artifacts, node: str) -> None:
        self._data = data
        self._artifacts = artifacts
        self._node = node

    @property
    def absent(self) -> bool:
        """Whether the value was not kept."""
        return self._data[:1] == _ABSENT

    @property
    def gone(self) -> bool:  # type: ignore[override]  # of most it is known
        """Whether there is nothing to decode."""
        return self.absent

    def decode(self) -> Any:
        """Return the value. Raises TransferError: it was not kept, or is not there any more."""
        data = self.packed()
        try:
            return unpack(data)
        except Exception as error:
            raise TransferError(
                f"The value of node {self._node!r} was kept, but cannot be rebuilt here ({type(error).__name__}: {error}). "
                f"Let its type be importable in this process too.",
                self._node,
            ) from error

    def packed(self) -> bytes:
        """Return the value pickled."""
        if not self._data:
            return pack(None)
        tag, rest = self._data[:1], self._data[1:]
        if tag == _HERE:
            return rest
        if tag == _ABSENT:
            raise TransferError(
                f"The value of node {self._node!r} was not kept: {rest.decode()}. Run the node again.", self._node
            )
        found = self._artifacts.get(rest.decode())
        if found is None:
            raise TransferError(
                f"The value of node {self._node!r} is no longer among the values of the checkpoint.", self._node
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return unpack, (self.packed(),)


class Recorder:
    """Writes the facts of one run."""

    def __init__(self, checkpoint: Checkpoint, run: str, nonce: str, epoch: int, written: int, now: float) -> None:
        """Take over a run.

        Args:
            checkpoint: where it is kept.
            run: which one.
            nonce: what tells it from any other of that id; it is among what the run is made of.
            epoch: of this owner.
            written: how many facts the store has.
            now: the time of the run's clock.
        """
        self.run = run
        self.nonce = nonce
        self.committed = 0
        self.refs: dict[int, bytes] = {}
        self._store = checkpoint.store
        self.artifacts = checkpoint.artifacts
        self._epoch = epoch
        self._written = written
        self._kept: dict[int, bytes] = {}
        self._patches: list[bytes] = []
        self._errors: dict[int, bytes] = {}
        self._held: dict[int, bytes] = {}
        self._first: list[bytes] = []
        self._goes_on = False
        self._first_snapshot = self._next_snapshot = checkpoint.first_snapshot
        self._offset = time.time() - now

    def begin(self, now: float, head: bytes = b"", waited: bool = False) -> None:
        """Write with the first facts who owns the run from now on; the first owner writes all that it is made of (`pack_head`).

        Args:
            waited: nobody had it, for it waited for a signal: the store says from now on that it goes on.
        """
        self._first = [_encode(Entry(_OWNED, now, due=self._offset, number=FORMAT, data=head))]
        self._goes_on = waited

    def park(self) -> None:
        """Say in the store that the run waits for somebody, in no process."""
        self._append([], RunStatus.WAITING.value)

    def keep(self, attempt: int, value: Any) -> None:
        """Make a value ready for the fact that it was made: large ones go to the artifacts. Called outside of any lock.

        Raises:
            StoreError: the artifacts cannot take it.
        """
        if value is None:
            self._kept[attempt] = b""
            return
        try:
            data = value.packed() if isinstance(value, Encoded) else pack(value)
        except TransferError as error:  # where it is it cannot be had from
            why = error.__cause__ or error
            self._kept[attempt] = _ABSENT + f"it could not be fetched ({type(why).__name__}: {why})".encode()
            return
        except BaseException as error:  # the user's type; the run goes on, and a resumed one makes the value again
            if is_interrupt(error):
                raise
            self._kept[attempt] = _ABSENT + f"it cannot be pickled ({type(error).__name__}: {error})".encode()
            return
        if len(data) <= INLINE:
            self._kept[attempt] = _HERE + data
            return
        key = f"{self.run}/{self._epoch}/{attempt}"  # an earlier owner may still perform an attempt of the same number
        self.artifacts.put(key, data)
        ref = self._kept[attempt] = _ELSEWHERE + key.encode()
        if isinstance(value, Encoded):
            value.also_at(Kept(ref, self.artifacts, "").packed)

    def pass_over(self, attempt: int, why: str) -> None:
        """Say for the fact that a value was made that it is not kept; it is made again when somebody needs it."""
        self._kept[attempt] = _ABSENT + why.encode()

    def commit(self, state: State, until: int, errors: Mapping[int, BaseException]) -> None:
        """Write the facts up to a place in the journal; they are durable when this returns.

        Raises:
            StoreError: the store cannot, or somebody else owns the run.
        """
        facts = [_encoded(self._entry(fact, errors)) for fact in state.facts(self.committed, until)]
        if facts or self._first:
            # The run's end is a fact like any other, and nothing follows it.
            ended = state.finished and until == len(state.journal)
            if ended:
                self._append(facts, run_status(state).value, time.time())
            else:
                self._append(facts, RunStatus.RUNNING.value if self._goes_on else None)
            self._goes_on = False
        self.committed = until

    def value(self, node: int, name: str) -> Kept | None:
        """Return what was kept of a node's value, if anything was."""
        data = self.refs.get(node)
        return None if data is None else Kept(data, self.artifacts, name)

    def snapshot_due(self) -> bool:
        """Whether so many facts were written since the last snapshot that another one is worth its cost."""
        return self._written >= self._next_snapshot

    def snapshot(self, state: bytes) -> None:
        """Keep what stands for the facts that are written. The next one is due when there are twice as many.

        Args:
            state: that of the run after these facts, pickled.
        """
        picture = Picture(state, self._patches, self.refs, self._errors, self._offset, self._held)
        self._store.snapshot(self.run, self._epoch, self._written, pickle.dumps(tuple(picture), PROTOCOL))
        self._next_snapshot = 2 * self._written

    def restored(self, recovered: Recovered) -> None:
        """Take over what an earlier owner knew."""
        picture = recovered.picture
        if picture is not None:
            self._patches, self.refs, self._errors = picture.patches, picture.values, picture.errors
            self._held = picture.held
            self._next_snapshot = max(self._first_snapshot, 2 * self._written)

    def note(self, fact: Fact, data: bytes) -> None:
        """Take over what an earlier owner wrote with a fact."""
        if fact.kind in (Kind.COMPLETED, Kind.REUSED, Kind.SIGNALLED):
            self.refs[fact.node] = data
        elif fact.kind is Kind.HELD:
            self._held[fact.node] = data
        elif fact.kind is Kind.PATCHED:
            self._patches.append(data)
        elif fact.kind is Kind.FAILED:
            self._errors[fact.node] = data
        elif fact.kind is Kind.REOPENED:
            self._forget(fact.numbers)

    def kept_values(self, names: Sequence[str]) -> Iterator[tuple[int, Kept]]:
        """Yield the nodes whose values were kept, with these."""
        for node, data in self.refs.items():
            yield node, Kept(data, self.artifacts, names[node])

    def kept_held(self, nodes: Iterable[int], names: Sequence[str]) -> Iterator[tuple[int, Kept]]:
        """Yield those of these nodes that left something when they began to wait for a signal, with that."""
        for node in nodes:
            if node in self._held:
                yield node, Kept(self._held[node], self.artifacts, names[node])

    def kept_errors(self) -> Iterator[tuple[int, BaseException]]:
        """Yield the nodes that failed, with what they raised, where that can be read."""
        for node, data in self._errors.items():
            error = _read_error(data)
            if error is not None:
                yield node, error

    def _forget(self, nodes: Sequence[int]) -> None:
        """These nodes run again: what they left is of no use any more."""
        for node in nodes:
            self.refs.pop(node, None)
            self._held.pop(node, None)
            self._errors.pop(node, None)

    def _append(self, facts: Sequence[bytes], status: str | None = None, at: float = 0.0) -> None:
        every = [*self._first, *facts]
        self._written = self._store.append(self.run, self._epoch, self._written, every, status=status, at=at)
        self._first = []

    def _entry(self, fact: Fact, errors: Mapping[int, BaseException]) -> Entry:
        data = b""
        kind = fact.kind
        if kind is Kind.COMPLETED or kind is Kind.REUSED or kind is Kind.SIGNALLED:
            data = self.refs[fact.node] = self._kept.pop(
                attempt_id(fact.node, fact.number), _ABSENT + b"it was not reported"
            )
        elif kind is Kind.PATCHED:
            assert fact.growth is not None
            data = fact.growth.packed
            self._patches.append(data)
        elif kind is Kind.FAILED and fact.node in errors:
            data = self._errors[fact.node] = _pack_error(errors[fact.node])
        elif kind is Kind.HELD:
            data = self._held[fact.node] = self._kept.pop(attempt_id(fact.node, fact.number), b"")
        elif kind is Kind.REOPENED:
            self._forget(fact.numbers)
            self._goes_on = True
        return Entry(
            int(kind),
            fact.at,
            fact.node,
            fact.number,
            fact.worker,
            fact.started,
            fact.due,
            fact.cause,
            fact.detail,
            fact.numbers,
            fact.labels,
            data,
        )


class Picture(NamedTuple):
    """A snapshot: the state after some facts, pickled, and what these stand for; `offset` is that of its times, `held` what nodes
    have left that wait for a signal.
    """

    state: bytes
    patches: list[bytes]
    values: dict[int, bytes]
    errors: dict[int, bytes]
    offset: float
    held: dict[int, bytes] = {}  # noqa: RUF012  # of a snapshot that was made before there were such


class Recovered(msgspec.Struct):
    """What a journal holds of a run: when it began, how many facts there are, a snapshot if there is one, with its state, and the
    entries after it.
    """

    began: float
    written: int
    picture: Picture | None
    state: State | None
    entries: list[Entry]


def read_head(checkpoint: Checkpoint, run: str) -> dict[str, Any]:
    """Read what a run is made of.

    Raises:
        UnknownRunError: there is no such run, or its process ended before it had begun.
        StoreVersionError: it was written by a newer version.
        TransferError: a part of it cannot be rebuilt in this process.
    """
    first = _first(checkpoint, run)
    try:
        return unpack(first.data)  # type: ignore[no-any-return]
    except Exception as error:
        raise TransferError(
            f"The graph of run {run!r} cannot be rebuilt here ({type(error).__name__}: {error}). Let the modules of its "
            f"functions be importable in this process too, as they were when it was started."
        ) from error


def _first(checkpoint: Checkpoint, run: str) -> Entry:
    data = next(checkpoint.store.read(run), None)
    if data is None:
        raise UnknownRunError(f"The run {run!r} ended before it had begun. Start it again, by another name.", run)
    first = _decode(data)
    if first.number > FORMAT:
        raise StoreVersionError(f"The run {run!r} was kept by a newer version of dagrid. Resume it with that one.")
    return first


def read(checkpoint: Checkpoint, run: str, now: float) -> Recovered:
    """Read the journal of a run, with all times by the clock of the one who reads.

    Args:
        checkpoint: where it is kept.
        run: which one.
        now: the time of the reader's clock.

    Raises:
        UnknownRunError: there is no such run, or its process ended before it had begun.
        StoreVersionError: it was written by a newer version.
    """
    offset = time.time() - now
    first = _first(checkpoint, run)
    latest = checkpoint.store.latest(run)
    shift = first.due - offset
    picture = state = None
    if latest is not None:
        picture = Picture(*unpack(latest[1]))
        shift = picture.offset - offset
        state = unpack(picture.state)
        state.shift(shift)
    entries: list[Entry] = []
    written = since = 0 if latest is None else latest[0]
    moved = 0.0
    for data in checkpoint.store.read(run, since):
        written += 1
        entry = _decode(data)
        if entry.kind == _OWNED:
            shift = entry.due - offset
            moved += _moved_before(entry.at + shift, entries, state)
        else:
            entries.append(_shifted(entry, shift))
    moved += _moved_before(now, entries, state)
    return Recovered(first.at + first.due - offset + moved, written, picture, state, entries)


def _moved_before(at: float, entries: Sequence[Entry], state: State | None) -> float:
    """Move what has happened, so that none of it is later than this, and return by how much: the time of day was set back."""
    move = min(0.0, at - entries[-1].at) if entries else 0.0
    if move:
        for entry in entries:
            _shifted(entry, move)
        if state is not None:
            state.shift(move)
    return move


def facts_of(entries: Sequence[Entry]) -> Iterator[tuple[Fact, bytes, list[Rule]]]:
    """Yield the facts of entries, each with its data and, if it is a patch, its rules."""
    for entry in entries:
        growth: Growth | None = None
        rules: list[Rule] = []
        if entry.kind == Kind.PATCHED:
            growth, rules = unpack(entry.data)
        yield (
            Fact(
                Kind(entry.kind),
                entry.at,
                entry.node,
                entry.number,
                entry.worker,
                entry.started,
                entry.due,
                entry.cause,
                entry.detail,
                entry.numbers,
                entry.labels,
                growth,
            ),
            entry.data,
            rules,
        )


def _encoded(entry: Entry) -> bytes:
    try:
        return _encode(entry)
    except UnicodeEncodeError:  # the user's message has half a character, such as a file name that is no text
        entry.detail = entry.detail.encode("utf-8", "backslashreplace").decode()
        return _encode(entry)


def _read_error(data: bytes) -> BaseException | None:
    """Return the exception that a failed attempt raised, if it was kept."""
    try:
        error = unpack(data) if data else None
    except Exception:  # noqa: BLE001  # the user's class may be gone; the fact says in words what happened
        return None
    return error if isinstance(error, BaseException) else None


def _shifted(entry: Entry, shift: float) -> Entry:
    entry.at += shift
    if entry.started != UNSTARTED:
        entry.started += shift
    if entry.due:
        entry.due += shift
    return entry


def pack_patch(growth: Growth, rules: Sequence[Rule]) -> bytes:
    """Return what a graph is to grow by as bytes. Called outside of any lock.

    Raises:
        TransferError: something in it cannot be pickled.
    """
    try:
        return pack((growth, list(rules)))
    except Exception as error:
        raise TransferError(
            f"What the graph grew by cannot be kept in the checkpoint ({type(error).__name__}: {error}). Let its functions refer "
            f"only to things that can be pickled, or run without checkpoint."
        ) from error


def pack_head(head: Mapping[str, Any]) -> bytes:
    """Return what a run is made of as bytes.

    Raises:
        InvalidSettingError: something in it cannot be pickled.
    """
    try:
        return pack(dict(head))
    except Exception as error:
        raise InvalidSettingError(
            f"This graph cannot be kept in a checkpoint ({type(error).__name__}: {error}). Let its functions and rules refer "
            f"only to things that can be pickled: open files and connections in the tasks that use them."
        ) from error


def _pack_error(error: BaseException) -> bytes:
    try:
        return pack(error)
    except Exception:  # noqa: BLE001  # the words of the fact have to do
        return b""
