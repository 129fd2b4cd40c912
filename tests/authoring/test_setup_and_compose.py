"""Setup and debug nodes, async tasks, and graphs that are cut out of others."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from dagrid import DAG, Node, dag, task
from dagrid.errors import (
    InvalidSettingError,
    PlanError,
    UnknownNodeError,
)
from tests.authoring import flows
from tests.authoring.flows import steps

load: Any = flows.load
plus: Any = flows.plus


# --- setup and debug ----------------------------------------------------------------------------------------------------------


SETUP: Any = {"a": {"setup": True}, "b": {"setup": True}}


def test_setup_runs_once_for_a_graph(place):
    """The first run that needs it runs it; later ones take its value and say so."""
    graph = steps(**SETUP)
    assert graph.run(backend=place, targets=["d"]).node_results["a"].reason == "set up before"
    again = graph.run(backend=place)
    assert again["c"] == "c(b(a()))"
    assert [again.node_results[name].attempts for name in "abcd"] == [0, 0, 1, 1]
    assert graph.run({"a": lambda: "other"}, backend=place)["c"] == "c(b(other))"
    assert graph.run(backend=place, given={"a": "A"})["d"] == "d(A)"


def test_setup_runs_once_for_many_threads():
    """First runs at the same time must not load a model twice."""
    log: list[str] = []
    graph = steps(log, **SETUP)
    begin = threading.Barrier(6)

    def run() -> None:
        begin.wait(20)
        graph.run(backend="inline")

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (log.count("a"), log.count("b"), log.count("c")) == (1, 1, 6)


def test_a_setup_that_fails_is_tried_again():
    """Its own error comes from `start`; what it had done before is kept."""
    broken = threading.Event()
    broken.set()

    def fragile() -> str:
        if broken.is_set():
            raise LookupError("not yet")
        return "ready"

    graph = DAG([Node("a", fragile, setup=True), Node("b", lambda a: a, ["a"])])
    with pytest.raises(LookupError, match="not yet"):
        graph.start(backend="inline")
    broken.clear()
    assert graph.run(backend="inline")["b"] == "ready"


def test_a_setup_can_be_interrupted():
    """Ctrl-C must not wait for a model that loads for minutes; the next run begins anew."""
    gate = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def slow() -> int:
        if not gate.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            gate.wait(30)
        return 1

    graph = DAG([Node("a", slow, setup=True), Node("b", lambda a: a, ["a"])])
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.run(backend="thread?max_workers=1")
        assert not gate.is_set()
    finally:
        gate.set()
    assert graph.run(backend="thread?max_workers=1")["b"] == 1


def test_debug_is_a_flag():
    """A text such as "no" would have the debug nodes run."""
    with pytest.raises(InvalidSettingError, match="debug is True or False; not 'no'"):
        steps().run(debug="no")  # type: ignore[arg-type]


def test_setup_and_debug_in_a_flow():
    """Tasks say it; a call sets up its own graph; debug nodes run where a run asks for them."""
    log: list[str] = []

    @task(setup=True)
    def model():
        log.append("model")
        return 2

    @task(debug=True)
    def show(value):
        log.append("show")
        return value

    @dag(backend="inline")
    def flow(value):
        found = plus(model(), value)
        return found, show(found)

    assert flow(1) == (3, None)
    graph = flow.build(2)
    assert [graph.run(backend="inline")["plus"] for _ in range(3)] == [4, 4, 4]
    assert log == ["model"] * 2
    assert flow.run(1, debug=True)["show"] == 3
    assert graph.run(backend="inline", targets=["show"])["show"] == 4
    with pytest.raises(PlanError, match="debug node 'show'"):
        dag(lambda: plus(show(1))).run(backend="inline")


# --- async ------------------------------------------------------------------------------------------------------------------


def test_an_async_task_is_one():
    """Outside it gives its coroutine; in a graph its node is sent to the event loop, unpacked, mapped or changed."""

    @task(unpack_to=2)
    async def two(value):
        return value, value

    pair: Any = two
    coroutine: Any = pair(1)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == (1, 1)

    @dag(backend="inline")
    def flow():
        a, b = pair(1)
        return plus(a), pair.with_options(unpack_to=None)(b), pair.map([1]), load()

    from dagrid.execution.compiling import compiled_for
    from dagrid.machine.plan import Settings

    places = compiled_for(flow.build(), None, Settings()).bindings.places
    names = flow.build().node_names()
    assert {names[at]: where for at, where in places.items()} == dict.fromkeys(["two", "two_2", "two_3[0]"], "loop")


@pytest.mark.parametrize(
    "use",
    [
        lambda graph: graph.run(targets=["times[1]"]),
        lambda graph: graph.run(roots=["times[0]"], given={"load": [1]}),
        lambda graph: graph.run(exclude=["times[0]"]),
        lambda graph: graph.run(given={"times[0]": 1}),
        lambda graph: graph.compose(inputs=["load"], outputs="times[0]"),
    ],
)
def test_an_element_of_a_map_that_is_to_come_cannot_be_chosen(use):
    """Its name stands in every result, so a user will try; which there are is not known before, and the map is the remedy."""
    with pytest.raises(UnknownNodeError, match=r"found out by the run.*Say 'times', which means all of them"):
        use(flows.mapped.build(2))
    with pytest.raises(UnknownNodeError, match="neither a node nor a tag"):
        flows.mapped.build(2).run(targets=["load[1]"])


# --- compose ----------------------------------------------------------------------------------------------------------------


def test_a_debug_node_that_is_an_output_is_asked_for():
    """As among the targets of a run; None would stand for its value, and nobody would know why."""
    nodes = [
        Node("a", lambda: 1),
        Node("look", lambda a: f"saw {a}", ["a"], debug=True),
        Node("closer", lambda look: look.upper(), ["look"], debug=True),
    ]
    graph = DAG(nodes)
    assert graph.compose("piece", inputs=["a"], outputs="closer")(2) == "SAW 2"
    assert graph.compose("piece", inputs=["a"], outputs=["look"])(3) == ["saw 3"]

    seen: Any = task(debug=True)(lambda value: value + 1)
    mapped = dag(lambda: seen.with_options(name="seen").map(load(2))).build()
    assert mapped.compose(inputs=["load"], outputs="seen")([1, 2]) == [2, 3]


def test_a_piece_of_a_graph_is_a_function(place):
    """Called with values, nested with handles, and cut at the inputs: what is before them does not run."""
    graph = flows.five_nodes.build()
    piece = graph.compose("piece", inputs=["five_2", "five_3"], outputs="five_4")
    assert dag(backend=place, progress=False)(piece.fn)("x", "y") == "d(x,y)"
    assert piece.build("x", "y").node_names() == ["five_4"]

    def outer():
        made = piece(flows.five("z"), five_3="y")
        return made, graph.compose(inputs=["five"], outputs=["five_5", "five_2"])("root")

    assert dag(backend=place, progress=False)(outer)() == ("d(z,y)", ["e(d(b(root),c(root)),root)", "b(root)"])


def test_a_piece_of_a_built_graph_keeps_names_orders_and_conditions():
    """Parameters found by name, `inputs`, orders without values, conditions and sources that no input is before."""
    ran: list[str] = []
    graph = DAG(
        [
            Node("x", int),
            Node("constant", lambda: 5),
            Node("first", lambda: ran.append("first"), ["x"]),
            Node("named", lambda x, constant: x + constant, ["x", "constant", "first"]),
            Node("renamed", lambda value, **rest: (value, rest), ["first"], inputs={"value": "named", "k": "x"}),
            Node("maybe", lambda named: -named, ["named"], when="x"),
        ]
    )
    piece = graph.compose(inputs=["x"], outputs=["renamed", "maybe"])
    assert piece.run(1, backend="inline").ok
    assert dag(backend="inline")(piece.fn)(2) == [(7, {"k": 2, "first": None}), -7]
    assert dag(backend="inline")(piece.fn)(0) == [(5, {"k": 0, "first": None}), None]
    assert ran == ["first"] * 3
    nested = dag(backend="inline")(lambda: piece(plus(1)))
    assert nested()[1] == -7


def test_a_piece_travels_with_the_function_that_calls_it():
    """A task that calls it in another process, and the record of a run, have it with all that it is made of."""
    piece = steps().compose("piece", inputs=["a"], outputs=["c"])
    nested = DAG([Node("nested", lambda: piece("x"))]).run(backend="multiprocessing?max_workers=1")
    assert nested.raise_for_status()["nested"] == ["c(b(x))"]
    assert repr(piece.fn) == "<piece 'piece'>"  # in messages, which are not to list a graph


def test_a_piece_with_maps_is_mapped_anew():
    """A map in the piece is over a list where it is called with one, and over a handle where with that."""
    piece = flows.mapped.build(2).compose(inputs=["load"], outputs=["times"])
    assert dag(backend="inline")(piece.fn)([1, 2]) == [[202, 204]]
    assert dag(backend="inline")(lambda: piece(load(1))[0])() == [202]


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["a"], ["a"], "an input and an output"),
        (["d"], ["c"], "No output needs the input 'd'"),
        (["b"], ["c", "d"], "'d' depends on none"),
        (["nothing"], ["c"], "'nothing'"),
        (["a", "a"], ["c"], "twice"),
    ],
)
def test_a_piece_that_cannot_be_cut(inputs, outputs, message):
    """Each would be a function that ignores an argument, or computes nothing."""
    with pytest.raises(ValueError, match=message):
        steps().compose(inputs=inputs, outputs=outputs)
