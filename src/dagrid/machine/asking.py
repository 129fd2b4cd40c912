"""Rules and what they look at: which are asked again after what happened, and what follows from an answer. Pure.

A rule is asked when something that it looked at has changed, and never twice at once. Who evaluates it is not known here.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from dagrid.errors import PlanError, RunError
from dagrid.machine.applying import record
from dagrid.machine.closing import fail_run
from dagrid.machine.commands import Command, Evaluate
from dagrid.machine.events import NODE_MASK, Fact, Growth, Kind, RuleEvaluated
from dagrid.machine.state import COMPLETED, NOTHING_READ, State


def rule_evaluated(state: State, event: RuleEvaluated, commands: list[Command]) -> None:
    rule = state.rules.get(event.rule)
    if rule is None or state.stopped or state.outcome is not None:
        return
    rule.asked = False
    state.asking -= 1
    rule.dirty = outdated(state, event)
    if event.error:
        fail_run(state, event.at, event.error, commands)
    elif rule.dirty:
        state.dirty.append(event.rule)
    elif event.growth is not None:
        _apply_rule(state, event, event.growth, commands)
    else:
        rule.reads = event.reads
        for node, seen in event.reads.items():
            state.watchers.setdefault(node, set()).add(event.rule)
            if seen >= 0:
                state.starts.add(node)
        for topic in event.looked:
            state.topics.setdefault(topic, set()).add(event.rule)


def outdated(state: State, event: RuleEvaluated) -> bool:
    """Whether a rule would see something else if it looked again."""
    for node, seen in event.reads.items():
        if _differs(seen, state.status[node]):
            return True
    for topic, seen in event.looked.items():  # noqa: SIM110  # a generator costs more than all else here
        if _standing(state, topic, event.rule) != seen:
            return True
    return False


def _differs(seen: int, now: int) -> bool:
    """Whether a node is not as a rule saw it; a negative number means that it saw that it had not ended."""
    return now >= COMPLETED if seen < 0 else now != seen


def _standing(state: State, topic: tuple[str, str], rule: int) -> int:
    """Return what a rule would see now if it looked again."""
    what, name = topic
    if what == "name":
        return name in state.plan.index
    if what == "kind":
        return len(state.plan.kinds.get(name, ()))
    return state.closed(name, rule) if what == "closed" else len(state.plan)


def _apply_rule(state: State, event: RuleEvaluated, growth: Growth, commands: list[Command]) -> None:
    try:
        state.plan.check_growth(growth.nodes)
    except (PlanError, RunError) as error:
        fail_run(state, event.at, str(error), commands)
        return
    before = state.rules[event.rule]
    grown(state, patched(state, event, growth))
    if state.topics:
        _touch_closed(state, before.adds, growth.relies)


def patched(state: State, event: RuleEvaluated, growth: Growth) -> Fact:
    """Return the fact that a rule was applied."""
    return Fact(Kind.PATCHED, event.at, cause=event.rule, numbers=numbers_of(state, growth), growth=growth)


def numbers_of(state: State, growth: Growth) -> tuple[int, ...]:
    first = len(state.status)
    if len(growth.nodes) == 1:
        return (first,)
    return tuple(range(first, first + len(growth.nodes)))


def grown(state: State, fact: Fact) -> None:
    """Record a patch that fits, and mark the rules that looked at what it changes."""
    growth = fact.growth
    assert growth is not None
    record(state, fact)
    if not state.topics or not growth.nodes:
        return
    touched: set[tuple[str, str]] = {("all", "")}
    for node in growth.nodes:
        touched.add(("name", node.id))
        if node.kind is not None:
            touched.add(("kind", node.kind))
    for topic in touched & state.topics.keys():
        for number in state.topics.pop(topic):
            _mark(state, number)


def _touch_closed(state: State, adds: Collection[str] | None, relies: AbstractSet[str] = frozenset()) -> None:
    """One who might add nodes of some kinds (None: any) is gone: mark the rules that look whether a kind is closed, and it is."""
    undeclared = state.adders.get(None, 0)
    if undeclared > 1:
        return
    left = {name for what, name in state.topics if what == "closed"} if adds is None else set(adds)
    for kind in left | relies:
        if kind not in state.sealed and state.adders.get(kind, 0) + undeclared > 1:
            continue
        for number in state.topics.get(("closed", kind), ()):
            if state.closed(kind, number):
                _mark(state, number)


def _mark(state: State, number: int) -> None:
    rule = state.rules.get(number)
    if (
        rule is not None and not rule.dirty and not rule.asked
    ):  # an answer is compared with how things stand when it comes
        rule.dirty = True
        state.dirty.append(number)


def ask_rules(state: State, commands: list[Command]) -> None:
    """Ask each rule again whose last answer depended on something that has changed since."""
    if state.stopped or state.outcome is not None:
        return
    if state.watchers or state.topics:
        _mark_watchers(state)
    state.scanned = len(state.journal)
    for number in state.dirty:
        rule = state.rules.get(number)
        if rule is not None and not rule.asked:
            rule.dirty, rule.asked, rule.reads = False, True, NOTHING_READ
            state.asking += 1
            commands.append(Evaluate(number))
    state.dirty.clear()


def _mark_watchers(state: State) -> None:
    """Mark the rules that looked at a node of which the journal has something new."""
    watchers = state.watchers
    for entry in state.journal[state.scanned :]:
        if isinstance(entry, int):
            node = ~entry if entry < 0 else entry & NODE_MASK
        else:
            node = entry.node
        if node not in watchers and node not in state.plan.adds:
            continue
        now = state.status[node]
        for number in watchers.get(node, ()):
            rule = state.rules.get(number)
            if rule is not None and node in rule.reads and _differs(rule.reads[node], now):
                _mark(state, number)
        if now >= COMPLETED:
            watchers.pop(node, None)
            state.starts.discard(node)
            if node in state.plan.adds and state.topics:
                _touch_closed(state, state.plan.adds[node])
