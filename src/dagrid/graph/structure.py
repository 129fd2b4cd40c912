"""A graph as integers and lists: what every algorithm and the machine work on.

Nodes are numbers in the order in which they were added. This room knows names only as labels of those numbers;
settings and functions are for the rooms above it. All is linear and iterative: a chain of a million is ordinary.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from dagrid.errors import CycleError, DuplicateNodeError, InvalidNodeError, UnknownNodeError, hint, nearest


class Structure(msgspec.Struct, eq=False):
    """Names, edges and one topological order of a graph. Read-only by convention: graphs share parts of it.

    Attributes:
        names: the name of each node, by index; the index is the order of insertion.
        index: the index of each name.
        successors: for each node those that wait for it, in order of insertion.
        predecessors: for each node what it waits for, in order of declaration, each once.
        order: a topological order. A node stands where it was inserted, unless it waits for a later one: then what it
            waits for comes right before it. It depends on names and predecessors only.
    """

    names: list[str]
    index: dict[str, int]
    successors: list[list[int]]
    predecessors: list[list[int]]
    order: list[int]
    _ranks: list[int] | None = None

    @classmethod
    def build(cls, names: list[str], index: dict[str, int], edges: Sequence[tuple[str, str]]) -> Structure:
        """Make the structure of named edges (before, after), which may come in any order; equal edges count once.

        Raises:
            UnknownNodeError: an edge names a node that is not there.
            CycleError: the edges close a cycle; the error has its path.
            InvalidNodeError: an edge that is not a pair of names.
        """
        with paused_gc():
            predecessors: list[list[int]] = [[] for _ in names]
            after = before = ""
            try:
                for before, after in edges:
                    predecessors[index[after]].append(index[before])
            except KeyError:
                raise unknown_edge_end(before, after, index) from None
            except (TypeError, ValueError):
                raise _no_edge(edges) from None
            return cls.of_predecessors(names, index, predecessors)

    @classmethod
    def of_predecessors(cls, names: list[str], index: dict[str, int], predecessors: list[list[int]]) -> Structure:
        """Make the structure of integer lists, which it takes over; equal edges count once.

        Raises:
            CycleError: the edges close a cycle.
        """
        with paused_gc():
            _drop_duplicates(predecessors)
            successors: list[list[int]] = [[] for _ in names]
            for node, before in enumerate(predecessors):
                for one in before:
                    successors[one].append(node)
            order = topological_order(predecessors, names)
            return cls(names, index, successors, predecessors, order)

    @classmethod
    def in_order(cls, names: list[str], index: dict[str, int], predecessors: list[list[int]]) -> Structure:
        """Make the structure of integer lists, each edge once and from a node to a later one; they are taken over."""
        successors: list[list[int]] = [[] for _ in names]
        for node, before in enumerate(predecessors):
            for one in before:
                successors[one].append(node)
        return cls(names, index, successors, predecessors, list(range(len(names))))

    def renamed(self, name: Callable[[str], str]) -> Structure:
        """Return the same of nodes that have other names."""
        names = list(map(name, self.names))
        return msgspec.structs.replace(self, names=names, index={one: at for at, one in enumerate(names)})

    def extended(self, names: list[str], edges: Iterable[tuple[str, str]]) -> Structure:
        """Return this structure with more nodes; every edge must lead to one of them.

        Raises:
            DuplicateNodeError, UnknownNodeError, CycleError: as for a new graph; this structure stays as it is.
        """
        old = len(self.names)
        index = self.index.copy()
        add_names(index, self.names, names)
        fresh: list[list[int]] = [[] for _ in names]
        for before, after in edges:
            if before not in index or after not in index:
                raise unknown_edge_end(before, after, index)
            fresh[index[after] - old].append(index[before])
        _drop_duplicates(fresh)
        every = self.names + names
        predecessors = self.predecessors + fresh
        order = self.order + topological_order(predecessors, every, old)
        successors = self.successors + [[] for _ in names]
        copied: set[int] = set()
        for node in range(old, len(every)):
            for one in predecessors[node]:
                if one < old and one not in copied:
                    copied.add(one)
                    successors[one] = successors[one].copy()
                successors[one].append(node)
        return Structure(every, index, successors, predecessors, order)

    def ranks(self) -> list[int]:
        """Return the place of each node, by index, in `order`; found once."""
        ranks = self._ranks
        if ranks is None:
            ranks = [0] * len(self.order)
            for at, node in enumerate(self.order):
                ranks[node] = at
            self._ranks = ranks
        return ranks

    def edge_names(self) -> Iterator[tuple[str, str]]:
        """Yield every edge as a pair of names, by the node that it leads to, in order of declaration."""
        names = self.names
        for node, before in enumerate(self.predecessors):
            for one in before:
                yield names[one], names[node]


class paused_gc:  # noqa: N801  # used as a function
    """Pause the cyclic garbage collector: many small lists are made and none of them is garbage."""

    __slots__ = ("_enabled",)

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            gc.enable()


def add_names(index: dict[str, int], known: Sequence[str], names: Sequence[str]) -> None:
    """Add names to an index of `known`, or nothing at all when one of them is there already.

    Raises:
        DuplicateNodeError: naming the first duplicate.
    """
    start = len(index)
    index.update(zip(names, range(start, start + len(names)), strict=True))
    if len(index) == start + len(names):
        return
    index.clear()
    index.update(zip(known, range(start), strict=True))
    seen = set(known)
    for name in names:
        if name in seen:
            raise DuplicateNodeError(name)
        seen.add(name)


def unknown_node(name: object, index: dict[str, int]) -> UnknownNodeError:
    """Return the error for a name that the graph does not have."""
    suggestion = suggest(name, index)
    return UnknownNodeError(f"The graph has no node {name!r}.{hint(suggestion)}", str(name), suggestion)


def unknown_edge_end(before: object, after: object, index: dict[str, int]) -> UnknownNodeError:
    """Return the error for an edge of which one end is not there."""
    if after in index:
        suggestion = suggest(before, index)
        message = f"Node {after!r} depends on {before!r}, which is not in the graph.{hint(suggestion)}"
        return UnknownNodeError(f"{message} Add the node, or correct the name.", str(before), suggestion)
    suggestion = suggest(after, index)
    message = f"The edge {before!r} -> {after!r} leads to a node that is not in the graph.{hint(suggestion)}"
    return UnknownNodeError(f"{message} Add the node, or correct the name.", str(after), suggestion)


def _no_edge(edges: Sequence[object]) -> InvalidNodeError:
    """Return the error for the first edge that is not a pair of names."""
    for at, edge in enumerate(edges):
        if not (isinstance(edge, (tuple, list)) and len(edge) == 2 and all(isinstance(end, str) for end in edge)):
            return InvalidNodeError(f"Edge number {at} is {edge!r}. An edge is a pair (before, after) of names.")
    return InvalidNodeError("An edge is a pair (before, after) of names.")


def suggest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name`, whatever that is."""
    return nearest(name, known) if isinstance(name, str) else None


