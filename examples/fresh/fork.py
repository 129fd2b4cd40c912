"""One call in a process of its own, which a clean server forks. It knows nothing of graphs and runs."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from dagrid.errors import TransferError

_context = multiprocessing.get_context("forkserver")
_one_at_a_time = threading.Lock()  # multiprocessing looks after all its processes whenever one starts or ends


class DiedError(Exception):
    """The process ended without an answer."""


class _RemoteTracebackError(Exception):
    """Where in its process a call failed; the cause of what it raised, so that it is printed with it."""


def preload(modules: Iterable[str]) -> None:
    """Import modules in the server, so that no process has to; before the first of them starts."""
    _context.set_forkserver_preload(["__main__", "cloudpickle", *modules])


class Fork:
    """A call that is performed once, and may be killed at any time, from any thread."""

    def __init__(self, fn: Callable[..., Any], args: Iterable[Any] = (), kwargs: Any = None) -> None:
        try:
            self._call = cloudpickle.dumps((fn, tuple(args), dict(kwargs or {})))
        except Exception as error:
            raise TransferError(
                f"The call of {fn!r} cannot be pickled ({error}). Change what cannot travel."
            ) from error
        self._process: Any = None
        self._killed = False

    def run(self) -> Any:
        """Perform the call and return its value, or raise what it raised; DiedError if the process did not live to tell."""
        ours, theirs = _context.Pipe(duplex=False)
        with _one_at_a_time:
            if self._killed:
                raise DiedError("it was stopped before it began")
            self._process = _context.Process(target=_serve, args=(self._call, theirs), daemon=True)
            self._process.start()
            theirs.close()  # so that the end of the process is the end of the line
        try:
            kind, answer = ours.recv()
        except (EOFError, OSError):
            raise DiedError("the process ended without an answer") from None
        finally:
            self._bury()
            ours.close()
        if kind == "value":
            return pickle.loads(answer)
        if kind == "stuck":
            raise TransferError(f"The value cannot be pickled ({answer}). Return what can travel.")
        error, told = pickle.loads(answer)
        raise error from _RemoteTracebackError(told)

    def kill(self) -> None:
        """Stop the call, whatever it does."""
        with _one_at_a_time:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def _bury(self) -> None:
        with _one_at_a_time:
            process, self._process = self._process, None
            process.kill()
            process.join()
            process.close()


def _serve(call: bytes, line: Connection) -> None:
    """Be the process."""
    try:
        fn, args, kwargs = pickle.loads(call)
        value = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - what a task raises is its outcome
        line.send(("error", _packed(error)))
        return
    try:
        answer = "value", cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - the user's pickling
        answer = "stuck", f"{type(value).__name__}: {error}"
    line.send(answer)


def _packed(error: BaseException) -> bytes:
    """Return an error and where it happened; one that does not survive the way is told in words."""
    told = traceback.format_exc()
    try:
        packed = cloudpickle.dumps((error, told))
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - the user's pickling
        packed = cloudpickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), told))
    return bytes(packed)
