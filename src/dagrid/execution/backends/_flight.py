"""An attempt as its task sees it: called once, and where it is a sequence, told what came of each thing that it wanted done.

Whatever a task says is said in its own context, where `current()` works. What is done about it, and when, is for the session.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any

from dagrid.attempt import Here, performing
from dagrid.commands import Launch, Request, Thing
from dagrid.errors import TaskError
from dagrid.execution.backends._running import Running
from dagrid.execution.backends._servers import Service
from dagrid.machine.events import UNSTARTED
from dagrid.ports import Call, Encoded, opened


class Value:
    """What a task has come to in the end."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Waiting:
    """What is told when something that an attempt waits for has come.

    Args:
        tell: called with this, and with the value or the error; from any thread, and perhaps more than once.
        parting: what is cancelled is waited for until it has gone.

    Attributes:
        cancel: cancels what is waited for.
    """

    __slots__ = ("_tell", "cancel", "parting")

    def __init__(self, tell: Callable[[Waiting, Any, BaseException | None], None], parting: bool) -> None:
        self.parting = parting
        self._tell: Callable[[Waiting, Any, BaseException | None], None] | None = tell
        self.cancel: Callable[[], object] | None = None

    def notify(self, value: Any = None, *, error: BaseException | None = None) -> None:
        """Say what came, see `dagrid.commands.Notify`."""
        tell, self._tell = self._tell, None
        if tell is None:
            return
        if error is not None and not isinstance(error, BaseException):
            error = TaskError(
                f"What went wrong is said with an exception, not with {error!r}. Call notify(error=exception)."
            )
        tell(self, value, error)

    def forget(self) -> None:
        """Nobody waits any more; who still notifies holds nothing of the run."""
        self._tell = self.cancel = None


class Flight:
    """An attempt that is here, from its call to its end.

    Attributes:
        steps: the generator of a task that is a sequence.
        doing: its process, what it waits for, or who serves it; None while it waits for a process to end.
        next: what it wants done, while it waits for a process to end.
        started: when its first thing was begun, and before that, when it came; `told` says which of them.
        ended: when its process ended, where that is the end of the attempt.
        cancelled: nobody waits for it any more.
    """

    __slots__ = ("call", "cancelled", "context", "doing", "ended", "here", "next", "started", "steps", "told")

    def __init__(self, call: Call, context: contextvars.Context, came: float) -> None:
        self.call = call
        self.context = context
        self.here = Here(call)
        self.steps: Generator[Thing, Any, Any] | None = None
        self.doing: Running | Waiting | Service | None = None
        self.next: Launch | Request | None = None
        self.started = came
        self.ended = UNSTARTED
        self.told = self.cancelled = False

    def begin(self) -> Thing | Value:
        """Call the task and return the first thing that it wants done; raises what the task raises.

        Raises:
            TaskError: it wants what cannot be done here.
        """
        call = self.call
        args = [value.decode() if isinstance(value, Encoded) else value for value in call.args]
        kwargs = {name: opened(value) for name, value in call.kwargs.items()} if call.kwargs else {}
        self.context.run(performing.set, self.here)
        found = self.context.run(call.fn, *args, **kwargs)
        if isinstance(found, Launch):
            return found
        if isinstance(found, (GeneratorType, Generator)):  # to ask for the first is quick, and for the second is not
            self.steps = found
            return self.go_on(None, None)
        raise TaskError(
            f"The task of node {call.node!r} returned {type(found).__name__}. A Command returns a Launch, or a generator that "
            f"yields what is to be done; for any other value use a plain function.",
            call.node,
        )

    def go_on(self, value: Any, error: BaseException | None) -> Thing | Value:
        """Tell the task what came of the last thing, and return the next one; raises what the task raises.

        Raises:
            TaskError: it wants what cannot be done here.
        """
        steps = self.steps
        if steps is None:
            if error is not None:
                raise error
            return Value(value)
        try:
            thing = self.context.run(steps.send, value) if error is None else self.context.run(steps.throw, error)
        except StopIteration as end:
            return Value(end.value)
        if isinstance(thing, Thing):
            return thing
        self.close()
        raise TaskError(
            f"The task of node {self.call.node!r} yielded {type(thing).__name__}. A sequence yields what is to be done: a "
            f"Launch, an Await or a Request. Its value is what it returns.",
            self.call.node,
        )

    def close(self) -> BaseException | None:
        """Let a sequence clean up, and return what it raises in doing so."""
        steps = self.steps
        try:
            if steps is not None:
                self.context.run(steps.close)
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its own
            return error
        return None
