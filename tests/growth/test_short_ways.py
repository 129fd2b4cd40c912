"""What is done on the hot path of a growing run has the same effects as what the machine decides at length."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid import DAG, Node, Patch, Rule, View, current
from dagrid.graph.grow import done

Turn = tuple[list[tuple[int, ...]], list[int], bool]


@st.composite
def turns(draw: st.DrawFn) -> list[Turn]:
    """Draw for each rule of a chain its nodes by their predecessors, for what the next rule waits, and whether there are two."""
    found: list[Turn] = []
    count = 1
    for _ in range(draw(st.integers(1, 5))):
        nodes = [
            tuple(draw(st.lists(st.integers(0, count - 1 + number), max_size=2, unique=True)))
            for number in range(draw(st.integers(0, 3)))
        ]
        count += len(nodes)
        found.append((nodes, draw(st.lists(st.integers(0, count - 1), max_size=2, unique=True)), draw(st.booleans())))
    return found


def total(**values: int) -> int:
    return 1 + sum(values.values())


def rule_of(turns: list[Turn], turn: int, first: int, waits: list[int]) -> Rule:
    """Return the rule of a turn, which appends its nodes and the next rule, and maybe one that nobody needs."""
    nodes, then, both = turns[turn]

    def body(view: View) -> Patch:
        added = [Node(f"n{first + at}", total, [f"n{one}" for one in before]) for at, before in enumerate(nodes)]
        rules = [rule_of(turns, turn + 1, first + len(nodes), then)] if turn + 1 < len(turns) else []
        if both:
            rules.append(Rule(lambda view: view.count() > 1_000, body, f"more {turn}", optional=True, adds=set()))
        return Patch(added, rules)

    return Rule(done(*[f"n{one}" for one in waits]), body, f"turn {turn}", adds=set())


@given(turns=turns(), backend=st.sampled_from(["inline", "thread?max_workers=1"]))
@settings(max_examples=40)
def test_a_graph_grows_the_same_by_the_short_way(turns: list[Turn], backend: str) -> None:
    """Where each patch is decided at length, what happens, in which order, and what comes out are the same."""

    def ran() -> Any:
        run = DAG([Node("n0", total)]).start(rules=[rule_of(turns, 0, 1, [0])], backend=backend, progress=False)
        result = run.wait()
        assert result.ok, result
        told = [(event.kind, event.node) for event in run.events(follow=False)]
        return told, {name: result[name] for name in result}, result.unapplied_rules

    short = ran()
    with patch("dagrid.execution.engine.can_grow", return_value=False):
        assert ran() == short


class Held:
    """Something that a rule holds."""

    def body(self, view: View) -> Patch:
        return Patch([Node("second", lambda: 2)])


def test_a_rule_that_was_applied_is_let_go_of() -> None:
    """A graph that grows by a rule for each node must not keep all of them until the end; who never applied is still named."""
    alive: list[Any] = []

    def rule() -> Rule:
        held = Held()
        alive.append(weakref.ref(held))
        return Rule(done("first"), held.body, "applied")

    def look(second: int) -> bool:
        gc.collect()
        return alive[0]() is None

    start = Rule(done("first"), lambda view: Patch(rules=[rule()]), "start")
    never = Rule(done("nobody"), lambda view: Patch(), "never")
    watch = Rule(done("second"), lambda view: Patch([Node("gone", look, ["second"])]), "watch")
    result = DAG([Node("first", int)]).run(rules=[start, watch, never], backend="inline", progress=False)
    assert result["gone"]
    assert result.unapplied_rules == ["never"]
    assert "applied" in result.to_html()


@pytest.mark.parametrize("by_task", [True, False])
def test_what_a_graph_has_grown_by_is_let_go_of(by_task: bool) -> None:
    """A run that grows for days keeps what it has to know of its nodes, and not all that was said of them."""
    alive: list[Any] = []

    def second() -> Node:
        held = Held()
        alive.append(weakref.ref(held))
        return Node("second", int, payload=held)

    def first() -> None:
        if by_task:
            current().grow(second())

    def look(second: int) -> bool:
        gc.collect()
        return alive[0]() is None

    grow = Rule(done("first"), lambda view: Patch([] if by_task else [second()]), "grow")
    watch = Rule(done("second"), lambda view: Patch([Node("gone", look, ["second"])]), "watch")
    result = DAG([Node("first", first)]).run(rules=[grow, watch], backend="inline", progress=False)
    assert result.raise_for_status()["gone"]


def test_tasks_that_bring_rules_at_the_same_time_do_not_share_their_numbers() -> None:
    """Rules are numbered where tasks end, which many threads do at once; each of them has to be applied."""

    def bring(number: int) -> None:
        current().grow(rules=[Rule(done(f"n{number}"), lambda view: Patch([Node(f"m{number}", int)]), adds=set())])

    nodes = [Node(f"n{number}", lambda number=number: bring(number), adds=set()) for number in range(40)]
    result = DAG(nodes).run(backend="thread?max_workers=8", progress=False)
    assert result.raise_for_status().succeeded == 80
    assert len(result) == 80
