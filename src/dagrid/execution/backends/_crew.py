"""Long-lived workers inside an engine, which the runs of one backend share, and the one thread that talks to all of them.

What such a worker does with the calls that it gets is `_performer`; how it is reached is a `Channel`, of which each engine has
its own. It knows the port; neither the engines, nor what a run decides.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from dagrid.errors import BackendClosedError, BackendUnreachableError
from dagrid.execution.backends import _performer, _remote
from dagrid.execution.backends._lanes import PATIENCE, Channel, Item, Lane, Member, Session, Site
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import closed_under
from dagrid.machine.events import UNSTARTED, Outcome, Started
from dagrid.ports import Bundle, Host

WINDOW = 256
"""How many attempts may be with a worker."""
STILLBORN_LIMIT = 3
"""How many workers in a row may die while they start before no more are tried."""
TRUCE = 1.0
"""Seconds for which none is started after some had to make room."""


class Crew:
    """The performers that the sessions of a backend share, and the thread that serves them.

    One serves one lane at a time, so that its death concerns one run; a lane that has nothing to do lets go of it. Lanes that
    want one when all are taken stand in a queue, and are served in turn. What is below `_loop` runs in the thread.

    Args:
        engine: the name of the backend.
        make: starts a performer at a site.
        sites: where.
        window: how many attempts may be with a worker.
        keep: seconds for which performers stay that have nothing to do, within a run and after it.
        depot: of the values that stay in the engine; None if all travel.
    """

    def __init__(
        self,
        engine: str,
        make: Callable[[Site], Channel],
        sites: Sequence[Site],
        window: int,
        keep: float,
        depot: _remote.Depot | None = None,
    ) -> None:
        self.window = window
        self.depot = depot
        self._engine = engine
        self._make = make
        self._sites = list(sites)
        self._keep = keep
        self._guard = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._sessions: list[Session] = []
        self._members: list[Member] = []
        self._wanting: deque[Lane] = deque()
        self._stillborn = 0
        self._broken: Exception | None = None
        self._ended = False
        self._truce = 0.0

    def open(self, host: Host, backend: object) -> Session:
        session = Session(self, host, backend)
        with self._guard:
            if not self._stopping and self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=f"dagrid-{self._engine}", daemon=True)
                self._thread.start()
        if self._stopping or not self.command(self.enrol, session):
            raise BackendClosedError(f"The backend {self._engine!r} is closed. Make a new one.")
        return session

    def command(self, action: Callable[..., None], *args: Any) -> bool:
        """Let the thread do something; may be called from any thread and never blocks. False: it has ended."""
        with self._guard:
            if not self._ended:
                self._inbox.put(partial(action, *args))
            return not self._ended

    def closed(self) -> BackendClosedError:
        """Return what fails the calls of a run that goes on after the end of the performers."""
        return closed_under(self._engine)

    @property
    def present(self) -> bool:
        """Whether there are performers."""
        return bool(self._members)

    def make_room(self, all_rest: bool) -> None:
        """Somebody else waits for what performers hold: those that have nothing to do go.

        Args:
            all_rest: nothing else moves either: then one of those that are busy goes too, after what it has, and for a while
                none is started.
        """
        self.command(self._make_room, all_rest)

    def is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End the performers and the thread."""
        with self._guard:
            self._stopping = True
            thread = self._thread
        self.command(lambda: None)
        if thread is not None and not self.is_own_thread():
            thread.join()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                action = self._inbox.get(timeout=self._patience())
            except queue.Empty:
                pass
            else:
                action()
                del action  # it may refer to a session, and so to a run, until the next one comes
                while not self._inbox.empty():
                    self._inbox.get()()
            self._settle()
        with self._guard:
            self._ended = True
        while not self._inbox.empty():
            self._inbox.get()()
        self._end_all()
        for session in self._sessions:
            session.reports.deliver()
        self._sessions.clear()

    def _end_all(self) -> None:
        """End the performers, and fail what they have and what waits for them."""
        left = [item for session in self._sessions for lane in session.lanes.values() for item in lane.waiting]
        for member in self._members:
            left += member.under_way.values()
            member.channel.kill()
        self._members.clear()
        for item in left:
            session = item.lane.session
            if not session.reports.closed and (item.rides is None or item.rides.completed):
                session.end(item, Outcome.FAILED, self.closed())

    def _patience(self) -> float | None:
        """Return for how long nothing needs to be looked at."""
        due = [member.kill_at for member in self._members if member.doomed]
        due += [member.idle_since + self._keep for member in self._members if member.idle_since]
        if self._wanting and self._truce:
            due.append(self._truce)
        return max(0.0, min(due) - perf_counter()) if due else None

    def _settle(self) -> None:
        """Hand out performers, send and report what has gathered, and end what has had its time."""
        now = perf_counter()
        for member in [member for member in self._members if member.doomed and member.kill_at <= now]:
            self._put_down(member)
        for member in self._members:
            idle = not member.under_way and not self._wanting
            member.idle_since = (member.idle_since or now) if idle else 0.0
            member.leaving |= idle and member.idle_since + self._keep <= now
        for member in [member for member in self._members if member.leaving and not member.under_way]:
            self._put_down(member)
        self._hand_out()
        for member in list(self._members):
            self._feed(member)
        for session in list(self._sessions):
            if session.reports.events:
                session.reports.deliver()
        if self._inbox.empty():  # else there may be letters to be sent first, which an engine may answer with records
            for member in [member for member in self._members if not member.listening]:
                self._listen(member)

    # Lanes and performers.

    def _want(self, lane: Lane) -> None:
        if lane.waiting and lane.member is None and lane not in self._wanting:
            self._wanting.append(lane)

    def _hand_out(self) -> None:
        """Give performers to the lanes that want one, and start what is missing."""
        self._wanting = deque(lane for lane in self._wanting if lane.waiting and not lane.session.reports.closed)
        if not self._wanting:
            return
        for member in self._members:
            if member.lane is not None and not member.under_way and not member.lane.waiting:
                self._unbind(member)
        for member in self._members:
            if not self._wanting:
                return
            if member.ready and not member.under_way and not member.leaving:
                lane = next((lane for lane in self._wanting if lane.site.name == member.site.name), None)
                if lane is None:
                    continue
                self._wanting.remove(lane)
                self._unbind(member)  # a lane that has had its turn goes to the end of the queue
                member.lane, lane.member = lane, member
        for site in {lane.site.name: lane.site for lane in self._wanting}.values():
            self._start_missing(site)
        if self._broken is not None and not self._members:
            self._refuse_all(self._broken)

    def _make_room(self, all_rest: bool) -> None:
        """Let performers go that have nothing to do; if there are none, and all rests, one that has."""
        resting = [
            each
            for each in self._members
            if each.ready and not each.under_way and not (each.lane is not None and each.lane.waiting)
        ]
        for member in resting:
            member.leaving = True
        if not all_rest:
            return
        self._truce = perf_counter() + TRUCE
        if not resting and not any(member.leaving for member in self._members):
            busy = next((member for member in self._members if member.ready), None)
            if busy is not None:
                busy.leaving = True

    def _start_missing(self, site: Site) -> None:
        if self._truce and self._truce > perf_counter():
            return
        self._truce = 0.0
        wanted = sum(lane.site.name == site.name for lane in self._wanting)
        there = [member.ready for member in self._members if member.site.name == site.name]
        for _ in range(min(wanted - there.count(False), site.slots - len(there))):
            self._start(site)

    def _unbind(self, member: Member) -> None:
        lane, member.lane = member.lane, None
        if lane is not None:
            lane.member = None
            self._want(lane)

    def _start(self, site: Site) -> None:
        if self._broken is not None:
            return
        try:
            member = Member(self._make(site), site)
            self._await_records(member)
        except Exception as error:  # noqa: BLE001 - engines raise all kinds, the end of their session among them
            self._broken = BackendUnreachableError(
                f"The backend {self._engine!r} cannot start a worker ({told(error)}). Put that right, then make a new one."
            )
            return
        self._members.append(member)

    def _listen(self, member: Member) -> None:
        try:
            self._await_records(member)
        except Exception as error:  # noqa: BLE001 - engines raise all kinds, the end of their session among them
            self.command(self._bury, member, told(error))

    def _await_records(self, member: Member) -> None:
        member.listening = True
        member.channel.listen().add_done_callback(lambda done: self.command(self._hear, member, done))

    def _feed(self, member: Member) -> None:
        """Send what waits in a performer's lane; where other lanes wait for one, each gets its turn."""
        lane = member.lane
        if lane is None or not lane.waiting or not member.ready or member.doomed or member.leaving:
            return
        if member.under_way and (self._wanting or next(iter(member.under_way.values())).alone):
            return
        calls: list[_performer.Sent] = []
        session = lane.session
        while lane.waiting and not (lane.waiting[0].alone and member.under_way):
            item = lane.waiting.popleft()
            if item.stranded:
                session.strand(item)
                continue
            try:
                sent = session.order(item.call)
            except Exception as error:  # noqa: BLE001 - what is the user's cannot be pickled
                session.end(item, Outcome.FAILED, error)
                continue
            member.tokens = item.token = member.tokens + 1
            member.under_way[item.token] = item
            item.sent = session.host.now()
            calls.append((item.token, 0 if item.rides is None else item.rides.token, *sent))
            if item.alone:
                break
        if calls:
            self._tell(member, calls)

    def _tell(self, member: Member, *args: Any) -> None:
        try:
            member.tell(*args)
        except Exception as error:  # noqa: BLE001 - engines raise all kinds, the end of their session among them
            self.command(self._bury, member, told(error))

    def _doom(self, member: Member, token: int) -> None:
        """Have a call stopped: if it waits it comes back, if it runs the performer says what it had finished and is killed."""
        self._tell(member, (), (), token)
        if token == member.running:
            member.doomed, member.kill_at = token, perf_counter() + PATIENCE

    def _put_down(self, member: Member) -> None:
        """Kill a performer for the sake of what it runs; what waited behind that goes on elsewhere."""
        member.channel.kill()
        if member not in self._members:
            return
        self._members.remove(member)
        self._put_back(member)

    def _put_back(self, member: Member) -> None:
        """Let what a dead performer had not started wait for another."""
        back: list[Item] = []
        for item in member.under_way.values():
            session = item.lane.session
            if session.reports.closed:
                continue
            if item.cancelled:
                session.end(item, Outcome.CANCELLED)
            elif item.stranded:
                session.strand(item)
            else:
                back.append(item)
        for item in reversed(back):
            item.lane.waiting.appendleft(item)
        member.under_way.clear()
        self._unbind(member)

    def _bury(self, member: Member, reason: str) -> None:
        """A performer has died by itself: what it ran is lost."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.channel.kill()
        if not member.ready and member.site in self._sites:
            self._note_stillborn(reason)
        running = member.running
        if not running and len(member.under_way) == 1:
            running = next(iter(member.under_way))
        item = member.under_way.pop(running, None)
        if item is None:
            # Any of these may be what killed it. One by one it will be seen.
            for suspect in member.under_way.values():
                suspect.lane.session.suspects.add(suspect.call.node)
        self._put_back(member)
        if item is not None and not item.lane.session.reports.closed:
            self._lose(item, reason)

    def _note_stillborn(self, reason: str) -> None:
        self._stillborn += 1
        if self._stillborn >= STILLBORN_LIMIT:
            self._broken = BackendUnreachableError(
                f"{STILLBORN_LIMIT} workers of the backend {self._engine!r} in a row died while they started. "
                f"Is dagrid installed where they run? "
                f"The last one: {reason}"
            )

    def _lose(self, item: Item, reason: str) -> None:
        lane, session = item.lane, item.lane.session
        if item.cancelled:
            session.end(item, Outcome.CANCELLED)
            return
        if item.started == UNSTARTED:
            session.reports.events.append(Started(lane.number, item.call.attempt, session.host.now()))
        session.leave(lane, reason)
        if lane.site in self._sites:
            session.join(lane.site)

    def _refuse_all(self, error: Exception) -> None:
        while self._wanting:
            lane = self._wanting.popleft()
            while lane.waiting:
                lane.session.end(lane.waiting.popleft(), Outcome.FAILED, error)

    # The commands of sessions.

    def enrol(self, session: Session) -> None:
        if session.reports.closed:
            return
        self._sessions.append(session)
        for site in self._sites:
            for _ in range(site.slots):
                session.join(site)

    def resite(self, sites: Sequence[Site], reason: str) -> None:
        """Performers stand elsewhere from now on; those whose site is gone are gone, for this reason."""
        before, self._sites = self._sites, list(sites)
        for member in [member for member in self._members if member.site not in sites]:
            self._bury(member, reason)
        for session in self._sessions:
            for lane in [lane for lane in session.lanes.values() if lane.site not in sites]:
                session.own_up(lane)
                session.leave(lane, reason)
            for site in sites:
                for _ in range(0 if site in before else site.slots):
                    session.join(site)

    def refuse(self, error: Exception) -> None:
        """There will be no performers any more: whatever is to be performed fails."""
        self._broken = error
        for member in list(self._members):
            self._bury(member, told(error))

    def perform(self, session: Session, bundle: Bundle) -> None:
        lane = session.lanes.get(bundle.worker)
        if lane is None or session.reports.closed:
            return
        items: dict[int, Item] = {}
        for call in bundle.calls:
            items[call.attempt] = item = Item(lane, call, items.get(call.rides))
            lane.waiting.append(item)
        self._want(lane)

    def recall(self, session: Session, worker: int, attempts: Sequence[int]) -> None:
        lane = session.lanes.get(worker)
        if lane is None or session.reports.closed:
            return
        wanted = set(attempts)
        given = [item for item in lane.waiting if item.call.attempt in wanted]
        if given:
            lane.waiting = deque(item for item in lane.waiting if item.call.attempt not in wanted)
            for item in given:
                session.give_back(item)
        member = lane.member
        if member is not None:
            back = [token for token, item in member.under_way.items() if item.call.attempt in wanted]
            if back:
                self._tell(member, (), back)

    def cancel(self, session: Session, worker: int, attempt: int) -> None:
        lane = session.lanes.get(worker)
        if lane is None or session.reports.closed:
            return
        for item in lane.waiting:
            if item.call.attempt == attempt:
                lane.waiting.remove(item)
                session.end(item, Outcome.CANCELLED)
                return
        member = lane.member
        token = member.token_of(lane, attempt) if member is not None else 0
        if member is not None and token:
            member.under_way[token].cancelled = True
            self._doom(member, token)

    def drop(self, session: Session) -> None:
        """Forget a session: what it has running is killed, what waits is taken back."""
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        for lane in session.lanes.values():
            lane.waiting.clear()
            member = lane.member
            if member is None:
                continue
            if member.under_way:
                member.channel.kill()
                self._members.remove(member)
                member.under_way.clear()
            self._unbind(member)
        session.reports.events.clear()
        session.functions.clear()

    # What performers say.

    def _hear(self, member: Member, done: Any) -> None:
        if member not in self._members:
            return
        try:
            records = done.result()
        except BaseException as error:  # noqa: BLE001 - engines raise all kinds
            self._bury(member, _reason(error))
            return
        member.listening = False
        for kind, token, payload in records:
            if kind == _performer.READY:
                member.ready, member.name, self._stillborn = True, payload, 0
            elif kind == _performer.STARTED:
                self._take_start(member, token, payload)
            elif kind == _performer.FINISHED:
                self._take_end(member, token, payload, None)
            elif kind == _performer.KEPT:
                self._take_end(member, token, *payload)
            elif kind == _performer.BACK:
                self._take_back(member, token)
            elif kind == _performer.DROPPED:
                member.under_way.pop(token).completed = False
            else:  # STOPPED: all that it had finished has been said
                self._put_down(member)
                return

    def _take_start(self, member: Member, token: int, at: float) -> None:
        item = member.under_way[token]
        session = item.lane.session
        member.running = token
        item.started = min(max(item.sent, at + session.shift), session.host.now())
        session.reports.events.append(Started(item.lane.number, item.call.attempt, item.started))
        if item.cancelled:
            member.doomed, member.kill_at = token, perf_counter() + PATIENCE

    def _take_end(self, member: Member, token: int, data: bytes, kept: Any) -> None:
        item = member.under_way.pop(token)
        member.running = 0
        if member.doomed == token:
            member.doomed = 0  # it was quicker
        session = item.lane.session
        session.suspects.discard(item.call.node)
        node, depot = item.call.node, self.depot
        event = _remote.finished(
            _remote.read(data),
            item.call,
            item.lane.number,
            session.host.draw(),
            session.shift,
            None if depot is None else lambda size: depot.reference(kept, size, node),
        )
        # The clocks of two machines differ; nothing has begun before it was sent, or ended after it was heard of.
        event.started = min(max(item.sent, event.started), session.host.now())
        event.ended = min(max(event.started, event.ended), session.host.now())
        event.by = session.number_of(member)
        item.completed = event.outcome == Outcome.COMPLETED
        session.reports.events.append(event)

    def _take_back(self, member: Member, token: int) -> None:
        item = member.under_way.pop(token)
        session = item.lane.session
        if item.cancelled:
            session.end(item, Outcome.CANCELLED)
        else:
            session.give_back(item)


def _reason(error: BaseException) -> str:
    """Return what an engine says of a death, in one line."""
    return " ".join(str(error).split()) or told(error)
