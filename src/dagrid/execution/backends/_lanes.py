"""What a crew keeps of its work: the runs that use it, their workers, the calls of these, and the performers that serve them.

All of it is touched by the crew's thread alone, where nothing else is said; what is to be done with it is `_crew`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any, Protocol

from dagrid.execution.backends import _performer, _remote
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import Reports
from dagrid.machine.events import UNSTARTED, Finished, Outcome, Recalled, Started, WorkerGone, WorkerJoined
from dagrid.ports import Bundle, Call, Host

if TYPE_CHECKING:
    from dagrid.execution.backends._crew import Crew

AHEAD = 0.005
"""Seconds of work that may wait at a worker, for a word there and back takes a millisecond or two."""
PATIENCE = 0.5
"""Seconds that a worker has to hand in what it finished before it is killed."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where performers of an engine stand: `slots` of them at most, each a worker of a run, with this name and these labels."""

    name: str
    slots: int
    labels: Mapping[str, str] = field(default_factory=dict)


class Channel(Protocol):
    """How an engine reaches one performer (`_performer.Performer`) that it has started."""

    def tell(self, number: int, calls: Sequence[_performer.Sent], back: Sequence[int], stop: int) -> None:
        """Send a letter and return at once; whatever it raises counts as the death of the performer."""
        ...

    def listen(self) -> Future[list[_performer.Record]]:
        """Return what will be the next records; its error counts as the death of the performer.

        Where values stay in the engine, it has put their handles in (`_performer.with_kept`).
        """
        ...

    def kill(self) -> None:
        """End the performer by force, if it can be; it may be dead."""
        ...


class Item:
    """A call with the lane that it is in, and the one that it rides on; `completed` is None until it has ended, or went back."""

    __slots__ = ("call", "cancelled", "completed", "lane", "rides", "sent", "started", "token")

    def __init__(self, lane: Lane, call: Call, rides: Item | None) -> None:
        self.lane = lane
        self.call = call
        self.rides = rides
        self.completed: bool | None = None
        self.cancelled = False
        self.token = 0
        self.sent = self.started = UNSTARTED

    @property
    def stranded(self) -> bool:
        """Whether the value that it was to find is not where it is going to be performed."""
        return self.rides is not None and self.rides.completed is not None

    @property
    def alone(self) -> bool:
        """Whether it may have killed a worker, and is to be tried by itself, also where it comes again after its site went."""
        return self.call.node in self.lane.session.suspects


class Lane:
    """A worker as one run sees it: calls that wait, and the performer that serves it at present, which stands at its site."""

    def __init__(self, session: Session, number: int, site: Site) -> None:
        self.session = session
        self.number = number
        self.site = site
        self.waiting: deque[Item] = deque()
        self.member: Member | None = None


class Member:
    """A performer at a site: what is with it, what it runs, and what it is to be told."""

    def __init__(self, channel: Channel, site: Site) -> None:
        self.channel = channel
        self.site = site
        self.name = ""
        self.ready = self.leaving = self.listening = False
        self.doomed = 0  # the token of what it is to be killed for
        self.kill_at = 0.0
        self.idle_since = 0.0  # 0 while there is something to do
        self.lane: Lane | None = None
        self.under_way: dict[int, Item] = {}
        self.running = 0
        self.letters = 0
        self.tokens = 0

    def tell(self, calls: Sequence[_performer.Sent] = (), back: Sequence[int] = (), stop: int = 0) -> None:
        """Send a letter; they are numbered, for an engine may deliver a large one late."""
        self.channel.tell(self.letters, calls, back, stop)
        self.letters += 1

    def token_of(self, lane: Lane, attempt: int) -> int:
        """Return the token of an attempt that is with this member, 0 if it is not."""
        found = (token for token, item in self.under_way.items() if item.lane is lane and item.call.attempt == attempt)
        return next(found, 0)


