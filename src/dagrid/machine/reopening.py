"""A run that has ended is taken up again: what did not complete, what is to run anew and the handlers run again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dagrid.errors import InvalidSettingError
from dagrid.machine.applying import MOVES
from dagrid.machine.closing import Verdict
from dagrid.machine.events import UNSTARTED, Fact, Kind
from dagrid.machine.state import COMPLETED, PENDING, READY, WAITING, State, dooms, make_ready, refresh, satisfies


def to_reopen(state: State, roots: Iterable[int], spared: Collection[int]) -> list[int]:
    """Return the nodes that run again: of those that have ended what did not complete, the roots and all behind them, handlers.

    What waits for a signal goes on to wait, unless it is one of the roots or behind one: what it asked is of before. Handlers
    that a success has had stay, where it has not ended, and nothing runs again by which it could become something else.

    Args:
        state: of a run, ended or not.
        roots: what is to run anew although it completed.
        spared: what does not run in any case: it has a value from before, or is no part of the run.

    Raises:
        InvalidSettingError: the graph has grown by what one of them left, and what was appended stays in it.
    """
    anew = set(roots)
    stack = list(anew)
    while stack:
        for after in state.plan.successors[stack.pop()]:
            if after not in anew:
                anew.add(after)
                stack.append(after)
    for node in sorted(anew & state.grew):
        if state.status[node] == COMPLETED and node not in spared:
            raise InvalidSettingError(
                f"Node {state.plan.names[node]!r} cannot run anew in this run: nodes were appended because of what it left, and "
                f"they stay as they are. Run the graph again: dag.run(from_run=result, roots=[...])."
            )
    handlers = state.plan.handlers
    unsuccessful = [
        node
        for node, status in enumerate(state.status)
        if node not in spared
        and ((node in state.held and node in anew) or (status >= COMPLETED and (status != COMPLETED or node in anew)))
    ]
    if _is_succeeding(state) and handlers.keys() >= set(unsuccessful):
        return unsuccessful
    completed = (node for node in handlers if state.status[node] == COMPLETED and node not in spared)
    return sorted({*unsuccessful, *completed})


def _is_succeeding(state: State) -> bool:
    """Whether nothing is missing but handlers until a run has ended well."""
    return not state.finished and state.outcome is not None and state.outcome.verdict == Verdict.SUCCEEDED


def _reopened(state: State, fact: Fact) -> None:
    """Nodes are as if they had not run, but for the numbers of their tries; the run is as if it had not ended."""
    nodes = set(fact.numbers)
    state.settle_records(nodes)
    state.remaining += sum(state.status[node] >= COMPLETED for node in nodes)
    touched = nodes | {*state.passed, *(node for node, _ in state.doomed)}
    for node in fact.numbers:
        _forget(state, node)
        touched.update(state.plan.successors[node])
    for handler in state.plan.handlers:
        if state.status[handler] < COMPLETED:
            state.held.pop(handler, None)  # nobody is asked any more
            state.shut.add(handler)
            touched.add(handler)
    state.outcome, state.unapplied = None, ()
    state.cancelled = state.error = state.expired = ""
    state.stopped = state.finished = False
    state.reopened_at = fact.at
    state.doomed.clear()
    state.passed.clear()
    refresh(state)
    for node in sorted(touched):
        _wait_again(state, node)


def _forget(state: State, node: int) -> None:
    """Take back how a node ended, or that it waits for a signal."""
    number = state.number_of(node)
    if node in state.held:
        del state.held[node]
    elif state.status[node] == COMPLETED:
        state.remade.add(node)  # what it appended is there
        state.rounds[node] = state.rounds.get(node, 0) + 1
    elif node not in state.remade and state.plan.adds.get(node):
        state.may_add(state.plan.adds[node], 1)
    if state.started[node] != UNSTARTED:
        detail = state.detail.get(node) or "it runs again"
        state.attempts_before.setdefault(node, []).append(
            Fact(Kind.REOPENED, state.ended[node], node, number, state.where[node], state.started[node], detail=detail)
        )
        state.numbers[node] = number + 1
    # No move of the table: this alone brings a node back.
    state.status[node] = PENDING
    state.started[node], state.ended[node], state.where[node] = UNSTARTED, 0.0, -1
    for known in (state.cause, state.detail, state.failures, state.losses, state.repeats, state.performers):
        known.pop(node, None)
    state.tolerated.discard(node)


def _wait_again(state: State, node: int) -> None:
    """Count anew what a node waits for that has not ended."""
    status = state.status[node]
    if status not in (PENDING, READY, WAITING) or node in state.held:
        return
    state.status[node] = PENDING
    state.due.pop(node, None)
    missing = sum(not satisfies(state, before, node) for before in state.plan.predecessors[node])
    cause = next((before for before in state.plan.predecessors[node] if dooms(state, before, node)), None)
    if cause is not None:  # it ended in this very step, when the workers of an earlier process were found to be gone
        state.doomed.append((node, cause))
    state.waiting[node] = 1 if node in state.shut else missing
    if not state.waiting[node]:
        make_ready(state, node)


MOVES[Kind.REOPENED] = _reopened
