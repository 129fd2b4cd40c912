"""How a run ends, well or badly. Pure.

It reads the state; who records what here is found is `decide`.
"""

from __future__ import annotations

from enum import IntEnum

from dagrid.machine.state import CANCELLED, COMPLETED, FAILURES, State, goes_on


class Verdict(IntEnum):
    """How a run ended."""

    SUCCEEDED = 0
    PARTIALLY_SUCCEEDED = 1
    FAILED = 2
    ABORTED = 3


def failed_nodes(state: State) -> list[int]:
    """Return the nodes that failed, but for those whose failure does not count."""
    if not any(map(state.status.count, FAILURES)):
        return []
    forgiven = {node for node, after in state.plan.goes_on.items() if "success" in after}
    return [node for node, status in enumerate(state.status) if status in FAILURES and node not in forgiven]


def verdict(state: State) -> Verdict:
    """Return how a run ended whose nodes have all ended."""
    if state.cancelled:
        return Verdict.ABORTED
    if state.error:
        return Verdict.FAILED
    failed = failed_nodes(state)
    if state.unapplied or state.count(CANCELLED) or not all(goes_on(state, node) for node in failed):
        some = state.plan.settings.on_failure == "continue" and state.count(COMPLETED)
        return Verdict.PARTIALLY_SUCCEEDED if some else Verdict.FAILED
    return Verdict.PARTIALLY_SUCCEEDED if failed else Verdict.SUCCEEDED
