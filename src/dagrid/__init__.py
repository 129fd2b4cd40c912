"""dagrid: describe work as a directed acyclic graph, and run it in threads, in processes or wherever one argument says."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagrid.assemble import resume
    from dagrid.attempt import current
    from dagrid.commands import command
    from dagrid.errors import (
        CycleError,
        DagridError,
        GraphError,
        PlanError,
        RepeatTask,
        SkipTask,
        TaskError,
        WaitForSignal,
    )
    from dagrid.execution.distributed import PartitionedDAGExecutor
    from dagrid.execution.distributed_executor import DistributedExecutor
    from dagrid.execution.executor import DAGExecutor
    from dagrid.execution.results import ExecutionResult, NodeResult, NodeStatus, RunStatus
    from dagrid.execution.run import Run
    from dagrid.graph import DAG, DAGBuilder, ExecNode, Node, Repeat, Retry
    from dagrid.graph.authoring import dag, task
    from dagrid.graph.rules import Patch, Rule, View

__version__ = "0.1.0"

__all__ = [
    "DAG",
    "CycleError",
    "DAGBuilder",
    "DAGExecutor",
    "DagridError",
    "DistributedExecutor",
    "ExecNode",
    "ExecutionResult",
    "GraphError",
    "Node",
    "NodeResult",
    "NodeStatus",
    "PartitionedDAGExecutor",
    "Patch",
    "PlanError",
    "Repeat",
    "RepeatTask",
    "Retry",
    "Rule",
    "Run",
    "RunStatus",
    "SkipTask",
    "TaskError",
    "View",
    "WaitForSignal",
    "command",
    "current",
    "dag",
    "resume",
    "task",
]


# Where each of these is. It is loaded when it is asked for: what describes a graph needs no engine, and `dagrid --help` no graph.
_HOMES = {
    "assemble": ("resume",),
    "attempt": ("current",),
    "commands": ("command",),
    "errors": (
        "CycleError",
        "DagridError",
        "GraphError",
        "PlanError",
        "RepeatTask",
        "SkipTask",
        "TaskError",
        "WaitForSignal",
    ),
    "execution.distributed": ("PartitionedDAGExecutor",),
    "execution.distributed_executor": ("DistributedExecutor",),
    "execution.executor": ("DAGExecutor",),
    "execution.results": ("ExecutionResult", "NodeResult", "NodeStatus", "RunStatus"),
    "execution.run": ("Run",),
    "graph": ("DAG", "DAGBuilder", "ExecNode", "Node", "Repeat", "Retry"),
    "graph.authoring": ("dag", "task"),
    "graph.rules": ("Patch", "Rule", "View"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
# These are asked for through the package as well, as in `except dagrid.errors.TaskError`.
_ROOMS = ("assemble", "attempt", "commands", "errors", "execution", "graph", "machine", "opening", "ports")


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name in _HOME:
        found = globals()[name] = getattr(import_module(f"dagrid.{_HOME[name]}"), name)
        return found
    if name in _ROOMS:
        return import_module(f"dagrid.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
