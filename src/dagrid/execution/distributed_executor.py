"""`DistributedExecutor`: a graph and the backend that performs its nodes. A thin face of `DAG.start`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from dagrid.execution.executor import checked_graph, on_failure, shut_down
from dagrid.execution.results import ExecutionResult
from dagrid.graph.dag import DAG
from dagrid.ports import Backend, FourMethods


@dataclass(frozen=True, slots=True)
class DistributedExecutionResult:
    """The result of a run with the place where it ran.

    `dispatch_info` has for each node that was dispatched a mapping with "backend", and "worker" when it is known.
    """

    execution_result: ExecutionResult
    backend_name: str
    dispatch_info: Mapping[str, Mapping[str, str]]


class DistributedExecutor:
    """Execute a graph on a backend, each node as soon as what it depends on is done.

    Args:
        dag: the graph.
        backend: a name or URL, a backend of ours, or any object with `name`, `submit`, `result` and `shutdown`.
        fail_fast: a failed node skips its descendants; with False, those that take no value from it run all the same.
        enable_tracing: whether the result has a trace.
        node_timeout: seconds for nodes without a timeout of their own.
        **settings: anything else that `DAG.start` takes.

    As a context manager it shuts the backend down at the end; one that is named ends with each run.

    Raises:
        InvalidSettingError: what is given as a graph is none.
    """

    def __init__(
        self,
        dag: DAG,
        backend: str | Backend | FourMethods,
        fail_fast: bool = True,
        enable_tracing: bool = True,
        node_timeout: float | None = None,
        **settings: Any,
    ) -> None:
        self.dag = checked_graph(dag)
        self.backend = backend
        self.settings = {
            "on_failure": on_failure(fail_fast),
            "tracing": enable_tracing,
            "node_timeout": node_timeout,
            **settings,
        }

    def execute(self, tasks: Mapping[Any, Callable[..., Any]] | None = None) -> DistributedExecutionResult:
        """Run the graph with these tasks, by node name, and wait for it."""
        result = self.dag.run(tasks, backend=self.backend, **self.settings)
        name = result.backend_name
        info = {
            node: {"backend": name, "worker": outcome.worker}
            for node, outcome in result.node_results.items()
            if outcome.attempts
        }
        return DistributedExecutionResult(result, name, info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shut_down(self.backend)
