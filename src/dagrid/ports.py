"""The sockets between the engine and the places around it: promises only, no code that performs anything.

A backend is a place that performs attempts. It is opened once for each run that uses it and answers with a session; it announces
its workers to the host that opened it and pushes everything that happens to the host's inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from dagrid.attempt import Extra, value_before
from dagrid.machine.events import Stimulus

if TYPE_CHECKING:
    from dagrid.machine.plan import Lack


class Capabilities(msgspec.Struct, frozen=True):
    """What a place can do. The engine asks this record, never the type of a backend.

    Args:
        shares_memory: tasks see the objects of the caller; nothing is pickled.
        kills: cancelling or timing out an attempt really stops it.
        cancels: an attempt that has not started can be taken back.
        matches_selectors: workers have labels, and the machine assigns by them.
        passes_references: a value can stay where it was made.
        chains: calls for a worker may take the values of those before them in their bundle (`Call.rides`).
        delegates: it finds by itself workers with the labels and the resources that a node asks for; calls say them (`Needs`).
        survives: attempts go on when the process of their run ends, and are found again when the run is taken up (`reopen`).
    """

    shares_memory: bool = False
    kills: bool = False
    cancels: bool = False
    matches_selectors: bool = False
    passes_references: bool = False
    chains: bool = False
    delegates: bool = False
    survives: bool = False


class Needs(msgspec.Struct, frozen=True):
    """What a node asks of the place where it runs: amounts of resources that the run does not count itself, and labels."""

    resources: Mapping[str, float] = {}
    selector: Mapping[str, str] = {}


class Call(msgspec.Struct):
    """One attempt as a backend sees it: its identity, unique within the session, the function and what to call it with.

    `grows` says that the task may leave something beside its value, such as nodes that the graph grows by, so that it has to find
    out where it runs (`dagrid.attempt.carried`). `needs` comes with the calls for a worker that delegates. `key` stays the same
    over all tries of the node in its run, however often it is performed; where there is one, the task finds it in its environment
    as DAGRID_ATTEMPT_KEY (`dagrid.attempt.KEY`). `path` are folders in which the modules of the function and of the arguments are
    found, before all others; `folder` is where it runs, if that is not where its process began. A call that is to be performed
    `once` counts as started, when its worker is lost, from when it was handed over, and its start is told at once. Of others, in
    a run that is recorded, it may be told with an end that comes soon.

    `round` says how often the node has begun anew in a run that is recorded: because it wanted to be run again, or runs again
    although it had completed. Tries after a failure, or after a loss, are of one round. One that has `waited` is performed again
    because what it waited for may have come. Both are for places of this process.

    A call that `rides` on another attempt, which is before it in its bundle, is performed when that one has completed, with its
    value in the place of the `Awaited` among the arguments. If that one ends otherwise, is given back or cancelled, the rider is
    dropped without a word, and so are those that ride on it.
    """

    attempt: int
    node: str
    fn: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    grows: bool = False
    needs: Needs | None = None
    rides: int = -1
    key: str = ""
    path: tuple[str, ...] = ()
    once: bool = False
    round: int = 0
    waited: bool = False
    folder: str = ""


class Encoded:
    """A value that is still in the form in which it travelled; a backend derives its own from this.

    A backend may report such an object as the value of an attempt; it receives it again, unopened, among the arguments of a
    successor; the engine opens it with `decode()` when somebody reads the value.

    Attributes:
        gone: there is no value any more, and `decode` raises and says why.
    """

    __slots__ = ()
    gone = False

    def decode(self) -> Any:
        """Return the value itself; each kind says how."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is opened. Give it a method decode().")

    def packed(self) -> bytes:
        """Return the value pickled, for who keeps it."""
        from pickle import dumps

        return dumps(self.decode(), 5)

    def also_at(self, get: Callable[[], bytes]) -> None:
        """It is kept elsewhere too, and need not be held here any more: `get` returns it pickled."""


class Awaited(Encoded):
    """The value of an attempt that has not completed, among the arguments of a call that rides on it."""

    __slots__ = ()

    def decode(self) -> Any:
        return value_before()

    def __reduce__(self) -> tuple[Any, ...]:
        return value_before, ()


AWAITED = Awaited()


def is_gone(value: Any) -> bool:
    """Return whether this stands where a value was, or would have been, and can be had no more."""
    return isinstance(value, Encoded) and value.gone


def opened(value: Any) -> Any:
    """Return a value as it was made, whatever form it travelled in."""
    return value.decode() if isinstance(value, Encoded) else value


