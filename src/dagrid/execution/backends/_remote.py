"""One call performed in an engine's own worker, and how it travels there and back: bytes out, bytes in.

The engines (Ray, Dask, Celery, ipyparallel) carry these bytes each in their way; what is in them is the same for all. `perform`
runs on the worker, everything else on the driver's side. It knows calls and outcomes, and no engine.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from time import time
from typing import Any

import msgspec

from dagrid.attempt import Here, performing
from dagrid.errors import CapabilityError
from dagrid.execution.backends._transfer import Pickled, decode_error, encode_arguments, encode_function, stuck_error
from dagrid.execution.backends._worker import STUCK, encode, encode_error, loads, stuck, told, type_name
from dagrid.machine.events import Finished, Outcome
from dagrid.ports import Call

PYTHON = sys.version_info[:2]


class Order(msgspec.Struct, array_like=True):
    """A call as it is sent: the function and the arguments pickled, each by itself, for a function is sent often."""

    attempt: int
    node: str
    function: bytes
    arguments: bytes | None
    python: tuple[int, int] = PYTHON


class Report(msgspec.Struct, array_like=True):
    """What became of a call: times in seconds of the worker's clock of day, and one of value or failure, pickled."""

    attempt: int
    worker: str
    started: float
    ended: float
    value: bytes | None = None
    failure: bytes | None = None
    stuck: bool = False
    extra: bytes | None = None


_encode_order = msgspec.msgpack.Encoder().encode
_decode_order = msgspec.msgpack.Decoder(Order).decode
_encode_report = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.msgpack.Decoder(Report).decode


def order(call: Call, function: bytes | None = None) -> bytes:
    """Return a call as bytes.

    Args:
        call: the call; values among its arguments that came from a worker travel on as they are.
        function: its function, if it is pickled already.

    Raises:
        TransferError: the function or an argument cannot travel; it names the node.
    """
    return _encode_order(
        Order(call.attempt, call.node, encode_function(call) if function is None else function, encode_arguments(call))
    )


def perform(sent: bytes, functions: dict[bytes, Callable[..., Any]] | None = None) -> bytes:
    """On the worker: perform a call and return its report. Whatever the task raises is in the report.

    Args:
        sent: what `order` made.
        functions: remembers functions that have been opened, for workers that live long.
    """
    call = _decode_order(sent)
    here = Here(call)
    report = Report(call.attempt, worker_name(), time(), 0.0)
    try:
        fn, args, kwargs = _opened(call, functions)
    except BaseException as error:  # noqa: BLE001 - the user's code
        what = "function" if isinstance(error, _FunctionError) else "argument"
        report.failure, report.stuck = stuck(what, what, error.__cause__ or error), True
    else:
        token = performing.set(here)
        report.started = time()
        try:
            value = fn(*args, **kwargs)
            report.ended = time()
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt fail the task, no more
            report.ended = time()
            kind, report.failure = encode_error(error)
            report.stuck = kind == STUCK
        else:
            _put_value(report, value, here.take())
        finally:
            performing.reset(token)
            here.call = None
    report.ended = report.ended or time()
    return _encode_report(report)


def finished(sent_back: bytes, call: Call, worker: int, draw: float, shift: float) -> Finished:
    """Return the terminal event of a call.

    Args:
        sent_back: what `perform` returned.
        call: the call.
        worker: the number of the machine's worker that had it.
        draw: a random number for the jitter of a retry.
        shift: what the run's clock is ahead of the worker's clock of day, in seconds.
    """
    report = _decode_report(sent_back)
    event = Finished(worker, call.attempt, Outcome.COMPLETED, report.started + shift, report.ended + shift, draw=draw)
    if report.failure is None:
        event.value = None if report.value is None else Pickled(report.value, call.node)
        event.extra = None if report.extra is None else Pickled(report.extra, call.node)
        return event
    error: BaseException
    retryable = True
    if report.stuck:
        error, retryable = stuck_error(report.failure, call)
    else:
        error = decode_error(report.failure, call.node)
    event.outcome, event.value, event.error, event.retryable = Outcome.FAILED, error, told(error), retryable
    return event


def completed(sent_back: bytes) -> bool:
    """Return whether a call has completed; an empty report is of one that was not performed."""
    return bool(sent_back) and _decode_report(sent_back).failure is None


def value_of(sent_back: bytes) -> Any:
    """Return the value of a call that has completed, on the worker that performed it; a new object each time."""
    value = _decode_report(sent_back).value
    return None if value is None else loads(value)


def where(sent_back: bytes) -> str:
    """Return the name of the worker that performed a call."""
    return _decode_report(sent_back).worker


def worker_name() -> str:
    """Return what this process is called in traces: its machine and its number."""
    return f"{socket.gethostname()}:{os.getpid()}"


class _FunctionError(Exception):
    """The function of a call cannot be opened."""


def _opened(
    call: Order, functions: dict[bytes, Callable[..., Any]] | None
) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    if tuple(call.python) != PYTHON:
        theirs, ours = ".".join(map(str, call.python)), ".".join(map(str, PYTHON))
        raise CapabilityError(
            f"The driver runs Python {theirs} and this worker Python {ours}: functions and values do not travel between them. "
            f"Start the workers with Python {theirs}."
        )
    fn = functions.get(call.function) if functions is not None else None
    if fn is None:
        try:
            fn = loads(call.function)
        except BaseException as error:
            raise _FunctionError from error
        if functions is not None:
            functions[call.function] = fn
    if call.arguments is None:
        return fn, (), {}
    args, kwargs = loads(call.arguments)
    return fn, args, kwargs or {}


def _put_value(report: Report, value: Any, extra: Any) -> None:
    try:
        report.value = None if value is None else encode(value)
    except BaseException as error:  # noqa: BLE001 - the user's code
        report.failure, report.stuck = stuck("value", type_name(value), error), True
        return
    try:
        report.extra = None if extra is None else encode(extra)
    except BaseException as error:  # noqa: BLE001 - the user's code
        report.value = None
        report.failure, report.stuck = stuck("extra", type_name(extra), error), True
