"""Every exception that dagrid raises on purpose, in one tree; it knows nothing of the rooms that raise them.

    DagridError
     +-- GraphError (also ValueError)           the graph as described cannot be run
     |    +-- CycleError                        .cycle: the node names along it, first = last
     |    +-- UnknownNodeError (also KeyError)  .name, .suggestion
     |    +-- DuplicateNodeError                .name
     |    +-- InvalidNodeError                  a node's own settings: not callable, timeout <= 0, ...
     |    +-- InvalidPatchError                 a patch that a running graph may not take
     |    +-- HandleError                       a handle of @dag used as if it were the value that it stands for
     |    +-- SerializationError                a document that is not a graph of ours
     +-- PlanError (also ValueError)            graph, tasks and place do not fit together; found before anything runs
     |    +-- UnknownTaskError                  a task for a node that is not there: .name, .suggestion
     |    +-- UnboundParameterError             a parameter that names no predecessor: .node, .parameter
     |    +-- UnsatisfiableError                a resource request that can never fit: .node, .resource
     |    +-- InvalidSettingError               a setting of the run: a capacity or a limit that is not positive, ...
     +-- WorkflowError (also ValueError)        the text of a workflow cannot be used: .problems, .warnings
     |    +-- WorkflowNotFoundError             there is no such file
     |    +-- ParameterError                    the values given to a workflow's parameters
     |    +-- ExpressionError                   an expression that has no value here
     +-- TaskError                              what a run reports in place of a node's value: .node
     |    +-- TaskTimeoutError (also TimeoutError)
     |    +-- TaskCancelledError
     |    +-- TaskSkippedError
     |    +-- WorkerLostError                   the worker vanished while it ran the attempt
     |    +-- PoisonousTaskError                lost too often to be tried again
     |    +-- TransferError                     a function, a value or an error that cannot travel
     |    +-- CommandError                      a command failed, or could not be started: .code, .signal, .stderr
     |    |    +-- OutputLimitError             it wrote more than it may, and was stopped: .limit
     |    +-- StepError                         a step of a workflow failed: .code
     |    +-- UnpackError (also ValueError)     the value of a task is not what its unpack_to says
     +-- RunError                               the run as a whole did not succeed
     |    +-- RunTimeoutError (also TimeoutError)
     |    +-- RuleError                         a rule's predicate or body failed: .rule
     |    +-- GraphLimitError                   a growing graph passed max_nodes
     +-- NoCurrentTaskError                     current() where no task runs
     +-- BackendError                           the place where work runs
     |    +-- UnknownBackendError               no such name: .name, .suggestion
     |    +-- BackendNotInstalledError (also ImportError)
     |    +-- BackendUnreachableError           nobody answers at the address
     |    +-- BackendClosedError
     |    +-- CapabilityError                   asked for something that this place cannot do
     |    +-- FleetError                        coordinator, workers and who uses them do not come together
     |         +-- FleetRefusedError            one side refuses the other: .final
     |         |    +-- FleetKeyError           the signing key is missing, or another one
     |         +-- FleetCertificateError        TLS here and there do not fit
     |         +-- TamperedError                what arrived is not what was sent, or not when
     +-- StoreError                             the place where journals and values are kept
     |    +-- UnknownRunError                   no such run: .name, .suggestion
     |    +-- DuplicateRunError                 a run of that name is there already
     |    +-- StaleEpochError                   somebody else has taken the run over
     |    +-- JournalConflictError              facts that do not follow on what is there
     |    +-- StoreVersionError                 written by another version of dagrid
     |    +-- RunHeldError                      a process performs the run: .pid, .host
     |    +-- RunStateError                     the run is not in a state in which that can be done: .status
     +-- SkipTask                               raised by a task that wants its node to be skipped
     +-- RepeatTask                             raised by a task that wants to be run again: .value
     +-- WaitForSignal                          raised by a task whose node waits for somebody: .prompt, .value
     +-- InternalError                          a fault of dagrid itself, to be reported
          +-- IllegalTransitionError            a move that is not in the table of legal moves

A message names the remedy: what was wrong, where, and what to do. The docstring of a class is its default message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_LOOKED_AT = 500


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, first the same in other letters, or None when nothing is close.

    Of very many names those are looked at that begin and end most like it, for a look at each takes long.
    """
    import difflib  # 3 ms that only a mistake should cost

    names = list(known)
    if len(names) > _LOOKED_AT:
        from heapq import nlargest

        mirrored = name[::-1]

        def alike(other: str) -> int:
            return _shared(name, other) + _shared(mirrored, other[::-1])

        names = nlargest(_LOOKED_AT, names, alike)
    same = next((one for one in names if one.casefold() == name.casefold()), None)
    if same is not None:
        return same
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return found[0] if found else None


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with that are the same."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def hint(suggestion: str | None) -> str:
    """Return the question that ends a message about an unknown name, or nothing."""
    return f" Did you mean {suggestion!r}?" if suggestion else ""


