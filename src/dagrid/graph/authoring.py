"""Functions that write graphs: inside a function marked with `@dag`, calling one marked with `@task` records a node.

This room describes only. Who describes is known by a context variable, so several threads may do it at once; running is left to
the methods of `DAG`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from dagrid.errors import HandleError, InvalidNodeError, InvalidSettingError, UnpackError, hint, nearest
from dagrid.graph.arguments import Arguments, Group, Ref
from dagrid.graph.dag import DAG, check_run_settings
from dagrid.graph.node import OUTCOME, Node, NodeSettings, node_id
from dagrid.graph.recording import Handle, Recording, recording
from dagrid.graph.structure import paused_gc

if TYPE_CHECKING:
    from dagrid.assemble import RunSettings
    from dagrid.execution.results import ExecutionResult
    from dagrid.execution.run import Run

__all__ = ["SETTINGS", "Flow", "Handle", "Recording", "Task", "TaskSettings", "dag", "task"]

P = ParamSpec("P")
R = TypeVar("R")

SETTINGS = frozenset(
    (
        *("backend", "places", "max_concurrency", "resources", "on_failure", "node_timeout", "timeout", "cancelled"),
        *("rules", "max_nodes", "progress", "observers", "tracing", "seed", "clock", "keep", "checkpoint", "run_id"),
        *("cache", "targets", "roots", "exclude", "debug", "given", "from_run", "from_file"),
    )
)
"""The names of what a run takes; a test holds them against `dagrid.assemble.RunSettings`."""


class TaskSettings(NodeSettings, total=False):
    """What `@task` and `Task.with_options` take by name."""

    name: str | None
    unpack_to: int | None


class Task(Generic[P, R]):
    """A function marked with `@task`. Inside of a `@dag` function a call records a node; elsewhere it calls the function.

    Attributes:
        fn: the function itself.
        node: the settings that every node of this task has.
        origin: the task of which this one is the same with other settings; itself, if there is none.
    """

    fn: Callable[P, R]
    node: Node
    origin: Task[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, R], settings: TaskSettings) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.origin = self
        self.node = Node(node_id(settings.get("name") or fn))
        self._condition: Handle | None = None
        self._held: frozenset[str] = frozenset()
        self._unpack_to: int | None = None
        self._body()
        self._set(settings)
        self._look()
        if (current := recording.get()) is not None:
            current.writes(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        current = recording.get()
        if current is None:
            self._refuse_handles((*args, *kwargs.values()))
            return self.fn(*args, **kwargs)
        shape = self._shape
        given: tuple[Any, ...] = args
        named: Mapping[str, Any] = kwargs
        if kwargs or not shape.least <= len(args) <= shape.most:
            given, named = self._bound(args, kwargs)
        if self._condition is not None:
            current.holds(self._condition)
        return current.add(self._in(current), given, named, self._unpack_to)  # type: ignore[return-value]  # stands for an R

    def map(self, items: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Record a call for each item, and return a handle of the list of their values.

        The nodes are called `name[0]`, `name[1]`, ..., and the one that gathers their values `name`. Where the items are known (a
        list, or a handle that says how many there are) they are recorded at once; else the graph grows by them when it runs, as
        soon as the list is there. What is mapped over the list of another map goes on item by item.

        Args:
            items: a list or a handle of one; each call gets one item as its first argument.
            args, kwargs: what each call gets besides.

        Returns:
            The handle; outside of a `@dag` function the list itself.

        Raises:
            HandleError: `items` is neither a handle nor iterable.
        """
        current = recording.get()
        if current is None:
            self._refuse_handles((items, *args, *kwargs.values()))
            every: Any = self.fn
            return [every(item, *args, **kwargs) for item in items]
        given, named = self._bound((items, *args), kwargs)
        if self._condition is not None:
            current.holds(self._condition)
        return current.map(self._in(current), given[0], given[1:], named, self._unpack_to)

    def with_options(self, **settings: Unpack[TaskSettings]) -> Task[P, R]:
        """Return the same task with other settings for some of its calls; takes what `task` takes.

        Raises:
            InvalidNodeError: a setting that cannot be.
            HandleError: `when` is a handle of another graph.
        """
        made = self._copy()
        made._set(settings)  # noqa: SLF001  # it is this class
        return made

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return _Method(self, instance) if _is_bound(self.fn, instance) else self

    def __repr__(self) -> str:
        return f"<task {self.node.id!r}>"

    def __reduce__(self) -> Any:
        """Travel by name where that leads here, else as the function with the settings."""
        if _is_importable(self):
            return self.__qualname__
        settings = self.node.settings()
        del settings["fn"]
        return Task, (self.fn, {**settings, "name": self.node.id, "unpack_to": self._unpack_to})

    def _copy(self) -> Task[P, R]:
        made: Task[P, R] = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def _set(self, settings: TaskSettings) -> None:
        said: dict[str, Any] = dict(settings)
        for unknown in sorted(said.keys() - _TASK_SETTINGS):
            raise InvalidNodeError(f"@task has no setting {unknown!r}.{hint(nearest(unknown, _TASK_SETTINGS))}")
        name = said.pop("name", None)
        if name is not None:
            said["id"] = name
        condition = said.get("when")
        if "when" in said:
            self._condition = None
        if type(condition) is Handle:
            current = recording.get()
            if current is None:
                self._refuse_handles((condition,))
            else:
                current.holds(condition)
            self._condition, said["when"] = condition, condition.__ref__
        if "reads" in said and isinstance(said["reads"], Iterable) and not isinstance(said["reads"], str):
            said["reads"] = list(said["reads"])
            self._held = frozenset([one.__ref__.node for one in said["reads"] if type(one) is Handle])
        if "unpack_to" in said:
            self._unpack_to = _length(said.pop("unpack_to"))
            self._body()
        if said:
            self.node = self.node.changed(**said)
        self.__name__ = self.node.id

    def _in(self, current: Recording) -> Node:
        """Return the pattern of a node, in whose settings other nodes may have been said by their names."""
        node = self.node
        named = node.when is not None and self._condition is None
        return current.within(node, named, self._held) if named or node.reads else node

    def _body(self) -> None:
        self.node = self.node.changed(fn=TaskBody.of(self.origin, self._unpack_to))

    def _look(self) -> None:
        self._signature = _signature(self.fn)
        self._shape = _Shape(self._signature)

    def of(self, instance: object) -> Task[..., R]:
        """Return the task of an instance, which is not among its arguments any more."""
        body: Callable[..., Any] = self.node.fn or self.fn
        made: Task[..., R] = self._copy()
        made.fn = functools.partial(self.fn, instance)  # type: ignore[arg-type]
        made.node = self.node.changed(fn=functools.partial(body, instance))
        made._look()
        return made

    def _refuse_handles(self, values: Iterable[Any]) -> None:
        for one in values:
            if type(one) is Handle:
                raise HandleError(
                    f"{one!r} was given to {self.node.id!r} outside of @dag {one.__recording__.name!r}, {_AFTER}"
                )

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Check a call; pass by position what can be."""
        signature = self._signature
        try:
            told = self.node.handler is not None and OUTCOME in signature.parameters
            if told and OUTCOME not in signature.bind_partial(*args, **kwargs).arguments:
                signature.bind(*args, **kwargs, **{OUTCOME: None})
            else:
                signature.bind(*args, **kwargs)
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


_TASK_SETTINGS = frozenset(TaskSettings.__annotations__)
_AFTER = "where there is no value yet. Call the task inside of that function, or return the handle and use what the call returns."


class _Method:
    """A task as a method of an instance, which is an argument of its calls like any other."""

    def __init__(self, task: Task[..., Any], instance: object) -> None:
        self.__func__ = task
        self.__self__ = instance

    @property
    def node(self) -> Node:
        return self.__func__.of(self.__self__).node

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def map(self, items: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.of(self.__self__).map(items, *args, **kwargs)

    def with_options(self, **settings: Unpack[TaskSettings]) -> Task[..., Any]:
        return self.__func__.of(self.__self__).with_options(**settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __repr__(self) -> str:
        return f"<task {self.node.id!r} of {self.__self__!r}>"


def _length(unpack_to: object) -> int | None:
    if unpack_to is not None and (type(unpack_to) is not int or unpack_to < 0):
        raise InvalidNodeError(
            f"unpack_to is how many items the value has, a whole number from 0 up, not {unpack_to!r}."
        )
    return unpack_to


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function; a builtin that does not say takes what it is given."""
    try:
        return inspect.signature(fn)
    except ValueError:
        kinds = inspect.Parameter
        return inspect.Signature([kinds("args", kinds.VAR_POSITIONAL), kinds("kwargs", kinds.VAR_KEYWORD)])


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


