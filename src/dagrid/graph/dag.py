"""The graph: what is to run and what waits for what. Immutable once built; it grows only by making a longer one of it.

This room knows nothing of running. Algorithms are in `analysis`, texts in `formats`; the methods here lead to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack

from dagrid.errors import GraphError, InvalidNodeError, InvalidSettingError
from dagrid.graph import analysis, formats
from dagrid.graph.node import Node, NodeRef, OnLost, node_id
from dagrid.graph.structure import Structure, add_names, paused_gc, unknown_node

if TYPE_CHECKING:
    from dagrid.assemble import RunSettings
    from dagrid.execution.results import ExecutionResult, NodeResult
    from dagrid.execution.run import Run
    from dagrid.graph.analysis import CriticalPath, GraphStats
    from dagrid.graph.authoring import Flow
    from dagrid.graph.builder import DAGBuilder
    from dagrid.graph.late import Outline
    from dagrid.graph.partition import Partition, PartitionSettings
    from dagrid.graph.rules import Rule

__all__ = ["DAG", "ExecNode", "Node", "NodeRef", "OnLost", "Structure"]

ExecNode = Node


class _Above:
    """A method that is a function above this floor, `dagrid.assemble`; it is looked up when it is called for the first time."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, graph: DAG | None, owner: type[DAG]) -> Any:
        function = getattr(import_module("dagrid.assemble"), self.name)
        setattr(DAG, self.name, function)
        return function.__get__(graph, owner)


