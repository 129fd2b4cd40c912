"""What workers report of attempts, as the run hears of it: events with values, errors, and times by its own clock.

Nothing is kept here, and nothing asked for; values that are large are named, and read by whoever wants them.
"""

from __future__ import annotations

from time import time

from dagrid.errors import BackendError
from dagrid.execution.backends._transfer import Pickled, decode_error, stuck_error
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.apart import Values
from dagrid.execution.backends.cluster.lanes import Sent
from dagrid.machine.events import UNSTARTED, Finished, Outcome
from dagrid.ports import Call, Host


class Reading:
    """The reports of one run.

    Args:
        host: of the run.
        values: what is too large for a report.
    """

    def __init__(self, host: Host, values: Values) -> None:
        self._host = host
        self._values = values
        self._shift = host.now() - time()

    def own_time(self, at: float, sent: Sent, now: float) -> float:
        """Return a time of an attempt, told by its worker's clock, by that of the run: not before it was sent, nor after now."""
        return min(max(sent.at, at + self._shift), now)

    def ended(self, number: int, end: pb.Finished, sent: Sent, begun: float, now: float) -> Finished:
        """Return the end of an attempt.

        Args:
            number: of the worker.
            end: as it was reported.
            sent: what was asked for.
            begun: when it has started, if that is known.
            now: the time of the run.
        """
        call = sent.call
        ended = self.own_time(end.ended, sent, now) if end.ended else now  # lost, and nobody knows when
        # The clocks of two machines differ; how long it took, each knows.
        started = begun if begun != UNSTARTED else max(sent.at, ended - max(0.0, end.ended - end.started))
        outcome = Outcome(end.outcome)
        event = Finished(number, end.attempt, outcome, started, max(started, ended))
        if outcome is not Outcome.COMPLETED:
            event.draw = self._host.draw()
        if end.extra:
            event.extra = Pickled(end.extra, call.node)
        if end.stuck:
            event.value, event.retryable = stuck_error(end.stuck, call)
        elif end.failure:
            event.value = decode_error(end.failure, call.node)
        elif end.apart:
            event.value = self._values.of(end.apart, end.size, call.node, number + 1, end.attempt)
        elif end.value:
            event.value = Pickled(end.value, call.node)
        if isinstance(event.value, BaseException):
            event.error = told(event.value)
        elif outcome is Outcome.FAILED:
            event.value, event.error = BackendError(end.error), end.error
        else:
            event.error = end.error
        event.retryable = event.retryable and not end.final
        return event

    def failed(self, number: int, call: Call, error: Exception, final: bool) -> Finished:
        """Return the end of an attempt that cannot be performed, or not go on; `final` says that another try cannot either."""
        now = self._host.now()
        draw = self._host.draw()
        return Finished(number, call.attempt, Outcome.FAILED, now, now, error, told(error), not final, draw)
