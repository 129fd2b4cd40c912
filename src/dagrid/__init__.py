"""dagrid: describe work as a directed acyclic graph, and run it in threads, in processes or wherever one argument says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagrid.assemble import execute as _execute
from dagrid.assemble import resume
from dagrid.assemble import run as _run
from dagrid.assemble import start as _start
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
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.executor import DAGExecutor
from dagrid.execution.results import ExecutionResult, NodeResult, NodeStatus, RunStatus
from dagrid.execution.run import Run
from dagrid.graph import DAG, DAGBuilder, ExecNode, Node, Repeat, Retry
from dagrid.graph.authoring import dag, task
from dagrid.graph.rules import Patch, Rule, View

if TYPE_CHECKING:
    from dagrid.execution.distributed import PartitionedDAGExecutor

for _name, _method in (("run", _run), ("start", _start), ("execute", _execute)):
    setattr(DAG, _name, _method)  # running is above the floor of graphs

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


def __getattr__(name: str) -> Any:
    """Load what few programs need when it is asked for."""
    if name == "PartitionedDAGExecutor":
        from dagrid.execution.distributed import PartitionedDAGExecutor

        return PartitionedDAGExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
