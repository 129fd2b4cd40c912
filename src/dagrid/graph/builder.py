"""DAG.builder(): a graph described step by step, in any order. Names are checked as they come, edges at the end.

This room knows nothing of running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Self, Unpack

from dagrid.errors import DuplicateNodeError
from dagrid.graph.dag import DAG, check_run_settings
from dagrid.graph.node import Node, NodeRef, NodeSettings, is_one, node_id
from dagrid.graph.structure import Structure, add_names, paused_gc


class DAGBuilder:
    """Collects nodes and edges for a DAG. Every `add_...` returns the builder, so that calls can be chained.

    Args:
        name: what to call the graph.
        max_concurrency: how many nodes of a run may run at once; None leaves it to the place where it runs.

    Raises:
        InvalidSettingError: max_concurrency is less than 1.
    """

    def __init__(self, name: str | None = None, max_concurrency: int | None = None) -> None:
        check_run_settings(name, max_concurrency)
        self._name = name
        self._max_concurrency = max_concurrency
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._specs: dict[int, Node] = {}
        self._edges: list[tuple[str, str]] = []

    def add_node(
        self,
        name: NodeRef,
        fn: Callable[..., Any] | None = None,
        *,
        depends_on: Iterable[NodeRef] = (),
        inputs: Mapping[str, NodeRef] | None = None,
        payload: Any = None,
        **settings: Unpack[NodeSettings],
    ) -> Self:
        """Add a node; the arguments are those of Node. What it depends on may be added later.

        Raises:
            DuplicateNodeError: the name is taken.
            InvalidNodeError: a setting that cannot be.
        """
        node = Node(name, fn, depends_on, inputs=inputs, payload=payload, **settings)
        return self.add(node)

    def add(self, node: Node) -> Self:
        """Add a node that is made already. Raises DuplicateNodeError."""
        name = node.id
        at = len(self._names)
        if self._index.setdefault(name, at) != at:
            raise DuplicateNodeError(name)
        self._names.append(name)
        if not node.is_bare:
            self._specs[at] = node
        for before in node.required():
            self._edges.append((before, name))
        return self

    def add_nodes(self, names: Iterable[NodeRef]) -> Self:
        """Add many nodes by name, or none of them when one is wrong.

        Raises:
            DuplicateNodeError: a name is taken, or comes twice.
            InvalidNodeError: a name that is empty or no name.
        """
        if isinstance(names, str):
            names = [names]
        given = [name if type(name) is str and name else node_id(name) for name in names]
        add_names(self._index, self._names, given)
        self._names += given
        return self

    def add_edge(self, before: NodeRef, after: NodeRef) -> Self:
        """Say that `after` waits for `before`. Both may be added later. Raises InvalidNodeError for what is no name."""
        if type(before) is not str or type(after) is not str or not before or not after:
            before, after = node_id(before), node_id(after)
        self._edges.append((before, after))
        return self

    def add_edges(self, pairs: Iterable[tuple[NodeRef, NodeRef]]) -> Self:
        """Add many edges (before, after); they are checked when the graph is built. Raises InvalidNodeError, see `add_edge`."""
        self._edges += _named(pairs if isinstance(pairs, (list, tuple)) else list(pairs))
        return self

    def build(self) -> DAG:
        """Return the graph. The builder may go on and build again; graphs that it built do not change.

        Raises:
            UnknownNodeError: an edge names a node that was not added.
            CycleError: the edges close a cycle; the error has its path.
            InvalidNodeError: an edge that is not a pair of names.
        """
        with paused_gc():
            structure = Structure.build(self._names.copy(), self._index.copy(), self._edges)
        return DAG.of(structure, self._specs.copy(), name=self._name, max_concurrency=self._max_concurrency)


def _named(pairs: Sequence[Any]) -> Sequence[Any]:
    """Return edges with names in the places of functions; what is no pair stays, for the graph to refuse."""
    try:
        if _TEXT.issuperset(map(type, chain.from_iterable(pairs))):
            return pairs
    except TypeError:  # one of them has no ends
        return pairs
    return [tuple([node_id(end) if is_one(end) else end for end in pair]) for pair in pairs]


_TEXT = frozenset([str])
