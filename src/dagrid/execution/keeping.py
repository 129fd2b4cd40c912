"""Which values of a run are kept: all, or only those that somebody will still want. A value goes when its last reader has ended.

It knows the state and the bindings of one run; the journal tells it what has ended since it looked last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from dagrid.errors import TaskError
from dagrid.machine.events import NODE_MASK, Kind
from dagrid.machine.state import State
from dagrid.ports import Encoded


class Dropped(Encoded):
    """In the place of a value that was dropped."""

    __slots__ = ("_node",)

    def __init__(self, node: str) -> None:
        self._node = node

    def decode(self) -> Any:
        """Raise: there is no value any more."""
        raise TaskError(
            f"The value of node {self._node!r} was dropped when its last reader had ended. Keep it with "
            f"keep={{{self._node!r}, ...}}.",
            self._node,
        )


class Keeping:
    """Drops the values of one run that nobody needs any more."""

    def __init__(
        self,
        kept: Collection[str] | None,
        sources: Callable[[int], Sequence[int]],
        substitute: Callable[[int, str], Any] | None = None,
    ) -> None:
        """Say what is kept.

        Args:
            kept: the nodes whose values are kept; None keeps those that nobody takes. Of the others, those that nobody takes wait
                for as long as the graph may grow.
            sources: for a node, the nodes whose values it takes.
            substitute: for a node and its name, what to put in the place of its value, if it can be had from elsewhere.
        """
        self._kept = kept
        self.sources = sources
        self._substitute = substitute
        self._readers: list[int] = []
        self._seen = 0
        self._unread: list[int] = []  # a graph that may grow may get readers for them

    def drop(self, state: State, values: list[Any], until: int) -> None:
        """Look at what has ended since the last time, up to a place in the journal, and drop what it was the last to need."""
        if len(self._readers) < len(state.status):
            self._count(len(state.status))
        journal = state.journal
        for position in range(self._seen, until):
            entry = journal[position]
            if isinstance(entry, int):
                if entry >= 0:  # otherwise it started
                    self._ended(entry & NODE_MASK, state, values)
                continue
            node, kind = entry.node, entry.kind
            if kind in _ENDS:
                self._ended(node, state, values)
            elif kind is Kind.VALUE_LOST:
                self._wanted_again(node)
            elif kind is Kind.REOPENED:
                for each in entry.numbers:
                    self._wanted_again(each)
        self._seen = until
        if self._unread and (state.finished or not (state.rules or any(state.adders.values()))):
            for node in self._unread:
                if not self._readers[node]:
                    self._drop(node, state, values)
            self._unread.clear()

    def check(self, nodes: Iterable[int], values: Sequence[Any]) -> None:
        """Check that new nodes take no value that was dropped.

        Raises:
            TaskError: one does.
        """
        known = len(values)
        for node in nodes:
            for source in self.sources(node):
                if source < known and isinstance(values[source], Dropped):
                    values[source].decode()

    def _count(self, nodes: int) -> None:
        """Count the readers of values, those of new nodes too."""
        known = len(self._readers)
        self._readers.extend([0] * (nodes - known))
        for node in range(known, nodes):
            for source in set(self.sources(node)):
                self._readers[source] += 1

    def _ended(self, node: int, state: State, values: list[Any]) -> None:
        readers = self._readers
        for source in set(self.sources(node)):
            readers[source] = left = readers[source] - 1
            if not left:
                self._drop(source, state, values)
        if self._kept is not None and not readers[node]:
            self._unread.append(node)

    def _wanted_again(self, node: int) -> None:
        """A node that had ended runs again, and reads again."""
        for source in set(self.sources(node)):
            self._readers[source] += 1

    def _drop(self, node: int, state: State, values: list[Any]) -> None:
        name = state.plan.names[node]
        if self._kept is not None and name in self._kept:
            return
        other = None if self._substitute is None else self._substitute(node, name)
        values[node] = Dropped(name) if other is None else other


_ENDS = frozenset(
    {
        Kind.COMPLETED,
        Kind.FAILED,
        Kind.TIMED_OUT,
        Kind.CANCELLED,
        Kind.LOST,
        Kind.SKIPPED,
        Kind.PASSED,
        Kind.OMITTED,
        Kind.REUSED,
        Kind.SIGNALLED,
    }
)
