"""A graph that is being described: what is recorded, and the handles that stand for values which a run will make.

Who describes is known by a context variable, so several threads may do it at once. Which functions record is not known here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import GeneratorType, MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import msgspec

from dagrid.errors import HandleError, InvalidNodeError, UnknownNodeError
from dagrid.graph.arguments import Arguments, Group, Ref, is_grouped, looking_into
from dagrid.graph.dag import DAG
from dagrid.graph.node import Node, origin_of
from dagrid.graph.structure import Structure


class Recording(msgspec.Struct, eq=False):
    """A graph that is being described: what each call of a task adds to."""

    name: str
    open: bool = True
    prefix: str = ""
    _names: list[str] = []
    _index: dict[str, int] = {}
    _counts: dict[str, int] = {}
    _predecessors: list[list[int]] = []
    _patterns: list[Node] = []
    _arguments: list[Arguments] = []
    _specs: dict[int, Node] = {}
    _maps: set[int] = set()
    _lists: dict[int, Sequence[Handle]] = {}
    _written: dict[int, object] = {}

    def writes(self, task: object) -> None:
        """Note a task whose function is written inside of the description, so that it may close over handles."""
        self._written[id(task)] = task

    def add(
        self,
        pattern: Node,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        length: int | None = None,
        name: str | None = None,
    ) -> Handle:
        """Record a call and return the handle of its value.

        Args:
            pattern: the node but for its name and its arguments; what it waits for besides has been recorded before.
            args, kwargs: what it is called with, handles among them.
            length: how many items its value has, if that is known.
            name: of the node, if it is not found from the pattern's.
        """
        if not self.open:
            raise HandleError(
                f"A handle of @dag {self.name!r} was used after the graph had been described. Use handles only inside of that "
                f"function: pass them to tasks, or return them and read the values that the call returns."
            )
        taken: dict[int, str] = {}
        given, named = self._placed(args, kwargs, taken) if args or kwargs else ((), None)
        return self._record(pattern, given, named, taken, length, name)

    def _placed(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, taken: dict[int, str]
    ) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        given = tuple([self._place(one, taken) for one in args])
        return given, {key: self._place(one, taken) for key, one in kwargs.items()} if kwargs else None

    def _record(
        self,
        pattern: Node,
        given: tuple[Any, ...],
        named: dict[str, Any] | None,
        taken: dict[int, str],
        length: int | None,
        name: str | None,
    ) -> Handle:
        """Record a call with arguments that have references in the places of handles; `taken` has the nodes of these."""
        called = Arguments(given, named, tuple(taken.values()))
        if pattern.when is not None or pattern.depends_on:
            self._wait(pattern, taken)  # before the node has a name, for it cannot wait for itself
        if name is None:
            name = self.prefix + pattern.id
            if name in self._index:
                name = self._unused(name)
        at = len(self._names)
        self._names.append(name)
        self._index[name] = at
        self._patterns.append(pattern)
        self._arguments.append(called)
        if pattern.reads:
            needed = {*taken.values()}.difference(pattern.reads).union(pattern.changed(reads=()).required())
            taken = {before: of for before, of in taken.items() if of in needed}
        self._predecessors.append(list(taken))
        return Handle(self, at, Ref(name), length)

    def map(
        self, pattern: Node, items: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, length: int | None
    ) -> Handle:
        """Record a call for each item, and a node that gathers their values in a list; return the handle of the list.

        Args:
            pattern: of the calls.
            items: what each call gets one of; a handle whose length is not known is mapped when its value is there.
            args, kwargs: what each call gets besides.
            length: how many items the value of each call has, if that is known.
        """
        each = self._items(items)
        if each is None:
            handle = self.add(pattern, (items, *args), kwargs)
            self._maps.add(handle.__at__)
            return handle
        from dagrid.graph.late import gathered

        name = self._unused(self.prefix + pattern.id)
        shared: dict[int, str] = {}
        more, named = self._placed(args, kwargs, shared)  # once, for they may be large
        elements = []
        for number, item in enumerate(each):
            taken: dict[int, str] = {}
            given = (self._place(item, taken), *more)
            taken |= shared
            elements.append(self._record(pattern, given, named, taken, length, self._unused(f"{name}[{number}]")))
        handle = self.add(gathered(pattern), elements, None, len(elements), name)
        handle.__elements__ = self._lists[handle.__at__] = elements
        return handle

    def holds(self, handle: Handle) -> None:
        """Check that a handle is of this graph. Raises HandleError."""
        self._place(handle, {})

    def within(self, pattern: Node, named: bool, held: Collection[str]) -> Node:
        """Return the pattern of a node in which names are those of the graph that is nested here, else of one around it.

        Args:
            pattern: of the node.
            named: its condition was said by name.
            held: what it reads and was said by a handle.
        """
        if not self.prefix:
            return pattern
        when = pattern.when
        if named and when is not None:
            when = Ref(self._meant(when.node), when.path)
        return pattern.changed(when=when, reads=[one if one in held else self._meant(one) for one in pattern.reads])

    def group(self, name: str) -> str:
        """Return the prefix for the nodes of a nested graph."""
        key = f"{self.prefix}{name}."
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return key if count == 1 else f"{self.prefix}{name}_{count}."

    def template(self, value: Any) -> Any:
        """Return a value with references in the places of handles."""
        return self._place(value, {})

    def graph(self, max_concurrency: int | None, returned: tuple[str, ...] = ()) -> DAG:
        """Return what was recorded; this ends it.

        Args:
            max_concurrency: of the graph.
            returned: the nodes whose values the function returned.

        Raises:
            HandleError: the function of a task has a handle beside its arguments.
            InvalidNodeError: a node reads others, and values to come are mapped.
        """
        if self._written:
            self._check_written()
        structure = Structure.in_order(self._names, self._index, self._predecessors)
        self._specs = dict(enumerate(map(Node.called, self._patterns, self._names, self._arguments)))
        unread = self._unread(returned) if self._lists or self._maps else frozenset()
        if self._maps:
            for spec in self._specs.values():
                if spec.reads:
                    raise InvalidNodeError(
                        f"Node {spec.id!r} reads others, and @dag {self.name!r} maps over a value to come: what is read may "
                        f"not be there yet. Remove its reads, or map over a list."
                    )
            from dagrid.graph.late import Outline, split

            outline = Outline(structure, self._specs, frozenset(self._maps), unread)
            return split(outline, name=self.name, max_concurrency=max_concurrency)
        return DAG.of(structure, self._specs, name=self.name, max_concurrency=max_concurrency)

    def _unread(self, returned: Iterable[str]) -> frozenset[int]:
        """Return the maps whose lists are mapped item by item, and asked for by nobody; note it with those that are there."""
        from dagrid.graph.late import as_unread_list

        parts = {one.__at__: at for at, elements in self._lists.items() for one in elements}
        index, lists, maps = self._index, self._lists, self._maps
        followed: set[int] = set()
        asked = {index[name] for name in returned}
        for at, spec in self._specs.items():
            over = _mapped(spec) if at in maps else None
            for name in (*spec.taken(), *spec.reads):
                before = index[name]
                if name == over and before in maps:
                    followed.add(before)
                elif parts.get(before, at) != at:
                    followed.add(parts[before])
                else:
                    asked.add(before)
        unread = frozenset(followed - asked)
        for at in unread & lists.keys():
            self._specs[at] = self._specs[at].changed(fn=as_unread_list)
        return unread

    def _check_written(self) -> None:
        """Check the tasks that were called, now that all is bound which their functions close over."""
        for pattern in {id(one): one for one in self._patterns}.values():
            if id(origin_of(pattern.fn)) in self._written and _has_handle([pattern.fn], {}):
                raise HandleError(
                    f"The function of task {pattern.id!r} uses a handle that it was not called with, and that has no value when "
                    f"the task runs. Make it a parameter of the task, and pass the handle."
                )

    @property
    def memorable(self) -> bool:
        """Whether it may be kept to compare the next one with it: it is small, and holds nothing of the user's but tasks."""
        return (
            len(self._names) <= MOST_REMEMBERED
            and not self._maps
            and all(map(_is_simple, self._patterns, self._arguments))
        )

    def repeats(self, earlier: Recording) -> bool:
        """Return whether it describes the same as a memorable one: the same tasks, with equal names, edges and arguments."""
        return (
            self._names == earlier._names
            and self._predecessors == earlier._predecessors
            and all(map(operator.is_, self._patterns, earlier._patterns))
            and all(map(_is_called_alike, self._arguments, earlier._arguments))
        )

    def _items(self, items: Any) -> Iterable[Any] | None:
        if type(items) is not Handle:
            if not isinstance(items, Iterable):
                raise HandleError(f"map takes a list, or a handle of one, and not {items!r}.")
            return items
        if items.__elements__ is not None:
            self.holds(items)
            return items.__elements__
        return None if items.__length__ is None else list(items)

    def _wait(self, pattern: Node, taken: dict[int, str]) -> None:
        """Let a node wait for what its pattern names."""
        condition = () if pattern.when is None else (pattern.when.node,)
        for name in (*pattern.depends_on, *condition):
            at = self._index.get(name)
            if at is None:
                where = f"Node {pattern.id!r} waits for something that @dag {self.name!r} has not recorded before:"
                raise UnknownNodeError.of(name, self._index, where)
            taken[at] = name

    def _meant(self, name: str) -> str:
        """Return the node that a name means where it is said; one that is not there may come in the same graph."""
        prefix = self.prefix
        while prefix and prefix + name not in self._index:
            outer = prefix[:-1].rpartition(".")[0]
            prefix = f"{outer}." if outer else ""
        return prefix + name if prefix or name in self._index else self.prefix + name

    def _unused(self, name: str) -> str:
        if name not in self._index:
            return name
        count = self._counts.get(name, 1)
        while True:
            count += 1
            found = f"{name}_{count}"
            if found not in self._index:
                self._counts[name] = count
                return found

    def _place(self, value: Any, taken: dict[int, str], open_: dict[int, bool] | None = None) -> Any:
        """Return a value with references in the places of handles, and the value itself where there are none.

        Args:
            value: what is looked at.
            taken: gets the nodes of the handles.
            open_: the containers that this one stands in, with whether they were met again within, and what was seen to hold no
                handle.
        """
        kind: Any = type(value)
        if kind is Handle:
            if value.__recording__ is not self:
                raise HandleError(
                    f"{value!r} belongs to @dag {value.__recording__.name!r} and not to {self.name!r}, which is being described. "
                    f"Call the task here, or pass the value as an argument."
                )
            ref = value.__ref__
            taken[value.__at__] = ref.node
            return ref
        if kind in _PLAIN:
            return value
        look = looking_into(kind)
        if look is None:
            if kind in _READ_ONCE:
                raise _read_once(kind)
            return value
        held = look(value)
        open_ = {} if open_ is None else open_
        if issubclass(kind, (dict, MappingProxyType)) and _has_handle(value, open_):
            raise HandleError(
                "A handle is in a key of a dict, and its value is not known yet. Make the dict in a task."
            )
        kinds = set(map(type, held))
        if Handle not in kinds and not any(map(looking_into, kinds)) and _READ_ONCE.isdisjoint(kinds):
            return value
        if not is_grouped(kind):
            if _has_handle(held, open_):
                raise _unmade(kind)
            return value
        if id(value) in open_:
            open_[id(value)] = True
            return value
        open_[id(value)] = False
        placed = tuple([self._place(one, taken, open_) for one in held])
        met_again = open_.pop(id(value))
        if all(new is old for new, old in zip(placed, held, strict=True)):
            return value
        if met_again:
            raise HandleError(
                f"A {kind.__qualname__} holds a handle and itself, so it cannot be made anew with the value. Make it in a task."
            )
        try:
            return Group.of(value, placed)
        except Exception as error:
            raise _unmade(kind) from error


