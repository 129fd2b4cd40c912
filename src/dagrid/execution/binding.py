"""How results flow into calls: which predecessor's value each parameter of a task receives. Nothing is called here.

A parameter named after a predecessor receives its result; `**results` receives all that are left, by name; `inputs` says it
explicitly; parameters with a default may stay without. What fits nothing is an error before anything runs. A node that has
`arguments` is called with these and nothing else. A condition (`when`) is looked at where the task runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter, itemgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

import msgspec

from dagrid.commands import Command
from dagrid.errors import (
    CapabilityError,
    InvalidNodeError,
    InvalidSettingError,
    SkipTask,
    UnboundParameterError,
    UnknownNodeError,
    UnknownTaskError,
    hint,
    nearest,
)
from dagrid.graph.arguments import Arguments, Group, Ref, fill
from dagrid.graph.authoring import Task as MarkedTask
from dagrid.graph.authoring import TaskBody
from dagrid.graph.node import OUTCOME, Node, node_id
from dagrid.graph.parameters import NO_PARAMETERS, Parameters, Task, matched, parameters_of, without_first
from dagrid.graph.structure import paused_gc

if TYPE_CHECKING:
    from dagrid.execution.caching import Lineage

Gather = Callable[[Sequence[Any]], Sequence[Any]]
LOOP = "loop"
"""The place of nodes whose task is an `async def` function."""
COMMAND = "command"
"""The place of nodes whose task is a `Command`, which starts a process."""

HERE = "here"
"""The place of commands that run where the run is, whatever performs the others."""


def without_labels(node: str, place: str) -> CapabilityError:
    """Return what is raised for a node that selects workers where there are none: its place is in the process of the run."""
    why = ": async tasks run there" if place == LOOP else ""
    return CapabilityError(
        f"Node {node!r} selects workers by labels, and its place {place!r}, in the process of the run, has none{why}. "
        f"Remove its selector."
    )


class Binding(msgspec.Struct):
    """One node's: the function, the nodes whose values it takes by position and by name, how the former become arguments.

    `place` says where it has to run, if not with the others; `lineage` where the arguments of a cached node come from; `alone`
    that its arguments can be made only when all that it waits for has ended; `needs`, of a node that reads others, which of the
    values it may not do without; `outcome` that it is to be told how the run ended.
    """

    fn: Task | None
    args: tuple[int, ...] = ()
    kwargs: dict[str, int] | None = None
    gather: Gather | None = None
    place: str = ""
    lineage: Lineage | None = None
    alone: bool = False
    needs: frozenset[int] | None = None
    outcome: bool = False


class Bindings(msgspec.Struct, eq=False):
    """By node number: the function, the nodes whose values are its positional arguments, and those passed by name.

    `gather` takes the positional arguments out of the list of all values; where they are the value of one node, as so often,
    `single` is its number, and otherwise -1. `needs` has for the nodes that read others, which are few, those whose values they
    may not do without; `outcomes` are the handlers that are told how the run ended.
    """

    fns: list[Task | None] = []
    args: list[tuple[int, ...]] = []
    kwargs: list[dict[str, int] | None] = []
    gather: list[Gather] = []
    single: list[int] = []
    places: dict[int, str] = {}
    lineages: dict[int, Lineage] = {}
    alone: list[int] = []
    needs: dict[int, frozenset[int]] = {}
    outcomes: set[int] = set()

    def append(self, binding: Binding) -> None:
        """Add the binding of the next node."""
        node, args, gather = len(self.fns), binding.args, binding.gather
        if binding.place:
            self.places[node] = binding.place
        if binding.lineage is not None:
            self.lineages[node] = binding.lineage
        if binding.alone:
            self.alone.append(node)
        if binding.needs is not None:
            self.needs[node] = binding.needs
        if binding.outcome:
            self.outcomes.add(node)
        self.fns.append(binding.fn)
        self.args.append(args)
        self.kwargs.append(binding.kwargs)
        self.gather.append(gather or gatherer(args))
        self.single.append(args[0] if gather is None and len(args) == 1 else -1)

    def copy(self) -> Bindings:
        """Return bindings that may grow while others are used."""
        return Bindings(
            self.fns.copy(),
            self.args.copy(),
            self.kwargs.copy(),
            self.gather.copy(),
            self.single.copy(),
            self.places.copy(),
            self.lineages.copy(),
            self.alone.copy(),
            self.needs.copy(),
            self.outcomes.copy(),
        )

    def truncate(self, count: int) -> None:
        """Forget the bindings of all nodes from a number on."""
        for each in (self.fns, self.args, self.kwargs, self.gather, self.single):
            del each[count:]
        for sparse in (self.places, self.lineages, self.needs):
            for node in [node for node in sparse if node >= count]:
                del sparse[node]
        self.alone = [node for node in self.alone if node < count]

    def sources(self, node: int) -> tuple[int, ...]:
        """Return the nodes whose values a node takes or may look at."""
        named = self.kwargs[node]
        return (*self.args[node], *named.values()) if named else self.args[node]

    def takes(self, node: int) -> tuple[int, ...]:
        """Return the nodes whose values a node cannot do without."""
        sources = self.sources(node)
        needs = self.needs.get(node) if self.needs else None
        return sources if needs is None else tuple([one for one in sources if one in needs])

    @property
    def empty(self) -> list[int]:
        """The nodes without a task."""
        return [node for node, fn in enumerate(self.fns) if fn is None]


class Gathered(msgspec.Struct, frozen=True):
    """A task of ours that says itself what it is called with.

    Args:
        fn: what is called.
        gather: makes the arguments of the values of the run, by node number and unopened; it may look at those of predecessors.
            None stands for one that did not complete, which makes no difference to whether the task runs where a run goes on
            after failures. It is called where the run is decided, so it must be quick, and neither block nor run code of the
            user's.
    """

    fn: Task
    gather: Gather

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def named_tasks(given: Mapping[Any, Task] | None, graph: str | None) -> dict[str, Task] | None:
    """Return the functions that a run is given, by the names of their nodes; None where it is given none.

    Args:
        given: the functions by node.
        graph: what the graph is called, of which the handles among the nodes have to be.

    Raises:
        InvalidSettingError: it is no dict.
        InvalidNodeError, HandleError: something in it means no node of the graph.
    """
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise InvalidSettingError(f"tasks is a dict of functions by node, not {given!r}.")
    return {node_id(node, graph): fn for node, fn in given.items()}


class Binder(msgspec.Struct, eq=False):
    """Binds nodes to tasks; remembers what it found out of functions, so that each is looked at once.

    It is made of the functions of a run by node name, the nodes of the graph, and the names of those that it will grow by.
    """

    _tasks: Mapping[str, Task] | None
    _index: Mapping[str, int]
    _late: Collection[str] = ()
    _known: dict[int, tuple[object, Parameters]] = {}
    _filling: dict[int, tuple[object, Task]] = {}
    _own_places: dict[int, tuple[object, str]] = {}
    _cached: dict[tuple[int, int, bool | str], tuple[object, Task]] = {}

    def __post_init__(self) -> None:
        for name in self._tasks or ():
            if name not in self._index and name not in self._late:
                suggestion = nearest(name, [*self._index, *self._late])
                raise UnknownTaskError(
                    f"There is a task for {name!r}, which is no node of the graph.{hint(suggestion)}", name, suggestion
                )

    def tasks(self, names: Sequence[str], specs: Mapping[int, Node]) -> list[Task | None]:
        """Return the function of every node, by number.

        Raises:
            InvalidNodeError: a task that cannot be called.
        """
        fns: list[Task | None] = [None] * len(names)
        for number, spec in specs.items():
            fns[number] = spec.fn
        if self._tasks:
            for name in self._tasks:
                found = self._index.get(name)
                if found is not None:  # else it comes later
                    fns[found] = self.task(name, specs.get(found))
        return fns

    def task(self, name: str, spec: Node | None) -> Task | None:
        """Return the function of a node: the one given for this run, else its own."""
        fn = None if spec is None else spec.fn
        if not self._tasks:
            return fn
        fn = self._tasks.get(name, fn)
        if fn is not None and not callable(fn):
            raise InvalidNodeError(f"The task of node {name!r} cannot be called: it is {fn!r}. Give a function.")
        return fn

    def bound(
        self,
        name: str,
        fn: Task | None,
        spec: Node | None,
        before: Sequence[int],
        names: Sequence[str],
        index: Mapping[str, int] | None = None,
    ) -> Binding:
        """Return how a node's task is called; the arguments and errors are those of `sources_of`.

        Args:
            index: the numbers of all nodes by name, for a graph that has grown; without it, those of the graph at the start.
        """
        if spec is not None and spec.reads:
            binding = self._reading(name, fn, spec, before, names, self._index if index is None else index)
        else:
            binding = self._bound(name, fn, spec, before, names)
        if spec is not None and spec.handler is not None and fn is not None:
            binding.outcome = self._asks_outcome(fn, spec)
        return binding

    def _asks_outcome(self, fn: Task, spec: Node) -> bool:
        """Return whether a handler has a parameter for the outcome of the run that nothing else fills."""
        asked = self._parameters(fn)
        if OUTCOME in spec.reads or OUTCOME in (spec.inputs or ()):
            return False
        said = spec.arguments
        if said is not None and (OUTCOME in (said.kwargs or ()) or OUTCOME in asked.positional[: len(said.args)]):
            return False
        return OUTCOME in asked.positional or OUTCOME in asked.keyword

    def _reading(
        self,
        name: str,
        fn: Task | None,
        spec: Node,
        before: Sequence[int],
        names: Sequence[str],
        index: Mapping[str, int],
    ) -> Binding:
        """Bind a node that may look at the values of others, as if they stood before it."""
        for one in spec.reads:
            if one not in index:
                raise UnknownNodeError.of(one, index, f"Node {name!r} reads a node that is not in the graph:")
            if one == name:
                raise InvalidNodeError(
                    f"Node {name!r} reads its own value, which it has not made yet. Read another one."
                )
        reads = [index[one] for one in spec.reads]
        binding = self._bound(name, fn, spec, tuple(dict.fromkeys((*before, *reads))), names)
        return msgspec.structs.replace(binding, needs=frozenset(before).difference(reads), alone=True)

    def _bound(
        self, name: str, fn: Task | None, spec: Node | None, before: Sequence[int], names: Sequence[str]
    ) -> Binding:
        if fn is None:
            return Binding(None)
        if type(fn) is Gathered:
            return Binding(fn.fn, gather=fn.gather, alone=True)
        if spec is None:
            binding = Binding(fn, *self.sources_of(name, fn, None, before, names))
        elif spec.arguments is not None:
            numbers = {names[number]: number for number in before} if before else {}
            binding = self._called(name, fn, spec.arguments, numbers)
        else:
            given = before
            if spec.when is not None and spec.when.node not in spec.depends_on:
                taken = set(spec.inputs.values()) if spec.inputs else ()
                given = [one for one in before if names[one] != spec.when.node or names[one] in taken]
            binding = Binding(fn, *self.sources_of(name, fn, spec, given, names))
        if spec is not None and spec.cache:
            binding = self._kept(name, fn, spec, binding, {names[number]: number for number in before})
        if spec is not None and spec.when is not None:
            binding = _guarded(binding, spec.when, next(one for one in before if names[one] == spec.when.node))
        binding.place = self._own_place(fn)
        if spec is not None and spec.place is not None:
            if binding.place == LOOP:
                raise InvalidNodeError(
                    f"Node {name!r} is async, and runs on the event loop of the run. Remove its place, or make its task a plain "
                    f"function."
                )
            if (binding.place == COMMAND) != (spec.place == HERE):
                raise InvalidNodeError(
                    f"Node {name!r} is a command, which runs in no thread. Remove its place, or say 'here'."
                    if binding.place == COMMAND
                    else f"Node {name!r} is no command. Remove its place, or say 'caller'."
                )
            binding.place = spec.place
        if binding.place == COMMAND and type(fn) is TaskBody and fn.args:
            raise InvalidNodeError(f"Node {name!r} is a command, whose value is not unpacked. Remove unpack_to.")
        return binding

    def _kept(self, name: str, fn: Task, spec: Node, binding: Binding, numbers: Mapping[str, int]) -> Binding:
        """Wrap the function of a cached node; nodes of one task share one, so that it travels once."""
        if self._own_place(fn) == COMMAND:
            raise InvalidNodeError(f"Node {name!r} is a command, whose value cannot be kept. Remove its cache.")
        if spec.reads:
            raise InvalidNodeError(
                f"Node {name!r} reads what others have by then, so its value holds for one run. Remove its cache, or its reads."
            )
        from dagrid.execution.caching import Lineage, cached

        assert binding.fn is not None
        at = id(fn), id(binding.fn), spec.cache
        known = self._cached.get(at)
        if known is None:
            made = cached(binding.fn, fn, name, spec.cache, self._own_place(fn) == LOOP)
            known = self._cached[at] = (fn, binding.fn), made
        given: tuple[int, ...] = binding.args
        if binding.fn is not fn:
            given = (-1, *given)  # the template that is filled with the values behind it
        elif binding.gather is not None and spec.arguments is not None:
            given = tuple([numbers[one.node] if type(one) is Ref else -1 for one in spec.arguments.args])
        return msgspec.structs.replace(binding, fn=known[1], lineage=Lineage(0, given, binding.kwargs or {}))

    def _called(self, name: str, fn: Task, arguments: Arguments, numbers: Mapping[str, int]) -> Binding:
        for source in arguments.sources or ():
            if source not in numbers:
                raise UnboundParameterError(
                    f"Node {name!r} is called with the value of {source!r}, which is not among its predecessors in this graph. "
                    f"Keep {source!r} in the graph, with its edge.",
                    name,
                    source,
                )
        return _placed(fn, arguments, numbers) or self._filled(fn, arguments, numbers)

    def _own_place(self, fn: Task) -> str:
        """Return where a task has to run by its kind: an event loop, beside the processes, or (empty) with the others."""
        if type(fn) is FunctionType:
            return LOOP if fn.__code__.co_flags & inspect.CO_COROUTINE else ""
        if type(fn) is TaskBody:
            return LOOP if fn.is_async else COMMAND if isinstance(fn.origin.fn, Command) else ""
        known = self._own_places.get(id(fn))
        if known is None:
            bare: Any = fn
            while isinstance(bare, (partial, MarkedTask)):
                if isinstance(bare, TaskBody):
                    bare = bare.origin
                bare = bare.func if isinstance(bare, partial) else bare.fn
            called = getattr(bare, "__call__", None)  # noqa: B004  # an object whose __call__ is a coroutine function
            found = ""
            if isinstance(bare, Command):
                found = COMMAND
            elif inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(called):
                found = LOOP
            known = self._own_places[id(fn)] = fn, found
        return known[1]

    def _filled(self, fn: Task, arguments: Arguments, numbers: Mapping[str, int]) -> Binding:
        """Bind arguments that have to be made of values: the worker does that, for it runs the user's `__getitem__`."""
        known = self._filling.get(id(fn))
        if known is None:
            known = self._filling[id(fn)] = fn, partial(call_filled, fn)
        sources = tuple([numbers[source] for source in arguments.sources or ()])
        gather = gatherer(sources)
        return Binding(known[1], sources, None, lambda values: (arguments, *gather(values)))

    def sources_of(
        self, name: str, fn: Task | None, spec: Node | None, before: Sequence[int], names: Sequence[str]
    ) -> tuple[tuple[int, ...], dict[str, int] | None]:
        """Return the nodes whose values a node's task takes, by position and by name.

        Args:
            name: of the node.
            fn: its task, or None.
            spec: its settings, if there are any.
            before: the numbers of its predecessors.
            names: the names of all nodes, by number.

        Raises:
            UnboundParameterError: a parameter names no predecessor.
        """
        if fn is None:
            return (), None
        asked = self._parameters(fn)
        if spec is not None and spec.handler is not None:
            asked = msgspec.structs.replace(asked, required=asked.required - {OUTCOME})
        inputs = spec.inputs if spec is not None and spec.inputs else None
        if asked is NO_PARAMETERS and inputs is None:
            return (), None
        by_name = {names[number]: number for number in before}
        if inputs:
            by_name |= {parameter: by_name[source] for parameter, source in inputs.items()}
        args, kwargs = matched(name, fn, asked, by_name, set(inputs or ()))
        return args, kwargs or None

    def _parameters(self, fn: Task) -> Parameters:
        if type(fn) is partial and fn.args and not fn.keywords:
            whole = self._parameters(fn.func)
            if len(fn.args) <= len(whole.positional):
                return without_first(whole, len(fn.args))
        if type(fn) is FunctionType and not hasattr(fn, "__wrapped__"):
            code = fn.__code__
            if not (code.co_argcount or code.co_kwonlyargcount or code.co_flags & inspect.CO_VARKEYWORDS):
                return NO_PARAMETERS
        found = self._known.get(id(fn))
        if found is None:
            found = fn, parameters_of(fn)
            self._known[id(fn)] = found
        return found[1]