def topological_order(predecessors: Sequence[Sequence[int]], names: Sequence[str], start: int = 0) -> list[int]:
    """Return the nodes from `start` on, each after all that it waits for; those before `start` count as placed.

    Raises:
        CycleError: with the path of one cycle.
    """
    new, placed, opened = 0, 1, 2
    total = len(predecessors)
    state = bytearray(total)
    state[:start] = bytes([placed]) * start
    order: list[int] = []
    place = order.append
    for node in range(start, total):
        if state[node] != new:
            continue
        for one in predecessors[node]:
            if state[one] != placed:
                break
        else:
            state[node] = placed
            place(node)
            continue
        stack = [node]
        while stack:
            top = stack[-1]
            if state[top] == placed:
                stack.pop()
                continue
            missing = [one for one in predecessors[top] if state[one] != placed]
            if not missing:
                state[top] = placed
                place(top)
                stack.pop()
                continue
            state[top] = opened
            for one in missing:
                if state[one] == opened:
                    raise CycleError([names[each] for each in find_cycle(predecessors, start)])
            missing.reverse()
            stack += missing
    return order


def find_cycle(predecessors: Sequence[Sequence[int]], start: int = 0) -> list[int]:
    """Return the nodes along one cycle in the direction of its edges, the first again at the end; [] if none."""
    rest = _unplaceable(predecessors, start)
    if not rest:
        return []
    at = min(rest)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while at not in seen:
        seen[at] = len(walk)
        walk.append(at)
        at = next(one for one in predecessors[at] if one in rest)
    cycle = walk[seen[at] :]
    cycle.reverse()
    first = cycle.index(min(cycle))
    return [*cycle[first:], *cycle[: first + 1]]


def _unplaceable(predecessors: Sequence[Sequence[int]], start: int) -> set[int]:
    """Return the nodes that are on a cycle or behind one: what Kahn's algorithm leaves over."""
    waiting = dict.fromkeys(range(start, len(predecessors)), 0)
    successors: dict[int, list[int]] = {node: [] for node in waiting}
    for node in waiting:
        for one in predecessors[node]:
            if one >= start:
                waiting[node] += 1
                successors[one].append(node)
    free = [node for node, count in waiting.items() if count == 0]
    while free:
        node = free.pop()
        del waiting[node]
        for after in successors[node]:
            waiting[after] -= 1
            if waiting[after] == 0:
                free.append(after)
    return set(waiting)


def _drop_duplicates(lists: list[list[int]]) -> None:
    if sum(map(len, map(set, lists))) == sum(map(len, lists)):
        return
    for at, one in enumerate(lists):
        if len(one) > 1:
            lists[at] = list(dict.fromkeys(one))
