"""One call performed in an engine's own worker, and how it travels there and back: bytes out, bytes in.

The engines (Ray, Dask, Celery, ipyparallel) carry these bytes each in their way; what is in them is the same for all. `perform`
runs on the worker, everything else on the driver's side. A large value may stay behind; then only what the engine refers to it by
goes there and back. It knows calls and outcomes, and no engine.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import lru_cache
from time import time
from typing import Any
from weakref import WeakSet

import msgspec

from dagrid.attempt import Here, performing
from dagrid.errors import CapabilityError, TransferError
from dagrid.execution.backends._transfer import Pickled, decode_error, encode_arguments, encode_function, stuck_error
from dagrid.execution.backends._worker import STUCK, encode, encode_error, loads, stuck, told, type_name
from dagrid.machine.events import Finished, Outcome
from dagrid.ports import Call, Encoded

PYTHON = sys.version_info[:2]
KEPT_FROM = 100 * 2**10
"""Values that are pickled in more bytes than this stay where they were made, in engines that can refer to them."""


class Order(msgspec.Struct, array_like=True):
    """A call as it is sent: the function and the arguments pickled, each by itself, for a function is sent often."""

    attempt: int
    node: str
    function: bytes
    arguments: bytes | None
    python: tuple[int, int] = PYTHON


class Report(msgspec.Struct, array_like=True):
    """What became of a call: times in seconds of the worker's clock of day, and one of value or failure, pickled.

    Of a value that was kept only the number of its bytes is said.
    """

    attempt: int
    worker: str
    started: float
    ended: float
    value: bytes | None = None
    failure: bytes | None = None
    stuck: bool = False
    extra: bytes | None = None
    kept: int = 0


_encode_order = msgspec.msgpack.Encoder().encode
_decode_order = msgspec.msgpack.Decoder(Order).decode
_encode_report = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.msgpack.Decoder(Report).decode


class Reference(Encoded):
    """A value that stays where it was made until somebody wants to have it here.

    Among the arguments of a later call it travels as what its engine knows it by, if the engine takes that (`order`); else, and
    anywhere else, as the value. When nobody refers to it any more its engine lets go of the value. All of it may be called from
    any thread.

    Args:
        handle: what the engine knows the value by; its end is the value's.
        size: of the pickled value in bytes.
        node: whose value it is.
        fetch: returns the pickled value.
    """

    __slots__ = ("__weakref__", "_data", "_fetch", "handle", "node", "size")

    def __init__(self, handle: Any, size: int, node: str, fetch: Callable[[Any], bytes]) -> None:
        self.handle: Any | None = handle
        self.size = size
        self.node = node
        self._fetch = fetch
        self._data: bytes | None = None

    def decode(self) -> Any:
        """Return the value; raise `TransferError` if it is lost, or cannot be rebuilt here."""
        return Pickled(self.packed(), self.node).decode()

    def packed(self) -> bytes:
        """Return the value pickled; it is fetched once."""
        data = self._data
        if data is None:
            try:
                data = self._data = self._fetch(self.handle)
            except Exception as error:
                raise lost_error(self.node, self.size, error) from error
        return data

    def bring_home(self) -> None:
        """Have the value here from now on, for its engine goes."""
        self.packed()
        self.handle = None

    def __reduce__(self) -> tuple[Any, ...]:
        gathered: list[Reference] | None = getattr(_travelling, "gathered", None)
        if gathered is None or self.handle is None:
            return loads, (self.packed(),)
        place = next((place for place, other in enumerate(gathered) if other is self), len(gathered))
        if place == len(gathered):
            gathered.append(self)
        return _arrived, (place,)

    def __repr__(self) -> str:
        return f"<Reference to the value of {self.node!r}, {self.size} bytes>"


class Depot:
    """The values of an engine that stayed where they were made, as far as somebody here still refers to them.

    Args:
        fetch: returns the bytes for the engine's handle of a value, and raises what the engine raises.
    """

    def __init__(self, fetch: Callable[[Any], bytes]) -> None:
        self._fetch = fetch
        self._guard = threading.Lock()
        self._known: WeakSet[Reference] = WeakSet()

    def reference(self, handle: Any, size: int, node: str) -> Reference:
        """Return a reference to the value of a node."""
        made = Reference(handle, size, node, self._fetch)
        with self._guard:
            self._known.add(made)
        return made

    def bring_home(self) -> None:
        """The engine is about to go: fetch what somebody may still want. What cannot be had says so when it is read."""
        with self._guard:
            left = list(self._known)
        for each in left:
            with suppress(TransferError):
                each.bring_home()


_travelling = threading.local()
"""While arguments are pickled: the references that were met, `gathered`; while they are opened: what came for them, `arrived`."""


def _arrived(place: int) -> Any:
    """Stands in pickled arguments for the value of a reference."""
    return loads(_travelling.arrived[place])


def lost_error(node: str, size: int, error: BaseException) -> TransferError:
    """Return the error for a value that stayed where it was made, and is not there any more."""
    why = " ".join(told(error).split())
    whose = f"The value of node {node!r}" if node else "The value of a node"
    return TransferError(
        f"{whose} ({size} bytes) stayed where it was made, and cannot be had from there any more ({why}). "
        "Run the node again; a run with a checkpoint keeps a copy of every value.",
        node,
    )


def order(call: Call, function: bytes | None = None, references: list[Reference] | None = None) -> bytes:
    """Return a call as bytes.

    Args:
        call: the call; values among its arguments that came from a worker travel on as they are.
        function: its function, if it is pickled already.
        references: is given the references among the arguments, however deep, for an engine that passes them; `perform_apart`
            then wants what they stand for, in this order. Without it the values themselves travel.

    Raises:
        TransferError: the function or an argument cannot travel; it names the node.
    """
    function = encode_function(call) if function is None else function
    _travelling.gathered = references
    try:
        return _encode_order(Order(call.attempt, call.node, function, encode_arguments(call)))
    finally:
        _travelling.gathered = None


def perform(sent: bytes, functions: dict[bytes, Callable[..., Any]] | None = None) -> bytes:
    """On the worker: perform a call and return its report. Whatever the task raises is in the report.

    Args:
        sent: what `order` made.
        functions: remembers functions that have been opened, for workers that live long.
    """
    return perform_apart(sent, functions, None, sys.maxsize)[0]


def perform_apart(
    sent: bytes,
    functions: dict[bytes, Callable[..., Any]] | None,
    bring: Callable[[], Sequence[bytes]] | None,
    limit: int = KEPT_FROM,
) -> tuple[bytes, bytes | None]:
    """On the worker: perform a call, and return its report and, apart from it, a large value.

    Args:
        sent: what `order` made.
        functions: remembers functions that have been opened.
        bring: returns what the references of the order stand for; None if it had none.
        limit: a value that is pickled in more bytes is no part of the report.

    Returns:
        The report, and the pickled value that is to be kept, for which `finished` wants a reference.
    """
    call = _decode_order(sent)
    here = Here(call)
    report = Report(call.attempt, worker_name(), time(), 0.0)
    try:
        fn, args, kwargs = _opened(call, functions, bring)
    except BaseException as error:  # noqa: BLE001 - the user's code
        what = error.what if isinstance(error, _ClosedError) else "argument"
        report.failure, report.stuck = stuck(what, what, error.__cause__ or error), True
    else:
        token = performing.set(here)
        report.started = time()
        try:
            value = copy_context().run(fn, *args, **kwargs)
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
    kept = report.value
    if kept is None or len(kept) <= limit:
        return _encode_report(report), None
    report.value, report.kept = None, len(kept)
    return _encode_report(report), kept


read = _decode_report
"""Return the report that `perform` returned as bytes."""


def finished(
    report: Report,
    call: Call,
    worker: int,
    draw: float,
    shift: float,
    refer: Callable[[int], Encoded] | None = None,
) -> Finished:
    """Return the terminal event of a call.

    Args:
        report: of the call.
        call: the call.
        worker: the number of the machine's worker that had it.
        draw: a random number for the jitter of a retry.
        shift: what the run's clock is ahead of the worker's clock of day, in seconds.
        refer: returns the reference to a value that was kept, given the number of its bytes.
    """
    event = Finished(worker, call.attempt, Outcome.COMPLETED, report.started + shift, report.ended + shift, draw=draw)
    if report.failure is None:
        event.value = None if report.value is None else Pickled(report.value, call.node)
        if report.kept and refer is not None:
            event.value = refer(report.kept)
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


def worker_name() -> str:
    """Return what this process is called in traces: its machine and its number."""
    return _name_of(os.getpid())


@lru_cache(1)
def _name_of(process: int) -> str:
    return f"{socket.gethostname()}:{process}"


class _ClosedError(Exception):
    """A part of a call cannot be opened: `what` says which."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def _opened(
    call: Order, functions: dict[bytes, Callable[..., Any]] | None, bring: Callable[[], Sequence[bytes]] | None
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
            raise _ClosedError("function") from error
        if functions is not None:
            functions[call.function] = fn
    if call.arguments is None:
        return fn, (), {}
    if bring is None:
        args, kwargs = loads(call.arguments)
        return fn, args, kwargs or {}
    try:
        values = bring()
    except BaseException as error:
        raise _ClosedError("reference") from error
    _travelling.arrived = values
    try:
        args, kwargs = loads(call.arguments)
    finally:
        _travelling.arrived = None
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
