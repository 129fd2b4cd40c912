"""Reports that wait: an end is told when what it rests on has been sent, and what rode on it behind that.

The coordinator has to hear of an attempt before it hears of one that rode on it, for before that it does not know that this one
is here. It knows reports, and nothing of what they rest on.
"""

from __future__ import annotations

from collections.abc import Callable

from dagrid.execution.backends.cluster import fleet_pb2 as pb

Key = tuple[str, int, int]
"""An attempt: its run, the fence of the use of this worker, and its number."""


class Later:
    """What is told later.

    Args:
        rests: returns whether something has to be sent before an end is told; it is asked again as long as that is so.
    """

    def __init__(self, rests: Callable[[Key, pb.Finished], bool]) -> None:
        self._rests = rests
        self._rides: dict[str, dict[Key, Key]] = {}  # by run, on what attempts ride
        self._waiting: dict[
            Key, pb.Finished | None
        ] = {}  # in the order in which it happened; None is one that goes back

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def assign(self, assign: pb.Assign) -> None:
        """Note which attempts ride."""
        for call in assign.calls:
            if call.rides:
                key = (assign.run, assign.fence, call.attempt)
                self._rides.setdefault(assign.run, {})[key] = (assign.run, assign.fence, call.rides - 1)

    def withhold(self, up: pb.Up) -> None:
        """Take out of a message what has to wait."""
        for report in up.reports:
            ends = [end for end in report.finished if not self._keep(report, end.attempt, end)]
            if len(ends) < len(report.finished):
                ends = [_copy(end) for end in ends]
                del report.finished[:]
                report.finished.extend(ends)
            back = [attempt for attempt in report.recalled if not self._keep(report, attempt, None)]
            if len(back) < len(report.recalled):
                del report.recalled[:]
                report.recalled.extend(back)

    def ready(self) -> list[pb.Report]:
        """Return what need not wait any more."""
        found = []
        for key, end in list(self._waiting.items()):
            if self._follows(key) or (end is not None and self._rests(key, end)):
                continue
            del self._waiting[key]
            run, fence, attempt = key
            if end is None:
                found.append(pb.Report(run=run, fence=fence, recalled=[attempt]))
            else:
                found.append(pb.Report(run=run, fence=fence, finished=[end]))
        return found

    def forget(self, key: Key) -> None:
        """Nobody wants to hear of an attempt."""
        self._waiting.pop(key, None)

    def end(self, run: str) -> None:
        """Nobody wants to hear of a run."""
        self._rides.pop(run, None)
        for key in [key for key in self._waiting if key[0] == run]:
            del self._waiting[key]

    def clear(self) -> None:
        """All that has not been acknowledged is told again."""
        self._waiting.clear()

    def _keep(self, report: pb.Report, attempt: int, end: pb.Finished | None) -> bool:
        key = (report.run, report.fence, attempt)
        if self._follows(key) or (end is not None and self._rests(key, end)):
            self._waiting[key] = None if end is None else _copy(end)
            return True
        return False

    def _follows(self, key: Key) -> bool:
        """Return whether an attempt rode on one that has not been told of."""
        rides = self._rides.get(key[0])
        return rides is not None and rides.get(key) in self._waiting


def _copy(end: pb.Finished) -> pb.Finished:
    """Return an end that does not go with the message that it is in."""
    made = pb.Finished()
    made.CopyFrom(end)
    return made
