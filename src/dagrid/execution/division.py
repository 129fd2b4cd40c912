"""A compiled graph divided into pieces, and how they hang together: who needs what from whom. It runs nothing.

Nodes have two numbers: that of the whole graph, and one of their own part, in the order of urgency.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagrid.execution.binding import COMMAND, HERE, LOOP, Bindings
from dagrid.execution.pieces import Draft, Piece, Rows
from dagrid.graph.node import Node
from dagrid.graph.structure import paused_gc
from dagrid.machine.events import Fact
from dagrid.machine.plan import Plan
from dagrid.machine.state import SKIPPED_BIT

GIVEN = -1
"""The part of a node that has a value from before, and the place of a value that does not leave its part."""


@dataclass(slots=True)
class Slice:
    """One part of a divided graph.

    Attributes:
        nodes: their numbers in the whole graph; the nodes of other parts that they need come last.
        size: how many nodes are its own.
        order: its own nodes by their numbers in the whole, in an order in which they can run.
        sources: for each node of another part, which part (GIVEN: none).
        numbers: and its number there.
        places: and the place of its value in what that part sends (GIVEN: it is waited for, and its value is not asked for).
        sent: its own numbers of the nodes whose values leave it; None means all.
        crossing: those of them that other parts take.
        needs: the parts that it needs.
        piece: what its worker gets.
    """

    nodes: list[int]
    size: int
    order: list[int]
    sources: array[int]
    numbers: array[int]
    places: array[int]
    sent: list[int] | None
    crossing: frozenset[int]
    needs: list[int]
    piece: Piece
    _table: list[Any] = field(default_factory=list)

    def table(self) -> list[int | Fact]:
        """Return what an integer in the journal of a part stands for in that of the whole; the negative ones from its end."""
        if not self._table:
            own = self.nodes[: self.size]
            self._table = [*own, *(node | SKIPPED_BIT for node in own), *(~node for node in reversed(own))]
        return self._table


class Divider:
    """Divides a graph that is compiled for a run."""

    def __init__(
        self,
        plan: Plan,
        bindings: Bindings,
        specs: Mapping[int, Node],
        kept: Collection[int] | None,
        given: Collection[int],
        omitted: Collection[int],
        slots: int,
    ) -> None:
        """Take what is to be divided.

        Args:
            plan, bindings, specs: the graph.
            kept: the nodes whose values are wanted at the end; None means all.
            given: those that have a value already; they run nowhere.
            omitted: those that are not part of the run.
            slots: how many nodes of a part run at once; 0 means one, in the thread that performs the part.
        """
        self._plan, self._bindings, self._specs = plan, bindings, specs
        self._kept, self._given, self._omitted = kept, given, omitted
        self._slots = slots
        self._part = [GIVEN] * len(plan)
        self._own = [GIVEN] * len(plan)

    def divide(self, parts: Sequence[Sequence[int]]) -> list[Slice]:
        """Return the slices of parts, each a list of nodes in an order in which they can run; what does not run is left out."""
        with paused_gc():
            given, omitted = self._given, self._omitted
            orders = [list(part) for part in parts]
            if given or omitted:
                orders = [[node for node in part if node not in given and node not in omitted] for part in orders]
            orders = [part for part in orders if part]
            keys = self._plan.keys
            rows = [sorted(part, key=keys.__getitem__) for part in orders]
            for number, row in enumerate(rows):
                for own, node in enumerate(row):
                    self._part[node] = number
                    self._own[node] = own
            wanted = [self._wanted(row) for row in rows]
            crossing: list[set[int]] = [set() for _ in rows]
            for nodes in wanted:
                for node in nodes:
                    if self._part[node] != GIVEN:
                        crossing[self._part[node]].add(self._own[node])
            sent = [self._sent(row, crossing[number]) for number, row in enumerate(rows)]
            places = [None if one is None else {own: at for at, own in enumerate(one)} for one in sent]
            return [
                self._slice(at, row, orders[at], wanted[at], sent[at], places, frozenset(crossing[at]))
                for at, row in enumerate(rows)
            ]

    def _wanted(self, row: list[int]) -> set[int]:
        """Return the nodes whose values come into a part from elsewhere."""
        sources = self._bindings.sources
        return {source for node in row for source in sources(node)}.difference(row)

    def _sent(self, row: list[int], crossing: set[int]) -> list[int] | None:
        if self._kept is None:
            return None
        return sorted(crossing | {own for own, node in enumerate(row) if node in self._kept})

    def _slice(
        self,
        number: int,
        row: list[int],
        order: list[int],
        wanted: set[int],
        sent: list[int] | None,
        places: list[dict[int, int] | None],
        crossing: frozenset[int],
    ) -> Slice:
        plan, part, own = self._plan, self._part, self._own
        size = len(row)
        border: dict[int, int] = {}
        before: list[list[int]] = []
        for node in row:
            numbers = []
            for one in plan.predecessors[node]:
                if part[one] == number:
                    numbers.append(own[one])
                elif one not in self._omitted:
                    numbers.append(border.setdefault(one, size + len(border)))
            before.append(numbers)
        sources = array("i", [part[one] for one in border])
        taken = array("i")
        for one, source in zip(border, sources, strict=True):
            if one not in wanted:
                taken.append(GIVEN)
            elif source == GIVEN:
                taken.append(0)
            else:
                among = places[source]
                taken.append(own[one] if among is None else among[own[one]])
        nodes = [*row, *border]
        draft = self._draft(row, nodes, Rows.of(before), sent)
        needs = sorted({*sources} - {GIVEN})
        theirs = array("i", [own[one] for one in border])
        return Slice(nodes, size, order, sources, theirs, taken, sent, crossing, needs, Piece(draft))

    def _draft(self, row: list[int], nodes: list[int], before: Rows, sent: list[int] | None) -> Draft:
        plan, bindings, own = self._plan, self._bindings, self._own
        names, settings = plan.names, plan.settings
        number = {node: at for at, node in enumerate(nodes)}
        fns, taken, kwargs = bindings.fns, bindings.args, bindings.kwargs
        bound: dict[int, Node] = {}
        args: list[list[int]] = []
        named: dict[int, dict[str, int]] = {}
        tuned: dict[tuple[object, ...], list[int]] = {}
        for at, node in enumerate(row):
            spec = self._specs.get(node)
            if spec is not None:
                if spec.retries is not None or spec.timeout is not None or spec.on_lost != "requeue":
                    tuned.setdefault((spec.retries, spec.timeout, spec.on_lost), []).append(at)
                if (spec.arguments is not None or spec.when is not None or spec.cache) and fns[node] is not None:
                    bound[at] = spec
            if at in bound:
                args.append([])
                continue
            args.append([number[one] for one in taken[node]])
            names_of = kwargs[node]
            if names_of:
                named[at] = {name: number[one] for name, one in names_of.items()}
        return Draft(
            [names[node] for node in nodes],
            len(row),
            before,
            [self._specs[node].fn if at in bound else fns[node] for at, node in enumerate(row)],
            Rows.of(args),
            named,
            {
                own[node]: place
                for node in row
                if (place := bindings.places.get(node)) in (LOOP, COMMAND, HERE) and own[node] not in bound
            }
            if bindings.places
            else {},
            bound,
            [(*said, which) for said, which in tuned.items()],  # type: ignore[misc]
            sent,
            settings.on_failure,
            settings.node_timeout,
            self._slots,
        )
