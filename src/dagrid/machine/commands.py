"""All that the machine can ask of the engine; plain records, performed elsewhere."""

from __future__ import annotations

import msgspec


class Wake(msgspec.Struct, frozen=True):
    """There is work for a worker that asks for it itself."""

    worker: int


class Perform(msgspec.Struct, frozen=True):
    """Send these attempts to a worker, in this order."""

    worker: int
    attempts: list[int]


class Recall(msgspec.Struct, frozen=True):
    """Ask a worker to give back those of these attempts that it has not started."""

    worker: int
    attempts: list[int]


class Cancel(msgspec.Struct, frozen=True):
    """Stop an attempt, by force where the place can, and free its slot."""

    worker: int
    attempt: int


class SetTimer(msgspec.Struct, frozen=True):
    """Report `TimerDue(kind, subject)` at a time."""

    at: float
    kind: int
    subject: int


class Evaluate(msgspec.Struct, frozen=True):
    """Ask a rule's predicate and, if it holds, its body; answer with `RuleEvaluated`."""

    rule: int


class Finish(msgspec.Struct, frozen=True):
    """Every node has ended: the run is over."""


Command = Wake | Perform | Recall | Cancel | SetTimer | Evaluate | Finish
