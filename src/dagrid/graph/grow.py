"""Rules that are ready to use: map, reduce, loop, choose, collect, a workflow for each element. They are made of `Rule` and
`Patch` only, so that whoever needs another one can write it; how a rule is asked and applied is not known here.

A step is a function, or a Node as a template: its name, kind and settings, or those of a `@task`, hold for every node that is
made of it. Generated nodes are called `name[0]`, `name[1]`, ...; their kind is the template's, or else its name. An element
travels inside of its own node (`functools.partial(fn, element)`), so that no worker is sent the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec

from dagrid.errors import InvalidPatchError
from dagrid.graph.arguments import Arguments, Group, Ref, renamed
from dagrid.graph.dag import DAG
from dagrid.graph.late import Outline, as_list, as_unread_list, split
from dagrid.graph.node import Node, NodeRef, node_id
from dagrid.graph.parameters import NO_PARAMETERS, Parameters, outright, parameters_of
from dagrid.graph.rules import Patch, Rule, View, check_plain

Step = Node | Callable[..., Any]
Predicate = Callable[[View], bool]


# --- predicates -----------------------------------------------------------------------------------------------------------


def done(*nodes: NodeRef) -> Predicate:
    """Return a predicate: these nodes are there and have completed."""
    for one in nodes:
        if type(one) is not str or not one:
            return _Done(tuple(map(node_id, nodes)))
    return _Done(nodes)  # type: ignore[arg-type]  # names, as has been seen


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
            other parameters are bound as usual. A function that does not say what it asks for gets it by position.
        prefix: stands before each generated name.

    Raises:
        InvalidPatchError: there is no step, or two have one name.
    """
    chain = _chain(steps)
    source = node_id(source)
    return _rule(
        f"map over {source}",
        source,
        lambda view: Patch(list(_mapped(source, view.items(source), chain, prefix))),
        chain,
    )


def map_reduce(source: NodeRef, *steps: Step, reduce: Step, prefix: str = "") -> Rule:
    """Return a rule that maps like `map_over`, and appends a node whose first parameter gets the list of all results."""
    chain = _chain(steps)
    into = _Gathering(reduce)
    source = node_id(source)

    def body(view: View) -> Patch:
        nodes = list(_mapped(source, view.items(source), chain, prefix))
        last = [node.id for node in nodes[len(chain) - 1 :: len(chain)]]
        return Patch([*nodes, into.gather(prefix + into.id, last, source)])

    return _rule(f"map and reduce {source}", source, body, [into, *chain])


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
    chain, reduction = _chain(steps), _Gathering(reduce)
    final = _Gathering(into)

    def body(view: View) -> Patch:
        nodes = list(_mapped(source, view.items(source), [parts], ""))
        rules = [map_reduce(node.id, *steps, reduce=reduce, prefix=f"{node.id}.") for node in nodes]
        totals = [f"{node.id}.{reduction.id}" for node in nodes]
        return Patch(nodes, [*rules, _join(final, totals, source)])

    return _rule(f"split and reduce {source}", source, body, [parts, final, reduction, *chain])


def for_each(source: NodeRef, workflow: DAG, *, name: str, reduce: Step | None = None) -> Rule:
    """Return a rule that appends a whole workflow for each element of a result.

    Args:
        source: the node whose result is a collection.
        workflow: its nodes become `name[0].node`, `name[1].node`, ...; the first parameter of those that depend on nothing
            gets the element, unless they are called with something else for it. A node without a kind gets its name as its
            kind. It may map over values to come, as `@dag` writes it.
        name: of the workflow.
        reduce: its first parameter gets the list of what the ends of the workflow returned, element by element.

    Raises:
        InvalidPatchError: the workflow has rules of its own, or nodes that no patch may have.
        UnboundParameterError: a parameter of a node names nothing that the node depends on or reads.
    """
    if not isinstance(workflow, DAG):
        raise InvalidPatchError(
            f"The workflow {name!r} is a graph, not {workflow!r}. A @dag function makes one with build(...)."
        )
    outline = workflow.outline or Outline(workflow.structure, workflow.specs, frozenset())
    structure = outline.structure
    if workflow.rules and workflow.outline is None:
        raise InvalidPatchError(
            f"The workflow {name!r} has rules, which speak of its nodes by the names that these have there. Give the rules to "
            f"the run."
        )
    inner = [_Inner(outline, at) for at in range(len(structure.names))]
    seen = [at for at, each in enumerate(inner) if not each.node.debug]
    ends = [structure.names[at] for at in seen if all(inner[after].node.debug for after in structure.successors[at])]
    into = None if reduce is None else _Gathering(reduce)
    for at in seen:
        if into is not None and structure.names[at] in ends:
            inner[at].is_asked_for()
    source = node_id(source)

    def body(view: View) -> Patch:
        nodes: list[Node] = []
        rules: list[Rule] = []
        last: list[str] = []
        for number, element in enumerate(view.items(source)):
            prefix = f"{name}[{number}]."
            made = {at: each.under(prefix, source, element) for at, each in enumerate(inner)}
            last += [prefix + end for end in ends]
            if not outline.maps:
                nodes += [made[at] for at in structure.order]
                continue
            began = split(
                Outline(structure.renamed(prefix.__add__), made, outline.maps, outline.unread),
                name=None,
                max_concurrency=None,
            )
            nodes += began.specs.values()
            rules += began.rules
        if into is not None and outline.maps:
            rules.append(_join(into, last, source))
        elif into is not None:
            nodes.append(into.gather(into.id, last, source))
        return Patch(nodes, rules)

    return _rule(f"{name} for each of {source}", source, body, [*inner, *([into] if into else [])])


