"""Rules that make a graph grow: when to append, and what. Plain data and a read-only view; nothing here runs or decides.

A rule is applied once: when its predicate holds, its body returns a patch, which is taken whole or not at all. A patch only
appends, and its edges only point to its own nodes, so that nothing that has started gets a new dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dagrid.errors import DuplicateNodeError, InvalidPatchError, UnknownNodeError
from dagrid.graph.node import Node
from dagrid.graph.structure import Structure


@dataclass(frozen=True, slots=True)
class Patch:
    """What a rule appends: nodes, which may depend on any node of the graph and of the patch, and further rules."""

    nodes: Sequence[Node] = ()
    rules: Sequence[Rule] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Append to a running graph when there is enough known of it.

    Args:
        predicate: looks at a `View` and returns whether the body may be applied. It is asked at the start, and again when
            something that it looked at has changed.
        body: returns the `Patch`; it sees the same view.
        name: how messages call the rule; by default the name of the body, if it has one.
        optional: a run may end without it; otherwise a rule that never became applicable fails the run.
    """

    predicate: Callable[[View], bool]
    body: Callable[[View], Patch]
    name: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        for part in ("predicate", "body"):
            if not callable(getattr(self, part)):
                raise InvalidPatchError(f"The {part} of a rule is a function of one View, not {getattr(self, part)!r}.")
        if not self.name:
            called = getattr(self.body, "__name__", "rule")
            object.__setattr__(self, "name", "rule" if called == "<lambda>" else called)


class Snapshot(Protocol):
    """Where a view reads from: the running graph by node number."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def index(self) -> Mapping[str, int]: ...

    @property
    def kinds(self) -> Mapping[str, Sequence[int]]: ...

    def status(self, node: int) -> tuple[int, str]: ...

    def value(self, node: int) -> Any: ...


@dataclass(slots=True)
class View:
    """What a rule may see: names, kinds, states and results. It remembers which nodes were looked at."""

    snapshot: Snapshot
    reads: dict[int, int] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.snapshot.index

    def nodes(self, kind: str | None = None) -> list[str]:
        """Return the names of all nodes, or of those of a kind, in order of insertion."""
        names = self.snapshot.names
        return list(names) if kind is None else [names[number] for number in self.snapshot.kinds.get(kind, ())]

    def status(self, name: str) -> str:
        """Return the state of a node as a word, such as "running".

        Raises:
            UnknownNodeError: there is no such node yet; ask `name in view` first.
        """
        return self._look(name)[1]

    def succeeded(self, name: str) -> bool:
        """Return whether a node is there and has completed."""
        return name in self and self.status(name) == "completed"

    def result(self, name: str) -> Any:
        """Return the value of a completed node.

        Raises:
            UnknownNodeError: there is no such node.
            InvalidPatchError: the node has not completed.
        """
        if self.status(name) != "completed":
            raise InvalidPatchError(
                f"Node {name!r} is {self.status(name)} and has no result yet. Ask succeeded({name!r}) first."
            )
        return self.snapshot.value(self.snapshot.index[name])

    def _look(self, name: str) -> tuple[int, str]:
        number = self.snapshot.index.get(name)
        if number is None:
            raise UnknownNodeError.of(name, self.snapshot.index, "The running graph has no node")
        code, word = self.snapshot.status(number)
        self.reads[number] = code
        return code, word


def check_patch(nodes: Iterable[Node], index: Mapping[str, int]) -> None:
    """Check that a patch may be appended to a graph whose names are in `index`.

    Raises:
        InvalidPatchError, DuplicateNodeError, UnknownNodeError, CycleError: the patch breaks a rule of rules; nothing changed.
    """
    own: dict[str, Node] = {}
    for node in nodes:
        if not isinstance(node, Node):
            raise InvalidPatchError(
                f"A patch holds nodes, not {node!r}. Make them with Node(id, fn, depends_on=[...])."
            )
        if node.id in own or node.id in index:
            raise DuplicateNodeError(node.id)
        own[node.id] = node
    inner: list[tuple[str, str]] = []
    for node in own.values():
        for before in node.required():
            if before in own:
                inner.append((before, node.id))
            elif before not in index:
                raise UnknownNodeError.of(before, [*own, *index], f"Node {node.id!r} of the patch depends on")
    names = list(own)
    Structure.build(names, {name: number for number, name in enumerate(names)}, inner)
