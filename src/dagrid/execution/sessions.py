"""Where the nodes of one run are performed: a session of its backend, and one of each place that some of its nodes have.

Who waits for the run lends its thread to those that have none of their own. What is performed, and when, is for the engine;
nothing is known here of the run but whether it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context

from dagrid.execution.carriers import carry
from dagrid.execution.clock import REAL_CLOCK, Flag
from dagrid.execution.hosts import PlaceHost, part, session_of
from dagrid.ports import Backend, Host, Session, Use

OpenPlace = Callable[[str], Backend]


class RunSessions:
    """The sessions of one run. All but `attend` and `close` is called under its lock.

    Attributes:
        place_of: by worker, the place where it stands, if it stands in one.
        stirred: is set to have those who wait look again whether it is enough.
    """

    __slots__ = ("_context", "_done", "_followers", "_lent", "_main", "_open_backend", "_places", "place_of", "stirred")

    def __init__(self, open_backend: OpenPlace | None, done: Flag) -> None:
        """Take what opens the backend of a place, and what is set when the run is over."""
        self._open_backend = open_backend
        self._done = done
        self._main: Session | None = None
        self._context: Context | None = None
        self._places: dict[str, PlaceHost] = {}
        self.place_of: dict[int, PlaceHost] = {}
        self._lent = False
        self._followers: list[Callable[[], object]] = []
        self.stirred = Flag()

    def open(self, backend: Backend, host: Host, uses: list[Use]) -> None:
        """Open the backend of the run, where an earlier process may have left something under way."""
        self._context = copy_context()
        self._main = session_of(backend, host, uses)

    def open_place(self, name: str, host: Host, uses: Callable[[str, Backend], list[Use]]) -> None:
        """Open what performs the nodes of a place, if it is not open; its workers join by a report, as all do.

        Args:
            name: of the place.
            host: the engine.
            uses: returns what an earlier process left under way there.
        """
        if name in self._places or self._open_backend is None or self._context is None:
            return
        backend = self._open_backend(name)
        # Who waits already may be wanted by it, and whoever made the graph grow has another context.
        left = uses(name, backend)
        self._places[name] = self._context.copy().run(PlaceHost, host, name, backend, self.place_of, left)
        self.stirred.set()
        self._lend_if_followed()

    def of(self, worker: int) -> Session:
        """Return the session of a worker."""
        place = self.place_of.get(worker) if self.place_of else None
        session = self._main if place is None else place.session
        assert session is not None
        return session

    def wake(self, worker: int) -> None:
        """Wake a worker, which may stand in the thread that was lent."""
        self.of(worker).wake(worker)
        if self._lent:
            self.stirred.set()

    def follow(self, call: Callable[[], object]) -> None:
        """Have a function called when the run is over; its caller lends no thread, so one of ours is lent where it is wanted."""
        if self._done.is_set():
            call()
            return
        self._followers.append(call)
        self._lend_if_followed()

    def ended(self) -> None:
        """Tell those who wait or follow that the run is over."""
        self.stirred.set()
        while self._followers:
            self._followers.pop()()

    def attend(self, timeout: float | None, enough: Callable[[], bool]) -> bool:
        """Lend the calling thread until it has waited enough.

        Returns:
            Whether it has; False when `timeout` seconds are over before.
        """
        if enough():
            return True
        until = None if timeout is None else REAL_CLOCK.now() + timeout
        while True:
            self.stirred.clear()
            if self._lend() and not self._lent and not self._done.is_set():
                self._lent = True
                continue  # what was woken before this stirred nobody
            if enough():
                self.stirred.set()  # for others who wait too
                return True
            left = None if until is None else until - REAL_CLOCK.now()
            if left is not None and left <= 0:
                return False
            self.stirred.wait(left)

    def close(self, leaves: bool) -> None:
        """End the use of all; `leaves` says that what is under way goes on without this run, where it can."""
        if self._main is not None:
            part(self._main, leaves)
            self._main = None  # it refers to the engine, as those of places do, and they would wait for the collector
        places, self._places = self._places, {}
        self.place_of.clear()
        for place in places.values():
            place.close(leaves)

    def _lend_if_followed(self) -> None:
        if self._followers and not self._lent:
            carry(self._lend_while_wanted, "dagrid-lent")

    def _lend_while_wanted(self) -> None:
        if self._lend():
            self.attend(None, self._done.is_set)

    def _lend(self) -> bool:
        """Lend this thread to whoever has none of its own; return whether somebody wants it again."""
        if self._main is None:
            return False
        wanted = bool(self._main.attend())
        for place in list(self._places.values()) if self._places else ():
            session = place.session  # it may just be closed
            wanted = (session is not None and bool(session.attend())) or wanted
        return wanted
