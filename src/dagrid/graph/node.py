"""One node as it was described: a name, a function and the settings of its run. Frozen, and checked when it is made.

This room knows neither the graph around a node nor how a node is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeGuard

import msgspec

from dagrid.errors import HandleError, InvalidNodeError, hint, nearest
from dagrid.graph.arguments import Arguments, Ref
from dagrid.graph.policy import Repeat, Retry, as_retry

if TYPE_CHECKING:
    from dagrid.graph.recording import Handle

OnLost = Literal["requeue", "fail"]
ContinueOn = Literal["failure", "skipped", "success"]
HandlerOf = Literal["success", "failure", "cancel", "exit"]
Place = Literal["caller", "here"]
NodeRef: TypeAlias = "str | Callable[..., Any] | Handle"
OUTCOME = "outcome"
"""The parameter by which a handler is told how the run ended."""


NOTHING: Mapping[str, Any] = MappingProxyType({})
NONE: tuple[Any, ...] = ()  # there is one empty tuple, so it is known by its identity
_put = msgspec.structs.force_setattr


class NodeSettings(TypedDict, total=False):
    """What can be said of the run of a node, by name; see `Node`. Builders and `@task` take these."""

    priority: int
    is_sequential: bool
    resources: Mapping[str, float] | None
    selector: Mapping[str, str] | None
    retries: Retry | int | None
    repeat: Repeat | None
    timeout: float | None
    cost: float | None
    kind: str | None
    adds: AbstractSet[str] | None
    tags: Iterable[str]
    when: Any
    setup: bool
    debug: bool
    cache: bool | str
    place: Place | None
    on_lost: OnLost
    continue_on: Iterable[ContinueOn]
    handler: HandlerOf | None
    reads: Iterable[NodeRef]
    metadata: Mapping[str, Any] | None


class _Positional(msgspec.Struct, frozen=True):
    """What may be said of a node without its name."""

    id: str
    fn: Callable[..., Any] | None = None
    depends_on: tuple[str, ...] = ()
    priority: int = 0
    is_sequential: bool = False


class Node(_Positional, frozen=True, kw_only=True):
    """A task of a graph. Wherever a name is asked for, a function means its `__name__`, and a handle of `@dag` its node.

    Args:
        id: the name of the node, unique in its graph; a function gives its name, and is the task if there is no other.
        fn: what to call; None for a node whose task is given when the graph is run. Of a `@task` the settings count too, where
            the node does not say others.
        depends_on: the nodes that must be done before.
        priority: of the nodes that are ready, the larger one goes first.
        is_sequential: nothing else of the same run runs while this node does.
        resources: amounts of named capacities that are held while it runs, each greater than 0.
        selector: labels that its worker must have, exactly as written.
        retries: a Retry, or a whole number of retries without a delay; stored as a Retry or None.
        repeat: a Repeat: how often and when it runs again if it asks for it (`RepeatTask`).
        timeout: seconds, greater than 0, from the start of an attempt; None is no limit.
        cost: estimated seconds, 0 or more; None is unknown and counts as 1.
        inputs: parameter of `fn` -> the node whose value it gets. These are edges too.
        kind: a word of yours that rules and displays may look at.
        adds: the kinds of the nodes that this one may append to the graph while it runs (`current().grow`); nodes without a kind
            are always allowed. None: no other.
        tags: words by which parts of a graph are chosen.
        when: a node whose value decides: where it is false, this one is skipped, and what takes its value is, too. An edge.
        setup: it runs once for a graph; further runs of the same graph use its value. It depends on setup nodes only.
        debug: it runs only where a run asks for it. What is no debug node cannot depend on it.
        cache: True keeps the value for later runs where a run has a cache, see `dagrid.assemble.start`; a text does the same, and
            stands for the code of `fn`: say another one to have it computed anew.
        place: "caller" runs it in the thread that waits for the run, wherever others run; "here" runs a command on the machine
            of the run, where other commands run elsewhere.
        on_lost: whether an attempt whose worker vanished is sent again ("requeue") or fails ("fail").
        continue_on: after what end of this node the nodes that wait for it run all the same, with None for its value. "failure":
            it failed, timed out or was lost; a run with such failures alone has partially succeeded. "success" means that too,
            and the failure does not count for the run. "skipped": it was skipped.
        handler: it takes no part in the graph and has no edges; it runs when all other nodes have ended, if the run succeeded
            (also in part), failed or was cancelled, as it says, and "exit" after these and in any case. Where it does not apply
            it is skipped. A parameter of `fn` called `outcome` gets a `dagrid.attempt.Outcome`.
        reads: nodes whose values the task may look at: those that have one when it starts, and None for the others. No edges, and
            nobody waits or is skipped for their sake. They stand in `inputs`, in `arguments` and for parameters as predecessors
            do; a predecessor that is among them too is waited for, and its value is not needed.
        payload: anything; dagrid carries it and does not look.
        metadata: more to carry, by name.
        arguments: all that `fn` is called with, in place of `inputs` and of parameters named after predecessors. The nodes whose
            values are in them are edges too. Calls of a `@task` write this.

    Raises:
        InvalidNodeError: a setting that cannot be; the message names the node.
    """

    resources: Mapping[str, float] = NOTHING
    selector: Mapping[str, str] = NOTHING
    retries: Retry | None = None
    timeout: float | None = None
    cost: float | None = None
    inputs: Mapping[str, str] | None = None
    kind: str | None = None
    adds: frozenset[str] | None = None
    tags: tuple[str, ...] = ()
    when: Ref | None = None
    setup: bool = False
    debug: bool = False
    cache: bool | str = False
    place: Place | None = None
    on_lost: OnLost = "requeue"
    continue_on: tuple[ContinueOn, ...] = ()
    handler: HandlerOf | None = None
    repeat: Repeat | None = None
    reads: tuple[str, ...] = ()
    payload: Any = None
    metadata: Mapping[str, Any] | None = None
    arguments: Arguments | None = None

    if TYPE_CHECKING:  # it takes more than it holds

        def __init__(
            self,
            id: NodeRef,
            fn: Callable[..., Any] | None = None,
            depends_on: Iterable[NodeRef] = (),
            priority: int = 0,
            is_sequential: bool = False,
            *,
            resources: Mapping[str, float] | None = None,
            selector: Mapping[str, str] | None = None,
            retries: Retry | int | None = None,
            timeout: float | None = None,
            cost: float | None = None,
            inputs: Mapping[str, NodeRef] | None = None,
            kind: str | None = None,
            adds: AbstractSet[str] | None = None,
            tags: Iterable[str] = (),
            when: NodeRef | Ref | None = None,
            setup: bool = False,
            debug: bool = False,
            cache: bool | str = False,
            place: Place | None = None,
            on_lost: OnLost = "requeue",
            continue_on: Iterable[ContinueOn] = (),
            handler: HandlerOf | None = None,
            repeat: Repeat | None = None,
            reads: Iterable[NodeRef] = (),
            payload: Any = None,
            metadata: Mapping[str, Any] | None = None,
            arguments: Arguments | None = None,
        ) -> None: ...

        def __copy__(self) -> Node: ...

    def __post_init__(self) -> None:
        """Check what was said, and put it into its one form."""
        given: Any = self.id
        if type(given) is not str or not given:
            _put(self, "id", node_id(given))
            if self.fn is None and not isinstance(given, str):
                _put(self, "fn", given)
        name = self.id
        if self.fn is not None and type(self.fn) is not FunctionType:
            if not callable(self.fn):
                _refuse(name, f"fn is not callable: {self.fn!r}")
            _take_settings(self, getattr(self.fn, "node", None))
        if self.depends_on is not NONE:
            _put(self, "depends_on", _names(name, self.depends_on))
        if self.priority != 0 or type(self.priority) is not int:
            _put(self, "priority", _whole(name, self.priority))
        if self.is_sequential is not False:
            _put(self, "is_sequential", _flag(name, "is_sequential", self.is_sequential))
        if self.resources is not NOTHING:
            _put(self, "resources", _amounts(name, self.resources) if self.resources else NOTHING)
        if self.selector is not NOTHING:
            _put(self, "selector", _labels(name, self.selector) if self.selector else NOTHING)
        if self.retries is not None:
            _put(self, "retries", _retry(name, self.retries))
        if self.timeout is not None:
            _put(self, "timeout", _seconds(name, "timeout", self.timeout, zero=False))
        if self.cost is not None:
            _put(self, "cost", _seconds(name, "cost", self.cost, zero=True))
        if self.inputs is not None:
            _put(self, "inputs", _inputs(name, self.inputs) if self.inputs else None)
        if self.kind is not None and not isinstance(self.kind, str):
            _refuse(name, f"kind is a word, not {self.kind!r}")
        if self.adds is not None:
            _put(self, "adds", frozenset(_words(name, "adds", self.adds)))
        if self.tags is not NONE:
            _put(self, "tags", _words(name, "tags", self.tags) if self.tags else ())
        if self.when is not None:
            _put(self, "when", _condition(name, self.when))
        if self.setup is not False:
            _put(self, "setup", _flag(name, "setup", self.setup))
        if self.debug is not False:
            _put(self, "debug", _flag(name, "debug", self.debug))
        if self.cache is not False and (not isinstance(self.cache, (bool, str)) or self.cache == ""):
            _refuse(name, f"cache is True, False or a text that is not empty, not {self.cache!r}")
        if self.place is not None and self.place not in ("caller", "here"):
            _refuse(name, f"place is 'caller', 'here' or None, not {self.place!r}")
        if self.on_lost != "requeue" and self.on_lost != "fail":
            _refuse(name, f"on_lost is 'requeue' or 'fail', not {self.on_lost!r}")
        if self.repeat is not None and not isinstance(self.repeat, Repeat):
            _refuse(name, f"repeat is a Repeat(...), not {self.repeat!r}")
        if self.continue_on is not NONE:
            _put(self, "continue_on", _ends(name, self.continue_on) if self.continue_on else ())
        if self.reads is not NONE:
            _put(self, "reads", tuple(dict.fromkeys(_names(name, self.reads, "reads"))) if self.reads else ())
        if self.metadata is not None:
            _put(self, "metadata", dict(_mapping(name, "metadata", self.metadata)))
        if self.arguments is not None:
            _check_arguments(name, self.arguments, self.inputs)
        if self.handler is not None:
            _check_handler(self, self.handler)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        said = [f", {name}={value!r}" for name, value in self.settings().items()]
        return f"Node({self.id!r}{''.join(said)})"

    def __reduce__(self) -> Any:
        return _made, (self.id, self.settings())

    def settings(self) -> dict[str, Any]:
        """Return what was set, by the name of the argument: everything but the id that is not as it would be unsaid."""
        found = {}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value is not None if default is None else value != default:
                found[name] = value
        return found

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing to say of this node but its name and its edges."""
        return (
            self.fn is None
            and self.payload is None
            and self.retries is None
            and self.repeat is None
            and self.timeout is None
            and self.cost is None
            and self.metadata is None
            and self.inputs is None
            and self.arguments is None
            and self.kind is None
            and self.adds is None
            and self.when is None
            and self.place is None
            and self.handler is None
            and not self.tags
            and not self.setup
            and not self.debug
            and not self.cache
            and not self.priority
            and not self.is_sequential
            and not self.resources
            and not self.selector
            and not self.reads
            and not self.continue_on
            and self.on_lost == "requeue"
        )

    def changed(self, **settings: Any) -> Node:
        """Return a copy with some settings replaced, checked again."""
        given = {name: getattr(self, name) for name in FIELDS}
        return Node(**(given | settings))

    def required(self) -> tuple[str, ...]:
        """Return the names of all nodes that this one waits for, those whose values it takes included, each once."""
        if self.arguments is None and self.inputs is None and self.when is None:
            return self.depends_on
        taken = self.taken()
        if self.reads:
            condition = None if self.when is None else self.when.node
            reads = frozenset(self.reads)
            taken = tuple([one for one in taken if one not in reads or one == condition])
        if not taken:
            return self.depends_on
        return tuple(dict.fromkeys((*self.depends_on, *taken)))

    def taken(self) -> tuple[str, ...]:
        """Return the names of the nodes whose values `inputs`, `arguments` or `when` ask for."""
        taken: tuple[str, ...] = ()
        if self.arguments is not None:
            taken = self.arguments.sources or ()
        elif self.inputs:
            taken = tuple(self.inputs.values())
        return taken if self.when is None else (*taken, self.when.node)

    def called(self, name: str, arguments: Arguments) -> Node:
        """Return a copy with another name and these arguments, without checking anything again."""
        made = self.__copy__()
        _put(made, "id", name)
        _put(made, "arguments", arguments)
        if self.inputs is not None:
            _put(made, "inputs", None)
        return made