def _has_handle(held: Collection[Any], seen: dict[int, bool]) -> bool:
    """Return whether a handle is among these, or in something among these, however deep; what was `seen` is passed over."""
    left = [held]
    while left:
        held = left.pop()
        kinds: set[Any] = set(map(type, held))
        if Handle in kinds:
            return True
        looks = {kind: look for kind in kinds if (look := looking_into(kind)) is not None}
        for one in held if looks else ():
            look = looks.get(type(one))
            if look is None:
                continue
            met = seen[id(one)] = id(one) in seen
            if not met:
                left.append(look(one))
    return False


def _read_once(kind: type) -> HandleError:
    return HandleError(
        f"A {kind.__name__} is read when the task runs, and by the first run alone; tasks that it calls are not recorded. "
        f"Pass a list of it."
    )


def _unmade(kind: type) -> HandleError:
    return HandleError(
        f"A {kind.__qualname__} holds a handle, and cannot be made anew with the value when that is known. Pass what it holds in "
        f"a list or a tuple, and make the {kind.__qualname__} in a task."
    )


def _mapped(node: Node) -> str | None:
    """Return the node whose whole value, and nothing else of which, a map takes item by item."""
    called = node.arguments or NO_ARGUMENTS
    over = called.args[0]
    others = Arguments(called.args[1:], called.kwargs).sources or ()
    return over.node if type(over) is Ref and not over.path and over.node not in others else None


