"""Which nodes a choice leaves out, by rule and beside a plain walk of the graph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import DAG, Node
from dagrid.errors import InvalidSettingError, PlanError, UnknownNodeError
from dagrid.graph.parts import Choice, check_values, choose, resolve, special
from tests.graph.graph_strategies import Pairs, build, graph_parts


def left(dag: DAG, known: Any = (), **choice: Any) -> dict[str, str]:
    """What is omitted, by name."""
    numbers = {dag.structure.index[name] for name in known}
    found = choose(dag.structure, dag.specs, Choice(**choice), special(dag.structure, dag.specs), numbers)
    return {dag.structure.names[at]: why for at, why in found.items()}


DIAMOND = DAG(
    [
        Node("a", int, tags=["first"]),
        Node("b", len, ["a"], tags=["side"]),
        Node("c", abs, ["a"], tags=["side", "slow"]),
        Node("d", max, ["b", "c"]),
        Node("slow", min, ["d"]),
    ]
)


@pytest.mark.parametrize(
    ("choice", "runs"),
    [
        ({}, "a b c d slow"),
        ({"targets": ["b"]}, "a b"),
        ({"targets": ["side"]}, "a b c"),
        ({"targets": [len, "c"]}, "a b c"),
        ({"roots": ["c"]}, "c d slow"),
        ({"roots": ["c"], "targets": ["d"]}, "c d"),
        ({"exclude": ["b"]}, "a c"),
        ({"exclude": ["slow"]}, "a b c d"),
        ({"targets": ["d"], "exclude": ["first"]}, ""),
        ({"targets": []}, ""),
        ({"exclude": []}, "a b c d slow"),
        ({"targets": ["d"], "known": ["b"]}, "a b c d"),
        ({"targets": ["d"], "known": ["b", "c"]}, "b c d"),
        ({"exclude": ["a"], "known": ["b"]}, "b"),
    ],
)
def test_what_is_chosen_runs(choice, runs):
    """Names go before tags; a function means what is made of it; what has a value ends the search."""
    assert [name for name in DIAMOND if name not in left(DIAMOND, **choice)] == runs.split()


def test_each_omission_has_its_reason():
    """`explain` and the results show these."""
    assert left(DIAMOND, targets=["a"])["d"] == "not needed for the targets"
    assert left(DIAMOND, roots=["d"])["a"] == "not behind the roots"
    reasons = left(DIAMOND, exclude=["b"])
    assert (reasons["b"], reasons["slow"]) == ("excluded", "needs 'b', which is excluded")


def test_an_unknown_item_names_the_nearest_of_both():
    """A text may have been meant as a node or as a tag."""
    with pytest.raises(UnknownNodeError, match=r"neither a node nor a tag.*the node 'slow' or the tag 'slow'"):
        left(DIAMOND, targets=["slwo"])
    with pytest.raises(UnknownNodeError, match="'sum'"):
        left(DIAMOND, roots=[sum])
    with pytest.raises(InvalidSettingError, match=r"exclude=\['a'\]"):
        left(DIAMOND, exclude="a")
    with pytest.raises(InvalidSettingError, match=r"targets=\[len\]"):
        left(DIAMOND, targets=len)


def test_debug_nodes_run_when_asked_for():
    """By the switch, or by name with what they need; a tag is not enough."""
    dag = DAG(
        [
            Node("a", int, tags=["t"]),
            Node("look", len, ["a"], debug=True),
            Node("print", abs, ["look"], debug=True, tags=["t"]),
            Node("other", abs, ["a"], debug=True),
        ]
    )
    assert left(dag) == dict.fromkeys(["look", "print", "other"], "a debug node")
    assert left(dag, debug=True) == {}
    assert set(left(dag, targets=["print"])) == {"other"}
    assert set(left(dag, targets=["t"])) == {"look", "print", "other"}


def test_asking_in_vain_for_debug_nodes_is_refused():
    """Nothing would run, or not what was named, and the run would succeed; the remedy that the message names runs it."""
    dag = DAG([Node("a", int, tags=["all"]), Node("look", abs, ["a"], debug=True, tags=["debugging", "all"])])
    vain: list[dict[str, Any]] = [
        {"targets": ["debugging"]},
        {"roots": ["debugging"]},
        {"roots": ["look"]},
        {"roots": ["a", "look"]},
    ]
    for choice in vain:
        with pytest.raises(InvalidSettingError, match=r"debug nodes.*'look'.*targets=\['look'\], or say debug=True"):
            left(dag, **choice)
        assert left(dag, debug=True, **choice).keys() <= {"a"}
    assert left(dag, targets=["look"]) == {}
    assert left(dag, roots=["all"]) == {"look": "a debug node"}
    assert left(dag, targets=["debugging"], known=["look"]) == {"a": "not needed for the targets"}
    assert left(dag, roots=["look"], known=["look"]) == {"a": "not behind the roots"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("a", debug=True), Node("b", None, ["a"])], "'b' depends on the debug node 'a'"),
        ([Node("a"), Node("b", None, ["a"], setup=True)], "setup node 'b' depends on 'a'"),
    ],
)
def test_setup_and_debug_nodes_that_cannot_be(nodes, message):
    """A graph that could never run as it was meant is refused, with the remedy."""
    with pytest.raises(PlanError, match=message):
        left(DAG(nodes))


def test_missing_values_are_named_with_the_remedy():
    """Roots need what is outside; each missing node is named once."""
    omitted = choose(
        DIAMOND.structure, DIAMOND.specs, Choice(roots=["c", "b"]), special(DIAMOND.structure, DIAMOND.specs)
    )
    taken = DIAMOND.structure.predecessors.__getitem__
    with pytest.raises(PlanError, match=r"of 'a' \(for 'b'\)\. Give them with given=\{'a': \.\.\.\}"):
        check_values(DIAMOND.structure, omitted, taken, ())
    check_values(DIAMOND.structure, omitted, taken, {0})


@given(graph_parts(), st.data())
def test_a_choice_is_what_a_walk_finds(parts: tuple[list[str], Pairs], data: st.DataObject) -> None:
    """Beside ancestors and descendants of the graph itself."""
    dag = build(*parts)
    names = dag.node_names()
    some = st.lists(st.sampled_from(names), max_size=3) if names else st.just([])
    targets, roots, out = data.draw(some), data.draw(some), data.draw(some)
    wanted = {each for one in targets for each in (one, *dag.ancestors(one))}
    wanted &= {each for one in roots for each in (one, *dag.descendants(one))}
    wanted -= {each for one in out for each in (one, *dag.descendants(one))}
    assert set(names) - left(dag, targets=targets, roots=roots, exclude=out).keys() == wanted


def test_a_name_is_resolved_before_a_tag():
    """`slow` is a node here, and a tag of another one."""
    assert resolve(["slow"], DIAMOND.structure, DIAMOND.specs, setting="targets") == {4: True}
    assert resolve(["side"], DIAMOND.structure, DIAMOND.specs, setting="targets") == {1: False, 2: False}


def test_many_functions_and_tags_are_found_in_one_look_at_the_nodes():
    """Else choosing one by one from a large graph takes time that grows with the square."""

    class Counted(dict[int, Node]):
        looks = 0

        def items(self) -> Any:
            Counted.looks += 1
            return super().items()

    made: list[list[Any]] = [[lambda at=at: at, f"tag {at}"] for at in range(100)]
    dag = DAG([Node(f"n{at}", fn, tags=[tag]) for at, (fn, tag) in enumerate(made)])
    specs = Counted(dag.specs)
    for asked in zip(*made, strict=True):
        assert list(resolve(asked, dag.structure, specs, setting="targets")) == list(range(100))
    assert Counted.looks == 2