class Bundle(msgspec.Struct, frozen=True):
    """The unit of dispatch: calls for one worker, to be performed in this order and reported one by one.

    At most the worker's `slots` of them run at once.
    """

    worker: int
    calls: Sequence[Call]


class Use(msgspec.Struct, frozen=True):
    """A worker of a run whose process has ended, with what was under way there: what it had, and of that what had started."""

    worker: int
    name: str
    queued: Sequence[int] = ()
    started: Sequence[int] = ()


class PushHost(Protocol):
    """What a backend whose workers are pushed to asks of who opened it. All of it may be called from any thread."""

    @property
    def run(self) -> str:
        """The id of a run that is recorded, the same for whoever takes it up again; empty for others."""
        ...

    @property
    def name(self) -> str:
        """What the graph is called; empty if it has no name."""
        ...

    @property
    def nonce(self) -> str:
        """What tells a run that is recorded from any other of that id, recorded elsewhere; it stays with it as the id does."""
        ...

    def now(self) -> float:
        """Return the seconds of the run's clock, which `time.perf_counter` of this machine shares unless time is virtual."""
        ...

    def draw(self) -> float:
        """Return a random number in [0, 1)."""
        ...

    def new_worker(self) -> int:
        """Return a number for a worker that will be announced with `WorkerJoined`; never given twice in a session."""
        ...

    def report(self, events: Sequence[Stimulus]) -> None:
        """Push events into the run: WorkerJoined, WorkerGone, Started, Finished, Recalled, Room. Never blocks for long.

        Each attempt that was handed out gets exactly one terminal event: a `Finished`, a `Recalled` that names it, or the
        `WorkerGone` of its worker.
        """
        ...


class Host(PushHost, Protocol):
    """What any backend may ask of the engine that opened it: workers that pull get their calls of it, without a way between."""

    def next(self, worker: int) -> Call | None:
        """A worker that pulls asks for work; None sends it to sleep until its session is asked to `wake` it."""
        ...

    def completed(
        self, worker: int, call: Call, value: Any, started: float, ended: float, extra: Extra | None = None
    ) -> Call | None:
        """A worker that pulls delivers a value, and what else the task left, and gets its next call; None sends it to sleep."""
        ...

    def failed(self, worker: int, call: Call, error: BaseException, started: float, ended: float) -> Call | None:
        """A worker that pulls delivers an exception and gets its next call; None sends it to sleep."""
        ...


@runtime_checkable
class Recording(Protocol):
    """What hosts can say too that keep a record: whoever has elsewhere what was reported may forget it then."""

    def recorded(self) -> None:
        """Wait until all that was reported before is recorded."""
        ...


@runtime_checkable
class Lacking(Protocol):
    """What hosts can say too: what their nodes wait for that no worker has."""

    def lacks(self) -> Mapping[Lack, str]:
        """Return the labels that nodes which could run want, and none of the session's workers has, each with why those are
        `unfit` that have them, and with one of the nodes. Where there is no worker, nodes that want no labels lack one as well.
        """
        ...


class Session(Protocol):
    """One run's use of a backend. No method blocks, but for `attend` and `close`."""

    def wake(self, worker: int) -> None:
        """There is work for a worker that pulls: let it call `Host.next`."""
        ...

    def perform(self, bundle: Bundle) -> None:
        """Perform the calls of a bundle on its worker. Errors are reported as outcomes, never raised."""
        ...

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """Give back those of these attempts that have not started: report `Recalled` for them, nothing for the others."""
        ...

    def cancel(self, worker: int, attempt: int) -> None:
        """Stop an attempt and free its slot, by force where possible.

        It may be asked for again while the attempt has not ended, when somebody who stops the run insists: a place passes that
        on to what can do more about it, such as a run in that attempt with handlers; anywhere else nothing follows.

        The answer is a terminal event: `Finished` with `Outcome.CANCELLED`, the outcome that it reached in the meantime, or
        `WorkerGone` for the worker and `WorkerJoined` for its replacement.
        """
        ...

    def attend(self) -> bool | None:
        """Lend the caller's thread to the backend until there is nothing more for it to do; most need none and return.

        Returns:
            True when the backend has no other thread, and wants this one again after every `wake`.
        """
        ...

    def close(self) -> None:
        """End this use: attempts under way are stopped where possible and nothing is reported any more. May be called twice.

        What a worker that pulls still delivers afterwards is refused by the host.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A place that performs attempts, as the engine speaks to it."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def open(self, host: Host) -> Session:
        """Begin to serve a run: announce workers to its host. A backend serves several hosts at once."""
        ...

    def close(self, wait: bool = True) -> None:
        """Release everything. With `wait`, calls under way may end first. May be called twice.

        Runs that go on here end: what is under way does, and what their sessions are still asked for fails with
        `BackendClosedError`.
        """
        ...


@runtime_checkable
class Surviving(Backend, Protocol):
    """A backend whose attempts outlive the process of their run: its capabilities say `survives`."""

    def reopen(self, host: Host, uses: Sequence[Use]) -> Session:
        """Begin to serve a run that is taken up again.

        The workers of `uses` are known to the host, and not announced; for each attempt there comes in the end what comes for any
        (`Host.report`), or the worker is gone. Its sessions have a method `leave` beside `close`, after which attempts go on.
        """
        ...


class Surroundings(Protocol):
    """What the calls of one run find around them on one worker of a fleet, made by a `Kit`."""

    @property
    def path(self) -> tuple[str, ...]:
        """Folders in which the modules of the run are found, before all others."""
        ...

    @property
    def folder(self) -> str:
        """Where its functions run; empty: where the worker runs. Commands are asked `around` where they do."""
        ...

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls this one in its context. It is asked for commands, which run in the worker itself."""
        ...

    def close(self) -> None:
        """The run is over here. The folder is removed afterwards."""
        ...


