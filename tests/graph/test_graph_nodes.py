"""What a node and a retry policy accept, and what they say when they do not."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import DAG, task
from dagrid.errors import InvalidNodeError
from dagrid.graph import ExecNode, Node, Retry


def load() -> int:
    return 1


def final(load: int) -> int:
    return load


def test_the_article_s_spelling_works() -> None:
    """Functions stand for their names, as an id and among the dependencies; positions are those of the article."""
    node = ExecNode(final, final, [load, "other"], 10, True)
    assert (node.id, node.fn, node.depends_on) == ("final", final, ("load", "other"))
    assert (node.priority, node.is_sequential) == (10, True)


def test_the_settings_of_a_task_count_where_the_node_says_nothing_else() -> None:
    """A node that is made of a task by hand is what a call of it would have recorded."""
    marked = task(name="fancy", retries=3, priority=2, tags=["a"], timeout=5.0)(load)
    assert Node(marked).settings() == marked.node.settings()
    assert Node(marked).id == "fancy"
    other = Node("other", marked, [marked], priority=1, retries=0, tags=["b"])
    assert (other.depends_on, other.priority, other.retries, other.tags, other.timeout) == (
        ("fancy",),
        1,
        Retry(0),
        ("b",),
        5.0,
    )
    assert other.changed(timeout=None).timeout is None
    assert Node(marked.with_options(name="plain", retries=None)).settings().keys() == {
        "fn",
        "priority",
        "tags",
        "timeout",
    }
    assert DAG([Node(marked), Node("behind", final, inputs={"load": marked})]).run(backend="inline")["behind"] == 1


def test_a_method_that_is_a_task_makes_nodes_of_its_instance() -> None:
    """The instance is bound, and the settings are those of the task."""

    class Model:
        @task(retries=1)
        def tripled(self, load: int) -> int:
            return 3 * load

    method: Any = Model().tripled
    graph = DAG([Node(load), Node(method, depends_on=[load])])
    assert graph.node("tripled").retries == Retry(1)
    assert graph.run(backend="inline")["tripled"] == 3


def test_everything_that_is_unsaid_is_empty() -> None:
    """A bare node has no settings, and says so briefly."""
    node = Node("a")
    assert (node.resources, node.selector, node.depends_on, node.inputs) == ({}, {}, (), None)
    assert (node.retries, node.timeout, node.cost, node.on_lost) == (None, None, None, "requeue")
    assert repr(node) == "Node('a')"
    assert repr(Node("a", priority=2, retries=1)) == f"Node('a', priority=2, retries={Retry(1)!r})"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fn": 3}, "fn is not callable: 3"),
        ({"depends_on": "b"}, r"write depends_on=\['b'\]"),
        ({"depends_on": 7}, "depends_on is a list of names, not 7"),
        ({"depends_on": [3]}, "depends on something that is no node"),
        ({"depends_on": [""]}, "not empty"),
        ({"priority": 1.5}, "priority is a whole number"),
        ({"priority": True}, "priority is a whole number"),
        ({"is_sequential": "no"}, "is_sequential is True or False, not 'no'"),
        ({"setup": "yes"}, "setup is True or False"),
        ({"debug": 2}, "debug is True or False"),
        ({"resources": {"gpu": 0}}, "resource 'gpu' is a finite number greater than 0, not 0"),
        ({"resources": {"gpu": math.inf}}, "not inf"),
        ({"resources": {"": 1}}, "a resource has a name"),
        ({"resources": ["gpu"]}, "resources is a mapping"),
        ({"selector": {"gpu": True}}, "selector is text -> text, not 'gpu': True; quote it"),
        ({"selector": {"cuda": 11.8}}, "quote it"),
        ({"retries": -1}, "max_retries is a whole number from 0 up, not -1"),
        ({"retries": 1.5}, r"retries is a Retry\(...\) or a whole number"),
        ({"retries": True}, "retries is a Retry"),
        ({"cache": ""}, "cache is True, False or a text that is not empty"),
        ({"timeout": 0}, "timeout is seconds, greater than 0, not 0"),
        ({"timeout": "1"}, "timeout is seconds"),
        ({"timeout": math.nan}, "timeout is seconds"),
        ({"cost": -1}, "cost is seconds, 0 or more, not -1"),
        ({"inputs": ["a"]}, "inputs is a mapping"),
        ({"inputs": {"": "a"}}, "'' is no parameter"),
        ({"inputs": {"x": 3}}, "depends on something that is no node"),
        ({"kind": 3}, "kind is a word, not 3"),
        ({"on_lost": "retry"}, "on_lost is 'requeue' or 'fail', not 'retry'"),
        ({"metadata": [1]}, "metadata is a mapping"),
        ({"continue_on": ["failed"]}, r"there is no 'failed'\. Did you mean 'failure'\?$"),
        ({"handler": "exti"}, r"not 'exti'\. Did you mean 'exit'\?$"),
    ],
)
def test_a_wrong_setting_is_named_with_its_node(settings: dict[str, Any], says: str) -> None:
    """Whoever reads the message knows which node, which setting and what would be right."""
    with pytest.raises(InvalidNodeError, match=says) as caught:
        Node("train", **settings)
    assert "'train'" in str(caught.value)


@pytest.mark.parametrize("name", ["", None, 3, functools.partial(load)])
def test_a_name_is_needed(name: Any) -> None:
    """No name is made up for what has none."""
    with pytest.raises(InvalidNodeError, match="name"):
        Node(name)


def test_a_node_cannot_be_changed_from_outside() -> None:
    """It is frozen, and the mappings that were given may change without changing it."""
    resources = {"gpu": 1.0}
    node = Node("a", resources=resources)
    resources["gpu"] = 9.0
    assert node.resources == {"gpu": 1.0}
    with pytest.raises(AttributeError):
        node.priority = 3  # type: ignore[misc]


def test_dependencies_given_as_a_set_have_one_order() -> None:
    """The order of a set changes from process to process; that of a graph may not."""
    assert Node("z", depends_on={"c", "a", "b"}).depends_on == ("a", "b", "c")
    assert Node("z", depends_on=(name for name in ("c", "a"))).depends_on == ("c", "a")


def test_nodes_travel() -> None:
    """Pickled and copied nodes are equal to the first, and count as one in a set."""
    node = Node("a", load, ["b"], retries=Retry(2, on=(OSError,)), resources={"cpu": 2}, metadata={"k": 1})
    assert {node, pickle.loads(pickle.dumps(node)), copy.deepcopy(node)} == {node}
    assert node.changed(priority=4) == Node(
        "a", load, ["b"], 4, retries=Retry(2, on=(OSError,)), resources={"cpu": 2}, metadata={"k": 1}
    )


def test_delays_grow_up_to_the_longest() -> None:
    """The arithmetic that the user relies upon: doubled each time, capped, and never an overflow."""
    retry = Retry(5, delay=1.0, backoff=2.0, max_delay=5.0)
    assert [retry.delay_before(number, 0.5) for number in range(1, 6)] == [1, 2, 4, 5, 5]
    assert retry.delay_before(100_000, 0.0) == 5.0
    assert Retry(5).delay_before(100_000, 0.0) == 0.0
    jittered = Retry(5, delay=8.0, jitter=0.5)
    assert [jittered.delay_before(1, draw) for draw in (0.0, 0.25, 0.5)] == [8.0, 7.0, 6.0]
    with pytest.raises(ValueError, match="counted from 1"):
        retry.delay_before(0, 0.0)


@given(
    st.floats(0, 1e6), st.floats(1, 100), st.floats(0, 1e6), st.floats(0, 1), st.integers(1, 10_000), st.floats(0, 0.99)
)
def test_a_delay_is_never_negative_nor_too_long(
    delay: float, backoff: float, longest: float, jitter: float, number: int, draw: float
) -> None:
    """Whatever is drawn, the delay is between (1 - jitter) of the exact one and the exact one."""
    exact = Retry(1, delay, backoff, longest).delay_before(number, 0.0)
    drawn = Retry(1, delay, backoff, longest, jitter).delay_before(number, draw)
    assert 0 <= exact * (1 - jitter) * (1 - 1e-9) <= drawn <= exact <= longest


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.0}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"delay": -1}, "delay is seconds from 0 up, not -1"),
        ({"delay": math.inf}, "delay"),
        ({"backoff": 0.5}, "backoff is a factor from 1 up"),
        ({"max_delay": -1}, "max_delay"),
        ({"jitter": 1.5}, "jitter is a fraction from 0 to 1"),
        ({"jitter": "0.5"}, "jitter"),
        ({"on": ()}, "on is a tuple of exception classes"),
        ({"on": (3,)}, "has 3, which is not an exception class"),
        ({"on": int}, "not an exception class"),
    ],
)
def test_a_wrong_retry_is_refused(settings: dict[str, Any], says: str) -> None:
    """A policy that could never work is found when it is written down."""
    with pytest.raises(InvalidNodeError, match=says):
        Retry(**settings)


def test_one_exception_class_needs_no_tuple() -> None:
    """A single class is what people write first."""
    assert Retry(on=OSError).on == (OSError,)  # type: ignore[arg-type]
