"""What is long and goes from runs to workers and back: who has named it, who wants it, and how long it is kept.

It is kept as long as a run needs it: arguments until their attempt has ended, the value of an attempt until it is dropped,
everything until the run ends. Values may be equal: one that is dropped takes none of those along that stay, or are on their way.
What is not here is asked of the runs that have named it; of what workers still want from before this coordinator began nobody
has, and each run is asked that opens. A value that a run wants back is here, or on its way, or may come again where it was with
the coordinator before this one; else the run is told that nobody has it. It knows neither streams nor what is decided.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Container, Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.cluster.sayings import Sayings


class Party(Hashable, Protocol):
    """A worker or a run, as far as it sends contents and wants some."""

    name: str

    def carry(self, parts: Iterator[pb.Part]) -> None:
        """Send something long, of which each item is asked for when it can be sent."""
        ...


class Line(Party, Protocol):
    """A run."""

    def say(self, message: pb.Tell, /) -> None: ...


class Worker(Party, Protocol):
    """A worker."""

    def say(self, message: pb.Down, /) -> None: ...


Value = tuple[str, int, int]
"""The value of an attempt, by run, fence and attempt."""
Source = tuple[Party, str]
"""A worker that brings values of a run."""

_log = logging.getLogger("dagrid.fleet")


class _Needs:
    """Which contents a run has named, and which of them are for certain attempts alone."""

    __slots__ = ("apart", "count", "named", "values")

    def __init__(self) -> None:
        self.named: set[bytes] = set()
        self.apart: dict[tuple[int, int], bytes] = {}  # by fence and attempt
        self.count: Counter[bytes] = Counter()
        self.values: set[Value] = set()


class Freight:
    """The contents of all runs. All of it is called in one thread.

    Args:
        contents: where they are kept.
        lines: the runs that can be asked.
        names: what runs are called for who looks.
    """

    def __init__(self, contents: Contents, lines: Mapping[str, Line], names: Mapping[str, str]) -> None:
        self._contents = contents
        self._lines = lines
        self._names = names
        self._needs: dict[str, _Needs] = {}
        self._wanted: dict[bytes, set[Party]] = {}
        self._readers: dict[bytes, set[Line]] = {}  # runs that want values back
        self._looks_back = True
        self._under_way: set[tuple[Party, bytes]] = set()
        self._unreported: dict[Source, Counter[bytes]] = {}  # how many equal values somebody has begun to bring
        self._unanswered: Counter[tuple[Source, bytes]] = Counter()  # to how many of those nothing was said yet
        self._refused: set[tuple[Party, bytes]] = (
            set()
        )  # there is no room for what somebody sends, and the rest of it comes
        self._sayings = Sayings()

    # Runs.

    def begin(self, run: str, kept: Iterable[pb.Kept] = ()) -> None:
        """A run has a line, its first one or another, and was told that it is welcome; what it may have is asked of it too.

        Args:
            run: which it is.
            kept: the values that it still refers to, where the coordinator before this one may have left them.
        """
        self._needs.setdefault(run, _Needs())
        for each in kept:
            for attempt, digest in zip(each.attempts, each.digests, strict=False):
                self._hold(run, each.fence, attempt, digest)
        wants = [each for each in self._wanted if not self._contents.is_coming(each) and run in self._owners(each)]
        if wants:
            self._lines[run].say(pb.Tell(wants=wants))

    def expect(self, run: str) -> None:
        """A run may come that the coordinator before this one knew: what is reported of it before is kept for it."""
        self._needs.setdefault(run, _Needs())

    def expect_only(self, runs: Container[str]) -> None:
        """No others come any more."""
        self._looks_back = False
        for run in [run for run in self._needs if run not in runs]:
            self.end(run)
        self._say_missing()

    def end(self, run: str) -> None:
        """A run has ended."""
        needs = self._needs.pop(run, None)
        if needs is not None:
            for digest in needs.named:
                self._give_up(digest)
            for value in needs.values:
                self._contents.release(value)
        self._contents.release(run)
        if self._leave([source for source in self._unreported if source[1] == run]):
            self._seek()

    def values(self, runs: Iterable[str]) -> list[Value]:
        """Return the values that runs have not dropped, which hold their contents."""
        return [value for run in runs if run in self._needs for value in self._needs[run].values]

    def give(self, run: str, line: Line, part: pb.Part) -> None:
        """A run gives a piece of something; where there is no room for it, it is told so.

        Raises:
            TamperedError: it is not what it says.
        """
        if self._is_of_refused(line, part):
            return
        self._contents.hold(run, part.digest)
        try:
            self._take(line, part)
        except OSError as error:
            self._refuse(line, part, error)
            line.say(pb.Tell(receipts=[pb.Receipt(run=run, digest=part.digest, why=str(error))]))

    def read(self, line: Line, digest: bytes) -> None:
        """Send a value to a run that wants it back, as soon as it is here, or say that nobody has it."""
        if digest in self._contents:
            self._send(line, digest)
            return
        self._readers.setdefault(digest, set()).add(line)
        self._say_missing()

    def drop(self, run: str, dropped: pb.Some) -> None:
        """A run needs the values of attempts no more."""
        values = self._needs[run].values
        for value in [(run, dropped.fence, attempt) for attempt in dropped.attempts]:
            values.discard(value)
            self._contents.release(value)

    def assign(self, run: str, assign: pb.Assign) -> None:
        """Note what an assignment refers to."""
        needs = self._needs[run]
        needs.named.update(assign.needs)
        if assign.kit:
            needs.named.add(assign.kit)
        for call in assign.calls:
            needs.named.add(call.function)
            needs.named.update(call.values)  # the run holds them by what it has not dropped
            apart = call.apart
            if apart:
                needs.named.add(apart)
                needs.apart[assign.fence, call.attempt] = apart
                needs.count[apart] += 1
                self._contents.hold(run, apart)

    # Workers.

    def bring(self, worker: Worker, part: pb.Part) -> None:
        """A worker brings a piece of a value of a run, which it will report when it is told that all of it is here.

        Where that run is over, nobody needs it. Where there is no room for it, it is told that. Raises as `give` does.
        """
        if self._is_of_refused(worker, part):
            return
        source, digest = (worker, part.run), part.digest
        is_last = part.offset + len(part.data) >= part.size
        if part.run not in self._needs:
            if is_last:
                worker.say(pb.Down(receipts=[pb.Receipt(run=part.run, digest=digest, kept=True)]))
            return
        if not part.offset:
            self._unreported.setdefault(source, Counter())[digest] += 1
            self._unanswered[source, digest] += 1
            self._contents.hold(source, digest)
        if not self._unreported.get(source, Counter())[digest]:  # it began before the run was here anew
            if is_last:
                worker.say(pb.Down(receipts=[pb.Receipt(run=part.run, digest=digest)]))
            return
        if self._unanswered[source, digest]:  # else this is what is left of one that is here
            self._take_value(worker, part)

    def _take_value(self, worker: Worker, part: pb.Part) -> None:
        source, digest = (worker, part.run), part.digest
        receipt = pb.Receipt(run=part.run, digest=digest)
        try:
            receipt.kept = self._take(source, part)
        except OSError as error:
            receipt.why = str(error)
            self._refuse(worker, part, error)
        if receipt.kept or receipt.why:
            count = self._unanswered.pop((source, digest))
            worker.say(pb.Down(receipts=[receipt] * count))
            for _ in range(0 if receipt.kept else count):
                self._has_reported(source, digest)

    def _is_of_refused(self, party: Party, part: pb.Part) -> bool:
        """Return whether a piece is what is left of something that was refused, and not the first one of another try."""
        if not part.offset:
            self._refused.discard((party, part.digest))
        return (party, part.digest) in self._refused

    def _refuse(self, party: Party, part: pb.Part, error: OSError) -> None:
        self._refused.add((party, part.digest))
        if self._sayings.due((party.name, str(error))):
            _log.warning(
                "There is no room for what %s sends (%d bytes): %s. It sends that again for some minutes.",
                self._names.get(party.name, party.name),
                part.size,
                error,
            )

    def report(self, worker: Party, report: pb.Report) -> None:
        """Keep the values that are reported, and let go of the arguments of what has ended or gone back."""
        needs = self._needs.get(report.run)
        for finished in report.finished:
            apart = finished.apart
            if apart:
                if needs is not None:
                    self._hold(report.run, report.fence, finished.attempt, apart)
                self._has_reported((worker, report.run), apart)
        if needs is None or not needs.apart:
            return
        for attempt in (*(each.attempt for each in report.finished), *report.recalled):
            digest = needs.apart.pop((report.fence, attempt), b"")
            if not digest:
                continue
            needs.count[digest] -= 1
            if not needs.count[digest]:
                del needs.count[digest]
                needs.named.discard(digest)
                self._give_up(digest)
                self._contents.release(report.run, digest)

    def _hold(self, run: str, fence: int, attempt: int, digest: bytes) -> None:
        value = run, fence, attempt
        self._needs[run].values.add(value)
        self._contents.hold(value, digest)

    def _has_reported(self, source: Source, digest: bytes) -> None:
        """A worker has reported a value that it has brought; it may be about to report an equal one."""
        count = self._unreported.get(source, Counter())
        count[digest] -= 1
        if count[digest] <= 0:
            del count[digest]
            self._contents.release(source, digest)
        if not count:
            self._unreported.pop(source, None)

    def _leave(self, sources: list[Source]) -> bool:
        """Nothing more comes from workers for runs: let go of what they have not reported; return whether there was any."""
        for source in sources:
            for digest in self._unreported.pop(source):
                self._unanswered.pop((source, digest), None)
            self._contents.give_up(source)
            self._contents.release(source)
        return bool(sources)

    # Both.

    def want(self, worker: Party, digest: bytes) -> None:
        """Send something to a worker that wants it, as soon as it is here; ask for it where it is not."""
        if digest in self._contents:
            self._send(worker, digest)
            return
        asked = digest in self._wanted
        self._wanted.setdefault(digest, set()).add(worker)
        if asked or self._contents.is_coming(digest):
            return
        self._ask(digest)

    def forget(self, party: Party) -> None:
        """Nothing more comes from somebody, nor goes there."""
        self._contents.give_up(party)
        self._leave([source for source in self._unreported if source[0] is party])
        self._under_way = {each for each in self._under_way if each[0] is not party}
        self._refused = {each for each in self._refused if each[0] is not party}
        both: tuple[dict[bytes, set[Any]], ...] = (self._wanted, self._readers)
        for waiting in both:
            for digest, parties in list(waiting.items()):
                parties.discard(party)
                if not parties:
                    del waiting[digest]
        self._seek()

    def _seek(self) -> None:
        """What was on its way may not be any more: ask for it again where it is wanted."""
        for digest in [digest for digest in self._wanted if not self._contents.is_coming(digest)]:
            self._ask(digest)
        self._say_missing()

    def _say_missing(self) -> None:
        """Say to the runs that want values back which of those nobody has; one may come as long as runs come back."""
        if self._looks_back:
            return
        for digest in [digest for digest in self._readers if not self._contents.is_coming(digest)]:
            for line in self._readers.pop(digest):
                line.say(pb.Tell(missing=[digest]))

    def _naming(self, digest: bytes) -> list[str]:
        return [run for run, needs in self._needs.items() if digest in needs.named]

    def _owners(self, digest: bytes) -> Collection[str]:
        """Return the runs that may have something."""
        return self._naming(digest) or self._lines

    def _ask(self, digest: bytes) -> None:
        for run in list(self._owners(digest)):
            line = self._lines.get(run)
            if line is not None:
                line.say(pb.Tell(wants=[digest]))

    def _give_up(self, digest: bytes) -> None:
        """A run names something no more: where none does, nobody is going to need it or to have it."""
        if digest in self._wanted and not self._naming(digest):
            del self._wanted[digest]

    def _take(self, source: Hashable, part: pb.Part) -> bool:
        """Take a piece, and return whether the whole is here. Raises TamperedError, OSError: see `Contents.add`."""
        if not self._contents.add(part, source):
            return False
        waiting: set[Party] = {*self._wanted.pop(part.digest, ()), *self._readers.pop(part.digest, ())}
        for party in waiting:
            self._send(party, part.digest)
        return True

    def _send(self, party: Party, digest: bytes) -> None:
        if (party, digest) not in self._under_way:
            self._under_way.add((party, digest))
            party.carry(self._pieces(party, digest))

    def _pieces(self, party: Party, digest: bytes) -> Iterator[pb.Part]:
        last = None
        for part in self._contents.pieces(digest):
            if last is not None:
                yield last
            last = part
        self._under_way.discard((party, digest))  # who has got all of it may want it again
        if last is not None:
            yield last
