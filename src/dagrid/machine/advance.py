"""The hot path: what `decide` does, for the commonest cases and without making a record of anything. Pure, as that one is.

A worker that pulls completed a plain node and wants the next one (`advance`), or asks for its first one (`take`); a rule held,
and its patch matters to nobody but the nodes in it (`grow`); the last node has ended (`finish`). All use the moves that `decide`
uses, so that the journal is the same. Whatever is not that simple is left to `decide`, and then nothing has been done.
"""

from __future__ import annotations

from heapq import heappop, heappush

from dagrid.machine.applying import record
from dagrid.machine.asking import outdated, patched
from dagrid.machine.events import NODE_MASK, Fact, Kind, RuleEvaluated
from dagrid.machine.pick import has_room
from dagrid.machine.state import COMPLETED, NOTHING_READ, READY, RUNNING, State

IDLE = -1
SLOW = -2
RULES = -3


def advance(state: State, attempt: int, worker: int, started: float, ended: float) -> int:
    """A pulling worker completed an attempt: in the commonest case apply that and give the worker its next node.

    Returns:
        The node, already started, when there is one and nothing else to think about; IDLE when the completion is applied and the
        worker has to ask (`Asked`) what is next; RULES when it is applied and the rules in `state.asks` have to be asked before;
        SLOW when nothing has been done and `decide` must take the event (`Finished`).
    """
    queue = state.queues.get(worker)
    status = state.status
    if not state.fast or queue is None or attempt not in queue or attempt > NODE_MASK or status[attempt] != RUNNING:
        return SLOW
    status[attempt] = COMPLETED
    state.started[attempt] = started
    state.ended[attempt] = ended
    state.remaining -= 1
    state.journal.append(attempt)
    del queue[attempt]
    plan, waiting = state.plan, state.waiting
    for after in plan.successors[attempt]:
        waiting[after] = missing = waiting[after] - 1
        if not (missing or status[after]):
            status[after] = READY
            heappush(state.heap, plan.keys[after])
    if state.watchers and attempt in state.watchers and _ask_watchers(state, attempt):
        state.active -= 1
        return RULES
    following = _next_node(state, worker, queue, ended)
    if following < 0:
        state.active -= 1
    return following


def can_grow(state: State, answer: RuleEvaluated) -> bool:
    """Return whether a rule held and its patch can be taken as `grow` does: nobody else looked at what it changes."""
    growth = answer.growth
    if growth is None or answer.error or not state.fast or state.topics or state.pushed:
        return False
    if answer.rule not in state.rules or ((answer.reads or answer.looked) and outdated(state, answer)):
        return False
    for node in growth.nodes:
        if node.resources:
            return False
    return len(state.status) + len(growth.nodes) <= state.plan.settings.max_nodes


def grow(state: State, answer: RuleEvaluated) -> None:
    """Take the patch of a rule for which `can_grow` holds. What becomes ready is not given to anybody yet, see `take`."""
    assert answer.growth is not None
    state.asking -= 1
    record(state, patched(state, answer, answer.growth))


def settled(state: State) -> bool:
    """Return whether there is nothing to decide but who performs what is ready: no rule to ask, nothing to skip, no end."""
    return state.fast and state.remaining > 0 and not (state.dirty or state.doomed or state.passed)


def take(state: State, worker: int, at: float) -> int:
    """Give a pulling worker that asks its next node, if all is `settled`; IDLE when nothing was done (`Asked`)."""
    known = state.present.get(worker)
    if known is None or known.queue or known.place or not (settled(state) and has_room(state)):
        return IDLE
    following = _next_node(state, worker, known.queue, at)
    if following >= 0:
        state.active += 1
        state.idle.pop(worker, None)
        known.woken = False
    return following


def finish(state: State, at: float) -> bool:
    """End the run if the last node of a graph has ended that does not grow any more; return whether it has ended."""
    if state.remaining or state.rules or state.doomed or state.passed or not state.fast:
        return False
    record(state, Fact(Kind.RUN_ENDED, at))
    return True


def _next_node(state: State, worker: int, queue: dict[int, None], at: float) -> int:
    """Start the best ready node on a worker, unless a rule looks at such things; IDLE when there is none."""
    heap = state.heap
    if not heap:
        return IDLE
    following = heap[0] & NODE_MASK
    if state.status[following] != READY or following in state.numbers or (state.watchers and following in state.starts):
        return IDLE
    heappop(heap)
    state.status[following] = RUNNING
    state.started[following] = at
    state.where[following] = worker
    queue[following] = None
    state.journal.append(~following)
    return following


def _ask_watchers(state: State, node: int) -> bool:
    """Have the rules asked that waited for the end of a node; return whether there are any."""
    for number in state.watchers.pop(node):
        rule = state.rules.get(number)
        if rule is not None and not rule.asked and not rule.dirty and node in rule.reads:
            rule.asked, rule.reads = True, NOTHING_READ
            state.asking += 1
            state.asks.append(number)
    return bool(state.asks)
