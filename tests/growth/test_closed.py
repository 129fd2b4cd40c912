"""What rules promise and what holds them to it: kinds that are closed, edges that point to new nodes, when a rule is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrid import DAG, Node, Patch, Rule, RunStatus
from dagrid.errors import GraphLimitError, InvalidPatchError, RuleError
from dagrid.graph.grow import all_done, collect, done


def breach(*rules, nodes=(), match):
    """Run rules of which one breaks its promise; nothing of its patch is there afterwards."""
    dag = DAG([Node("a", int), *nodes])
    result = dag.run(rules=rules, backend="inline")
    assert result.status is RunStatus.FAILED
    with pytest.raises(RuleError, match=match) as caught:
        result.raise_for_status()
    assert isinstance(caught.value.__cause__, InvalidPatchError)
    return list(result)


def adding(*nodes, rules=(), edges=(), **settings):
    return Rule(done("a"), lambda view: Patch(nodes, rules, edges), "grow", **settings)


def test_an_edge_of_a_patch_may_point_to_a_new_node():
    """It is an edge like those that a node says itself."""
    result = DAG([Node("a", lambda: 1)]).run(rules=[adding(Node("x", lambda a: a + 1), edges=[("a", "x")])])
    assert result["x"] == 2


def test_an_edge_to_an_old_node_is_refused_by_name():
    """What is there may have started, and cannot get a new dependency; the graph stays as it was."""
    left = breach(adding(Node("x", int), edges=[("x", "a")]), match=r"Rule 'grow' .*edge 'x' -> 'a' does not point")
    assert left == ["a"]


def test_a_rule_adds_only_the_kinds_that_it_said():
    """Others rely on it; a node without a kind can be relied on by nobody and is always allowed."""
    allowed = adding(Node("x", int, kind="pdf"), Node("y", int), adds={"pdf"})
    assert DAG([Node("a", int)]).run(rules=[allowed]).ok
    assert breach(adding(Node("x", int, kind="png"), adds={"pdf"}), match="'grow' .*'x' is of kind 'png'") == ["a"]


@pytest.mark.parametrize("adds", [None, {"png"}, {"pdf", "png"}])
def test_a_rule_appends_only_rules_that_may_add_no_more_than_itself(adds):
    """Otherwise what it said would not hold for what comes of it."""
    further = Rule(done("a"), lambda view: Patch(), "further", adds=adds)
    match = "'grow' .*'further' may add (any kind|nodes of kind \\['png'\\])"
    assert breach(adding(rules=[further], adds={"pdf"}), match=match) == ["a"]


def test_what_was_found_closed_stays_closed():
    """Also for the rule that asked, and for rules that it appends: somebody has relied on it."""
    own = Rule(all_done("pdf"), lambda view: Patch([Node("x", int, kind="pdf")]), "merge")
    assert breach(own, match="'merge' .*'x' is of kind 'pdf', which a rule found closed") == ["a"]
    late = adding(Node("x", int, kind="pdf"))
    assert breach(Rule(all_done("pdf"), lambda view: Patch((), [late]), "merge"), match="'grow' .*found closed") == [
        "a"
    ]


def test_a_rule_that_does_not_say_what_it_adds_keeps_every_kind_open():
    """The run ends and names both."""
    silent = Rule(done("nobody"), lambda view: Patch(), "silent", optional=True)
    result = DAG([Node("a", int, kind="pdf")]).run(rules=[collect("pdf", Node("all", sorted)), silent])
    assert result.unapplied_rules == ["collect pdf"]


def test_adds_is_a_set_of_kinds():
    """One word would be a set of letters."""
    with pytest.raises(InvalidPatchError, match="set of kinds"):
        Rule(done("a"), lambda view: Patch(), adds="pdf")  # type: ignore[arg-type]


def counted(predicate):
    """Return a rule that is never applied, and the list that grows each time it is asked."""
    asked = []

    def ask(view):
        asked.append(predicate(view))
        return False

    return Rule(ask, lambda view: Patch(), optional=True, adds=set()), asked


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (lambda view: view.succeeded("n3"), 2),
        (lambda view: view.succeeded("grown3"), 3),
        (lambda view: view.count("k") > 100, 7),
        (lambda view: view.count() > 100, 7),
        (lambda view: view.closed("k"), 2),
        (lambda view: view.closed("other"), 1),
        (lambda view: "nobody" in view, 1),
        (lambda view: view.status("n0") == "failed", None),
    ],
)
def test_a_predicate_is_asked_once_for_each_change_of_what_it_read(predicate, expected):
    """Never by polling: what it did not read may change as often as it likes."""
    rule, asked = counted(predicate)
    dag = DAG([Node(f"n{n}", int, [f"n{n - 1}"] if n else []) for n in range(6)])

    def one_more(number):
        return lambda _: Patch([Node(f"grown{number}", int, kind="k")])

    growing = [Rule(done(f"n{number}"), one_more(number), adds={"k"}) for number in range(6)]
    assert dag.run(rules=[rule, *growing], backend="inline").ok
    assert len(asked) == expected if expected else 2 <= len(asked) <= 4


def test_rules_without_end_are_stopped():
    """Also when they add no node; and no stack overflows on the way."""

    def again():
        return Rule(lambda view: True, lambda view: Patch((), [again()]))

    result = DAG([Node("a", int)]).run(rules=[again()], max_nodes=5_000, backend="inline")
    with pytest.raises(GraphLimitError, match="rules for ever"):
        result.raise_for_status()


KINDS = ["p", "q", "r"]


@given(st.integers(0, 2**32), st.sampled_from(["inline", "thread"]))
@settings(max_examples=60, deadline=None)
def test_after_a_kind_was_found_closed_no_node_of_it_appears(seed, backend):
    """For any rules that declare what they add: what one relied on holds at the end, and every rule was given its chance."""
    chance = random.Random(seed)
    relied: dict[str, list[str]] = {}
    ids = iter(range(10_000))

    def some_rule(within, depth):
        adds = {kind for kind in within if chance.random() < 0.5}
        wait = chance.choice(["node", "closed", "now"])
        kind = chance.choice(KINDS)
        nodes = [Node(f"g{next(ids)}", int, kind=chance.choice(sorted(adds))) for _ in range(2) if adds]
        further = [some_rule(adds, depth - 1) for _ in range(chance.randrange(3))] if depth else []
        nodes = [node for node in nodes if wait != "closed" or node.kind != kind]

        predicate = {"node": done("n2"), "closed": all_done(kind), "now": lambda view: True}[wait]

        def body(view):
            if wait == "closed":
                relied.setdefault(kind, view.nodes(kind))
                assert relied[kind] == view.nodes(kind)
            return Patch(nodes, [rule for rule in further if wait != "closed" or kind not in rule.adds])

        return Rule(predicate, body, optional=True, adds=adds)

    dag = DAG([Node(f"n{n}", int, [f"n{n - 1}"] if n else [], kind=chance.choice(KINDS)) for n in range(4)])
    rules = [some_rule(set(KINDS), 2) for _ in range(chance.randrange(1, 5))]
    final = {}

    def watch(kind):
        return Rule(
            all_done(kind), lambda view: final.update({kind: view.nodes(kind)}) or Patch(), f"see {kind}", True, set()
        )

    result = dag.run(rules=[*rules, *map(watch, KINDS)], backend=backend)
    assert result.ok, result.raise_for_status()
    for kind, nodes in relied.items():
        assert final.get(kind, nodes) == nodes
