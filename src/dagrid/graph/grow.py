"""Rules that are ready to use: map, reduce, loop, choose, collect, a workflow for each element. They are made of `Rule` and
`Patch` only, so that whoever needs another one can write it; how a rule is asked and applied is not known here.

A step is a function, or a Node as a template: its name, kind and settings, or those of a `@task`, hold for every node that is
made of it. Generated nodes are called `name[0]`, `name[1]`, ...; their kind is the template's, or else its name. An element
travels inside of its own node (`functools.partial(fn, element)`), so that no worker is sent the whole list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import msgspec

from dagrid.errors import InvalidPatchError
from dagrid.graph.dag import DAG
from dagrid.graph.node import Node, NodeRef, node_id
from dagrid.graph.rules import Patch, Rule, View

Step = Node | Callable[..., Any]
Predicate = Callable[[View], bool]


# --- predicates -----------------------------------------------------------------------------------------------------------


def done(*nodes: NodeRef) -> Predicate:
    """Return a predicate: these nodes are there and have completed."""
    return _Done(tuple([node_id(node) for node in nodes]))


def at_least(count: int, kind: str) -> Predicate:
    """Return a predicate: so many nodes of a kind are there, whatever their state."""
    return lambda view: view.count(kind) >= count


def all_present(kind: str) -> Predicate:
    """Return a predicate: every node of a kind is there, for no more can come."""
    return lambda view: view.closed(kind)


def all_done(kind: str) -> Predicate:
    """Return a predicate: no more nodes of a kind can come, and all of them have completed."""
    return lambda view: view.closed(kind) and all(map(view.succeeded, reversed(view.nodes(kind))))


def all_ended(kind: str) -> Predicate:
    """Return a predicate: no more nodes of a kind can come, and all of them have ended, however."""
    return lambda view: view.closed(kind) and all(map(view.ended, reversed(view.nodes(kind))))


# --- rules ----------------------------------------------------------------------------------------------------------------


def map_over(source: NodeRef, *steps: Step, prefix: str = "") -> Rule:
    """Return a rule that appends a node for each element of a result, once it is known.

    With more than one step each element gets a chain, and goes through it without waiting for other elements.

    Args:
        source: the node whose result is a collection.
        steps: the first parameter of the first step gets the element, that of each further step the result of the one before;
            other parameters are bound as usual.
        prefix: stands before each generated name.
    """
    chain = _templates(steps)
    source = node_id(source)
    return _rule(
        f"map over {source}",
        source,
        lambda view: Patch(list(_mapped(source, view.result(source), chain, prefix))),
        {step.kind for step in chain},
    )


def map_reduce(source: NodeRef, *steps: Step, reduce: Step, prefix: str = "") -> Rule:
    """Return a rule that maps like `map_over`, and appends a node whose first parameter gets the list of all results."""
    chain = _templates(steps)
    into = _Template(reduce)
    source = node_id(source)

    def body(view: View) -> Patch:
        nodes = list(_mapped(source, view.result(source), chain, prefix))
        last = [node.id for node in nodes[len(chain) - 1 :: len(chain)]]
        return Patch([*nodes, into.gather(prefix + into.id, last, after=() if last else (source,))])

    return _rule(f"map and reduce {source}", source, body, {into.kind, *(step.kind for step in chain)})


def nested_map_reduce(source: NodeRef, split: Step, *steps: Step, reduce: Step, into: Step) -> Rule:
    """Return a rule that splits each element into elements of its own, maps and reduces those, and then all the reductions.

    Args:
        source: the node whose result is a collection.
        split: makes of an element a collection; its nodes are `split[0]`, `split[1]`, ...
        steps: for each element of these, named `split[0].step[0]`, ...
        reduce: for each part: `split[0].reduce`, ... Its first parameter gets the list of the part's results.
        into: its first parameter gets the list of all reductions.
    """
    parts = _Template(split)
    source = node_id(source)
    inner = {_Template(step).kind for step in (*steps, reduce)}
    final = _Template(into)

    def body(view: View) -> Patch:
        nodes = list(_mapped(source, view.result(source), [parts], ""))
        rules = [map_reduce(node.id, *steps, reduce=reduce, prefix=f"{node.id}.") for node in nodes]
        totals = [f"{node.id}.{_Template(reduce).id}" for node in nodes]
        join = Rule(
            lambda view: all(name in view for name in reversed(totals)),
            lambda _: Patch([final.gather(final.id, totals, after=() if totals else (source,))]),
            f"join {final.id}",
            adds={final.kind},
        )
        return Patch(nodes, [*rules, join])

    return _rule(f"split and reduce {source}", source, body, {parts.kind, final.kind, *inner})


def for_each(source: NodeRef, workflow: DAG, *, name: str, reduce: Step | None = None) -> Rule:
    """Return a rule that appends a whole workflow for each element of a result.

    Args:
        source: the node whose result is a collection.
        workflow: its nodes become `name[0].node`, `name[1].node`, ...; the first parameter of those that depend on nothing
            gets the element. A node without a kind gets its name as its kind.
        name: of the workflow.
        reduce: its first parameter gets the list of what the ends of the workflow returned, element by element.
    """
    inner = [_Template(workflow.node(each)) for each in workflow.topological_sort()]
    ends = workflow.leaves()
    into = None if reduce is None else _Template(reduce)
    source = node_id(source)

    def body(view: View) -> Patch:
        nodes: list[Node] = []
        last: list[str] = []
        for number, element in enumerate(view.result(source)):
            prefix = f"{name}[{number}]."
            nodes += [each.inlined(prefix, source, element) for each in inner]
            last += [prefix + end for end in ends]
        if into is not None:
            nodes.append(into.gather(into.id, last, after=() if last else (source,)))
        return Patch(nodes)

    return _rule(
        f"{name} for each of {source}", source, body, {each.kind for each in (*inner, *([into] if into else []))}
    )


def until(source: NodeRef, step: Step, stop: Callable[[Any], Any]) -> Rule:
    """Return a rule that repeats a step until a predicate of its value holds.

    Args:
        source: the node whose result the first round gets.
        step: its first parameter gets the value of the round before. The rounds are `step[0]`, `step[1]`, ...; a node with the
            plain name of the step then passes on the last value. `max_nodes` bounds a loop that has no end.
        stop: is asked for the value of each round, on your side.
    """
    template = _Template(step)

    def next_round(number: int, before: str) -> Rule:
        def body(view: View) -> Patch:
            if number and stop(view.result(before)):
                return Patch([Node(template.id, _same, inputs={"value": before}, kind=template.kind)])
            node = template.behind(f"{template.id}[{number}]", before)
            return Patch([node], [next_round(number + 1, node.id)])

        return _rule(f"repeat {template.id}", before, body, {template.kind})

    return next_round(0, node_id(source))


def choose(
    source: NodeRef, test: Callable[[Any], Any], then: Step | Iterable[Step], otherwise: Step | Iterable[Step] = ()
) -> Rule:
    """Return a rule that appends one of two sets of nodes, as a predicate of a result says.

    Args:
        source: the node whose result decides; it is the first parameter of the nodes that depend on nothing else.
        test: is asked for the result, on your side.
        then: the nodes if it holds.
        otherwise: the nodes if not; by default none.
    """
    source = node_id(source)
    yes, no = _templates(_several(then)), _templates(_several(otherwise))

    def body(view: View) -> Patch:
        chosen = yes if test(view.result(source)) else no
        return Patch(
            [
                each.node.changed(kind=each.kind) if each.node.required() else each.behind(each.id, source)
                for each in chosen
            ]
        )

    return _rule(f"choose after {source}", source, body, {each.kind for each in (*yes, *no)})


def collect(kind: str, into: Step) -> Rule:
    """Return a rule that appends one node behind all of a kind, when no more of them can come and all have completed.

    Its first parameter gets the list of their results, in order of insertion. Its own kind must be another one.
    """
    template = _Template(into)
    if template.kind == kind:
        raise InvalidPatchError(
            f"{template.id!r} collects the nodes of kind {kind!r} and is one itself. Give it another kind."
        )
    return Rule(
        all_done(kind),
        lambda view: Patch([template.gather(template.id, view.nodes(kind))]),
        f"collect {kind}",
        adds={template.kind},
    )


class _Done(msgspec.Struct, frozen=True):
    """Some nodes have completed; a rule need not be asked before they have ended."""

    waits: tuple[str, ...]

    def __call__(self, view: View) -> bool:
        return all(map(view.succeeded, self.waits))


# --- how they are made ----------------------------------------------------------------------------------------------------


def _rule(name: str, source: str, body: Callable[[View], Patch], adds: set[str]) -> Rule:
    return Rule(done(source), body, name, adds=adds)


def _several(steps: Step | Iterable[Step]) -> Iterable[Step]:
    return (steps,) if isinstance(steps, Node) or callable(steps) else steps


def _templates(steps: Iterable[Step]) -> list[_Template]:
    found = [_Template(step) for step in steps]
    if len({each.id for each in found}) < len(found):
        raise InvalidPatchError(
            f"Two steps have one name: {[each.id for each in found]}. Name them with Node(name, fn)."
        )
    return found


def _mapped(source: str, elements: Iterable[Any], chain: Sequence[_Template], prefix: str) -> Iterator[Node]:
    for number, element in enumerate(elements):
        before = ""
        for step in chain:
            name = f"{prefix}{step.id}[{number}]"
            yield step.behind(name, before) if before else step.of(name, source, element)
            before = name


class _Template:
    """A step of which nodes are made: what is the same for all of them is found once."""

    def __init__(self, step: Step) -> None:
        self.node = step if isinstance(step, Node) else Node(step)
        self.id = self.node.id
        self.kind: str = self.node.kind or self.id
        said = self.node.settings()
        self.settings = {name: said[name] for name in said if name not in ("fn", "depends_on", "inputs")}
        self.settings["kind"] = self.kind
        self.after = self.node.depends_on
        self.inputs = dict(self.node.inputs or {})

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.node.fn).parameters if self.node.fn is not None else {}
        except (ValueError, TypeError):
            return {}

    @cached_property
    def first(self) -> str | None:
        """The parameter that gets the element or the value before: the first one that is passed by position."""
        for name, parameter in self.parameters.items():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                return None if name in self.inputs else name
            if parameter.kind is parameter.VAR_POSITIONAL:
                return name
        return None

    def of(self, name: str, source: str, element: Any) -> Node:
        """Return the node for an element."""
        fn = self.node.fn
        if fn is not None and self.first is not None:
            fn = partial(fn, element)
        return Node(name, fn, (source, *self.after), inputs=self.inputs, **self.settings)

    def behind(self, name: str, before: str) -> Node:
        """Return the node that gets the value of another one."""
        if self.first is None:
            return Node(name, self.node.fn, (before, *self.after), inputs=self.inputs, **self.settings)
        return Node(name, self.node.fn, self.after, inputs={self.first: before} | self.inputs, **self.settings)

    def gather(self, name: str, before: Sequence[str], after: Iterable[str] = ()) -> Node:
        """Return the node that gets a list of values; other parameters may be bound with `inputs` of the template."""
        assert self.node.fn is not None
        given = {f"value_{number}": each for number, each in enumerate(before)}
        others = tuple(self.inputs)
        return Node(
            name,
            _Gather(self.node.fn, len(before), others),
            (*after, *self.after),
            inputs=given | self.inputs,
            **self.settings,
        )

    def inlined(self, prefix: str, source: str, element: Any) -> Node:
        """Return the node as a part of a workflow whose names all have a prefix."""
        if not self.node.required():
            return self.of(prefix + self.id, source, element)
        inputs, after = self._renamed
        return Node(
            prefix + self.id,
            self.node.fn,
            [prefix + each for each in after],
            inputs={parameter: prefix + each for parameter, each in inputs.items()},
            **self.settings,
        )

    @cached_property
    def _renamed(self) -> tuple[dict[str, str], list[str]]:
        """What parameters found by the names of predecessors, said with `inputs`; and the predecessors that give no value."""
        inputs = dict(self.inputs)
        rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self.parameters.values())
        for before in self.after:
            if (before in self.parameters or rest) and before not in inputs and before not in self.inputs.values():
                inputs[before] = before
        return inputs, [before for before in self.after if before not in inputs.values()]


@dataclass(frozen=True, slots=True)
class _Gather:
    """A task that takes values by name and hands them to a function as one list; `others` go by their names."""

    fn: Callable[..., Any]
    count: int
    others: tuple[str, ...] = ()

    def __call__(self, /, **values: Any) -> Any:
        gathered = [values[f"value_{number}"] for number in range(self.count)]
        return self.fn(gathered, **{name: values[name] for name in self.others})


def _same(value: Any) -> Any:
    return value