MOST_REMEMBERED = 1_000
NO_ARGUMENTS = Arguments()
_PLAIN = frozenset((bool, int, float, str, bytes, type(None)))
_SIMPLE = _PLAIN | {Ref}
_READ_ONCE = frozenset((GeneratorType, map, filter, zip, enumerate, reversed))


def _values(called: Arguments) -> tuple[Any, ...]:
    return (*called.args, *called.kwargs.values()) if called.kwargs else called.args


def _is_simple(pattern: Node, arguments: Arguments) -> bool:
    """Return whether a node is called with simple constants and whole values, and keeps nothing beyond a run."""
    for one in _values(arguments):
        if type(one) not in _SIMPLE or (type(one) is Ref and one.path):
            return False
    return not (pattern.setup or pattern.cache)


def _is_called_alike(mine: Arguments, theirs: Arguments) -> bool:
    if mine.kwargs or theirs.kwargs:
        if list(mine.kwargs or ()) != list(theirs.kwargs or ()):
            return False
    elif not (mine.args or theirs.args):
        return True
    return len(mine.args) == len(theirs.args) and all(map(_is_alike, _values(mine), _values(theirs)))


def _is_alike(one: Any, other: Any) -> bool:
    """Return whether no task could tell two simple constants, or two references, from each other; -0.0 equals 0.0."""
    return one is other or (type(one) is type(other) and type(one) is not float and one == other)