def _take_settings(node: Node, pattern: object) -> None:
    """Give a node the function and the settings of the pattern that its task has, where it says nothing else itself."""
    if type(pattern) is not Node:
        return
    _put(node, "fn", pattern.fn)
    for name, value in pattern.settings().items():
        if getattr(node, name) == _DEFAULTS[name]:
            _put(node, name, value)


def _made(name: str, settings: dict[str, Any]) -> Node:
    return Node(name, **settings)


def origin_of(fn: object) -> object:
    """Return the `@task` that a function belongs to, also as the function of a node; without one, the function itself."""
    return getattr(fn, "origin", fn)


FIELDS: tuple[str, ...] = Node.__struct_fields__


def node_id(given: object, graph: str | None = None) -> str:
    """Return the node name that a string, a function or a handle means.

    Args:
        given: any of these.
        graph: what the graph is called in which it is looked for; handles of others are refused.

    Raises:
        InvalidNodeError: an empty name, or something that has none.
        HandleError: a handle of another graph, or of a part of a value.
    """
    if isinstance(given, str):
        if given:
            return given
        raise InvalidNodeError("A node needs a name that is not empty.")
    if callable(given):
        name = getattr(given, "__name__", None)
        if isinstance(name, str) and name:
            return name
        raise InvalidNodeError(f"{given!r} has no __name__. Give the node a name of its own.")
    if not _is_handle(given):
        raise InvalidNodeError(f"The name of a node is a string, a function or a handle, not {given!r}.")
    if given.__ref__.path:
        raise HandleError(f"{given!r} is a part of the value of node {given.__ref__.node!r}. Say the node as a whole.")
    if graph is not None and given.__recording__.name != graph:
        raise HandleError(
            f"{given!r} belongs to @dag {given.__recording__.name!r}, and not to the graph {graph!r}. Take a handle of that "
            f"graph, or say the name of the node."
        )
    return given.__ref__.node


