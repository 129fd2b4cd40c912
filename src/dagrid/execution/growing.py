"""How a running graph grows: a rule is asked on a view of the run, and what is to be appended is checked and bound.

It knows the state, the values and the bindings of one run. The machine takes a patch or refuses it; when that happens, and
under which lock, is for the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dagrid.attempt import Extra
from dagrid.errors import GraphLimitError, InvalidPatchError, RuleError
from dagrid.execution.binding import Binder, Bindings, check_sources
from dagrid.execution.faults import described
from dagrid.graph.rules import Patch, Rule, View, check_declared, check_patch, check_sealed
from dagrid.machine.events import Growth, RuleEvaluated
from dagrid.machine.state import State, Status
from dagrid.ports import opened

TASKS_ADD_NOTHING: frozenset[str] = frozenset()


class Growing:
    """The rules of a run, and all that is needed to append to its graph."""

    def __init__(
        self, rules: Sequence[Rule], binder: Binder, bindings: Bindings, most_nodes: int, values: list[Any]
    ) -> None:
        self.rules = list(rules)
        self.failure: BaseException | None = None
        self._most = len(self.rules) + most_nodes
        self._binder = binder
        self.bindings = bindings
        self._values = values

    def begin(self) -> Growth:
        """Return the rules that the run begins with."""
        return Growth(rules=self._numbered(0, self.rules))

    def evaluate(self, state: State, number: int, now: float) -> RuleEvaluated:
        """Ask a rule, and its body if it holds. This calls the user's code; the graph may not grow meanwhile."""
        rule = self.rules[number]
        view = View(_Snapshot(state, self._values, number))
        try:
            if not rule.predicate(view):
                return RuleEvaluated(number, now, reads=view.reads, looked=view.looked)
            growth = self._growth(rule.body(view), rule.adds, "this rule", view.relies)
        except Exception as error:  # noqa: BLE001  # a rule is the user's code; its failure fails the run, with its cause
            return self.failed(number, now, error, view.reads)
        return RuleEvaluated(number, now, growth, view.reads, looked=view.looked)

    def failed(self, number: int, now: float, error: Exception, reads: Mapping[int, int]) -> RuleEvaluated:
        """Return the answer of a rule that failed, and remember why."""
        what = f"Rule {self.rules[number].name!r} failed: {described(error)}"
        self.failure = error if isinstance(error, GraphLimitError) else RuleError(what, self.rules[number].name)
        if self.failure is not error:
            self.failure.__cause__ = error
        return RuleEvaluated(number, now, reads=reads, error=what)

    def left_by(self, extra: Extra, adds: frozenset[str] | None) -> Growth | None:
        """Return what a task appends, if it appends anything.

        Args:
            extra: what it left.
            adds: what its node says that it may add.

        Raises:
            InvalidPatchError: it is no patch, or more than the node said.
        """
        if extra.patch is None:
            return None
        return self._growth(extra.patch, TASKS_ADD_NOTHING if adds is None else adds, "this node")

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
        names = plan.names if len(nodes) == 1 else _Names(plan.names, [node.id for node in nodes])
        first = len(plan)
        numbers = {node.id: first + offset for offset, node in enumerate(nodes)}
        try:
            for node in nodes:
                fn = self._binder.task(node.id, node)
                before = [numbers[name] if name in numbers else plan.index[name] for name in node.required()]
                self.bindings.append(self._binder.bound(node.id, fn, node, before, names))
                if fn is None:
                    plan.empty.add(numbers[node.id])
            if plan.empty:
                check_sources(self.bindings, numbers.values(), names)
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
        self._values.extend([None] * (len(state.plan) - len(self._values)))

    def restore(self, numbers: Sequence[int], rules: Sequence[Rule]) -> None:
        """Put rules back where they were in a run that is resumed."""
        for number, rule in zip(numbers, rules, strict=True):
            self.rules.extend([_GONE] * (number + 1 - len(self.rules)))
            self.rules[number] = rule

    def _growth(self, patch: Any, adds: Any, who: str, relies: set[str] | frozenset[str] = frozenset()) -> Growth:
        if not isinstance(patch, Patch):
            raise TypeError(f"the body of a rule returns a Patch, not {type(patch).__name__}")
        nodes = patch.joined()
        check_declared(adds, nodes, patch.rules, who)
        first = len(self.rules)
        if first + len(patch.rules) > self._most:
            raise GraphLimitError(
                f"There would be more than {self._most} rules. Look for a rule that adds rules for ever, or allow more with "
                f"max_nodes."
            )
        self.rules.extend(patch.rules)
        return Growth(nodes, self._numbered(first, patch.rules), frozenset(relies))

    @staticmethod
    def _numbered(first: int, rules: Sequence[Rule]) -> list[tuple[int, bool, Any, tuple[str, ...]]]:
        return [(first + offset, rule.optional, rule.adds, rule.waits) for offset, rule in enumerate(rules)]


def _gone(_: View) -> Any:
    raise InvalidPatchError("This rule was never part of the graph.")


_GONE = Rule(_gone, _gone)


class _Names(Sequence[str]):
    """The names of a graph followed by those of a patch, without copying the first."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        self._old = old
        self._new = new

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    def __getitem__(self, number: Any) -> Any:
        return self._old[number] if number < len(self._old) else self._new[number - len(self._old)]


class _Snapshot:
    """What a rule's view reads of a running graph."""

    __slots__ = ("_rule", "_state", "_values", "index", "kinds", "names")

    def __init__(self, state: State, values: Sequence[Any], rule: int) -> None:
        plan = state.plan
        self._state = state
        self._values = values
        self._rule = rule
        self.names = plan.names
        self.index = plan.index
        self.kinds = plan.kinds

    def status(self, node: int) -> tuple[int, str]:
        code = self._state.status[node]
        return code, _WORDS[code]

    def value(self, node: int) -> Any:
        return opened(self._values[node])

    def closed(self, kind: str) -> bool:
        return self._state.closed(kind, self._rule)


_WORDS = [status.name.lower() for status in Status]