def _first_line(error: Exception) -> str:
    return " ".join((error.__doc__ or "").partition("\n\n")[0].split())


class DagridError(Exception):
    """Something went wrong in dagrid.

    Attributes:
        tolerated: where a task raises it: what waits for its node runs all the same, see `Node.continue_on`.
        retryable: where a task raises it: the node may be tried again, if it has retries.
        left: where a task raises it: what takes the value of its node gets this in its place, if it runs all the same. The engine
            reads all three of any exception.
    """

    tolerated: bool = False
    retryable: bool = True
    left: object = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or _first_line(self))

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message


class GraphError(DagridError, ValueError):
    """The graph as described cannot be run."""


class CycleError(GraphError):
    """The graph has a cycle."""

    def __init__(self, cycle: Sequence[str]) -> None:
        self.cycle = tuple(cycle)
        shown = list(self.cycle) if len(self.cycle) <= 12 else [*self.cycle[:6], "...", *self.cycle[-5:]]
        super().__init__(f"The graph has a cycle: {' -> '.join(shown)}. Remove one of these edges.")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.cycle,), self.__dict__


class _UnknownNameError(DagridError):
    """A name that nothing has."""

    def __init__(self, message: str, name: str = "", suggestion: str | None = None) -> None:
        self.name = name
        self.suggestion = suggestion
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.name, self.suggestion), self.__dict__


class UnknownNodeError(_UnknownNameError, GraphError, KeyError):
    """There is no such node."""

    @classmethod
    def of(cls, name: str, known: Iterable[str], where: str = "The graph has no node") -> UnknownNodeError:
        """Build the error for `name`, with the nearest of the known names as a suggestion."""
        suggestion = nearest(name, known)
        return cls(f"{where} {name!r}.{hint(suggestion)}", name, suggestion)


class DuplicateNodeError(GraphError):
    """A node of that name is there already."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"The graph has a node {name!r} already. Give the second one another name.")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name,), self.__dict__


class InvalidNodeError(GraphError):
    """A node has a setting that cannot be."""


class InvalidPatchError(GraphError):
    """A running graph cannot take this patch: nodes are only added, and new edges only point to new nodes."""


class HandleError(GraphError):
    """A handle stands for a value that a run will make; there is no value yet. Pass the handle to a @task."""


class SerializationError(GraphError):
    """The document is not a graph that dagrid wrote."""


class PlanError(DagridError, ValueError):
    """The graph, its tasks and the place where they shall run do not fit together."""


class UnknownTaskError(_UnknownNameError, PlanError):
    """A task was given for a node that is not in the graph."""


class UnboundParameterError(PlanError):
    """A parameter of a task names no predecessor."""

    def __init__(self, message: str, node: str = "", parameter: str = "") -> None:
        self.node = node
        self.parameter = parameter
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.node, self.parameter), self.__dict__


class UnsatisfiableError(PlanError):
    """A node asks for more than there will ever be."""


class InvalidSettingError(PlanError):
    """A setting of the run cannot be."""


class Problem(NamedTuple):
    """One thing that is wrong with a text, and where; lines and columns count from 1, and 0 means the text as a whole."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class WorkflowError(DagridError, ValueError):
    """The workflow cannot be used.

    Args:
        problems: all that is wrong, sorted by place; the message has a line for each.
        warnings: what is not wrong, but surely not meant.
    """

    def __init__(self, problems: Iterable[Problem] = (), warnings: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(map(str, self.problems)) or "The workflow cannot be used.")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problems, self.warnings), self.__dict__


