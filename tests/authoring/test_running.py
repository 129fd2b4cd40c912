"""What `@dag` functions compute, on every backend."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagrid import DAG, DAGExecutor, Node, Patch, Rule, Run, dag, task
from dagrid.errors import TaskSkippedError, TransferError, UnboundParameterError, UnpackError
from dagrid.execution.backends.inline import InlineBackend
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.execution.simulate import simulate
from tests.authoring import flows

BACKENDS = {
    "inline": InlineBackend,
    "thread": lambda: ThreadBackend(max_workers=2),
    "multiprocessing": lambda: MultiprocessingBackend(max_workers=2),
}


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request) -> Iterator[Any]:
    made = BACKENDS[request.param]()
    yield made
    made.close()


def on(backend: Any, fn: Any, **settings: Any) -> Any:
    return dag(backend=backend, progress=False, **settings)(getattr(fn, "fn", fn))


def test_a_call_returns_what_the_function_returns_as_values(backend):
    """Nested containers, indices, slices, comparisons, arithmetic, constants and keywords all arrive, wherever it runs."""
    assert on(backend, flows.everything)() == flows.EVERYTHING


def test_parameters_are_those_of_the_function(backend):
    """Defaults, positions and names: a flow is called as its function would be."""
    flow = on(backend, flows.everything)
    assert flow(2, extra=5)["sums"] == [6, 7]
    assert flow(count=2)["sums"] == [2, 3]
    with pytest.raises(TypeError, match="nothing"):
        flow(nothing=1)


@pytest.mark.parametrize(
    "name",
    ["self", "name", "length", "fn", "items", "task", "args", "kwargs", "path", "condition", "known", "arguments"],
)
def test_no_name_of_a_parameter_is_taken(backend, name):
    """What a function calls its parameters is its own affair, however it is called."""
    pair = task(unpack_to=1)(explained)
    named: Any = {name: 3}

    def flow():
        one = pair(**named)
        several = pair.map([1, 2], **named)
        numbers: Any = flows.load(2)
        later = numbers.map(pair, **named)
        guarded = pair.with_options(when=one[0] == f"{name}=3")(**named)
        return list(one), several, later, guarded, pair([one[0]], **named)

    text = [f"{name}=3"]
    assert on(backend, flow)() == (text, [text] * 2, [text] * 2, text, text)
    assert pair(**named) == text
    assert pair.map([1], **named) == [text]

    def call_it(**given: Any) -> Any:
        return pair(**given)

    whole = on(backend, call_it)
    assert whole(**named) == text
    assert whole.build(**named).node_names() == ["explained"]


def explained(*_: Any, **named: Any) -> list[str]:
    return [flows.explain(**named)]


def test_the_five_node_example(backend):
    """The shape of the references' example, written as functions."""
    assert on(backend, flows.five_nodes)() == "e(d(b(a),c(a)),a)"


def test_diamonds_in_a_row(backend):
    """Each handle is used twice: once described, run once."""

    def diamonds(count):
        top = flows.five("0")
        for number in range(1, count):
            top = flows.five(str(number), flows.five("l", top), flows.five("r", top))
        return top

    text = "0"
    for number in range(1, 4):
        text = f"{number}(l({text}),r({text}))"
    assert on(backend, diamonds)(4) == text


def test_functions_that_no_other_process_can_import_travel_too(backend):
    """Tasks in a script, a notebook or a function are the first that a user writes."""

    @task
    def double(value):
        return 2 * value

    @task(unpack_to=2)
    def pair(value):
        return value, double(value)  # in a worker, too, calling a task just calls it

    def flow(value):
        first, second = pair(double(value))
        return [first, second, double([second][0])]

    assert on(backend, flow)(2) == [4, 8, 16]


def test_a_task_of_a_module_travels_by_its_name(backend):
    """The decorator hides the function from pickle; sent by value, it would take its module's globals with it, or fail."""

    def flow():
        return flows.guarded()

    assert isinstance(on(backend, flow)(), int)


def test_a_wrong_index_is_an_error_of_the_node_that_receives_it(backend):
    """The index is the user's code: its error must be that of a task, not one of the engine."""

    def flow():
        values: Any = flows.load()
        return flows.total(values["x"])

    with pytest.raises(TypeError, match="list indices"):
        on(backend, flow)()
    assert on(backend, flow).run().node_results["total"].status == "failed"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("(1, 2, 3)", r"made\(\) returned 3 items.*says 2"),
        ("(one for one in (1, 2))", r"made\(\) returned a value of type generator.*list or a tuple"),
        ("2", r"made\(\) returned a value of type int"),
        ("None", r"made\(\) returned a value of type NoneType"),
        ("{'a': 1, 'b': 2}", r"made\(\) returned a value of type dict"),
        ("{1, 2}", r"made\(\) returned a value of type set"),
    ],
)
def test_a_value_that_is_not_what_unpack_to_says_is_an_error(backend, value, message):
    """Unpacking would drop the rest in silence, or fail somewhere behind, where nobody knows of whom it speaks."""

    @task(unpack_to=2)
    def made(text):
        return eval(text)

    with pytest.raises(UnpackError, match=message):
        on(backend, lambda: list(made(value)))()