def is_one(given: object) -> bool:
    """Return whether this means one node, and is no list of them."""
    return isinstance(given, str) or callable(given) or _is_handle(given)


def _is_handle(given: object) -> TypeGuard[Handle]:
    return type(getattr(given, "__ref__", None)) is Ref


def _refuse(name: str, why: str, meant: str | None = None) -> Any:
    raise InvalidNodeError(f"Node {name!r}: {why}.{hint(meant)}")


def _names(name: str, given: object, setting: str = "depends_on") -> tuple[str, ...]:
    if type(given) is tuple or type(given) is list:
        for one in given:
            if type(one) is not str or not one:
                return tuple([_reference(name, one) for one in given])
        return tuple(given)
    if isinstance(given, str):
        _refuse(name, f"{setting} is a list of names, not one string; write {setting}=[{given!r}]")
    if not isinstance(given, Iterable):
        _refuse(name, f"{setting} is a list of names, not {given!r}")
    found = [_reference(name, one) for one in given]  # type: ignore[attr-defined]
    return tuple(sorted(found) if isinstance(given, (set, frozenset)) else found)


def _reference(name: str, given: object) -> str:
    try:
        return node_id(given)
    except InvalidNodeError as error:
        raise InvalidNodeError(f"Node {name!r} depends on something that is no node. {error}") from None


