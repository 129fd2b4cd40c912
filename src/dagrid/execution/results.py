"""What a run leaves behind: the state of every node, the values, the errors and the times. Readers only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from dagrid.errors import (
    GraphError,
    InvalidSettingError,
    PoisonousTaskError,
    RunError,
    StoreError,
    TaskCancelledError,
    TaskError,
    TaskSkippedError,
    TaskTimeoutError,
    TransferError,
    UnknownNodeError,
    WorkerLostError,
)
from dagrid.graph.node import NodeRef, is_one, node_id
from dagrid.interrupts import INTERRUPTED
from dagrid.machine.closing import Verdict, failed_nodes, verdict
from dagrid.machine.events import UNSTARTED, attempt_id
from dagrid.machine.explain import ended_word
from dagrid.machine.state import NO_TASK, State, Status, goes_on
from dagrid.ports import is_gone, opened

if TYPE_CHECKING:
    from dagrid.execution.profile import Profile
    from dagrid.execution.tracing import ExecutionTrace


class NodeStatus(StrEnum):
    """Where a node stands, as a word."""

    PENDING = "pending"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    LOST = "lost"


class RunStatus(StrEnum):
    """How a run stands or ended, as a word; "waiting" is one that was given up until somebody answers, see `Run.detach`."""

    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    ABORTED = "aborted"


_RUN_STATUS = {code: RunStatus(code.name.lower()) for code in Verdict}
_STATUS = {int(code): NodeStatus(code.name.lower()) for code in Status}


class NodeResult(msgspec.Struct, frozen=True):
    """What became of one node.

    `worker` is the one that has it, or had it last; `started` and `ended` are seconds since the run began, of the last attempt
    and measured where it ran; `reason` says why there is no value, or where a value came from that was not made in this run;
    `note` how a node that completed got its value, where there is something to say, such as that it was kept.
    """

    name: str
    status: NodeStatus
    value: Any = None
    error: BaseException | None = None
    attempts: int = 0
    worker: str = ""
    started: float = 0.0
    ended: float = 0.0
    reason: str = ""
    note: str = ""

    def __repr__(self) -> str:
        said = (
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "value"
        )  # which may be large
        return f"NodeResult({', '.join(said)})"

    @property
    def result(self) -> Any:
        """The value; the same as `value`."""
        return self.value

    @property
    def duration_seconds(self) -> float:
        """How long the task itself took."""
        return self.ended - self.started


class ExecutionResult:
    """The outcome of a run. `result["node"]` gives a node's value, or raises what the node raised.

    `backend_name` says where it ran: with `backend="auto"`, what was chosen.
    """

    def __init__(
        self,
        state: State,
        values: Sequence[Any],
        errors: Mapping[int, BaseException],
        began: float,
        ended: float,
        failure: BaseException | None,
        rules: Sequence[str],
        traced: bool,
        backend_name: str,
        graph: str | None = None,
    ) -> None:
        self._state = state
        self._values = values
        self._errors = errors
        self._began = began
        self._failure = failure
        self._rules = rules
        self._traced = traced
        self._graph = graph
        self._tracebacks: dict[int, TracebackType | None] = {}
        self.backend_name = backend_name
        self.total_duration_seconds = ended - began
        self.unapplied_rules = [rules[number] for number in state.unapplied]

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: what the machine knows of a run stays where it ran."""
        raise TransferError(
            "The result of a run cannot be pickled. Take from it what is needed, such as result['node'] or result.counts(), keep "
            "its values with result.save(path), or run with checkpoint=... and read it again with dagrid.resume."
        )

    def __getitem__(self, name: NodeRef) -> Any:
        """Return the value of a node, which a name, a task or a handle means.

        Raises:
            UnknownNodeError: there is no such node.
            BaseException: what the node raised, with its traceback; a `TaskError` where it has no value for another reason.
        """
        node = self._number(name)
        if self._state.status[node] == Status.COMPLETED:
            return opened(self._values[node])
        raise self._raised(node)

    def __contains__(self, name: object) -> bool:
        try:
            self._number(name)  # type: ignore[arg-type]  # whatever it is
        except GraphError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.plan.names)

    def __len__(self) -> int:
        return len(self._state.plan.names)

    def __repr__(self) -> str:
        parts = [f"{self.succeeded} succeeded"]
        parts += [f"{count} {word}" for word, count in self.counts().items() if count and word != "completed"]
        return f"<ExecutionResult {self.status}: {', '.join(parts)} in {self.total_duration_seconds:.3f} s>"

    @property
    def succeeded(self) -> int:
        """How many nodes completed."""
        return self._state.count(Status.COMPLETED)

    @property
    def failed(self) -> int:
        """How many nodes failed, those included that were lost for good."""
        return self._state.count(Status.FAILED) + self._state.count(Status.LOST)

    @property
    def skipped(self) -> int:
        return self._state.count(Status.SKIPPED)

    @property
    def timed_out(self) -> int:
        return self._state.count(Status.TIMED_OUT)

    @property
    def cancelled(self) -> int:
        return self._state.count(Status.CANCELLED)

    def counts(self) -> dict[str, int]:
        """Return how many nodes have each status."""
        return {word.value: self._state.count(code) for code, word in _STATUS.items()}

    @property
    def status(self) -> RunStatus:
        """How the run ended."""
        if self._failure is not None and not (self._state.cancelled or self._state.expired):
            return RunStatus.FAILED
        return run_status(self._state)

    @property
    def failure(self) -> BaseException | None:
        """What ended the run as a whole, if it was no node: a rule, a store or a backend that failed."""
        return self._failure

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self._state.cancelled == INTERRUPTED

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.status is RunStatus.SUCCEEDED

    @property
    def node_results(self) -> Mapping[str, NodeResult]:
        """The result of each node by name, made when it is looked at."""
        return _NodeResults(self)

    @property
    def trace(self) -> ExecutionTrace | None:
        """The times of the run, or None when it was not traced."""
        if not self._traced:
            return None
        from dagrid.execution.tracing import ExecutionTrace  # most runs are not looked at so closely

        return ExecutionTrace(self._state, self._began, self.total_duration_seconds)

    def profile(self) -> Profile:
        """Return where the time went: what the end of the run waited for, who was idle, how short the run could have been.

        `print(result.profile())` shows it; `to_dict()` gives it for JSON.
        """
        from dagrid.execution.profile import measure

        return measure(self._state, self._began, self.total_duration_seconds)

    def completed(self) -> dict[str, Any]:
        """Return the values of the nodes that completed, by name, each in the form in which it travelled, see `ports.opened`."""
        names, values = self._state.plan.names, self._values
        return {names[node]: values[node] for node, code in enumerate(self._state.status) if code == Status.COMPLETED}

    def save(self, path: str | PathLike[str], *, nodes: Iterable[NodeRef] | None = None) -> None:
        """Write the values of the nodes that completed to a file, from which a later run takes them (`from_file=path`).

        Args:
            path: the file; it is there as a whole or not at all.
            nodes: the names of those to write; by default all that completed and whose values are there (`keep`).

        Raises:
            UnknownNodeError: there is no such node.
            InvalidSettingError: `nodes` is one node, and no list.
            StoreError: a value that cannot be pickled, or a node that has none; it is named. Or an empty path.
            OSError: the file cannot be written.
        """
        from dagrid.execution import saved  # tempfile and what it needs: few runs are saved

        values = {name: value for name, value in self.completed().items() if not is_gone(value)}
        if nodes is not None:
            if is_one(nodes):
                raise InvalidSettingError(f"nodes is a list of nodes; write nodes=[{nodes!r}].")
            chosen = [self._state.plan.names[at] for at in map(self._number, nodes)]
            for name in chosen:
                if name not in values:
                    raise StoreError(
                        f"Node {name!r} has no value to be saved: {self.node_result(name).reason.rstrip('.')}."
                    )
            values = {name: values[name] for name in chosen}
        saved.save(path, values, sys.modules["dagrid"].__version__)

    def passed_over(self, name: NodeRef) -> bool:
        """Return whether a node was skipped though nothing failed: by a condition, by itself, or as no part of the run.

        Raises:
            UnknownNodeError: there is no such node.
        """
        node = self._number(name)
        status, cause = self._state.status, self._state.cause
        while status[node] == Status.SKIPPED:
            before = cause.get(node, node)
            if before in (node, NO_TASK):
                return True
            node = before
        return False

    def raise_for_status(self) -> ExecutionResult:
        """Return the result itself, or raise the first error when the run did not succeed.

        Raises:
            BaseException: what the first failed node raised, or a `RunError` that says why there is none.
        """
        if self.ok:
            return self
        if self._failure is not None:
            raise self._failure
        failed = failed_nodes(self._state)
        for node in sorted(failed, key=lambda node: goes_on(self._state, node)):
            raise self._raised(node)
        if self.unapplied_rules:
            names = ", ".join(map(repr, self.unapplied_rules))
            raise RunError(
                f"Nothing runs any more, and these rules never became applicable: {names}. "
                f"Check their predicates, or mark them optional."
            )
        why = f": {self._state.cancelled.removesuffix('.')}" if self._state.cancelled else ""
        raise RunError(f"The run was stopped before it had ended{why}.")

    def node_result(self, name: NodeRef, *, value: bool = True) -> NodeResult:
        """Return what became of one node; without its value, if that is not to be opened.

        Where a value was dropped, or cannot be rebuilt here, `error` and `reason` say so; `result["node"]` raises that error.

        Raises:
            UnknownNodeError: there is no such node.
        """
        node = self._number(name)
        if not value or self._state.status[node] != Status.COMPLETED:
            return self._told(node)
        try:
            return self._told(node, opened(self._values[node]))
        except (TaskError, StoreError) as error:
            return msgspec.structs.replace(self._told(node), error=error, reason=str(error))

    def to_html(self, path: str | PathLike[str] | None = None, *, title: str = "A run of dagrid") -> str:
        """Return the run as one HTML page, which needs nothing but a browser, and write it to a file.

        It shows the graph, when it grew, the times of every worker, the critical path, the slowest nodes and what failed. Values
        are not in it; names, messages and tracebacks are.

        Args:
            path: where to write it; None writes nothing.
            title: the heading of the page.
        """
        from dagrid.execution.report import page, story

        told = story.read(
            title,
            self.status.value,
            self._state,
            self._began,
            self.total_duration_seconds,
            self._told,
            self._rules,
            self._tracebacks,
            list(page.troubles(self._failure, self._state.cancelled, self.unapplied_rules)),
        )
        text = page.render(told)
        if path is not None:
            with open(os.path.expanduser(path), "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        return text

    def _told(self, node: int, value: Any = None) -> NodeResult:
        state = self._state
        name = state.plan.names[node]
        status = state.status[node]
        ran = state.started[node] != UNSTARTED
        worker = state.workers.get(state.performers.get(node, state.where[node]))
        return NodeResult(
            name,
            _STATUS[status],
            value,
            self._error(node),
            state.number_of(node) + (1 if ran else 0),
            worker.name if worker is not None and (ran or status == Status.QUEUED) else "",
            state.started[node] - self._began if ran else 0.0,
            state.ended[node] - self._began if ran and status >= Status.COMPLETED else 0.0,
            self._reason(node),
            state.detail.get(node, "") if status == Status.COMPLETED else "",
        )

    def _raised(self, node: int) -> BaseException:
        """Return the error of a node with the traceback that it came with, to which each raise would add a line."""
        error = self._error(node)
        assert error is not None
        return error.with_traceback(self._tracebacks.setdefault(node, error.__traceback__))

    def _number(self, node: NodeRef) -> int:
        name = node if type(node) is str else node_id(node, self._graph)
        try:
            return self._state.plan.index[name]
        except KeyError:
            raise UnknownNodeError.of(name, self._state.plan.index, "The run had no node") from None

    def _reason(self, node: int) -> str:
        state = self._state
        status = state.status[node]
        if status == Status.SKIPPED:
            cause = state.cause.get(node, NO_TASK)
            if cause in (NO_TASK, node):
                return state.detail.get(node, "it has no task")
            return f"{state.plan.names[cause]!r} {ended_word(state.status[cause])}"
        told = state.halted.get(attempt_id(node, state.number_of(node)))
        return f"told to stop: {told.detail}" if told is not None else state.detail.get(node, "")

    def _error(self, node: int) -> BaseException | None:
        state = self._state
        status = state.status[node]
        if status == Status.COMPLETED:
            return None
        name = state.plan.names[node]
        reason = self._reason(node).removesuffix(".")  # what we say of it ends with one
        if status == Status.FAILED and state.losses.get(node, 0) >= state.plan.settings.max_losses:
            return PoisonousTaskError(f"Node {name!r} was {reason}. It is not tried again.", name)
        if status == Status.FAILED:
            return self._errors.get(node) or TaskError(f"Node {name!r} failed: {reason}", name)
        if status == Status.LOST:
            return WorkerLostError(f"The worker of node {name!r} vanished: {reason}.", name)
        if status == Status.TIMED_OUT:
            return TaskTimeoutError(f"Node {name!r} took longer than its {reason}.", name)
        if status == Status.SKIPPED:
            return TaskSkippedError(f"Node {name!r} was skipped: {reason}.", name)
        return TaskCancelledError(f"Node {name!r} has no value: {reason or 'it did not run'}.", name)


def run_status(state: State) -> RunStatus:
    """Return how a run ended, as its state says."""
    return _RUN_STATUS[verdict(state)]


class _NodeResults(Mapping[str, NodeResult]):
    def __init__(self, result: ExecutionResult) -> None:
        self._result = result

    def __getitem__(self, name: NodeRef) -> NodeResult:
        return self._result.node_result(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def __contains__(self, name: object) -> bool:
        return name in self._result
