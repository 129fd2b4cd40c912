"""What a `@dag` function refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from dagrid import DAG, Node, dag, task
from dagrid.errors import HandleError, InvalidNodeError, InvalidSettingError, SerializationError
from dagrid.graph import authoring
from dagrid.graph.arguments import Arguments
from tests.authoring import flows
from tests.authoring.flows import describe, leaf

# --- what is refused --------------------------------------------------------------------------------------------------------


def in_flow(use: Any) -> None:
    describe(lambda: use(leaf()))


@pytest.mark.parametrize(
    ("use", "remedy"),
    [
        (bool, "Decide inside of a task"),
        (lambda handle: 1 if handle else 2, "Decide inside of a task"),
        (lambda handle: [one for one in handle], "unpack_to"),  # noqa: C416
        (list, "unpack_to"),
        (len, "unpack_to"),
        (lambda handle: leaf(*handle), "unpack_to"),
        (lambda handle: 1 in handle, "in a task"),
        (lambda handle: handle in [leaf(), handle], "Decide inside of a task"),
        (lambda handle: f"{handle}", "in a task"),
        (lambda handle: "a" + str(handle), "in a task"),
        (lambda handle: "%s" % handle, "in a task"),  # noqa: UP031
        (lambda handle: leaf({handle}), "list or a tuple"),
        (lambda handle: leaf({handle: 1}), "in a task"),
        (pickle.dumps, "Pass it to a task"),
        (lambda handle: sorted([handle, leaf()]), "Decide inside of a task"),
    ],
)
def test_a_handle_is_no_value(use, remedy):
    """Each of these would go wrong in silence, or for ever, if a handle were taken for its value."""
    with pytest.raises(HandleError, match=remedy):
        in_flow(use)


@pytest.mark.parametrize(
    "lazy",
    [
        lambda: (leaf(each) for each in [1, 2]),
        lambda: map(leaf, [1, 2]),
        lambda: zip([leaf()], [leaf()], strict=True),
        lambda: {"deep": [filter(None, [1, 2])]},
    ],
)
def test_what_can_be_read_once_is_no_argument(lazy):
    """Its calls would be recorded nowhere, and the second run of a graph would find it empty, without a word."""
    with pytest.raises(HandleError, match="Pass a list of it"):
        describe(lambda: leaf(lazy()))
    assert dag(lambda: leaf.map(each for each in [leaf(1), leaf(2)]))() == [((1,),), ((2,),)]


def test_a_handle_has_no_attributes_of_its_value():
    """The error is the one that `hasattr` looks for, and says what can be done."""
    with pytest.raises(AttributeError, match=r"<handle of 'leaf'> has no value yet.*'upper'.*in a task"):
        in_flow(lambda handle: handle.upper())
    in_flow(lambda handle: leaf(getattr(handle, "shape", None)))


@pytest.mark.parametrize("name", ["length", "at", "ref", "elements", "recording"])
def test_no_name_of_an_attribute_is_taken_by_the_handle(name):
    """A field of the handle's own would be used as the value's, without a word."""
    with pytest.raises(AttributeError, match=rf"'{name}'.*in a task"):
        in_flow(lambda handle: leaf(getattr(handle, name)))
    assert [one for one in dir(authoring.Handle) if not one.startswith("_")] == ["map"]


def test_a_handle_is_itself_as_a_key():
    """Dicts and sets of handles go by identity, whatever `==` records."""

    def flow():
        a, b = leaf(), leaf()
        known = {a: 1, b: 2}
        assert (known[a], known[b], len({a, b, a})) == (1, 2, 2)
        return a

    assert describe(flow).node_names() == ["leaf", "leaf_2"]


def leaked() -> Any:
    kept = []
    describe(lambda: kept.append(flows.split([1, 2])))
    return kept[0]


@pytest.mark.parametrize(
    "use",
    [
        leaf,
        lambda handle: handle == 1,
        lambda handle: handle + 1,
        lambda handle: handle["x"],
        list,
        lambda handle: describe(leaf.__call__, handle),
        lambda handle: describe(lambda: leaf([handle])),
        lambda handle: describe(lambda: handle),
        lambda handle: describe(lambda: handle[0]),
    ],
)
def test_a_handle_outside_of_its_graph_is_refused(use):
    """It names a node of a graph that is finished; in another graph that name is somebody else's, or nobody's."""
    handle = leaked()
    with pytest.raises(HandleError, match="<lambda>"):
        use(handle)


total: Any = flows.total


@task
def by_name(value, *, name):
    return value, name


named_only: Any = by_name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (total, "missing a required argument: 'values'"),
        (lambda: total(1, 2, 3), "too many positional"),
        (lambda: total(1, other=2), "unexpected keyword argument 'other'"),
        (lambda: total(1, values=2), "multiple values for argument 'values'"),
        (lambda: named_only(1), "missing a required.*argument: 'name'"),
    ],
)
def test_wrong_arguments_are_a_type_error_where_the_task_is_called(call, message):
    """The traceback ends at the line of the mistake, before anything runs."""
    with pytest.raises(TypeError, match=message):
        describe(call)


def test_a_gap_among_the_arguments_is_filled_with_the_default():
    """`f(1, c=3)` is `f(1, <default of b>, 3)`."""

    @task
    def three(a, b=2, c=0, *, d=4):
        return a, b, c, d

    flow = dag(backend="inline")(lambda: [three(1, c=3), three(c=leaf(), a=1), three(1, d=leaf()), three(1)])
    assert flow() == [(1, 2, 3, 4), (1, 2, (), 4), (1, 2, 0, ()), (1, 2, 0, 4)]


mark_as_task: Any = task
mark_as_flow: Any = dag


def some(value: Any) -> Any:
    return value


async def asynchronous() -> None: ...


async def yields_asynchronously() -> Any:
    yield leaf()


def yields() -> Any:
    yield leaf()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: task(yields_asynchronously), InvalidNodeError),
        (lambda: dag(asynchronous), InvalidNodeError),
        (lambda: dag(yields), InvalidNodeError),
        (lambda: mark_as_task("name"), InvalidNodeError),
        (lambda: task(retries=-1)(len), InvalidNodeError),
        (lambda: task(unpack_to=-1)(len), InvalidNodeError),
        (lambda: task(when=some(True))(len), InvalidNodeError),
        (lambda: mark_as_flow(max_concurency=2)(leaf), InvalidSettingError),
        (lambda: dag(max_concurrency=0)(leaf), InvalidSettingError),
        (lambda: Node("n", len, inputs={"a": "b"}, arguments=Arguments()), InvalidNodeError),
        (lambda: Node("n", len, arguments=some((1,))), InvalidNodeError),
        (lambda: DAG.from_json('{"dagrid": 1, "nodes": [{"id": "a", "arguments": 1}]}'), SerializationError),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(make, error):
    """Decorators run at import: the mistake is shown where it stands."""
    with pytest.raises(error):
        make()


def test_a_condition_that_is_known_is_refused_with_the_remedy():
    """A comparison of two constants is a truth value, not a handle."""
    with pytest.raises(InvalidNodeError, match=r"'leaf': when is a node, or a handle.*not True.*with an if"):
        leaf.with_options(when=some(1 < 2))


def test_a_task_is_copied_and_pickled_as_itself():
    """A configuration that holds a task of a module can be copied and sent."""
    assert pickle.loads(pickle.dumps(flows.load)) is flows.load
    assert pickle.loads(pickle.dumps(flows.everything)) is flows.everything
    assert copy.deepcopy(flows.load) is flows.load
    graph = pickle.loads(pickle.dumps(flows.everything.build()))
    assert graph.run(backend="inline")["total_3"] == 12