def until(source: NodeRef, step: Step, stop: Callable[[Any], Any]) -> Rule:
    """Return a rule that repeats a step until a predicate of its value holds.

    Args:
        source: the node whose result the first round gets.
        step: its first parameter gets the value of the round before. The rounds are `step[0]`, `step[1]`, ...; a node with the
            plain name of the step then passes on the last value. `max_nodes` bounds a loop that has no end.
        stop: is asked for the value of each round, on your side.
    """
    check_plain(stop, "What ends a loop")
    template = _Template(step)

    def next_round(number: int, before: str) -> Rule:
        def body(view: View) -> Patch:
            if number and stop(view.result(before)):
                return Patch([Node(template.id, _same, inputs={"value": before}, kind=template.kind)])
            node = template.behind(f"{template.id}[{number}]", before)
            return Patch([node], [next_round(number + 1, node.id)])

        return _rule(f"repeat {template.id}", before, body, [template])

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
    check_plain(test, "What chooses")
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

    return _rule(f"choose after {source}", source, body, [*yes, *no])


def collect(kind: str, into: Step) -> Rule:
    """Return a rule that appends one node behind all of a kind, when no more of them can come and all have completed.

    Its first parameter gets the list of their results, in order of insertion. Its own kind must be another one.
    """
    template = _Gathering(into)
    if template.kind == kind:
        raise InvalidPatchError(
            f"{template.id!r} collects the nodes of kind {kind!r} and is one itself. Give it another kind."
        )
    return Rule(
        all_done(kind),
        lambda view: Patch([template.gather(template.id, view.nodes(kind))]),
        f"collect {kind}",
        adds=_kinds([template]),
    )


class _Done(msgspec.Struct, frozen=True):
    """Some nodes have completed; a rule need not be asked before they have ended."""

    waits: tuple[str, ...]

    def __call__(self, view: View) -> bool:
        return all(map(view.succeeded, self.waits))


# --- how they are made ----------------------------------------------------------------------------------------------------


def _rule(name: str, source: str, body: Callable[[View], Patch], steps: Iterable[_Template]) -> Rule:
    return Rule(done(source), body, name, adds=_kinds(steps))


def _kinds(steps: Iterable[_Template]) -> set[str]:
    return {kind for step in steps for kind in (step.kind, *(step.node.adds or ()))}


def _join(into: _Gathering, names: Sequence[str], source: str) -> Rule:
    """Return a rule that gathers the values of nodes which other rules append."""
    return Rule(
        lambda view: all(name in view for name in reversed(names)),
        lambda _: Patch([into.gather(into.id, names, source)]),
        f"join {into.id}",
        adds=_kinds([into]),
    )


def _several(steps: Step | Iterable[Step]) -> Iterable[Step]:
    return (steps,) if isinstance(steps, (Node, str)) or callable(steps) else steps


def _templates(steps: Iterable[Step]) -> list[_Template]:
    found = [_Template(step) for step in steps]
    if len({each.id for each in found}) < len(found):
        raise InvalidPatchError(
            f"Two steps have one name: {[each.id for each in found]}. Name them with Node(name, fn)."
        )
    return found


