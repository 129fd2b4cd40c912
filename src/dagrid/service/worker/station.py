"""Where a worker's book, bench, contents and logs meet: what the coordinator says is done, and it is told what is new.

A report that rests on a large value is told when that has been sent, and one of an attempt that wrote something when that is
written. All of it is called in the worker's loop, by the link and by the bench. It knows no stream.
"""

from __future__ import annotations

import logging
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from dagrid.errors import TransferError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.execution.backends.cluster.duty import Duty
from dagrid.machine.events import Outcome
from dagrid.service.worker.bench import Bench
from dagrid.service.worker.bringing import Bringing
from dagrid.service.worker.folders import LOGS
from dagrid.service.worker.later import Key, Later
from dagrid.service.worker.logs import Logs
from dagrid.service.worker.runs import Run
from dagrid.service.worker.tasks import Task, without_room

LOOK = 0.1
"""Seconds between two looks at what attempts write."""
SPARE = 1 << 30
"""Bytes that are kept of contents that no run here has any more."""

_log = logging.getLogger("dagrid.worker")


class Station:
    """The desk of a worker (`dagrid.execution.backends.cluster.dialer.Desk`).

    Args:
        hello: what the worker is.
        loop: it lives in.
        folder: its own.
        labels: of the worker.
        wake: called when there is something to say.
        leave: called when all is said for good.
    """

    def __init__(
        self,
        hello: pb.Hello,
        *,
        loop: AbstractEventLoop,
        folder: Path,
        labels: Mapping[str, str],
        wake: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self.contents = Contents(folder / "contents", SPARE)
        self.duty = Duty(hello)
        self.logs = Logs()
        self._wake = wake
        self._marks: dict[Key, dict[str, int]] = {}  # how far logs have to arrive before an end is told
        self._later = Later(self._rests)
        self._refused: set[bytes] = set()  # contents for which there was no room, and that go on coming
        self._turn = False
        self._held: dict[str, set[Key]] = {}
        self.bench = Bench(
            self.duty,
            loop=loop,
            slots=hello.slots,
            folder=folder / "runs",
            contents=self.contents,
            labels=labels,
            begun=self._begun,
            ended=self._ended,
            over=self._over,
            changed=wake,
            leave=leave,
        )
        self._bringing = Bringing(
            loop, self.contents, artifacts_of=self.bench.artifacts_of, wake=wake, give_up=self._finds_no_room
        )

    # The link.

    def hello(self) -> pb.Hello:
        return self.duty.hello()

    def welcomed(self, welcome: pb.Welcome) -> None:
        self.duty.welcomed(welcome, monotonic())

    def hear(self, down: pb.Down) -> None:
        for part in down.parts:
            self._keep(part)
        for assign in down.assigns:
            self._hold(assign)
            self._later.assign(assign)
        for ack in down.log_acks:
            self.logs.acknowledge(ack)
        for receipt in down.receipts:
            self._bringing.hear(receipt)
        for some in down.acks:
            for attempt in some.attempts:
                self._release((some.run, some.fence, attempt))
        for some in down.cancels:
            for attempt in some.attempts:
                self._bring_no_more((some.run, some.fence, attempt))
        self.bench.do(self.duty.hear(down, monotonic()))
        self._wake()

    def _keep(self, part: pb.Part) -> None:
        """Keep a piece; what needs something for which there is no room has failed, and all else goes on."""
        if part.offset and part.digest in self._refused:
            if part.offset + len(part.data) == part.size:
                self._refused.discard(part.digest)
                self.duty.passed(part.digest)
            return
        try:
            if self.contents.add(part, "coordinator"):
                self.bench.do(self.duty.arrived(part.digest))
        except OSError as error:
            _log.error("What was sent cannot be kept, and what needs it has failed: %s", error)
            self._refused.add(part.digest)
            self.bench.do(self.duty.refused(part.digest, without_room(error)))

    def take(self) -> pb.Up | None:
        self.logs.look()
        up = self.duty.take()
        for report in up.reports if up is not None else ():
            for attempt in report.recalled:
                self._release((report.run, report.fence, attempt))
        if up is not None and (self._marks or self._later or any(map(_has_large, up.reports))):
            self._later.withhold(up)
        logs = self.logs.take(small=True)
        ready = self._later.ready() if self._later else []
        if not (logs or ready):
            return up
        up = up or pb.Up()
        up.logs.extend(logs)
        up.reports.extend(ready)
        return up

    def piece(self) -> pb.Up | None:
        """Return a piece of a value, or of a log, in turns."""
        ways = (self._log_piece, self._bringing.piece) if self._turn else (self._bringing.piece, self._log_piece)
        self._turn = not self._turn
        return ways[0]() or ways[1]()

    def _log_piece(self) -> pb.Up | None:
        logs = self.logs.take()
        return pb.Up(logs=logs) if logs else None

    def lost(self) -> None:
        self.duty.lose(monotonic())
        self.logs.lose()
        self.contents.give_up("coordinator")
        self._refused.clear()
        self._later.clear()
        self._bringing.lose()

    # Time.

    def tick(self) -> float:
        """Do what is due, and return after how many seconds something will be."""
        now = monotonic()
        due = self.duty.next_tick
        if due is not None and now >= due:
            self.duty.load = os.getloadavg()[0] / (os.cpu_count() or 1)
            self.bench.do(self.duty.tick(now))
            self._wake()
            due = self.duty.next_tick
        if self.logs.active:
            self.logs.look()
            if self.logs.behind:
                self._wake()
        wait = LOOK if self.logs.active else 1.0
        return wait if due is None else max(0.001, min(wait, due - monotonic()))

    def drain(self) -> None:
        """Take nothing any more, and leave when all has ended and arrived."""
        self.bench.do(self.duty.drain(monotonic()))
        self._wake()

    def close(self) -> None:
        """End all that is performed, and remove what there is of it."""
        self.bench.close()
        self.logs.close()
        self.contents.close()

    # What runs and attempts need, and leave.

    def _hold(self, assign: pb.Assign) -> None:
        """Keep what calls need; what was dropped meanwhile has to come again."""
        for digest in (assign.kit, *assign.needs):
            self._need(assign.run, digest)
        for call in assign.calls:
            self._need(assign.run, call.function)
            if call.apart or call.values:
                key = (assign.run, assign.fence, call.attempt)
                for digest in (call.apart, *call.values):
                    self._need(key, digest)
                self._held.setdefault(assign.run, set()).add(key)

    def _need(self, holder: object, digest: bytes) -> None:
        if not digest:
            return
        self.contents.hold(holder, digest)
        if digest not in self.contents:
            self.duty.evicted(digest)

    def _begun(self, run: Run) -> None:
        if run.folder is not None:
            self.logs.add(run.name, str(run.folder / LOGS), run.source)

    def _ended(self, task: Task) -> None:
        key = (task.run.name, task.fence, task.call.attempt)
        end = task.end
        assert end is not None
        if end.apart:
            self.contents.hold(key, end.apart)
            self._held.setdefault(task.run.name, set()).add(key)
            self.bench.do(self.duty.arrived(end.apart))  # who takes it may be performed here
        done = {task.call.apart, *task.call.values} - {b"", end.apart}
        if done:
            self.contents.release(key, *done)
        if task.run.folder is not None:
            self.logs.look()
            marks = self.logs.marks(task.run.name)
            if marks:
                self._marks[key] = marks

    def _release(self, key: Key) -> None:
        """Nobody wants to hear of an attempt any more."""
        self._marks.pop(key, None)
        self._later.forget(key)
        self._bringing.forget(key)
        held = self._held.get(key[0])
        if held is not None and key in held:
            held.discard(key)
            self.contents.release(key)

    def _bring_no_more(self, key: Key) -> None:
        """Nobody wants the value of an attempt that is cancelled while that is on its way, which may take for ever."""
        if not self._bringing.is_there(key):
            self._end_without(key, pb.Finished(outcome=Outcome.CANCELLED))

    def _finds_no_room(self, key: Key, size: int, why: str) -> None:
        """The coordinator has no room for the value of an attempt, and has had none for minutes."""
        error = TransferError(
            f"The value ({size} bytes) finds no room with the coordinator ({why}). Make room on its disk, or keep large values "
            "elsewhere: ClusterBackend(..., artifacts=...)."
        )
        self._end_without(key, without_room(error))

    def _end_without(self, key: Key, end: pb.Finished) -> None:
        if self.duty.unbrought(key[:2], key[2], end):
            self._bringing.forget(key)
            self._later.forget(key)

    def _over(self, run: Run) -> None:
        for key in self._held.pop(run.name, ()):
            self.contents.release(key)
        self.contents.release(run.name)
        self.logs.remove(run.name)
        self._later.end(run.name)
        self._bringing.end(run.name)
        for key in [key for key in self._marks if key[0] == run.name]:
            del self._marks[key]

    # What is told later.

    def _rests(self, key: Key, end: pb.Finished) -> bool:
        """Return whether something has to be sent, or to arrive, before an end is told."""
        if end.apart and self._bringing.rests(key, end):
            return True
        marks = self._marks.get(key)
        if marks is None:
            return False
        if not self.logs.passed(key[0], marks):
            return True
        del self._marks[key]
        return False


def _has_large(report: pb.Report) -> bool:
    return any(end.apart for end in report.finished)
