"""How values, functions and errors travel to a worker process and back; it knows no process and no pipe."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from mmap import mmap
from typing import Any, NamedTuple

from dagrid.errors import TransferError
from dagrid.execution.backends._worker import encode, loads, told, type_name
from dagrid.ports import Artifacts, Call, Encoded

Buffer = bytes | bytearray | mmap


class Pickled(Encoded):
    """A value as the bytes in which it came from a worker.

    `decode` may be called from any thread. It remembers nothing: each call opens the bytes again and gives a new
    object. Two of these are equal only if they are one. Among the arguments of a later call the bytes travel on as they
    are.
    """

    __slots__ = ("data", "node")

    def __init__(self, data: bytes | bytearray, node: str) -> None:
        self.data = data
        self.node = node

    def decode(self) -> Any:
        """Return the value; raise `TransferError` if this process cannot rebuild it."""
        return rebuilt(self.data, self.node)

    def packed(self) -> bytes:
        return bytes(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return loads, (self.data,)

    def __repr__(self) -> str:
        return f"<Pickled value of {self.node!r}, {len(self.data)} bytes>"


def rebuilt(data: Buffer, node: str) -> Any:
    """Return the value of a node from the bytes in which it came; raise `TransferError` if this process cannot rebuild it."""
    try:
        return loads(data)
    except Exception as error:
        raise TransferError(
            f"The value of node {node!r} came back but cannot be rebuilt here ({told(error)}). "
            "Let its type be importable in this process too.",
            node,
        ) from error


class Unopened(NamedTuple):
    """A failure as it came from the process where it happened, for who passes it on.

    Args:
        stuck: whether it is what `stuck_error` opens; else `decode_error` does.
        data: the bytes.
    """

    stuck: bool
    data: bytes


class Packed:
    """A function, or the arguments of a call, as the bytes in which they came: they go on to a worker process unopened."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Open the function and call it; for who performs it in this process."""
        return loads(self.data)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Packed, {len(self.data)} bytes>"


class RemoteTraceback(Exception):  # noqa: N818 - it is no error by itself
    """The traceback of a worker, as the cause of the error that came from there."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def encode_function(call: Call) -> bytes:
    """Return the function of a call pickled: by reference if it can be imported, else by value."""
    if isinstance(call.fn, Packed):
        return call.fn.data
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(call.fn, 5))
    except Exception as error:
        raise TransferError(
            f"The function of node {call.node!r} cannot travel to a worker process ({told(error)}). "
            "Let it refer only to things that can be pickled, or run it on threads.",
            call.node,
        ) from error


def encode_arguments(call: Call) -> bytes | None:
    """Return the arguments of a call pickled, None if there are none."""
    if isinstance(call.args, Packed):
        return call.args.data
    if not call.args and not call.kwargs:
        return None
    try:
        return encode((tuple(call.args), call.kwargs))
    except Exception as error:
        raise TransferError(
            f"{_culprit(call)} of node {call.node!r} cannot travel to a worker process ({told(error)}). "
            "Pass something that can be pickled, such as a path in place of an open file, or run the node on threads.",
            call.node,
        ) from error


def _culprit(call: Call) -> str:
    named = [(f"Argument {place}", value) for place, value in enumerate(call.args, start=1)]
    named += [(f"Argument {name!r}", value) for name, value in (call.kwargs or {}).items()]
    for name, value in named:
        try:
            encode(value)
        except Exception:  # noqa: BLE001 - this is the one that we look for
            return f"{name} (a {type_name(value)})"
    return "An argument"


def decode_error(data: bytes | bytearray, node: str) -> BaseException:
    """Return the exception that a call raised, its traceback as its cause; never raise."""
    try:
        error, text = loads(data)
        error.__cause__ = RemoteTraceback(text)
    except Exception as problem:  # noqa: BLE001 - the user's code
        found = TransferError(
            f"The error of node {node!r} came back but cannot be rebuilt here ({told(problem)}).", node
        )
        found.__cause__ = problem
        return found
    return error  # type: ignore[no-any-return]


def stuck_error(data: bytes | bytearray, call: Call) -> tuple[TransferError, bool]:
    """Return the error for something that could not leave or enter a worker, and whether trying again may help."""
    what, kind, why, original, text = marshal.loads(data)
    node = call.node
    if what == "error":
        message = (
            f"Node {node!r} raised {original}\nThe error itself cannot travel between processes: a {kind} ({why})."
        )
    elif what == "value":
        message = (
            f"The value of node {node!r}, a {kind}, cannot travel between processes ({why}). "
            "Return something that can be pickled, such as a path in place of an open file, or run the node on threads."
        )
    elif what == "extra":
        message = (
            f"What node {node!r} appends to the graph cannot travel between processes ({why}). "
            "Let the functions of its nodes and rules refer only to things that can be pickled."
        )
    elif what == "function":
        message = (
            f"The function of node {node!r} cannot be rebuilt in the worker process ({why}). "
            "Let its module be importable there."
        )
    elif what == "reference":
        message = (
            f"A value that node {node!r} takes stayed where it was made, and cannot be had from there any more ({why}). "
            "Run the nodes before it again; a run with a checkpoint keeps a copy of every value."
        )
    else:
        kinds = ", ".join(type_name(value) for value in [*call.args, *(call.kwargs or {}).values()])
        message = (
            f"An argument of node {node!r} ({kinds}) cannot be rebuilt in the worker process ({why}). "
            "Let its type be importable there."
        )
    error = TransferError(message, node)
    error.__cause__ = RemoteTraceback(text)
    return error, what == "error"


def open_kept(artifacts: Artifacts, key: str) -> Any:
    """Return a value that stands among arguments as the place where it is kept."""
    data = artifacts.get(key)
    if data is None:
        raise LookupError(f"the artifact {key} is not there any more")
    return loads(data)


def encode_initializer(initializer: Callable[[], object] | None) -> bytes:
    """Return the initializer pickled, empty if there is none."""
    if initializer is None:
        return b""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(initializer, 5))
    except Exception as error:
        raise TransferError(f"The initializer cannot travel to a worker process ({told(error)}).") from error