class WorkflowNotFoundError(WorkflowError):
    """There is no such workflow."""


class ParameterError(WorkflowError):
    """The values given to a workflow do not fit its parameters."""


class ExpressionError(WorkflowError):
    """An expression has no value here."""


class TaskError(DagridError):
    """A node has no value."""

    def __init__(self, message: str | None = None, node: str = "") -> None:
        self.node = node
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.node), self.__dict__


class TaskTimeoutError(TaskError, TimeoutError):
    """The task took longer than its timeout."""


class TaskCancelledError(TaskError):
    """The task was cancelled."""


class TaskSkippedError(TaskError):
    """The task was skipped."""


class WorkerLostError(TaskError):
    """The worker vanished while it ran the task."""


class PoisonousTaskError(TaskError):
    """Every worker that took the task vanished; it is not tried again."""


class TransferError(TaskError):
    """A function, a value or an error cannot travel between processes."""


class CommandError(TaskError):
    """A command failed.

    Args:
        message: what happened.
        node: the node whose task it was.
        code: its exit code; 127 where it was not found, 126 where it could not be started, 128 and more for a signal.
        signal: the number of the signal that killed it, or 0.
        stderr: the last lines of its standard error, with secrets masked.
    """

    def __init__(
        self, message: str | None = None, node: str = "", code: int = 1, signal: int = 0, stderr: str = ""
    ) -> None:
        self.code = code
        self.signal = signal
        self.stderr = stderr
        super().__init__(message or "A command failed.", node)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.node, self.code, self.signal, self.stderr), self.__dict__


class StepError(TaskError):
    """A step of a workflow failed.

    Args:
        message: what happened, and the remedy.
        node: the step.
        code: its exit code.
        retryable: whether it is worth another try.

    Attributes:
        reason: what went wrong where that was in another workflow, which may have called others in its turn.
    """

    reason: str = ""

    def __init__(self, message: str | None = None, node: str = "", code: int = 1, retryable: bool = True) -> None:
        self.code = code
        self.retryable = retryable
        super().__init__(message or "A step failed.", node)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.node, self.code), self.__dict__


class UnpackError(TaskError, ValueError):
    """The value of a task is not what its unpack_to says."""


class OutputLimitError(CommandError):
    """A command wrote more than it may, see `Launch.strict`.

    Args:
        message, node, code, signal, stderr: as of any `CommandError`.
        limit: how many bytes it may write.
    """

    def __init__(
        self,
        message: str | None = None,
        node: str = "",
        code: int = 1,
        signal: int = 0,
        stderr: str = "",
        limit: int = 0,
    ) -> None:
        self.limit = limit
        super().__init__(message or "A command wrote more than it may.", node, code, signal, stderr)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.node, self.code, self.signal, self.stderr, self.limit)


class RunError(DagridError):
    """The run did not succeed."""


class RunTimeoutError(RunError, TimeoutError):
    """The run took longer than its timeout."""


class RuleError(RunError):
    """A rule failed."""

    def __init__(self, message: str | None = None, rule: str = "") -> None:
        self.rule = rule
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.rule), self.__dict__


class GraphLimitError(RunError):
    """The graph grew past max_nodes."""


class NoCurrentTaskError(DagridError):
    """No task runs here that could be asked. Call current() in a task; where a backend of four methods runs it in another
    process, say adds={...} on its node (adds=set() is enough)."""


class BackendError(DagridError):
    """The backend cannot do its work."""


