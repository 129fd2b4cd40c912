"""Functions that write graphs: inside a function marked with `@dag`, calling one marked with `@task` records a node.

This room describes only. Who describes is known by a context variable, so several threads may do it at once; running is left to
the methods that the front door binds to `DAG`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from dagrid.errors import HandleError, InvalidNodeError, InvalidSettingError, hint, nearest
from dagrid.graph.arguments import Arguments, Group, Ref, fill
from dagrid.graph.dag import DAG, check_run_settings
from dagrid.graph.node import Node, OnLost, Place, node_id
from dagrid.graph.policy import Retry
from dagrid.graph.structure import Structure, paused_gc

if TYPE_CHECKING:
    from dagrid.assemble import RunSettings
    from dagrid.execution.results import ExecutionResult
    from dagrid.execution.run import Run

P = ParamSpec("P")
R = TypeVar("R")

SETTINGS = frozenset(
    (
        *("backend", "max_concurrency", "resources", "on_failure", "node_timeout", "rules", "max_nodes"),
        *("progress", "observers", "tracing", "seed", "clock", "keep", "checkpoint", "run_id", "cache"),
    )
)
"""The names of what a run takes; a test holds them against `dagrid.assemble.RunSettings`."""


class Recording:
    """A graph that is being described: what each call of a task adds to."""

    __slots__ = ("_counts", "_index", "_names", "_predecessors", "_specs", "name", "open", "prefix")

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = True
        self.prefix = ""
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._predecessors: list[list[int]] = []
        self._specs: dict[int, Node] = {}

    def add(
        self, pattern: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, length: int | None = None
    ) -> Handle:
        """Record a call and return the handle of its value."""
        if not self.open:
            raise HandleError(
                f"A handle of @dag {self.name!r} was used after the graph had been described. Use handles only inside of that "
                f"function: pass them to tasks, or return them and read the values that the call returns."
            )
        taken: dict[int, str] = {}
        given = tuple([self._place(one, taken) for one in args])
        named = {key: self._place(one, taken) for key, one in kwargs.items()} if kwargs else None
        name = self._unique(pattern.id)
        at = len(self._names)
        self._names.append(name)
        self._index[name] = at
        self._predecessors.append(list(taken))
        self._specs[at] = pattern.called(name, Arguments(given, named, tuple(taken.values())))
        return Handle(self, at, Ref(name), length)

    def group(self, name: str) -> str:
        """Return the prefix for the nodes of a nested graph."""
        key = f"{self.prefix}{name}."
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return key if count == 1 else f"{self.prefix}{name}_{count}."

    def template(self, value: Any) -> Any:
        """Return a value with references in the places of handles."""
        return self._place(value, {})

    def graph(self, max_concurrency: int | None) -> DAG:
        """Return what was recorded; this ends it."""
        structure = Structure.of_predecessors(self._names, self._index, self._predecessors)
        return DAG.of(structure, self._specs, name=self.name, max_concurrency=max_concurrency)

    def _unique(self, base: str) -> str:
        name = self.prefix + base
        if name not in self._index:
            return name
        count = self._counts.get(name, 1)
        while True:
            count += 1
            found = f"{name}_{count}"
            if found not in self._index:
                self._counts[name] = count
                return found

    def _place(self, value: Any, taken: dict[int, str], seen: set[int] | None = None) -> Any:
        kind = type(value)
        if kind is Handle:
            if value.recording is not self:
                raise HandleError(
                    f"{value!r} belongs to @dag {value.recording.name!r} and not to {self.name!r}, which is being described. "
                    f"Call the task here, or pass the value as an argument."
                )
            ref = value.ref
            taken[value.at] = ref.node
            return ref
        if kind not in _CONTAINERS or not value:
            return value
        if kind is dict and Handle in set(map(type, value)):
            raise HandleError("A handle is the key of a dict, and its value is not known yet. Make the dict in a task.")
        kinds = set(map(type, value.values() if kind is dict else value))
        if kinds.isdisjoint(_HOLDERS):
            return value
        if kind is set or kind is frozenset:
            if Handle in kinds:
                raise HandleError("A set of handles has no order. Use a list or a tuple, and make the set in a task.")
            return value
        seen = seen or set()
        if id(value) in seen:
            return value
        seen.add(id(value))
        items = list(value.values()) if kind is dict else value
        placed = tuple([self._place(one, taken, seen) for one in items])
        seen.discard(id(value))
        if all(new is old for new, old in zip(placed, items, strict=True)):
            return value
        return Group(kind, placed, tuple(value) if kind is dict else ())


_current: ContextVar[Recording | None] = ContextVar("dagrid_recording", default=None)


class Handle:
    """What a task called inside a `@dag` function returns: it stands for the value that a run will make.

    It can be passed to tasks, also inside of lists, tuples and dicts; returned; indexed, where the index is applied by whoever
    receives the value; iterated and unpacked if the task says `unpack_to`. Comparisons and arithmetic record nodes of their own.
    As a key and in sets a handle is itself and nothing else: its hash is its identity.

    Raises:
        HandleError: it is used as if it were the value: `if handle`, `x in handle`, a loop without a length, formatting; or used
            outside of the function in which it was made.
    """

    __slots__ = ("at", "length", "recording", "ref")

    def __init__(self, recording: Recording, at: int, ref: Ref, length: int | None = None) -> None:
        self.recording = recording
        self.at = at
        self.ref = ref
        self.length = length

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<handle of {self.ref.node + ''.join(f'[{key!r}]' for key in self.ref.path)!r}>"

    def __getitem__(self, key: Any) -> Handle:
        if type(key) is Handle or not self.recording.open:
            return self.recording.add(_operation("getitem"), (self, key))
        return Handle(self.recording, self.at, Ref(self.ref.node, (*self.ref.path, key)))

    def __len__(self) -> int:
        if self.length is None:
            raise HandleError(
                f"How long {self!r} is will be known when it has run. Say it with @task(unpack_to=...), or work on the whole "
                f"value in a task."
            )
        return self.length

    def __iter__(self) -> Iterator[Handle]:
        return iter([self[place] for place in range(len(self))])

    def __bool__(self) -> bool:
        raise HandleError(
            f"{self!r} has no value yet, so nothing can be decided by it here. Decide inside of a task, or let the graph grow "
            f"with a Rule."
        )

    def __contains__(self, item: object) -> bool:
        raise HandleError(f"What {self!r} contains will be known when it has run. Ask that in a task.")

    def __format__(self, spec: str) -> str:
        raise HandleError(f"{self!r} has no value yet to be formatted. Format it in a task; repr() names the handle.")

    def __reduce__(self) -> Any:
        raise HandleError(f"{self!r} cannot leave the graph in which it was made. Pass it to a task.")

    if TYPE_CHECKING:

        def __add__(self, other: Any) -> Handle: ...
        def __sub__(self, other: Any) -> Handle: ...
        def __mul__(self, other: Any) -> Handle: ...
        def __truediv__(self, other: Any) -> Handle: ...
        def __lt__(self, other: Any) -> Handle: ...
        def __le__(self, other: Any) -> Handle: ...
        def __gt__(self, other: Any) -> Handle: ...
        def __ge__(self, other: Any) -> Handle: ...


_CONTAINERS = frozenset([list, tuple, dict, set, frozenset])
_HOLDERS = _CONTAINERS | {Handle}
_ONE_SIDED = ["eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert"]
_TWO_SIDED = [
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
]


@functools.cache
def _operation(name: str) -> Node:
    return Node(name, getattr(operator, f"__{name}__"))


def _operator(name: str, turned: bool) -> Callable[..., Handle]:
    def apply(self: Handle, *other: Any) -> Handle:
        return self.recording.add(_operation(name), (*other, self) if turned else (self, *other))

    return apply


for _name in _ONE_SIDED + _TWO_SIDED:
    setattr(Handle, f"__{_name}__", _operator(_name, False))
for _name in _TWO_SIDED:
    setattr(Handle, f"__r{_name}__", _operator(_name, True))


class Task(Generic[P, R]):
    """A function marked with `@task`. Inside of a `@dag` function a call records a node; elsewhere it calls the function.

    Attributes:
        fn: the function itself.
        node: the settings that every node of this task has.
    """

    fn: Callable[P, R]
    node: Node
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, R], node: Node, unpack_to: int | None) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.node = node
        self.node = node.changed(fn=_Body.of(self, unpack_to))
        self._unpack_to = unpack_to
        self._signature = inspect.signature(fn)
        self._shape = _Shape(self._signature)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        recording = _current.get()
        if recording is None:
            for one in (*args, *kwargs.values()):
                if type(one) is Handle:
                    raise HandleError(
                        f"{one!r} was given to {self.node.id!r} outside of @dag {one.recording.name!r}, {_AFTER}"
                    )
            return self.fn(*args, **kwargs)
        shape = self._shape
        given: tuple[Any, ...] = args
        named: Mapping[str, Any] = kwargs
        if kwargs or not shape.least <= len(args) <= shape.most:
            given, named = self._bound(args, kwargs)
        return recording.add(self.node, given, named, self._unpack_to)  # type: ignore[return-value]  # stands for an R

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<task {self.node.id!r}>"

    def __reduce__(self) -> Any:
        """Travel by name where that leads here, else as the bare function."""
        return self.__qualname__ if _is_importable(self) else (functools.partial, (self.fn,))

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Check a call; pass by position what can be."""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.node.id}(): {error}") from None
        named = dict(kwargs)
        given = list(args)
        for name, default in self._shape.positional[len(args) :]:
            if not named:
                break
            if name not in named and default is inspect.Parameter.empty:
                break
            given.append(named.pop(name, default))
        return tuple(given), named