def _whole(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise InvalidNodeError(f"Node {name!r}: priority is a whole number, not {value!r}.")


def _flag(name: str, setting: str, value: object) -> bool:
    if value not in (True, False):
        raise InvalidNodeError(f"Node {name!r}: {setting} is True or False, not {value!r}.")
    return bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(name: str, setting: str, value: float, *, zero: bool) -> float:
    if not _is_number(value) or value < 0 or (value == 0 and not zero):
        _refuse(name, f"{setting} is seconds, {'0 or more' if zero else 'greater than 0'}, not {value!r}")
    return float(value)


def _mapping(name: str, setting: str, value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Mapping):
        return value
    raise InvalidNodeError(f"Node {name!r}: {setting} is a mapping, not {value!r}.")


def _amounts(name: str, given: Mapping[str, float]) -> dict[str, float]:
    for resource, amount in _mapping(name, "resources", given).items():
        if not isinstance(resource, str) or not resource:
            _refuse(name, f"a resource has a name, not {resource!r}")
        if not _is_number(amount) or amount <= 0:
            _refuse(name, f"the amount of resource {resource!r} is a finite number greater than 0, not {amount!r}")
    return dict(given)


def _labels(name: str, given: Mapping[str, str]) -> dict[str, str]:
    for label, value in _mapping(name, "selector", given).items():
        if not isinstance(label, str) or not label or not isinstance(value, str):
            _refuse(
                name, f"a selector is text -> text, not {label!r}: {value!r}; quote it as the worker's label is written"
            )
    return dict(given)


def _retry(name: str, value: Retry | int) -> Retry | None:
    try:
        return as_retry(value)
    except InvalidNodeError as error:
        raise InvalidNodeError(f"Node {name!r}: {error}") from None


def _inputs(name: str, given: Mapping[str, NodeRef]) -> dict[str, str]:
    for parameter in _mapping(name, "inputs", given):
        if not isinstance(parameter, str) or not parameter:
            _refuse(name, f"inputs is parameter -> node, and {parameter!r} is no parameter")
    return {parameter: _reference(name, source) for parameter, source in given.items()}


def _words(name: str, setting: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        _refuse(name, f"{setting} is a list of words such as [{str(given)!r}], not {given!r}")
    words: tuple[str, ...] = tuple(sorted(given) if isinstance(given, AbstractSet) else given)  # type: ignore[arg-type]
    for word in words:
        if not isinstance(word, str) or not word:
            _refuse(name, f"{setting} is a list of words, and {word!r} is none")
    return tuple(dict.fromkeys(words))


def _ends(name: str, given: object) -> tuple[ContinueOn, ...]:
    for word in (words := _words(name, "continue_on", given)):
        if word not in _ENDS:
            known = ", ".join(map(repr, _ENDS))
            _refuse(name, f"continue_on is a list of {known}; there is no {word!r}", nearest(word, _ENDS))
    return tuple([one for one in _ENDS if one in words])


def _check_handler(node: Node, given: object) -> None:
    known = ", ".join(map(repr, _HANDLERS))
    if given not in _HANDLERS:
        suggestion = nearest(given, _HANDLERS) if isinstance(given, str) else None
        _refuse(node.id, f"handler is one of {known}, not {given!r}", suggestion)
    for before in node.required():
        _refuse(
            node.id,
            f"a handler runs when all other nodes have ended, so it waits for none, and it waits for {before!r}; say "
            f"reads=[{before!r}] where it is to see that value",
        )
    for setting in ("adds", "cache", "setup"):
        if getattr(node, setting):
            _refuse(node.id, f"a handler runs after the graph, and cannot have {setting}; remove it")


_HANDLERS: tuple[HandlerOf, ...] = ("success", "failure", "cancel", "exit")
_ENDS: tuple[ContinueOn, ...] = ("failure", "skipped", "success")


def _condition(name: str, given: object) -> Ref:
    if type(given) is Ref:
        return given
    if isinstance(given, list) and len(given) == 2:  # as JSON gives back a Ref
        return Ref(_reference(name, given[0]), tuple(given[1]))
    if not (isinstance(given, str) or callable(given)):
        _refuse(
            name,
            f"when is a node, or a handle, whose value decides, not {given!r}; where it is known already, decide with an if",
        )
    return Ref(_reference(name, given))


def _check_arguments(name: str, given: object, inputs: object) -> None:
    if not isinstance(given, Arguments):
        _refuse(name, f"arguments is an Arguments(...) record, not {given!r}")
    if inputs:
        _refuse(name, "arguments and inputs both say what fn is called with; keep one of them")


_BARE = Node("bare")
_DEFAULTS: dict[str, Any] = {name: getattr(_BARE, name) for name in FIELDS if name != "id"}
