"""Rules that make a graph grow: when to append, and what. Plain data and a read-only view; nothing here runs or decides.

A rule is applied once: when its predicate holds, its body returns a patch, which is taken whole or not at all. A patch only
appends, and its edges only point to its own nodes, so that nothing that has started gets a new dependency. A rule that says
which kinds of nodes it may add lets others know when a kind is closed: no more of its nodes can come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from inspect import CO_COROUTINE
from itertools import islice
from typing import Any, Protocol

import msgspec

from dagrid.errors import DuplicateNodeError, GraphError, GraphLimitError, InvalidPatchError, UnknownNodeError
from dagrid.graph.node import Node, NodeRef, node_id
from dagrid.graph.structure import Structure

Topic = tuple[str, str]
UNENDED = -1  # what a view notes of a node of which it only wanted to know whether it has ended
_NOT_ENDED = frozenset({"pending", "ready", "queued", "running", "waiting"})


class Patch(msgspec.Struct, frozen=True):
    """What a rule appends, whole or not at all.

    Args:
        nodes: they may depend on any node of the graph and of the patch. Debug nodes are left out of a run that did not ask
            for them; setup nodes and handlers are in a graph from its start.
        rules: to be asked from now on.
        edges: pairs (before, after) beside those that the nodes say themselves; `after` is a node of this patch.
    """

    nodes: Sequence[Node] = ()
    rules: Sequence[Rule] = ()
    edges: Sequence[tuple[NodeRef, NodeRef]] = ()

    def joined(self) -> tuple[Node, ...]:
        """Return the nodes with the edges in their `depends_on`.

        Raises:
            InvalidPatchError: something is no node, or an edge does not point to a node of this patch.
        """
        nodes = tuple(self.nodes)
        for node in nodes:
            if not isinstance(node, Node):
                raise InvalidPatchError(
                    f"A patch holds nodes, not {node!r}. Make them with Node(id, fn, depends_on=[...]); rules go in rules=[...]."
                )
        if not self.edges:
            return nodes
        after: dict[str, list[str]] = {node.id: [] for node in nodes}
        for before, to in [(node_id(one), node_id(other)) for one, other in self.edges]:
            if to not in after:
                raise InvalidPatchError(
                    f"The edge {before!r} -> {to!r} does not point to a node of its patch. What is there already may have "
                    f"started: let the edge point to a new node."
                )
            after[to].append(before)
        return tuple(
            node.changed(depends_on=(*node.depends_on, *after[node.id])) if after[node.id] else node for node in nodes
        )


class Rule(msgspec.Struct, frozen=True):
    """Append to a running graph when there is enough known of it.

    Args:
        predicate: looks at a `View` and returns whether the body may be applied. It is asked at the start, and again when
            something that it looked at has changed.
        body: returns the `Patch`; it sees the same view.
        name: how messages call the rule; by default the name of the body, if it has one.
        optional: a run may end without it; otherwise a rule that never became applicable fails the run.
        adds: the kinds of the nodes that it, and the rules that it appends, may add; nodes without a kind are always allowed.
            None says nothing: as long as such a rule is left, no kind is closed for the others.
        waits: nodes without whose end the predicate cannot hold, so that there is no use in asking it before; by default the
            names that the predicate says itself, as `grow.done` does.
    """

    predicate: Callable[[View], bool]
    body: Callable[[View], Patch]
    name: str = ""
    optional: bool = False
    adds: AbstractSet[str] | None = None
    waits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (callable(self.predicate) and callable(self.body)):
            part = "body" if callable(self.predicate) else "predicate"
            raise InvalidPatchError(f"The {part} of a rule is a function of one View, not {getattr(self, part)!r}.")
        check_plain(self.predicate, "The predicate of a rule")
        check_plain(self.body, "The body of a rule")
        if self.adds is not None:
            _put(self, "adds", _kinds(self.adds) if self.adds or isinstance(self.adds, str) else NO_KINDS)
        if self.waits:
            _put(self, "waits", tuple(map(node_id, self.waits)))
        elif said := getattr(self.predicate, "waits", ()):
            _put(self, "waits", said)
        if not self.name:
            called = getattr(self.body, "__name__", "rule")
            _put(self, "name", "rule" if called == "<lambda>" else called)


def check_plain(fn: Any, what: str) -> None:
    """Check that what a run asks is no `async def` function: nobody would await its answer, which would always hold.

    Raises:
        InvalidPatchError: it is one.
    """
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & CO_COROUTINE:
        raise InvalidPatchError(
            f"{what} is asked by the run itself and cannot be async, as {fn!r} is. Let a task await."
        )


def checked_rules(given: Iterable[Rule] | None) -> tuple[Rule, ...]:
    """Return what was given as rules, where None is none.

    Raises:
        InvalidPatchError: something is no rule, or it is no list of them.
    """
    if not isinstance(given, (list, tuple)):
        if given is None:
            return ()
        if isinstance(given, Rule) or not isinstance(given, Iterable):
            raise InvalidPatchError(f"rules is a list of rules, not {given!r}. Write rules=[Rule(predicate, body)].")
    rules = tuple(given)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise InvalidPatchError(f"rules holds rules, not {rule!r}. Make them with Rule(predicate, body).")
    return rules


NO_KINDS: frozenset[str] = frozenset()
_put = msgspec.structs.force_setattr


def _kinds(adds: Any) -> frozenset[str]:
    if isinstance(adds, str) or not all(isinstance(kind, str) for kind in adds):
        raise InvalidPatchError(f"adds is a set of kinds such as {{'pdf'}}, not {adds!r}.")
    return frozenset(adds)


class Snapshot(Protocol):
    """Where a view reads from: the running graph by node number."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def index(self) -> Mapping[str, int]: ...

    @property
    def kinds(self) -> Mapping[str, Sequence[int]]: ...

    @property
    def most(self) -> int: ...

    def status(self, node: int) -> tuple[int, str]: ...

    def value(self, node: int) -> Any: ...

    def closed(self, kind: str) -> bool: ...


