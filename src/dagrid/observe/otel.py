"""A run as a trace of OpenTelemetry: a span for the run, one below it for each attempt, sent to a collector by OTLP over HTTP.

It is a reader of events, which knows no workflow. Whatever becomes of the collector, the run goes on: its end waits as long as an
answer may take, and one line says what was not sent.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dagrid.errors import InvalidSettingError
from dagrid.masking import masked
from dagrid.ports import RunEvent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from dagrid.observe._otlp import Sending

TIMEOUT = 3.0
LONGEST = 4000
SAMPLED = 1
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_WRONG = frozenset({"failed", "timed_out", "lost", "cancelled", "retry", "requeued"})
_ENDS = _WRONG | {"completed", "passed", "repeated", "held"}
_EVENTS = {"retry": "retry", "requeued": "requeue", "repeated": "repeat", "passed": "skip", "held": "wait"}
_OF_THE_RUN = {
    **dict.fromkeys(("skipped", "omitted"), "skip"),
    "reused": "reuse",
    "signalled": "signal",
    "stopped": "stop",
    "reopened": "reopen",
}
_GOOD = ("succeeded", "partially_succeeded")


class Caller(NamedTuple):
    """Where a trace goes on: the ids of the trace and of the span above (0: none), and the flags of the trace."""

    trace: int
    span: int
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace:032x}-{self.span:016x}-{self.flags:02x}"


@dataclass(frozen=True, slots=True)
class Attempts:
    """Gives each attempt of a run its span, the same wherever it is asked; `key` is the trace and the run."""

    caller: Caller
    key: str

    def __call__(self, node: str, attempt: int) -> str:
        """Return the traceparent of an attempt (from 1) of a node, for what goes on below it."""
        return str(self.caller._replace(span=self.span_id(node, attempt)))

    def span_id(self, node: str, attempt: int) -> int:
        """Return the id of the span of an attempt."""
        told = f"{self.key} {attempt} {node}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) or 1


class Traces:
    """Send what happens in one run as a trace.

    Args:
        endpoint: where to, a URL; without a path it gets that of OTLP. By default what OTEL_EXPORTER_OTLP_ENDPOINT says.
        headers: go with every request.
        insecure: take http in place of https where the endpoint says neither.
        timeout: seconds for an answer; so long the end of a run waits for the last one, and no longer.
        resource: attributes of this program; `service.name` is "dagrid" if nothing is said.
        name: of the span of the run; by default that of the graph.
        attributes: of the span of the run.
        parent: a W3C traceparent to go on with; by default the span in which this is called, else TRACEPARENT of the environment.
        run_id: of the run, if it is known: then the spans of its attempts have the same ids whoever goes on with it.
        mask: secrets, replaced in all texts.
        say: gets a line if spans could not be sent; by default the log "dagrid" does.
        sending: takes the spans, in place of all that is said of a collector; it stays open.

    Raises:
        InvalidSettingError: the packages of OpenTelemetry are not there.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        insecure: bool = False,
        timeout: float = TIMEOUT,
        resource: Mapping[str, Any] | None = None,
        name: str = "",
        attributes: Mapping[str, Any] | None = None,
        parent: str = "",
        run_id: str = "",
        mask: Sequence[str] = (),
        say: Callable[[str], object] | None = None,
        sending: Sending | None = None,
    ) -> None:
        try:
            from dagrid.observe import _otlp
        except ImportError as error:
            raise InvalidSettingError(
                f"Traces need OpenTelemetry, which cannot be imported ({error}): pip install 'dagrid[otel]'"
            ) from error
        self._made = time()
        self._name = name
        self._mask = mask
        self._say = say or logging.getLogger("dagrid").warning
        trace, self._span_id = _otlp.fresh()
        given = parent or _otlp.around() or os.environ.get("TRACEPARENT", "")
        self._caller = read_traceparent(given) or Caller(trace, 0, SAMPLED)
        self.of_attempt = Attempts(self._caller, f"{self._caller.trace:032x} {run_id or f'{self._span_id:016x}'}")
        self._attributes = {key: self._text(one) for key, one in (attributes or {}).items()}
        self._owns = sending is None
        service = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "dagrid"}
        about = {**service, **flat(resource or {})}
        self.sending = sending or _otlp.Sending(
            url_of(endpoint, insecure), headers or {}, timeout, {key: self._text(one) for key, one in about.items()}
        )
        self._offset = 0.0
        self._run: Any = None
        self._span: Span | None = None
        self._started: dict[str, RunEvent] = {}
        self._reason = ""

    @property
    def traceparent(self) -> str:
        """The span of the run, for what goes on below it."""
        return str(self._caller._replace(span=self._span_id))

    def begin(self, run: Any) -> None:
        """Begin the span of the run: of one that goes on, that of the part which this process performs."""
        self._run = run
        self._offset = run.began
        caller = self._caller
        known = {"dagrid.run.id": run.id} if run.id else {}
        self._span = self.sending.begin(
            self._name or run.name or "dagrid",
            caller.trace,
            self._span_id,
            caller.span,
            caller.flags,
            max(self._offset, self._made),
            {**known, **self._attributes},
        )

    def observe(self, events: Sequence[RunEvent]) -> None:
        """Send the attempts that have ended."""
        for event in events:
            if event.kind == "started":
                self._started[event.node] = event
            elif event.kind in _ENDS and event.node in self._started:
                self._attempt(self._started.pop(event.node), event, event.kind)
            elif self._offset + event.at < self._made:
                continue  # an earlier process of this run has told it
            elif event.kind in _OF_THE_RUN or event.kind in _WRONG:
                self._tell(event, _OF_THE_RUN.get(event.kind, event.kind))
            if event.kind == "run_ended":
                self._reason = event.detail

    def end(self) -> None:
        """End the span of the run, and send what is left."""
        run, span = self._run, self._span
        if span is None:
            return
        at = run.seconds
        if self._offset + at < self._made:
            return  # it had ended before, and was only read
        for node, began in list(self._started.items()):
            self._attempt(began, RunEvent(0, at, "", node, began.attempt), "unknown")
        status = run.result().status.value if run.done else "waiting" if run.waiting else "interrupted"
        span.set_attribute("dagrid.run.status", status)
        self._judge(span, None if not run.done else status in _GOOD, self._reason or status)
        self.sending.end(span, self._offset + at)
        if self._owns:
            wrong = self.sending.close()
            if wrong:
                self._say(self._text(f"traces: {wrong}"))

    def _attempt(self, began: RunEvent, ended: RunEvent, outcome: str) -> None:
        if self._offset + ended.at < self._made:
            return
        caller = self._caller
        span = self.sending.begin(
            self._text(began.node),
            caller.trace,
            self.of_attempt.span_id(began.node, began.attempt),
            self._span_id,
            caller.flags,
            self._offset + began.at,
            {"dagrid.node": self._text(began.node), "dagrid.attempt": began.attempt, "dagrid.outcome": outcome},
        )
        worker = ended.worker or began.worker
        if worker:
            span.set_attribute("dagrid.worker", worker)
        at = self._offset + max(ended.at, began.at)
        if outcome in _EVENTS:
            detail = {"dagrid.reason": self._text(ended.detail)} if ended.detail else {}
            span.add_event(_EVENTS[outcome], detail, round(at * 1e9))
        is_good = False if outcome in _WRONG else True if outcome == "completed" else None
        self._judge(span, is_good, ended.detail or outcome)
        self.sending.end(span, at)

    def _tell(self, event: RunEvent, what: str) -> None:
        assert self._span is not None
        said = {"dagrid.node": event.node, "dagrid.reason": event.detail}
        texts = {key: self._text(text) for key, text in said.items() if text}
        self._span.add_event(what, texts, round((self._offset + event.at) * 1e9))

    def _judge(self, span: Span, is_good: bool | None, why: str) -> None:
        from opentelemetry.trace import StatusCode

        if is_good is not None:
            span.set_status(StatusCode.OK if is_good else StatusCode.ERROR, None if is_good else self._text(why))

    def _text(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._text(one) for one in value]
        if not isinstance(value, str):
            return value
        text = masked(value, self._mask) if self._mask else value
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def fresh_traceparent() -> str:
    """Return what a new trace begins with: a traceparent that has no span above."""
    return str(Caller(int.from_bytes(os.urandom(16)) or 1, 0, SAMPLED))


def read_traceparent(text: str) -> Caller | None:
    """Return what a W3C traceparent says; None for any other text."""
    found = _TRACEPARENT.fullmatch(text.strip())
    return None if found is None else Caller(int(found[1], 16), int(found[2], 16), int(found[3], 16))


def url_of(endpoint: str, insecure: bool) -> str:
    """Return the address to which spans are sent; empty for an empty endpoint."""
    said = endpoint.strip()
    if not said:
        return ""
    url = said if "://" in said else f"{'http' if insecure else 'https'}://{said}"
    _, _, rest = url.partition("://")
    return url if rest.partition("/")[2] else url.rstrip("/") + "/v1/traces"


def flat(resource: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return attributes without mappings in them: `service: {name: x}` is `service.name`."""
    found: dict[str, Any] = {}
    for key, value in resource.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        elif isinstance(value, (list, tuple)):
            found[f"{prefix}{key}"] = [str(one) for one in value]
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, (str, bool, int, float)) else str(value)
    return found