class DAG:
    """A directed acyclic graph of named nodes.

    Args:
        nodes: the nodes in any order; their edges come from `depends_on`, `inputs` and `arguments`.
        max_concurrency: how many nodes of a run may run at once; None leaves it to the place where it runs.
        name: what to call the graph in displays and records.

    Attributes:
        structure: the graph as integers; read-only by convention. What waits for what is said here and only here.
        specs: by index, the nodes that have a function or any setting. `depends_on` in them is as it was written there;
            `node(name)` gives it in full.
        rules: what makes each run of the graph grow, before the rules of the run; `@dag` writes them for maps over values that
            are known at run time only.
        outline: the graph as it was described, if there are such maps.
        returned: the nodes whose values the function returned that described it with `@dag`; none, if there is no such function.
        packed: the graph pickled, where who made it has said so: its tasks are then what they were, whatever happens meanwhile.

    Raises:
        DuplicateNodeError, UnknownNodeError, CycleError, InvalidNodeError: the nodes are no graph.
        InvalidSettingError: max_concurrency is less than 1.
    """

    structure: Structure
    specs: dict[int, Node]
    name: str | None
    max_concurrency: int | None
    rules: tuple[Rule, ...] = ()
    outline: Outline | None = None
    returned: tuple[str, ...] = ()
    compiled: Any = None
    kept: Any = None
    packed: bytes | None = None
    has_special: bool | None = None

    def __init__(
        self, nodes: Iterable[Node] = (), *, max_concurrency: int | None = None, name: str | None = None
    ) -> None:
        check_run_settings(name, max_concurrency)
        given = _checked(nodes)
        names = [node.id for node in given]
        index: dict[str, int] = {}
        add_names(index, (), names)
        with paused_gc():
            edges = [(before, node.id) for node in given for before in node.required()]
        self.structure = Structure.build(names, index, edges)
        self.specs = {at: node for at, node in enumerate(given) if not node.is_bare}
        self.name = name
        self.max_concurrency = max_concurrency

    @classmethod
    def of(
        cls,
        structure: Structure,
        specs: dict[int, Node],
        *,
        name: str | None = None,
        max_concurrency: int | None = None,
        rules: tuple[Rule, ...] = (),
        outline: Outline | None = None,
    ) -> DAG:
        """Make a graph of parts that are known to fit; both are taken over, not copied."""
        made = cls.__new__(cls)
        made.structure = structure
        made.specs = specs
        made.name = name
        made.max_concurrency = max_concurrency
        if outline is not None or rules:
            made.rules = rules
            made.outline = outline
        return made

    @staticmethod
    def builder(name: str | None = None, max_concurrency: int | None = None) -> DAGBuilder:
        """Return a builder, to which nodes and edges are added in any order."""
        from dagrid.graph.builder import DAGBuilder

        return DAGBuilder(name, max_concurrency)

    def extend(self, nodes: Iterable[Node]) -> DAG:
        """Return a longer graph; this one stays as it is. Its new edges lead to the new nodes only. They may wait for nodes that
        the graph grows by: then they come later themselves.

        Raises:
            DuplicateNodeError, UnknownNodeError, CycleError, InvalidNodeError: the new nodes do not fit.
        """
        given = _checked(nodes)
        edges = [(before, node.id) for node in given for before in node.required()]
        whole = self if self.outline is None else self.outline
        structure = whole.structure.extended([node.id for node in given], edges)
        start = len(whole.structure.names)
        specs = {**whole.specs, **{at: node for at, node in enumerate(given, start) if not node.is_bare}}
        if self.outline is None:
            return DAG.of(structure, specs, name=self.name, max_concurrency=self.max_concurrency)
        from dagrid.graph.late import Outline, split

        asked = {structure.index[name] for node in given for name in (*node.taken(), *node.reads)}
        longer = Outline(structure, specs, self.outline.maps, self.outline.unread - asked)
        return split(longer, name=self.name, max_concurrency=self.max_concurrency)

    def compose(
        self, name: str | None = None, *, inputs: Sequence[NodeRef], outputs: NodeRef | Sequence[NodeRef]
    ) -> Flow[..., Any]:
        """Cut a piece out of the graph, as a function of `@dag`: its parameters are the inputs, and it returns the outputs.

        In it is all that the outputs need, up to the inputs, whose values are the arguments of a call. It can be called, run,
        built, and used in another `@dag` function.

        Args:
            name: what it is called; by default as this graph.
            inputs: the nodes in whose places the arguments stand, in order.
            outputs: the node whose value is returned, or a list of them, for a list of values.

        Raises:
            UnknownNodeError: there is no such node.
            GraphError: the outputs do not depend on the inputs in the way that is said.
        """
        from dagrid.graph.compose import compose

        return compose(self, name, inputs, outputs)

    if TYPE_CHECKING:

        def run(
            self, tasks: Mapping[Any, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
        ) -> ExecutionResult:
            """Run the graph and wait for it, see `dagrid.assemble.start`."""

        def start(self, tasks: Mapping[Any, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]) -> Run:
            """Start a run and return its handle, see `dagrid.assemble.start`."""

        def execute(
            self, tasks: Mapping[Any, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
        ) -> dict[str, NodeResult]:
            """Run the graph and return the result of each node by name, see `dagrid.assemble.execute`."""
    else:
        run, start, execute = _Above("run"), _Above("start"), _Above("execute")

    # --- one node -----------------------------------------------------------------------------------------------------

    def node(self, name: NodeRef) -> Node:
        """Return a node with all it waits for in `depends_on`, what `inputs` and the builder's edges say included.

        Raises:
            UnknownNodeError: there is no such node.
        """
        return self.node_at(self._at(name))

    def node_at(self, at: int) -> Node:
        """Return the node of an index of `structure`, as `node` does."""
        names = self.structure.names
        before = tuple([names[one] for one in self.structure.predecessors[at]])
        spec = self.specs.get(at)
        if spec is None:
            return Node(names[at], None, before)
        return spec if spec.depends_on == before else spec.changed(depends_on=before)

    def has_node(self, name: NodeRef) -> bool:
        """Return whether there is a node of that name."""
        return name in self

    def predecessors(self, name: NodeRef) -> list[str]:
        """Return what a node waits for, directly, in topological order. Raises UnknownNodeError."""
        return self._in_order(self.structure.predecessors[self._at(name)])

    def successors(self, name: NodeRef) -> list[str]:
        """Return what waits for a node, directly, in topological order. Raises UnknownNodeError."""
        return self._in_order(self.structure.successors[self._at(name)])

    def ancestors(self, name: NodeRef) -> list[str]:
        """Return everything that must be done before a node, in topological order. Raises UnknownNodeError."""
        return self._in_order(analysis.reachable(self.structure.predecessors, self._at(name)))

    def descendants(self, name: NodeRef) -> list[str]:
        """Return everything that waits for a node, in topological order. Raises UnknownNodeError."""
        return self._in_order(analysis.reachable(self.structure.successors, self._at(name)))

    def in_degree(self, name: NodeRef) -> int:
        """Return how many nodes it waits for, directly. Raises UnknownNodeError."""
        return len(self.structure.predecessors[self._at(name)])

    def out_degree(self, name: NodeRef) -> int:
        """Return how many nodes wait for it, directly. Raises UnknownNodeError."""
        return len(self.structure.successors[self._at(name)])

    # --- all of it ----------------------------------------------------------------------------------------------------

    def node_names(self) -> list[str]:
        """Return all names in order of insertion."""
        return self.structure.names.copy()

    def node_count(self) -> int:
        """Return the number of nodes."""
        return len(self.structure.names)

    def edges(self) -> list[tuple[str, str]]:
        """Return all edges (before, after): by the node that they lead to, in order of declaration."""
        return list(self.structure.edge_names())

    def edge_count(self) -> int:
        """Return the number of edges."""
        return sum(map(len, self.structure.predecessors))

    def has_edge(self, before: NodeRef, after: NodeRef) -> bool:
        """Return whether the second waits for the first directly. Raises UnknownNodeError."""
        return self._at(before) in self.structure.predecessors[self._at(after)]

    def roots(self) -> list[str]:
        """Return the nodes that wait for nothing, in order of insertion."""
        return [
            name for name, before in zip(self.structure.names, self.structure.predecessors, strict=True) if not before
        ]

    def leaves(self) -> list[str]:
        """Return the nodes that nothing waits for, in order of insertion."""
        return [name for name, after in zip(self.structure.names, self.structure.successors, strict=True) if not after]

    def topological_sort(self) -> list[str]:
        """Return all names, each after what it waits for; in order of insertion as far as that is possible."""
        names = self.structure.names
        return [names[at] for at in self.structure.order]

    def topological_levels(self) -> list[list[str]]:
        """Return the names by level: what waits for nothing, what waits for those only, and so on."""
        names = self.structure.names
        return [[names[at] for at in level] for level in analysis.levels(self.structure)]

    def critical_path(self, costs: Mapping[Any, float] | None = None) -> CriticalPath:
        """Return the most costly chain of nodes.

        Args:
            costs: seconds by name; nodes that are not in it count with their own `cost`, and without one as 1.

        Raises:
            UnknownNodeError: a cost for a node that is not there.
            InvalidNodeError: a cost that is not a finite number from 0 up.
        """
        return analysis.critical_path(self, costs)

    def stats(self) -> GraphStats:
        """Return the size and the shape of the graph; printed, they are readable."""
        return analysis.stats(self)

    # --- other graphs -------------------------------------------------------------------------------------------------

    def transitive_reduction(self) -> DAG:
        """Return the graph without the edges that follow from others. Edges where a value flows (`inputs`, `arguments`) stay, and
        so do the rules."""
        return analysis.transitive_reduction(self)

    def subgraph(self, names: Iterable[NodeRef]) -> DAG:
        """Return the graph of some nodes and the edges among them, in the order of this graph.

        Edges from outside are dropped, and so are the entries of `inputs` whose value would come from outside. A node
        whose `arguments` need such a value stays, and cannot be run. The rules of the graph are dropped. To run a part of a
        graph, say `targets`, `roots` or `exclude` to `run`; to make a part one of its own, see `compose`.

        Raises:
            UnknownNodeError: a name that is not in the graph.
        """
        if isinstance(names, str):
            raise InvalidNodeError(f"subgraph takes a list of names, not one string; write [{names!r}].")
        return analysis.subgraph(self, {self._at(name) for name in names})

    def reverse(self) -> DAG:
        """Return the graph with every edge turned round. Settings are kept, except `inputs` and
        `arguments`: values flow one way. The rules of the graph are dropped."""
        return analysis.reverse(self)

    def partition(self, k: int, strategy: str = "balanced", **settings: Unpack[PartitionSettings]) -> Partition:
        """Return the graph in parts for k workers that never wait for each other in a circle; see
        `dagrid.graph.partition.partition`."""
        from dagrid.graph.partition import partition

        return partition(self, k, strategy, **settings)

    # --- texts --------------------------------------------------------------------------------------------------------

    def to_json(self, indent: int | None = None) -> str:
        """Return the graph as JSON: names, edges and settings, without functions.

        Raises:
            SerializationError: a payload, a metadata or an exception class that JSON cannot hold; it names the node.
        """
        return formats.to_json(self, indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> DAG:
        """Return the graph that `to_json` wrote; its nodes have no functions.

        Raises:
            SerializationError: the text is not such a document; it says where.
            GraphError: the document is one, but its nodes are no graph.
        """
        return formats.from_json(text)

    def to_dot(self) -> str:
        """Return the graph in Graphviz's language."""
        return formats.to_dot(self)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        return formats.to_mermaid(self)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict per node with its id, its depends_on and whatever else was set, functions included."""
        return formats.to_records(self)

    @classmethod
    def from_records(
        cls,
        nodes: Iterable[Mapping[str, Any] | Node | str],
        edges: Iterable[tuple[str, str]] = (),
        *,
        name: str | None = None,
        max_concurrency: int | None = None,
    ) -> DAG:
        """Return the graph of records: names, or mappings with an `id` and any setting of a Node.

        Args:
            nodes: the records in any order.
            edges: further edges (before, after).

        Raises:
            SerializationError: a record that is neither, or has a key that no node has; it says which record.
            GraphError: the records are no graph.
        """
        return formats.from_records(nodes, edges, name=name, max_concurrency=max_concurrency)

    # --- Python -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.structure.names)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str):
            return name in self.structure.index
        try:
            return node_id(name, self.name) in self.structure.index
        except GraphError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.structure.names)

    def __repr__(self) -> str:
        title = f" {self.name!r}" if self.name else ""
        return f"<DAG{title}: {_count(self.node_count(), 'node')}, {_count(self.edge_count(), 'edge')}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.packed is None else (unpacked, (self.packed,))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("compiled", "kept", "packed")}

    def _at(self, name: NodeRef) -> int:
        key = name if isinstance(name, str) else node_id(name, self.name)
        at = self.structure.index.get(key)
        if at is None:
            raise unknown_node(key, self.structure.index)
        return at

    def _in_order(self, found: Iterable[int]) -> list[str]:
        names = self.structure.names
        return [names[at] for at in analysis.in_order(self.structure, found)]


def unpacked(data: bytes) -> DAG:
    """Return the graph of which this is `packed`."""
    import pickle  # who describes a graph needs none

    graph: DAG = pickle.loads(data)
    graph.packed = data
    return graph


def check_run_settings(name: object, max_concurrency: object) -> None:
    """Check what a graph says of itself as a whole.

    Raises:
        InvalidSettingError: max_concurrency is not a whole number from 1 up, or the name is not text.
    """
    if max_concurrency is not None and (type(max_concurrency) is not int or max_concurrency < 1):
        raise InvalidSettingError(
            f"max_concurrency is a whole number from 1 up, or None for no limit, not {max_concurrency!r}."
        )
    if name is not None and not isinstance(name, str):
        raise InvalidSettingError(f"The name of a graph is text, not {name!r}. Nodes are given as a list.")


def _checked(nodes: Iterable[Node]) -> list[Node]:
    given = list(nodes)
    for at, node in enumerate(given):
        if not isinstance(node, Node):
            raise InvalidNodeError(
                f"A graph is made of Node(...) records, and number {at} is {node!r}. "
                "DAG.builder() and DAG.from_records() take bare names."
            )
    return given


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
