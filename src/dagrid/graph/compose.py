"""A piece of a graph as a function of `@dag`: cut out between inputs and outputs, and described anew at each call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dagrid.errors import GraphError
from dagrid.graph.arguments import Ref, fill
from dagrid.graph.authoring import Flow
from dagrid.graph.dag import DAG
from dagrid.graph.late import Outline, as_list, as_unread_list
from dagrid.graph.node import Node, NodeRef, is_one
from dagrid.graph.parameters import outright, parameters_of
from dagrid.graph.parts import Meanings, reach
from dagrid.graph.recording import Handle, Recording, recording


def compose(
    dag: DAG, name: str | None, inputs: Sequence[NodeRef], outputs: NodeRef | Sequence[NodeRef]
) -> Flow[..., Any]:
    """Return a piece of a graph as a function; see `DAG.compose`."""
    outline = dag.outline or Outline(dag.structure, dag.specs, frozenset())
    structure = outline.structure
    single = is_one(outputs)
    begin = _numbers(outline, inputs, "inputs", dag.name)
    end = _numbers(outline, outputs, "outputs", dag.name)
    needed = reach(structure.predecessors, end, begin)
    _check(outline, begin, end, needed)
    order = [at for at in structure.order if at in needed and at not in begin]
    called = name or dag.name or "composed"
    return Flow(_Piece(called, outline, begin, end, order, single), called, {})


class _Piece(msgspec.Struct, eq=False, dict=True):
    """The function that describes a piece of a graph. A record, so that it travels with the functions that call it.

    Args:
        name: of the piece.
        outline: the graph that it is cut out of.
        begin, end: the nodes whose values come in and go out.
        order: those that are described.
        single: it returns the one value that goes out, and no list.
    """

    name: str
    outline: Outline
    begin: Sequence[int]
    end: Sequence[int]
    order: Sequence[int]
    single: bool

    def __post_init__(self) -> None:
        names = self.outline.structure.names
        self.__name__ = self.__qualname__ = self.name
        self.__signature__ = inspect.Signature(_parameters([names[at] for at in self.begin]))

    def __repr__(self) -> str:
        return f"<piece {self.name!r}>"  # not all of the graph

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        bound = self.__signature__.bind(*args, **kwargs)
        current = recording.get()
        assert current is not None
        names, maps = self.outline.structure.names, self.outline.maps
        values: dict[str, Any] = {names[at]: one for at, one in zip(self.begin, bound.arguments.values(), strict=True)}
        for at in self.order:
            values[names[at]] = _again(current, self.outline.node(at), at in maps, values)
        found = [values[names[at]] for at in self.end]
        return found[0] if self.single else found


def _numbers(outline: Outline, asked: NodeRef | Sequence[NodeRef], setting: str, graph: str | None) -> list[int]:
    found: list[int] = []
    every: Any = [asked] if is_one(asked) else asked
    meanings = Meanings(outline.structure, outline.specs, setting, graph, outline.maps)
    for one in every:
        meant = meanings.nodes(one)
        if len(meant) > 1:
            names = ", ".join(repr(outline.structure.names[at]) for at in meant[:5])
            raise GraphError(
                f"{setting} asks for {one!r}, of which there are {len(meant)} nodes: {names}. Say which one."
            )
        if meant[0] in found:
            raise GraphError(f"{setting} has {outline.structure.names[meant[0]]!r} twice. Say it once.")
        found += meant
    return found


def _check(outline: Outline, begin: list[int], end: list[int], needed: set[int]) -> None:
    names, structure = outline.structure.names, outline.structure
    for at in end:
        if at in begin:
            raise GraphError(
                f"{names[at]!r} is an input and an output. An output is made of the inputs: take one behind it."
            )
    for at in begin:
        if at not in needed:
            raise GraphError(f"No output needs the input {names[at]!r}. Leave it out, or take an output behind it.")
    behind = reach(structure.successors, begin) if begin else needed
    for at in end:
        if at not in behind:
            raise GraphError(
                f"The output {names[at]!r} depends on none of the inputs. Take an input before it, or leave it out."
            )


def _parameters(names: Sequence[str]) -> list[inspect.Parameter]:
    """Return a parameter for each input, called like it as far as that can be."""
    found: list[inspect.Parameter] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        called = "".join(one if one.isalnum() else "_" for one in name).strip("_")
        if not called.isidentifier() or called in taken:
            called = f"input_{number}"
        taken.add(called)
        found.append(inspect.Parameter(called, inspect.Parameter.POSITIONAL_OR_KEYWORD))
    return found


def _again(current: Recording, node: Node, is_map: bool, values: Mapping[str, Any]) -> Any:
    """Describe a node once more, with the handles and values that stand in place of what it needed.

    A debug node is asked for here, since an output needs it, so it runs as any other.
    """
    if node.reads:
        raise GraphError(
            f"Node {node.id!r} reads nodes that may not be in the piece. Remove its reads, or run the graph as it is."
        )
    args, kwargs = _arguments(node, values)
    waits = [
        one.__ref__.node for name in node.depends_on if name not in node.taken() and type(one := values[name]) is Handle
    ]
    when = None if node.when is None else _condition(current, fill(node.when, values))
    fn = as_list if node.fn is as_unread_list else node.fn
    pattern = node.changed(fn=fn, depends_on=waits, inputs=None, arguments=None, when=when, debug=False)
    if is_map:
        return current.map(pattern, args[0], args[1:], kwargs, None)
    return current.add(pattern, args, kwargs)


def _condition(current: Recording, value: Any) -> Ref:
    if type(value) is Handle:
        current.holds(value)
        return value.__ref__
    return current.add(Node("condition", _same), (value,)).__ref__


def _same(value: Any) -> Any:
    return value


def _arguments(node: Node, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return what a node is called with, with these in the places of what it needed."""
    if node.fn is None:
        return [], {}
    said = outright(node, parameters_of(node.fn))
    return [fill(one, values) for one in said.args], {
        name: fill(one, values) for name, one in (said.kwargs or {}).items()
    }