def test_builtins_can_be_tasks(backend):
    """One that does not say what it takes is called with what it is given."""
    builtins: Any = (max, int, dict, sorted)
    largest, whole, table, ordered = map(task, builtins)

    def flow():
        return [
            largest([whole("3"), 2]),
            largest(1, 2, key=abs),
            table(a=whole("1")),
            whole.map(["4", "5"]),
            ordered([2, 1], reverse=True),
        ]

    assert on(backend, flow)() == [3, 2, {"a": 1}, [4, 5], [2, 1]]
    assert whole("7") == 7


def test_a_handle_that_was_not_executed_raises_what_its_node_raised(backend):
    """A call behaves like the function: it returns or raises."""

    def flow():
        return flows.total([flows.fails("no luck")])

    with pytest.raises(LookupError, match="no luck"):
        on(backend, flow)()


def test_a_failure_of_a_node_that_is_not_returned_is_raised(backend):
    """A step that failed must not vanish because nobody looked at its value."""

    def flow():
        flows.fails("unseen")
        return flows.load()

    with pytest.raises(LookupError, match="unseen"):
        on(backend, flow)()
    assert on(backend, flow, on_failure="continue")() == [1, 2, 3]


def test_continuing_returns_only_values_that_are_there():
    """With on_failure="continue" a value that is missing raises why."""

    @dag(backend="inline", on_failure="continue")
    def flow():
        return flows.load(), flows.total([flows.fails("no luck")])

    with pytest.raises(TaskSkippedError):
        flow()


def test_run_and_start_and_build(backend):
    """Whoever wants more than the values gets the ordinary things."""
    result = flows.five_nodes.run(backend=backend)
    assert result.ok
    assert result["five_5"] == "e(d(b(a),c(a)),a)"
    run = flows.five_nodes.start(backend=backend)
    assert isinstance(run, Run)
    assert run.wait(20)["five_4"] == "d(b(a),c(a))"
    graph = flows.five_nodes.build()
    for _ in range(3):
        assert graph.run(backend=backend)["five_5"] == "e(d(b(a),c(a)),a)"


def test_a_parameter_that_is_named_like_a_setting_is_the_functions():
    """`run(seed=1)` of a function with a `seed` is about the function."""

    @dag
    def flow(seed):
        return flows.load(seed)

    assert flow.run(seed=2, backend="inline")["load"] == [1, 2]


def test_a_graph_is_run_from_several_threads_at_once():
    """A flow is called like any function, also concurrently."""
    flow = on("inline", flows.everything)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(flow())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [flows.EVERYTHING] * 8


def test_the_function_of_a_node_can_be_replaced_for_a_run():
    """A test puts a fake in the place of a task, which is called with the same arguments."""
    graph = flows.everything.build()
    assert graph.run({"load": lambda count: [count] * count}, backend="inline")["total"] == 5


def test_nodes_of_a_flow_can_be_a_patch_of_a_growing_graph(backend):
    """What a rule appends may be written as a flow."""
    grown = flows.everything.build()
    nodes = [grown.node(name) for name in grown]
    rule = Rule(lambda view: view.succeeded("begin"), lambda view: Patch(nodes))
    start = dag(name="s")(lambda: flows.load.fn).build()
    start = start.extend([flows.load.node.changed(id="begin", fn=len_of_nothing)])
    result = start.run(rules=[rule], backend=backend)
    assert result["total_3"] == 12
    assert result["total_4"] == 50


def len_of_nothing() -> int:
    return 0


def test_a_part_of_a_graph_that_misses_a_value_is_refused_before_anything_runs():
    """A function with `*args` would otherwise be called with fewer of them."""
    graph = flows.five_nodes.build()
    with pytest.raises(UnboundParameterError, match="'five'"):
        graph.subgraph(["five_2"]).run(backend="inline")


def test_an_argument_that_cannot_travel_is_named():
    """A lock as a constant is fine in threads and not elsewhere; the message says so."""

    @dag
    def flow():
        return flows.five("x", threading.Lock())

    with pytest.raises(TransferError, match="Argument 2"):
        flow.run(backend="multiprocessing?max_workers=1").raise_for_status()


def test_a_graph_of_nothing_runs():
    """A flow whose loop had no rounds is no error."""

    @dag(backend="inline")
    def flow(names):
        return [flows.five(name) for name in names]

    assert flow([]) == []
    assert flow(["a"]) == ["a"]


def test_a_run_inside_of_a_description_records_nothing_there():
    """Tasks that call tasks run as they would anywhere else, also when the run was started in a @dag function."""

    @task
    def outer():
        return sum(flows.load())

    @dag
    def small():
        return outer()

    @dag(backend="inline")
    def flow():
        known = small.run(backend="inline")["outer"]
        return flows.total([known])

    assert flow() == 6
    assert flow.build().node_names() == ["total"]