recording: ContextVar[Recording | None] = ContextVar("dagrid_recording", default=None)

P = ParamSpec("P")
R = TypeVar("R")


def unrecorded(fn: Callable[P, R]) -> Callable[P, R]:
    """Return a function that does the same outside of any description: the tasks that it calls run, and are not recorded."""

    @functools.wraps(fn)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if recording.get() is None:
            return fn(*args, **kwargs)
        token = recording.set(None)
        try:
            return fn(*args, **kwargs)
        finally:
            recording.reset(token)

    return outside


class Handle(msgspec.Struct, eq=False):
    """What a task called inside a `@dag` function returns: it stands for the value that a run will make.

    It can be passed to tasks, also inside of lists, tuples and dicts, and of subclasses of these; returned; indexed, where the
    index is applied by whoever receives the value; iterated and unpacked if the task says `unpack_to`; mapped over. Comparisons
    and arithmetic record nodes of their own. As a key and in sets a handle is itself and nothing else: its hash is its identity.
    What it holds itself is named as Python's own attributes are, for all other names are those of the value.

    Raises:
        HandleError: it is used as if it were the value: `if handle`, `x in handle`, a loop without a length, `str(handle)` and
            formatting; or used outside of the function in which it was made.
    """

    __array_ufunc__ = None  # an array leaves arithmetic to the handle, and does not take it apart item by item

    __recording__: Recording
    __at__: int
    __ref__: Ref
    __length__: int | None = None
    __elements__: Sequence[Handle] | None = None

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<handle of {self.__ref__.node + ''.join(f'[{key!r}]' for key in self.__ref__.path)!r}>"

    def __getitem__(self, key: Any) -> Handle:
        if not self.__recording__.open or self.__recording__.template(key) is not key:
            return self.__recording__.add(_operation("getitem"), (self, key))
        if (
            self.__elements__ is not None
            and type(key) is int
            and -len(self.__elements__) <= key < len(self.__elements__)
        ):
            return self.__elements__[key]
        return Handle(self.__recording__, self.__at__, Ref(self.__ref__.node, (*self.__ref__.path, key)))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self!r} has no value yet, so it has no attribute {name!r}. Take that of the value in a task."
        )

    def __len__(self) -> int:
        if self.__length__ is None:
            raise HandleError(
                f"How long {self!r} is will be known when it has run. Say it with @task(unpack_to=...), or work on the whole "
                f"value in a task."
            )
        return self.__length__

    def __iter__(self) -> Iterator[Handle]:
        return iter([self[place] for place in range(len(self))])

    def map(self, task: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Record a call for each item of this value, and return what stands for the list, see `Task.map` and `Flow.map`."""
        mapping = getattr(task, "map", None)
        if mapping is None:
            raise HandleError(f"map takes a function marked with @task or @dag, and not {task!r}. Mark it with @task.")
        return mapping(self, *args, **kwargs)

    def __bool__(self) -> bool:
        raise HandleError(
            f"{self!r} has no value yet, so nothing can be decided by it here. Decide inside of a task, or let a task run only "
            f"when it is true: task.with_options(when=handle)(...)."
        )

    def __contains__(self, item: object) -> bool:
        raise HandleError(f"What {self!r} contains will be known when it has run. Ask that in a task.")

    def __str__(self) -> str:
        return format(self)

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
        return self.__recording__.add(_operation(name), (*other, self) if turned else (self, *other))

    return apply


for _name in _ONE_SIDED + _TWO_SIDED:
    setattr(Handle, f"__{_name}__", _operator(_name, False))
for _name in _TWO_SIDED:
    setattr(Handle, f"__r{_name}__", _operator(_name, True))