def bind(
    binder: Binder,
    fns: Sequence[Task | None],
    names: Sequence[str],
    predecessors: Sequence[Sequence[int]],
    specs: Mapping[int, Node],
) -> Bindings:
    """Bind every node of a graph to its task.

    Raises:
        UnboundParameterError: a parameter names no predecessor.
    """
    bindings = Bindings()
    with paused_gc():
        for number, fn in enumerate(fns):
            bindings.append(binder.bound(names[number], fn, specs.get(number), predecessors[number], names))
    return bindings


def gatherer(sources: tuple[int, ...]) -> Gather:
    """Return a function that takes the values at some places out of a list, in one call without a loop."""
    if not sources:
        return NOTHING
    return itemgetter(*sources) if len(sources) > 1 else itemgetter(slice(sources[0], sources[0] + 1))


_NODE, _PATH = attrgetter("node"), attrgetter("path")
NOTHING: Gather = itemgetter(slice(0, 0))


def call_filled(fn: Task, arguments: Arguments, /, *values: Any, **more: Any) -> Any:
    """Call a function with arguments whose places are filled from values, which come in the order of `arguments.sources`."""
    named = dict(zip(arguments.sources or (), values, strict=True))
    args = [fill(one, named) for one in arguments.args]
    if not arguments.kwargs:
        return fn(*args, **more)
    return fn(*args, **{name: fill(one, named) for name, one in arguments.kwargs.items()}, **more)


