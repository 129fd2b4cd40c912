"""Which values of a run are kept: all, or only those that somebody will still want. A value goes when its last reader has ended.

It knows the state and the bindings of one run; the journal tells it what has ended since it looked last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from dagrid.errors import TaskError
from dagrid.machine.events import Kind
from dagrid.machine.state import COMPLETED, State, read_entry
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
            kept: the nodes whose values are kept; None keeps those that nobody takes.
            sources: for a node, the nodes whose values it takes.
            substitute: for a node and its name, what to put in the place of its value, if it can be had from elsewhere.
        """
        self._kept = kept
        self.sources = sources
        self._substitute = substitute
        self._readers: list[int] = []
        self._read: set[int] = set()
        self._seen = 0

    def drop(self, state: State, values: list[Any]) -> None:
        """Look at what has ended since the last time, and drop what it was the last to need."""
        self._count(len(state.status))
        journal = state.journal
        for position in range(self._seen, len(journal)):
            entry = journal[position]
            if isinstance(entry, int):
                node, kind = read_entry(entry)
                ended = kind is not Kind.STARTED
            else:
                node = entry.node
                ended = node >= 0 and state.status[node] >= COMPLETED and entry.kind in _ENDS
            if ended:
                self._ended(node, state, values)
        self._seen = len(journal)

    def check(self, nodes: Iterable[int], values: Sequence[Any]) -> None:
        """Check that new nodes take no value that was dropped.

        Raises:
            TaskError: one does.
        """
        for node in nodes:
            for source in self.sources(node):
                if isinstance(values[source], Dropped):
                    values[source].decode()

    def _count(self, nodes: int) -> None:
        """Count the readers of values, those of new nodes too."""
        for node in range(len(self._readers), nodes):
            self._readers.append(0)
            for source in set(self.sources(node)):
                self._readers[source] += 1

    def _ended(self, node: int, state: State, values: list[Any]) -> None:
        for source in set(self.sources(node)):
            self._readers[source] -= 1
            if not self._readers[source]:
                self._drop(source, state, values)
        if self._kept is not None and not self._readers[node]:
            self._drop(node, state, values)

    def _drop(self, node: int, state: State, values: list[Any]) -> None:
        name = state.plan.names[node]
        if self._kept is not None and name in self._kept:
            return
        other = None if self._substitute is None else self._substitute(node, name)
        values[node] = Dropped(name) if other is None else other


_ENDS = frozenset(
    {
        Kind.FAILED,
        Kind.TIMED_OUT,
        Kind.CANCELLED,
        Kind.LOST,
        Kind.SKIPPED,
        Kind.PASSED,
        Kind.OMITTED,
        Kind.REUSED,
    }
)
