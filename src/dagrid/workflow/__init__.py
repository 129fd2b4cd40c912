"""Workflows in YAML: text becomes checked records, and records say what waits for what. It knows no engine, no store, no clock.

source        text -> a tree with places           schema, fields, forms   the table of the format -> records (model)
expressions   $NAME, ${...} and backticks          checks, order           rules between fields; chain and graph
parameters    names, positions and values          references              which names a step uses
loading       files -> all of it, all errors at once  dotenv               .env files
files         what a file is once it is read, and how a name finds it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagrid.workflow.files import File, find
    from dagrid.workflow.loading import load, loads
    from dagrid.workflow.order import dependencies
    from dagrid.workflow.schema import json_schema

__all__ = ["File", "dependencies", "find", "json_schema", "load", "loads"]

# Where each of these is. It is loaded when it is asked for: a workflow that is known already is not read again.
_HOME = {
    "File": "files",
    "dependencies": "order",
    "find": "files",
    "json_schema": "schema",
    "load": "loading",
    "loads": "loading",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"dagrid.workflow.{_HOME[name]}"), name)
    return found