class View(msgspec.Struct, eq=False):
    """What a rule may see: names, kinds, states and results. It remembers what was looked at and may still change.

    Attributes:
        reads: the state of each node that was looked at, or `UNENDED`.
        looked: what else was: a name that is not there, how many nodes (of a kind) there are, a kind that is not closed.
        relies: the kinds that were found closed.
        taken: the nodes whose values were read.
    """

    snapshot: Snapshot
    reads: dict[int, int] = {}
    looked: dict[Topic, int] = {}
    relies: frozenset[str] = NO_KINDS
    taken: set[int] = set()

    def __contains__(self, name: object) -> bool:
        try:
            return self._number(name) is not None
        except GraphError:
            return False

    def count(self, kind: str | None = None) -> int:
        """Return how many nodes there are, or how many of a kind."""
        if kind is None:
            found = self.looked["all", ""] = len(self.snapshot.names)
        else:
            found = self.looked["kind", kind] = len(self.snapshot.kinds.get(kind, ()))
        return found

    def closed(self, kind: str) -> bool:
        """Return whether no node of a kind can be added any more: no other rule that is left may add one.

        The rule that asks does not count. What it relies on is kept: when it is applied, nothing adds a node of this kind again.
        """
        if self.snapshot.closed(kind):
            self.relies |= {kind}
            return True
        self.looked["closed", kind] = 0
        return False

    def nodes(self, kind: str | None = None) -> list[str]:
        """Return the names of all nodes, or of those of a kind, in order of insertion."""
        self.count(kind)
        names = self.snapshot.names
        return list(names) if kind is None else [names[number] for number in self.snapshot.kinds.get(kind, ())]

    def status(self, name: NodeRef) -> str:
        """Return the state of a node as a word, such as "running".

        Raises:
            UnknownNodeError: there is no such node yet; ask `name in view` first.
        """
        return self._look(name)[1]

    def succeeded(self, name: NodeRef) -> bool:
        """Return whether a node is there and has completed."""
        return self._end(name) == "completed"

    def ended(self, name: NodeRef) -> bool:
        """Return whether a node is there and has ended, however."""
        return self._end(name) not in _NOT_ENDED

    def _number(self, node: object) -> int | None:
        """Return the number of a node; that it is not there yet is noted."""
        name = node if type(node) is str else node_id(node)
        number = self.snapshot.index.get(name)
        if number is None:
            self.looked["name", name] = 0
        return number

    def _end(self, node: NodeRef) -> str:
        """Return the state of a node for somebody who does not care what it does before it has ended, or that it is there."""
        number = self._number(node)
        if number is None:
            return "pending"
        word = self.snapshot.status(number)[1]
        if word in _NOT_ENDED:
            self.reads.setdefault(number, UNENDED)
        return word

    def result(self, name: NodeRef) -> Any:
        """Return the value of a completed node.

        Raises:
            UnknownNodeError: there is no such node.
            InvalidPatchError: the node has not completed.
        """
        number, status = self._look(name)
        if status != "completed":
            shown = self.snapshot.names[number]
            raise InvalidPatchError(
                f"Node {shown!r} is {status} and has no result yet. Ask succeeded({shown!r}) first."
            )
        self.taken.add(number)
        return self.snapshot.value(number)

    def items(self, name: NodeRef, path: Iterable[Any] = ()) -> list[Any]:
        """Return the items of the value of a completed node, or of what is found in it along a path of keys.

        Raises:
            UnknownNodeError, InvalidPatchError: as `result`.
            GraphLimitError: there are more than a graph may have nodes, perhaps without end.
        """
        value = self.result(name)
        for key in path:
            value = value[key]
        most = self.snapshot.most
        items = list(islice(value, most + 1))
        if len(items) > most:
            raise GraphLimitError(
                f"The value of {node_id(name)!r} has more than {most} items, and a node for each would grow the graph past "
                f"{most} nodes. Look for a list without end, or allow more with max_nodes."
            )
        return items

    def _look(self, node: NodeRef) -> tuple[int, str]:
        number = self._number(node)
        if number is None:
            raise UnknownNodeError.of(node_id(node), self.snapshot.index, "The running graph has no node")
        code, word = self.snapshot.status(number)
        if word in _NOT_ENDED:
            self.reads[number] = code
        return number, word