def _placed(fn: Task, arguments: Arguments, numbers: Mapping[str, int]) -> Binding | None:
    """Bind arguments that are constants and whole values, or return None: the task itself is then called with them."""
    if not (arguments.sources or arguments.kwargs):
        args = arguments.args
        return Binding(fn, (), None, (lambda _: args) if args else None)
    kwargs: dict[str, int] = {}
    for name, one in (arguments.kwargs or {}).items():
        if type(one) is not Ref or one.path:
            return None
        kwargs[name] = numbers[one.node]
    kinds = list(map(type, arguments.args))
    refs = [one for one, kind in zip(arguments.args, kinds, strict=True) if kind is Ref]
    if Group in kinds or any(map(_PATH, refs)):
        return None
    places = [place for place, kind in enumerate(kinds) if kind is Ref]
    sources = tuple(map(numbers.__getitem__, map(_NODE, refs)))
    if len(places) == len(arguments.args):
        return Binding(fn, sources, kwargs or None)
    return Binding(fn, sources, kwargs or None, _with_constants(arguments.args, places, gatherer(sources)))


def call_when(fn: Task, path: tuple[Any, ...], condition: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function if a value, or what is found in it along a path of keys, is true; else its node is skipped."""
    for key in path:
        condition = condition[key]
    if not condition:
        raise SkipTask("its condition does not hold")
    return fn(*args, **kwargs)


def _guarded(binding: Binding, condition: Ref, source: int) -> Binding:
    """Let a node's condition travel before its arguments."""
    called = binding.fn
    assert called is not None
    gather, args = binding.gather, binding.args
    return Binding(
        partial(call_when, called, condition.path),
        (source, *args),
        binding.kwargs,
        None if gather is None else lambda values: (values[source], *gather(values)),
        lineage=None if binding.lineage is None else replace(binding.lineage, place=1),
    )


def _with_constants(args: tuple[Any, ...], places: Sequence[int], take: Gather) -> Gather:
    """Return what puts the values that are taken into their places among the constants."""
    if not places:
        return lambda _: args
    first, last = places[0], places[-1]
    if last - first + 1 == len(places):
        before, after = args[:first], args[last + 1 :]
        return lambda values: [*before, *take(values), *after]

    def gather(values: Sequence[Any]) -> list[Any]:
        found = list(args)
        for place, value in zip(places, take(values), strict=True):
            found[place] = value
        return found

    return gather


def check_sources(bindings: Bindings, nodes: Iterable[int], names: Sequence[str], given: Collection[int] = ()) -> None:
    """Check that no node asks for the value of a node that has no task, unless the value is given.

    Raises:
        UnboundParameterError: one does.
    """
    for node in nodes:
        for source in bindings.takes(node):
            if bindings.fns[source] is None and source not in given:
                raise UnboundParameterError(
                    f"Node {names[node]!r} asks for the result of {names[source]!r}, which has no task and so no result. "
                    f"Give {names[source]!r} a task.",
                    names[node],
                    names[source],
                )
