"""A piece of a graph: what a worker gets that performs a whole part, and the values that travel between parts.

A piece is compact on its way: numbers in arrays, each function pickled once. Opened and compiled it is kept for the next run,
known by its fingerprint. Where memory is shared nothing is pickled. Who performs it, and how the parts were found, is not known
here.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, NamedTuple

from dagrid.errors import TransferError
from dagrid.execution.backends._transfer import encode_function
from dagrid.execution.backends._worker import told, type_name
from dagrid.execution.binding import Binder, Bindings, gatherer
from dagrid.execution.pickling import pack, unpack
from dagrid.graph.node import Node
from dagrid.graph.parameters import Task
from dagrid.graph.structure import Structure, paused_gc
from dagrid.machine.plan import NOBODY, OnFailure, Plan, Settings
from dagrid.ports import Call, Encoded, opened

SIMPLE = frozenset({type(None), bool, int, float, str, bytes})  # what is pickled with its neighbours
MOST_KEPT = 500_000
"""How many nodes the pieces may have that a process keeps opened."""


class Packed(Encoded):
    """A value as bytes; it travels on unopened."""

    __slots__ = ("data", "node")

    def __init__(self, data: bytes, node: str) -> None:
        self.data = data
        self.node = node

    def decode(self) -> Any:
        """Return the value. Raises TransferError: this process cannot rebuild it."""
        try:
            return unpack(self.data)
        except Exception as error:
            raise TransferError(
                f"The value of node {self.node!r} came back but cannot be rebuilt here ({told(error)}). "
                f"Let its type be importable in this process too.",
                self.node,
            ) from error

    def packed(self) -> bytes:
        return self.data

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.data, self.node)


class Unsent(Encoded):
    """In the place of a value that could not leave its worker."""

    __slots__ = ("kind", "node", "why")

    def __init__(self, node: str, kind: str, why: str) -> None:
        self.node = node
        self.kind = kind
        self.why = why

    @property
    def error(self) -> TransferError:
        return TransferError(
            f"The value of node {self.node!r}, a {self.kind}, cannot travel between processes ({self.why}). Return something "
            f"that can be pickled, such as a path in place of an open file, or run the parts on threads.",
            self.node,
        )

    def decode(self) -> Any:
        """Raise: there is no value here."""
        raise self.error

    def __reduce__(self) -> tuple[Any, ...]:
        return Unsent, (self.node, self.kind, self.why)


def sendable(value: Any, name: str) -> Any:
    """Return a value of a node as it travels: as bytes, or what says why it cannot."""
    if isinstance(value, (Packed, Unsent)):
        return value
    value = opened(value)
    try:
        return Packed(pack(value), name)
    except Exception as error:  # noqa: BLE001  # the user's type; who needs the value is told
        return Unsent(name, type_name(value), told(error))


class Held(Encoded):
    """A value that the driver has, for a piece that needs it; pickled when it travels, and not before."""

    __slots__ = ("node", "value")

    def __init__(self, value: Any, node: str) -> None:
        self.value = value
        self.node = node

    def decode(self) -> Any:
        return opened(self.value)

    def __reduce__(self) -> tuple[Any, ...]:
        value = opened(self.value)
        try:
            return Packed, (pack(value), self.node)
        except Exception as error:
            raise Unsent(self.node, type_name(value), told(error)).error from error


class Rows(NamedTuple):
    """Lists of numbers: how long each of them is, and all that is in them, one after the other."""

    lengths: array[int]
    numbers: array[int]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Rows:
        """Return lists as rows."""
        return cls(array("i", map(len, lists)), array("i", chain.from_iterable(lists)))

    def tuples(self) -> list[tuple[int, ...]]:
        """Return the lists as tuples."""
        left = iter(self.numbers.tolist())
        return [tuple(islice(left, length)) for length in self.lengths]


@dataclass(slots=True)
class Draft:
    """A part of a graph by its own numbers: its nodes from 0 in the order of their urgency, then those of other parts it needs.

    Attributes:
        names: of its nodes, then of the others.
        size: how many nodes it has.
        before: for each node, what it waits for.
        fns: the function of each node, None where there is nothing to do.
        args: for each node, whose values it takes by position.
        kwargs: and by name, where it does.
        places: the nodes that have a place of their own.
        bound: the nodes whose arguments are more than values, with all that was said of them; they are bound where they run.
        tuned: settings of nodes: retries, timeout, what if they are lost, and which nodes.
        sent: the nodes whose values leave the part; None means all.
        on_failure, node_timeout: as in `Settings`.
        slots: how many nodes run at once; 0 means one, in the thread that performs the piece.
    """

    names: list[str]
    size: int
    before: Rows
    fns: list[Task | None]
    args: Rows
    kwargs: dict[int, dict[str, int]]
    places: dict[int, str]
    bound: dict[int, Node]
    tuned: list[tuple[Any, float | None, Any, list[int]]]
    sent: list[int] | None
    on_failure: OnFailure
    node_timeout: float | None
    slots: int

    def packed(self) -> bytes:
        """Return the draft as bytes, each function pickled once.

        Raises:
            TransferError: a function or an argument cannot travel; it names the node.
        """
        numbers: dict[int, int] = {}
        functions: list[bytes] = []
        which = array("i")
        for node, fn in enumerate(self.fns):
            number = -1 if fn is None else numbers.get(id(fn), -2)
            if fn is not None and number == -2:
                number = numbers[id(fn)] = len(functions)
                functions.append(_function(fn, self.names[node]))
            which.append(number)
        try:
            said = pack((self.bound, self.tuned))
        except Exception as error:
            some = f"node {next(iter(self.bound.values())).id!r}" if self.bound else "a node"
            raise TransferError(
                f"What was said of {some} or another node of its part cannot travel to a worker process ({told(error)}). "
                f"Let its arguments be things that can be pickled, or run the parts on threads."
            ) from error
        flat = (self.before, self.args, which, None if self.sent is None else array("i", self.sent))
        rest = (self.on_failure, self.node_timeout, self.slots)
        return pack((self.names, self.size, flat, functions, self.kwargs, self.places, said, rest))

    @classmethod
    def unpacked(cls, data: bytes) -> Draft:
        """Return the draft that bytes mean.

        Raises:
            TransferError: a function cannot be rebuilt here.
        """
        with paused_gc():
            names, size, flat, functions, kwargs, places, said, rest = unpack(data)
            before, args, which, sent = flat
            bound, tuned = unpack(said)
            found = [_rebuilt(one, names[which.index(at)]) for at, one in enumerate(functions)]
            return cls(
                names,
                size,
                before,
                [found[number] if number >= 0 else None for number in which],
                args,
                kwargs,
                places,
                bound,
                tuned,
                None if sent is None else sent.tolist(),
                *rest,
            )


def _function(fn: Task, node: str) -> bytes:
    return encode_function(Call(-1, node, fn))


def _rebuilt(data: bytes, node: str) -> Task:
    try:
        found: Task = unpack(data)
    except Exception as error:
        raise TransferError(
            f"The function of node {node!r} cannot be rebuilt in the worker process ({told(error)}). "
            f"Let its module be importable there.",
            node,
        ) from error
    return found


class Work:
    """A draft compiled: what the engine needs of it, the same for every run, and the names of the values that leave it."""

    __slots__ = ("binder", "bindings", "draft", "plan", "sent")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        with paused_gc():
            size = draft.size
            before = draft.before.tuples()
            self.binder = Binder(None, {})
            self.bindings = self._bind(before)
            self.sent = draft.names[:size] if draft.sent is None else [draft.names[node] for node in draft.sent]
            self.plan = self._plan([[one for one in row if one < size] or NOBODY for row in before], draft.names[:size])

    def with_border(self) -> Plan:
        """Return a plan in which the nodes of other parts have numbers too: for runs in which some of them have no value."""
        names = self.draft.names
        before = list(map(list, self.draft.before.tuples()))
        return self._plan(before + [NOBODY] * (len(names) - self.draft.size), names)

    def _bind(self, before: list[tuple[int, ...]]) -> Bindings:
        draft = self.draft
        args = draft.args.tuples()
        bindings = Bindings(
            list(draft.fns),
            args,
            [None] * draft.size,
            [gatherer(row) for row in args],
            [row[0] if len(row) == 1 else -1 for row in args],
            dict(draft.places),
        )
        for node, named in draft.kwargs.items():
            bindings.kwargs[node] = named
        for node, spec in draft.bound.items():
            one = self.binder.bound(draft.names[node], draft.fns[node], spec, before[node], draft.names)
            bindings.fns[node], bindings.args[node], bindings.kwargs[node] = one.fn, one.args, one.kwargs
            bindings.gather[node] = one.gather or gatherer(one.args)
            bindings.single[node] = one.args[0] if one.gather is None and len(one.args) == 1 else -1
            if one.place:
                bindings.places[node] = one.place
            if one.lineage is not None:
                bindings.lineages[node] = one.lineage
        return bindings

    def _plan(self, before: list[list[int]], names: list[str]) -> Plan:
        draft = self.draft
        successors = [NOBODY] * len(names)
        for node, row in enumerate(before):
            for one in row:
                if successors[one] is NOBODY:
                    successors[one] = []
                successors[one].append(node)
        specs: dict[int, Node] = {}
        for retries, timeout, on_lost, nodes in draft.tuned:
            specs.update(dict.fromkeys(nodes, Node("node", retries=retries, timeout=timeout, on_lost=on_lost)))
        index = dict(zip(names, range(len(names)), strict=True))
        return Plan(
            Structure(names, index, successors, before, []),
            specs,
            Settings(None, draft.on_failure, {}, draft.node_timeout, max_nodes=max(1, len(names))),
            empty=[node for node, fn in enumerate(draft.fns) if fn is None],
            sources=self.bindings.sources,
            keys=list(range(len(names))),  # the numbers are in the order of urgency
            places=self.bindings.places,
        )


class _Kept:
    """The pieces that this process has opened, those used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: OrderedDict[bytes, Work] = OrderedDict()
        self._nodes = 0

    def get(self, fingerprint: bytes, data: bytes) -> Work:
        with self._lock:
            found = self._works.get(fingerprint)
            if found is not None:
                self._works.move_to_end(fingerprint)
                return found
        made = Work(Draft.unpacked(data))
        with self._lock:
            if fingerprint not in self._works:
                self._works[fingerprint] = made
                self._nodes += made.draft.size
                while self._nodes > MOST_KEPT and len(self._works) > 1:
                    _, old = self._works.popitem(last=False)
                    self._nodes -= old.draft.size
        return made


_kept = _Kept()


class Piece:
    """A part of a graph as an argument: itself where memory is shared, its bytes everywhere else."""

    __slots__ = ("_data", "_draft", "_fingerprint", "_work")

    def __init__(self, draft: Draft | None = None, fingerprint: bytes = b"", data: bytes = b"") -> None:
        self._draft = draft
        self._fingerprint = fingerprint
        self._data = data
        self._work: Work | None = None

    def work(self) -> Work:
        """Return what is to be done, compiled once."""
        if self._work is None:
            self._work = Work(self._draft) if self._draft is not None else _kept.get(self._fingerprint, self._data)
        return self._work

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._data:
            assert self._draft is not None
            data = self._draft.packed()
            self._fingerprint = blake2b(data, digest_size=16).digest()
            self._data = data  # last, for another thread may look whether it is there
        return Piece, (None, self._fingerprint, self._data)

    def __repr__(self) -> str:
        return "<Piece of a graph>"