def check_declared(
    adds: AbstractSet[str] | None, nodes: Iterable[Node], rules: Iterable[Rule], who: str = "this rule"
) -> None:
    """Check that what a rule or a node appends is what it said it may add.

    Raises:
        InvalidPatchError: it is not; the message names the kind.
    """
    if adds is None:
        return
    for node in nodes:
        if node.kind is not None and node.kind not in adds:
            raise InvalidPatchError(
                f"Node {node.id!r} is of kind {node.kind!r}, and {who} said that it adds {_listed(adds)}. Add the "
                f"kind to its adds."
            )
    for further in rules:
        if further.adds is None or not further.adds <= adds:
            kinds = "any kind" if further.adds is None else f"nodes of kind {sorted(further.adds - adds)}"
            raise InvalidPatchError(
                f"The rule {further.name!r} may add {kinds}, and {who}, which appends it, said that it adds {_listed(adds)}. Let "
                f"the rule say a smaller adds={{...}}, or {who} a larger one."
            )


def _listed(adds: AbstractSet[str]) -> Any:
    return sorted(adds) or "nothing with a kind"


def check_sealed(nodes: Iterable[Node], sealed: AbstractSet[str]) -> None:
    """Check that no node is of a kind that an applied rule found closed.

    Raises:
        InvalidPatchError: one is; the message names the kind.
    """
    for node in nodes:
        if node.kind in sealed:
            raise InvalidPatchError(
                f"Node {node.id!r} is of kind {node.kind!r}, which a rule found closed and relied on. Give the node another "
                f"kind, or let a rule that is there before say that it adds {node.kind!r}."
            )


def without_debug(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes of a patch but for its debug nodes, of which there are some and for which nobody asked.

    Raises:
        InvalidPatchError: another node of the patch depends on one.
    """
    left_out = {node.id for node in nodes if node.debug}
    for node in nodes:
        if not node.debug and not left_out.isdisjoint(node.required()):
            before = next(one for one in node.required() if one in left_out)
            raise InvalidPatchError(
                f"Node {node.id!r} depends on the debug node {before!r}, without which most runs have to do. Make {node.id!r} a "
                f"debug node too, or {before!r} none."
            )
    return tuple([node for node in nodes if not node.debug])


def check_patch(nodes: Sequence[Node], index: Mapping[str, int]) -> None:
    """Check that a patch may be appended to a graph whose names are in `index`.

    Raises:
        InvalidPatchError, DuplicateNodeError, UnknownNodeError, CycleError: the patch breaks a rule of rules; nothing changed.
    """
    own: dict[str, Node] = {}
    for node in nodes:
        if node.id in own or node.id in index:
            raise DuplicateNodeError(node.id)
        if node.handler is not None:
            raise InvalidPatchError(
                f"Node {node.id!r} is a handler, and a graph has those from the start. Add it there, or make it a node."
            )
        if node.setup:
            raise InvalidPatchError(
                f"Node {node.id!r} is a setup node, whose value a graph keeps for its later runs; what a run grows by ends with "
                f"it. Add it to the graph, or remove its setup=True."
            )
        own[node.id] = node
    inner: list[tuple[str, str]] = []
    for node in nodes:
        for before in node.required():
            if before in index:
                continue
            if before not in own:
                raise UnknownNodeError.of(before, [*own, *index], f"Node {node.id!r} of the patch depends on")
            inner.append((before, node.id))
    if not inner:
        return
    names = list(own)
    Structure.build(names, {name: number for number, name in enumerate(names)}, inner)
