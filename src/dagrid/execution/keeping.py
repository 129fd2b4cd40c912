"""Which values of a run are kept: all, or only those that somebody will still want. A value goes when its last reader has ended.

It knows the state and the bindings of one run; the journal tells it what has ended since it looked last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from dagrid.errors import TaskError
from dagrid.execution.binding import Bindings
from dagrid.graph.late import as_unread_list
from dagrid.machine.events import NODE_MASK, Fact, Kind
from dagrid.machine.state import COMPLETED, State
from dagrid.ports import Encoded


class Dropped(Encoded):
    """In the place of a value that was dropped."""

    __slots__ = ("_node",)
    gone = True

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
    """Drops the values of one run that nobody needs any more.

    Attributes:
        bindings: which node takes which values.
    """

    def __init__(
        self,
        kept: Collection[str] | None,
        bindings: Bindings,
        substitute: Callable[[int, str], Any] | None = None,
        asked: Collection[str] = (),
    ) -> None:
        """Say what is kept.

        Args:
            kept: the nodes whose values are kept; None keeps those that nobody takes, and that the graph did not grow by. Of the
                others, those that nobody takes wait for as long as the graph may grow.
            bindings: which node takes which values.
            substitute: for a node and its name, what to put in the place of its value, if it can be had from elsewhere.
            asked: what is kept besides, where `kept` is None.
        """
        self._kept = kept
        self.bindings = bindings
        self._unasked: set[int] = set()  # lists of maps that nobody asks for; they take no values, and hold none up
        self._spared: set[int] = set()
        self._awaited_by_none: set[int] = set()  # all of their readers have ended before them
        self._substitute = substitute
        self._asked = frozenset(asked if kept is None else kept)
        self._readers: list[int] = []
        self._seen = 0
        self._unread: list[int] = []  # a graph that may grow may get readers for them

    def drop(self, state: State, values: list[Any], until: int) -> None:
        """Look at what has ended since the last time, up to a place in the journal, and drop what it was the last to need."""
        if len(self._readers) < len(state.status):
            self._count(state)
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
            elif kind is Kind.OMITTED or kind is Kind.REUSED:
                self._is_no_reader(node)
            elif kind is Kind.PATCHED and self._kept is None:
                self._grown_by(entry, state)
            elif kind is Kind.VALUE_LOST:
                self._wanted_again(node)
            elif kind is Kind.REOPENED:
                for each in entry.numbers:
                    self._wanted_again(each)
        self._seen = until
        if self._unread and (state.finished or not _may_grow(state)):
            for node in self._unread:
                if not self._readers[node]:
                    self._drop(node, state, values)
            self._unread.clear()

    def check(self, nodes: Iterable[int], values: Sequence[Any], names: Sequence[str]) -> None:
        """Check that new nodes take no value that was dropped, or will never be made.

        Raises:
            TaskError: one does.
        """
        known = len(values)
        for node in nodes:
            for source in self.bindings.sources(node):
                if source in self._unasked:
                    self._ask_for(source, names[source])
                if source < known and isinstance(values[source], Dropped):
                    values[source].decode()

    def spares(self, state: State, node: int) -> bool:
        """Return whether the call of a node gets no values, for nobody asks for the list of them; it is noted if so.

        In a run that is recorded whoever is still to come may ask for it, and gets it.
        """
        if node in self._unasked and (self._substitute is None or not _may_grow(state)):
            self._spared.add(node)
            return True
        self._spared.discard(node)
        return False

    def spared(self, node: int) -> bool:
        """Return whether the last call of a node got no values, so that what it returned is none."""
        return node in self._spared

    def _ask_for(self, unread: int, name: str) -> None:
        """Somebody takes a list after all: where there is a record of its items, it is made."""
        if self._substitute is None:
            Dropped(name).decode()
        self._unasked.discard(unread)
        self._wanted_again(unread)

    def _sources(self, node: int) -> Collection[int]:
        return () if node in self._unasked else set(self.bindings.sources(node))

    def _count(self, state: State) -> None:
        """Count the readers of values, those of new nodes too."""
        readers, names = self._readers, state.plan.names
        known, nodes = len(readers), len(state.status)
        readers.extend([0] * (nodes - known))
        lists = []
        for node in range(known, nodes):
            sources = self._sources(node)
            if sources and self.bindings.fns[node] is as_unread_list and names[node] not in self._asked:
                lists.append(node)
                continue
            for source in sources:
                readers[source] += 1
        for node in lists:
            if not readers[node]:
                self._unasked.add(node)
                continue
            for source in self._sources(node):
                readers[source] += 1

    def _grown_by(self, patched: Fact, state: State) -> None:
        """Note whose values a rule took to append nodes behind them; nobody else may want these."""
        assert patched.growth is not None
        for node in patched.growth.taken:
            after = state.plan.successors[node]
            if after and patched.numbers and after[-1] >= patched.numbers[0]:
                self._unread.append(node)

    def _ended(self, node: int, state: State, values: list[Any]) -> None:
        readers = self._readers
        if node in self._spared:
            self._drop(node, state, values)
            return
        for source in self._sources(node):
            readers[source] = left = readers[source] - 1
            if left:
                continue
            if state.status[source] < COMPLETED:
                self._awaited_by_none.add(source)
            else:
                self._drop(source, state, values)
        if node in self._awaited_by_none:
            self._awaited_by_none.discard(node)
            if not readers[node]:  # none has come since, or runs again
                self._drop(node, state, values)
        if self._kept is not None and not readers[node]:
            self._unread.append(node)

    def _is_no_reader(self, node: int) -> None:
        """A node does not run, so what it would take may be an output."""
        for source in self._sources(node):
            self._readers[source] -= 1
        if self._kept is not None and not self._readers[node]:
            self._unread.append(node)

    def _wanted_again(self, node: int) -> None:
        """A node that had ended runs again, and reads again."""
        for source in self._sources(node):
            self._readers[source] += 1

    def _drop(self, node: int, state: State, values: list[Any]) -> None:
        name = state.plan.names[node]
        if name in self._asked:
            return
        other = None if self._substitute is None else self._substitute(node, name)
        values[node] = Dropped(name) if other is None else other


def _may_grow(state: State) -> bool:
    return bool(state.rules) or any(state.adders.values())


_ENDS = frozenset(
    {
        Kind.COMPLETED,
        Kind.FAILED,
        Kind.TIMED_OUT,
        Kind.CANCELLED,
        Kind.LOST,
        Kind.SKIPPED,
        Kind.PASSED,
        Kind.SIGNALLED,
    }
)