class TaskBody(functools.partial):  # type: ignore[type-arg]
    """The function of a task as its nodes have it: called in C, and sent by the name of the task where there is one."""

    origin: Task[Any, Any]
    is_async: bool

    @classmethod
    def of(cls, task: Task[Any, Any], unpack_to: int | None) -> TaskBody:
        unpacked = _await_unpacked if is_async(task.fn) else _call_unpacked
        made = cls(task.fn) if unpack_to is None else cls(unpacked, task.node.id, unpack_to, task.fn)
        functools.update_wrapper(made, task.fn, updated=())
        made.origin = task
        made.is_async = is_async(task.fn)
        return made

    def __reduce__(self) -> Any:
        if not _is_importable(self.origin):
            return functools.partial, (self.func, *self.args)
        if self is self.origin.node.fn:
            return operator.attrgetter("node.fn"), (self.origin,)
        return TaskBody.of, (self.origin, self.args[1] if self.args[1:] else None)


def _call_unpacked(name: str, length: int, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return _unpacked(name, length, fn(*args, **kwargs))


async def _await_unpacked(name: str, length: int, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return _unpacked(name, length, await fn(*args, **kwargs))


def _unpacked(name: str, length: int, value: Any) -> Any:
    kind = type(value)
    if issubclass(kind, Mapping) or not (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
        raise UnpackError(
            f"{name}() returned a value of type {kind.__qualname__}, which has no items by number, and its unpack_to says "
            f"{length}. Let it return a list or a tuple."
        )
    if len(value) != length:
        raise UnpackError(
            f"{name}() returned {len(value)} items, and its unpack_to says {length}. Let both be the same number."
        )
    return value


def is_async(fn: object) -> bool:
    """Return whether a call of this gives something to be awaited."""
    called = getattr(fn, "__call__", None)  # noqa: B004  # an object whose __call__ is a coroutine function
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def _is_bound(fn: object, instance: object) -> bool:
    """Return whether a function that is found by way of an instance is called with that, as functions and no others are."""
    return instance is not None and hasattr(type(fn), "__get__") and not isinstance(fn, (staticmethod, MethodType))


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
        self._own = SETTINGS.intersection(_signature(fn).parameters)
        self._last: tuple[Recording, DAG] | None = None

    @property
    def settings(self) -> RunSettings:
        """What `@dag` says of its runs."""
        return self._settings

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Describe, run and wait. What was skipped though nothing failed is None in what is returned.

        Each call makes a graph of its own, and so runs the setup nodes again; what `build` returns keeps their values.

        Raises:
            BaseException: what the first failed node raised; with `on_failure="continue"` only if its value is asked for.
            KeyboardInterrupt: Ctrl-C cancelled the run.
        """
        current = recording.get()
        if current is not None:
            outside = current.prefix
            current.prefix = current.group(self.name)
            try:
                return self.fn(*args, **kwargs)
            finally:
                current.prefix = outside
        graph, template = self._describe(args, kwargs)
        result = graph.run(**self._settings)
        if result.interrupted:
            raise KeyboardInterrupt
        if result.status not in ("succeeded", "partially_succeeded"):
            result.raise_for_status()
        return _filled(template, result, {})  # type: ignore[no-any-return]

    def map(self, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[R]:
        """Call it for each item, and return a list of what each call returns.

        Args:
            items: known ones, or a handle that says how many there are; each call gets one item as its first argument.
            args, kwargs: what each call gets besides.

        Raises:
            HandleError: only the run will know how many items there are.
        """
        if isinstance(items, Handle) and items.__length__ is None:
            raise HandleError(
                f"How often {self.name!r} is called for {items!r} will be known when that has run. Map a @task over it, or let "
                f"the rule `for_each` of dagrid.graph.grow append the graph of {self.name!r} for each item."
            )
        call: Any = self
        return [call(item, *args, **kwargs) for item in items]

    def build(self, /, *args: P.args, **kwargs: P.kwargs) -> DAG:
        """Return the graph that the function describes for these arguments, without running anything."""
        return self._describe(args, kwargs)[0]

    def run(self, /, *args: Any, **kwargs: Any) -> ExecutionResult:
        """Describe a graph, run it and return its `ExecutionResult`; failures are in it, not raised.

        Args:
            args, kwargs: those of the function, and by name whatever a run takes (`backend=...`), which goes before the settings
                of `@dag`. A name that the function has itself is the function's.
        """
        mine, settings = self._split(kwargs)
        return self._describe(args, mine)[0].run(**settings)

    def start(self, /, *args: Any, **kwargs: Any) -> Run:
        """Describe a graph, start it and return the handle of the run; takes what `run` takes."""
        mine, settings = self._split(kwargs)
        return self._describe(args, mine)[0].start(**settings)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if not _is_bound(self.fn, instance):
            return self
        return Flow(MethodType(self.fn, instance), self.name, self._settings)

    def __repr__(self) -> str:
        return f"<dag {self.name!r}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__qualname__ if _is_importable(self) else super().__reduce_ex__(protocol)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def _describe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[DAG, Any]:
        made = Recording(self.name)
        token = recording.set(made)
        with paused_gc():  # as in a builder: all that is recorded is kept
            try:
                returned = self.fn(*args, **kwargs)
                template = made.template(returned)
            finally:
                made.open = False
                recording.reset(token)
            named = (template.node,) if type(template) is Ref else Arguments((template,)).sources or ()
            last = self._last
            if last is not None and last[1].returned == named and made.repeats(last[0]):
                return last[1], template  # what was found out of it need not be found out again
            graph = made.graph(self._settings.get("max_concurrency"), named)
        graph.returned = named
        self._last = (made, graph) if made.memorable else None
        return graph, template

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], RunSettings]:
        names = SETTINGS - self._own
        mine = {name: value for name, value in kwargs.items() if name not in names}
        settings: Any = {**self._settings, **{name: value for name, value in kwargs.items() if name in names}}
        return mine, settings


def _filled(template: Any, result: ExecutionResult, known: dict[str, Any]) -> Any:
    """Return a template with the values in their places; None stands for what was skipped though nothing failed.

    Args:
        template: what the function returned.
        result: of the run.
        known: gets the values, for each is opened once.
    """
    kind = type(template)
    if kind is not Ref:
        return template.filled([_filled(one, result, known) for one in template.items]) if kind is Group else template
    name = template.node
    if name not in known:
        try:
            known[name] = result[name]
        except BaseException:  # the node's own error, of whatever kind
            if name in result and not result.passed_over(name):
                raise
            return None
    value = known[name]
    for key in template.path:
        value = value[key]
    return value


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(**settings: Unpack[TaskSettings]) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(fn: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Mark a function as a task: called inside of a `@dag` function it records a node and returns a handle of its value.

    An `async def` function runs on the event loop of the run; called outside of a `@dag` function it gives a coroutine, as ever.

    Args:
        fn: the function, where the decorator stands without parentheses.
        settings: by name, see `TaskSettings`: `name`, what its nodes are called, by default as the function; further calls are
            `name_2`, `name_3`, ... `unpack_to`, how many items its value has, for `a, b = task(...)` and loops. `when`, a handle
            or a comparison of handles: where its value is false, the node is skipped. All others as for `Node`.

    Raises:
        InvalidNodeError: a setting that cannot be.
    """
    if fn is None:
        return lambda fn: task(fn, **settings) if settings else task(fn)
    _check_function("task", fn)
    return Task(fn, settings)  # type: ignore[arg-type]  # checked there


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
    if inspect.isasyncgenfunction(fn):
        raise InvalidNodeError(f"@{what} marks functions that return, and {fn!r} yields. Let it return a list.")
