"""What waits for what: the rules of chain and graph, resolved to names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from dagrid.graph.structure import find_cycle
from dagrid.workflow.model import Step, Workflow


def dependencies(workflow: Workflow) -> dict[str, tuple[str, ...]]:
    """Return for each step, in the order of the file, the names of the steps that it waits for, each once.

    In a chain a step waits for what `depends` says and for the step before it (all steps of a parallel group before it), unless
    it says `depends: []`; in a graph for what `depends` says. Names of steps that are not there are left out.
    """
    by_name = names_of(workflow)
    found: dict[str, tuple[str, ...]] = {}
    for step, before in _links(workflow):
        said = [by_name[name] for name in step.depends or () if name in by_name]
        found[step.name] = tuple(dict.fromkeys(said + [one.name for one in before]))
    return found


def names_of(workflow: Workflow) -> dict[str, str]:
    """Return the name of each step by its name and by its id."""
    found = {step.id: step.name for step in workflow.steps if step.id}
    found.update((step.name, step.name) for step in workflow.steps)
    return found


def cycles(workflow: Workflow, most: int = 10) -> Iterator[tuple[list[str], str]]:
    """Yield (names along a cycle in the direction of its edges, the first again at the end; the step whose `depends` closes it).

    Each cycle is found without the edges that closed those before it, so that a reader can mend all at once.
    """
    waits = dependencies(workflow)
    names = list(waits)
    index = {name: number for number, name in enumerate(names)}
    predecessors = [[index[one] for one in waits[name]] for name in names]
    by_name = names_of(workflow)
    said = {step.name: {by_name.get(one) for one in step.depends or ()} for step in workflow.steps}
    for _ in range(most):
        cycle = find_cycle(predecessors)
        if not cycle:
            return
        edges = list(pairwise(cycle))
        before, after = next(((one, other) for one, other in edges if names[one] in said[names[other]]), edges[-1])
        predecessors[after] = [one for one in predecessors[after] if one != before]
        yield [names[one] for one in cycle], names[after]


def _links(workflow: Workflow) -> Iterator[tuple[Step, list[Step]]]:
    """Yield each step with those that the chain puts before it."""
    is_chain = workflow.type == "chain"
    before: list[Step] = []
    link: list[Step] = []
    group = -1
    for step in workflow.steps:
        if step.group < 0 or step.group != group:
            before, link = link, []
        group = step.group
        link.append(step)
        is_free = step.depends is not None and not step.depends
        yield step, before if is_chain and not is_free else []
