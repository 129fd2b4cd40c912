"""What the page tells of a run, read once from its facts: nodes, attempts, growth. It knows neither HTML nor a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from dagrid.execution.tracing import ExecutionTrace, Span, TraceSummary
from dagrid.graph.structure import Structure
from dagrid.machine.events import Kind
from dagrid.machine.state import RUNNING, State

if TYPE_CHECKING:
    from dagrid.execution.results import NodeResult

_STEM = re.compile(r"[^\d\[\](){}<>=:/#]*")


@dataclass(frozen=True, slots=True)
class Step:
    """The graph after a patch, or at the start.

    Args:
        at: seconds since the run began.
        nodes: how many nodes there were then.
        rule: the name of the rule that appended them; empty at the start.
    """

    at: float
    nodes: int
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """A run, as the page needs it; lists are by node number.

    Args:
        title: the heading.
        status: how the run ended, as a word.
        seconds: from the start of the run to its end.
        structure: the graph with all that was appended.
        nodes: what became of each node, without its value.
        kinds: the kind of a node, or the part of its name before the first number.
        birth: the number of the step with which a node came.
        tries: for a node that was tried again, how its earlier tries ended.
        spans: every attempt with its times.
        workers: the name of each worker, and how many attempts it performs at once, by number.
        steps: the growth of the graph; one entry for a graph that did not grow.
        tracebacks: where a node failed, for an error that was raised again since and shows more by now.
        critical: the numbers of the nodes on the critical path, first to last.
        summary: the figures of the trace.
        troubles: why the run as a whole failed, in words.
    """

    title: str
    status: str
    seconds: float
    structure: Structure
    nodes: Sequence[NodeResult]
    kinds: Sequence[str]
    birth: Sequence[int]
    tries: dict[int, list[str]]
    spans: Sequence[Span]
    workers: dict[int, tuple[str, int]]
    steps: Sequence[Step]
    tracebacks: Mapping[int, TracebackType | None]
    critical: Sequence[int]
    summary: TraceSummary
    troubles: Sequence[str]


def read(
    title: str,
    status: str,
    state: State,
    began: float,
    seconds: float,
    told: Callable[[int], NodeResult],
    rules: Sequence[str],
    tracebacks: Mapping[int, TracebackType | None],
    troubles: Sequence[str],
) -> Story:
    """Read a run.

    Args:
        title: the heading.
        status: how the run ended, as a word.
        state: the run.
        began: when it began, in seconds of its clock.
        seconds: how long it took.
        told: gives the result of a node by its number.
        rules: the names of the rules, by number.
        tracebacks: those of errors that were raised again since, by node number.
        troubles: why the run as a whole failed, in words.
    """
    plan = state.plan
    count = len(state.status)
    steps, birth = _growth(state, began, count, rules)
    trace = ExecutionTrace(state, began, seconds)
    summary = trace.summary()
    nodes = [told(number) for number in range(count)]
    names = list(plan.names[:count])
    structure = Structure.of_predecessors(
        names, {name: number for number, name in enumerate(names)}, [list(plan.predecessors[n]) for n in range(count)]
    )
    return Story(
        title,
        status,
        seconds,
        structure,
        nodes,
        _kinds(state, names),
        birth,
        {
            node: [f"try {fact.number + 1}: {fact.detail or 'lost with its worker'}" for fact in facts]
            for node, facts in state.attempts_before.items()
        },
        [*trace, *_still_open(state, began, seconds, count)],
        {number: (worker.name, worker.slots) for number, worker in state.workers.items()},
        steps,
        tracebacks,
        [plan.index[name] for name in summary.critical_path],
        summary,
        troubles,
    )


def _growth(state: State, began: float, count: int, rules: Sequence[str]) -> tuple[list[Step], list[int]]:
    patches = [fact for fact in state.facts() if fact.kind is Kind.PATCHED]
    appended = sum(len(fact.numbers) for fact in patches)
    steps = [Step(0.0, count - appended)]
    birth = [0] * count
    for fact in patches:
        for node in fact.numbers:
            birth[node] = len(steps)
        rule = rules[fact.cause] if 0 <= fact.cause < len(rules) else ""
        steps.append(Step(max(fact.at - began, 0.0), steps[-1].nodes + len(fact.numbers), rule))
    return steps, birth


def _kinds(state: State, names: Sequence[str]) -> list[str]:
    kinds = [stem(name) for name in names]
    for kind, numbers in state.plan.kinds.items():
        for number in numbers:
            kinds[number] = kind
    return kinds


def stem(name: str) -> str:
    """Return the part of a name that many nodes share: what stands before the first number or bracket."""
    match = _STEM.match(name)
    return match[0].rstrip("_-. ,;") if match else ""


def _still_open(state: State, began: float, seconds: float, count: int) -> list[Span]:
    """Return the attempts that had not ended with the run, as when its backend broke."""
    names = state.plan.names
    return [
        Span(names[node], state.number_of(node), state.where[node], state.started[node] - began, seconds, "running")
        for node in range(count)
        if state.status[node] == RUNNING and state.where[node] >= 0
    ]
