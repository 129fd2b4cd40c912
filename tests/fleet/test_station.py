"""What a worker keeps of what it was sent, and how long: no process, no stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import parts
from dagrid.service.worker import station as station_module
from dagrid.service.worker.station import Station
from tests.fleet.wire import digest_of

LARGE = bytes(1 << 19)


def test_what_a_call_takes_goes_when_the_call_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed until the end of the run, however many calls were taken back from there and performed elsewhere."""
    monkeypatch.setattr(station_module, "SPARE", 0)
    digest = digest_of(LARGE)
    loop = asyncio.new_event_loop()
    made = Station(
        pb.Hello(id="w", slots=1), loop=loop, folder=tmp_path, labels={}, wake=lambda: None, leave=lambda: None
    )
    try:
        made.welcomed(pb.Welcome(heartbeat=1, lease=30, coordinator="c"))
        calls = [pb.Call(attempt=attempt, function=b"comes never", values=[digest]) for attempt in (1, 2)]
        made.hear(pb.Down(assigns=[pb.Assign(run="r", fence=1, calls=calls)]))
        made.hear(pb.Down(parts=parts(LARGE, digest)))
        for attempt in (1, 2):
            assert digest in made.contents
            made.hear(pb.Down(recalls=[pb.Some(run="r", fence=1, attempts=[attempt])]))
            up = made.take()
            assert up is not None
            assert [list(report.recalled) for report in up.reports] == [[attempt]]
        assert digest not in made.contents
    finally:
        made.close()
        loop.close()
