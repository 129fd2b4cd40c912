"""How a running graph grows: a rule is asked on a view of the run, and what is to be appended is checked and bound.

It knows the state, the values and the bindings of one run. The machine takes a patch or refuses it; when that happens, and
under which lock, is for the engine.
"""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dagrid.attempt import Extra
from dagrid.errors import GraphLimitError, RuleError
from dagrid.execution.binding import LOOP, Binder, Bindings, check_sources, without_labels
from dagrid.execution.faults import described
from dagrid.graph.rules import (
    NO_KINDS,
    Patch,
    Rule,
    View,
    check_declared,
    check_patch,
    check_sealed,
    checked_rules,
    without_debug,
)
from dagrid.interrupts import is_interrupt
from dagrid.machine.events import Growth, NumberedRule, RuleEvaluated
from dagrid.machine.plan import Settings
from dagrid.machine.state import State, Status
from dagrid.ports import Capabilities, opened


class Growing:
    """The rules of a run, and all that is needed to append to its graph.

    Attributes:
        names: those of all rules that the run has had, by number.
        rules: by number, those that may still be asked.
        shared: whether other runs of the graph may use the plan and the bindings too, see `fork`.
        kept: whether other runs use the values that this one makes, so that nothing may be appended to it.
    """

    __slots__ = (
        "_binder",
        "_most",
        "_packing",
        "_values",
        "bindings",
        "failure",
        "kept",
        "names",
        "rules",
        "shared",
    )

    def __init__(
        self,
        rules: Sequence[Rule],
        binder: Binder,
        bindings: Bindings,
        most_nodes: int,
        values: list[Any],
        packing: Callable[[Growth, Sequence[Rule]], bytes] | None = None,
    ) -> None:
        self.names = [rule.name for rule in rules]
        self.rules = dict(enumerate(rules))
        self.failure: BaseException | None = None
        self._most = len(self.rules) + most_nodes
        self._binder = binder
        self.bindings = bindings
        self.shared = True
        self.kept = False
        self._values = values
        self._packing = packing

    def begin(self) -> Growth:
        """Return the rules that the run begins with."""
        return Growth(rules=tuple(map(_numbered, self.rules, self.rules.values())))

    def evaluate(self, state: State, number: int, now: float) -> RuleEvaluated:
        """Ask a rule, and its body if it holds. This calls the user's code; the graph may not grow meanwhile."""
        rule, plan = self.rules[number], state.plan
        view = View(_Snapshot(number, state, self._values, plan.names, plan.index, plan.kinds, plan.settings.max_nodes))
        try:
            if not rule.predicate(view):
                return RuleEvaluated(number, now, reads=view.reads, looked=view.looked)
            growth = self._growth(rule.body(view), rule.adds, "this rule", plan.settings, view.relies, view.taken)
        except BaseException as error:  # a rule is the user's code; its failure fails the run, with its cause
            if is_interrupt(error):
                raise
            return self.failed(number, now, error, view.reads)
        return RuleEvaluated(number, now, growth, view.reads, looked=view.looked)

    def failed(self, number: int, now: float, error: BaseException, reads: Mapping[int, int]) -> RuleEvaluated:
        """Return the answer of a rule that failed, and remember why."""
        name = self.names[number]
        what = f"Rule {name!r} failed: {described(error)}"
        self.failure = error if isinstance(error, GraphLimitError) else RuleError(what, name)
        if self.failure is not error:
            self.failure.__cause__ = error
        return RuleEvaluated(number, now, reads=reads, error=what)

    def left_by(self, extra: Extra, adds: frozenset[str] | None, settings: Settings) -> Growth | None:
        """Return what a task appends, if it appends anything.

        Args:
            extra: what it left.
            adds: what its node says that it may add.
            settings: of the run.

        Raises:
            InvalidPatchError: it is no patch, or more than the node said.
        """
        if extra.patch is None:
            return None
        return self._growth(extra.patch, NO_KINDS if adds is None else adds, "this node", settings)

    @property
    def bound(self) -> range:
        """The nodes that are bound, and that the machine has not taken yet."""
        return range(len(self._values), len(self.bindings.fns))

    def fork(self, state: State, can: Capabilities) -> None:
        """The graph is about to grow: let go of the plan and the bindings that other runs of it use.

        Args:
            state: of the run, which gets a plan of its own.
            can: what the backend of the run can do.
        """
        self.shared = False
        self.bindings = self.bindings.copy()
        state.plan = state.plan.copy(self.bindings.takes, self.bindings.places)
        state.plan.delegates = can.delegates
        state.plan.labels = can.delegates or can.matches_selectors

    def bind(self, state: State, growth: Growth) -> None:
        """Check and bind the nodes of a patch; the machine then takes it, or `forget` is called.

        Raises:
            GraphError, PlanError, RunError: the patch does not fit; nothing has changed.
        """
        plan, nodes = state.plan, growth.nodes
        if state.sealed or growth.relies:
            check_sealed(nodes, state.sealed | growth.relies)
        check_patch(nodes, plan.index)
        plan.check_growth(nodes)
        first, binder = len(plan.names), self._binder
        old = plan.index
        names: Sequence[str] = plan.names
        own: dict[str, int] = {}
        number_of = old.__getitem__
        if len(nodes) > 1:
            own = {node.id: number for number, node in enumerate(nodes, first)}
            names = _Names(plan.names, [*own])
            number_of = lambda name: own[name] if name in own else old[name]  # noqa: E731 - the shortest way to say it
        try:
            for number, node in enumerate(nodes, first):
                fn = binder.task(node.id, node)
                before = list(map(number_of, node.required()))
                every = ChainMap(own, old) if node.reads else None
                self.bindings.append(binder.bound(node.id, fn, node, before, names, every))
                if node.selector and self.bindings.places.get(number) == LOOP:
                    raise without_labels(node.id, LOOP)
                if fn is None:
                    plan.empty.add(number)
            if plan.empty:
                check_sources(self.bindings, range(first, first + len(nodes)), names)
        except BaseException:
            self.forget(state)
            raise

    def forget(self, state: State) -> None:
        """Take back what was bound and not taken."""
        known = len(state.plan)
        self.bindings.truncate(known)
        state.plan.empty = {node for node in state.plan.empty if node < known}

    def taken(self, state: State) -> None:
        """The machine has taken what was bound: make room for the values."""
        self._values.extend([None] * (len(state.plan.names) - len(self._values)))

    def restore(self, state: State, growth: Growth, rules: Sequence[Rule]) -> None:
        """Bind a patch again in a run that is resumed, and put its rules back where they were."""
        self.bind(state, growth)
        for (number, *_), rule in zip(growth.rules, rules, strict=True):
            self.names.extend([""] * (number + 1 - len(self.names)))
            self.names[number] = rule.name
            self.rules[number] = rule

    def _growth(
        self,
        patch: Any,
        adds: Any,
        who: str,
        settings: Settings,
        relies: frozenset[str] = NO_KINDS,
        taken: Iterable[int] = (),
    ) -> Growth:
        if not isinstance(patch, Patch):
            raise TypeError(f"the body of a rule returns a Patch, not {type(patch).__name__}")
        nodes = patch.joined()
        for node in nodes:
            if node.debug and not settings.debug:
                nodes = without_debug(nodes)
                break
        rules = checked_rules(patch.rules) if patch.rules else ()
        check_declared(adds, nodes, rules, who)
        growth = Growth(nodes, self._numbered(rules) if rules else (), relies, tuple(taken))
        if self._packing is not None:  # what cannot be kept fails here, like any patch that does not fit
            growth = msgspec.structs.replace(growth, packed=self._packing(growth, rules))
        return growth

    def _numbered(self, rules: Sequence[Rule]) -> tuple[NumberedRule, ...]:
        with _NUMBERING:  # tasks that end at the same time may all bring rules
            first = len(self.names)
            if first + len(rules) > self._most:
                raise GraphLimitError(
                    f"There would be more than {self._most} rules. Look for a rule that adds rules for ever, or allow more "
                    f"with max_nodes."
                )
            for number, rule in enumerate(rules, first):
                self.names.append(rule.name)
                self.rules[number] = rule
        return tuple(map(_numbered, range(first, len(self.names)), rules))


_NUMBERING = threading.Lock()


def _numbered(number: int, rule: Rule) -> NumberedRule:
    """Return what the machine has to know of a rule, in tuples alone, which the garbage collector need not look at again."""
    adds = rule.adds
    return number, rule.optional, tuple(sorted(adds)) if adds else None if adds is None else (), rule.waits


class _Names(Sequence[str]):
    """The names of a graph followed by those of a patch, without copying the first."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        self._old = old
        self._new = new

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    def __getitem__(self, number: Any) -> Any:
        return self._old[number] if number < len(self._old) else self._new[number - len(self._old)]


class _Snapshot(msgspec.Struct, eq=False):
    """What the view of a rule reads of a running graph."""

    rule: int
    state: State
    values: Sequence[Any]
    names: Sequence[str]
    index: Mapping[str, int]
    kinds: Mapping[str, Sequence[int]]
    most: int

    def status(self, node: int) -> tuple[int, str]:
        code = self.state.status[node]
        return code, _WORDS[code]

    def value(self, node: int) -> Any:
        return opened(self.values[node])

    def closed(self, kind: str) -> bool:
        return self.state.closed(kind, self.rule)


_WORDS = [status.name.lower() for status in Status]
