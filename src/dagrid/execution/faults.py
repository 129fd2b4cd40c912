"""What went wrong, as the exception that is shown for it: in a task, in a place that reports badly, in the scheduler itself."""

from __future__ import annotations

from dagrid.errors import DagridError, InternalError, TaskError, TransferError
from dagrid.machine.events import Finished
from dagrid.ports import opened


def described(error: BaseException) -> str:
    """Return the class and the message of an exception, whose own `__str__` may fail. Ours about tasks say it all."""
    if isinstance(error, TaskError):
        return error.message
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # the user's code
        return f"{type(error).__name__}, which cannot be shown as text"


def error_of(event: Finished, node: str) -> BaseException:
    """Return the exception of a failed attempt, whatever the place made of it."""
    try:
        error = opened(event.value)
    except Exception as unreadable:  # noqa: BLE001  # an exception class may refuse to be made again; the attempt failed all the same
        return TransferError(f"Node {node!r} failed, and its error cannot be read: {described(unreadable)}.", node)
    if isinstance(error, BaseException):
        return error
    return TaskError(event.error or f"Node {node!r} failed, and its worker did not say why.", node)


def said(error: BaseException, what: str, otherwise: bool) -> bool:
    """Return what an exception says of itself by an attribute, such as `retryable`."""
    try:
        return bool(getattr(error, what, otherwise))
    except Exception:  # noqa: BLE001  # the user's code
        return otherwise


def fault(error: BaseException) -> DagridError:
    """Return what failed inside of the scheduler as the error that asks for a report."""
    if isinstance(error, DagridError):
        return error
    found = InternalError(f"The scheduler failed with {described(error)}.")
    found.__cause__ = error
    return found