class Kit(Protocol):
    """What the calls of a run need around them on a worker of a fleet. It is pickled, and opened once for a run on a worker.

    It may hold secrets: nobody on its way writes it into a file.
    """

    @property
    def contents(self) -> Sequence[bytes]:
        """What must be on the worker before, by SHA-256."""
        ...

    def arrive(self, folder: Path, content: Callable[[bytes], Path], labels: Mapping[str, str]) -> Surroundings:
        """Make the surroundings of a run on a worker.

        Args:
            folder: fresh, and the run's own there. It has a folder `logs`: what is written below that goes to the coordinator
                while it grows.
            content: returns the file with a content, which is not to be changed.
            labels: of the worker.
        """
        ...


@runtime_checkable
class FourMethods(Protocol):
    """The public backend protocol, enough for a stranger: any object with these four works as a backend."""

    @property
    def name(self) -> str: ...

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def result(self, future: Any, timeout: float | None = None) -> Any: ...

    def shutdown(self, wait: bool = True) -> None: ...


@runtime_checkable
class Clock(Protocol):
    """Where time comes from, so that tests and the simulator bring their own."""

    def now(self) -> float: ...

    def call_at(self, when: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` at a time, from any thread, and return a function that prevents it."""
        ...


class RunRecord(msgspec.Struct, frozen=True):
    """What a store knows of a run without reading its journal; times are seconds since 1970, `ended` is 0 while it goes on."""

    run: str
    name: str = ""
    created: float = 0.0
    status: str = "running"
    ended: float = 0.0
    epoch: int = 1
    facts: int = 0


class Store(Protocol):
    """Where journals are kept. All of it may be called from any thread; what has returned is as durable as the store promises.

    A run has one owner at a time, which is known by its epoch: who acquires a run gets the next one, and whoever held it
    before can append no more. Facts are opaque here and numbered from 0 in the order of their commit. A writer is refused for
    its epoch before its number is looked at. After `close` everything else raises StoreError.
    """

    def create(self, run: str, *, name: str = "", at: float = 0.0, about: bytes = b"", status: str = "running") -> int:
        """Begin the journal of a run and return its first epoch.

        Args:
            run: what it is called.
            name: of what it is a run.
            at: when it was created.
            about: what else is to be known of it, see `about`.
            status: what `runs` says of it.

        Raises:
            DuplicateRunError: there is one already.
        """
        ...

    def acquire(
        self,
        run: str,
        epoch: int | None = None,
        *,
        status: str | None = None,
        at: float = 0.0,
        about: bytes | None = None,
    ) -> int:
        """Take over a run: return a new epoch.

        Args:
            run: which one.
            epoch: take it only if this is still its epoch, so that one of several who have seen it so gets it.
            status, at: as in `append`, said in the same moment.
            about: what is kept beside the journal from that moment on; None leaves what is there.

        Raises:
            StaleEpochError: it has another epoch by now.
            UnknownRunError: there is no such run.
        """
        ...

    def append(
        self, run: str, epoch: int, expected: int, facts: Sequence[bytes], *, status: str | None = None, at: float = 0.0
    ) -> int:
        """Append facts, all or none, and return the number that the next one will have.

        Args:
            run: whose they are.
            epoch: the caller's.
            expected: the number that the first of them must get.
            facts: any number of them, none too: then only the epoch and the number are checked, and the status is set.
            status: what `runs` says of the run from now on, and `at` when it ended; None leaves both.

        Raises:
            StaleEpochError: somebody else has acquired the run.
            JournalConflictError: `expected` is not the next number.
            UnknownRunError: there is no such run.
            StoreError: a fact is no bytes, or the place is full or out of reach.
        """
        ...

    def read(self, run: str, since: int = 0) -> Iterator[bytes]:
        """Return an iterator over the facts of a run from a number on, in order: those that there are at this call.

        It keeps nothing locked or open between two of them, and may be abandoned.

        Raises:
            UnknownRunError: there is no such run; raised by the call, before anything is asked of the iterator.
            StoreError: `since` is negative.
        """
        ...

    def snapshot(self, run: str, epoch: int, facts: int, data: bytes) -> None:
        """Keep what stands for the first so many facts; one that stands for fewer may go.

        Raises:
            StaleEpochError: somebody else has acquired the run.
            JournalConflictError: the journal has fewer facts.
            UnknownRunError: there is no such run.
        """
        ...

    def latest(self, run: str) -> tuple[int, bytes] | None:
        """Return the snapshot that stands for the most facts, and how many these are, or None. Raises UnknownRunError."""
        ...

    def runs(
        self,
        prefix: str = "",
        *,
        ids: Collection[str] | None = None,
        name: str | None = None,
        status: Collection[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        old: float | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """Return what is known of runs, the last created first; of all, if nothing else is said.

        Args:
            prefix: only those whose ids begin so.
            ids: only these, as far as they are there.
            name: only those of this name.
            status: only those with one of these.
            since, until: only those that were created in this time, both ends included.
            old: only those that ended by this time, or were created by then if they have not ended.
            limit: no more than so many, the first ones of those that fit.
        """
        ...

    def about(self, run: str) -> bytes:
        """Return what is kept of a run beside its journal, as it was said last; nothing by default. Raises UnknownRunError."""
        ...

    def describe(self, run: str, about: bytes) -> None:
        """Keep this of a run, in place of what was said before, whoever owns it. Raises UnknownRunError."""
        ...

    def delete(self, run: str) -> None:
        """Forget a run: its facts, its snapshot and its name, which may be given again. Who wrote to it finds no such run.

        Raises:
            UnknownRunError: there is no such run; of several that delete it at once, one does.
        """
        ...

    def close(self) -> None:
        """Release what is open. May be called twice."""
        ...


class Artifacts(Protocol):
    """Where values are kept that are too large for a journal, or outlive it. All of it may be called from any thread.

    Keys are made of ASCII letters, digits, `-`, `_` and `.`, in parts with `/` between them; no part is empty, `.` or `..`. Any
    other is refused with a StoreError. What has not been put here is neither read nor replaced nor deleted.
    """

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key, whole or not at all; what was there is replaced. It is durable when this returns."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key, or None."""
        ...

    def delete(self, key: str) -> None:
        """Forget a key that was put here, if it is there."""
        ...

    def clear(self, key: str) -> None:
        """Forget every key that was put here under `key/`; the key itself stays."""
        ...


class RunEvent(msgspec.Struct, frozen=True):
    """One fact of a run with names in place of numbers; `at` is seconds since the run began."""

    sequence: int
    at: float
    kind: str
    node: str = ""
    attempt: int = 0
    worker: str = ""
    detail: str = ""


class RunView(Protocol):
    """What may be seen of a run while it goes on; `dagrid.Run` is one. Reading it costs the run nothing."""

    @property
    def done(self) -> bool: ...

    @property
    def total(self) -> int: ...

    @property
    def ended(self) -> int: ...

    @property
    def seconds(self) -> float: ...

    def counts(self) -> dict[str, int]: ...

    def running(self, limit: int | None = None) -> list[str]: ...


@runtime_checkable
class Onlooker(Protocol):
    """Who looks at a run when it likes, through its handle; the run tells it nothing but when it begins and that it is over."""

    def begin(self, run: Any) -> None: ...

    def end(self) -> None: ...


@runtime_checkable
class Observer(Onlooker, Protocol):
    """A reader of a run's events. It is called in order, from one thread, in batches, and never under a lock."""

    def observe(self, events: Sequence[RunEvent]) -> None: ...
