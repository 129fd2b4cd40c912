"""The ready rules of `dagrid.graph.grow`, on every place that we ship: what adage asks for, and more."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, Patch, Retry, Rule, RunStatus, current, dag, task
from dagrid.errors import GraphLimitError, InvalidPatchError, UnboundParameterError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.graph.grow import (
    all_done,
    all_ended,
    all_present,
    at_least,
    choose,
    collect,
    done,
    for_each,
    map_over,
    map_reduce,
    nested_map_reduce,
    until,
)
from tests.growth.growth_tasks import (
    halve,
    in_one_of_two,
    length,
    load,
    negate,
    page,
    square,
    title,
    total,
    total_of_lists,
    with_base,
    words,
)


@pytest.fixture(scope="module")
def processes():
    backend = MultiprocessingBackend(max_workers=2)
    yield backend
    backend.close()


@pytest.fixture(params=["inline", "thread", "multiprocessing"])
def backend(request, processes):
    return processes if request.param == "multiprocessing" else request.param


def found(*values):
    """Return a graph whose one node finds these values at run time."""
    return DAG([Node("find", partial(list, values))])


def test_map_over_a_list_found_at_run_time(backend):
    """One node for each element; names can be read, kinds are set."""
    result = found(1, 2, 3).run(rules=[map_over("find", Node("sq", square, retries=Retry(2)))], backend=backend)
    result.raise_for_status()
    assert {name: result[name] for name in result} == {"find": [1, 2, 3], "sq[0]": 1, "sq[1]": 4, "sq[2]": 9}


def test_a_task_is_a_step_with_its_settings(backend):
    """What `@task` says holds wherever its nodes are made, as it does in a @dag function."""
    rule = map_reduce("find", in_one_of_two, reduce=Node("total", total_of_lists))
    result = found(1, 2).run(rules=[rule], backend=backend).raise_for_status()
    assert {name: result[name] for name in result} == {"find": [1, 2], "fancy[0]": [1], "fancy[1]": [2], "total": 3}
    assert result.node_results["fancy[1]"].attempts == 2


@pytest.mark.parametrize("values", [(), (1, 2, 3)])
def test_reduce_after_a_map(backend, values):
    """The reduction waits for a number of nodes that nobody knew, also for none at all."""
    result = found(*values).run(rules=[map_reduce("find", square, negate, reduce=total)], backend=backend)
    assert result.raise_for_status()["total"] == -sum(value * value for value in values)


def test_all_nodes_of_a_kind_are_merged_once_no_more_can_come(backend):
    """Two rules add nodes of the kind, one of them late; the merge knows neither."""
    pdf = Node("late", negate, kind="pdf")
    rules = [
        collect("pdf", Node("merged", sorted)),
        map_over("find", Node("early", square, kind="pdf")),
        map_over("slow", pdf),
    ]
    dag = DAG([Node("find", partial(list, (1, 2))), Node("slow", partial(list, (5,)), depends_on=["find"])])
    result = dag.run(rules=rules, backend=backend)
    assert result.raise_for_status()["merged"] == [-5, 1, 4]


def test_a_workflow_for_each_element(backend):
    """Parameters find their predecessors by the names that these have in the workflow."""
    site = DAG([Node(load), Node(title, depends_on=[load]), Node(page, depends_on=[load, title])])
    result = found("a", "b").run(
        rules=[for_each("find", site, name="site", reduce=Node("all", sorted))], backend=backend
    )
    result.raise_for_status()
    assert result["site[1].page"] == "<b> B"
    assert result["all"] == ["<a> A", "<b> B"]
    assert len(result) == 8


def test_nested_map_and_reduce(backend):
    """How many parts an element has is known only when it was split."""
    rule = nested_map_reduce("find", words, length, reduce=Node("letters", total), into=Node("all", total))
    result = found("to be", "or", "not to be").run(rules=[rule], backend=backend)
    result.raise_for_status()
    assert result["words[2].length[0]"] == 3
    assert [result[f"words[{number}].letters"] for number in range(3)] == [4, 2, 7]
    assert result["all"] == 13


def test_a_step_is_repeated_until_its_value_is_good(backend):
    """The rounds stay to be seen; the plain name has the last value."""
    dag = DAG([Node("start", partial(int, 40))])
    result = dag.run(rules=[until("start", halve, lambda value: value <= 2)], backend=backend)
    assert [result.raise_for_status()[name] for name in result] == [40, 20, 10, 5, 2, 2]
    assert list(result)[-1] == "halve"


@pytest.mark.parametrize(("start", "name", "value"), [(3, "square", 9), (-3, "negate", 3)])
def test_one_of_two_ways_is_chosen_at_run_time(backend, start, name, value):
    """The other way is not in the graph at all."""
    rule = choose("start", lambda value: value > 0, square, [negate])
    result = DAG([Node("start", partial(int, start))]).run(rules=[rule], backend=backend)
    assert list(result.raise_for_status()) == ["start", name]
    assert result[name] == value


def test_the_second_step_of_an_element_does_not_wait_for_all_first_steps():
    """With one worker a barrier would be visible in the order of the nodes."""
    order = []

    def first(value):
        order.append(("first", value))
        assert value == 0 or ("second", value - 1) in order
        return value

    def second(value):
        order.append(("second", value))

    result = found(0, 1, 2).run(
        rules=[map_over("find", Node("first", first), Node("second", second, priority=1))], backend="inline"
    )
    assert result.ok, order


def test_ready_predicates():
    """Each is true when, and only when, what it names is so."""
    seen = []

    def when(predicate, name):
        def body(view):
            seen.append((name, view.nodes()))
            return Patch()

        return Rule(predicate, body, name, adds=set())

    rules = [
        when(done("find", "sq[1]"), "done"),
        when(at_least(2, "sq"), "at_least"),
        when(all_present("sq"), "present"),
        when(all_done("sq"), "all_done"),
        when(all_ended("sq"), "ended"),
    ]
    assert found(1, 2).run(rules=[*rules, map_over("find", Node("sq", square))], backend="inline").ok
    assert sorted(name for name, _ in seen) == ["all_done", "at_least", "done", "ended", "present"]
    assert all("sq[1]" in nodes for _, nodes in seen)


def test_a_failed_node_has_ended_and_is_not_done():
    """A merge of what worked is possible, and is asked for with another word."""
    flaky = Node("flaky", lambda value: 1 / value, kind="flaky")
    rules = [
        map_over("find", flaky),
        Rule(all_ended("flaky"), lambda view: Patch([Node("report", int)]), adds=set()),
        collect("flaky", Node("all", total)),
    ]
    result = found(1, 0).run(rules=rules, backend="inline", on_failure="continue")
    assert result["report"] == 0
    assert result.unapplied_rules == ["collect flaky"]


def test_other_parameters_of_a_step_are_bound_as_usual(backend):
    """Only the first parameter belongs to the element."""
    dag = DAG([Node("find", partial(list, (1, 2))), Node("base", partial(int, 10))])
    step = Node("power", pow, inputs={"exp": "base"})
    result = dag.run(rules=[map_over("find", step)], backend=backend)
    assert result.raise_for_status()["power[1]"] == 1024


def test_a_collection_of_its_own_kind_is_refused_where_it_is_written():
    """It would have to wait for itself."""
    with pytest.raises(InvalidPatchError, match="Give it another kind"):
        collect("pdf", Node("merged", sorted, kind="pdf"))
    for rule in (
        map_over,
        partial(map_reduce, reduce=sum),
        partial(nested_map_reduce, split=list, reduce=sum, into=sum),
    ):
        with pytest.raises(InvalidPatchError, match="A map has no step"):
            rule(source="find")
    with pytest.raises(InvalidPatchError, match="Two steps have one name"):
        map_over("find", square, square)


def test_rules_name_nodes_by_their_functions_too():
    """As everywhere else: a function was taken for a node that is not there yet, and its rule was never applied."""

    def begin():
        return [1, 2]

    def behind(begin):
        current().grow(Node(last), edges=[(behind, last)])
        return sum(begin)

    def last(behind):
        return behind + 1

    seen: list[object] = []

    def append(view):
        seen.extend([begin in view, len in view, view.status(begin), view.result(begin), view.items(begin)])
        return Patch([Node(behind)], edges=[(begin, behind)])

    def end(view):
        return Patch([Node("end", lambda: view.ended(last))])

    by_function: Any = (last,)
    rules = [
        Rule(lambda view: view.succeeded(begin), append),
        Rule(lambda view: view.succeeded(last), end, waits=by_function),
    ]
    result = DAG([Node(begin)]).run(rules=rules)
    assert (result["last"], result["end"]) == (4, True)
    assert seen == [True, False, "completed", [1, 2], [1, 2]]


async def holds(view):
    return False


@pytest.mark.parametrize(
    "make",
    [
        lambda asked: Rule(asked, lambda view: Patch()),
        lambda asked: Rule(lambda view: True, asked),
        lambda asked: until("find", square, asked),
        lambda asked: choose("find", asked, square),
    ],
)
def test_what_a_run_asks_is_no_async_function(make):
    """A coroutine that nobody awaits is true: the rule was applied at once, whatever it would have said."""
    with pytest.raises(InvalidPatchError, match="cannot be async"):
        make(holds)


def test_what_is_no_step_is_refused_where_it_is_written():
    """A name would be taken for the names of its letters, or for nodes that do nothing; a function of @dag is no graph."""
    name: Any = "square"
    flow: Any = dag(lambda: None)
    with pytest.raises(InvalidPatchError, match=r"A step is a function, .* not 'square'"):
        choose("find", bool, name)
    with pytest.raises(InvalidPatchError, match=r"A step is a function, .* not 'square'"):
        map_over("find", name)
    with pytest.raises(InvalidPatchError, match=r"makes one with build\("):
        for_each("find", flow, name="part")


def test_a_source_that_fails_leaves_its_rule_unapplied():
    """The run says both: what failed, and what was never appended."""
    result = DAG([Node("find", lambda: 1 / 0)]).run(rules=[map_over("find", square)])
    assert result.status is RunStatus.FAILED
    assert result.unapplied_rules == ["map over find"]


@pytest.mark.parametrize(
    ("step", "values", "expected"),
    [
        (int, ["1", "2"], [1, 2]),
        (str, [1, 2], ["1", "2"]),
        (bool, [0, 3], [False, True]),
        (set, ["a"], [{"a"}]),
        (max, [[1, 3], [2]], [3, 2]),
        (range, [2], [range(2)]),
    ],
)
def test_a_step_that_does_not_say_what_it_asks_for_gets_the_element(step, values, expected):
    """Python has no signature for many builtins; the element goes by position, wherever in a chain they stand."""
    rules = [
        map_over("find", step),
        map_reduce("find", Node("same", lambda value: value), Node("then", step), reduce=Node("all", list)),
        for_each("find", DAG([Node("root", step), Node("next", lambda root: root, ["root"])]), name="flow"),
    ]
    result = found(*values).run(rules=rules, backend="inline").raise_for_status()
    assert [result[f"{step.__name__}[{number}]"] for number in range(len(values))] == expected
    assert result["all"] == expected
    assert [result[f"flow[{number}].next"] for number in range(len(values))] == expected


def test_a_choice_and_a_loop_take_builtins_too():
    """What does not say what it asks for gets the value."""
    rules = [choose("find", bool, int), until("find", Node("str", str), bool)]
    result = DAG([Node("find", lambda: "7")]).run(rules=rules, backend="inline").raise_for_status()
    assert result["int"] == 7
    assert result["str"] == "7"


def test_a_step_takes_what_it_gets_by_position_only():
    """As the first of a chain, as a later one, and in a loop; its other parameters are bound by name."""

    def join(*parts, base=None):
        return (*parts, base)

    joined = Node("join", join, depends_on=["base"])
    rules = [
        map_over("find", joined),
        map_over("find", Node("same", lambda value: value), Node("later", join, depends_on=["base"])),
        until("base", Node("loop", join), lambda value: True),
    ]
    dag = DAG([Node("find", partial(list, (1, 2))), Node("base", partial(int, 10))])
    result = dag.run(rules=rules, backend="inline").raise_for_status()
    assert result["join[1]"] == result["later[1]"] == (2, 10)
    assert result["loop"] == (10, None)


async def summed(values, base=0):
    return sum(values) + base


class Overheard(MultiprocessingBackend):
    """Processes; the calls that they are given are kept."""

    def __init__(self):
        super().__init__(max_workers=2)
        self.calls = []

    def open(self, host):
        return Overhearing(super().open(host), self.calls)


class Overhearing:
    """A session whose calls are kept."""

    def __init__(self, session, calls):
        self._session = session
        self._calls = calls

    def __getattr__(self, name):
        return getattr(self._session, name)

    def perform(self, bundle):
        self._calls += bundle.calls
        self._session.perform(bundle)


@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_appended_may_ask_for_what_nothing_did_before(recorded, tmp_path):
    """An async step of a map broke the scheduler of a recorded run; of one that was not recorded, no place heard that an appended
    node must not be performed twice.
    """
    checkpoint = {"checkpoint": tmp_path} if recorded else {}
    steps = [Node("careful", square, on_lost="fail"), Node("free", negate), Node("waits", as_it_is)]
    backend = Overheard()
    result = found(3, 4).run(rules=[map_over("find", *steps)], backend=backend, **checkpoint).raise_for_status()
    backend.close()
    assert [result[f"waits[{number}]"] for number in range(2)] == [-9, -16]
    assert {call.node for call in backend.calls if call.once} == {"careful[0]", "careful[1]"}


async def as_it_is(value):
    return value


@pytest.mark.parametrize("backend", ["inline", "thread"])
def test_a_reduction_may_be_async(backend):
    """Its coroutine is awaited, wherever the reduction stands."""
    flow = DAG([Node("root", square)])
    rules = [
        map_reduce("find", square, reduce=summed),
        for_each("find", flow, name="flow", reduce=Node("flows", summed)),
        collect("square", Node("collected", summed)),
    ]
    result = found(1, 2).run(rules=rules, backend=backend).raise_for_status()
    assert result["summed"] == result["flows"] == result["collected"] == 5


@pytest.mark.parametrize("bound", [{"depends_on": ["base"]}, {"reads": ["base"]}, {"inputs": {"base": "base"}}])
def test_other_parameters_of_a_reduction_are_bound_as_usual(backend, bound):
    """By name, by what it reads, or by what its inputs say; also where there is nothing to reduce."""

    for values, expected in [((1, 2), 15), ((), 10)]:
        dag = DAG([Node("base", partial(int, 10)), Node("find", partial(list, values), ["base"])])
        rule = map_reduce("find", square, reduce=Node("all", with_base, **bound))
        assert dag.run(rules=[rule], backend=backend).raise_for_status()["all"] == expected


def test_a_reduction_that_cannot_be_called_is_refused_where_it_is_written():
    """Before anything runs."""
    with pytest.raises(InvalidPatchError, match="no first parameter that is free"):
        map_reduce("find", square, reduce=Node("all", lambda: 1))
    with pytest.raises(UnboundParameterError, match="'base'"):
        collect("square", Node("all", lambda values, base: base))


@task
def one(value=1):
    return value


@task
def many(value):
    return [value, value + 1]


@task
def plus(value, more):
    return value + more


@task
def listed():
    return [1, 2]


def test_a_workflow_that_a_function_describes_runs_for_each_element(backend):
    """Edges by arguments lead to the nodes of the same element."""

    @dag
    def flow():
        return plus(one(), 10)

    rule = for_each("find", flow.build(), name="flow", reduce=Node("all", total))
    result = found(1, 2).run(rules=[rule], backend=backend).raise_for_status()
    assert [result[f"flow[{number}].plus"] for number in range(2)] == [11, 12]
    assert result["all"] == 23


def test_a_workflow_may_map_over_what_it_finds(backend):
    """Each element has a map of its own, and what is behind all of them waits for their ends."""

    @dag
    def flow():
        return total_of(many(one()).map(plus, 10))

    rules = [
        for_each("find", flow.build(), name="flow", reduce=Node("all", total)),
        collect("plus", Node("seen", sorted)),
    ]
    result = found(1, 5).run(rules=rules, backend=backend).raise_for_status()
    assert result["flow[1].plus"] == [15, 16]
    assert result["flow[0].total_of"] == 23
    assert result["all"] == 23 + 31
    assert result["seen"] == [11, 12, 15, 16]
    assert found().run(rules=rules, backend="inline").raise_for_status()["all"] == 0


def test_a_root_that_is_called_with_something_keeps_it(backend):
    """The element goes where nothing else was said to go."""

    @dag
    def flow():
        return plus(one(7), one())

    result = found(1, 2).run(rules=[for_each("find", flow.build(), name="flow")], backend=backend).raise_for_status()
    assert [result[f"flow[{number}].plus"] for number in range(2)] == [8, 9]


def test_conditions_and_reads_in_a_workflow_are_those_of_the_element():
    """They name nodes of the workflow."""
    flow = DAG(
        [
            Node("big", lambda value: value > 1),
            Node("then", lambda: "big", when="big"),
            Node("look", lambda then=None: then, ["big"], reads=["then"]),
            Node("late", lambda look, then=None: then, ["look"], reads=["then"]),
        ]
    )
    result = found(1, 2).run(rules=[for_each("find", flow, name="flow")], backend="inline").raise_for_status()
    assert result.node_results["flow[0].then"].status is NodeStatus.SKIPPED
    assert result["flow[1].then"] == "big"
    assert [result[f"flow[{number}].late"] for number in range(2)] == [None, "big"]


def test_a_choice_takes_nodes_that_a_function_described():
    """Those that are called with nothing get the value that decides."""

    @dag
    def flow():
        return plus(one(), one(5))

    rule = choose("find", bool, [flow.build().node(name) for name in ("one", "one_2", "plus")])
    result = DAG([Node("find", partial(int, 3))]).run(rules=[rule], backend="inline").raise_for_status()
    assert result["plus"] == 8


def test_what_cannot_be_in_a_workflow_for_each_element_is_refused_where_it_is_written():
    """Before anything runs."""
    ruled = DAG.of(DAG([Node("a", int)]).structure, {}, rules=(Rule(done("a"), lambda view: Patch()),))
    with pytest.raises(InvalidPatchError, match="has rules"):
        for_each("find", ruled, name="flow")
    with pytest.raises(UnboundParameterError, match="'nobody'"):
        for_each("find", DAG([Node("a", int), Node("b", lambda nobody: 1, ["a"])]), name="flow")
    with pytest.raises(InvalidPatchError, match="handler"):
        for_each("find", DAG([Node("a", int), Node("h", int, handler="exit")]), name="flow")


@task
def total_of(values):
    return sum(values)


@pytest.mark.parametrize("asked", [False, True])
def test_debug_nodes_in_a_workflow_run_only_when_asked(asked):
    """What is gathered is what the others returned."""
    flow = DAG([Node("root", lambda value: value), Node("look", lambda root: root, ["root"], debug=True)])
    rule = for_each("find", flow, name="flow", reduce=Node("all", list))
    result = found(1, 2).run(rules=[rule], backend="inline", debug=asked).raise_for_status()
    assert result["all"] == [1, 2]
    assert ("flow[0].look" in result) is asked


def test_a_list_without_end_is_stopped_by_max_nodes():
    """Whoever maps over it: it is read no further than a graph may grow."""

    @dag
    def flow():
        return one.map(endless())

    def ends_in(graph, rules):
        with pytest.raises(GraphLimitError, match="has more than 50 items"):
            graph.run(rules=rules, backend="inline", max_nodes=50).raise_for_status()

    graph = DAG([Node("find", count)])
    ends_in(graph, [map_over("find", square)])
    ends_in(graph, [map_reduce("find", square, reduce=total)])
    ends_in(graph, [nested_map_reduce("find", words, length, reduce=Node("sum", total), into=Node("all", total))])
    ends_in(graph, [for_each("find", DAG([Node(square)]), name="flow")])
    ends_in(flow.build(), [])


@task
def endless():
    return count()
