"""What is to be sent on a stream, gathered so that it becomes one message. Pure: it knows neither streams nor clocks.

What happened in an order is told in an order that every reader follows, see `fleet.proto`; an entry that a later one makes
pointless is taken out.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagrid.execution.backends.cluster import fleet_pb2 as pb

Key = tuple[str, int]
"""A use of a worker: the run and its fence."""


def key_of(run: str, nonce: str, place: str) -> str:
    """Return the key under which a run asks for what is performed at a place; no other run has it, whatever its id is."""
    return f"{run}~{nonce}:{place}" if place else f"{run}~{nonce}"


def id_of(key: str) -> str:
    """Return what the run of a key is called; one that is not recorded has no other name than its key."""
    return key.partition("~")[0] or run_of(key)


def run_of(key: str) -> str:
    """Return the run of a key; commands of a run are asked for under a key of their own."""
    return key.removesuffix(":command")


class Told:
    """What is reported of one use of a worker."""

    __slots__ = ("finished", "recalled", "started")

    def __init__(self) -> None:
        self.started: dict[int, pb.Started] = {}
        self.finished: dict[int, pb.Finished] = {}
        self.recalled: dict[int, None] = {}

    def start(self, started: pb.Started) -> None:
        self.started[started.attempt] = started

    def finish(self, finished: pb.Finished) -> None:
        """Report an end, which says too when the attempt started."""
        self.started.pop(finished.attempt, None)
        self.finished[finished.attempt] = finished

    def forget(self, attempt: int) -> None:
        """Nobody wants to hear of an attempt."""
        self.started.pop(attempt, None)
        self.finished.pop(attempt, None)

    def write(self, report: pb.Report) -> None:
        report.started.extend(self.started.values())
        report.finished.extend(self.finished.values())
        report.recalled.extend(self.recalled)


class Reports:
    """Reports by the use that they are of."""

    __slots__ = ("of",)

    def __init__(self) -> None:
        self.of: dict[Key, Told] = {}

    def __bool__(self) -> bool:
        return bool(self.of)

    def on(self, key: Key) -> Told:
        found = self.of.get(key)
        if found is None:
            found = self.of[key] = Told()
        return found

    def end(self, run: str) -> None:
        """Nobody wants to hear of a run."""
        for key in [key for key in self.of if key[0] == run]:
            del self.of[key]

    def forget(self, key: Key, attempt: int) -> None:
        """Nobody wants to hear of an attempt."""
        found = self.of.get(key)
        if found is not None:
            found.forget(attempt)

    def write(self, message: pb.Up | pb.Tell) -> None:
        for (run, fence), told in self.of.items():
            if told.started or told.finished or told.recalled:
                told.write(message.reports.add(run=run, fence=fence))


class Attempts:
    """Attempts by use: what a list of `Some` says."""

    __slots__ = ("of",)

    def __init__(self) -> None:
        self.of: dict[Key, dict[int, None]] = {}

    def add(self, key: Key, attempts: Iterable[int]) -> None:
        found = self.of.get(key)
        if found is None:
            found = self.of[key] = {}
        found.update(dict.fromkeys(attempts))

    def forget(self, run: str) -> None:
        for key in [key for key in self.of if key[0] == run]:
            del self.of[key]

    def listed(self) -> list[pb.Some]:
        return [pb.Some(run=run, fence=fence, attempts=found) for (run, fence), found in self.of.items() if found]


class ForRun:
    """What a run is to be told."""

    __slots__ = ("gone", "joined", "reports", "rooms", "welcome")
    presses = True

    def __init__(self) -> None:
        self.welcome: pb.Welcome | None = None
        self.joined: list[pb.Joined] = []
        self.gone: list[pb.Gone] = []
        self.rooms: dict[tuple[str, int], int] = {}
        self.reports = Reports()

    def message(self) -> pb.Tell | None:
        tell = pb.Tell(welcome=self.welcome, joined=self.joined, gone=self.gone)
        for (worker, generation), slots in self.rooms.items():
            tell.rooms.add(worker=worker, generation=generation, slots=slots)
        self.reports.write(tell)
        return tell if tell.ByteSize() else None


class ForWorker:
    """What a worker is to be told."""

    __slots__ = (
        "acks",
        "assigns",
        "cancels",
        "drain",
        "echo",
        "heartbeat",
        "mark",
        "over",
        "parts",
        "recalls",
        "welcome",
    )

    def __init__(self) -> None:
        self.welcome: pb.Welcome | None = None
        self.parts: list[pb.Part] = []
        self.over: dict[str, None] = {}
        self.acks = Attempts()
        self.recalls = Attempts()
        self.assigns: dict[Key, tuple[pb.Assign, dict[int, pb.Call]]] = {}
        self.cancels = Attempts()
        self.drain = False
        self.echo = self.mark = 0
        self.heartbeat = 0.0

    @property
    def presses(self) -> bool:
        """Whether there is more than what the worker may forget."""
        return bool(
            self.assigns
            or self.parts
            or self.recalls.of
            or self.cancels.of
            or self.welcome
            or self.echo
            or self.mark
            or self.heartbeat
            or self.drain
        )

    def assign(self, key: Key, about: pb.Assign, call: pb.Call) -> None:
        """Send a call; `about` says whose it is and what it needs around it."""
        found = self.assigns.get(key)
        if found is None:
            found = self.assigns[key] = (about, {})
        found[1][call.attempt] = call

    def unsent(self, key: Key, attempt: int) -> bool:
        """Take back a call that has not been sent, and return whether that is so."""
        found = self.assigns.get(key)
        return found is not None and found[1].pop(attempt, None) is not None

    def end(self, run: str) -> None:
        """A run has ended: nothing else is said of it."""
        for attempts in (self.acks, self.recalls, self.cancels):
            attempts.forget(run)
        for key in [key for key in self.assigns if key[0] == run]:
            del self.assigns[key]
        self.over[run] = None

    def message(self) -> pb.Down | None:
        down = pb.Down(
            welcome=self.welcome,
            parts=self.parts,
            over=self.over,
            acks=self.acks.listed(),
            recalls=self.recalls.listed(),
            cancels=self.cancels.listed(),
            drain=self.drain,
            echo=self.echo,
            mark=self.mark,
            heartbeat=self.heartbeat,
        )
        for (run, fence), (about, calls) in self.assigns.items():
            if calls:
                down.assigns.add(
                    run=run,
                    fence=fence,
                    worker=about.worker,
                    generation=about.generation,
                    kit=about.kit,
                    needs=about.needs,
                    calls=calls.values(),
                )
        return down if down.ByteSize() else None
