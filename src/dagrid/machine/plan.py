"""A graph compiled for one run: integers and lists, and the settings of the run. Pure; it knows no function and no value.

A plan can grow: a patch appends nodes whose edges point to them only, so nothing that was decided has to be decided again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Literal

import msgspec

from dagrid.errors import CapabilityError, GraphLimitError, InvalidNodeError, InvalidSettingError, UnsatisfiableError
from dagrid.graph.analysis import bottom_levels, level_numbers
from dagrid.graph.node import Node
from dagrid.graph.policy import Repeat, Retry
from dagrid.graph.structure import Structure
from dagrid.machine.events import NUMBER_SHIFT

OnFailure = Literal["skip", "continue", "stop"]
PRIORITY_SHIFT = 80
DEEP_PRIORITY_SHIFT = PRIORITY_SHIFT + NUMBER_SHIFT
TICKS_PER_COST = 1_000_000
SHARES = 1_000_000
MOST_TICKS = (1 << (PRIORITY_SHIFT - NUMBER_SHIFT)) - 1


class Settings(msgspec.Struct, frozen=True):
    """What holds for one run.

    Args:
        max_concurrency: how many nodes may run at once; None means as many as there are slots.
        on_failure: "skip" skips the descendants of a failed node; "continue" also runs those that take no value from it; "stop"
            cancels the run.
        resources: the capacity of each named resource of this run.
        node_timeout: seconds for nodes that have no timeout of their own; None means no limit.
        max_losses: a node whose worker vanished this many times is failed as poisonous.
        max_nodes: a growing graph may not have more nodes than this.
        hold: seconds that an attempt may wait behind another one in a batch while another worker is idle.
        batch: seconds of work that are sent ahead to a worker at most.
        timeout: seconds for the run as a whole, but for its handlers; None means no limit.
        debug: whether the debug nodes by which a graph grows run too.
        deepest_first: of nodes of one priority, whether that goes first which stands deeper in the graph, so that values are used
            up before others are made.
    """

    max_concurrency: int | None = None
    on_failure: OnFailure = "skip"
    resources: Mapping[str, float] = msgspec.field(default_factory=dict)
    node_timeout: float | None = None
    max_losses: int = 3
    max_nodes: int = 1_000_000
    hold: float = 0.002
    batch: float = 0.001
    timeout: float | None = None
    debug: bool = False
    deepest_first: bool = False

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and (
            not isinstance(self.max_concurrency, int)
            or isinstance(self.max_concurrency, bool)
            or self.max_concurrency < 1
        ):
            raise InvalidSettingError(
                f"max_concurrency is a whole number from 1 up, or None for no limit; not {self.max_concurrency!r}."
            )
        if self.node_timeout is not None and not (_is_number(self.node_timeout) and self.node_timeout > 0):
            raise InvalidSettingError(
                f"node_timeout is a number of seconds above 0, or None; not {self.node_timeout!r}."
            )
        if self.timeout is not None and not (_is_number(self.timeout) and 0 < self.timeout < inf):
            raise InvalidSettingError(f"timeout is a number of seconds above 0, or None; not {self.timeout!r}.")
        if self.on_failure not in ("skip", "continue", "stop"):
            raise InvalidSettingError(f"on_failure is 'skip', 'continue' or 'stop'; not {self.on_failure!r}.")
        if self.debug not in (True, False):
            raise InvalidSettingError(f"debug is True or False; not {self.debug!r}.")
        if not isinstance(self.max_nodes, int) or self.max_nodes < 1:
            raise InvalidSettingError(f"max_nodes is a whole number from 1 up; not {self.max_nodes!r}.")
        if not isinstance(self.resources, Mapping):
            raise InvalidSettingError(f"resources is a dict of capacities by name, not {self.resources!r}.")
        for name, capacity in self.resources.items():
            if not (_is_number(capacity) and 0 < capacity < inf):
                raise InvalidSettingError(
                    f"The capacity of resource {name!r} is a finite number above 0; not {capacity!r}."
                )


Labels = tuple[tuple[str, str], ...]
"""Labels of a worker with their values."""

Lack = tuple[Labels, str]
"""Labels that no worker has that could be given work, and why those cannot perform it that have them; empty where nobody has."""


class Request(msgspec.Struct, frozen=True):
    """What a group of nodes needs in order to start; nodes with equal requests share one ready queue.

    Amounts of resources are whole numbers, see `shares`. The `foreign` ones are not counted here: the run does not name them, and
    only a worker that delegates may take the node, see `WorkerJoined`.
    """

    resources: tuple[tuple[str, int], ...] = ()
    selector: Labels = ()
    sequential: bool = False
    place: str = ""
    foreign: tuple[tuple[str, float], ...] = ()


PLAIN = Request()
NOBODY: list[
    int
] = []  # the successors of every added node that has none, and the neighbours of one in a piece; never changed


class Plan:
    """What the machine reads: edges, keys that order ready nodes, needs and limits, all by node number."""

    __slots__ = (
        "_group_of_request",
        "adds",
        "alone",
        "delegates",
        "depths",
        "empty",
        "fail_when_lost",
        "goes_on",
        "groups",
        "handlers",
        "index",
        "keys",
        "kinds",
        "labels",
        "names",
        "places",
        "predecessors",
        "repeats",
        "requests",
        "retries",
        "settings",
        "sources",
        "successors",
        "timeouts",
    )

    def __init__(
        self,
        structure: Structure,
        specs: Mapping[int, Node],
        settings: Settings,
        *,
        empty: Iterable[int] = (),
        sources: Callable[[int], Sequence[int]] | None = None,
        keys: list[int] | None = None,
        places: Mapping[int, str] | None = None,
        alone: Iterable[int] = (),
    ) -> None:
        """Compile a graph.

        Args:
            structure: names and edges.
            specs: the nodes that have settings, by number.
            settings: those of the run.
            empty: nodes without a task: passed over when their turn comes.
            sources: for a node, the predecessors whose values it takes; None means all of them.
            keys: `order_keys` of this graph, when they are known already.
            places: where nodes have to run that do not run with the others, see `WorkerJoined`; read again for added nodes.
            alone: nodes whose calls can be made only when all that they wait for has ended; they ride on nobody, see `chains`.

        Raises:
            UnsatisfiableError: a node asks for more of a resource than the run has.
            InvalidNodeError: a handler has edges.
        """
        self.settings = settings
        self.alone = set(alone)
        # Of where a growing graph runs: whether resources that the run does not name are found there, and whether labels are.
        self.delegates = False
        self.labels = True
        self.names = structure.names
        self.index = structure.index
        self.successors: list[list[int]] = structure.successors
        self.predecessors: list[Any] = structure.predecessors  # of sequences of numbers
        self.depths: list[int] = level_numbers(structure) if settings.deepest_first else []
        self.keys = keys if keys is not None else order_keys(structure, specs, settings)
        self.empty = set(empty)
        self.sources = sources
        self.requests: list[Request] = [PLAIN]
        self._group_of_request: dict[Request, int] = {}  # but for the plain ones, whose group is the first
        self.groups = [0] * len(structure.names)
        self.timeouts: dict[int, float] = {}
        self.retries: dict[int, Retry] = {}
        self.repeats: dict[int, Repeat] = {}
        self.fail_when_lost: set[int] = set()
        self.goes_on: dict[int, frozenset[str]] = {}  # after which ends of a node the others run all the same
        self.handlers: dict[int, str] = {}  # the nodes that run when all others have ended, and after what outcome
        self.kinds: dict[str, list[int]] = {}
        self.adds: dict[int, frozenset[str]] = {}
        self.places = places or {}
        if settings.node_timeout is not None:
            self.timeouts = dict.fromkeys(range(len(structure.names)), settings.node_timeout)
        for number in self.places.keys() - specs.keys() if self.places else ():
            self._group(number, Request(place=self.places[number]))
        for number, node in specs.items():
            self._admit(number, node)
        for number in self.handlers:
            self._check_handler(number)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def uniform(self) -> bool:
        """Whether every node is plain: one ready queue, no time limit, nothing to pass over, no kind that it may add."""
        return len(self.requests) == 1 and not (self.timeouts or self.empty or self.adds or self.handlers)

    def takes_value(self, node: int, predecessor: int) -> bool:
        """Whether a node takes the value of this predecessor."""
        return self.sources is None or predecessor in self.sources(node)

    def copy(self, sources: Callable[[int], Sequence[int]] | None, places: Mapping[int, str]) -> Plan:
        """Return a plan that may grow without the graph, and other runs of it, seeing that."""
        made = Plan.__new__(Plan)
        for name in Plan.__slots__:
            mine = getattr(self, name)
            setattr(made, name, mine.copy() if isinstance(mine, (list, dict, set)) else mine)
        made.successors = [after.copy() for after in self.successors]
        made.kinds = {kind: numbers.copy() for kind, numbers in self.kinds.items()}
        made.sources = sources
        made.places = places
        return made

    def grow(self, nodes: Sequence[Node]) -> range:
        """Append the nodes of a patch, which has been checked with `check_growth`, and return their numbers.

        A plan that others read is copied before.
        """
        first = len(self.names)
        added = range(first, first + len(nodes))
        index, successors, limit = self.index, self.successors, self.settings.node_timeout
        for number, node in enumerate(nodes, first):
            self.names.append(node.id)
            index[node.id] = number
            successors.append(NOBODY)
            self.groups.append(0)
        for number, node in enumerate(nodes, first):
            before = tuple(map(index.__getitem__, node.required()))
            self.predecessors.append(before)
            for predecessor in before:
                if successors[predecessor]:
                    successors[predecessor].append(number)
                else:
                    successors[predecessor] = [number]
            if limit is not None:
                self.timeouts[number] = limit
            self._admit(number, node)
        self._order_grown(added, nodes)
        return added

    def check_growth(self, nodes: Sequence[Node]) -> None:
        """Check that nodes, whose names and edges fit, may be appended.

        Raises:
            GraphLimitError: there would be more than `max_nodes`.
            UnsatisfiableError: as when compiling, or a node asks for a resource that nobody has.
            CapabilityError: a node asks for labels where there are none.
        """
        if len(self.names) + len(nodes) > self.settings.max_nodes:
            raise GraphLimitError(
                f"The graph would grow past {self.settings.max_nodes} nodes. Look for a rule that adds nodes for ever, "
                f"or allow more with max_nodes."
            )
        for node in nodes:
            if node.selector and not self.labels:
                raise CapabilityError(
                    f"Node {node.id!r} selects workers by labels, and those of this run have none. Remove its selector, or run "
                    f"where workers have labels."
                )
            if node.resources:
                request = self._request_of(node, "")
                if request.foreign and not self.delegates:
                    raise self.unknown_resource(node.id, request)
            if self.handlers:
                for name in node.required():
                    if self.index.get(name) in self.handlers:
                        raise self._waits_for_handler(node.id, name)

    def _check_handler(self, handler: int) -> None:
        """Check that a handler has no edges.

        Raises:
            InvalidNodeError: it has one.
        """
        names = self.names
        for before in self.predecessors[handler]:
            raise InvalidNodeError(
                f"The handler {names[handler]!r} has an edge from {names[before]!r}; it runs when all other nodes have ended. "
                f"Remove the edge; say reads=[{names[before]!r}] where it is to see that value."
            )
        for after in self.successors[handler]:
            raise self._waits_for_handler(names[after], names[handler])

    @staticmethod
    def _waits_for_handler(node: str, handler: str) -> InvalidNodeError:
        return InvalidNodeError(
            f"Node {node!r} waits for the handler {handler!r}, which runs when all other nodes have ended. Remove the edge, or "
            f"make {handler!r} a node."
        )

    def unknown_resource(self, name: str, request: Request) -> UnsatisfiableError:
        """Return the error for a node that asks for a resource that nobody has."""
        resource = request.foreign[0][0]
        return UnsatisfiableError(
            f"Node {name!r} asks for resource {resource!r}, which this run does not have. "
            f"Say how much there is: resources={{{resource!r}: ...}}."
        )

    def _order_grown(self, added: range, nodes: Sequence[Node]) -> None:
        """Give new nodes their keys: paths are measured among the new ones, for the old ones have been ordered already."""
        if self.settings.deepest_first:
            self._place_grown(added)
        if len(nodes) == 1 and not self.depths:
            node = nodes[0]
            plain = not node.priority and node.cost is None
            self.keys.append((_PLAIN_KEY if plain else _key(node.priority, _cost(node), 0)) + added.start)
            return
        levels: dict[int, float] = {}
        for start in added:
            stack = [start]
            while stack:
                number = stack[-1]
                if number in levels:
                    stack.pop()
                    continue
                missing = [after for after in self.successors[number] if after not in levels]
                if missing:
                    stack.extend(missing)
                    continue
                stack.pop()
                longest = max((levels[after] for after in self.successors[number]), default=0.0)
                levels[number] = longest + _cost(nodes[number - added.start])
        for number, node in zip(added, nodes, strict=True):
            key = _key(node.priority, levels[number], number)
            self.keys.append(_deep(key, node.priority, self.depths[number]) if self.depths else key)

    def _place_grown(self, added: range) -> None:
        """Note how deep new nodes stand; those of one patch may wait for each other in any order."""
        depths = self.depths
        depths.extend([-1] * len(added))
        for start in added:
            stack = [start]
            while stack:
                number = stack[-1]
                missing = [before for before in self.predecessors[number] if depths[before] < 0]
                if missing:
                    stack.extend(missing)
                    continue
                stack.pop()
                depths[number] = 1 + max([depths[before] for before in self.predecessors[number]], default=-1)

    def _admit(self, number: int, node: Node) -> None:
        place = self.places.get(number, "") if self.places else ""
        if place or node.resources or node.selector or node.is_sequential:
            self._group(number, self._request_of(node, place))
        if node.timeout is not None:
            self.timeouts[number] = node.timeout
        if node.retries is not None:
            self.retries[number] = node.retries
        if node.repeat is not None:
            self.repeats[number] = node.repeat
        if node.on_lost == "fail":
            self.fail_when_lost.add(number)
        if node.handler is not None:
            self.handlers[number] = node.handler
        if node.continue_on:
            self.goes_on[number] = frozenset(node.continue_on).union(
                ("failure",) if "success" in node.continue_on else ()
            )
        if node.kind is not None:
            self.kinds.setdefault(node.kind, []).append(number)
        if node.adds is not None:
            self.adds[number] = node.adds

    def _group(self, number: int, request: Request) -> None:
        group = self._group_of_request.setdefault(request, len(self.requests))
        if group == len(self.requests):
            self.requests.append(request)
        self.groups[number] = group

    def _request_of(self, node: Node, place: str) -> Request:
        own, foreign = [], []
        for name, amount in sorted(node.resources.items()):
            capacity = self.settings.resources.get(name)
            if capacity is None:
                foreign.append((name, float(amount)))
                continue
            own.append((name, shares(amount)))
            if amount > capacity:
                raise UnsatisfiableError(
                    f"Node {node.id!r} asks for {amount:g} of resource {name!r}, and the run has {capacity:g} in all: it could "
                    f"never start. Ask for less or raise the capacity: resources={{{name!r}: {amount:g}}}, on the command line "
                    f"--resources {name}={amount:g}."
                )
        selector = tuple(sorted(node.selector.items()))
        return Request(tuple(own), selector, node.is_sequential, place, tuple(foreign))


def shares(amount: float) -> int:
    """Return an amount of a resource in millionths: whole numbers, of which as much comes back as was taken."""
    return max(round(amount * SHARES), 1)


def order_keys(structure: Structure, specs: Mapping[int, Node], settings: Settings) -> list[int]:
    """Return for each node one integer; of two ready nodes, the one with the smaller key goes first.

    The key holds, from the top: the explicit priority (larger first), with `deepest_first` the level (deeper first), the longest
    remaining path by cost (longer first), and the number of the node, which breaks ties by insertion and can be read back with
    `NODE_MASK`.
    """
    costs: list[float] | None = None
    for number, node in specs.items():
        if node.cost is not None:
            costs = costs or [1.0] * len(structure.names)
            costs[number] = node.cost
    levels = bottom_levels(structure, costs)
    keys = [number - (int(level * TICKS_PER_COST) << NUMBER_SHIFT) for number, level in enumerate(levels)]
    if costs is not None:
        keys = [_key(0, level, number) for number, level in enumerate(levels)]
    for number, node in specs.items():
        if node.priority:
            keys[number] = _key(node.priority, levels[number], number)
    if settings.deepest_first:
        for number, depth in enumerate(level_numbers(structure)):
            priority = specs[number].priority if number in specs else 0
            keys[number] = _deep(keys[number], priority, depth)
    return keys


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _key(priority: int, level: float, number: int) -> int:
    return (-priority << PRIORITY_SHIFT) - (min(int(level * TICKS_PER_COST), MOST_TICKS) << NUMBER_SHIFT) + number


def _deep(key: int, priority: int, depth: int) -> int:
    """Return a key in which the depth stands between the priority and all else."""
    return key + (priority << PRIORITY_SHIFT) - (priority << DEEP_PRIORITY_SHIFT) - (depth << PRIORITY_SHIFT)


def _cost(node: Node) -> float:
    return 1.0 if node.cost is None else node.cost


_PLAIN_KEY = _key(0, 1.0, 0)
NO_PLAN = Plan(Structure([], {}, [], [], []), {}, Settings())