class Session:
    """One run's use of the workers. What changes is touched by the crew's thread alone, but for `reports.closed`."""

    def __init__(self, crew: Crew, host: Host, backend: object) -> None:
        self.crew = crew
        self.host = host
        self.backend: object | None = backend  # while it is open, the backend is in use
        self.reports = Reports(host)
        self.lanes: dict[int, Lane] = {}
        self.functions: dict[int, tuple[bytes, Callable[..., Any]]] = {}
        self.named: dict[str, int] = {}
        self.suspects: set[str] = set()
        self.shift = host.now() - time()

    def wake(self, worker: int) -> None:
        """Its workers do not pull."""

    def attend(self) -> None:
        """The crew has a thread of its own."""

    def perform(self, bundle: Bundle) -> None:
        if not self.crew.command(self.crew.perform, self, bundle):
            self.reports.refuse(bundle.worker, bundle.calls, self.crew.closed())

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        self.crew.command(self.crew.recall, self, worker, attempts)

    def cancel(self, worker: int, attempt: int) -> None:
        self.crew.command(self.crew.cancel, self, worker, attempt)

    def close(self) -> None:
        """Take back what waits and stop what runs."""
        if not self.reports.shut():
            return
        self.crew.command(self.crew.drop, self)
        self.reports.settle()
        self.backend = None

    # For the crew's thread.

    def order(self, call: Call) -> tuple[bytes] | tuple[bytes, list[Any]]:
        """Return a call as bytes, and the handles of the references in it, if there are any.

        Its function is pickled once, and kept, so that its id is its own.
        """
        found = self.functions.get(id(call.fn))
        if found is None:
            found = self.functions[id(call.fn)] = (encode_function(call), call.fn)
        if self.crew.depot is None:
            return (_remote.order(call, found[0]),)
        references: list[_remote.Reference] = []
        data = _remote.order(call, found[0], references)
        return (data, [reference.handle for reference in references]) if references else (data,)

    def join(self, site: Site) -> None:
        """Announce a worker."""
        number = self.host.new_worker()
        self.lanes[number] = Lane(self, number, site)
        now = self.host.now()
        joined = WorkerJoined(number, site.name, now, 1, self.crew.window, labels=site.labels, ahead=AHEAD)
        self.reports.events.append(joined)

    def own_up(self, lane: Lane) -> None:
        """Where nobody knows what ran when a performer died, say that the first did: calls run in order."""
        first = lane.waiting[0] if lane.waiting else None
        if first is not None and first.alone and first.sent != UNSTARTED:
            self.reports.events.append(Started(lane.number, first.call.attempt, self.host.now()))

    def leave(self, lane: Lane, reason: str) -> None:
        """Say that a worker is gone; what waits goes back with it."""
        del self.lanes[lane.number]
        lane.waiting.clear()
        self.reports.events.append(WorkerGone(lane.number, self.host.now(), reason))

    def number_of(self, member: Member) -> int:
        """Return the number under which a performer is named that is not known by its site; -1 for others."""
        if member.name == member.site.name:
            return -1
        number = self.named.get(member.name, -1)
        if number < 0:
            number = self.named[member.name] = self.host.new_worker()
            self.reports.events.append(WorkerJoined(number, member.name, self.host.now(), slots=0, window=0))
        return number

    def give_back(self, item: Item) -> None:
        """Report that a call was not performed."""
        item.completed = False
        self.reports.events.append(Recalled(item.lane.number, [item.call.attempt], self.host.now()))

    def strand(self, item: Item) -> None:
        """A call cannot be performed as it was sent: it goes back, if what it rides on has completed; else it is not wanted."""
        if item.rides is not None and item.rides.completed:
            self.give_back(item)
        item.completed = False

    def end(self, item: Item, outcome: Outcome, error: BaseException | None = None, retryable: bool = False) -> None:
        """Report the end of a call of which no report came."""
        item.completed = False
        now = self.host.now()
        event = Finished(item.lane.number, item.call.attempt, outcome, now, now)
        if error is not None:
            event.value, event.error, event.retryable, event.draw = error, told(error), retryable, self.host.draw()
        self.reports.events.append(event)
