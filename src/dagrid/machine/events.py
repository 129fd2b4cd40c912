"""All that can happen to a run, and all that is recorded of it; it knows no clock and no place.

A stimulus comes in from a backend, a timer or a person and carries the time at which it happened. A `Fact` is what the machine
made of it: the journal holds facts, and applying them again gives the same state without deciding anything twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Any

import msgspec

NUMBER_SHIFT = 32
NODE_MASK = (1 << NUMBER_SHIFT) - 1
UNSTARTED = -1.0


def attempt_id(node: int, number: int) -> int:
    """Return the identity of try `number` (from 0) of a node: one integer, equal to the node for a first try."""
    return number << NUMBER_SHIFT | node


class Outcome(IntEnum):
    """How an attempt ended."""

    COMPLETED = 0
    FAILED = 1
    CANCELLED = 2
    LOST = 3
    SKIPPED = 4
    REPEATED = 5
    HELD = 6


class Begun(msgspec.Struct, frozen=True):
    """The run begins, or goes on in another process.

    `given` nodes have a value already and `omitted` ones are not part of the run, each with the reason; of `lost` ones the value
    is gone, and they have to run again.
    """

    at: float
    given: Mapping[int, str] = {}
    omitted: Mapping[int, str] = {}
    lost: Sequence[int] = ()


class Reopened(msgspec.Struct, frozen=True):
    """Somebody takes the run up again, as far as it has ended: these nodes, see `reopening.to_reopen`, run once more."""

    at: float
    nodes: Sequence[int]


NumberedRule = tuple[int, bool, Collection[str] | None, tuple[str, ...]]
"""A rule: its number, whether it is optional, the kinds that it may add (None: any), and the names of nodes without whose end
there is no use in asking it."""


class Growth(msgspec.Struct):
    """What a patch appends, checked before: nodes, opaque here but for their settings, and rules.

    `relies` are the kinds that its rule found closed, `taken` the nodes whose values it was made of, `packed` is all of it as a
    record keeps it, where there is one.
    """

    nodes: Sequence[Any] = ()
    rules: Sequence[NumberedRule] = ()
    relies: AbstractSet[str] = frozenset()
    taken: Sequence[int] = ()
    packed: bytes = b""

    def forget(self) -> None:
        """Let go of what the graph has grown by, where nobody keeps a record: it would stay in the journal until the end."""
        self.nodes = self.rules = ()


class WorkerJoined(msgspec.Struct, frozen=True):
    """A place that can perform attempts announces itself.

    `slots` is how many attempts it performs at once, `window` how many may be with it, the waiting ones included. A worker that
    `pulls` is woken and asks for its work itself; others are sent bundles. A worker with a `place` gets the nodes that ask for
    this place, and no others. One that `delegates` stands for an engine which finds by itself a worker with the labels and the
    resources that a node asks for: it gets the nodes that ask for such, and no others. One without slots is given nothing; it is
    only named, see `Finished.by`, or is `unfit` for what the run sends, which says why. `ahead` is how many seconds of work may
    wait for it, where a word to it takes long; 0 is what the settings say (`batch`). One that `survives` goes on with what it
    has when the process of the run ends.
    """

    worker: int
    name: str
    at: float
    slots: int = 1
    window: int = 1
    pulls: bool = False
    labels: Mapping[str, str] = {}
    place: str = ""
    delegates: bool = False
    ahead: float = 0.0
    unfit: str = ""
    survives: bool = False


class WorkerGone(msgspec.Struct, frozen=True):
    """A worker vanished: what it had started is lost, what it had not goes back.

    What is `excused` goes back in any case, and its losses are counted from the beginning: a person has asked for it once more.
    """

    worker: int
    at: float
    reason: str = "the worker ended"
    excused: bool = False


class Started(msgspec.Struct, gc=False):
    """A worker began to perform an attempt."""

    worker: int
    attempt: int
    at: float


class Finished(msgspec.Struct):
    """The one terminal report of an attempt; `value` is opaque here, `draw` is in [0, 1) for the jitter of a retry.

    `extra` is what else the task left (`dagrid.attempt.Extra`), opaque here; what of it the graph grows by is in `growth`, and
    what is to be remembered of the attempt in `note`. `by` is the worker that performed it, if that is not the one that was given
    it; a negative number means that it is. A failure that is `tolerated` keeps nobody from running.
    """

    worker: int
    attempt: int
    outcome: int
    started: float
    ended: float
    value: Any = None
    error: str = ""
    retryable: bool = True
    draw: float = 0.0
    extra: Any = None
    growth: Growth | None = None
    note: str = ""
    by: int = -1
    tolerated: bool = False


class Asked(msgspec.Struct, frozen=True):
    """A worker that pulls has nothing to do; a `Perform` for it is the answer."""

    worker: int
    at: float


class Recalled(msgspec.Struct, frozen=True):
    """A worker gave back attempts that it had not started."""

    worker: int
    attempts: Sequence[int]
    at: float


class Room(msgspec.Struct, frozen=True):
    """At most so many attempts may be with a worker until the next word of it, for other runs have it too. It is no fact."""

    worker: int
    slots: int
    at: float


class TimerKind(IntEnum):
    """What a timer was set for."""

    TIMEOUT = 0
    RETRY = 1
    REBALANCE = 2
    RUN = 3


class TimerDue(msgspec.Struct, frozen=True):
    """A timer that the machine asked for is due."""

    kind: int
    subject: int
    at: float


class CancelRequested(msgspec.Struct, frozen=True):
    """A person, or the end of the program, wants the run to stop."""

    at: float
    reason: str = "cancelled"


class Signalled(msgspec.Struct, frozen=True):
    """Somebody gave the value for which a node waits; `attempt` is that with which it began to wait, `value` opaque here."""

    at: float
    attempt: int
    value: Any = None


class Rejected(msgspec.Struct, frozen=True):
    """Somebody refused what a node waits for; `error` is opaque here."""

    at: float
    attempt: int
    reason: str
    error: Any = None


class Again(msgspec.Struct, frozen=True):
    """A node is to be performed again that waits for a signal; `attempt` is that with which it began to wait."""

    at: float
    attempt: int


class RuleEvaluated(msgspec.Struct, frozen=True):
    """The answer to `Evaluate`.

    `reads` holds the status of each node that the predicate looked at; if it held, `growth` is the patch. `looked` holds what
    else was looked at: ("name", n) for a name that was not there, ("kind", k) and ("all", "") with how many nodes there were,
    ("closed", k) for a kind that was not closed. `error` says why the rule failed.
    """

    rule: int
    at: float
    growth: Growth | None = None
    reads: Mapping[int, int] = {}
    error: str = ""
    looked: Mapping[tuple[str, str], int] = {}


Stimulus = (
    Begun
    | Reopened
    | WorkerJoined
    | WorkerGone
    | Asked
    | Started
    | Finished
    | Recalled
    | Room
    | TimerDue
    | CancelRequested
    | Signalled
    | Rejected
    | Again
    | RuleEvaluated
)


class Kind(IntEnum):
    """What a fact says. The first three stand in the journal as bare integers, see `State.journal`.

    REUSED: a node has a value from before; OMITTED: it is not part of this run; PASSED: its task wanted it to be skipped; NOTED:
    something worth remembering of how it got its value; VALUE_LOST: it runs again; PERFORMED: by another worker than the one that
    was given it; TOLERATED: what waits for it runs though it is going to fail.

    OUTCOME: all nodes but the handlers have ended, in this way, and those of this outcome may start; LEAVING: those that run in
    any case may start; REOPENED: these nodes, which had ended, run again. REPEATED: its task wants
    to be run again; HELD: it waits for a signal, which is SIGNALLED.

    An attempt holds its slot until it is COMPLETED, RECALLED or FREED, or its worker is gone. HALTED: one was told to stop, in
    `numbers` how it will have ended when its slot is free, whatever it brings; what follows from that waits.
    """

    STARTED = 0
    COMPLETED = 1
    SKIPPED = 2
    ASSIGNED = 3
    FAILED = 4
    TIMED_OUT = 5
    CANCELLED = 6
    LOST = 7
    RECALLED = 8
    RETRY = 9
    WORKER_JOINED = 10
    WORKER_GONE = 11
    PATCHED = 12
    RUN_ENDED = 13
    DUE = 14
    REQUEUED = 15
    FREED = 16
    REUSED = 17
    OMITTED = 18
    PASSED = 19
    NOTED = 20
    STOPPED = 21
    VALUE_LOST = 22
    PERFORMED = 23
    TOLERATED = 24
    OUTCOME = 25
    LEAVING = 26
    REOPENED = 27
    REPEATED = 28
    HELD = 29
    SIGNALLED = 30
    HALTED = 31


class Stop(IntEnum):
    """Why a run was stopped, the `number` of the fact."""

    FAILURE = 0
    CANCELLED = 1
    ERROR = 2
    TIMEOUT = 3


class Fact(msgspec.Struct, frozen=True):
    """One entry of the journal. Numbers, times in seconds of the run's clock, and texts; never a value of the user's."""

    kind: Kind
    at: float
    node: int = -1
    number: int = 0
    worker: int = -1
    started: float = UNSTARTED
    due: float = 0.0
    cause: int = -1
    detail: str = ""
    numbers: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    growth: Growth | None = None

    def shifted(self, seconds: float) -> Fact:
        """Return the same fact with its times by another clock."""
        return msgspec.structs.replace(
            self,
            at=self.at + seconds,
            started=self.started if self.started == UNSTARTED else self.started + seconds,
            due=self.due + seconds if self.due else 0.0,
        )
