"""What all our backends share: the reference's four public methods, derived from the port in one place; how settings are checked,
and how sessions report.

It knows the port and nothing of any place.
"""

from __future__ import annotations

import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from dagrid.errors import BackendClosedError, InvalidSettingError
from dagrid.machine.events import Finished, Outcome, Stimulus
from dagrid.ports import Call, Capabilities, FourMethods, Host, Needs, PushHost, Session

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dagrid.execution.backends._submitted import Submissions

PATIENCE = 1.0
"""How many seconds a close waits for a report that is being made."""


def check_whole(least: int = 1, /, **settings: object) -> None:
    """Refuse settings that are neither None nor a whole number.

    Args:
        least: the smallest number.
        settings: what is looked at, by name.

    Raises:
        InvalidSettingError: one is neither.
    """
    for name, value in settings.items():
        if value is not None and not (_is_whole(value) and value >= least):  # type: ignore[operator]
            raise InvalidSettingError(f"{name} is a whole number from {least} up, not {value!r}.")


def _is_whole(value: object) -> bool:
    return hasattr(type(value), "__index__") and type(value) is not bool


def check_seconds(**settings: object) -> None:
    """Refuse settings that are no number of seconds above 0. Raises InvalidSettingError."""
    for name, value in settings.items():
        if type(value) not in (int, float) or not 0 < value < math.inf:  # type: ignore[operator]
            raise InvalidSettingError(f"{name} is a number of seconds above 0, not {value!r}.")


# What the public protocol is called where a backend is written by hand.
DistributedBackend = FourMethods


def closed_under(name: str) -> BackendClosedError:
    """Return what fails the calls of a run that goes on when its backend, which has this name, is closed."""
    return BackendClosedError(
        f"The backend {name!r} was closed while a run went on there. Wait for the end of the run before you close it."
    )


class BackendBase(ABC):
    """A backend: a place that performs attempts.

    A subclass gives `name` and `capabilities`, opens sessions in `open` (calling `check_open` first) and lets go of
    everything in `release`, which is called once. From these come the public methods: `submit`, `result`, `shutdown`,
    `close` and the `with` statement.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._opening = threading.Lock()
        self._closed = False
        self._submissions: Submissions | None = None

    @abstractmethod
    def open(self, host: Host) -> Session:
        """Begin to serve a run: announce workers to its host. A backend serves several hosts at once."""

    def check(self, needs: Mapping[str, Needs]) -> None:  # noqa: B027 - most have nothing to say to it
        """Refuse a graph before it runs, of whose nodes some ask for what nobody here has.

        Args:
            needs: by name, what such nodes ask for, each of nodes that ask for the same once; all of it is of a kind that the
                capabilities allow.

        Raises:
            UnsatisfiableError: no worker could take one of them.
        """

    @abstractmethod
    def release(self, wait: bool) -> None:
        """Let go of everything; called once, when the backend is closed. With `wait`, return when it is gone.

        What sessions have under way, and what they are still asked for, fails with `closed_under`.
        """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let a worker call `fn(*args, **kwargs)` and return a `concurrent.futures.Future`.

        `Future.cancel` succeeds until the call is handed to a worker. Raises `BackendClosedError` after `shutdown`.
        """
        from dagrid.execution.backends._submitted import Submissions

        with self._opening:
            self.check_open()
            submissions = self._submissions
            if submissions is None:
                submissions = self._submissions = Submissions(self.name)
                submissions.begin(self.open(submissions))
        return submissions.submit(fn, args, kwargs)

    def result(self, future: Future[Any], timeout: float | None = None) -> Any:
        """Wait for the result of a submitted call.

        Args:
            future: what `submit` returned.
            timeout: how many seconds to wait; None waits for ever.

        Returns what the call returned and raises what it raised; `TimeoutError` when the time is over before, and
        `concurrent.futures.CancelledError` for a future that was cancelled.
        """
        return future.result(timeout)

    def shutdown(self, wait: bool = True) -> None:
        """Close the backend, as `close` does."""
        self.close(wait)

    def close(self, wait: bool = True) -> None:
        """Release everything; may be called twice.

        With `wait`, submitted calls end first; without it, those that have not started fail with `BackendClosedError`. So does,
        either way, what is still to be done for runs that go on here.
        """
        with self._guard:
            if self._closed:
                return
            self._closed = True
        with self._opening:
            submissions = self._submissions
        if submissions is not None:
            submissions.end(wait)
        self.release(wait)

    def check_open(self) -> None:
        """Raise `BackendClosedError` if the backend is closed."""
        if self._closed:
            raise BackendClosedError(
                f"The backend {self.name!r} is closed. Make a new one, or submit before you close it."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' (closed)' if self._closed else ''}>"


S = TypeVar("S")


class Sessions(Generic[S]):
    """The sessions that a backend has open; all of it may be called from any thread."""

    def __init__(self) -> None:
        self._open: set[S] = set()
        self._guard = threading.Lock()

    def add(self, session: S) -> None:
        with self._guard:
            self._open.add(session)

    def discard(self, session: S) -> None:
        with self._guard:
            self._open.discard(session)

    def __iter__(self) -> Iterator[S]:
        """Iterate over those that are open now; they may be closed meanwhile."""
        with self._guard:
            return iter(list(self._open))


class Reports:
    """What a session tells its host from threads of its own. Any thread may shut it, more than once.

    Attributes:
        events: what has gathered, in sessions of which one thread delivers it all.
        closed: nothing is told any more.
    """

    __slots__ = ("_host", "_quiet", "_reporters", "closed", "events")

    def __init__(self, host: PushHost) -> None:
        self._host = host
        self._quiet = threading.Condition()
        self._reporters: list[int] = []
        self.events: list[Stimulus] = []
        self.closed = False

    def deliver(self) -> None:
        """Report what has gathered."""
        events, self.events = self.events, []
        self.tell(events)

    def tell(self, events: Sequence[Stimulus]) -> None:
        """Report events, unless it is closed."""
        me = threading.get_ident()
        with self._quiet:
            if self.closed:
                return
            self._reporters.append(me)
        try:
            self._host.report(events)
        except BaseException:  # noqa: BLE001 - a fault of one host must end neither the thread nor other runs
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        finally:
            with self._quiet:
                self._reporters.remove(me)
                self._quiet.notify_all()

    def refuse(self, worker: int, calls: Iterable[Call], error: BaseException) -> None:
        """Report that calls for a worker are not performed; those that ride on others of them fall with these."""
        now, draw = self._host.now(), self._host.draw
        text = f"{type(error).__name__}: {error}"
        heads = [call.attempt for call in calls if call.rides < 0]
        self.tell(
            [Finished(worker, attempt, Outcome.FAILED, now, now, error, text, False, draw()) for attempt in heads]
        )

    def shut(self) -> bool:
        """Tell nothing from now on; return whether that is new."""
        with self._quiet:
            closed, self.closed = self.closed, True
        return not closed

    def settle(self) -> None:
        """Let reports that are being made end, but for the one that called us; not for long, as one may wait for our caller."""
        me = threading.get_ident()
        with self._quiet:
            self._quiet.wait_for(lambda: all(reporter == me for reporter in self._reporters), PATIENCE)