class UnknownBackendError(_UnknownNameError, BackendError):
    """There is no backend of that name."""


class BackendNotInstalledError(BackendError, ImportError):
    """The backend needs a package that is not installed."""


class BackendUnreachableError(BackendError):
    """The place where work runs does not answer at its address."""


class BackendClosedError(BackendError):
    """The backend is closed. Make a new one, or submit before you close it."""

    retryable = False


class CapabilityError(BackendError):
    """The backend cannot do what was asked of it."""


class FleetError(BackendError):
    """Coordinator, workers and who uses them do not come together."""


class FleetRefusedError(FleetError):
    """The coordinator refuses who called.

    Args:
        message: why, and the remedy.
        final: trying again does not help.
    """

    def __init__(self, message: str | None = None, final: bool = False) -> None:
        self.final = final
        super().__init__(message or "The coordinator refuses who called.")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.final), self.__dict__


class FleetKeyError(FleetRefusedError):
    """The signing key is missing on one side, or the two sides have different ones."""


class FleetCertificateError(FleetError):
    """One side does not speak TLS, or does not accept the other's certificate."""


class TamperedError(FleetError):
    """What arrived was not sent like this, or comes a second time, or too late."""


class StoreError(DagridError):
    """The store cannot do its work."""


class UnknownRunError(_UnknownNameError, StoreError):
    """The store has no such run."""


class DuplicateRunError(StoreError):
    """The store has a run of that name already. Give this one another name."""


class StaleEpochError(StoreError):
    """Somebody else has taken this run over; nothing that happens here counts any more."""


class JournalConflictError(StoreError):
    """These facts do not follow on those that the journal has."""


class StoreVersionError(StoreError):
    """The store was written by a newer version of dagrid. Upgrade this one."""


class RunHeldError(StoreError):
    """Another process performs this run.

    Args:
        message: what happened.
        pid: the number of that process, 0 where it is not known.
        host: the machine on which it runs.
    """

    def __init__(self, message: str | None = None, pid: int = 0, host: str = "") -> None:
        self.pid = pid
        self.host = host
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.pid, self.host)


class RunStateError(StoreError):
    """The run is not in a state in which this can be done."""

    def __init__(self, message: str | None = None, status: str = "") -> None:
        self.status = status
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.status)


class SkipTask(DagridError):  # noqa: N818  # no error: what a task raises to say so
    """Raise it in a task: its node is skipped, and so is what takes its value. The run does not fail by it.

    Args:
        reason: why, in words.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "its task asked for that")


class RepeatTask(DagridError):  # noqa: N818  # no error: what a task raises to say so
    """Raise it in a task that wants to be run again, see `Repeat`. It is no failure, and uses up no retry.

    Args:
        value: the value of the node, if it may run no more.
        instead: what the task raises if it may run no more, in place of a value: a failure, or a wait for a signal.
    """

    def __init__(self, value: Any = None, instead: Exception | None = None) -> None:
        self.value = value
        self.instead = instead
        super().__init__("The task wants to be run again.")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.value, self.instead), self.__dict__


class WaitForSignal(DagridError):  # noqa: N818  # no error: what a task raises to say so
    """Raise it in a task: its node waits, and holds nothing, until somebody gives its value with `Run.signal`, or rejects it.

    Args:
        prompt: what it waits for, in words.
        value: what it leaves for whoever looks at it (`Run.held`).
    """

    def __init__(self, prompt: str = "", value: Any = None) -> None:
        self.prompt = prompt
        self.value = value
        super().__init__(f"The task waits for a signal: {prompt}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.prompt, self.value), self.__dict__


class InternalError(DagridError):
    """A fault of dagrid itself."""

    def __init__(self, message: str | None = None) -> None:
        detail = message or (self.__doc__ or "").strip()
        super().__init__(f"{detail} This is a bug in dagrid: please report it with this traceback.")


class IllegalTransitionError(InternalError):
    """A state was asked for a move that is not in the table of legal moves."""
