"""Maps over values that only a run makes: what can be in a graph at its start, and the rules that append the rest.

An `Outline` is a graph as it was described, in which a map is one node: the one that gathers its values. That node, and all that
depends on it, is late, for how many nodes stand before it is not known, and new edges lead to new nodes only. `split` makes of an
outline the graph to begin with, and the rules. Nothing is run or decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from dagrid.errors import GraphLimitError, InvalidNodeError, SkipTask
from dagrid.graph.arguments import Arguments, Ref
from dagrid.graph.dag import DAG
from dagrid.graph.node import Node
from dagrid.graph.rules import Patch, Rule, View
from dagrid.graph.structure import Structure


class Outline(msgspec.Struct, frozen=True):
    """A graph as it was described. The node of a map has the arguments of its calls; the first one is what is mapped over.

    `unread` are the maps whose lists nobody asks for, because they are only mapped item by item.
    """

    structure: Structure
    specs: Mapping[int, Node]
    maps: frozenset[int]
    unread: frozenset[int] = frozenset()

    def node(self, at: int) -> Node:
        """Return a node with all that it waits for."""
        spec = self.specs.get(at)
        names = self.structure.names
        before = tuple([names[one] for one in self.structure.predecessors[at]])
        if spec is None:
            return Node(names[at], None, before)
        return spec if set(spec.required()) == set(before) else spec.changed(depends_on=before)

    def late(self, early: Collection[str]) -> list[str]:
        """Return the names of the nodes that are not among these, but for those of maps."""
        return [name for at, name in enumerate(self.structure.names) if name not in early and at not in self.maps]


def gathered(pattern: Node) -> Node:
    """Return the pattern of the node that gathers the values of a map in a list."""
    return Node(
        pattern.id, as_list, tags=pattern.tags, priority=pattern.priority, setup=pattern.setup, debug=pattern.debug
    )


def as_list(*values: Any) -> list[Any]:
    """Return the values as a list."""
    return list(values)


def as_unread_list(*values: Any) -> list[Any]:
    """Return the values as a list that the graph is not described to ask for; a run that keeps less need not make it."""
    return list(values)


def split(
    outline: Outline,
    *,
    name: str | None,
    max_concurrency: int | None,
    known: Collection[int] = (),
    unwanted: Collection[int] | None = None,
) -> DAG:
    """Return the graph to begin with, and in its `rules` what it grows by.

    Args:
        outline: the graph as it was described.
        name, max_concurrency: of the graph.
        known: nodes that have a value already: they are there from the start, wherever they stand.
        unwanted: late nodes that are not to be appended, where a run has chosen. Debug nodes that it wants are then nodes as
            any other.

    Raises:
        InvalidNodeError: a setup node that cannot be there from the start.
    """
    behind = _maps_behind(outline, known)
    early = [at for at, maps in enumerate(behind) if not maps and (at not in outline.maps or at in known)]
    number = {old: new for new, old in enumerate(early)}
    structure = outline.structure
    names = [structure.names[at] for at in early]
    index = {one: at for at, one in enumerate(names)}
    predecessors = [[number[one] for one in structure.predecessors[at] if one in number] for at in early]
    specs = {}
    for at in early:
        spec = outline.specs.get(at)
        if spec is not None and len(predecessors[number[at]]) == len(structure.predecessors[at]):
            specs[number[at]] = spec  # else it has a value, and what it was made of comes later, if at all
    made = Structure.of_predecessors(names, index, predecessors)
    rules = _Rules(outline, behind, frozenset(number), unwanted).all()
    return DAG.of(made, specs, name=name, max_concurrency=max_concurrency, rules=tuple(rules), outline=outline)


def _maps_behind(outline: Outline, known: Collection[int]) -> list[int]:
    """Return for each node the maps that it depends on, directly or not: in a number, with a bit for each in their order.

    Of a map itself, on which nothing is grouped, no more is kept than that there are some when all have been seen that follow it:
    in a chain of maps the numbers would take memory that grows with its square.
    """
    structure = outline.structure
    found = [0] * len(structure.names)
    unseen = [len(after) for after in structure.successors]
    bit = 1
    own: dict[int, int] = {}
    for at in structure.order:
        if at in known:
            continue
        if at in outline.maps:
            own[at], bit = bit, bit << 1
        for one in structure.predecessors[at]:
            found[at] |= found[one] | own.get(one, 0)
            unseen[one] -= 1
            if not unseen[one] and one in own:
                found[one], own[one] = min(found[one], 1), 0
    return found


class _Rules:
    """Makes the rules of an outline: one for each map, one for all nodes behind the same maps."""

    def __init__(
        self, outline: Outline, behind: list[int], early: frozenset[int], unwanted: Collection[int] | None
    ) -> None:
        self.outline = outline
        self.behind = behind
        self.early = early
        self.unwanted = frozenset(unwanted or ())
        self.chosen = unwanted is not None
        self.maps = [at for at in outline.structure.order if at in outline.maps and at not in early]
        self.bases = self._bases()
        self.waits: dict[int, tuple[str, ...]] = {}
        self.waiting: dict[tuple[str, ...], int] = {}

    def all(self) -> list[Rule]:
        """Return the rules, those of maps first."""
        found = [self._map(at) for at in self.maps]
        groups: dict[int, list[int]] = {}
        for at in self.outline.structure.order:
            if at not in self.early and at not in self.outline.maps and at not in self.unwanted:
                groups.setdefault(self.behind[at], []).append(at)
        for bit, at in enumerate(self.maps):
            self.waiting[self.waits[at]] = self.waiting.get(self.waits[at], 0) | 1 << bit
        rules = [rule for rule in found if rule is not None]
        return rules + [self._group(maps, nodes) for maps, nodes in groups.items()]

    def _map(self, at: int) -> Rule | None:
        outline = self.outline
        node = self._node(at)
        assert node.arguments is not None
        source: Ref = node.arguments.args[0]
        before = outline.structure.index[source.node]
        followed = before in self.bases and not source.path
        self.waits[at] = self.waits[before] if followed else (source.node,)
        if at in self.unwanted:
            return None
        needs = [name for name in self._late(at) if name != source.node]
        follows = self.bases[before] if followed else None
        rule = _Map(node, source, self.bases[at], follows, tuple(needs), at in outline.unread)
        return Rule(rule.holds, rule.patch, f"map {node.id}", adds=_kinds([node]), waits=self.waits[at])

    def _group(self, maps: int, members: list[int]) -> Rule:
        own = {self.outline.structure.names[at] for at in members}
        nodes = [self._node(at) for at in members]
        needs = dict.fromkeys(name for at in members for name in self._late(at) if name not in own)
        waits = dict.fromkeys(name for names, those in self.waiting.items() if those & maps for name in names)
        append = _Append(tuple(nodes), tuple(needs))
        what = nodes[0].id if len(nodes) == 1 else f"{nodes[0].id} and {len(nodes) - 1} more"
        return Rule(append.holds, append.patch, f"append {what}", adds=_kinds(nodes), waits=tuple(waits))

    def _node(self, at: int) -> Node:
        node = self.outline.node(at)
        if node.setup and at not in self.unwanted:
            raise InvalidNodeError(
                f"The setup node {node.id!r} depends on a map over a value that is known at run time only, and has to be there "
                f"before the run. Map over a list, or remove its setup=True."
            )
        absent = {
            self.outline.structure.names[one] for one in self.outline.structure.predecessors[at] if one in self.unwanted
        }
        if absent.intersection(node.depends_on):
            node = node.changed(depends_on=[name for name in node.depends_on if name not in absent])
        return node.changed(debug=False) if node.debug and self.chosen else node

    def _late(self, at: int) -> list[str]:
        """Return what a node waits for and is not there at the start, the last one first: it comes last."""
        structure = self.outline.structure
        late = [one for one in structure.predecessors[at] if one not in self.early and one not in self.unwanted]
        return [structure.names[one] for one in reversed(late)]

    def _bases(self) -> dict[int, str]:
        """Return by map what its elements are called, which no described node may be."""
        names = self.outline.structure.names
        taken = {name.rpartition("[")[0] for name in names if name.endswith("]")}
        found: dict[int, str] = {}
        for at in self.maps:
            base = names[at]
            count = 1
            while base in taken:
                count += 1
                base = f"{names[at]}_{count}"
            taken.add(base)
            found[at] = base
        return found


def _kinds(nodes: list[Node]) -> frozenset[str]:
    kinds = {node.kind for node in nodes if node.kind is not None}
    return frozenset(kinds.union(*(node.adds or () for node in nodes)))


class _Append(msgspec.Struct, frozen=True):
    """Append nodes when all is there that they need."""

    nodes: tuple[Node, ...]
    needs: tuple[str, ...]

    def holds(self, view: View) -> bool:
        return all(name in view for name in self.needs)

    def patch(self, _: View) -> Patch:
        return Patch(self.nodes)


class _Map(msgspec.Struct, frozen=True):
    """Append a node for each item of a value, and the one that gathers their values.

    Args:
        node: as it was described: the first of its arguments is `source`.
        source: what is mapped over.
        base: what the elements are called but for their number.
        follows: that of the map whose elements are mapped one by one, if `source` is such a map.
        needs: what else must be there.
        unread: nobody asks for the list of the values.
    """

    node: Node
    source: Ref
    base: str
    follows: str | None
    needs: tuple[str, ...]
    unread: bool = False

    def holds(self, view: View) -> bool:
        if not all(name in view for name in self.needs):
            return False
        return self.source.node in view if self.follows is not None else view.ended(self.source.node)

    def patch(self, view: View) -> Patch:
        if self.follows is not None:
            items = self._elements(view, self.follows)
            return self._mapped(items) if items else Patch([self._gathering(_nothing_of, Ref(self.source.node))])
        if not view.succeeded(self.source.node):
            return Patch([self._gathering(_without, Ref(self.source.node))])
        try:
            items = view.items(self.source.node, self.source.path)
        except GraphLimitError:
            raise
        except Exception as error:  # noqa: BLE001  # the user's value
            return Patch([self._gathering(_refuse, self._complaint(error), after=True)])
        return self._mapped(items)

    @staticmethod
    def _elements(view: View, base: str) -> list[Any]:
        found: list[Any] = []
        while (name := f"{base}[{len(found)}]") in view:
            found.append(Ref(name))
        return found

    def _mapped(self, items: list[Any]) -> Patch:
        said = self.node.arguments
        assert said is not None
        others = said.args[1:]
        shared = Arguments(others, said.kwargs).sources or ()
        one_by_one = self.follows is not None
        after = [name for name in self.node.depends_on if name != self.source.node]
        pattern = self.node.changed(arguments=None, depends_on=after if one_by_one else [self.source.node, *after])
        nodes = []
        for number, item in enumerate(items):
            sources = (item.node, *shared) if one_by_one else shared
            nodes.append(pattern.called(f"{self.base}[{number}]", Arguments((item, *others), said.kwargs, sources)))
        values = [Ref(node.id) for node in nodes]
        gather = as_unread_list if self.unread else as_list
        return Patch([*nodes, self._gathering(gather, *values, after=not values)])

    def _gathering(self, fn: Any, *args: Any, after: bool = False) -> Node:
        pattern = gathered(self.node).changed(fn=fn, depends_on=[self.source.node] if after else [])
        return pattern.called(self.node.id, Arguments(args))

    def _complaint(self, error: Exception) -> str:
        what = f"Node {self.node.id!r} maps over the value of {self.source.node!r}"
        keys = "".join(f"[{key!r}]" for key in self.source.path)
        return f"{what}{f', at {keys}' if keys else ''}, which cannot be: {type(error).__name__}: {error}. Let it return a list."


def _nothing_of(values: list[Any]) -> list[Any]:
    return values[:0]


def _without(_: Any) -> None:
    raise SkipTask("there is nothing to map over")


def _refuse(message: str) -> None:
    raise TypeError(message)
