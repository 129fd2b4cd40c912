"""A ledger and a duty with handles for tests: what is sent is looked at, and nothing of it has to be written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.duty import Act, Duty, Perform
from dagrid.execution.backends.cluster.ledger import PROTOCOL, Ledger
from dagrid.machine.events import Outcome

LEASE, HEARTBEAT = 30.0, 1.0


def hello(id: str = "w", incarnation: str = "", slots: int = 2, **more: Any) -> pb.Hello:
    """Return how a worker greets."""
    incarnation = incarnation or f"{id}-1"
    return pb.Hello(id=id, incarnation=incarnation, slots=slots, protocol=PROTOCOL, python="3.11", **more)


def calls(*attempts: int, rides: Mapping[int, int] | None = None, **more: Any) -> list[pb.Call]:
    """Return calls whose nodes are called after their attempts; `rides` says which ride on which."""
    on = rides or {}
    return [
        pb.Call(attempt=each, node=f"n{each}", rides=on[each] + 1 if each in on else 0, **more) for each in attempts
    ]


def some(fence: int, *attempts: int, run: str = "r") -> list[pb.Some]:
    return [pb.Some(run=run, fence=fence, attempts=attempts)]


def done(attempt: int, outcome: Outcome = Outcome.COMPLETED) -> pb.Finished:
    return pb.Finished(attempt=attempt, outcome=outcome, started=1.0, ended=2.0)


class Desk:
    """A coordinator's ledger, and what it has sent to each link."""

    def __init__(self, **settings: Any) -> None:
        self.ledger = Ledger(incarnation="c", lease=LEASE, heartbeat=HEARTBEAT, **settings)
        self.now = 0.0
        self.generations: dict[tuple[str, str], int] = {}

    def come(self, id: str = "w", link: str = "", **more: Any) -> pb.Refusal | None:
        """Let a worker greet, on the link that is called after it."""
        return self.ledger.greet(link or id, hello(id, **more), self.now)

    def open(self, run: str = "r", uses: Iterable[pb.Use] = (), link: str = "", **more: Any) -> pb.Tell:
        """Let a run open its line, which is called after it, and return what it is told."""
        opened = pb.Open(run=run, name=run, root=run, protocol=PROTOCOL, python="3.11", uses=uses, **more)
        assert self.ledger.open(link or run, opened, self.now) is None
        return self.told(link or run)

    def assign(self, *given: pb.Call, fence: int = 1, worker: str = "w", run: str = "r", link: str = "") -> pb.Down:
        """Let a run give calls to a worker, and return what the worker is told."""
        generation = self.generations[run, worker]
        asked = pb.Assign(run=run, fence=fence, worker=worker, generation=generation, calls=given)
        self.ledger.ask(link or run, pb.Ask(assigns=[asked]), self.now)
        return self.down(worker)

    def ask(self, run: str = "r", **asked: Any) -> None:
        self.ledger.ask(run, pb.Ask(**asked), self.now)

    def report(self, worker: str = "w", fence: int = 1, run: str = "r", **reported: Any) -> None:
        """Let a worker report of one use."""
        report = pb.Report(run=run, fence=fence, **reported)
        self.ledger.hear(worker, pb.Up(reports=[report]), self.now)

    def beat(self, *workers: str) -> None:
        for worker in workers:
            self.ledger.hear(worker, pb.Up(heartbeat=pb.Heartbeat()), self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a look at whatever is due on the way."""
        end = self.now + seconds
        while (due := self.ledger.next_tick) is not None and due <= end:
            self.now = max(due, self.now)
            self.ledger.tick(self.now)
        self.now = end

    def sent(self) -> dict[object, Any]:
        """Return what is to be sent, by link."""
        found = dict(self.ledger.take())
        for link, message in found.items():
            for joined in getattr(message, "joined", ()):
                self.generations[str(link), joined.worker] = joined.generation
        return found

    def told(self, run: str = "r") -> pb.Tell:
        return self.sent().get(run, pb.Tell())

    def down(self, worker: str = "w") -> pb.Down:
        return self.sent().get(worker, pb.Down())

    def both(self, run: str = "r", worker: str = "w") -> tuple[pb.Tell, pb.Down]:
        found = self.sent()
        return found.get(run, pb.Tell()), found.get(worker, pb.Down())


class Post:
    """A worker's duty, and the acts that it has asked for and that have not been looked at."""

    def __init__(self, slots: int = 2, connected: bool = True, **more: Any) -> None:
        self.duty = Duty(hello(slots=slots, **more))
        self.now = 0.0
        self.acts: list[Act] = []
        if connected:
            self.welcome()

    def welcome(self, coordinator: str = "c") -> None:
        self.duty.welcomed(pb.Welcome(heartbeat=HEARTBEAT, lease=LEASE, coordinator=coordinator), self.now)

    def hear(self, **said: Any) -> list[Act]:
        """Let it hear something, and return the acts that follow."""
        return self.note(self.duty.hear(pb.Down(**said), self.now))

    def assign(self, *given: pb.Call, run: str = "r", fence: int = 1, **more: Any) -> list[Act]:
        return self.hear(assigns=[pb.Assign(run=run, fence=fence, calls=given, **more)])

    def note(self, acts: list[Act]) -> list[Act]:
        self.acts += acts
        return acts

    def performs(self) -> list[tuple[str, int]]:
        """Return what was released and not looked at yet, as run and attempt."""
        found = [(act.run, act.call.attempt) for act in self.acts if isinstance(act, Perform)]
        self.acts = [act for act in self.acts if not isinstance(act, Perform)]
        return found

    def token(self, attempt: int, run: str = "r") -> int:
        """Return the token of what is performed."""
        for token, job in self.duty._released.items():
            if job.attempt == attempt and job.key[0] == run:
                return token
        raise AssertionError(f"{attempt} of {run} is not performed")

    def start(self, attempt: int, run: str = "r") -> None:
        self.duty.started(self.token(attempt, run), 1.0)

    def finish(
        self, attempt: int, outcome: Outcome = Outcome.COMPLETED, run: str = "r", took: float = 1.0
    ) -> list[Act]:
        end = pb.Finished(outcome=outcome, started=1.0, ended=1.0 + took)
        return self.note(self.duty.finished(self.token(attempt, run), end))

    def up(self) -> pb.Up:
        return self.duty.take() or pb.Up()

    def held(self) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
        """Return what it says that it holds, by run and fence."""
        return {(each.run, each.fence): (list(each.open), list(each.ended)) for each in self.duty.hello().held}
