"""A worker tells an end when what it rests on has been sent, and never of a rider before what it rode on."""

from __future__ import annotations

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.service.worker.later import Key, Later


def told(up: pb.Up) -> list[tuple[list[int], list[int]]]:
    return [([end.attempt for end in report.finished], list(report.recalled)) for report in up.reports]


def test_riders_are_told_behind_what_they_rode_on() -> None:
    """A value that is still being sent holds up the end of its attempt, and all that rode on that; other ends pass."""
    unsent: set[Key] = {("r", 1, 10)}
    later = Later(lambda key, _: key in unsent)
    later.assign(pb.Assign(run="r", fence=1, calls=[pb.Call(attempt=11, rides=11), pb.Call(attempt=12, rides=12)]))
    first = pb.Up(reports=[pb.Report(run="r", fence=1, finished=[pb.Finished(attempt=n) for n in (10, 11, 13)])])
    later.withhold(first)
    assert told(first) == [([13], [])]
    second = pb.Up(reports=[pb.Report(run="r", fence=1, finished=[pb.Finished(attempt=14)], recalled=[12, 15])])
    later.withhold(second)
    assert told(second) == [([14], [15])]
    assert later.ready() == []
    unsent.clear()
    assert told(pb.Up(reports=later.ready())) == [([10], []), ([11], []), ([], [12])]
    assert not later


def test_what_nobody_wants_is_not_told() -> None:
    """An acknowledgement, the end of a run and a new stream each end the waiting."""
    later = Later(lambda *_: True)
    for run in ("a", "b"):
        later.withhold(pb.Up(reports=[pb.Report(run=run, fence=1, finished=[pb.Finished(attempt=n) for n in (1, 2)])]))
    later.forget(("a", 1, 1))
    later.end("b")
    assert bool(later)
    later.clear()
    assert not later