def _chain(steps: Iterable[Step]) -> list[_Template]:
    found = _templates(steps)
    if not found:
        raise InvalidPatchError("A map has no step. Say what is to be called for each element: map_over(source, step).")
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
        if not isinstance(step, Node) and not callable(step):
            raise InvalidPatchError(f"A step is a function, or a node such as Node('name', fn), and not {step!r}.")
        self.node = step if isinstance(step, Node) else Node(step)
        self.id = self.node.id
        self.kind: str = self.node.kind or self.id
        said = self.node.settings()
        self.settings = {name: said[name] for name in said if name not in ("fn", "depends_on", "inputs", "arguments")}
        self.settings["kind"] = self.kind
        self.after = self.node.depends_on
        self.inputs = dict(self.node.inputs or {})

    @cached_property
    def asked(self) -> Parameters:
        return NO_PARAMETERS if self.node.fn is None else parameters_of(self.node.fn)

    @cached_property
    def takes(self) -> bool:
        """Whether it is called with the element, or the value before, in the first place: nothing else was said to go there."""
        said, first = self.node.arguments, self.asked.positional[:1]
        if said is not None:
            return bool(first or self.asked.more) and not said.args and not set(first).intersection(said.kwargs or ())
        return first[0] not in self.inputs if first else self.asked.more

    @cached_property
    def others(self) -> Arguments:
        """What it is called with besides."""
        return outright(self.node, self.asked, leading=int(self.takes))

    def of(self, name: str, source: str, element: Any) -> Node:
        """Return the node for an element."""
        fn = self.node.fn
        if fn is not None and self.takes:
            fn = partial(fn, element)
        after = (source, *self.after)
        return Node(name, fn, after, inputs=self.inputs, arguments=self.node.arguments, **self.settings)

    def behind(self, name: str, before: str) -> Node:
        """Return the node that gets the value of another one."""
        fn = self.node.fn
        if not self.takes:
            after = (before, *self.after)
            return Node(name, fn, after, inputs=self.inputs, arguments=self.node.arguments, **self.settings)
        if self.node.arguments is not None or not self.asked.positional:
            return self.called(name, Ref(before))
        inputs = {self.asked.positional[0]: before} | self.inputs
        return Node(name, fn, self.after, inputs=inputs, **self.settings)

    def called(self, name: str, first: Any, after: Iterable[str] = ()) -> Node:
        """Return the node that is called with this in the first place."""
        others = self.others
        arguments = Arguments((first, *others.args), others.kwargs)
        return Node(name, self.node.fn, (*after, *self.after), arguments=arguments, **self.settings)


class _Gathering(_Template):
    """A step whose first parameter gets a list of values."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        if not self.takes:
            raise InvalidPatchError(
                f"{self.id!r} is to get a list of values, and its task has no first parameter that is free for it. Give it a "
                f"function such as `def {self.id}(values): ...`."
            )
        _ = self.others  # what it cannot be called with is said where it is written

    def gather(self, name: str, before: Sequence[str], source: str = "") -> Node:
        """Return the node that gets the values of others, or stands behind `source` where there are none."""
        if before:
            return self.called(name, Group(list, tuple(map(Ref, before))))
        return self.called(name, [], (source,) if source else ())


class _Inner(_Template):
    """A node of a workflow that is appended for each element, said outright in the names of the workflow."""

    def __init__(self, workflow: Outline, at: int) -> None:
        spec = workflow.node(at)
        super().__init__(spec)
        for setting in ("handler", "setup"):
            if getattr(spec, setting):
                raise InvalidPatchError(
                    f"Node {self.id!r} of the workflow is a {setting} node, and those are in a graph from its start. Add it to "
                    f"the graph itself, or remove its {setting}."
                )
        self.is_root = not workflow.structure.predecessors[at]
        self.arguments = None
        if spec.fn is not None:
            self.arguments = self.others if self.is_root else outright(spec, self.asked)
        self.rest = {name: self.settings[name] for name in self.settings if name not in ("when", "reads")}

    def is_asked_for(self) -> None:
        """Note that somebody takes its value whom the workflow does not know."""
        if self.node.fn is as_unread_list:
            self.node = self.node.changed(fn=as_list)

    def under(self, prefix: str, source: str, element: Any) -> Node:
        """Return the node of one element, which stands behind the source of the elements if it depends on nothing else."""
        node, fn = self.node, self.node.fn
        after = [source] if self.is_root else [prefix + one for one in self.after]
        if self.is_root and self.takes and fn is not None:
            fn = partial(fn, element)
        return Node(
            prefix + self.id,
            fn,
            after,
            arguments=None if self.arguments is None else self.arguments.renamed(prefix.__add__),
            when=None if node.when is None else renamed(node.when, prefix.__add__),
            reads=[prefix + one for one in node.reads],
            **self.rest,
        )


def _same(value: Any) -> Any:
    return value
