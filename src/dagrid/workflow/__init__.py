"""Workflows in YAML: text becomes checked records, and records say what waits for what. It knows no engine, no store, no clock.

source        text -> a tree with places           schema, fields, forms   the table of the format -> records (model)
expressions   $NAME, ${...} and backticks          checks, order           rules between fields; chain and graph
parameters    names, positions and values          references              which names a step uses
loading       files -> all of it, all errors at once  dotenv               .env files
"""

from __future__ import annotations

from dagrid.workflow.loading import File, find, load, loads
from dagrid.workflow.order import dependencies
from dagrid.workflow.schema import json_schema

__all__ = ["File", "dependencies", "find", "json_schema", "load", "loads"]
