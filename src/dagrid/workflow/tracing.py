"""Whether and where the trace of a run goes, as its workflow or the run that called it says, and what its steps go on with.

It reads settings and makes a reader of the run; it knows neither the steps nor the engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dagrid.config.times import duration
from dagrid.errors import InvalidSettingError, WorkflowError
from dagrid.masking import masked
from dagrid.workflow.context import Context
from dagrid.workflow.expressions import evaluate, parse
from dagrid.workflow.model import Otel, Workflow, place, said
from dagrid.workflow.variables import Names

if TYPE_CHECKING:
    from dagrid.observe.otel import Traces

VARIABLE = "TRACEPARENT"


class Above(NamedTuple):
    """What a step of another run calls a run with.

    Args:
        traceparent: that of the step.
        traces: those of the other run, if it has some.
        secrets: what is masked there, and so in the run that is called.
        at_home: the files that no worker gets there, and so for the run that is called.
    """

    traceparent: str = ""
    traces: Traces | None = None
    secrets: tuple[str, ...] = ()
    at_home: tuple[str, ...] = ()


NOBODY = Above()


def trace_of(workflow: Workflow, above: Above) -> str:
    """Return with which traceparent a new run goes on, for its record; empty for one that wants no traces.

    Args:
        workflow: that runs.
        above: what called it.
    """
    if not workflow.otel.enabled:
        return ""
    from dagrid.observe.otel import fresh_traceparent  # few runs have traces, and it loads much

    given = above.traceparent or os.environ.get(VARIABLE, "")
    return given if _is_one(given) else fresh_traceparent()


def traces_of(context: Context, trace: str, above: Above, about: Mapping[str, str]) -> Traces | None:
    """Return the reader that sends the trace of a run, None if none is wanted; its steps learn of it by their context.

    A workflow that says nothing of traces has those of the run that called it.

    Args:
        context: of the run; what it says of traces is set.
        trace: the traceparent with which it goes on.
        above: what called it.
        about: attributes of the run beside those of every run.

    Raises:
        WorkflowError: the settings are wrong, or the packages are not there; nothing has run.
    """
    workflow = context.workflow
    otel = workflow.otel
    trace = above.traceparent or trace
    has_own = said(workflow, "otel")
    if not otel.enabled and (has_own or above.traces is None):
        if above.traceparent and _is_one(above.traceparent):
            context.environment = {**context.environment, VARIABLE: above.traceparent}
        return None
    from dagrid.observe.otel import Traces

    own = _settings(context, otel) if otel.enabled else {}
    try:
        traces = Traces(
            **own,
            name=context.name,
            attributes={"dagrid.run.id": context.logs.run_id, "dagrid.workflow": context.name, **about},
            parent=trace,
            run_id=context.logs.run_id,
            mask=context.secrets,
            say=context.note,
            sending=None if own or above.traces is None else above.traces.sending,
        )
    except InvalidSettingError as error:
        raise _wrong(context, "enabled", error.message) from error
    context.environment = {**context.environment, VARIABLE: traces.traceparent}
    context.traceparent = traces.of_attempt
    return traces


def _is_one(traceparent: str) -> bool:
    from dagrid.observe.otel import read_traceparent

    return read_traceparent(traceparent) is not None


def _settings(context: Context, otel: Otel) -> dict[str, Any]:
    names = Names([context.given, context.variables, os.environ])

    def text(value: str) -> str:
        return evaluate(parse(value, backticks=False), names)

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, Mapping):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    from dagrid.observe.otel import TIMEOUT

    timeout = text(otel.timeout).strip()
    try:
        seconds = duration(timeout) if timeout else TIMEOUT
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise _wrong(context, "timeout", f"the timeout of otel is {timeout!r}; write a time such as 5s")
    return {
        "endpoint": text(otel.endpoint),
        "headers": {name: text(value) for name, value in otel.headers.items()},
        "insecure": otel.insecure,
        "timeout": seconds,
        "resource": plain(otel.resource),
    }


def _wrong(context: Context, field: str, message: str) -> WorkflowError:
    where = place(context.workflow.otel, field)
    return WorkflowError([context.file.problem(where, masked(message, context.secrets))])