_AFTER = "where there is no value yet. Call the task inside of that function, or return the handle and use what the call returns."


class _Shape:
    """What a signature lets through without a closer look: so many arguments by position. `positional` has the defaults."""

    __slots__ = ("least", "most", "positional")

    def __init__(self, signature: inspect.Signature) -> None:
        every = signature.parameters.values()
        by_position = [one for one in every if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        by_name = any(one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in every)
        anything = any(one.kind is one.VAR_POSITIONAL for one in every)
        self.least = sum(one.default is one.empty for one in by_position) if not by_name else sys.maxsize
        self.most = sys.maxsize if anything else len(by_position)
        self.positional = [] if anything else [(one.name, one.default) for one in by_position]


class _Body(functools.partial):  # type: ignore[type-arg]
    """The function of a task as its nodes have it: called in C, and sent by the name of the task where there is one."""

    task: Task[Any, Any]

    @classmethod
    def of(cls, task: Task[Any, Any], unpack_to: int | None) -> _Body:
        if unpack_to is None:
            made = cls(task.fn)
        else:
            call = _await_unpacked if inspect.iscoroutinefunction(task.fn) else _call_unpacked
            made = cls(call, task.node.id, unpack_to, task.fn)
        functools.update_wrapper(made, task.fn)
        made.task = task
        return made

    def __reduce__(self) -> Any:
        if _is_importable(self.task):
            return operator.attrgetter("node.fn"), (self.task,)
        return functools.partial, (self.func, *self.args)


def _call_unpacked(name: str, length: int, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _of_length(name, length, fn(*args, **kwargs))


async def _await_unpacked(name: str, length: int, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _of_length(name, length, await fn(*args, **kwargs))


def _of_length(name: str, length: int, value: Any) -> Any:
    if len(value) != length:
        raise ValueError(f"{name}() returned {len(value)} items, and its unpack_to says {length}.")
    return value


def _is_importable(task: Task[Any, Any] | Flow[Any, Any]) -> bool:
    """Return whether another process finds the task itself under its name."""
    if task.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(task.__module__)
    for part in task.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is task


class Flow(Generic[P, R]):
    """A function marked with `@dag`. A call describes a graph, runs it and returns what the function returned, as values.

    Inside of another `@dag` function a call adds its nodes to that one's graph, named `flow.node`, the second time `flow_2.node`;
    its own settings then do not count.

    Attributes:
        fn: the function itself.
        name: what its graphs are called.
    """

    fn: Callable[P, R]
    __qualname__: str

    def __init__(self, fn: Callable[P, R], name: str, settings: RunSettings) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = name
        self._settings = settings
        self._own = SETTINGS.intersection(inspect.signature(fn).parameters)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Describe, run and wait.

        Raises:
            BaseException: what the first failed node raised; with `on_failure="continue"` only if its value is asked for.
        """
        recording = _current.get()
        if recording is not None:
            outside = recording.prefix
            recording.prefix = recording.group(self.name)
            try:
                return self.fn(*args, **kwargs)
            finally:
                recording.prefix = outside
        graph, template = self._describe(args, kwargs)
        result = graph.run(**self._settings)
        if not result.ok and result.status != "partially_succeeded":
            result.raise_for_status()
        if type(template) is Ref and not template.path:
            return result[template.node]  # type: ignore[no-any-return]
        return fill(template, _Read(result))  # type: ignore[no-any-return]

    def build(self, *args: P.args, **kwargs: P.kwargs) -> DAG:
        """Return the graph that the function describes for these arguments, without running anything."""
        return self._describe(args, kwargs)[0]

    def run(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        """Describe a graph, run it and return its `ExecutionResult`; failures are in it, not raised.

        Args:
            args, kwargs: those of the function, and by name whatever a run takes (`backend=...`), which goes before the settings
                of `@dag`. A name that the function has itself is the function's.
        """
        mine, settings = self._split(kwargs)
        graph = self._describe(args, mine)[0]
        return _outside(lambda: graph.run(**settings))

    def start(self, *args: Any, **kwargs: Any) -> Run:
        """Describe a graph, start it and return the handle of the run; takes what `run` takes."""
        mine, settings = self._split(kwargs)
        graph = self._describe(args, mine)[0]
        return _outside(lambda: graph.start(**settings))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else Flow(MethodType(self.fn, instance), self.name, self._settings)

    def __repr__(self) -> str:
        return f"<dag {self.name!r}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__qualname__ if _is_importable(self) else super().__reduce_ex__(protocol)

    def _describe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[DAG, Any]:
        recording = Recording(self.name)
        token = _current.set(recording)
        try:
            with paused_gc():  # as in a builder: all that is recorded is kept
                returned = self.fn(*args, **kwargs)
                template = recording.template(returned)
        finally:
            recording.open = False
            _current.reset(token)
        return recording.graph(self._settings.get("max_concurrency")), template

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], RunSettings]:
        names = SETTINGS - self._own
        mine = {name: value for name, value in kwargs.items() if name not in names}
        settings: Any = {**self._settings, **{name: value for name, value in kwargs.items() if name in names}}
        return mine, settings


class _Read(Mapping[str, Any]):
    """The values of a run, each opened once."""

    def __init__(self, result: ExecutionResult) -> None:
        self._result = result
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._result[name]
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)


def _outside(action: Callable[[], R]) -> R:
    """Do something as outside of any description: what runs must not record."""
    token = _current.set(None)
    try:
        return action()
    finally:
        _current.reset(token)


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(
    *,
    name: str | None = None,
    priority: int = 0,
    is_sequential: bool = False,
    resources: Mapping[str, float] | None = None,
    selector: Mapping[str, str] | None = None,
    retries: Retry | int | None = None,
    timeout: float | None = None,
    cost: float | None = None,
    kind: str | None = None,
    cache: bool | str = False,
    on_lost: OnLost = "requeue",
    place: Place | None = None,
    unpack_to: int | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(
    fn: Callable[..., Any] | None = None, /, *, name: str | None = None, unpack_to: int | None = None, **settings: Any
) -> Any:
    """Mark a function as a task: called inside of a `@dag` function it records a node and returns a handle of its value.

    Args:
        fn: the function, `async def` or plain, where the decorator stands without parentheses.
        name: what its nodes are called; by default the name of the function. Further calls are `name_2`, `name_3`, ...
        priority, is_sequential, resources, selector, retries, timeout, cost, kind, cache, on_lost, place: as for `Node`.
        unpack_to: how many items its value has, for `a, b = task(...)` and loops.

    Raises:
        InvalidNodeError: a setting that cannot be.
    """
    if fn is None:
        return lambda fn: task(fn, name=name, unpack_to=unpack_to, **settings)  # type: ignore[call-overload]
    _check_function("task", fn)
    if unpack_to is not None and (type(unpack_to) is not int or unpack_to < 0):
        raise InvalidNodeError(
            f"unpack_to is how many items the value has, a whole number from 0 up, not {unpack_to!r}."
        )
    return Task(fn, Node(name or node_id(fn), **settings), unpack_to)


@overload
def dag(fn: Callable[P, R], /, *, name: str | None = None, **settings: Unpack[RunSettings]) -> Flow[P, R]: ...


@overload
def dag(*, name: str | None = None, **settings: Unpack[RunSettings]) -> Callable[[Callable[P, R]], Flow[P, R]]: ...


def dag(fn: Callable[..., Any] | None = None, /, *, name: str | None = None, **settings: Any) -> Any:
    """Mark a function as the description of a graph: calling it runs the graph and returns what it returned, as values.

    Args:
        fn: the function, where the decorator stands without parentheses. It is called for each description, with its arguments.
        name: what its graphs are called; by default the name of the function.
        settings: what each of its runs is started with, such as `backend`, `max_concurrency` and `on_failure`; see
            `dagrid.assemble.start`.

    Raises:
        InvalidSettingError: a setting that no run has, or an impossible `max_concurrency`.
        InvalidNodeError: an `async def` function, or one with `yield`.
    """
    if fn is None:
        return lambda fn: dag(fn, name=name, **settings)
    _check_function("dag", fn)
    if inspect.iscoroutinefunction(fn):
        raise InvalidNodeError(
            f"@dag {fn!r} is async. Describe with a plain function, whose tasks may be async, and `await {node_id(fn)}.start()`."
        )
    if inspect.isgeneratorfunction(fn):
        raise InvalidNodeError(
            f"@dag {fn!r} has a yield, so a call would describe nothing. Return the handles in a list."
        )
    for unknown in sorted(settings.keys() - SETTINGS):
        raise InvalidSettingError(f"@dag has no setting {unknown!r}.{hint(nearest(unknown, SETTINGS))}")
    check_run_settings(name, settings.get("max_concurrency"))
    return Flow(fn, name or node_id(fn), settings)  # type: ignore[arg-type]


def _check_function(what: str, fn: object) -> None:
    if not callable(fn):
        raise InvalidNodeError(f"@{what} marks a function, not {fn!r}. Settings are given by name: @{what}(name=...).")
