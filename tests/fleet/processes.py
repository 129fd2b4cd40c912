"""The coordinator as the simulation has it, with the runs in its process, and the processes that borrow its workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.ledger import Ledger
from tests.fleet.borrowers import Engine, Work
from tests.fleet.network import End, Process, Stream, Time

LEASE, HEARTBEAT = 8.0, 1.0
CONTENTS = [b"content-%d" % number for number in range(4)]

MayDie = Callable[[Process], None]


class Line:
    """The line of a run in the coordinator's process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


class Coordinator(Process):
    """One incarnation of the coordinator, with the engines of its own runs."""

    def __init__(self, time: Time, number: int, may_die: MayDie, gives_up: Callable[[str], None]) -> None:
        super().__init__(f"c{number}")
        self.time = time
        self.may_die = may_die
        self.gives_up = gives_up
        self.present: dict[str, int] = {}  # the generations of workers
        self.ledger = Ledger(
            incarnation=self.name,
            lease=LEASE,
            heartbeat=HEARTBEAT,
            small=lambda digest: b"x" if digest in CONTENTS[:2] else None,
            first_generation=number * 1000 + 1,
        )
        self.streams: list[Stream] = []
        self.lines: dict[str, Line] = {}
        self.ticking = float("inf")

    # --- workers ----------------------------------------------------------------------------------------------------------

    def accept(self, end: End) -> None:
        """A worker or a borrower has dialed; what it says first shows which."""
        self.streams.append(end.stream)
        end.hear = partial(self.heard, end)
        end.lost = partial(self.lost, end)

    def heard(self, end: End, message: pb.Up | pb.Ask) -> None:
        now = self.time.now
        if isinstance(message, pb.Ask):
            if message.HasField("open"):
                refusal = self.ledger.open(end, message.open, now)
                assert refusal is None
            self.ledger.ask(end, message, now)
        elif message.HasField("hello"):
            refusal = self.ledger.greet(end, message.hello, now)
            if refusal is not None:
                assert not refusal.final, refusal.reason
                end.send(pb.Down(refusal=refusal))
        else:
            self.ledger.hear(end, message, now)
            if message.wants:
                parts = [pb.Part(digest=digest, size=1, data=b"x") for digest in message.wants]
                end.send(pb.Down(parts=parts))
        self.pump()

    def lost(self, end: End) -> None:
        self.ledger.lose(end, self.time.now)
        self.ledger.leave(end, self.time.now)
        self.pump()

    # --- runs -------------------------------------------------------------------------------------------------------------

    def host(self, work: Work) -> None:
        """Take up a run of this process."""
        engine = Engine(self.time, work, partial(self.may_die, self))
        engine.arm = lambda delay, action: self.time.after(delay, self, action)
        line = self.lines[work.id] = Line(engine)
        engine.prepare()
        assert self.ledger.open(line, engine.opening(), self.time.now) is None
        engine.connected(lambda ask: self.time.after(0.0001, self, lambda: self.asked(line, ask)))
        engine.begin()
        self.pump()

    def asked(self, line: Line, ask: pb.Ask) -> None:
        self.ledger.ask(line, ask, self.time.now)
        self.pump()

    # --- post -------------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what the ledger has to say."""
        present = {worker.id: worker.generation for worker in self.ledger._workers.values()}
        if present != self.present:
            for worker, generation in self.present.items():
                if present.get(worker) != generation:
                    self.gives_up(worker)
            self.present = present
        for link, message in self.ledger.take():
            if isinstance(link, Line):
                assert isinstance(message, pb.Tell)
                self.time.after(0.0001, self, partial(link.engine.tell, message))
            else:
                assert isinstance(link, End)
                link.send(message)
        for link, _ in self.ledger.hang_ups():
            if isinstance(link, End):
                link.close()
        due = self.ledger.next_tick
        if due is not None and due < self.ticking:
            self.ticking = due
            self.time.at(due, self, self.tick)

    def tick(self) -> None:
        self.ticking = float("inf")
        self.ledger.tick(self.time.now)
        self.pump()


class Borrower(Process):
    """A process of its own that has one run on the fleet."""

    def __init__(
        self, time: Time, work: Work, number: int, may_die: MayDie, connect: Callable[[Process], End | None]
    ) -> None:
        super().__init__(f"{work.id}.{number}")
        self.time = time
        self.connect = connect
        self.end: End | None = None
        self.begun = False
        self.engine = Engine(time, work, partial(may_die, self))
        self.engine.arm = lambda delay, action: self.time.after(delay, self, action)
        self.engine.prepare()

    def dial(self) -> None:
        if self.end is not None or self.engine.work.done:
            return
        self.end = self.connect(self)
        if self.end is None:
            self.time.after(0.1 + self.time.chance.random() * 0.3, self, self.dial)
            return
        self.end.hear, self.end.lost = self.engine.tell, self.lost
        self.end.send(pb.Ask(open=self.engine.opening()))
        self.engine.connected(self.end.send)
        if not self.begun:
            self.begun = True
            self.engine.begin()

    def lost(self) -> None:
        self.end = None
        self.engine.disconnected()
        self.time.after(0.1 + self.time.chance.random() * 0.3, self, self.dial)
