"""`DAGExecutor`: settings in one object, for code that executes a graph with tasks more than once. A thin face of `DAG.start`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from dagrid.errors import InvalidSettingError
from dagrid.execution.results import ExecutionResult
from dagrid.graph.dag import DAG
from dagrid.machine.plan import OnFailure
from dagrid.ports import Backend, FourMethods


class DAGExecutor:
    """Execute a graph in this machine's threads, or wherever `backend` says.

    Args:
        dag: the graph.
        max_workers: how many tasks run at once; by default as many as the backend performs.
        fail_fast: a failed node skips its descendants; with False, those that take no value from it run all the same.
        enable_tracing: whether the result has a trace.
        node_timeout: seconds for nodes without a timeout of their own.
        backend: a name, a URL or a backend object; by default threads.
        **settings: anything else that `DAG.start` takes.

    Raises:
        InvalidSettingError: what is given as a graph is none.
    """

    def __init__(
        self,
        dag: DAG,
        max_workers: int | None = None,
        fail_fast: bool = True,
        enable_tracing: bool = True,
        node_timeout: float | None = None,
        *,
        backend: Any = None,
        **settings: Any,
    ) -> None:
        self.dag = checked_graph(dag)
        self.settings = {
            "backend": backend,
            "max_concurrency": max_workers,
            "on_failure": on_failure(fail_fast),
            "tracing": enable_tracing,
            "node_timeout": node_timeout,
            **settings,
        }

    def execute(self, tasks: Mapping[Any, Callable[..., Any]] | None = None) -> ExecutionResult:
        """Run the graph with these tasks, by node name, and wait for it."""
        return self.dag.run(tasks, **self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def checked_graph(dag: object) -> DAG:
    """Return what is given as a graph.

    Raises:
        InvalidSettingError: it is none.
    """
    if not isinstance(dag, DAG):
        raise InvalidSettingError(
            f"What is executed is a DAG, not {dag!r}. Of a @dag function, give what its build(...) returns."
        )
    return dag


def shut_down(backend: object) -> None:
    """Shut down what was given as a backend, if it can be: one that is named ends with each run, and what is none was refused."""
    if isinstance(backend, type):
        return
    if isinstance(backend, Backend):
        backend.close(wait=True)
    elif isinstance(backend, FourMethods):
        backend.shutdown(wait=True)


def on_failure(fail_fast: bool) -> OnFailure:
    """Return what `fail_fast` means for the nodes behind a failed one."""
    return "skip" if fail_fast else "continue"