@pytest.mark.parametrize(
    "run_of",
    [
        lambda graph, settings: graph.run(**settings),
        lambda graph, settings: graph.start(**settings).wait(20),
        lambda graph, settings: graph.start(**settings).settle(20),
        lambda graph, settings: graph.execute(**settings),
        lambda graph, settings: DAGExecutor(graph, **settings).execute(),
        lambda graph, settings: simulate(graph, call=True, rules=settings["rules"]),
    ],
)
@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_a_graph_that_is_run_inside_of_a_description_records_nothing_there(backend, run_of):
    """However the run begins, its tasks and the bodies of its rules call tasks as they would anywhere else."""
    seen: list[Any] = []

    def grown(_: Any) -> Patch:
        seen.append(flows.load(1))
        return Patch([Node("last", lambda: seen.append(flows.load(2)))])

    @task
    def first():
        seen.append(flows.load(3))

    prepared = dag(lambda: [first(), first.with_options(place="caller")()]).build()
    rules = [Rule(lambda view: view.succeeded("first"), grown)]

    def flow():
        run_of(prepared, {"backend": backend, "rules": rules})
        return flows.load()

    assert dag(flow).build().node_names() == ["load"]
    assert sorted(seen) == [[1], [1, 2], [1, 2, 3], [1, 2, 3]]


def test_a_function_that_takes_no_instance_gets_none():
    """As in any class: a static method and a builtin are called with what they are given, also by way of an instance."""

    class Model:
        @task
        @staticmethod
        def twice(x: int) -> int:
            return x * 2

        @dag(backend="inline")
        @staticmethod
        def flow(x: int) -> Any:
            return Model.twice(x), Model().twice(x), Model().twice.map([x]), Model().size([x])

        size: Any = task(len)

    assert Model().flow(3) == Model.flow(3) == (6, 6, [6], 1)
    assert (Model().twice(4), Model().size([])) == (8, 0)


def test_methods_can_be_tasks_and_flows():
    """`self` is an argument like any other."""

    class Model:
        factor = 3

        @task
        def times(self, value):
            return self.factor * value

        @dag(backend="inline")
        def flow(self, value):
            return self.times(self.times(value))

    assert Model().flow(2) == 18
    assert Model().flow.build(1).node_names() == ["times", "times_2"]
    assert Model().times(2) == 6


SCRIPT = """
from dagrid import dag, task

@task
def one():
    return {"x": [1, 2]}

@task(unpack_to=2)
def two(values, *, plus):
    return values[0] + plus, values[1] + plus

@dag(backend="multiprocessing?max_workers=1")
def flow():
    a, b = two(one()["x"], plus=1)
    return a + b, a

print(flow())
"""


GROWING_SCRIPT = """
import sys
from dagrid import current, dag, task

@task
def one(value):
    return value + 1

@task(unpack_to=2, name="pair", tags=["made"])
def two(value):
    return value, one(value)

@dag
def sub(value):
    first, second = two(one(value))
    return one.with_options(name="add")(first + second), one.map([first, second])

@task(adds=set())
def begin():
    part = sub.build(5)
    current().grow(*[part.node(name) for name in part.node_names()])
    return [part.node("pair").tags, one.map([1, 2]), list(two(1))]

@dag
def flow():
    return begin()

result = flow.run(backend=sys.argv[1], progress=False).raise_for_status()
print({name: result[name] for name in result})
"""


def said_by(script: str, folder: Path, *arguments: str) -> str:
    path = folder / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_script_runs_in_processes(tmp_path: Path):
    """In a script all is in `__main__`, which workers do not have."""
    assert said_by(SCRIPT, tmp_path) == "(5, 2)\n"


@pytest.mark.slow
def test_tasks_of_a_script_describe_graphs_in_processes_too(tmp_path: Path):
    """A task is one in a worker as well: a flow that is described there must not lose its nodes in silence."""
    told = said_by(GROWING_SCRIPT, tmp_path, "inline")
    assert "'begin': [('made',), [2, 3], [1, 2]]" in told
    assert "'add_2': 14" in told
    assert said_by(GROWING_SCRIPT, tmp_path, "multiprocessing?max_workers=1") == told


def test_arguments_are_kept_by_the_derived_graphs():
    """Reduction must not take away an edge along which a value flows."""
    graph = flows.five_nodes.build()
    assert graph.transitive_reduction().edges() == graph.edges()
    assert graph.transitive_reduction().run(backend="inline")["five_5"] == "e(d(b(a),c(a)),a)"
    assert DAG.from_records(graph.to_records()).run(backend="inline")["five_5"] == "e(d(b(a),c(a)),a)"
    assert DAG.from_json(graph.to_json()).edges() == graph.edges()
