"""What the tests of streams share."""

from __future__ import annotations

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.backends.cluster.hub import Hub
from tests.fleet.wire import Run, Worker, digest_of, to

KEY = b"a key that both sides hold"
MIB = 2**20


def text(size: int) -> bytes:
    line = b"2026-01-01 00:00:00 INFO step %d has done what it had to do\n"
    return b"".join(line % number for number in range(size // 58))[:size]


def brought(value: bytes, run: str = "run") -> list[pb.Part]:
    """Return a value of a run in pieces, as a worker brings it."""
    pieces = list(parts(value, digest_of(value)))
    for piece in pieces:
        piece.run = run
    return pieces


def settle(coordinator: Hub) -> None:
    """Let the coordinator do so much else that whatever it could do by itself would have been done."""
    with Worker(to(coordinator), "busy") as worker:
        run = Run("settling")
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        joined = run.joined("busy")
        for attempt in range(100):
            run.assign(joined, pb.Call(attempt=attempt))
            run.ends(attempt + 1)
        run.close()
        assert worker.downs.all
