"""WHAT is to run: nodes, edges and their settings, as plain data. Nothing here knows how, where or when it runs."""

from __future__ import annotations

from dagrid.graph.analysis import CriticalPath, GraphStats, bottom_levels
from dagrid.graph.builder import DAGBuilder
from dagrid.graph.dag import DAG, ExecNode, Node
from dagrid.graph.policy import Repeat, Retry
from dagrid.graph.structure import Structure

__all__ = [
    "DAG",
    "CriticalPath",
    "DAGBuilder",
    "ExecNode",
    "GraphStats",
    "Node",
    "Repeat",
    "Retry",
    "Structure",
    "bottom_levels",
]
