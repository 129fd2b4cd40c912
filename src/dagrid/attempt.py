"""What a task may know of itself while it runs, and what it may leave beside its value: nodes and rules that the graph grows by.

Whoever performs calls says here which one it performs (`Here`), and takes from here what the task left (`Extra`). This room knows
neither the backends nor the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import msgspec

from dagrid.errors import NoCurrentTaskError
from dagrid.graph.node import Node, NodeRef
from dagrid.graph.rules import Patch, Rule, checked_rules
from dagrid.machine.events import NUMBER_SHIFT

PUBLISHED = "dagrid_worker"  # the module under which a worker process that does not import dagrid says what it performs
KEY = "DAGRID_ATTEMPT_KEY"  # the variable in which a task finds what stays the same however often its node is performed


class Extra(msgspec.Struct, frozen=True):
    """What a task left beside its value.

    Args:
        patch: what the graph grows by when the attempt is accepted.
        note: something to remember of how it got its value, for `explain`.
        key: that of the value in a cache.
    """

    patch: Patch | None = None
    note: str = ""
    key: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended but for its handlers: what a handler's parameter of this name gets.

    Args:
        status: "succeeded", "partially_succeeded", "failed" or "aborted".
        failed: the nodes that failed, but for those whose failure does not count.
        reason: why it did not succeed, in words; empty if it did.
    """

    status: str
    failed: tuple[str, ...]
    reason: str


class Holder(Protocol):
    """Who performs calls one by one: the node and the try (from 0) of the present one, and what its task has left so far."""

    extra: Any

    @property
    def node(self) -> str: ...

    @property
    def number(self) -> int: ...


class Named(Protocol):
    """A call as far as it matters here; `dagrid.ports.Call` is one."""

    @property
    def node(self) -> str: ...

    @property
    def attempt(self) -> int: ...


class Here:
    """The holder of a thread, or of an asynchronous task; `call` is what it performs now."""

    __slots__ = ("call", "extra")

    def __init__(self, call: Named | None = None) -> None:
        self.call = call
        self.extra: Extra | None = None

    @property
    def node(self) -> str:
        """The name of the node, empty when nothing is performed."""
        return "" if self.call is None else self.call.node

    @property
    def number(self) -> int:
        """Which try it is, from 0."""
        return 0 if self.call is None else self.call.attempt >> NUMBER_SHIFT

    def take(self) -> Extra | None:
        """Return what was left, and forget it."""
        extra, self.extra = self.extra, None
        return extra


performing: ContextVar[Holder | None] = ContextVar("dagrid_performing", default=None)
before: ContextVar[Callable[[], Any]] = ContextVar(
    "dagrid_before"
)  # gives the value of the call that the present one rides on


def value_before() -> Any:
    """Return the value of the call that the present one rides on; said where calls travel together."""
    give = before.get(None)
    return sys.modules[PUBLISHED].holder.value_before() if give is None else give()


class Attempt:
    """One try of one node, as its task sees it.

    Attributes:
        node: the name of the node.
        number: which try it is, from 1.
    """

    __slots__ = ("_holder", "node", "number")

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self.node = holder.node
        self.number = holder.number + 1

    def __repr__(self) -> str:
        return f"<attempt {self.number} of {self.node!r}>"

    def grow(self, *nodes: Node, rules: Iterable[Rule] = (), edges: Iterable[tuple[NodeRef, NodeRef]] = ()) -> None:
        """Append to the graph when this attempt completes; if it fails, nothing is appended. Further calls append more.

        Args:
            nodes: they may depend on any node of the graph, this one included. A kind that they have must be among the `adds` of
                this node.
            rules: to be asked from then on; each says with `adds` what it may add, which must be among those of this node.
            edges: pairs (before, after) beside those that the nodes say; `after` is a new node.

        Raises:
            NoCurrentTaskError: the task is over.
            InvalidPatchError: `rules` is no list of rules.
        """
        if (self._holder.node, self._holder.number + 1) != (self.node, self.number):
            raise NoCurrentTaskError(
                f"The attempt {self.number} of {self.node!r} is over: grow the graph before it returns."
            )
        left = self._holder.extra or Extra()
        patch = left.patch or Patch()
        more = Patch((*patch.nodes, *nodes), (*patch.rules, *checked_rules(rules)), (*patch.edges, *edges))
        self._holder.extra = msgspec.structs.replace(left, patch=more)


def current() -> Attempt:
    """Return the attempt that runs here: call it in a task.

    Raises:
        NoCurrentTaskError: no task runs here, or its backend runs it in a process where that cannot be told.
    """
    return Attempt(holder())


def holder() -> Holder:
    """Return who performs the present call. Raises NoCurrentTaskError."""
    found = performing.get() or getattr(sys.modules.get(PUBLISHED), "holder", None)
    if found is None or not found.node:
        raise NoCurrentTaskError()
    return found


def key_variables() -> dict[str, str]:
    """Return the variable with the key of the present attempt, for a process in which a part of it runs; none without a key."""
    call = getattr(performing.get(), "call", None)
    key = getattr(call, "key", "")
    return {KEY: key} if key else {}


def present_round() -> int:
    """Return how often the node of the present attempt has begun anew, see `dagrid.ports.Call.round`; 0 where nobody says."""
    return getattr(getattr(performing.get(), "call", None), "round", 0)


def has_waited() -> bool:
    """Return whether the present attempt looks again for what its node waited for, see `dagrid.ports.Call.waited`."""
    return getattr(getattr(performing.get(), "call", None), "waited", False)


class Left(msgspec.Struct, frozen=True):
    """A value with what its task left, as it comes back from a place that knows of values only."""

    value: Any
    extra: Extra


class _Carried(NamedTuple):
    node: str
    attempt: int


def carried(fn: Callable[..., Any], node: str, attempt: int, /, *args: Any, **kwargs: Any) -> Any:
    """Perform a call in a place that knows nothing of nodes; return its value, or a `Left` if the task left more."""
    here = Here(_Carried(node, attempt))
    token = performing.set(here)
    try:
        value = fn(*args, **kwargs)
    finally:
        performing.reset(token)
        here.call = None
    return value if here.extra is None else Left(value, here.extra)
