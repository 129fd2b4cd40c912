"""What `import dagrid` gives, and what it costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys

import dagrid
from dagrid import errors
from tests.places import ENGINES

# The public names. To add one is a promise, to take one away breaks somebody: both are done here on purpose.
PUBLIC: list[str] = [
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

NO_ERRORS = "SkipTask|RepeatTask|WaitForSignal"

# What a program that only describes a graph shall not pay for.
NOT_AT_IMPORT = ["asyncio", "cloudpickle", "multiprocessing", "rich", "socket", "subprocess"]


def drawn_tree() -> dict[str, tuple[str, list[str]]]:
    """Return the tree at the top of dagrid.errors: name -> (its parent there, the other bases named beside it)."""
    tree: dict[str, tuple[str, list[str]]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(rf"^ {{4}}([ |]*)(?:\+-- )?([A-Z]\w*Error|{NO_ERRORS})\b(?: \(also ([\w, ]+)\))?", line)
        if match is None:
            continue
        depth = len(match[1])
        while above and above[-1][0] >= depth:
            above.pop()
        tree[match[2]] = (above[-1][1] if above else "Exception", (match[3] or "").split(", ") if match[3] else [])
        above.append((depth, match[2]))
    return tree


def exceptions() -> dict[str, type[BaseException]]:
    """Return the public exceptions that dagrid.errors defines."""
    found = inspect.getmembers(errors, lambda value: inspect.isclass(value) and issubclass(value, BaseException))
    return {name: value for name, value in found if value.__module__ == errors.__name__ and not name.startswith("_")}


def test_public_names_are_pinned() -> None:
    """A name that slips in by accident must be kept for ever; one that slips out breaks programs."""
    assert sorted(getattr(dagrid, "__all__", [])) == sorted(PUBLIC)


def test_every_public_name_can_be_imported() -> None:
    """`from dagrid import *` fails on one stale name, for everybody."""
    namespace: dict[str, object] = {}
    exec("from dagrid import *", namespace)
    assert set(PUBLIC) <= set(namespace)


def test_import_is_light() -> None:
    """A program that describes a graph starts fast: no terminal, event loop, process or network is loaded for it."""
    program = f"import sys, dagrid; print([name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_stands_in_the_drawing() -> None:
    """The drawing is what users read to know what to catch: one that lies makes them catch the wrong thing."""
    tree = drawn_tree()
    defined = exceptions()
    assert set(tree) == set(defined)
    for name, (parent, others) in tree.items():
        bases = [base.__name__ for base in defined[name].__mro__[1:]]
        nearest = next((base for base in bases if base in defined), "Exception")
        assert nearest == parent, f"{name} is drawn below {parent}, and is a {nearest}"
        assert set(others) <= set(bases), f"{name} is drawn as also {others}"


def test_every_error_is_a_dagrid_error() -> None:
    """`except DagridError` is the one net below everything that we raise on purpose."""
    assert all(issubclass(error, errors.DagridError) for error in exceptions().values())


def test_every_backend_comes_through_the_entry_point() -> None:
    """Ours come through the same door as a stranger's; a renamed class would leave a name that cannot be opened."""
    entries = importlib.metadata.distribution("dagrid").entry_points.select(group="dagrid.backends")
    assert {"inline", "thread", "multiprocessing"} <= {entry.name for entry in entries}
    for entry in entries:
        if entry.name not in ENGINES or importlib.util.find_spec(entry.name) is not None:
            assert inspect.isclass(entry.load())
